"""A topic's bytes as JSON and back: what test files hold for keys and values.

AVRO and JSON keys and values are JSON; DELIMITED ones are text; KAFKA ones are text or a number. This is written apart from the
engine's own formats, so a test finds their mistakes.
"""

from __future__ import annotations

import io
import struct
from base64 import b64decode, b64encode
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from decimal import Decimal, InvalidOperation
from typing import Any, cast

import fastavro

from ksqlengine.errors import KsqlEngineError
from ksqlengine.formats.values import json_bytes
from ksqlengine.plan.steps import Column, Format, Window, WindowKind
from ksqlengine.server.in_memory import InMemoryEngine, StoredRecord
from ksqlengine.testing.cases import Header, Record, WindowBounds, parse_json
from ksqlengine.testing.differences import Produced, RecordTypes
from ksqlengine.types.sqltypes import STRING, SqlType, StructType

_NUMBERS = {"INTEGER": ">i", "BIGINT": ">q", "DOUBLE": ">d"}
_HEADER = struct.Struct(">bI")
_TIME, _SESSION = struct.Struct(">q"), struct.Struct(">qq")

SchemaById = Callable[[int], Any]


class RecordError(KsqlEngineError):
    """A record doesn't fit its topic's format; the message says what was wanted."""


@dataclass(frozen=True)
class Part:
    """Keys or values of a topic: format, columns, and the Avro schema (with its id) to write with."""

    format: Format
    columns: tuple[Column, ...]
    is_key: bool
    avro: tuple[Any, int] | None = None

    @property
    def is_wrapped(self) -> bool:
        """Whether a single column is a field of a record."""
        wrapped = self.format.wrap_single
        return len(self.columns) != 1 or (not self.is_key if wrapped is None else wrapped)

    @property
    def type(self) -> SqlType | None:
        """Type of the JSON form, None where there are no columns."""
        if not self.columns or self.format.name == "NONE":
            return None
        if self.format.name == "DELIMITED":
            return STRING
        if self.format.name == "KAFKA" or not self.is_wrapped:
            return self.columns[0].type
        return StructType(fields=tuple((column.name, column.type) for column in self.columns))

    def to_bytes(self, value: Any) -> bytes | None:
        """Write a JSON value.

        Raises:
            RecordError: it doesn't fit the format.
        """
        if value is None or self.type is None:
            return None
        match self.format.name:
            case "JSON":
                return json_bytes(value)
            case "DELIMITED":
                return (value if isinstance(value, str) else json_bytes(value).decode()).encode()
            case "KAFKA":
                return self._plain_bytes(value)
            case "AVRO":
                return self._avro_bytes(value)
        raise RecordError(f"format {self.format.name!r} has no JSON form here")

    def to_json(self, data: bytes | None, schemas: SchemaById) -> Any:
        """Read a value as JSON.

        Raises:
            RecordError: the bytes are not of the format.
        """
        if data is None:
            return None
        try:
            match self.format.name:
                case "JSON":
                    return parse_json(data.decode())
                case "DELIMITED":
                    return data.decode()
                case "KAFKA":
                    return self._plain_value(data)
                case "AVRO":
                    return _read_avro(data, schemas)
        except (ValueError, struct.error, EOFError, LookupError) as error:
            raise RecordError(f"{data!r} is not {self.format.name}: {error}") from error
        return data.decode(errors="replace")

    def _plain_bytes(self, value: Any) -> bytes:
        type_ = self.columns[0].type
        try:
            if type_.name in _NUMBERS:
                return struct.pack(_NUMBERS[type_.name], float(value) if type_.name == "DOUBLE" else int(value))
            if type_.name == "BYTES":
                return b64decode(value, validate=True)
        except (ValueError, TypeError, struct.error) as error:
            raise RecordError(f"{value!r} is not {type_} for the KAFKA format: {error}") from error
        return (value if isinstance(value, str) else json_bytes(value).decode()).encode()

    def _plain_value(self, data: bytes) -> Any:
        name = self.columns[0].type.name
        if name in _NUMBERS:
            return struct.unpack(_NUMBERS[name], data)[0]
        return b64encode(data).decode() if name == "BYTES" else data.decode()

    def _avro_bytes(self, value: Any) -> bytes:
        if self.avro is None:
            raise RecordError("there is no Avro schema to write with; name the columns in CREATE")
        schema, schema_id = self.avro
        body = io.BytesIO()
        try:
            fastavro.schemaless_writer(body, _parsed(schema), _datum(value, schema))
        except (ValueError, TypeError, AttributeError, InvalidOperation) as error:
            raise RecordError(f"{value!r} doesn't fit its Avro schema: {error}") from error
        return _HEADER.pack(0, schema_id) + body.getvalue()


@dataclass(frozen=True)
class TopicForm:
    """How a topic's records look in test files."""

    key: Part
    value: Part
    window: Window | None

    @property
    def types(self) -> RecordTypes:
        """Types of keys and values."""
        return RecordTypes(self.key.type, self.value.type)

    def store(self, record: Record) -> StoredRecord:
        """Write a record; without a timestamp it gets 0.

        Raises:
            RecordError: it doesn't fit the topic's formats, or its window is missing.
        """
        key = self.key.to_bytes(record.key)
        if (self.window is None) != (record.window is None):
            raise RecordError("the key is windowed and needs a window" if self.window else "the key has no window")
        if record.window is not None:
            key = (key or b"") + _window_bytes(record.window)
        headers = tuple((header.key, header.value) for header in record.headers or ())
        return StoredRecord(key, self.value.to_bytes(record.value), record.timestamp or 0, headers)

    def show(self, record: StoredRecord, schemas: SchemaById) -> Produced:
        """Read a record.

        Raises:
            RecordError: its bytes are not of the topic's formats.
        """
        key, window = split_key(record.key, self.window)
        headers = tuple(Header(KEY=key, VALUE=value) for key, value in record.headers)
        return Produced(
            self.key.to_json(key, schemas), self.value.to_json(record.value, schemas), record.timestamp, window, headers
        )


def form_of(engine: InMemoryEngine, topic: str) -> TopicForm:
    """Return how a topic's records look in test files.

    Raises:
        RecordError: no stream or table is over it.
    """
    source = next((source for source in engine.catalog.sources.values() if source.topic == topic), None)
    if source is None:
        raise RecordError(f"no stream or table reads or writes topic {topic!r}")
    schema, known = source.record_schema, engine.registry.known
    return TopicForm(
        Part(source.key_format, schema.key, True, known(topic, is_key=True)),
        Part(source.value_format, schema.value, False, known(topic, is_key=False)),
        source.key_window,
    )


def _window_bytes(window: WindowBounds) -> bytes:
    """Return what follows a key. Source: Kafka Streams' ``WindowKeySchema`` (start) and ``SessionKeySchema`` (end, start)."""
    return _SESSION.pack(window.end, window.start) if window.type == "session" else _TIME.pack(window.start)


def split_key(key: bytes | None, window: Window | None) -> tuple[bytes | None, WindowBounds | None]:
    """Return a key without its window, and the window; None for plain keys."""
    if key is None or window is None:
        return key, None
    if window.kind is WindowKind.SESSION:
        end, start = _SESSION.unpack(key[-_SESSION.size :])
        return key[: -_SESSION.size], WindowBounds(start=start, end=end, type="session")
    (start,) = _TIME.unpack(key[-_TIME.size :])
    return key[: -_TIME.size], WindowBounds(start=start, end=start + window.size_ms, type="time")


# ------------------------------------------------------------------------------------------------------------ Avro
def _parsed(schema: Any) -> Any:
    """Return a schema without the logical types that fastavro turns into objects: times are numbers in test files."""
    return fastavro.parse_schema(cast(Any, _plain(schema)))


def _plain(schema: Any) -> Any:
    if isinstance(schema, list):
        return [_plain(branch) for branch in schema]
    if not isinstance(schema, Mapping):
        return schema
    kept = {name: value for name, value in schema.items() if name != "logicalType" or value == "decimal"}
    for name in ("items", "values", "type"):
        if isinstance(kept.get(name), Mapping | list):
            kept[name] = _plain(kept[name])
    if "fields" in kept:
        kept["fields"] = [{**field, "type": _plain(field["type"])} for field in kept["fields"]]
    return kept


def _read_avro(data: bytes, schemas: SchemaById) -> Any:
    magic, schema_id = _HEADER.unpack(data[: _HEADER.size])
    if magic != 0:
        raise ValueError(f"the magic byte is {magic}")
    body = io.BytesIO(data[_HEADER.size :])
    schema = schemas(schema_id)
    return _shown(fastavro.schemaless_reader(body, _parsed(schema), None))


def _shown(value: Any) -> Any:
    if isinstance(value, dict):
        return {name: _shown(item) for name, item in value.items()}
    if isinstance(value, list):
        if value and all(isinstance(item, dict) and item.keys() == {"key", "value"} for item in value):
            return {str(item["key"]): _shown(item["value"]) for item in value}
        return [_shown(item) for item in value]
    return b64encode(value).decode() if isinstance(value, bytes) else value


def _datum(value: Any, schema: Any) -> Any:
    """Return a JSON value as fastavro wants it for a schema."""
    if value is None:
        return None
    if isinstance(schema, list):
        return _datum(value, next(branch for branch in schema if branch != "null"))
    kind = schema["type"] if isinstance(schema, Mapping) else schema
    if isinstance(kind, Mapping | list):
        return _datum(value, kind)
    if kind == "record":
        return {field["name"]: _field(value, field) for field in schema["fields"]}
    if kind in ("array", "map"):
        return _items(value, schema) if kind == "array" else {k: _datum(v, schema["values"]) for k, v in value.items()}
    is_decimal = isinstance(schema, Mapping) and schema.get("logicalType") == "decimal"
    plain: Mapping[str, Callable[[Any], Any]] = {
        "bytes": Decimal if is_decimal else b64decode,
        "fixed": Decimal if is_decimal else b64decode,
        "double": float,
        "float": float,
        "int": int,
        "long": int,
    }
    return plain.get(kind, _as_it_is)(value)


def _as_it_is(value: Any) -> Any:
    return value


def _field(value: Mapping[str, Any], field: Mapping[str, Any]) -> Any:
    folded = {name.upper(): item for name, item in value.items()}
    name = field["name"]
    if name in value or name.upper() in folded:
        return _datum(value.get(name, folded.get(name.upper())), field["type"])
    return field.get("default")


def _items(value: Any, schema: Mapping[str, Any]) -> Any:
    """Return an array's items; KSQL's maps are arrays of entries in Avro."""
    entries = [{"key": key, "value": item} for key, item in value.items()] if isinstance(value, dict) else value
    return [_datum(entry, schema["items"]) for entry in entries]
