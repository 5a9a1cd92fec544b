"""Real recordings of wearables: FIT, GPX and TCX files, compressed or in zip and tar archives too.

One bad sample refuses no file, and one bad file no folder: what is left out is counted, and written to a reject file where one
is given.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import polars as pl

from heartwatch.errors import HeartWatchError
from heartwatch.extras import require
from heartwatch.files import fit, samples, tracks
from heartwatch.files.packed import ARCHIVES, LARGEST, Content, contents, is_hidden, stem_suffix
from heartwatch.files.rejects import RejectFile
from heartwatch.files.samples import SCHEMA, Reading
from heartwatch.files.tables import is_table

__all__ = [
    "SCHEMA",
    "SUFFIXES",
    "RecordingError",
    "RecordingReport",
    "is_recording",
    "read_recording",
    "read_recordings",
    "survey",
]

SUFFIXES = (".fit", ".gpx", ".tcx")
_NO_USE = "give one that was made outdoors with a heart-rate sensor"


class RecordingError(HeartWatchError):
    """A recording can't be read or replayed; the message names the file, the reason and the remedy."""


@dataclass(frozen=True, eq=False)
class RecordingReport:
    """What was read from a recording, and what was left out.

    Attributes:
        name: the file's name; of a member of an archive, that of the archive and the member's path.
        format: fit, gpx or tcx by the name.
        frame: one row a sample, ordered by time, columns as in `SCHEMA`; empty where the recording is refused.
        left_out: how many samples were left out, by reason.
        warnings: what is wrong with the file besides; it was read as far as that goes.
        refused: why nothing of it counts.
    """

    name: str
    format: str
    frame: pl.DataFrame
    left_out: Counter[str] = field(default_factory=Counter)
    warnings: tuple[str, ...] = ()
    refused: str | None = None


def is_recording(path: Path) -> bool:
    """Return whether a file's name is that of a recording, of a compressed one, or of an archive that isn't a table's."""
    return stem_suffix(path.name) in (*SUFFIXES, *ARCHIVES) and not is_hidden(path.name) and not is_table(path)


def read_recording(path: Path, rejects: RejectFile | None = None) -> pl.DataFrame:
    """Read a recording.

    Samples without time, position or heart rate, with a heart rate outside 20 to 250, from before the clock or the position was
    known, and repeated ones are left out.

    Args:
        path: a ``.fit``, ``.gpx`` or ``.tcx`` file, compressed or not.
        rejects: takes what is left out.

    Returns:
        One row a sample, ordered by time, columns as in `SCHEMA`.

    Raises:
        RecordingError: the file can't be read, has no complete sample, or is an archive of several recordings.
        MissingExtraError: the formats' parsers aren't installed.
    """
    found = read_recordings(path, rejects)
    if len(found) > 1:
        raise RecordingError(f"{str(path)!r} has {len(found)} recordings; unpack the archive and give one of them")
    return next(iter(found.values()))


def read_recordings(path: Path, rejects: RejectFile | None = None) -> dict[str, pl.DataFrame]:
    """Read one recording, or all of a folder or an archive in the order of their names.

    Args:
        path: file or folder.
        rejects: takes what is left out: samples, and files with line 0.

    Returns:
        Frames as `read_recording` gives them, by file name.

    Raises:
        RecordingError: there is none that can be read.
        MissingExtraError: the formats' parsers aren't installed.
    """
    found = list(survey(path, rejects))
    good = {report.name: report.frame for report in found if report.refused is None}
    if not found:
        raise RecordingError(f"{str(path)!r} has no recording; put files that end in {', '.join(SUFFIXES)} there")
    if not good and len(found) == 1 and not path.is_dir():
        raise RecordingError(f"recording {str(path)!r} {found[0].refused}")
    if not good:
        reasons = "; ".join(f"{report.name!r} {report.refused}" for report in found[:3])
        raise RecordingError(f"{str(path)!r}: none of {len(found)} recordings can be read: {reasons}")
    return good


def survey(path: Path, rejects: RejectFile | None = None) -> Iterator[RecordingReport]:
    """Read one recording, or all of a folder or an archive, and report on each, refused ones too.

    Args:
        path: file or folder.
        rejects: takes what is left out.

    Raises:
        RecordingError: the path is a file whose name is not that of a recording, or can't be opened at all.
        MissingExtraError: the formats' parsers aren't installed.
    """
    try:
        folder = path.is_dir()
    except OSError as error:  # a name that is too long
        raise RecordingError(f"{path.name[:80]!r} can't be opened: {error.strerror}; check the path") from error
    if not folder and not is_recording(path):
        raise RecordingError(f"{path.name!r} is not a recording; the name must end in {', '.join(SUFFIXES)}")
    require("recordings")
    for file in _files(path):
        for report, left_out in _of_file(file):
            if rejects is not None:
                _write(report, left_out, rejects)
            yield report


def _files(path: Path) -> list[Path]:
    if not path.is_dir():
        return [path]
    try:
        return sorted(file for file in path.iterdir() if is_recording(file) and not file.is_dir())
    except OSError as error:
        raise RecordingError(f"folder {str(path)!r} can't be opened: {error.strerror}; check the path") from error


def _of_file(path: Path) -> Iterator[tuple[RecordingReport, list[samples.LeftOut]]]:
    try:
        with path.open("rb") as file:
            data = file.read(LARGEST + 1)
    except OSError as error:
        yield _refused(Content(path.name, b""), f"can't be opened: {error.strerror}; check the path"), []
        return
    if len(data) > LARGEST:
        yield _refused(Content(path.name, b""), f"can't be read: it is larger than {LARGEST} bytes; split it"), []
        return
    for content in contents(path.name, data, SUFFIXES):
        if content.refused is not None:
            yield _refused(content, f"can't be read: {content.refused}"), []
        else:
            yield _of_content(content)


def _of_content(content: Content) -> tuple[RecordingReport, list[samples.LeftOut]]:
    try:
        reading = _parsed(content)
        frame, left_out = samples.judged(reading.samples)
    except Exception as error:  # parsers raise anything on broken bytes
        return _refused(content, f"can't be read: {type(error).__name__}: {error}; export it again"), []
    warnings = (*content.warnings, *reading.warnings)
    reasons = Counter(found.kind for found in left_out)
    refused = None
    if frame.is_empty():
        refused = _why_none(len(reading.samples), warnings)
    name = content.name
    return RecordingReport(name, _format(name), frame, reasons, warnings, refused), left_out


def _parsed(content: Content) -> Reading:
    """Take samples from a file by what it holds, whatever its name says."""
    if not content.data:
        return Reading([], ["the file is empty"])
    if fit.is_fit(content.data):
        return fit.read(content.data)
    if stem_suffix(content.name) == ".fit" and b"<" not in content.data[:200]:
        return Reading([], ["it is not a FIT file"])
    return tracks.read(content.data)


def _why_none(count: int, warnings: tuple[str, ...]) -> str:
    if count:
        also = f" ({'; '.join(warnings)})" if warnings else ""
        return f"has {count} samples, but none with time, position and heart rate{also}; {_NO_USE}"
    if warnings:
        return f"can't be read: {'; '.join(warnings)}; it has 0 samples: export it again"
    return f"has 0 samples, but none with time, position and heart rate; {_NO_USE}"


def _refused(content: Content, reason: str) -> RecordingReport:
    return RecordingReport(
        content.name, _format(content.name), pl.DataFrame(schema=SCHEMA), warnings=content.warnings, refused=reason
    )


def _format(name: str) -> str:
    return stem_suffix(name).removeprefix(".")


def _write(report: RecordingReport, left_out: list[samples.LeftOut], rejects: RejectFile) -> None:
    if report.refused is not None:
        rejects.add(0, b"", f"the recording {report.refused}", "recording refused", report.name)
    for found in left_out:
        rejects.add(found.number, found.sample.text(), found.reason, found.kind, report.name)
