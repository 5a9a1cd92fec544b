"""Values of INSERT VALUES in their columns' types.

Source: ksqlDB's ``GenericExpressionResolver`` and ``DefaultSqlValueCoercer.STRICT``: numbers widen, texts become times and bytes,
nothing else converts.
"""

from __future__ import annotations

from decimal import Decimal

import polars as pl

from ksqlengine.expressions.base import Literal, TypedExpression
from ksqlengine.expressions.conversion import Cast
from ksqlengine.expressions.overloads import widening
from ksqlengine.language import ast
from ksqlengine.language.formatting import expression_text
from ksqlengine.planning.binder import Binder
from ksqlengine.planning.common_type import with_bytes
from ksqlengine.planning.scope import nodes
from ksqlengine.types.casts import can_cast
from ksqlengine.types.errors import NotSupportedError, StatementError
from ksqlengine.types.sqltypes import NULL, STRING, ArrayType, DecimalType, MapType, SqlType, StructType

_TEXT_HINTS = {
    "TIMESTAMP": ". Timestamp format must be yyyy-mm-ddThh:mm:ss[.S]",
    "TIME": ". Time format must be hh:mm:ss[.S]",
    "DATE": ". Date format must be yyyy-mm-dd",
}


def inserted(name: str, expression: ast.SyntaxExpression, type_: SqlType) -> TypedExpression:
    """Return a value in its column's type.

    Args:
        name: the column.
        expression: the value, without columns.
        type_: the column's type.

    Raises:
        StatementError: it can't be computed, or isn't of the column's type.
    """
    if any(isinstance(node, ast.ColumnReference) for node in _outside_lambdas(expression)):
        raise StatementError(f"Unsupported column reference in insert value: {expression_text(expression)}")
    written = Binder({}).bind(expression)
    if isinstance(written, Literal) and written.type == NULL:
        return Literal(type_, None, text=written.text)
    _check_computed(written)
    try:
        value = with_bytes(written, type_)
    except NotSupportedError:
        raise
    except StatementError as error:
        raise _refused(name, written, type_) from error
    if value.type == type_:
        return value
    if not _converts(value.type, type_):
        raise _refused(name, value, type_)
    cast = Cast(type_, value, text=value.text)
    given, made = pl.select(value.to_polars().alias("given"), cast.to_polars().alias("made")).row(0)
    is_rounded = isinstance(made, Decimal) and isinstance(given, Decimal | int) and Decimal(given) != made
    if (given is not None and made is None) or is_rounded:
        raise _refused(name, value, type_)
    return cast


def _outside_lambdas(expression: ast.SyntaxExpression) -> list[ast.Node]:
    """Return the nodes of an expression without calls that take a lambda, whose parameters look like columns."""
    if any(isinstance(node, ast.Lambda) for node in nodes(expression)):
        return []
    return list(nodes(expression))


def _check_computed(value: TypedExpression) -> None:
    """Refuse a value whose evaluation fails; ksqlDB says no more than that."""
    failures = [failure.condition for failure in value.compile().failures if failure.message is not None]
    if failures and pl.select(pl.any_horizontal(pl.lit(False), *failures)).item():
        raise StatementError("")


def _converts(given: SqlType, wanted: SqlType) -> bool:
    if given in (wanted, NULL):
        return True
    if given == STRING:
        return wanted.name in _TEXT_HINTS
    if isinstance(given, ArrayType) and isinstance(wanted, ArrayType):
        return _converts(given.element, wanted.element)
    if isinstance(given, MapType) and isinstance(wanted, MapType):
        return _converts(given.key, wanted.key) and _converts(given.value, wanted.value)
    if isinstance(given, StructType) and isinstance(wanted, StructType):
        types = dict(wanted.fields)
        fits = all(_converts(type_, types[name]) for name, type_ in given.fields if name in types)
        return fits and can_cast(given, wanted)
    is_decimal = isinstance(given, DecimalType) and isinstance(wanted, DecimalType)
    return is_decimal or widening(given, wanted) is not None


def _refused(name: str, value: TypedExpression, type_: SqlType) -> StatementError:
    hint = _TEXT_HINTS.get(type_.name, "") if value.type == STRING else ""
    shown = str(value)
    if can_cast(value.type, STRING):
        shown = str(pl.select(Cast(STRING, value).to_polars()).item())
    return StatementError(f"Expected type {type_} for field `{name}` but got {value.type.name}({shown}){hint}")
