"""The analytic's results computed at one go from the raw topics, and compared with what the query wrote.

Nothing of the engine is used: the topics are decoded, and DuckDB runs the analytic's own statement `ksql/<analytic>/batch/
<topic>.sql` over them. It sees the stream and the table (the latest row of each key) under the names of their topics in
`analytic.toml`, each with the fields of the records and the columns ``event_key`` (the key as text), ``"partition"``,
``"offset"`` and ``"timestamp"`` (the record's own, ms); the KSQL variables that it names are its parameters, and `max_ahead_ms`
of the pipeline's settings. It returns the result topic's fields and ``closed``: whether later events have closed the window.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import duckdb
import numpy as np
import polars as pl
import pyarrow as pa
import pyarrow.compute as pc

from heartwatch.analytic import Analytic
from heartwatch.errors import HeartWatchError
from kafkakit.avro_codec import Decoder, Reject
from kafkakit.topic_reader import Records

KEY, PARTITION, OFFSET, TIMESTAMP, CLOSED = "event_key", "partition", "offset", "timestamp", "closed"
_PLACES = ((KEY, pa.string()), (PARTITION, pa.int32()), (OFFSET, pa.int64()), (TIMESTAMP, pa.int64()))
_WINDOW_BYTES = 8
_DIFFERENCES = ("missing", "extra", "different", "repeated")


class BatchError(HeartWatchError):
    """The batch computation can't be run; the message names the statement and the reason."""


@dataclass(frozen=True)
class Topic:
    """A topic's records as columns.

    Attributes:
        table: fields, key, partition, offset and timestamp (ms) of each good record, each partition's in order of offset.
        tombstones: keys of records without a value, with partition, offset and timestamp.
        rejects: records that can't be decoded: partition, offset and reason.
    """

    table: pa.Table
    tombstones: pa.Table
    rejects: list[tuple[int, int, str]]


def decode_topic(parts: Iterable[Records], decoder: Decoder, windowed_key: bool = False) -> Topic:
    """Decode a topic's records.

    Args:
        parts: records.
        decoder: of their values.
        windowed_key: the key is followed by the 8-byte big-endian window start; it is cut off.
    """
    schema = decoder.arrow_schema
    for name, kind in _PLACES:
        schema = schema.append(pa.field(name, kind))
    good: list[pa.RecordBatch] = []
    gone: list[pa.RecordBatch] = []
    rejects: list[tuple[int, int, str]] = []
    for records in parts:
        decoded = decoder.decode(records.value.to_pylist())
        where = _positions(records, decoded.indices, windowed_key)
        good.append(pa.RecordBatch.from_arrays([*decoded.batch.columns, *where.columns], schema=schema))
        gone.append(_positions(records, decoded.nulls, windowed_key))
        rejects += [_rejected(records, reject) for reject in decoded.rejects]
    tombstones = pa.schema([schema.field(name) for name, _ in _PLACES])
    return Topic(pa.Table.from_batches(good, schema), pa.Table.from_batches(gone, tombstones), rejects)


def _positions(records: Records, rows: np.ndarray[Any, Any], windowed_key: bool) -> pa.RecordBatch:
    keys = records.key.take(pa.array(rows))
    if windowed_key:
        keys = pc.binary_slice(keys, 0, -_WINDOW_BYTES)
    places = (records.partition[rows], records.offset[rows], records.timestamp[rows])
    columns = [keys.cast(pa.string()), *(pa.array(place) for place in places)]
    return pa.RecordBatch.from_arrays(columns, names=[name for name, _ in _PLACES])


def _rejected(records: Records, reject: Reject) -> tuple[int, int, str]:
    return int(records.partition[reject.index]), int(records.offset[reject.index]), reject.reason


def latest_rows(topic: Topic) -> pa.Table:
    """Return the latest row of each key of a compacted topic; a tombstone removes its key."""
    rows = _frame(topic.table)
    gone = _frame(topic.tombstones).with_columns(pl.lit(True).alias("gone"))
    latest = pl.concat([rows, gone], how="diagonal").sort(OFFSET).unique(KEY, keep="last")
    return latest.filter(pl.col("gone").is_null()).select(rows.columns).to_arrow()


@dataclass(frozen=True)
class Computed:
    """What the batch computation gave.

    Attributes:
        rows: the result's rows and `closed`.
        unknown_events: events whose key has no row in the table.
        unknown_keys: distinct keys of those.
    """

    rows: pl.DataFrame
    unknown_events: int
    unknown_keys: int


def compute(
    analytic: Analytic, resource: str, events: pa.Table, rows: pa.Table, variables: Mapping[str, str]
) -> Computed:
    """Run the analytic's batch statement.

    Args:
        analytic: whose statement.
        resource: topic whose rows it gives.
        events: the raw events, of the analytic's stream.
        rows: the latest row of each key, of the analytic's table.
        variables: the KSQL variables that the query was deployed with, and `max_ahead_ms`.

    Raises:
        BatchError: there is no statement, or DuckDB refuses it.
    """
    path = analytic.migrations_folder / "batch" / f"{resource}.sql"
    if not path.exists():
        raise BatchError(
            f"analytic {analytic.analytic!r} has no {_shown(path)!r}; write the query as one batch statement"
        )
    statement = path.read_text(encoding="utf-8")
    parameters = {name: _number(value) for name, value in variables.items() if re.search(rf"\${name}\b", statement)}
    with duckdb.connect(":memory:") as connection:
        connection.register(analytic.stream, events)
        connection.register(analytic.table, rows)
        try:
            results = _frame(connection.sql(statement, params=parameters).to_arrow_table())
        except duckdb.Error as error:
            raise BatchError(f"{_shown(path)!r} failed in DuckDB: {error}") from error
        unknown = connection.execute(
            f"SELECT count(*), count(DISTINCT {KEY}) FROM {analytic.stream} ANTI JOIN {analytic.table} USING ({KEY})"  # noqa: S608
        ).fetchone()
    unknown_events, unknown_keys = unknown if unknown is not None else (0, 0)
    return Computed(results, int(unknown_events), int(unknown_keys))


@dataclass(frozen=True)
class Comparison:
    """How the query's rows compare with the batch computation's.

    Attributes:
        equal: rows that both have, alike in every field.
        missing: rows of closed windows that the query didn't write.
        extra: rows that the batch computation doesn't have.
        different: rows of one key and window whose fields differ; the batch computation's fields end in ``_batch``.
        repeated: keys and windows that the query wrote more than once.
        open_windows: rows of windows that no later event has closed and that the query didn't write yet.
    """

    equal: int
    missing: pl.DataFrame
    extra: pl.DataFrame
    different: pl.DataFrame
    repeated: pl.DataFrame
    open_windows: int

    @property
    def exact(self) -> bool:
        """Whether nothing differs."""
        return not (self.missing.height or self.extra.height or self.different.height or self.repeated.height)

    def differences(self) -> pl.DataFrame:
        """Return every row that differs, with the column difference: missing, extra, different or repeated."""
        parts = [
            frame.select(pl.lit(name).alias("difference"), pl.all())
            for name in _DIFFERENCES
            if not (frame := getattr(self, name)).is_empty()
        ]
        return pl.concat(parts, how="diagonal_relaxed") if parts else pl.DataFrame(schema={"difference": pl.String})

    def sentence(self) -> str:
        """Return how many rows differ in which way; not which, as the sentence reaches people who may not see them."""
        counts = {name: getattr(self, name).height for name in _DIFFERENCES}
        parts = [f"{count:,} {name}" for name, count in counts.items() if count]
        return ", ".join(parts) if parts else f"all {self.equal:,} rows are equal"


def compare(found: pl.DataFrame, computed: pl.DataFrame, by: Sequence[str]) -> Comparison:
    """Compare the query's rows with the batch computation's.

    Args:
        found: the query's rows.
        computed: `Computed.rows`.
        by: fields that identify a row: key and window.
    """
    fields = [name for name in found.columns if name in computed.columns]
    query, batch = found.select(fields), _like(computed, found, fields)
    repeated = query.group_by(by).len().filter(pl.col("len") > 1)
    query = query.unique(by, keep="first", maintain_order=True)
    absent = batch.join(query, on=by, how="anti")
    both = query.join(batch.drop(CLOSED), on=by, how="inner", suffix="_batch")
    values = [name for name in fields if name not in by]
    differs = pl.any_horizontal([pl.col(name).ne_missing(pl.col(f"{name}_batch")) for name in values])
    different = both.filter(differs)
    return Comparison(
        equal=both.height - different.height,
        missing=absent.filter(CLOSED).drop(CLOSED),
        extra=query.join(batch, on=by, how="anti"),
        different=different,
        repeated=repeated,
        open_windows=absent.filter(~pl.col(CLOSED)).height,
    )


def _like(computed: pl.DataFrame, found: pl.DataFrame, fields: Sequence[str]) -> pl.DataFrame:
    """Return the batch computation's rows in the types of the query's; both mean UTC where they say no time zone."""
    casts = []
    for name in fields:
        kind, column = found.schema[name], pl.col(name)
        if isinstance(kind, pl.Datetime) and kind.time_zone and computed.schema[name].time_zone is None:  # type: ignore[attr-defined]
            column = column.dt.replace_time_zone(kind.time_zone)
        casts.append(column.cast(kind))
    return computed.select(*casts, CLOSED)


def _frame(table: pa.Table) -> pl.DataFrame:
    frame = pl.from_arrow(table)
    assert isinstance(frame, pl.DataFrame)  # noqa: S101 - a table never becomes a series
    return frame


def _number(text: str) -> int | float | str:
    for kind in (int, float):
        try:
            return kind(text)
        except ValueError:
            continue
    return text


def _shown(path: Path) -> str:
    return str(Path(*path.parts[-4:]))
