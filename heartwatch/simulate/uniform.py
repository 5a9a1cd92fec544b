"""The original's generator: random columns from any annotated Avro schema.

The annotations (`arg.properties` on a type) are those of Confluent's avro-random-generator: `options`, `range` (from min up to
but without max), `iteration` (start, step, restart, initial), `length`, `odds`. One is added, since the original's user ids
want it: a `range` on a string gives whole numbers as text. A timestamp without annotation is the time that the caller gives.
What isn't supported (`regex` first of all) is refused by name.

Row n is the same however the rows are cut into batches.
"""

from __future__ import annotations

import json
from dataclasses import dataclass, replace
from typing import Any

import fastavro
import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from heartwatch.errors import HeartWatchError
from heartwatch.simulate import draws
from heartwatch.simulate.draws import Bits, Floats, Ints

_SUPPORTED = {"options", "range", "iteration", "length", "odds"}
_DEFAULT_LENGTH = {"min": 8, "max": 16}
_LETTERS = np.frombuffer(b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_", dtype=np.uint8)
_LIMITS = {"int": (-(2**31), 2**31 - 1), "long": (-(2**63), 2**63 - 1)}
_TYPES: dict[str, pa.DataType] = {
    "null": pa.null(),
    "boolean": pa.bool_(),
    "int": pa.int32(),
    "long": pa.int64(),
    "float": pa.float32(),
    "double": pa.float64(),
    "string": pa.string(),
    "bytes": pa.binary(),
    "enum": pa.string(),
}
_LOGICAL: dict[str, pa.DataType] = {
    "timestamp-millis": pa.timestamp("ms", tz="UTC"),
    "timestamp-micros": pa.timestamp("us", tz="UTC"),
    "date": pa.date32(),
    "time-millis": pa.time32("ms"),
    "time-micros": pa.time64("us"),
}
_NOW_FACTORS = {"timestamp-millis": 1, "timestamp-micros": 1_000}
_LOGICAL_LIMITS = {"date": (0, 50_000), "time-millis": (0, 86_400_000), "time-micros": (0, 86_400_000_000)}


class UniformError(HeartWatchError, ValueError):
    """A schema can't be used to generate; the message names the field, the annotation and the remedy."""


@dataclass(frozen=True)
class _Site:
    """A place in the schema where values are made.

    Attributes:
        path: names from the record down, for errors.
        bits: random bits of each value.
        rows: number of each value, for iterations; None inside arrays and maps.
        now_ms: the caller's time, ms since the epoch.
        inside: names of the records around it.
    """

    path: str
    bits: Bits
    rows: Ints | None
    now_ms: int
    inside: tuple[str, ...] = ()

    @property
    def count(self) -> int:
        return len(self.bits)

    def below(self, name: str) -> _Site:
        return replace(self, path=f"{self.path}.{name}", bits=draws.bits(self.bits, _number(name)))

    def uniform(self, channel: str) -> Floats:
        return draws.uniform(self.bits, _number(channel))

    def integers(self, channel: str, low: int, high: int) -> Ints:
        """Return whole numbers from `low` up to but without `high`."""
        drawn = draws.bits(self.bits, _number(channel)) % np.uint64(high - low)
        return (drawn + np.uint64(low % 2**64)).view(np.int64)


class UniformGenerator:
    """Makes random rows of an Avro record."""

    def __init__(self, schema: dict[str, Any], seed: int) -> None:
        """Check the schema by making no row of it.

        Args:
            schema: an Avro record schema, as JSON gives it.
            seed: random seed: the same seed gives the same events.

        Raises:
            UniformError: it is not a valid record schema, or an annotation or type isn't supported.
        """
        try:
            fastavro.parse_schema(json.loads(json.dumps(schema)))
        except Exception as error:
            raise UniformError(f"not a valid Avro schema: {error}; fix it") from error
        if schema.get("type") != "record":
            raise UniformError(f"schema of type {schema.get('type')!r} can't be generated; give a record")
        self._schema = schema
        self._key = draws.key(seed, "uniform")
        self._named: dict[str, dict[str, Any]] = {}
        self.batch(0, 0, 0)

    def batch(self, first: int, count: int, now_ms: int) -> pa.RecordBatch:
        """Make the rows `first` to `first + count - 1`.

        Args:
            first: number of the first row, from 0.
            count: how many rows.
            now_ms: value of timestamps without annotation, ms since the epoch.

        Returns:
            A column a field, in the schema's order.
        """
        rows = np.arange(first, first + count, dtype=np.int64)
        site = _Site(self._schema["name"], draws.bits(self._key, rows), rows, now_ms)
        return pa.RecordBatch.from_struct_array(self._record(self._schema, site))

    def _values(self, schema: Any, site: _Site) -> pa.Array:
        if isinstance(schema, list):
            return self._union(schema, site)
        if isinstance(schema, str):
            schema = self._named.get(schema, {"type": schema})
        if not isinstance(schema["type"], str):
            return self._values(schema["type"], site)
        nested = {"record": self._record, "array": self._array, "map": self._map}.get(schema["type"])
        annotation = _annotation(schema, site)
        if nested is None:
            self._remember(schema)
            return _plain(schema, annotation, site)
        if annotation.keys() - {"length"}:
            raise UniformError(
                f"{site.path}: arg.properties {sorted(annotation)!r} on a {schema['type']} aren't supported; drop them"
            )
        return nested(schema, site)

    def _remember(self, schema: dict[str, Any]) -> None:
        if "name" in schema:
            self._named[schema["name"]] = schema

    def _record(self, schema: dict[str, Any], site: _Site) -> pa.StructArray:
        if schema["name"] in site.inside:
            raise UniformError(
                f"{site.path}: record {schema['name']!r} contains itself, which isn't supported; unroll it"
            )
        self._remember(schema)
        site = replace(site, inside=(*site.inside, schema["name"]))
        columns = {field["name"]: self._values(field["type"], site.below(field["name"])) for field in schema["fields"]}
        fields = [pa.field(name, column.type) for name, column in columns.items()]
        return pa.StructArray.from_arrays(list(columns.values()), fields=fields)

    def _union(self, branches: list[Any], site: _Site) -> pa.Array:
        """Choose a branch a row; with one branch beside null the column is that branch's, with nulls."""
        chosen = site.integers("branch", 0, len(branches))
        columns = [self._values(branch, site.below(str(number))) for number, branch in enumerate(branches)]
        valued = [number for number, branch in enumerate(branches) if branch != "null"]
        if len(valued) == 1:
            absent = pa.array(chosen != valued[0])
            return pc.if_else(absent, pa.scalar(None, columns[valued[0]].type), columns[valued[0]])
        return pa.UnionArray.from_sparse(pa.array(chosen.astype(np.int8)), columns)

    def _array(self, schema: dict[str, Any], site: _Site) -> pa.ListArray:
        offsets, elements = _elements(schema, site)
        return pa.ListArray.from_arrays(offsets, self._values(schema["items"], elements))

    def _map(self, schema: dict[str, Any], site: _Site) -> pa.MapArray:
        offsets, elements = _elements(schema, site)
        keys = pa.array(_words({}, elements.below("key")), pa.binary()).cast(pa.string())
        return pa.MapArray.from_arrays(offsets, keys, self._values(schema["values"], elements.below("value")))


def _number(name: str) -> Ints:
    """Return the number of a channel of draws."""
    return np.array([int(draws.key(0, name)) >> 1], dtype=np.int64)


def _annotation(schema: dict[str, Any], site: _Site) -> dict[str, Any]:
    annotation = schema.get("arg.properties", {})
    if not isinstance(annotation, dict):
        raise UniformError(f"{site.path}: arg.properties={annotation!r} is not a JSON object; write one")
    for name in annotation.keys() - _SUPPORTED:
        raise UniformError(
            f"{site.path}: arg.properties {name!r} isn't supported; use one of {', '.join(sorted(_SUPPORTED))}"
        )
    return annotation


def _elements(schema: dict[str, Any], site: _Site) -> tuple[pa.Array, _Site]:
    """Return the offsets of arrays or maps of random lengths, and the site of their elements."""
    lengths = _lengths(_annotation(schema, site), site)
    ends = np.cumsum(lengths)
    within = np.arange(lengths.sum(), dtype=np.int64) - np.repeat(ends - lengths, lengths)
    bits = draws.bits(np.repeat(site.bits, lengths), within)
    offsets = np.concatenate([[0], ends]).astype(np.int32)
    return pa.array(offsets), replace(site, path=f"{site.path}[]", bits=bits, rows=None)


def _plain(schema: dict[str, Any], annotation: dict[str, Any], site: _Site) -> pa.Array:
    """Return a column of a type without parts."""
    kind, logical = schema["type"], schema.get("logicalType")
    if logical is not None and logical not in _LOGICAL:
        raise UniformError(f"{site.path}: logicalType {logical!r} isn't supported; use one of {', '.join(_LOGICAL)}")
    target = pa.binary(schema["size"]) if kind == "fixed" else _TYPES[kind]
    try:
        if "options" in annotation:
            column = _options(annotation["options"], target, site)
        elif "iteration" in annotation:
            column = _iteration(kind, annotation["iteration"], target, site)
        elif kind in _LIMITS:
            column = pa.array(_whole(kind, logical, annotation, site)).cast(target)
        elif kind in {"float", "double"}:
            column = pa.array(_real(annotation.get("range"), site)).cast(target)
        else:
            column = _other(schema, annotation, target, site)
    except (pa.ArrowException, TypeError, KeyError, OverflowError) as error:
        raise UniformError(f"{site.path}: arg.properties {annotation!r} don't fit type {kind!r}: {error}") from error
    return column.cast(_LOGICAL[logical]) if logical else column


def _options(options: Any, target: pa.DataType, site: _Site) -> pa.Array:
    if not isinstance(options, list) or not options:
        raise UniformError(f"{site.path}: options={options!r} must be a list with at least one value")
    return pa.array(options, target).take(pa.array(site.integers("option", 0, len(options))))


def _iteration(kind: str, iteration: dict[str, Any], target: pa.DataType, site: _Site) -> pa.Array:
    """Return start, start + step, … and from restart on again from start; booleans alternate."""
    if site.rows is None:
        raise UniformError(f"{site.path}: iteration inside arrays and maps isn't supported; use range or options")
    start = iteration["start"]
    if kind == "boolean":
        return pa.array((site.rows % 2 == 0) == start)
    restart = iteration.get("restart")
    step = iteration.get("step", -1 if restart is not None and restart < start else 1)
    if step == 0 or (restart is not None and (restart - start) * step <= 0):
        raise UniformError(
            f"{site.path}: iteration {iteration!r} never gets from start to restart; give a step that does"
        )
    gone = iteration.get("initial", start) - start + site.rows * step
    return pa.array(start + (gone if restart is None else gone % (restart - start))).cast(target)


def _whole(kind: str, logical: str | None, annotation: dict[str, Any], site: _Site) -> Ints:
    if "range" in annotation:
        low, high = _bounds(annotation["range"], _LIMITS[kind], site)
        if low < _LIMITS[kind][0] or high > _LIMITS[kind][1] + 1:
            raise OverflowError(f"{low} to {high} is more than {kind} holds")
        return site.integers("value", low, high)
    if logical in _NOW_FACTORS:
        return np.full(site.count, site.now_ms * _NOW_FACTORS[logical], dtype=np.int64)
    return site.integers("value", *_LOGICAL_LIMITS.get(logical or "", _LIMITS[kind]))


def _real(limits: dict[str, float] | None, site: _Site) -> Floats:
    if limits is None:
        return site.uniform("value")
    low, high = _bounds(limits, (-np.finfo(np.float32).max, np.finfo(np.float32).max), site)
    return low + site.uniform("value") * (high - low)


def _bounds(limits: dict[str, Any], widest: tuple[Any, Any], site: _Site) -> tuple[Any, Any]:
    low, high = limits.get("min", widest[0]), limits.get("max", widest[1])
    if not low < high:
        raise UniformError(f"{site.path}: range {limits!r} has no value; min must be below max, which is not included")
    return low, high


def _other(schema: dict[str, Any], annotation: dict[str, Any], target: pa.DataType, site: _Site) -> pa.Array:
    kind = schema["type"]
    if kind == "null":
        return pa.nulls(site.count)
    if kind == "boolean":
        return pa.array(site.uniform("value") < annotation.get("odds", 0.5))
    if kind == "enum":
        return _options(schema["symbols"], target, site)
    if kind == "string" and "range" in annotation:
        return pa.array(_whole("long", None, annotation, site)).cast(target)
    if kind == "fixed":
        annotation = {"length": schema["size"]}
    return pa.array(_words(annotation, site), pa.binary()).cast(target)


def _words(annotation: dict[str, Any], site: _Site) -> list[bytes]:
    """Return letters and digits of random lengths."""
    lengths = _lengths(annotation, site)
    letters = np.arange(lengths.sum(), dtype=np.int64) - np.repeat(np.cumsum(lengths) - lengths, lengths)
    drawn = draws.bits(np.repeat(site.bits, lengths), letters) % np.uint64(len(_LETTERS))
    text = _LETTERS[drawn.astype(np.int64)].tobytes()
    ends = np.cumsum(lengths)
    return [text[end - length : end] for end, length in zip(ends.tolist(), lengths.tolist(), strict=True)]


def _lengths(annotation: dict[str, Any], site: _Site) -> Ints:
    length = annotation.get("length", _DEFAULT_LENGTH)
    if isinstance(length, int):
        return np.full(site.count, length, dtype=np.int64)
    low, high = _bounds({"min": 0, **length}, (0, 2**31 - 1), site)
    return site.integers("length", low, high)
