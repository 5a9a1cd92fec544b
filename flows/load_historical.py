"""Load people's personal heart-rate ranges into Postgres, from where change data capture brings them into Kafka.

Requires: Postgres. One transaction: all good rows of the file, or none. Safe to run again: only rows that differ are written. Bad
rows go to a reject file with line number and reason.
"""

from __future__ import annotations

from pathlib import Path
from typing import Literal

from prefect import flow

from heartwatch.ranges.files import LoadReport, generated_file
from heartwatch.settings import load_settings
from tasks.artifacts import publish_table
from tasks.ranges import load_range_file


@flow(name="load-historical")
def load_historical(
    source: Literal["generated", "file"] = "generated",
    path: Path | None = None,
    delete_missing: bool = False,
) -> LoadReport:
    """Load a file of ranges.

    Args:
        source: `generated`: the file that `generate-historical` wrote. `file`: the file at the path.
        path: File of ranges on the worker's machine: .jsonl, .ndjson, .json, .csv or .parquet. Users are numbered by line where
            the file has no `user_id`.
        delete_missing: Delete users whom the file doesn't have. Nobody is deleted when the file has bad rows.

    Returns:
        how many rows were inserted, updated, unchanged, deleted and rejected.

    Raises:
        ValueError: source and path don't fit together.
        HistoricalError: the file can't be read or has no good row, or the database refuses.
    """
    if (source == "file") != (path is not None):
        raise ValueError(f"source={source!r} with path={path!r}: give a path with source='file', and only then")
    report = load_range_file(path or generated_file(load_settings()), delete_missing)
    publish_table("load-historical", report.table_rows(), report.sentences())
    return report
