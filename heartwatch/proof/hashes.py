"""Records and rows as hashes: what a comparison needs of them, 29 bytes each, whatever a record is.

A row's `digest` covers all fields of the topic's schema; the Kafka timestamp stands beside it, for layouts without one.
"""

from __future__ import annotations

from collections.abc import Iterable
from enum import IntEnum
from typing import Any

import numpy as np
import numpy.typing as npt
import polars as pl
import pyarrow as pa

from heartwatch.sink.reader import OFFSET, PARTITION, TIMESTAMP, TOPIC
from kafkakit.avro_codec import Decoder
from kafkakit.topic_reader import Records

KEYS = ["partition", "offset"]
ROW_SCHEMA = {"partition": pl.Int32, "offset": pl.Int64, "digest": pl.UInt64, "timestamp": pl.Int64}
KAFKA_SCHEMA = ROW_SCHEMA | {"kind": pl.Int8}
DIGEST = f"polars {pl.__version__}"
"""Which hash function the digests are of: those of another one say nothing."""


_TIMES = 10_000


class RecordKind(IntEnum):
    """What a record in Kafka is."""

    ROW = 0
    TOMBSTONE = 1
    UNDECODABLE = 2


def kafka_frame(parts: Iterable[Records], decoder: Decoder) -> pl.DataFrame:
    """Return partition, offset, digest, timestamp (ms since the epoch) and kind of each record, in order.

    Args:
        parts: records of one topic.
        decoder: of their values.
    """
    frames = []
    for records in parts:
        decoded = decoder.decode(records.value.to_pylist())
        kind = np.full(len(records), RecordKind.UNDECODABLE, dtype=np.int8)
        kind[decoded.indices] = RecordKind.ROW
        kind[decoded.nulls] = RecordKind.TOMBSTONE
        digest = np.zeros(len(records), dtype=np.uint64)
        digest[decoded.indices] = _digests(decoded.batch)
        columns = (records.partition, records.offset, digest, records.timestamp, kind)
        frames.append(pl.DataFrame(dict(zip(KAFKA_SCHEMA, columns, strict=True)), schema=KAFKA_SCHEMA))
    return in_order(pl.concat(frames)) if frames else pl.DataFrame(schema=KAFKA_SCHEMA)


def in_order(rows: pl.DataFrame) -> pl.DataFrame:
    """Return rows by partition and offset, as Polars would sort them at many times the cost."""
    partition, offset = (rows[name].to_numpy() for name in KEYS)
    later = (partition[1:] > partition[:-1]) | ((partition[1:] == partition[:-1]) & (offset[1:] >= offset[:-1]))
    return rows.rechunk() if later.all() else rows[np.lexsort((offset, partition))]


def within(rows: pl.DataFrame, partition: int, begin: int, end: int) -> pl.DataFrame:
    """Return those of rows in order that are of a partition's offsets."""
    numbers = rows["partition"].to_numpy()
    first, last = np.searchsorted(numbers, [partition, partition + 1])
    low, high = first + np.searchsorted(rows["offset"].to_numpy()[first:last], [begin, end])
    return rows.slice(int(low), int(high - low))


def wanted_schema(fields: pa.Schema) -> pa.Schema:
    """Return the columns that a check reads of the sink: the record's place and its fields."""
    places = [
        pa.field(TOPIC, pa.string()),
        pa.field(PARTITION, pa.int32()),
        pa.field(OFFSET, pa.int64()),
        pa.field(TIMESTAMP, pa.timestamp("ms")),
    ]
    return pa.schema([*places, *fields])


def row_frame(
    batch: pa.RecordBatch, topic: str, fields: pa.Schema, first: tuple[int, int]
) -> tuple[pl.DataFrame, set[str]]:
    """Return partition, offset, digest and timestamp of each of the sink's rows, and the fields in which the schema is wrong.

    Args:
        batch: rows in their order.
        topic: Kafka topic.
        fields: the record's fields, in the order and types in which Kafka's records are decoded.
        first: partition and offset of the first row, for rows that don't carry their own.
    """
    wrong: set[str] = set()
    columns = [_column(batch, field, wrong) for field in fields]
    digest = _digests(
        pa.RecordBatch.from_arrays(columns, schema=pa.schema([field.with_nullable(True) for field in fields]))
    )
    if batch.num_rows:
        # A row of another topic has nothing to do here: no digest of Kafka's equals it.
        digest = np.where(_is_of(batch, topic), digest, digest ^ np.uint64(1))
    time = _column(batch, pa.field(TIMESTAMP, pa.timestamp("ms")), wrong).view(pa.int64())
    partition, offset = positions(batch, first)
    values = {"partition": partition, "offset": offset, "digest": digest, "timestamp": pl.from_arrow(time)}
    return pl.DataFrame(values, schema=ROW_SCHEMA), wrong


def comparable(batch: pa.RecordBatch, fields: pa.Schema) -> list[dict[str, Any]]:
    """Return rows as mappings of the record's fields and the Kafka timestamp, in the types of Kafka's records."""
    wanted = [*fields, pa.field(TIMESTAMP, pa.timestamp("ms"))]
    columns = {field.name: _column(batch, field, set()).to_pylist() for field in wanted}
    return [dict(zip(columns, row, strict=True)) for row in zip(*columns.values(), strict=True)]


def positions(batch: pa.RecordBatch, first: tuple[int, int]) -> tuple[npt.NDArray[np.int32], npt.NDArray[np.int64]]:
    """Return partition and offset of each row: its own columns', or counted from a first one."""
    count = batch.num_rows
    if OFFSET not in batch.schema.names:
        return np.full(count, first[0], dtype=np.int32), np.arange(first[1], first[1] + count, dtype=np.int64)
    offset = batch.column(OFFSET).cast(pa.int64()).fill_null(-1).to_numpy(zero_copy_only=False)
    if PARTITION not in batch.schema.names:
        return np.full(count, first[0], dtype=np.int32), offset
    return batch.column(PARTITION).cast(pa.int32()).fill_null(-1).to_numpy(zero_copy_only=False), offset


def sum_digests(rows: pl.DataFrame) -> dict[int, tuple[int, int]]:
    """Return by partition how many rows there are, and the sum of their hashes modulo 2^64: equal for equal rows in any order."""
    if rows.is_empty():
        return {}
    frame = rows.select([*KEYS, "digest", "timestamp"])
    frame = frame.with_columns(hash=pl.Series(frame.hash_rows(seed=11)))
    found = {}
    for (partition,), part in frame.group_by("partition"):
        found[int(partition)] = (part.height, int(np.add.reduce(part["hash"].to_numpy())))
    return found


def _is_of(batch: pa.RecordBatch, topic: str) -> npt.NDArray[np.bool_]:
    position = batch.schema.get_field_index(TOPIC)
    if position < 0:
        return np.ones(batch.num_rows, dtype=bool)
    return np.asarray(pa.compute.equal(batch.column(position), topic).fill_null(False).to_numpy(zero_copy_only=False))


def _column(batch: pa.RecordBatch, wanted: pa.Field, wrong: set[str]) -> pa.Array:
    """Return a column in the wanted type; else nulls, so that its rows count as changed."""
    position = batch.schema.get_field_index(wanted.name)
    if position >= 0:
        try:
            return _as(batch.column(position), wanted.type)
        except (pa.ArrowInvalid, pa.ArrowNotImplementedError):
            wrong.add(f"{wanted.name} is {batch.column(position).type}, not {wanted.type}")
    elif not wanted.nullable:
        wrong.add(f"{wanted.name} is missing")
    return pa.nulls(batch.num_rows, wanted.type)


def _as(column: pa.Array, kind: pa.DataType) -> pa.Array:
    """Convert within what a layout's own types make necessary: a number never becomes a text, nor a text a number."""
    if column.type == kind:
        return column
    if pa.types.is_null(column.type):
        return pa.nulls(len(column), kind)
    if _family(column.type) != _family(kind) and not (pa.types.is_temporal(kind) and pa.types.is_integer(column.type)):
        raise pa.ArrowInvalid(f"{column.type} is not a {kind}")
    return column.cast(kind, safe=False)


def _family(kind: pa.DataType) -> str:
    types = pa.types
    for name, tests in {
        "time": (types.is_temporal,),
        "number": (types.is_integer, types.is_floating, types.is_decimal),
        "text": (types.is_string, types.is_large_string, types.is_dictionary),
        "bytes": (types.is_binary, types.is_large_binary, types.is_fixed_size_binary),
    }.items():
        if any(test(kind) for test in tests):
            return name
    return str(kind.id)


def _digests(columns: pa.RecordBatch) -> npt.NDArray[np.uint64]:
    """Return a hash of each row's fields."""
    frame = pl.from_arrow(columns)
    assert isinstance(frame, pl.DataFrame)  # noqa: S101 - a batch never becomes a series
    return np.asarray(frame.hash_rows(seed=7).to_numpy())


def off_times(timestamps: npt.NDArray[np.int64], seconds: float, around: int = 50) -> npt.NDArray[np.bool_]:
    """Return which of a partition's records have a time far from that of the records around them (Hampel's filter).

    Args:
        timestamps: ms since the epoch, in order of offset.
        seconds: how far is far.
        around: records on either side whose median is taken; as many as there are on both sides near the ends.
    """
    off = np.zeros(len(timestamps), dtype=bool)
    for begin in range(0, len(timestamps), _TIMES):
        first, end = max(0, begin - around), begin + _TIMES
        part = timestamps[first : end + around]
        # Nothing is far from a median when nothing is far from anything: as a rule no median is needed.
        if int(part.max()) - int(part.min()) > seconds * 1000:
            off[begin:end] = _far(part, seconds * 1000, around)[begin - first :][:_TIMES]
    return off


def _far(times: npt.NDArray[np.int64], limit: float, around: int) -> npt.NDArray[np.bool_]:
    median = pl.Series(times).rolling_median(2 * around + 1, center=True).to_numpy(writable=True)
    for index in (*range(min(around, len(times))), *range(max(around, len(times) - around), len(times))):
        reach = min(index, len(times) - 1 - index, around)
        median[index] = np.median(times[index - reach : index + reach + 1])
    return np.asarray(np.abs(times - median) > limit)


def differences(kafka: dict[str, Any], sink: dict[str, Any]) -> dict[str, str]:
    """Return the fields in which a row of the sink differs from Kafka's record, each with both values."""
    return {
        name: f"{value!r} in Kafka, {sink.get(name)!r} in the sink"
        for name, value in kafka.items()
        if sink.get(name) != value
    }
