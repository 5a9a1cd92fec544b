"""JSON, an object or a bare value."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from decimal import Decimal
from typing import Any

import numpy as np
import orjson
import polars as pl
import pyarrow as pa

from ksqlengine.formats import json_columns
from ksqlengine.formats.base import Read, RowSerde
from ksqlengine.formats.values import InexactError, from_json, json_bytes, to_json
from ksqlengine.plan.steps import Column


class JsonSerde(RowSerde):
    """JSON: an object a message, or the bare value where a single column is not wrapped.

    Objects that are written as the columns' types say are read many at once, the others one by one.
    """

    _FEWEST_AT_ONCE = 64
    _MOST_ATTEMPTS = 48  # so many parts of a batch are tried at once before the rest is read one by one

    def __init__(self, columns: Sequence[Column], wrapped: bool) -> None:
        """Prepare for columns.

        Args:
            columns: the fields.
            wrapped: whether a single column is a field of an object.
        """
        super().__init__(columns)
        self._wrapped = wrapped
        self._fields = [(column.name, column.type) for column in columns]
        self._reads_at_once = wrapped and bool(columns) and json_columns.can_read(self._fields)
        self._writes_at_once = wrapped and bool(columns) and json_columns.can_write(self._fields)

    def read(self, values: pa.LargeBinaryArray) -> Read:
        """Turn messages into columns."""
        if not self._reads_at_once or len(values) < self._FEWEST_AT_ONCE:
            return super().read(values)
        candidates = np.flatnonzero(json_columns.looks_like_object(values))
        parts = self._read_at_once(values.take(candidates))
        return self._with_rest(values, [(frame, candidates[start:end]) for start, end, frame in parts])

    def _read_at_once(self, values: pa.LargeBinaryArray) -> list[tuple[int, int, pl.DataFrame]]:
        """Return (start, end, columns) of the stretches that could be read at once: a stretch that can't is halved."""
        found: list[tuple[int, int, pl.DataFrame]] = []
        stretches, attempts = [(0, len(values))], 0
        while stretches and attempts < self._MOST_ATTEMPTS:
            start, end = stretches.pop()
            if end - start < self._FEWEST_AT_ONCE:
                continue
            attempts += 1
            frame = json_columns.read_objects(values.slice(start, end - start), self._fields)
            if frame is not None:
                found.append((start, end, frame))
            else:
                middle = (start + end) // 2
                stretches += [(middle, end), (start, middle)]
        return found

    def write(self, frame: pl.DataFrame) -> list[bytes | None]:
        """Turn the columns of a frame into messages, one a row."""
        at_once = json_columns.write_objects(frame, self._fields) if self._writes_at_once else None
        return super().write(frame) if at_once is None else at_once

    def read_one(self, value: bytes) -> tuple[Any, ...] | None:
        """Return the fields of one object.

        Names are looked up as they are, then in upper case, whatever the message's case: a column that was not quoted is in upper
        case, and one that was must be written as it is. Numbers are read as floats first, which is much faster; a DECIMAL or a
        text that needs a number's digits asks for them.
        """
        try:
            body = orjson.loads(value)
        except orjson.JSONDecodeError:
            body = _first_value(value, float)
        try:
            return self._columns(body)
        except InexactError:
            return self._columns(_first_value(value, Decimal))

    def _columns(self, body: Any) -> tuple[Any, ...] | None:
        if not self._wrapped:
            return (from_json(body, self.columns[0].type),)
        if not isinstance(body, dict):
            raise ValueError(f"a JSON object is wanted, not {type(body).__name__}")  # noqa: TRY004 - data, not code, is wrong
        folded = {name.upper(): item for name, item in body.items()}
        return tuple(
            from_json(body[column.name] if column.name in body else folded.get(column.name), column.type)
            for column in self.columns
        )

    def write_one(self, row: tuple[Any, ...]) -> bytes | None:
        """Return the object of one row."""
        values = {column.name: to_json(item, column.type) for column, item in zip(self.columns, row, strict=True)}
        if self._wrapped:
            return json_bytes(values)
        return None if row[0] is None else json_bytes(values[self.columns[0].name])


def _first_value(text: bytes, number: Callable[[str], Any]) -> Any:
    """Return the JSON value that a text begins with, as Jackson reads it: what follows is passed over, 1e400 is infinite.

    Args:
        text: UTF-8.
        number: makes a number of a text with a point or an exponent.

    Raises:
        ValueError: it begins with no value; NaN and Infinity are none, nor is a text with half a character.
    """
    decoder = json.JSONDecoder(parse_float=number, parse_constant=_refused_constant)
    value = decoder.raw_decode(text.decode("utf-8").lstrip(" \t\r\n"))[0]
    json.dumps(value, ensure_ascii=False, default=str).encode("utf-8")
    return value


def _refused_constant(name: str) -> Any:
    raise ValueError(f"{name} is no JSON")
