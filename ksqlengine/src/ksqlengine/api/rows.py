"""Rows that come from Python: dictionaries and frames as the columns of a stream or table.

Nothing is lost on the way: a value that its column can't hold is refused, where ksqlDB's JSON format would narrow it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from datetime import UTC, date, datetime, time
from decimal import Decimal
from typing import Any

import polars as pl
from polars.exceptions import PolarsError

from ksqlengine.errors import KsqlEngineError
from ksqlengine.expressions.functions.datetime import timestamps_of
from ksqlengine.formats.values import value_from_text
from ksqlengine.plan.catalog import Source
from ksqlengine.plan.steps import ROWTIME, WINDOWEND, WINDOWSTART, SourceKind, WindowKind
from ksqlengine.types.sqltypes import BIGINT, ArrayType, DecimalType, MapType, SqlType, StructType

Rows = pl.DataFrame | Iterable[Mapping[str, Any]]
"""Rows of a stream or table: a frame, or dictionaries from column to value."""

_BEFORE_ALL, _BEHIND_ALL = -1, 2**63 - 1
_LIMITS = {"INTEGER": 2**31, "BIGINT": 2**63}


class RowError(KsqlEngineError):
    """Rows that a stream or table can't take; the message names the column and the value."""


def frame_of(source: Source, rows: Rows) -> pl.DataFrame:
    """Return rows as a frame of all of a stream's or table's columns.

    Args:
        source: the stream or table.
        rows: some of its columns, ROWTIME, and the window's bounds where its key has a window.

    Returns:
        its columns, nulls where none were given, the window's bounds, and ROWTIME, null where it wasn't given.

    Raises:
        RowError: a column is unknown or missing, or it can't hold a value.
    """
    types = {column.name: column.type for column in source.record_schema.columns}
    bounds = _bounds(source)
    given = _given_columns(source, rows, {**types, ROWTIME: BIGINT, **dict.fromkeys(bounds, BIGINT)})
    missing = next((name for name in bounds if name not in given), None)
    if missing is not None:
        raise RowError(f"{source.name} has windowed keys, and its rows need the column {missing}, in ms")
    count = len(next(iter(given.values()))) if given else 0
    wanted = {**types, **dict.fromkeys(bounds, BIGINT), ROWTIME: BIGINT}
    return pl.DataFrame(
        [given.get(name, pl.Series(name, [None] * count, type_.polars)) for name, type_ in wanted.items()]
    )


def event_times(source: Source, frame: pl.DataFrame) -> list[int]:
    """Return when rows happened, ms: what orders the rows of several streams and tables.

    Args:
        source: their stream or table.
        frame: as `frame_of` gives it.

    Returns:
        times; where a row has none, one before all others for a table's row and one behind them for a stream's.
    """
    time_column = pl.col(ROWTIME)
    if source.timestamp_column is not None:
        time_column = pl.col(source.timestamp_column)
        if frame.schema[source.timestamp_column] == pl.String:
            time_column = timestamps_of(time_column, source.timestamp_format or "")
    without = _BEFORE_ALL if source.kind is SourceKind.TABLE else _BEHIND_ALL
    return frame.select(time_column.cast(pl.Int64).fill_null(without)).to_series().to_list()


def _bounds(source: Source) -> tuple[str, ...]:
    if source.key_window is None:
        return ()
    return (WINDOWSTART, WINDOWEND) if source.key_window.kind is WindowKind.SESSION else (WINDOWSTART,)


def _given_columns(source: Source, rows: Rows, types: Mapping[str, SqlType]) -> dict[str, pl.Series]:
    found: dict[str, pl.Series] = {}
    columns = rows.get_columns() if isinstance(rows, pl.DataFrame) else _columns_of_dictionaries(rows)
    for column in columns:
        name = column.name if isinstance(column, pl.Series) else column[0]
        known = name if name in types else name.upper()
        if known not in types:
            raise RowError(f"{source.name} has no column {name!r}; it has {', '.join(types)}")
        if known in found:
            raise RowError(f"column {known} of {source.name} is given twice; leave {name!r} out")
        where = f"column {known} of {source.name}"
        found[known] = (
            _converted(column, types[known], where)
            if isinstance(column, pl.Series)
            else _series(column[1], types[known], where)
        ).alias(known)
    return found


def _columns_of_dictionaries(rows: Iterable[Mapping[str, Any]]) -> list[tuple[str, list[Any]]]:
    listed = list(rows)
    names = dict.fromkeys(name for row in listed for name in row)
    return [(name, [row.get(name) for row in listed]) for name in names]


def _converted(column: pl.Series, type_: SqlType, where: str) -> pl.Series:
    """Return a frame's column in a type, column-wise where every value of its own type fits."""
    own, wanted = column.dtype, type_.polars
    if own in (wanted, pl.Null):
        return column.cast(wanted)
    if isinstance(own, pl.Datetime) and wanted in (pl.Datetime("ms"), pl.Int64):
        utc = column if own.time_zone is None else column.dt.convert_time_zone("UTC").dt.replace_time_zone(None)
        return utc.dt.epoch("ms").cast(wanted)
    widens = (own.is_integer() and wanted == pl.Float64) or (own == pl.Float32 and wanted == pl.Float64)
    narrower = own.is_integer() and wanted.is_integer()
    texts = isinstance(own, pl.Categorical | pl.Enum) and wanted == pl.String
    if widens or narrower or texts:
        try:
            return column.cast(wanted, strict=True)
        except PolarsError as error:
            raise RowError(f"{where} can't hold {column.dtype} as {type_}: {error}") from error
    return _series(column.to_list(), type_, where)


def _series(values: list[Any], type_: SqlType, where: str) -> pl.Series:
    converted = []
    for value in values:
        try:
            converted.append(_value(value, type_))
        except (ValueError, TypeError, ArithmeticError) as error:
            raise RowError(f"{where} can't hold {value!r}: {error}") from error
    return pl.Series(values=converted, dtype=type_.polars)


def _value(value: Any, type_: SqlType) -> Any:
    """Return a Python value as its column takes it.

    Raises:
        ValueError: it is of another kind, or doesn't fit.
    """
    if value is None:
        return None
    if isinstance(type_, ArrayType):
        return [_value(item, type_.element) for item in _of_kind(value, (list, tuple), type_)]
    if isinstance(type_, MapType):
        return [
            {"key": _value(key, type_.key), "value": _value(item, type_.value)} for key, item in _entries(value, type_)
        ]
    if isinstance(type_, StructType):
        return _struct(_of_kind(value, Mapping, type_), type_)
    if isinstance(type_, DecimalType):
        return _decimal(value, type_)
    return _PLAIN[type_.name](value, type_)


def _of_kind(value: Any, kinds: type | tuple[type, ...], type_: SqlType) -> Any:
    if not isinstance(value, kinds) or (isinstance(value, bool) and kinds is not bool):
        raise ValueError(f"{type(value).__name__} is not {type_}")
    return value


def _entries(value: Any, type_: MapType) -> Iterable[tuple[Any, Any]]:
    """Return a map's entries: of a mapping, or of the list of key and value that a frame has."""
    if isinstance(value, Mapping):
        return value.items()
    return [(entry["key"], entry["value"]) for entry in _of_kind(value, list, type_)]


def _struct(value: Mapping[str, Any], type_: StructType) -> dict[str, Any]:
    names = {name for name, _ in type_.fields}
    folded = {name if name in names else name.upper(): item for name, item in value.items()}
    unknown = next((name for name in folded if name not in names), None)
    if unknown is not None:
        raise ValueError(f"{type_} has no field {unknown!r}")
    return {name: _value(folded.get(name), inner) for name, inner in type_.fields}


def _decimal(value: Any, type_: DecimalType) -> Decimal:
    if isinstance(value, str):
        value = Decimal(value)
    number = _of_kind(value, (int, float, Decimal), type_)
    # A float is the shortest number that it is written as, not its binary fraction.
    number = Decimal(repr(number)) if isinstance(number, float) else Decimal(number)
    if not number.is_finite() or not type_.fits(number):
        raise ValueError(f"it doesn't fit {type_}")
    digits = -int(number.normalize().as_tuple().exponent)
    if digits > type_.scale:
        raise ValueError(f"it has more digits after the point than {type_}")
    return number


def _whole(value: Any, type_: SqlType) -> int:
    number = _of_kind(value, (int, float, Decimal), type_)
    limit = _LIMITS[type_.name]
    if number != int(number) or not -limit <= number < limit:
        raise ValueError(f"it doesn't fit {type_}")
    return int(number)


def _big(value: Any, type_: SqlType) -> int:
    # A BIGINT often holds a time: ROWTIME and window bounds are such.
    if isinstance(value, datetime):
        return round((_utc(value) - datetime(1970, 1, 1)).total_seconds() * 1000)
    return _whole(value, type_)


def _utc(value: datetime) -> datetime:
    return value if value.tzinfo is None else value.astimezone(UTC).replace(tzinfo=None)


def _moment(kind: type) -> Callable[[Any, SqlType], Any]:
    """Return what takes dates or times, also as text (ISO 8601)."""

    def convert(value: Any, type_: SqlType) -> Any:
        if isinstance(value, str):
            return value_from_text(value, type_)
        if isinstance(value, datetime) and kind is date:
            raise ValueError(f"datetime is not {type_}")
        found = _of_kind(value, kind, type_)
        return _utc(found) if isinstance(found, datetime) else found

    return convert


_PLAIN: Mapping[str, Callable[[Any, SqlType], Any]] = {
    "BOOLEAN": lambda value, type_: _of_kind(value, bool, type_),
    "INTEGER": _whole,
    "BIGINT": _big,
    "DOUBLE": lambda value, type_: float(_of_kind(value, (int, float, Decimal), type_)),
    "STRING": lambda value, type_: _of_kind(value, str, type_),
    "BYTES": lambda value, type_: bytes(_of_kind(value, (bytes, bytearray, memoryview), type_)),
    "DATE": _moment(date),
    "TIME": _moment(time),
    "TIMESTAMP": _moment(datetime),
}
