"""The reject file: what was left out of a file, with its place, text and reason, so that nothing is lost silently."""

from __future__ import annotations

import os
from collections import Counter
from pathlib import Path
from types import TracebackType
from typing import BinaryIO, Self

import orjson

from heartwatch.errors import HeartWatchError

_LONGEST_TEXT = 2_000
_OWNER_ONLY = 0o600  # the rows are people's health data


class RejectFileError(HeartWatchError):
    """A reject file can't be written; the message names it and the remedy."""


class RejectFile:
    """JSON lines of what was left out: ``{"file": …, "line": …, "text": …, "reason": …}``, readable by its owner only.

    The file is written from scratch at the first reject; when there is none, an old file of the same name is removed.

    Attributes:
        path: where the file is.
        reasons: how many rows were rejected, by reason.
        file: the name of the file that is being read, where several are.
    """

    def __init__(self, path: Path, keep: bool = False) -> None:
        """Prepare a reject file; nothing is written yet.

        Args:
            path: where it is.
            keep: append to what an earlier process left out, instead of starting from scratch.
        """
        self.path = path
        self.reasons: Counter[str] = Counter()
        self.file: str | None = None
        self._keep = keep
        self._file: BinaryIO | None = None

    @property
    def count(self) -> int:
        """How many rows were rejected."""
        return self.reasons.total()

    def add(self, line: int, text: bytes, reason: str, kind: str, file: str | None = None) -> None:
        r"""Write what was left out.

        Args:
            line: number of the line (of the row of a Parquet file, of the sample of a recording), from 1; 0 for a whole file.
            text: the row as it stands in the source; what is not UTF-8 is written as ``\xNN``, at most 2,000 characters.
            reason: what is wrong with this row, with the value.
            kind: the reason without the value, to count by.
            file: name of the file, where several are read.

        Raises:
            RejectFileError: the file can't be written.
        """
        self.reasons[kind] += 1
        shown = text[:_LONGEST_TEXT].decode("utf-8", errors="backslashreplace")
        source = file or self.file
        named = {} if source is None else {"file": _writable(source)}
        row = {**named, "line": line, "text": shown, "reason": _writable(reason)}
        try:
            if self._file is None:
                self._file = self._opened()
            self._file.write(orjson.dumps(row) + b"\n")
        except OSError as error:
            raise RejectFileError(
                f"reject file {str(self.path)!r} can't be written: {error.strerror}; give a path that can be written"
            ) from error

    def _opened(self) -> BinaryIO:
        self.path.parent.mkdir(parents=True, exist_ok=True)
        begin = os.O_APPEND if self._keep else os.O_TRUNC
        descriptor = os.open(self.path, os.O_WRONLY | os.O_CREAT | begin | os.O_NOFOLLOW, _OWNER_ONLY)
        os.fchmod(descriptor, _OWNER_ONLY)
        return os.fdopen(descriptor, "wb")

    def __enter__(self) -> Self:
        """Remove the rejects of an earlier reading."""
        if not self._keep:
            try:
                self.path.unlink(missing_ok=True)
            except OSError as error:
                raise RejectFileError(
                    f"reject file {str(self.path)!r} can't be replaced: {error.strerror}; remove it"
                ) from error
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Close the file."""
        if self._file is not None:
            self._file.close()
            self._file = None


def _writable(text: str) -> str:
    """Return a text without what JSON can't hold: lone surrogates stand for bytes that are not UTF-8."""
    return text.encode("utf-8", errors="backslashreplace").decode("utf-8")
