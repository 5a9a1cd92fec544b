"""Rows by the codes of their keys: what a table, or a group's state, holds at the moment."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import polars as pl

from ksqlengine.types.arrays import Ints, Mask

# Rows that may be dead before a store is written again: below this, tidying costs more than it saves.
_SLACK_ROWS = 65_536
_MOST_CHUNKS = 16
_PRESENT = "__PRESENT"  # stands for the columns where there are none: a frame without columns has no rows either


class Rows:
    """The newest row of each code, as columns: rows are appended, and older versions are swept out now and then."""

    def __init__(self, schema: Mapping[str, pl.DataType]) -> None:
        """Begin empty, with the columns of `schema`; there may be none where only it counts which codes have a row."""
        self._names = list(schema)
        self._frame = pl.DataFrame(schema=dict(schema) or {_PRESENT: pl.Boolean()})
        self._row = np.full(1024, -1, dtype=np.int64)
        self._live = 0

    def __len__(self) -> int:
        return self._live

    def stored(self) -> int:
        """Return how many rows are stored, older versions included."""
        return len(self._frame)

    def put(self, codes: Ints, frame: pl.DataFrame, deleted: Mask | None = None) -> None:
        """Set the rows of codes; of several rows with the same code the last one counts.

        Args:
            codes: codes ≥ 0.
            frame: one row per code, with the columns.
            deleted: rows that delete their code rather than set it.
        """
        if not len(codes):
            return
        self._grow(int(codes.max()) + 1)
        rows = np.arange(len(self._frame), len(self._frame) + len(codes))
        if deleted is not None:
            rows = np.where(deleted, -1, rows)
        touched = np.unique(codes)
        before = int(np.count_nonzero(self._row[touched] >= 0))
        self._row[codes] = rows
        self._live += int(np.count_nonzero(self._row[touched] >= 0)) - before
        added = frame.select(self._names) if self._names else pl.DataFrame({_PRESENT: np.ones(len(codes), dtype=bool)})
        self._frame = self._frame.vstack(added)
        self._tidy()

    def find(self, codes: Ints) -> Ints:
        """Return each code's row number, -1 where it has none; codes below 0 have none."""
        rows = np.full(len(codes), -1, dtype=np.int64)
        inside = (codes >= 0) & (codes < len(self._row))
        rows[inside] = self._row[codes[inside]]
        return rows

    def take(self, rows: Ints) -> pl.DataFrame:
        """Return rows by their numbers (from `find`); -1 gives a row of nulls. Without columns the frame is empty."""
        if not self._names:
            return pl.DataFrame()
        if np.any(rows < 0):
            return self._frame.select(pl.all().gather(pl.Series(rows).replace(-1, None)))
        return self._frame[rows]

    def drop(self, codes: Ints) -> None:
        """Delete the rows of codes, wherever there are any."""
        inside = np.unique(codes[codes < len(self._row)])
        self._live -= int(np.count_nonzero(self._row[inside] >= 0))
        self._row[inside] = -1

    def map_column(self, name: str, numbers: Ints) -> None:
        """Replace a column's values, which are positions in `numbers`."""
        column = self._frame[name].to_numpy()
        self._frame = self._frame.with_columns(pl.Series(name, numbers[column]))

    def live_codes(self) -> Ints:
        """Return the codes that have a row."""
        return np.flatnonzero(self._row >= 0)

    def renumber(self, renumbered: Ints) -> None:
        """Follow `Keys.compact`."""
        old = self.live_codes()
        rows = self._row[old]
        new = renumbered[old]
        self._row = np.full(max(1024, int(new.max(initial=0)) + 1), -1, dtype=np.int64)
        self._row[new[new >= 0]] = rows[new >= 0]
        self._live = int(np.count_nonzero(new >= 0))

    def _grow(self, length: int) -> None:
        if length > len(self._row):
            grown = np.full(max(length, 2 * len(self._row)), -1, dtype=np.int64)
            grown[: len(self._row)] = self._row
            self._row = grown

    def _tidy(self) -> None:
        if len(self._frame) > 2 * self._live + _SLACK_ROWS:
            codes = self.live_codes()
            self._frame = self._frame[self._row[codes]]
            self._row[codes] = np.arange(len(codes))
        elif self._frame.n_chunks() > _MOST_CHUNKS:
            self._frame = self._frame.rechunk()
