"""What is wrong with the parts of the pipeline, judged from what they say of themselves; nothing is asked or changed here."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta

from heartwatch.connect import ConnectorStatus
from heartwatch.events import Wrong
from heartwatch.monitoring import ConnectorRestarts
from kafkakit.admin import PartitionReplicas
from ksqlengine.client.rest_client import QueryInfo

_SHOWN = 5
_RUNNING_QUERY = {"RUNNING", "PAUSED"}


@dataclass(frozen=True)
class HealthFinding:
    """What was found of one resource.

    Attributes:
        part: connector, query, topic, worker, disk, or the part that could not be asked.
        resource: its name.
        state: in a word or two.
        event: the event to emit, None when all is well.
        sentence: what is wrong, where, and what is done or to do; empty when all is well.
        mended: something was done about it, so that it may be well at the next look.
    """

    part: str
    resource: str
    state: str
    event: Wrong | None = None
    sentence: str = ""
    mended: bool = False


@dataclass(frozen=True)
class ConnectorPlan:
    """What to do about the connectors.

    Attributes:
        restart: those whose failed tasks are to be restarted now, with how often they have been.
        forget: those that have run for long enough since their last restart, and those that are gone.
        findings: one per connector.
    """

    restart: dict[str, int]
    forget: list[str]
    findings: list[HealthFinding]


def judge_connectors(
    statuses: Sequence[ConnectorStatus],
    remembered: Mapping[str, ConnectorRestarts],
    limit: int,
    calm: timedelta,
    now: datetime,
) -> ConnectorPlan:
    """Say which connectors are restarted: those that failed, each `limit` times at most until it has run calmly.

    Args:
        statuses: of all connectors.
        remembered: restarts so far, by connector.
        limit: restarts before people are needed.
        calm: how long a connector must run after a restart for its restarts to be forgotten.
        now: present time.
    """
    restart: dict[str, int] = {}
    # A connector that was deleted begins again when it comes back.
    forget = sorted(set(remembered) - {status.name for status in statuses})
    findings = []
    for status in statuses:
        before = remembered.get(status.name)
        restarts = before.restarts if before else 0
        if not status.failed:
            findings.append(HealthFinding("connector", status.name, status.summary))
            if before and status.running and now - before.last_at >= calm:
                forget.append(status.name)
            continue
        failed = f"connector {status.name!r} failed ({status.summary}): {status.cause or 'Connect gives no cause'}"
        if restarts < limit:
            restart[status.name] = restarts + 1
            sentence = f"{failed}; its failed tasks are restarted, the {_ordinal(restarts + 1)} time of at most {limit}"
        else:
            sentence = f"{failed}; it was restarted {restarts} times already: fix the cause, then restart its tasks"
        event, mended = Wrong.CONNECTOR_FAILED, status.name in restart
        findings.append(HealthFinding("connector", status.name, status.summary, event, sentence, mended))
    return ConnectorPlan(restart, forget, findings)


def _ordinal(number: int) -> str:
    ends = {1: "st", 2: "nd", 3: "rd"}
    return f"{number}{'th' if 10 < number % 100 < 14 else ends.get(number % 10, 'th')}"


def judge_queries(queries: Iterable[QueryInfo]) -> list[HealthFinding]:
    """Return one finding per query; a query that neither runs nor is paused is wrong."""
    return [
        HealthFinding("query", query.query_id, query.state)
        if query.state in _RUNNING_QUERY
        else HealthFinding(
            "query",
            query.query_id,
            query.state,
            Wrong.QUERY_FAILED,
            f"query {query.query_id!r} is in state {query.state}: its results stop; see the server's log and processing log",
        )
        for query in queries
    ]


def judge_partitions(partitions: Sequence[PartitionReplicas], minimum: int) -> list[HealthFinding]:
    """Return one finding for all partitions that are well, or one for each broker that lacks some.

    Args:
        partitions: of all topics, Kafka's own among them.
        minimum: in-sync replicas without which a write is refused.
    """
    lagging: dict[int, list[PartitionReplicas]] = {}
    for partition in partitions:
        for broker in sorted(set(partition.replicas) - set(partition.in_sync)):
            lagging.setdefault(broker, []).append(partition)
    findings = [
        HealthFinding("broker", str(broker), "out of sync", Wrong.BROKER_OUT_OF_SYNC, _lagging(broker, behind, minimum))
        for broker, behind in sorted(lagging.items())
    ]
    headless = [
        partition for partition in partitions if partition.leader is None and partition.in_sync == partition.replicas
    ]
    if headless:
        sentence = f"{len(headless)} partitions have no leader, such as {_names(headless)}: see the brokers' logs"
        findings.append(HealthFinding("broker", "leaders", "missing", Wrong.BROKER_OUT_OF_SYNC, sentence))
    return findings or [HealthFinding("broker", "all", f"{len(partitions)} partitions in sync")]


def _lagging(broker: int, partitions: Sequence[PartitionReplicas], minimum: int) -> str:
    below = [partition for partition in partitions if len(partition.in_sync) < minimum]
    sentence = f"broker {broker} is out of sync for {len(partitions)} partitions, such as {_names(partitions)}"
    if below:
        sentence += f"; {len(below)} of them have fewer in-sync replicas than the {minimum} that writes need"
    return f"{sentence}: see that the broker is up, and its log"


def _names(partitions: Sequence[PartitionReplicas]) -> str:
    return ", ".join(f"{found.topic}/{found.partition}" for found in partitions[:_SHOWN])


@dataclass(frozen=True)
class WorkerSeen:
    """A worker of a work pool: whether the server takes it for online, and when it was last heard of."""

    pool: str
    name: str
    online: bool
    last_heard: datetime | None


def judge_workers(workers: Sequence[WorkerSeen], memory: timedelta, now: datetime) -> list[HealthFinding]:
    """Return one finding per worker; a worker that went is wrong until `memory` has passed: then it was taken away.

    Args:
        workers: of all work pools.
        memory: how long a worker that went is missed.
        now: present time.
    """
    findings = []
    for worker in workers:
        if worker.online:
            findings.append(HealthFinding("worker", worker.name, "online"))
        elif worker.last_heard is None or now - worker.last_heard < memory:
            heard = "never" if worker.last_heard is None else f"{(now - worker.last_heard).total_seconds():,.0f} s ago"
            sentence = (
                f"worker {worker.name!r} of work pool {worker.pool!r} is gone, last heard of {heard}: its runs wait; see "
                "that its machine and process are up"
            )
            findings.append(HealthFinding("worker", worker.name, "offline", Wrong.WORKER_GONE, sentence))
    return findings


def judge_disk(place: str, free: int, total: int, least: float) -> HealthFinding:
    """Say whether enough of a disk is free.

    Args:
        place: what is on the disk.
        free: bytes.
        total: bytes.
        least: share of the disk that must stay free.
    """
    share = free / total if total else 0.0
    state = f"{free / 2**30:,.1f} of {total / 2**30:,.1f} GiB free"
    if share >= least:
        return HealthFinding("disk", place, state)
    sentence = (
        f"the disk of {place} is filling: {state} ({share:.0%}), less than {least:.0%}; make room before brokers stop"
    )
    return HealthFinding("disk", place, state, Wrong.DISK_FILLING, sentence)


def unreachable(part: str, error: Exception) -> HealthFinding:
    """Return what to say of a part that could not be asked."""
    return HealthFinding(part, part, "no answer", Wrong.PART_UNREACHABLE, f"{part} can't be asked: {error}")
