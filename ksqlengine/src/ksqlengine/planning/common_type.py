"""The common type of a list of values, as IN, ARRAY and MAP need it.

Source: ksqlDB's ``CoercionUtil`` and ``DefaultSqlValueCoercer``: literals convert more freely than other expressions, numbers and
BOOLEANs to texts and back; the widest number wins; constructors of arrays, maps and structs are looked into.
"""

from __future__ import annotations

import base64
import binascii
from collections.abc import Callable, Mapping, Sequence
from decimal import Decimal
from typing import Any

from ksqlengine.expressions.base import Literal, TypedExpression
from ksqlengine.expressions.conversion import Cast
from ksqlengine.expressions.overloads import widening
from ksqlengine.expressions.structures import NewArray, NewMap, NewStruct
from ksqlengine.types.casts import can_cast, java_double, parse_time_text
from ksqlengine.types.errors import NotSupportedError, StatementError
from ksqlengine.types.sqltypes import (
    BIGINT,
    BOOLEAN,
    BYTES,
    DATE,
    DOUBLE,
    INTEGER,
    MOST_DIGITS,
    NULL,
    STRING,
    TIME,
    TIMESTAMP,
    ArrayType,
    DecimalType,
    MapType,
    SqlType,
    StructType,
    common_decimal,
)

NUMBER_NAMES = ("INTEGER", "BIGINT", "DECIMAL", "DOUBLE")
_TIMES = (TIMESTAMP, DATE, TIME)
_INTEGER_MAX, _BIGINT_MAX = 2**31 - 1, 2**63 - 1


class _MismatchError(StatementError):
    """Two values have no common type."""


def _mismatch(value: TypedExpression, target: SqlType) -> _MismatchError:
    return _MismatchError(
        f"operator does not exist: {target} = {value.type} ({value.text})\n"
        "Hint: You might need to add explicit type casts."
    )


def _invalid(text: Any, target: SqlType) -> StatementError:
    return StatementError(f'invalid input syntax for type {target.name}: "{text}".')


def decimal_type(value: Decimal) -> DecimalType:
    """Return the type of a DECIMAL literal.

    Raises:
        NotSupportedError: it has more digits than any column.
    """
    _, digits, exponent = value.as_tuple()
    scale = max(0, -int(exponent))
    precision = scale + 1 if value == 0 else max(len(digits) + max(0, int(exponent)), scale)
    if precision > MOST_DIGITS:
        raise NotSupportedError(f"{value}: a DECIMAL of more than {MOST_DIGITS} digits")
    return DecimalType(precision=max(precision, 1), scale=scale)


def coerced(values: Sequence[TypedExpression], text: str) -> list[TypedExpression]:
    """Return values in their common type; all NULLs stay as they are.

    Args:
        values: the values.
        text: what they stand in, for the error.

    Raises:
        StatementError: there is no common type.
    """
    common = NULL
    for value in values:
        common = _common(common, value)
    return list(values) if common == NULL else [_to_common(value, common, text) for value in values]


def _common(common: SqlType, value: TypedExpression) -> SqlType:
    """Return the common type of values of the type `common` and one more."""
    if NULL in (common, value.type) or (isinstance(value, Literal) and value.value is None):
        return value.type if common == NULL else common
    if isinstance(value, NewArray | NewMap | NewStruct):
        try:
            inner = _common_of_parts(common, value)
        except _MismatchError as error:
            raise _mismatch(value, common) from error
        if inner is None:
            raise _mismatch(value, common)
        return inner
    is_literal = isinstance(value, Literal)
    if isinstance(value, Literal) and value.type == STRING:
        if common.name in NUMBER_NAMES:
            return _common_number(value.value, common)
        if common == BOOLEAN:
            _boolean(value.value)
            return common
    merged = _common_type(common, value.type, lax=is_literal)
    if merged is None:
        raise _mismatch(value, common)
    return merged


def _common_of_parts(common: SqlType, value: NewArray | NewMap | NewStruct) -> SqlType | None:
    if isinstance(value, NewArray):
        return ArrayType(element=_common_all(common.element, value.items)) if isinstance(common, ArrayType) else None
    if isinstance(value, NewMap):
        if not isinstance(common, MapType):
            return None
        keys, values = zip(*value.entries, strict=True)
        return MapType(key=_common_all(common.key, keys), value=_common_all(common.value, values))
    if not isinstance(common, StructType):
        return None
    fields = dict(common.fields)
    own = {name: _common(fields[name], item) if name in fields else item.type for name, item in value.items}
    return StructType(fields=tuple({**own, **{name: fields[name] for name in fields if name not in own}}.items()))


def _common_all(common: SqlType, values: Sequence[TypedExpression]) -> SqlType:
    for value in values:
        common = _common(common, value)
    return common


def _common_number(text: str, common: SqlType) -> SqlType:
    """Return the common type of numbers and of a text, which must be a number."""
    try:
        number = Decimal(text.strip())
    except ArithmeticError as error:
        raise _invalid(text, common) from error
    if not number.is_finite():
        raise _invalid(text, common)
    own: SqlType = decimal_type(number)
    if not any(character in text for character in ".eE") and abs(number) <= _BIGINT_MAX:
        own = INTEGER if abs(number) <= _INTEGER_MAX else BIGINT
    return _common_type(common, own, lax=False) or common


def _common_type(left: SqlType, right: SqlType, *, lax: bool) -> SqlType | None:
    """Return the type to which values of either convert; `lax` for the rules of literals."""
    return _coercible(right, left, lax=lax) or _coercible(left, right, lax=lax)


def _coercible(source: SqlType, target: SqlType, *, lax: bool) -> SqlType | None:
    """Return the type that holds both when values of `source` convert to the kind of `target`, None where they don't."""
    if source == target:
        return target
    if source.name in NUMBER_NAMES and target.name in NUMBER_NAMES:
        return _wider(source, target)
    if target == STRING:
        return STRING if lax and (source.name in (*NUMBER_NAMES, "BOOLEAN") or source in _TIMES) else None
    if source == STRING:
        return target if target in (*_TIMES, BYTES) or (lax and target.name in (*NUMBER_NAMES, "BOOLEAN")) else None
    return _coercible_parts(source, target, lax=lax)


def _coercible_parts(source: SqlType, target: SqlType, *, lax: bool) -> SqlType | None:
    if isinstance(source, ArrayType) and isinstance(target, ArrayType):
        element = _coercible(source.element, target.element, lax=lax)
        return None if element is None else ArrayType(element=element)
    if isinstance(source, MapType) and isinstance(target, MapType):
        key, value = (
            _coercible(source.key, target.key, lax=lax),
            _coercible(source.value, target.value, lax=lax),
        )
        return None if key is None or value is None else MapType(key=key, value=value)
    if isinstance(source, StructType) and isinstance(target, StructType):
        fields, wanted = dict(source.fields), dict(target.fields)
        for name, type_ in wanted.items():
            merged = _coercible(fields[name], type_, lax=lax) if name in fields else type_
            if merged is None:
                return None
            fields[name] = merged
        return StructType(fields=tuple(fields.items()))
    return None


def _wider(source: SqlType, target: SqlType) -> SqlType | None:
    if target == DOUBLE:
        return DOUBLE
    if isinstance(target, DecimalType):
        return None if source == DOUBLE else common_decimal((source, target))
    return target if widening(source, target) is not None else None


def _to_common(value: TypedExpression, common: SqlType, text: str) -> TypedExpression:
    if value.type == common:
        return value
    if isinstance(value, Literal):
        return Literal(common, _literal_value(value, common), text=value.text)
    if not can_cast(value.type, common):
        raise StatementError(f"Cast of {value.type} to {common} is not supported in {text}")
    return Cast(common, value, text=value.text)


def _boolean(text: str) -> bool:
    lower = text.strip().lower()
    for word, meaning in (("true", True), ("yes", True), ("false", False), ("no", False)):
        if lower and word.startswith(lower):
            return meaning
    raise _invalid(text, BOOLEAN)


def _literal_value(value: Literal, common: SqlType) -> Any:
    given = value.value
    if given is None or common.name not in _CONVERTERS:
        return given
    converted = _CONVERTERS[common.name](given, common)
    if converted is None:
        raise _invalid(given, common)
    return converted


def _text(given: Any) -> str:
    if isinstance(given, bool):
        return str(given).lower()
    if isinstance(given, float):
        return java_double(given)
    return f"{given:f}" if isinstance(given, Decimal) else str(given)


def with_bytes(value: TypedExpression, wanted: SqlType) -> TypedExpression:
    """Return a value whose texts are bytes in base64 where `wanted` has BYTES, also inside of constructors.

    Raises:
        StatementError: a text is not in base64.
    """
    if wanted == BYTES and isinstance(value, Literal) and value.type == STRING and value.value is not None:
        return Literal(BYTES, _literal_value(value, BYTES), text=value.text)
    if isinstance(value, NewArray) and isinstance(wanted, ArrayType):
        items = tuple(with_bytes(item, wanted.element) for item in value.items)
        return NewArray(ArrayType(element=items[0].type), items, text=value.text)
    if isinstance(value, NewMap) and isinstance(wanted, MapType):
        entries = tuple((key, with_bytes(item, wanted.value)) for key, item in value.entries)
        return NewMap(MapType(key=entries[0][0].type, value=entries[0][1].type), entries, text=value.text)
    if isinstance(value, NewStruct) and isinstance(wanted, StructType):
        types = dict(wanted.fields)
        fields = tuple((name, with_bytes(item, types[name]) if name in types else item) for name, item in value.items)
        return NewStruct(StructType(fields=tuple((name, item.type) for name, item in fields)), fields, text=value.text)
    return value


def _bytes(text: str) -> bytes | None:
    try:
        return base64.b64decode(text.strip(), validate=True)
    except binascii.Error:
        return None


_CONVERTERS: Mapping[str, Callable[[Any, SqlType], Any]] = {
    "STRING": lambda given, _: _text(given),
    "BOOLEAN": lambda given, _: _boolean(given),
    "DOUBLE": lambda given, _: float(given),
    "DECIMAL": lambda given, _: Decimal(str(given).strip()),
    "INTEGER": lambda given, _: int(str(given).strip()),
    "BIGINT": lambda given, _: int(str(given).strip()),
    "BYTES": lambda given, _: _bytes(given),
    **{type_.name: lambda given, wanted: parse_time_text(given.strip(), wanted) for type_ in _TIMES},
}
