"""Aggregates of streams, in windows of a fixed size or over all time; SESSION windows are in `session_windows`.

Source of what a store lets go: Kafka Streams' ``AbstractDualSchemaRocksDBSegmentedBytesStore.getActualFrom``, and
``AbstractKStreamTimeWindowAggregateProcessor.maybeForwardFinalResult`` for the look at closed windows, which comes here with
each record. The record is put into its own window first; a window that starts more than the retention before the newest one
is no longer found. Where a cache stands before the store, it is taken to have what the store's segments have.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from heapq import heappop, heappush
from itertools import chain
from typing import NamedTuple

import numpy as np
import numpy.typing as npt
import polars as pl

from ksqlengine.execution.operators import DELETED, KEY, SLOT, ChangelogState, Counters, StreamTimes, with_keys_only
from ksqlengine.execution.rows import Rows
from ksqlengine.plan.steps import (
    PSEUDO_COLUMNS,
    ROWOFFSET,
    ROWPARTITION,
    ROWTIME,
    WINDOWEND,
    WINDOWSTART,
    Window,
    WindowKind,
)
from ksqlengine.types.arrays import Ints, Mask, runs


@dataclass(frozen=True)
class Aggregates:
    """The aggregate functions of one step as Polars expressions.

    Attributes:
        inputs: columns that the arguments read.
        partial: over a group's rows, gives the state columns.
        merge: over a group's states in order, gives the state columns again.
        result: over a state, gives the output columns.
        undo: over a group's rows that are taken out again, gives the state columns; empty where that can't be.
    """

    inputs: tuple[str, ...]
    partial: tuple[pl.Expr, ...]
    merge: tuple[pl.Expr, ...]
    result: tuple[pl.Expr, ...]
    undo: tuple[pl.Expr, ...] = ()


# Rows gathered before they are aggregated: grouping few rows at a time costs the most in fixed overhead.
_PENDING_ROWS = 131_072
_BUCKET_SLACK_ROWS = 4_096
_WINDOW_KEYS = (ROWPARTITION, WINDOWSTART, KEY)


def window_rows(times: Ints, window: Window) -> tuple[Ints, Ints]:
    """Return (row, window start) of every window that a row falls into, in order of row and start.

    Source: Kafka Streams' ``TimeWindows.windowsFor``; windows are aligned to the epoch and none starts before it.
    """
    if window.kind is WindowKind.TUMBLING:
        return np.arange(len(times)), times // window.size_ms * window.size_ms
    most = -(-window.size_ms // window.advance_ms)
    steps = np.arange(most - 1, -1, -1) * window.advance_ms
    starts = (times // window.advance_ms * window.advance_ms)[:, None] - steps[None, :]
    rows = np.repeat(np.arange(len(times)), most)
    flat = starts.ravel()
    inside = (flat >= 0) & (flat + window.size_ms > times[rows])
    return rows[inside], flat[inside]


class ClosedWindow(NamedTuple):
    """A window that stream time has closed.

    Attributes:
        partition: where.
        start: its start, ms.
        kept: whether the store still had it at the first look after it closed.
    """

    partition: int
    start: int
    kept: bool


class TimeWindowing:
    """Puts rows into windows, drops late ones, and knows which windows are open: what all windowed aggregates share."""

    def __init__(self, window: Window, counters: Counters, is_cached: bool = False) -> None:
        self.window = window
        self._is_cached = is_cached
        self.times = StreamTimes()
        self.seen_before: dict[int, int] = {}  # offsets below are read again: their losses were counted already
        self.first_offsets: dict[tuple[int, int], int] = {}  # of each open (partition, window start)
        self._starts: dict[int, list[int]] = {}  # heaps of open windows' starts by partition
        self._looks: dict[int, Ints] = {}  # stream time at each row since `due` was asked last, by partition
        self._counters = counters

    def assign(self, frame: pl.DataFrame) -> pl.DataFrame:
        """Return one row for each open window that a row falls into, with `WINDOWSTART`."""
        partitions, times = frame[ROWPARTITION].to_numpy(), frame[ROWTIME].to_numpy()
        stream_times = self.times.follow(partitions, times)
        self._looks = {partition: stream_times[start:end] for partition, start, end in runs(partitions)}
        rows, starts = window_rows(times, self.window)
        late = starts + self.window.size_ms <= stream_times[rows] - self.window.grace_ms
        offsets = frame[ROWOFFSET].to_numpy()
        if late.any():
            self._count_late(partitions[rows[late]], offsets[rows[late]])
            rows, starts = rows[~late], starts[~late]
        self._note(partitions[rows], starts, offsets[rows])
        whole = len(rows) == len(frame) and self.window.kind is WindowKind.TUMBLING
        return (frame if whole else frame[rows]).with_columns(pl.Series(WINDOWSTART, starts))

    def due(self) -> list[ClosedWindow]:
        """Return, and no longer count as open, the windows whose end and grace stream time has passed."""
        closed = []
        for partition, starts in self._starts.items():
            limit = self.times[partition] - self.window.grace_ms - self.window.size_ms
            while starts and starts[0] <= limit:
                start = heappop(starts)
                closed.append(ClosedWindow(partition, start, self._is_kept(partition, start)))
        for window in closed:
            del self.first_offsets[window.partition, window.start]
        self._looks = {}
        return closed

    def _is_kept(self, partition: int, start: int) -> bool:
        """Return whether the store still has a window at the row that closes it."""
        looks = self._looks.get(partition)
        if looks is None:  # restored, and closed when the state was kept
            return True
        closing = looks[np.searchsorted(looks, start + self.window.size_ms + self.window.grace_ms)]
        newest = closing // self.window.advance_ms * self.window.advance_ms
        oldest = self.window.oldest_kept(newest) if self._is_cached else newest - self.window.kept_ms
        return bool(start >= oldest)

    def needed_offset(self, partition: int) -> int | None:
        """Return the lowest offset that an open window of the partition needs, None without open windows."""
        return min((self.first_offsets[partition, start] for start in self._starts.get(partition, ())), default=None)

    def put_back(self, states: pl.DataFrame) -> None:
        """Restore the windows of states that are kept elsewhere: no offset is needed for them."""
        for partition, start in states.select(ROWPARTITION, WINDOWSTART).unique(maintain_order=True).iter_rows():
            if (partition, start) not in self.first_offsets:
                self.first_offsets[partition, start] = -1
                heappush(self._starts.setdefault(partition, []), start)

    def resume_time(self, partition: int) -> int:
        """Return the stream time to continue with after reading again from `needed_offset`: the one reached."""
        return self.times[partition]

    def forget(self, partition: int) -> None:
        """Forget a partition."""
        self.times.forget(partition)
        self.seen_before.pop(partition, None)
        for start in self._starts.pop(partition, []):
            del self.first_offsets[partition, start]

    def _count_late(self, partitions: npt.NDArray[np.int32], offsets: Ints) -> None:
        for partition, start, end in runs(partitions):
            self._counters.late += int(np.count_nonzero(offsets[start:end] >= self.seen_before.get(partition, 0)))

    def _note(self, partitions: npt.NDArray[np.int32], starts: Ints, offsets: Ints) -> None:
        for partition, begin, end in runs(partitions):
            found, first = np.unique(starts[begin:end], return_index=True)
            for start, row in zip(found.tolist(), first.tolist(), strict=True):
                if (partition, start) not in self.first_offsets:
                    self.first_offsets[partition, start] = int(offsets[begin + row])
                    heappush(self._starts.setdefault(partition, []), start)


@dataclass
class _Bucket:
    """Partial states of one open window of one partition."""

    parts: list[pl.DataFrame] = field(default_factory=list)
    rows: int = 0
    merged_rows: int = 0


class FinalWindows:
    """Windowed aggregate with EMIT FINAL: a window's groups come out once, when it closes, unless the store has let it go.

    Rows gather unaggregated until a window is due or many are there; then they are grouped at once into partial states per
    window, which are merged when the window closes, or when they have doubled (so memory follows the open groups).
    """

    changelog_state = None

    def __init__(self, window: Window, aggregates: Aggregates, counters: Counters, is_cached: bool = False) -> None:
        """Begin without rows.

        Args:
            window: the window.
            aggregates: the functions.
            counters: where losses are counted.
            is_cached: whether a cache stands before the store.
        """
        self.windowing = TimeWindowing(window, counters, is_cached)
        self.seen_before = self.windowing.seen_before
        self._aggregates = aggregates
        self._counters = counters
        self._pending: list[pl.DataFrame] = []
        self._pending_rows = 0
        self._buckets: dict[tuple[int, int], _Bucket] = {}
        self._columns = [*dict.fromkeys([*_WINDOW_KEYS, ROWOFFSET, ROWTIME, *aggregates.inputs])]
        self._own = [pl.col(ROWOFFSET).min(), pl.col(ROWTIME).max()]

    def push(self, frame: pl.DataFrame) -> pl.DataFrame:
        """Take rows; return the groups of windows that they closed (`KeyColumns` puts them in order)."""
        frame = with_keys_only(frame, self._counters)
        if len(frame):
            assigned = self.windowing.assign(frame).select(self._columns)
            self._pending.append(assigned)
            self._pending_rows += len(assigned)
        return self.emit()

    def emit(self) -> pl.DataFrame:
        """Return the groups of windows that stream time has closed since."""
        due = self.windowing.due()
        if due or self._pending_rows >= _PENDING_ROWS:
            self._flush()
        kept: list[pl.DataFrame] = []
        for partition, start, is_kept in due:
            parts = self._buckets.pop((partition, start)).parts
            if is_kept:
                kept.extend(parts)
            else:
                self._counters.let_go += pl.concat([part.select(KEY) for part in parts]).n_unique()
        return self._results(self._merge(kept)) if kept else self.empty()

    def empty(self) -> pl.DataFrame:
        """Return an empty result."""
        return pl.DataFrame()

    def settle(self, results: pl.DataFrame) -> pl.DataFrame:
        """Return what is to be written of results that have been through HAVING: all of them."""
        return results

    def codes(self) -> Ints:
        """Return the key codes in use."""
        frames = [*self._pending, *(part for bucket in self._buckets.values() for part in bucket.parts)]
        return (
            np.unique(np.concatenate([frame[KEY].to_numpy() for frame in frames])) if frames else np.empty(0, np.int64)
        )

    def renumber(self, renumbered: Ints) -> None:
        """Follow `Keys.compact`."""
        self._pending = [_renumbered(frame, renumbered) for frame in self._pending]
        for bucket in self._buckets.values():
            bucket.parts = [_renumbered(part, renumbered) for part in bucket.parts]

    def drop_partition(self, partition: int) -> None:
        """Forget a partition's windows."""
        self.windowing.forget(partition)
        self._pending = [frame.filter(pl.col(ROWPARTITION) != partition) for frame in self._pending]
        self._pending_rows = sum(map(len, self._pending))
        self._buckets = {where: bucket for where, bucket in self._buckets.items() if where[0] != partition}

    def drop_codes(self, codes: Ints) -> None:
        """Do nothing: all that is held belongs to a partition (`drop_partition`)."""

    def rows(self) -> int:
        """Return how many rows are held: partial states and rows not yet grouped."""
        return self._pending_rows + sum(bucket.rows for bucket in self._buckets.values())

    def _flush(self) -> None:
        if not self._pending:
            return
        rows = pl.concat(self._pending)
        self._pending, self._pending_rows = [], 0
        partial = rows.group_by(*_WINDOW_KEYS).agg(*self._own, *self._aggregates.partial)
        for where, part in partial.partition_by(ROWPARTITION, WINDOWSTART, as_dict=True).items():
            bucket = self._buckets.setdefault(where, _Bucket())
            bucket.parts.append(part)
            bucket.rows += len(part)
            if bucket.rows > 2 * bucket.merged_rows + _BUCKET_SLACK_ROWS:
                bucket.parts = [self._merge(bucket.parts)]
                bucket.rows = bucket.merged_rows = len(bucket.parts[0])

    def _merge(self, parts: list[pl.DataFrame]) -> pl.DataFrame:
        if len(parts) == 1:
            return parts[0]
        return pl.concat(parts).group_by(*_WINDOW_KEYS).agg(*self._own, *self._aggregates.merge)

    def _results(self, states: pl.DataFrame) -> pl.DataFrame:
        end = (pl.col(WINDOWSTART) + self.windowing.window.size_ms).alias(WINDOWEND)
        return states.select(*self._aggregates.result, *PSEUDO_COLUMNS, WINDOWSTART, end, KEY)


class ChangingGroups:
    """Aggregate with EMIT CHANGES, in windows or over all time: each group that a frame changed comes out, once per frame."""

    def __init__(
        self, window: Window | None, aggregates: Aggregates, states: Mapping[str, pl.DataType], counters: Counters
    ) -> None:
        """Begin without groups.

        Args:
            window: None to aggregate over all time.
            aggregates: the functions.
            states: types of the state columns.
            counters: where losses are counted.
        """
        self.windowing = TimeWindowing(window, counters) if window else None
        self._aggregates = aggregates
        self._counters = counters
        self._keys = list(_WINDOW_KEYS if window else (ROWPARTITION, KEY))
        self._own = [pl.col(ROWOFFSET).max(), pl.col(ROWTIME).max()]
        own = {ROWPARTITION: pl.Int32(), KEY: pl.Int64(), **({WINDOWSTART: pl.Int64()} if window else {})}
        held = {ROWOFFSET: pl.Int64(), ROWTIME: pl.Int64(), **states}
        self.windowed = window is not None
        self.kept: dict[str, pl.DataType] = held
        self._rows = Rows({**own, **held})
        self._slots: dict[tuple[int, int], int] = {}  # (window start, key code) → slot
        self._free: list[int] = []
        self._by_window: dict[tuple[int, int], list[tuple[int, int]]] = {}
        self.seen_before = self.windowing.seen_before if self.windowing is not None else {}
        self._shown: Mask = np.zeros(1024, dtype=bool)  # by slot: the group's last result passed HAVING
        self._keeps = False
        self._changed: list[Ints] = []  # slots whose groups may not be in the changelog as they are
        self._forgotten: list[tuple[int, int, int]] = []  # (partition, window start, key code) that may still be there

    def push(self, frame: pl.DataFrame) -> pl.DataFrame:
        """Take rows; return the new results of the groups that they changed."""
        self._expire()
        frame = with_keys_only(frame, self._counters)
        if self.windowing is not None and len(frame):
            frame = self.windowing.assign(frame)
        if not len(frame):
            return pl.DataFrame()
        return self._absorb(frame.group_by(*self._keys, maintain_order=True).agg(*self._own, *self._aggregates.partial))

    def _absorb(self, partial: pl.DataFrame) -> pl.DataFrame:
        """Merge partial states, one per group, into the groups' states; return the groups' results."""
        slots = self._slots_of(partial)
        before = self._rows.find(slots)
        old = self._rows.take(before[before >= 0])
        parts = pl.concat([old, partial.select(old.columns)])
        merged = parts.group_by(*self._keys, maintain_order=True).agg(*self._own, *self._aggregates.merge)
        merged = partial.select(self._keys).join(merged, on=self._keys, how="left", maintain_order="left")
        self._rows.put(slots, merged)
        if self._keeps:
            self._changed.append(slots)
        return self._results(merged).with_columns(pl.Series(SLOT, slots))

    def settle(self, results: pl.DataFrame) -> pl.DataFrame:
        """Return what is to be written of results that have been through HAVING.

        A group that HAVING keeps out is deleted if it was written before, and says nothing otherwise.
        """
        if not len(results):
            return results
        slots = results[SLOT].to_numpy()
        shown = ~results[DELETED].to_numpy()
        reported = shown | self._shown_at(slots)
        self._shown[slots] = shown
        again = self._seen_before(results)
        return results.filter(pl.Series(reported if again is None else reported & ~again)).drop(SLOT)

    def _shown_at(self, slots: Ints) -> Mask:
        """Return whether the groups' last results passed HAVING, with room for the groups."""
        if slots.max() >= len(self._shown):
            self._shown = np.concatenate([self._shown, np.zeros(int(slots.max()) + 1, dtype=bool)])
        return self._shown[slots]

    def emit(self) -> pl.DataFrame:
        """Drop closed windows' states; nothing comes out by the passing of time alone."""
        self._expire()
        return pl.DataFrame()

    @property
    def changelog_state(self) -> ChangelogState:
        """The groups' states."""
        return self

    def keep_changes(self) -> None:
        """Begin to remember which groups change; those that are there count as changed."""
        self._keeps = True
        self._changed = [np.fromiter(self._slots.values(), np.int64, len(self._slots))]

    def take_changed(self, partitions: Iterable[int]) -> pl.DataFrame:
        """Return the states of partitions' groups that have changed since they were taken last.

        Returns:
            `ROWPARTITION`, `KEY`, `WINDOWSTART` where there are windows, `kept`, and `DELETED` for groups that are forgotten.
        """
        wanted = list(partitions)
        slots = np.unique(np.concatenate(self._changed)) if self._changed else np.empty(0, np.int64)
        slots = slots[self._rows.find(slots) >= 0]
        states = self._rows.take(self._rows.find(slots)).with_columns(pl.lit(False).alias(DELETED))
        taken = np.isin(states[ROWPARTITION].to_numpy(), wanted)
        self._changed = [slots[~taken]] if not taken.all() else []
        gone = [group for group in self._forgotten if group[0] in wanted]
        self._forgotten = [group for group in self._forgotten if group[0] not in wanted]
        if not gone:
            return states.filter(pl.Series(taken))
        names = (ROWPARTITION, WINDOWSTART, KEY)
        forgotten = pl.DataFrame(gone, schema={name: states.schema[name] for name in names}, orient="row")
        return pl.concat([states.filter(pl.Series(taken)), forgotten], how="diagonal").with_columns(
            pl.col(DELETED).fill_null(True)
        )

    def put_back(self, states: pl.DataFrame) -> pl.DataFrame:
        """Restore groups' states, one per group (see `take_changed`); return the groups' results."""
        if self.windowing is not None:
            self.windowing.put_back(states)
        slots = self._slots_of(states)
        self._rows.put(slots, states)
        return self._results(states).with_columns(pl.Series(SLOT, slots))

    def codes(self) -> Ints:
        """Return the key codes in use."""
        forgotten = (code for _, _, code in self._forgotten)
        return np.unique(np.fromiter(chain((code for _, code in self._slots), forgotten), np.int64))

    def renumber(self, renumbered: Ints) -> None:
        """Follow `Keys.compact`."""
        new = renumbered.tolist()
        self._slots = {(start, new[code]): slot for (start, code), slot in self._slots.items()}
        self._by_window = {
            where: [(start, new[code]) for start, code in groups] for where, groups in self._by_window.items()
        }
        self._forgotten = [(partition, start, new[code]) for partition, start, code in self._forgotten]
        self._rows.map_column(KEY, renumbered)

    def drop_partition(self, partition: int) -> None:
        """Forget a partition's groups; another process may have them now."""
        if self.windowing is not None:
            self.windowing.forget(partition)
        self.seen_before.pop(partition, None)
        self._forgotten = [group for group in self._forgotten if group[0] != partition]
        for where in [where for where in self._by_window if where[0] == partition]:
            self._remove(where)

    def drop_codes(self, codes: Ints) -> None:
        """Do nothing: all that is held belongs to a partition (`drop_partition`)."""

    def rows(self) -> int:
        """Return how many groups are held."""
        return len(self._slots)

    def _slots_of(self, partial: pl.DataFrame) -> Ints:
        starts = partial[WINDOWSTART].to_list() if self.windowing else [0] * len(partial)
        slots = []
        for partition, start, code in zip(partial[ROWPARTITION], starts, partial[KEY], strict=True):
            slot = self._slots.get((start, code))
            if slot is None:
                slot = self._free.pop() if self._free else len(self._slots)
                self._slots[start, code] = slot
                self._by_window.setdefault((partition, start), []).append((start, code))
            slots.append(slot)
        return np.array(slots, dtype=np.int64)

    def _expire(self) -> None:
        for partition, start, _ in self.windowing.due() if self.windowing else ():
            where = (partition, start)
            if self._keeps:
                self._forgotten.extend((where[0], *group) for group in self._by_window.get(where, ()))
            self._remove(where)

    def _remove(self, where: tuple[int, int]) -> None:
        slots = np.array([self._slots.pop(group) for group in self._by_window.pop(where, [])], dtype=np.int64)
        self._rows.drop(slots)
        self._shown[slots[slots < len(self._shown)]] = False
        self._free.extend(slots.tolist())

    def _results(self, states: pl.DataFrame) -> pl.DataFrame:
        deleted = pl.lit(False).alias(DELETED)
        if self.windowing is None:
            return states.select(*self._aggregates.result, *PSEUDO_COLUMNS, KEY, deleted)
        end = (pl.col(WINDOWSTART) + self.windowing.window.size_ms).alias(WINDOWEND)
        return states.select(*self._aggregates.result, *PSEUDO_COLUMNS, WINDOWSTART, end, KEY, deleted)

    def _seen_before(self, states: pl.DataFrame) -> Mask | None:
        """Return which groups were only changed by records that are read again, None where none can be."""
        if not self.seen_before:
            return None
        limits = pl.Series([self.seen_before.get(partition, 0) for partition in states[ROWPARTITION]])
        return (states[ROWOFFSET] < limits).to_numpy()


def _renumbered(frame: pl.DataFrame, renumbered: Ints) -> pl.DataFrame:
    return frame.with_columns(pl.Series(KEY, renumbered[frame[KEY].to_numpy()]))
