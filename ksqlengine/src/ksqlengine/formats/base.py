"""What the formats have in common: a serde reads and writes some columns, of keys or of values, in one format.

A reader reports bad messages with their reason and never lets one of them shift or spoil another. A format that reads
keys says of single bytes whether they are a key, so that a key's bytes are checked once however often it comes.
"""

from __future__ import annotations

import struct
from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import polars as pl
import pyarrow as pa

from ksqlengine.errors import KsqlEngineError
from ksqlengine.plan.steps import Column
from ksqlengine.types.arrays import Ints


class FormatError(KsqlEngineError):
    """Columns don't fit a format; the message names the column and what the format can hold."""


@dataclass(frozen=True)
class Read:
    """What came of a column of messages.

    Attributes:
        frame: the good messages' columns.
        rows: position in the input of each row of `frame`.
        nulls: positions of null values.
        rejects: (position, reason) of bad messages.
    """

    frame: pl.DataFrame
    rows: Ints
    nulls: Ints
    rejects: list[tuple[int, str]]


class Serde(ABC):
    """Reads and writes some columns in one format."""

    def __init__(self, columns: Sequence[Column]) -> None:
        """Prepare for columns, in order."""
        self.columns = tuple(columns)
        self.schema = {column.name: column.type.polars for column in columns}

    @abstractmethod
    def read(self, values: pa.LargeBinaryArray) -> Read:
        """Turn messages into columns."""

    @abstractmethod
    def write(self, frame: pl.DataFrame) -> list[bytes | None]:
        """Turn the columns of a frame into messages, one a row."""

    def is_valid(self, value: bytes) -> bool:
        """Say whether bytes are a message of this format."""
        return not self.read(pa.array([value], pa.large_binary())).rejects


class RowSerde(Serde):
    """A format that can be read one message after another; equal ones, as keys often are, once."""

    def read(self, values: pa.LargeBinaryArray) -> Read:
        """Turn messages into columns."""
        distinct = values.dictionary_encode()
        if 2 * len(distinct.dictionary) > len(values):
            return self.read_each(values)
        return _repeated(self.read_each(distinct.dictionary), distinct.indices)

    def read_each(self, values: pa.LargeBinaryArray) -> Read:
        """Turn messages into columns, one by one."""
        rows, kept, nulls, rejects = [], [], [], []
        for position, value in enumerate(values.to_pylist()):
            if value is None:
                nulls.append(position)
                continue
            try:
                row = self.read_one(value)
                if row is None:
                    nulls.append(position)
                else:
                    rows.append(row)
                    kept.append(position)
            except (ValueError, ArithmeticError, TypeError, RecursionError, struct.error) as error:
                rejects.append((position, f"{type(error).__name__}: {error}"))
        frame = pl.DataFrame(rows, schema=self.schema, orient="row") if rows else pl.DataFrame(schema=self.schema)
        return Read(frame, np.array(kept, dtype=np.int64), np.array(nulls, dtype=np.int64), rejects)

    def _with_rest(self, values: pa.LargeBinaryArray, parts: Sequence[tuple[pl.DataFrame, Ints]]) -> Read:
        """Read what is in no part one by one, and put all in order.

        Args:
            values: the messages.
            parts: columns of messages that were read at once, and the messages' positions.
        """
        rows = [positions for _, positions in parts]
        rest = np.setdiff1d(np.arange(len(values)), np.concatenate([*rows, np.empty(0, np.int64)]), assume_unique=True)
        each = self.read_each(values.take(rest))
        frame = pl.concat([each.frame, *(frame for frame, _ in parts)])
        positions = np.concatenate([rest[each.rows], *rows])
        rejects = [(int(rest[position]), reason) for position, reason in each.rejects]
        if len(parts) > 1 or len(each.frame):
            order = np.argsort(positions)
            frame, positions = frame[order], positions[order]
        return Read(frame, positions, rest[each.nulls], rejects)

    def write(self, frame: pl.DataFrame) -> list[bytes | None]:
        """Turn the columns of a frame into messages, one a row."""
        if not self.schema:
            return [self.write_one(())] * len(frame)
        return [self.write_one(row) for row in frame.select(*self.schema).iter_rows()]

    @abstractmethod
    def read_one(self, value: bytes) -> tuple[Any, ...] | None:
        """Return the columns' values of one message; None where it says that there are none.

        Raises:
            ValueError: (or another arithmetic or type error) it is bad.
        """

    @abstractmethod
    def write_one(self, row: tuple[Any, ...]) -> bytes | None:
        """Return the message of one row."""


def _repeated(read: Read, indices: pa.Array) -> Read:
    """Return what came of messages of which the distinct ones were read.

    Args:
        read: what came of the distinct messages.
        indices: which of them each message is, null for a null.
    """
    which = indices.fill_null(-1).to_numpy().astype(np.int64)
    places = np.full(which.max(initial=-1) + 1, -1)
    places[read.rows] = np.arange(len(read.rows))
    reasons = dict(read.rejects)
    bad = np.flatnonzero(np.isin(which, list(reasons))).tolist()
    null = (which < 0) | np.isin(which, read.nulls)
    good = np.flatnonzero(~null & ~np.isin(which, list(reasons)))
    rejects = [(position, reasons[which[position]]) for position in bad]
    return Read(read.frame[places[which[good]]], good, np.flatnonzero(null), rejects)
