"""Reads Avro bodies one by one, also of schemas with which a few bytes end the process or never end.

fastavro's compiled reader calls itself for each level and knows no limit: a body of 100 kB in which a type contains itself over
and over ends the whole process (segmentation fault). Such types are read by its reader in Python, whose depth has a limit. An
array of items that take no byte (null) may claim any length in ten bytes: bodies with one aren't read.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import fastavro
from fastavro import _read_py as fastavro_in_python

_NAMED = ("record", "error", "enum", "fixed")


def body_reader(schema: Any) -> Callable[..., Any]:
    """Return what reads a body of a schema as ``fastavro.schemaless_reader`` does, or raises ValueError.

    Args:
        schema: as ``fastavro.parse_schema`` gives it.
    """
    if is_unbounded(schema):
        return _refuse
    return fastavro_in_python.schemaless_reader if contains_itself(schema) else fastavro.schemaless_reader


def contains_itself(schema: Any, around: frozenset[str] = frozenset()) -> bool:
    """Return whether a type of a schema is within itself.

    Args:
        schema: as ``fastavro.parse_schema`` gives it: names are full names.
        around: names of the types that it is in.
    """
    if isinstance(schema, str):
        return schema in around
    within = around | {schema["name"]} if isinstance(schema, dict) and schema["type"] in _NAMED else around
    return any(contains_itself(part, within) for part in _parts(schema))


def is_unbounded(schema: Any) -> bool:
    """Return whether a schema, as ``fastavro.parse_schema`` gives it, has an array of items that take no byte."""
    return _unbounded(schema, {})


def _refuse(*_: Any, **__: Any) -> Any:
    raise ValueError(
        "the schema has an array of items that take no byte, whose length may be anything; use another type"
    )


def _unbounded(schema: Any, empty: dict[str, bool]) -> bool:
    """Return whether a schema has an array of items that take no byte; note which of its named types take none."""
    if not isinstance(schema, dict | list):
        return False
    # Each of them, for what they note.
    found = any([_unbounded(part, empty) for part in _parts(schema)])
    if isinstance(schema, list):
        return found
    if schema["type"] in _NAMED:
        empty[schema["name"]] = schema.get("size") == 0 or (
            "fields" in schema and all(_is_empty(part, empty) for part in _parts(schema))
        )
    return found or (schema["type"] == "array" and _is_empty(schema["items"], empty))


def _parts(schema: Any) -> list[Any]:
    """Return the schemas that a schema is made of, in their order."""
    if isinstance(schema, list):
        return schema
    if schema["type"] in _NAMED:
        return [field["type"] for field in schema.get("fields", ())]
    return [schema.get("items", schema.get("values", schema["type"]))]


def _is_empty(schema: Any, empty: dict[str, bool]) -> bool:
    if isinstance(schema, str):
        return schema == "null" or empty.get(schema, False)
    if isinstance(schema, dict):
        return _is_empty(schema["name"] if schema["type"] in _NAMED else schema["type"], empty)
    return False
