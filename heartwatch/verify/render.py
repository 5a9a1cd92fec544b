"""What the checks found, as rows and Markdown for people.

The charts' library is loaded where there is something to draw: most checks find nothing new, and loading it takes as long as
they do.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from typing import Any

from heartwatch.analytic import Analytic
from heartwatch.markdown import picture, table
from heartwatch.monitoring import Monitoring, StageRate
from heartwatch.settings import Settings
from heartwatch.verify.detections import AlertsReport
from heartwatch.verify.latency import closing_ms, describe_latency, percentiles
from heartwatch.verify.measure import Measured
from heartwatch.verify.stages import results_stage

_THROUGHPUT_SECONDS = 6 * 3_600
_DETECTIONS_SECONDS = 7 * 24 * 3_600


def rate_rows(rates: Sequence[StageRate]) -> list[dict[str, Any]]:
    """Return one row per stage with its rates and lags."""
    return [
        {
            "stage": rate.stage,
            "events/s": round(rate.events_per_second),
            "peak events/s": round(rate.peak_events_per_second),
            "lag, events": rate.lag_events,
            "lag, s": None if rate.lag_seconds is None else round(rate.lag_seconds, 1),
        }
        for rate in rates
    ]


def objectives_sentence(measured: Measured) -> str:
    """Return which objectives a check found missed, without a full stop."""
    return "; ".join(measured.missed) or ("all objectives are met" if measured.running else "no run")


def latency_clause(measured: Measured) -> str:
    """Return what a check's sentence says of the results' latency; empty where no result was timed."""
    late = percentiles(closing_ms(measured.latencies))
    return f"; from a window's closing event to its result {describe_latency(late)}" if late else ""


def throughput_history(memory: Monitoring, settings: Settings, sentence: str) -> str:
    """Return a plot of the checks' rates, lags and latencies over the last six hours, as Markdown.

    Args:
        memory: what the checks have kept.
        settings: which analytic, and its objectives, which are drawn as lines.
        sentence: what stands above the plot, without a full stop.

    Raises:
        PostgresError: Postgres could not be asked.
    """
    from heartwatch.plots import over_time  # noqa: PLC0415 - see the module's docstring

    since, objectives = time.time() - _THROUGHPUT_SECONDS, settings.objectives
    results = results_stage(Analytic.of(settings.pipeline))
    rates: dict[str, list[tuple[float, float]]] = {}
    lags: dict[str, list[tuple[float, float]]] = {}
    for at, rate in memory.rates(since):
        if rate.stage != results:
            rates.setdefault(rate.stage, []).append((at, rate.events_per_second))
        if rate.lag_seconds is not None:
            lags.setdefault(rate.stage, []).append((at, rate.lag_seconds))
    late = {f"p{percent}": points for percent, points in memory.latency_percentiles(since).items()}
    limits = {
        "events/s": objectives.min_events_per_second,
        "lag, s": objectives.max_lag_seconds,
        "latency, ms": objectives.max_latency_ms,
    }
    png = over_time({"events/s": rates, "lag, s": lags, "latency, ms": late}, limits)
    return f"{sentence}.\n\n{picture(png, 'events/s, lag and latency over time')}"


def detections_text(report: AlertsReport) -> str:
    """Return how the results compare, by window and by what people did, as Markdown."""
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
    return "\n\n".join(parts)


def difference_rows(report: AlertsReport) -> list[dict[str, Any]]:
    """Return what differs, the first of each kind, all rows with the same columns."""
    columns = list(dict.fromkeys(name for row in report.differences for name in row))
    return [{name: row.get(name) for name in columns} for row in report.differences]


def detections_history(memory: Monitoring, report: AlertsReport) -> str:
    """Return a plot of what the checks of the last seven days found, as Markdown.

    Args:
        memory: what the checks have kept.
        report: what the last of them found.

    Raises:
        PostgresError: Postgres could not be asked.
    """
    from heartwatch.plots import over_time  # noqa: PLC0415 - see the module's docstring

    checks = memory.detection_checks(time.time() - _DETECTIONS_SECONDS)
    shares = {
        name: [(check.at, value) for check in checks if (value := getattr(check, name)) is not None]
        for name in ("recall", "precision")
    }
    panels = {
        "alerts compared": {"alerts": [(check.at, check.alerts) for check in checks]},
        "alerts wrong": {"wrong": [(check.at, check.wrong) for check in checks]},
        "share": {name: points for name, points in shares.items() if points},
    }
    png = over_time({label: series for label, series in panels.items() if series})
    return f"{report.sentence}.\n\n{picture(png, 'alerts compared, alerts wrong, recall and precision over time')}"
