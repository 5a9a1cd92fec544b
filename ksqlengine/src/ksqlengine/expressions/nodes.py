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

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from decimal import Context, Decimal, DivisionByZero, InvalidOperation
from functools import reduce
from typing import TYPE_CHECKING, Any, cast

import numpy as np
import polars as pl

from ksqlengine.plan.steps import Expression
from ksqlengine.types.casts import KEY_FIELD, VALUE_FIELD, by_row, converted, in_java_order, lost, never_fails, spread
from ksqlengine.types.sqltypes import (
    BIGINT,
    BOOLEAN,
    DOUBLE,
    INTEGER,
    MOST_DIGITS,
    NULL,
    ArrayType,
    DecimalType,
    MapType,
    SqlType,
    StructType,
    common_decimal,
)

if TYPE_CHECKING:
    from ksqlengine.expressions.overloads import Overload


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
class EvaluationError:
    """Rows of a frame that go to the processing log, and why."""

    condition: pl.Expr
    message: str


@dataclass(frozen=True)
class TypedExpression(Expression):
    """An expression whose columns and types are known.

    Attributes:
        text: the SQL it came from.
    """

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

    def to_polars(self) -> pl.Expr:
        """Return the value in each row; NULL where evaluation fails."""
        compiled = self.compile()
        failed = [failure.condition for failure in compiled.failures if not failure.implied]
        return _null_where(failed, compiled.value)

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


def referenced_columns(expression: Expression) -> frozenset[str]:
    """Return the names of the frame's columns that an expression reads."""
    return frozenset(node.name for node in walk(cast(TypedExpression, expression)) if isinstance(node, Column))


def _any(conditions: list[pl.Expr]) -> pl.Expr:
    return reduce(lambda left, right: left | right, conditions).fill_null(False)


def _null_where(conditions: list[pl.Expr], value: pl.Expr) -> pl.Expr:
    if not conditions:
        return value
    failed = _any(conditions)
    if not failed.meta.root_names():  # Polars gives the one row of a branch that a constant condition chooses
        failed &= value.is_null().is_not_null()
    return pl.when(failed).then(None).otherwise(value)


def _hidden(failures: tuple[Failure, ...]) -> tuple[Failure, ...]:
    """Return failures that the value no longer shows by being NULL."""
    return tuple(
        failure if failure.contained else Failure(failure.condition, failure.message, False) for failure in failures
    )


def _contained(part: Compiled) -> Compiled:
    """Return a part whose failures make only itself NULL. Source: ksqlDB's ``SqlToJavaVisitor.evaluateOrReturnNull``."""
    failed = [failure.condition for failure in part.failures if not failure.implied]
    value = _null_where(failed, part.value)
    logged = tuple(
        Failure(failure.condition, failure.message, contained=True)
        for failure in part.failures
        if failure.message is not None
    )
    return Compiled(value, logged)


def _where(failures: tuple[Failure, ...], taken: pl.Expr) -> tuple[Failure, ...]:
    """Return failures of a part that is only evaluated where `taken`."""
    return tuple(replace(failure, condition=failure.condition & taken) for failure in failures)


def _null_operands(*operands: tuple[TypedExpression, pl.Expr]) -> tuple[Failure, ...]:
    return tuple(Failure(value.is_null(), None, True) for operand, value in operands if not operand.never_null)


# ---------------------------------------------------------------------------------------------------- leaves
@dataclass(frozen=True)
class Column(TypedExpression):
    """A column of the frame, by its name there."""

    name: str

    def compile(self) -> Compiled:
        """Return the column."""
        return Compiled(pl.col(self.name))


@dataclass(frozen=True)
class LambdaVariable(TypedExpression):
    """A lambda's parameter; `name` is the column that holds its value while the lambda's body is evaluated."""

    name: str

    def compile(self) -> Compiled:
        """Return the parameter's column."""
        return Compiled(pl.col(self.name))


@dataclass(frozen=True)
class Literal(TypedExpression):
    """A constant; its value is a Python value of the column's type."""

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
    nested = {
        f"__OPERAND_{place}": value
        for place, (operand, value) in enumerate(operands)
        if not isinstance(operand, Column | Literal | Lambda | LambdaVariable)
    }
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


# ---------------------------------------------------------------------------------------------------- arithmetic
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
        failures = left.failures + right.failures + _null_operands((self.left, left.value), (self.right, right.value))
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
        return Compiled(value, operand.failures + _null_operands((self.operand, operand.value)))


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
        return Compiled(value, _hidden(left.failures + right.failures))


# ---------------------------------------------------------------------------------------------------- logic
_COMPARE: dict[str, Callable[[pl.Expr, pl.Expr], pl.Expr]] = {
    "=": lambda left, right: left == right,
    "<>": lambda left, right: left != right,
    "<": lambda left, right: left < right,
    "<=": lambda left, right: left <= right,
    ">": lambda left, right: left > right,
    ">=": lambda left, right: left >= right,
    "IS DISTINCT FROM": lambda left, right: left.ne_missing(right),
}
_ORDERED = ("<", "<=", ">", ">=")


def _has_maps(type_: SqlType) -> bool:
    if isinstance(type_, ArrayType):
        return _has_maps(type_.element)
    return isinstance(type_, MapType) or (
        isinstance(type_, StructType) and any(_has_maps(field_type) for _, field_type in type_.fields)
    )


def _with_maps_in_order(value: pl.Expr, type_: SqlType) -> pl.Expr:
    """Return values whose maps are equal where they hold the same entries, in whatever order those came."""
    if not _has_maps(type_):
        return value
    if isinstance(type_, StructType):
        fields = [_with_maps_in_order(value.struct.field(name), kind).alias(name) for name, kind in type_.fields]
        return pl.when(value.is_not_null()).then(pl.struct(fields))
    if isinstance(type_, ArrayType):
        return value.list.eval(_with_maps_in_order(pl.element(), type_.element))
    key = pl.element().struct.field(KEY_FIELD)
    inner = _with_maps_in_order(pl.element().struct.field(VALUE_FIELD), cast(MapType, type_).value)
    return value.list.eval(pl.struct(key, inner.alias(VALUE_FIELD)).sort_by(key))


@dataclass(frozen=True)
class Comparison(TypedExpression):
    """x = y and the other comparisons; both sides have one type, or are numbers."""

    operator: str
    left: TypedExpression
    right: TypedExpression

    @property
    def children(self) -> tuple[TypedExpression, ...]:
        """Both sides."""
        return self.left, self.right

    @property
    def never_null(self) -> bool:
        """Comparing with NULL is FALSE."""
        return True

    def compile(self) -> Compiled:
        """Return TRUE or FALSE."""
        left, right = self.left.compile(), self.right.compile()
        compared = self._compared(left.value, right.value)
        for side, operand in ((self.left, left.value), (self.right, right.value)):
            if side.type == DOUBLE and not isinstance(side, Literal):
                compared &= operand.is_not_nan().fill_null(True)  # every comparison with NaN is FALSE, as in Java
        value = compared if self.operator == "IS DISTINCT FROM" else compared.fill_null(False)
        return Compiled(value, _hidden(left.failures + right.failures))

    def _compared(self, left: pl.Expr, right: pl.Expr) -> pl.Expr:
        types, compare = (self.left.type, self.right.type), _COMPARE[self.operator]
        decimals = types[0] != types[1] and DOUBLE not in types and any(isinstance(one, DecimalType) for one in types)
        if not decimals or common_decimal(types).precision <= MOST_DIGITS:
            return compare(*self._aligned(left, right))
        # No type of Polars holds both sides, but Python compares them.
        order = by_row(
            {"left": left, "right": right},
            lambda row: None if None in row.values() else (row["left"] > row["right"]) - (row["left"] < row["right"]),
            pl.Int8(),
        )
        both = left.is_not_null() & right.is_not_null()
        if self.operator == "IS DISTINCT FROM":
            return pl.when(both).then(order != 0).otherwise(left.is_null() != right.is_null())
        return compare(order, pl.lit(0, dtype=pl.Int8))

    def _aligned(self, left: pl.Expr, right: pl.Expr) -> tuple[pl.Expr, pl.Expr]:
        types = self.left.type, self.right.type
        if _has_maps(types[0]):
            return _with_maps_in_order(left, types[0]), _with_maps_in_order(right, types[1])
        if types[0] != types[1] and DOUBLE in types:
            return left.cast(pl.Float64), right.cast(pl.Float64)
        if types[0] != types[1] and any(isinstance(one, DecimalType) for one in types):
            kind = common_decimal(types)
            return left.cast(kind.polars, strict=False), right.cast(kind.polars, strict=False)
        if self.operator in _ORDERED:
            return in_java_order(left, types[0]), in_java_order(right, types[1])
        return left, right


@dataclass(frozen=True)
class Logical(TypedExpression):
    """x AND y, x OR y."""

    operator: str
    left: TypedExpression
    right: TypedExpression

    @property
    def children(self) -> tuple[TypedExpression, ...]:
        """Both sides."""
        return self.left, self.right

    @property
    def never_null(self) -> bool:
        """A NULL operand is an error, as in Java."""
        return True

    def compile(self) -> Compiled:
        """Return TRUE or FALSE; the right side only counts where the left doesn't decide."""
        left, right = self.left.compile(), self.right.compile()
        needed = left.value if self.operator == "AND" else ~left.value
        failures = left.failures + _null_operands((self.left, left.value))
        right_failures = right.failures + _null_operands((self.right, right.value))
        value = left.value & right.value if self.operator == "AND" else left.value | right.value
        return Compiled(value, _hidden(failures) + _hidden(_where(right_failures, needed)))


@dataclass(frozen=True)
class Not(TypedExpression):
    """NOT x."""

    operand: TypedExpression

    @property
    def children(self) -> tuple[TypedExpression, ...]:
        """The operand."""
        return (self.operand,)

    @property
    def never_null(self) -> bool:
        """A NULL operand is an error."""
        return self.operand.never_null

    def compile(self) -> Compiled:
        """Return the opposite."""
        operand = self.operand.compile()
        return Compiled(~operand.value, operand.failures + _null_operands((self.operand, operand.value)))


@dataclass(frozen=True)
class IsNull(TypedExpression):
    """x IS NULL, x IS NOT NULL."""

    operand: TypedExpression
    negated: bool = False

    @property
    def children(self) -> tuple[TypedExpression, ...]:
        """The operand."""
        return (self.operand,)

    @property
    def never_null(self) -> bool:
        """TRUE or FALSE."""
        return True

    def compile(self) -> Compiled:
        """Return whether the value is NULL."""
        operand = self.operand.compile()
        value = operand.value.is_not_null() if self.negated else operand.value.is_null()
        return Compiled(value, _hidden(operand.failures))


@dataclass(frozen=True)
class InList(TypedExpression):
    """x IN (a, b); all of one type."""

    value: TypedExpression
    items: tuple[TypedExpression, ...]

    @property
    def children(self) -> tuple[TypedExpression, ...]:
        """The value, then the list."""
        return self.value, *self.items

    @property
    def never_null(self) -> bool:
        """NULL is in no list."""
        return True

    def compile(self) -> Compiled:
        """Return whether the value equals an item."""
        value, items = self.value.compile(), [item.compile() for item in self.items]
        kind = self.value.type
        literals = [item.value for item in self.items if isinstance(item, Literal)]
        if len(literals) == len(items) and any(isinstance(one, Column | LambdaVariable) for one in walk(self.value)):
            known = pl.Series([one for one in literals if one is not None], dtype=kind.polars)
            found = value.value.is_in(known.implode())
        else:
            sought = _with_maps_in_order(value.value, kind)
            given = [
                part.value
                for item, part in zip(self.items, items, strict=True)
                if getattr(item, "value", 0) is not None
            ]
            found = _any([pl.lit(False), *(sought == _with_maps_in_order(one, kind) for one in given)])
        failures = value.failures + tuple(failure for item in items for failure in item.failures)
        return Compiled(found.fill_null(False), _hidden(failures))


_ANY_CHARACTER = r"[^\n\r\x{85}\x{2028}\x{2029}]"  # what a dot means to Java


def like_pattern(pattern: str, escape: str | None) -> str | None:
    """Return the regular expression of a LIKE pattern (``%`` text of one line, ``_`` one character), None where it is wrong."""
    parts, escaped = [], False
    for character in pattern:
        if not escaped and character == escape:
            escaped = True
            continue
        wild = {"%": f"{_ANY_CHARACTER}*", "_": _ANY_CHARACTER}.get(character) if not escaped else None
        parts.append(wild or _regex_escape(character))
        escaped = False
    return None if escaped else f"^{''.join(parts)}$"


def _regex_escape(character: str) -> str:
    return (
        character
        if character.isalnum() or character in "_ "
        else f"\\{character}"
        if ord(character) < 128
        else character
    )


@dataclass(frozen=True)
class Like(TypedExpression):
    """x LIKE pattern ESCAPE character."""

    value: TypedExpression
    pattern: TypedExpression
    escape: str | None = None

    @property
    def children(self) -> tuple[TypedExpression, ...]:
        """The value and the pattern."""
        return self.value, self.pattern

    @property
    def never_null(self) -> bool:
        """A NULL operand is an error, as in Java."""
        return True

    def compile(self) -> Compiled:
        """Return whether the text matches."""
        value, pattern = self.value.compile(), self.pattern.compile()
        if isinstance(self.pattern, Literal) and self.pattern.value is not None:
            regex = pl.lit(like_pattern(self.pattern.value, self.escape), dtype=pl.String)
        else:
            regex = by_row(
                {"pattern": pattern.value},
                lambda row: None if row["pattern"] is None else like_pattern(row["pattern"], self.escape),
                pl.String(),
            )
        matched = value.value.str.contains(regex, strict=False)
        failures = value.failures + pattern.failures
        failures += _null_operands((self.value, value.value), (self.pattern, pattern.value))
        wrong = matched.is_null() & value.value.is_not_null() & pattern.value.is_not_null()
        if self.escape is not None:
            failures += (Failure(wrong & regex.is_null(), "LIKE pattern must not end with escape character"),)
        if regex.meta.root_names():
            failures += (Failure(wrong & regex.is_not_null(), "LIKE pattern is too long"),)
        return Compiled(matched.fill_null(False), _hidden(failures))


@dataclass(frozen=True)
class Case(TypedExpression):
    """CASE WHEN condition THEN result … ELSE default END."""

    whens: tuple[tuple[TypedExpression, TypedExpression], ...]
    default: TypedExpression | None

    @property
    def children(self) -> tuple[TypedExpression, ...]:
        """Conditions and results in order, then the default."""
        parts = tuple(part for when in self.whens for part in when)
        return (*parts, self.default) if self.default else parts

    def compile(self) -> Compiled:
        """Return the first result whose condition is TRUE; later parts are not evaluated."""
        before = pl.lit(False)
        failures: tuple[Failure, ...] = ()
        branches: list[tuple[pl.Expr, pl.Expr]] = []
        for condition, result in self.whens:
            tested, chosen = condition.compile(), result.compile()
            untrue = tested.failures + _null_operands((condition, tested.value))
            failures += _hidden(_where(untrue, ~before))
            taken = tested.value.fill_null(False) & ~before
            failures += _where(chosen.failures, taken)
            branches.append((tested.value, chosen.value.cast(self.type.polars)))
            before = before | tested.value.fill_null(False)
        last = self.default.compile() if self.default else Compiled(pl.lit(None, dtype=self.type.polars))
        failures += _where(last.failures, ~before)
        chain: Any = pl
        for condition_value, result_value in branches:
            chain = chain.when(condition_value).then(result_value)
        return Compiled(chain.otherwise(last.value.cast(self.type.polars)), failures)


# ---------------------------------------------------------------------------------------------------- CAST
@dataclass(frozen=True)
class Cast(TypedExpression):
    """CAST(x AS type), and the implicit widenings INTEGER → BIGINT → DECIMAL → DOUBLE.

    Attributes:
        operand: what is converted.
        contains_failures: what fails inside gives NULL to what surrounds it; false where text is compared with a time.
    """

    operand: TypedExpression
    contains_failures: bool = True

    @property
    def children(self) -> tuple[TypedExpression, ...]:
        """The operand."""
        return (self.operand,)

    @property
    def never_null(self) -> bool:
        """Widening a number that isn't NULL gives none."""
        return self.operand.never_null and self.operand.type in (INTEGER, BIGINT) and self.type in (BIGINT, DOUBLE)

    def compile(self) -> Compiled:
        """Return the converted value; NULL, logged, where there is none."""
        operand = self.operand.compile()
        source = self.operand.type
        value = once(((self.operand, operand.value),), lambda given: converted(given, source, self.type), self.type)
        failures = operand.failures
        if not never_fails(source, self.type):
            failed = lost(operand.value, source, self.type)
            if isinstance(source, ArrayType | MapType | StructType):  # what fails for a part fails
                value = pl.when(failed).then(None).otherwise(value)
            failures += (Failure(failed, f"Cast of {source} to {self.type} failed"),)
        return _contained(Compiled(value, failures)) if self.contains_failures else Compiled(value, failures)


# ---------------------------------------------------------------------------------------------------- structured values
@dataclass(frozen=True)
class Field(TypedExpression):
    """x->field."""

    base: TypedExpression
    name: str

    @property
    def children(self) -> tuple[TypedExpression, ...]:
        """The struct."""
        return (self.base,)

    def compile(self) -> Compiled:
        """Return the field; NULL of a NULL struct."""
        base = self.base.compile()
        return Compiled(base.value.struct.field(self.name), base.failures)


@dataclass(frozen=True)
class ArrayIndex(TypedExpression):
    """x[i] on an ARRAY: from 1, or from the end when negative; NULL outside."""

    base: TypedExpression
    index: TypedExpression

    @property
    def children(self) -> tuple[TypedExpression, ...]:
        """Array and index."""
        return self.base, self.index

    def compile(self) -> Compiled:
        """Return the element."""
        base, index = self.base.compile(), self.index.compile()
        failures, lists = base.failures + index.failures, base.value
        if isinstance(self.index, Literal) and self.index.value is not None:
            fixed = self.index.value
            position = pl.lit(fixed - 1 if fixed > 0 else fixed if fixed < 0 else None, dtype=pl.Int64)
        else:
            lists, given = pl.when(index.value.is_not_null()).then(lists), index.value.cast(pl.Int64)
            length = lists.list.len()
            forward = pl.when(given.is_between(1, length)).then(given - 1)
            position = pl.coalesce(forward, pl.when(given.is_between(-length.cast(pl.Int64), -1)).then(given))
            failures += (Failure(index.value.is_null() & base.value.is_not_null()),)
        return Compiled(lists.list.get(position, null_on_oob=True), failures)


@dataclass(frozen=True)
class MapIndex(TypedExpression):
    """x[key] on a MAP; NULL where the key is missing."""

    base: TypedExpression
    key: TypedExpression

    @property
    def children(self) -> tuple[TypedExpression, ...]:
        """Map and key."""
        return self.base, self.key

    def compile(self) -> Compiled:
        """Return the key's value."""
        base, key = self.base.compile(), self.key.compile()
        keys = base.value.list.eval(pl.element().struct.field(KEY_FIELD))
        values = base.value.list.eval(pl.element().struct.field(VALUE_FIELD))
        if isinstance(self.key, Literal):
            wanted = pl.lit(self.key.value, dtype=self.key.type.polars)
            hit = base.value.list.eval(pl.element().struct.field(KEY_FIELD).eq(wanted).arg_true()).list.first()
            return Compiled(values.list.get(hit, null_on_oob=True), base.failures + key.failures)
        typed = cast(MapType, self.base.type)

        def look_up(row: dict[str, Any]) -> Any:
            found = dict(zip(row["keys"] or (), row["values"] or (), strict=True))
            return found.get(row["key"])

        # A key that differs by row has no columnar form in Polars' lists.
        columns = {"keys": keys, "values": values, "key": key.value}
        value = by_row(columns, look_up, typed.value.polars)
        return Compiled(value, base.failures + key.failures)


def _all_failures(parts: list[Compiled]) -> tuple[Failure, ...]:
    return tuple(failure for part in parts for failure in part.failures)


@dataclass(frozen=True)
class NewArray(TypedExpression):
    """ARRAY[a, b]; all items have the element's type."""

    items: tuple[TypedExpression, ...]

    @property
    def children(self) -> tuple[TypedExpression, ...]:
        """The items."""
        return self.items

    def compile(self) -> Compiled:
        """Return the array."""
        parts = [_contained(item.compile()) for item in self.items]
        element = cast(ArrayType, self.type).element.polars
        items = [part.value.cast(element) for part in parts]
        if not isinstance(element, pl.List):
            return Compiled(pl.concat_list(items), _all_failures(parts))
        # concat_list joins lists instead of nesting them; in a struct they stay apart.
        wrapped = pl.concat_list([pl.struct(item.alias(VALUE_FIELD)) for item in items])
        value = wrapped.list.eval(pl.element().struct.field(VALUE_FIELD))
        return Compiled(value, _all_failures(parts))


@dataclass(frozen=True)
class NewMap(TypedExpression):
    """MAP(key := value); a later entry replaces an earlier one of the same key."""

    entries: tuple[tuple[TypedExpression, TypedExpression], ...]

    @property
    def children(self) -> tuple[TypedExpression, ...]:
        """Keys and values in turn."""
        return tuple(part for entry in self.entries for part in entry)

    def compile(self) -> Compiled:
        """Return the map."""
        typed = cast(MapType, self.type)
        compiled = [(_contained(key.compile()), _contained(value.compile())) for key, value in self.entries]
        structs = [
            pl.struct(
                key.value.cast(typed.key.polars).alias(KEY_FIELD),
                value.value.cast(typed.value.polars).alias(VALUE_FIELD),
            )
            for key, value in compiled
        ]
        value = pl.concat_list(structs)
        if len(structs) > 1:
            first = pl.element().struct.field(KEY_FIELD).is_last_distinct()
            value = value.list.eval(pl.element().filter(first))
        return Compiled(value, _all_failures([part for entry in compiled for part in entry]))


@dataclass(frozen=True)
class NewStruct(TypedExpression):
    """STRUCT(a := x)."""

    items: tuple[tuple[str, TypedExpression], ...]

    @property
    def children(self) -> tuple[TypedExpression, ...]:
        """The fields' values."""
        return tuple(value for _, value in self.items)

    def compile(self) -> Compiled:
        """Return the struct."""
        if not self.items:  # pl.struct needs a field
            return Compiled(pl.lit(pl.Series([{}], dtype=self.type.polars)).first())
        parts = [(name, _contained(item.compile()), item.type) for name, item in self.items]
        value = pl.struct([part.value.cast(type_.polars).alias(name) for name, part, type_ in parts])
        return Compiled(value, _all_failures([part for _, part, _ in parts]))


# ---------------------------------------------------------------------------------------------------- functions
@dataclass(frozen=True)
class Lambda(TypedExpression):
    """x => body, an argument of TRANSFORM, FILTER or REDUCE; its type is the body's."""

    parameters: tuple[LambdaVariable, ...]
    body: TypedExpression

    @property
    def children(self) -> tuple[TypedExpression, ...]:
        """The body."""
        return (self.body,)

    def compile(self) -> Compiled:
        """Return the body's value over a frame that holds the parameters' columns."""
        return Compiled(self.body.to_polars())


@dataclass(frozen=True)
class Call(TypedExpression):
    """A scalar function's call; arguments already have the overload's types.

    What fails in an argument that is a function or a field itself is NULL to this function, what fails in another one fails the
    whole expression.
    """

    name: str
    arguments: tuple[TypedExpression, ...]
    overload: Overload = field(compare=False, repr=False)

    @property
    def children(self) -> tuple[TypedExpression, ...]:
        """The arguments."""
        return self.arguments

    def compile(self) -> Compiled:
        """Return the function's value; where the function itself fails, so does what surrounds it."""
        compiled = [(argument, argument.compile()) for argument in self.arguments]
        parts = [_contained(part) if isinstance(argument, Call | Field) else part for argument, part in compiled]
        values = [part.value for part in parts]
        operands = tuple(zip(self.arguments, values, strict=True))
        value = once(operands, lambda *given: self.overload.build(self, list(given)), self.type)
        failures = tuple(
            failure
            for argument, part in zip(self.arguments, parts, strict=True)
            if not isinstance(argument, Lambda)
            for failure in part.failures
        )
        if not self.overload.null_gives_null:
            failures = _hidden(failures)
        fails = self.overload.failed
        if fails is not None:
            failed = once(operands, lambda *given: fails(self, list(given)), BOOLEAN)
            failures += (Failure(failed, f"Failed to invoke function {self.name}"),)
        elif self.overload.may_fail:
            given = [
                one.is_not_null()
                for argument, one in zip(self.arguments, values, strict=True)
                if not isinstance(argument, Lambda | Literal)
            ]
            failed = reduce(lambda left, right: left & right, given, value.is_null())
            failures += (Failure(failed, f"Failed to invoke function {self.name}"),)
        return Compiled(value, failures)
