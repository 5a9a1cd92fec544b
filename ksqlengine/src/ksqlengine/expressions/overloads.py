"""The registry of scalar functions: names, signatures, and how each builds its Polars expression.

A family module calls `register` for each function. Types in signatures are SqlTypes, `Generic` parameters (``T``), arrays and
maps of them, `ANY_DECIMAL`, `INTERVAL` (a unit of time) and `LambdaType`.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

import polars as pl

from ksqlengine.expressions.base import TypedExpression
from ksqlengine.types.casts import by_row
from ksqlengine.types.errors import StatementError
from ksqlengine.types.sqltypes import (
    BIGINT,
    DATE,
    INTEGER,
    NULL,
    STRING,
    TIME,
    TIMESTAMP,
    ArrayType,
    DecimalType,
    MapType,
    SqlType,
    StructType,
    as_decimal,
)


class TypedCall(Protocol):
    """What an overload knows of a call of it."""

    @property
    def name(self) -> str:
        """The function's name."""

    @property
    def arguments(self) -> tuple[TypedExpression, ...]:
        """The arguments, in the overload's types."""

    @property
    def type(self) -> SqlType:
        """The result's type."""


@dataclass(frozen=True)
class Generic(SqlType):
    """A type parameter: the same type wherever it stands in a signature."""


@dataclass(frozen=True)
class LambdaType(SqlType):
    """A lambda's parameters and result."""

    name: str = "LAMBDA"
    parameters: tuple[SqlType, ...] = ()
    result: SqlType = NULL


T, U, K, V, W = (Generic(name) for name in "TUKVW")
ANY_DECIMAL = SqlType("ANY_DECIMAL")
ANY_STRUCT = SqlType("ANY_STRUCT")
INTERVAL = SqlType("INTERVAL")

Returns = SqlType | Callable[[Sequence[SqlType]], SqlType]
Build = Callable[[TypedCall, list[pl.Expr]], pl.Expr]


@dataclass(frozen=True)
class Overload:
    """One signature of a function.

    Attributes:
        parameters: their types; the last one repeats when `variadic`.
        returns: the result's type, or how it follows from the arguments' types.
        build: the expression, from the call and the arguments' values.
        variadic: whether the last parameter may come any number of times (none too).
        null_gives_null: whether a NULL argument always gives NULL.
        may_fail: whether NULL for arguments that aren't NULL means that the function failed, which is logged.
        failed: where the function failed, from the call and the arguments' values, if NULL can be right too.
        check: looks at a typed call and raises StatementError where it can't be right (a wrong pattern, for example).
    """

    parameters: tuple[SqlType, ...]
    returns: Returns
    build: Build = field(compare=False)
    variadic: bool = False
    null_gives_null: bool = True
    may_fail: bool = False
    failed: Build | None = field(default=None, compare=False)
    check: Callable[[TypedCall], None] | None = field(default=None, compare=False)

    def parameter(self, index: int) -> SqlType:
        """Return the type of the parameter at a position."""
        return self.parameters[min(index, len(self.parameters) - 1)]

    def __str__(self) -> str:
        """Return the parameters as messages list them."""
        shown = [str(parameter) for parameter in self.parameters]
        if self.variadic:
            shown[-1] += "..."
        return ", ".join(shown)


@dataclass
class Function:
    """A function with its overloads."""

    name: str
    category: str
    description: str
    overloads: list[Overload] = field(default_factory=list)


FUNCTIONS: dict[str, Function] = {}


def register(
    name: str,
    category: str,
    description: str,
    parameters: Sequence[SqlType],
    returns: Returns,
    build: Callable[..., pl.Expr],
    *,
    variadic: bool = False,
    null_gives_null: bool = True,
    may_fail: bool = False,
    failed: Build | None = None,
    with_call: bool = False,
    check: Callable[[TypedCall], None] | None = None,
    into: dict[str, Function] = FUNCTIONS,
) -> None:
    """Add an overload.

    Args:
        name: the function's name, upper case.
        category: its family.
        description: one line for DESCRIBE FUNCTION.
        parameters: types of the parameters.
        returns: the result's type.
        build: gives the expression; takes the arguments' values (after the call itself `with_call`).
        variadic: the last parameter may come any number of times.
        null_gives_null: a NULL argument always gives NULL.
        may_fail: NULL for arguments that aren't NULL is a failure, which is logged.
        failed: gives where the function fails, where NULL can be right too; takes the call and the arguments' values.
        with_call: `build` needs the typed call (its types or constants).
        check: looks at a typed call and raises where it can't be right.
        into: the functions it belongs to.
    """
    function = into.setdefault(name, Function(name, category, description))
    built: Build = build if with_call else lambda call, values: build(*values)
    overload = Overload(tuple(parameters), returns, built, variadic, null_gives_null, may_fail, failed, check)
    function.overloads.append(overload)


def row_by_row(
    name: str,
    category: str,
    description: str,
    parameters: Sequence[SqlType],
    returns: SqlType,
    function: Callable[..., Any],
    *,
    variadic: bool = False,
    null_gives_null: bool = True,
    may_fail: bool = False,
    check: Callable[[TypedCall], None] | None = None,
    into: dict[str, Function] = FUNCTIONS,
) -> None:
    """Add an overload that a Python function computes a row at a time: for what Polars has no columnar form.

    The function takes Python values and gives one; what it raises becomes NULL, and a failure if it `may_fail`. With
    `null_gives_null` it isn't called where an argument is NULL.
    """

    def outcome(row: Mapping[str, Any]) -> tuple[Any, bool]:
        arguments = list(row.values())
        if null_gives_null and any(argument is None for argument in arguments):
            return None, False
        try:
            return function(*arguments), False
        except Exception:
            return None, True

    def build(call: TypedCall, values: list[pl.Expr]) -> pl.Expr:
        return by_row(_numbered(values), lambda row: outcome(row)[0], call.type.polars)

    def failed(_: TypedCall, values: list[pl.Expr]) -> pl.Expr:
        return by_row(_numbered(values), lambda row: outcome(row)[1], pl.Boolean())

    register(
        name, category, description, parameters, returns, build, variadic=variadic, null_gives_null=null_gives_null,
        may_fail=may_fail, failed=failed if may_fail else None, with_call=True, check=check, into=into,
    )  # fmt: skip


def _numbered(values: list[pl.Expr]) -> dict[str, pl.Expr]:
    return {f"argument_{index}": value for index, value in enumerate(values)}


@dataclass(frozen=True)
class Resolved:
    """The overload for a call's types, what its arguments convert to, and the result's type."""

    overload: Overload
    targets: tuple[SqlType, ...]
    returns: SqlType


def resolve(function: Function, types: Sequence[SqlType]) -> Resolved:
    """Return the overload for a call: without conversions if one fits, else with implicit ones.

    Of several that fit, the best has no variable arguments, then more parameters, then fewer generic ones. Source: ksqlDB's
    ``UdfIndex``.

    Raises:
        StatementError: no overload takes these types, or several fit as well.
    """
    for casts in (False, True):
        found = [
            (overload, bindings) for overload in function.overloads for bindings in _matches(overload, types, casts)
        ]
        if not found:
            continue
        best = max(_rank(overload) for overload, _ in found)
        chosen = [(overload, bindings) for overload, bindings in found if _rank(overload) == best]
        if len(chosen) > 1:
            raise StatementError(_ambiguous(function, types))
        overload, bindings = chosen[0]
        targets = tuple(substituted(overload.parameter(index), bindings, type_) for index, type_ in enumerate(types))
        returns = overload.returns
        result = returns(targets) if callable(returns) else substituted(returns, bindings, returns)
        return Resolved(overload, targets, result)
    raise StatementError(_no_match(function, types))


def _rank(overload: Overload) -> tuple[bool, int, int]:
    return not overload.variadic, len(overload.parameters), -sum(map(_is_generic, overload.parameters))


def _is_generic(parameter: SqlType) -> bool:
    if isinstance(parameter, ArrayType):
        return _is_generic(parameter.element)
    if isinstance(parameter, MapType):
        return _is_generic(parameter.key) or _is_generic(parameter.value)
    if isinstance(parameter, LambdaType):
        return any(map(_is_generic, (*parameter.parameters, parameter.result)))
    return isinstance(parameter, Generic)


def _shown(types: Sequence[SqlType]) -> str:
    return ", ".join("null" if type_ == NULL else str(type_) for type_ in types)


def _options(function: Function) -> str:
    signatures = "\n".join(f"{function.name}({overload})" for overload in function.overloads)
    return f"{signatures}\nFor detailed information on a function run: DESCRIBE FUNCTION <Function-Name>;"


def _ambiguous(function: Function, types: Sequence[SqlType]) -> str:
    return (
        f"Function '{function.name}' cannot be resolved due to ambiguous method parameters ({_shown(types)}).\n"
        "Use CAST() to explicitly cast your parameters to one of the supported function calls.\n"
        f"Valid function calls are:\n{_options(function)}"
    )


def _no_match(function: Function, types: Sequence[SqlType]) -> str:
    return (
        f"Function '{function.name}' does not accept parameters ({_shown(types)}).\n"
        f"Valid alternatives are:\n{_options(function)}"
    )


def _matches(overload: Overload, types: Sequence[SqlType], casts: bool) -> list[dict[str, SqlType]]:
    """Return what generics stand for, in a list that is empty where the types don't fit."""
    count = len(overload.parameters)
    if len(types) != count and not (overload.variadic and len(types) >= count - 1):
        return []
    bindings: dict[str, SqlType] = {}
    fits = all(fit(overload.parameter(index), type_, bindings, casts) for index, type_ in enumerate(types))
    return [bindings] if fits else []


_NUMERIC_ORDER = {"INTEGER": 0, "BIGINT": 1, "DECIMAL": 2, "DOUBLE": 3}


def fit(parameter: SqlType, type_: SqlType, bindings: dict[str, SqlType], casts: bool = True) -> bool:  # noqa: PLR0911 - one case a kind
    """Return whether a type fits a parameter; generics are bound on the way.

    Args:
        parameter: of the signature.
        type_: of the argument.
        bindings: what generics stand for; added to.
        casts: whether an implicit conversion will do (of numbers to wider ones, and of text to times).
    """
    if isinstance(parameter, Generic):
        return _fit_generic(parameter, type_, bindings)
    if type_ in (NULL, parameter):
        return True
    if isinstance(parameter, LambdaType):
        return _fit_lambda(parameter, type_, bindings)
    if parameter == ANY_DECIMAL:
        return isinstance(type_, DecimalType) or (casts and type_ in (INTEGER, BIGINT))
    if parameter == ANY_STRUCT:
        return isinstance(type_, StructType)
    if isinstance(parameter, ArrayType) and isinstance(type_, ArrayType):
        return fit(parameter.element, type_.element, bindings, casts)
    if isinstance(parameter, MapType) and isinstance(type_, MapType):
        key = fit(parameter.key, type_.key, bindings, casts)
        return key and fit(parameter.value, type_.value, bindings, casts)
    return casts and (
        widening(type_, parameter) is not None or (type_ == STRING and parameter in (DATE, TIME, TIMESTAMP))
    )


def widening(source: SqlType, target: SqlType) -> int | None:
    """Return how many steps of INTEGER → BIGINT → DECIMAL → DOUBLE lead from one type to another, None where none do."""
    first, last = _NUMERIC_ORDER.get(source.name), _NUMERIC_ORDER.get(target.name)
    return last - first if first is not None and last is not None and last > first else None


def _fit_generic(parameter: Generic, type_: SqlType, bindings: dict[str, SqlType]) -> bool:
    if isinstance(type_, LambdaType) or type_ == INTERVAL:
        return False
    return type_ == NULL or bindings.setdefault(parameter.name, type_) == type_


def _fit_lambda(parameter: LambdaType, type_: SqlType, bindings: dict[str, SqlType]) -> bool:
    if not isinstance(type_, LambdaType) or len(type_.parameters) != len(parameter.parameters):
        return False
    # A lambda that isn't typed yet gets its parameters' types from the other arguments.
    return type_.result == NULL or fit(parameter.result, type_.result, bindings, casts=False)


def substituted(type_: SqlType, bindings: Mapping[str, SqlType], actual: Any) -> SqlType:
    """Return a signature's type with its generics replaced."""
    if isinstance(type_, Generic):
        return bindings.get(type_.name, NULL)
    if type_ in (ANY_DECIMAL, ANY_STRUCT):
        return as_decimal(actual) if type_ == ANY_DECIMAL else actual
    if isinstance(type_, ArrayType):
        return ArrayType(element=substituted(type_.element, bindings, actual))
    if isinstance(type_, MapType):
        return MapType(key=substituted(type_.key, bindings, actual), value=substituted(type_.value, bindings, actual))
    if isinstance(type_, LambdaType):
        parameters = tuple(substituted(parameter, bindings, actual) for parameter in type_.parameters)
        return LambdaType(parameters=parameters, result=substituted(type_.result, bindings, actual))
    return type_
