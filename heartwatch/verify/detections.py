"""The query's results compared with an independent batch computation, and with the truth where the events are simulated."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Mapping
from string import Formatter
from typing import Any

import polars as pl
from pydantic import BaseModel, Field

from heartwatch.analytic import Analytic
from heartwatch.heartbeats import are_heartbeats
from heartwatch.monitoring import DetectionCheck, Monitoring
from heartwatch.produce.sources import simulation_of
from heartwatch.produce.spec import RunSpec
from heartwatch.report.day import Reports
from heartwatch.settings import ObjectiveSettings, Settings
from heartwatch.simulate.truth import expected_windows, score, score_by_state, score_by_window, truth, with_state
from heartwatch.verify.batch import KEY, PARTITION, Comparison, Topic, compare, compute, latest_rows
from heartwatch.verify.late import (
    WINDOW_MS,
    LateRules,
    by_window,
    late_events,
    missed_results,
    missed_rows,
    without_lateness,
)
from heartwatch.verify.scopes import Scope, next_judged_from, scope_of_new
from heartwatch.verify.topics import Offsets, PipelineTopics
from kafkakit.topic_reader import NewRecords, committed_ranges, new_records

_POLL_SECONDS = 0.5
_LISTED = 100
_WINDOWS_SHOWN = 60
_MARK = "verify-detections began at"
_LOOK_BACK = 20_000  # offsets of a partition


class AlertsReport(BaseModel):
    """How the query's results compare with the batch computation and the truth.

    Attributes:
        exact: whether they equal the batch computation's.
        wrong: rows that differ.
        sentence: what differs, or how many are equal.
        alerts: results of the run.
        events: valid events of the run.
        rejected: records of the run that are not valid events.
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
        late_events: events whose windows had closed when they came.
        late_windows: how many of them there were for each window, and of how many people.
        missed: people and windows whose alerts those events would have given.
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
    late_events: int = 0
    late_windows: list[dict[str, Any]] = Field(default_factory=list)
    missed: list[dict[str, str]] = Field(default_factory=list)

    def check(self, at: float) -> DetectionCheck:
        """Return what the checks remember of it.

        Args:
            at: the check's end, seconds since the epoch.
        """
        return DetectionCheck(at, self.alerts, self.wrong, self.recall, self.precision)


class DetectionVerifier:
    """Compares the query's results with the batch computation's, of a run or of what is new."""

    def __init__(self, settings: Settings, deadline_seconds: float, name: str, log: Callable[[str], None]) -> None:
        """Prepare.

        Args:
            settings: which pipeline, and where its servers are.
            deadline_seconds: how long the query may take to give the results, s.
            name: names this check in the address of what differs.
            log: called with a sentence about each step.
        """
        self._settings, self._topics = settings, PipelineTopics.of(settings)
        self._analytic = self._topics.analytic
        self._deadline_seconds, self._name, self._log = deadline_seconds, name, log
        ahead = {"max_ahead_ms": str(settings.pipeline.max_ahead_ms)}
        self._variables = self._analytic.variables(settings.pipeline.variables) | ahead

    def verify_run(self, spec: RunSpec, offsets: Offsets | None) -> AlertsReport:
        """Compute a run's results at one go, wait until the query's equal them, and score them against the truth.

        A run is distinguished from others by where its topics ended when it began, and by its event times: every window of it
        begins at its start or later, and every earlier window is another run's. (Devices with slow clocks also give windows from
        before the start; what becomes of those depends on what earlier runs left behind, and they are left out on both sides.)

        Args:
            spec: the run.
            offsets: where the run began in the topics of the stream and the results; None for the topics' beginnings.

        Raises:
            TopicError: a topic can't be read.
            BatchError: the batch computation can't be run.
        """
        stream, results = self._analytic.stream, self._analytic.results
        since = offsets or {stream: {}, results: {}}
        events = self._topics.read(stream, self._topics.since(stream, since[stream]))
        return self._verify(events, Scope(since, spec.start_ms), spec)

    def verify_new(self, most_events: int) -> AlertsReport | None:
        """Compare the results of what came since the check before with the batch computation, whoever sent the events.

        The batch computation knows the personal ranges as they are now. So nothing is compared when they have changed since the
        check before: which events met which range can't be known. The next check begins here then, as it does the first time.

        Late or not is decided by the events before: some of those are read too, and windows that they may have touched are left
        out, as are those that no event has closed yet.

        Args:
            most_events: newest offsets of the stream to look at, all partitions together.

        Returns:
            None where the pipeline isn't deployed, nothing came, or the ranges have changed.

        Raises:
            TopicError: a topic can't be read.
            BatchError: the batch computation can't be run.
            PostgresError: what the check before has noted isn't known.
        """
        analytic, admin, topics = self._analytic, self._topics.admin, self._topics
        table, stream = analytic.table, analytic.stream
        names = {resource: analytic.topic(resource) for resource in (table, stream, analytic.results)}
        memory = Monitoring(self._settings.postgres, self._settings.pipeline)
        if len(admin.describe(names.values())) < len(names):
            return None
        spans = {resource: committed_ranges(admin, name) for resource, name in names.items()}
        now: dict[str, Any] = {
            resource: {str(partition): end for partition, (_, end) in span.items()} for resource, span in spans.items()
        }
        # Topics that were deleted and made again may end where those before them did.
        now["topics"] = {resource: admin.topic_id(name) for resource, name in names.items()}
        before = json.loads(memory.mark(_MARK) or "{}")
        if any(before.get(name) != now[name] for name in (table, "topics")):
            memory.set_mark(_MARK, json.dumps(now))
            self._log("the personal ranges have changed, or this is the first check: the next one begins here")
            return None
        if before[stream] == now[stream]:
            return None
        checked = {int(partition): end for partition, end in before.get("judged", before[stream]).items()}
        new = new_records(spans[stream], checked, _LOOK_BACK, most_events // max(1, len(spans[stream])))
        events = topics.read(stream, new.ranges)
        people = pl.DataFrame(latest_rows(topics.read(table)).select([KEY]))
        known = _frame(events).join(people, on=KEY, how="semi")
        scope = scope_of_new(topics, known, new)
        report = self._verify(events, scope, None)
        # What the check before has read is told already, though its open windows are judged now.
        told = {int(partition): end for partition, end in before[stream].items()}
        judged_from = {partition: max(first, told.get(partition, 0)) for partition, first in new.judged_from.items()}
        report = self._with_late(report, known, NewRecords(new.ranges, judged_from), most_events)
        if committed_ranges(admin, names[table]) != spans[table]:
            self._log("the personal ranges have changed during the check: the next one begins from scratch")
            return None
        if report.exact:
            memory.set_mark(_MARK, json.dumps(now | {"judged": next_judged_from(topics, known, new, scope)}))
        return report

    def _with_late(self, report: AlertsReport, known: pl.DataFrame, new: NewRecords, most_events: int) -> AlertsReport:
        """Return the report with the events that came too late, and whose alerts were missed for it.

        Args:
            report: what else was found.
            known: the events of known keys that were read.
            new: where they were read.
            most_events: offsets to read again at most for the windows of late events, all partitions together.
        """
        rules = self._late_rules()
        late = late_events(known, rules, new.judged_from)
        late = late.filter(~pl.Series(are_heartbeats(late[KEY].to_arrow()), dtype=pl.Boolean))
        if late.is_empty():
            return report
        analytic, topics = self._analytic, self._topics
        definition = analytic.topics[analytic.results]
        again = self._from_windows_on(late, new, most_events)
        people = latest_rows(topics.read(analytic.table))
        events = topics.read(analytic.stream, again)
        computed = compute(analytic, analytic.results, events.table, people, without_lateness(self._variables))
        found = _frame(topics.read(analytic.results))
        key, time_field = definition.key, definition.event_time or ""
        missed = missed_rows(missed_results(late, computed.rows, found, key, time_field), key)
        windows = by_window(late)
        self._log(f"{late.height} events came after their windows had closed; {len(missed)} alerts were missed for it")
        return report.model_copy(
            update={"late_events": late.height, "late_windows": windows[-_WINDOWS_SHOWN:], "missed": missed}
        )

    def _late_rules(self) -> LateRules:
        time_field = self._analytic.topics[self._analytic.stream].event_time or ""
        lengths = [int(self._variables[name]) for name in ("window_ms", "grace_ms", "max_ahead_ms")]
        return LateRules(time_field, *lengths)

    def _from_windows_on(self, late: pl.DataFrame, new: NewRecords, most_events: int) -> dict[int, tuple[int, int]]:
        """Return, by partition with late events, the offsets from the first of their windows on, the newest of them at most."""
        topic, most = self._analytic.topic(self._analytic.stream), most_events // max(1, len(new.ranges))
        ranges = {}
        for partition, start in late.group_by(PARTITION).agg(pl.col(WINDOW_MS).min()).iter_rows():
            begin, end = new.ranges[partition]
            first = self._topics.admin.offsets_at(topic, start).get(partition, begin)
            ranges[partition] = (min(begin, max(first, end - most)), end)
        return ranges

    def _verify(self, events: Topic, scope: Scope, spec: RunSpec | None) -> AlertsReport:
        began = time.monotonic()
        analytic, people = self._analytic, latest_rows(self._topics.read(self._analytic.table))
        computed = compute(analytic, analytic.results, events.table, people, self._variables)
        self._log(f"{events.table.num_rows} events give {computed.rows.height} results")
        wanted = _placed(analytic, computed.rows, events)
        comparison, alerts, changed = self._await_results(wanted, scope, began + self._deadline_seconds)
        report = AlertsReport(
            exact=comparison.exact,
            wrong=comparison.differences().height,
            sentence=comparison.sentence(),
            alerts=alerts.height,
            events=events.table.num_rows - int(are_heartbeats(events.table[KEY]).sum()),
            rejected=len(events.rejects),
            unknown_events=computed.unknown_events,
            unknown_users=computed.unknown_keys,
            rows=show_rows(analytic, alerts),
            seconds=changed - began,
        )
        wrong = comparison.differences()
        if spec is not None and spec.source == "simulator":
            report, of_truth = _scored(report, spec, alerts, self._variables)
            wrong = pl.concat([wrong, of_truth], how="diagonal_relaxed")
        return self._listed(report, wrong)

    def _await_results(
        self, placed: pl.DataFrame, scope: Scope, deadline: float
    ) -> tuple[Comparison, pl.DataFrame, float]:
        """Read the results until they equal the batch computation's or the time is over.

        Args:
            placed: the batch computation's rows with their partitions.
            scope: which results count.
            deadline: when the time is over, by `time.monotonic`.

        Returns:
            how they compare, the results, and when there last came some, by `time.monotonic`.
        """
        results = self._analytic.results
        definition = self._analytic.topics[results]
        time_field = definition.event_time or ""
        wanted = placed.filter(scope.holds(time_field)).drop(PARTITION)
        changed, before = time.monotonic(), -1
        while True:
            rows = _frame(self._topics.read(results, self._topics.since(results, scope.since[results])))
            found = rows.filter(scope.holds(time_field))
            if found.height != before:
                changed, before = time.monotonic(), found.height
            comparison = compare(found, wanted, [definition.key, time_field])
            complete = comparison.exact and (scope.last_ms is not None or not comparison.open_windows)
            if complete or time.monotonic() > deadline:
                return comparison, found, changed
            time.sleep(_POLL_SECONDS)

    def _listed(self, report: AlertsReport, wrong: pl.DataFrame) -> AlertsReport:
        """Return the report with what differs: the first rows in it, all of them in a file."""
        if wrong.is_empty():
            return report
        address = Reports(self._settings).write_differences(self._name, wrong)
        times = [name for name, kind in wrong.schema.items() if isinstance(kind, pl.Datetime)]
        first = wrong.group_by("difference", maintain_order=True).head(_LISTED)
        # People read times as the rest of the report shows them: UTC, without saying so each time.
        first = first.with_columns(pl.col(times).dt.replace_time_zone(None))
        shown = [
            {name: None if value is None else str(value) for name, value in row.items()} for row in first.to_dicts()
        ]
        return report.model_copy(update={"differences": shown, "file": address})


def _placed(analytic: Analytic, rows: pl.DataFrame, events: Topic) -> pl.DataFrame:
    """Return the batch computation's rows with the partition that their key's events are in."""
    key = analytic.topics[analytic.results].key
    places = _frame(events).select(pl.col(KEY).alias(key), PARTITION).unique()
    return rows.join(places, on=key, how="left")


def _frame(topic: Topic) -> pl.DataFrame:
    """Return a topic's rows; their times, which Avro gives without a time zone, are UTC, as those of the truth are."""
    frame = pl.from_arrow(topic.table)
    assert isinstance(frame, pl.DataFrame)  # noqa: S101 - a table never becomes a series
    naive = [name for name, kind in frame.schema.items() if isinstance(kind, pl.Datetime) and kind.time_zone is None]
    return frame.with_columns(pl.col(naive).dt.replace_time_zone("UTC"))


def _scored(
    report: AlertsReport, spec: RunSpec, alerts: pl.DataFrame, variables: Mapping[str, str]
) -> tuple[AlertsReport, pl.DataFrame]:
    """Return the report with recall and precision, and the alerts that the truth misses or doesn't want."""
    chosen = {name: int(variables[name]) for name in ("window_ms", "grace_ms", "minimum_events") if name in variables}
    simulation = simulation_of(spec)
    expected = expected_windows(simulation, **chosen)
    # What came after the run is not part of its truth.
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


def missed_objectives(report: AlertsReport, objectives: ObjectiveSettings) -> list[str]:
    """Return one sentence for each objective of the truth that is not met."""
    found = []
    for name, value, least in (
        ("recall", report.recall, objectives.min_recall),
        ("precision", report.precision, objectives.min_precision),
    ):
        if value is not None and value < least:
            found.append(f"the alerts' {name} is {value:.3f}, less than the objective of {least:g}")
    return found


def show_rows(analytic: Analytic, alerts: pl.DataFrame, most: int = 10) -> list[dict[str, str]]:
    """Return the newest results as the analytic shows them to people."""
    time_field = analytic.topics[analytic.results].event_time
    newest = alerts.sort(time_field, descending=True).head(most) if time_field else alerts.head(most)
    return [
        {column: _filled(template, row) for column, template in analytic.summary.items()}
        for row in newest.iter_rows(named=True)
    ]


def _filled(template: str, row: Mapping[str, Any]) -> str:
    """Fill in a row's fields; a dash where one of them has no value, which no format takes."""
    fields = [name for _, name, _, _ in Formatter().parse(template) if name]
    return template.format(**row) if all(row.get(name) is not None for name in fields) else "-"
