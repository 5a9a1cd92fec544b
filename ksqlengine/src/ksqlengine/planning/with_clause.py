"""The WITH clause: known properties, their types, and the formats they describe."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from ksqlengine.formats import avro
from ksqlengine.language import ast
from ksqlengine.language.parser import parse_expression
from ksqlengine.language.tree_builder import UNIT_MS
from ksqlengine.plan.steps import Column, Format, Schema, SourceKind, Window, WindowKind
from ksqlengine.types.errors import NotSupportedError, StatementError
from ksqlengine.types.sqltypes import BIGINT, BYTES, DOUBLE, INTEGER, STRING, ArrayType, MapType, SqlType, StructType
from ksqlengine.types.times import PatternError, java_pattern

FORMATS = ("AVRO", "JSON", "DELIMITED", "KAFKA", "NONE")
_OTHER_FORMATS = ("JSON_SR", "PROTOBUF", "PROTOBUF_NOSR")

_COMMON: Mapping[str, type] = {
    "KAFKA_TOPIC": str,
    "FORMAT": str,
    "KEY_FORMAT": str,
    "VALUE_FORMAT": str,
    "PARTITIONS": int,
    "REPLICAS": int,
    "RETENTION_MS": int,
    "CLEANUP_POLICY": str,
    "TIMESTAMP": str,
    "TIMESTAMP_FORMAT": str,
    "VALUE_DELIMITER": str,
    "KEY_DELIMITER": str,
    "WRAP_SINGLE_VALUE": bool,
    "KEY_SCHEMA_ID": int,
    "VALUE_SCHEMA_ID": int,
    "KEY_SCHEMA_FULL_NAME": str,
    "VALUE_SCHEMA_FULL_NAME": str,
    "VALUE_AVRO_SCHEMA_FULL_NAME": str,
}
_CREATE = {**_COMMON, "WINDOW_TYPE": str, "WINDOW_SIZE": str, "SOURCED_BY_CONNECTOR": str}
_INSERT: Mapping[str, type] = {"QUERY_ID": str}
_DELIMITERS = {"SPACE": " ", "TAB": "\t"}
# Formats in which a single column may stand in a record, and those in which it may stand alone.
_WRAPPING: Mapping[bool, tuple[str, ...]] = {True: ("AVRO", "JSON"), False: ("AVRO", "JSON", "DELIMITED", "KAFKA")}


@dataclass(frozen=True)
class EngineDefaults:
    """Settings of the server that statements fall back on."""

    key_format: str = "KAFKA"
    value_format: str | None = None
    topic_prefix: str = ""
    wraps_single: bool = True

    def wrapped(self, format_: Format, columns: tuple[Column, ...]) -> Format:
        """Return a value format as it is where WRAP_SINGLE_VALUE isn't given: the setting matters to single columns only."""
        plain = not self.wraps_single and len(columns) == 1 and format_.name in ("AVRO", "JSON")
        return replace(format_, wrap_single=False) if plain and format_.wrap_single is None else format_


@dataclass(frozen=True)
class Properties:
    """Checked properties, by upper-case name."""

    values: Mapping[str, Any]

    def get(self, name: str) -> Any:
        """Return a property, None where it is not set."""
        return self.values.get(name)

    def key_format_name(self) -> str | None:
        """Return KEY_FORMAT (or FORMAT), upper case."""
        return _format_name(self.get("FORMAT") or self.get("KEY_FORMAT"))

    def value_format_name(self) -> str | None:
        """Return VALUE_FORMAT (or FORMAT), upper case."""
        return _format_name(self.get("FORMAT") or self.get("VALUE_FORMAT"))

    def key_format(self, name: str, sink: str, inherited: Format | None = None) -> Format:
        """Return the key's format.

        Args:
            name: the format.
            sink: the stream's or table's name, which names an Avro key's record.
            inherited: the source's format, whose delimiter stays.
        """
        full_name = _blank_to_none(self.get("KEY_SCHEMA_FULL_NAME"))
        if name == "AVRO" and full_name is None:
            camel = "".join(word.capitalize() for word in sink.split("_"))
            full_name = f"io.confluent.ksql.avro_schemas.{camel}Key"
        self._check_schema_id("KEY", name)
        delimiter = self._delimiter("KEY_DELIMITER", name, inherited)
        return Format(name, full_name if name == "AVRO" else None, self.get("KEY_SCHEMA_ID"), delimiter)

    def value_format(self, name: str, inherited: Format | None = None) -> Format:
        """Return the value's format; `inherited` is the source's, whose delimiter stays."""
        full_name = self.values.get("VALUE_AVRO_SCHEMA_FULL_NAME", self.get("VALUE_SCHEMA_FULL_NAME"))
        _check_full_name(full_name, name)
        wrap = self.get("WRAP_SINGLE_VALUE")
        if name not in _WRAPPING.get(wrap, FORMATS):
            raise StatementError(f"Format '{name}' does not support 'WRAP_SINGLE_VALUE' set to '{str(wrap).lower()}'.")
        self._check_schema_id("VALUE", name)
        delimiter = self._delimiter("VALUE_DELIMITER", name, inherited)
        return Format(name, full_name, self.get("VALUE_SCHEMA_ID"), delimiter, wrap)

    def _check_schema_id(self, side: str, format_name: str) -> None:
        if self.get(f"{side}_SCHEMA_ID") is not None and format_name != "AVRO":
            raise StatementError(
                f"{side}_FORMAT should support schema inference when {side}_SCHEMA_ID is provided. "
                f"Current format is {format_name}."
            )

    def _delimiter(self, name: str, format_name: str, inherited: Format | None) -> str:
        given = self.get(name)
        if given is None:
            return inherited.delimiter if inherited is not None and inherited.name == format_name else ","
        if format_name != "DELIMITED":
            raise StatementError(f"{format_name} does not support the following configs: [delimiter]")
        return _DELIMITERS.get(given, str(given))

    def timestamp_column(self, schema: Schema) -> str | None:
        """Return the column of TIMESTAMP.

        Raises:
            StatementError: there is no such column, or its type gives no time.
        """
        given = self.get("TIMESTAMP")
        if given is None:
            return None
        reference = parse_expression(given)
        if not isinstance(reference, ast.ColumnReference):
            raise StatementError(f"Invalid timestamp column reference: {given}")
        types = {column.name: column.type for column in schema.columns}
        if reference.name not in types:
            raise StatementError(
                f"The TIMESTAMP column set in the WITH clause does not exist in the schema: '{reference.name}'"
            )
        self._check_timestamp(reference.name, types[reference.name])
        return reference.name

    def _check_timestamp(self, name: str, type_: SqlType) -> None:
        pattern = self.get("TIMESTAMP_FORMAT")
        if type_ == STRING:
            if pattern is None:
                raise StatementError(
                    f"A String timestamp field has been specified without also specifying the TIMESTAMP_FORMAT: {name}"
                )
            return
        if type_.name not in ("BIGINT", "TIMESTAMP"):
            raise StatementError(
                f"Timestamp column, `{name}`, should be LONG(INT64), TIMESTAMP, or a String with a timestamp_format "
                "specified."
            )
        if pattern is not None:
            raise StatementError(
                f"'TIMESTAMP_FORMAT' set in the WITH clause can only be used when the timestamp column is of type STRING. "
                f"Column: {name} is {type_}"
            )

    def topic_config(self, kind: SourceKind, window: Window | None) -> dict[str, str]:
        """Return the settings of a topic that is made for a stream or table.

        Raises:
            StatementError: RETENTION_MS is set for a topic that keeps the last record of each key.
        """
        policy = self.get("CLEANUP_POLICY") or ("compact" if kind is SourceKind.TABLE and window is None else None)
        policy = policy.lower().replace(" ", "") if policy is not None else None
        retention = self.get("RETENTION_MS")
        if policy == "compact" and retention is not None:
            raise StatementError(
                "Invalid config variable in the WITH clause: RETENTION_MS. Non-windowed tables do not support retention."
            )
        given = {"cleanup.policy": policy, "retention.ms": retention}
        return {name: str(value) for name, value in given.items() if value is not None}

    def window(self) -> Window | None:
        """Return WINDOW_TYPE and WINDOW_SIZE as a window (of a topic that another system windowed)."""
        kind_name, size = self.get("WINDOW_TYPE"), self.get("WINDOW_SIZE")
        if kind_name is None:
            if size is not None:
                raise StatementError("'WINDOW_SIZE' should not be set for SESSION windows.")
            return None
        kinds = {kind.value: kind for kind in WindowKind}
        kind = kinds.get(kind_name.upper())
        if kind is None:
            raise StatementError(
                f"Invalid value {kind_name} for property WINDOW_TYPE: "
                "String must be one of: SESSION, HOPPING, TUMBLING, null"
            )
        if kind is WindowKind.SESSION:
            if size is not None:
                raise StatementError("'WINDOW_SIZE' should not be set for SESSION windows.")
            return Window(kind, 0, 0, 0)
        if size is None:
            raise StatementError(
                f"{kind.value} windows require 'WINDOW_SIZE' to be provided in the WITH clause. "
                "For example: 'WINDOW_SIZE'='10 SECONDS'"
            )
        length = _duration(size)
        return Window(kind, length, length, 0)


def _duration(text: str) -> int:
    invalid = f"Configuration WINDOW_SIZE is invalid: Invalid duration: '{text}'."
    match = re.fullmatch(r"(\d{1,19})\s+(\w+)", text.strip())
    if match is None:
        raise StatementError(f"{invalid} Example valid value: '10 SECONDS'")
    unit = UNIT_MS.get(match[2].upper().removesuffix("S"))
    if unit is None:
        raise StatementError(
            f"{invalid} Unknown time unit: '{match[2].upper()}'\n"
            f"Supported time units are: {', '.join(f'{unit}S' for unit in UNIT_MS)}"
        )
    return int(match[1]) * unit


def _blank_to_none(text: str | None) -> str | None:
    return text.strip() or None if text is not None else None


def _format_name(name: str | None) -> str | None:
    if name is None:
        return None
    upper = name.strip().upper()
    if upper in _OTHER_FORMATS:
        raise NotSupportedError(f"The format {upper}")
    if upper not in FORMATS:
        raise StatementError(f"Unknown format: {upper}")
    return upper


def create_properties(properties: ast.Properties) -> Properties:
    """Check WITH of CREATE STREAM or TABLE.

    Raises:
        StatementError: a property is unknown, missing or of the wrong type.
    """
    checked = _checked(properties, _CREATE)
    if checked.get("KAFKA_TOPIC") is None:
        raise StatementError('Missing required property "KAFKA_TOPIC" which has no default value.')
    checked.window()
    return checked


def create_as_properties(properties: ast.Properties) -> Properties:
    """Check WITH of CREATE … AS SELECT.

    Raises:
        StatementError: a property is unknown or of the wrong type.
    """
    return _checked(properties, _COMMON)


def insert_properties(properties: ast.Properties) -> Properties:
    """Check WITH of INSERT INTO.

    Raises:
        StatementError: a property is unknown or of the wrong type.
    """
    return _checked(properties, _INSERT)


def _checked(properties: ast.Properties, known: Mapping[str, type]) -> Properties:
    given = {name.upper(): literal for name, literal in properties}
    protobuf = [name for name in given if name.endswith("_PROTOBUF_NULLABLE_REPRESENTATION")]
    if protobuf:
        raise StatementError(f"Property {protobuf[0]} can only be enabled with protobuf format")
    unknown = [name for name in given if name not in known]
    if unknown:
        raise StatementError(f"Invalid config variable(s) in the WITH clause: {','.join(unknown)}")
    values = {name: _value(name, literal, known[name]) for name, literal in given.items()}
    if "FORMAT" in values and (values.keys() & {"KEY_FORMAT", "VALUE_FORMAT"}):
        other = "KEY_FORMAT" if "KEY_FORMAT" in values else "VALUE_FORMAT"
        raise StatementError(
            f"Cannot supply both '{other}' and 'FORMAT' properties, as 'FORMAT' sets both key and value formats. "
            "Either use just 'FORMAT', or use 'KEY_FORMAT' and 'VALUE_FORMAT'."
        )
    _check_pattern(values.get("TIMESTAMP_FORMAT"))
    for name in ("KEY_DELIMITER", "VALUE_DELIMITER"):
        _check_delimiter(name, values.get(name, ","))
    policy = values.get("CLEANUP_POLICY")
    if policy is not None and not set(policy.lower().replace(" ", "").split(",")) <= {"compact", "delete"}:
        raise StatementError(f"Invalid value {policy} for property CLEANUP_POLICY: it must be compact, delete or both")
    return Properties(values)


def _check_delimiter(name: str, given: str) -> None:
    if given.strip() and (len(given) == 1 or given in _DELIMITERS):
        return
    reason = (
        f"Invalid delimiter value: '{given}'. Delimiter must be a single character or TAB,SPACE"
        if given.strip()
        else "Delimiter cannot be empty, if you meant to have a tab or space for delimiter, please use the special values "
        "'TAB' or 'SPACE'"
    )
    raise StatementError(f"Configuration {name} is invalid: {reason}\nExample valid value: ';'")


def _check_pattern(pattern: str | None) -> None:
    if pattern is None:
        return
    try:
        java_pattern(pattern)
    except PatternError as error:
        raise StatementError(f"Invalid datetime format for config:TIMESTAMP_FORMAT, reason:{error}") from error


def _value(name: str, literal: ast.SyntaxExpression, kind: type) -> Any:
    value = getattr(literal, "value", None)
    if kind is str and isinstance(value, str):
        return value
    if kind is bool:
        text = str(value).lower()
        if text in ("true", "false"):
            return text == "true"
        raise StatementError(f"Invalid value {value} for property {name}: Expected value to be either true or false")
    if kind is int:
        if isinstance(value, int) and not isinstance(value, bool):
            return value
        if isinstance(value, str) and re.fullmatch(r"-?\d{1,19}", value.strip()):
            return int(value)
        raise StatementError(f"Invalid value {value} for property {name}: Not a number of type INT")
    raise StatementError(f"Invalid value {literal} for property {name}: Expected value to be a string")


# ---------------------------------------------------------------------------------------------------- what formats hold
_KAFKA_TYPES = (INTEGER, BIGINT, DOUBLE, STRING, BYTES)


def check_key_columns(columns: tuple[Column, ...], format_: Format) -> None:
    """Check that a format holds these key columns.

    Raises:
        StatementError: it doesn't.
    """
    for column in columns:
        if _has_map(column.type):
            raise StatementError(
                "Map keys, including types that contain maps, are not supported as they may lead to unexpected behavior due "
                f"to inconsistent serialization. Key column name: `{column.name}`. Column type: {column.type}. "
                "See https://github.com/confluentinc/ksql/issues/6621 for more."
            )
    _check_columns(columns, format_, "key")


def holding(format_: Format, columns: tuple[Column, ...]) -> Format:
    """Return a format that can hold key columns: the given one, or JSON where KAFKA or NONE can't.

    Raises:
        StatementError: no format can.
    """
    try:
        check_key_columns(columns, format_)
    except StatementError:
        if format_.name == "KAFKA":
            return Format("JSON")
        if format_.name == "NONE":
            return holding(Format("KAFKA"), columns)
        raise
    return format_


def check_value_columns(columns: tuple[Column, ...], format_: Format) -> None:
    """Check that a format holds these value columns.

    Raises:
        StatementError: it doesn't.
    """
    _check_columns(columns, format_, "value")


def _has_map(type_: SqlType) -> bool:
    if isinstance(type_, ArrayType):
        return _has_map(type_.element)
    if isinstance(type_, StructType):
        return any(_has_map(field_type) for _, field_type in type_.fields)
    return isinstance(type_, MapType)


def _has_other_keys(type_: SqlType) -> bool:
    """Tell whether a MAP in a type has keys that are no texts."""
    if isinstance(type_, MapType):
        return type_.key != STRING or _has_other_keys(type_.value)
    if isinstance(type_, ArrayType):
        return _has_other_keys(type_.element)
    return isinstance(type_, StructType) and any(_has_other_keys(field_type) for _, field_type in type_.fields)


def listed(columns: Sequence[Column], side: str) -> str:
    """Return columns as ksqlDB lists them in messages; `side` is key or value."""
    suffix = " KEY" if side == "key" else ""
    return "[" + ", ".join(f"`{column.name}` {column.type}{suffix}" for column in columns) + "]"


def _check_full_name(full_name: str | None, format_name: str) -> None:
    if full_name is not None and format_name != "AVRO":
        raise StatementError(f"{format_name} does not support the following configs: [fullSchemaName]")
    if full_name is not None and not full_name.strip():
        raise StatementError("fullSchemaName cannot be empty. Format configuration: {fullSchemaName=}")


def _check_columns(columns: tuple[Column, ...], format_: Format, side: str) -> None:
    reason = _unfit(columns, format_, side)
    if reason is not None:
        raise StatementError(
            f"{side.capitalize()} format does not support schema.\nformat: {format_.name}\n"
            f"schema: Persistence{{columns={listed(columns, side)}, features=[]}}\nreason: {reason}"
        )
    if side == "value" and format_.wrap_single is not None and len(columns) != 1:
        raise StatementError("'WRAP_SINGLE_VALUE' is only valid for single-field value schemas")


def _unfit(columns: tuple[Column, ...], format_: Format, side: str) -> str | None:
    """Return why a format can't hold columns, None where it can."""
    if format_.name == "NONE" and columns:
        return f"The 'NONE' format can only be used when no columns are defined. Got: {listed(columns, side)}"
    if format_.name == "KAFKA":
        if len(columns) > 1:
            return f"The 'KAFKA' format only supports a single field. Got: {listed(columns, side)}"
        unfit = next((column for column in columns if column.type not in _KAFKA_TYPES), None)
    elif format_.name == "DELIMITED":
        unfit = next((column for column in columns if isinstance(column.type, ArrayType | MapType | StructType)), None)
    elif format_.name == "AVRO":
        is_single = len(columns) == 1 and (side == "key" or format_.wrap_single is False)
        return avro.unfit_type(columns[0].type) if is_single else avro.unfit(columns)
    else:
        other_keys = format_.name == "JSON" and any(_has_other_keys(column.type) for column in columns)
        return "JSON only supports MAP types with STRING keys" if other_keys else None
    if unfit is None:
        return None
    return f"The '{format_.name}' format does not support type '{unfit.type.name}', column: `{unfit.name}`"
