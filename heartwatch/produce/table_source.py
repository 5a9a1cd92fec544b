"""A finite set of events, sent once, several times, or until stopped: files, and recordings."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import numpy as np
import numpy.typing as npt
import polars as pl
import pyarrow as pa

from heartwatch.errors import HeartWatchError
from heartwatch.files import columns, tables
from heartwatch.files.columns import fault
from heartwatch.files.rejects import RejectFile
from heartwatch.files.tables import Chunk, TableError
from heartwatch.produce.messages import Events
from heartwatch.produce.run import Source
from kafkakit.partitioning import partitions_of

_CLOSERS = 5  # people a partition: one of them surely has the row that a join needs
_LOOK_BACK = 50  # batches


class SourceError(HeartWatchError):
    """Events can't be read from where the run says; the message names the file and the remedy."""


class TableSource:
    """Batches of a table of events, its times moved or replaced."""

    def __init__(
        self,
        events: pa.RecordBatch,
        event_time: str,
        batch_events: int,
        repeat: int = 1,
        start_ms: int | None = None,
    ) -> None:
        """Prepare a table.

        Args:
            events: events in order of event time.
            event_time: the timestamp column.
            batch_events: events a batch.
            repeat: how often the table is sent; 0 until stopped. Each pass follows on the one before.
            start_ms: event time of the first event, ms; None keeps the table's own.

        Raises:
            SourceError: there is no event.
        """
        if not events.num_rows:
            raise SourceError("the source has no event; give one with at least one good row")
        self._events, self._event_time, self._size, self._repeat = events, event_time, batch_events, repeat
        self.batches = -(-events.num_rows // batch_events)
        self._position = events.schema.get_field_index(event_time)
        times = events.column(self._position).cast(pa.timestamp("ms")).view(pa.int64()).to_numpy()
        self._move = 0 if start_ms is None else start_ms - int(times[0])
        self._times = times
        # As if the first event of the next pass came one mean distance after the last one of this.
        span = int(times.max() - times.min())
        self.span_ms = span + max(1, span // max(1, events.num_rows - 1))

    def batch(self, index: int) -> Events | None:
        """Return the batch of an index; None after the last pass."""
        turn, place = divmod(index, self.batches)
        if self._repeat and turn >= self._repeat:
            return None
        part = self._events.slice(place * self._size, self._size)
        times = self._times[place * self._size :][: part.num_rows] + self._move + turn * self.span_ms
        return Events(with_times(part, self._event_time, times))


class StampedNow:
    """Another source's batches, each with the time at which it is sent: several processes send the same events."""

    def __init__(
        self, source: Source, event_time: str, now_ms: Callable[[], int] = lambda: time.time_ns() // 1_000_000
    ) -> None:
        """Take a source.

        Args:
            source: batches.
            event_time: the timestamp column.
            now_ms: time, ms since the epoch.
        """
        self._source, self._event_time, self._now_ms = source, event_time, now_ms

    def batch(self, index: int) -> Events | None:
        """Return the batch of an index; None after the last one."""
        events = self._source.batch(index)
        if events is None:
            return None
        times = np.full(events.columns.num_rows, self._now_ms(), dtype=np.int64)
        return Events(with_times(events.columns, self._event_time, times), events.raw)


class ClosingSource:
    """Another source's batches, and after the last one a few events that close all windows before them.

    A window's result comes when a later event of its partition arrives: without one, the last windows of a run would wait for
    the next run. So the last people seen in each partition are seen once more, a window and its grace period later.
    """

    def __init__(
        self, source: Source, key: str, event_time: str, partitions: int, chosen: Sequence[int], later_ms: int
    ) -> None:
        """Take a source.

        Args:
            source: batches.
            key: the key's column.
            event_time: the timestamp column.
            partitions: partitions of the topic.
            chosen: the shard's partitions.
            later_ms: how much later than the latest event, ms.
        """
        self._source, self._key, self._event_time = source, key, event_time
        self._partitions, self._chosen, self._later_ms = partitions, chosen, later_ms

    def batch(self, index: int) -> Events | None:
        """Return the batch of an index; None after the closing events."""
        events = self._source.batch(index)
        if events is not None or index == 0 or self._source.batch(index - 1) is None:
            return events
        return self._closing(index)

    def _closing(self, end: int) -> Events | None:
        """Look back from the end of the source until each partition has been seen; None where the shard had no event."""
        seen = pl.DataFrame()
        newest, index = 0, end
        while index > max(0, end - _LOOK_BACK) and not self._has_all(seen):
            index -= 1
            events = self._source.batch(index)
            if events is None or not events.columns.num_rows:
                continue
            frame = self._with_partition(events.columns)
            if frame.is_empty():
                # All of this batch goes to other shards.
                continue
            newest = max(newest, int(frame[self._event_time].dt.epoch("ms").max()))  # type: ignore[arg-type]
            seen = pl.concat([frame, seen]) if seen.height else frame
        if seen.is_empty():
            return None
        last = (
            seen.unique(["__partition", self._key], keep="last", maintain_order=True)
            .group_by("__partition", maintain_order=True)
            .tail(_CLOSERS)
            .drop("__partition")
        )
        columns = last.to_arrow().combine_chunks().to_batches()[0]
        times = np.full(columns.num_rows, newest + self._later_ms, dtype=np.int64)
        return Events(with_times(columns, self._event_time, times))

    def _with_partition(self, columns: pa.RecordBatch) -> pl.DataFrame:
        homes = partitions_of(columns.column(self._key).cast(pa.string()), self._partitions)
        frame = pl.from_arrow(columns)
        assert isinstance(frame, pl.DataFrame)  # noqa: S101 - a batch never becomes a series
        return frame.with_columns(pl.Series("__partition", homes)).filter(
            pl.col("__partition").is_in(list(self._chosen))
        )

    def _has_all(self, seen: pl.DataFrame) -> bool:
        return bool(seen.height) and seen["__partition"].n_unique() == len(self._chosen)


def with_times(columns: pa.RecordBatch, event_time: str, times: npt.NDArray[np.int64]) -> pa.RecordBatch:
    """Return events with other event times, ms since the epoch."""
    stamped = pa.array(times, pa.int64()).view(pa.timestamp("ms"))
    position = columns.schema.get_field_index(event_time)
    return columns.set_column(position, pa.field(event_time, stamped.type), stamped)


def read_events(path: Path, schema: pa.Schema, event_time: str, rejects: RejectFile) -> pa.RecordBatch:
    """Read a file of events whole, in order of event time.

    Args:
        path: a table as `heartwatch.files.tables` reads them, with the schema's fields. The event time may be missing, or is
        ISO text or
            a number since the epoch, in a unit that `heartwatch.files.times` finds.
        schema: columns wanted.
        event_time: the timestamp column; events without it are stamped with the time of reading.
        rejects: takes rows that are not readable, or miss a field or have a value of another type.

    Raises:
        SourceError: the file can't be read or lacks a field in every row.
    """
    try:
        parts = list(tables.chunks(path, schema.names))
    except TableError as error:
        raise SourceError(f"events can't be read: {error}") from error
    found = {name for part in parts for name in part.columns}
    missing = [name for name in schema.names if name not in found and name != event_time]
    if missing:
        names = list(dict.fromkeys(name for part in parts for name in part.names))
        raise SourceError(
            f"{str(path)!r} has no field {missing!r}, its fields are {names[:20]!r}; each row needs {schema.names!r}"
        )
    wanted = pl.from_arrow(schema.empty_table())
    assert isinstance(wanted, pl.DataFrame)  # noqa: S101 - a table never becomes a series
    stamp_now = event_time not in found
    typed = [_typed(part, wanted.schema, event_time, stamp_now, rejects) for part in parts]
    table = pl.concat(typed).sort(event_time, maintain_order=True).to_arrow().cast(schema)
    return table.combine_chunks().to_batches()[0] if table.num_rows else _none(schema)


def _typed(
    chunk: Chunk, schema: Mapping[str, pl.DataType], event_time: str, stamp_now: bool, rejects: RejectFile
) -> pl.DataFrame:
    """Cast a chunk's columns; rows where that fails are rejected with the field's name and value."""
    nothing = pl.Series([None] * len(chunk), dtype=pl.String)
    given = {name: chunk.columns.get(name, nothing) for name in schema}
    if stamp_now:
        given[event_time] = pl.Series([time.time_ns() // 1_000_000] * len(chunk), dtype=pl.Int64)
    frame = pl.DataFrame(
        {
            name: _cast(_fitting(chunk, name, given[name]), kind, name == event_time, chunk.decimal_comma)
            for name, kind in schema.items()
        },
        schema=dict(schema),
    )
    keep = np.ones(len(chunk), dtype=bool)
    if len(chunk):
        keep = frame.select(pl.all_horizontal(pl.all().is_not_null())).to_series().to_numpy().copy()
    keep[list(chunk.broken)] = False
    for row in np.flatnonzero(~keep).tolist():
        if row in chunk.broken:
            rejects.add(chunk.lines[row], chunk.texts[row], chunk.broken[row], "not readable")
            continue
        name = next(name for name in schema if frame[name][row] is None)
        kind = chunk.unfit.get(name, {}).get(row)
        fits = fault(name, given[name][row], schema[name], name == event_time)
        reason = fits if kind is None else f"field {name!r} is {kind}, not a value"
        rejects.add(chunk.lines[row], chunk.texts[row], reason, f"wrong {name}")
    return frame.filter(pl.Series(keep, dtype=pl.Boolean))


def _fitting(chunk: Chunk, name: str, column: pl.Series) -> pl.Series:
    """Return a column without the values that no column has."""
    unfit = list(chunk.unfit.get(name, ()))
    return column.clone().scatter(unfit, None) if unfit else column


def _cast(column: pl.Series, kind: pl.DataType, is_time: bool, decimal_comma: bool) -> pl.Series:
    if is_time:
        return columns.event_times(column).cast(pl.Datetime("ms")).cast(kind, strict=False)
    if kind.is_integer():
        return columns.whole_numbers(column, decimal_comma).cast(kind, strict=False)
    if kind.is_float():
        return columns.floats(column, decimal_comma).cast(kind, strict=False)
    if kind == pl.String:
        return columns.texts(column)
    return column.cast(kind, strict=False)


def _none(schema: pa.Schema) -> pa.RecordBatch:
    return pa.RecordBatch.from_arrays([pa.array([], type=field.type) for field in schema], schema=schema)
