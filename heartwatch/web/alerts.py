"""Alerts as people see them: a person's windows that follow on each other are one episode, the newest first.

Grain: one episode a person and unbroken row of windows.
"""

from __future__ import annotations

import threading
import time
from collections import Counter, OrderedDict
from collections.abc import Iterable, Mapping
from contextlib import suppress
from dataclasses import dataclass, replace
from datetime import datetime
from enum import StrEnum
from typing import Any

import numpy as np

from heartwatch.analytic import Analytic, PageDefinition
from heartwatch.settings import Settings
from heartwatch.web.parts import REQUEST_SECONDS
from kafkakit.admin import QUIET, OffsetReader, Partition, UnknownTopicError, consumer_config
from kafkakit.avro_codec import AvroSchema, Decoder, UnknownSchemaError, parse
from kafkakit.batch_consumer import BatchConsumer, MessageBatch, open_batch_consumer
from kafkakit.registry import NotRegisteredError, Registry

_POLL_SECONDS = 0.2
_LIMIT = 2_000


@dataclass(frozen=True)
class Alert:
    """One window of one person: times in ms since the epoch, the average beside the own range."""

    subject: str
    area: str
    north: float
    east: float
    begin_ms: int
    end_ms: int
    average: float
    low: float
    high: float


@dataclass(frozen=True)
class Episode:
    """Windows of one person without a gap between them.

    Attributes:
        last: the newest window.
        since_ms: begin of the first one.
        windows: how many there are.
        extreme: the average farthest outside the own range.
    """

    last: Alert
    since_ms: int
    windows: int
    extreme: float

    @property
    def subject(self) -> str:
        """Who it is."""
        return self.last.subject

    @property
    def seconds(self) -> float:
        """How long it lasted so far."""
        return (self.last.end_ms - self.since_ms) / 1000


def outside(average: float, low: float, high: float) -> float:
    """Return by how much an average is outside a range; 0 inside."""
    return max(low - average, average - high, 0.0)


def alert_of(row: Mapping[str, Any], page: PageDefinition) -> Alert | None:
    """Return the alert that a record holds; None where it lacks what makes one."""
    subject, begin, end, average = (row[name] for name in (page.subject, page.begin, page.end, page.average))
    if subject is None or begin is None or end is None or average is None:
        return None
    return Alert(
        subject=str(subject),
        area="" if row[page.area] is None else str(row[page.area]),
        north=float(row[page.north] or 0.0),
        east=float(row[page.east] or 0.0),
        begin_ms=_ms(begin),
        end_ms=_ms(end),
        average=float(average),
        low=float(row[page.low] or 0),
        high=float(row[page.high] or 0),
    )


def _ms(moment: datetime | int) -> int:
    return round(moment.timestamp() * 1000) if isinstance(moment, datetime) else int(moment)


class Episodes:
    """The newest episodes, a bounded number of them."""

    def __init__(self, most: int) -> None:
        """Begin without any.

        Args:
            most: how many are kept; the ones that ended longest ago go first.
        """
        self._most = most
        self._number = 0
        self._kept: OrderedDict[int, Episode] = OrderedDict()
        self._latest: dict[str, int] = {}
        self.version = 0

    def add(self, alerts: Iterable[Alert]) -> None:
        """Take alerts, each person's in order of time."""
        for alert in alerts:
            self._add(alert)
            self.version += 1

    def _add(self, alert: Alert) -> None:
        number = self._latest.get(alert.subject)
        before = self._kept.get(number) if number is not None else None
        if number is None or before is None or not _follows(alert, before):
            self._number = number = self._number + 1
            self._latest[alert.subject] = number
            self._kept[number] = Episode(alert, alert.begin_ms, 1, alert.average)
        else:
            self._kept[number] = _longer(before, alert)
            self._kept.move_to_end(number)
        while len(self._kept) > self._most:
            _, gone = self._kept.popitem(last=False)
            self._forget(gone)

    def _forget(self, gone: Episode) -> None:
        if self._latest.get(gone.subject) not in self._kept:
            self._latest.pop(gone.subject, None)

    def newest_first(self) -> tuple[Episode, ...]:
        """Return all episodes, those with the latest window first."""
        return tuple(sorted(self._kept.values(), key=lambda one: (-one.last.end_ms, -one.since_ms, one.subject)))


def _follows(alert: Alert, before: Episode) -> bool:
    """Whether a window is the next one of an episode, or the one after a window that was missed."""
    gap = alert.begin_ms - before.last.end_ms
    return 0 <= gap <= alert.end_ms - alert.begin_ms


def _longer(before: Episode, alert: Alert) -> Episode:
    further = outside(alert.average, alert.low, alert.high) > outside(before.extreme, alert.low, alert.high)
    return replace(before, last=alert, windows=before.windows + 1, extreme=alert.average if further else before.extreme)


class State(StrEnum):
    """Whether an episode goes on."""

    NOW = "going on"
    SILENT = "silent"
    OVER = "over"


def state_of(episode: Episode, now_ms: int, live: bool) -> State:
    """Return whether an episode goes on: its last window is so late that another may follow, the grace period being one more.

    Args:
        episode: the episode.
        now_ms: latest event time.
        live: whether events come at all; where none do, nobody knows how it went on.
    """
    if now_ms - episode.last.end_ms > 3 * (episode.last.end_ms - episode.last.begin_ms):
        return State.OVER
    return State.NOW if live else State.SILENT


@dataclass
class Wanted:
    """What a viewer looks for: part of a person's id or of an area, an area, and whether those that are over too."""

    text: str = ""
    area: str = ""
    only_now: bool = False

    @property
    def everything(self) -> bool:
        """Whether nothing is left out."""
        return not (self.text or self.area or self.only_now)

    def matching(self, episodes: Iterable[Episode], now_ms: int) -> list[Episode]:
        """Return the episodes that are looked for."""
        wanted = self.text.strip().casefold()
        return [
            one
            for one in episodes
            if (not wanted or wanted in one.subject.casefold() or wanted in one.last.area.casefold())
            and (not self.area or one.last.area == self.area)
            and (not self.only_now or state_of(one, now_ms, True) is not State.OVER)
        ]


def by_area(episodes: Iterable[Episode]) -> Counter[str]:
    """Return the number of people with an alert in each area."""
    return Counter(area for area, _ in {(one.last.area, one.subject) for one in episodes})


@dataclass(frozen=True)
class AlertsReading:
    """What is known of the alerts.

    Attributes:
        total: alerts that came since the page began to read, those before not counted.
        episodes: the newest episodes, newest first.
        version: changes when they do.
        latest_ms: end of the latest window, ms since the epoch; 0 without any.
        rejected: records that are no alerts.
    """

    total: int = 0
    episodes: tuple[Episode, ...] = ()
    version: int = 0
    latest_ms: int = 0
    rejected: int = 0


class AlertsPart:
    """Reads the alerts topic: the newest part of it at first, then what comes."""

    def __init__(self, settings: Settings, analytic: Analytic, page: PageDefinition) -> None:
        """Prepare; nothing is read before `read`."""
        self._settings, self._page = settings, page
        self._topic = analytic.topic("alerts")
        self._decoder = decoder(settings, analytic, "alerts")
        self._offsets = OffsetReader(settings.kafka, REQUEST_SECONDS)
        self._consumer: BatchConsumer | None = None
        # Where the topic ended when the page began to read; None before.
        self._old: dict[Partition, int] | None = None
        # From where on nothing was taken yet.
        self._next: dict[Partition, int] = {}
        self._episodes = Episodes(settings.web.remembered_alerts)
        self._reading = AlertsReading()

    def read(self) -> AlertsReading:
        """Take what has come since the last time.

        Raises:
            UnknownTopicError: the topic isn't there.
            KafkaClientError: the brokers don't answer.
            BatchConsumerError: the topic can't be read.
        """
        consumer = self._consumer or self._open()
        try:
            deadline = time.monotonic() + REQUEST_SECONDS
            while time.monotonic() < deadline and len(batch := consumer.poll(_POLL_SECONDS, _LIMIT)):
                self._take(batch)
        except Exception:
            # The topic was made anew, or its schema is away: another client goes on after what was taken.
            self.close()
            raise
        return self._reading

    def close(self) -> None:
        """Let go of the client."""
        if self._consumer is not None:
            self._consumer.close()
            self._consumer = None

    def _open(self) -> BatchConsumer:
        most = self._settings.web.remembered_alerts
        self._offsets = OffsetReader(self._settings.kafka, REQUEST_SECONDS)
        try:
            ends = self._offsets.ends([self._topic])
        except UnknownTopicError:
            self._begin_anew()
            raise
        if self._old is None:
            # What is there when the page begins to read is shown, but no news.
            self._old = dict(ends)
        elif any(end < self._next.get(where, 0) for where, end in ends.items()):
            self._begin_anew()
        self._next = {where: max(self._next.get(where, 0), end - most) for where, end in ends.items()}
        consumer = open_batch_consumer(consumer_config(self._settings.kafka, "heartwatch-web") | QUIET)
        consumer.assign([(*where, offset) for where, offset in self._next.items()])
        self._consumer = consumer
        return consumer

    def _begin_anew(self) -> None:
        """Forget the alerts of a topic that is gone: all that another one of its name has is news."""
        self._old, self._next = {}, {}
        self._episodes = Episodes(self._settings.web.remembered_alerts)
        self._reading = AlertsReading(total=self._reading.total, version=self._reading.version + 1)

    def _take(self, batch: MessageBatch) -> None:
        decoded = self._decoder.decode(batch.value.to_pylist())
        spans = _spans(batch)
        if any(begin < self._next.get((self._topic, partition), 0) for partition, (begin, _) in spans.items()):
            self._begin_anew()
        old = self._old or {}
        rows = decoded.batch.to_pylist()
        alerts = [alert for alert in (alert_of(row, self._page) for row in rows) if alert is not None]
        self._episodes.add(alerts)
        before = self._reading
        news = sum(
            int(offset) >= old.get((self._topic, int(partition)), 0)
            for partition, offset in zip(batch.partition[decoded.indices], batch.offset[decoded.indices], strict=True)
        )
        self._next |= {(self._topic, partition): end for partition, (_, end) in spans.items()}
        self._reading = AlertsReading(
            total=before.total + news,
            episodes=self._episodes.newest_first(),
            version=before.version + 1,
            latest_ms=max([before.latest_ms, *(alert.end_ms for alert in alerts)]),
            rejected=before.rejected + len(decoded.rejects) + len(rows) - len(alerts),
        )


def _spans(batch: MessageBatch) -> dict[int, tuple[int, int]]:
    """Return the first offset of each partition in a batch, and the one after the last."""
    spans = {}
    for partition in np.unique(batch.partition).tolist():
        offsets = batch.offset[batch.partition == partition]
        spans[partition] = int(offsets[0]), int(offsets[-1]) + 1
    return spans


def decoder(settings: Settings, analytic: Analytic, resource: str) -> Decoder:
    """Return what decodes the values of an analytic's topic."""
    registry, lock = Registry(settings.registry, REQUEST_SECONDS), threading.Lock()
    known: dict[int, AvroSchema] = {}

    def look_up(schema_id: int) -> AvroSchema:
        with lock:
            if schema_id not in known:
                with suppress(NotRegisteredError):
                    known[schema_id] = parse(registry.schema(schema_id))
            if schema_id not in known:
                raise UnknownSchemaError(f"schema id {schema_id!r} is not registered")
            return known[schema_id]

    return Decoder(parse(analytic.schema_text(resource)), look_up)
