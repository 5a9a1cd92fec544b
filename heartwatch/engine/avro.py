"""Avro schemas to KSQL columns, and back, in the shapes that ksqlDB (through Connect's converter) writes.

Every column is nullable: ``["null", …]`` with default null. A MAP is an array of key/value records, because Connect's maps with
nullable keys are. Types that KSQL doesn't have leave their column out, as in ksqlDB.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any

from heartwatch.engine.errors import StatementError
from heartwatch.engine.plan import Column
from heartwatch.engine.types import (
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

NAMESPACE = "io.confluent.ksql.avro_schemas"
DEFAULT_NAME = f"{NAMESPACE}.KsqlDataSourceSchema"
KEY_COLUMN = "ROWKEY"  # column of a key that is no record

_PLAIN = {
    "boolean": BOOLEAN, "int": INTEGER, "long": BIGINT, "float": DOUBLE, "double": DOUBLE, "string": STRING, "enum": STRING,
    "bytes": BYTES, "fixed": BYTES,
}  # fmt: skip
_LOGICAL = {("int", "date"): DATE, ("int", "time-millis"): TIME, ("long", "timestamp-millis"): TIMESTAMP}
_MAP_ENTRY = "MapEntry"


class _Unsupported(Exception):
    """A type that KSQL doesn't have."""


# ---------------------------------------------------------------------------------------------------- Avro → KSQL
def columns_of_avro(schema: str, *, key: bool = False, uppercase: bool = True) -> list[Column]:
    """Return the columns of an Avro schema.

    Args:
        schema: the schema as JSON.
        key: a key that is no record is one column, ROWKEY.
        uppercase: names become upper case, as ksqlDB infers them (it keeps them where a schema id is given).

    Raises:
        StatementError: the schema is no record, or none of its fields has a type that KSQL knows.
    """
    parsed = json.loads(schema)
    named: dict[str, Any] = {}
    try:
        type_ = _sql_type(parsed, named, uppercase)
    except _Unsupported as error:
        raise StatementError(f"Unsupported type at root of schema: {error}") from error
    if isinstance(type_, StructType):
        if not type_.fields:
            raise StatementError(
                f"Schema does not include any columns with types that ksqlDB supports.\nschema: {schema}"
            )
        return [Column(name, field_type) for name, field_type in type_.fields]
    if key:
        return [Column(KEY_COLUMN, type_)]
    raise StatementError("KSQL stream/table schema must be structured")


def _sql_type(schema: Any, named: dict[str, Any], uppercase: bool) -> SqlType:  # noqa: C901, PLR0911 - one case a kind
    if isinstance(schema, list):
        return _union(schema, named, uppercase)
    if isinstance(schema, str):
        schema = named.get(schema, {"type": schema})
    kind = schema["type"]
    if not isinstance(kind, str):
        return _sql_type(kind, named, uppercase)
    if kind in ("record", "enum", "fixed"):
        named[schema["name"]] = schema
        named[f"{schema.get('namespace', '')}.{schema['name']}".lstrip(".")] = schema
    logical = schema.get("logicalType")
    if logical == "decimal":
        return DecimalType(precision=schema.get("precision", 38), scale=schema.get("scale", 0))
    if (kind, logical) in _LOGICAL:
        return _LOGICAL[kind, logical]
    if kind == "array":
        return _array(schema["items"], named, uppercase)
    if kind == "map":
        return MapType(key=STRING, value=_sql_type(schema["values"], named, uppercase))
    if kind == "record":
        return _record(schema, named, uppercase)
    if kind not in _PLAIN:
        raise _Unsupported(kind)
    return _PLAIN[kind]


def _union(schema: list[Any], named: dict[str, Any], uppercase: bool) -> SqlType:
    others = [branch for branch in schema if branch != "null"]
    if len(others) != 1:
        raise _Unsupported(f"union of {len(others)} types")
    return _sql_type(others[0], named, uppercase)


def _array(items: Any, named: dict[str, Any], uppercase: bool) -> SqlType:
    if isinstance(items, dict) and items.get("connect.internal.type") == _MAP_ENTRY:
        key, value = (field["type"] for field in items["fields"])
        return MapType(key=_sql_type(key, named, uppercase), value=_sql_type(value, named, uppercase))
    return ArrayType(element=_sql_type(items, named, uppercase))


def _record(schema: Mapping[str, Any], named: dict[str, Any], uppercase: bool) -> SqlType:
    found = []
    for field in schema["fields"]:
        try:
            name = field["name"].upper() if uppercase else field["name"]
            found.append((name, _sql_type(field["type"], named, uppercase)))
        except _Unsupported:
            continue
    return StructType(fields=tuple(found))


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
