"""Puts named types of other Avro schemas into a schema that refers to them, so that it can be read by itself.

Source: the registry's schema references: each has the full name of a type, and the schema under which that type is registered.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

_NAMED = ("record", "error", "enum", "fixed")
_PRIMITIVE = ("null", "boolean", "int", "long", "float", "double", "bytes", "string")


def with_references(schema: Any, references: Mapping[str, Any]) -> Any:
    """Return a schema in which each type of other schemas is defined where it is used first.

    Args:
        schema: Avro schema as JSON values.
        references: self-contained schemas by the name of the type for which they are referred to. They may define further types.
    """
    known: dict[str, Any] = {}
    for name, reference in references.items():
        _collect(reference, "", known)
        known.setdefault(name, reference)
    return _Insertion(known).put_into(schema, "")


def _full_name(name: str, namespace: str) -> str:
    return name if "." in name or not namespace else f"{namespace}.{name}"


def _collect(schema: Any, namespace: str, known: dict[str, Any]) -> None:
    """Note the named types that a schema defines, by their full names."""
    if isinstance(schema, list):
        for branch in schema:
            _collect(branch, namespace, known)
    if not isinstance(schema, dict):
        return
    if schema.get("type") in _NAMED:
        own = _full_name(schema["name"], schema.get("namespace", namespace))
        known.setdefault(own, {**schema, "name": own.rpartition(".")[2], "namespace": own.rpartition(".")[0]})
        namespace = own.rpartition(".")[0]
    for part in (schema.get("items"), schema.get("values"), *(field["type"] for field in schema.get("fields", ()))):
        _collect(part, namespace, known)
    if isinstance(schema.get("type"), dict | list):
        _collect(schema["type"], namespace, known)


class _Insertion:
    """Walks through a schema in the order in which it is read, and defines what isn't defined yet."""

    def __init__(self, known: Mapping[str, Any]) -> None:
        self._known = known
        self._defined: set[str] = set()

    def put_into(self, schema: Any, namespace: str) -> Any:
        """Return the schema with definitions in place of the first use of a type."""
        if isinstance(schema, str):
            return self._used(schema, namespace)
        if isinstance(schema, list):
            return [self.put_into(branch, namespace) for branch in schema]
        if not isinstance(schema, dict):
            return schema
        if schema.get("type") in _NAMED:
            return self._definition(schema, namespace)
        inner = ("type", "items", "values")
        return {name: self.put_into(part, namespace) if name in inner else part for name, part in schema.items()}

    def _used(self, name: str, namespace: str) -> Any:
        if name in _PRIMITIVE:
            return name
        own = _full_name(name, namespace)
        if own not in self._defined and own not in self._known:
            own = name
        if own in self._defined or own not in self._known:
            return own
        return self.put_into(self._known[own], "")

    def _definition(self, schema: Mapping[str, Any], namespace: str) -> Any:
        own = _full_name(schema["name"], schema.get("namespace", namespace))
        if own in self._defined:
            # A diamond: two references define the same type.
            return own
        self._defined.add(own)
        space, _, name = own.rpartition(".")
        defined = {**schema, "name": name, "namespace": space}
        if "fields" in schema:
            fields = [{**field, "type": self.put_into(field["type"], space)} for field in schema["fields"]]
            defined["fields"] = fields
        return defined
