"""When records can be seen, which event closes a window, and how late results are."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from heartwatch.verify.latency import (
    Note,
    PartitionEvents,
    PartitionResults,
    closing_offsets,
    latencies,
    percentiles,
    seen_at,
    window_ends,
)

NOTES = [Note(10.0, {0: 100}), Note(10.1, {0: 100}), Note(10.2, {0: 150}), Note(10.4, {0: 160})]


def ints(*values: int) -> np.ndarray:
    return np.array(values, dtype=np.int64)


def test_a_record_is_seen_with_the_first_end_behind_it() -> None:
    found = seen_at(NOTES, 0, ints(99, 100, 149, 150, 159, 160))
    assert found[1:5].tolist() == [10.2, 10.2, 10.4, 10.4]
    assert np.isnan(found[[0, 5]]).all(), "seen before the first note, and not yet at the last"
    assert np.isnan(seen_at(NOTES, 7, ints(0))).all(), "a partition that no note knows"
    assert np.isnan(seen_at([], 0, ints(0))).all()


@given(
    ends=st.lists(st.integers(0, 20), min_size=1, max_size=20).map(lambda steps: np.cumsum(steps).tolist()),
    offset=st.integers(0, 300),
)
def test_what_is_seen_lies_between_two_notes(ends: list[int], offset: int) -> None:
    notes = [Note(float(index), {0: end}) for index, end in enumerate(ends)]
    at = float(seen_at(notes, 0, ints(offset))[0])
    if np.isnan(at):
        assert offset < ends[0] or offset >= ends[-1]
    else:
        assert ends[int(at) - 1] <= offset < ends[int(at)]


@given(
    times=st.lists(st.integers(0, 1_000), min_size=1, max_size=50),
    deadline=st.integers(0, 1_100),
)
def test_the_closing_event_is_the_first_that_late(times: list[int], deadline: int) -> None:
    offsets = np.arange(len(times), dtype=np.int64) * 2 + 7
    found = int(closing_offsets(PartitionEvents(offsets, ints(*times)), ints(deadline))[0])
    late = [index for index, time in enumerate(times) if time >= deadline]
    # The stretch's very first event may have had an earlier one before it.
    assert found == (offsets[late[0]] if late and late[0] > 0 else -1)


def test_a_partition_without_events_closes_nothing() -> None:
    assert closing_offsets(PartitionEvents(ints(), ints()), ints(5)).tolist() == [-1]


def test_results_are_timed_from_their_closing_event_and_from_their_windows_end() -> None:
    # Window 0..10 s, grace 10 s: the event at 20 s, offset 101, closes it; seen at 10.2 s, the result at 10.4 s.
    events = {0: PartitionEvents(ints(100, 101, 102), ints(9_000, 20_000, 21_000))}
    results = {0: PartitionResults(ints(155), ints(10_000))}
    (found,) = latencies(NOTES, NOTES, events, results, grace_ms=10_000)
    assert (found.partition, found.offset, found.at) == (0, 155, 10.4)
    assert found.since_closing_ms == pytest.approx(200)
    assert found.since_window_end_ms is None, (
        "0.4 s after the window's end no result can be: the events' clock runs ahead"
    )
    (slow,) = latencies(
        NOTES,
        NOTES,
        {0: PartitionEvents(ints(100, 101), ints(-9_000, -5_000))},
        {0: PartitionResults(ints(155), ints(-20_000))},
        10_000,
    )
    assert slow.since_window_end_ms == pytest.approx(30_400)


@pytest.mark.parametrize(
    ("events", "result"),
    [
        ({}, 155),
        ({0: PartitionEvents(ints(100, 101), ints(0, 1))}, 155),
        ({0: PartitionEvents(ints(100, 155), ints(0, 90_000))}, 101),
    ],
    ids=["no events", "no event is late enough", "the result came before the event"],
)
def test_what_closed_the_window_may_not_be_known(events: dict[int, PartitionEvents], result: int) -> None:
    (found,) = latencies(NOTES, NOTES, events, {0: PartitionResults(ints(result), ints(10_000))}, 10_000)
    assert found.since_closing_ms is None


def test_percentiles_are_measured_values() -> None:
    assert percentiles([]) is None
    assert percentiles([7.0]) == (7.0, 7.0, 7.0)
    assert percentiles([float(value) for value in range(1, 101)]) == (50.0, 95.0, 99.0)


def test_the_windowed_keys_last_bytes_are_its_start() -> None:
    keys = [b"17" + (1_700_000_000_000).to_bytes(8, "big"), b"1" + (5).to_bytes(8, "big")]
    assert window_ends(keys, 10_000).tolist() == [1_700_000_010_000, 10_005]
