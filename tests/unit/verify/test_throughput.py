"""Rates, lags and the original's headline from samples of offsets."""

from __future__ import annotations

import pytest

from heartwatch.settings import ObjectiveSettings
from heartwatch.verify.throughput import Sample, behind, breaches, headline, is_running, stage_rates

IN, QUERY, OUT = "realtime topic", "query", "alerts topic"


def sample(at: float, head: int, query: int, out: int = 0) -> Sample:
    return Sample(at, {IN: head, QUERY: query, OUT: out}, {QUERY: head})


RUN = [
    sample(0, 0, 0),
    sample(1, 0, 0),
    sample(2, 1_000, 500),
    sample(3, 3_000, 2_000, 7),
    sample(5, 3_000, 3_000, 9),
    sample(9, 3_000, 3_000, 9),
]


def test_rates_are_differences_over_time() -> None:
    rates = {rate.stage: rate for rate in stage_rates(RUN[:4])}
    assert rates[IN].events_per_second == pytest.approx(1_000)
    assert rates[IN].peak_events_per_second == pytest.approx(2_000)
    assert rates[IN].lag_events is None
    assert (rates[QUERY].lag_events, rates[OUT].events_per_second) == (1_000, pytest.approx(7 / 3))


def test_lag_in_seconds_is_the_time_since_the_head_was_there() -> None:
    rates = {rate.stage: rate for rate in stage_rates(RUN[:4])}
    assert rates[QUERY].lag_seconds == pytest.approx(0.5), "2,000 was the head half-way between 2 s and 3 s"
    caught_up = {rate.stage: rate for rate in stage_rates(RUN)}
    assert caught_up[QUERY].lag_seconds == 0
    stuck = [sample(100, 5_000, 10), sample(130, 6_000, 10)]
    assert stage_rates(stuck)[1].lag_seconds == 30, "at least since the first sample"
    earlier = [sample(0, 0, 0), sample(50, 20, 10)]
    assert stage_rates(stuck, earlier)[1].lag_seconds == 105, "the head was at 10 at 25 s"
    made_anew = [sample(0, 0, 0), sample(50, 90_000, 10)]
    assert stage_rates(stuck, made_anew[1:])[1].lag_seconds == 30


def test_the_headline_goes_from_the_first_event_to_the_last_result() -> None:
    found = headline(RUN, IN, OUT)
    assert found is not None
    assert (found.events, found.seconds) == (3_000, 4)
    assert found.events_per_second == 750
    assert headline(RUN[:2], IN, OUT) is None


def test_an_idle_pipeline_is_no_run() -> None:
    assert not is_running(RUN[-2:], IN)
    assert is_running(RUN[:3], IN)
    assert is_running([sample(0, 10, 5), sample(1, 10, 5)], IN), "a stage that has work is a run"


@pytest.mark.parametrize(
    ("samples", "objectives", "words"),
    [
        (RUN[1:4], ObjectiveSettings(min_events_per_second=1_000, max_lag_seconds=1), []),
        (RUN[1:4], ObjectiveSettings(min_events_per_second=2_000, max_lag_seconds=1), ["1,500 events/s, fewer"]),
        (RUN[:4], ObjectiveSettings(min_events_per_second=2_000, max_lag_seconds=1), []),
        ([sample(0, 9, 1), sample(61, 9, 1)], ObjectiveSettings(), ["8 events and 61 s behind"]),
    ],
    ids=["met", "slow", "the run only begins", "behind"],
)
def test_breaches_say_what_is_missed(samples: list[Sample], objectives: ObjectiveSettings, words: list[str]) -> None:
    found = breaches(stage_rates(samples), samples, IN, objectives)
    assert len(found) == len(words)
    assert all(word in sentence for word, sentence in zip(words, found, strict=True))


def test_positions_add_up_over_partitions() -> None:
    assert behind({0: 5, 1: 12}, {0: 7, 1: 10, 2: 4}) == (15, 21)


def test_one_sample_gives_no_rate() -> None:
    with pytest.raises(ValueError, match="at least two"):
        stage_rates(RUN[:1])
