"""What a running query remembers: keys as dense numbers, a table's current rows, and how far each partition has come.

A key's bytes become a number (its code) once; from there on joins are gathers and groups are integers. Codes belong to a
partition: the same key in two partitions has two codes, as each partition has state of its own in ksqlDB.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import pairwise

import numpy as np
import numpy.typing as npt
import orjson
import polars as pl

Ints = npt.NDArray[np.int64]
Mask = npt.NDArray[np.bool_]

ABSENT = -1  # a null key, or one that was looked up and never added
BAD = -2  # bytes that are no key of the format

# Rows that may be dead before a store is written anew: below this, tidying costs more than it saves.
_SLACK_ROWS = 65_536
_MOST_CHUNKS = 16
_METADATA_BYTES = 3_500  # brokers refuse commit metadata of more than 4096 bytes
_METADATA_VERSION = 1


class _Codes(dict[bytes | None, int]):
    """Codes of one partition's keys; a missing key is added or told absent, in C for all others."""

    def __init__(self, owner: Keys, partition: int) -> None:
        super().__init__({None: ABSENT})
        self._owner = owner
        self._partition = partition

    def __missing__(self, key: bytes | None) -> int:
        return self._owner.unknown(self, self._partition, key)


class Keys:
    """Dense codes of the keys that joins and groups use."""

    def __init__(self, valid: Callable[[bytes], bool]) -> None:
        """Begin without keys.

        Args:
            valid: says whether bytes are a key of the topic's key format; asked once a key.
        """
        self._valid = valid
        self._by_partition: dict[int, _Codes] = {}
        self._adding = False
        self._noted_live = 0
        self.keys: list[bytes] = []

    def __len__(self) -> int:
        return len(self.keys)

    def codes(self, keys: Sequence[bytes | None], partitions: npt.NDArray[np.int32], add: bool) -> Ints:
        """Return each key's code, `ABSENT` or `BAD`.

        Args:
            keys: record keys, ordered by partition.
            partitions: each key's partition.
            add: give new keys a code; otherwise they are absent.
        """
        self._adding = add
        codes = np.empty(len(keys), dtype=np.int64)
        for partition, start, end in runs(partitions):
            known = self._by_partition.get(partition)
            if known is None:
                known = self._by_partition[partition] = _Codes(self, partition)
            part = keys[start:end] if end - start < len(keys) else keys
            codes[start:end] = np.fromiter(map(known.__getitem__, part), np.int64, end - start)
        return codes

    def unknown(self, known: _Codes, partition: int, key: bytes | None) -> int:
        """Give a key that isn't known its code (called by the dictionary of its partition)."""
        if key is None:
            return ABSENT
        if not self._valid(key):
            return BAD
        if not self._adding:
            return ABSENT
        known[key] = code = len(self.keys)
        self.keys.append(key)
        return code

    def bytes_of(self, codes: Ints) -> list[bytes]:
        """Return the keys of codes."""
        keys = self.keys
        return [keys[code] for code in codes.tolist()]

    def codes_of(self, partition: int) -> Ints:
        """Return the codes of a partition's keys."""
        known = self._by_partition.get(partition)
        codes = known.values() if known is not None else ()
        return np.array([code for code in codes if code >= 0], dtype=np.int64)

    def drop_partition(self, partition: int) -> None:
        """Forget a partition's keys; their codes are freed by the next `compact`."""
        self._by_partition.pop(partition, None)

    def is_due_for_tidying(self) -> bool:
        """Say whether most keys may be dead, as far as was last noted."""
        return len(self.keys) > 2 * self._noted_live + _SLACK_ROWS

    def note_live(self, live: int) -> None:
        """Note how many keys are in use, so that the next count waits until there are twice as many."""
        self._noted_live = live

    def compact(self, live: Mask) -> Ints:
        """Keep only live codes, renumbered in order.

        Args:
            live: one flag a code.

        Returns:
            the new code of each old one, `ABSENT` where it is gone.
        """
        renumbered = np.where(live, np.cumsum(live) - 1, ABSENT)
        numbers = renumbered.tolist()
        for partition, known in self._by_partition.items():
            kept = _Codes(self, partition)
            for key, code in known.items():
                if key is not None and numbers[code] >= 0:
                    kept[key] = numbers[code]
            self._by_partition[partition] = kept
        self.keys = [key for key, keep in zip(self.keys, live.tolist(), strict=True) if keep]
        return renumbered


def runs(partitions: npt.NDArray[np.int32]) -> list[tuple[int, int, int]]:
    """Return (partition, start, end) of each stretch of equal partitions."""
    if not len(partitions):
        return []
    if partitions[0] == partitions[-1] and np.all(partitions == partitions[0]):
        return [(int(partitions[0]), 0, len(partitions))]
    edges = [0, *(np.flatnonzero(np.diff(partitions)) + 1).tolist(), len(partitions)]
    return [(int(partitions[start]), start, end) for start, end in pairwise(edges)]


class Rows:
    """The newest row of each code, as columns: rows are appended, and older versions are swept out now and then."""

    def __init__(self, schema: Mapping[str, pl.DataType]) -> None:
        """Begin empty, with the columns of `schema`."""
        self._frame = pl.DataFrame(schema=dict(schema))
        self._row = np.full(1024, -1, dtype=np.int64)
        self._live = 0

    def __len__(self) -> int:
        return self._live

    def stored(self) -> int:
        """Return how many rows are stored, older versions included."""
        return len(self._frame)

    def put(self, codes: Ints, frame: pl.DataFrame, deleted: Mask | None = None) -> None:
        """Set the rows of codes; of several rows with one code the last one counts.

        Args:
            codes: codes ≥ 0.
            frame: one row a code.
            deleted: rows that delete their code rather than set it.
        """
        if not len(codes):
            return
        self._grow(int(codes.max()) + 1)
        rows = np.arange(len(self._frame), len(self._frame) + len(codes))
        if deleted is not None:
            rows = np.where(deleted, -1, rows)
        touched = np.unique(codes)
        before = int(np.count_nonzero(self._row[touched] >= 0))
        self._row[codes] = rows
        self._live += int(np.count_nonzero(self._row[touched] >= 0)) - before
        self._frame = self._frame.vstack(frame.select(self._frame.columns))
        self._tidy()

    def find(self, codes: Ints) -> Ints:
        """Return each code's row number, -1 where it has none; codes below 0 have none."""
        rows = np.full(len(codes), -1, dtype=np.int64)
        inside = (codes >= 0) & (codes < len(self._row))
        rows[inside] = self._row[codes[inside]]
        return rows

    def take(self, rows: Ints) -> pl.DataFrame:
        """Return rows by their numbers (from `find`); -1 gives a row of nulls."""
        if np.any(rows < 0):
            return self._frame.select(pl.all().gather(pl.Series(rows).replace(-1, None)))
        return self._frame[rows]

    def drop(self, codes: Ints) -> None:
        """Delete the rows of codes, wherever there are any."""
        inside = np.unique(codes[codes < len(self._row)])
        self._live -= int(np.count_nonzero(self._row[inside] >= 0))
        self._row[inside] = -1

    def map_column(self, name: str, numbers: Ints) -> None:
        """Replace a column's values, which are positions in `numbers`."""
        column = self._frame[name].to_numpy()
        self._frame = self._frame.with_columns(pl.Series(name, numbers[column]))

    def live_codes(self) -> Ints:
        """Return the codes that have a row."""
        return np.flatnonzero(self._row >= 0)

    def renumber(self, renumbered: Ints) -> None:
        """Follow `Keys.compact`."""
        old = self.live_codes()
        rows = self._row[old]
        new = renumbered[old]
        self._row = np.full(max(1024, int(new.max(initial=0)) + 1), -1, dtype=np.int64)
        self._row[new[new >= 0]] = rows[new >= 0]
        self._live = int(np.count_nonzero(new >= 0))

    def _grow(self, length: int) -> None:
        if length > len(self._row):
            grown = np.full(max(length, 2 * len(self._row)), -1, dtype=np.int64)
            grown[: len(self._row)] = self._row
            self._row = grown

    def _tidy(self) -> None:
        if len(self._frame) > 2 * self._live + _SLACK_ROWS:
            codes = self.live_codes()
            self._frame = self._frame[self._row[codes]]
            self._row[codes] = np.arange(len(codes))
        elif self._frame.n_chunks() > _MOST_CHUNKS:
            self._frame = self._frame.rechunk()


@dataclass
class Progress:
    """How far one input partition has come; kept in the metadata of its committed offset.

    Attributes:
        position: offset after the last record whose effects are committed.
        stream_time: largest event time that reached the aggregate, ms; windows that ended before it, grace included, are
            closed. Records before `position` are read again only to rebuild windows that were still open then: with this
            stream time the same rule that finds late records keeps them out of the closed ones.
        tables: (offset in this partition, offset in each table's partition) pairs: from that offset on, records were joined
            with the tables as of those offsets. Reading again repeats it.
    """

    position: int = -1
    stream_time: int = -1
    tables: list[tuple[int, tuple[int, ...]]] = field(default_factory=list)

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
        }
        return orjson.dumps(body).decode()

    @classmethod
    def from_metadata(cls, text: str | None, offset: int) -> Progress:
        """Read commit metadata; without any (another program set the offset) the offset is the position.

        Raises:
            ValueError: the metadata is of a later version of the engine.
        """
        try:
            body = orjson.loads(text or "")
        except orjson.JSONDecodeError:
            return cls(position=offset)
        if body["version"] != _METADATA_VERSION:
            raise ValueError(
                f"commit metadata {text!r} has version {body['version']!r}, this engine reads {_METADATA_VERSION}; "
                "start the engine version that wrote it"
            )
        marks = [(body["position"] - back, tuple(tables)) for back, *tables in body["tables"]]
        return cls(body["position"], body["stream_time"], marks)
