"""JSON objects to columns, many at once, where they are written as the columns' types say.

Arrow's JSON reader is strict: a number is not a text, a text not a number, a fraction not an integer. So what it reads is what
ksqlDB's looser rules would give, and what it refuses is left to those rules, message by message (`formats.json.JsonSerde`).
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import orjson
import polars as pl
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.json

from ksqlengine.errors import KsqlEngineError
from ksqlengine.types.casts import number_of_time, time_of_number
from ksqlengine.types.sqltypes import ArrayType, SqlType, StructType

_NO_JSON_NUMBER = re.compile(rb"[\s:,\[]-?(?:NaN|Inf)")  # Arrow's reader takes them; may also stand in a text

_PLAIN: Mapping[str, pa.DataType] = {
    "BOOLEAN": pa.bool_(),
    "INTEGER": pa.int64(),
    "BIGINT": pa.int64(),
    "DOUBLE": pa.float64(),
    "STRING": pa.string(),
}
_TIMES = frozenset({"TIMESTAMP", "DATE", "TIME"})  # read as BIGINT

Fields = Sequence[tuple[str, SqlType]]


class _OtherwiseWrittenError(KsqlEngineError):
    """The messages aren't written as the columns' types say."""


def can_read(fields: Fields) -> bool:
    """Say whether fields of these names and types can be read many at once."""
    names = {name.upper() for name, _ in fields}
    return len(names) == len(fields) and all(type_.name in _TIMES or _can_read(type_) for _, type_ in fields)


def _can_read(type_: SqlType) -> bool:
    if isinstance(type_, ArrayType):
        return _can_read(type_.element)
    if isinstance(type_, StructType):
        names = {name.upper() for name, _ in type_.fields}
        return len(names) == len(type_.fields) and all(_can_read(inner) for _, inner in type_.fields)
    return type_.name in _PLAIN


def looks_like_object(values: pa.LargeBinaryArray) -> npt.NDArray[np.bool_]:
    """Say of each message whether it begins and ends as an object does; not so for nulls."""
    begins = pc.equal(pc.binary_slice(values, 0, 1), b"{")
    ends = pc.equal(pc.binary_slice(values, -1, 2**31 - 1), b"}")
    return pc.fill_null(pc.and_(begins, ends), False).to_numpy(zero_copy_only=False)


def read_objects(values: pa.LargeBinaryArray, fields: Fields) -> pl.DataFrame | None:
    """Return the columns of messages, one row each; None where one of them is to be read by the looser rules.

    The messages are one text for the reader. Each begins with a brace, and the line break between two of them can be neither
    in a string nor between a closing and an opening brace of one object, so that no object reaches from one message into the
    next; as many objects as messages therefore means one a message.

    Args:
        values: messages without nulls, each of which `looks_like_object`.
        fields: names and types of the columns, which `can_read`; names are found without regard to case.
    """
    text = b"\n".join(values.to_pylist())
    if (b"NaN" in text or b"Inf" in text) and _NO_JSON_NUMBER.search(text):
        return None
    try:
        values.cast(pa.large_string())  # invalid UTF-8 would pass the reader
        table = _parsed(text, pa.schema(_sought(fields, orjson.loads(values[0].as_py()))))
        if len(table) != len(values):
            return None
        names = _found(fields, table.schema)
        wanted = table.select(names)
        wanted.validate(full=True)  # Arrow 26 makes wrong offsets of a list in a struct that no message has
        frame = pl.DataFrame(pl.from_arrow(wanted))
        columns = [
            _column(frame[name], type_, table.schema.field(name).type)
            for name, (_, type_) in zip(names, fields, strict=True)
        ]
    except (pa.ArrowInvalid, orjson.JSONDecodeError, _OtherwiseWrittenError):
        return None
    return pl.DataFrame([series.alias(name) for series, (name, _) in zip(columns, fields, strict=True)])


def _parsed(text: bytes, schema: pa.Schema) -> pa.Table:
    whole = pyarrow.json.ReadOptions(use_threads=False, block_size=len(text) + 1)
    options = pyarrow.json.ParseOptions(explicit_schema=schema, unexpected_field_behavior="infer")
    return pyarrow.json.read_json(pa.BufferReader(text), read_options=whole, parse_options=options).combine_chunks()


def _sought(fields: Fields, sample: Any) -> list[pa.Field]:
    """Return the fields to look for, named as one message names them."""
    there = sample if isinstance(sample, dict) else {}
    folded = {name.upper(): name for name in there}
    names = [name if name in there else folded.get(name, name) for name, _ in fields]
    return [pa.field(name, _arrow(type_, there.get(name))) for name, (_, type_) in zip(names, fields, strict=True)]


def _arrow(type_: SqlType, sample: Any) -> pa.DataType:
    if isinstance(type_, ArrayType):
        return pa.list_(_arrow(type_.element, next(iter(sample), None) if isinstance(sample, list) else None))
    if isinstance(type_, StructType):
        return pa.struct(_sought(type_.fields, sample))
    return pa.int64() if type_.name in _TIMES else _PLAIN[type_.name]


def _found(fields: Fields, there: Iterable[pa.Field]) -> list[str]:
    """Return the names that the messages give the fields: one each, as they may not be written in two ways."""
    folded: dict[str, list[str]] = {}
    for field in there:
        folded.setdefault(field.name.upper(), []).append(field.name)
        # A name that isn't in upper case must be written as it is.
        if field.name != field.name.upper():
            folded.setdefault(field.name, []).append(field.name)
    names = [folded[name] for name, _ in fields]
    if any(len(ways) > 1 for ways in names):
        raise _OtherwiseWrittenError
    return [way for (way,) in names]


def _column(series: pl.Series, type_: SqlType, read_as: pa.DataType) -> pl.Series:
    """Return a column in the engine's type; integers that are too large wrap, as Jackson's do."""
    if type_.name in _TIMES:
        times = pl.select(time_of_number(pl.lit(series), type_)).to_series()
        if times.null_count() > series.null_count():
            raise _OtherwiseWrittenError
        return times
    return pl.select(_expression(pl.lit(series), type_, read_as)).to_series()


def _expression(values: pl.Expr, type_: SqlType, read_as: pa.DataType) -> pl.Expr:
    if isinstance(type_, ArrayType):
        return values.list.eval(_expression(pl.element(), type_.element, read_as.value_type))
    if isinstance(type_, StructType):
        names = _found(type_.fields, read_as)
        inner = [
            _expression(values.struct.field(found), field, read_as.field(found).type).alias(name)
            for found, (name, field) in zip(names, type_.fields, strict=True)
        ]
        return pl.when(values.is_not_null()).then(pl.struct(inner))
    return values.cast(type_.polars, wrap_numerical=True) if type_.name == "INTEGER" else values


def can_write(fields: Fields) -> bool:
    """Say whether fields of these types can be written many at once."""
    return all(type_.name in _PLAIN or type_.name in _TIMES for _, type_ in fields)


def write_objects(frame: pl.DataFrame, fields: Fields) -> list[bytes | None] | None:
    """Return the rows of a frame as JSON objects; None where a number has no form in JSON.

    Args:
        frame: the columns.
        fields: names and types of the columns, which one `can_write`.
    """
    columns = [number_of_time(frame[name], type_) if type_.name in _TIMES else frame[name] for name, type_ in fields]
    if not all(series.is_finite().all() for series in columns if series.dtype == pl.Float64):
        return None
    objects = pl.DataFrame(columns).select(pl.struct(pl.all()).struct.json_encode())
    return objects.to_series().cast(pl.Binary).to_list()
