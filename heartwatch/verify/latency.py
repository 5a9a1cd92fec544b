"""End-to-end latency: how long after the event that closes a window its result can be seen.

Kafka's record timestamps are event times here (so are KSQL's results'), so that they say nothing of when a record was written;
and when it was written matters to nobody: a read_committed reader sees it when its transaction is committed. So the
latency is measured where a reader stands: the ends of every partition that such a reader sees (ListOffsets with read_committed
isolation gives the last stable offset) are noted with the time, again and again, and a record *could be seen* from the first
note on whose end lies behind it. Events and results are timed alike, so that a latency is wrong by one interval between notes
at most, up or down. A record below the first note's end, or not below the last one's, isn't timed.

The event that *closes* a window is the first one in the partition with an event time of the window's end plus the grace period or
later: EMIT FINAL's own rule. (Which events the join drops isn't known here: an event of an unknown user may seem to close a
window a little before the right one does.) A window that silence closes has none. The results' topic has the partitions of the
events' topic, as KSQL makes it; result and event are found in the same one.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from heartwatch.monitoring import Latency

Ints = npt.NDArray[np.int64]
Floats = npt.NDArray[np.float64]


@dataclass(frozen=True)
class Note:
    """The ends of a topic's partitions that a read_committed reader saw at one moment, in seconds since the epoch."""

    at: float
    ends: Mapping[int, int]


@dataclass(frozen=True)
class PartitionEvents:
    """One partition's events in order of offset, those of a stretch without a gap; event times in ms since the epoch."""

    offset: Ints
    event_ms: Ints


@dataclass(frozen=True)
class PartitionResults:
    """One partition's results in order of offset, with their windows' ends, in ms since the epoch."""

    offset: Ints
    window_end_ms: Ints


def seen_at(notes: Sequence[Note], partition: int, offsets: Ints) -> Floats:
    """Return when each offset of a partition could first be seen, seconds since the epoch.

    Args:
        notes: in order of time.
        partition: whose offsets.
        offsets: to be timed.

    Returns:
        NaN for offsets that could be seen before the first note, or not yet at the last.
    """
    if not notes:
        return np.full(len(offsets), np.nan)
    times = np.array([note.at for note in notes])
    ends = np.maximum.accumulate(np.array([note.ends.get(partition, 0) for note in notes], dtype=np.int64))
    first = np.searchsorted(ends, offsets, side="right")
    timed = (first > 0) & (first < len(notes))
    return np.where(timed, times[np.minimum(first, len(notes) - 1)], np.nan)


def closing_offsets(events: PartitionEvents, deadlines_ms: Ints) -> Ints:
    """Return the offset of the first event at or after each deadline in event time.

    Returns:
        -1 where no event of the stretch is that late, or its very first one is (an earlier one may have been).
    """
    if not len(events.offset):
        return np.full(len(deadlines_ms), -1)
    first = np.searchsorted(np.maximum.accumulate(events.event_ms), deadlines_ms, side="left")
    known = (first > 0) & (first < len(events.offset))
    return np.where(known, events.offset[np.minimum(first, len(events.offset) - 1)], -1)


def latencies(
    event_notes: Sequence[Note],
    result_notes: Sequence[Note],
    events: Mapping[int, PartitionEvents],
    results: Mapping[int, PartitionResults],
    grace_ms: int,
) -> list[Latency]:
    """Return how late each result was, those left out that can't be timed.

    Args:
        event_notes: of the events' topic.
        result_notes: of the results' topic, taken at the same moments.
        events: by partition.
        results: by partition.
        grace_ms: the query's grace period, ms.
    """
    found: list[Latency] = []
    for partition, rows in results.items():
        seen = seen_at(result_notes, partition, rows.offset)
        closing = np.full(len(rows.offset), -1)
        if partition in events:
            closing = closing_offsets(events[partition], rows.window_end_ms + grace_ms)
        closed = np.where(closing >= 0, seen_at(event_notes, partition, closing), np.nan)
        since_closing = (seen - closed) * 1_000
        # A result before its closing event: the window was closed otherwise.
        since_closing[since_closing < 0] = np.nan
        since_end = seen * 1_000 - rows.window_end_ms
        # No result can come before its grace period is over, by the same clock.
        since_end = np.where(since_end < grace_ms, np.nan, since_end)
        found += [
            Latency(partition, int(offset), float(at), _known(closing_ms), _known(end_ms))
            for offset, at, closing_ms, end_ms in zip(rows.offset, seen, since_closing, since_end, strict=True)
            if not np.isnan(at)
        ]
    return found


def percentiles(values: Sequence[float]) -> tuple[float, float, float] | None:
    """Return the 50th, 95th and 99th percentile by nearest rank: each is a value that was measured; None without values."""
    if not values:
        return None
    p50, p95, p99 = np.percentile(values, [50, 95, 99], method="inverted_cdf")
    return float(p50), float(p95), float(p99)


def closing_ms(late: Sequence[Latency]) -> list[float]:
    """Return the times since the closing event, ms, of those results that have one."""
    return [result.since_closing_ms for result in late if result.since_closing_ms is not None]


def describe_latency(latency_ms: tuple[float, float, float]) -> str:
    """Return the 50th, 95th and 99th percentile of results' latencies, ms, as a text."""
    return ", ".join(f"{name} {value:,.0f} ms" for name, value in zip(("p50", "p95", "p99"), latency_ms, strict=True))


def window_ends(keys: Sequence[bytes], window_ms: int) -> Ints:
    """Return the windows' ends of windowed keys: their last 8 bytes are the window's start, big-endian ms since the epoch."""
    starts = np.frombuffer(b"".join(key[-8:] for key in keys), dtype=">i8").astype(np.int64)
    return starts + window_ms


def _known(value: Any) -> float | None:
    return None if np.isnan(value) else float(value)
