"""Tasks that hold the query's results to the truth: an independent batch computation, and what the simulator knows."""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import polars as pl
from prefect import get_run_logger, task
from prefect.cache_policies import NO_CACHE
from prefect.tasks import exponential_backoff
from psycopg2 import sql
from pydantic import BaseModel

from heartwatch.analytic import Analytic
from heartwatch.codec import Decoder, parse
from heartwatch.kafka import KafkaAdmin
from heartwatch.postgres import execute
from heartwatch.produce.sources import simulation_of
from heartwatch.produce.spec import RunSpec
from heartwatch.registry import Registry
from heartwatch.settings import Settings, load_settings
from heartwatch.simulate.truth import expected_windows, score
from heartwatch.verify.batch import Comparison, Computed, Topic, compare, compute, decode_topic, latest_rows
from heartwatch.verify.topics import committed_ranges, read_ranges
from tasks.sink import schema_lookup

Offsets = dict[str, dict[int, int]]
"""By topic resource and partition: the offset at which a run began."""

_POLL_SECONDS = 0.5
_RETRIES: dict[str, Any] = {
    "cache_policy": NO_CACHE,
    "retries": 3,
    "retry_delay_seconds": exponential_backoff(backoff_factor=2),
    "retry_jitter_factor": 0.5,
}


class NotReadyError(Exception):
    """Something did not become ready in time; the message says what, how far it came and where to look."""


class AlertsReport(BaseModel):
    """How the query's results compare with the batch computation and the truth.

    Attributes:
        exact: whether they equal the batch computation's.
        sentence: what differs, or how many are equal.
        alerts: results of the run.
        events: valid events of the run.
        rejected: records of the run that are no valid events.
        unknown_events: events of users without a historical row.
        unknown_users: those users.
        recall: share of the alerts that had to come that came; None without a simulator.
        precision: share of the alerts that were right; None without a simulator.
        misses: alerts that had to come and did not.
        false_alarms: alerts without a reason.
        rows: the first results, as the analytic shows them.
        seconds: how long the results took after the events were sent.
    """

    exact: bool
    sentence: str
    alerts: int
    events: int
    rejected: int
    unknown_events: int
    unknown_users: int
    recall: float | None = None
    precision: float | None = None
    misses: int = 0
    false_alarms: int = 0
    rows: list[dict[str, str]]
    seconds: float


@dataclass(frozen=True)
class _Reading:
    """Reads topics of the pipeline."""

    settings: Settings
    analytic: Analytic
    admin: KafkaAdmin

    @classmethod
    def of(cls, settings: Settings) -> _Reading:
        return cls(settings, Analytic.of(settings.pipeline), KafkaAdmin(settings.kafka))

    def topic(self, resource: str, ranges: Mapping[int, tuple[int, int]] | None = None) -> Topic:
        """Read and decode ranges of a topic; all of it by default."""
        name, definition = self.analytic.topic(resource), self.analytic.topics[resource]
        chosen = ranges if ranges is not None else committed_ranges(self.admin, name)
        decoder = Decoder(parse(self.analytic.schema_text(resource)), schema_lookup(Registry(self.settings.registry)))
        return decode_topic(read_ranges(self.settings.kafka, name, chosen), decoder, definition.windowed_key)

    def since(self, resource: str, offsets: Mapping[int, int]) -> dict[int, tuple[int, int]]:
        """Return the ranges from given offsets to the topic's end now."""
        ends = committed_ranges(self.admin, self.analytic.topic(resource))
        return {partition: (max(first, offsets.get(partition, 0)), end) for partition, (first, end) in ends.items()}


@task(**_RETRIES)
def note_offsets(resources: list[str]) -> Offsets:
    """Return where some topics end now: what comes later belongs to the run that begins.

    Raises:
        UnknownTopicError: a topic isn't deployed.
    """
    settings = load_settings()
    analytic, admin = Analytic.of(settings.pipeline), KafkaAdmin(settings.kafka)
    found: Offsets = {}
    for resource in resources:
        ends = admin.offsets([analytic.topic(resource)], "latest")
        found[resource] = {partition: end for (_, partition), end in ends.items()}
    return found


@task(**_RETRIES)
def wait_for_table(deadline_seconds: float) -> int:
    """Wait until the historical topic has each row of the database's table, and return how many there are.

    An INNER join drops an event whose row comes later: the events must not be sent before.

    Raises:
        NotReadyError: rows are missing or different after the deadline.
    """
    settings = load_settings()
    reading = _Reading.of(settings)
    fields = [field["name"] for field in parse(reading.analytic.schema_text("historical"))["fields"]]
    wanted = _database_rows(settings, fields)
    deadline = time.monotonic() + deadline_seconds
    while True:
        found = pl.from_arrow(latest_rows(reading.topic("historical")).select(fields))
        assert isinstance(found, pl.DataFrame)  # noqa: S101 - a table never becomes a series
        left = wanted.join(found.cast(wanted.schema), on=fields, how="anti").height
        if not left:
            get_run_logger().info("the table's topic has all %d rows", wanted.height)
            return wanted.height
        if time.monotonic() > deadline:
            raise NotReadyError(
                f"{left} of {wanted.height} rows of the historical table are not in topic "
                f"{reading.analytic.topic('historical')!r} after {deadline_seconds:g} s; see the source connector's log"
            )
        time.sleep(_POLL_SECONDS)


def _database_rows(settings: Settings, fields: list[str]) -> pl.DataFrame:
    columns = sql.SQL(", ").join(map(sql.Identifier, fields))
    table = sql.Identifier("public", settings.postgres.historical_table)
    rows = execute(settings.postgres, sql.SQL("SELECT {} FROM {}").format(columns, table))
    return pl.DataFrame(rows, schema=fields, orient="row", infer_schema_length=None)


@task(**_RETRIES)
def verify_alerts(spec: RunSpec, offsets: Offsets, variables: dict[str, str], deadline_seconds: float) -> AlertsReport:
    """Compute a run's results at one go, wait until the query's equal them, and score them against the truth.

    A run is told from others by where its topics ended when it began, and by its event times: every window of the run begins at
    its start or later, and every earlier window is another run's. (Devices with slow clocks also give windows from before the
    start; what becomes of those depends on what earlier runs left behind, and they are left out on both sides.)

    Args:
        spec: the run.
        offsets: what `note_offsets` gave before it.
        variables: overrides of the KSQL variables.
        deadline_seconds: how long the query may take to give the results.

    Raises:
        TopicError: a topic can't be read.
        BatchError: the batch computation can't be run.
    """
    began = time.monotonic()
    settings = load_settings()
    reading = _Reading.of(settings)
    names = reading.analytic.variables({**settings.pipeline.variables, **variables})
    events = reading.topic("realtime", reading.since("realtime", offsets["realtime"]))
    computed = compute(reading.analytic, "alerts", events.table, latest_rows(reading.topic("historical")), names)
    get_run_logger().info("%d events give %d results", events.table.num_rows, computed.rows.height)
    comparison, alerts, seconds = _await_alerts(reading, spec, computed, offsets["alerts"], began + deadline_seconds)
    report = AlertsReport(
        exact=comparison.exact,
        sentence=comparison.sentence(),
        alerts=alerts.height,
        events=events.table.num_rows,
        rejected=len(events.rejects),
        unknown_events=computed.unknown_events,
        unknown_users=computed.unknown_keys,
        rows=show_rows(reading.analytic, alerts),
        seconds=seconds - began,
    )
    return _scored(report, spec, alerts, names) if spec.source == "simulator" else report


def _await_alerts(
    reading: _Reading, spec: RunSpec, computed: Computed, offsets: Mapping[int, int], deadline: float
) -> tuple[Comparison, pl.DataFrame, float]:
    """Read the results until they equal the batch computation's or the time is over; return when they last changed, too."""
    definition = reading.analytic.topics["alerts"]
    time_field = definition.event_time or ""
    first = pl.lit(spec.start_ms).cast(pl.Datetime("ms"))
    wanted = computed.rows.filter(pl.col(time_field) >= first)
    changed, before = time.monotonic(), -1
    while True:
        found = _frame(reading.topic("alerts", reading.since("alerts", offsets))).filter(pl.col(time_field) >= first)
        if found.height != before:
            changed, before = time.monotonic(), found.height
        comparison = compare(found, wanted, [definition.key, time_field])
        complete = comparison.exact and not comparison.open_windows
        if complete or time.monotonic() > deadline:
            return comparison, found, changed
        time.sleep(_POLL_SECONDS)


def _frame(topic: Topic) -> pl.DataFrame:
    frame = pl.from_arrow(topic.table)
    assert isinstance(frame, pl.DataFrame)  # noqa: S101 - a table never becomes a series
    return frame


def _scored(report: AlertsReport, spec: RunSpec, alerts: pl.DataFrame, variables: Mapping[str, str]) -> AlertsReport:
    chosen = {name: int(variables[name]) for name in ("window_ms", "grace_ms", "minimum_events") if name in variables}
    result = score(alerts, expected_windows(simulation_of(spec), **chosen))
    return report.model_copy(
        update={
            "recall": result.recall,
            "precision": result.precision,
            "misses": result.misses.height,
            "false_alarms": result.false_alarms.height,
        }
    )


def show_rows(analytic: Analytic, alerts: pl.DataFrame, most: int = 10) -> list[dict[str, str]]:
    """Return the newest results as the analytic shows them to people."""
    time_field = analytic.topics["alerts"].event_time
    newest = alerts.sort(time_field, descending=True).head(most) if time_field else alerts.head(most)
    return [
        {column: template.format(**row) for column, template in analytic.summary.items()}
        for row in newest.iter_rows(named=True)
    ]
