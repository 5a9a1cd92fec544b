"""Puts both sides of a join into the join's own topic, in the order in which they are joined.

Kafka gives no order between two topics. So one stage reads both, takes whichever record's event time is next (as far as the
topics go), and writes them into one topic; the join reads that topic alone. So the order is decided once, exactly once is
the same transaction as everywhere, and a restart joins the same records in the same order again.

Source: Kafka Streams' ``PartitionGroup``, which takes the record with the lowest time of those at hand.
"""

from __future__ import annotations

import time
from dataclasses import dataclass, field

import numpy as np
import orjson
import polars as pl
from confluent_kafka import TopicPartition

from kafkakit.batch_consumer import MessageBatch
from kafkakit.commit_metadata import framed, raw_metadata, unframed
from ksqlengine.execution.builder import build_merge
from ksqlengine.execution.operators import StreamTimes
from ksqlengine.execution.pipeline import ORDER, MergePipeline
from ksqlengine.execution.readers import Rejected
from ksqlengine.execution.stages import Stage
from ksqlengine.internal_names import is_internal
from ksqlengine.plan.steps import ROWOFFSET, ROWPARTITION, ROWTIME, SourceKind
from ksqlengine.streams.batches import of_topic, ordered, select
from ksqlengine.streams.clients import StageClients
from ksqlengine.streams.context import StageContext
from ksqlengine.streams.tables import Partition
from ksqlengine.types.arrays import runs

_MOST_HELD_ROWS = 200_000  # a side that is so far ahead of the other isn't read meanwhile
_NO_LIMIT = 2**62

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

    def begin(self, where: Input, position: int) -> None:
        """Take an input's records from an offset on."""
        self.held[where] = Held(position, position, None)

    def forget(self, where: Input) -> None:
        """Forget an input and what is held of it."""
        side, partition = where
        del self.held[where]
        self._times[side].forget(partition)

    def hold(self, batch: MessageBatch) -> int:
        """Read a batch's records of both sides; return how many there were."""
        for topic, partition, offset in batch.ends:
            for side, arm in enumerate(self.pipeline.arms):
                if arm.topic == topic and (side, partition) in self.held:
                    self.held[side, partition].ended_at = offset
        count = 0
        for number, topic in enumerate(batch.topics):
            part = of_topic(batch, number)
            sides = [side for side, arm in enumerate(self.pipeline.arms) if arm.topic == topic]
            count += sum(self._hold(side, part) for side in sides)
        return count

    def _hold(self, side: int, batch: MessageBatch) -> int:
        batch = ordered(batch, [partition for held_side, partition in self.held if held_side == side])
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


class MergeWork:
    """Puts both sides of a join into its topic (a `StageWork`). The group's partitions are the left side's; the right's go along.

    Rows are handed on as their turn comes; a side that is far ahead of the other one isn't read meanwhile.
    """

    def __init__(self, stage: Stage, context: StageContext, clients: StageClients) -> None:
        """Build the pipeline of a stage with `Stage.arms`.

        Args:
            stage: what to run.
            context: what it needs.
            clients: the session's clients.
        """
        self._stage = stage
        self._context = context
        self._clients = clients
        self._pipeline = build_merge(stage, context.schemas, context.write_schemas(stage))
        self._merger = Merger(self._pipeline)
        self._held = self._merger.held
        self._reading: frozenset[Input] = frozenset()
        self._topics = [arm.topic for arm in self._pipeline.arms]
        self._side_partitions = [clients.partitions(topic) for topic in self._topics]

    @property
    def has_partitions(self) -> bool:
        """Whether it has any of the group's partitions."""
        return bool(self._held)

    @property
    def begins_at_ends(self) -> bool:
        """Whether a partition without a commit begins at its topic's end, on one side at least."""
        return not all(self._context.options.reads_from_beginning(arm.source) for arm in self._stage.arms)

    def positions(self) -> list[tuple[str, int, int]]:
        """Return (topic, partition, offset) of everything that is to be read; it is taken as being read from now on."""
        self._reading = self._readable()
        positions: dict[Partition, int] = {}
        for side, partition in self._reading:
            where = (self._topics[side], partition)
            positions[where] = min(self._held[side, partition].read_to, positions.get(where, _NO_LIMIT))
        return [(topic, partition, offset) for (topic, partition), offset in positions.items()]

    def _readable(self) -> frozenset[Input]:
        return frozenset(where for where, held in self._held.items() if held.rows < _MOST_HELD_ROWS)

    # ---------------------------------------------------------------------------------------------- records
    def process(self, batch: MessageBatch) -> None:
        """Hold what was read, which may be nothing, and hand on what is due."""
        count = self._merger.hold(batch)
        if count:
            self._context.metrics.count_consumed(count, self._pipeline.counters, time.time())
        self._hand_on()
        if self._reading != self._readable():
            self._clients.stream.assign(self.positions())

    def _hand_on(self) -> None:
        output = self._clients.output
        taken = self._merger.due()
        if taken:
            output.write(self._pipeline.write(taken, output.sink_partitions))
        for held in self._held.values():
            output.write_rejects([bad for bad in held.rejects if bad.offset < held.position])
            held.rejects = [bad for bad in held.rejects if bad.offset >= held.position]

    # ---------------------------------------------------------------------------------------------- commits
    def prepare_commit(self) -> list[TopicPartition]:
        """Return the positions that have changed, with their metadata; there is no state to write."""
        by_topic: dict[Partition, dict[int, int]] = {}
        changed = set()
        for (side, partition), held in self._held.items():
            where = (self._topics[side], partition)
            by_topic.setdefault(where, {})[side] = held.position
            if held.position != held.committed:
                changed.add(where)
        return [
            TopicPartition(topic, partition, min(positions.values()), _metadata(positions))
            for (topic, partition), positions in by_topic.items()
            if (topic, partition) in changed
        ]

    def note_committed(self) -> None:
        """Note that the positions are committed."""
        for held in self._held.values():
            held.committed = held.position

    def used(self) -> list[TopicPartition]:
        """Return up to where records of a query's own streams were read and committed: nobody else reads them."""
        return [
            TopicPartition(self._topics[side], partition, held.committed)
            for (side, partition), held in self._held.items()
            if held.committed
            and is_internal(self._topics[side])
            and self._pipeline.arms[side].kind is SourceKind.STREAM
        ]

    # ---------------------------------------------------------------------------------------------- assignment
    def give_up(self) -> None:
        """Forget all partitions; another process may have them now."""
        for where in list(self._held):
            self._merger.forget(where)

    def take_over(self, partitions: list[int]) -> None:
        """Take partitions that the group has given to this process, and the right side's that go with them."""
        lead = self._side_partitions[0]
        gained = [
            (side, partition)
            for side, count in enumerate(self._side_partitions)
            for partition in range(count)
            if partition % lead in partitions
        ]
        for where, position in self._committed_positions(gained).items():
            self._merger.begin(where, position)

    def _committed_positions(self, inputs: list[Input]) -> dict[Input, int]:
        """Return the offset from which each input is read on."""
        wanted = sorted({(self._topics[side], partition) for side, partition in inputs})
        committed = {(found.topic, found.partition): found for found in self._clients.committed(wanted)}
        ends = self._clients.ends(wanted)
        earliest = {topic: self._clients.earliest(topic) for topic in dict.fromkeys(self._topics)}
        positions = {}
        for side, partition in inputs:
            where = (self._topics[side], partition)
            first = earliest[self._topics[side]][where]
            known = committed[where]
            if known.offset < 0:
                from_beginning = self._context.options.reads_from_beginning(self._stage.arms[side].source)
                positions[side, partition] = first if from_beginning else ends[where]
            else:
                positions[side, partition] = max(_position(raw_metadata(known), side, known.offset), first)
        return positions


def _metadata(positions: dict[int, int]) -> str:
    return framed(orjson.dumps({"positions": {str(side): position for side, position in positions.items()}}).decode())


def _position(metadata: bytes, side: int, offset: int) -> int:
    """Return a side's position; the two sides may be streams over one topic, of which only one offset is committed."""
    try:
        return int(orjson.loads(unframed(metadata))["positions"].get(str(side), offset))
    except (orjson.JSONDecodeError, KeyError):
        return offset
