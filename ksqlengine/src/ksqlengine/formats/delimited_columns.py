"""Separated values to columns and back, many lines at once; what has quotes or isn't plainly written is read line by line.

The rules are those of ksqlDB's DELIMITED format, which reads and writes with Commons CSV (`formats.delimited.DelimitedSerde`).
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt
import polars as pl
import pyarrow as pa

from ksqlengine.types.casts import java_doubles, number_of_time, time_of_number
from ksqlengine.types.sqltypes import SqlType

_CONVERTIBLE = frozenset({"BOOLEAN", "INTEGER", "BIGINT", "DOUBLE", "STRING", "TIMESTAMP", "DATE", "TIME"})
_WHOLE = r"^[+-]?[0-9]+$"
_DIGITS = r"^-?[0-9]+$"
_NUMBER = r"^[+-]?(?:[0-9]+\.?[0-9]*|\.[0-9]+)(?:[eE][+-]?[0-9]+)?$"
_LONGEST_LINE = 100_000  # bytes; Python's reader refuses fields that are little longer

Fields = Sequence[tuple[str, SqlType]]


def can_convert(fields: Fields) -> bool:
    """Say whether lines of fields of these types can be read and written many at once."""
    return bool(fields) and all(type_.name in _CONVERTIBLE for _, type_ in fields)


def read_lines(
    values: pa.LargeBinaryArray, fields: Fields, delimiter: str
) -> tuple[pl.DataFrame, npt.NDArray[np.int64]] | None:
    """Return the columns of the plainly written lines and their positions; None where a message isn't UTF-8.

    Args:
        values: messages; nulls are no lines.
        fields: names and types of the columns, which one `can_convert`.
        delimiter: one character.
    """
    try:
        lines = pl.Series(pl.from_arrow(values.cast(pa.large_string())))
    except pa.ArrowInvalid:
        return None
    plain = (
        (lines.str.count_matches(delimiter, literal=True) == len(fields) - 1)
        & ~lines.str.contains('["\\n\\r]')
        & lines.str.len_bytes().is_between(1, _LONGEST_LINE)
    ).fill_null(False)
    positions = plain.arg_true().to_numpy()
    texts = lines.filter(plain).str.split_exact(delimiter, len(fields) - 1).struct.unnest()
    columns, read = [], pl.Series([True]).new_from_index(0, len(texts))
    for text, (name, type_) in zip(texts.iter_columns(), fields, strict=True):
        column = pl.select(_value(pl.lit(text), type_)).to_series()
        columns.append(column.alias(name))
        read &= column.is_not_null() | (text == "")
    return pl.DataFrame(columns).filter(read), positions[read.to_numpy()].astype(np.int64)


def _value(text: pl.Expr, type_: SqlType) -> pl.Expr:
    """Return values of texts; null where the text is empty or isn't plainly written."""
    match type_.name:
        case "STRING":
            return pl.when(text != "").then(text)
        case "BOOLEAN":
            return pl.when(text != "").then(text.str.to_lowercase() == "true")
        case "DOUBLE":
            return pl.when(text.str.contains(_NUMBER)).then(text).cast(pl.Float64, strict=False)
        case "INTEGER" | "BIGINT":
            return pl.when(text.str.contains(_WHOLE)).then(text).cast(type_.polars, strict=False)
    return time_of_number(pl.when(text.str.contains(_DIGITS)).then(text).cast(pl.Int64, strict=False), type_)


def write_lines(frame: pl.DataFrame, fields: Fields, delimiter: str) -> list[bytes | None]:
    """Return the rows of a frame as lines.

    Args:
        frame: the columns.
        fields: names and types of the columns, which one `can_convert`.
        delimiter: one character.
    """
    texts = [
        _quoted(pl.lit(_text(frame[name], type_)), delimiter, first=place == 0).alias(str(place))
        for place, (name, type_) in enumerate(fields)
    ]
    lines = pl.select(texts).select(pl.concat_str(pl.all(), separator=delimiter))
    return lines.to_series().cast(pl.Binary).to_list()


def _text(series: pl.Series, type_: SqlType) -> pl.Series:
    if type_.name == "DOUBLE":
        return java_doubles(series)
    return (number_of_time(series, type_) if series.dtype.is_temporal() else series).cast(pl.String)


def _quoted(text: pl.Expr, delimiter: str, *, first: bool) -> pl.Expr:
    """Return fields, in quotes where ksqlDB's writer has them. Source: Commons CSV 1.4 with MINIMAL quotes."""
    begins = r"^[^0-9A-Za-z]" if first else r"^[\x00-#]"
    unsafe = text.str.contains(begins + r'|["\n\r]|[\x00- ]$') | text.str.contains(delimiter, literal=True)
    return (
        pl.when(text.is_null())
        .then(pl.lit(""))
        .when(text == "")
        .then(pl.lit('""' if first else ""))
        .when(unsafe)
        .then(pl.concat_str(pl.lit('"'), text.str.replace_all('"', '""', literal=True), pl.lit('"')))
        .otherwise(text)
    )
