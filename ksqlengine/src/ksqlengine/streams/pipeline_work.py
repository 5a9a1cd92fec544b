"""The work of a stage with a pipeline: processes the records of its partitions, and restores and commits what it remembers."""

from __future__ import annotations

import logging
import time
from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import polars as pl
from confluent_kafka import IsolationLevel, TopicPartition

from kafkakit.batch_consumer import MessageBatch
from kafkakit.commit_metadata import raw_metadata
from ksqlengine.execution.builder import build
from ksqlengine.execution.operators import Windowing
from ksqlengine.execution.readers import Rejected
from ksqlengine.execution.stages import Stage
from ksqlengine.internal_names import is_internal
from ksqlengine.plan.steps import SourceKind
from ksqlengine.streams.batches import ordered, select
from ksqlengine.streams.changelog import Changelog
from ksqlengine.streams.clients import StageClients
from ksqlengine.streams.context import REQUEST_SECONDS, TRANSACTION_TIMEOUT_MS, ForgottenRecordsError, StageContext
from ksqlengine.streams.progress import OwnedPartition, PartitionProgress, marks_from
from ksqlengine.streams.tables import TableFollower
from ksqlengine.types.arrays import runs

logger = logging.getLogger(__name__)


class PipelineWork:
    """Runs a pipeline over the partitions that the group has given to this process (a `StageWork`)."""

    def __init__(self, stage: Stage, context: StageContext, clients: StageClients) -> None:
        """Build the pipeline, and open a client for its tables.

        Args:
            stage: what to run.
            context: what it needs.
            clients: the session's clients.
        """
        self._stage = stage
        self._context = context
        self._clients = clients
        self._topic = stage.source.topic
        self._pipeline = build(stage, context.schemas, context.write_schemas(stage))
        self._aggregate = self._pipeline.aggregate
        self._changelog = Changelog(stage.changelog, self._pipeline) if stage.changelog is not None else None
        self._owned: dict[int, OwnedPartition] = {}
        self._lost_records: list[Rejected] = []
        self._tables = TableFollower(self._pipeline, clients.reading_config, clients.ends)
        clients.on_close(self._tables.close)

    @property
    def has_partitions(self) -> bool:
        """Whether it has any of the group's partitions."""
        return bool(self._owned)

    @property
    def begins_at_ends(self) -> bool:
        """Whether a partition without a commit begins at its topic's end."""
        return not self._context.options.reads_from_beginning(self._stage.source)

    def positions(self) -> list[tuple[str, int, int]]:
        """Return (topic, partition, offset) of everything that is to be read."""
        return [(self._topic, partition, owned.progress.position) for partition, owned in self._owned.items()]

    # ---------------------------------------------------------------------------------------------- records
    def process(self, batch: MessageBatch) -> None:
        """Process what was read, which may be nothing, and write what comes of it."""
        if len(batch):
            self._process(batch)

    def _process(self, batch: MessageBatch) -> None:
        batch = self._unprocessed(ordered(batch, self._owned))
        if not len(batch):
            return
        now = time.time()
        for piece in self._tables.pieces(batch, self._owned):
            results, rejects = self._pipeline.push(piece)
            self._write(results, [bad for bad in rejects if bad.offset >= self._owned[bad.partition].seen_before])
        self._clients.output.write_rejects(self._tables.take_rejects())
        repeated = 0
        for partition, start, end in runs(batch.partition):
            owned = self._owned[partition]
            offsets = batch.offset[start:end]
            if owned.seen_before > offsets[0]:
                repeated += int(np.count_nonzero(offsets < owned.seen_before))
            owned.progress.position = int(offsets[-1]) + 1
        self._context.metrics.count_consumed(len(batch) - repeated, self._pipeline.counters, now)

    def _unprocessed(self, batch: MessageBatch) -> MessageBatch:
        """Leave out records before a partition's position, which a client may still hold from its last assignment."""
        positions = {partition: self._owned[partition].progress.position for partition, _, _ in runs(batch.partition)}
        if all(batch.offset[start] >= positions[partition] for partition, start, _ in runs(batch.partition)):
            return batch
        first = np.array([positions[partition] for partition in batch.partition.tolist()])
        return select(batch, np.flatnonzero(batch.offset >= first))

    def _write(self, results: pl.DataFrame, rejects: Sequence[Rejected] = ()) -> None:
        output = self._clients.output
        output.write_rejects(rejects)
        if len(results):
            output.write(self._pipeline.sink.write(results, output.sink_partitions))

    @property
    def _windowing(self) -> Windowing | None:
        return self._aggregate.windowing if self._aggregate is not None else None

    # ---------------------------------------------------------------------------------------------- commits
    def prepare_commit(self) -> list[TopicPartition]:
        """Write the state's changes; return the positions that have changed, with their metadata."""
        offsets = self._changed_offsets()
        if self._changelog is not None and offsets:
            changes = self._changelog.changes(position.partition for position in offsets)
            if len(changes):
                self._clients.output.write_to(self._changelog.topic, changes)
        return offsets

    def _changed_offsets(self) -> list[TopicPartition]:
        offsets = []
        for partition, owned in self._owned.items():
            state = self._state_of(partition)
            # While records are read again the position of the last commit still holds.
            if state == owned.committed or state[1] < owned.seen_before:
                continue
            offset, position, stream_time = state
            owned.progress.tables = marks_from(owned.progress.tables, offset)
            metadata = replace(owned.progress, position=position, stream_time=stream_time).to_metadata()
            offsets.append(TopicPartition(self._topic, partition, offset, metadata))
        return offsets

    def _state_of(self, partition: int) -> tuple[int, int, int]:
        """Return (offset needed, position, stream time) of a partition."""
        owned, windowing = self._owned[partition], self._windowing
        position = owned.progress.position
        if self._aggregate is None or self._changelog is not None:
            return position, position, windowing.times[partition] if windowing is not None else -1
        if windowing is None:
            # A join of tables needs all that their topic holds.
            return owned.begin, position, -1
        needed = windowing.needed_offset(partition)
        return position if needed is None else needed, position, windowing.resume_time(partition)

    def note_committed(self) -> None:
        """Note that the positions are committed."""
        for partition, owned in self._owned.items():
            owned.committed = self._state_of(partition)

    def used(self) -> list[TopicPartition]:
        """Return up to where records of a repartition topic were read and committed: nobody else reads it."""
        if not is_internal(self._topic) or self._stage.source.kind is not SourceKind.STREAM:
            return []
        return [
            TopicPartition(self._topic, partition, owned.committed[0])
            for partition, owned in self._owned.items()
            if owned.committed is not None and owned.committed[0] > 0
        ]

    # ---------------------------------------------------------------------------------------------- assignment
    def give_up(self) -> None:
        """Forget all partitions; another process may have them now."""
        for partition in list(self._owned):
            del self._owned[partition]
            self._pipeline.drop_partition(partition)
            self._tables.drop(partition)

    def take_over(self, partitions: list[int]) -> None:
        """Restore what belongs to partitions that the group has given to this process."""
        for partition, (offset, found) in self._committed_progress(partitions).items():
            seen_before = found.position
            self._owned[partition] = OwnedPartition(replace(found, position=offset), None, seen_before, offset)
            if self._aggregate is not None:
                self._aggregate.seen_before[partition] = seen_before
            if self._windowing is not None:
                self._windowing.times.advance(partition, found.stream_time)
        self._tables.take_over({partition: self._owned[partition] for partition in partitions})
        self._clients.output.write_rejects([*self._tables.take_rejects(), *self._lost_records])
        self._lost_records = []

    def _committed_progress(self, partitions: list[int]) -> dict[int, tuple[int, PartitionProgress]]:
        """Return, for each partition, the offset to read from and the progress committed with it."""
        topic = self._topic
        wanted = [(topic, partition) for partition in partitions]
        committed = self._clients.committed(wanted)
        earliest = self._clients.earliest(topic)
        ends = self._clients.ends(wanted)
        restored = self._restore_state(partitions)
        result = {}
        for found in committed:
            partition, first = found.partition, earliest[topic, found.partition]
            if found.offset < 0:
                start = ends[topic, partition] if self.begins_at_ends else first
                # The group's offsets expire while nobody is in it; the state knows what is in it.
                start = restored.get(partition, start)
                end = ends[topic, partition]
                backlog = (end, -1) if self._pipeline.tables and start < end else None
                result[partition] = (start, PartitionProgress(position=start, backlog=backlog))
                continue
            progress = PartitionProgress.from_metadata(raw_metadata(found), found.offset)
            if progress.position <= found.offset:
                self._pipeline.go_on(partition)
            if found.offset < first:
                self._check_forgotten(partition, first, progress, found.offset)
                logger.warning(
                    "query %s: records %d to %d of %s/%d were deleted by retention before they were read",
                    self._context.query_id, found.offset, first - 1, topic, partition,
                )  # fmt: skip
            result[partition] = (max(found.offset, first), progress)
        return result

    def _restore_state(self, partitions: list[int]) -> dict[int, int]:
        """Put back the state that the changelog has of partitions, once their offsets are known to be stable."""
        if self._changelog is None:
            return {}
        # Up to the very end: what is committed with the offsets may not be marked so here yet.
        wanted = [(self._changelog.topic, partition) for partition in partitions]
        ends = self._clients.ends(wanted, IsolationLevel.READ_UNCOMMITTED)
        filled = {partition: end for (_, partition), end in ends.items() if end > 0}
        if not filled:
            return {}
        with self._clients.open_reader() as consumer:
            return self._changelog.restore(consumer, filled, REQUEST_SECONDS + TRANSACTION_TIMEOUT_MS / 1000)

    def _check_forgotten(self, partition: int, first: int, progress: PartitionProgress, offset: int) -> None:
        """Report it where records are gone that were to be read again for the state."""
        if self._aggregate is None or progress.position <= offset:
            return
        if self._windowing is None:
            raise ForgottenRecordsError(
                f"records of {self._topic}/{partition} before offset {first} were deleted, and the query needs them all to be "
                "rebuilt; drop the query and create it again"
            )
        reason = (
            f"the records of offsets {offset} to {min(first, progress.position) - 1} were deleted by retention; results of "
            "windows that were still open lack them"
        )
        self._lost_records.append(Rejected(self._topic, partition, offset, reason, None))
