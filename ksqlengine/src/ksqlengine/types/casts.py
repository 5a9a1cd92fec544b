"""Conversions between KSQL types, as CAST does them: Java's narrowing, rounding and texts.

Where a value has no counterpart the result is NULL; `never_fails` says between which types that can't happen.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from datetime import date, datetime, time
from decimal import Context, Decimal, InvalidOperation
from typing import Any, cast

import polars as pl

from ksqlengine.types.sqltypes import (
    BIGINT,
    BOOLEAN,
    DATE,
    DOUBLE,
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
)
from ksqlengine.types.times import parse_partial_date, parse_partial_time, parse_partial_timestamp

KEY_FIELD = "key"  # of a MAP's entries, as types.MapType lays them out
VALUE_FIELD = "value"

_WIDER = {INTEGER: (BIGINT, DOUBLE, STRING), BIGINT: (INTEGER, DOUBLE, STRING), BOOLEAN: (STRING,), DOUBLE: (STRING,)}


def never_fails(source: SqlType, target: SqlType) -> bool:
    """Return whether CAST has a result for each value."""
    if source in (target, NULL) or target == STRING:
        return True
    if isinstance(source, DecimalType):
        fits = isinstance(target, DecimalType) and target.holds(source)
        return fits or target in (DOUBLE, INTEGER, BIGINT)
    parts = _parts(source, target)
    if parts is not None:
        return all(never_fails(old, new) for old, new in parts)
    return (
        target in _WIDER.get(source, ())
        or (source == DOUBLE and target in (INTEGER, BIGINT))
        or (source in (DATE, TIMESTAMP, TIME) and target in (DATE, TIMESTAMP, TIME))
    )


def lost(value: pl.Expr, source: SqlType, target: SqlType) -> pl.Expr:
    """Return where CAST has no result: for arrays, maps and structs where it has none for a part; NULL for NULL values."""
    if isinstance(source, ArrayType) and isinstance(target, ArrayType):
        return value.list.eval(lost(pl.element(), source.element, target.element).fill_null(False)).list.any()
    if isinstance(source, MapType) and isinstance(target, MapType):
        sides = ((KEY_FIELD, source.key, target.key), (VALUE_FIELD, source.value, target.value))
        parts = [lost(pl.element().struct.field(name), old, new).fill_null(False) for name, old, new in sides]
        return value.list.eval(parts[0] | parts[1]).list.any()
    if isinstance(source, StructType) and isinstance(target, StructType):
        targets = dict(target.fields)
        changed = [(name, old, targets[name]) for name, old in source.fields if name in targets]
        return pl.any_horizontal(
            lost(value.struct.field(name), old, new).fill_null(False) for name, old, new in changed
        )
    return converted(value, source, target).is_null() & value.is_not_null()


def by_row(columns: Mapping[str, pl.Expr], compute: Callable[[dict[str, Any]], Any], type_: pl.DataType) -> pl.Expr:
    """Return what a Python function gives for each row: for what has no columnar form.

    Args:
        columns: what the function reads, by name.
        compute: takes a row's values.
        type_: the result's type.
    """
    names = tuple(columns)

    def run(given: Sequence[pl.Series]) -> pl.Series:
        rows = pl.DataFrame(dict(zip(names, spread(given), strict=True))).to_struct().to_list()
        return _held([compute(row) for row in rows], type_)

    # The struct is made here: of one in the expression Polars loses rows, where other expressions share its parts.
    return pl.map_batches(list(columns.values()), run, return_dtype=type_, is_elementwise=True)


def _held(values: list[Any], type_: pl.DataType) -> pl.Series:
    """Return values as a column: halves of UTF-16 pairs as U+FFFD, and NULL for what is of no value of the type."""
    try:
        return pl.Series(values, dtype=type_)
    except _NOT_HELD:
        return pl.concat([_held_alone(_whole_characters(value), type_) for value in values])


_NOT_HELD = (TypeError, ValueError, OverflowError, pl.exceptions.PolarsError)


def _held_alone(value: Any, type_: pl.DataType) -> pl.Series:
    try:
        return pl.Series([value], dtype=type_)
    except _NOT_HELD:
        return pl.Series([None], dtype=type_)


def _whole_characters(value: Any) -> Any:
    if isinstance(value, str):
        return value.encode("utf-16-le", "surrogatepass").decode("utf-16-le", "replace")
    if isinstance(value, list):
        return [_whole_characters(item) for item in value]
    return {name: _whole_characters(item) for name, item in value.items()} if isinstance(value, dict) else value


def spread(given: Sequence[pl.Series]) -> list[pl.Series]:
    """Return columns of one length, of which some may be constants: they have one row for all."""
    height = min((len(series) for series in given if len(series) != 1), default=1)
    return [series if len(series) == height else series.new_from_index(0, height) for series in given]


_SIGN_TURNED = bytes(byte ^ 0x80 for byte in range(256))


def in_java_order(values: pl.Expr, type_: SqlType) -> pl.Expr:
    """Return what sorts as Java sorts the values: BYTES change the sign of each byte, and back the second time."""
    if type_.name != "BYTES":
        return values
    return by_row(
        {"data": values},
        lambda row: None if row["data"] is None else row["data"].translate(_SIGN_TURNED),
        type_.polars,
    )


def can_cast(source: SqlType, target: SqlType) -> bool:
    """Return whether CAST converts between two types (ksqlDB's table)."""
    if source in (target, NULL):
        return True
    parts = _parts(source, target)
    if parts is not None:
        return all(can_cast(old, new) for old, new in parts)
    return target.name in _CASTS.get(source.name, ())


def _parts(source: SqlType, target: SqlType) -> list[tuple[SqlType, SqlType]] | None:
    """Return the types of the parts that CAST converts between arrays, maps or structs; None for other types."""
    if isinstance(source, ArrayType) and isinstance(target, ArrayType):
        return [(source.element, target.element)]
    if isinstance(source, MapType) and isinstance(target, MapType):
        return [(source.key, target.key), (source.value, target.value)]
    if isinstance(source, StructType) and isinstance(target, StructType):
        targets = dict(target.fields)
        return [(type_, targets[name]) for name, type_ in source.fields if name in targets]
    return None


_NUMBERS = ("INTEGER", "BIGINT", "DECIMAL", "DOUBLE")
_CASTS = {
    "BOOLEAN": ("STRING",),
    "INTEGER": (*_NUMBERS, "STRING"),
    "BIGINT": (*_NUMBERS, "STRING"),
    "DECIMAL": (*_NUMBERS, "STRING"),
    "DOUBLE": (*_NUMBERS, "STRING"),
    "STRING": (*_NUMBERS, "BOOLEAN", "TIMESTAMP", "DATE", "TIME"),
    "ARRAY": ("STRING",),
    "MAP": ("STRING",),
    "STRUCT": ("STRING",),
    "TIMESTAMP": ("STRING", "DATE", "TIME"),
    "DATE": ("STRING", "TIMESTAMP"),
    "TIME": ("STRING",),
}


def converted(value: pl.Expr, source: SqlType, target: SqlType) -> pl.Expr:  # noqa: PLR0911 - one case a kind
    """Return a column converted as CAST does; NULL where a value has no counterpart."""
    if source in (target, NULL):
        return value.cast(target.polars) if source == NULL else value
    if target == STRING:
        return to_text(value, source)
    if source == STRING:
        return _from_text(value, target)
    if isinstance(source, ArrayType) and isinstance(target, ArrayType):
        return value.list.eval(converted(pl.element(), source.element, target.element))
    if isinstance(source, MapType) and isinstance(target, MapType):
        entry = pl.struct(
            converted(pl.element().struct.field(KEY_FIELD), source.key, target.key).alias(KEY_FIELD),
            converted(pl.element().struct.field(VALUE_FIELD), source.value, target.value).alias(VALUE_FIELD),
        )
        return value.list.eval(entry)
    if isinstance(source, StructType) and isinstance(target, StructType):
        return _converted_struct(value, source, target)
    return _converted_scalar(value, source, target)


def _converted_struct(value: pl.Expr, source: StructType, target: StructType) -> pl.Expr:
    sources = dict(source.fields)
    fields = [
        (
            converted(value.struct.field(name), sources[name], type_)
            if name in sources
            else pl.lit(None, dtype=type_.polars)
        ).alias(name)
        for name, type_ in target.fields
    ]
    return pl.when(value.is_not_null()).then(pl.struct(fields))


def _converted_scalar(value: pl.Expr, source: SqlType, target: SqlType) -> pl.Expr:
    if source == BIGINT and target == INTEGER:
        return value.cast(pl.Int32, wrap_numerical=True)
    if source == DOUBLE and target in (INTEGER, BIGINT):
        return _saturated(value, target)
    if isinstance(source, DecimalType) and target in (INTEGER, BIGINT):
        return _whole_part(value, source).cast(target.polars, wrap_numerical=True)
    if isinstance(target, DecimalType):
        return rounded_decimal(value, source, target)
    if source == TIMESTAMP and target == TIME:
        return value.dt.time()
    return value.cast(target.polars, strict=False)


_DIGITS_OF_EVERY_BIGINT = 18


def _whole_part(value: pl.Expr, source: DecimalType) -> pl.Expr:
    if source.precision - source.scale > _DIGITS_OF_EVERY_BIGINT:
        return by_row({"value": value}, _low_bits, pl.Int64())
    if source.scale == 0:
        return value.cast(pl.Int64, strict=False)
    text = value.cast(pl.String)
    return text.str.slice(0, text.str.len_chars() - source.scale - 1).cast(pl.Int64, strict=False)


def _low_bits(row: Mapping[str, Decimal | None]) -> int | None:
    """Return what Java's ``BigDecimal.longValue`` leaves of a number."""
    number = row["value"]
    return None if number is None else (int(number) + 2**63) % 2**64 - 2**63


def _saturated(value: pl.Expr, target: SqlType) -> pl.Expr:
    """Return a DOUBLE's whole part as Java's narrowing gives it: NaN is 0, what is too large becomes the largest."""
    smallest, largest = (-(2**31), 2**31 - 1) if target == INTEGER else (-(2**63), 2**63 - 1)
    kind = target.polars
    return (
        pl.when(value.is_nan())
        .then(pl.lit(0, dtype=kind))
        .when(value >= float(largest))
        .then(pl.lit(largest, dtype=kind))
        .when(value <= float(smallest))
        .then(pl.lit(smallest, dtype=kind))
        .otherwise(value.cast(kind, strict=False))
    )


def rounded_decimal(value: pl.Expr, source: SqlType, target: DecimalType) -> pl.Expr:
    """Return numbers as DECIMAL, rounded half up; NULL where too large."""
    if source in (INTEGER, BIGINT):
        return value.cast(target.polars, strict=False)
    if isinstance(source, DecimalType) and source.scale <= target.scale:
        return value.cast(target.polars, strict=False)
    # Polars rounds half to even; Java's HALF_UP moves the last digit away from zero at a tie. Texts keep DOUBLE's digits.
    text = value if source == STRING else value.cast(pl.String)
    return text.map_batches(lambda texts: _half_up(texts, target), return_dtype=target.polars, is_elementwise=True)


def _half_up(texts: pl.Series, target: DecimalType) -> pl.Series:
    unit = Decimal(1).scaleb(-target.scale)
    context = Context(prec=120, rounding="ROUND_HALF_UP", traps=[InvalidOperation])

    def fit(text: str | None) -> Decimal | None:
        try:
            number = None if text is None else context.create_decimal(text.strip())
            if number is None or not number.is_finite() or not target.fits(number):
                return None
            fitted = number.quantize(unit, context=context)
        except ArithmeticError:
            return None
        return fitted if target.fits(fitted) else None

    return pl.Series(texts.name, [fit(text) for text in texts], dtype=target.polars)


_MOST_PLACES = 350  # no DOUBLE has more digits on either side of the point
_MODES = {"CEILING": "ROUND_CEILING", "FLOOR": "ROUND_FLOOR", "DOWN": "ROUND_DOWN"}


def rounded_at(value: pl.Expr, places: pl.Expr, mode: str, target: SqlType) -> pl.Expr:
    """Return DECIMALs or DOUBLEs rounded to decimal places; NULL where the result's type can't hold it.

    Row by row: the digits are decimal, and places may differ.

    Args:
        value: what to round.
        places: decimal places, negative for tens.
        mode: CEILING, FLOOR, DOWN, or HALF_UP_POSITIVE (ROUND's: half goes up, also below zero).
        target: the result's type.
    """

    def compute(row: dict[str, Any]) -> Any:
        given, digits = row["value"], row["places"]
        if given is None or digits is None:
            return None
        number = Decimal(repr(given)) if isinstance(given, float) else given
        if not number.is_finite():
            return None
        half = "ROUND_HALF_UP" if number > 0 else "ROUND_HALF_DOWN"
        context = Context(prec=2 * _MOST_PLACES, rounding=_MODES.get(mode, half))
        digits = max(-_MOST_PLACES, min(digits, _MOST_PLACES))
        rounded = number.quantize(Decimal(1).scaleb(-digits), context=context)
        if isinstance(target, DecimalType):
            return rounded.quantize(Decimal(1).scaleb(-target.scale), context=context) if target.fits(rounded) else None
        return float(rounded) + 0.0  # Java's decimals have no -0

    return by_row({"value": value, "places": places}, compute, target.polars)


def to_text(value: pl.Expr, source: SqlType) -> pl.Expr:  # noqa: PLR0911 - one case a kind
    """Return values as text, as Java's ``toString`` writes them."""
    if source == STRING:
        return value
    if source == BOOLEAN:
        return pl.when(value).then(pl.lit("true")).when(~value).then(pl.lit("false"))
    if source == DOUBLE:
        return value.map_batches(java_doubles, return_dtype=pl.String, is_elementwise=True)
    if source == TIMESTAMP:
        return value.dt.strftime("%Y-%m-%dT%H:%M:%S%.3f")
    if source == DATE:
        return value.dt.strftime("%Y-%m-%d")
    if source == TIME:
        return pl.when(value.dt.second() == 0).then(value.dt.strftime("%H:%M")).otherwise(value.dt.strftime("%H:%M:%S"))
    if isinstance(source, ArrayType | MapType | StructType):
        return by_row(
            {"value": value}, lambda row: None if row["value"] is None else java_text(row["value"], source), pl.String()
        )
    return value.cast(pl.String)


def java_doubles(values: pl.Series) -> pl.Series:
    """Return doubles as Java's ``Double.toString`` writes them (see `java_double`)."""
    plain = ((values == 0) | values.abs().is_between(1e-3, 1e7, closed="left")).fill_null(True)
    texts = values.cast(pl.String)  # the same digits, for these
    if plain.all():
        return texts
    return texts.scatter((~plain).arg_true(), [java_double(value) for value in values.filter(~plain)])


def java_double(value: float) -> str:
    """Return a double as Java's ``Double.toString`` writes it: plain from 10⁻³ to below 10⁷, else with an exponent."""
    if not math.isfinite(value):
        return "NaN" if math.isnan(value) else "Infinity" if value > 0 else "-Infinity"
    if value == 0 or 1e-3 <= abs(value) < 1e7:
        text = f"{Decimal(repr(value)):f}"
        return text if "." in text else f"{text}.0"
    number = Decimal(repr(value)).normalize()
    if len(number.as_tuple().digits) == 1:  # Java writes two digits at least, the nearest ones
        number = Decimal(f"{value:.1e}").normalize()
    sign, digits, exponent = number.as_tuple()
    mantissa = "".join(map(str, digits))
    power = cast(int, exponent) + len(digits) - 1
    return f"{'-' if sign else ''}{mantissa[0]}.{mantissa[1:] or '0'}E{power}"


def java_text(value: Any, type_: SqlType) -> str:  # noqa: PLR0911 - one case a kind
    """Return one value as Java writes it inside arrays, maps and structs."""
    if value is None:
        return "null"
    if isinstance(type_, ArrayType):
        return "[" + ", ".join(java_text(item, type_.element) for item in value) + "]"
    if isinstance(type_, MapType):
        entries = in_hash_order(value, type_.key)
        pairs = (f"{java_text(e[KEY_FIELD], type_.key)}={java_text(e[VALUE_FIELD], type_.value)}" for e in entries)
        return "{" + ", ".join(pairs) + "}"
    if isinstance(type_, StructType):
        pairs = (f"{name}={java_text(value[name], kind)}" for name, kind in type_.fields if value[name] is not None)
        return "Struct{" + ",".join(pairs) + "}"
    if type_ == BOOLEAN:
        return str(value).lower()
    if type_ == TIMESTAMP:  # java.sql.Timestamp's own text
        return f"{value:%Y-%m-%d %H:%M:%S}.{f'{value:%f}'.rstrip('0') or '0'}"
    return java_double(value) if type_ == DOUBLE else str(value)


def in_hash_order(entries: list[Any], key: SqlType, buckets: int = 1) -> list[Any]:
    """Return a map's entries in the order in which Java's ``HashMap`` gives them.

    Source: ``HashMap.hash`` and ``resize``; entries of a bucket stay as they came.

    Args:
        entries: key and value of each.
        key: the keys' type.
        buckets: how many the map has at least; one that is made for its entries has no more than it needs.
    """
    if key not in (STRING, INTEGER):
        return entries
    while len(entries) > buckets * 3 // 4:
        buckets *= 2

    def bucket(entry: dict[str, Any]) -> int:
        given = entry[KEY_FIELD]
        code = 0 if given is None else given & 0xFFFFFFFF if key == INTEGER else _text_hash(given)
        return int((code ^ code >> 16) & (buckets - 1))

    return sorted(entries, key=bucket)


def _text_hash(text: str) -> int:
    """Return Java's ``String.hashCode``, which is over UTF-16."""
    code = 0
    for unit in memoryview(text.encode("utf-16-le", "surrogatepass")).cast("H"):
        code = (31 * code + unit) & 0xFFFFFFFF
    return code


def _from_text(value: pl.Expr, target: SqlType) -> pl.Expr:
    text = value.str.strip_chars()
    if target in (INTEGER, BIGINT):
        return text.cast(target.polars, strict=False)
    if target == DOUBLE:
        valid = text.str.contains(_JAVA_DOUBLE)
        return pl.when(valid).then(text.str.strip_chars_end("dDfF").cast(pl.Float64, strict=False))
    if target == BOOLEAN:
        lower = text.str.to_lowercase()
        # ksqlDB's SqlBooleans.parseBoolean: what isn't true is false, whatever it says.
        return lower.is_in(["t", "tr", "tru", "true", "y", "ye", "yes"])
    if isinstance(target, DecimalType):
        return rounded_decimal(text, STRING, target)
    return parsed_time(value, target)


_JAVA_DOUBLE = r"^[+-]?(?:NaN|Infinity|(?:\d+\.?\d*|\.\d+)(?:[eE][+-]?\d+)?[dDfF]?)$"


def parsed_time(value: pl.Expr, target: SqlType) -> pl.Expr:
    """Return text as TIMESTAMP, DATE or TIME; parts may be missing from the end (``2020-01-02T03``), zones may follow."""
    return value.map_batches(
        lambda texts: pl.Series(texts.name, [parse_time_text(text, target) for text in texts], dtype=target.polars),
        return_dtype=target.polars,
        is_elementwise=True,
    )


def parse_time_text(text: str | None, target: SqlType) -> datetime | date | time | None:
    """Return one text as TIMESTAMP (UTC), DATE or TIME, None where it is none."""
    if text is None:
        return None
    if target == DATE:
        return parse_partial_date(text)
    return parse_partial_time(text) if target == TIME else parse_partial_timestamp(text)


# ------------------------------------------------------------------------------- times as numbers, as formats write them
_DAY_MS = 86_400_000
_FIRST_MS, _LAST_MS = -62_135_596_800_000, 253_402_300_799_999  # the years 1 to 9999


def time_of_number(number: pl.Expr, type_: SqlType) -> pl.Expr:
    """Return TIMESTAMPs of ms, DATEs of days or TIMEs of ms; null before the year 1 and after 9999."""
    factor = _DAY_MS if type_.name == "DATE" else 1
    known = pl.when(number.is_between(_FIRST_MS // factor, _LAST_MS // factor)).then(number)
    match type_.name:
        case "DATE":
            return known.cast(pl.Int32).cast(pl.Date)
        case "TIME":
            return (known % _DAY_MS * 1_000_000).cast(pl.Time)
    return known.cast(type_.polars)


def number_of_time(series: pl.Series, type_: SqlType) -> pl.Series:
    """Return the number that stands for a time in JSON and in separated values: ms, for a DATE days."""
    number = series.to_physical().cast(pl.Int64)
    return number // 1_000_000 if type_.name == "TIME" else number
