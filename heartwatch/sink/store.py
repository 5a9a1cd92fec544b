"""Lists objects: paths, sizes and times, in S3 or in a folder."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime

import httpx
import pyarrow as pa
from pyarrow.fs import FileSelector, FileSystem, FileType, LocalFileSystem

from heartwatch.settings import S3Settings
from heartwatch.sink.reader import ObjectError, SinkError
from kafkakit.security import tls_verify

_MILLION = 1_000_000
_CLOCK_SECONDS = 10.0
_WHOLE_BYTES = 16 * 2**20


@dataclass(frozen=True)
class Stored:
    """An object as the store has it."""

    path: str
    size: int
    written_at: datetime

    @property
    def identity(self) -> str:
        """Size and time of writing: a rewritten object has another one."""
        return f"{self.size}@{int(self.written_at.timestamp() * _MILLION)}"


class Store:
    """A store of objects."""

    def __init__(self, files: FileSystem, clock: Callable[[], datetime] = lambda: datetime.now(UTC)) -> None:
        """Read a store.

        Args:
            files: the store, as Arrow reads it.
            clock: the time by the store's own clock.
        """
        self.files = files
        self.clock = clock

    def list_folder(self, folder: str) -> dict[str, Stored]:
        """Return the objects below a folder by path; none where there is no such folder.

        Raises:
            SinkError: the store can't be asked.
        """
        try:
            found = self.files.get_file_info(FileSelector(folder, recursive=True, allow_not_found=True))
        except OSError as error:
            raise SinkError(f"folder {folder!r} can't be listed: {error}; see that the S3 server is up") from error
        # Hidden files hold checksums and marks, in folders on disk.
        return {
            entry.path: Stored(entry.path, entry.size, entry.mtime.astimezone(UTC))
            for entry in found
            if entry.type == FileType.File and not entry.base_name.startswith(".")
        }

    def open(self, path: str) -> pa.NativeFile:
        """Open an object; unless it is large it is fetched at once: each request of a part costs more than the part.

        Raises:
            OSError: it is gone, or the store can't be asked (see `failure`).
        """
        file = self.files.open_input_file(path)
        if file.size() > _WHOLE_BYTES:
            return file
        with file:
            return pa.BufferReader(file.read_buffer())

    def failure(self, path: str, error: Exception) -> ObjectError | SinkError:
        """Return what a failed reading means: the object is to blame only when the store still answers."""
        reason = " ".join(str(error).split())[:300]
        try:
            there = self.files.get_file_info(path).type == FileType.File
        except OSError:
            return SinkError(f"object {path!r} can't be read: {reason}; see that the S3 server is up")
        return ObjectError(f"object {path!r} can't be read: {reason}" if there else f"object {path!r} is gone")


READ_ERRORS = (OSError, ValueError, TypeError, EOFError, IndexError, KeyError, pa.ArrowException)
"""What readers of Parquet, Avro, JSON and gzip raise for damaged objects, and for a store that is away."""


def open_clock(files: FileSystem, s3: S3Settings) -> Callable[[], datetime]:
    """Return what tells the time by the store's own clock."""
    if isinstance(files, LocalFileSystem):
        return lambda: datetime.now(UTC)
    address = s3.endpoint or f"https://s3.{s3.region}.amazonaws.com"
    verify = tls_verify(s3.ca_file, "the S3 server")

    def ask() -> datetime:
        try:
            # A refusal is dated, too: no signature is needed.
            answer = httpx.head(address, timeout=_CLOCK_SECONDS, verify=verify)
            return parsedate_to_datetime(answer.headers["date"]).astimezone(UTC)
        except (httpx.TransportError, KeyError, ValueError) as error:
            raise SinkError(f"{address!r} doesn't tell the time: {error!r}; see that the S3 server is up") from error

    return ask
