"""Files in files: gzip-compressed exports, and zip archives of exports, recognised by their first bytes."""

from __future__ import annotations

import io
import zipfile
import zlib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import PurePosixPath

LARGEST = 512 * 2**20
"""Bytes of one unpacked file at most: more is no recording, but an attack on the memory."""

_GZIP, _ZIP = b"\x1f\x8b", b"PK\x03\x04"
_DEEPEST = 3
_MOST_MEMBERS = 100_000
_STEP = 1 << 20


@dataclass(frozen=True)
class Content:
    """A file's bytes, unpacked.

    Attributes:
        name: the file's name; of a member of an archive, that of the archive and the member's path.
        data: the bytes; empty where it could not be unpacked.
        warnings: what is wrong with the packing; what came before is in `data` all the same.
        refused: why nothing of it can be read.
    """

    name: str
    data: bytes
    warnings: tuple[str, ...] = ()
    refused: str | None = None


def contents(name: str, data: bytes, suffixes: tuple[str, ...], depth: int = 0) -> Iterator[Content]:
    """Yield a file's content, or that of each file in it.

    Args:
        name: the file's name.
        data: its bytes.
        suffixes: members of archives count where their name, without ``.gz``, ends in one of these, or in ``.zip``.
        depth: how many archives this one is in.
    """
    if data.startswith((_GZIP, _ZIP)) and depth >= _DEEPEST:
        yield Content(name, b"", refused=f"it is packed more than {_DEEPEST} times")
    elif data.startswith(_GZIP):
        unpacked, problem = gunzipped(data)
        for content in contents(name, unpacked, suffixes, depth + 1):
            warnings = (*([problem] if problem else ()), *content.warnings)
            yield Content(content.name, content.data, warnings, content.refused)
    elif data.startswith(_ZIP):
        yield from _members(name, data, suffixes, depth)
    else:
        yield Content(name, data)


def gunzipped(data: bytes) -> tuple[bytes, str | None]:
    """Return what a gzip file holds as far as it can be unpacked, and what is wrong with it."""
    parts: list[bytes] = []
    size, rest = 0, data
    while rest.startswith(_GZIP):
        member = zlib.decompressobj(wbits=31)
        try:
            while rest and not member.eof:
                part = member.decompress(rest, _STEP)
                rest = member.unconsumed_tail if not member.eof else member.unused_data
                if not part and not rest:
                    break
                parts.append(part)
                size += len(part)
                if size > LARGEST:
                    return b"".join(parts)[
                        :LARGEST
                    ], f"unpacked it is larger than {LARGEST} bytes; the rest is not read"
        except zlib.error as error:
            return b"".join(parts), f"the compressed file is damaged: {error}"
        if not member.eof:
            return b"".join(parts), "the compressed file ends early"
        rest = rest.lstrip(b"\0")
    behind = f"{len(rest)} bytes behind the compressed end" if rest else None
    return b"".join(parts), behind


def is_hidden(path: str) -> bool:
    """Return whether a file is the operating system's: dot files, and the resource forks that macOS puts in archives."""
    return any(part.startswith(".") or part == "__MACOSX" for part in PurePosixPath(path).parts)


def stem_suffix(name: str) -> str:
    """Return a name's suffix, lower case, without that of a compression: ``run.GPX.gz`` gives ``.gpx``."""
    lowered = name.lower().strip()
    return PurePosixPath(lowered.removesuffix(".gz").removesuffix(".gzip")).suffix


def _members(name: str, data: bytes, suffixes: tuple[str, ...], depth: int) -> Iterator[Content]:
    try:
        archive = zipfile.ZipFile(io.BytesIO(data))
        members = sorted(archive.infolist(), key=lambda member: member.filename)
    except (zipfile.BadZipFile, ValueError, OSError, NotImplementedError, EOFError) as error:
        yield Content(name, b"", refused=f"the archive is damaged: {error}")
        return
    wanted = [
        member
        for member in members[:_MOST_MEMBERS]
        if not member.is_dir()
        and not is_hidden(member.filename)
        and stem_suffix(member.filename) in (*suffixes, ".zip")
    ]
    if not wanted:
        yield Content(name, b"", refused=f"the archive has no file that ends in {', '.join(suffixes)}")
    for member in wanted:
        named = f"{name}/{member.filename}"
        unpacked, problem = _unpacked(archive, member)
        if problem and not unpacked:
            yield Content(named, b"", refused=problem)
            continue
        for content in contents(named, unpacked, suffixes, depth + 1):
            yield Content(
                content.name, content.data, (*([problem] if problem else ()), *content.warnings), content.refused
            )


def _unpacked(archive: zipfile.ZipFile, member: zipfile.ZipInfo) -> tuple[bytes, str | None]:
    if member.flag_bits & 1:
        return b"", "it is encrypted; unpack the archive with its password"
    parts: list[bytes] = []
    try:
        with archive.open(member) as file:
            while part := file.read(_STEP):
                parts.append(part)
                if sum(map(len, parts)) > LARGEST:
                    return b"", f"unpacked it is larger than {LARGEST} bytes"
    except Exception as error:  # zipfile and its decompressors raise anything on broken bytes
        return b"".join(parts), f"the archive's file is damaged: {type(error).__name__}: {error}"
    return b"".join(parts), None
