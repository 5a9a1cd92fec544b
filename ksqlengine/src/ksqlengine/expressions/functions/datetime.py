"""Date and time functions. Patterns are Java's (`ksqlengine.types.times`)."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from datetime import UTC, date, datetime, time, timedelta
from functools import partial
from typing import Any, cast

import polars as pl

from ksqlengine.expressions.arithmetic import truncated_quotient
from ksqlengine.expressions.base import Literal
from ksqlengine.expressions.overloads import INTERVAL, TypedCall, register, row_by_row
from ksqlengine.types.casts import by_row, spread, time_of_number
from ksqlengine.types.errors import StatementError
from ksqlengine.types.sqltypes import BIGINT, DATE, INTEGER, STRING, TIME, TIMESTAMP
from ksqlengine.types.times import (
    DATE_LETTERS,
    TIME_LETTERS,
    PatternError,
    columnar_pattern,
    java_pattern,
    parse_simple_date,
    polars_pattern,
    simple_pattern,
    zone,
)

_CATEGORY = "DATE / TIME"
_UNIT_MS = {"DAYS": 86_400_000, "HOURS": 3_600_000, "MINUTES": 60_000, "SECONDS": 1_000, "MILLISECONDS": 1}
_DAY_MS = 86_400_000


def _now() -> pl.Expr:
    return pl.int_range(pl.len()).map_batches(
        lambda rows: pl.Series([int(datetime.now(UTC).timestamp() * 1000)] * len(rows), dtype=pl.Int64),
        return_dtype=pl.Int64,
    )


register("UNIX_TIMESTAMP", _CATEGORY, "Milliseconds since the epoch of a timestamp.", (TIMESTAMP,), BIGINT,
         lambda value: value.dt.epoch("ms"))  # fmt: skip
register("UNIX_TIMESTAMP", _CATEGORY, "Milliseconds since the epoch now.", (), BIGINT, _now)
register("FROM_UNIXTIME", _CATEGORY, "Timestamp of milliseconds since the epoch.", (BIGINT,), TIMESTAMP,
         lambda value: time_of_number(value, TIMESTAMP))  # fmt: skip
register(
    "UNIX_DATE", _CATEGORY, "Days since the epoch of a date.", (DATE,), INTEGER, lambda value: value.cast(pl.Int32)
)
register("UNIX_DATE", _CATEGORY, "Days since the epoch today.", (), INTEGER, lambda: (_now() // _DAY_MS).cast(pl.Int32))
register(
    "FROM_DAYS", _CATEGORY, "Date of days since the epoch.", (INTEGER,), DATE, lambda value: time_of_number(value, DATE)
)


# ---------------------------------------------------------------------------------------------------- adding and subtracting
def _moved(kind: pl.DataType, sign: int) -> Callable[[TypedCall, list[pl.Expr]], pl.Expr]:
    def build(call: TypedCall, values: list[pl.Expr]) -> pl.Expr:
        unit = cast(Literal, call.arguments[0]).value
        if unit not in _UNIT_MS:
            raise StatementError(
                f"{call.name}: the unit {unit} can't be used; use DAYS, HOURS, MINUTES, SECONDS or MILLISECONDS"
            )
        amount = values[1].cast(pl.Int64) * (sign * _UNIT_MS[unit])
        if kind == pl.Time():
            day = values[2].cast(pl.Int64) // 1_000_000 + amount
            return (day % _DAY_MS * 1_000_000).cast(pl.Time)
        if kind == pl.Date():
            moved = values[2].cast(pl.Int64) * _DAY_MS + amount
            return time_of_number(truncated_quotient(moved, pl.lit(_DAY_MS)), DATE)  # as Java's TimeUnit.toDays
        return time_of_number(values[2].dt.epoch("ms") + amount, TIMESTAMP)

    return build


for _type, _name in ((TIMESTAMP, "TIMESTAMP"), (DATE, "DATE"), (TIME, "TIME")):
    for _word, _sign in (("ADD", 1), ("SUB", -1)):
        register(f"{_name}{_word}", _CATEGORY, f"A {_name.lower()} moved by an interval.", (INTERVAL, INTEGER, _type), _type,
                 _moved(_type.polars, _sign), with_call=True)  # fmt: skip


# ---------------------------------------------------------------------------------------------------- formatting
def _literal(call: TypedCall, index: int) -> str | None:
    value = getattr(call.arguments[index], "value", None) if index < len(call.arguments) else "UTC"
    return value if isinstance(value, str) else None


def _check_literals(call: TypedCall, known: Callable[[str], object] = java_pattern) -> None:
    """Refuse a pattern or a time zone that can't be, where it is a constant."""
    try:
        pattern = _literal(call, 1)
        if pattern is not None:
            known(pattern)
        name = _literal(call, 2)
        if name is not None:
            zone(name)
    except PatternError as error:
        raise StatementError(f"{call.name}: {error}") from error


def _format(
    to_moment: Callable[[Any], datetime], letters: frozenset[str] | None = None
) -> Callable[[TypedCall, list[pl.Expr]], pl.Expr]:
    """Return a builder for FORMAT_…: column-wise where Polars has the pattern, else row by row.

    Args:
        to_moment: a value as a time.
        letters: the pattern letters that such values have; None for all.
    """

    def text_of_row(row: dict[str, Any]) -> str | None:
        value, pattern, *rest = row.values()
        if value is None or pattern is None or None in rest:
            return None
        try:
            java = java_pattern(pattern)
            if letters is not None and not java.letters <= letters:
                return None
            return java.format(to_moment(value).replace(tzinfo=UTC).astimezone(zone(rest[0] if rest else "UTC")))
        except (PatternError, ValueError, OverflowError):
            return None

    def build(call: TypedCall, values: list[pl.Expr]) -> pl.Expr:
        pattern = _literal(call, 1)
        known = pattern is not None and (letters is None or java_pattern(pattern).letters <= letters)
        translated = polars_pattern(pattern) if known and pattern is not None else None
        if translated is not None and _literal(call, 2) in ("UTC", "Z", "GMT"):
            return values[0].dt.strftime(translated)
        return by_row({f"argument_{index}": value for index, value in enumerate(values)}, text_of_row, pl.String())

    return build


_FORMATS = (
    ("FORMAT_TIMESTAMP", TIMESTAMP, lambda value: value, (STRING,), None),
    ("FORMAT_TIMESTAMP", TIMESTAMP, lambda value: value, (STRING, STRING), None),
    ("FORMAT_DATE", DATE, lambda value: datetime.combine(value, time()), (STRING,), DATE_LETTERS),
    ("FORMAT_TIME", TIME, lambda value: datetime.combine(date(1970, 1, 1), value), (STRING,), TIME_LETTERS),
)
for _name, _type, _to_moment, _more, _letters in _FORMATS:
    register(_name, _CATEGORY, "Text of a time by a pattern.", (_type, *_more), STRING, _format(_to_moment, _letters),
             with_call=True, may_fail=True, check=_check_literals)  # fmt: skip


def _epoch_format(unit: str) -> Callable[[TypedCall, list[pl.Expr]], pl.Expr]:
    inner = _format(lambda value: value, DATE_LETTERS if unit == "d" else None)

    def build(call: TypedCall, values: list[pl.Expr]) -> pl.Expr:
        moment = time_of_number(values[0], TIMESTAMP if unit == "ms" else DATE).cast(pl.Datetime("ms"))
        return inner(call, [moment, *values[1:]])

    return build


for _more in ((STRING,), (STRING, STRING)):
    register("TIMESTAMPTOSTRING", _CATEGORY, "Text of milliseconds since the epoch by a pattern.", (BIGINT, *_more), STRING,
             _epoch_format("ms"), with_call=True, may_fail=True, check=_check_literals)  # fmt: skip
register("DATETOSTRING", _CATEGORY, "Text of days since the epoch by a pattern.", (INTEGER, STRING), STRING,
         _epoch_format("d"), with_call=True, may_fail=True, check=_check_literals)  # fmt: skip


# ---------------------------------------------------------------------------------------------------- parsing
def _parse_timestamp(text: str, pattern: str, zone_name: str = "UTC") -> datetime:
    return java_pattern(pattern).parse(text).moment(zone(zone_name))


def _parse_day(text: str, pattern: str) -> date:
    fields = java_pattern(pattern).parse(text)
    if not fields.is_date:
        raise PatternError("Unable to obtain a date: a part is missing.")
    return fields.day()


def _parse_time(text: str, pattern: str) -> time:
    fields = java_pattern(pattern).parse(text)
    if fields.numbers.keys() & set("yMdDE"):
        raise PatternError("Time format contains date field.")
    if not fields.is_time:
        raise PatternError("Unable to obtain a time: a part is missing.")
    return fields.clock()


def _row_parser(parse: Callable[..., Any], type_: pl.DataType) -> Callable[[list[pl.Expr]], pl.Expr]:
    def value_of_row(row: dict[str, Any]) -> Any:
        arguments = list(row.values())
        return None if None in arguments else _parsed(parse, *arguments)

    def build(values: list[pl.Expr]) -> pl.Expr:
        return by_row({f"argument_{index}": value for index, value in enumerate(values)}, value_of_row, type_)

    return build


def _parsed(parse: Callable[..., Any], *arguments: str) -> Any:
    try:
        return parse(*arguments)
    except (PatternError, ValueError, OverflowError):
        return None


def _columnar(texts: pl.Expr, pattern: str, parse: Callable[..., Any], type_: pl.DataType) -> pl.Expr | None:
    """Return the texts of fixed width parsed at once and the others one by one, None where the pattern has no columnar form."""
    known = columnar_pattern(pattern)
    if known is None:
        return None
    polars, regex = known
    text = pl.when(texts.str.contains(regex)).then(texts)
    is_date = type_ == pl.Date()
    plain = (
        text.str.to_date(polars, strict=False)
        if is_date
        else text.str.to_datetime(polars, time_unit="ms", strict=False)
    )
    plain = pl.when(plain.dt.year() >= 1).then(plain)  # Python's dates begin there

    def with_rest(both: Sequence[pl.Series]) -> pl.Series:
        found, given = spread(both)
        rest = found.is_null() & given.is_not_null()
        if not rest.any():
            return found
        return found.scatter(
            rest.arg_true(), pl.Series([_parsed(parse, text, pattern) for text in given.filter(rest)], dtype=type_)
        )

    return pl.map_batches([plain, texts], with_rest, return_dtype=type_, is_elementwise=True)


def timestamps_of(texts: pl.Expr, pattern: str) -> pl.Expr:
    """Return the times that texts say by a Java pattern, NULL where one doesn't follow it.

    Args:
        texts: column of text.
        pattern: DateTimeFormatter pattern; without a zone in it, the times are UTC.
    """
    columnar = _columnar(texts, pattern, _parse_timestamp, TIMESTAMP.polars)
    return _row_parser(_parse_timestamp, TIMESTAMP.polars)([texts, pl.lit(pattern)]) if columnar is None else columnar


def _parser(parse: Callable[..., Any], type_: pl.DataType) -> Callable[[TypedCall, list[pl.Expr]], pl.Expr]:
    """Return a builder for PARSE_…: column-wise for patterns of fixed width, else row by row."""
    by_row = _row_parser(parse, type_)

    def build(call: TypedCall, values: list[pl.Expr]) -> pl.Expr:
        pattern = _literal(call, 1)
        known = pattern is not None and _literal(call, 2) in ("UTC", "Z", "GMT")
        columnar = _columnar(values[0], pattern, parse, type_) if known and pattern is not None else None
        return by_row(values) if columnar is None else columnar

    return build


for _more in ((STRING,), (STRING, STRING)):
    register("PARSE_TIMESTAMP", _CATEGORY, "Timestamp that a text says by a pattern.", (STRING, *_more), TIMESTAMP,
             _parser(_parse_timestamp, TIMESTAMP.polars), with_call=True, may_fail=True, check=_check_literals)  # fmt: skip
    register("STRINGTOTIMESTAMP", _CATEGORY, "Milliseconds since the epoch that a text says by a pattern.", (STRING, *_more),
             BIGINT, lambda call, values: _parser(_parse_timestamp, TIMESTAMP.polars)(call, values).dt.epoch("ms"),
             with_call=True, may_fail=True, check=_check_literals)  # fmt: skip
register("PARSE_DATE", _CATEGORY, "Date that a text says by a pattern of SimpleDateFormat.", (STRING, STRING), DATE,
         _parser(parse_simple_date, DATE.polars), with_call=True, may_fail=True,
         check=partial(_check_literals, known=simple_pattern))  # fmt: skip
register("STRINGTODATE", _CATEGORY, "Days since the epoch that a text says by a pattern.", (STRING, STRING), INTEGER,
         lambda call, values: _parser(_parse_day, DATE.polars)(call, values).cast(pl.Int32), with_call=True, may_fail=True,
         check=_check_literals)  # fmt: skip
register("PARSE_TIME", _CATEGORY, "Time of day that a text says by a pattern.", (STRING, STRING), TIME,
         lambda call, values: _row_parser(_parse_time, TIME.polars)(values), with_call=True, may_fail=True,
         check=_check_literals)  # fmt: skip


def _convert(moment: datetime, source: str, target: str) -> datetime:
    aware = moment.replace(tzinfo=UTC)
    there, here = aware.astimezone(zone(target)).utcoffset(), aware.astimezone(zone(source)).utcoffset()
    return moment + (there or timedelta()) - (here or timedelta())


row_by_row("CONVERT_TZ", _CATEGORY, "A timestamp from one time zone in another.", (TIMESTAMP, STRING, STRING), TIMESTAMP,
           _convert, may_fail=True)  # fmt: skip
