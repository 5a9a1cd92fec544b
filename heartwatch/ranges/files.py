"""Files of personal ranges: written from the simulator, recordings or another file, and loaded into Postgres."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path
from typing import Literal

import polars as pl
from pydantic import BaseModel

from heartwatch.files.recordings import read_recordings
from heartwatch.files.rejects import RejectFile
from heartwatch.postgres import connect
from heartwatch.ranges.derive import derive_ranges
from heartwatch.ranges.generate import generate_ranges, write_ranges
from heartwatch.ranges.load import load_ranges
from heartwatch.ranges.read import read_ranges
from heartwatch.settings import Settings

RangeSource = Literal["simulator", "file", "recordings"]


class GenerateReport(BaseModel):
    """A file of ranges that was written.

    Attributes:
        path: the file.
        rows: people in it.
        rejected: bad rows, samples or recordings of the source.
        rejects: file of these with the reasons, None when there are none.
        reasons: how many of them, by reason.
    """

    path: Path
    rows: int
    rejected: int
    rejects: Path | None
    reasons: dict[str, int]

    def table_rows(self) -> list[dict[str, str | int]]:
        """Return it as the rows of a table for people."""
        return [
            {
                "file": str(self.path),
                "ranges": self.rows,
                "rejected": self.rejected,
                "reject file": str(self.rejects or ""),
            }
        ]


class LoadReport(BaseModel):
    """What a load did, in rows; see `heartwatch.ranges.load.LoadResult`.

    Attributes:
        path: the file that was loaded.
        read: good rows of it.
        inserted: users who were not there.
        updated: users whose range differed.
        unchanged: users whose range was the same.
        deleted: users whom the file doesn't have.
        kept_for_rejects: nobody was deleted, though that was asked for: a bad row may have been theirs.
        rejected: bad rows.
        rejects: file of these with the reasons, None when there are none.
        reasons: how many of them, by reason.
    """

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

    @property
    def counts(self) -> dict[str, int]:
        """Rows by what was done with them."""
        return self.model_dump(include={"read", "inserted", "updated", "unchanged", "deleted", "rejected"})

    def table_rows(self) -> list[dict[str, str | int]]:
        """Return it as the rows of a table for people: counts, and the bad rows by reason."""
        reasons = {f"rejected: {reason}": count for reason, count in sorted(self.reasons.items())}
        return [{"rows": name, "count": count} for name, count in (self.counts | reasons).items()]

    def sentences(self) -> str:
        """Return what was done, for people."""
        where = f" Bad rows are in {self.rejects}." if self.rejects else ""
        kept = " Nobody was deleted: a bad row may be theirs." if self.kept_for_rejects else ""
        return f"{self.read:,} ranges of {self.path.name} loaded.{where}{kept}"


def generated_file(settings: Settings) -> Path:
    """Return the file that `generate-historical` writes and `load-historical` reads when no path is given."""
    return settings.home / "historical" / "ranges.csv"


def rejects_file(settings: Settings, name: str) -> Path:
    """Return the file of a source's bad rows."""
    return settings.home / "rejects" / f"{name}.jsonl"


def write_range_file(
    settings: Settings, source: RangeSource, given: Path | None, people: int, seed: int, target: Path | None
) -> GenerateReport:
    """Write a file of ranges from the simulator, another file or recordings.

    Args:
        settings: where files are kept.
        source: where the ranges come from.
        given: the file or folder of a source that has one.
        people: number of people of the simulator, or of a replay of recordings.
        seed: which people of the simulator.
        target: the file to write (.csv, .jsonl); None: where `load-historical` looks for it.

    Raises:
        heartwatch.ranges.HistoricalError: the source has no range, or a file can't be read or written.
        heartwatch.files.recordings.RecordingError: no recording can be read.
        ValueError: the source needs a path.
    """
    path = (target or generated_file(settings)).expanduser()
    with RejectFile(rejects_file(settings, f"generate-historical-{source}")) as rejects:
        rows = write_ranges(_frames(source, given, people, seed, rejects), path)
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
    return derive_ranges(read_recordings(given, rejects), people, rejects)


def load_range_file(
    settings: Settings, path: Path, delete_missing: bool, progress: Callable[[int], None]
) -> LoadReport:
    """Load a file of ranges into Postgres in one transaction.

    Args:
        settings: where the database is.
        path: the file.
        delete_missing: delete the users whom the file doesn't have.
        progress: called with the number of rows that have been read so far.

    Raises:
        heartwatch.ranges.HistoricalError: the file can't be read or has no good row, or the database refuses.
        heartwatch.postgres.PostgresError: the database can't be reached.
    """
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
            progress=progress,
        )
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
