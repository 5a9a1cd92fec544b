"""Prove by partition and offset, and record by record, that the sink holds what Kafka holds.

Requires: Kafka, the schema registry, Postgres (what is proven, and the Iceberg catalog), S3; Connect is asked for the connector's
state. Scheduled every five minutes. Safe to run again and at the same time: one check of a topic waits for the other.
"""

from __future__ import annotations

from datetime import datetime
from typing import Annotated

from prefect import flow
from pydantic import Field

from heartwatch.verify.sinks import Request
from tasks.sink import SinkReport, find_sinks, prove_sink, publish_sinks, report_incomplete


class SinkIncompleteError(Exception):
    """The sink does not hold what Kafka holds; the message says what, where and how many."""


@flow(name="verify-sink")
def verify_sink(
    topics: Annotated[list[str] | None, Field(description="topics of the analytic; None: all that have a sink")] = None,
    version: Annotated[int | None, Field(ge=1, description="pipeline version; None: the settings'")] = None,
    deadline_seconds: Annotated[float, Field(ge=0, le=900, description="how long the sink may lag behind")] = 90,
    full: Annotated[bool, Field(description="prove everything again, what was proven before too")] = False,
    since: Annotated[
        datetime | None, Field(description="only records whose Kafka timestamp is not before this")
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
) -> list[SinkReport]:
    """Prove the sinks.

    A run costs what is new: it lists the sink's objects and reads only what no run before has proven. With `since`, `until` or
    `from_offsets` it reads those records whatever was proven, and remembers nothing.

    Raises:
        SinkIncompleteError: a record is missing, there twice, changed, or one that Kafka never had; or an object is damaged.
    """
    reports = []
    for topic in topics if topics is not None else find_sinks(version):
        offsets = (from_offsets or {}).get(topic)
        request = Request(deadline_seconds, since, until, offsets, full, accept_losses, orphan_seconds)
        if (report := prove_sink(topic, request, version)) is not None:
            reports.append(report)
    publish_sinks(reports)
    wrong = [report for report in reports if not report.proven]
    for report in wrong:
        report_incomplete(report)
    if wrong:
        raise SinkIncompleteError("; ".join(report.sentence for report in wrong))
    return reports
