"""Avro in the registry's wire format, a column at a time, with bad messages told apart from good ones.

Wire format (Confluent): magic byte 0, 4-byte big-endian schema id, Avro binary body. Slicing the five bytes off each message
costs more than decoding it, so the codec's schema begins with two fields that swallow them: a boolean (one byte) and a float
(four bytes). The magic byte and the schema id are then checked on whole columns, the id from the float's bits.

A vectorised decoder fails a whole batch for one bad message and accepts what it shouldn't: trailing bytes and invalid UTF-8.
The decoder here checks both on columns, and only a batch that fails is taken apart to find the messages to blame.
"""

from __future__ import annotations

import io
import json
import struct
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import cache
from typing import Any

import fastavro
import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc
import pyruhvro

from kafkakit.avro_bodies import body_reader, is_unbounded
from kafkakit.errors import KafkaKitError

HEADER_BYTES = 5
_MAGIC, _SCHEMA_ID = "__magic", "__schema_id"
_FRAME_FIELDS = [{"name": _MAGIC, "type": "boolean"}, {"name": _SCHEMA_ID, "type": "float"}]

AvroSchema = dict[str, Any]


class CodecError(KafkaKitError):
    """A schema or a column doesn't fit the codec; the message names it and the remedy."""


class SchemaError(KafkaKitError):
    """A message can't be decoded for its schema's sake; others can."""


class UnknownSchemaError(SchemaError, LookupError):
    """The registry has no schema of this id: the message that carries it is bad, the registry is well."""


class UnusableSchemaError(SchemaError):
    """What is registered under an id is not an Avro schema that a message's columns can be read with."""


@dataclass(frozen=True)
class Reject:
    """A message that could not be decoded: its position in the input, and why."""

    index: int
    reason: str


@dataclass(frozen=True)
class Decoded:
    """What came of a list of messages.

    Attributes:
        batch: the good messages' columns, in input order, in the reader schema's types.
        indices: position in the input of each row of `batch`.
        nulls: positions of null values (tombstones).
        rejects: bad messages, in input order.
    """

    batch: pa.RecordBatch
    indices: npt.NDArray[np.int64]
    nulls: npt.NDArray[np.int64]
    rejects: list[Reject]


def parse(text: str) -> AvroSchema:
    """Read an Avro record schema.

    Raises:
        CodecError: it is not JSON, not valid Avro, or not a record.
    """
    try:
        schema = json.loads(text)
        fastavro.parse_schema(schema)
    except Exception as error:
        raise CodecError(f"not a valid Avro schema: {error}; the text begins {text[:80]!r}") from error
    if not isinstance(schema, dict) or schema.get("type") != "record":
        raise CodecError(f"Avro schema {text[:80]!r} is not a record; a topic's values are records here")
    return schema


def arrow_schema(schema: AvroSchema) -> pa.Schema:
    """Return the Arrow schema of the batches that `Decoder` gives and `encode` takes for an Avro record schema."""
    return _arrow_schema(json.dumps(schema))


@cache
def _arrow_schema(text: str) -> pa.Schema:
    return pyruhvro.avro_to_arrow_schema(text)


def encode(batch: pa.RecordBatch, schema: AvroSchema, schema_id: int) -> list[bytes]:
    """Encode rows as messages.

    Args:
        batch: columns with the fields' names, in any order; types that Arrow can cast safely to the schema's.
        schema: Avro record schema.
        schema_id: the registry's id of that schema.

    Returns:
        one message a row.

    Raises:
        CodecError: a column is missing, has nulls where the schema has none, or a wrong type.
    """
    wanted = arrow_schema(schema)
    columns = [_conform(batch, field) for field in wanted]
    if not _has_columnar_types(schema):
        return _encode_each(pa.RecordBatch.from_arrays(columns, schema=wanted), schema, schema_id)
    count = batch.num_rows
    identity = np.frombuffer(struct.pack(">i", schema_id), dtype=np.float32)
    frame = [pa.array(np.zeros(count, dtype=bool)), pa.array(np.repeat(identity, count))]
    framed = pa.RecordBatch.from_arrays([*frame, *columns], names=[_MAGIC, _SCHEMA_ID, *wanted.names])
    parts = pyruhvro.serialize_record_batch(framed, _framed_text(json.dumps(schema)), 1)
    messages: list[bytes] = [message for part in parts for message in part.to_pylist()]
    if len(messages) != count:
        raise CodecError(f"{count} rows gave {len(messages)} messages; the codec lost some, nothing was sent")
    return messages


def _encode_each(batch: pa.RecordBatch, schema: AvroSchema, schema_id: int) -> list[bytes]:
    """Encode one row after another: the slow way, for types that the vectorised codec doesn't have."""
    parsed = fastavro.parse_schema(schema)
    header = struct.pack(">bi", 0, schema_id)
    messages = []
    for row in batch.to_pylist():
        body = io.BytesIO()
        fastavro.schemaless_writer(body, parsed, _datum(row))
        messages.append(header + body.getvalue())
    return messages


def _datum(value: Any) -> Any:
    """Return a value of Arrow's as fastavro takes it: times in UTC, maps as dictionaries."""
    if isinstance(value, datetime):
        return value if value.tzinfo else value.replace(tzinfo=UTC)
    if isinstance(value, dict):
        return {name: _datum(item) for name, item in value.items()}
    if isinstance(value, list):
        if value and isinstance(value[0], tuple):
            return {name: _datum(item) for name, item in value}
        return [_datum(item) for item in value]
    return value


# Types at which the vectorised codec panics.
_ROW_TYPES = {"bytes", "fixed"}
_ROW_LOGICAL_TYPES = {
    "decimal", "time-millis", "time-micros", "uuid", "local-timestamp-millis", "local-timestamp-micros", "duration",
}  # fmt: skip


def _has_columnar_types(schema: Any) -> bool:
    """Say whether the vectorised codec knows all types of a schema."""
    if isinstance(schema, list):
        return all(map(_has_columnar_types, schema))
    if not isinstance(schema, dict):
        return schema not in _ROW_TYPES
    if schema.get("logicalType") in _ROW_LOGICAL_TYPES:
        return False
    inner = [schema.get("type"), schema.get("items"), schema.get("values"), *(schema.get("fields") or ())]
    return all(_has_columnar_types(part) for part in inner if part is not None)


def _has_columns(text: str) -> bool:
    """Say whether a schema can be columns; one whose types contain themselves can't."""
    try:
        _arrow_schema(text)
    except ValueError:
        return False
    return True


def _conform(batch: pa.RecordBatch, field: pa.Field) -> pa.Array:
    position = batch.schema.get_field_index(field.name)
    if position < 0:
        raise CodecError(f"column {field.name!r} is missing; the batch has {batch.schema.names!r}")
    column = batch.column(position)
    if column.null_count and not field.nullable:
        raise CodecError(f"column {field.name!r} has {column.null_count} nulls, its Avro field allows none")
    if column.type.equals(field.type):
        return column
    try:
        return column.cast(field.type)
    except (pa.ArrowInvalid, pa.ArrowNotImplementedError) as error:
        raise CodecError(f"column {field.name!r} of type {column.type} can't be {field.type}: {error}") from error


@cache
def _framed_text(text: str) -> str:
    schema = json.loads(text)
    return json.dumps({**schema, "fields": _FRAME_FIELDS + schema["fields"]})


class Decoder:
    """Decodes messages of any writer schema into columns of one reader schema."""

    def __init__(self, reader_schema: AvroSchema, writer_schemas: Callable[[int], AvroSchema]) -> None:
        """Prepare to decode.

        Args:
            reader_schema: the record schema of the columns wanted.
            writer_schemas: gives the schema of an id: a record, or a union of null and one record; raises `SchemaError` where
                there is none that can be used. Any other error (the registry can't be reached) passes through `decode`: no
                message is to blame.
        """
        self.arrow_schema = arrow_schema(reader_schema)
        self._reader = reader_schema
        self._look_up = writer_schemas
        self._writers: dict[int, _Writer] = {}

    def decode(self, values: Sequence[bytes | None]) -> Decoded:
        """Decode messages; a bad one is rejected with its reason and harms no other.

        Args:
            values: message values in order; None is a null value.
        """
        quick = self._decode_uniform(values)
        if quick is not None:
            return Decoded(quick, np.arange(len(values)), np.empty(0, dtype=np.int64), [])
        return self._decode_mixed(values)

    def _decode_uniform(self, values: Sequence[bytes | None]) -> pa.RecordBatch | None:
        """Decode messages that are all good and of one schema id; None where they are not."""
        if not values:
            return _empty(self.arrow_schema)
        first = values[0]
        if first is None or len(first) < HEADER_BYTES or first[0] != 0:
            return None
        try:
            writer = self._writer(int.from_bytes(first[1:HEADER_BYTES], "big"))
        except SchemaError:
            return None
        return writer.decode(list(values)) if writer.branches is None else None

    def _decode_mixed(self, values: Sequence[bytes | None]) -> Decoded:
        nulls: list[int] = []
        rejects: list[Reject] = []
        by_id: dict[int, list[int]] = {}
        for index, value in enumerate(values):
            if value is None:
                nulls.append(index)
            elif reason := _bad_header(value):
                rejects.append(Reject(index, reason))
            else:
                by_id.setdefault(int.from_bytes(value[1:HEADER_BYTES], "big"), []).append(index)
        batches: list[pa.RecordBatch] = []
        kept: list[int] = []
        for schema_id, indices in by_id.items():
            try:
                writer = self._writer(schema_id)
            except SchemaError as error:
                rejects.extend(Reject(index, str(error)) for index in indices)
                continue
            bodies, there = values, indices
            if writer.branches is not None:
                bodies, there = writer.branches.taken_off(values, indices, nulls, rejects)
            if there:
                self._bisect(writer, bodies, there, batches, kept, rejects)
        nulls.sort()
        rejects.sort(key=lambda reject: reject.index)
        batch = _concatenate(batches, self.arrow_schema)
        order = np.argsort(np.array(kept, dtype=np.int64), kind="stable")
        in_order = batch if np.all(order[:-1] < order[1:]) else batch.take(pa.array(order))
        return Decoded(in_order, np.array(kept, dtype=np.int64)[order], np.array(nulls, dtype=np.int64), rejects)

    def _bisect(
        self,
        writer: _Writer,
        values: Sequence[bytes | None],
        indices: list[int],
        batches: list[pa.RecordBatch],
        kept: list[int],
        rejects: list[Reject],
    ) -> None:
        batch = writer.decode([values[index] for index in indices])
        if batch is not None:
            batches.append(batch)
            kept.extend(indices)
        elif len(indices) == 1:
            value = values[indices[0]]
            rejects.append(Reject(indices[0], writer.blame(value if value is not None else b"")))
        else:
            middle = len(indices) // 2
            self._bisect(writer, values, indices[:middle], batches, kept, rejects)
            self._bisect(writer, values, indices[middle:], batches, kept, rejects)

    def _writer(self, schema_id: int) -> _Writer:
        if schema_id not in self._writers:
            schema = self._look_up(schema_id)
            try:
                self._writers[schema_id] = _Writer(schema_id, schema, self._reader)
            except SchemaError:
                raise
            except Exception as error:
                # Whatever is wrong with it is its messages' fault alone.
                raise UnusableSchemaError(
                    f"schema id {schema_id} is not an Avro schema that can be read: {type(error).__name__}: {error}"
                ) from error
        return self._writers[schema_id]


def record_of(schema: Any) -> AvroSchema | None:
    """Return the record that a schema is, or that it is a union of with null; None where it is neither."""
    if isinstance(schema, list):
        others = [branch for branch in schema if branch != "null"]
        schema = others[0] if len(others) == 1 else None
    return schema if isinstance(schema, dict) and schema.get("type") == "record" else None


class _Branches:
    """The byte before the body of messages whose schema is a union of null and a record."""

    def __init__(self, union: list[Any]) -> None:
        # A branch's number as a zigzag varint; unions have two branches here.
        numbers = {branch == "null": 2 * number for number, branch in enumerate(union)}
        self._null, self._record = numbers.get(True), numbers[False]

    def taken_off(
        self, values: Sequence[bytes | None], indices: list[int], nulls: list[int], rejects: list[Reject]
    ) -> tuple[list[bytes | None], list[int]]:
        """Return the messages with the bodies of records alone, and which of `indices` are left of them."""
        bare, left = list(values), []
        for index in indices:
            value = values[index] or b""
            branch = value[HEADER_BYTES] if len(value) > HEADER_BYTES else None
            if branch == self._record:
                bare[index] = value[:HEADER_BYTES] + value[HEADER_BYTES + 1 :]
                left.append(index)
            elif branch is not None and branch == self._null and len(value) == HEADER_BYTES + 1:
                nulls.append(index)
            else:
                rejects.append(Reject(index, "the Avro body can't be decoded: it is of no branch of the union"))
        return bare, left


class _Writer:
    """Decodes the messages of one writer schema into the reader's columns.

    Attributes:
        branches: what stands before the record of a union with null; None where the schema is a record.
    """

    def __init__(self, schema_id: int, written: Any, reader: AvroSchema) -> None:
        schema = record_of(written)
        if schema is None:
            raise UnusableSchemaError(
                f"schema id {schema_id} is not an Avro record, nor a union of null and one; the schema begins "
                f"{json.dumps(written)[:80]!r}"
            )
        self.branches = _Branches(written) if isinstance(written, list) else None
        self._parsed = fastavro.parse_schema(schema)
        self._read_body = body_reader(self._parsed)
        self._by_columns = resolves_by_columns(schema, reader)
        # Records are matched by their fields; fastavro wants them to have the same name.
        named = (
            {**reader, "name": schema["name"], "namespace": schema.get("namespace", "")} if self._by_columns else reader
        )
        self._reader = fastavro.parse_schema(named)
        self._schema = schema
        self._text = _framed_text(json.dumps(schema))
        self._header = struct.pack(">bi", 0, schema_id)
        self._is_columnar = (
            _has_columnar_types(schema)
            and _has_columnar_types(reader)
            and not is_unbounded(self._parsed)
            and _has_columns(self._text)
        )
        self._bits = int(np.frombuffer(struct.pack(">i", schema_id), dtype=np.uint32)[0])
        self._target = arrow_schema(reader)
        self._defaults = {field["name"]: field.get("default") for field in reader["fields"]}

    def decode(self, values: list[bytes | None]) -> pa.RecordBatch | None:
        """Return the messages' columns, or None where one of them is bad."""
        if not self._is_columnar:
            right = all(value is not None and value.startswith(self._header) for value in values)
            return self._decode_each(values) if right else None
        try:
            batch = pyruhvro.deserialize_array(values, self._text)
        except (ValueError, TypeError, OverflowError):
            return None
        if batch.num_rows != len(values) or not self._header_is_right(batch):
            return None
        body = batch.select(batch.schema.names[2:])
        if not _is_valid(body) or sum(map(len, values)) != self._minimal_bytes(batch):  # type: ignore[arg-type]
            # Few of many are to blame as a rule, and halving finds them quicker than reading each one by itself.
            return self._decode_each(values) if len(values) == 1 else None
        return self._resolve(body, values)

    def blame(self, value: bytes) -> str:
        """Return why a single message can't be decoded."""
        stream = io.BytesIO(value[HEADER_BYTES:])
        try:
            self._read_one(stream)
        except Exception as error:
            return f"the Avro body can't be decoded: {type(error).__name__}: {error}"
        left = len(value) - HEADER_BYTES - stream.tell()
        return f"{left} bytes follow the Avro body" if left else "the Avro body can't be decoded"

    def _header_is_right(self, batch: pa.RecordBatch) -> bool:
        identity = np.frombuffer(batch.column(1).buffers()[1], dtype=np.uint32)[: batch.num_rows]
        return batch.column(0).true_count == 0 and bool(np.all(identity == self._bits))

    def _minimal_bytes(self, batch: pa.RecordBatch) -> int:
        """Return the least bytes that these rows take; a decoder never reads fewer, so equal totals leave no byte over."""
        total = 0
        for column, field in zip(batch.columns, [*_FRAME_FIELDS, *self._schema["fields"]], strict=True):
            size = _column_bytes(column, isinstance(field["type"], list))
            if size is None:
                parts = pyruhvro.serialize_record_batch(batch, self._text, 1)
                return sum(pc.sum(pc.binary_length(part)).as_py() or 0 for part in parts)
            total += size
        return total

    def _resolve(self, body: pa.RecordBatch, values: list[bytes | None]) -> pa.RecordBatch | None:
        if body.schema.equals(self._target):
            return body
        if not self._by_columns:
            return self._decode_each(values)
        columns = [self._resolved_column(body, field) for field in self._target]
        return pa.RecordBatch.from_arrays(columns, schema=self._target)

    def _resolved_column(self, body: pa.RecordBatch, field: pa.Field) -> pa.Array:
        position = body.schema.get_field_index(field.name)
        if position >= 0:
            return body.column(position).cast(field.type)
        return pa.repeat(pa.scalar(self._defaults[field.name], field.type), body.num_rows)

    def _decode_each(self, values: list[bytes | None]) -> pa.RecordBatch | None:
        """Decode one message after another: the slow way, where columns can't follow Avro's rules."""
        rows = []
        for value in values:
            stream = io.BytesIO(value or b"")
            stream.seek(HEADER_BYTES)
            try:
                rows.append(self._read_one(stream))
            except Exception:
                return None
            if stream.read(1):
                return None
        return pa.RecordBatch.from_pylist(rows, schema=self._target)

    def _read_one(self, stream: io.BytesIO) -> Any:
        """Read one body; what the reader skips must be right too."""
        begin = stream.tell()
        self._read_body(stream, self._parsed, None)
        stream.seek(begin)
        return self._read_body(stream, self._parsed, self._reader)


def _bad_header(value: bytes) -> str | None:
    if not value:
        return "the message is empty"
    if value[0] != 0:
        return f"the magic byte is {value[0]}, not 0: not in the registry's wire format"
    if len(value) < HEADER_BYTES:
        return f"the message has {len(value)} bytes, fewer than the {HEADER_BYTES} of the wire format's header"
    return None


def _is_valid(batch: pa.RecordBatch) -> bool:
    try:
        batch.validate(full=True)
    except (pa.ArrowInvalid, UnicodeDecodeError):
        return False
    return True


def _concatenate(batches: list[pa.RecordBatch], schema: pa.Schema) -> pa.RecordBatch:
    if len(batches) == 1:
        return batches[0]
    return pa.concat_batches(batches) if batches else _empty(schema)


def _empty(schema: pa.Schema) -> pa.RecordBatch:
    return pa.RecordBatch.from_arrays([pa.array([], type=field.type) for field in schema], schema=schema)


def _column_bytes(column: pa.Array, union: bool) -> int | None:
    """Return the least bytes of a column in Avro's binary encoding; None for types that this can't tell."""
    branch = len(column) if union else 0
    valid = len(column) - column.null_count
    kind = column.type
    if pa.types.is_boolean(kind):
        return branch + valid
    if pa.types.is_float32(kind):
        return branch + 4 * valid
    if pa.types.is_float64(kind):
        return branch + 8 * valid
    if pa.types.is_string(kind) or pa.types.is_binary(kind):
        lengths = pc.binary_length(column).drop_null().to_numpy()
        return branch + int(lengths.sum()) + _varint_bytes(lengths.astype(np.int64))
    if pa.types.is_int32(kind) or pa.types.is_int64(kind) or pa.types.is_timestamp(kind):
        if column.null_count:
            column = column.drop_null()
        width = np.int32 if pa.types.is_int32(kind) else np.int64
        return branch + _varint_bytes(column.view(pa.from_numpy_dtype(width)).to_numpy())
    return None


def _varint_bytes(numbers: npt.NDArray[Any]) -> int:
    """Return the bytes of zigzag varints: one, and one more for each further seven bits."""
    if not len(numbers):
        return 0
    zigzag = ((numbers << 1) ^ (numbers >> (numbers.itemsize * 8 - 1))).view(f"u{numbers.itemsize}")
    total, largest = len(numbers), int(zigzag.max())
    for bits in range(7, numbers.itemsize * 8, 7):
        if largest >> bits == 0:
            break
        total += int(np.count_nonzero(zigzag >> bits))
    return total


_PROMOTIONS = {
    ("int", "long"),
    ("int", "float"),
    ("int", "double"),
    ("long", "float"),
    ("long", "double"),
    ("float", "double"),
}


def resolves_by_columns(writer: AvroSchema, reader: AvroSchema) -> bool:
    """Say whether the writer's columns become the reader's by picking, widening and filling in simple defaults."""
    written = {field["name"]: field["type"] for field in writer["fields"]}
    for field in reader["fields"]:
        if field.get("aliases"):
            return False
        if field["name"] not in written:
            if "default" not in field or not isinstance(field["default"], str | int | float | bool | None):
                return False
            continue
        if not _same_or_wider(written[field["name"]], field["type"]):
            return False
    return True


def _same_or_wider(written: Any, wanted: Any) -> bool:
    if _plain(written) == _plain(wanted):
        return True
    if isinstance(wanted, list) and "null" in wanted and len(wanted) == 2:
        inner = next(branch for branch in wanted if branch != "null")
        return not isinstance(written, list) and _same_or_wider(written, inner)
    if isinstance(written, list) or isinstance(wanted, list):
        return False
    names = _plain(written), _plain(wanted)
    return all(isinstance(name, str) for name in names) and names in _PROMOTIONS


_NOT_ENCODED = ("doc", "arg.properties", "aliases", "default")


def same_encoding(schema: Any, other: Any) -> bool:
    """Say whether two Avro schemas name and encode the same values: documentation, defaults and aliases aside."""
    return bool(_plain(schema) == _plain(other))


def _plain(kind: Any) -> Any:
    """Return a type without the attributes that don't change its encoding; `{"type": "int"}` is `"int"`."""
    if isinstance(kind, list):
        return [_plain(branch) for branch in kind]
    if not isinstance(kind, dict):
        return kind
    kept = {
        name: _plain(value)
        for name, value in kind.items()
        if name not in _NOT_ENCODED and not name.startswith("connect.")
    }
    return kept["type"] if set(kept) == {"type"} else kept
