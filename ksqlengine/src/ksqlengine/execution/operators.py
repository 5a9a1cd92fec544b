"""Plan steps at work: each operator takes a frame of rows and gives the frame that comes of it. No Kafka here.

Rows of a frame are ordered by (partition, offset). Beside the plan's columns a frame has the pseudo columns and `KEY`, the
row's key as a code of `state.Keys`. Whatever decides by event time does so row by row, with a running maximum inside the
frame, so that results don't depend on how the input was cut into frames.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from heapq import heappop, heappush
from itertools import chain
from typing import Protocol

import numpy as np
import numpy.typing as npt
import polars as pl

from ksqlengine.execution.keys import ABSENT, Keys
from ksqlengine.execution.rows import Rows
from ksqlengine.plan.steps import (
    PSEUDO_COLUMNS,
    ROWOFFSET,
    ROWPARTITION,
    ROWTIME,
    WINDOWEND,
    WINDOWSTART,
    JoinKind,
    Window,
    WindowKind,
)
from ksqlengine.types.arrays import Ints, Mask, runs

KEY = "__KEY"  # code of the row's key, Int64; below 0 there is none
DELETED = "__DELETED"  # the row deletes its key (a table's tombstone), Boolean; only in changes of tables
VALUELESS = "__VALUELESS"  # the record's value is null, Boolean; only in streams, and only where there are such records
SLOT = "__SLOT"  # where an aggregate keeps the row's group, Int64; only in changes of groups
SIDE = "__SIDE"  # which side of a join the row is of, Int32; only in a join's own topic
HEADERS = "__HEADERS"  # the record's headers, Array(Struct(KEY, VALUE)); only of sources with header columns
TIME = "__TIME"  # the record's time where a column named ROWTIME may hold another, Int64
HEADERS_TYPE = pl.List(pl.Struct({"KEY": pl.String, "VALUE": pl.Binary}))
INTERNAL_COLUMNS = (*PSEUDO_COLUMNS, WINDOWSTART, WINDOWEND, KEY, DELETED, VALUELESS, SLOT, HEADERS, TIME)

# Rows gathered before they are aggregated: grouping few rows at a time costs the most in fixed overhead.
_PENDING_ROWS = 131_072
_BUCKET_SLACK_ROWS = 4_096


@dataclass(frozen=True)
class EvaluationFailure:
    """A row for which an expression could not be computed.

    Attributes:
        partition: where the row came from.
        offset: its offset there.
        step: what computed it, as ksqlDB's loggers call it (``Project``).
        message: ksqlDB's message.
        cause: why.
    """

    partition: int
    offset: int
    step: str
    message: str
    cause: str


@dataclass
class Counters:
    """What happened to rows that didn't come through, by name (shown by DESCRIBE EXTENDED), and what could not be computed."""

    late: int = 0
    without_table_row: int = 0
    without_key: int = 0
    failures: list[EvaluationFailure] = field(default_factory=list)

    def take_failures(self) -> list[EvaluationFailure]:
        """Return the failures since the last call."""
        failures, self.failures = self.failures, []
        return failures


class Operator(Protocol):
    """A step at work."""

    def push(self, frame: pl.DataFrame) -> pl.DataFrame:
        """Return what comes of the frame's rows."""
        ...


class Filter:
    """Keeps the rows whose predicate is TRUE; in a table's changes the others become deletions."""

    def __init__(self, predicate: pl.Expr) -> None:
        self._predicate = predicate

    def push(self, frame: pl.DataFrame) -> pl.DataFrame:
        """Return the rows that pass."""
        if DELETED in frame.columns:
            passed = self._predicate.fill_null(False)
            return frame.with_columns((pl.col(DELETED) | ~passed).alias(DELETED))
        if VALUELESS in frame.columns:
            return frame.filter(self._predicate & ~pl.col(VALUELESS))
        return frame.filter(self._predicate)


class TableFilter:
    """Keeps the rows of a table that pass; where a key's row no longer does, it is deleted, and nothing is said of others.

    Source: Kafka Streams' ``KTableFilter``, which looks at the key's old row too. What was written is remembered as long as
    the process lives; of a partition that it goes on with, it isn't known, and then a deletion too many is right.
    """

    def __init__(self, predicate: pl.Expr) -> None:
        self._passes = (~pl.col(DELETED) & predicate).fill_null(False)
        self._known = np.zeros(
            1024, dtype=np.int8
        )  # by code: 1 a row was written last, -1 none or a deletion, 0 not known
        self._continued: set[int] = set()

    def push(self, frame: pl.DataFrame) -> pl.DataFrame:
        """Return the rows that pass, and deletions of those that did."""
        if not len(frame):
            return frame
        codes, passes = frame[KEY].to_numpy(), frame.select(self._passes).to_series().to_numpy()
        if codes.max() >= len(self._known):
            self._known = np.concatenate([self._known, np.zeros(int(codes.max()) + 1, dtype=np.int8)])
        order = np.argsort(codes, kind="stable")
        ordered_codes, ordered = codes[order], passes[order]
        again = np.concatenate([[False], ordered_codes[1:] == ordered_codes[:-1]])
        known = self._known[ordered_codes]
        continued = np.isin(frame[ROWPARTITION].to_numpy()[order], list(self._continued))
        before = np.empty(len(codes), dtype=bool)
        before[order] = np.where(
            again, np.concatenate([[False], ordered[:-1]]), (known > 0) | ((known == 0) & continued)
        )
        self._known[ordered_codes] = np.where(ordered, 1, -1)
        return frame.with_columns(pl.Series(DELETED, ~passes)).filter(pl.Series(passes | before))

    def go_on(self, partition: int) -> None:
        """Take a partition of which rows were written before: which ones isn't known."""
        self._continued.add(partition)

    def forget(self, partition: int, codes: Ints) -> None:
        """Forget a partition and its keys."""
        self._continued.discard(partition)
        self._known[codes[codes < len(self._known)]] = 0

    def live_codes(self) -> Ints:
        """Return the codes of the keys whose row was written last."""
        return np.flatnonzero(self._known > 0)

    def renumber(self, renumbered: Ints) -> None:
        """Follow `Keys.compact`."""
        old = self.live_codes()
        self._known = np.zeros(max(1024, len(renumbered)), dtype=np.int8)
        self._known[renumbered[old]] = 1


@dataclass(frozen=True)
class Check:
    """A way in which an expression can fail: where, and what is said of it (see `EvaluationFailure`)."""

    condition: pl.Expr
    step: str
    message: str
    cause: str


class Checks:
    """Notes the rows for which the next step's expressions can't be computed; they are NULL there."""

    def __init__(self, checks: Sequence[Check], counters: Counters) -> None:
        self._checks = list(checks)
        self._any = [check.condition.any().alias(str(number)) for number, check in enumerate(checks)]
        self._counters = counters

    def push(self, frame: pl.DataFrame) -> pl.DataFrame:
        """Return the frame as it is."""
        if len(frame):
            for check, fails in zip(self._checks, frame.select(self._any).row(0), strict=True):
                rows = frame.filter(check.condition).select(ROWPARTITION, ROWOFFSET) if fails else None
                for partition, offset in rows.iter_rows() if rows is not None else ():
                    failure = EvaluationFailure(partition, offset, check.step, check.message, check.cause)
                    self._counters.failures.append(failure)
        return frame


class Project:
    """Computes columns; pseudo columns pass through."""

    def __init__(self, items: Mapping[str, pl.Expr], keys_of_values: frozenset[str] = frozenset()) -> None:
        """Prepare.

        Args:
            items: the columns.
            keys_of_values: those that are a key made of the value: NULL where the record's value is null.
        """
        self._items = [expression.alias(name) for name, expression in items.items()]
        self._names = set(items)  # PARTITION BY ROWTIME makes a pseudo column a column
        self._valueless_items = [
            pl.when(~pl.col(VALUELESS)).then(expression).alias(name)
            if name in keys_of_values
            else expression.alias(name)
            for name, expression in items.items()
        ]

    def push(self, frame: pl.DataFrame) -> pl.DataFrame:
        """Return the computed columns."""
        kept = [name for name in INTERNAL_COLUMNS if name in frame.columns and name not in self._names]
        if VALUELESS not in frame.columns:
            return frame.select(*self._items, *kept)
        time = [pl.col(ROWTIME).alias(TIME)] if ROWTIME in self._names else []  # as a key it may be NULL
        return frame.select(*self._valueless_items, *kept, *time)


class FlatMap:
    """Gives a stream's row once for every element of its longest array; none where all of them are empty or NULL."""

    def __init__(self, arrays: Mapping[str, pl.Expr]) -> None:
        self._arrays = [array.alias(name) for name, array in arrays.items()]
        self._names = list(arrays)

    def push(self, frame: pl.DataFrame) -> pl.DataFrame:
        """Return the rows with an element of each array, in the arrays' order."""
        if VALUELESS in frame.columns:
            frame = frame.filter(~pl.col(VALUELESS))
        length = pl.max_horizontal(pl.col(self._names).list.len().fill_null(0))
        rows = frame.with_columns(self._arrays).filter(length > 0)
        if len(self._names) > 1:
            positions = pl.int_ranges(length)
            rows = rows.with_columns(pl.col(self._names).fill_null([]).list.gather(positions, null_on_oob=True))
        return rows.explode(self._names)


class TableJoin:
    """Joins stream rows with a table's current rows of the same key: a gather by the key's code."""

    def __init__(self, table: Rows, kind: JoinKind, counters: Counters) -> None:
        self._table = table
        self._kind = kind
        self._counters = counters

    def push(self, frame: pl.DataFrame) -> pl.DataFrame:
        """Return the joined rows; an INNER join drops and counts those without a table row."""
        rows = self._table.find(frame[KEY].to_numpy())
        if self._kind is JoinKind.INNER:
            found = rows >= 0
            if not found.all():
                self._counters.without_table_row += int(len(found) - np.count_nonzero(found))
                frame = frame.filter(pl.Series(found))
                rows = rows[found]
        return frame.hstack(self._table.take(rows))


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


_WINDOW_KEYS = (ROWPARTITION, WINDOWSTART, KEY)


class StreamTimes:
    """Stream time of each partition: the largest event time seen, row by row."""

    def __init__(self) -> None:
        self._times: dict[int, int] = {}

    def __getitem__(self, partition: int) -> int:
        return self._times.get(partition, -1)

    def advance(self, partition: int, time: int) -> None:
        """Move a partition's stream time to `time`, never back."""
        self._times[partition] = max(self[partition], time)

    def forget(self, partition: int) -> None:
        """Forget a partition."""
        self._times.pop(partition, None)

    def follow(self, partitions: npt.NDArray[np.int32], times: Ints) -> Ints:
        """Return the stream time at each row, that row included, and remember the last ones.

        Args:
            partitions: of rows ordered by partition.
            times: event times, ms.
        """
        at_row = np.empty(len(times), dtype=np.int64)
        for partition, start, end in runs(partitions):
            part = at_row[start:end]
            np.maximum.accumulate(times[start:end], out=part)
            np.maximum(part, self[partition], out=part)
            self._times[partition] = int(part[-1])
        return at_row


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


class _Windowing:
    """Puts rows into windows, drops late ones, and knows which windows are open: what all windowed aggregates share."""

    def __init__(self, window: Window, counters: Counters) -> None:
        self.window = window
        self.times = StreamTimes()
        self.seen_before: dict[int, int] = {}  # offsets below are read again: their losses were counted already
        self.first_offsets: dict[tuple[int, int], int] = {}  # of each open (partition, window start)
        self._starts: dict[int, list[int]] = {}  # heaps of open windows' starts by partition
        self._counters = counters

    def assign(self, frame: pl.DataFrame) -> pl.DataFrame:
        """Return one row for each open window that a row falls into, with `WINDOWSTART`."""
        partitions, times = frame[ROWPARTITION].to_numpy(), frame[ROWTIME].to_numpy()
        stream_times = self.times.follow(partitions, times)
        rows, starts = window_rows(times, self.window)
        late = starts + self.window.size_ms <= stream_times[rows] - self.window.grace_ms
        offsets = frame[ROWOFFSET].to_numpy()
        if late.any():
            self._count_late(partitions[rows[late]], offsets[rows[late]])
            rows, starts = rows[~late], starts[~late]
        self._note(partitions[rows], starts, offsets[rows])
        whole = len(rows) == len(frame) and self.window.kind is WindowKind.TUMBLING
        return (frame if whole else frame[rows]).with_columns(pl.Series(WINDOWSTART, starts))

    def due(self) -> list[tuple[int, int]]:
        """Return, and no longer count as open, the windows whose end and grace stream time has passed."""
        closed = []
        for partition, starts in self._starts.items():
            limit = self.times[partition] - self.window.grace_ms - self.window.size_ms
            while starts and starts[0] <= limit:
                closed.append((partition, heappop(starts)))
        for one in closed:
            del self.first_offsets[one]
        return closed

    def needed_offset(self, partition: int) -> int | None:
        """Return the lowest offset that an open window of the partition needs, None without open windows."""
        return min((self.first_offsets[partition, start] for start in self._starts.get(partition, ())), default=None)

    def put_back(self, states: pl.DataFrame) -> None:
        """Take up the windows of states that are kept elsewhere: no offset is needed for them."""
        for partition, start in states.select(ROWPARTITION, WINDOWSTART).unique(maintain_order=True).iter_rows():
            if (partition, start) not in self.first_offsets:
                self.first_offsets[partition, start] = -1
                heappush(self._starts.setdefault(partition, []), start)

    def resume_time(self, partition: int) -> int:
        """Return the stream time to go on with after reading again from `needed_offset`: the one reached."""
        return self.times[partition]

    def open_partitions(self) -> list[int]:
        """Return the partitions with open windows."""
        return [partition for partition, starts in self._starts.items() if starts]

    def last_end(self, partition: int) -> int:
        """Return the stream time at which the partition's last open window closes, ms."""
        return max(self._starts[partition]) + self.window.size_ms + self.window.grace_ms

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
    """Windowed aggregate with EMIT FINAL: a window's groups come out once, when it closes.

    Rows gather unaggregated until a window is due or many are there; then they are grouped in one go into partial states a
    window, which are merged when the window closes, or when they have doubled (so memory follows the open groups).
    """

    def __init__(self, window: Window, aggregates: Aggregates, counters: Counters) -> None:
        self.windowing = _Windowing(window, counters)
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
        parts = [part for one in due if one in self._buckets for part in self._buckets.pop(one).parts]
        if not parts:
            return self.empty()
        return self._results(self._merge(parts))

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


class Changes:
    """Aggregate with EMIT CHANGES, in windows or for ever: each group that a frame changed comes out, once a frame."""

    def __init__(
        self, window: Window | None, aggregates: Aggregates, states: Mapping[str, pl.DataType], counters: Counters
    ) -> None:
        """Begin without groups.

        Args:
            window: None to aggregate for ever.
            aggregates: the functions.
            states: types of the state columns.
            counters: where losses are counted.
        """
        self.windowing = _Windowing(window, counters) if window else None
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
        """Merge partial states, one a group, into the groups' states; return the groups' results."""
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
        told = shown | self._shown_at(slots)
        self._shown[slots] = shown
        again = self._seen_before(results)
        return results.filter(pl.Series(told if again is None else told & ~again)).drop(SLOT)

    def _shown_at(self, slots: Ints) -> Mask:
        """Return whether the groups' last results passed HAVING, with room for the groups."""
        if slots.max() >= len(self._shown):
            self._shown = np.concatenate([self._shown, np.zeros(int(slots.max()) + 1, dtype=bool)])
        return self._shown[slots]

    def emit(self) -> pl.DataFrame:
        """Drop closed windows' states; nothing comes out by the passing of time alone."""
        self._expire()
        return pl.DataFrame()

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
        gone = [one for one in self._forgotten if one[0] in wanted]
        self._forgotten = [one for one in self._forgotten if one[0] not in wanted]
        if not gone:
            return states.filter(pl.Series(taken))
        names = (ROWPARTITION, WINDOWSTART, KEY)
        forgotten = pl.DataFrame(gone, schema={name: states.schema[name] for name in names}, orient="row")
        return pl.concat([states.filter(pl.Series(taken)), forgotten], how="diagonal").with_columns(
            pl.col(DELETED).fill_null(True)
        )

    def put_back(self, states: pl.DataFrame) -> pl.DataFrame:
        """Take up groups' states, one a group (see `take_changed`); return the groups' results."""
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
        self._forgotten = [one for one in self._forgotten if one[0] != partition]
        for where in [where for where in self._by_window if where[0] == partition]:
            self._remove(where)

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
        for where in self.windowing.due() if self.windowing else ():
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


class KeyColumns:
    """Gives a frame its key columns back from the codes."""

    def __init__(self, keys: Keys, decode: Callable[[list[bytes]], pl.DataFrame], ordered: bool) -> None:
        """Prepare.

        Args:
            keys: the codes.
            decode: gives the columns of keys.
            ordered: put rows in order of partition, window and key bytes, as Kafka Streams' suppress buffer keeps them.
        """
        self._keys = keys
        self._decode = decode
        self._ordered = ordered

    def push(self, frame: pl.DataFrame) -> pl.DataFrame:
        """Return the frame with its key columns."""
        codes = frame[KEY].to_numpy()
        keyed = codes > ABSENT
        if not keyed.all():
            columns = self._decode(self._keys.bytes_of(codes[keyed]))
            places = pl.Series(np.where(keyed, np.cumsum(keyed) - 1, -1)).replace(-1, None)
            return frame.hstack(columns.select(pl.all().gather(places)))
        keys = self._keys.bytes_of(codes)
        if self._ordered:
            by = frame.select(ROWPARTITION, WINDOWEND, pl.Series(KEY, keys, dtype=pl.Binary), WINDOWSTART)
            order = by.select(pl.arg_sort_by(by.columns)).to_series()
            frame, keys = frame[order], [keys[row] for row in order]
        return frame.hstack(self._decode(keys))


def run_chain(operators: Iterable[Operator], frame: pl.DataFrame) -> pl.DataFrame:
    """Push a frame through operators, stopping where nothing is left."""
    for operator in operators:
        if not len(frame):
            return frame
        frame = operator.push(frame)
    return frame


def columns_read(expressions: Sequence[pl.Expr]) -> list[str]:
    """Return the columns that expressions read, each once."""
    return [*dict.fromkeys(name for expression in expressions for name in expression.meta.root_names())]


def with_keys_only(frame: pl.DataFrame, counters: Counters) -> pl.DataFrame:
    """Return the rows with a key; the others are counted: an aggregate has no group for them."""
    keyed = frame[KEY].to_numpy() > ABSENT
    if keyed.all():
        return frame
    counters.without_key += int(len(keyed) - np.count_nonzero(keyed))
    return frame.filter(pl.Series(keyed))


def _renumbered(frame: pl.DataFrame, renumbered: Ints) -> pl.DataFrame:
    return frame.with_columns(pl.Series(KEY, renumbered[frame[KEY].to_numpy()]))
