"""KSQL's data types, and their Arrow and Polars counterparts.

Source: ksqlDB's data type reference. An embedded query's columns live in Polars frames, so every type states both the
type that SQL shows and the type that a column has.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from decimal import Decimal

import polars as pl


@dataclass(frozen=True)
class SqlType:
    """A KSQL type; the plain ones are the constants of this module."""

    name: str

    def __str__(self) -> str:
        """Return the type as DESCRIBE prints it."""
        return self.name

    @property
    def polars(self) -> pl.DataType:
        """Return the type of the column that holds values of this type."""
        return _PLAIN[self.name]

    def map_parts(self, function: Callable[[SqlType], SqlType]) -> SqlType:
        """Return this type with `function` applied to the types it is made of."""
        return self


MOST_DIGITS = 38  # of a DECIMAL that Polars and Arrow hold
INTEGER_MAX = 2**31 - 1
BIGINT_MAX = 2**63 - 1


@dataclass(frozen=True)
class DecimalType(SqlType):
    """DECIMAL(precision, scale): exact numbers, at most 38 digits."""

    name: str = "DECIMAL"
    precision: int = 38
    scale: int = 0

    def __str__(self) -> str:
        """Return the type as DESCRIBE prints it."""
        return f"DECIMAL({self.precision}, {self.scale})"

    @property
    def polars(self) -> pl.DataType:
        """Return the type of the column that holds values of this type."""
        return pl.Decimal(min(self.precision, MOST_DIGITS), min(self.scale, MOST_DIGITS))

    def fits(self, number: Decimal) -> bool:
        """Tell whether a column of this type has room for a number's digits before the point."""
        # Not abs(), which rounds to the 28 digits of Python's context.
        return number.copy_abs() < Decimal(10) ** (min(self.precision, MOST_DIGITS) - self.scale)

    def holds(self, other: DecimalType) -> bool:
        """Tell whether every number of another DECIMAL is one of this, digit for digit."""
        return other.scale <= self.scale and other.precision - other.scale <= self.precision - self.scale


@dataclass(frozen=True)
class ArrayType(SqlType):
    """ARRAY<element>."""

    name: str = "ARRAY"
    element: SqlType = SqlType("STRING")

    def __str__(self) -> str:
        """Return the type as DESCRIBE prints it."""
        return f"ARRAY<{self.element}>"

    @property
    def polars(self) -> pl.DataType:
        """Return the type of the column that holds values of this type."""
        return pl.List(self.element.polars)

    def map_parts(self, function: Callable[[SqlType], SqlType]) -> SqlType:
        """Return this type with `function` applied to the element's type."""
        return ArrayType(element=function(self.element))


@dataclass(frozen=True)
class MapType(SqlType):
    """MAP<key, value>, kept as a list of key/value structs as Arrow does."""

    name: str = "MAP"
    key: SqlType = SqlType("STRING")
    value: SqlType = SqlType("STRING")

    def __str__(self) -> str:
        """Return the type as DESCRIBE prints it."""
        return f"MAP<{self.key}, {self.value}>"

    @property
    def polars(self) -> pl.DataType:
        """Return the type of the column that holds values of this type."""
        return pl.List(pl.Struct({"key": self.key.polars, "value": self.value.polars}))

    def map_parts(self, function: Callable[[SqlType], SqlType]) -> SqlType:
        """Return this type with `function` applied to the key's and the value's type."""
        return MapType(key=function(self.key), value=function(self.value))


@dataclass(frozen=True)
class StructType(SqlType):
    """STRUCT<field type, …>; field names are case-sensitive once quoted."""

    name: str = "STRUCT"
    fields: tuple[tuple[str, SqlType], ...] = ()

    def __str__(self) -> str:
        """Return the type as ksqlDB's messages have it."""
        return "STRUCT<" + ", ".join(f"`{name}` {type_}" for name, type_ in self.fields) + ">"

    @property
    def polars(self) -> pl.DataType:
        """Return the type of the column that holds values of this type."""
        return pl.Struct({name: type_.polars for name, type_ in self.fields})

    def map_parts(self, function: Callable[[SqlType], SqlType]) -> SqlType:
        """Return this type with `function` applied to the fields' types."""
        return StructType(fields=tuple((name, function(type_)) for name, type_ in self.fields))


@dataclass(frozen=True)
class NamedType(SqlType):
    """A name of CREATE TYPE, which the analyzer replaces by the type it stands for; it never reaches a plan."""


BOOLEAN = SqlType("BOOLEAN")
INTEGER = SqlType("INTEGER")
BIGINT = SqlType("BIGINT")
DOUBLE = SqlType("DOUBLE")
STRING = SqlType("STRING")
BYTES = SqlType("BYTES")
DATE = SqlType("DATE")
TIME = SqlType("TIME")
TIMESTAMP = SqlType("TIMESTAMP")
NULL = SqlType("NULL")  # of the literal NULL, which fits every type; no column has it

_PLAIN: dict[str, pl.DataType] = {
    "BOOLEAN": pl.Boolean(),
    "INTEGER": pl.Int32(),
    "BIGINT": pl.Int64(),
    "DOUBLE": pl.Float64(),
    "STRING": pl.String(),
    "BYTES": pl.Binary(),
    "DATE": pl.Date(),
    "TIME": pl.Time(),
    "TIMESTAMP": pl.Datetime("ms"),
    "NULL": pl.Null(),
}


def as_decimal(type_: SqlType) -> SqlType:
    """Return the DECIMAL that holds a type's every value."""
    if type_ == INTEGER:
        return DecimalType(precision=10, scale=0)
    if type_ == BIGINT:
        return DecimalType(precision=19, scale=0)
    return type_


def common_decimal(types: Sequence[SqlType]) -> DecimalType:
    """Return the DECIMAL that holds the numbers of whole types and DECIMALs; a column may not have room for its digits."""
    decimals = [decimal for decimal in map(as_decimal, types) if isinstance(decimal, DecimalType)]
    scale = max(decimal.scale for decimal in decimals)
    return DecimalType(precision=max(decimal.precision - decimal.scale for decimal in decimals) + scale, scale=scale)
