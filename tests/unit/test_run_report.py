"""What a whole run did and found: made from its parts, kept, and read again."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from heartwatch.demo import addresses, digest
from heartwatch.monitoring import StageRate
from heartwatch.produce.reports import ProduceReport, ShardReport
from heartwatch.produce.spec import RunSpec
from heartwatch.proof.report import SinkReport
from heartwatch.run_report import (
    HeartWatchReport,
    RunResultError,
    monitored_run,
    read_result,
    report_run,
    result_path,
    result_text,
    write_result,
)
from heartwatch.settings import ObjectiveSettings, load_settings
from heartwatch.verify.detections import AlertsReport
from heartwatch.verify.measure import Figures
from heartwatch.verify.throughput import Headline, Steady

RATES = [StageRate("realtime topic", 900.0, 1_500.0, None, None), StageRate("alerts topic", 3.0, 9.0, None, None)]


def figures(**values: Any) -> Figures:
    known: dict[str, Any] = {
        "rates": RATES,
        "missed": [],
        "headline": Headline(events=1_000, seconds=4.0, began_at=1.0, ended_at=5.0),
        "steady": Steady("query Q", 12.4, 800.0),
        "latency_ms": (10.0, 20.0, 1_030.4),
    }
    return Figures(**(known | values))


def alerts(**values: Any) -> AlertsReport:
    known: dict[str, Any] = {
        "exact": True,
        "wrong": 0,
        "sentence": "all 3 rows are equal",
        "alerts": 3,
        "events": 1_000,
        "rejected": 2,
        "unknown_events": 0,
        "unknown_users": 0,
        "rows": [],
        "seconds": 1.0,
    }
    return AlertsReport(**(known | values))


def report(found: Figures, compared: AlertsReport) -> HeartWatchReport:
    shard = ShardReport(shard=0, delivered=1_000, failed=5, newest_ms=0, finished=True, seconds=2.0)
    sink = SinkReport(
        topic="t", proven=True, sentence="", records=9, rows=1_009, dead_letters={}, seconds=1.0, partitions=[]
    )
    settings = load_settings().model_copy(update={"objectives": ObjectiveSettings(min_recall=0.9, min_precision=0.9)})
    sent = ProduceReport.of(RunSpec(run_id="run"), [shard])
    return report_run(settings, "run", 20_000, sent, compared, [sink], found)


def test_a_run_is_summed_up_in_short_texts() -> None:
    found = report(
        figures(missed=["slow"]), alerts(recall=0.5, precision=1.0, misses=4, unknown_events=7, unknown_users=1)
    )
    assert (found.events_per_second, found.peak_events_per_second) == (250, 1_500)
    assert found.missed == ["slow", "the alerts' recall is 0.500, less than the objective of 0.9"]
    assert found.summary == {
        "events sent": "1,000 by 1 producers, 5 of them sent again",
        "people": "20,000 with their personal range",
        "alerts": "3; against the batch computation: all 3 rows are equal",
        "records that are no events": "2",
        "rows proven in the sink": "1,009 of 1 topics",
        "events/s": "250 from the first event to the last result",
        "events/s, steady state": "800 over 12 s, warm-up and run-out cut off",
        "latency": "p50 10 ms, p95 20 ms, p99 1,030 ms from a window's closing event to its alert",
        "recall": "0.500 (4 missed)",
        "precision": "1.000 (0 false alarms)",
        "without historical row": "7 events of 1 users",
        "objectives missed": "slow; the alerts' recall is 0.500, less than the objective of 0.9",
    }


def test_a_run_in_which_nothing_moved_has_no_rates_and_is_not_kept() -> None:
    still = figures(headline=None, steady=None, latency_ms=None)
    found = report(still, alerts())
    assert (found.events_per_second, found.steady_events_per_second, found.latency_ms) == (0.0, None, None)
    assert "latency" not in found.summary
    assert monitored_run(found, still) is None


def test_what_is_kept_beside_earlier_runs() -> None:
    run = monitored_run(report(figures(), alerts(recall=1.0)), figures())
    assert run is not None
    assert (run.run_id, run.began_at, run.ended_at, run.events) == ("run", 1.0, 5.0, 1_000)
    assert (run.latency_p50_ms, run.latency_p95_ms, run.latency_p99_ms) == (10.0, 20.0, 1_030.4)
    assert (run.alerts, run.exact, run.recall, run.precision) == (3, True, 1.0, None)


def test_a_result_is_read_as_it_was_written(tmp_path: Path) -> None:
    settings = load_settings().model_copy(update={"home": tmp_path})
    found = report(figures(), alerts())
    write_result(settings, "run", found.model_dump(mode="json"))
    assert HeartWatchReport.model_validate(read_result(settings, "run", "wise-owl")) == found
    assert [path.name for path in result_path(settings, "run").parent.iterdir()] == ["heart-watch-run.json"]


@pytest.mark.parametrize("text", [None, "{"], ids=["no file", "half a file"])
def test_a_run_without_a_result_is_named(tmp_path: Path, text: str | None) -> None:
    settings = load_settings().model_copy(update={"home": tmp_path})
    if text is not None:
        result_path(settings, "run").parent.mkdir()
        result_path(settings, "run").write_text(text)
    with pytest.raises(RunResultError, match=r"run 'wise-owl' left no result in 'heart-watch-run\.json'"):
        read_result(settings, "run", "wise-owl")


def test_the_text_of_a_run_shows_its_newest_results() -> None:
    assert result_text("run", {"people": "7"}, []).splitlines() == [
        "# Run run",
        "",
        "| | |",
        "|---|---|",
        "| people | 7 |",
        "",
        "No results.",
    ]
    assert result_text("run", {}, [{"user": "7", "place": "a|b"}]).splitlines()[-1] == "| 7 | a\\|b |"


def test_the_demo_deploys_again_what_has_changed_only(monkeypatch: pytest.MonkeyPatch) -> None:
    assert digest() == digest()
    before = digest()
    read_bytes = Path.read_bytes
    changed = Path(read_result.__code__.co_filename)
    monkeypatch.setattr(Path, "read_bytes", lambda path: b"" if path == changed else read_bytes(path))
    assert digest() != before


def test_the_demo_ends_with_where_to_look() -> None:
    settings = load_settings()
    prefect = settings.prefect.model_copy(update={"api_url": "http://127.0.0.1:4200/api"})
    found = addresses(settings.model_copy(update={"prefect": prefect}))
    assert found["live page"] == f"http://{settings.web.host}:{settings.web.port}"
    secrets = settings.home / "secrets.toml"
    assert found["Prefect"] == f"http://127.0.0.1:4200, password: auth_string of [prefect] in {secrets}"
    assert found["Kafka"] == settings.kafka.bootstrap_servers
