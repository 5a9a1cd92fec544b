"""Read ranges from JSON lines, CSV or Parquet: good rows all, bad rows into the reject file, in bounded memory.

A file without `user_id` numbers its users by line, from 1 (a CSV file's header doesn't count). A line that is bad keeps its
number: the user it stood for is missing, nobody else's number moves.
"""

from __future__ import annotations

import csv
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import orjson
import polars as pl
import pyarrow as pa
import pyarrow.parquet as pq

from heartwatch.files.rejects import RejectFile
from heartwatch.ranges import HIGHEST_HEART_RATE, LOWEST_HEART_RATE, SCHEMA, HistoricalError

_CHUNK_ROWS = 100_000
_RATES = ("min_heart_rate", "max_heart_rate")
_HIGHEST_USER_ID = 2**31 - 1
_WHOLE_NUMBER = r"^\s*[+-]?\d{1,18}\s*$"


@dataclass(frozen=True)
class _Chunk:
    """Rows as they stand in the source.

    Attributes:
        first: line number of the first row.
        texts: each row's text.
        columns: values of SCHEMA's columns as text, None where missing; `user_id` is not there in a numbered file.
        broken: what is wrong with rows that could not even be split into fields, by position.
        header_lines: lines of the file before line 1 of the data.
    """

    first: int
    texts: list[bytes]
    columns: dict[str, pl.Series]
    broken: dict[int, str] = field(default_factory=dict)
    header_lines: int = 0


def read_ranges(path: Path, rejects: RejectFile) -> Iterator[pl.DataFrame]:
    """Read a file of ranges, a chunk at a time.

    Args:
        path: a ``.jsonl``, ``.ndjson``, ``.json``, ``.csv`` or ``.parquet`` file with min_heart_rate and max_heart_rate, and
            user_id if it isn't the line number.
        rejects: takes rows that are not JSON, miss a field, have a value that is not a whole number, a rate outside 20 to 250, a
            minimum above the maximum, or a user that an earlier row has.

    Yields:
        Frames of good rows in the file's order.

    Raises:
        HistoricalError: the file can't be read, is empty, or its header lacks a field.
    """
    reader = _READERS.get(path.suffix.lower())
    if reader is None:
        raise HistoricalError(f"ranges can't be read from {path.name!r}; it must end in {', '.join(sorted(_READERS))}")
    seen = _Seen()
    empty = True
    try:
        for chunk in reader(path):
            empty = False
            yield _good_rows(chunk, rejects, seen)
    except (OSError, pa.ArrowException) as error:
        raise HistoricalError(
            f"{str(path)!r} can't be read: {error}; check that the file is there and whole"
        ) from error
    if empty:
        raise HistoricalError(f"{str(path)!r} has no row; give a file with at least one")


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


def _good_rows(chunk: _Chunk, rejects: RejectFile, seen: _Seen) -> pl.DataFrame:
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
        rejects.add(chunk.first + position + chunk.header_lines, chunk.texts[position], reason, kind)
    return good.filter(~repeated).drop("position")


def _parse(chunk: _Chunk) -> pl.DataFrame:
    """Return the chunk with each field as text (`user_id text`) and as whole number (`user_id`), null where it is none."""
    frame = pl.DataFrame(chunk.columns).with_row_index("position")
    marks = pl.DataFrame(
        {"position": list(chunk.broken), "broken": list(chunk.broken.values())},
        schema={"position": frame.schema["position"], "broken": pl.String},
    )
    texts = {name: pl.col(name) for name in chunk.columns}
    texts.setdefault("user_id", (pl.col("position").cast(pl.Int64) + chunk.first).cast(pl.String))
    return frame.join(marks, on="position", how="left", maintain_order="left").select(
        pl.col("position").cast(pl.Int64),
        "broken",
        *[texts[name].alias(f"{name} text") for name in SCHEMA],
        *[_whole_number(texts[name]).alias(name) for name in SCHEMA],
    )


def _whole_number(text: pl.Expr) -> pl.Expr:
    return pl.when(text.str.contains(_WHOLE_NUMBER)).then(text.str.strip_chars().str.strip_prefix("+")).cast(pl.Int64)


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


def _read_json_lines(path: Path) -> Iterator[_Chunk]:
    """Split JSON lines; when no line of the first chunk has a user_id, the file numbers its users by line."""
    numbered: bool | None = None
    for first, texts in _line_chunks(path, header_lines=0):
        rows, broken = _parse_json(texts)
        if numbered is None:
            numbered = not any("user_id" in row for row in rows)
        if numbered:
            given = [position for position, row in enumerate(rows) if "user_id" in row]
            broken |= dict.fromkeys(given, "user_id in a file that numbers its users by line")
        names = _RATES if numbered else tuple(SCHEMA)
        columns = {name: _as_texts([row.get(name) for row in rows]) for name in names}
        yield _Chunk(first, texts, columns, broken)


def _parse_json(texts: list[bytes]) -> tuple[list[dict[str, Any]], dict[int, str]]:
    rows: list[dict[str, Any]] = []
    broken: dict[int, str] = {}
    for position, text in enumerate(texts):
        try:
            row = orjson.loads(text)
        except orjson.JSONDecodeError as error:
            row, broken[position] = {}, f"not JSON: {error}"
        if not isinstance(row, dict):
            row, broken[position] = {}, "not a JSON object"
        rows.append(row)
    return rows, broken


def _as_texts(values: list[Any]) -> pl.Series:
    """Return JSON values as text: whole numbers as their digits, anything else so that it can't be taken for one."""
    if set(map(type, values)) <= {int, type(None)}:
        return pl.Series(values, dtype=pl.Int128).cast(pl.String)
    as_text = [str(value) if type(value) is int else None if value is None else repr(value) for value in values]
    return pl.Series(as_text, dtype=pl.String)


def _read_csv(path: Path) -> Iterator[_Chunk]:
    """Split CSV; one line is one row, since no field holds a line break."""
    with path.open("rb") as file:
        header = file.readline().removeprefix(b"\xef\xbb\xbf").decode("utf-8", errors="backslashreplace")
    names = [name.strip() for name in next(csv.reader([header]), [])]
    _require_fields(path, names)
    wanted = [name for name in SCHEMA if name in names]
    for first, texts in _line_chunks(path, header_lines=1):
        rows = [_split(text) for text in texts]
        broken = {
            position: f"{len(row)} fields, the header has {len(names)}"
            for position, row in enumerate(rows)
            if len(row) != len(names)
        }
        for position in broken:
            rows[position] = [""] * len(names)
        columns = {name: _csv_column([row[names.index(name)] for row in rows]) for name in wanted}
        yield _Chunk(first, texts, columns, broken, header_lines=1)


def _csv_column(values: list[str]) -> pl.Series:
    text = pl.Series(values, dtype=pl.String).str.strip_chars()
    return text.set(text == "", None)


def _split(text: bytes) -> list[str]:
    try:
        return next(csv.reader([text.decode("utf-8", errors="backslashreplace")]), [])
    except csv.Error:
        return []


def _read_parquet(path: Path) -> Iterator[_Chunk]:
    """Read Parquet; a row's text is its JSON."""
    with pq.ParquetFile(path) as file:
        names = file.schema_arrow.names
        _require_fields(path, names)
        wanted = [name for name in SCHEMA if name in names]
        first = 1
        for batch in file.iter_batches(batch_size=_CHUNK_ROWS, columns=wanted):
            rows = batch.to_pylist()
            columns = {name: _as_texts([row[name] for row in rows]) for name in wanted}
            yield _Chunk(first, [orjson.dumps(row, default=repr) for row in rows], columns)
            first += batch.num_rows


def _line_chunks(path: Path, header_lines: int) -> Iterator[tuple[int, list[bytes]]]:
    """Yield the number of the first line, counted after the header, and the lines of each chunk."""
    first = 1
    with path.open("rb") as file:
        for _ in range(header_lines):
            file.readline()
        while texts := [line.rstrip(b"\r\n") for line in islice(file, _CHUNK_ROWS)]:
            if first == 1 and header_lines == 0:
                texts[0] = texts[0].removeprefix(b"\xef\xbb\xbf")
            yield first, texts
            first += len(texts)


def _require_fields(path: Path, names: list[str]) -> None:
    missing = [name for name in _RATES if name not in names]
    if missing:
        raise HistoricalError(
            f"{str(path)!r} has no field {' and no field '.join(missing)}; each row needs min_heart_rate and max_heart_rate, "
            "a CSV file names them in its first line"
        )


_READERS: dict[str, Callable[[Path], Iterator[_Chunk]]] = {
    ".jsonl": _read_json_lines,
    ".ndjson": _read_json_lines,
    ".json": _read_json_lines,
    ".csv": _read_csv,
    ".parquet": _read_parquet,
}
