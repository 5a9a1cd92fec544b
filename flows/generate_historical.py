"""Make people's own heart-rate ranges and write them to a file that `load-historical` reads.

Requires: nothing but the machine's disk. The same source, seed and number of people give the same file.
"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

from prefect import flow
from pydantic import Field

from tasks.artifacts import publish_table
from tasks.historical import GenerateReport, RangeSource, write_range_file


@flow(name="generate-historical")
def generate_historical(
    source: Annotated[
        RangeSource,
        Field(description="simulator: made from a seed; file: another file; recordings: derived from FIT, GPX, TCX"),
    ] = "simulator",
    path: Annotated[Path | None, Field(description="file of ranges, or file or folder of recordings")] = None,
    people: Annotated[
        int, Field(ge=1, le=2_147_483_647, description="people of the simulator, or of a replay of recordings")
    ] = 20_000,
    seed: Annotated[int, Field(ge=0, description="which people of the simulator")] = 1,
    target: Annotated[
        Path | None, Field(description="file to write, .csv or .jsonl; None: where load-historical looks for it")
    ] = None,
) -> GenerateReport:
    """Write a file of ranges.

    Raises:
        HistoricalError: the source has no range, or a file can't be read or written.
    """
    report = write_range_file(source, path, people, seed, target)
    rows = [
        {
            "file": str(report.path),
            "ranges": report.rows,
            "rejected": report.rejected,
            "reject file": str(report.rejects or ""),
        }
    ]
    publish_table(
        "generate-historical", rows, f"{report.rows:,} ranges from {source}, {report.rejected:,} rows rejected."
    )
    return report
