"""Read ranges from CSV, JSON or Parquet: good rows all, bad rows into the reject file, in bounded memory.

A file with nothing but the two rates numbers its users by line, from 1 (a CSV file's header doesn't count). A line that is bad
keeps its number: the user it stood for is missing, nobody else's number moves. A file that has other columns but no `user_id`
is refused: one of them may be the user, under another name.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import polars as pl
import pyarrow as pa
import pyarrow.parquet as pq

from heartwatch.files import tables
from heartwatch.files.columns import whole_numbers
from heartwatch.files.rejects import RejectFile
from heartwatch.files.tables import Chunk, TableError, plain
from heartwatch.ranges import HIGHEST_HEART_RATE, LOWEST_HEART_RATE, SCHEMA, HistoricalError

_RATES = ("min_heart_rate", "max_heart_rate")
_HIGHEST_USER_ID = 2**31 - 1


def read_ranges(path: Path, rejects: RejectFile) -> Iterator[pl.DataFrame]:
    """Read a file of ranges, a chunk at a time.

    Args:
        path: a table as `heartwatch.files.tables` reads them, with min_heart_rate and max_heart_rate, and user_id if it isn't
        the
            line number.
        rejects: takes rows that are not JSON, miss a field, have a value that is not a whole number, a rate outside 20 to 250,
        a
            minimum above the maximum, or a user that an earlier row has.

    Yields:
        Frames of good rows in the file's order.

    Raises:
        HistoricalError: the file can't be read, is empty, or its header lacks a field.
    """
    seen = _Seen()
    empty, numbered = True, None
    try:
        for chunk in tables.chunks(path, list(SCHEMA)):
            if numbered is None:
                numbered = _is_numbered(path, chunk)
            elif numbered:
                # Rows of JSON may have columns of their own.
                _refuse_others(path, chunk)
            if len(chunk):
                empty = False
                yield _good_rows(_numbered(chunk) if numbered else _complete(chunk), rejects, seen)
    except TableError as error:
        raise HistoricalError(f"ranges can't be read: {error}") from error
    if empty:
        raise HistoricalError(f"{str(path)!r} has no row; give a file with at least one")


def _is_numbered(path: Path, first: Chunk) -> bool:
    """Return whether a file numbers its users by line, by its first chunk.

    Raises:
        HistoricalError: it lacks a rate, or has no user_id but columns that may be it.
    """
    missing = [name for name in _RATES if name not in first.columns]
    is_text = not len(first) or bool(first.names)
    if missing and is_text and not _is_json(path):
        shown = f"; its columns are {first.names[:20]!r}" if first.names else ""
        raise HistoricalError(
            f"{str(path)!r} has no field {' and no field '.join(missing)}{shown}; each row needs min_heart_rate and "
            "max_heart_rate, a CSV file names them in its first line"
        )
    if "user_id" in first.columns or (missing and not first.columns):
        return False
    _refuse_others(path, first)
    return True


def _refuse_others(path: Path, chunk: Chunk) -> None:
    """Refuse a file whose users would be numbered though another column may be them.

    Raises:
        HistoricalError: there is one.
    """
    others = [name for name in chunk.names if plain(name) not in map(plain, SCHEMA)]
    if others:
        raise HistoricalError(
            f"{str(path)!r} has no column user_id, but {others[:20]!r}: name the one with the users user_id; only a file "
            "with nothing but min_heart_rate and max_heart_rate numbers its users by line"
        )


def _is_json(path: Path) -> bool:
    return tables.suffix_of(path) not in (".csv", ".tsv", ".parquet")


def _numbered(chunk: Chunk) -> Chunk:
    """Return a chunk whose users are its lines' numbers; a row that names a user all the same is bad."""
    given = chunk.columns.get("user_id")
    named = [] if given is None else np.flatnonzero(given.is_not_null().to_numpy()).tolist()
    broken = {**chunk.broken, **dict.fromkeys(named, "user_id in a file that numbers its users by line")}
    columns = {**chunk.columns, "user_id": pl.Series(chunk.numbers, dtype=pl.Int64)}
    return _complete(replace(chunk, columns=columns, broken=broken))


def _complete(chunk: Chunk) -> Chunk:
    nothing = pl.Series([None] * len(chunk), dtype=pl.String)
    return replace(chunk, columns={name: chunk.columns.get(name, nothing) for name in SCHEMA})


def count_rows(path: Path) -> int:
    """Return about how many rows a file has, bad ones and a header included: what a progress is measured against.

    Raises:
        HistoricalError: the file can't be read.
    """
    try:
        if path.suffix.lower() == ".parquet":
            return int(pq.read_metadata(path).num_rows)
        with path.open("rb") as file:
            return sum(block.count(b"\n") for block in iter(lambda: file.read(1 << 20), b""))
    except (OSError, pa.ArrowException) as error:
        raise HistoricalError(
            f"{str(path)!r} can't be read: {error}; check that the file is there and whole"
        ) from error


class _Seen:
    """The user ids of all rows so far: four bytes a user."""

    def __init__(self) -> None:
        self._ids = np.empty(0, dtype=np.int32)

    def repeated(self, ids: pl.Series) -> pl.Series:
        """Return which ids were there before, in an earlier call or further up; and remember them all."""
        given = ids.to_numpy()
        position = np.searchsorted(self._ids, given)
        known = np.zeros(given.size, dtype=bool)
        inside = position < self._ids.size
        known[inside] = self._ids[position[inside]] == given[inside]
        repeated = pl.Series(known) | ~ids.is_first_distinct()
        self._ids = np.sort(np.concatenate([self._ids, given]), kind="stable")
        return repeated


def _good_rows(chunk: Chunk, rejects: RejectFile, seen: _Seen) -> pl.DataFrame:
    """Return the chunk's good rows and reject the others."""
    rows = _parse(chunk)
    wrong = pl.any_horizontal(fault.fill_null(False) for fault, _, _ in _checks()) | pl.col("broken").is_not_null()
    good = rows.filter(~wrong).select("position", *[pl.col(name).cast(kind) for name, kind in SCHEMA.items()])
    repeated = seen.repeated(good["user_id"])
    duplicates = good.filter(repeated).select(
        "position",
        reason=pl.format("user_id {} is in an earlier row", "user_id"),
        kind=pl.lit("duplicate user_id"),
    )
    bad = pl.concat([rows.filter(wrong).select("position", reason=_reason(), kind=_kind()), duplicates])
    for position, reason, kind in bad.sort("position").iter_rows():
        rejects.add(chunk.lines[position], chunk.texts[position], reason, kind)
    return good.filter(~repeated).drop("position")


def _parse(chunk: Chunk) -> pl.DataFrame:
    """Return the chunk with each field as text (`user_id text`) and as whole number (`user_id`), null where it is none."""
    broken = pl.Series([chunk.broken.get(position) for position in range(len(chunk))], dtype=pl.String)
    columns = chunk.columns
    return pl.DataFrame(
        {
            "position": pl.Series(range(len(chunk)), dtype=pl.Int64),
            "broken": broken,
            **{f"{name} text": _shown(columns[name]) for name in SCHEMA},
            **{name: whole_numbers(columns[name], chunk.decimal_comma) for name in SCHEMA},
        }
    )


def _shown(column: pl.Series) -> pl.Series:
    """Return values as a person would write them."""
    if column.dtype == pl.String or column.dtype.is_integer():
        return column.cast(pl.String)
    return pl.Series([None if value is None else repr(value) for value in column], dtype=pl.String)


def _checks() -> Iterator[tuple[pl.Expr, str, pl.Expr]]:
    """Yield, most basic first: what is wrong, its name, and a sentence with the value."""
    for name in SCHEMA:
        text = pl.col(f"{name} text")
        yield text.is_null(), f"missing {name}", pl.lit(f"field {name} is missing")
    for name in SCHEMA:
        text = pl.col(f"{name} text")
        yield (
            pl.col(name).is_null(),
            f"{name} not a whole number",
            pl.format("{} {} is not a whole number", pl.lit(name), text),
        )
    outside = ~pl.col("user_id").is_between(1, _HIGHEST_USER_ID)
    yield (
        outside,
        "user_id out of bounds",
        pl.format("user_id {} is outside 1 to {}", "user_id", pl.lit(_HIGHEST_USER_ID)),
    )
    bounds = f"outside {LOWEST_HEART_RATE} to {HIGHEST_HEART_RATE}"
    for name in _RATES:
        outside = ~pl.col(name).is_between(LOWEST_HEART_RATE, HIGHEST_HEART_RATE)
        yield outside, f"{name} out of bounds", pl.format("{} {} is {}", pl.lit(name), name, pl.lit(bounds))
    yield (
        pl.col("min_heart_rate") > pl.col("max_heart_rate"),
        "minimum above maximum",
        pl.format("min_heart_rate {} is above max_heart_rate {}", *_RATES),
    )


def _reason() -> pl.Expr:
    return pl.coalesce("broken", *[pl.when(wrong).then(sentence) for wrong, _, sentence in _checks()])


def _kind() -> pl.Expr:
    unreadable = pl.when(pl.col("broken").is_not_null()).then(pl.lit("not readable"))
    return pl.coalesce(unreadable, *[pl.when(wrong).then(pl.lit(kind)) for wrong, kind, _ in _checks()])
