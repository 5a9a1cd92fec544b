"""Operators over tables' changes: filters, joins of two tables, and grouping a table by another key.

A change meets the row that its key had before. Both sides of a join come in one frame, in the order in which they are joined,
with their side in `SIDE`, as in `joins`.

Source: Kafka Streams' ``KTableFilter``, ``KTableKTableInnerJoin``, ``…LeftJoin``, ``…OuterJoin`` and ``KTableRepartitionMap``.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence

import numpy as np
import numpy.typing as npt
import polars as pl

from ksqlengine.execution.operators import (
    DELETED,
    INDEX,
    KEY,
    LEFT,
    RIGHT,
    SIDE,
    SLOT,
    ChangelogState,
    Counters,
    without_repeated,
)
from ksqlengine.execution.rows import Rows
from ksqlengine.execution.windows import Aggregates, ChangingGroups
from ksqlengine.plan.steps import PSEUDO_COLUMNS, ROWOFFSET, ROWPARTITION, ROWTIME, JoinKind
from ksqlengine.types.arrays import Ints, Mask


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


class _Versions:
    """The rows of one table as a frame's changes go through: which version of its key's row each change meets."""

    def __init__(self, rows: Rows, codes: Ints, changes: Mask) -> None:
        """Work out the versions.

        Args:
            rows: the table before the frame.
            codes: key of each of the frame's rows.
            changes: which rows of the frame change this table.
        """
        order = np.lexsort((np.arange(len(codes)), codes))
        starts = np.ones(len(order), dtype=bool)
        starts[1:] = codes[order][1:] != codes[order][:-1]
        group = np.maximum.accumulate(np.where(starts, np.arange(len(order)), 0))
        places = np.where(changes[order], np.arange(len(order)), -1)
        latest = np.maximum.accumulate(places) if len(places) else places
        previous = np.concatenate([[-1], latest[:-1]]).astype(np.int64)
        inverse = np.empty(len(order), dtype=np.int64)
        inverse[order] = np.arange(len(order))
        self._stored = rows.find(codes)
        self.now = np.where(latest >= group, order[latest], -1)[inverse]
        self.before = np.where(previous >= group, order[previous], -1)[inverse]

    def exists(self, version: Ints, deleted: Mask) -> Mask:
        """Say where a version (`now` or `before`) is a row and not a deletion."""
        inside = np.maximum(version, 0)
        return np.where(version >= 0, ~deleted[inside], self._stored >= 0)

    def take(self, version: Ints, there: Mask, rows: Rows, frame: pl.DataFrame, columns: Sequence[str]) -> pl.DataFrame:
        """Return the columns of a version, nulls where there is no row."""
        stored = rows.take(np.where(there & (version < 0), self._stored, -1)).select(columns)
        fresh = frame.select(columns).select(pl.all().gather(pl.Series(np.where(there, version, -1)).replace(-1, None)))
        is_fresh = pl.lit(pl.Series(version >= 0))
        return fresh.with_columns(
            pl.when(is_fresh).then(pl.col(name)).otherwise(pl.lit(stored[name])).alias(name) for name in columns
        )


class _TableState:
    """What operators over tables' changes share: each change gives its results at once."""

    windowing = None

    def __init__(self) -> None:
        self.seen_before: dict[int, int] = {}
        self.tables: list[Rows] = []

    def settle(self, results: pl.DataFrame) -> pl.DataFrame:
        """Return what is to be written: what records that are read again give was written before."""
        return without_repeated(results, self.seen_before)

    def emit(self) -> pl.DataFrame:
        """Return nothing: only changes give results."""
        return pl.DataFrame()

    def codes(self) -> Ints:
        """Return the key codes in use."""
        return np.unique(np.concatenate([rows.live_codes() for rows in self.tables]))

    def renumber(self, renumbered: Ints) -> None:
        """Follow `Keys.compact`."""
        for rows in self.tables:
            rows.renumber(renumbered)

    def drop_codes(self, codes: Ints) -> None:
        """Forget the rows of keys."""
        for rows in self.tables:
            rows.drop(codes)

    def drop_partition(self, partition: int) -> None:
        """Forget a partition; its rows go with its keys (`drop_codes`)."""
        self.seen_before.pop(partition, None)

    def rows(self) -> int:
        """Return how many rows are held."""
        return sum(map(len, self.tables))


class TableTableJoin(_TableState):
    """Joins two tables' current rows of the same key; each change of either gives the key's new result."""

    changelog_state = None

    def __init__(
        self, kind: JoinKind, columns: tuple[Mapping[str, pl.DataType], Mapping[str, pl.DataType]], counters: Counters
    ) -> None:
        """Begin without rows.

        Args:
            kind: which rows come out without a match.
            columns: names and types of the left side's columns and of the right side's.
            counters: where losses are counted.
        """
        super().__init__()
        self._kind = kind
        self._counters = counters
        self._names = [[*columns[side], f"__TIME{side}"] for side in (LEFT, RIGHT)]
        self.tables = [Rows({**columns[side], f"__TIME{side}": pl.Int64()}) for side in (LEFT, RIGHT)]

    def push(self, frame: pl.DataFrame) -> pl.DataFrame:
        """Take changes of both tables, in order; return the changes of the result."""
        if not len(frame):
            return pl.DataFrame()
        codes, sides = frame[KEY].to_numpy(), frame[SIDE].to_numpy()
        deleted = frame[DELETED].to_numpy()
        timed = frame.with_columns(pl.col(ROWTIME).alias("__TIME0"), pl.col(ROWTIME).alias("__TIME1"))
        versions = [_Versions(self.tables[side], codes, sides == side) for side in (LEFT, RIGHT)]
        there = [version.exists(version.now, deleted) for version in versions]
        was = [version.exists(version.before, deleted) for version in versions]
        own_was = np.where(sides == LEFT, was[LEFT], was[RIGHT])
        comes, exists = self._rules(sides, there, own_was)
        parts = [
            version.take(version.now, there[side], self.tables[side], timed, self._names[side])
            for side, version in enumerate(versions)
        ]
        other_times = pl.max_horizontal(pl.col(ROWTIME), "__TIME0", "__TIME1").alias(ROWTIME)
        joined = pl.concat([*parts, frame.select(*PSEUDO_COLUMNS, KEY)], how="horizontal").with_columns(
            other_times, pl.Series(DELETED, ~exists)
        )
        for side in (LEFT, RIGHT):
            own = np.flatnonzero(sides == side)
            self.tables[side].put(codes[own], timed[own].select(self._names[side]), deleted[own])
        return joined.filter(pl.Series(comes)).drop("__TIME0", "__TIME1")

    def _rules(self, sides: npt.NDArray[np.int32], there: list[Mask], own_was: Mask) -> tuple[Mask, Mask]:
        """Return which changes give a result, and which results are rows rather than deletions."""
        left, right = there
        own = np.where(sides == LEFT, left, right)
        other = np.where(sides == LEFT, right, left)
        known = own | own_was
        if self._kind is JoinKind.INNER:
            return other, left & right
        if self._kind is JoinKind.OUTER:
            return other | known, left | right
        kept = LEFT if self._kind is JoinKind.LEFT else RIGHT
        return other | ((sides == kept) & known), there[kept]


class TableRegrouping(_TableState):
    """Turns a table's changes into rows to take out of a group and rows to put into one.

    A row to be taken out is marked TRUE, and NULL where the row that takes its place in the same group follows: as in Kafka
    Streams since 3.5 (KIP-904), the group then changes once, not twice.
    """

    def __init__(self, columns: Mapping[str, pl.DataType], keys: Sequence[str], undo: str) -> None:
        """Begin without rows.

        Args:
            columns: names and types of what is handed on, the grouping included.
            keys: the grouping's columns; a row in which any of them is null is in no group.
            undo: name of the Boolean column that marks rows: TRUE or NULL to be taken out, FALSE to be put in.
        """
        super().__init__()
        self.kept = dict(columns)
        self.windowed = False
        self._names = list(columns)
        self._keys = list(keys)
        self._undo = undo
        self._rows = Rows(columns)
        self.tables = [self._rows]
        self._keeps = False
        self._changed = pl.DataFrame(schema={ROWPARTITION: pl.Int32(), KEY: pl.Int64()})

    def push(self, frame: pl.DataFrame) -> pl.DataFrame:
        """Take changes; return for each the old row, marked, and then the new one."""
        if not len(frame):
            return pl.DataFrame()
        codes, deleted = frame[KEY].to_numpy(), frame[DELETED].to_numpy()
        versions = _Versions(self._rows, codes, np.ones(len(codes), dtype=bool))
        was = versions.exists(versions.before, deleted)
        old = versions.take(versions.before, was, self._rows, frame, self._names)
        pseudo = frame.select(PSEUDO_COLUMNS).with_row_index(INDEX)
        undone = pl.concat([old, pseudo], how="horizontal").filter(pl.Series(was))
        done = pl.concat([frame.select(self._names), pseudo], how="horizontal").filter(~pl.Series(deleted))
        self._rows.put(codes, frame.select(self._names), deleted)
        if self._keeps:
            self._changed = pl.concat([self._changed, frame.select(ROWPARTITION, KEY)]).unique(maintain_order=True)
        both = pl.concat(
            [undone.with_columns(pl.lit(True).alias(self._undo)), done.with_columns(pl.lit(False).alias(self._undo))]
        )
        grouped = both.filter(pl.all_horizontal(pl.col(self._keys).is_not_null())).sort(
            INDEX, ~pl.col(self._undo), maintain_order=True
        )
        same = pl.all_horizontal(pl.col(name) == pl.col(name).shift(-1) for name in (INDEX, *self._keys))
        replaced = pl.when(~(pl.col(self._undo) & same.fill_null(False))).then(self._undo)
        return grouped.with_columns(replaced.alias(self._undo)).drop(INDEX)

    @property
    def changelog_state(self) -> ChangelogState:
        """The table's rows."""
        return self

    def keep_changes(self) -> None:
        """Begin to remember which rows change."""
        self._keeps = True

    def take_changed(self, partitions: Iterable[int]) -> pl.DataFrame:
        """Return partitions' rows that have changed since they were taken last (see `ChangingGroups.take_changed`)."""
        here = pl.col(ROWPARTITION).is_in(list(partitions))
        changed, self._changed = self._changed.filter(here), self._changed.filter(~here)
        found = self._rows.find(changed[KEY].to_numpy())
        return changed.hstack(self._rows.take(found)).with_columns(pl.Series(DELETED, found < 0))

    def put_back(self, states: pl.DataFrame) -> pl.DataFrame:
        """Restore rows, one per key; return nothing that HAVING would look at."""
        self._rows.put(states[KEY].to_numpy(), states.select(self._names))
        return pl.DataFrame()

    def codes(self) -> Ints:
        """Return the key codes in use."""
        return np.unique(np.concatenate([super().codes(), self._changed[KEY].to_numpy()]))

    def renumber(self, renumbered: Ints) -> None:
        """Follow `Keys.compact`."""
        super().renumber(renumbered)
        self._changed = self._changed.with_columns(pl.Series(KEY, renumbered[self._changed[KEY].to_numpy()]))

    def drop_partition(self, partition: int) -> None:
        """Forget a partition; its rows go with its keys (`drop_codes`)."""
        super().drop_partition(partition)
        self._changed = self._changed.filter(pl.col(ROWPARTITION) != partition)


class TableAggregate(ChangingGroups):
    """Aggregate over a table: rows go into groups and out of them again; each change of a group comes out."""

    def __init__(
        self, aggregates: Aggregates, states: Mapping[str, pl.DataType], undo: str, counters: Counters
    ) -> None:
        """Begin without groups.

        Args:
            aggregates: the functions; all of them can undo.
            states: types of the state columns.
            undo: Boolean column that marks rows, as `TableRegrouping` does.
            counters: where losses are counted.
        """
        super().__init__(None, aggregates, states, counters)
        self._undo = undo

    def push(self, frame: pl.DataFrame) -> pl.DataFrame:
        """Take rows; return the groups' results after each row, but for one whose place is taken by the next."""
        if not len(frame):
            return pl.DataFrame()
        # One row a group at a time: what an undone row leaves depends on what came before it.
        nth = frame.select(pl.int_range(pl.len()).over(ROWPARTITION, KEY)).to_series()
        results = [self._round(frame.filter(nth == number)) for number in range(int(nth.to_numpy().max()) + 1)]
        return pl.concat(results).sort(ROWPARTITION, ROWOFFSET, maintain_order=True)

    def _round(self, rows: pl.DataFrame) -> pl.DataFrame:
        undone = pl.col(self._undo).fill_null(True)
        parts = [
            rows.filter(chosen).group_by(*self._keys, maintain_order=True).agg(*self._own, *functions)
            for chosen, functions in ((undone, self._aggregates.undo), (~undone, self._aggregates.partial))
        ]
        reported = pl.concat([rows.filter(undone)[self._undo], rows.filter(~undone)[self._undo]]).is_not_null()
        return self._absorb(pl.concat(parts)).filter(reported)

    def settle(self, results: pl.DataFrame) -> pl.DataFrame:
        """Return what is to be written of results that have been through HAVING (see `ChangingGroups.settle`)."""
        if not len(results):
            return results
        slots, shown = results[SLOT].to_numpy(), ~results[DELETED].to_numpy()
        order = np.argsort(slots, kind="stable")
        again = np.concatenate([[False], slots[order][1:] == slots[order][:-1]])
        before = np.empty(len(slots), dtype=bool)
        before[order] = np.where(again, np.concatenate([[False], shown[order][:-1]]), self._shown_at(slots[order]))
        self._shown[slots[order]] = shown[order]
        return without_repeated(results.filter(pl.Series(shown | before)).drop(SLOT), self.seen_before)
