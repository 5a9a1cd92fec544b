"""One life of a stage: consume, process, produce and commit, exactly once, from what is committed to the next error or the end.

What is done with the records is the stage's work, which the session is given: a pipeline's (`pipeline_work`), or that of putting
both sides of a join in order (`join_merge`).

Exactly once: results, bad records' log entries and input offsets are one Kafka transaction. The offset committed of a
partition is the lowest that an open window still needs (the first of all, for a join of tables); the position
reached and the stream time are in the commit's metadata (`PartitionProgress`), so a restart rebuilds the state from the
topic alone and emits nothing twice. State that may outlive its source's records is in a changelog topic instead
(`changelog`), written in the same transaction; then the offset committed is the position. Any error aborts the transaction,
drops the stage's memory and begins again from what is committed.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Protocol

from confluent_kafka import Consumer, TopicPartition

from kafkakit.batch_consumer import MessageBatch
from ksqlengine.execution.stages import Stage
from ksqlengine.streams.clients import StageClients
from ksqlengine.streams.context import BATCH_ROWS, POLL_SECONDS, AssignmentLostError, StageContext

_DELETION_SECONDS = 30.0


class StageWork(Protocol):
    """What a stage does with the records that its session reads; it lives as long as the session."""

    @property
    def has_partitions(self) -> bool:
        """Whether it has any of the group's partitions."""
        ...

    @property
    def begins_at_ends(self) -> bool:
        """Whether a partition without a commit begins at its topic's end, in at least one of the topics read."""
        ...

    def take_over(self, partitions: list[int]) -> None:
        """Restore what belongs to partitions that the group has given to this process."""
        ...

    def give_up(self) -> None:
        """Forget all partitions; another process may have them now."""
        ...

    def positions(self) -> list[tuple[str, int, int]]:
        """Return (topic, partition, offset) of everything that is to be read."""
        ...

    def process(self, batch: MessageBatch) -> None:
        """Process what was read, which may be nothing, and write what comes of it."""
        ...

    def prepare_commit(self) -> list[TopicPartition]:
        """Write what must be committed together with the positions; return those that have changed, with their metadata."""
        ...

    def note_committed(self) -> None:
        """Note that the positions are committed."""
        ...

    def used(self) -> list[TopicPartition]:
        """Return up to where records of the query's own topics were read and committed: nobody else reads them."""
        ...


WorkFactory = Callable[[Stage, StageContext, StageClients], StageWork]
"""Makes a stage's work; the clients are connected later, before the first partition is taken over."""


class StageSession:
    """One life of a stage: its clients and its state, from the committed offsets to the next error or the end."""

    def __init__(self, stage: Stage, context: StageContext, group: str, make_work: WorkFactory) -> None:
        """Connect and join the group.

        Args:
            stage: what to run.
            context: what it needs.
            group: the stage's consumer group.
            make_work: makes what is done with the records.
        """
        self._stage = stage
        self._context = context
        self._gained: list[int] = []
        self._lost = False
        self._last_commit = self._last_deletion = time.monotonic()
        self.has_committed = False
        self._clients = StageClients(stage, context, group)
        try:
            context.prepare()
            self._work = make_work(stage, context, self._clients)
            self._clients.connect()
            self._clients.group.subscribe(
                [stage.source.topic], on_assign=self._on_assign, on_revoke=self._on_revoke, on_lost=self._on_lost
            )
        except BaseException:
            self.close()
            raise

    # ---------------------------------------------------------------------------------------------- one round
    def step(self) -> int:
        """Consume and process one batch, and commit when it is time; return the number of records consumed."""
        self._serve_group()
        batch = self._clients.stream.poll(POLL_SECONDS if self._work.has_partitions else 0.0, BATCH_ROWS)
        self._work.process(batch)
        self._commit_if_due()
        if not self._work.has_partitions:
            time.sleep(POLL_SECONDS / 2)
        return len(batch)

    def idle(self) -> None:
        """Stay in the group without consuming."""
        self._serve_group()
        self._commit_if_due()

    def finish(self) -> None:
        """Commit what is done."""
        self._commit()

    def close(self) -> None:
        """Abort what isn't committed and close the clients."""
        self._clients.close()

    # ---------------------------------------------------------------------------------------------- commits
    def _commit_if_due(self) -> None:
        due = self._clients.output.end_round()
        if due or time.monotonic() - self._last_commit >= self._context.options.commit_seconds:
            self._commit()

    def _commit(self) -> None:
        offsets, output = self._work.prepare_commit(), self._clients.output
        if offsets or output.is_waiting:
            self._clients.commit(offsets)
            self.has_committed = True
        self._work.note_committed()
        self._context.metrics.count_produced(output.take_count())
        self._last_commit = time.monotonic()
        self._delete_used()

    def _delete_used(self) -> None:
        """Delete what has been read of the query's own topics, now and then."""
        now = time.monotonic()
        if now - self._last_deletion < _DELETION_SECONDS:
            return
        self._last_deletion = now
        used = self._work.used()
        if used:
            self._clients.delete_records(used)

    # ---------------------------------------------------------------------------------------------- assignment
    def _serve_group(self) -> None:
        self._clients.poll_group()
        if self._lost:
            raise AssignmentLostError(f"the group {self._stage.source.topic!r} is read by gave the partitions away")
        if self._gained:
            gained, self._gained = self._gained, []
            self._work.take_over(gained)
            self._assign()
            if self._work.begins_at_ends:
                # A process that fails before the first commit would begin at the topic's end of then, and miss what has come
                # meanwhile.
                self._commit()

    def _assign(self) -> None:
        self._clients.stream.assign(self._work.positions())

    def _on_assign(self, consumer: Consumer, partitions: list[TopicPartition]) -> None:
        consumer.assign(partitions)
        consumer.pause(partitions)
        self._gained = [gained.partition for gained in partitions]

    def _on_revoke(self, consumer: Consumer, partitions: list[TopicPartition]) -> None:
        """Commit before the group goes on: all partitions are given up, and those that come back are read from their commits."""
        self._commit()
        self._gained = []
        self._work.give_up()
        self._assign()
        consumer.unassign()

    def _on_lost(self, consumer: Consumer, partitions: list[TopicPartition]) -> None:
        self._lost = True
        consumer.unassign()
