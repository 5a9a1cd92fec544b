"""In which order records that are there already go into a stream-table join: that of time, as a task of Kafka Streams takes them.

Source: Kafka Streams' ``PartitionGroup``: of the topics of a task that have records, that whose next record has the smallest
timestamp is next. A record behind one of a later time waits for it, so a topic's times count as they grow. Of equal times the
table's record comes first.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator
from dataclasses import dataclass, field

import numpy as np

from kafkakit.batch_consumer import MessageBatch
from ksqlengine.streams.batches import select
from ksqlengine.types.arrays import Ints


@dataclass
class _Held:
    """Records of one table's topic whose turn has not come.

    Attributes:
        batches: the records, with the time of each as it counts.
        newest: the largest time of them all, those that are gone too, ms.
        due: times at which each key's records are due, ms.
    """

    batches: list[tuple[MessageBatch, Ints]] = field(default_factory=list)
    newest: int = -(2**62)
    due: dict[bytes | None, deque[int]] = field(default_factory=dict)

    def has_due(self, key: bytes | None, taken: int, time: int) -> bool:
        """Return whether a record of a key is due after one time and not after another, ms."""
        times = self.due.get(key, deque())
        while times and times[0] <= taken:
            times.popleft()
        return bool(times) and times[0] <= time

    def take(self, time: int) -> list[MessageBatch]:
        """Return, and hold no longer, the records that are due at a time, ms."""
        taken: list[MessageBatch] = []
        kept: list[tuple[MessageBatch, Ints]] = []
        for batch, times in self.batches:
            count = int(np.searchsorted(times, time, "right"))
            if count:
                taken.append(select(batch, np.arange(count)))
            if count < len(times):
                kept.append((select(batch, np.arange(count, len(times))), times[count:]))
        self.batches = kept
        return taken


@dataclass
class TableBacklog:
    """Table records that wait while a partition's stream records that were there first are joined.

    Attributes:
        until: offset of the stream's partition behind the records that were there.
        time: the largest time of the stream's records so far, ms.
    """

    until: int
    time: int = -(2**62)
    _held: dict[str, _Held] = field(default_factory=dict)
    _taken: int = -(2**62)

    def hold(self, topic: str, batch: MessageBatch, times: Ints) -> None:
        """Keep records of one table's topic, in order of offset, with their times, ms."""
        if not len(batch):
            return
        held = self._held.setdefault(topic, _Held())
        counting = np.maximum(np.maximum.accumulate(times), held.newest)
        held.newest = int(counting[-1])
        held.batches.append((batch, counting))
        for key, time in zip(batch.key.to_pylist(), counting.tolist(), strict=True):
            held.due.setdefault(key, deque()).append(time)

    def first_held(self, topic: str) -> int | None:
        """Return the lowest offset of a topic's held records, None without any."""
        held = self._held.get(topic)
        return int(held.batches[0][0].offset[0]) if held is not None and held.batches else None

    def pieces(self, batch: MessageBatch, times: Ints) -> Iterator[tuple[MessageBatch, dict[str, list[MessageBatch]]]]:
        """Cut stream records where a table record must be applied before the next one of its key.

        Args:
            batch: records of the stream's partition, in order of offset.
            times: their times, ms.

        Yields:
            a piece, and the table records (by topic) to apply before it.
        """
        counting = np.maximum(np.maximum.accumulate(times), self.time).tolist()
        begin, due = 0, dict[str, list[MessageBatch]]()
        waits = any(held.batches for held in self._held.values())
        for row, (key, time) in enumerate(zip(batch.key.to_pylist(), counting, strict=True) if waits else ()):
            if any(held.has_due(key, self._taken, time) for held in self._held.values()):
                if row > begin:
                    yield select(batch, np.arange(begin, row)), due
                self.time, begin, due = time, row, self._take(time)
        if counting:
            self.time = counting[-1]
            yield select(batch, np.arange(begin, len(counting))), due

    def rest(self) -> dict[str, list[MessageBatch]]:
        """Return, and hold no longer, all records."""
        return self._take(2**62)

    def _take(self, time: int) -> dict[str, list[MessageBatch]]:
        self._taken = time
        return {topic: held.take(time) for topic, held in self._held.items()}
