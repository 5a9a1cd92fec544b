"""Typed expressions that compile to Polars expressions.

`TypedExpression.to_polars` gives the expression's value in each row of a frame; `TypedExpression.errors` gives the rows in
which evaluation fails, with ksqlDB's message, for the processing log. Both follow ksqlDB's evaluation, which is Java's:

- INTEGER and BIGINT wrap; division truncates toward zero; dividing a whole number by zero is an error.
- An error makes the whole expression NULL (a predicate: not TRUE), also where IS NULL surrounds the part that failed. Only what
  CAST converts, what a constructor of an array, map or struct holds, and a function or a field that is a function's argument
  are NULL by themselves (``ksql.nested.error.set.null``).
- Arithmetic on NULL is NULL, in the same way for the whole expression; it isn't logged.
- A comparison with NULL is FALSE, not NULL. IS DISTINCT FROM compares NULL as a value.
- AND, OR and CASE evaluate no more than they need.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from functools import reduce
from typing import Any, ClassVar

import polars as pl

from ksqlengine.plan.expression import EvaluationError
from ksqlengine.types.casts import spread
from ksqlengine.types.sqltypes import NULL, SqlType


@dataclass(frozen=True)
class Failure:
    """Rows in which evaluation fails.

    Attributes:
        condition: TRUE where it fails.
        message: for the processing log; None where ksqlDB's log would only repeat that a value is NULL.
        implied: the value is NULL there anyway.
        contained: only this part is NULL there, and what surrounds it goes on; it is logged all the same.
    """

    condition: pl.Expr
    message: str | None = None
    implied: bool = True
    contained: bool = False


@dataclass(frozen=True)
class Compiled:
    """A value and where it can't be computed."""

    value: pl.Expr
    failures: tuple[Failure, ...] = ()


@dataclass(frozen=True)
class TypedExpression:
    """An expression whose columns and types are known.

    Attributes:
        type: the value's type.
        text: the SQL it came from.
        inline: nothing is computed for the value, so that it may be named as often as it is needed.
    """

    inline: ClassVar[bool] = False

    type: SqlType
    text: str = field(default="", compare=False, kw_only=True)

    def compile(self) -> Compiled:
        """Return the value and its failures."""
        raise NotImplementedError

    @property
    def children(self) -> tuple[TypedExpression, ...]:
        """The operands."""
        return ()

    @property
    def never_null(self) -> bool:
        """Whether the value can't be NULL (comparisons, for example)."""
        return False

    @property
    def columns(self) -> frozenset[str]:
        """Names of the frame's columns that it reads."""
        return frozenset(node.name for node in walk(self) if isinstance(node, ColumnExpression))

    def to_polars(self) -> pl.Expr:
        """Return the value in each row; NULL where evaluation fails."""
        compiled = self.compile()
        failed = [failure.condition for failure in compiled.failures if not failure.implied]
        return null_where(failed, compiled.value)

    def errors(self) -> tuple[EvaluationError, ...]:
        """Return which rows must be logged, and why."""
        return tuple(
            EvaluationError(failure.condition, failure.message)
            for failure in self.compile().failures
            if failure.message is not None
        )

    def __str__(self) -> str:
        """Return the SQL it came from."""
        return self.text or type(self).__name__


def walk(expression: TypedExpression) -> Iterator[TypedExpression]:
    """Yield an expression and everything below it."""
    yield expression
    for child in expression.children:
        yield from walk(child)


def any_of(conditions: list[pl.Expr]) -> pl.Expr:
    """Return where one of the conditions, at least one, is TRUE: TRUE or FALSE, never NULL."""
    return reduce(lambda left, right: left | right, conditions).fill_null(False)


def null_where(conditions: list[pl.Expr], value: pl.Expr) -> pl.Expr:
    """Return a value that is NULL where one of the conditions is TRUE."""
    if not conditions:
        return value
    failed = any_of(conditions)
    if not failed.meta.root_names():  # Polars gives the one row of a branch that a constant condition chooses
        failed &= value.is_null().is_not_null()
    return pl.when(failed).then(None).otherwise(value)


def hidden(failures: tuple[Failure, ...]) -> tuple[Failure, ...]:
    """Return failures that the value no longer shows by being NULL."""
    return tuple(
        failure if failure.contained else Failure(failure.condition, failure.message, False) for failure in failures
    )


def contained(part: Compiled) -> Compiled:
    """Return a part whose failures make only itself NULL. Source: ksqlDB's ``SqlToJavaVisitor.evaluateOrReturnNull``."""
    failed = [failure.condition for failure in part.failures if not failure.implied]
    value = null_where(failed, part.value)
    logged = tuple(
        Failure(failure.condition, failure.message, contained=True)
        for failure in part.failures
        if failure.message is not None
    )
    return Compiled(value, logged)


def only_where(failures: tuple[Failure, ...], taken: pl.Expr) -> tuple[Failure, ...]:
    """Return failures of a part that is only evaluated where `taken`."""
    return tuple(replace(failure, condition=failure.condition & taken) for failure in failures)


def null_operands(*operands: tuple[TypedExpression, pl.Expr]) -> tuple[Failure, ...]:
    """Return the failures of operands, given with their values, that must not be NULL and are."""
    return tuple(Failure(value.is_null(), None, True) for operand, value in operands if not operand.never_null)


@dataclass(frozen=True)
class ColumnExpression(TypedExpression):
    """A column of the frame, by its name there."""

    inline = True

    name: str

    def compile(self) -> Compiled:
        """Return the column."""
        return Compiled(pl.col(self.name))


@dataclass(frozen=True)
class LambdaVariable(TypedExpression):
    """A lambda's parameter; `name` is the column that holds its value while the lambda's body is evaluated."""

    inline = True

    name: str

    def compile(self) -> Compiled:
        """Return the parameter's column."""
        return Compiled(pl.col(self.name))


@dataclass(frozen=True)
class Literal(TypedExpression):
    """A constant; its value is a Python value of the column's type."""

    inline = True

    value: Any

    @property
    def never_null(self) -> bool:
        """Whether it isn't NULL."""
        return self.value is not None

    def compile(self) -> Compiled:
        """Return the constant."""
        if self.type == NULL or isinstance(self.value, str):
            return Compiled(pl.lit(self.value))
        return Compiled(pl.lit(self.value, dtype=self.type.polars))


def once(operands: Sequence[tuple[TypedExpression, pl.Expr]], build: Callable[..., pl.Expr], type_: SqlType) -> pl.Expr:
    """Return what `build` makes of operands' values, with each of them computed once.

    Polars computes a value as often as an expression names it. Of values nested in one another that is so at each level, and
    ten divisions would take all memory.

    Args:
        operands: what is computed on, and its value.
        build: takes the values.
        type_: the result's type.
    """
    nested = {f"__OPERAND_{place}": value for place, (operand, value) in enumerate(operands) if not operand.inline}
    names = [f"__OPERAND_{place}" for place in range(len(operands))]
    built = build(
        *(pl.col(name) if name in nested else value for name, (_, value) in zip(names, operands, strict=True))
    )
    read = built.meta.root_names()
    if all(read.count(name) < 2 for name in nested):
        return build(*(value for _, value in operands))
    columns = {name: pl.col(name) for name in read} | nested

    def run(given: Sequence[pl.Series]) -> pl.Series:
        frame = pl.DataFrame(dict(zip(columns, spread(given), strict=True)))
        return frame.select(built.cast(type_.polars).alias("result")).to_series()

    return pl.map_batches(list(columns.values()), run, return_dtype=type_.polars, is_elementwise=True)


def all_failures(parts: list[Compiled]) -> tuple[Failure, ...]:
    """Return the failures of all parts."""
    return tuple(failure for part in parts for failure in part.failures)
