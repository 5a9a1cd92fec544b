"""The reject file: bad rows with their line number, text and reason, so that nothing is lost silently."""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from types import TracebackType
from typing import BinaryIO, Self

import orjson

from heartwatch.ranges import HistoricalError

_LONGEST_TEXT = 2_000


class RejectFile:
    """JSON lines of bad rows: ``{"line": …, "text": …, "reason": …}``.

    The file is written from scratch at the first bad row; when there is none, an old file of the same name is removed.

    Attributes:
        path: where the file is.
        reasons: how many rows were rejected, by reason.
    """

    def __init__(self, path: Path) -> None:
        """Prepare a reject file at `path`; nothing is written yet."""
        self.path = path
        self.reasons: Counter[str] = Counter()
        self._file: BinaryIO | None = None

    @property
    def count(self) -> int:
        """How many rows were rejected."""
        return self.reasons.total()

    def add(self, line: int, text: bytes, reason: str, kind: str) -> None:
        r"""Write a bad row.

        Args:
            line: number of the line (or of the row of a Parquet file), from 1.
            text: the row as it stands in the source; what is not UTF-8 is written as ``\xNN``, at most 2,000 characters.
            reason: what is wrong with this row, with the value.
            kind: the reason without the value, to count by.

        Raises:
            HistoricalError: the file can't be written.
        """
        self.reasons[kind] += 1
        shown = text[:_LONGEST_TEXT].decode("utf-8", errors="backslashreplace")
        try:
            if self._file is None:
                self.path.parent.mkdir(parents=True, exist_ok=True)
                self._file = self.path.open("wb")
            self._file.write(orjson.dumps({"line": line, "text": shown, "reason": reason}) + b"\n")
        except OSError as error:
            raise HistoricalError(
                f"reject file {str(self.path)!r} can't be written: {error.strerror}; give a path that can be written"
            ) from error

    def __enter__(self) -> Self:
        """Remove the rejects of an earlier reading."""
        self.path.unlink(missing_ok=True)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Close the file."""
        if self._file is not None:
            self._file.close()
            self._file = None
