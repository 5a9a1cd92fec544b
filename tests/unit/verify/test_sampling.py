"""How the stages are sampled, on a topic in memory."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from types import SimpleNamespace
from typing import Any
from unittest.mock import MagicMock

import numpy as np
import pyarrow as pa
import pytest

from heartwatch.analytic import Analytic
from heartwatch.monitoring import Sample
from heartwatch.produce.spec import RunSpec
from heartwatch.settings import ObjectiveSettings, load_settings
from heartwatch.verify import measure, stages
from heartwatch.verify.latency import Note
from heartwatch.verify.measure import _sample_for, asked_rate
from heartwatch.verify.stages import Sampler, stream_stage
from heartwatch.verify.throughput import breaches, stage_rates
from kafkakit.admin import GroupOffset
from kafkakit.topic_reader import Records

TOPIC = "heart_rate_realtime_v1"
STREAM = stream_stage(Analytic.load("heart_rate", 1))
GROUP = "_confluent-ksql-default_query_Q"


class Offsets:
    """Where a topic begins and ends, and where a group is."""

    def __init__(self, spans: Mapping[int, tuple[int, int]], committed: Mapping[int, int]) -> None:
        self._spans, self._committed = spans, committed

    def spans(self, topics: list[str]) -> dict[tuple[str, int], tuple[int, int]]:
        return {(topic, partition): span for topic in topics for partition, span in self._spans.items()}

    def ends(self, topics: list[str]) -> dict[tuple[str, int], int]:
        return {where: end for where, (_, end) in self.spans(topics).items()}

    def committed(self, group: str, topic: str) -> dict[tuple[str, int], GroupOffset]:
        return {(topic, partition): GroupOffset(offset, "") for partition, offset in self._committed.items()}


def sampler_of(
    monkeypatch: pytest.MonkeyPatch, spans: Mapping[int, tuple[int, int]], committed: Mapping[int, int]
) -> Any:
    """Return a sampler of one query; reading what retention has removed fails, as it does with Kafka."""
    monkeypatch.setattr(Sampler, "__init__", lambda *_: None)
    sampler: Any = Sampler(load_settings())
    sampler._kafka, sampler._offsets = None, Offsets(spans, committed)
    sampler._events, sampler._results = TOPIC, "heart_rate_alerts_v1"
    sampler._event_stage, sampler._result_stage = STREAM, "alerts topic"
    sampler._readers = [SimpleNamespace(stage="query Q", topic=TOPIC, group=GROUP)]
    sampler.event_notes, sampler.result_notes = [], []

    def read(_: object, topic: str, ranges: Mapping[int, tuple[int, int]]) -> Iterator[Records]:
        for partition, (begin, end) in ranges.items():
            assert begin >= spans[partition][0], f"{topic}/{partition} is read from {begin}: out of range"
            # Each tenth offset holds a marker, as does the last one.
            offset = np.array([one for one in range(begin, end - 1) if one % 10], dtype=np.int64)
            nothing = pa.nulls(len(offset), pa.large_binary())
            yield Records(np.full(len(offset), partition, dtype=np.int32), offset, offset, nothing, nothing)

    monkeypatch.setattr(stages, "read_ranges", read)
    return sampler


def test_what_retention_has_removed_is_neither_read_nor_work_left(monkeypatch: pytest.MonkeyPatch) -> None:
    # A quiet day: all events are gone; the query had committed all of them, but nobody commits the last markers.
    sampler = sampler_of(monkeypatch, {0: (500, 500), 1: (700, 705)}, {0: 499, 1: 650})
    sample = sampler.sample(settled=True)
    assert sample.heads["query Q"] - sample.positions["query Q"] == 4, (
        "partition 1 has records left from 701 on, 0 has none"
    )


def test_an_event_after_an_idle_hour_has_not_waited_since_the_last_one(monkeypatch: pytest.MonkeyPatch) -> None:
    # All was read up to 99; 100 is a marker that nobody commits, 101 and so on have just come.
    idle = sampler_of(monkeypatch, {0: (0, 101)}, {0: 100}).sample(settled=True)
    busy = sampler_of(monkeypatch, {0: (0, 5_000)}, {0: 100}).sample(settled=True)
    assert (idle.positions["query Q"], busy.positions["query Q"]) == (101, 101), (
        "as far as it was, however much came since"
    )
    hour = [Sample(float(at), idle.positions, idle.heads) for at in range(0, 3_600, 60)]
    now = [Sample(float(at), busy.positions, busy.heads) for at in (3_600, 3_610)]
    (rate,) = [rate for rate in stage_rates(now, hour) if rate.stage == "query Q"]
    assert rate.lag_seconds == 10, "they were there at the check's beginning"


def spec(run_id: str, **choices: Any) -> RunSpec:
    return RunSpec(run_id=run_id, **choices)


@pytest.mark.parametrize(
    ("specs", "rate"),
    [
        ([], None),
        ([spec("a")], None),
        ([spec("a", events_per_second=5_000), spec("a", events_per_second=5_000)], 5_000),
        ([spec("a", events_per_second=5_000), spec("b", events_per_second=1_000)], 6_000),
        ([spec("a", events_per_second=5_000), spec("b")], None),
        ([spec("a", speed=1)], 0),
    ],
    ids=["none", "no limit", "two shards", "two runs", "one without", "real time"],
)
def test_what_was_asked_for_is_the_sum_over_runs(specs: list[RunSpec], rate: float | None) -> None:
    assert asked_rate(specs) == rate


def test_events_before_the_first_note_are_read_as_far_as_they_are_there(monkeypatch: pytest.MonkeyPatch) -> None:
    sampler = sampler_of(monkeypatch, {0: (900, 1_050)}, {})
    sampler.event_notes = [Note(1, {0: 1_000}), Note(2, {0: 1_050})]
    events = sampler._between(TOPIC, sampler.event_notes, look_back=2_000)
    assert events[0].offset[0] == 901


class Clock:
    """A time that goes on only when somebody sleeps or asks the brokers, which takes them 20 ms."""

    now = 0.0

    def monotonic(self) -> float:
        return self.now

    def time(self) -> float:
        return self.now

    def sleep(self, seconds: float) -> None:
        self.now += seconds


class SteadySampler:
    """Sees 600 events come in each half second, in one transaction."""

    deployed = True

    def __init__(self, clock: Clock) -> None:
        self._clock = clock

    def note(self) -> None:
        self._clock.sleep(0.02)

    def sample(self, settled: bool = False) -> Sample:
        self.note()
        return Sample(self._clock.now, {STREAM: 600 * int((self._clock.now + 0.45) / 0.5)}, {})


@pytest.mark.parametrize("seconds", [10, 10.3, 9.7])
def test_the_last_sample_makes_neither_a_peak_nor_a_standstill(monkeypatch: pytest.MonkeyPatch, seconds: float) -> None:
    clock = Clock()
    monkeypatch.setattr(measure, "time", clock)
    samples = _sample_for(SteadySampler(clock), seconds, 1)  # type: ignore[arg-type]
    (rate,) = stage_rates(samples)
    assert rate.peak_events_per_second < 2_500, (
        "1,200 come in a second, and at most one transaction more in half of one"
    )
    assert breaches([rate], samples, STREAM, ObjectiveSettings(min_events_per_second=5_000)), "they come all the time"


@pytest.mark.parametrize("idle", [True, False])
def test_old_rows_are_deleted_whether_or_not_a_run_is_on(monkeypatch: pytest.MonkeyPatch, idle: bool) -> None:
    clock, memory = Clock(), MagicMock()
    sampler = SteadySampler(clock)
    memory.last_sample.return_value = sampler.sample() if idle else None
    monkeypatch.setattr(measure, "Sampler", lambda _: sampler)
    monkeypatch.setattr(measure, "Monitoring", lambda *_: memory)
    monkeypatch.setattr(measure, "_judge", lambda *_: "judged")
    monkeypatch.setattr(measure, "time", clock)
    assert measure.measure_stages(load_settings(), 2, 1) == (None if idle else "judged")
    memory.forget.assert_called_once_with(load_settings().monitoring.retention_days)
