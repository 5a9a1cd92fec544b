"""Ranges of simulated people."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import polars as pl

from heartwatch.ranges import SCHEMA, HistoricalError
from heartwatch.simulate.people import people_chunks


def generate_ranges(seed: int, count: int) -> Iterator[pl.DataFrame]:
    """Make the ranges of the simulated people 1 to `count`, a chunk at a time.

    Raises:
        PeopleError: `count` is out of bounds.
    """
    for chunk in people_chunks(seed, count):
        yield chunk.select(pl.col(name).cast(kind) for name, kind in SCHEMA.items())


def write_ranges(frames: Iterator[pl.DataFrame], path: Path) -> int:
    """Write ranges as JSON lines (``.jsonl``) or CSV (``.csv``); the file appears complete or not at all.

    Returns:
        How many rows were written.

    Raises:
        HistoricalError: another ending, or the file can't be written.
    """
    if path.suffix not in {".jsonl", ".csv"}:
        raise HistoricalError(f"ranges can't be written to {path.name!r}; end the name in .jsonl or .csv")
    partial = path.with_name(path.name + ".partial")
    rows = 0
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with partial.open("wb") as file:
            for frame in frames:
                if path.suffix == ".jsonl":
                    frame.write_ndjson(file)
                else:
                    frame.write_csv(file, include_header=rows == 0)
                rows += frame.height
        partial.replace(path)
    except OSError as error:
        raise HistoricalError(f"{str(path)!r} can't be written: {error.strerror}; give another path") from error
    finally:
        partial.unlink(missing_ok=True)
    return rows
