"""Arithmetic on numbers, and + on text, computed as Java does."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from decimal import Context, Decimal, DivisionByZero, InvalidOperation
from typing import cast

import numpy as np
import polars as pl

from ksqlengine.expressions.base import Compiled, Failure, Literal, TypedExpression, hidden, null_operands, once
from ksqlengine.types.casts import by_row, spread
from ksqlengine.types.sqltypes import DOUBLE, MOST_DIGITS, DecimalType


def truncated_quotient(left: pl.Expr, right: pl.Expr) -> pl.Expr:
    """Return whole-number division toward zero, as Java's; NULL where `right` is 0."""
    floor = left // right
    inexact = (left % right) != 0
    return floor + (inexact & ((left < 0) != (right < 0))).cast(pl.Int8)


def truncated_remainder(left: pl.Expr, right: pl.Expr) -> pl.Expr:
    """Return the remainder with the sign of `left`, as Java's; NULL where a whole number's `right` is 0."""
    floor = left % right
    return pl.when((floor != 0) & ((left < 0) != (right < 0))).then(floor - right).otherwise(floor)


def _beside(value: pl.Expr, other: pl.Expr) -> pl.Expr:
    """Return a value of each row, also if it is a constant: with those Polars computes otherwise (x / c as x * (1 / c))."""
    columns = other.meta.root_names()
    if value.meta.root_names():
        return value
    # Any column will do: `other` itself would be computed once more.
    return pl.when(pl.col(columns[0]).is_null() if columns else other.is_null()).then(value).otherwise(value)


def quotient(left: pl.Expr, right: pl.Expr) -> pl.Expr:
    """Return the quotient of DOUBLEs, rounded as IEEE 754 wants."""
    return left / _beside(right, left)


def _float_remainder(left: pl.Expr, right: pl.Expr) -> pl.Expr:
    def run(sides: Sequence[pl.Series]) -> pl.Series:
        first, second = spread(sides)
        with np.errstate(invalid="ignore"):
            exact = np.fmod(first.fill_null(math.nan).to_numpy(), second.fill_null(math.nan).to_numpy())
        return pl.Series(exact).set(first.is_null() | second.is_null(), None)

    return pl.map_batches([left, right], run, return_dtype=pl.Float64, is_elementwise=True)


@dataclass(frozen=True)
class Arithmetic(TypedExpression):
    """x + y, x - y, x * y, x / y, x % y on numbers."""

    operator: str
    left: TypedExpression
    right: TypedExpression

    @property
    def children(self) -> tuple[TypedExpression, ...]:
        """Both sides."""
        return self.left, self.right

    def compile(self) -> Compiled:
        """Return the result in the result's type."""
        left, right = self.left.compile(), self.right.compile()
        failures = left.failures + right.failures + null_operands((self.left, left.value), (self.right, right.value))
        if isinstance(self.type, DecimalType):
            computed = self._decimal(left.value, right.value)
        else:
            computed = self._number(left.value.cast(self.type.polars), right.value.cast(self.type.polars))
        return Compiled(computed.value, failures + computed.failures)

    def _number(self, left: pl.Expr, right: pl.Expr) -> Compiled:
        if self.type == DOUBLE and self.operator in "+-":
            left, right = _beside(left, right), _beside(right, left)
        if self.operator in "+-*":
            return Compiled({"+": left + right, "-": left - right, "*": left * right}[self.operator])
        if self.type == DOUBLE:
            return Compiled(quotient(left, right) if self.operator == "/" else _float_remainder(left, right))
        compute = truncated_quotient if self.operator == "/" else truncated_remainder
        value = once(((self.left, left), (self.right, right)), compute, self.type)
        divisor = self.right.value if isinstance(self.right, Literal) else None
        if divisor:
            return Compiled(value)
        return Compiled(value, (Failure((right == 0) & left.is_not_null(), "/ by zero"),))

    def _decimal(self, left: pl.Expr, right: pl.Expr) -> Compiled:
        left, right = self._as_decimal(self.left, left), self._as_decimal(self.right, right)
        target = cast(DecimalType, self.type)
        if self.operator in "+-" and target.precision <= MOST_DIGITS:
            wide_left, wide_right = (side.cast(pl.Decimal(38, target.scale), strict=False) for side in (left, right))
            value = wide_left + wide_right if self.operator == "+" else wide_left - wide_right
            value = value.cast(target.polars, strict=False)
        else:
            value = _per_row_decimal(left, right, target, _DECIMAL_FUNCTIONS[self.operator])
        failed = value.is_null() & left.is_not_null() & right.is_not_null()
        if self.operator not in "/%":
            return Compiled(value, (Failure(failed, f"the result has more than {MOST_DIGITS} digits"),))
        by_zero = (right == 0).fill_null(False)
        message = "Rounding necessary" if self.operator == "/" else f"the result has more than {MOST_DIGITS} digits"
        return Compiled(value, (Failure(failed & by_zero, "Division by zero"), Failure(failed & ~by_zero, message)))

    @staticmethod
    def _as_decimal(operand: TypedExpression, value: pl.Expr) -> pl.Expr:
        return value if isinstance(operand.type, DecimalType) else value.cast(pl.Decimal(38, 0))


_CONTEXT = Context(prec=120, traps=[DivisionByZero, InvalidOperation])


def _exact_quotient(left: Decimal, right: Decimal) -> Decimal:
    quotient = _CONTEXT.divide(left, right)
    if _CONTEXT.multiply(quotient, right) != left:
        raise ArithmeticError("Rounding necessary")
    return quotient


_DECIMAL_FUNCTIONS: dict[str, Callable[[Decimal, Decimal], Decimal]] = {
    "+": _CONTEXT.add,
    "-": _CONTEXT.subtract,
    "*": _CONTEXT.multiply,
    "/": _exact_quotient,
    "%": _CONTEXT.remainder,
}


def _per_row_decimal(
    left: pl.Expr, right: pl.Expr, target: DecimalType, function: Callable[[Decimal, Decimal], Decimal]
) -> pl.Expr:
    """Return exact decimal results, NULL where there is none. Row by row: Polars rounds where ksqlDB refuses to."""
    unit = Decimal(1).scaleb(-target.scale)

    def compute(row: dict[str, Decimal | None]) -> Decimal | None:
        first, second = row["left"], row["right"]
        if first is None or second is None:
            return None
        try:
            result = function(first, second)
            fitted = _CONTEXT.quantize(result, unit)
        except ArithmeticError:
            return None
        return fitted if fitted == result and target.fits(fitted) else None

    return by_row({"left": left, "right": right}, compute, target.polars)


@dataclass(frozen=True)
class Negation(TypedExpression):
    """-x."""

    operand: TypedExpression

    @property
    def children(self) -> tuple[TypedExpression, ...]:
        """The operand."""
        return (self.operand,)

    def compile(self) -> Compiled:
        """Return the negated number; the smallest whole number stays as it is, as in Java."""
        operand = self.operand.compile()
        value = -operand.value
        return Compiled(value, operand.failures + null_operands((self.operand, operand.value)))


@dataclass(frozen=True)
class Concatenation(TypedExpression):
    """x + y on text."""

    left: TypedExpression
    right: TypedExpression

    @property
    def children(self) -> tuple[TypedExpression, ...]:
        """Both sides."""
        return self.left, self.right

    def compile(self) -> Compiled:
        """Return the joined text; Java writes NULL as ``null``."""
        left, right = self.left.compile(), self.right.compile()
        value = left.value.fill_null("null") + right.value.fill_null("null")
        return Compiled(value, hidden(left.failures + right.failures))
