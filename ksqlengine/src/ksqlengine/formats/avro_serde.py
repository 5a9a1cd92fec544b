"""AVRO in the registry's wire format."""

from __future__ import annotations

import io
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import fastavro
import numpy as np
import polars as pl
import pyarrow as pa
import pyarrow.compute as pc

from kafkakit import avro_codec
from kafkakit.avro_bodies import body_reader
from ksqlengine.formats import avro
from ksqlengine.formats.base import FormatError, Read, Serde
from ksqlengine.plan.steps import Column
from ksqlengine.types.sqltypes import StructType


class AvroSerde(Serde):
    """AVRO in the registry's wire format, through the vectorised codec."""

    def __init__(
        self,
        columns: Sequence[Column],
        writer_schemas: Callable[[int], avro_codec.AvroSchema],
        write_schema: tuple[avro_codec.AvroSchema, int] | None = None,
        wrapped: bool = True,
    ) -> None:
        """Prepare for columns.

        Args:
            columns: the fields wanted; matched to the writers' fields by name, if need be without regard to case.
            writer_schemas: gives the schema of an id (see `avro_codec.Decoder`).
            write_schema: schema and id to write with.
            wrapped: a STRUCT that is the only column is a field of a record, not the record.
        """
        super().__init__(columns)
        self._is_record = wrapped or not isinstance(columns[0].type, StructType)
        self._look_up = writer_schemas
        self._write_schema = write_schema
        self._reader = avro.avro_of_schema(columns) if columns else _NO_FIELDS
        self._names = [field["name"] for field in self._reader["fields"]]
        self._type = StructType(fields=tuple(zip(self._names, (column.type for column in columns), strict=True)))
        fields = self._written_record(write_schema[0])["fields"] if write_schema else []
        self._defaults = [_Defaults.of(field) for field in fields]
        self._decoder = avro_codec.Decoder(self._reader, self._writer_schema)
        self._unlike: set[bytes] = (
            set()
        )  # ids of schemas whose fields the vectorised codec doesn't turn into the columns
        self._schemas: dict[bytes, tuple[Any, Any, Callable[..., Any]]] = {}

    def read(self, values: pa.LargeBinaryArray) -> Read:
        """Turn messages into columns."""
        if self._unlike and self._unlike & self._schema_ids(values):
            return self._read_each(values)
        known = len(self._unlike)
        decoded = self._decoder.decode(values.to_pylist())
        if len(self._unlike) > known:
            return self._read_each(values)
        frame = pl.DataFrame(pl.from_arrow(decoded.batch))
        rejects = [(reject.index, reject.reason) for reject in decoded.rejects]
        return Read(conform(frame, self.schema), decoded.indices, decoded.nulls, rejects)

    def write(self, frame: pl.DataFrame) -> list[bytes | None]:
        """Turn the columns of a frame into messages, one a row."""
        if self._write_schema is None:
            raise FormatError("no schema to write with; this serde only reads")
        schema, schema_id = self._write_schema
        record = self._written_record(schema)
        branches: list[Any] = schema if isinstance(schema, list) else []
        is_union = record in branches
        whole = frame[self.columns[0].name] if record is not schema and not is_union else None
        if whole is not None and whole.has_nulls():
            # A null that no record is around is a null message.
            there = whole.is_not_null()
            written = iter(self.write(frame.filter(there)))
            return [next(written) if is_there else None for is_there in there]
        wanted = avro_codec.arrow_schema(record)
        series = [frame[column.name] for column in self.columns]
        # A schema of the user's own may have more fields than there are columns, and defaults for what is missing.
        series += [pl.repeat(None, len(frame), dtype=pl.Null, eager=True)] * (len(wanted) - len(series))
        arrays = [
            _arrow(column, field.type, default)
            for column, field, default in zip(series, wanted, self._defaults, strict=True)
        ]
        batch = pa.RecordBatch.from_arrays(arrays, schema=wanted)
        messages = avro_codec.encode(batch, record, schema_id)
        if not is_union:
            return list(messages)
        head, branch = avro_codec.HEADER_BYTES, bytes((2 * branches.index(record),))
        return [message[:head] + branch + message[head:] for message in messages]

    def _written_record(self, schema: Any) -> avro_codec.AvroSchema:
        """Return the record that is written for a row."""
        record = as_record(schema, self._names, self._is_record)
        found: avro_codec.AvroSchema = avro_codec.record_of(record) or record
        return found

    @staticmethod
    def _schema_ids(values: pa.LargeBinaryArray) -> set[bytes]:
        heads = pc.unique(pc.binary_slice(values.drop_null(), 0, avro_codec.HEADER_BYTES)).to_pylist()
        return {head[1:] for head in heads}

    def _read_each(self, values: pa.LargeBinaryArray) -> Read:
        """Turn messages into columns one by one, by ksqlDB's looser rules (see `avro.to_ksql`)."""
        rows: list[list[Any]] = []
        indices, nulls, rejects = [], [], []
        for index, value in enumerate(values.to_pylist()):
            if value is None:
                nulls.append(index)
                continue
            try:
                parsed = self._parsed(value)
            except (avro_codec.SchemaError, FormatError) as error:
                rejects.append((index, str(error)))
                continue
            try:
                row = self._row(value, *parsed)
            except Exception as error:
                rejects.append((index, f"the Avro body can't be decoded: {type(error).__name__}: {error}"))
                continue
            if row is None:
                nulls.append(index)
            else:
                rows.append(row)
                indices.append(index)
        series = [
            pl.Series(column.name, [row[place] for row in rows], column.type.polars)
            for place, column in enumerate(self.columns)
        ]
        return Read(pl.DataFrame(series), np.array(indices, np.int64), np.array(nulls, np.int64), rejects)

    def _parsed(self, value: bytes) -> tuple[Any, Any, Callable[..., Any]]:
        """Return a message's schema for fastavro, the same with its named types in place of their names, and what reads it."""
        if len(value) < avro_codec.HEADER_BYTES or value[0] != 0:
            raise FormatError("the message is not in the registry's wire format")
        schema_id = value[1 : avro_codec.HEADER_BYTES]
        if schema_id not in self._schemas:
            schema = self._writer_schema(int.from_bytes(schema_id, "big"))
            parsed = fastavro.parse_schema(schema)
            self._schemas[schema_id] = parsed, avro.expanded(schema), body_reader(parsed)
        return self._schemas[schema_id]

    def _row(self, value: bytes, parsed: Any, schema: Any, read: Callable[..., Any]) -> list[Any] | None:
        """Return the columns' values of a message; None where a union with null is null."""
        stream = io.BytesIO(value[avro_codec.HEADER_BYTES :])
        record: Any = read(stream, parsed, None, return_named_type=True, return_named_type_override=True)
        if stream.read(1):
            raise FormatError("bytes follow the Avro body")
        if record is None:
            return None
        found = avro.to_ksql(record, schema, self._type, "")
        return [found[name] for name in self._names]

    def _writer_schema(self, schema_id: int) -> Any:
        """Return a writer's schema with its fields named as the columns are, which doesn't change how it is read."""
        written = self._look_up(schema_id)
        try:
            fastavro.parse_schema(written)
            return self._with_names(schema_id, written)
        except Exception as error:
            raise avro_codec.UnusableSchemaError(
                f"schema id {schema_id} is not an Avro schema that can be read: {type(error).__name__}: {error}"
            ) from error

    def _with_names(self, schema_id: int, written: Any) -> Any:
        slow = avro.is_union_of_several(written) and self._is_record
        schema = written if slow else as_record(written, self._names, self._is_record)
        record = avro_codec.record_of(schema)
        if slow or record is None:
            self._unlike.add((schema_id & 0xFFFFFFFF).to_bytes(4, "big"))
            return written
        there = {field["name"] for field in record["fields"]}
        folded = {name.upper(): name for name in self._names if name not in there}
        fields = [
            field
            if field["name"] in self._names
            else {**field, "name": folded.get(field["name"].upper(), field["name"])}
            for field in record["fields"]
        ]
        named = {**record, "fields": fields}
        if not avro_codec.resolves_by_columns(named, self._reader):
            self._unlike.add((schema_id & 0xFFFFFFFF).to_bytes(4, "big"))
        return [branch if branch == "null" else named for branch in schema] if isinstance(schema, list) else named


def as_record(schema: Any, names: Sequence[str], is_record: bool = True) -> Any:
    """Return a schema as a record (or a union of one with null): other values are encoded like a record's only field."""
    if is_record and avro_codec.record_of(schema) is not None:
        return schema
    return {"type": "record", "name": "Unwrapped", "fields": [{"name": names[0] if names else "value", "type": schema}]}


_NO_FIELDS: avro_codec.AvroSchema = {"type": "record", "name": "Nothing", "fields": []}


def conform(frame: pl.DataFrame, schema: dict[str, pl.DataType]) -> pl.DataFrame:
    """Return the frame with the names and types of a schema, by position."""
    if list(frame.schema.items()) == list(schema.items()):
        return frame
    columns = []
    for series, (name, type_) in zip(frame.iter_columns(), schema.items(), strict=True):
        zoned = isinstance(series.dtype, pl.Datetime) and series.dtype.time_zone is not None
        local = series.dt.replace_time_zone(None) if zoned else series
        columns.append((local if local.dtype == type_ else local.cast(type_)).alias(name))
    return pl.DataFrame(columns)


@dataclass(frozen=True)
class _Defaults:
    """What Connect's Avro converter puts where a value of a field is missing: the field's default, those of its own fields."""

    value: Any = None
    fields: tuple[_Defaults, ...] = ()

    @classmethod
    def of(cls, field: Mapping[str, Any]) -> _Defaults:
        """Return the defaults of a field of an Avro record."""
        branches = field["type"] if isinstance(field["type"], list) else [field["type"]]
        record = next(
            (branch for branch in branches if isinstance(branch, dict) and branch.get("type") == "record"),
            {"fields": ()},
        )
        fields = tuple(map(cls.of, record["fields"]))
        return cls(field.get("default"), fields if any(defaults != cls() for defaults in fields) else ())

    def fill(self, array: pa.Array) -> pa.Array:
        """Return the values with the defaults in place of nulls."""
        if self.value is not None:
            return pc.fill_null(array, pa.scalar(self.value, array.type)) if array.null_count else array
        if not self.fields or not pa.types.is_struct(array.type):
            return array
        children = [defaults.fill(array.field(place)) for place, defaults in enumerate(self.fields)]
        return pa.StructArray.from_arrays(children, [field.name for field in array.type], mask=array.is_null())


def _arrow(series: pl.Series, type_: pa.DataType, defaults: _Defaults) -> pa.Array:
    array = series.rechunk().to_arrow()
    if isinstance(array, pa.ChunkedArray):
        array = array.combine_chunks()
    if pa.types.is_null(array.type):
        array = pa.nulls(len(array), type_)
    array = defaults.fill(array)
    if array.type.equals(type_):
        return array
    if pa.types.is_timestamp(type_) and type_.tz:
        return array.cast(pa.timestamp(array.type.unit)).cast(type_)
    if pa.types.is_map(type_):
        return pa.array(
            [None if row is None else [(item["key"], item["value"]) for item in row] for row in series], type_
        )
    return array.cast(type_)
