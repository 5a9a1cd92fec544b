"""Tasks of people's personal ranges: write them to a file, and load a file into Postgres."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import Literal, cast
from uuid import UUID

import polars as pl
from prefect import get_run_logger, task
from prefect.artifacts import create_progress_artifact, update_progress_artifact
from prefect.cache_policies import NO_CACHE
from prefect.tasks import exponential_backoff
from pydantic import BaseModel

from heartwatch.postgres import connect
from heartwatch.ranges.derive import derive_ranges
from heartwatch.ranges.generate import generate_ranges, write_ranges
from heartwatch.ranges.load import load_ranges
from heartwatch.ranges.read import count_rows, read_ranges
from heartwatch.ranges.rejects import RejectFile
from heartwatch.settings import Settings, load_settings
from heartwatch.simulate.recordings import read_recordings

RangeSource = Literal["simulator", "file", "recordings"]


class GenerateReport(BaseModel):
    """A file of ranges that was written.

    Attributes:
        path: the file.
        rows: people in it.
        rejected: bad rows or recordings of the source.
        rejects: file of these with the reasons, None when there are none.
        reasons: how many of them, by reason.
    """

    path: Path
    rows: int
    rejected: int
    rejects: Path | None
    reasons: dict[str, int]


class LoadReport(BaseModel):
    """What a load did, in rows; see `heartwatch.ranges.load.LoadResult`."""

    path: Path
    read: int
    inserted: int
    updated: int
    unchanged: int
    deleted: int
    kept_for_rejects: bool
    rejected: int
    rejects: Path | None
    reasons: dict[str, int]


def generated_file(settings: Settings) -> Path:
    """Return the file that `generate-historical` writes and `load-historical` reads when no path is given."""
    return settings.home / "historical" / "ranges.csv"


def rejects_file(settings: Settings, name: str) -> Path:
    """Return the file of a source's bad rows."""
    return settings.home / "rejects" / f"{name}.jsonl"


@task(task_run_name="write-ranges-from-{source}", cache_policy=NO_CACHE)
def write_range_file(
    source: RangeSource, given: Path | None, people: int, seed: int, target: Path | None
) -> GenerateReport:
    """Write a file of ranges from the simulator, another file or recordings.

    Args:
        source: where the ranges come from.
        given: the file or folder of a source that has one.
        people: how many people of the simulator or a replay of recordings.
        seed: which people of the simulator.
        target: the file to write (.csv, .jsonl); None: where `load-historical` looks for it.

    Raises:
        heartwatch.ranges.HistoricalError: the source has no range, or a file can't be read or written.
        heartwatch.simulate.recordings.RecordingError: a recording can't be read.
    """
    settings = load_settings()
    path = (target or generated_file(settings)).expanduser()
    with RejectFile(rejects_file(settings, f"generate-historical-{source}")) as rejects:
        rows = write_ranges(_frames(source, given, people, seed, rejects), path)
    get_run_logger().info("%d ranges written to %s, %d rejected", rows, path, rejects.count)
    return GenerateReport(
        path=path,
        rows=rows,
        rejected=rejects.count,
        rejects=rejects.path if rejects.count else None,
        reasons=dict(rejects.reasons),
    )


def _frames(
    source: RangeSource, given: Path | None, people: int, seed: int, rejects: RejectFile
) -> Iterator[pl.DataFrame]:
    if source == "simulator":
        return generate_ranges(seed, people)
    if given is None:
        raise ValueError(f"source={source!r} needs a path; give the file or folder to read")
    if source == "file":
        return read_ranges(given, rejects)
    return derive_ranges(read_recordings(given), people, rejects)


@task(
    task_run_name="load-ranges",
    cache_policy=NO_CACHE,
    retries=2,
    retry_delay_seconds=exponential_backoff(backoff_factor=2),
    retry_jitter_factor=0.5,
)
def load_range_file(path: Path, delete_missing: bool) -> LoadReport:
    """Load a file of ranges into Postgres in one transaction, with a progress artifact.

    Args:
        path: the file.
        delete_missing: delete the users whom the file doesn't have.

    Raises:
        heartwatch.ranges.HistoricalError: the file can't be read or has no good row, or the database refuses.
        heartwatch.postgres.PostgresError: the database can't be reached.
    """
    settings = load_settings()
    total = count_rows(path)
    described = f"{total:,} rows of {path.name}"
    progress = cast(UUID, create_progress_artifact(0.0, key="load-historical-progress", description=described))

    def report(rows: int) -> None:
        update_progress_artifact(progress, min(100.0, 100.0 * rows / max(total, 1)))

    with (
        closing(connect(settings.postgres)) as connection,
        RejectFile(rejects_file(settings, "load-historical")) as rejects,
    ):
        result = load_ranges(
            connection,
            read_ranges(path, rejects),
            settings.postgres.historical_table,
            rejects=rejects,
            delete_missing=delete_missing,
            progress=report,
        )
    update_progress_artifact(progress, 100.0)
    get_run_logger().info("%s: %s", path, result)
    return LoadReport(
        path=path,
        read=result.read,
        inserted=result.inserted,
        updated=result.updated,
        unchanged=result.unchanged,
        deleted=result.deleted,
        kept_for_rejects=result.kept_for_rejects,
        rejected=result.rejected,
        rejects=rejects.path if rejects.count else None,
        reasons=dict(rejects.reasons),
    )
