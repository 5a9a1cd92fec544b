"""What the checks found, as people read it."""

from __future__ import annotations

import pytest

from heartwatch.monitoring import Latency, StageRate
from heartwatch.verify.measure import Measured
from heartwatch.verify.render_throughput import latency_clause, objectives_sentence, rate_rows


def measured(running: bool = True, missed: tuple[str, ...] = (), latencies: tuple[Latency, ...] = ()) -> Measured:
    return Measured([], list(latencies), running, list(missed))


@pytest.mark.parametrize(
    ("found", "sentence"),
    [
        (measured(), "all objectives are met"),
        (measured(running=False), "no run"),
        (measured(missed=("slow", "behind")), "slow; behind"),
    ],
    ids=["met", "at rest", "missed"],
)
def test_objectives_are_one_sentence(found: Measured, sentence: str) -> None:
    assert objectives_sentence(found) == sentence


def test_latencies_are_shown_where_results_were_timed() -> None:
    timed = [Latency(0, offset, 1.0, float(offset), None) for offset in range(1, 101)]
    untimed = Latency(0, 101, 1.0, None, 7.0)
    shown = "; from a window's closing event to its result p50 50 ms, p95 95 ms, p99 99 ms"
    assert latency_clause(measured(latencies=(*timed, untimed))) == shown
    assert latency_clause(measured(latencies=(untimed,))) == ""


def test_rates_are_rounded_and_a_stage_without_lag_shows_none() -> None:
    rows = rate_rows([StageRate("realtime topic", 1.6, 2.4, None, None), StageRate("query Q", 3.0, 4.0, 7, 0.16)])
    assert [list(row.values()) for row in rows] == [
        ["realtime topic", 2, 2, None, None],
        ["query Q", 3, 4, 7, 0.2],
    ]
