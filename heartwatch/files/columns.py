"""Columns as spreadsheets and data frames write them, cast by rule.

- A whole number may have a sign, spaces around it and zeros behind a decimal point: ``1.0``, ``"72 "``, or all its digits in
  scientific notation: ``7.2E+01``. Anything else isn't
  one: ``1,234`` may be 1234 or 1.234, and nobody guesses. Where the delimiter isn't the comma, the comma is the decimal mark.
- A text in single quotes, or with the apostrophe with which spreadsheets mark a text before its digits, is the text without them;
  characters without width (a byte-order mark that stands within a file) count as spaces.
- A text that is a whole number in floating point in every row (a data frame's column of ids with gaps) is the whole number.
- Times are read as `heartwatch.files.times` says.
"""

from __future__ import annotations

from datetime import datetime
from typing import Any

import polars as pl

from heartwatch.files import times

_WHOLE = r"^[+-]?(\d{1,18})(\.0*)?$"
_SCIENTIFIC = r"^[+-]?(?<mantissa>[1-9](?:\.\d{1,15})?)[eE]\+?(?<exponent>\d{1,2})$"
_FLOAT = r"^[+-]?(\d+\.?\d*|\.\d+)([eE][+-]?\d{1,3})?$"
_WHOLE_AS_FLOAT = r"^[+-]?\d+\.0+$"
_PLAIN_NUMBER = r"^\d{9,19}$"
_INVISIBLE = "\u200b\u200c\u200d\u200e\u200f\u2060\ufeff"
_SPACES = " \t\r\n\v\f\u00a0\u202f\u2007" + _INVISIBLE
_PADDING = _SPACES + "'"
_QUOTED = r"^'(.*)'$"
_MARKED = r"^'(\d)"
_ISO_FORMATS = ("%Y-%m-%dT%H:%M:%S%.fZ", "%Y-%m-%d %H:%M:%S%.f", "%Y-%m-%dT%H:%M:%S%.f")


def whole_numbers(column: pl.Series, decimal_comma: bool = False) -> pl.Series:
    """Return a column as whole numbers; null where a value is none.

    Args:
        column: whole numbers, floats or texts.
        decimal_comma: a comma in a text is the decimal mark.
    """
    if column.dtype.is_integer():
        return column.cast(pl.Int64, strict=False)
    if column.dtype.is_float():
        whole = (column == column.round(0)) & column.is_finite() & (column.abs() < 2**53)
        return column.set(~whole.fill_null(False), None).cast(pl.Int64)
    if column.dtype != pl.String:
        return _nothing(column, pl.Int64)
    text = _number_texts(column, decimal_comma)
    fits = text.str.contains(_WHOLE).fill_null(False)
    digits = text.set(~fits, None).str.strip_prefix("+").str.replace(r"\.0*$", "")
    found = digits.cast(pl.Int64, strict=False)
    return found if fits.all() else found.zip_with(found.is_not_null(), _scientific(text))


def _scientific(text: pl.Series) -> pl.Series:
    """Return whole numbers in scientific notation; null where one has lost digits, as 1.2E+08 has, or is none."""
    parts = text.str.extract_groups(_SCIENTIFIC).struct
    digits, exponent = parts.field("mantissa").str.replace(".", "", literal=True), parts.field("exponent")
    whole = (digits.str.len_chars() > exponent.cast(pl.Int64)).fill_null(False)
    return whole_numbers(text.set(~whole, None).str.strip_prefix("+").cast(pl.Float64, strict=False))


def floats(column: pl.Series, decimal_comma: bool = False) -> pl.Series:
    """Return a column as finite floats; null where a value is none. Arguments as for `whole_numbers`."""
    if column.dtype.is_numeric():
        found = column.cast(pl.Float64)
    elif column.dtype == pl.String:
        text = _number_texts(column, decimal_comma)
        fits = text.str.contains(_FLOAT).fill_null(False)
        found = text.set(~fits, None).str.strip_prefix("+").cast(pl.Float64, strict=False)
    else:
        return _nothing(column, pl.Float64)
    return found.set(~found.is_finite().fill_null(True), None)


def texts(column: pl.Series) -> pl.Series:
    """Return a column as texts, without spaces around them; null where one is empty."""
    if column.dtype.is_float():
        whole = whole_numbers(column)
        return whole.cast(pl.String).zip_with(
            whole.is_not_null(), column.set(~column.is_finite(), None).cast(pl.String)
        )
    if column.dtype.is_integer():
        return column.cast(pl.String)
    if column.dtype != pl.String:
        return _nothing(column, pl.String)
    text = (
        column.str.strip_chars(_SPACES).str.replace(_QUOTED, "$1").str.replace(_MARKED, "$1").str.strip_chars(_SPACES)
    )
    text = text.set((text == "").fill_null(False), None)
    given = text.drop_nulls()
    if given.len() and given.str.contains(_WHOLE_AS_FLOAT).all():
        return text.str.replace(r"\.0+$", "")
    return text


def event_times(column: pl.Series) -> pl.Series:
    """Return a column as ms since the epoch; null where a value is not a plausible time.

    Args:
        column: numbers since the epoch in any unit, ISO 8601 texts, or timestamps.
    """
    if isinstance(column.dtype, pl.Datetime):
        found = column.cast(pl.Datetime("ms")) if column.dtype.time_zone is None else column.dt.convert_time_zone("UTC")
        return _plausible(found.dt.epoch("ms"))
    if column.dtype.is_numeric():
        return _of_numbers(column)
    if column.dtype != pl.String:
        return _nothing(column, pl.Int64)
    text = column.str.strip_chars(_PADDING)
    digits = text.set(~text.str.contains(_PLAIN_NUMBER).fill_null(False), None)
    found = _of_numbers(digits.cast(pl.Int64, strict=False))
    for form in _ISO_FORMATS:
        parsed = text.str.to_datetime(form, time_unit="us", strict=False).dt.epoch("ms")
        found = found.zip_with(found.is_not_null(), _plausible(parsed))
    rest = text.set(found.is_not_null() | text.is_null(), None)
    others = {value: _milliseconds(value) for value in rest.unique().drop_nulls()}
    if not any(value is not None for value in others.values()):
        return found
    return found.zip_with(found.is_not_null(), pl.Series([others.get(value) for value in rest], dtype=pl.Int64))


def fault(name: str, value: Any, kind: pl.DataType, is_time: bool) -> str:
    """Return what is wrong with a value that could not be cast.

    Args:
        name: the column.
        value: the value as the file has it.
        kind: what the column should hold.
        is_time: the column is the event time.
    """
    if value is None or value == "":
        return f"field {name!r} is missing"
    if is_time:
        try:
            times.milliseconds(value if isinstance(value, str | int | float | datetime) else str(value))
        except times.TimeError as error:
            return f"field {name!r}: {error}"
    if isinstance(value, str) and "," in value and kind.is_numeric():
        return f"field {name!r}: {value!r} may have a decimal comma or one between thousands; write it with a point"
    wanted = "a whole number" if kind.is_integer() else "a number" if kind.is_float() else "a text"
    bounds = " that fits" if kind.is_integer() else ""
    return f"field {name!r}: {value!r} is not {wanted}{bounds}"


def _number_texts(column: pl.Series, decimal_comma: bool) -> pl.Series:
    text = column.str.strip_chars(_PADDING)
    if not decimal_comma:
        return text
    once = text.str.contains(r"^[^,.]*,[^,.]*$").fill_null(False)
    return text.str.replace(",", ".", literal=True).zip_with(once, text)


def _of_numbers(column: pl.Series) -> pl.Series:
    """Return numbers since the epoch as ms, each in the unit that makes it plausible."""
    values = (
        column.cast(pl.Float64, strict=False) if not column.dtype.is_integer() else column.cast(pl.Int64, strict=False)
    )
    if values.dtype.is_float():
        values = values.set(~values.is_finite().fill_null(False) | (values.abs() > 2**62), None)
    found = _nothing(column, pl.Int64)
    for multiply, divide in ((1_000, 1), (1, 1), (1, 1_000), (1, 1_000_000)):
        near = values.set((values.abs() > 2**62 // multiply).fill_null(False), None) * multiply
        scaled = (near / divide).round(0).cast(pl.Int64) if values.dtype.is_float() else near // divide
        found = found.zip_with(found.is_not_null(), _plausible(scaled))
    return found


def _plausible(found: pl.Series) -> pl.Series:
    earliest = round(times.EARLIEST.timestamp() * 1000)
    inside = found.is_between(earliest, times.latest_ms()).fill_null(False)
    return found.cast(pl.Int64).set(~inside, None)


def _milliseconds(text: str) -> int | None:
    try:
        return times.milliseconds(text)
    except times.TimeError:
        return None


def _nothing(column: pl.Series, kind: type[pl.DataType]) -> pl.Series:
    return pl.Series([None] * column.len(), dtype=kind)
