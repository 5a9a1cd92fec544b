"""Running plan steps: each operator takes a frame of rows and gives the frame that comes of it. No Kafka here.

Rows of a frame are ordered by (partition, offset). Beside the plan's columns a frame has the pseudo columns and `KEY`, the
row's key as a code of `Keys`. Whatever decides by event time does so row by row, with a running maximum inside the
frame, so results don't depend on how the input was cut into frames.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Protocol

import numpy as np
import numpy.typing as npt
import polars as pl

from ksqlengine.execution.keys import ABSENT, Keys
from ksqlengine.execution.rows import Rows
from ksqlengine.plan.steps import PSEUDO_COLUMNS, ROWOFFSET, ROWPARTITION, ROWTIME, WINDOWEND, WINDOWSTART, JoinKind
from ksqlengine.types.arrays import Ints, runs

KEY = "__KEY"  # code of the row's key, Int64; below 0 there is none
DELETED = "__DELETED"  # the row deletes its key (a table's tombstone), Boolean; only in changes of tables
VALUELESS = "__VALUELESS"  # the record's value is null, Boolean; only in streams, and only where there are such records
SLOT = "__SLOT"  # where an aggregate keeps the row's group, Int64; only in changes of groups
SIDE = "__SIDE"  # which side of a join the row is of, `LEFT` or `RIGHT`, Int32; only in a join's own topic
LEFT, RIGHT = 0, 1
HEADERS = "__HEADERS"  # the record's headers, Array(Struct(KEY, VALUE)); only of sources with header columns
INDEX = "__INDEX"  # place in the frame that is being joined, -1 for rows from before, Int64; only inside operators
TIME = "__TIME"  # the record's time where a column named ROWTIME may hold another, Int64
HEADERS_TYPE = pl.List(pl.Struct({"KEY": pl.String, "VALUE": pl.Binary}))
INTERNAL_COLUMNS = (*PSEUDO_COLUMNS, WINDOWSTART, WINDOWEND, KEY, DELETED, VALUELESS, SLOT, HEADERS, TIME)


# ---------------------------------------------------------------------------------------------------------- contracts
class Operator(Protocol):
    """A running step."""

    def push(self, frame: pl.DataFrame) -> pl.DataFrame:
        """Return what comes of the frame's rows."""
        ...


class Windowing(Protocol):
    """Stream times and open windows of a stateful operator, by partition, as a stage commits and restores them."""

    @property
    def times(self) -> StreamTimes:
        """Stream time of each partition."""
        ...

    def needed_offset(self, partition: int) -> int | None:
        """Return the lowest offset from which a partition must be read again for its open windows, None without any."""
        ...

    def resume_time(self, partition: int) -> int:
        """Return the stream time to continue with after reading again from `needed_offset`, ms."""
        ...


class ChangelogState(Protocol):
    """State that a changelog topic keeps: what changed is taken for the topic, and put back from it after a restart."""

    @property
    def kept(self) -> Mapping[str, pl.DataType]:
        """Names and types of the columns that hold a state."""
        ...

    @property
    def windowed(self) -> bool:
        """Whether a state belongs to a key and a window, not to a key alone."""
        ...

    def keep_changes(self) -> None:
        """Begin to remember which states change."""
        ...

    def take_changed(self, partitions: Iterable[int]) -> pl.DataFrame:
        """Return the states of partitions that have changed since they were taken last.

        Returns:
            `ROWPARTITION`, `KEY`, `WINDOWSTART` where there are windows, `kept`, and `DELETED` for states that are forgotten.
        """
        ...

    def put_back(self, states: pl.DataFrame) -> pl.DataFrame:
        """Restore states, one per key and window; return what the operators behind must see of them."""
        ...


class StatefulOperator(Operator, Protocol):
    """A running step that remembers rows: an aggregate, a join of two sides, or the grouping of a table.

    Its memory is kept by partition and key; keys are codes, which are given out again now and then (`codes`, `renumber`).

    Attributes:
        seen_before: offset of each partition below which records are read again to rebuild the memory: what came of them
            was written and counted already.
    """

    seen_before: dict[int, int]

    @property
    def windowing(self) -> Windowing | None:
        """Its windows, None where it has none."""
        ...

    @property
    def changelog_state(self) -> ChangelogState | None:
        """Its memory as a changelog keeps it, None where the source is read again instead."""
        ...

    def emit(self) -> pl.DataFrame:
        """Return what has become final since the last frame, without new rows."""
        ...

    def settle(self, results: pl.DataFrame) -> pl.DataFrame:
        """Return what is to be written of results that have been through the operators behind this one."""
        ...

    def codes(self) -> Ints:
        """Return the key codes in use."""
        ...

    def renumber(self, renumbered: Ints) -> None:
        """Follow `Keys.compact`."""
        ...

    def drop_partition(self, partition: int) -> None:
        """Forget what is kept by partition."""
        ...

    def drop_codes(self, codes: Ints) -> None:
        """Forget what is kept by key alone."""
        ...

    def rows(self) -> int:
        """Return how many rows, groups or sessions are held."""
        ...


# ------------------------------------------------------------------------------------------------------------- losses
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
    """What happened to rows that didn't come through, by name (shown by DESCRIBE EXTENDED), and what could not be computed.

    Attributes:
        late: rows whose window had closed.
        let_go: groups of windows that their store had let go before they were due with EMIT FINAL.
        without_table_row: rows that an INNER join dropped.
        without_key: rows without a key.
        failures: what could not be computed.
    """

    late: int = 0
    let_go: int = 0
    without_table_row: int = 0
    without_key: int = 0
    failures: list[EvaluationFailure] = field(default_factory=list)

    def take_failures(self) -> list[EvaluationFailure]:
        """Return the failures since the last call."""
        failures, self.failures = self.failures, []
        return failures


# ---------------------------------------------------------------------------------------------------------- operators
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


@dataclass(frozen=True)
class FailureCheck:
    """A way in which an expression can fail: where, and what is said of it (see `EvaluationFailure`)."""

    condition: pl.Expr
    step: str
    message: str
    cause: str


class FailureChecks:
    """Notes the rows for which the next step's expressions can't be computed; they are NULL there."""

    def __init__(self, checks: Sequence[FailureCheck], counters: Counters) -> None:
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


class StreamTableJoin:
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


def without_repeated(results: pl.DataFrame, seen_before: Mapping[int, int]) -> pl.DataFrame:
    """Return results without those of records that are read again.

    Args:
        results: rows with the partition and offset of the record that gave them.
        seen_before: offset of each partition below which records are read again.
    """
    if not len(results) or not seen_before:
        return results
    limits = pl.Series([seen_before.get(partition, 0) for partition in results[ROWPARTITION]], dtype=pl.Int64)
    return results.filter(results[ROWOFFSET] >= limits)
