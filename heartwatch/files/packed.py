"""Files in files: compressed exports (gzip, bzip2, xz, zstd), and zip and tar archives of them, recognised by their bytes."""

from __future__ import annotations

import bz2
import gzip
import io
import lzma
import tarfile
import zipfile
import zlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import PurePosixPath
from typing import Any

import pyarrow as pa

LARGEST = 512 * 2**20
"""Bytes of one unpacked file at most: more is no recording, but an attack on the memory."""

ZIP = (b"PK\x03\x04", b"PK\x05\x06")
DAMAGES = (EOFError, OSError, zlib.error, lzma.LZMAError)
"""What reading a compressed file that is damaged raises."""

COMPRESSIONS: dict[bytes, Callable[[Any], Any]] = {
    b"\x1f\x8b": lambda file: gzip.GzipFile(fileobj=file),
    b"BZh": bz2.BZ2File,
    b"\xfd7zXZ\x00": lzma.LZMAFile,
    b"\x28\xb5\x2f\xfd": lambda file: pa.CompressedInputStream(file, "zstd"),
}
"""What opens a compressed file for reading, by its first bytes."""

_GZIP = b"\x1f\x8b"
_TAR, _TAR_AT = b"ustar", 257
_ENDINGS = (".gz", ".gzip", ".bz2", ".xz", ".zst")
_TAR_ENDINGS = {".tgz": ".tar", ".tbz2": ".tar", ".txz": ".tar"}
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
        suffixes: members of archives count where their name, without ``.gz`` and so on, ends in one of these or is an archive's.
        depth: how many archives this one is in.
    """
    if depth >= _DEEPEST and (data.startswith((*ZIP, *COMPRESSIONS)) or _is_tar(data)):
        yield Content(name, b"", refused=f"it is packed more than {_DEEPEST} times")
    elif (opener := opener_of(data)) is not None:
        unpacked, problem = gunzipped(data) if data.startswith(_GZIP) else _decompressed(data, opener)
        for content in contents(name, unpacked, suffixes, depth + 1):
            warnings = (*([problem] if problem else ()), *content.warnings)
            yield Content(content.name, content.data, warnings, content.refused)
    elif data.startswith(ZIP):
        yield from _members(name, data, suffixes, depth)
    elif _is_tar(data):
        yield from _tar_members(name, data, suffixes, depth)
    else:
        yield Content(name, data)


def opener_of(head: bytes) -> Callable[[Any], Any] | None:
    """Return what opens a compressed file, by its first bytes; None where it isn't compressed."""
    return next((opener for begin, opener in COMPRESSIONS.items() if head.startswith(begin)), None)


def _cut(parts: list[bytes]) -> tuple[bytes, str]:
    """Return as much as is read of a file that is larger than that, and the reason why it ends there."""
    return b"".join(parts)[:LARGEST], f"unpacked it is larger than {LARGEST} bytes; the rest is not read"


def _decompressed(data: bytes, opener: Callable[[Any], Any]) -> tuple[bytes, str | None]:
    """Return what a compressed file holds as far as it can be unpacked, and what is wrong with it."""
    parts: list[bytes] = []
    size = 0
    try:
        with opener(io.BytesIO(data)) as file:
            while part := file.read1(_STEP):
                parts.append(part)
                size += len(part)
                if size > LARGEST:
                    return _cut(parts)
    except EOFError:
        return b"".join(parts), "the compressed file ends early"
    except DAMAGES as error:
        return b"".join(parts), f"the compressed file is damaged: {error}"
    return b"".join(parts), None


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
                    return _cut(parts)
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
    """Return a name's suffix, lower case, without that of a compression: ``run.GPX.gz`` gives ``.gpx``, ``runs.tgz`` ``.tar``."""
    lowered = name.lower().strip()
    ending = next((ending for ending in _ENDINGS if lowered.endswith(ending)), "")
    suffix = PurePosixPath(lowered.removesuffix(ending)).suffix
    return _TAR_ENDINGS.get(suffix, suffix)


def is_wanted(name: str, suffixes: tuple[str, ...]) -> bool:
    """Return whether a member of an archive counts by its name."""
    return not is_hidden(name) and stem_suffix(name) in (*suffixes, *ARCHIVES)


ARCHIVES = (".zip", ".tar")


def _is_tar(data: bytes) -> bool:
    return data[_TAR_AT : _TAR_AT + len(_TAR)] == _TAR


def _tar_members(name: str, data: bytes, suffixes: tuple[str, ...], depth: int) -> Iterator[Content]:
    """Yield a tar archive's files; where it is damaged or ends early, those before."""
    found, problem = 0, None
    try:
        with tarfile.open(fileobj=io.BytesIO(data), mode="r:") as archive:
            for number, member in enumerate(archive):
                if number >= _MOST_MEMBERS:
                    break
                if not member.isfile() or not is_wanted(member.name, suffixes):
                    continue
                found += 1
                file = archive.extractfile(member)
                yield from contents(f"{name}/{member.name}", file.read() if file else b"", suffixes, depth + 1)
    except (tarfile.TarError, OSError, ValueError, EOFError) as error:
        problem = f"the archive is damaged: {error}"
    if problem or not found:
        yield Content(name, b"", refused=problem or _no_member(suffixes))


def _no_member(suffixes: tuple[str, ...]) -> str:
    return f"the archive has no file that ends in {', '.join(suffixes)}; unpack archives of tables"


def _members(name: str, data: bytes, suffixes: tuple[str, ...], depth: int) -> Iterator[Content]:
    try:
        archive = zipfile.ZipFile(io.BytesIO(data))
        members = sorted(archive.infolist(), key=lambda member: member.filename)
    except (zipfile.BadZipFile, ValueError, OSError, NotImplementedError, EOFError) as error:
        yield Content(name, b"", refused=f"the archive is damaged: {error}")
        return
    wanted = [
        member for member in members[:_MOST_MEMBERS] if not member.is_dir() and is_wanted(member.filename, suffixes)
    ]
    if not wanted:
        yield Content(name, b"", refused=_no_member(suffixes))
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
