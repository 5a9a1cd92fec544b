"""Puts both sides of a join into the join's own topic, in the order in which they are joined.

Kafka gives no order between two topics. So one stage reads both, takes whichever record's event time is next (as far as the
topics go), and writes them into one topic; the join reads that topic alone. Thus the order is decided once, exactly once is
the same transaction as everywhere, and a restart joins the same records in the same order again.

Source: Kafka Streams' ``PartitionGroup``, which takes the record with the lowest time of those at hand.
"""

from __future__ import annotations

import time
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import orjson
import polars as pl
from confluent_kafka import KafkaException, TopicPartition

from kafkakit.batch_consumer import MessageBatch
from ksqlengine.execution.builder import build_merge
from ksqlengine.execution.operators import StreamTimes
from ksqlengine.execution.pipeline import ORDER, MergePipeline
from ksqlengine.execution.readers import Rejected
from ksqlengine.plan.steps import ROWOFFSET, ROWPARTITION, ROWTIME, SourceKind
from ksqlengine.streams.progress import PartitionProgress
from ksqlengine.streams.stage_session import Owned, StageSession, ordered, select
from ksqlengine.types.arrays import runs

_MOST_HELD_ROWS = 200_000  # a side that is so far ahead of the other isn't read meanwhile
_NO_LIMIT = 2**62
_BATCH_ROWS = 32_768
_POLL_SECONDS = 0.1
_REQUEST_SECONDS = 30.0
_DELETION_SECONDS = 30.0

Input = tuple[int, int]
"""A side and a partition of its topic."""


@dataclass
class Held:
    """What is read of an input and not yet handed on.

    Attributes:
        position: offset after the last record that was handed on.
        read_to: offset after the last record that was read.
        committed: position of the last commit, None before the first one.
        ended_at: end of the partition when it was last reached.
        frames: rows, in order.
        rejects: bad messages that are not in the processing log yet.
    """

    position: int
    read_to: int
    committed: int | None
    ended_at: int = -1
    frames: list[pl.DataFrame] = field(default_factory=list)
    rejects: list[Rejected] = field(default_factory=list)

    @property
    def rows(self) -> int:
        """How many rows are held."""
        return sum(map(len, self.frames))

    @property
    def limit(self) -> int:
        """Time up to which rows may be handed on for all that is known of this input."""
        if self.ended_at >= self.read_to:
            return _NO_LIMIT
        return int(self.frames[-1][ORDER][-1]) if self.frames else -1

    def take(self, limit: int) -> pl.DataFrame | None:
        """Hand on the rows up to a time."""
        if not self.frames:
            self.position = self.read_to
            return None
        rows = pl.concat(self.frames)
        count = int(np.searchsorted(rows[ORDER].to_numpy(), limit, "right"))
        self.frames = [rows[count:]] if count < len(rows) else []
        self.position = int(rows[ROWOFFSET][count]) if count < len(rows) else self.read_to
        return rows[:count] if count else None


class Merger:
    """Puts both sides' rows in the order in which they are joined: whichever is next by event time, as far as both are read."""

    def __init__(self, pipeline: MergePipeline) -> None:
        """Begin without inputs; `begin` adds them."""
        self.pipeline = pipeline
        self.held: dict[Input, Held] = {}
        self._times = tuple(StreamTimes() for _ in pipeline.arms)

    def begin(self, one: Input, position: int) -> None:
        """Take an input's records from an offset on."""
        self.held[one] = Held(position, position, None)

    def forget(self, one: Input) -> None:
        """Forget an input and what is held of it."""
        del self.held[one]
        self._times[one[0]].forget(one[1])

    def hold(self, batch: MessageBatch) -> int:
        """Read a batch's records of both sides; return how many there were."""
        for topic, partition, offset in batch.ends:
            for side, arm in enumerate(self.pipeline.arms):
                if arm.topic == topic and (side, partition) in self.held:
                    self.held[side, partition].ended_at = offset
        count = 0
        for number, topic in enumerate(batch.topics):
            part = batch if len(batch.topics) == 1 else select(batch, np.flatnonzero(batch.topic == number))
            sides = [side for side, arm in enumerate(self.pipeline.arms) if arm.topic == topic]
            count += sum(self._hold(side, part) for side in sides)
        return count

    def _hold(self, side: int, batch: MessageBatch) -> int:
        batch = ordered(batch, [partition for one, partition in self.held if one == side])
        if len(batch):
            read_to = np.array([self.held[side, partition].read_to for partition in batch.partition.tolist()])
            batch = select(batch, np.flatnonzero(batch.offset >= read_to))
        if not len(batch):
            return 0
        rows, rejects = self.pipeline.push(side, batch)
        for partition, _, end in runs(batch.partition):
            self.held[side, partition].read_to = int(batch.offset[end - 1]) + 1
        for rejected in rejects:
            self.held[side, rejected.partition].rejects.append(rejected)
        if len(rows):
            partitions = rows[ROWPARTITION].to_numpy()
            rows = rows.with_columns(pl.Series(ORDER, self._times[side].follow(partitions, rows[ROWTIME].to_numpy())))
            for partition, start, end in runs(partitions):
                self.held[side, partition].frames.append(rows[start:end])
        return len(batch)

    def due(self) -> list[pl.DataFrame]:
        """Return, and hold no longer, the rows whose turn has come (see `MergePipeline.write`)."""
        limit = min((held.limit for held in self.held.values()), default=-1)
        if limit < 0:
            return []
        return [rows for held in self.held.values() if (rows := held.take(limit)) is not None]


class MergeSession(StageSession):
    """One life of a stage with `Stage.arms`. The group's partitions are the left side's; the right side's go with them."""

    def _build(self) -> None:
        context, stage = self._context, self._stage
        self._merge = build_merge(stage, context.schemas, context.write_schemas(stage))
        self._aggregate = None
        self._counters = self._merge.counters
        self._merger = Merger(self._merge)
        self._held = self._merger.held
        self._reading: frozenset[Input] = frozenset()

    def _open_tables(self, reading: dict[str, Any]) -> None:
        self._side_partitions = [self._partitions(arm.topic) for arm in self._merge.arms]

    # ---------------------------------------------------------------------------------------------- one round
    def step(self) -> int:
        """Read one batch, hand on what is due, and commit when it is time; return the number of records read."""
        self._serve_group()
        batch = self._stream.poll(_POLL_SECONDS if self._held else 0.0, _BATCH_ROWS)
        held = self._merger.hold(batch)
        if held:
            self._count(held, time.time())
        self._hand_on()
        if self._reading != self._readable():
            self._assign()
        self._commit_if_due()
        if not self._held:
            time.sleep(_POLL_SECONDS / 2)
        return len(batch)

    def _hand_on(self) -> None:
        taken = self._merger.due()
        if taken:
            self._produce(self._merge.write(taken, self._sink_partitions))
        for held in self._held.values():
            self._send_rejects([one for one in held.rejects if one.offset < held.position])
            held.rejects = [one for one in held.rejects if one.offset >= held.position]

    # ---------------------------------------------------------------------------------------------- commits
    def _changed_offsets(self) -> list[TopicPartition]:
        by_topic: dict[tuple[str, int], dict[int, int]] = {}
        changed = set()
        for (side, partition), held in self._held.items():
            where = (self._merge.arms[side].topic, partition)
            by_topic.setdefault(where, {})[side] = held.position
            if held.position != held.committed:
                changed.add(where)
        return [
            TopicPartition(topic, partition, min(positions.values()), _metadata(positions))
            for (topic, partition), positions in by_topic.items()
            if (topic, partition) in changed
        ]

    def _note_committed(self) -> None:
        for held in self._held.values():
            held.committed = held.position

    def _delete_used(self) -> None:
        """Delete what has been read of a query's own streams: nobody else reads them."""
        now = time.monotonic()
        if now - self._last_deletion < _DELETION_SECONDS:
            return
        self._last_deletion = now
        used = [
            TopicPartition(self._merge.arms[side].topic, partition, held.committed)
            for (side, partition), held in self._held.items()
            if held.committed
            and self._merge.arms[side].topic.startswith("_confluent-ksql-")
            and self._merge.arms[side].kind is SourceKind.STREAM
        ]
        if used:
            self._admin.delete_records(used, request_timeout=_REQUEST_SECONDS)

    # ---------------------------------------------------------------------------------------------- assignment
    def _take_over(self, partitions: list[int]) -> None:
        lead = self._side_partitions[0]
        gained = [
            (side, partition)
            for side, count in enumerate(self._side_partitions)
            for partition in range(count)
            if partition % lead in partitions
        ]
        for one, position in self._committed_positions(gained).items():
            self._merger.begin(one, position)
        for partition in partitions:
            self._owned[partition] = Owned(PartitionProgress(), None, 0, 0, time.time())
        self._assign()
        if not all(self._is_from_earliest(arm.source) for arm in self._stage.arms):
            # As in `StageSession`: a side that is quiet for long would begin at its topic's end again after a restart.
            self._commit()

    def _drop(self, partitions: Iterable[int]) -> None:
        gone = set(partitions)
        for partition in gone:
            del self._owned[partition]
        lead = self._side_partitions[0]
        for side, partition in [one for one in self._held if one[1] % lead in gone]:
            self._merger.forget((side, partition))

    def _readable(self) -> frozenset[Input]:
        return frozenset(one for one, held in self._held.items() if held.rows < _MOST_HELD_ROWS)

    def _assign(self) -> None:
        self._reading = self._readable()
        positions: dict[tuple[str, int], int] = {}
        for side, partition in self._reading:
            where = (self._merge.arms[side].topic, partition)
            positions[where] = min(self._held[side, partition].read_to, positions.get(where, _NO_LIMIT))
        self._stream.assign([(topic, partition, offset) for (topic, partition), offset in positions.items()])

    def _committed_positions(self, inputs: list[Input]) -> dict[Input, int]:
        """Return the offset from which each input is read on."""
        topics = [arm.topic for arm in self._merge.arms]
        wanted = sorted({(topics[side], partition) for side, partition in inputs})
        found = self._group.committed([TopicPartition(*one) for one in wanted], timeout=_REQUEST_SECONDS)
        failed = next((one.error for one in found if one.error is not None), None)
        if failed is not None:
            raise KafkaException(failed)
        committed = {(one.topic, one.partition): one for one in found}
        ends = self._ends(wanted)
        earliest = {topic: self._earliest(topic) for topic in dict.fromkeys(topics)}
        positions = {}
        for side, partition in inputs:
            where = (topics[side], partition)
            first = earliest[topics[side]][where]
            known = committed[where]
            if known.offset < 0:
                from_earliest = self._is_from_earliest(self._stage.arms[side].source)
                positions[side, partition] = first if from_earliest else ends[where]
            else:
                positions[side, partition] = max(_position(known.metadata, side, known.offset), first)
        return positions


def _metadata(positions: dict[int, int]) -> str:
    return orjson.dumps({"positions": {str(side): position for side, position in positions.items()}}).decode()


def _position(metadata: str | None, side: int, offset: int) -> int:
    """Return a side's position; the two sides may be streams over one topic, of which only one offset is committed."""
    try:
        return int(orjson.loads(metadata or "")["positions"].get(str(side), offset))
    except (orjson.JSONDecodeError, KeyError):
        return offset
