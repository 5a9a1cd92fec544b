"""``heartwatch inspect``: what would be read from recordings and tables, and what is left out and why; nothing is sent."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Annotated, Any

import polars as pl
from cyclopts import Parameter
from pydantic import BaseModel, Field

from heartwatch.analytic import Analytic
from heartwatch.errors import HeartWatchError
from heartwatch.files import tables
from heartwatch.files.packed import is_hidden
from heartwatch.files.recordings import RecordingReport, is_recording, survey
from heartwatch.files.rejects import RejectFile
from heartwatch.produce.table_source import SourceError, read_events
from heartwatch.ranges import SCHEMA as RANGES
from heartwatch.ranges import HistoricalError
from heartwatch.ranges.read import read_ranges
from heartwatch.settings import Settings, load_settings
from kafkakit import avro_codec

_SHOWN_USERS = 20


class InspectError(HeartWatchError):
    """Nothing can be inspected there; the message says what may be."""


class FileFinding(BaseModel):
    """What would be read from a file.

    Attributes:
        file: its name; of a member of an archive, that of the archive and the member's path.
        kind: recording, events or ranges.
        samples: samples of a recording that count.
        left_out: samples of a recording that don't.
        rows: good rows of a table.
        rejected: bad rows of a table.
        refused: nothing of the file is read.
        reason: why it is refused.
        reasons: how many samples or rows don't count, by reason.
        warnings: what is wrong with the file besides; it is read as far as that goes.
        first_event_time: the earliest time in it, ISO 8601, UTC.
        last_event_time: the latest one.
        user_ids: the first users of a file of ranges.
    """

    file: str
    kind: str
    samples: int | None = None
    left_out: int | None = None
    rows: int | None = None
    rejected: int | None = None
    refused: bool = False
    reason: str | None = None
    reasons: dict[str, int] = Field(default_factory=dict)
    warnings: list[str] = Field(default_factory=list)
    first_event_time: str | None = None
    last_event_time: str | None = None
    user_ids: list[str] | None = None

    def sentence(self) -> str:
        """Return it for people."""
        if self.refused:
            return f"{self.file}: refused: {self.reason}"
        good, bad = (self.samples, self.left_out) if self.rows is None else (self.rows, self.rejected)
        unit = "samples" if self.rows is None else f"rows of {self.kind}"
        why = ", ".join(f"{count:,} {reason}" for reason, count in sorted(self.reasons.items()))
        times = f", {self.first_event_time} to {self.last_event_time}" if self.first_event_time else ""
        text = f"{self.file}: {good:,} {unit}{times}; {bad:,} left out{f' ({why})' if why else ''}"
        return "; ".join([text, *(f"warning: {warning}" for warning in self.warnings)])


class Inspection(BaseModel):
    """What would be read from a file or folder.

    Attributes:
        files: by file, in the order of their names.
        ignored: files of the folder that are neither recordings nor tables by their names.
        rejects: the file that lists all that is left out, one JSON object a line; None where nothing is.
    """

    files: list[FileFinding]
    ignored: list[str]
    rejects: Path | None


def inspect(
    path: Path,
    *,
    as_json: Annotated[bool, Parameter(name="--json", negative=())] = False,
    rejects: Path | None = None,
) -> None:
    """Show what would be read from recordings and tables, what is left out and why. Nothing is sent.

    Args:
        path: a recording, a table of events or ranges, or a folder of them.
        as_json: print one JSON object instead of sentences.
        rejects: file to write what is left out to; by default one in the home folder, which the output names.
    """
    settings = load_settings()
    target = rejects or settings.home / "rejects" / f"inspect-{path.resolve().name or 'root'}.jsonl"
    found = inspected(settings, path, target)
    if as_json:
        print(json.dumps(found.model_dump(mode="json"), indent=1))
        return
    for finding in found.files:
        print(finding.sentence())
    if found.ignored:
        print(f"Neither recordings nor tables: {', '.join(found.ignored)}")
    if found.rejects:
        print(f"All that is left out is listed in {found.rejects}")


def inspected(settings: Settings, path: Path, rejects: Path) -> Inspection:
    """Read a file or folder as a producer or a load would.

    Args:
        settings: whose analytic's events a table has.
        path: file or folder.
        rejects: file that takes what is left out.

    Raises:
        InspectError: there is no such file or folder, or it has neither recordings nor tables.
    """
    try:
        given = sorted(file for file in path.iterdir() if not is_hidden(file.name)) if path.is_dir() else [path]
    except OSError as error:
        raise InspectError(f"{str(path)!r} can't be opened: {error.strerror}; check the path") from error
    files = [file for file in given if not file.is_dir() and (is_recording(file) or tables.is_table(file))]
    if not files or (len(files) == 1 and not files[0].exists() and not files[0].is_symlink()):
        raise InspectError(
            f"{str(path)!r} is neither a recording nor a table, nor a folder with one; names end in .fit, .gpx, .tcx, .zip, "
            f".tar, {', '.join(tables.SUFFIXES)}, or in one of these and .gz, .bz2, .xz or .zst"
        )
    with RejectFile(rejects) as reject_file:
        findings = [finding for file in files for finding in _findings(settings, file, reject_file)]
    ignored = [file.name for file in given if file not in files and not file.is_dir()]
    return Inspection(files=findings, ignored=ignored, rejects=rejects if reject_file.count else None)


def _findings(settings: Settings, file: Path, rejects: RejectFile) -> Iterator[FileFinding]:
    if is_recording(file):
        yield from map(_of_recording, survey(file, rejects))
    else:
        yield _of_table(settings, file, rejects)


def _of_recording(report: RecordingReport) -> FileFinding:
    first, last = _span(report.frame)
    return FileFinding(
        file=report.name,
        kind="recording",
        samples=report.frame.height,
        left_out=report.left_out.total(),
        refused=report.refused is not None,
        reason=report.refused,
        reasons=report.left_out,
        warnings=list(report.warnings),
        first_event_time=first,
        last_event_time=last,
    )


def _of_table(settings: Settings, file: Path, rejects: RejectFile) -> FileFinding:
    before, kind = Counter(rejects.reasons), "table"
    rejects.file = file.name
    refused, found = None, pl.DataFrame()
    try:
        kind = _kind(file)
        found = _ranges(file, rejects) if kind == "ranges" else _events(settings, file, rejects)
    except (tables.TableError, SourceError, HistoricalError) as error:
        refused = str(error)
    reasons = rejects.reasons - before
    if refused is not None:
        rejects.add(0, b"", refused, "table refused")
    rejects.file = None
    first, last = _span(found)
    return FileFinding(
        file=file.name,
        kind=kind,
        rows=found.height,
        rejected=reasons.total(),
        refused=refused is not None,
        reason=refused,
        reasons=reasons,
        first_event_time=first,
        last_event_time=last,
        user_ids=found["user_id"].cast(pl.String).head(_SHOWN_USERS).to_list()
        if kind == "ranges" and found.width
        else None,
    )


def _kind(file: Path) -> str:
    """Return what a table has: ranges where it has a column of theirs that events don't have."""
    first = next(tables.chunks(file, [name for name in RANGES if name != "user_id"]))
    return "ranges" if first.columns else "events"


def _ranges(file: Path, rejects: RejectFile) -> pl.DataFrame:
    return pl.concat(read_ranges(file, rejects))


def _events(settings: Settings, file: Path, rejects: RejectFile) -> pl.DataFrame:
    analytic = Analytic.of(settings.pipeline)
    schema = avro_codec.arrow_schema(avro_codec.parse(analytic.schema_text(analytic.stream)))
    event_time = analytic.topics[analytic.stream].event_time or ""
    found = pl.from_arrow(read_events(file, schema, event_time, rejects))
    assert isinstance(found, pl.DataFrame)  # noqa: S101 - a batch never becomes a series
    return found.rename({event_time: "event_time"}) if event_time else found


def _span(frame: pl.DataFrame) -> tuple[str | None, str | None]:
    if frame.is_empty() or "event_time" not in frame.columns:
        return None, None
    times = frame["event_time"]
    return _iso(times.min()), _iso(times.max())


def _iso(moment: Any) -> str:
    text = moment.replace(tzinfo=None).isoformat(timespec="milliseconds" if moment.microsecond else "seconds")
    return f"{text}Z"
