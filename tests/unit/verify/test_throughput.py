"""Rates, lags and the original's headline from samples of offsets."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from typing import Any

import numpy as np
import pyarrow as pa
import pytest

from heartwatch.monitoring import Sample
from heartwatch.settings import ObjectiveSettings, load_settings
from heartwatch.verify import stages
from heartwatch.verify.throughput import behind, breaches, headline, is_idle, is_running, stage_rates, steady
from kafkakit.admin import GroupOffset, Partition
from kafkakit.batch_consumer import BatchConsumerError
from kafkakit.topic_reader import Records
from ksqlengine.client.rest_client import KsqldbError

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
    before_the_query = [Sample(50, {IN: 4_000, OUT: 0}, {})]
    assert stage_rates(stuck, before_the_query)[1].lag_seconds == 30, "there was no query then"
    made_anew = [sample(0, 0, 0), sample(50, 90_000, 10)]
    assert stage_rates(stuck, made_anew[1:])[1].lag_seconds == 30


def test_the_headline_goes_from_the_first_event_to_the_last_result() -> None:
    found = headline(RUN, IN, OUT)
    assert found is not None
    assert (found.events, found.seconds, found.began_at, found.ended_at) == (3_000, 4, 1, 5)
    assert found.events_per_second == 750
    assert headline(RUN[:2], IN, OUT) is None


def test_the_steady_state_leaves_out_warm_up_and_run_out_and_is_the_slowest_stages() -> None:
    # Events come from 0 s to 11 s: slowly at first, then 1,000/s, of which the query does 800/s; then it catches up.
    heads = [0, 10, 20, *range(1_020, 9_020, 1_000), 9_020, 9_020]
    run = [sample(at, head, round(0.8 * head) if at <= 10 else head) for at, head in enumerate(heads)]
    found = steady(run, IN, [QUERY])
    assert found is not None
    assert found.stage == QUERY
    assert found.events_per_second == pytest.approx(800, abs=1)
    assert found.seconds == 8, "from 2 s (a fifth of the inflow) to 10 s, the last sample before the inflow ended"
    assert steady(run[:3], IN, [QUERY]) is None, "too short"
    assert steady(RUN[:2], IN, [QUERY]) is None, "nothing moved"


def test_nothing_new_and_no_work_left_is_idle() -> None:
    still = sample(9, 3_000, 3_000, 9)
    assert is_idle(still, RUN[-1])
    assert not is_idle(still, None)
    assert not is_idle(sample(9, 3_001, 3_001, 9), RUN[-1]), "an event came and went through"
    assert not is_idle(sample(9, 3_000, 2_999, 9), sample(8, 3_000, 2_999, 9)), "a stage that hangs isn't idle"
    assert not is_idle(still, Sample(8, {IN: 3_000, OUT: 9}, {})), "other stages"


def test_late_results_are_a_breach() -> None:
    rates, objectives = stage_rates(RUN[:4]), ObjectiveSettings(min_events_per_second=0, max_latency_ms=100)
    assert not breaches(rates, RUN[:4], IN, objectives, (1.0, 2.0, 100.0))
    (found,) = breaches(rates, RUN[:4], IN, objectives, (1.0, 2.0, 101.0))
    assert "101 ms or more after their window was closed" in found


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


def test_a_run_is_held_to_the_rate_that_it_was_asked_for() -> None:
    steady_run, objectives = RUN[1:4], ObjectiveSettings(min_events_per_second=10_000, max_lag_seconds=1)
    rates = stage_rates(steady_run)
    assert breaches(rates, steady_run, IN, objectives, asked_events_per_second=1_600) == [], "1,500 of 1,600 come"
    (slow,) = breaches(rates, steady_run, IN, objectives, asked_events_per_second=5_000)
    assert slow == "realtime topic gets 1,500 events/s, fewer than 80% of the rate that was asked for: 4,000"
    (missed,) = breaches(rates, steady_run, IN, objectives, asked_events_per_second=50_000)
    assert "fewer than the objective of 10,000" in missed


def test_positions_add_up_over_partitions() -> None:
    assert behind({0: 5, 1: 12}, {0: 7, 1: 10, 2: 4}) == (15, 21)


def test_one_sample_gives_no_rate() -> None:
    with pytest.raises(ValueError, match="at least two"):
        stage_rates(RUN[:1])


class Emptied:
    """Brokers whose retention removed all of a topic up to offset 5,000; the last offsets of it are transactions' markers."""

    first, end, position = 5_000, 5_000, 4_998

    def describe(self, names: Iterable[str]) -> dict[str, None]:
        return dict.fromkeys(names)

    def groups(self, _: str) -> list[str]:
        return []

    def spans(self, topics: Iterable[str]) -> dict[Partition, tuple[int, int]]:
        return {(topic, 0): (self.first, self.end) for topic in topics}

    def ends(self, topics: Iterable[str]) -> dict[Partition, int]:
        return {where: end for where, (_, end) in self.spans(topics).items()}

    def committed(self, _: str, topic: str) -> dict[Partition, GroupOffset]:
        return {(topic, 0): GroupOffset(self.position, None)}

    def read(self, _: Any, topic: str, ranges: Mapping[int, tuple[int, int]], **__: Any) -> Iterator[Records]:
        for begin, end in ranges.values():
            if begin < min(end, self.first):
                raise BatchConsumerError(f"{topic}: no offset {begin}")
            offsets = np.arange(begin, end)
            column = pa.array([b"7" + bytes(8)] * len(offsets), pa.large_binary())
            yield Records(np.zeros(len(offsets), dtype=np.int32), offsets, offsets, column, column)


@pytest.fixture
def emptied(monkeypatch: pytest.MonkeyPatch) -> Emptied:
    def away(*_: Any, **__: Any) -> Any:
        raise KsqldbError("away")

    brokers = Emptied()
    monkeypatch.setattr(stages, "KafkaAdmin", lambda *_, **__: brokers)
    monkeypatch.setattr(stages, "OffsetReader", lambda *_: brokers)
    monkeypatch.setattr(stages.Ksqldb, "streams", away)
    monkeypatch.setattr(stages, "read_ranges", brokers.read)
    return brokers


def test_what_retention_removed_is_no_work_for_a_stage(emptied: Emptied) -> None:
    sample = stages.Sampler(load_settings()).sample(settled=True)
    assert sample.heads
    assert {stage: sample.positions[stage] for stage in sample.heads} == dict.fromkeys(sample.heads, 5_000)


def test_results_are_timed_where_nothing_before_them_is_left(emptied: Emptied) -> None:
    sampler = stages.Sampler(load_settings())
    sampler.note()
    emptied.end += 1
    sampler.note()
    assert [one.offset for one in sampler.latencies(10_000, 10_000)] == [5_000]
