"""Expected records against produced ones, as ksqlDB's test runner compares them, and what to show where they differ.

Source: ksqlDB's ``ExpectedRecordComparator``: a DECIMAL must have the expected digits after the point (10.0 is not 10.00), other
numbers must be equal in value. A field that is not expected at all must be null.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from decimal import Decimal, InvalidOperation
from itertools import zip_longest
from typing import Any

from ksqlengine.formats.values import json_bytes
from ksqlengine.testing.cases import Header, Record, WindowBounds
from ksqlengine.types.sqltypes import ArrayType, DecimalType, MapType, SqlType, StructType


@dataclass(frozen=True)
class Produced:
    """A record that came out, in the JSON form of test files."""

    key: Any
    value: Any
    timestamp: int
    window: WindowBounds | None
    headers: tuple[Header, ...] = ()


@dataclass(frozen=True)
class RecordTypes:
    """Types of a topic's keys and values in the JSON form; None where there are none."""

    key: SqlType | None
    value: SqlType | None


@dataclass(frozen=True)
class TopicDifference:
    """A topic whose records are not the expected ones.

    Attributes:
        topic: the topic.
        summary: the first difference, in one line.
        lines: all records, position by position: two blanks before one that is as expected, ``-`` before what was expected, ``+``
            before what came, ``?`` before the reason.
    """

    topic: str
    summary: str
    lines: tuple[str, ...]


def compare(
    topic: str,
    expected: Sequence[Record],
    produced: Sequence[Produced],
    types: RecordTypes,
    with_timestamps: bool = True,
) -> TopicDifference | None:
    """Compare a topic's records in order.

    Args:
        topic: its name.
        expected: what must be there.
        produced: what is there.
        types: types of keys and values.
        with_timestamps: False lets an expected timestamp of 0 stand for any (of records that statements inserted).

    Returns:
        None when they are equal.
    """
    lines: list[str] = []
    reasons: list[str] = []
    if len(expected) != len(produced):
        reasons.append(f"expected {len(expected)} records, there are {len(produced)}")
    for number, (wanted, found) in enumerate(zip_longest(expected, produced)):
        reason = _reason(wanted, found, types, with_timestamps)
        if reason is None:
            lines.append(f"  {_shown_produced(found)}")
            continue
        reasons.append(f"record {number}: {reason}")
        if wanted is not None:
            lines.append(f"- {_shown_expected(wanted)}")
        if found is not None:
            lines.append(f"+ {_shown_produced(found)}")
        lines.append(f"?   {reason}")
    return TopicDifference(topic, f"topic {topic!r}: {'; '.join(reasons[:2])}", tuple(lines)) if reasons else None


def _reason(wanted: Record | None, found: Produced | None, types: RecordTypes, with_timestamps: bool) -> str | None:
    if wanted is None or found is None:
        return "nothing was expected here" if wanted is None else "nothing came"
    if wanted.window != found.window:
        return f"window: expected {_shown_window(wanted.window)}, actual {_shown_window(found.window)}"
    return (
        difference(wanted.key, found.key, types.key, "key")
        or difference(wanted.value, found.value, types.value, "value")
        or _outer_difference(wanted, found, with_timestamps)
    )


def _outer_difference(wanted: Record, found: Produced, with_timestamps: bool) -> str | None:
    """Return how timestamp or headers differ; what isn't expected isn't compared."""
    if wanted.timestamp not in (None, found.timestamp) and (with_timestamps or wanted.timestamp):
        return f"timestamp: expected {wanted.timestamp}, actual {found.timestamp}"
    if wanted.headers is not None and wanted.headers != found.headers:
        return f"headers: expected {wanted.headers!r}, actual {found.headers!r}"
    return None


def difference(expected: Any, actual: Any, type_: SqlType | None, path: str) -> str | None:
    """Return how a value differs from the expected one, None when it doesn't.

    Args:
        expected: from the test's file.
        actual: what came.
        type_: its SQL type, None where nothing should be.
        path: where it stands, for the answer.
    """
    if expected is None or actual is None or type_ is None:
        return None if expected is None and actual is None else _differs(expected, actual, path)
    if isinstance(type_, StructType):
        return _fields_difference(expected, actual, type_, path)
    if isinstance(type_, MapType):
        return _entries_difference(expected, actual, type_, path)
    if isinstance(type_, ArrayType):
        return _items_difference(expected, actual, type_, path)
    return None if _equal(expected, actual, type_) else _differs(expected, actual, path)


def _fields_difference(expected: Any, actual: Any, type_: StructType, path: str) -> str | None:
    if not isinstance(expected, dict) or not isinstance(actual, dict):
        return _differs(expected, actual, path)
    left = {name: name for name in expected}
    for name, inner in type_.fields:
        given = name if name in left else next((other for other in left if other.upper() == name.upper()), None)
        wanted = expected[left.pop(given)] if given is not None else None
        reason = difference(wanted, actual.get(name), inner, f"{path}.{name}")
        if reason is not None:
            return reason
    unknown = next((given for given in left if expected[given] is not None), None)
    return f"{path}: there is no field {unknown!r}" if unknown is not None else None


def _entries_difference(expected: Any, actual: Any, type_: MapType, path: str) -> str | None:
    if not isinstance(expected, dict) or not isinstance(actual, dict) or set(expected) != set(actual):
        return _differs(expected, actual, path)
    found = (difference(expected[key], actual[key], type_.value, f"{path}[{key!r}]") for key in expected)
    return next((reason for reason in found if reason is not None), None)


def _items_difference(expected: Any, actual: Any, type_: ArrayType, path: str) -> str | None:
    if not isinstance(expected, list) or not isinstance(actual, list) or len(expected) != len(actual):
        return _differs(expected, actual, path)
    pairs = enumerate(zip(expected, actual, strict=True))
    found = (difference(wanted, item, type_.element, f"{path}[{number}]") for number, (wanted, item) in pairs)
    return next((reason for reason in found if reason is not None), None)


def _equal(expected: Any, actual: Any, type_: SqlType) -> bool:
    if isinstance(type_, DecimalType):
        wanted, found = _decimal(expected), _decimal(actual)
        return wanted is not None and found is not None and wanted.as_tuple() == found.as_tuple()
    if isinstance(expected, bool) or isinstance(actual, bool):
        return expected is actual
    if isinstance(actual, float) and not math.isfinite(actual):
        return str(expected).lower().removesuffix("inity") == str(actual)
    if type_.name == "DOUBLE" and not isinstance(expected, str) and not isinstance(actual, str):
        return float(expected) == float(actual)
    return bool(expected == actual)


def _decimal(value: Any) -> Decimal | None:
    if isinstance(value, bool) or not isinstance(value, int | str | Decimal):
        return None
    try:
        return Decimal(value)
    except InvalidOperation:
        return None


def _differs(expected: Any, actual: Any, path: str) -> str:
    return f"{path}: expected {_json(expected)}, actual {_json(actual)}"


def _json(value: Any) -> str:
    return json_bytes(value).decode() if not isinstance(value, float) or math.isfinite(value) else str(value)


def _shown_window(window: WindowBounds | None) -> str:
    return "none" if window is None else f"{window.type} {window.start}-{window.end}"


def _shown_expected(record: Record) -> str:
    timestamp = "any" if record.timestamp is None else record.timestamp
    return f"key={_json(record.key)} value={_json(record.value)} timestamp={timestamp}{_window_suffix(record.window)}"


def _shown_produced(record: Produced) -> str:
    return f"key={_json(record.key)} value={_json(record.value)} timestamp={record.timestamp}{_window_suffix(record.window)}"


def _window_suffix(window: WindowBounds | None) -> str:
    return "" if window is None else f" window={_shown_window(window)}"
