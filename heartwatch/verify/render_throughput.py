"""What the checks of the throughput found, as rows and Markdown for people."""

from __future__ import annotations

import time
from collections.abc import Sequence
from typing import Any

from heartwatch.analytic import Analytic
from heartwatch.markdown import picture
from heartwatch.monitoring import Monitoring, StageRate
from heartwatch.plots import over_time
from heartwatch.settings import Settings
from heartwatch.verify.latency import closing_ms, describe_latency, percentiles
from heartwatch.verify.measure import Measured
from heartwatch.verify.stages import results_stage

_THROUGHPUT_SECONDS = 6 * 3_600


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
