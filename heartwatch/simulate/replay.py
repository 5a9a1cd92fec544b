"""Replay of recordings: people wear them again, as they were or with the position held."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from datetime import datetime
from functools import cached_property

import numpy as np
import polars as pl
import pyarrow as pa

from heartwatch.files.recordings import RecordingError
from heartwatch.simulate import draws
from heartwatch.simulate.arrays import spread
from heartwatch.simulate.draws import Ints
from heartwatch.simulate.events import EventBatch, record_batch
from heartwatch.simulate.places import nearest_zipcode

_ENDLESS = 2**31


@dataclass(frozen=True, eq=False)
class Replay:
    """Recordings, worn again by any number of people.

    Person n wears the recording number n modulo their count. Event times keep the recorded distances, moved so that the first
    is at `start` or up to `stagger_ms` after it; how fast they are sent is the producer's affair.

    Attributes:
        recordings: frames as `heartwatch.files.recordings.read_recording` gives them.
        start: event time of the first events, with a time zone.
        people: the people 1 to `people`.
        stagger_ms: people begin this much later at most, each at another time, ms.
        hold_position: everybody stays where their recording begins, the heart rate goes on as recorded.
        repeat: how often each recording is worn; 0 indefinitely.
        seed: random seed of the stagger.
        user_ids: the people of this shard, ascending; None for all.
    """

    recordings: Sequence[pl.DataFrame]
    start: datetime
    people: int = 1
    stagger_ms: int = 0
    hold_position: bool = False
    repeat: int = 1
    seed: int = 1
    user_ids: Ints | None = None

    def __post_init__(self) -> None:
        """Check the parameters.

        Raises:
            RecordingError: one can't be used.
        """
        if not self.recordings or any(recording.is_empty() for recording in self.recordings):
            raise RecordingError(
                "a replay needs recordings with at least one sample each; give what read_recording returns"
            )
        if self.start.tzinfo is None:
            raise RecordingError(f"start={self.start!r} has no time zone; give one, such as UTC")
        if not 1 <= self.people <= np.iinfo(np.int32).max:
            raise RecordingError(f"people={self.people!r} must be from 1 to {np.iinfo(np.int32).max}")
        for name in ("stagger_ms", "repeat"):
            if getattr(self, name) < 0:
                raise RecordingError(f"{name}={getattr(self, name)!r} must not be negative")

    def shard(self, user_ids: Ints) -> Replay:
        """Return the part of the replay that has these people only.

        Raises:
            RecordingError: a user is not among the replay's people.
        """
        chosen = np.unique(np.asarray(user_ids, dtype=np.int64))
        if chosen.size and not 1 <= chosen[0] <= chosen[-1] <= self.people:
            raise RecordingError(f"user ids {chosen[0]} to {chosen[-1]} are not all among 1 to {self.people}")
        return replace(self, user_ids=chosen)

    @cached_property
    def ids(self) -> Ints:
        """The people of this shard."""
        return np.arange(1, self.people + 1, dtype=np.int64) if self.user_ids is None else self.user_ids

    @property
    def events_per_ms(self) -> float:
        """Events of all the replay's people in a ms of event time, about."""
        mean = sum(recording.height / _period_ms(recording) for recording in self.recordings) / len(self.recordings)
        return self.people * mean

    def batches(self, batch_events: int = 20_000) -> ReplayBatches:
        """Return the shard's batches.

        Args:
            batch_events: events a batch, about; more only where recordings are denser than their mean.

        Raises:
            RecordingError: `batch_events` is not positive.
        """
        if batch_events < 1:
            raise RecordingError(f"batch_events={batch_events!r} must be at least 1")
        return ReplayBatches(self, batch_events)


def _period_ms(recording: pl.DataFrame) -> int:
    """Return how long a pass over a recording is: the next one begins one mean distance after the last sample."""
    stamps = recording["event_time"].dt.epoch("ms")
    span = int(stamps[-1] - stamps[0])
    return span + max(1, span // max(1, recording.height - 1))


class _Worn:
    """A recording and the people who wear it."""

    def __init__(self, recording: pl.DataFrame, people: Ints, shift: Ints, hold_position: bool) -> None:
        stamps = recording["event_time"].dt.epoch("ms").to_numpy()
        self.times = stamps - stamps[0]
        self.period = _period_ms(recording)
        place = np.zeros(len(self.times), dtype=np.int64) if hold_position else np.arange(len(self.times))
        self.latitude, self.longitude = (recording[name].to_numpy()[place] for name in ("latitude", "longitude"))
        self.zipcode = nearest_zipcode(self.latitude, self.longitude)
        self.rate = recording["heart_rate"].to_numpy().astype(np.float64)
        self.people, self.shift = people, shift

    def sample_from(self, moment: int, passes: int) -> Ints:
        """Return for each person the number of the first sample, over all passes, that is not before a moment."""
        turn, rest = np.divmod(moment - self.shift, self.period)
        number = turn * len(self.times) + np.searchsorted(self.times, rest)
        return np.clip(number, 0, passes * len(self.times))


class ReplayBatches:
    """The batches of a replay: slices of equal length of event time, each the same whenever it is asked for."""

    def __init__(self, replay: Replay, batch_events: int) -> None:
        """Prepare; nothing is generated yet."""
        self._start_ms = round(replay.start.timestamp() * 1000)
        self._passes = replay.repeat or _ENDLESS
        shift = draws.integers(0, replay.stagger_ms, draws.key(replay.seed, "replay/shift"), replay.ids)
        which = (replay.ids - 1) % len(replay.recordings)
        self._worn = [
            _Worn(recording, replay.ids[which == number], shift[which == number], replay.hold_position)
            for number, recording in enumerate(replay.recordings)
        ]
        per_ms = sum(len(worn.people) * len(worn.times) / worn.period for worn in self._worn)
        self._slice_ms = max(1, int(batch_events / per_ms)) if per_ms else 1
        self._end = max(
            (int(worn.shift.max()) + self._passes * worn.period for worn in self._worn if len(worn.people)), default=0
        )

    def __iter__(self) -> Iterator[EventBatch]:
        """Yield all batches."""
        index = 0
        while (batch := self.batch(index)) is not None:
            yield batch
            index += 1

    def batch(self, index: int) -> EventBatch | None:
        """Return a batch; it may be empty where nobody's recording has a sample; None after the last.

        Raises:
            RecordingError: `index` is negative.
        """
        if index < 0:
            raise RecordingError(f"batch index={index!r} must not be negative")
        begin = index * self._slice_ms
        if begin >= self._end:
            return None
        parts = [self._part(worn, begin) for worn in self._worn]
        people, moment, *columns = (np.concatenate(column) for column in zip(*parts, strict=True))
        order = np.lexsort((people, moment))
        time = self._start_ms + moment[order]
        names = pa.array(people[order]).cast(pa.string())
        zipcode, latitude, longitude, rate = (column[order] for column in columns)
        return EventBatch(index, record_batch(names, time, zipcode, latitude, longitude, rate), time)

    def _part(self, worn: _Worn, begin: int) -> tuple[np.ndarray, ...]:
        first, end = (worn.sample_from(moment, self._passes) for moment in (begin, begin + self._slice_ms))
        person, number = spread(first, end - 1)
        turn, sample = np.divmod(number, len(worn.times))
        moment = worn.shift[person] + turn * worn.period + worn.times[sample]
        where = (worn.zipcode[sample], worn.latitude[sample], worn.longitude[sample])
        return worn.people[person], moment, *where, worn.rate[sample]
