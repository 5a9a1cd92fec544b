"""Tells of parts that don't answer any more, once when an outage begins and once when it is over, by events on Prefect's server.

The page reads every part all the time, whether or not a check runs: so the first word about a fault comes from what it sees,
within half a minute. Parts that fail because another one did are named with that one: an outage is one event.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any
from uuid import uuid4

from heartwatch.events import RECORDS_AT_RISK, Wrong
from heartwatch.web.board import Snapshot
from heartwatch.web.prefect_api import PrefectApi, PrefectError

logger = logging.getLogger(__name__)

_LOOK_SECONDS = 2.0
_SURE_SECONDS = 6.0
_MOST_KEPT = 1_000  # events that wait for Prefect's server

MEANING = {
    "Kafka": "alerts stand still, nothing is lost: producers wait for the brokers",
    "broker": "partitions have fewer replicas, and those that were only there stand still",
    "KSQL": "alerts stand still; what comes meanwhile is judged when it is back",
    "Schema registry": "alerts stand still as soon as a schema is needed that isn't known yet; no run or connector can start",
    "Connect": "alerts go on with the personal ranges as they are known; the sink stands still",
    "Postgres": "alerts go on with the personal ranges as they are known; Prefect and its checks stand still",
    "S3": "alerts go on; the sink stands still, nothing is lost",
    "Prefect": "alerts go on; no run starts and no check is made",
    "worker": "alerts go on; runs that only it would take wait",
    "check": "alerts go on, and what it watches may be ill without a word; look at its runs in Prefect, and at the workers",
}
"""What an outage means for the alerts, by part."""

CAUSES = {
    "Schema registry": ("Kafka", "Postgres"),
    "Connect": ("Kafka", "Postgres"),
    "KSQL": ("Kafka", "Schema registry"),
    "Prefect": ("Postgres",),
    "broker": ("Kafka",),
    "worker": ("Prefect", "Postgres"),
    "check": ("Prefect", "Postgres"),
}
"""Parts whose outage brings one of these about."""


@dataclass(frozen=True)
class Trouble:
    """Something that doesn't answer now.

    Attributes:
        part: as `MEANING` names it.
        name: which; the part itself where there is but one.
        since: seconds since the epoch.
        reason: why, as far as it is known.
    """

    part: str
    name: str
    since: float
    reason: str


@dataclass(frozen=True)
class Notice:
    """An event to emit.

    Attributes:
        wrong: which event.
        resource: what it concerns.
        sentence: for people.
    """

    wrong: Wrong
    resource: str
    sentence: str


@dataclass
class Outages:
    """Makes notices of what doesn't answer; remembers what it has told.

    Attributes:
        told: troubles that were told and aren't over, by name.
        brokers: brokers that were seen, and when each was missed first; None while it is there.
        heard: the same of the workers.
    """

    told: dict[str, Trouble] = field(default_factory=dict)
    brokers: dict[str, float | None] = field(default_factory=dict)
    heard: dict[str, float | None] = field(default_factory=dict)

    def judge(self, snapshot: Snapshot) -> list[Notice]:
        """Return what is to be told now.

        Args:
            snapshot: what the page knows.
        """
        troubles = {trouble.name: trouble for trouble in self._troubles(snapshot)}
        return [*self._over(troubles, snapshot.at), *self._begun(troubles, snapshot.at)]

    def _troubles(self, snapshot: Snapshot) -> Iterator[Trouble]:
        away = {health.part for health in snapshot.away}
        for health in snapshot.away:
            if health.part in MEANING:
                yield Trouble(health.part, health.part, health.since, health.reason)
        # What only a part tells is not known while it is away.
        if snapshot.kafka is not None and "Kafka" not in away:
            _note(self.brokers, snapshot.kafka.brokers, snapshot.at)
        if snapshot.prefect is not None and "Prefect" not in away:
            _note(self.heard, [worker.name for worker in snapshot.prefect.workers if worker.online], snapshot.at)
        for part, known in (("broker", self.brokers), ("worker", self.heard)):
            for name, since in known.items():
                if since is not None:
                    yield Trouble(part, f"{part} {name}", since, "it is not heard of any more")
        for check in snapshot.overdue:
            yield Trouble(
                "check", f"check {check.flow}", check.since, f"it should end every {check.interval_seconds:g} s"
            )

    def _begun(self, troubles: Mapping[str, Trouble], now: float) -> Iterator[Notice]:
        for name, trouble in troubles.items():
            # What another outage brings about is told as a part of that one; so a part waits for its cause to be seen first.
            patience = _SURE_SECONDS * (2 if trouble.part in CAUSES else 1)
            if name in self.told or now - trouble.since < patience or _caused(trouble, troubles):
                continue
            self.told[name] = trouble
            wrong = Wrong.WORKER_GONE if trouble.part == "worker" else Wrong.PART_UNREACHABLE
            yield Notice(wrong, _resource(trouble), _begun_sentence(trouble))

    def _over(self, troubles: Mapping[str, Trouble], now: float) -> Iterator[Notice]:
        for name in [name for name in self.told if name not in troubles]:
            trouble = self.told.pop(name)
            again = "ends again" if trouble.part == "check" else "answers again"
            sentence = f"{name} {again} since {_clock(now)}, after {now - trouble.since:,.0f} s"
            yield Notice(Wrong.PART_BACK, _resource(trouble), sentence)


def _note(known: dict[str, float | None], there: Sequence[str], now: float) -> None:
    for name in {*known, *there}:
        known[name] = None if name in there else known.get(name) or now


def _caused(trouble: Trouble, troubles: Mapping[str, Trouble]) -> bool:
    return any(cause in troubles for cause in CAUSES.get(trouble.part, ()))


def _resource(trouble: Trouble) -> str:
    """Return what an event concerns, named as the scheduled checks name it, so that both are one notification."""
    return trouble.name.removeprefix("worker ")


def _begun_sentence(trouble: Trouble) -> str:
    fault = "has not ended" if trouble.part == "check" else "doesn't answer"
    return (
        f"{trouble.name} {fault} since {_clock(trouble.since)}: {MEANING[trouble.part]} "
        f"({trouble.reason or 'no reason is known'})"
    )


def _clock(at: float) -> str:
    return f"{datetime.fromtimestamp(at, UTC):%H:%M:%S} UTC"


class Crier:
    """Emits the notices from a thread of its own; what Prefect's server can't take waits until it answers."""

    def __init__(self, prefect: PrefectApi, snapshot: Callable[[], Snapshot]) -> None:
        """Prepare; nothing is emitted before `start`.

        Args:
            prefect: takes the events.
            snapshot: gives what the page knows now.
        """
        self._prefect, self._snapshot = prefect, snapshot
        self._outages = Outages()
        self._waiting: list[dict[str, Any]] = []
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run, name="outages", daemon=True)

    def start(self) -> None:
        """Begin to look."""
        self._thread.start()

    def stop(self) -> None:
        """Look no more."""
        self._stop.set()

    def look(self) -> None:
        """Look once, and emit what there is to tell."""
        for notice in self._outages.judge(self._snapshot()):
            logger.warning("%s", notice.sentence)
            self._waiting.append(_event(notice, time.time()))
        self._waiting = self._waiting[-_MOST_KEPT:]
        if self._waiting:
            try:
                self._prefect.ask("POST", "/events", self._waiting)
            except PrefectError as error:
                logger.info("%d events wait for Prefect's server: %s", len(self._waiting), error)
            else:
                self._waiting = []

    def _run(self) -> None:
        while not self._stop.wait(_LOOK_SECONDS):
            try:
                self.look()
            except Exception:
                logger.exception("the parts' outages can't be told; trying again")


def _event(notice: Notice, now: float) -> dict[str, Any]:
    return {
        "id": str(uuid4()),
        "occurred": datetime.fromtimestamp(now, UTC).isoformat(),
        "event": notice.wrong.value,
        "resource": {
            "prefect.resource.id": notice.wrong.resource_id(notice.resource),
            "prefect.resource.name": notice.resource,
            RECORDS_AT_RISK: "no",
        },
        "related": [],
        "payload": {"sentence": notice.sentence},
    }
