"""Tables that others wrote: CSV of any delimiter, JSON lines, JSON arrays, and Parquet; a chunk of rows at a time.

Rules:

- A byte-order mark says the encoding; without one it is UTF-8, or UTF-16 where every second byte is zero. A line that is
  not UTF-8 is read as Windows-1252. Lines end with LF, CRLF or CR.
- The delimiter is that of ``, ; tab |`` which gives the first line the most wanted columns; a line ``sep=;`` before it is
  skipped. Where it isn't the comma, a comma in a number is the decimal mark.
- Columns are known by their names without case, spaces, hyphens and underscores: ``User ID`` is ``user_id``. An exact name
  counts first.
- A CSV file's header is its first line, or, where that has none of the wanted columns, the one among the next 20 that has most.
  Where a column stands twice, a row whose values differ there is bad: nobody guesses which is right.
- A JSON file is an array of objects, an object that holds one such array (in an object within it too), or lines of objects.
- Values in objects are not looked for: an object or list where a value should be makes the row bad, and its dotted paths are
  named.

A row that can't be taken apart is given with its reason; the others go on.
"""

from __future__ import annotations

import csv
import io
import itertools
import json
import re
import zipfile
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO, Any, BinaryIO, cast

import orjson
import polars as pl
import pyarrow as pa
import pyarrow.parquet as pq

from heartwatch.errors import HeartWatchError
from heartwatch.files.packed import DAMAGES, LARGEST, ZIP, is_hidden, opener_of, stem_suffix
from heartwatch.files.text import encoding_of

CHUNK_ROWS = 100_000
SUFFIXES = (".csv", ".json", ".jsonl", ".ndjson", ".parquet", ".tsv")
_DELIMITERS = ",;\t|"
_LONGEST_FIELD = 100  # lines that a quoted field may go on for
_MOST_NAMES = 100
_DEEPEST_ROWS = 3
_MOST_LINES_BEFORE = 20  # a title, or who exported it, stands before the header
_DAMAGES = (*DAMAGES, UnicodeError)


class TableError(HeartWatchError):
    """A table can't be read; the message names the file, the reason and the remedy."""


@dataclass(frozen=True)
class Chunk:
    """Rows of a table.

    Attributes:
        names: columns of the file as it names them; for JSON, those of this chunk's rows.
        lines: each row's line in the file, from 1 (number of the row or element in Parquet and JSON arrays).
        numbers: each row's number, from 1: its line, not counting a header.
        texts: each row's text.
        columns: values of the wanted columns that the file has: whole numbers, floats, texts or times; null where missing.
        unfit: by column, the rows whose value is of a kind that no column has (objects, lists, true and false), and what it is.
        broken: what is wrong with rows that could not be taken apart, by position.
        decimal_comma: a comma in a number is the decimal mark.
    """

    names: list[str]
    lines: Sequence[int] = ()
    numbers: Sequence[int] = ()
    texts: Sequence[bytes] = ()
    columns: dict[str, pl.Series] = field(default_factory=dict)
    unfit: dict[str, dict[int, str]] = field(default_factory=dict)
    broken: dict[int, str] = field(default_factory=dict)
    decimal_comma: bool = False

    def __len__(self) -> int:
        return len(self.lines)


def is_table(path: Path) -> bool:
    """Return whether a file's name is that of a table, compressed or not, or of a table's archive: ``events.csv.zip``."""
    return suffix_of(path) in SUFFIXES


def suffix_of(path: Path) -> str:
    """Return a table's suffix, lower case, without that of a compression or of an archive of this table alone."""
    return stem_suffix(path.stem if path.suffix.lower() == ".zip" else path.name)


def chunks(path: Path, wanted: Sequence[str], rows: int = CHUNK_ROWS) -> Iterator[Chunk]:
    """Read a table.

    Args:
        path: the file; its name ends in one of `SUFFIXES`, or in that and ``.gz``, ``.bz2``, ``.xz``, ``.zst`` or ``.zip``.
        wanted: columns to give, where the file has them.
        rows: rows a chunk, at most.

    Yields:
        chunks in the file's order; at least one, which has no row where the file has none.

    Raises:
        TableError: the file can't be read.
    """
    suffix = suffix_of(path)
    if suffix not in SUFFIXES:
        raise TableError(f"{path.name!r} is not a table; it must end in {', '.join(SUFFIXES)}")
    try:
        with path.open("rb") as file:
            yield from _READERS[suffix](_unpacked(file), wanted, rows)
    except (pa.ArrowException, zipfile.BadZipFile, NotImplementedError, RuntimeError, *_DAMAGES) as error:
        raise TableError(f"{str(path)!r} can't be read: {error}; check that the file is there and whole") from error


def plain(name: str) -> str:
    """Return a column's name as names are compared."""
    return re.sub(r"[\W_]+", "", name.casefold())


def found_columns(names: Iterable[str], wanted: Sequence[str]) -> dict[str, str]:
    """Return by wanted column the file's name for it; an exact name counts before one that is alike."""
    given = list(names)
    alike = {plain(name): name for name in reversed(given)}
    exact = {name.strip(): name for name in reversed(given)}
    found = {name: exact.get(name) or alike.get(plain(name)) for name in wanted}
    return {name: source for name, source in found.items() if source is not None}


def _unpacked(file: BinaryIO) -> io.BufferedReader:
    buffered = cast(io.BufferedReader, file)
    head = buffered.peek(8)[:8]
    opener = opener_of(head)
    if head.startswith(ZIP):
        return io.BufferedReader(cast(io.RawIOBase, _only_member(file)))
    return buffered if opener is None else io.BufferedReader(cast(io.RawIOBase, opener(buffered)))


def _only_member(file: BinaryIO) -> IO[bytes]:
    archive = zipfile.ZipFile(file)
    names = [name for name in archive.namelist() if not name.endswith("/") and not is_hidden(name)]
    tables = [name for name in names if stem_suffix(name) in SUFFIXES] or names
    if len(tables) != 1:
        raise zipfile.BadZipFile(f"the archive has {len(tables)} tables {tables[:5]!r}, unpack it and give one of them")
    return archive.open(tables[0])


# --- lines


def _lines(file: io.BufferedReader) -> Iterator[tuple[int, str]]:
    """Yield numbered lines without their ends; blank ones at the end of the file are none.

    What is not UTF-8 is in them as lone surrogates.
    """
    encoding, _ = encoding_of(file.peek(4)[:4])
    errors = "surrogateescape" if encoding == "utf-8" else "replace"
    text = io.TextIOWrapper(file, encoding=encoding, errors=errors, newline=None)
    blank: list[int] = []
    for number, line in enumerate(text, 1):
        stripped = line.rstrip("\n")
        if number == 1:
            stripped = stripped.removeprefix("\ufeff")
        if not stripped.strip(" \t\0\x1a"):
            blank.append(number)
            continue
        yield from ((empty, "") for empty in blank)
        blank.clear()
        yield number, stripped
    text.detach()


def _until_damage(lines: Iterator[tuple[int, str]], damages: list[str]) -> Iterator[tuple[int, str]]:
    """Yield lines until a compressed file ends early or is damaged."""
    try:
        yield from lines
    except (*DAMAGES, zipfile.BadZipFile) as error:
        damages.append(f"the compressed file is damaged, the rest is not read: {error}")


def _raw(text: str) -> bytes:
    return text.encode("utf-8", errors="surrogateescape")


# --- CSV


def _read_csv(file: io.BufferedReader, wanted: Sequence[str], rows: int) -> Iterator[Chunk]:
    damages: list[str] = []
    given = ((number, line) for number, line in _until_damage(_lines(file), damages) if line)
    (number, header), delimiter, lines = _header(given, wanted)
    names = [name.strip().strip("'\"") for name in _split(header, delimiter) or []]
    while names and not names[-1]:
        names.pop()
    columns = found_columns(names, wanted)
    places = {name: _places(names, source) for name, source in columns.items()}
    source = _Records(lines, delimiter, len(names))
    empty = True
    while part := source.take(rows):
        empty = False
        yield _csv_chunk(part, names, places, number, delimiter)
    if damages:
        yield Chunk(names, [source.line + 1], [source.line + 1 - number], [b""], broken={0: damages[0]})
    elif empty:
        yield _csv_chunk([], names, places, number, delimiter)


_Line = tuple[int, str]
"""A line's number and text."""


def _header(lines: Iterator[_Line], wanted: Sequence[str]) -> tuple[_Line, str, Iterator[_Line]]:
    """Return the header, the delimiter and the lines behind the header."""

    def score(line: _Line, delimiter: str) -> tuple[int, int]:
        fields = _split(line[1], delimiter) or []
        return len(found_columns(fields, wanted)), len(fields)

    def delimiter_of(line: _Line) -> str:
        return max(_DELIMITERS, key=lambda delimiter: score(line, delimiter))

    first = next(lines, (0, ""))
    told = re.fullmatch(r"\s*\"?sep=(.)\"?\s*", first[1], re.IGNORECASE)
    if told:
        return next(lines, (first[0], "")), told[1], lines
    if score(first, delimiter_of(first))[0]:
        return first, delimiter_of(first), lines
    ahead = [first, *itertools.islice(lines, _MOST_LINES_BEFORE)]
    scores = [score(line, delimiter_of(line))[0] for line in ahead]
    place = scores.index(max(scores)) if max(scores) > 1 else 0
    return ahead[place], delimiter_of(ahead[place]), itertools.chain(ahead[place + 1 :], lines)


def _places(names: list[str], source: str) -> list[int]:
    """Return where a column stands: more than once where its name does."""
    return [place for place, name in enumerate(names) if name == source]


@dataclass(frozen=True)
class _Record:
    line: int
    text: str
    fields: list[str]
    broken: str | None = None


class _Records:
    """Takes CSV's records from lines: a quoted field may go on over some, but an open quote swallows no more than its line."""

    def __init__(self, lines: Iterator[tuple[int, str]], delimiter: str, width: int) -> None:
        self._lines, self._delimiter, self._width = lines, delimiter, width
        self._again: deque[tuple[int, str]] = deque()
        self.line = 1

    def take(self, rows: int) -> list[_Record]:
        """Return the next records, none at the end."""
        found: list[_Record] = []
        while len(found) < rows and (line := self._next()) is not None:
            found.append(self._record(*line))
        return found

    def _next(self) -> tuple[int, str] | None:
        line = self._again.popleft() if self._again else next(self._lines, None)
        if line is not None:
            self.line = line[0]
        return line

    def _record(self, number: int, line: str) -> _Record:
        if line.count('"') % 2:
            return self._over_lines(number, line)
        return self._of(number, line)

    def _over_lines(self, number: int, line: str) -> _Record:
        more: list[tuple[int, str]] = []
        while len(more) < _LONGEST_FIELD and (following := self._next()) is not None:
            more.append(following)
            if following[1].count('"') % 2:
                record = self._of(number, "\n".join([line, *(text for _, text in more)]))
                if record.broken is None:
                    return record
                break
        self._again.extendleft(reversed(more))
        return self._of(number, line)

    def _of(self, number: int, line: str) -> _Record:
        text = _as_windows(line)
        fields = _split(text, self._delimiter)
        if fields is None:
            return _Record(number, line, [""] * self._width, "the fields can't be told apart")
        while len(fields) > self._width and not fields[-1].strip():
            fields.pop()
        if len(fields) != self._width:
            broken = f"{len(fields)} fields, the header has {self._width}"
            return _Record(number, line, [""] * self._width, broken)
        return _Record(number, line, fields)


def _as_windows(line: str) -> str:
    """Return a line that is not UTF-8 as Windows-1252."""
    if line.isascii():
        return line
    try:
        line.encode()
    except UnicodeEncodeError:
        return _raw(line).decode("cp1252", errors="replace")
    return line


def _split(line: str, delimiter: str) -> list[str] | None:
    if '"' not in line and len(line) < csv.field_size_limit():
        return line.split(delimiter)
    try:
        return next(csv.reader(io.StringIO(line, newline=""), delimiter=delimiter, skipinitialspace=True), [])
    except csv.Error:
        return None


def _csv_chunk(
    part: list[_Record], names: list[str], places: dict[str, list[int]], header_line: int, delimiter: str
) -> Chunk:
    broken = {place: record.broken for place, record in enumerate(part) if record.broken is not None}
    for name, standing in places.items():
        for row, record in enumerate(part) if len(standing) > 1 else ():
            values = {record.fields[place].strip() for place in standing}
            if len(values) > 1:
                broken.setdefault(row, f"column {name} stands {len(standing)} times, with {sorted(values)!r}")
    return Chunk(
        names,
        [record.line for record in part],
        [record.line - header_line for record in part],
        [_raw(record.text) for record in part],
        {name: _csv_column([record.fields[standing[0]] for record in part]) for name, standing in places.items()},
        broken=broken,
        decimal_comma=delimiter != ",",
    )


def _csv_column(values: list[str]) -> pl.Series:
    text = pl.Series(values, dtype=pl.String).str.strip_chars()
    return text.set(text == "", None)


# --- JSON


def _read_json(file: io.BufferedReader, wanted: Sequence[str], rows: int) -> Iterator[Chunk]:
    """Read an array, or lines: which of them, the first character says, and where it may be either, what can be read."""
    damages: list[str] = []
    lines = _until_damage(_lines(file), damages)
    head = list(itertools.islice(lines, 50))
    filled = [line.strip() for _, line in head if line.strip()]
    first = filled[0] if filled else ""
    lines = itertools.chain(head, lines)
    # One object alone may hold the rows.
    if first[:1] not in ("[", "{") or (first[0] == "{" and len(filled) > 1 and any(map(_is_object, filled))):
        source = _of_lines(lines)
    else:
        source = _of_document(lines)
    empty, last = True, 0
    while part := list(itertools.islice(source, rows)):
        empty, last = False, part[-1][0]
        yield json_chunk(part, wanted)
    if damages:
        yield Chunk([], [last + 1], [last + 1], [b""], broken={0: damages[0]})
    elif empty:
        yield Chunk([])


JsonRow = tuple[int, bytes | None, Any, str | None]
"""A row's number, its text (None: as the value is written), its value, and what is wrong with it."""


def _of_lines(lines: Iterable[tuple[int, str]]) -> Iterator[JsonRow]:
    for number, line in lines:
        text = _raw(line)
        try:
            # Lines of an array that has lost its brackets end with commas.
            yield number, text, orjson.loads(_as_windows(line).rstrip().removesuffix(",")), None
        except (orjson.JSONDecodeError, RecursionError) as error:
            yield number, text, None, f"not JSON: {error}"


def _of_document(lines: Iterable[tuple[int, str]]) -> Iterator[JsonRow]:
    kept: list[str] = []
    size = 0
    for _, line in lines:
        kept.append(_as_windows(line))
        size += len(line) + 1
        if size > LARGEST:
            raise TableError(f"a JSON array of more than {LARGEST} bytes can't be read; write one object a line")
    text = "\n".join(kept)
    whole = _loaded(text)
    if isinstance(whole, dict):
        lists = list(_lists_of_objects(whole))
        whole = lists[0] if len(lists) == 1 else [whole]
    if isinstance(whole, list) and not (len(kept) == 1 and whole and not any(isinstance(row, dict) for row in whole)):
        yield from ((number, None, value, None) for number, value in enumerate(whole, 1))
    elif whole is None and isinstance(_first_element(text), dict):
        yield from _elements(text)
    else:
        yield from _of_lines(enumerate(kept, 1))


def _lists_of_objects(value: dict[str, Any], depth: int = 0) -> Iterator[list[Any]]:
    """Yield the lists of objects that an object holds, itself or in objects within it."""
    for inner in value.values():
        if isinstance(inner, list) and any(isinstance(row, dict) for row in inner):
            yield inner
        elif isinstance(inner, dict) and depth < _DEEPEST_ROWS:
            yield from _lists_of_objects(inner, depth + 1)


def _is_object(text: str) -> bool:
    return isinstance(_loaded(_as_windows(text).removesuffix(",")), dict)


def _loaded(text: str) -> Any:
    try:
        return orjson.loads(_raw(text))
    except (orjson.JSONDecodeError, RecursionError):
        return None


def _first_element(text: str) -> Any:
    begin = re.match(r"[\s\[,]*", text)
    try:
        return json.JSONDecoder().raw_decode(text, begin.end() if begin else 0)[0]
    except (ValueError, RecursionError):
        return None


def _elements(text: str) -> Iterator[JsonRow]:
    """Yield an array's elements one by one: after one that is damaged, reading goes on at the next object."""
    decoder, between = json.JSONDecoder(), re.compile(r"[\s,\[\]]*")
    place, number = 0, 0
    while True:
        begin = between.match(text, place)
        place = begin.end() if begin else place
        if place >= len(text):
            return
        number += 1
        try:
            value, end = decoder.raw_decode(text, place)
            yield number, _raw(text[place:end]), value, None
        except (ValueError, RecursionError) as error:
            following = text.find("{", place + 1)
            end = len(text) if following < 0 else following
            yield number, _raw(text[place:end]), None, f"not JSON: {error}"
        place = end


def json_chunk(part: Sequence[JsonRow], wanted: Sequence[str]) -> Chunk:
    """Return rows of JSON values as columns.

    Args:
        part: number, text, value and fault of each row.
        wanted: columns to give.
    """
    broken = {place: fault for place, (_, _, _, fault) in enumerate(part) if fault is not None}
    rows: list[dict[str, Any]] = []
    for place, (_, _, value, fault) in enumerate(part):
        if fault is None and not isinstance(value, dict):
            broken[place] = "not a JSON object"
        rows.append(value if isinstance(value, dict) else {})
    names = list(itertools.islice(dict.fromkeys(itertools.chain.from_iterable(rows)), _MOST_NAMES))
    columns: dict[str, pl.Series] = {}
    unfit: dict[str, dict[int, str]] = {}
    for name in wanted:
        sources = _sources(rows, names, name)
        if not sources:
            continue
        values = [next((row[source] for source in sources if row.get(source) is not None), None) for row in rows]
        columns[name], unfit[name] = series_of(values)
    numbers = [number for number, _, _, _ in part]
    texts = [_written(value) if text is None else text for _, text, value, _ in part]
    return Chunk(names, numbers, numbers, texts, columns, unfit, broken)


def _written(value: Any) -> bytes:
    try:
        return orjson.dumps(value)
    except orjson.JSONEncodeError:  # nested too deep to be written, though it could be read
        return repr(type(value)).encode()


def _sources(rows: Sequence[dict[str, Any]], names: Sequence[str], name: str) -> list[str]:
    """Return the keys that stand for a column, the exact one first."""
    alike = [key for key in names if plain(key) == plain(name)]
    return sorted(alike, key=lambda key: key != name)


def series_of(values: Sequence[Any]) -> tuple[pl.Series, dict[int, str]]:
    """Return values of JSON or Parquet as whole numbers, floats or texts, and the positions of those that are none of these."""
    kinds = set(map(type, values)) - {type(None)}
    if kinds <= {int} and all(value is None or -(2**63) <= value < 2**63 for value in values):
        return pl.Series(values, dtype=pl.Int64), {}
    if kinds == {float}:
        return pl.Series(values, dtype=pl.Float64), {}
    unfit = {
        place: _kind(value) for place, value in enumerate(values) if type(value) not in (int, float, str, type(None))
    }
    return pl.Series([_as_text(value) for value in values], dtype=pl.String), unfit


def _kind(value: Any) -> str:
    """Return what a value is that no column has; an object's by its dotted paths."""
    if isinstance(value, dict):
        return f"an object with {', '.join(f'.{key}' for key in list(value)[:5])}"
    return "a list" if isinstance(value, list) else f"{value!r}"


def _as_text(value: Any) -> str | None:
    if value is None or isinstance(value, str):
        text = value.strip() if value else None
        # Two users that differ stay two: what can't be written is written by its number.
        return text.encode(errors="backslashreplace").decode() if text else None
    return repr(value)


# --- Parquet


def _read_parquet(file: io.BufferedReader, wanted: Sequence[str], rows: int) -> Iterator[Chunk]:
    """Read Parquet; a row's text is its JSON."""
    source: Any = file
    if not isinstance(file.raw, io.FileIO):
        source = pa.BufferReader(file.read(LARGEST))
    with pq.ParquetFile(source) as table:
        names = table.schema_arrow.names
        columns = found_columns(names, wanted)
        first = 1
        for batch in table.iter_batches(batch_size=rows, columns=list(columns.values())):
            yield _parquet_chunk(batch, names, columns, first)
            first += batch.num_rows
        if first == 1:
            yield Chunk(names, columns={name: pl.Series([], dtype=pl.Int64) for name in columns})


def _parquet_chunk(batch: pa.RecordBatch, names: list[str], columns: dict[str, str], first: int) -> Chunk:
    found = {name: _parquet_column(batch.column(source)) for name, source in columns.items()}
    numbers = range(first, first + batch.num_rows)
    return Chunk(
        names,
        numbers,
        numbers,
        _RowTexts(batch),
        {name: series for name, (series, _) in found.items()},
        {name: unfit for name, (_, unfit) in found.items()},
    )


class _RowTexts(Sequence[bytes]):
    """Rows of a batch as JSON, made when they are asked for."""

    def __init__(self, batch: pa.RecordBatch) -> None:
        self._batch = batch

    def __len__(self) -> int:
        return int(self._batch.num_rows)

    def __getitem__(self, place: Any) -> Any:
        [row] = self._batch.slice(place, 1).to_pylist()
        return orjson.dumps(row, default=repr)


def _parquet_column(column: pa.Array) -> tuple[pl.Series, dict[int, str]]:
    kind = column.type.value_type if pa.types.is_dictionary(column.type) else column.type
    if pa.types.is_dictionary(column.type):
        column = column.dictionary_decode()
    if pa.types.is_binary(kind) or pa.types.is_large_binary(kind) or pa.types.is_fixed_size_binary(kind):
        return series_of(
            [None if value is None else value.decode("utf-8", "backslashreplace") for value in column.to_pylist()]
        )
    if pa.types.is_decimal(kind):
        column = column.cast(pa.string())
        kind = column.type
    if any(fits(kind) for fits in _FITTING):
        series = pl.Series(column)
        return (series.str.strip_chars(), {}) if series.dtype == pl.String else (series, {})
    return series_of(column.to_pylist())


_FITTING = (
    pa.types.is_integer,
    pa.types.is_floating,
    pa.types.is_string,
    pa.types.is_large_string,
    pa.types.is_timestamp,
)

_READERS: dict[str, Callable[[io.BufferedReader, Sequence[str], int], Iterator[Chunk]]] = {
    ".csv": _read_csv,
    ".tsv": _read_csv,
    ".json": _read_json,
    ".jsonl": _read_json,
    ".ndjson": _read_json,
    ".parquet": _read_parquet,
}
