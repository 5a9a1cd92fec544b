"""A finite set of events, sent once, several times, or until stopped: files, and recordings."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import orjson
import polars as pl
import pyarrow as pa

from heartwatch.errors import HeartWatchError
from heartwatch.files.rejects import RejectFile
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
        path: ``.jsonl``, ``.ndjson``, ``.csv`` or ``.parquet``, with the schema's fields. The event time may be missing, or
            is ISO text or ms since the epoch.
        schema: columns wanted.
        event_time: the timestamp column; events without it are stamped with the time of reading.
        rejects: takes rows that are not readable, or miss a field or have a value of another type.

    Raises:
        SourceError: the file can't be read or lacks a field in every row.
    """
    readers: dict[str, Callable[[Path, RejectFile], pl.DataFrame]] = {
        ".jsonl": _json_lines,
        ".ndjson": _json_lines,
        ".csv": _csv,
        ".parquet": lambda found, _: pl.read_parquet(found),
    }
    reader = readers.get(path.suffix.lower())
    if reader is None:
        raise SourceError(f"events can't be read from {path.name!r}; it must end in {', '.join(sorted(readers))}")
    try:
        frame = reader(path, rejects)
    except (OSError, pl.exceptions.PolarsError) as error:
        raise SourceError(f"{str(path)!r} can't be read: {error}; check that the file is there and whole") from error
    missing = [name for name in schema.names if name not in frame.columns and name != event_time]
    if missing:
        raise SourceError(f"{str(path)!r} has no field {missing!r}; each row needs {schema.names!r}")
    if event_time not in frame.columns:
        frame = frame.with_columns(pl.lit(time.time_ns() // 1_000_000).alias(event_time))
    return _typed(frame, schema, event_time, rejects)


def _typed(frame: pl.DataFrame, schema: pa.Schema, event_time: str, rejects: RejectFile) -> pa.RecordBatch:
    """Cast the columns; rows where that fails are rejected with the field's name."""
    wanted = pl.from_arrow(schema.empty_table())
    assert isinstance(wanted, pl.DataFrame)  # noqa: S101 - a table never becomes a series
    casts = [_cast(frame, name, kind, name == event_time) for name, kind in wanted.schema.items()]
    cast = frame.select(casts)
    good = pl.all_horizontal(pl.all().is_not_null())
    keep = cast.select(good).to_series()
    for row in np.flatnonzero(~keep.to_numpy()).tolist():
        fields = [name for name in schema.names if cast[name][row] is None]
        text = orjson.dumps(frame.row(row, named=True), default=str)
        line = int(frame["__line"][row]) if "__line" in frame.columns else row + 1
        rejects.add(line, text, f"field {fields[0]!r} is missing or has a wrong value", f"wrong {fields[0]}")
    table = cast.filter(keep).sort(event_time, maintain_order=True).to_arrow().cast(schema)
    return table.combine_chunks().to_batches()[0] if table.num_rows else _none(schema)


def _cast(frame: pl.DataFrame, name: str, kind: pl.DataType, is_time: bool) -> pl.Expr:
    column = pl.col(name)
    if is_time and frame.schema[name] == pl.String:
        milliseconds = column.cast(pl.Int64, strict=False).cast(pl.Datetime("ms"), strict=False)
        text = column.str.to_datetime(time_unit="ms", time_zone="UTC", strict=False).dt.replace_time_zone(None)
        column = pl.coalesce(milliseconds, text)
    elif frame.schema[name].is_float() and kind.is_integer():
        column = pl.when(column == column.round(0)).then(column)
    return column.cast(kind, strict=False).alias(name)


def _json_lines(path: Path, rejects: RejectFile) -> pl.DataFrame:
    rows: list[dict[str, Any]] = []
    with path.open("rb") as file:
        for number, line in enumerate(file, 1):
            try:
                row = orjson.loads(line)
            except orjson.JSONDecodeError as error:
                rejects.add(number, line.rstrip(), f"not JSON: {error}", "not readable")
                continue
            if isinstance(row, dict):
                rows.append({**row, "__line": number})
            else:
                rejects.add(number, line.rstrip(), "not a JSON object", "not readable")
    return pl.DataFrame(rows, infer_schema_length=None, strict=False) if rows else pl.DataFrame()


def _csv(path: Path, _: RejectFile) -> pl.DataFrame:
    return pl.read_csv(
        path, infer_schema=False, row_index_name="__line", row_index_offset=2, truncate_ragged_lines=True
    )


def _none(schema: pa.Schema) -> pa.RecordBatch:
    return pa.RecordBatch.from_arrays([pa.array([], type=field.type) for field in schema], schema=schema)
