"""Comparisons, AND, OR, NOT, IS NULL, IN, LIKE and CASE."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, cast

import polars as pl

from ksqlengine.expressions.base import (
    ColumnExpression,
    Compiled,
    Failure,
    LambdaVariable,
    Literal,
    TypedExpression,
    any_of,
    hidden,
    null_operands,
    only_where,
    walk,
)
from ksqlengine.types.casts import KEY_FIELD, VALUE_FIELD, by_row, in_java_order
from ksqlengine.types.sqltypes import (
    DOUBLE,
    MOST_DIGITS,
    ArrayType,
    DecimalType,
    MapType,
    SqlType,
    StructType,
    common_decimal,
)

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
        return Compiled(value, hidden(left.failures + right.failures))

    def _compared(self, left: pl.Expr, right: pl.Expr) -> pl.Expr:
        types, compare = (self.left.type, self.right.type), _COMPARE[self.operator]
        decimals = (
            types[0] != types[1] and DOUBLE not in types and any(isinstance(type_, DecimalType) for type_ in types)
        )
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
        if types[0] != types[1] and any(isinstance(type_, DecimalType) for type_ in types):
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
        failures = left.failures + null_operands((self.left, left.value))
        right_failures = right.failures + null_operands((self.right, right.value))
        value = left.value & right.value if self.operator == "AND" else left.value | right.value
        return Compiled(value, hidden(failures) + hidden(only_where(right_failures, needed)))


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
        return Compiled(~operand.value, operand.failures + null_operands((self.operand, operand.value)))


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
        return Compiled(value, hidden(operand.failures))


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
        if len(literals) == len(items) and any(
            isinstance(node, ColumnExpression | LambdaVariable) for node in walk(self.value)
        ):
            known = pl.Series([literal for literal in literals if literal is not None], dtype=kind.polars)
            found = value.value.is_in(known.implode())
        else:
            sought = _with_maps_in_order(value.value, kind)
            given = [
                part.value
                for item, part in zip(self.items, items, strict=True)
                if getattr(item, "value", 0) is not None
            ]
            found = any_of([pl.lit(False), *(sought == _with_maps_in_order(item, kind) for item in given)])
        failures = value.failures + tuple(failure for item in items for failure in item.failures)
        return Compiled(found.fill_null(False), hidden(failures))


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
        failures += null_operands((self.value, value.value), (self.pattern, pattern.value))
        wrong = matched.is_null() & value.value.is_not_null() & pattern.value.is_not_null()
        if self.escape is not None:
            failures += (Failure(wrong & regex.is_null(), "LIKE pattern must not end with escape character"),)
        if regex.meta.root_names():
            failures += (Failure(wrong & regex.is_not_null(), "LIKE pattern is too long"),)
        return Compiled(matched.fill_null(False), hidden(failures))


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
            untrue = tested.failures + null_operands((condition, tested.value))
            failures += hidden(only_where(untrue, ~before))
            taken = tested.value.fill_null(False) & ~before
            failures += only_where(chosen.failures, taken)
            branches.append((tested.value, chosen.value.cast(self.type.polars)))
            before = before | tested.value.fill_null(False)
        last = self.default.compile() if self.default else Compiled(pl.lit(None, dtype=self.type.polars))
        failures += only_where(last.failures, ~before)
        chain: Any = pl
        for condition_value, result_value in branches:
            chain = chain.when(condition_value).then(result_value)
        return Compiled(chain.otherwise(last.value.cast(self.type.polars)), failures)
