"""Make people's personal heart-rate ranges and write them to a file that `load-historical` reads.

Requires: nothing but the machine's disk. The same source, seed and number of people give the same file.
"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

from prefect import flow
from pydantic import Field

from heartwatch.ranges.files import GenerateReport, RangeSource
from tasks.artifacts import publish_table
from tasks.ranges import write_range_file


@flow(name="generate-historical")
def generate_historical(
    source: RangeSource = "simulator",
    path: Path | None = None,
    people: Annotated[int, Field(ge=1, le=2_147_483_647)] = 20_000,
    seed: Annotated[int, Field(ge=0)] = 1,
    target: Path | None = None,
) -> GenerateReport:
    """Write a file of ranges.

    Args:
        source: Where the ranges come from: `simulator` (made from the seed), `file` (another file of ranges) or `recordings`
            (derived from FIT, GPX and TCX files).
        path: File of ranges, or file or folder of recordings, on the worker's machine (file and recordings).
        people: Number of people (simulator, and replays of recordings).
        seed: Random seed: which people there are (simulator).
        target: File to write, .csv or .jsonl. Empty: where `load-historical` looks for it.

    Returns:
        the file that was written, with counts of good and bad rows.

    Raises:
        HistoricalError: the source has no range, or a file can't be read or written.
    """
    report = write_range_file(source, path, people, seed, target)
    description = f"{report.rows:,} ranges from {source}, {report.rejected:,} rows rejected."
    publish_table("generate-historical", report.table_rows(), description)
    return report
