"""What a whole run of `heart-watch` did and found: made, summarised, kept and read again."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from pydantic import BaseModel, Field

from heartwatch.analytic import Analytic
from heartwatch.errors import HeartWatchError
from heartwatch.markdown import table
from heartwatch.monitoring import Run
from heartwatch.produce.reports import ProduceReport
from heartwatch.proof.report import SinkReport
from heartwatch.settings import Settings
from heartwatch.verify.detections import AlertsReport, missed_objectives
from heartwatch.verify.latency import describe_latency
from heartwatch.verify.measure import Figures
from heartwatch.verify.stages import stream_stage


class RunResultError(HeartWatchError):
    """A run left no result that can be read; the message names the run and the file."""


class HeartWatchReport(BaseModel):
    """What a run did and found.

    Attributes:
        run_id: the flow run.
        people: rows of the table of personal ranges.
        sent: what the producers sent.
        alerts: the results, compared with the batch computation and the truth.
        sinks: what was found of the sinks.
        events_per_second: the original's figure, from the first event to the last result.
        peak_events_per_second: largest rate into the first stream between two samples.
        steady_events_per_second: rate of the slowest of first stream and queries in the steady state; None for a short run.
        steady_seconds: how long that was, s.
        latency_ms: 50th, 95th and 99th percentile of the time from a window's closing event to its result, ms.
        missed: objectives that the run missed, one sentence each.
        summary: the same for people, as short texts.
    """

    run_id: str
    people: int
    sent: ProduceReport
    alerts: AlertsReport
    sinks: list[SinkReport]
    events_per_second: float
    peak_events_per_second: float
    steady_events_per_second: float | None
    steady_seconds: float | None
    latency_ms: tuple[float, float, float] | None
    missed: list[str]
    summary: dict[str, str] = Field(default_factory=dict)


def report_run(
    settings: Settings,
    run_id: str,
    people: int,
    sent: ProduceReport,
    alerts: AlertsReport,
    sinks: Sequence[SinkReport],
    figures: Figures,
) -> HeartWatchReport:
    """Return a run's report, with its summary.

    Args:
        settings: which analytic, and the objectives.
        run_id: the flow run.
        people: rows of the table of personal ranges.
        sent: what the producers sent.
        alerts: how the results compare.
        sinks: what was found of the sinks.
        figures: what the run's samples say.
    """
    stage = stream_stage(Analytic.of(settings.pipeline))
    report = HeartWatchReport(
        run_id=run_id,
        people=people,
        sent=sent,
        alerts=alerts,
        sinks=list(sinks),
        events_per_second=figures.headline.events_per_second if figures.headline else 0.0,
        peak_events_per_second=next(rate.peak_events_per_second for rate in figures.rates if rate.stage == stage),
        steady_events_per_second=figures.steady.events_per_second if figures.steady else None,
        steady_seconds=figures.steady.seconds if figures.steady else None,
        latency_ms=figures.latency_ms,
        missed=[*figures.missed, *missed_objectives(alerts, settings.objectives)],
    )
    return report.model_copy(update={"summary": summarize(report)})


def monitored_run(report: HeartWatchReport, figures: Figures) -> Run | None:
    """Return what is kept of a run beside those of earlier runs; None where nothing moved."""
    if figures.headline is None:
        return None
    p50, p95, p99 = figures.latency_ms or (None, None, None)
    return Run(
        run_id=report.run_id,
        began_at=figures.headline.began_at,
        ended_at=figures.headline.ended_at,
        events=figures.headline.events,
        events_per_second=figures.headline.events_per_second,
        steady_seconds=report.steady_seconds,
        steady_events_per_second=report.steady_events_per_second,
        latency_p50_ms=p50,
        latency_p95_ms=p95,
        latency_p99_ms=p99,
        alerts=report.alerts.alerts,
        exact=report.alerts.exact,
        recall=report.alerts.recall,
        precision=report.alerts.precision,
    )


def summarize(report: HeartWatchReport) -> dict[str, str]:
    """Return what a person wants to know of a run, as short texts."""
    alerts, sent = report.alerts, report.sent
    found = {
        "events sent": f"{sent.delivered:,} by {len(sent.shards)} producers, {sent.failed:,} of them sent again",
        "people": f"{report.people:,} with their personal range",
        "alerts": f"{alerts.alerts:,}; against the batch computation: {alerts.sentence}",
        "records that are no events": f"{alerts.rejected:,}",
        "rows proven in the sink": f"{sum(sink.rows for sink in report.sinks):,} of {len(report.sinks)} topics",
        "events/s": f"{report.events_per_second:,.0f} from the first event to the last result",
    }
    if report.steady_events_per_second is not None and report.steady_seconds is not None:
        found["events/s, steady state"] = (
            f"{report.steady_events_per_second:,.0f} over {report.steady_seconds:.0f} s, warm-up and run-out cut off"
        )
    if report.latency_ms is not None:
        found["latency"] = f"{describe_latency(report.latency_ms)} from a window's closing event to its alert"
    if alerts.recall is not None and alerts.precision is not None:
        found["recall"] = f"{alerts.recall:.3f} ({alerts.misses:,} missed)"
        found["precision"] = f"{alerts.precision:.3f} ({alerts.false_alarms:,} false alarms)"
    if alerts.unknown_events:
        found["without historical row"] = f"{alerts.unknown_events:,} events of {alerts.unknown_users:,} users"
    if report.missed:
        found["objectives missed"] = "; ".join(report.missed)
    return found


def result_text(run_id: str, found: Mapping[str, str], rows: Sequence[Mapping[str, str]]) -> str:
    """Return what a run found, and its newest results, as Markdown.

    Args:
        run_id: the flow run.
        found: the run's summary.
        rows: the newest results, as the analytic shows them.
    """
    lines = [f"| {name} | {text} |" for name, text in found.items()]
    return "\n".join([f"# Run {run_id}", "", "| | |", "|---|---|", *lines, "", table(rows) or "No results."])


def result_path(settings: Settings, run_id: str) -> Path:
    """Return the file that holds a run's result."""
    return settings.home / "results" / f"heart-watch-{run_id}.json"


def write_result(settings: Settings, run_id: str, result: Mapping[str, Any]) -> None:
    """Keep a run's result as JSON under the settings' home, whole or not at all."""
    path = result_path(settings, run_id)
    path.parent.mkdir(parents=True, exist_ok=True)
    written = path.with_suffix(".new")
    written.write_text(json.dumps(result), encoding="utf-8")
    written.replace(path)


def read_result(settings: Settings, run_id: str, name: str) -> dict[str, Any]:
    """Return what a run found.

    Args:
        settings: where results are kept.
        run_id: the flow run.
        name: the flow run's name, for people.

    Raises:
        RunResultError: it left no result.
    """
    path = result_path(settings, run_id)
    try:
        result: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise RunResultError(
            f"run {name!r} left no result in {path.name!r}: {error}; see its log in Prefect's UI"
        ) from error
    return result
