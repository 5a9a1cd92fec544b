"""Derive people's personal ranges from their recordings.

The rule. A person is still at a sample when the position 10 seconds before (or up to 20, where samples are rare) is less than 5
metres away. From the heart rates of the still samples:

- the lower end is their 1st percentile less 5, but at most 60;
- the upper end is their 99th percentile plus 5, but at least 100;

beats a minute, kept within 20 to 250. So what a person was seen to do while still is normal for that person, and the range always
holds the rates that are normal at rest for any adult, 60 to 100 (American Heart Association). A recording with less than 30
still samples says nothing and is rejected.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping

import numpy as np
import polars as pl

from heartwatch.files.rejects import RejectFile
from heartwatch.ranges import HIGHEST_HEART_RATE, LOWEST_HEART_RATE, SCHEMA, HistoricalError
from heartwatch.simulate.draws import Ints
from heartwatch.simulate.places import metres_between

_NORMAL_AT_REST = (60, 100)
_MARGIN = 5
_PERCENTILES = (1, 99)
_STILL_METRES = 5.0
_LOOK_BACK_MS = (10_000, 20_000)
_LEAST_SAMPLES = 30
_CHUNK = 100_000


def range_of(recording: pl.DataFrame) -> tuple[int, int] | None:
    """Return the personal range that a recording shows, or None where it shows none.

    Args:
        recording: a frame of `heartwatch.files.recordings.read_recording`.
    """
    still = recording["heart_rate"].to_numpy()[_still(recording)]
    if len(still) < _LEAST_SAMPLES:
        return None
    low, high = np.percentile(still, _PERCENTILES)
    lowest = min(int(np.floor(low)) - _MARGIN, _NORMAL_AT_REST[0])
    highest = max(int(np.ceil(high)) + _MARGIN, _NORMAL_AT_REST[1])
    return max(lowest, LOWEST_HEART_RATE), min(highest, HIGHEST_HEART_RATE)


def derive_ranges(recordings: Mapping[str, pl.DataFrame], people: int, rejects: RejectFile) -> Iterator[pl.DataFrame]:
    """Give the people 1 to `people` the ranges of the recordings that they wear in a replay.

    Args:
        recordings: recordings by name, in the replay's order: person n wears the recording number n modulo their count.
        people: how many people.
        rejects: takes recordings that show no range; those who wear them get none.

    Yields:
        Frames of ranges.

    Raises:
        HistoricalError: no recording shows a range, or `people` is not positive.
    """
    if people < 1:
        raise HistoricalError(f"people={people!r} must be at least 1")
    found = [range_of(recording) for recording in recordings.values()]
    for number, (name, own) in enumerate(zip(recordings, found, strict=True), start=1):
        if own is None:
            reason = f"fewer than {_LEAST_SAMPLES} samples in which the person is still"
            rejects.add(number, name.encode(), reason, "too few still samples")
    if not any(found):
        raise HistoricalError(
            f"none of {len(found)} recordings has {_LEAST_SAMPLES} still samples; add one with pauses"
        )
    ends = np.array([own or (0, 0) for own in found], dtype=np.int32)
    for first in range(1, people + 1, _CHUNK):
        ids = np.arange(first, min(first + _CHUNK, people + 1), dtype=np.int32)
        low, high = ends[(ids - 1) % len(found)].T
        yield pl.DataFrame({"user_id": ids, "min_heart_rate": low, "max_heart_rate": high}, schema=SCHEMA).filter(
            high > 0
        )


def _still(recording: pl.DataFrame) -> Ints:
    """Return the positions of the samples in which the person is still."""
    times = recording["event_time"].dt.epoch("ms").to_numpy()
    latitude, longitude = recording["latitude"].to_numpy(), recording["longitude"].to_numpy()
    before = np.maximum(np.searchsorted(times, times - _LOOK_BACK_MS[0], side="right") - 1, 0)
    gap = times - times[before]
    known = (gap >= _LOOK_BACK_MS[0]) & (gap <= _LOOK_BACK_MS[1])
    moved = metres_between(latitude[before], longitude[before], latitude, longitude)
    return np.flatnonzero(known & (moved < _STILL_METRES))
