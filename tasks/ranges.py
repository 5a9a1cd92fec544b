"""Tasks of people's personal ranges: write them to a file, and load a file into Postgres."""

from __future__ import annotations

from pathlib import Path

from prefect import get_run_logger, task
from prefect.cache_policies import NO_CACHE
from prefect.tasks import exponential_backoff

from heartwatch.ranges import files
from heartwatch.ranges.files import GenerateReport, LoadReport, RangeSource
from heartwatch.ranges.read import count_rows
from heartwatch.settings import load_settings
from tasks.artifacts import ProgressArtifact


@task(task_run_name="write-ranges-from-{source}", cache_policy=NO_CACHE)
def write_range_file(
    source: RangeSource, given: Path | None, people: int, seed: int, target: Path | None
) -> GenerateReport:
    """Write a file of ranges from the simulator, another file or recordings.

    Args:
        source: where the ranges come from.
        given: the file or folder of a source that has one.
        people: number of people of the simulator, or of a replay of recordings.
        seed: which people of the simulator.
        target: the file to write (.csv, .jsonl); None: where `load-historical` looks for it.

    Raises:
        heartwatch.ranges.HistoricalError: the source has no range, or a file can't be read or written.
        heartwatch.files.recordings.RecordingError: no recording can be read.
    """
    report = files.write_range_file(load_settings(), source, given, people, seed, target)
    get_run_logger().info("%d ranges written to %s, %d rejected", report.rows, report.path, report.rejected)
    return report


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
    settings, total = load_settings(), count_rows(path)
    progress = ProgressArtifact("load-historical-progress")
    progress.show(0.0, f"{total:,} rows of {path.name}")
    report = files.load_range_file(
        settings, path, delete_missing, lambda rows: progress.show(min(100.0, 100.0 * rows / max(total, 1)))
    )
    progress.show(100.0)
    get_run_logger().info("%s: %s", path, ", ".join(f"{count} {name}" for name, count in report.counts.items()))
    return report
