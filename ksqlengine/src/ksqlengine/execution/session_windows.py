"""Aggregates over SESSION windows: a key's records with no gap between them longer than the window's.

Source: Kafka Streams' ``KStreamSessionWindowAggregate``. With T the partition's stream time, a record is late when its session,
all that it joins included, ends before T - gap - grace. A session whose end is before that is closed: it comes out with EMIT
FINAL. Records may join it until it ends RETENTION (without one: gap and grace) before T; then it comes out again. It does not
come out where its store let it go before the record that closes it: the store drops whole segments
(``AbstractSegments.cleanupExpiredSegments``), so sessions live a bit longer than the retention.
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import polars as pl

from ksqlengine.execution.operators import DELETED, KEY, SLOT, Counters, StreamTimes, with_keys_only
from ksqlengine.execution.windows import Aggregates
from ksqlengine.plan.steps import PSEUDO_COLUMNS, ROWOFFSET, ROWPARTITION, ROWTIME, WINDOWEND, WINDOWSTART, Window
from ksqlengine.types.arrays import Ints, Mask, runs

_GROUP = [ROWPARTITION, KEY]
_BEFORE = "__BEFORE"  # stream time before a session's first record, Int64
# The session's last result passed HAVING; with EMIT FINAL: the session has not come out yet. Boolean
_SHOWN = "__SHOWN"
_SESSION = "__SESSION"  # number of a session, Int64
_OWN = {
    ROWPARTITION: pl.Int32(), KEY: pl.Int64(), WINDOWSTART: pl.Int64(), WINDOWEND: pl.Int64(), ROWOFFSET: pl.Int64(),
    _BEFORE: pl.Int64(), _SHOWN: pl.Boolean(), _SESSION: pl.Int64(),
}  # fmt: skip


class SessionWindowing:
    """Stream times and open sessions of the partitions, as the execution commits and restores them."""

    def __init__(self, window: Window) -> None:
        self.window = window
        self.times = StreamTimes()
        self.seen_before: dict[int, int] = {}  # offsets below are read again: what came of them was written already
        self.open = pl.DataFrame(schema=_OWN)

    def close_time(self, partition: int) -> int:
        """Return the end that a session must have at least, ms."""
        return self.times[partition] - self.window.size_ms - self.window.grace_ms

    def needed_offset(self, partition: int) -> int | None:
        """Return the lowest offset that a session of the partition needs, None without sessions."""
        return self.open.filter(pl.col(ROWPARTITION) == partition)[ROWOFFSET].min()  # type: ignore[return-value]

    def resume_time(self, partition: int) -> int:
        """Return the stream time before the record at `needed_offset`: reading from there repeats what was done."""
        sessions = self.open.filter(pl.col(ROWPARTITION) == partition)
        if not len(sessions):
            return self.times[partition]
        return int(sessions.sort(ROWOFFSET)[_BEFORE][0])

    def forget(self, partition: int) -> None:
        """Forget a partition."""
        self.times.forget(partition)
        self.seen_before.pop(partition, None)
        self.open = self.open.filter(pl.col(ROWPARTITION) != partition)


class SessionWindows:
    """Aggregate over sessions; each change of a session comes out, or each session once when it closes (`final`)."""

    changelog_state = None

    def __init__(
        self, window: Window, aggregates: Aggregates, states: Mapping[str, pl.DataType], counters: Counters, final: bool
    ) -> None:
        """Begin without sessions.

        Args:
            window: gap and grace.
            aggregates: the functions.
            states: types of the state columns.
            counters: where losses are counted.
            final: EMIT FINAL.
        """
        self.windowing = SessionWindowing(window)
        self.windowing.open = pl.DataFrame(schema={**_OWN, **states})
        self._aggregates = aggregates
        self._counters = counters
        self._final = final
        self._next = 0
        self._looks: dict[int, Ints] = {}  # stream time at each row of the last stretch, by partition
        self.seen_before = self.windowing.seen_before

    def push(self, frame: pl.DataFrame) -> pl.DataFrame:
        """Take rows; return changes of sessions, or the sessions that they closed."""
        frame = with_keys_only(frame, self._counters)
        if not len(frame):
            return self.emit()
        partitions, times = frame[ROWPARTITION].to_numpy(), frame[ROWTIME].to_numpy()
        before, after = self._stream_times(partitions, times)
        again = np.array([self.windowing.seen_before.get(partition, 0) for partition in partitions.tolist()])
        again = frame[ROWOFFSET].to_numpy() < again
        late = times < after - self.windowing.window.size_ms - self.windowing.window.grace_ms
        frame = frame.with_columns(pl.Series(_BEFORE, before))
        results = []
        cuts = self._cuts(times, before, late, again)
        for start, end in zip(cuts, [*cuts[1:], len(frame)], strict=True):
            self._looks = {}
            for partition, first, last in runs(partitions[start:end]):
                self._looks[partition] = after[start + first : start + last]
                self.windowing.times.advance(partition, int(after[start + last - 1]))
            results.append(self._take(frame[start:end], bool(late[start]), bool(again[start])))
        return pl.concat([result for result in results if len(result)] or [pl.DataFrame()])

    def emit(self) -> pl.DataFrame:
        """Forget the sessions that stream time has closed since; with EMIT FINAL return them."""
        return self._close(again=False)

    def settle(self, results: pl.DataFrame) -> pl.DataFrame:
        """Return what is to be written of results that have been through HAVING (see `ChangingGroups.settle`)."""
        if not len(results) or self._final:
            return results
        slots, deleted = results[SLOT].to_numpy(), results[DELETED].to_numpy()
        sessions = np.where(slots < -1, -2 - slots, slots)
        hidden = sessions[deleted & (slots != -1)]
        if len(hidden):
            shown = pl.when(pl.col(_SESSION).is_in(hidden.tolist())).then(pl.lit(False)).otherwise(pl.col(_SHOWN))
            self.windowing.open = self.windowing.open.with_columns(shown.alias(_SHOWN))
        return results.filter(pl.Series((slots == -1) | ((slots >= 0) & ~deleted))).drop(SLOT)

    def codes(self) -> Ints:
        """Return the key codes in use."""
        return np.unique(self.windowing.open[KEY].to_numpy())

    def renumber(self, renumbered: Ints) -> None:
        """Follow `Keys.compact`."""
        codes = pl.Series(KEY, renumbered[self.windowing.open[KEY].to_numpy()])
        self.windowing.open = self.windowing.open.with_columns(codes)

    def drop_partition(self, partition: int) -> None:
        """Forget a partition's sessions."""
        self.windowing.forget(partition)

    def drop_codes(self, codes: Ints) -> None:
        """Do nothing: all that is held belongs to a partition (`drop_partition`)."""

    def rows(self) -> int:
        """Return how many sessions are held."""
        return len(self.windowing.open)

    # ------------------------------------------------------------------------------------------------ one stretch
    def _stream_times(self, partitions: np.ndarray, times: Ints) -> tuple[Ints, Ints]:
        """Return the stream time before and after each row."""
        before, after = np.empty_like(times), np.empty_like(times)
        for partition, start, end in runs(partitions):
            known = np.concatenate([[self.windowing.times[partition]], times[start:end]])
            known = np.maximum.accumulate(known)
            before[start:end], after[start:end] = known[:-1], known[1:]
        return before, after

    def _cuts(self, times: Ints, before: Ints, late: Mask, again: Mask) -> list[int]:
        """Return where a stretch begins whose rows may be taken together.

        Late rows are judged one by one; and what stood before a row near enough to a closed session must have closed it.
        """
        begins = late | (times <= before - self.windowing.window.grace_ms)
        begins[1:] |= late[:-1] | (again[1:] != again[:-1])
        begins[0] = True
        return np.flatnonzero(begins).tolist()

    def _take(self, rows: pl.DataFrame, late: bool, again: bool) -> pl.DataFrame:
        changes = self._put(rows, late, again)
        closed = self._close(again)
        return closed if self._final else changes

    def _put(self, rows: pl.DataFrame, late: bool, again: bool) -> pl.DataFrame:
        """Put rows into sessions; return the changes of these (nothing that matters with EMIT FINAL)."""
        near = self.windowing.open.join(rows.select(_GROUP).unique(), on=_GROUP, how="semi")
        joined = self._joined(rows, near)
        apart = self._apart(joined) if len(rows) > 1 else []
        if apart:
            rest = rows.with_row_index("row").filter(~pl.col("row").is_in(apart)).drop("row")
            parts = [
                self._put(part, late, again) for part in (rest, *(rows[row : row + 1] for row in apart)) if len(part)
            ]
            return pl.concat([part for part in parts if len(part)] or [pl.DataFrame()])
        if late and joined[WINDOWEND].max() < self.windowing.close_time(rows[ROWPARTITION][0]):  # type: ignore[operator]
            self._counters.late += 0 if again else 1
            return pl.DataFrame()
        absorbed = near.join(joined.select(_SESSION, "group").drop_nulls(), on=_SESSION).sort(WINDOWEND)
        merged = self._merged(rows, joined, absorbed)
        kept = self.windowing.open.join(absorbed.select(_SESSION), on=_SESSION, how="anti")
        self.windowing.open = pl.concat([kept, merged.select(kept.columns)])
        return pl.DataFrame() if self._final else self._changes(merged, absorbed, again)

    def _joined(self, rows: pl.DataFrame, near: pl.DataFrame) -> pl.DataFrame:
        """Return rows, and the sessions that they join, as intervals with the number of the group that they make together."""
        intervals = pl.concat(
            [
                near.select(*_GROUP, WINDOWSTART, WINDOWEND, _SESSION, pl.lit(None, pl.UInt32).alias("row")),
                rows.with_row_index("row").select(
                    *_GROUP,
                    pl.col(ROWTIME).alias(WINDOWSTART),
                    pl.col(ROWTIME).alias(WINDOWEND),
                    pl.lit(None, pl.Int64).alias(_SESSION),
                    "row",
                ),
            ]
        ).sort(*_GROUP, WINDOWSTART)
        reach = pl.col(WINDOWEND).cum_max().shift(1).over(_GROUP) + self.windowing.window.size_ms
        grouped = intervals.with_columns((pl.col(WINDOWSTART) > reach).fill_null(True).cum_sum().alias("group"))
        return grouped.filter(pl.col("row").is_not_null().any().over("group"))

    def _apart(self, joined: pl.DataFrame) -> list[int]:
        """Return the rows of groups that are not one growing session from row to row.

        There the order in which parts become one decides the order of their values, so rows must be taken singly.
        """
        gap = self.windowing.window.size_ms
        ordered = joined.sort("group", "row", nulls_last=False)
        first = pl.col(WINDOWSTART).cum_min().shift(1).over("group")
        last = pl.col(WINDOWEND).cum_max().shift(1).over("group")
        apart = (pl.col(WINDOWSTART) > last + gap) | (pl.col(WINDOWEND) < first - gap)
        rows = ordered.filter(apart.fill_null(False).any().over("group"))["row"]
        return rows.drop_nulls().sort().to_list()

    def _merged(self, rows: pl.DataFrame, joined: pl.DataFrame, absorbed: pl.DataFrame) -> pl.DataFrame:
        """Return the sessions that come of rows and the sessions that they join, in the order of their last rows."""
        numbered = rows.with_row_index("row").join(
            joined.select("row", "group").drop_nulls(), on="row", maintain_order="left"
        )
        own = [
            pl.col(ROWPARTITION).first(), pl.col(KEY).first(), pl.col(ROWTIME).min().alias(WINDOWSTART),
            pl.col(ROWTIME).max().alias(WINDOWEND), pl.col(ROWOFFSET).first(), pl.col(_BEFORE).first(),
            pl.col("row").max(),
        ]  # fmt: skip
        partial = numbered.group_by("group", maintain_order=True).agg(*own, *self._aggregates.partial)
        older = absorbed.with_columns(pl.lit(0, pl.UInt32).alias("row")).select(partial.columns)
        first = [pl.col(name).sort_by(ROWOFFSET).first() for name in (ROWPARTITION, KEY, _BEFORE)]
        merged = pl.concat([older, partial]).group_by("group", maintain_order=True).agg(
            *first, pl.col(WINDOWSTART).min(), pl.col(WINDOWEND).max(), pl.col(ROWOFFSET).min(), pl.col("row").max(),
            *self._aggregates.merge,
        ).sort("row")  # fmt: skip
        numbers = np.arange(self._next, self._next + len(merged))
        self._next += len(merged)
        return merged.with_columns(pl.lit(True).alias(_SHOWN), pl.Series(_SESSION, numbers))

    def _changes(self, merged: pl.DataFrame, absorbed: pl.DataFrame, again: bool) -> pl.DataFrame:
        """Return tombstones of sessions that became part of others, each before the session that has it now."""
        order = {group: number for number, group in enumerate(merged["group"].to_list())}
        instants = merged.filter(pl.col(WINDOWSTART) == pl.col(WINDOWEND))["group"].to_list()
        gone = absorbed.filter(pl.col(_SHOWN) & ~pl.col("group").is_in(instants)) if not again else absorbed.clear()
        slot = (-2 - pl.col(_SESSION)) if again else pl.col(_SESSION)
        rows = pl.concat(
            [
                self._results(gone, pl.lit(True), pl.lit(-1, pl.Int64), "group"),
                self._results(merged, pl.lit(False), slot, "group"),
            ]
        )
        numbers = pl.col("group").replace_strict(order, return_dtype=pl.Int64)
        return rows.sort(numbers, ~pl.col(DELETED), WINDOWEND, maintain_order=True).drop("group")

    def _results(self, sessions: pl.DataFrame, deleted: pl.Expr, slot: pl.Expr, *more: str) -> pl.DataFrame:
        own = [name for name in PSEUDO_COLUMNS if name != ROWTIME]
        return sessions.select(
            *self._aggregates.result, *own, pl.col(WINDOWEND).alias(ROWTIME), WINDOWSTART, WINDOWEND, KEY,
            deleted.alias(DELETED), slot.alias(SLOT), *more,
        )  # fmt: skip

    def _close(self, again: bool) -> pl.DataFrame:
        """Forget the sessions that the store hides from later records; with EMIT FINAL return the closed ones, but not again."""
        held, times = self.windowing.open, self.windowing.times
        limits = {partition: times[partition] for partition in held[ROWPARTITION].unique().to_list()}
        time = pl.col(ROWPARTITION).replace_strict(limits, default=-1, return_dtype=pl.Int64)
        window = self.windowing.window
        hidden = held.select(pl.col(WINDOWEND) <= time - window.kept_ms).to_series()
        if not self._final:
            if hidden.any():
                self.windowing.open = held.filter(~hidden)
            return pl.DataFrame()
        due = held.select((pl.col(WINDOWEND) <= time - window.size_ms - window.grace_ms) & pl.col(_SHOWN)).to_series()
        if not due.any() and not hidden.any():
            return pl.DataFrame()
        self.windowing.open = held.with_columns((pl.col(_SHOWN) & ~due).alias(_SHOWN)).filter(~hidden)
        if again or not due.any():
            return pl.DataFrame()
        kept = self._kept(held.filter(due))
        return self._results(kept, pl.lit(False), pl.col(_SESSION)).drop(DELETED, SLOT)

    def _kept(self, closed: pl.DataFrame) -> pl.DataFrame:
        """Return the closed sessions that the store still had at the row that closed them; count the others."""
        kept = np.ones(len(closed), dtype=bool)
        partitions, ends = closed[ROWPARTITION].to_numpy(), closed[WINDOWEND].to_numpy()
        for partition, looks in self._looks.items():
            own = np.flatnonzero(partitions == partition)
            closing = np.searchsorted(looks, ends[own] + self.windowing.window.size_ms + self.windowing.window.grace_ms)
            kept[own] = ends[own] >= self.windowing.window.oldest_kept(looks[closing])
        self._counters.let_go += int(np.count_nonzero(~kept))
        return closed.filter(pl.Series(kept))
