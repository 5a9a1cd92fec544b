"""Windows by event time: what is late, what comes out and when, however the input is cut and wherever it is interrupted."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, replace

import numpy as np
import polars as pl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ksqlengine.execution.operators import DELETED, KEY, Counters
from ksqlengine.execution.windows import Aggregates, ChangingGroups, FinalWindows, window_rows
from ksqlengine.plan.steps import ROWOFFSET, ROWPARTITION, ROWTIME, WINDOWSTART, Window, WindowKind

SIZE, GRACE = 10, 4
TUMBLING = Window(WindowKind.TUMBLING, SIZE, SIZE, GRACE)
HOPPING = Window(WindowKind.HOPPING, SIZE, 4, GRACE)
SUMS = Aggregates(
    inputs=("V",),
    partial=(pl.len().cast(pl.Int64).alias("N"), pl.col("V").sum().alias("S")),
    merge=(pl.col("N").sum(), pl.col("S").sum()),
    result=(pl.col("N"), pl.col("S")),
)
KEPT = replace(TUMBLING, retention_ms=1_000)
STATES = {"N": pl.Int64(), "S": pl.Int64()}


@dataclass(frozen=True)
class Event:
    partition: int
    offset: int
    key: int
    time: int
    value: int


def frame(events: Iterable[Event]) -> pl.DataFrame:
    rows = sorted(events, key=lambda event: (event.partition, event.offset))
    return pl.DataFrame(
        {
            ROWTIME: [one.time for one in rows],
            ROWPARTITION: pl.Series([one.partition for one in rows], dtype=pl.Int32),
            ROWOFFSET: [one.offset for one in rows],
            KEY: [one.key for one in rows],
            "V": [one.value for one in rows],
        },
        schema_overrides={ROWTIME: pl.Int64, ROWOFFSET: pl.Int64, KEY: pl.Int64, "V": pl.Int64},
    )


@st.composite
def streams(draw: st.DrawFn) -> list[Event]:
    """Events of two partitions that wander forth in time, some far behind."""
    events = []
    for partition in (0, 1):
        now = 0
        for offset in range(draw(st.integers(0, 30))):
            now += draw(st.integers(0, 6))
            behind = draw(st.sampled_from([0, 0, 1, 5, 15, 40]))
            # A key belongs to one partition.
            key = 2 * draw(st.integers(0, 2)) + partition
            events.append(Event(partition, offset * 2, key, max(0, now - behind), draw(st.integers(-5, 5))))
    return events


@dataclass
class Reference:
    """KStreamWindowAggregate with EMIT FINAL and its store, event by event, with a look at closed windows after each.

    Attributes:
        closed: closed groups (partition, start, key, count, sum, time).
        final: those of them that the store still had.
        late: rows of windows that had closed.
    """

    closed: list[tuple[int, ...]]
    final: list[tuple[int, ...]]
    late: int = 0

    @property
    def let_go(self) -> int:
        return len(self.closed) - len(self.final)


def reference(events: list[Event], window: Window) -> Reference:
    found = Reference([], [])
    for partition in (0, 1):
        _follow([one for one in events if one.partition == partition], window, found)
    found.closed.sort()
    found.final.sort()
    return found


def _follow(events: list[Event], window: Window, found: Reference) -> None:
    store: dict[tuple[int, int], list[Event]] = {}
    stream_time = newest = -1
    kept = window.retention_ms or window.size_ms + window.grace_ms
    for event in events:
        stream_time = max(stream_time, event.time)
        first = event.time // window.advance_ms * window.advance_ms
        for start in range(first, event.time - window.size_ms, -window.advance_ms):
            if start < 0:
                continue
            if start + window.size_ms <= stream_time - window.grace_ms:
                found.late += 1
            else:
                store.setdefault((start, event.key), []).append(event)
                newest = max(newest, start)
        for start, key in [one for one in store if one[0] + window.size_ms + window.grace_ms <= stream_time]:
            members = store.pop((start, key))
            total, last = sum(one.value for one in members), max(one.time for one in members)
            group = (event.partition, start, key, len(members), total, last)
            found.closed.append(group)
            if start >= newest - kept:
                found.final.append(group)


def groups(results: Iterable[pl.DataFrame]) -> list[tuple[int, ...]]:
    columns = (ROWPARTITION, WINDOWSTART, KEY, "N", "S", ROWTIME)
    return [row for result in results if len(result) for row in result.select(columns).iter_rows()]


def cut(events: list[Event], sizes: list[int]) -> list[list[Event]]:
    """Cut both partitions' events into batches, each partition's order kept."""
    left, batches = list(events), []
    for size in sizes:
        batches.append(left[:size])
        left = left[size:]
    return [*batches, left]


@pytest.mark.parametrize("window", [TUMBLING, HOPPING, KEPT, replace(HOPPING, retention_ms=20)])
@given(streams(), st.lists(st.integers(0, 12), max_size=8))
@settings(max_examples=150, deadline=None)
def test_final_results_and_losses_do_not_depend_on_how_the_input_is_cut(
    window: Window, events: list[Event], sizes: list[int]
) -> None:
    counters = Counters()
    operator = FinalWindows(window, SUMS, counters)
    found = groups(operator.push(frame(batch)) for batch in cut(events, sizes))
    expected = reference(events, window)
    assert (sorted(found), counters.late, counters.let_go) == (expected.final, expected.late, expected.let_go)


@given(streams(), st.integers(0, 60), st.lists(st.integers(0, 12), max_size=4))
@settings(max_examples=200, deadline=None)
def test_reading_again_from_the_needed_offset_gives_the_rest_and_nothing_twice(
    events: list[Event], stop: int, sizes: list[int]
) -> None:
    whole = FinalWindows(TUMBLING, SUMS, Counters())
    expected = sorted(groups([whole.push(frame(events))]))

    first = FinalWindows(TUMBLING, SUMS, before := Counters())
    found = groups([first.push(frame(events[:stop]))])
    second = FinalWindows(TUMBLING, SUMS, after := Counters())
    again: list[Event] = []
    for partition in (0, 1):
        seen = [one for one in events[:stop] if one.partition == partition]
        position = seen[-1].offset + 1 if seen else 0
        needed = first.windowing.needed_offset(partition)
        second.windowing.times.advance(partition, first.windowing.times[partition])
        second.seen_before[partition] = position
        start = position if needed is None else needed
        again += [one for one in events if one.partition == partition and one.offset >= start]
    found += groups(second.push(frame(batch)) for batch in cut(again, sizes))
    assert sorted(found) == expected
    assert before.late + after.late == reference(events, TUMBLING).late


@given(streams(), st.lists(st.integers(0, 12), max_size=8))
@settings(max_examples=100, deadline=None)
def test_the_last_change_of_each_group_is_its_result(events: list[Event], sizes: list[int]) -> None:
    operator = ChangingGroups(TUMBLING, SUMS, STATES, Counters())
    last: dict[tuple[int, ...], tuple[int, ...]] = {}
    for batch in cut(events, sizes):
        results = operator.settle(operator.push(frame(batch)))
        if len(results):
            assert not results[DELETED].any()
        for partition, start, key, *values in groups([results]):
            last[partition, start, key] = tuple(values)
    final = {group[:3]: group[3:] for group in reference(events, TUMBLING).closed}
    assert {where: last[where] for where in final} == final


@given(streams())
@settings(max_examples=50, deadline=None)
def test_an_aggregate_for_ever_counts_every_row(events: list[Event]) -> None:
    operator = ChangingGroups(None, SUMS, STATES, Counters())
    last: dict[int, int] = {}
    for batch in cut(events, [3, 7, 1]):
        results = operator.settle(operator.push(frame(batch)))
        last.update(results.select(KEY, "N").iter_rows() if len(results) else [])
    counted: dict[int, int] = {}
    for event in events:
        counted[event.key] = counted.get(event.key, 0) + 1
    assert last == counted


@given(st.lists(st.integers(0, 100), max_size=20))
def test_rows_fall_into_every_hopping_window_that_holds_them(times: list[int]) -> None:
    rows, starts = window_rows(np.array(times, dtype=np.int64), HOPPING)
    expected = [
        (row, start)
        for row, time in enumerate(times)
        for start in range(0, time + 1, HOPPING.advance_ms)
        if start <= time < start + SIZE
    ]
    assert list(zip(rows.tolist(), starts.tolist(), strict=True)) == expected


def test_rows_without_a_key_are_counted_and_do_not_move_stream_time() -> None:
    counters = Counters()
    operator = FinalWindows(KEPT, SUMS, counters)
    operator.push(frame([Event(0, 0, 1, 3, 1), Event(0, 1, -1, 1_000, 1), Event(0, 2, 1, 4, 1)]))
    assert counters.without_key == 1
    assert counters.late == 0
    assert groups([operator.push(frame([Event(0, 3, 1, 50, 1)]))]) == [(0, 0, 1, 2, 2, 4)]


def test_a_dropped_partition_leaves_nothing_behind() -> None:
    operator = FinalWindows(TUMBLING, SUMS, Counters())
    operator.push(frame([Event(0, 0, 1, 3, 1), Event(1, 0, 2, 3, 1)]))
    operator.drop_partition(0)
    assert [operator.windowing.needed_offset(partition) is None for partition in (0, 1)] == [True, False]
    assert operator.codes().tolist() == [2]
    assert operator.rows() == 1


def test_many_rows_are_merged_so_that_memory_follows_the_open_groups() -> None:
    operator = FinalWindows(KEPT, SUMS, Counters())
    for number in range(40):
        operator.push(frame([Event(0, number * 10_000 + row, row % 50, 3, 1) for row in range(10_000)]))
    assert operator.rows() < 150_000
    result = operator.push(frame([Event(0, 400_000, 0, 100, 1)]))
    assert result["N"].sum() == 400_000
    assert len(result) == 50


# What a real ksqlDB server gave (caching off, a look at every record): records 0, 5, 12, 45, 56, 200, 5000 and 5030 s.
GAPS = [0, 5, 12, 45, 56, 200, 5_000, 5_030]


@pytest.mark.parametrize("batch", [1, 8])
@pytest.mark.parametrize(
    ("retention_s", "starts"),
    [(None, []), (30, [10, 5_000]), (3_600, [0, 10, 40, 50, 5_000]), (86_400, [0, 10, 40, 50, 200, 5_000])],
)
def test_windows_that_left_the_store_before_the_look_are_lost(
    retention_s: int | None, starts: list[int], batch: int
) -> None:
    retention_ms = None if retention_s is None else retention_s * 1_000
    operator = FinalWindows(
        Window(WindowKind.TUMBLING, 10_000, 10_000, 10_000, retention_ms), SUMS, counters := Counters()
    )
    events = [Event(0, offset, 1, time * 1_000, 1) for offset, time in enumerate(GAPS)]
    found = groups(operator.push(frame(events[at : at + batch])) for at in range(0, len(events), batch))
    assert [start // 1_000 for _, start, *_ in sorted(found)] == starts
    assert counters.let_go == 6 - len(starts)


@pytest.mark.parametrize("batch", [1, 8])
def test_behind_a_cache_whole_segments_are_lost(batch: int) -> None:
    # Retention 20 s in segments of 60 s: the record at 200 s has made the segment of 40 s and 50 s go, that at 56 s none.
    window = Window(WindowKind.TUMBLING, 10_000, 10_000, 10_000)
    operator = FinalWindows(window, SUMS, counters := Counters(), is_cached=True)
    events = [Event(0, offset, 1, time * 1_000, 1) for offset, time in enumerate(GAPS)]
    found = groups(operator.push(frame(events[at : at + batch])) for at in range(0, len(events), batch))
    assert [start // 1_000 for _, start, *_ in sorted(found)] == [0, 10, 5_000]
    assert counters.let_go == 3
