"""How far a stage has come in each partition that it reads, as the metadata of the committed offset keeps it."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import orjson

from kafkakit.commit_metadata import framed, unframed

_METADATA_BYTES = 3_500  # brokers refuse commit metadata of more than 4096 bytes
_METADATA_VERSION = 1


@dataclass
class PartitionProgress:
    """How far one input partition has come; kept in the metadata of its committed offset.

    Attributes:
        position: offset after the last record whose effects are committed.
        stream_time: largest event time that reached the aggregate, ms; windows that ended before it, grace included, are
            closed. Records before `position` are read again only to rebuild windows that were still open then: with this
            stream time the same rule that finds late records keeps them out of the closed ones.
        tables: (offset in this partition, offset in each table's partition) pairs: from that offset on, records were joined
            with the tables as of those offsets. Reading again repeats it.
        backlog: while records that were there before the query are joined with tables in order of time: offset behind the last
            of them, and the largest time so far, ms; None afterwards.
    """

    position: int = -1
    stream_time: int = -1
    tables: list[tuple[int, tuple[int, ...]]] = field(default_factory=list)
    backlog: tuple[int, int] | None = None

    def to_metadata(self) -> str:
        """Write the progress as commit metadata, thinned out where it would be too long."""
        marks = self.tables
        while len(text := self._text(marks)) > _METADATA_BYTES:
            marks = marks[::2]
        return text

    def _text(self, marks: list[tuple[int, tuple[int, ...]]]) -> str:
        body = {
            "version": _METADATA_VERSION,
            "position": self.position,
            "stream_time": self.stream_time,
            "tables": [[self.position - offset, *tables] for offset, tables in marks],
            **({"backlog": self.backlog} if self.backlog is not None else {}),
        }
        return framed(orjson.dumps(body).decode())

    @classmethod
    def from_metadata(cls, metadata: bytes | str | None, offset: int) -> PartitionProgress:
        """Read commit metadata; without any (another program set the offset) the offset is the position.

        Args:
            metadata: as `kafkakit.commit_metadata.raw_metadata` gives it: something else may lie behind it.
            offset: the committed offset.

        Raises:
            ValueError: the metadata is of a later version of the engine.
        """
        text = unframed(metadata)
        try:
            body = orjson.loads(text)
        except orjson.JSONDecodeError:
            return cls(position=offset)
        version = body.get("version") if isinstance(body, dict) else None
        if type(version) is int and version > _METADATA_VERSION:
            raise ValueError(
                f"commit metadata {text!r} has version {version!r}, this engine reads {_METADATA_VERSION}; "
                "start the engine version that wrote it"
            )
        try:
            return cls._of_body(body)
        except (KeyError, TypeError, ValueError, IndexError):
            # JSON of another program that has set the group's offset.
            return cls(position=offset)

    @classmethod
    def _of_body(cls, body: dict[str, Any]) -> PartitionProgress:
        marks = [(int(body["position"]) - back, tuple(map(int, tables))) for back, *tables in body["tables"]]
        until_and_time = body.get("backlog")
        backlog = None if until_and_time is None else (int(until_and_time[0]), int(until_and_time[1]))
        return cls(int(body["position"]), int(body["stream_time"]), marks, backlog)


def marks_from(marks: list[tuple[int, tuple[int, ...]]], offset: int) -> list[tuple[int, tuple[int, ...]]]:
    """Return the marks that records from `offset` on need: the last one at or before it, and all later ones."""
    first = sum(1 for mark, _ in marks if mark <= offset) - 1
    return marks[max(first, 0) :]


@dataclass
class OwnedPartition:
    """A partition that this process has.

    Attributes:
        progress: where it is.
        committed: what was committed last, None before the first commit.
        seen_before: offsets below are read again.
        begin: offset from which it is read since the take-over.
    """

    progress: PartitionProgress
    committed: tuple[int, int, int] | None
    seen_before: int
    begin: int
