"""Tasks that hold the query's results to the truth: an independent batch computation, and what the simulator knows."""

from __future__ import annotations

import json
import time
from collections.abc import Mapping
from dataclasses import dataclass
from string import Formatter
from typing import Any

import polars as pl
from prefect import get_run_logger, task
from prefect.cache_policies import NO_CACHE
from prefect.runtime import flow_run
from prefect.tasks import exponential_backoff
from psycopg2 import sql
from pydantic import BaseModel, Field

from heartwatch.analytic import Analytic
from heartwatch.errors import HeartWatchError
from heartwatch.markdown import picture, table
from heartwatch.monitoring import DetectionCheck, Monitoring
from heartwatch.postgres import execute
from heartwatch.produce.sources import simulation_of
from heartwatch.produce.spec import RunSpec
from heartwatch.report.day import Reports
from heartwatch.settings import Settings, load_settings
from heartwatch.simulate.truth import (
    expected_windows,
    score,
    score_by_state,
    score_by_window,
    truth,
    with_state,
)
from heartwatch.verify.batch import (
    KEY,
    OFFSET,
    PARTITION,
    Comparison,
    Topic,
    compare,
    compute,
    decode_topic,
    latest_rows,
)
from kafkakit.admin import KafkaAdmin
from kafkakit.avro_codec import Decoder, parse
from kafkakit.registry import Registry
from kafkakit.topic_reader import NewRecords, committed_ranges, new_records, read_ranges
from tasks.artifacts import publish_markdown, publish_table
from tasks.sink import schema_lookup

Offsets = dict[str, dict[int, int]]
"""By topic resource and partition: the offset at which a run began."""

_POLL_SECONDS = 0.5
_LISTED = 100
_WINDOWS_SHOWN = 60
_MARK = "verify-detections began at"
_PLOTTED_SECONDS = 7 * 24 * 3_600
_LOOK_BACK = 20_000  # offsets of a partition
_RETRIES: dict[str, Any] = {
    "cache_policy": NO_CACHE,
    "retries": 3,
    "retry_delay_seconds": exponential_backoff(backoff_factor=2),
    "retry_jitter_factor": 0.5,
}


class NotReadyError(HeartWatchError):
    """Something did not become ready in time; the message says what, how far it came and where to look."""


class AlertsReport(BaseModel):
    """How the query's results compare with the batch computation and the truth.

    Attributes:
        exact: whether they equal the batch computation's.
        wrong: rows that differ.
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
        windows: recall and precision of each window; none without a simulator.
        states: what people did, and what alerts that gave; none without a simulator.
        differences: what differs from the batch computation and from the truth, the first of each kind.
        file: address of the Parquet object with all of them; None when nothing differs.
    """

    exact: bool
    wrong: int
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
    windows: list[dict[str, Any]] = Field(default_factory=list)
    states: list[dict[str, Any]] = Field(default_factory=list)
    differences: list[dict[str, Any]] = Field(default_factory=list)
    file: str | None = None


@dataclass(frozen=True)
class _Scope:
    """Which results are looked at.

    Attributes:
        since: by topic and partition, the first offset.
        first_ms: by partition, the first window's start; a single value for all.
        last_ms: by partition, where windows stop that events have closed; None to wait for all.
    """

    since: Offsets
    first_ms: Mapping[int, int] | int
    last_ms: Mapping[int, int] | None = None

    def holds(self, time_field: str) -> pl.Expr:
        """Return which rows are in the scope; they have the columns partition and `time_field`."""
        start = pl.col(time_field).dt.epoch("ms")
        if isinstance(self.first_ms, int):
            inside = start >= self.first_ms
        else:
            inside = start >= pl.col(PARTITION).replace_strict(self.first_ms, default=None, return_dtype=pl.Int64)
        if self.last_ms is None:
            return inside
        return inside & (start <= pl.col(PARTITION).replace_strict(self.last_ms, default=None, return_dtype=pl.Int64))


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
def verify_alerts(spec: RunSpec, offsets: Offsets, deadline_seconds: float) -> AlertsReport:
    """Compute a run's results at one go, wait until the query's equal them, and score them against the truth.

    A run is told from others by where its topics ended when it began, and by its event times: every window of the run begins at
    its start or later, and every earlier window is another run's. (Devices with slow clocks also give windows from before the
    start; what becomes of those depends on what earlier runs left behind, and they are left out on both sides.)

    Args:
        spec: the run.
        offsets: what `note_offsets` gave before it.
        deadline_seconds: how long the query may take to give the results.

    Raises:
        TopicError: a topic can't be read.
        BatchError: the batch computation can't be run.
    """
    reading = _Reading.of(load_settings())
    events = reading.topic("realtime", reading.since("realtime", offsets["realtime"]))
    return _verify(reading, events, _Scope(offsets, spec.start_ms), deadline_seconds, spec)


@task(**_RETRIES)
def verify_newest_alerts(most_events: int, deadline_seconds: float) -> AlertsReport | None:
    """Compare the results of what came since the check before with the batch computation, whoever sent the events.

    The batch computation knows the own ranges as they are now. So nothing is compared when they have changed since the check
    before: which events met which range can't be told. The next check begins here then, as it does the first time.

    Late or not is decided by the events before: some of those are read too, and windows that they may have touched are left
    out, as are those that no event has closed yet.

    Args:
        most_events: newest offsets of the realtime topic to look at, all partitions together.
        deadline_seconds: how long the query may take to give the results.

    Returns:
        None where the pipeline isn't deployed, nothing came, or the ranges have changed.

    Raises:
        TopicError: a topic can't be read.
        BatchError: the batch computation can't be run.
    """
    settings = load_settings()
    reading, memory = _Reading.of(settings), Monitoring(settings.postgres, settings.pipeline)
    names = {resource: reading.analytic.topic(resource) for resource in ("historical", "realtime", "alerts")}
    if len(reading.admin.describe(names.values())) < len(names):
        return None
    spans = {resource: committed_ranges(reading.admin, name) for resource, name in names.items()}
    now: dict[str, Any] = {
        resource: {str(partition): end for partition, (_, end) in span.items()} for resource, span in spans.items()
    }
    # Topics that were made anew may end where those before them did.
    now["topics"] = {resource: reading.admin.topic_id(name) for resource, name in names.items()}
    before = json.loads(memory.mark(_MARK) or "{}")
    if any(before.get(name) != now[name] for name in ("historical", "topics")):
        memory.set_mark(_MARK, json.dumps(now))
        get_run_logger().info("the own ranges have changed, or this is the first check: the next one begins here")
        return None
    if before["realtime"] == now["realtime"]:
        return None
    checked = {int(partition): end for partition, end in before.get("judged", before["realtime"]).items()}
    new = new_records(spans["realtime"], checked, _LOOK_BACK, most_events // max(1, len(spans["realtime"])))
    events = reading.topic("realtime", new.ranges)
    people = pl.DataFrame(latest_rows(reading.topic("historical")).select([KEY]))
    known = _frame(events).join(people, on=KEY, how="semi")
    scope = _newest(reading, known, new)
    report = _verify(reading, events, scope, deadline_seconds, None)
    if committed_ranges(reading.admin, names["historical"]) != spans["historical"]:
        get_run_logger().info("the own ranges have changed during the check: the next one begins anew")
        return None
    if report.exact:
        memory.set_mark(_MARK, json.dumps(now | {"judged": _unjudged(reading, known, new, scope)}))
    return report


def _newest(reading: _Reading, known: pl.DataFrame, new: NewRecords) -> _Scope:
    """Return the scope of events of known keys: windows after those of the events before, up to those that events have closed.

    Args:
        reading: of which analytic.
        known: the events.
        new: what was read.
    """
    time_field = reading.analytic.topics["realtime"].event_time or ""
    names = reading.analytic.variables(reading.settings.pipeline.variables)
    closing = int(names["window_ms"]) + int(names["grace_ms"])
    is_early = pl.col(OFFSET) < pl.col(PARTITION).replace_strict(new.judged_from, return_dtype=pl.Int64)
    time_ms = pl.col(time_field).dt.epoch("ms")
    bounds = known.group_by(PARTITION).agg(first=time_ms.filter(is_early).max(), last=time_ms.max() - closing)
    first = {partition: 0 for partition, offset in new.judged_from.items() if offset == 0}
    first |= {partition: time + 1 for partition, time in bounds.select(PARTITION, "first").drop_nulls().iter_rows()}
    last = dict(bounds.select(PARTITION, "last").iter_rows())
    begins = {partition: begin for partition, (begin, _) in new.ranges.items()}
    return _Scope({"realtime": begins, "alerts": {}}, first, last)


def _unjudged(reading: _Reading, known: pl.DataFrame, new: NewRecords, scope: _Scope) -> dict[int, int]:
    """Return by partition from which event on the next check judges, so that its windows begin after those of this scope.

    Args:
        reading: of which analytic.
        known: the events.
        new: what was read.
        scope: whose windows are judged now.
    """
    time_ms = pl.col(reading.analytic.topics["realtime"].event_time or "").dt.epoch("ms")
    last = pl.col(PARTITION).replace_strict(scope.last_ms or {}, default=None, return_dtype=pl.Int64)
    later = known.filter(time_ms > last).group_by(PARTITION).agg(pl.col(OFFSET).min())
    return {partition: end for partition, (_, end) in new.ranges.items()} | dict(later.iter_rows())


def _verify(
    reading: _Reading, events: Topic, scope: _Scope, deadline_seconds: float, spec: RunSpec | None
) -> AlertsReport:
    began = time.monotonic()
    names = reading.analytic.variables(reading.settings.pipeline.variables)
    computed = compute(reading.analytic, "alerts", events.table, latest_rows(reading.topic("historical")), names)
    get_run_logger().info("%d events give %d results", events.table.num_rows, computed.rows.height)
    wanted = _placed(reading, computed.rows, events)
    comparison, alerts, seconds = _await_alerts(reading, wanted, scope, began + deadline_seconds)
    report = AlertsReport(
        exact=comparison.exact,
        wrong=comparison.differences().height,
        sentence=comparison.sentence(),
        alerts=alerts.height,
        events=events.table.num_rows,
        rejected=len(events.rejects),
        unknown_events=computed.unknown_events,
        unknown_users=computed.unknown_keys,
        rows=show_rows(reading.analytic, alerts),
        seconds=seconds - began,
    )
    wrong = comparison.differences()
    if spec is not None and spec.source == "simulator":
        report, of_truth = _scored(report, spec, alerts, names)
        wrong = pl.concat([wrong, of_truth], how="diagonal_relaxed")
    return _listed(reading.settings, report, wrong)


def _placed(reading: _Reading, rows: pl.DataFrame, events: Topic) -> pl.DataFrame:
    """Return the batch computation's rows with the partition that their key's events are in."""
    key = reading.analytic.topics["alerts"].key
    places = _frame(events).select(pl.col(KEY).alias(key), PARTITION).unique()
    return rows.join(places, on=key, how="left")


def _await_alerts(
    reading: _Reading, placed: pl.DataFrame, scope: _Scope, deadline: float
) -> tuple[Comparison, pl.DataFrame, float]:
    """Read the results until they equal the batch computation's or the time is over; return when they last changed, too."""
    definition = reading.analytic.topics["alerts"]
    time_field = definition.event_time or ""
    wanted = placed.filter(scope.holds(time_field)).drop(PARTITION)
    changed, before = time.monotonic(), -1
    while True:
        rows = _frame(reading.topic("alerts", reading.since("alerts", scope.since["alerts"])))
        found = rows.filter(scope.holds(time_field))
        if found.height != before:
            changed, before = time.monotonic(), found.height
        comparison = compare(found, wanted, [definition.key, time_field])
        complete = comparison.exact and (scope.last_ms is not None or not comparison.open_windows)
        if complete or time.monotonic() > deadline:
            return comparison, found, changed
        time.sleep(_POLL_SECONDS)


def _listed(settings: Settings, report: AlertsReport, wrong: pl.DataFrame) -> AlertsReport:
    """Return the report with what differs: the first rows in it, all of them in a file."""
    if wrong.is_empty():
        return report
    address = Reports(settings).write_differences(str(flow_run.id or "local"), wrong)
    first = wrong.group_by("difference", maintain_order=True).head(_LISTED)
    shown = [{name: None if value is None else str(value) for name, value in row.items()} for row in first.to_dicts()]
    return report.model_copy(update={"differences": shown, "file": address})


def _frame(topic: Topic) -> pl.DataFrame:
    frame = pl.from_arrow(topic.table)
    assert isinstance(frame, pl.DataFrame)  # noqa: S101 - a table never becomes a series
    return frame


def _scored(
    report: AlertsReport, spec: RunSpec, alerts: pl.DataFrame, variables: Mapping[str, str]
) -> tuple[AlertsReport, pl.DataFrame]:
    """Return the report with recall and precision, and the alerts that the truth misses or doesn't want."""
    chosen = {name: int(variables[name]) for name in ("window_ms", "grace_ms", "minimum_events") if name in variables}
    simulation = simulation_of(spec)
    expected = expected_windows(simulation, **chosen)
    # What came after the run is no concern of its truth.
    alerts = alerts.filter(pl.col("window_start").dt.epoch("ms") < simulation.end_ms)
    result, window_ms, known = score(alerts, expected), chosen.get("window_ms", 10_000), truth(simulation)
    wrong = [
        with_state(rows, simulation, window_ms, known).select(pl.lit(name).alias("difference"), pl.all())
        for name, rows in (("missed by the truth", result.misses), ("false alarm by the truth", result.false_alarms))
    ]
    scored = report.model_copy(
        update={
            "recall": result.recall,
            "precision": result.precision,
            "misses": result.misses.height,
            "false_alarms": result.false_alarms.height,
            "windows": _shown(score_by_window(alerts, expected)),
            "states": _shown(score_by_state(alerts, expected, simulation, window_ms)),
        }
    )
    return scored, pl.concat(wrong, how="diagonal_relaxed")


def _shown(frame: pl.DataFrame) -> list[dict[str, Any]]:
    times = [name for name, kind in frame.schema.items() if isinstance(kind, pl.Datetime)]
    shares = [name for name, kind in frame.schema.items() if kind == pl.Float64]
    shown = frame.with_columns(pl.col(times).dt.strftime("%Y-%m-%d %H:%M:%S"), pl.col(shares).round(4))
    return shown.head(_WINDOWS_SHOWN).to_dicts()


def publish_detections(report: AlertsReport) -> None:
    """Show how the results compare: in text, by window and by what people did, and what differs."""
    parts = [f"Against the batch computation: {report.sentence}."]
    if report.recall is not None and report.precision is not None:
        parts.append(
            f"Against the truth: recall {report.recall:.3f} ({report.misses:,} missed), precision {report.precision:.3f} "
            f"({report.false_alarms:,} false alarms)."
        )
    for title, rows in (("By what people did", report.states), ("By window (UTC)", report.windows)):
        if rows:
            named = [{name.replace("_", " "): value for name, value in row.items()} for row in rows]
            parts.append(f"## {title}\n\n{table(named)}")
    if report.file is not None:
        parts.append(f"Everything that differs is in `{report.file}`.")
    publish_markdown("detections", "\n\n".join(parts), "The alerts against a batch computation and the truth.")
    columns = list(dict.fromkeys(name for row in report.differences for name in row))
    rows = [{name: row.get(name) for name in columns} for row in report.differences]
    publish_table(
        "detections-differences", rows, "What differs, the first of each kind." if rows else "Nothing differs."
    )


def publish_detections_over_time(report: AlertsReport) -> None:
    """Keep what a check found, and plot what the checks of the last seven days found."""
    # Half an hour apart, and mostly with nothing new: the charts' library is loaded where there is something to draw.
    from heartwatch.plots import over_time  # noqa: PLC0415

    settings, now = load_settings(), time.time()
    memory = Monitoring(settings.postgres, settings.pipeline)
    memory.add_detection_check(DetectionCheck(now, report.alerts, report.wrong, report.recall, report.precision))
    checks = memory.detection_checks(now - _PLOTTED_SECONDS)
    shares = {
        name: [(one.at, value) for one in checks if (value := getattr(one, name)) is not None]
        for name in ("recall", "precision")
    }
    panels = {
        "alerts compared": {"alerts": [(one.at, one.alerts) for one in checks]},
        "alerts wrong": {"wrong": [(one.at, one.wrong) for one in checks]},
        "share": {name: points for name, points in shares.items() if points},
    }
    png = over_time({label: series for label, series in panels.items() if series})
    text = f"{report.sentence}.\n\n{picture(png, 'alerts compared, alerts wrong, recall and precision over time')}"
    publish_markdown("detections-over-time", text, "What the checks of the detections found in the last seven days.")


def show_rows(analytic: Analytic, alerts: pl.DataFrame, most: int = 10) -> list[dict[str, str]]:
    """Return the newest results as the analytic shows them to people."""
    time_field = analytic.topics["alerts"].event_time
    newest = alerts.sort(time_field, descending=True).head(most) if time_field else alerts.head(most)
    return [
        {column: _filled(template, row) for column, template in analytic.summary.items()}
        for row in newest.iter_rows(named=True)
    ]


def _filled(template: str, row: Mapping[str, Any]) -> str:
    """Fill in a row's fields; a dash where one of them has no value, which no format takes."""
    fields = [name for _, name, _, _ in Formatter().parse(template) if name]
    return template.format(**row) if all(row.get(name) is not None for name in fields) else "-"
