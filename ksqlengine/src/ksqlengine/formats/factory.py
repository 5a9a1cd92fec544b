"""Bytes to columns and back, a format at a time: KAFKA, AVRO, JSON, DELIMITED and NONE, for keys and for values.

A reader tells bad messages apart with their reason and never lets one of them move or spoil another. A format that reads
keys says of single bytes whether they are a key, so that a key's bytes are checked once however often it comes.
"""

from __future__ import annotations

import csv
import io
import json
import math
import re
import struct
from abc import ABC, abstractmethod
from base64 import b64decode, b64encode
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, date, datetime, time, timedelta
from decimal import Context, Decimal, InvalidOperation
from typing import Any, ClassVar

import fastavro
import numpy as np
import orjson
import polars as pl
import pyarrow as pa
import pyarrow.compute as pc

from kafkakit import avro_codec
from ksqlengine.formats import avro, delimited_columns, json_columns
from ksqlengine.plan.steps import Column, Format
from ksqlengine.types.arrays import Ints
from ksqlengine.types.casts import java_double
from ksqlengine.types.sqltypes import ArrayType, DecimalType, MapType, SqlType, StructType

_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_EPOCH_DAY = date(1970, 1, 1)
_NOT_FINITE = {math.inf: "Infinity", -math.inf: "-Infinity"}  # Jackson writes them, and NaN, as text
_EXACT = Context(prec=100)  # more digits than any DECIMAL has
_LIMITS = {"INTEGER": 2**31, "BIGINT": 2**63}


class FormatError(Exception):
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
                rows.append(self.read_one(value))
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
    def read_one(self, value: bytes) -> tuple[Any, ...]:
        """Return the columns' values of one message.

        Raises:
            ValueError: (or another arithmetic or type error) it is bad.
        """

    @abstractmethod
    def write_one(self, row: tuple[Any, ...]) -> bytes | None:
        """Return the message of one row."""


def _repeated(read: Read, indices: pa.Array) -> Read:
    """Return what came of messages of which the distinct ones were read.

    Args:
        read: what came of the distinct messages, none of them null.
        indices: which of them each message is, null for a null.
    """
    which = indices.fill_null(-1).to_numpy().astype(np.int64)
    places = np.full(which.max(initial=-1) + 1, -1)
    places[read.rows] = np.arange(len(read.rows))
    reasons = dict(read.rejects)
    bad = np.flatnonzero(np.isin(which, list(reasons))).tolist()
    good = np.flatnonzero((which >= 0) & ~np.isin(which, list(reasons)))
    rejects = [(position, reasons[which[position]]) for position in bad]
    return Read(read.frame[places[which[good]]], good, np.flatnonzero(which < 0), rejects)


class KafkaSerde(RowSerde):
    """KAFKA: one column in the Java client's plain serializers: UTF-8 text or big-endian numbers."""

    _STRUCTS: ClassVar = {"INTEGER": ">i", "BIGINT": ">q", "DOUBLE": ">d"}

    def __init__(self, columns: Sequence[Column]) -> None:
        """Prepare for one column.

        Raises:
            FormatError: there are several, or its type has no plain serializer.
        """
        super().__init__(columns)
        if len(self.columns) > 1:
            raise FormatError("The 'KAFKA' format only supports a single field. Got: " + ", ".join(self.schema))
        self._type = self.columns[0].type.name if self.columns else "STRING"
        if self._type not in {*self._STRUCTS, "STRING", "BYTES"}:
            raise FormatError(f"The 'KAFKA' format does not support type '{self._type}'")

    def read(self, values: pa.LargeBinaryArray) -> Read:
        """Turn messages into columns."""
        column = None if values.null_count or not self.columns else self._column(values)
        if column is None:
            return super().read(values)
        return Read(pl.DataFrame({self.columns[0].name: column}), np.arange(len(values)), np.empty(0, np.int64), [])

    def _column(self, values: pa.LargeBinaryArray) -> pl.Series | None:
        """Return the values of messages that are all good; None when one of them isn't."""
        if self._type == "BYTES":
            return pl.Series(pl.from_arrow(values))
        if self._type == "STRING":
            try:
                return pl.Series(pl.from_arrow(values.cast(pa.large_string())))
            except pa.ArrowInvalid:
                return None
        layout = np.dtype(self._STRUCTS[self._type])
        if pc.any(pc.not_equal(pc.binary_length(values), layout.itemsize)).as_py():
            return None
        numbers = np.frombuffer(b"".join(values.to_pylist()), layout)
        return pl.Series(numbers.astype(layout.newbyteorder("=")), dtype=self.columns[0].type.polars)

    def write(self, frame: pl.DataFrame) -> list[bytes | None]:
        """Turn the column of a frame into messages, one a row."""
        if not self.columns:
            return super().write(frame)
        column = frame[self.columns[0].name]
        if self._type in ("STRING", "BYTES"):
            return column.cast(pl.Binary).to_list()
        if column.has_nulls():
            return super().write(frame)
        layout = np.dtype(self._STRUCTS[self._type])
        return column.to_numpy().astype(layout).view(f"V{layout.itemsize}").tolist()

    def read_one(self, value: bytes) -> tuple[Any, ...]:
        """Return the value of one message."""
        if self._type == "STRING":
            return (value.decode(),)
        if self._type == "BYTES":
            return (value,)
        return struct.unpack(self._STRUCTS[self._type], value)

    def write_one(self, row: tuple[Any, ...]) -> bytes | None:
        """Return the message of one row."""
        value = row[0]
        if value is None or self._type == "BYTES":
            return value
        return value.encode() if self._type == "STRING" else struct.pack(self._STRUCTS[self._type], value)

    def is_valid(self, value: bytes) -> bool:
        """Say whether bytes are a message of this format."""
        try:
            self.read_one(value)
        except (ValueError, struct.error):
            return False
        return True


class NoneSerde(RowSerde):
    """NONE: no columns; what is there is ignored."""

    def read_one(self, value: bytes) -> tuple[Any, ...]:
        """Return no values."""
        return ()

    def write_one(self, row: tuple[Any, ...]) -> bytes | None:
        """Return a null."""
        return None


_PLAIN_START = re.compile(r"[0-9A-Za-z]")  # with which a line may begin without quotes


class DelimitedSerde(RowSerde):
    """DELIMITED: values of plain types, separated as in CSV; plainly written lines are read many at once."""

    def __init__(self, columns: Sequence[Column], delimiter: str) -> None:
        """Prepare for columns separated by a character.

        Raises:
            FormatError: a column's type is not a plain one.
        """
        super().__init__(columns)
        self._delimiter = {"TAB": "\t", "SPACE": " "}.get(delimiter.upper(), delimiter)
        self._fields = [(column.name, column.type) for column in columns]
        self._is_at_once = delimited_columns.can_convert(self._fields)
        for column in columns:
            if isinstance(column.type, ArrayType | MapType | StructType):
                raise FormatError(
                    f"The 'DELIMITED' format does not support type '{column.type.name}', column: `{column.name}`"
                )

    def read(self, values: pa.LargeBinaryArray) -> Read:
        """Turn messages into columns."""
        at_once = self._is_at_once and delimited_columns.read_lines(values, self._fields, self._delimiter)
        return self._with_rest(values, [at_once]) if at_once else super().read(values)

    def write(self, frame: pl.DataFrame) -> list[bytes | None]:
        """Turn the columns of a frame into messages, one a row."""
        if self._is_at_once:
            return delimited_columns.write_lines(frame, self._fields, self._delimiter)
        return super().write(frame)

    def read_one(self, value: bytes) -> tuple[Any, ...]:
        """Return the values of one line."""
        lines = io.StringIO(value.decode(), newline="")
        try:
            fields = next((row for row in csv.reader(lines, delimiter=self._delimiter, strict=True) if row), [])
        except csv.Error as error:
            raise ValueError(f"not a line of separated values: {error}") from error
        if len(fields) != len(self.columns):
            raise ValueError(f"Unexpected field count, csv line has {len(fields)} fields, expected {len(self.columns)}")
        return tuple(
            _from_text(text, column.type) if text != "" else None
            for text, column in zip(fields, self.columns, strict=True)
        )

    def write_one(self, row: tuple[Any, ...]) -> bytes | None:
        """Return the line of one row."""
        fields = [
            "" if value is None else self._quoted(_to_text(value), first=position == 0)
            for position, value in enumerate(row)
        ]
        return self._delimiter.join(fields).encode()

    def _quoted(self, text: str, *, first: bool) -> str:
        """Return a field, in quotes where ksqlDB's writer has them. Source: Commons CSV 1.4 with MINIMAL quotes."""
        if not text:
            return '""' if first else ""
        plain_start = text[0] > "#" and not (first and _PLAIN_START.match(text) is None)
        special = any(character in text for character in ("\n", "\r", '"', self._delimiter))
        if plain_start and not special and text[-1] > " ":
            return text
        return '"' + text.replace('"', '""') + '"'


class JsonSerde(RowSerde):
    """JSON: an object a message, or the bare value where a single column is not wrapped.

    Objects that are written as the columns' types say are read many at once, the others one by one.
    """

    _FEWEST_AT_ONCE = 64
    _MOST_ATTEMPTS = 48  # so many parts of a batch are tried at once before the rest is read one by one

    def __init__(self, columns: Sequence[Column], wrapped: bool) -> None:
        """Prepare for columns.

        Args:
            columns: the fields.
            wrapped: whether a single column is a field of an object.
        """
        super().__init__(columns)
        self._wrapped = wrapped
        self._fields = [(column.name, column.type) for column in columns]
        self._reads_at_once = wrapped and bool(columns) and json_columns.can_read(self._fields)
        self._writes_at_once = wrapped and bool(columns) and json_columns.can_write(self._fields)

    def read(self, values: pa.LargeBinaryArray) -> Read:
        """Turn messages into columns."""
        if not self._reads_at_once or len(values) < self._FEWEST_AT_ONCE:
            return super().read(values)
        candidates = np.flatnonzero(json_columns.looks_like_object(values))
        parts = self._read_at_once(values.take(candidates))
        return self._with_rest(values, [(frame, candidates[start:end]) for start, end, frame in parts])

    def _read_at_once(self, values: pa.LargeBinaryArray) -> list[tuple[int, int, pl.DataFrame]]:
        """Return (start, end, columns) of the stretches that could be read at once: a stretch that can't is halved."""
        found: list[tuple[int, int, pl.DataFrame]] = []
        stretches, attempts = [(0, len(values))], 0
        while stretches and attempts < self._MOST_ATTEMPTS:
            start, end = stretches.pop()
            if end - start < self._FEWEST_AT_ONCE:
                continue
            attempts += 1
            frame = json_columns.read_objects(values.slice(start, end - start), self._fields)
            if frame is not None:
                found.append((start, end, frame))
            else:
                middle = (start + end) // 2
                stretches += [(middle, end), (start, middle)]
        return found

    def write(self, frame: pl.DataFrame) -> list[bytes | None]:
        """Turn the columns of a frame into messages, one a row."""
        at_once = json_columns.write_objects(frame, self._fields) if self._writes_at_once else None
        return super().write(frame) if at_once is None else at_once

    def read_one(self, value: bytes) -> tuple[Any, ...]:
        """Return the fields of one object; names are looked up as they are, then without regard to case.

        Numbers are read as floats first, which is much faster; a DECIMAL or a text that needs a number's digits asks for them.
        """
        try:
            return self._columns(orjson.loads(value))
        except _InexactError:
            return self._columns(json.loads(value, parse_float=Decimal))

    def _columns(self, body: Any) -> tuple[Any, ...]:
        if not self._wrapped:
            return (from_json(body, self.columns[0].type),)
        if body is None:
            return tuple(None for _ in self.columns)
        if not isinstance(body, dict):
            raise ValueError(f"a JSON object is wanted, not {type(body).__name__}")  # noqa: TRY004 - data, not code, is wrong
        folded = {name.upper(): item for name, item in body.items()}
        return tuple(
            from_json(body[column.name] if column.name in body else folded.get(column.name.upper()), column.type)
            for column in self.columns
        )

    def write_one(self, row: tuple[Any, ...]) -> bytes | None:
        """Return the object of one row."""
        values = {column.name: to_json(item, column.type) for column, item in zip(self.columns, row, strict=True)}
        if self._wrapped:
            return json_bytes(values)
        return None if row[0] is None else json_bytes(values[self.columns[0].name])


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
        fields = as_record(write_schema[0], self._names, self._is_record)["fields"] if write_schema else []
        self._defaults = [_Defaults.of(field) for field in fields]
        self._decoder = avro_codec.Decoder(self._reader, self._writer_schema)
        self._unlike: set[bytes] = (
            set()
        )  # ids of schemas whose fields the vectorised codec doesn't turn into the columns
        self._schemas: dict[bytes, tuple[Any, dict[str, Any]]] = {}

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
        record = as_record(schema, self._names, self._is_record)
        whole = frame[self.columns[0].name] if record is not schema else None
        if whole is not None and whole.has_nulls():
            # A null that no record is around is a null message.
            there = whole.is_not_null()
            messages = iter(self.write(frame.filter(there)))
            return [next(messages) if one else None for one in there]
        wanted = avro_codec.arrow_schema(record)
        series = [frame[column.name] for column in self.columns]
        # A schema of the user's own may have more fields than there are columns, and defaults for what is missing.
        series += [pl.repeat(None, len(frame), dtype=pl.Null, eager=True)] * (len(wanted) - len(series))
        arrays = [
            _arrow(one, field.type, default) for one, field, default in zip(series, wanted, self._defaults, strict=True)
        ]
        batch = pa.RecordBatch.from_arrays(arrays, schema=wanted)
        return list(avro_codec.encode(batch, record, schema_id))

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
                rows.append(self._row(value))
                indices.append(index)
            except Exception as error:
                rejects.append((index, f"the Avro body can't be decoded: {type(error).__name__}: {error}"))
        series = [
            pl.Series(column.name, [row[place] for row in rows], column.type.polars)
            for place, column in enumerate(self.columns)
        ]
        return Read(pl.DataFrame(series), np.array(indices, np.int64), np.array(nulls, np.int64), rejects)

    def _parsed(self, schema_id: bytes) -> tuple[Any, dict[str, Any]]:
        """Return a writer's schema for fastavro, and its fields' types."""
        if schema_id not in self._schemas:
            schema = self._writer_schema(int.from_bytes(schema_id, "big"))
            types = {field["name"]: field["type"] for field in avro.expanded(schema)["fields"]}
            self._schemas[schema_id] = fastavro.parse_schema(schema), types
        return self._schemas[schema_id]

    def _row(self, value: bytes) -> list[Any]:
        if len(value) < avro_codec.HEADER_BYTES or value[0] != 0:
            raise FormatError("the message is not in the registry's wire format")
        parsed, types = self._parsed(value[1 : avro_codec.HEADER_BYTES])
        stream = io.BytesIO(value[avro_codec.HEADER_BYTES :])
        record: Any = fastavro.schemaless_reader(stream, parsed, None)
        if stream.read(1):
            raise FormatError("bytes follow the Avro body")
        return [
            avro.to_ksql(record[name], types[name], column.type, f"->{column.name}") if name in types else None
            for name, column in zip(self._names, self.columns, strict=True)
        ]

    def _writer_schema(self, schema_id: int) -> avro_codec.AvroSchema:
        """Return a writer's schema with its fields named as the columns are, which doesn't change how it is read."""
        schema = as_record(self._look_up(schema_id), self._names, self._is_record)
        there = {field["name"] for field in schema["fields"]}
        folded = {name.upper(): name for name in self._names if name not in there}
        fields = [
            field
            if field["name"] in self._names
            else {**field, "name": folded.get(field["name"].upper(), field["name"])}
            for field in schema["fields"]
        ]
        named = {**schema, "fields": fields}
        if not avro_codec.resolves_by_columns(named, self._reader):
            self._unlike.add((schema_id & 0xFFFFFFFF).to_bytes(4, "big"))
        return named


def as_record(schema: Any, names: Sequence[str], is_record: bool = True) -> avro_codec.AvroSchema:
    """Return a schema as a record: a value without a record around it is encoded like a record's only field."""
    if is_record and isinstance(schema, dict) and schema.get("type") == "record":
        return schema
    return {"type": "record", "name": "Unwrapped", "fields": [{"name": names[0] if names else "value", "type": schema}]}


_NO_FIELDS: avro_codec.AvroSchema = {"type": "record", "name": "Nothing", "fields": []}


def serde(
    format_: Format,
    columns: Sequence[Column],
    writer_schemas: Callable[[int], avro_codec.AvroSchema],
    write_schema: tuple[avro_codec.AvroSchema, int] | None = None,
    key: bool = False,
) -> Serde:
    """Return the serde of a format.

    Args:
        format_: the format and its properties.
        columns: key or value columns.
        writer_schemas: AVRO: gives the schema of an id.
        write_schema: AVRO: what is written.
        key: for record keys: a single column is not wrapped unless the format says so.

    Raises:
        FormatError: the format can't hold these columns, or there is no such format here.
    """
    wrapped = format_.wrap_single if format_.wrap_single is not None else not key
    match format_.name:
        case "KAFKA":
            return KafkaSerde(columns)
        case "NONE":
            return NoneSerde(())
        case "DELIMITED":
            return DelimitedSerde(columns, format_.delimiter)
        case "JSON":
            return JsonSerde(columns, wrapped or len(columns) != 1)
        case "AVRO":
            return AvroSerde(columns, writer_schemas, write_schema, wrapped or len(columns) != 1)
    raise FormatError(f"format {format_.name!r} not supported by the embedded engine; run it on ksqlDB")


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
            (one for one in branches if isinstance(one, dict) and one.get("type") == "record"), {"fields": ()}
        )
        fields = tuple(map(cls.of, record["fields"]))
        return cls(field.get("default"), fields if any(one != cls() for one in fields) else ())

    def fill(self, array: pa.Array) -> pa.Array:
        """Return the values with the defaults in place of nulls."""
        if self.value is not None:
            return pc.fill_null(array, pa.scalar(self.value, array.type)) if array.null_count else array
        if not self.fields or not pa.types.is_struct(array.type):
            return array
        children = [one.fill(array.field(place)) for place, one in enumerate(self.fields)]
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


# ------------------------------------------------------------------------------------------------- single values
def json_bytes(value: Any) -> bytes:
    """Write a JSON value; exact decimals stay exact."""
    return orjson.dumps(value, default=_json_default)


def _json_default(value: Any) -> Any:
    if isinstance(value, Decimal):
        return orjson.Fragment(format(value, "f").encode())
    raise TypeError(f"{type(value).__name__} has no JSON form")


def to_json(value: Any, type_: SqlType) -> Any:
    """Return a column's value as ksqlDB writes it in JSON (times as numbers, bytes as base64)."""
    if value is None:
        return None
    if isinstance(type_, ArrayType):
        return [to_json(item, type_.element) for item in value]
    if isinstance(type_, MapType):
        keys = ("null" if item["key"] is None else _to_text(item["key"]) for item in value)  # HISTOGRAM counts NULL too
        return {key: to_json(item["value"], type_.value) for key, item in zip(keys, value, strict=True)}
    if isinstance(type_, StructType):
        return {name: to_json(value[name], inner) for name, inner in type_.fields}
    convert = _TO_JSON.get(type_.name)
    return value if convert is None else convert(value)


def _milliseconds(moment: datetime) -> int:
    return round((moment.replace(tzinfo=UTC) - _EPOCH) / timedelta(milliseconds=1))


def _milliseconds_of_day(moment: time) -> int:
    return ((moment.hour * 60 + moment.minute) * 60 + moment.second) * 1000 + moment.microsecond // 1000


_TO_JSON: Mapping[str, Callable[[Any], Any]] = {
    "DOUBLE": lambda value: value if math.isfinite(value) else _NOT_FINITE.get(value, "NaN"),
    "BYTES": lambda value: b64encode(value).decode(),
    "DATE": lambda value: (value - _EPOCH_DAY).days,
    "TIME": _milliseconds_of_day,
    "TIMESTAMP": _milliseconds,
}


def from_json(value: Any, type_: SqlType) -> Any:
    """Return a column's value of a JSON value, converted as ksqlDB's JSON format does.

    Raises:
        ValueError: it can't be converted.
    """
    if value is None:
        return None
    if isinstance(type_, ArrayType):
        return [from_json(item, type_.element) for item in _expect(value, list, type_)]
    if isinstance(type_, MapType):
        items = _expect(value, dict, type_).items()
        return [{"key": _from_text(name, type_.key), "value": from_json(item, type_.value)} for name, item in items]
    if isinstance(type_, StructType):
        folded = {name.upper(): item for name, item in _expect(value, dict, type_).items()}
        return {
            name: from_json(value[name] if name in value else folded.get(name.upper()), inner)
            for name, inner in type_.fields
        }
    return _plain_from_json(value, type_)


def _plain_from_json(value: Any, type_: SqlType) -> Any:
    if type_.name == "STRING":
        return _text_from_json(value)
    if type_.name == "BOOLEAN":
        return _expect(value, bool, type_)
    if isinstance(value, str):
        return _from_text(value, type_)
    return _from_number(_expect(value, (int, float, Decimal), type_), type_)


def _text_from_json(value: Any) -> str:
    """Return what a STRING column gets of a JSON value, as Jackson and ksqlDB write it."""
    if isinstance(value, str):
        return value
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, float):
        raise _InexactError
    if isinstance(value, list):
        return "[" + ", ".join("null" if item is None else _text_from_json(item) for item in value) + "]"
    return json_bytes(value).decode() if isinstance(value, dict) else str(value)


class _InexactError(Exception):
    """A number's digits are needed, and it was read as a float."""


def _expect(value: Any, kinds: type | tuple[type, ...], type_: SqlType) -> Any:
    if not isinstance(value, kinds) or (isinstance(value, bool) and kinds is not bool):
        raise ValueError(f"Can't convert type. sourceType: {type(value).__name__}, requiredType: {type_}")
    return value


def _from_number(value: int | float | Decimal, type_: SqlType) -> Any:
    if isinstance(type_, DecimalType):
        if isinstance(value, float):
            raise _InexactError
        return _decimal(Decimal(value), type_)
    match type_.name:
        case "INTEGER" | "BIGINT":
            # Jackson's intValue and longValue narrow as Java's casts do: what is too large wraps.
            limit = _LIMITS[type_.name]
            return (int(value) + limit) % (2 * limit) - limit
        case "DOUBLE":
            return float(value)
        case "TIMESTAMP":
            return (_EPOCH + timedelta(milliseconds=int(value))).replace(tzinfo=None)
        case "DATE":
            return _EPOCH_DAY + timedelta(days=int(value))
        case "TIME":
            return (_EPOCH + timedelta(milliseconds=int(value))).time()
    raise ValueError(f"Can't convert type. sourceType: {type(value).__name__}, requiredType: {type_}")


def _from_text(text: str, type_: SqlType) -> Any:
    if isinstance(type_, DecimalType):
        try:
            return _decimal(Decimal(text.strip()), type_)
        except InvalidOperation as error:
            raise ValueError(f"{text!r} is no {type_}") from error
    if type_.name in _ISO_TEXT:
        return _from_number(int(text), type_) if text.lstrip("-").isdigit() else _ISO_TEXT[type_.name](text)
    if type_.name in _LIMITS:
        if _WHOLE.fullmatch(text) is None:
            raise ValueError(f'For input string: "{text}"')
        return _whole(int(text), type_)
    if type_.name not in _FROM_TEXT:
        raise ValueError(f"{text!r} can't be {type_}")
    return _FROM_TEXT[type_.name](text)


def _double(text: str) -> float:
    if _JAVA_DOUBLE.fullmatch(text.strip()) is None:
        raise ValueError(f'For input string: "{text}"')
    return float(text.strip().rstrip("dDfF"))


_WHOLE = re.compile(r"[+-]?[0-9]+")
_JAVA_DOUBLE = re.compile(r"[+-]?(?:NaN|Infinity|(?:[0-9]+\.?[0-9]*|\.[0-9]+)(?:[eE][+-]?[0-9]+)?[dDfF]?)")


_ISO_TEXT: Mapping[str, Callable[[str], Any]] = {
    "TIMESTAMP": lambda text: datetime.fromisoformat(text).replace(tzinfo=None),
    "DATE": date.fromisoformat,
    "TIME": time.fromisoformat,
}
_FROM_TEXT: Mapping[str, Callable[[str], Any]] = {
    "STRING": str,
    "DOUBLE": _double,
    "BOOLEAN": lambda text: text.lower() == "true",  # Java's parseBoolean: anything else is false
    "BYTES": lambda text: b64decode(text, validate=True),
}


def _whole(value: int, type_: SqlType) -> int:
    limit = _LIMITS[type_.name]
    if not -limit <= value < limit:
        raise ValueError(f"{value} is out of the range of {type_}")
    return value


def _decimal(value: Decimal, type_: DecimalType) -> Decimal:
    exponent = value.as_tuple().exponent
    if isinstance(exponent, str) or -exponent > type_.scale or value.adjusted() + 1 > type_.precision - type_.scale:
        raise ValueError(f"Cannot fit decimal '{value}' into {type_} without rounding.")
    return value.quantize(Decimal(1).scaleb(-type_.scale), context=_EXACT)


def _to_text(value: Any) -> str:  # noqa: PLR0911 - one case a kind
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, bytes):
        return b64encode(value).decode()
    if isinstance(value, datetime):
        return str(_milliseconds(value))
    if isinstance(value, date):
        return str((value - _EPOCH_DAY).days)
    if isinstance(value, time):
        return str(_milliseconds_of_day(value))
    if isinstance(value, float):
        return java_double(value)
    return format(value, "f") if isinstance(value, Decimal) else str(value)
