"""Joined tables that follow their topics: as new as these when a stream record is joined, and as old as then when it is again."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from kafkakit.batch_consumer import BEGINNING, MessageBatch, open_batch_consumer
from ksqlengine.execution.pipeline import Pipeline, TableInput
from ksqlengine.execution.readers import Rejected, SourceReader
from ksqlengine.plan.steps import ROWOFFSET, ROWTIME, SourceKind
from ksqlengine.streams.batches import of_topic, ordered, select
from ksqlengine.streams.context import BATCH_ROWS, POLL_SECONDS, REQUEST_SECONDS
from ksqlengine.streams.progress import OwnedPartition
from ksqlengine.streams.table_backlog import TableBacklog
from ksqlengine.types.arrays import Ints, runs

_NO_LIMIT = 2**62

Partition = tuple[str, int]
"""A topic and the number of one of its partitions."""


@dataclass
class _Repeat:
    """A partition whose records are read again: its tables go through the same versions as the first time.

    Attributes:
        marks: what is left of `PartitionProgress.tables`, the current one first.
        until: offset from which records are new.
        held: table records that come after the current mark, by topic.
    """

    marks: list[tuple[int, tuple[int, ...]]]
    until: int
    held: dict[str, list[MessageBatch]] = field(default_factory=dict)

    @property
    def boundary(self) -> int:
        """Offset at which the tables move on."""
        return self.marks[1][0] if len(self.marks) > 1 else self.until


class TableFollower:
    """Keeps a stage's tables as new as their topics when a stream record is joined.

    Which table offsets a stream offset was joined with is noted in `PartitionProgress.tables`. After a restart the records of
    open windows are joined with the same versions again, so a change of the table meanwhile doesn't alter what was seen.
    """

    def __init__(
        self, pipeline: Pipeline, config: dict[str, Any], ends: Callable[[Iterable[Partition]], dict[Partition, int]]
    ) -> None:
        self._pipeline = pipeline
        self._inputs: dict[str, list[TableInput]] = {}
        for table in pipeline.tables:
            self._inputs.setdefault(table.topic, []).append(table)
        self._ends = ends
        with_headers = any(table.reader.step.headers for table in pipeline.tables)
        self._consumer = open_batch_consumer(config, with_headers=with_headers) if self._inputs else None
        self._positions: dict[Partition, int] = {}
        self._reached: dict[Partition, int] = {}
        self._repeats: dict[int, _Repeat] = {}
        self._backlogs: dict[int, TableBacklog] = {}
        self._logged: dict[Partition, int] = {}
        self._rejects: list[Rejected] = []

    def take_over(self, owned: Mapping[int, OwnedPartition]) -> None:
        """Read the partitions of the tables that go with newly gained stream partitions, up to their ends."""
        if self._consumer is None:
            return
        for partition, state in owned.items():
            marks = state.progress.tables
            if marks:
                self._repeats[partition] = _Repeat(list(marks), state.seen_before)
            if state.progress.backlog is not None:
                self._backlogs[partition] = TableBacklog(*state.progress.backlog)
            for number, topic in enumerate(self._inputs):
                self._positions[topic, partition] = BEGINNING
                self._logged[topic, partition] = marks[-1][1][number] if marks else 0
        self._assign()
        self.catch_up()

    def drop(self, partition: int) -> None:
        """Stop following a partition."""
        if self._consumer is None:
            return
        self._repeats.pop(partition, None)
        self._backlogs.pop(partition, None)
        for topic in self._inputs:
            self._positions.pop((topic, partition), None)
            self._reached.pop((topic, partition), None)
        self._assign()

    def catch_up(self) -> None:
        """Apply everything that the tables' topics hold by now.

        Raises:
            TimeoutError: nothing could be read for long.
        """
        if self._consumer is None or not self._positions:
            return
        wanted = self._ends(self._positions)
        deadline = time.monotonic() + REQUEST_SECONDS
        while any(self._reached.get(partition, -1) < end for partition, end in wanted.items()):
            batch = self._consumer.poll(POLL_SECONDS, BATCH_ROWS)
            if len(batch) or batch.ends:
                deadline = time.monotonic() + REQUEST_SECONDS
            elif time.monotonic() > deadline:
                behind = [partition for partition, end in wanted.items() if self._reached.get(partition, -1) < end]
                raise TimeoutError(f"tables' partitions {behind!r} could not be read for {REQUEST_SECONDS:g} s")
            self._apply(batch)

    def pieces(self, batch: MessageBatch, owned: Mapping[int, OwnedPartition]) -> Iterator[MessageBatch]:
        """Give a stream batch in pieces, the tables being as they must be for each piece when it is given."""
        self.catch_up()
        while self._repeats and len(batch):
            limits = {partition: repeat.boundary for partition, repeat in self._repeats.items()}
            now = np.ones(len(batch), dtype=bool)
            for partition, start, end in runs(batch.partition):
                if partition in limits:
                    now[start:end] = batch.offset[start:end] < limits[partition]
            if now.any():
                piece = select(batch, np.flatnonzero(now))
                self._note(piece, owned)
                yield piece
            batch = select(batch, np.flatnonzero(~now))
            for partition, _, _ in runs(batch.partition):
                self._move_on(partition)
        now = np.ones(len(batch), dtype=bool)
        for partition, start, end in runs(batch.partition) if self._backlogs else ():
            if partition in self._backlogs:
                now[start:end] = batch.offset[start:end] >= self._backlogs[partition].until
                yield from self._in_order_of_time(
                    select(batch, np.flatnonzero(~now[start:end]) + start), owned[partition]
                )
                if now[start:end].any():
                    self._end_backlog(partition, owned[partition])
        batch = batch if now.all() else select(batch, np.flatnonzero(now))
        if len(batch):
            self._note(batch, owned)
            yield batch

    def _in_order_of_time(self, batch: MessageBatch, owned: OwnedPartition) -> Iterator[MessageBatch]:
        """Give records of one partition that were there before the query, each with the tables as they were at its time."""
        if not len(batch):
            return
        partition = int(batch.partition[0])
        backlog = self._backlogs[partition]
        for piece, due in backlog.pieces(batch, _times(self._pipeline.source, batch, SourceKind.STREAM)):
            self._apply_held(due)
            owned.progress.backlog = (backlog.until, backlog.time)
            self._note(piece, {partition: owned})
            yield piece

    def _end_backlog(self, partition: int, owned: OwnedPartition) -> None:
        self._apply_held(self._backlogs.pop(partition).rest())
        owned.progress.backlog = None

    def _apply_held(self, held: Mapping[str, list[MessageBatch]]) -> None:
        for topic, batches in held.items():
            for batch in batches:
                self._apply_now(topic, batch)

    def take_rejects(self) -> list[Rejected]:
        """Return the bad records found since the last call."""
        rejects, self._rejects = self._rejects, []
        return rejects

    def close(self) -> None:
        """Close the client."""
        if self._consumer is not None:
            self._consumer.close()

    def _assign(self) -> None:
        if self._consumer is not None:
            self._consumer.assign(
                [(topic, partition, offset) for (topic, partition), offset in self._positions.items()]
            )

    def _note(self, batch: MessageBatch, owned: Mapping[int, OwnedPartition]) -> None:
        """Note which table offsets the batch's records are joined with, where they have changed."""
        if self._consumer is None:
            return
        for partition, start, _ in runs(batch.partition):
            if partition in self._repeats:
                continue
            marks = owned[partition].progress.tables
            versions = tuple(self._version(topic, partition) for topic in self._inputs)
            if not marks or marks[-1][1] != versions:
                marks.append((int(batch.offset[start]), versions))

    def _version(self, topic: str, partition: int) -> int:
        """Return the offset before which a table's records are applied."""
        backlog = self._backlogs.get(partition)
        held = None if backlog is None else backlog.first_held(topic)
        return max(self._positions[topic, partition], 0) if held is None else held

    def _move_on(self, partition: int) -> None:
        """Bring a repeating partition's tables to the next mark, or to the present behind the last one."""
        repeat = self._repeats.get(partition)
        if repeat is None:
            return
        repeat.marks.pop(0)
        held, repeat.held = repeat.held, {}
        if not repeat.marks:
            del self._repeats[partition]
        for topic, batches in held.items():
            for batch in batches:
                self._apply_rows(topic, batch)

    def _apply(self, batch: MessageBatch) -> None:
        for number, topic in enumerate(batch.topics):
            part = ordered(of_topic(batch, number), {partition for name, partition in self._positions if name == topic})
            for partition, _, end in runs(part.partition):
                self._positions[topic, partition] = self._reached[topic, partition] = int(part.offset[end - 1]) + 1
            self._apply_rows(topic, part)
        for topic, partition, offset in batch.ends:
            if (topic, partition) in self._positions:
                self._reached[topic, partition] = max(offset, self._reached.get((topic, partition), -1))

    def _apply_rows(self, topic: str, batch: MessageBatch) -> None:
        """Apply table records, but hold back those that a repeating partition hasn't come to."""
        number = list(self._inputs).index(topic)
        for partition, start, end in runs(batch.partition) if self._repeats else ():
            repeat = self._repeats.get(partition)
            if repeat is not None:
                later = np.flatnonzero(batch.offset[start:end] >= repeat.marks[0][1][number]) + start
                repeat.held.setdefault(topic, []).append(select(batch, later))
        if self._repeats:
            limits = np.full(len(batch), _NO_LIMIT)
            for partition, start, end in runs(batch.partition):
                if partition in self._repeats:
                    limits[start:end] = self._repeats[partition].marks[0][1][number]
            batch = select(batch, np.flatnonzero(batch.offset < limits))
        self._apply_now(topic, self._without_backlog(topic, batch) if self._backlogs else batch)

    def _without_backlog(self, topic: str, batch: MessageBatch) -> MessageBatch:
        """Hold back what is not to be applied before its time; return the rest."""
        now = np.ones(len(batch), dtype=bool)
        for partition, start, end in runs(batch.partition):
            backlog = self._backlogs.get(partition)
            if backlog is not None and partition not in self._repeats:
                part = select(batch, np.arange(start, end))
                backlog.hold(topic, part, _times(self._inputs[topic][0].reader, part, SourceKind.TABLE))
                now[start:end] = False
        return batch if now.all() else select(batch, np.flatnonzero(now))

    def _apply_now(self, topic: str, batch: MessageBatch) -> None:
        if not len(batch) or self._pipeline.keys is None:
            return
        for table in self._inputs[topic]:
            rejects = table.apply(batch, self._pipeline.keys)
            self._rejects.extend(bad for bad in rejects if bad.offset >= self._logged[topic, bad.partition])


def _times(reader: SourceReader, batch: MessageBatch, kind: SourceKind) -> Ints:
    """Return the times of one partition's records, ms; a record that can't be read has no say."""
    if reader.step.timestamp_column is None:
        return batch.timestamp
    frame, _ = reader.read(batch, None, False) if kind is SourceKind.STREAM else reader.read_changes(batch, None)
    times = np.full(len(batch), -(2**62))
    times[np.searchsorted(batch.offset, frame[ROWOFFSET].to_numpy())] = frame[ROWTIME].to_numpy()
    return times
