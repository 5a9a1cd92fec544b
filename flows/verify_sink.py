"""Prove by partition and offset, and record by record, that the sink holds what Kafka holds.

Requires: Kafka, the schema registry, Postgres (what is proven, and the Iceberg catalog), S3; Connect is asked for the connector's
state. Scheduled every five minutes. Safe to run again and at the same time: one check of a topic waits for the other, or leaves
the topic to it as the scheduled ones do.
"""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime
from typing import Annotated, Any

from prefect import flow
from prefect.states import Completed, State
from pydantic import Field

from heartwatch.errors import HeartWatchError
from heartwatch.proof.report import Busy, SinkReport
from heartwatch.proof.topic import Request
from tasks.sink import find_sinks, prove_sink, publish_sinks, publish_sinks_over_time, report_incomplete


class SinkIncompleteError(HeartWatchError):
    """The sink does not hold what Kafka holds; the message says what, where and how many."""


class SinkBusyError(HeartWatchError):
    """Another run took too long; the message names the topics."""


@flow(name="verify-sink")
def verify_sink(
    topics: list[str] | None = None,
    version: Annotated[int | None, Field(ge=1)] = None,
    deadline_seconds: Annotated[float, Field(ge=0, le=900)] = 90,
    full: bool = False,
    since: datetime | None = None,
    until: datetime | None = None,
    from_offsets: dict[str, dict[int, int]] | None = None,
    accept_losses: bool = False,
    orphan_seconds: Annotated[float, Field(ge=0)] = 3_600,
    wait_seconds: Annotated[float, Field(ge=0)] = 1_800,
) -> list[SinkReport] | State[Any]:
    """Prove the sinks.

    A run costs what is new: it lists the sink's objects and reads only what no run before has proven. With `since`, `until` or
    `from_offsets` it reads those records whatever was proven, and remembers nothing.

    Args:
        topics: Topics to verify, as the analytic's file names them (such as `alerts`). Empty: all that have a sink connector.
        version: Pipeline version. Empty: the version of the settings.
        deadline_seconds: Longest time to wait for the sink to receive what Kafka has now, s.
        full: Re-verify everything, including what earlier runs verified.
        since: Only records with this Kafka timestamp or a later one. A time without a zone is UTC.
        until: Only records with an earlier Kafka timestamp than this. A time without a zone is UTC.
        from_offsets: By topic and partition, the first offset to verify. Empty: everything that is new.
        accept_losses: Accept losses that cannot be recovered: they fail no later run.
        orphan_seconds: Report orphaned objects older than this, s.
        wait_seconds: Longest time to wait for another run that verifies the same topic, s. 0: leave the topic to that run.

    Returns:
        what was found of each topic; a state named Skipped where all were left to another run.

    Raises:
        SinkBusyError: another run was still checking a topic when the time to wait was over.
        SinkIncompleteError: a record is missing, there twice, changed, or one that Kafka never had; or an object is damaged.
        SinkError: a sink can't be read; the others are proven first.
        TopicError: a topic can't be read; alike.
    """
    reports, busy, failed, limited = [], [], [], False
    for topic in topics if topics is not None else find_sinks(version):
        offsets = (from_offsets or {}).get(topic)
        request = Request(deadline_seconds, since, until, offsets, full, accept_losses, orphan_seconds, wait_seconds)
        limited |= request.limited
        match _prove(topic, request, version):
            case Exception() as error:
                failed.append(error)
            case Busy(sentence=sentence):
                busy.append(sentence)
            case SinkReport() as report:
                reports.append(report)
    if reports or not failed:
        publish_sinks(reports)
    if reports and not limited:
        publish_sinks_over_time(reports, version)
    _raise_faults(reports, failed)
    if busy and wait_seconds > 0:
        raise SinkBusyError("; ".join(busy))
    if busy and not reports:
        return Completed(name="Skipped", message="; ".join(busy))
    return reports


def _prove(topic: str, request: Request, version: int | None) -> SinkReport | Busy | Exception | None:
    """Prove one sink; whatever is the matter with it hides nothing of the others."""
    try:
        return prove_sink(topic, request, version)
    except Exception as error:
        return error


def _raise_faults(reports: Sequence[SinkReport], failed: Sequence[Exception]) -> None:
    """Emit an event for each sink that isn't proven, and fail when there is one, or when one could not be read."""
    wrong = [report for report in reports if not report.proven]
    for report in wrong:
        report_incomplete(report)
    if wrong:
        raise SinkIncompleteError("; ".join([*(report.sentence for report in wrong), *map(str, failed)]))
    if failed:
        raise failed[0]
