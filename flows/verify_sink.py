"""Prove by partition and offset, and record by record, that the sink holds what Kafka holds.

Requires: Kafka, the schema registry, the Iceberg catalog in Postgres, S3. Scheduled every five minutes.
"""

from __future__ import annotations

from typing import Annotated

from prefect import flow
from pydantic import Field

from heartwatch.analytic import Analytic
from heartwatch.settings import load_settings
from tasks.sink import SinkReport, prove_sink, publish_sinks, sink_topics


class SinkIncompleteError(Exception):
    """The sink does not hold what Kafka holds; the message says what, where and how many."""


@flow(name="verify-sink")
def verify_sink(
    topics: Annotated[list[str] | None, Field(description="topics of the analytic; None: all that have a sink")] = None,
    deadline_seconds: Annotated[float, Field(ge=0, le=900, description="how long the sink may lag behind")] = 90,
    most_records: Annotated[
        int | None, Field(ge=1, description="newest offsets of each partition to look at; None: all")
    ] = 500_000,
    since: Annotated[
        dict[str, dict[int, int]] | None,
        Field(description="by topic and partition the first offset to look at; other topics from their beginning"),
    ] = None,
) -> list[SinkReport]:
    """Prove the sinks.

    Raises:
        SinkIncompleteError: a record is missing, there twice, changed, or one that Kafka never had.
    """
    resources = topics if topics is not None else sink_topics(Analytic.of(load_settings().pipeline))
    found = [
        prove_sink(resource, deadline_seconds, most_records, (since or {}).get(resource)) for resource in resources
    ]
    reports = [report for report in found if report is not None]
    publish_sinks(reports)
    wrong = [report.sentence for report in reports if not report.proven]
    if wrong:
        raise SinkIncompleteError("; ".join(wrong))
    return reports
