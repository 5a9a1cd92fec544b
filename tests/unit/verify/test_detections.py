"""Detections verified on topics in memory: what is waited for, what is listed, what is scored, and how it is shown."""

from __future__ import annotations

import json
from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Any
from unittest.mock import MagicMock

import polars as pl
import pytest

from heartwatch.analytic import Analytic
from heartwatch.produce.sources import simulation_of
from heartwatch.produce.spec import RunSpec
from heartwatch.settings import ObjectiveSettings, load_settings
from heartwatch.simulate.truth import expected_windows
from heartwatch.verify import detections
from heartwatch.verify.batch import CLOSED, Computed, Topic
from heartwatch.verify.detections import AlertsReport, DetectionVerifier, missed_objectives
from heartwatch.verify.render_detections import detections_text, difference_rows
from heartwatch.verify.topics import PipelineTopics

START = 1_700_000_000_000
ANALYTIC = Analytic.of(load_settings().pipeline)


def windows(*starts: int, user: str = "7") -> pl.DataFrame:
    """Return alerts of a user, by their windows' starts in ms after `START`."""
    times = pl.Series([START + start for start in starts], dtype=pl.Int64)
    return pl.DataFrame(
        {
            "user_id": pl.Series([user] * len(starts), dtype=pl.String),
            "window_start": times.cast(pl.Datetime("ms", "UTC")),
            "event_count": pl.Series([3] * len(starts), dtype=pl.Int32),
        }
    )


class Topics:
    """A pipeline's topics in memory; the results' topic has one more of `results` at each look."""

    def __init__(self, *results: pl.DataFrame, events: pl.DataFrame | None = None) -> None:
        self.settings, self.analytic, self.admin = load_settings(), ANALYTIC, MagicMock()
        self._events = events if events is not None else pl.DataFrame({"user_id": ["7", "7"]})
        self._results = list(results)
        self.asked: list[tuple[str, Mapping[int, int]]] = []

    def since(self, resource: str, offsets: Mapping[int, int]) -> dict[int, tuple[int, int]]:
        self.asked.append((resource, offsets))
        return {}

    def read(self, resource: str, _: object = None) -> Topic:
        if resource == "alerts":
            frame = self._results.pop(0) if len(self._results) > 1 else self._results[0]
            frame = frame.with_columns(pl.col(pl.Datetime).dt.replace_time_zone(None))  # as Avro is decoded
        else:
            frame = self._events
        rows = frame.with_columns(
            pl.lit("7").alias("event_key"),
            pl.lit(0, dtype=pl.Int32).alias("partition"),
            pl.int_range(pl.len(), dtype=pl.Int64).alias("offset"),
        )
        if "event_time" in rows.columns:
            rows = rows.with_columns(pl.col("event_time").dt.epoch("ms").alias("timestamp"))
        keys = ("event_key", "partition", "offset")
        return Topic(rows.to_arrow(), rows.select(keys).clear().to_arrow(), [(0, 0, "no Avro")])


@pytest.fixture
def verify(monkeypatch: pytest.MonkeyPatch) -> Any:
    """Return what verifies a run on topics whose batch computation gives some rows."""
    kept: list[pl.DataFrame] = []
    reports = MagicMock()
    reports.write_differences.side_effect = lambda name, rows: kept.append(rows) or f"s3://bucket/{name}.parquet"
    monkeypatch.setattr(detections, "Reports", lambda _: reports)
    monkeypatch.setattr(detections, "_POLL_SECONDS", 0.0)

    def run(topics: Topics, computed: pl.DataFrame, source: str = "uniform", **choices: Any) -> Any:
        monkeypatch.setattr(PipelineTopics, "of", lambda _: topics)
        rows = computed if CLOSED in computed.columns else computed.with_columns(pl.lit(True).alias(CLOSED))
        monkeypatch.setattr(detections, "compute", lambda *_: Computed(rows, 5, 2))
        spec = RunSpec(run_id="run", source=source, start_ms=START, **choices)
        return DetectionVerifier(load_settings(), 0.0, "check", logged.append).verify_run(spec, None), kept

    logged: list[str] = []
    return run


def test_results_that_equal_the_batch_computation_are_exact(verify: Any) -> None:
    topics = Topics(windows(0, 10_000))
    report, kept = verify(topics, windows(0, 10_000))
    assert (report.exact, report.wrong, report.alerts, report.file) == (True, 0, 2, None)
    assert (report.events, report.rejected, report.unknown_events, report.unknown_users) == (2, 1, 5, 2)
    assert kept == []
    assert topics.asked == [("realtime", {}), ("alerts", {})]


def test_windows_from_before_the_run_are_left_out_on_both_sides(verify: Any) -> None:
    report, _ = verify(Topics(windows(-20_000, 0)), windows(-10_000, 0))
    assert (report.exact, report.alerts) == (True, 1)


def test_what_differs_is_listed_and_kept_whole(verify: Any) -> None:
    report, kept = verify(Topics(windows(0, 20_000)), windows(0, 10_000))
    assert (report.exact, report.wrong, report.sentence) == (False, 2, "1 missing, 1 extra")
    assert report.file == "s3://bucket/check.parquet"
    assert [(row["difference"], row["window_start"]) for row in report.differences] == [
        ("missing", "2023-11-14 22:13:30"),
        ("extra", "2023-11-14 22:13:40"),
    ]
    assert kept[0]["difference"].to_list() == ["missing", "extra"]
    assert all(isinstance(value, str) or value is None for row in report.differences for value in row.values())


def test_results_are_waited_for_until_the_windows_that_events_have_closed_are_there(
    verify: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(detections.time, "monotonic", lambda: 0.0)
    report, _ = verify(Topics(windows(0), windows(0), windows(0, 10_000)), windows(0, 10_000))
    assert (report.exact, report.alerts) == (True, 2)


def test_a_simulators_results_are_scored_against_its_truth(verify: Any) -> None:
    choices = {"people": 2_000, "events": 100_000, "faults": False}
    simulation = simulation_of(RunSpec(run_id="run", start_ms=START, **choices))
    expected = expected_windows(simulation, window_ms=10_000, grace_ms=10_000, minimum_events=3)
    assert expected.height, "somebody falls ill"
    report, kept = verify(Topics(windows(0)), windows(0), source="simulator", **choices)
    assert report.exact
    assert (report.recall, report.precision) == (0.0, 0.0)
    assert report.false_alarms == 1
    assert {row["difference"] for row in report.differences} == {"missed by the truth", "false alarm by the truth"}
    assert kept[0].height == report.misses + report.false_alarms
    assert report.windows
    assert report.states


def test_differences_from_the_batch_computation_and_from_the_truth_are_listed_together(verify: Any) -> None:
    choices = {"people": 2_000, "events": 100_000, "faults": False}
    naive = windows(0, 10_000).with_columns(pl.col("window_start").dt.replace_time_zone(None))  # as DuckDB gives it
    report, kept = verify(Topics(windows(0, 20_000)), naive, source="simulator", **choices)
    counts = dict(kept[0].group_by("difference").len().iter_rows())
    assert counts == {
        "missing": 1,
        "extra": 1,
        "missed by the truth": report.misses,
        "false alarm by the truth": report.false_alarms,
    }
    assert report.misses > 0
    assert report.false_alarms == 2
    assert kept[0].schema["window_start"] == pl.Datetime("ms", "UTC")


class Broker:
    """Says which topics there are, and where they end; keeps the mark of the check before."""

    def __init__(self) -> None:
        self.topics = {ANALYTIC.topic(name): f"id-{name}" for name in ("historical", "realtime", "alerts")}
        self.ends = {"historical": 2, "realtime": 2, "alerts": 1}
        self.marks: dict[str, str] = {}

    def describe(self, names: Any) -> dict[str, Any]:
        return {name: None for name in names if name in self.topics}

    def topic_id(self, name: str) -> str:
        return self.topics[name]

    def committed_ranges(self, _: object, name: str) -> dict[int, tuple[int, int]]:
        (resource,) = [resource for resource in self.ends if ANALYTIC.topic(resource) == name]
        return {0: (0, self.ends[resource])}

    def mark(self, name: str) -> str | None:
        return self.marks.get(name)

    def set_mark(self, name: str, value: str) -> None:
        self.marks[name] = value


@pytest.fixture
def broker(monkeypatch: pytest.MonkeyPatch) -> Broker:
    brokers = Broker()
    monkeypatch.setattr(detections, "Monitoring", lambda *_: brokers)
    monkeypatch.setattr(detections, "committed_ranges", brokers.committed_ranges)
    return brokers


@pytest.fixture
def verify_new(verify: Any, broker: Broker, monkeypatch: pytest.MonkeyPatch) -> Any:
    """Return what verifies what is new, in topics of two events whose windows are closed."""
    times = pl.Series([START, START + 60_000]).cast(pl.Datetime("ms", "UTC"))
    topics = Topics(windows(0), events=pl.DataFrame({"user_id": ["7", "7"], "event_time": times}))
    topics.admin = broker
    verify(topics, windows(0))
    logged: list[str] = []

    def run() -> tuple[AlertsReport | None, list[str]]:
        logged.clear()
        return DetectionVerifier(load_settings(), 0.0, "check", logged.append).verify_new(1_000), list(logged)

    return run


def test_the_first_check_only_notes_where_it_begins(verify_new: Any, broker: Broker) -> None:
    report, logged = verify_new()
    assert report is None
    assert logged == ["the personal ranges have changed, or this is the first check: the next one begins here"]
    assert json.loads(broker.marks["verify-detections began at"])["realtime"] == {"0": 2}
    assert verify_new() == (None, []), "nothing is new"


def test_what_came_since_is_compared_and_the_next_check_goes_on_after_it(verify_new: Any, broker: Broker) -> None:
    verify_new()
    noted = json.loads(broker.marks["verify-detections began at"])
    broker.marks["verify-detections began at"] = json.dumps(noted | {"realtime": {"0": 0}})
    report, _ = verify_new()
    assert report is not None
    assert report.exact
    assert json.loads(broker.marks["verify-detections began at"])["realtime"] == {"0": 2}
    assert verify_new() == (None, []), "nothing is new"


@pytest.mark.parametrize("change", ["a topic is made again", "a range comes"])
def test_nothing_is_compared_where_events_may_have_met_other_ranges(
    verify_new: Any, broker: Broker, change: str
) -> None:
    verify_new()
    if change == "a range comes":
        broker.ends["historical"] += 1
    else:
        broker.topics[ANALYTIC.topic("realtime")] = "another id"
    broker.ends["realtime"] += 10
    report, logged = verify_new()
    assert report is None
    assert len(logged) == 1


def test_a_range_that_comes_during_the_check_makes_it_void(
    verify_new: Any, broker: Broker, monkeypatch: pytest.MonkeyPatch
) -> None:
    verify_new()
    noted = json.loads(broker.marks["verify-detections began at"]) | {"realtime": {"0": 0}}
    broker.marks["verify-detections began at"] = json.dumps(noted)
    await_results = DetectionVerifier._await_results

    def await_while_a_range_comes(*arguments: Any) -> Any:
        broker.ends["historical"] += 1
        return await_results(*arguments)

    monkeypatch.setattr(DetectionVerifier, "_await_results", await_while_a_range_comes)
    report, logged = verify_new()
    assert report is None
    assert logged[-1] == "the personal ranges have changed during the check: the next one begins from scratch"
    assert json.loads(broker.marks["verify-detections began at"]) == noted


def test_a_pipeline_that_is_not_deployed_is_not_checked(verify_new: Any, broker: Broker) -> None:
    del broker.topics[ANALYTIC.topic("alerts")]
    assert verify_new() == (None, [])
    assert broker.marks == {}


def report_of(**values: Any) -> AlertsReport:
    known = {
        "exact": True,
        "wrong": 0,
        "sentence": "all 3 rows are equal",
        "alerts": 3,
        "events": 9,
        "rejected": 0,
        "unknown_events": 0,
        "unknown_users": 0,
        "rows": [],
        "seconds": 1.0,
    }
    return AlertsReport(**(known | values))


def test_an_objective_is_missed_below_it_and_where_the_truth_is_known() -> None:
    objectives = ObjectiveSettings(min_recall=0.9, min_precision=0.9)
    assert missed_objectives(report_of(), objectives) == []
    assert missed_objectives(report_of(recall=0.9, precision=1.0), objectives) == []
    assert missed_objectives(report_of(recall=0.89, precision=0.5), objectives) == [
        "the alerts' recall is 0.890, less than the objective of 0.9",
        "the alerts' precision is 0.500, less than the objective of 0.9",
    ]


def test_the_report_is_text_with_tables_of_what_there_is() -> None:
    assert detections_text(report_of()) == "Against the batch computation: all 3 rows are equal."
    scored = report_of(
        recall=0.5,
        precision=1.0,
        misses=1_000,
        states=[{"state": "resting", "alerts_given": 3}],
        file="s3://bucket/check.parquet",
    )
    assert detections_text(scored).split("\n\n") == [
        "Against the batch computation: all 3 rows are equal.",
        "Against the truth: recall 0.500 (1,000 missed), precision 1.000 (0 false alarms).",
        "## By what people did",
        "| state | alerts given |\n| --- | ---: |\n| resting | 3 |",
        "Everything that differs is in `s3://bucket/check.parquet`.",
    ]


def test_rows_that_differ_have_the_same_columns() -> None:
    found = difference_rows(report_of(differences=[{"difference": "missing", "user": "7"}, {"difference": "extra"}]))
    assert found == [{"difference": "missing", "user": "7"}, {"difference": "extra", "user": None}]


def test_what_a_check_remembers_of_a_report() -> None:
    at = datetime(2026, 11, 24, tzinfo=UTC).timestamp()
    check = report_of(wrong=2, recall=0.5).check(at)
    assert (check.at, check.alerts, check.wrong, check.recall, check.precision) == (at, 3, 2, 0.5, None)
