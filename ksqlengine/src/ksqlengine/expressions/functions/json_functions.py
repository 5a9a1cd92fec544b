"""JSON functions. Row by row: the shape of the texts differs from row to row."""

from __future__ import annotations

import base64
import json
import math
import re
from collections.abc import Mapping
from datetime import date, datetime, time
from decimal import Decimal
from functools import lru_cache
from typing import Any

import polars as pl

from ksqlengine.expressions.overloads import T, TypedCall, register, row_by_row
from ksqlengine.types.casts import KEY_FIELD, VALUE_FIELD, by_row, java_double, to_text
from ksqlengine.types.sqltypes import (
    BOOLEAN,
    DATE,
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

_CATEGORY = "JSON"


class _Number(Decimal):
    """A JSON number that keeps its digits."""


def parse_json(text: str) -> Any:
    """Return what a JSON text says; numbers with a point keep their digits.

    Raises:
        ValueError: the text is not JSON.
    """
    start = len(text) - len(text.lstrip(_BLANKS))
    value, end = _DECODER.raw_decode(text, start)
    if not isinstance(value, str | list | dict) and text[end : end + 1].strip(_BLANKS):
        raise ValueError(f"{text[end]!r} follows a value")
    return value  # Jackson doesn't look at what follows


def _refuse(name: str) -> None:
    raise ValueError(f"{name} is not JSON")


_BLANKS = " \t\r\n"
_DECODER = json.JSONDecoder(parse_float=_Number, parse_constant=_refuse)


def write_json(value: Any) -> str:
    """Return a value as JSON without white space, as Jackson writes it."""
    if isinstance(value, Decimal):
        return str(value) if isinstance(value, _Number) else f"{value:f}"
    if isinstance(value, float):
        return java_double(value) if math.isfinite(value) else f'"{java_double(value)}"'
    if isinstance(value, Mapping):
        return (
            "{"
            + ",".join(f"{json.dumps(key, ensure_ascii=False)}:{write_json(item)}" for key, item in value.items())
            + "}"
        )
    if isinstance(value, list):
        return "[" + ",".join(map(write_json, value)) + "]"
    return json.dumps(value, ensure_ascii=False)


@lru_cache(maxsize=256)
def _path(path: str) -> tuple[str, ...]:
    if not path.startswith("$"):
        raise ValueError(f"Invalid JSON path: '{path}'")
    tokens = re.findall(r"\.([^.\[\]]+)|\[\s*\"((?:[^\"\\]|\\.)*)\"\s*\]|\[\s*([^\]\"]+)\s*\]", path[1:])
    return tuple(next(part for part in token if part) for token in tokens)


def _extract(text: str, path: str) -> str | None:
    node = parse_json(text)
    for token in _path(path):
        if isinstance(node, list):
            if not token.lstrip("-").isdigit() or not 0 <= int(token) < len(node):
                return None
            node = node[int(token)]
        elif isinstance(node, Mapping) and token in node:
            node = node[token]
        else:
            return None
    return node if isinstance(node, str) else write_json(node)


row_by_row("EXTRACTJSONFIELD", _CATEGORY, "What stands at a path of a JSON text.", (STRING, STRING), STRING, _extract)


def _is_json(text: str | None) -> bool:
    if text is None or not text.strip():
        return False
    try:
        parse_json(text)
    except ValueError:
        return False
    return True


row_by_row("IS_JSON_STRING", _CATEGORY, "Whether a text is JSON.", (STRING,), BOOLEAN, _is_json, null_gives_null=False)


def _array_contains(text: str | None, wanted: Any) -> bool | None:
    if text is None:
        return None
    try:
        items = parse_json(text)
    except ValueError:
        return False
    if not isinstance(items, list):
        return False
    return any(_equal(item, wanted) for item in items)


def _equal(item: Any, wanted: Any) -> bool:
    if isinstance(item, bool) or isinstance(wanted, bool):
        return item is wanted
    if isinstance(item, _Number):
        return isinstance(wanted, float) and float(item) == wanted
    return type(item) is type(wanted) and item == wanted


row_by_row("JSON_ARRAY_CONTAINS", _CATEGORY, "Whether a JSON array holds a value.", (STRING, T), BOOLEAN, _array_contains,
           null_gives_null=False)  # fmt: skip


def _array_length(text: str) -> int | None:
    items = parse_json(text)
    return len(items) if isinstance(items, list) else None


def _keys(text: str) -> list[str] | None:
    node = parse_json(text)
    return list(node) if isinstance(node, dict) else None


def _records(text: str) -> list[dict[str, str]] | None:
    node = parse_json(text)
    if not isinstance(node, dict):
        return None
    return [
        {KEY_FIELD: key, VALUE_FIELD: value if isinstance(value, str) else write_json(value)}
        for key, value in node.items()
    ]


def _items(text: str) -> list[str] | None:
    node = parse_json(text)
    return [write_json(item) for item in node] if isinstance(node, list) else None


row_by_row("JSON_ARRAY_LENGTH", _CATEGORY, "Length of a JSON array.", (STRING,), INTEGER, _array_length, may_fail=True)
row_by_row("JSON_KEYS", _CATEGORY, "Keys of a JSON object.", (STRING,), ArrayType(element=STRING), _keys, may_fail=True)
row_by_row(
    "JSON_RECORDS",
    _CATEGORY,
    "Entries of a JSON object as a map.",
    (STRING,),
    MapType(key=STRING, value=STRING),
    _records,
    may_fail=True,
)
row_by_row(
    "JSON_ITEMS",
    _CATEGORY,
    "Items of a JSON array as texts.",
    (STRING,),
    ArrayType(element=STRING),
    _items,
    may_fail=True,
)


def _concat(*texts: str) -> str:
    parsed = [parse_json(text) for text in texts]
    if len(parsed) == 1:
        return write_json(parsed[0])
    if all(isinstance(part, dict) for part in parsed):
        return write_json({key: value for part in parsed for key, value in part.items()})
    return write_json([item for part in parsed for item in (part if isinstance(part, list) else [part])])


row_by_row("JSON_CONCAT", _CATEGORY, "JSON objects or arrays joined.", (STRING, STRING), STRING, _concat, variadic=True)


# ---------------------------------------------------------------------------------------------------- TO_JSON_STRING
def json_value(value: Any, type_: SqlType) -> Any:  # noqa: PLR0911 - one case a kind
    """Return a column's value as `write_json` takes it; keys of maps and structs are sorted."""
    if value is None:
        return None
    if isinstance(type_, ArrayType):
        return [json_value(item, type_.element) for item in value]
    if isinstance(type_, MapType):
        entries = {str(entry[KEY_FIELD]): json_value(entry[VALUE_FIELD], type_.value) for entry in value}
        return dict(sorted(entries.items()))
    if isinstance(type_, StructType):
        return dict(sorted((name, json_value(value[name], field_type)) for name, field_type in type_.fields))
    if isinstance(value, bytes):
        return base64.b64encode(value).decode()
    if isinstance(value, datetime):
        return value.isoformat(timespec="milliseconds")
    if isinstance(value, time):
        return value.isoformat(timespec="minutes" if value.second == 0 else "seconds")
    if isinstance(value, date):
        return value.isoformat()
    return value


def _to_json(call: TypedCall, values: list[pl.Expr]) -> pl.Expr:
    type_ = call.arguments[0].type
    if type_ in (TIMESTAMP, DATE, TIME):
        return (pl.lit('"') + to_text(values[0], type_) + pl.lit('"')).fill_null("null")
    if type_ in (INTEGER, BOOLEAN) or isinstance(type_, DecimalType):
        return to_text(values[0], type_).fill_null("null")
    return by_row({"value": values[0]}, lambda row: write_json(json_value(row["value"], type_)), pl.String())


register("TO_JSON_STRING", _CATEGORY, "A value as JSON.", (T,), STRING, _to_json, with_call=True, null_gives_null=False)
