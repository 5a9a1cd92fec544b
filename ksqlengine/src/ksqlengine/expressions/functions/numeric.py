"""Numeric functions."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Sequence
from decimal import Decimal
from typing import cast

import numpy as np
import polars as pl

from ksqlengine.expressions.arithmetic import quotient
from ksqlengine.expressions.overloads import ANY_DECIMAL, TypedCall, register
from ksqlengine.types.casts import by_row, converted, in_java_order, rounded_at
from ksqlengine.types.sqltypes import (
    BIGINT,
    BYTES,
    DATE,
    DOUBLE,
    INTEGER,
    MOST_DIGITS,
    STRING,
    TIME,
    TIMESTAMP,
    DecimalType,
    SqlType,
    as_decimal,
    common_decimal,
)

_CATEGORY = "MATHEMATICAL"


def _unary(name: str, description: str, build: Callable[[pl.Expr], pl.Expr]) -> None:
    register(name, _CATEGORY, description, (DOUBLE,), DOUBLE, build)


_unary("ACOS", "Arc cosine, radians.", lambda x: x.arccos())
_unary("ASIN", "Arc sine, radians.", lambda x: x.arcsin())
_unary("ATAN", "Arc tangent, radians.", lambda x: x.arctan())
_unary("CBRT", "Cube root.", lambda x: x.cbrt())
_unary("COS", "Cosine of radians.", lambda x: x.cos())
_unary("COSH", "Hyperbolic cosine.", lambda x: x.cosh())
_unary("COT", "Cotangent of radians.", lambda x: x.cos() / x.sin())
_unary("DEGREES", "Degrees of radians.", lambda x: x.degrees())
_unary("EXP", "e to the power of a number.", lambda x: x.exp())
_unary("LN", "Natural logarithm.", lambda x: x.log())
_unary("LOG", "Natural logarithm.", lambda x: x.log())
_unary("RADIANS", "Radians of degrees.", lambda x: x.radians())
_unary("SIN", "Sine of radians.", lambda x: x.sin())
_unary("SINH", "Hyperbolic sine.", lambda x: x.sinh())
_unary("SQRT", "Square root; NaN of a negative number.", lambda x: x.sqrt())
_unary("TAN", "Tangent of radians.", lambda x: x.tan())
_unary("TANH", "Hyperbolic tangent.", lambda x: x.tanh())


def _log(base: pl.Expr, value: pl.Expr) -> pl.Expr:
    nan = pl.lit(math.nan)
    return (
        pl.when(base.is_null() | value.is_null())
        .then(None)
        .when((base <= 0) | (base == 1))
        .then(nan)
        .otherwise(quotient(value.log(), base.log()))
    )


def _power(base: pl.Expr, exponent: pl.Expr) -> pl.Expr:
    """Return Java's Math.pow, to which 1 to the power of NaN or an infinity is NaN."""
    endless = exponent.is_nan() | (exponent.is_infinite() & (base.abs() == 1))
    return pl.when(endless & base.is_not_null()).then(pl.lit(math.nan)).otherwise(base.pow(exponent))


register("LOG", _CATEGORY, "Logarithm to a base.", (DOUBLE, DOUBLE), DOUBLE, _log)
register("ATAN2", _CATEGORY, "Angle of the point (x, y) given as y, x; radians.", (DOUBLE, DOUBLE), DOUBLE, pl.arctan2)
register("POWER", _CATEGORY, "A number to the power of another.", (DOUBLE, DOUBLE), DOUBLE, _power)
register("PI", _CATEGORY, "The number pi.", (), DOUBLE, lambda: pl.lit(math.pi))
register("RANDOM", _CATEGORY, "A random number from 0 to below 1.", (), DOUBLE,
         lambda: pl.int_range(pl.len()).map_batches(lambda rows: pl.Series(np.random.default_rng().random(len(rows))),
                                                    return_dtype=pl.Float64))  # fmt: skip


def _whole(sign: pl.Expr) -> pl.Expr:
    return sign.fill_nan(0).cast(pl.Int32)  # Java's (int) NaN is 0


for _type in (INTEGER, BIGINT, DOUBLE):
    register("ABS", _CATEGORY, "Absolute value.", (_type,), _type, lambda x: x.abs())
    register("CEIL", _CATEGORY, "Smallest whole number not below.", (_type,), _type,
             lambda x: x.ceil())  # fmt: skip
    register("FLOOR", _CATEGORY, "Largest whole number not above.", (_type,), _type, lambda x: x.floor())
    register("SIGN", _CATEGORY, "-1, 0 or 1.", (_type,), INTEGER, lambda x: _whole(x.sign()))


def _same_decimal(types: Sequence[SqlType]) -> SqlType:
    return as_decimal(types[0])


def _whole_decimal(types: Sequence[SqlType]) -> SqlType:
    decimal = cast(DecimalType, as_decimal(types[0]))
    return DecimalType(precision=max(decimal.precision - decimal.scale, 1), scale=0)


def _decimal(mode: str) -> Callable[[TypedCall, list[pl.Expr]], pl.Expr]:
    """Return a builder that rounds a DECIMAL (to the places of a second argument) and keeps the result's type."""

    def build(call: TypedCall, values: list[pl.Expr]) -> pl.Expr:
        places = values[1] if len(values) > 1 else pl.lit(0, dtype=pl.Int32)
        return rounded_at(values[0], places, mode, call.type)

    return build


register("ABS", _CATEGORY, "Absolute value.", (ANY_DECIMAL,), _same_decimal, lambda x: x.abs())
register(
    "CEIL",
    _CATEGORY,
    "Smallest whole number not below.",
    (ANY_DECIMAL,),
    _same_decimal,
    _decimal("CEILING"),
    with_call=True,
)
register(
    "FLOOR",
    _CATEGORY,
    "Largest whole number not above.",
    (ANY_DECIMAL,),
    _same_decimal,
    _decimal("FLOOR"),
    with_call=True,
)

for _name, _mode, _what in (("ROUND", "HALF_UP_POSITIVE", "Rounds"), ("TRUNC", "DOWN", "Cuts off decimals")):
    for _type in (INTEGER, BIGINT):
        register(_name, _CATEGORY, f"{_what}.", (_type,), BIGINT, lambda x: x.cast(pl.Int64))
    register(
        _name, _CATEGORY, f"{_what} to decimal places.", (DOUBLE, INTEGER), DOUBLE, _decimal(_mode), with_call=True
    )
    register(_name, _CATEGORY, f"{_what}.", (ANY_DECIMAL,), _whole_decimal, _decimal(_mode), with_call=True)
    register(_name, _CATEGORY, f"{_what} to decimal places.", (ANY_DECIMAL, INTEGER), _same_decimal, _decimal(_mode),
             with_call=True)  # fmt: skip


def _rounded(x: pl.Expr) -> pl.Expr:
    """Return Java's Math.round: half goes up, also below zero."""
    return converted(x.floor() + ((x - x.floor()) >= 0.5).cast(pl.Float64), DOUBLE, BIGINT)


register("ROUND", _CATEGORY, "Rounds.", (DOUBLE,), BIGINT, _rounded)
register("TRUNC", _CATEGORY, "Cuts off decimals.", (DOUBLE,), BIGINT, lambda x: converted(x, DOUBLE, BIGINT))


def _greatest(*values: pl.Expr) -> pl.Expr:
    """Return the largest DOUBLE; NaN is larger than any number to Java."""
    nan = pl.any_horizontal(*(value.is_nan() for value in values)).fill_null(False)
    return pl.when(nan).then(pl.lit(math.nan)).otherwise(pl.max_horizontal(*values))


def _of_bytes(choose: Callable[..., pl.Expr]) -> Callable[..., pl.Expr]:
    return lambda *values: in_java_order(choose(*(in_java_order(value, BYTES) for value in values)), BYTES)


for _type in (INTEGER, BIGINT, DOUBLE, STRING, BYTES, DATE, TIME, TIMESTAMP):
    _most, _least = _greatest if _type == DOUBLE else pl.max_horizontal, pl.min_horizontal
    if _type == BYTES:
        _most, _least = _of_bytes(_most), _of_bytes(_least)
    register("GREATEST", _CATEGORY, "The largest value that isn't NULL.", (_type, _type), _type, _most,
             variadic=True, null_gives_null=False)  # fmt: skip
    register("LEAST", _CATEGORY, "The smallest value that isn't NULL.", (_type, _type), _type, _least,
             variadic=True, null_gives_null=False)  # fmt: skip


def _widest(types: Sequence[SqlType]) -> SqlType:
    return common_decimal(types)


def _extreme(
    choose: Callable[..., pl.Expr], of_row: Callable[..., Decimal]
) -> Callable[[TypedCall, list[pl.Expr]], pl.Expr]:
    def build(call: TypedCall, values: list[pl.Expr]) -> pl.Expr:
        type_ = cast(DecimalType, call.type)
        if type_.precision <= MOST_DIGITS:
            return choose(*(value.cast(type_.polars) for value in values))
        columns = {str(place): value for place, value in enumerate(values)}
        return by_row(columns, lambda row: _chosen(of_row, row.values(), type_), type_.polars)

    return build


def _chosen(of_row: Callable[..., Decimal], values: Iterable[Decimal | None], type_: DecimalType) -> Decimal | None:
    """Return the largest or smallest number of a row, NULL where no column has room for it beside the others' decimals."""
    given = [Decimal(value) for value in values if value is not None]
    found = of_row(given) if given else None
    return found if found is not None and type_.fits(found) else None


register("GREATEST", _CATEGORY, "The largest value that isn't NULL.", (ANY_DECIMAL, ANY_DECIMAL), _widest,
         _extreme(pl.max_horizontal, max), variadic=True, null_gives_null=False, with_call=True)  # fmt: skip
register("LEAST", _CATEGORY, "The smallest value that isn't NULL.", (ANY_DECIMAL, ANY_DECIMAL), _widest,
         _extreme(pl.min_horizontal, min), variadic=True, null_gives_null=False, with_call=True)  # fmt: skip

_RADIUS_KM = 6371.0
_RADIUS_MILES = 3959.0


def _distance(lat1: pl.Expr, lon1: pl.Expr, lat2: pl.Expr, lon2: pl.Expr, unit: pl.Expr | None = None) -> pl.Expr:
    """Return the great-circle distance (haversine formula); NULL for coordinates or units that can't be."""
    half = lambda angle: (angle / 2).sin() ** 2  # noqa: E731
    a = half((lat2 - lat1).radians()) + half((lon2 - lon1).radians()) * lat1.radians().cos() * lat2.radians().cos()
    angle = 2 * a.sqrt().arcsin()
    valid = (lat1.abs() <= 90) & (lat2.abs() <= 90) & (lon1.abs() <= 180) & (lon2.abs() <= 180)
    radius = pl.lit(_RADIUS_KM)
    if unit is not None:
        word = unit.str.strip_chars().str.to_lowercase()
        miles = word.is_in(["mi", "mile", "miles"])
        kilometers = word.is_in(["", "km", "kilometer", "kilometers", "kilometre", "kilometres"])
        radius = pl.when(miles).then(pl.lit(_RADIUS_MILES)).when(kilometers).then(pl.lit(_RADIUS_KM))
    return pl.when(valid).then(angle * radius)


register("GEO_DISTANCE", "OTHER", "Kilometers between two points, in degrees north and east.", (DOUBLE,) * 4, DOUBLE,
         _distance, may_fail=True)  # fmt: skip
register("GEO_DISTANCE", "OTHER", "Distance between two points, in KM or MI.", (*(DOUBLE,) * 4, STRING), DOUBLE, _distance,
         may_fail=True)  # fmt: skip
