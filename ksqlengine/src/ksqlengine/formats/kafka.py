"""KAFKA, one plain value, and NONE, no value."""

from __future__ import annotations

import struct
from collections.abc import Sequence
from typing import Any, ClassVar

import numpy as np
import polars as pl
import pyarrow as pa
import pyarrow.compute as pc

from ksqlengine.formats.base import FormatError, Read, RowSerde
from ksqlengine.plan.steps import Column


class KafkaSerde(RowSerde):
    """KAFKA: one column in the Java client's plain serializers: UTF-8 text or big-endian numbers."""

    _STRUCTS: ClassVar = {"INTEGER": ">i", "BIGINT": ">q", "DOUBLE": ">d"}

    def __init__(self, columns: Sequence[Column]) -> None:
        """Prepare for one column.

        Raises:
            FormatError: there are several, or its type has no plain serializer.
        """
        super().__init__(columns)
        if len(self.columns) > 1:
            raise FormatError("The 'KAFKA' format only supports a single field. Got: " + ", ".join(self.schema))
        self._type = self.columns[0].type.name if self.columns else "STRING"
        if self._type not in {*self._STRUCTS, "STRING", "BYTES"}:
            raise FormatError(f"The 'KAFKA' format does not support type '{self._type}'")

    def read(self, values: pa.LargeBinaryArray) -> Read:
        """Turn messages into columns."""
        column = None if values.null_count or not self.columns else self._column(values)
        if column is None:
            return super().read(values)
        return Read(pl.DataFrame({self.columns[0].name: column}), np.arange(len(values)), np.empty(0, np.int64), [])

    def _column(self, values: pa.LargeBinaryArray) -> pl.Series | None:
        """Return the values of messages that are all good; None when one of them isn't."""
        if self._type == "BYTES":
            return pl.Series(pl.from_arrow(values))
        if self._type == "STRING":
            try:
                return pl.Series(pl.from_arrow(values.cast(pa.large_string())))
            except pa.ArrowInvalid:
                return None
        layout = np.dtype(self._STRUCTS[self._type])
        if pc.any(pc.not_equal(pc.binary_length(values), layout.itemsize)).as_py():
            return None
        numbers = np.frombuffer(b"".join(values.to_pylist()), layout)
        return pl.Series(numbers.astype(layout.newbyteorder("=")), dtype=self.columns[0].type.polars)

    def write(self, frame: pl.DataFrame) -> list[bytes | None]:
        """Turn the column of a frame into messages, one a row."""
        if not self.columns:
            return super().write(frame)
        column = frame[self.columns[0].name]
        if self._type in ("STRING", "BYTES"):
            return column.cast(pl.Binary).to_list()
        if column.has_nulls():
            return super().write(frame)
        layout = np.dtype(self._STRUCTS[self._type])
        return column.to_numpy().astype(layout).view(f"V{layout.itemsize}").tolist()

    def read_one(self, value: bytes) -> tuple[Any, ...]:
        """Return the value of one message."""
        if self._type == "STRING":
            return (value.decode(),)
        if self._type == "BYTES":
            return (value,)
        return struct.unpack(self._STRUCTS[self._type], value)

    def write_one(self, row: tuple[Any, ...]) -> bytes | None:
        """Return the message of one row."""
        value = row[0]
        if value is None or self._type == "BYTES":
            return value
        return value.encode() if self._type == "STRING" else struct.pack(self._STRUCTS[self._type], value)

    def is_valid(self, value: bytes) -> bool:
        """Say whether bytes are a message of this format."""
        try:
            self.read_one(value)
        except (ValueError, struct.error):
            return False
        return True


class NoneSerde(RowSerde):
    """NONE: no columns; what is there is ignored."""

    def read_one(self, value: bytes) -> tuple[Any, ...]:
        """Return no values."""
        return ()

    def write_one(self, row: tuple[Any, ...]) -> bytes | None:
        """Return a null."""
        return None
