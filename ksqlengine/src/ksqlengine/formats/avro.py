"""Avro schemas to KSQL columns, and back, in the shapes that ksqlDB (through Connect's converter) writes.

Every column is nullable: ``["null", …]`` with default null. A MAP is an array of key/value records, because Connect's maps with
nullable keys are. Types that KSQL doesn't have leave their column out, as in ksqlDB.
"""

from __future__ import annotations

import json
import logging
from collections.abc import Mapping, Sequence
from datetime import date, datetime, time
from decimal import Decimal
from typing import Any
from uuid import UUID

import fastavro

from ksqlengine.errors import KsqlEngineError
from ksqlengine.plan.steps import Column
from ksqlengine.types.casts import java_double
from ksqlengine.types.errors import StatementError
from ksqlengine.types.sqltypes import (
    BIGINT,
    BOOLEAN,
    BYTES,
    DATE,
    DOUBLE,
    INTEGER,
    STRING,
    TIME,
    TIMESTAMP,
    ArrayType,
    DecimalType,
    MapType,
    SqlType,
    StructType,
)

logger = logging.getLogger(__name__)

NAMESPACE = "io.confluent.ksql.avro_schemas"
DEFAULT_NAME = f"{NAMESPACE}.KsqlDataSourceSchema"
KEY_COLUMN = "ROWKEY"  # column of a key; keys are never taken apart
VALUE_COLUMN = "ROWVAL"  # column of a value that isn't taken apart either (WRAP_SINGLE_VALUE)

_PLAIN = {
    "boolean": BOOLEAN, "int": INTEGER, "long": BIGINT, "float": DOUBLE, "double": DOUBLE, "string": STRING, "enum": STRING,
    "bytes": BYTES, "fixed": BYTES,
}  # fmt: skip
_LOGICAL = {("int", "date"): DATE, ("int", "time-millis"): TIME, ("long", "timestamp-millis"): TIMESTAMP}
_MAP_ENTRY = "MapEntry"


class _Unsupported(KsqlEngineError):
    """A type that KSQL doesn't have."""


# ---------------------------------------------------------------------------------------------------- Avro → KSQL
def columns_of_avro(schema: str, *, single: str | None = None, uppercase: bool = True) -> list[Column]:
    """Return the columns of an Avro schema.

    Args:
        schema: the schema as JSON.
        single: the whole is one column of this name, even a record; None takes a record's fields.
        uppercase: names become upper case, as ksqlDB infers them (it keeps them where a schema id is given).

    Raises:
        StatementError: the schema is not a record, or none of its fields has a type that KSQL knows.
    """
    try:
        parsed = expanded(json.loads(schema))
    except Exception as error:
        raise StatementError(f"Not an Avro schema: {error}\nschema: {schema}") from error
    try:
        type_ = _sql_type(parsed, uppercase)
    except _Unsupported as error:
        raise StatementError(f"Unsupported type at root of schema: {error}") from error
    if single is not None:
        return [Column(single, type_)]
    if isinstance(type_, StructType):
        if not type_.fields:
            raise StatementError(
                f"Schema does not include any columns with types that ksqlDB supports.\nschema: {schema}"
            )
        return [Column(name, field_type) for name, field_type in type_.fields]
    raise StatementError(
        "Schema returned from schema registry is anonymous type. To use this schema with ksqlDB, set "
        "'WRAP_SINGLE_VALUE=false' in the WITH clause properties."
    )


def _sql_type(schema: Any, uppercase: bool) -> SqlType:  # noqa: PLR0911 - one case a kind
    if isinstance(schema, list):
        return _union(schema, uppercase)
    if isinstance(schema, str):
        schema = {"type": schema}
    kind = schema["type"]
    if not isinstance(kind, str):
        return _sql_type(kind, uppercase)
    logical = schema.get("logicalType")
    if logical == "decimal":
        return DecimalType(precision=schema.get("precision", 38), scale=schema.get("scale", 0))
    if (kind, logical) in _LOGICAL:
        return _LOGICAL[kind, logical]
    if kind == "array":
        return _array(schema["items"], uppercase)
    if kind == "map":
        return MapType(key=STRING, value=_sql_type(schema["values"], uppercase))
    if kind == "record":
        return _record(schema, uppercase)
    if kind not in _PLAIN:
        raise _Unsupported(kind)
    return _PLAIN[kind]


def _union(schema: list[Any], uppercase: bool) -> SqlType:
    others = [branch for branch in schema if branch != "null"]
    if len(others) == 1:
        return _sql_type(others[0], uppercase)
    if not others:
        raise _Unsupported("null")
    return _record({"fields": [{"name": branch_name(branch), "type": branch} for branch in others]}, uppercase)


def is_union_of_several(schema: Any) -> bool:
    """Say whether a schema is a union of more types than one and null."""
    return isinstance(schema, list) and len([branch for branch in schema if branch != "null"]) > 1


def branch_name(branch: Any) -> str:
    """Return the name of the STRUCT field that a union's branch becomes where there are several.

    Source: ``unionMemberFieldName`` of Connect's ``AvroData``: named types have their name without its namespace.
    """
    if isinstance(branch, str):
        return branch.rpartition(".")[2]
    kind = branch["type"]
    return str(branch["name"]).rpartition(".")[2] if kind in ("record", "enum", "fixed") else branch_name(kind)


def _array(items: Any, uppercase: bool) -> SqlType:
    if isinstance(items, dict) and items.get("connect.internal.type") == _MAP_ENTRY:
        key, value = (field["type"] for field in items["fields"])
        return MapType(key=_sql_type(key, uppercase), value=_sql_type(value, uppercase))
    return ArrayType(element=_sql_type(items, uppercase))


def _record(schema: Mapping[str, Any], uppercase: bool) -> SqlType:
    found = []
    for field in schema["fields"]:
        try:
            name = field["name"].upper() if uppercase else field["name"]
            found.append((name, _sql_type(field["type"], uppercase)))
        except _Unsupported as error:
            logger.warning(
                "field %r of an Avro schema becomes no column: KSQL has no type for %s", field["name"], error
            )
    return StructType(fields=tuple(found))


# ---------------------------------------------------------------------------------------------------- Avro values → KSQL
_ACCEPTED = {
    "BOOLEAN": ("boolean",),
    "INTEGER": ("int",),
    "BIGINT": ("int", "long"),
    "DOUBLE": ("float", "double"),
    "STRING": ("string", "enum", "boolean", "int", "long", "float", "double"),
    "BYTES": ("bytes", "fixed"),
    "DECIMAL": ("bytes", "fixed"),
    "DATE": ("int",),
    "TIME": ("int",),
    "TIMESTAMP": ("long",),
    "ARRAY": ("array",),
    "MAP": ("map", "array"),
    "STRUCT": ("record",),
}
_READ_AS: Mapping[str, tuple[type, ...]] = {
    "boolean": (bool,), "long": (int, datetime, time), "float": (float,), "double": (float,), "string": (str, UUID),
    "bytes": (bytes, Decimal), "array": (list,), "map": (dict,),
}  # fmt: skip


def expanded(schema: Any) -> Any:
    """Return a schema with what names refer to in their place, where they don't refer to what they are in."""
    return fastavro.parse_schema(schema, expand=True)


def to_ksql(value: Any, schema: Any, type_: SqlType, path: str) -> Any:  # noqa: PLR0911 - one case a kind
    """Return a value that was read with a schema as a column's type.

    Source: ksqlDB's ``ConnectDataTranslator``: integers widen, numbers and BOOLEANs become texts, fields are found without regard
    to case and are null where there are none.

    Args:
        value: as fastavro reads it.
        schema: what it was written with.
        type_: the column's type.
        path: where it stands, for the error.

    Raises:
        StatementError: a value of this schema is not a value of the type.
    """
    if isinstance(schema, list):
        branches = [branch for branch in schema if branch != "null"]
        if value is None:
            return value
        if len(branches) == 1:
            return to_ksql(value, branches[0], type_, path)
        if not isinstance(type_, StructType):
            return _refuse("struct", type_, path)
        return _of_branch(value, branches, type_, path)
    kind = schema["type"] if isinstance(schema, dict) else schema
    if not isinstance(kind, str):
        return to_ksql(value, kind, type_, path)
    if kind not in _ACCEPTED[type_.name]:
        return _refuse(kind, type_, path)
    return value if value is None else _converted(value, schema, type_, path)


def _of_branch(value: Any, branches: list[Any], type_: StructType, path: str) -> dict[str, Any]:
    """Return a value of a union of several types as a STRUCT with a field for each of them."""
    named, value = value if isinstance(value, tuple) else (None, value)
    chosen = next((branch for branch in branches if _is_of(value, named, branch)), branches[0])
    name = branch_name(chosen).upper()
    return {
        field: to_ksql(value, chosen, field_type, f"{path}->{field}") if field.upper() == name else None
        for field, field_type in type_.fields
    }


def _is_of(value: Any, named: str | None, branch: Any) -> bool:  # noqa: PLR0911 - one case a kind
    """Say whether a value that fastavro has read is of a union's branch.

    Args:
        value: the value.
        named: the full name of its type, which fastavro gives where several branches are named types.
        branch: schema of the branch.
    """
    attributes = branch if isinstance(branch, dict) else {}
    kind = attributes.get("type", branch)
    if named is not None:
        return kind in ("record", "enum", "fixed") and named.rpartition(".")[2] == branch_name(branch)
    if isinstance(kind, dict | list):
        return _is_of(value, named, kind)
    if kind == "record":
        return isinstance(value, dict) and set(value) == {field["name"] for field in attributes.get("fields", ())}
    if kind == "enum":
        return value in attributes.get("symbols", ())
    if kind == "fixed":
        return isinstance(value, bytes) and len(value) == attributes.get("size")
    if kind == "int":
        return isinstance(value, date | time) or (type(value) is int and -(2**31) <= value < 2**31)
    return isinstance(value, _READ_AS.get(kind, ())) and (kind == "boolean") == isinstance(value, bool)


def _refuse(kind: str, type_: SqlType, path: str) -> Any:
    raise StatementError(f"Cannot deserialize type {kind} as type {type_.name} for path: {path}")


def _converted(value: Any, schema: Any, type_: SqlType, path: str) -> Any:
    attributes = schema if isinstance(schema, dict) else {}
    if isinstance(type_, ArrayType):
        return [to_ksql(item, attributes["items"], type_.element, f"{path}->ARRAY") for item in value]
    if isinstance(type_, MapType):
        return _entries(value, attributes, type_, path)
    if isinstance(type_, StructType):
        return _fields(value, attributes, type_, path)
    if type_ == STRING:
        return _text(value)
    if isinstance(value, datetime):
        return value.replace(tzinfo=None)
    return float(value) if type_ == DOUBLE else value


def _text(value: Any) -> str:
    if isinstance(value, bool):
        return str(value).lower()
    return java_double(value) if isinstance(value, float) else str(value)


def _entries(value: Any, schema: Mapping[str, Any], type_: MapType, path: str) -> list[dict[str, Any]]:
    if isinstance(value, dict):
        pairs = [(key, "string", item, schema["values"]) for key, item in value.items()]
    else:
        kinds = {field["name"]: field["type"] for field in schema["items"]["fields"]}
        pairs = [(item["key"], kinds["key"], item["value"], kinds["value"]) for item in value]
    return [
        {
            "key": to_ksql(key, key_kind, type_.key, f"{path}->MAP_KEY"),
            "value": to_ksql(item, kind, type_.value, f"{path}->MAP_VAL"),
        }
        for key, key_kind, item, kind in pairs
    ]


def _fields(value: Mapping[str, Any], schema: Mapping[str, Any], type_: StructType, path: str) -> dict[str, Any]:
    kinds = {field["name"]: (field["name"], field["type"]) for field in schema.get("fields", ())}
    folded = {name.upper(): field for name, field in kinds.items()}
    found = {}
    for name, field_type in type_.fields:
        own, kind = kinds.get(name) or folded.get(name.upper(), (None, None))
        found[name] = None if own is None else to_ksql(value[own], kind, field_type, f"{path}->{name}")
    return found


# ---------------------------------------------------------------------------------------------------- KSQL → Avro
def avro_of_schema(columns: Sequence[Column], full_name: str | None = None, *, wrap: bool = True) -> Any:
    """Return the Avro schema that ksqlDB writes columns with, as JSON values.

    Args:
        columns: value columns, or key columns.
        full_name: namespace and name of the record; None takes ksqlDB's own.
        wrap: a single column is a record's field, else the schema is the column's own type (keys, WRAP_SINGLE_VALUE).
    """
    name = full_name or DEFAULT_NAME
    if not wrap and len(columns) == 1:
        return _root(_avro_type(columns[0].type, name))
    return _avro_record([(column.name, column.type) for column in columns], name)


def _root(schema: Any) -> Any:
    return {"type": schema} if isinstance(schema, str) else schema


def _avro_record(fields: Sequence[tuple[str, SqlType]], full_name: str) -> dict[str, Any]:
    namespace, _, name = full_name.rpartition(".")
    record: dict[str, Any] = {"type": "record", "name": name}
    if namespace:
        record["namespace"] = namespace
    record["fields"] = [
        {
            "name": field_name.replace(".", "_"),
            "type": ["null", _avro_type(type_, f"{full_name}_{field_name}")],
            "default": None,
        }
        for field_name, type_ in fields
    ]
    return record


def _logical(kind: str, logical: str, connect: str) -> dict[str, Any]:
    return {
        "type": kind,
        "connect.version": 1,
        "connect.name": f"org.apache.kafka.connect.data.{connect}",
        "logicalType": logical,
    }


_AVRO_PLAIN: Mapping[SqlType, Any] = {
    BOOLEAN: "boolean",
    INTEGER: "int",
    BIGINT: "long",
    DOUBLE: "double",
    STRING: "string",
    BYTES: "bytes",
    TIMESTAMP: _logical("long", "timestamp-millis", "Timestamp"),
    DATE: _logical("int", "date", "Date"),
    TIME: _logical("int", "time-millis", "Time"),
}


def _avro_type(type_: SqlType, name: str) -> Any:
    if isinstance(type_, StructType):
        return _avro_record(type_.fields, name)
    if isinstance(type_, ArrayType):
        return {"type": "array", "items": ["null", _avro_type(type_.element, name)]}
    if isinstance(type_, MapType):
        entry = _avro_record([("key", type_.key), ("value", type_.value)], name)
        entry["fields"][1]["type"] = ["null", _avro_type(type_.value, f"{name}_MapValue")]
        return {"type": "array", "items": {**entry, "connect.internal.type": _MAP_ENTRY}}
    if isinstance(type_, DecimalType):
        parameters = {"scale": str(type_.scale), "connect.decimal.precision": str(type_.precision)}
        decimal = _logical("bytes", "decimal", "Decimal")
        return {**decimal, "scale": type_.scale, "precision": type_.precision, "connect.parameters": parameters}
    return _AVRO_PLAIN[type_]


# ---------------------------------------------------------------------------------------------------- what fits
def unfit(columns: Sequence[Column]) -> str | None:
    """Return why columns can't be written as Avro, in ksqlDB's words; None where they can."""
    for column in columns:
        reason = _unfit_name(column.name) or unfit_type(column.type)
        if reason is not None:
            return reason
    return None


def _unfit_name(name: str) -> str | None:
    name = name.replace(".", "_")
    if not (name[:1].isalpha() or name[:1] == "_"):
        return f"Schema is not compatible with Avro: Illegal initial character: {name}"
    if not all(character.isalnum() or character == "_" for character in name):
        return f"Schema is not compatible with Avro: Illegal character in: {name}"
    return None


def unfit_type(type_: SqlType) -> str | None:
    """Return why values of a type can't be written as Avro, None where they can."""
    if isinstance(type_, ArrayType):
        return unfit_type(type_.element)
    if isinstance(type_, MapType):
        return "Avro only supports MAPs with STRING keys" if type_.key != STRING else unfit_type(type_.value)
    if isinstance(type_, StructType):
        return unfit([Column(name, field_type) for name, field_type in type_.fields])
    return None
