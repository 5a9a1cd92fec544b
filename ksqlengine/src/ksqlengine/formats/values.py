"""Single values as JSON and as text, converted as ksqlDB's JSON and DELIMITED formats do."""

from __future__ import annotations

import math
import re
from base64 import b64decode, b64encode
from collections.abc import Callable, Mapping
from datetime import UTC, date, datetime, time, timedelta
from decimal import Context, Decimal, InvalidOperation
from typing import Any

import orjson

from ksqlengine.errors import KsqlEngineError
from ksqlengine.types.casts import java_double
from ksqlengine.types.sqltypes import ArrayType, DecimalType, MapType, SqlType, StructType

_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_EPOCH_DAY = date(1970, 1, 1)
_NOT_FINITE = {math.inf: "Infinity", -math.inf: "-Infinity"}  # Jackson writes them, and NaN, as text
_EXACT = Context(prec=100)  # more digits than any DECIMAL has
_LIMITS = {"INTEGER": 2**31, "BIGINT": 2**63}


def json_bytes(value: Any) -> bytes:
    """Write a JSON value; exact decimals stay exact."""
    return orjson.dumps(value, default=_json_default)


def _json_default(value: Any) -> Any:
    if isinstance(value, Decimal):
        return orjson.Fragment(format(value, "f").encode())
    raise TypeError(f"{type(value).__name__} has no JSON form")


def to_json(value: Any, type_: SqlType) -> Any:
    """Return a column's value as ksqlDB writes it in JSON (times as numbers, bytes as base64)."""
    return _converted(value, type_, _TO_JSON)


def to_answer(value: Any, type_: SqlType) -> Any:
    """Return a column's value as ksqlDB writes it in answers to queries: as in JSON, but times as text."""
    return _converted(value, type_, _TO_ANSWER)


def _converted(value: Any, type_: SqlType, plain: Mapping[str, Callable[[Any], Any]]) -> Any:
    if value is None:
        return None
    if isinstance(type_, ArrayType):
        return [_converted(item, type_.element, plain) for item in value]
    if isinstance(type_, MapType):
        keys = (
            "null" if item["key"] is None else value_to_text(item["key"]) for item in value
        )  # HISTOGRAM counts NULL too
        return {key: _converted(item["value"], type_.value, plain) for key, item in zip(keys, value, strict=True)}
    if isinstance(type_, StructType):
        return {name: _converted(value[name], inner, plain) for name, inner in type_.fields}
    convert = plain.get(type_.name)
    return value if convert is None else convert(value)


def _milliseconds(moment: datetime) -> int:
    return round((moment.replace(tzinfo=UTC) - _EPOCH) / timedelta(milliseconds=1))


def _milliseconds_of_day(moment: time) -> int:
    return ((moment.hour * 60 + moment.minute) * 60 + moment.second) * 1000 + moment.microsecond // 1000


_TO_JSON: Mapping[str, Callable[[Any], Any]] = {
    "DOUBLE": lambda value: value if math.isfinite(value) else _NOT_FINITE.get(value, "NaN"),
    "BYTES": lambda value: b64encode(value).decode(),
    "DATE": lambda value: (value - _EPOCH_DAY).days,
    "TIME": _milliseconds_of_day,
    "TIMESTAMP": _milliseconds,
}


def _time_text(moment: time) -> str:
    """Return a time as Java's ``LocalTime`` shows it: without seconds where there are none."""
    if moment.microsecond:
        return moment.isoformat("milliseconds")
    return moment.isoformat("seconds" if moment.second else "minutes")


_TO_ANSWER: Mapping[str, Callable[[Any], Any]] = {
    **_TO_JSON,
    "DATE": lambda value: value.isoformat(),
    "TIME": _time_text,
    "TIMESTAMP": lambda value: value.replace(tzinfo=None).isoformat(timespec="milliseconds"),
}


def from_json(value: Any, type_: SqlType) -> Any:
    """Return a column's value of a JSON value, converted as ksqlDB's JSON format does.

    Raises:
        ValueError: it can't be converted.
    """
    if value is None:
        return None
    if isinstance(type_, ArrayType):
        return [from_json(item, type_.element) for item in _expect(value, list, type_)]
    if isinstance(type_, MapType):
        items = _expect(value, dict, type_).items()
        return [
            {"key": value_from_text(name, type_.key), "value": from_json(item, type_.value)} for name, item in items
        ]
    if isinstance(type_, StructType):
        folded = {name.upper(): item for name, item in _expect(value, dict, type_).items()}
        return {
            name: from_json(value[name] if name in value else folded.get(name), inner) for name, inner in type_.fields
        }
    return _plain_from_json(value, type_)


def _plain_from_json(value: Any, type_: SqlType) -> Any:
    if type_.name == "STRING":
        return _text_from_json(value)
    if type_.name == "BOOLEAN":
        return _expect(value, bool, type_)
    if isinstance(value, str):
        return value_from_text(value, type_)
    return _from_number(_expect(value, (int, float, Decimal), type_), type_)


def _text_from_json(value: Any) -> str:
    """Return what a STRING column gets of a JSON value, as Jackson and ksqlDB write it."""
    if isinstance(value, str):
        return value
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, float):
        raise InexactError
    if isinstance(value, list):
        return "[" + ", ".join("null" if item is None else _text_from_json(item) for item in value) + "]"
    return json_bytes(value).decode() if isinstance(value, dict) else str(value)


class InexactError(KsqlEngineError):
    """A number's digits are needed, and it was read as a float."""


def _expect(value: Any, kinds: type | tuple[type, ...], type_: SqlType) -> Any:
    if not isinstance(value, kinds) or (isinstance(value, bool) and kinds is not bool):
        raise ValueError(f"Can't convert type. sourceType: {type(value).__name__}, requiredType: {type_}")
    return value


def _from_number(value: int | float | Decimal, type_: SqlType) -> Any:
    if isinstance(type_, DecimalType):
        if isinstance(value, float):
            raise InexactError
        return _decimal(Decimal(value), type_)
    match type_.name:
        case "INTEGER" | "BIGINT":
            # Jackson's intValue and longValue narrow as Java's casts do: what is too large wraps.
            limit = _LIMITS[type_.name]
            return (int(value) + limit) % (2 * limit) - limit
        case "DOUBLE":
            return float(value)
        case "TIMESTAMP":
            return (_EPOCH + timedelta(milliseconds=int(value))).replace(tzinfo=None)
        case "DATE":
            return _EPOCH_DAY + timedelta(days=int(value))
        case "TIME":
            return (_EPOCH + timedelta(milliseconds=int(value))).time()
    raise ValueError(f"Can't convert type. sourceType: {type(value).__name__}, requiredType: {type_}")


def value_from_text(text: str, type_: SqlType) -> Any:
    """Return the value of a plain type that a text stands for: a field of a line, a quoted JSON value or a map's key.

    Raises:
        ValueError: it stands for none.
    """
    if isinstance(type_, DecimalType):
        try:
            return _decimal(Decimal(text.strip()), type_)
        except InvalidOperation as error:
            raise ValueError(f"{text!r} is not a {type_}") from error
    if type_.name in _ISO_TEXT:
        return _from_number(int(text), type_) if text.lstrip("-").isdigit() else _ISO_TEXT[type_.name](text)
    if type_.name in _LIMITS:
        if _WHOLE.fullmatch(text) is None:
            raise ValueError(f'For input string: "{text}"')
        return _whole(int(text), type_)
    if type_.name not in _FROM_TEXT:
        raise ValueError(f"{text!r} can't be {type_}")
    return _FROM_TEXT[type_.name](text)


def _double(text: str) -> float:
    if _JAVA_DOUBLE.fullmatch(text.strip()) is None:
        raise ValueError(f'For input string: "{text}"')
    return float(text.strip().rstrip("dDfF"))


_WHOLE = re.compile(r"[+-]?[0-9]+")
_JAVA_DOUBLE = re.compile(r"[+-]?(?:NaN|Infinity|(?:[0-9]+\.?[0-9]*|\.[0-9]+)(?:[eE][+-]?[0-9]+)?[dDfF]?)")
_ISO_TEXT: Mapping[str, Callable[[str], Any]] = {
    "TIMESTAMP": lambda text: datetime.fromisoformat(text).replace(tzinfo=None),
    "DATE": date.fromisoformat,
    "TIME": time.fromisoformat,
}
_FROM_TEXT: Mapping[str, Callable[[str], Any]] = {
    "STRING": str,
    "DOUBLE": _double,
    "BOOLEAN": lambda text: text.lower() == "true",  # Java's parseBoolean: anything else is false
    "BYTES": lambda text: b64decode(text, validate=True),
}


def _whole(value: int, type_: SqlType) -> int:
    limit = _LIMITS[type_.name]
    if not -limit <= value < limit:
        raise ValueError(f"{value} is out of the range of {type_}")
    return value


def _decimal(value: Decimal, type_: DecimalType) -> Decimal:
    exponent = value.as_tuple().exponent
    if isinstance(exponent, str) or -exponent > type_.scale or value.adjusted() + 1 > type_.precision - type_.scale:
        raise ValueError(f"Cannot fit decimal '{value}' into {type_} without rounding.")
    return value.quantize(Decimal(1).scaleb(-type_.scale), context=_EXACT)


def value_to_text(value: Any) -> str:  # noqa: PLR0911 - one case a kind
    """Return the text of a plain value, as Java writes it; times are numbers."""
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, bytes):
        return b64encode(value).decode()
    if isinstance(value, datetime):
        return str(_milliseconds(value))
    if isinstance(value, date):
        return str((value - _EPOCH_DAY).days)
    if isinstance(value, time):
        return str(_milliseconds_of_day(value))
    if isinstance(value, float):
        return java_double(value)
    return format(value, "f") if isinstance(value, Decimal) else str(value)
