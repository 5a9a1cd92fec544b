"""Load people's own heart-rate ranges into Postgres, from where change data capture brings them into Kafka.

Requires: Postgres. One transaction: all good rows of the file, or none. Safe to run again: only rows that differ are written. Bad
rows go to a reject file with line number and reason.
"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

from prefect import flow
from pydantic import Field

from heartwatch.settings import load_settings
from tasks.artifacts import publish_table
from tasks.historical import LoadReport, generated_file, load_range_file


@flow(name="load-historical")
def load_historical(
    source: Annotated[
        Literal["generated", "file"], Field(description="generated: what generate-historical wrote; file: the path")
    ] = "generated",
    path: Annotated[
        Path | None, Field(description="file of ranges: .jsonl, .ndjson, .json, .csv or .parquet; user_id or by line")
    ] = None,
    delete_missing: Annotated[
        bool, Field(description="delete users whom the file doesn't have; nobody is deleted when it has bad rows")
    ] = False,
) -> LoadReport:
    """Load a file of ranges.

    Raises:
        ValueError: source and path don't fit together.
        HistoricalError: the file can't be read or has no good row, or the database refuses.
    """
    if (source == "file") != (path is not None):
        raise ValueError(f"source={source!r} with path={path!r}: give a path with source='file', and only then")
    report = load_range_file(path or generated_file(load_settings()), delete_missing)
    counts = report.model_dump(include={"read", "inserted", "updated", "unchanged", "deleted", "rejected"})
    reasons = [{"rows": f"rejected: {reason}", "count": count} for reason, count in sorted(report.reasons.items())]
    told = f" Bad rows are in {report.rejects}." if report.rejects else ""
    kept = " Nobody was deleted: a bad row may be theirs." if report.kept_for_rejects else ""
    publish_table(
        "load-historical",
        [{"rows": name, "count": count} for name, count in counts.items()] + reasons,
        f"{report.read:,} ranges of {report.path.name} loaded.{told}{kept}",
    )
    return report
