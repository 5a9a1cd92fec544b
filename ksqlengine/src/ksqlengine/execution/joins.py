"""Joins of two streams: operators that remember both sides.

Both sides' rows come in one frame, in the order in which they are joined, with their side in `SIDE`; so a result depends on
nothing but that order, and reading the rows again gives the same results again.

Source: Kafka Streams' ``KStreamKStreamJoin`` with its window stores (``AbstractRocksDBSegmentedBytesStore``).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import polars as pl

from ksqlengine.execution.keys import ABSENT, Keys
from ksqlengine.execution.operators import INDEX, KEY, LEFT, RIGHT, SIDE, StreamTimes, without_repeated
from ksqlengine.plan.steps import LEAST_SEGMENT_MS, PSEUDO_COLUMNS, ROWOFFSET, ROWPARTITION, ROWTIME, JoinKind
from ksqlengine.types.arrays import Ints, Mask, runs

_BEFORE = "__BEFORE"  # stream time before the row, ms, Int64
_PENDING = "__PENDING"  # the row has no match yet and comes out without one when its window closes, Boolean
_OWN = {
    KEY: pl.Int64(), ROWPARTITION: pl.Int32(), ROWTIME: pl.Int64(), ROWOFFSET: pl.Int64(),
    _BEFORE: pl.Int64(), _PENDING: pl.Boolean(), INDEX: pl.Int64(),
}  # fmt: skip
_NEVER = np.iinfo(np.int64).max


@dataclass(frozen=True)
class JoinWindow:
    """Which rows of two streams match: a right row from `before_ms` before a left one to `after_ms` after it.

    Attributes:
        before_ms: how much earlier the right row may be.
        after_ms: how much later.
        grace_ms: how long after a window's end rows for it may come; None lets rows without a match come out at once.
    """

    before_ms: int
    after_ms: int
    grace_ms: int | None

    @property
    def retention_ms(self) -> int:
        """How long rows are kept for the other side; a day without a grace period, as in Kafka Streams."""
        size = self.before_ms + self.after_ms
        return size + (max(86_400_000 - size, 0) if self.grace_ms is None else self.grace_ms)

    def reach(self, side: int) -> tuple[int, int]:
        """Return how much earlier and how much later the other side's row may be than a side's row, ms."""
        return (self.before_ms, self.after_ms) if side == LEFT else (self.after_ms, self.before_ms)

    def oldest(self, store_times: Ints) -> Ints:
        """Return the oldest event time that a store still has at each of its stream times."""
        segment = max(self.retention_ms // 2, LEAST_SEGMENT_MS)
        return np.maximum(store_times - self.retention_ms, 0) // segment * segment


class JoinWindowing:
    """Stream times and rows that are still needed, as the execution commits and restores them."""

    def __init__(self) -> None:
        """Begin without rows."""
        self.times = StreamTimes()
        self.seen_before: dict[int, int] = {}
        self.needed: dict[int, tuple[int, int]] = {}

    def needed_offset(self, partition: int) -> int | None:
        """Return the lowest offset that a row to come may be joined with, None without any."""
        found = self.needed.get(partition)
        return None if found is None else found[0]

    def resume_time(self, partition: int) -> int:
        """Return the stream time to continue with after reading again from `needed_offset`: the one before that record."""
        found = self.needed.get(partition)
        return self.times[partition] if found is None else found[1]

    def forget(self, partition: int) -> None:
        """Forget a partition."""
        self.times.forget(partition)
        self.seen_before.pop(partition, None)
        self.needed.pop(partition, None)


class StreamStreamJoin:
    """Joins two streams' rows of the same key that are near each other in event time.

    A row without a key matches nothing: it comes out at once, as in Kafka Streams since 3.7 (KIP-962). It moves stream time, but
    closes no window. Only rows of sides that come out without a match get here without a key.
    """

    changelog_state = None

    def __init__(
        self,
        window: JoinWindow,
        kind: JoinKind,
        columns: tuple[Mapping[str, pl.DataType], Mapping[str, pl.DataType]],
        keys: Keys,
    ) -> None:
        """Begin without rows.

        Args:
            window: which rows match.
            kind: which rows come out without a match.
            columns: names and types of the left side's columns and of the right side's.
            keys: gives the keys' bytes, by which Kafka Streams orders rows without a match.
        """
        self.windowing = JoinWindowing()
        self.seen_before = self.windowing.seen_before
        self._window = window
        self._keeps = (kind.keeps_left, kind.keeps_right)
        self._columns = columns
        self._keys = keys
        self._stored = [pl.DataFrame(schema={**_OWN, **columns[side]}) for side in (LEFT, RIGHT)]
        self._store_times = (StreamTimes(), StreamTimes())

    def push(self, frame: pl.DataFrame) -> pl.DataFrame:
        """Take rows of both sides, in order; return what they are joined to, and rows whose windows closed without a match."""
        if not len(frame):
            return pl.DataFrame()
        partitions = frame[ROWPARTITION].to_numpy()
        before = {partition: self.windowing.times[partition] for partition, _, _ in runs(partitions)}
        stream_times = self.windowing.times.follow(partitions, frame[ROWTIME].to_numpy())
        earlier = np.empty_like(stream_times)
        for partition, start, end in runs(partitions):
            earlier[start] = before[partition]
            earlier[start + 1 : end] = stream_times[start : end - 1]
        sides, keyed = frame[SIDE].to_numpy(), frame[KEY].to_numpy() > ABSENT
        oldest = [
            self._oldest(partitions, frame[ROWTIME].to_numpy(), (sides == side) & keyed, side) for side in (LEFT, RIGHT)
        ]
        frame = frame.with_columns(
            pl.Series(_BEFORE, earlier), pl.Series(INDEX, np.arange(len(frame))), pl.lit(False).alias(_PENDING)
        )
        rows = [
            pl.concat([stored, frame.filter(pl.Series((sides == side) & keyed)).select(stored.columns)])
            for side, stored in enumerate(self._stored)
        ]
        pairs = self._pairs(rows, oldest)
        closes = keyed & (frame[ROWTIME].to_numpy() == stream_times)
        alone = [self._alone(rows[side], side, pairs, partitions, stream_times, closes) for side in (LEFT, RIGHT)]
        results = self._results(frame, rows, pairs, alone)
        for side in (LEFT, RIGHT):
            self._keep(side, rows[side], alone[side][1])
        self._note_needed()
        if not keyed.all():
            alone_at_once = self._without_key(frame.filter(pl.Series(~keyed)))
            results = pl.concat([results, alone_at_once]) if len(results) else alone_at_once
            results = results.sort(INDEX, maintain_order=True)
        return results.drop(INDEX, strict=False)

    def _without_key(self, rows: pl.DataFrame) -> pl.DataFrame:
        """Return the results of rows without a key."""
        left, right = self._columns
        sides = {**dict.fromkeys(left, LEFT), **dict.fromkeys(right, RIGHT)}
        own = [pl.when(pl.col(SIDE) == side).then(name).alias(name) for name, side in sides.items()]
        return rows.select(*own, *PSEUDO_COLUMNS, KEY, INDEX)

    def settle(self, results: pl.DataFrame) -> pl.DataFrame:
        """Return what is to be written: what records that are read again give was written before."""
        return without_repeated(results, self.seen_before)

    def emit(self) -> pl.DataFrame:
        """Return nothing: only records close windows."""
        return pl.DataFrame()

    def codes(self) -> Ints:
        """Return the key codes in use."""
        return np.unique(np.concatenate([stored[KEY].to_numpy() for stored in self._stored]))

    def renumber(self, renumbered: Ints) -> None:
        """Follow `Keys.compact`."""
        self._stored = [
            stored.with_columns(pl.Series(KEY, renumbered[stored[KEY].to_numpy()])) for stored in self._stored
        ]

    def drop_partition(self, partition: int) -> None:
        """Forget a partition's rows."""
        self.windowing.forget(partition)
        for times in self._store_times:
            times.forget(partition)
        self._stored = [stored.filter(pl.col(ROWPARTITION) != partition) for stored in self._stored]

    def drop_codes(self, codes: Ints) -> None:
        """Do nothing: all that is held belongs to a partition (`drop_partition`)."""

    def rows(self) -> int:
        """Return how many rows are held."""
        return sum(map(len, self._stored))

    def _oldest(self, partitions: npt.NDArray[np.int32], times: Ints, own: Mask, side: int) -> Ints:
        """Return, at each row, the oldest event time that a side's store still has."""
        # Rows of the other side move nothing: -1 is before every time.
        return self._window.oldest(self._store_times[side].follow(partitions, np.where(own, times, -1)))

    def _pairs(self, rows: list[pl.DataFrame], oldest: list[Ints]) -> tuple[Ints, Ints, Ints]:
        """Return (row of the left, row of the right, place in the frame) of each match that the frame's rows make."""
        index = [side_rows[INDEX].to_numpy() for side_rows in rows]
        fresh_left, old_left = np.flatnonzero(index[LEFT] >= 0), np.flatnonzero(index[LEFT] < 0)
        fresh_right = np.flatnonzero(index[RIGHT] >= 0)
        left, right = self._near(rows, fresh_left, np.arange(len(index[RIGHT])))
        more_left, more_right = self._near(rows, old_left, fresh_right)
        left, right = np.concatenate([left, more_left]), np.concatenate([right, more_right])
        left_at, right_at = index[LEFT][left], index[RIGHT][right]
        # The later row finds the earlier one, if its store still has it.
        at = np.maximum(left_at, right_at)
        left_time, right_time = rows[LEFT][ROWTIME].to_numpy()[left], rows[RIGHT][ROWTIME].to_numpy()[right]
        there = np.where(left_at < right_at, left_time >= oldest[LEFT][at], right_time >= oldest[RIGHT][at])
        return left[there], right[there], at[there]

    def _near(self, rows: list[pl.DataFrame], left: Ints, right: Ints) -> tuple[Ints, Ints]:
        """Return the pairs of some left and some right rows that match by key and time."""
        if not len(left) or not len(right):
            return np.empty(0, np.int64), np.empty(0, np.int64)
        left_key, left_time = (rows[LEFT][name].to_numpy()[left] for name in (KEY, ROWTIME))
        right_key, right_time = (rows[RIGHT][name].to_numpy()[right] for name in (KEY, ROWTIME))
        order = np.lexsort((right_time, right_key))
        known = np.unique(right_time)
        width = len(known) + 1
        sought = right_key[order] * width + np.searchsorted(known, right_time[order])
        low = np.searchsorted(known, np.maximum(left_time - self._window.before_ms, 0), "left")
        high = np.searchsorted(known, left_time + self._window.after_ms, "right")
        first = np.searchsorted(sought, left_key * width + low, "left")
        last = np.searchsorted(sought, left_key * width + high, "left")
        counts = np.maximum(last - first, 0)
        found = np.repeat(first, counts) + np.arange(counts.sum()) - np.repeat(np.cumsum(counts) - counts, counts)
        return np.repeat(left, counts), right[order[found]]

    def _alone(
        self,
        rows: pl.DataFrame,
        side: int,
        pairs: tuple[Ints, Ints, Ints],
        partitions: npt.NDArray[np.int32],
        stream_times: Ints,
        closes: Mask,
    ) -> tuple[Ints, Mask]:
        """Return where in the frame each row of a side comes out without a match (-1: nowhere), and which may still do so."""
        index, times = rows[INDEX].to_numpy(), rows[ROWTIME].to_numpy()
        nowhere, none = np.full(len(rows), -1), np.zeros(len(rows), dtype=bool)
        if not self._keeps[side]:
            return nowhere, none
        other_index = np.full(len(rows), _NEVER)
        np.minimum.at(other_index, pairs[side], pairs[2])
        fresh = index >= 0
        unmatched = fresh & (other_index > index)
        end = times + self._window.reach(side)[1]
        grace = self._window.grace_ms
        if grace is None:
            return np.where(unmatched, index, -1), none
        at_once = unmatched.copy()
        at_once[fresh] &= end[fresh] < stream_times[index[fresh]]
        waiting = (unmatched & ~at_once) | rows[_PENDING].to_numpy()
        closing = self._closing(rows[ROWPARTITION].to_numpy(), end + grace, partitions, stream_times, closes)
        comes = waiting & (closing < _NEVER) & (closing <= other_index)
        pending = waiting & ~comes & (other_index == _NEVER)
        return np.where(at_once, index, np.where(comes, closing, -1)), pending

    @staticmethod
    def _closing(
        row_partitions: npt.NDArray[np.int32],
        ends: Ints,
        partitions: npt.NDArray[np.int32],
        stream_times: Ints,
        closes: Mask,
    ) -> Ints:
        """Return the first place in the frame that closes windows when stream time is behind each row's end, else `_NEVER`."""
        closing = np.full(len(ends), _NEVER)
        for partition, start, end in runs(partitions):
            own = row_partitions == partition
            places = np.append(np.flatnonzero(closes[start:end]) + start, _NEVER)
            closing[own] = places[np.searchsorted(stream_times[places[:-1]], ends[own], "right")]
        return closing

    def _results(
        self,
        frame: pl.DataFrame,
        rows: list[pl.DataFrame],
        pairs: tuple[Ints, Ints, Ints],
        alone: list[tuple[Ints, Mask]],
    ) -> pl.DataFrame:
        single = [np.flatnonzero(places >= 0) for places, _ in alone]
        left = np.concatenate([pairs[LEFT], single[LEFT], np.full(len(single[RIGHT]), -1)])
        right = np.concatenate([pairs[RIGHT], np.full(len(single[LEFT]), -1), single[RIGHT]])
        if not len(left):
            return pl.DataFrame()
        at = np.concatenate([pairs[2], *(alone[side][0][single[side]] for side in (LEFT, RIGHT))])
        parts = []
        for side, taken in ((LEFT, left), (RIGHT, right)):
            gathered = pl.Series(taken).replace(-1, None)
            names = [*self._columns[side], ROWTIME, KEY, INDEX, ROWOFFSET]
            own = {name: f"{name}{side}" for name in (ROWTIME, KEY, INDEX, ROWOFFSET)}
            parts.append(rows[side].select(names).select(pl.all().gather(gathered)).rename(own))
        joined = pl.concat(parts, how="horizontal").with_columns(pl.Series(INDEX, at))
        joined = joined.with_columns(
            pl.max_horizontal(f"{ROWTIME}0", f"{ROWTIME}1").alias(ROWTIME),
            pl.coalesce(f"{KEY}0", f"{KEY}1").alias(KEY),
            frame[ROWPARTITION].gather(at),
            frame[ROWOFFSET].gather(at),
        )
        return self._in_order(joined).select(*self._columns[LEFT], *self._columns[RIGHT], *PSEUDO_COLUMNS, KEY, INDEX)

    def _in_order(self, joined: pl.DataFrame) -> pl.DataFrame:
        """Put results in Kafka Streams' order: at each record first closed windows by time, side and key, then its matches."""
        is_pair = pl.col(f"{KEY}0").is_not_null() & pl.col(f"{KEY}1").is_not_null()
        own = pl.coalesce(f"{INDEX}0", f"{INDEX}1") == pl.col(INDEX)
        closed = ~is_pair & ~own
        # A record's matches come in order of their own time and place.
        from_left = is_pair & (pl.col(f"{INDEX}1") == pl.col(INDEX))
        joined = joined.with_columns(
            (~closed).alias("__PHASE"),
            pl.when(from_left)
            .then(f"{ROWTIME}0")
            .when(is_pair)
            .then(f"{ROWTIME}1")
            .otherwise(ROWTIME)
            .alias("__BY_TIME"),
            pl.when(from_left).then(f"{ROWOFFSET}0").when(is_pair).then(f"{ROWOFFSET}1").alias("__BY_OFFSET"),
            (closed & pl.col(f"{KEY}0").is_not_null()).alias("__BY_SIDE"),
        )
        codes = joined.select(pl.when(closed).then(KEY).otherwise(-1)).to_series().to_numpy()
        names = [b"" if code < 0 else self._keys.keys[code] for code in codes.tolist()] if (codes >= 0).any() else None
        key = pl.Series("__BY_KEY", names, dtype=pl.Binary) if names else pl.lit(b"").alias("__BY_KEY")
        joined = joined.with_columns(key)
        return joined.sort([INDEX, "__PHASE", "__BY_TIME", "__BY_SIDE", "__BY_KEY", "__BY_OFFSET"], maintain_order=True)

    def _keep(self, side: int, rows: pl.DataFrame, pending: Mask) -> None:
        """Keep the rows that the side's store still has, and those that wait for their window's end."""
        limits = {
            partition: int(self._window.oldest(np.array([self._store_times[side][partition]]))[0])
            for partition in rows[ROWPARTITION].unique().to_list()
        }
        oldest = rows[ROWPARTITION].replace_strict(limits, return_dtype=pl.Int64) if limits else rows[ROWTIME]
        kept = (rows[ROWTIME] >= oldest).to_numpy() | pending
        rows = rows.with_columns(pl.Series(_PENDING, pending), pl.lit(-1, dtype=pl.Int64).alias(INDEX))
        self._stored[side] = rows.filter(pl.Series(kept))

    def _note_needed(self) -> None:
        self.windowing.needed.clear()
        lowest = [stored.select(ROWPARTITION, ROWOFFSET, _BEFORE) for stored in self._stored]
        first = pl.concat(lowest).sort(ROWOFFSET).group_by(ROWPARTITION).first()
        for partition, offset, before in first.iter_rows():
            self.windowing.needed[partition] = (offset, before)
