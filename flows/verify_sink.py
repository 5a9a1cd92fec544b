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
from heartwatch.proof.topic import Request
from tasks.sink import (
    Busy,
    SinkReport,
    find_sinks,
    prove_sink,
    publish_sinks,
    publish_sinks_over_time,
    report_incomplete,
)


class SinkIncompleteError(HeartWatchError):
    """The sink does not hold what Kafka holds; the message says what, where and how many."""


class SinkBusyError(HeartWatchError):
    """Another run was at work for too long; the message names the topics."""


@flow(name="verify-sink")
def verify_sink(
    topics: Annotated[list[str] | None, Field(description="topics of the analytic; None: all that have a sink")] = None,
    version: Annotated[int | None, Field(ge=1, description="pipeline version; None: the settings'")] = None,
    deadline_seconds: Annotated[float, Field(ge=0, le=900, description="how long the sink may lag behind")] = 90,
    full: Annotated[bool, Field(description="prove everything again, what was proven before too")] = False,
    since: Annotated[
        datetime | None, Field(description="only records whose Kafka timestamp is not before this; UTC without a zone")
    ] = None,
    until: Annotated[datetime | None, Field(description="only records whose Kafka timestamp is before this")] = None,
    from_offsets: Annotated[
        dict[str, dict[int, int]] | None, Field(description="by topic and partition the first offset to look at")
    ] = None,
    accept_losses: Annotated[
        bool, Field(description="take losses that can't be made good for known: they fail no later run")
    ] = False,
    orphan_seconds: Annotated[
        float, Field(ge=0, description="age from which on an object that belongs to nothing is told")
    ] = 3_600,
    wait_seconds: Annotated[
        float,
        Field(ge=0, description="how long to wait for another run that checks the same topic; 0: leave it the topic"),
    ] = 1_800,
) -> list[SinkReport] | State[Any]:
    """Prove the sinks.

    A run costs what is new: it lists the sink's objects and reads only what no run before has proven. With `since`, `until` or
    `from_offsets` it reads those records whatever was proven, and remembers nothing.

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
    _tell(reports, failed)
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


def _tell(reports: Sequence[SinkReport], failed: Sequence[Exception]) -> None:
    wrong = [report for report in reports if not report.proven]
    for report in wrong:
        report_incomplete(report)
    if wrong:
        raise SinkIncompleteError("; ".join([*(report.sentence for report in wrong), *map(str, failed)]))
    if failed:
        raise failed[0]
