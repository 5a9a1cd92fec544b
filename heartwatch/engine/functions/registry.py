"""The registry of scalar functions: names, signatures, and how each builds its Polars expression.

A family module calls `register` for each function. Types in signatures are SqlTypes, `Generic` parameters (``T``), arrays and
maps of them, `ANY_DECIMAL`, `INTERVAL` (a unit of time) and `LambdaType`.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import polars as pl

from heartwatch.engine.casts import by_row
from heartwatch.engine.errors import StatementError
from heartwatch.engine.types import (
    BIGINT,
    DOUBLE,
    INTEGER,
    NULL,
    ArrayType,
    DecimalType,
    MapType,
    SqlType,
    StructType,
)

if TYPE_CHECKING:
    from heartwatch.engine.expressions import Call


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
Build = Callable[["Call", list[pl.Expr]], pl.Expr]


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
        check: looks at a typed call and raises StatementError where it can't be right (a wrong pattern, for example).
    """

    parameters: tuple[SqlType, ...]
    returns: Returns
    build: Build = field(compare=False)
    variadic: bool = False
    null_gives_null: bool = True
    may_fail: bool = False
    check: Callable[[Call], None] | None = field(default=None, compare=False)

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
    with_call: bool = False,
    check: Callable[[Call], None] | None = None,
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
        with_call: `build` needs the typed call (its types or constants).
        check: looks at a typed call and raises where it can't be right.
        into: the functions it belongs to.
    """
    function = into.setdefault(name, Function(name, category, description))
    built: Build = build if with_call else lambda call, values: build(*values)
    function.overloads.append(Overload(tuple(parameters), returns, built, variadic, null_gives_null, may_fail, check))


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
    into: dict[str, Function] = FUNCTIONS,
) -> None:
    """Add an overload that a Python function computes a row at a time: for what Polars has no columnar form.

    The function takes Python values and gives one; what it raises becomes NULL. With `null_gives_null` it isn't called where an
    argument is NULL.
    """

    def compute(row: Mapping[str, Any]) -> Any:
        arguments = list(row.values())
        if null_gives_null and any(argument is None for argument in arguments):
            return None
        try:
            return function(*arguments)
        except Exception:
            return None

    def build(call: Call, values: list[pl.Expr]) -> pl.Expr:
        return by_row({f"argument_{index}": value for index, value in enumerate(values)}, compute, call.type.polars)

    register(
        name, category, description, parameters, returns, build, variadic=variadic, null_gives_null=null_gives_null,
        may_fail=may_fail, with_call=True, into=into,
    )  # fmt: skip


@dataclass(frozen=True)
class Resolved:
    """The overload for a call's types, what its arguments convert to, and the result's type."""

    overload: Overload
    targets: tuple[SqlType, ...]
    returns: SqlType


def resolve(function: Function, types: Sequence[SqlType]) -> Resolved:
    """Return the overload that fits best: exact types first, then fixed before variadic and generic, then widened numbers.

    Raises:
        StatementError: no overload takes these types.
    """
    candidates = []
    for order, overload in enumerate(function.overloads):
        matched = _match(overload, types)
        if matched is not None:
            candidates.append((matched[0], overload.variadic, order, overload, matched[1]))
    if not candidates:
        raise StatementError(_no_match(function, types))
    _, _, _, overload, bindings = min(candidates, key=lambda one: one[:3])
    targets = tuple(substituted(overload.parameter(index), bindings, type_) for index, type_ in enumerate(types))
    returns = overload.returns
    result = returns(targets) if callable(returns) else substituted(returns, bindings, returns)
    return Resolved(overload, targets, result)


def _no_match(function: Function, types: Sequence[SqlType]) -> str:
    shown = ", ".join("null" if type_ == NULL else str(type_) for type_ in types)
    options = "\n".join(f"{function.name}({overload})" for overload in function.overloads)
    return (
        f"Function '{function.name}' does not accept parameters ({shown}).\nValid alternatives are:\n{options}\n"
        f"For detailed information on a function run: DESCRIBE FUNCTION <Function-Name>;"
    )


def _match(overload: Overload, types: Sequence[SqlType]) -> tuple[int, dict[str, SqlType]] | None:
    """Return (how far the types are from the parameters, what generics stand for), None where they don't fit."""
    count = len(overload.parameters)
    if len(types) != count and not (overload.variadic and len(types) >= count - 1):
        return None
    bindings: dict[str, SqlType] = {}
    distance = 0
    for index, type_ in enumerate(types):
        step = fit(overload.parameter(index), type_, bindings)
        if step is None:
            return None
        distance += step
    return distance, bindings


_NUMERIC_ORDER = {"INTEGER": 0, "BIGINT": 1, "DECIMAL": 2, "DOUBLE": 3}


def fit(parameter: SqlType, type_: SqlType, bindings: dict[str, SqlType]) -> int | None:  # noqa: PLR0911 - one case a kind
    """Return how far a type is from a parameter, None where it doesn't fit; generics are bound on the way."""
    if isinstance(parameter, Generic):
        return _fit_generic(parameter, type_, bindings)
    if type_ in (NULL, parameter):
        return 0
    if isinstance(parameter, LambdaType):
        return _fit_lambda(parameter, type_, bindings)
    if parameter == ANY_DECIMAL:
        return 0 if isinstance(type_, DecimalType) else 2 if type_ in (INTEGER, BIGINT) else None
    if parameter == ANY_STRUCT:
        return 1 if isinstance(type_, StructType) else None
    if isinstance(parameter, ArrayType) and isinstance(type_, ArrayType):
        return fit(parameter.element, type_.element, bindings)
    if isinstance(parameter, MapType) and isinstance(type_, MapType):
        key, value = fit(parameter.key, type_.key, bindings), fit(parameter.value, type_.value, bindings)
        return None if key is None or value is None else key + value
    return widening(type_, parameter)


def widening(source: SqlType, target: SqlType) -> int | None:
    """Return how many steps of INTEGER → BIGINT → DECIMAL → DOUBLE lead from one type to another, None where none do."""
    first, last = _NUMERIC_ORDER.get(source.name), _NUMERIC_ORDER.get(target.name)
    return last - first if first is not None and last is not None and last > first else None


def _fit_generic(parameter: Generic, type_: SqlType, bindings: dict[str, SqlType]) -> int | None:
    known = bindings.get(parameter.name)
    if isinstance(type_, LambdaType) or type_ == INTERVAL:
        return None
    if known is None or known == NULL:
        bindings[parameter.name] = type_
        return 1
    if type_ in (known, NULL):
        return 1
    if widening(type_, known) is not None:
        return 2
    if widening(known, type_) is not None:
        bindings[parameter.name] = type_
        return 2
    return None


def _fit_lambda(parameter: LambdaType, type_: SqlType, bindings: dict[str, SqlType]) -> int | None:
    if not isinstance(type_, LambdaType) or len(type_.parameters) != len(parameter.parameters):
        return None
    if type_.result == NULL:  # not typed yet: its parameters' types come from the other arguments
        return 1
    return fit(parameter.result, type_.result, bindings)


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
        parameters = tuple(substituted(one, bindings, actual) for one in type_.parameters)
        return LambdaType(parameters=parameters, result=substituted(type_.result, bindings, actual))
    return type_


def as_decimal(type_: SqlType) -> SqlType:
    """Return the DECIMAL that holds a type's every value."""
    if type_ == INTEGER:
        return DecimalType(precision=10, scale=0)
    if type_ == BIGINT:
        return DecimalType(precision=19, scale=0)
    return type_


def common_number(types: Sequence[SqlType]) -> SqlType:
    """Return the widest of some number types."""
    return max(types, key=lambda type_: _NUMERIC_ORDER.get(type_.name, -1), default=DOUBLE)
