"""Records of a topic to rows: keys, values, headers and event times; records that can't be read are kept apart."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import numpy.typing as npt
import polars as pl
import pyarrow as pa
import pyarrow.compute as pc

from kafkakit import avro_codec
from kafkakit.batch_consumer import MessageBatch
from ksqlengine.execution.keys import BAD, Keys
from ksqlengine.execution.operators import DELETED, HEADERS, HEADERS_TYPE, KEY, SIDE, VALUELESS, EvaluationFailure
from ksqlengine.execution.stages import KEYLESS
from ksqlengine.expressions.functions.datetime import timestamps_of
from ksqlengine.formats.base import Read, Serde
from ksqlengine.formats.factory import serde
from ksqlengine.formats.json import JsonSerde
from ksqlengine.formats.kafka import KafkaSerde
from ksqlengine.plan.steps import (
    PSEUDO_COLUMNS,
    ROWTIME,
    WINDOWEND,
    WINDOWSTART,
    Column,
    SourceKind,
    SourceStep,
    Window,
    WindowKind,
)
from ksqlengine.types.arrays import Ints

SchemaLookup = Callable[[int], avro_codec.AvroSchema]


@dataclass(frozen=True)
class Rejected:
    """A message that a query could not read, or for which it could not compute an expression (`failure`)."""

    topic: str
    partition: int
    offset: int
    reason: str
    record: bytes | None
    failure: EvaluationFailure | None = None


class KeyReader:
    """Reads record keys: as bytes that are equal where the keys are, and as columns."""

    def __init__(self, step: SourceStep, schemas: SchemaLookup) -> None:
        columns = [Column(_field(step, column.name), column.type) for column in step.schema.key]
        self._serde = serde(step.key_format, columns, schemas, key=True)
        self._plain = isinstance(self._serde, KafkaSerde)
        # Keys are the same where their values are, whatever their columns are called.
        places = [Column(f"K{place}", column.type) for place, column in enumerate(columns)]
        self._canonical: Serde = self._serde if self._plain else JsonSerde(places, wrapped=True)
        self._window = step.key_window
        self._window_bytes = _window_bytes(step.key_window)
        self.names = [column.name for column in step.schema.key]

    def valid(self, key: bytes) -> bool:
        """Say whether bytes (as `canonical` gives them) are a key."""
        if self._window_bytes:
            key = key[: -self._window_bytes]
        elif not self._plain:
            return True
        return self._serde.is_valid(key) if self._plain else not self._serde.read(pa.array([key])).rejects

    def canonical(self, keys: pa.LargeBinaryArray) -> list[bytes | None]:
        """Return keys whose bytes are equal where the keys are; a bad one of a format without such bytes is empty."""
        if self._window_bytes or self._plain:
            return keys.to_pylist()
        read = self._serde.read(keys)
        result: list[bytes | None] = [None] * len(keys)
        places = read.frame.rename({name: f"K{place}" for place, name in enumerate(read.frame.columns)})
        for row, key in zip(read.rows.tolist(), self._canonical.write(places), strict=True):
            result[row] = key
        for row, _ in read.rejects:
            result[row] = b""
        return result

    def columns(self, keys: list[bytes]) -> pl.DataFrame:
        """Return the key columns of canonical keys that are known as good, and the windows of windowed ones."""
        found = pa.array(keys, pa.large_binary())
        if not self._window_bytes:
            return self._named(self._canonical.read(found).frame)
        base = pc.binary_slice(found, 0, -self._window_bytes)
        return self._named(self._serde.read(base).frame).with_columns(self.bounds(found))

    def bounds(self, keys: pa.LargeBinaryArray) -> tuple[pl.Series, pl.Series]:
        """Return start and end of the windows of windowed keys; 0 for null keys."""
        starts = self.window_starts(keys)
        size = None if self._window is None or self._window.kind is WindowKind.SESSION else self._window.size_ms
        ends = self.session_ends(keys) if size is None else starts + size
        return pl.Series(WINDOWSTART, starts), pl.Series(WINDOWEND, ends)

    def read(self, keys: pa.LargeBinaryArray) -> tuple[pl.DataFrame, dict[int, str]]:
        """Return the key columns of messages' keys, nulls where a key is null or bad, and the bad ones' reasons."""
        base = keys
        if self._window_bytes:
            base = pc.binary_slice(keys, 0, -self._window_bytes)
        read = self._serde.read(base)
        frame = self._named(read.frame)
        if len(read.rows) < len(keys):
            rows = np.full(len(keys), -1)
            rows[read.rows] = np.arange(len(read.rows))
            frame = frame.select(pl.all().gather(pl.Series(rows).replace(-1, None)))
        return frame, dict(read.rejects)

    def _named(self, frame: pl.DataFrame) -> pl.DataFrame:
        return frame.rename(dict(zip(frame.columns, self.names, strict=True)))

    def window_starts(self, keys: pa.LargeBinaryArray) -> Ints:
        """Return the window starts that windowed keys end with, ms; 0 for null keys."""
        return np.array([int.from_bytes(key[-8:], "big") if key else 0 for key in keys.to_pylist()], dtype=np.int64)

    def session_ends(self, keys: pa.LargeBinaryArray) -> Ints:
        """Return the ends of sessions, which stand before their starts, ms; 0 for null keys."""
        return np.array([int.from_bytes(key[-16:-8], "big") if key else 0 for key in keys.to_pylist()], dtype=np.int64)


def _sides(keys: pa.LargeBinaryArray) -> tuple[npt.NDArray[np.int32], pa.LargeBinaryArray]:
    """Return which side of a join each record of the join's topic is of, with which its key ends, and the keys without it."""
    ends = np.array([key[-1] if key else 0 for key in keys.to_pylist()], dtype=np.int32)
    bare = pc.binary_slice(keys, 0, -1)
    if (ends >= KEYLESS).any():
        bare = pc.if_else(pa.array(ends < KEYLESS), bare, None)
    return ends % KEYLESS, bare


def _window_bytes(window: Window | None) -> int:
    if window is None:
        return 0
    return 16 if window.kind is WindowKind.SESSION else 8


def _field(step: SourceStep, column: str) -> str:
    """Return a column's name in the topic: below a join the plan puts the source's alias before it."""
    prefix = f"{step.alias}_"
    return column.removeprefix(prefix) if step.alias else column


_OF_A_ROW = (*PSEUDO_COLUMNS, WINDOWSTART, WINDOWEND)


class SourceReader:
    """Turns a topic's messages into a frame of the columns that the plan uses."""

    def __init__(
        self,
        step: SourceStep,
        needed: set[str],
        schemas: SchemaLookup,
        *,
        keeps_valueless: bool = False,
        ahead_max_ms: int | None = None,
    ) -> None:
        """Prepare.

        Args:
            step: what to read.
            needed: columns that are used.
            schemas: gives the Avro schema of an id.
            keeps_valueless: a stream's records with null values come out too; joins and aggregates don't see them.
            ahead_max_ms: a stream's record whose time column lies further ahead of the record's own time is rejected: it would
                move stream time on, and everybody else in its partition would be late. None without a bound.
        """
        self.step = step
        self._ahead_max_ms = ahead_max_ms
        self._keeps_valueless = keeps_valueless
        self.key = KeyReader(step, schemas)
        self._time = self._time_column()
        own = {f"{step.alias}_{name}": name for name in _OF_A_ROW} if step.alias else {}
        self._own_pseudo = {alias: name for alias, name in own.items() if alias in needed}
        headers = dict(step.headers)
        self._headers = {name: key for name, key in headers.items() if name in needed}
        values = [column for column in step.schema.value if column.name not in own and column.name not in headers]
        # A DELIMITED column is known by its place alone, so all of them are read.
        whole = step.value_format.name == "DELIMITED"
        wanted = [column for column in values if whole or column.name in needed or column.name == self._time]
        wanted = wanted or values[:1]  # a message must be read to be known as good
        self._value = serde(
            step.value_format, [Column(_field(step, column.name), column.type) for column in wanted], schemas
        )
        self._names = [column.name for column in wanted]
        self._key_columns = any(column.name in needed or column.name == self._time for column in step.schema.key)
        if step.key_window is not None:  # the bounds of a windowed key are read with its columns
            self._key_columns |= not {WINDOWSTART, WINDOWEND}.isdisjoint({*needed, *self._own_pseudo.values()})

    def _time_column(self) -> str | None:
        wanted = self.step.timestamp_column
        if wanted is None:
            return None
        names = [column.name for column in self.step.schema.columns]
        return wanted if wanted in names else f"{self.step.alias}_{wanted}"

    def read(self, batch: MessageBatch, keys: Keys | None, add: bool) -> tuple[pl.DataFrame, list[Rejected]]:
        """Read a stream's messages.

        Args:
            batch: messages of this topic, ordered by partition.
            keys: gives the codes; None where nothing needs them.
            add: whether new keys get a code.

        Returns:
            good messages' rows, and the bad messages.
        """
        read = self._value.read(batch.value)
        rejects = dict(read.rejects)
        rows, frame = read.rows, read.frame
        if len(read.nulls) and self._keeps_valueless:
            rows, frame = self._with_nulls(read, len(batch))
        else:
            rejects.update(dict.fromkeys(read.nulls.tolist(), "the value is null"))
        frame = self._with_keys(self._pseudo(frame, batch, rows), batch, rows, keys, add, rejects)
        if len(rows) > len(read.rows):
            frame = frame.with_columns(pl.Series(VALUELESS, np.isin(rows, read.nulls)))
        return self._timed(frame, batch, rows, rejects)

    def _timed(
        self, frame: pl.DataFrame, batch: MessageBatch, rows: Ints, rejects: dict[int, str]
    ) -> tuple[pl.DataFrame, list[Rejected]]:
        if self._time is not None:
            frame = with_time(frame, self._time, self.step.timestamp_format)
            self._check_ahead(frame, batch, rows, rejects)
        if self._own_pseudo:
            frame = frame.with_columns(pl.col(name).alias(alias) for alias, name in self._own_pseudo.items())
        self._check_times(frame, rows, rejects)
        return self._without_rejected(frame, batch, rows, rejects)

    @staticmethod
    def _with_nulls(read: Read, count: int) -> tuple[Ints, pl.DataFrame]:
        """Return rows and frame with rows of nulls for the null values of `count` messages."""
        source_rows = np.full(count, -1)
        source_rows[read.rows] = np.arange(len(read.rows))
        rows = np.sort(np.concatenate([read.rows, read.nulls]))
        return rows, read.frame.select(pl.all().gather(pl.Series(source_rows[rows]).replace(-1, None)))

    def read_changes(self, batch: MessageBatch, keys: Keys | None) -> tuple[pl.DataFrame, list[Rejected]]:
        """Read a table's messages as changes: `DELETED` marks the tombstones, whose values are null."""
        read = self._value.read(batch.value)
        rejects = dict(read.rejects)
        rejects.update(dict.fromkeys(np.flatnonzero(batch.key.is_null()).tolist(), "the key of a table's row is null"))
        rows, frame = self._with_nulls(read, len(batch)) if len(read.nulls) else (read.rows, read.frame)
        frame = self._with_keys(self._pseudo(frame, batch, rows), batch, rows, keys, True, rejects)
        frame = frame.with_columns(pl.Series(DELETED, np.isin(rows, read.nulls)))
        return self._timed(frame, batch, rows, rejects)

    def _pseudo(self, frame: pl.DataFrame, batch: MessageBatch, rows: Ints) -> pl.DataFrame:
        frame = frame.rename(dict(zip(frame.columns, self._names, strict=True)))
        whole = len(rows) == len(batch)
        arrays: tuple[npt.NDArray[Any], ...] = (batch.timestamp, batch.partition, batch.offset)
        frame = frame.with_columns(
            pl.Series(name, array if whole else array[rows]) for name, array in zip(PSEUDO_COLUMNS, arrays, strict=True)
        )
        return self._with_headers(frame, batch, rows) if self.step.headers else frame

    def _with_headers(self, frame: pl.DataFrame, batch: MessageBatch, rows: Ints) -> pl.DataFrame:
        """Add the records' headers, and the columns that hold them or the last one of a name."""
        given = batch.headers or ((),) * len(batch)
        items = [[{"KEY": key, "VALUE": value} for key, value in given[row]] for row in rows.tolist()]
        frame = frame.with_columns(pl.Series(HEADERS, items, HEADERS_TYPE))
        element = pl.element().struct
        return frame.with_columns(
            pl.col(HEADERS).alias(name)
            if key is None
            else pl.col(HEADERS)
            .list.eval(element.field("VALUE").filter(element.field("KEY") == key))
            .list.last()
            .alias(name)
            for name, key in self._headers.items()
        )

    def _with_keys(
        self,
        frame: pl.DataFrame,
        batch: MessageBatch,
        rows: Ints,
        keys: Keys | None,
        add: bool,
        rejects: dict[int, str],
    ) -> pl.DataFrame:
        whole = len(rows) == len(batch)
        if self.step.sided:
            sides, bare = _sides(batch.key)
            frame = frame.with_columns(pl.Series(SIDE, sides[rows]))
            batch = replace(batch, key=bare)
        if keys is not None:
            codes = keys.codes(self.key.canonical(batch.key), batch.partition, add)
            bad = np.flatnonzero(codes == BAD)
            rejects.update(dict.fromkeys(bad.tolist(), f"the key is not in the {self.step.key_format.name} format"))
            frame = frame.with_columns(pl.Series(KEY, codes if whole else codes[rows]))
        if not self._key_columns:
            return frame
        columns, bad_keys = self.key.read(batch.key)
        rejects.update({row: f"the key can't be read: {reason}" for row, reason in bad_keys.items()})
        frame = frame.hstack(columns if whole else columns[rows])
        if self.step.key_window is None:
            return frame
        return frame.with_columns(bound.gather(rows) for bound in self.key.bounds(batch.key))

    def _check_ahead(self, frame: pl.DataFrame, batch: MessageBatch, rows: Ints, rejects: dict[int, str]) -> None:
        """Reject records of a clock that is ahead; by their own time, which is the same whenever they are read."""
        if self._ahead_max_ms is None or self.step.kind is not SourceKind.STREAM or frame.is_empty():
            return
        ahead = (frame[ROWTIME] - pl.Series(batch.timestamp[rows])).fill_null(0).to_numpy()
        for place in np.flatnonzero(ahead > self._ahead_max_ms).tolist():
            rejects[int(rows[place])] = (
                f"the event time (column {self._time}) lies {ahead[place]} ms ahead of the record's own time; "
                f"{self._ahead_max_ms} ms are allowed"
            )

    def _check_times(self, frame: pl.DataFrame, rows: Ints, rejects: dict[int, str]) -> None:
        times = frame[ROWTIME]
        if len(times) and (times.null_count() or times.min() < 0):  # type: ignore[operator]
            untimed = ~(times >= 0).fill_null(False).to_numpy()
            reason = f"the event time (column {self._time or ROWTIME}) is null or negative"
            rejects.update(dict.fromkeys(rows[untimed].tolist(), reason))

    def _without_rejected(
        self, frame: pl.DataFrame, batch: MessageBatch, rows: Ints, rejects: dict[int, str]
    ) -> tuple[pl.DataFrame, list[Rejected]]:
        if not rejects:
            return frame, []
        good = np.ones(len(batch), dtype=bool)
        good[list(rejects)] = False
        return frame.filter(pl.Series(good[rows])), [
            Rejected(
                self.step.topic,
                int(batch.partition[row]),
                int(batch.offset[row]),
                rejects[row],
                batch.value[row].as_py(),
            )
            for row in sorted(rejects)
        ]


def with_time(frame: pl.DataFrame, column: str, text_format: str | None) -> pl.DataFrame:
    """Return rows with their time from a column (a record without a value keeps its own); null where the column gives none.

    Args:
        frame: rows.
        column: gives the time: a number of ms, a TIMESTAMP or text.
        text_format: pattern of the column's values where they are text.
    """
    time = pl.col(column)
    if frame.schema[column] == pl.String:
        time = timestamps_of(time, text_format or "")
    time = time.cast(pl.Int64)
    for name in (DELETED, VALUELESS):
        if name in frame.columns:
            time = pl.when(name).then(ROWTIME).otherwise(time)
    return frame.with_columns(time.alias(ROWTIME))
