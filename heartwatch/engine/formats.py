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

from heartwatch import codec
from heartwatch.engine import avro
from heartwatch.engine.casts import java_double
from heartwatch.engine.plan import Column, Format
from heartwatch.engine.state import Ints
from heartwatch.engine.types import ArrayType, DecimalType, MapType, SqlType, StructType

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
    """A format without a vectorised reader: one message after another."""

    def read(self, values: pa.LargeBinaryArray) -> Read:
        """Turn messages into columns."""
        rows, kept, nulls, rejects = [], [], [], []
        for position, value in enumerate(values.to_pylist()):
            if value is None:
                nulls.append(position)
                continue
            try:
                rows.append(self.read_one(value))
                kept.append(position)
            except (ValueError, ArithmeticError, TypeError, struct.error) as error:
                rejects.append((position, f"{type(error).__name__}: {error}"))
        frame = pl.DataFrame(rows, schema=self.schema, orient="row") if rows else pl.DataFrame(schema=self.schema)
        return Read(frame, np.array(kept, dtype=np.int64), np.array(nulls, dtype=np.int64), rejects)

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
        if self._type != "STRING" or not self.columns:
            return super().read(values)
        if values.null_count:
            return super().read(values)
        try:
            text = values.cast(pa.large_string())
        except pa.ArrowInvalid:
            return super().read(values)
        frame = pl.DataFrame({self.columns[0].name: pl.from_arrow(text)})
        return Read(frame, np.arange(len(values)), np.empty(0, dtype=np.int64), [])

    def write(self, frame: pl.DataFrame) -> list[bytes | None]:
        """Turn the column of a frame into messages, one a row."""
        if self._type == "STRING" and self.columns:
            return frame[self.columns[0].name].cast(pl.Binary).to_list()
        return super().write(frame)

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


class DelimitedSerde(RowSerde):
    """DELIMITED: values of plain types, separated as in CSV."""

    def __init__(self, columns: Sequence[Column], delimiter: str) -> None:
        """Prepare for columns separated by a character.

        Raises:
            FormatError: a column's type is not a plain one.
        """
        super().__init__(columns)
        self._delimiter = {"TAB": "\t", "SPACE": " "}.get(delimiter.upper(), delimiter)
        for column in columns:
            if isinstance(column.type, ArrayType | MapType | StructType):
                raise FormatError(
                    f"The 'DELIMITED' format does not support type '{column.type.name}', column: `{column.name}`"
                )

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
        """Return a field, in quotes where ksqlDB's writer has them. Source: Commons CSV's ``CSVFormat`` with MINIMAL quotes."""
        if not text:
            return '""' if first else ""
        plain_start = text[0] > "#" and not (first and text[0] > "~")
        special = any(character in text for character in ("\n", "\r", '"', self._delimiter))
        if plain_start and not special and text[-1] > " ":
            return text
        return '"' + text.replace('"', '""') + '"'


class JsonSerde(RowSerde):
    """JSON: an object a message, or the bare value where a single column is not wrapped."""

    def __init__(self, columns: Sequence[Column], wrapped: bool) -> None:
        """Prepare for columns.

        Args:
            columns: the fields.
            wrapped: whether a single column is a field of an object.
        """
        super().__init__(columns)
        self._wrapped = wrapped

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
        return json_bytes(values if self._wrapped else next(iter(values.values())))


class AvroSerde(Serde):
    """AVRO in the registry's wire format, through the vectorised codec."""

    def __init__(
        self,
        columns: Sequence[Column],
        writer_schemas: Callable[[int], codec.AvroSchema],
        write_schema: tuple[codec.AvroSchema, int] | None = None,
        wrapped: bool = True,
    ) -> None:
        """Prepare for columns.

        Args:
            columns: the fields wanted; matched to the writers' fields by name, if need be without regard to case.
            writer_schemas: gives the schema of an id (see `codec.Decoder`).
            write_schema: schema and id to write with.
            wrapped: a STRUCT that is the only column is a field of a record, not the record.
        """
        super().__init__(columns)
        self._is_record = wrapped or not isinstance(columns[0].type, StructType)
        self._look_up = writer_schemas
        self._write_schema = write_schema
        self._reader = avro.avro_of_schema(columns) if columns else _NO_FIELDS
        self._names = [field["name"] for field in self._reader["fields"]]
        self._decoder = codec.Decoder(self._reader, self._writer_schema)
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
        wanted = codec.arrow_schema(record)
        arrays = [_arrow(frame[column.name], field.type) for column, field in zip(self.columns, wanted, strict=True)]
        batch = pa.RecordBatch.from_arrays(arrays, schema=wanted)
        return list(codec.encode(batch, record, schema_id))

    @staticmethod
    def _schema_ids(values: pa.LargeBinaryArray) -> set[bytes]:
        heads = pc.unique(pc.binary_slice(values.drop_null(), 0, codec.HEADER_BYTES)).to_pylist()
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
        if len(value) < codec.HEADER_BYTES or value[0] != 0:
            raise FormatError("the message is not in the registry's wire format")
        parsed, types = self._parsed(value[1 : codec.HEADER_BYTES])
        stream = io.BytesIO(value[codec.HEADER_BYTES :])
        record: Any = fastavro.schemaless_reader(stream, parsed, None)
        if stream.read(1):
            raise FormatError("bytes follow the Avro body")
        return [
            avro.to_ksql(record[name], types[name], column.type, f"->{column.name}") if name in types else None
            for name, column in zip(self._names, self.columns, strict=True)
        ]

    def _writer_schema(self, schema_id: int) -> codec.AvroSchema:
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
        if not codec.resolves_by_columns(named, self._reader):
            self._unlike.add((schema_id & 0xFFFFFFFF).to_bytes(4, "big"))
        return named


def as_record(schema: Any, names: Sequence[str], is_record: bool = True) -> codec.AvroSchema:
    """Return a schema as a record: a value without a record around it is encoded like a record's only field."""
    if is_record and isinstance(schema, dict) and schema.get("type") == "record":
        return schema
    return {"type": "record", "name": "Unwrapped", "fields": [{"name": names[0] if names else "value", "type": schema}]}


_NO_FIELDS: codec.AvroSchema = {"type": "record", "name": "Nothing", "fields": []}


def serde(
    format_: Format,
    columns: Sequence[Column],
    writer_schemas: Callable[[int], codec.AvroSchema],
    write_schema: tuple[codec.AvroSchema, int] | None = None,
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


def _arrow(series: pl.Series, type_: pa.DataType) -> pa.Array:
    array = series.rechunk().to_arrow()
    if isinstance(array, pa.ChunkedArray):
        array = array.combine_chunks()
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
        return {str(item["key"]): to_json(item["value"], type_.value) for item in value}
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
