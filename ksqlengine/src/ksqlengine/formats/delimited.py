"""DELIMITED, a line of separated values."""

from __future__ import annotations

import csv
import io
import re
from collections.abc import Sequence
from typing import Any

import polars as pl
import pyarrow as pa

from ksqlengine.formats import delimited_columns
from ksqlengine.formats.base import FormatError, Read, RowSerde
from ksqlengine.formats.values import value_from_text, value_to_text
from ksqlengine.plan.steps import Column
from ksqlengine.types.sqltypes import ArrayType, MapType, StructType

_PLAIN_START = re.compile(r"[0-9A-Za-z]")  # with which a line may begin without quotes


class DelimitedSerde(RowSerde):
    """DELIMITED: values of plain types, separated as in CSV; plainly written lines are read many at once."""

    def __init__(self, columns: Sequence[Column], delimiter: str) -> None:
        """Prepare for columns separated by a character.

        Raises:
            FormatError: a column's type is not a plain one.
        """
        super().__init__(columns)
        self._delimiter = {"TAB": "\t", "SPACE": " "}.get(delimiter.upper(), delimiter)
        self._fields = [(column.name, column.type) for column in columns]
        self._is_at_once = delimited_columns.can_convert(self._fields)
        for column in columns:
            if isinstance(column.type, ArrayType | MapType | StructType):
                raise FormatError(
                    f"The 'DELIMITED' format does not support type '{column.type.name}', column: `{column.name}`"
                )

    def read(self, values: pa.LargeBinaryArray) -> Read:
        """Turn messages into columns."""
        at_once = self._is_at_once and delimited_columns.read_lines(values, self._fields, self._delimiter)
        return self._with_rest(values, [at_once]) if at_once else super().read(values)

    def write(self, frame: pl.DataFrame) -> list[bytes | None]:
        """Turn the columns of a frame into messages, one a row."""
        if self._is_at_once:
            return delimited_columns.write_lines(frame, self._fields, self._delimiter)
        return super().write(frame)

    def read_one(self, value: bytes) -> tuple[Any, ...]:
        """Return the values of one line."""
        lines = io.StringIO(value.decode(), newline="")
        try:
            fields = next((row for row in csv.reader(lines, delimiter=self._delimiter, strict=True) if row), [])
        except csv.Error as error:
            raise ValueError(f"not a line of separated values: {error}") from error
        if len(fields) != len(self.columns):
            raise ValueError(f"Unexpected field count, csv line has {len(fields)} fields, expected {len(self.columns)}")
        return tuple(
            value_from_text(text, column.type) if text != "" else None
            for text, column in zip(fields, self.columns, strict=True)
        )

    def write_one(self, row: tuple[Any, ...]) -> bytes | None:
        """Return the line of one row."""
        fields = [
            "" if value is None else self._quoted(value_to_text(value), first=position == 0)
            for position, value in enumerate(row)
        ]
        return self._delimiter.join(fields).encode()

    def _quoted(self, text: str, *, first: bool) -> str:
        """Return a field, in quotes where ksqlDB's writer has them. Source: Commons CSV 1.4 with MINIMAL quotes."""
        if not text:
            return '""' if first else ""
        plain_start = text[0] > "#" and not (first and _PLAIN_START.match(text) is None)
        special = any(character in text for character in ("\n", "\r", '"', self._delimiter))
        if plain_start and not special and text[-1] > " ":
            return text
        return '"' + text.replace('"', '""') + '"'
