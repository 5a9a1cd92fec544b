"""When quiet partitions get heartbeats, and which: a planner of a partition's tail and the clock."""

from __future__ import annotations

import math

import pytest

from heartwatch.produce.heartbeat_plan import LOOKS, HeartbeatRules, PartitionTail, heartbeat_time

RULES = HeartbeatRules(closing_ms=20_000, look_after_seconds=5, close_after_seconds=180)
LAST = 1_700_000_000_000  # the newest event's time
CLOSES = LAST + 20_000 + 1_000
NEVER = math.inf


def tail(*times_ms: int, looks: int = 0) -> PartitionTail:
    """Events at some times, then looks at the newest of them."""
    events = PartitionTail().after(times_ms, [False] * len(times_ms))
    return events.after([max(times_ms)] * looks, [True] * looks)


def planned(found: PartitionTail, quiet: float, since: float = NEVER, now_ms: int = LAST + 10_000) -> int | None:
    return heartbeat_time(found, quiet, since, RULES, now_ms)


def test_a_partition_without_events_gets_nothing() -> None:
    assert planned(PartitionTail(), 3_600, now_ms=LAST + 10**9) is None


def test_a_partition_in_which_events_come_gets_nothing_however_old_they_are() -> None:
    assert planned(tail(LAST), 4.9, now_ms=LAST + 10**9) is None


def test_a_partition_that_fell_silent_gets_a_look_that_moves_no_time() -> None:
    assert planned(tail(LAST - 5_000, LAST, LAST - 9_000), 5) == LAST


def test_looks_come_at_growing_intervals_and_end() -> None:
    for looks, pause in ((1, 2), (2, 4), (3, 8), (LOOKS - 1, 2.0 ** (LOOKS - 1))):
        assert planned(tail(LAST, looks=looks), 1_000, pause - 0.1, now_ms=LAST + 20_000) is None
        assert planned(tail(LAST, looks=looks), 1_000, pause, now_ms=LAST + 20_000) == LAST
    assert planned(tail(LAST, looks=LOOKS), 1_000, 10_000, now_ms=LAST + 20_000) is None


def test_an_event_begins_the_looks_again() -> None:
    assert tail(LAST, looks=LOOKS).after([LAST - 1_000], [False]) == PartitionTail(LAST, LAST, 0)


@pytest.mark.parametrize(
    ("quiet", "now_ms", "expected"),
    [
        (180, CLOSES + 180_000, CLOSES),
        (179.9, CLOSES + 10**7, None),  # a producer of ours that hangs is replaced in that time
        (10**6, CLOSES + 179_999, None),  # a device may still send what it measured then
    ],
)
def test_windows_are_closed_after_silence_and_far_enough_behind_the_clock(
    quiet: float, now_ms: int, expected: int | None
) -> None:
    assert planned(tail(LAST, looks=LOOKS), quiet, now_ms=now_ms) == expected


def test_a_closing_heartbeat_reaches_no_further_than_the_windows_need() -> None:
    found = planned(tail(LAST), 10**6, now_ms=LAST + 10**9)
    assert found == CLOSES
    last_window_end = LAST - LAST % 10_000 + 10_000
    assert last_window_end + 10_000 <= CLOSES < LAST + 10_000 + 10_000 + 2_000


def test_after_a_closing_heartbeat_come_looks_and_then_nothing_more() -> None:
    found, sent, since = tail(LAST), [], NEVER
    for _ in range(50):
        time_ms = planned(found, 10**6, since, now_ms=LAST + 10**9)
        if time_ms is None:
            break
        sent.append(time_ms)
        found, since = found.after([time_ms], [True]), 10**6
    assert sent == [CLOSES] * LOOKS


def test_whoever_starts_again_goes_on_with_what_the_topic_says() -> None:
    assert tail(LAST).after([CLOSES, CLOSES], [True, True]) == PartitionTail(LAST, CLOSES, 2)


def test_a_clock_far_ahead_is_not_made_the_streams_time() -> None:
    """The event may be of somebody whom the table doesn't know: then the stream's time isn't there, and must not get there."""
    found = planned(tail(LAST, LAST + 86_400_000), 5, now_ms=LAST + 2_000)
    assert found == LAST + 2_000
    assert planned(tail(LAST + 86_400_000, looks=LOOKS), 10**6, now_ms=LAST + 10**6) is None


def test_the_closing_events_of_a_run_are_looked_at_as_they_are() -> None:
    """Our producers close their windows themselves, with events a window and a grace period after the last one."""
    assert planned(tail(LAST, LAST + 20_000), 5, now_ms=LAST + 23_000) == LAST + 20_000
