"""Runs a query's stages against Kafka: consume, process, produce and commit, exactly once; and start again after errors.

A stage is one thread with its own clients. Membership of the consumer group, which spreads the partitions over the engine
processes, is confluent-kafka's; the records themselves are read as columns by a `BatchConsumer`.

Exactly once: results, bad records' log entries and input offsets are one Kafka transaction. The offset committed of a
partition is the lowest that an open window still needs (the first of all, for a join of tables); the position
reached and the stream time are in the commit's metadata (`PartitionProgress`), so that a restart rebuilds the state from the
topic alone and emits nothing twice. State that may outlive its source's records is in a changelog topic instead
(`changelog`), written in the same transaction; then the offset committed is the position. Any error aborts the transaction,
drops the stage's memory and begins anew from what is committed.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from enum import Enum
from itertools import repeat
from typing import Any

import numpy as np
import numpy.typing as npt
import polars as pl
import pyarrow as pa
from confluent_kafka import Consumer, IsolationLevel, KafkaError, KafkaException, Producer, TopicPartition
from confluent_kafka.admin import AdminClient, OffsetSpec
from polars.exceptions import PanicException

from kafkakit import avro_codec
from kafkakit.admin import HungClientError, KafkaAdmin, consumer_config, producer_config, send_offsets
from kafkakit.batch_consumer import BEGINNING, BatchConsumer, MessageBatch, open_batch_consumer
from kafkakit.settings import KafkaSettings
from ksqlengine.execution.builder import build
from ksqlengine.execution.pipeline import Pipeline, TableInput
from ksqlengine.execution.readers import Rejected
from ksqlengine.execution.stages import Stage
from ksqlengine.execution.writers import Outgoing, WriteSchemas
from ksqlengine.plan.steps import SourceKind, SourceStep
from ksqlengine.streams import processing_log
from ksqlengine.streams.changelog import CHANGELOG_BYTES, Changelog
from ksqlengine.streams.metrics import QueryMetrics
from ksqlengine.streams.progress import PartitionProgress
from ksqlengine.types.arrays import runs

logger = logging.getLogger(__name__)

_BATCH_ROWS = 32_768
_POLL_SECONDS = 0.1
# A short wait after a small batch lets the next one grow: the work of a batch is mostly independent of its size.
_LINGER_SECONDS = 0.02
_SMALL_BATCH_ROWS = 4_096
_OUTPUT_COMMIT_SECONDS = 0.1  # with results waiting, they decide how old an alert gets
_INPUT_COMMIT_SECONDS = 1.0  # without results only a restart's re-reading depends on it
_REQUEST_SECONDS = 30.0
_TRANSACTION_TIMEOUT_MS = 20_000  # so long a process that is gone for good blocks the readers of its results
_DELETION_SECONDS = 30.0
_NO_LIMIT = 2**62
_FIRST_BACKOFF_SECONDS, _LAST_BACKOFF_SECONDS = 0.2, 10.0

Partition = tuple[str, int]

_LOST: list[Producer] = []
"""Producers whose call hangs: to free them would wait for that call."""


class Guarantee(Enum):
    """KSQL's ``processing.guarantee``."""

    EXACTLY_ONCE = "exactly_once_v2"
    AT_LEAST_ONCE = "at_least_once"


class Status(Enum):
    """State of a query, as SHOW QUERIES prints it."""

    RUNNING = "RUNNING"
    PAUSED = "PAUSED"
    ERROR = "ERROR"


@dataclass(frozen=True)
class QueryOptions:
    """What a query's properties come to.

    Attributes:
        guarantee: exactly once, or at least once.
        reset: where a partition without a committed offset begins.
        idle_close_ms: a partition that got no record for so long closes its open windows, None to wait for ever.
        commit_seconds: longest time without a commit, s.
    """

    guarantee: Guarantee = Guarantee.EXACTLY_ONCE
    reset: str = "latest"
    idle_close_ms: int | None = None
    commit_seconds: float = _INPUT_COMMIT_SECONDS


@dataclass(frozen=True)
class StageContext:
    """What a stage needs of its surroundings.

    Attributes:
        kafka: brokers.
        service_id: prefix of groups and internal topics.
        instance: name of this engine process, the same after a restart: it fences what the dead process left open.
        query_id: the query.
        options: its options.
        prepare: makes the query's own topics where they aren't there.
        schemas: gives the Avro schema of an id.
        write_schemas: registers (or finds) what a stage writes with.
        metrics: the query's counts.
    """

    kafka: KafkaSettings
    service_id: str
    instance: str
    query_id: str
    options: QueryOptions
    prepare: Callable[[], None]
    schemas: Callable[[int], avro_codec.AvroSchema]
    write_schemas: Callable[[Stage], WriteSchemas]
    metrics: QueryMetrics


class AssignmentLostError(Exception):
    """The group gave this process's partitions away while it was cut off; what it did since can't be committed."""


class UndeliveredError(Exception):
    """Results could not be written, so that the positions may not be committed."""


class ForgottenRecordsError(Exception):
    """Records that a query's state must be rebuilt from are gone."""


class StageThread:
    """A stage of a running query; it goes on through errors until it is stopped."""

    def __init__(self, stage: Stage, context: StageContext, session: type[StageSession]) -> None:
        """Prepare; `start` runs it.

        Args:
            stage: what to run.
            context: what it needs.
            session: what one life of the stage is made of.
        """
        self._session = session
        self.stage = stage
        self.context = context
        self.status = Status.RUNNING
        self.last_error: str | None = None
        self._stop = threading.Event()
        self._paused = threading.Event()
        name = f"{context.query_id}{'-' + stage.name if stage.name else ''}"
        self._thread = threading.Thread(target=self._run, name=name, daemon=True)

    @property
    def group(self) -> str:
        """The stage's consumer group."""
        suffix = f"-{self.stage.name}" if self.stage.name else ""
        return f"_confluent-ksql-{self.context.service_id}query_{self.context.query_id}{suffix}"

    def start(self) -> None:
        """Begin to run."""
        self._thread.start()

    def set_paused(self, paused: bool) -> None:
        """Stop or go on consuming; state and partitions are kept meanwhile."""
        if paused:
            self._paused.set()
        else:
            self._paused.clear()
        # At work, it says so itself once the round that it is in is over: a paused query consumes nothing any more.
        if not self._thread.is_alive():
            self._be_well()

    def stop(self) -> None:
        """Commit what is done and end; doesn't wait."""
        self._stop.set()

    def join(self) -> None:
        """Wait until the thread has ended."""
        self._thread.join()

    def _run(self) -> None:
        backoff = _FIRST_BACKOFF_SECONDS
        while not self._stop.is_set():
            session: StageSession | None = None
            try:
                session = self._session(self.stage, self.context, self.group)
                self._be_well()
                self._loop(session)
                session.finish()
            except (Exception, PanicException) as error:  # Polars' panics are no `Exception`
                # Whatever it was: what is committed is right, and everything else is built again from there.
                logger.warning(
                    "query %s starts again in %.1f s: %s", self.context.query_id, backoff, error, exc_info=True
                )
                self.status, self.last_error = Status.ERROR, str(error)
                self.context.metrics.restarts += 1
                backoff = (
                    _FIRST_BACKOFF_SECONDS
                    if session and session.has_committed
                    else min(2 * backoff, _LAST_BACKOFF_SECONDS)
                )
            finally:
                if session is not None:
                    session.close()
            if self.status is Status.ERROR:
                self._stop.wait(backoff)

    def _be_well(self) -> None:
        self.last_error = None
        self.status = Status.PAUSED if self._paused.is_set() else Status.RUNNING

    def _loop(self, session: StageSession) -> None:
        while not self._stop.is_set():
            self._be_well()
            if self._paused.is_set():
                session.idle()
                self._stop.wait(_POLL_SECONDS)
                continue
            if session.step() < _SMALL_BATCH_ROWS:
                self._stop.wait(_LINGER_SECONDS)


@dataclass
class Owned:
    """A partition that this process has.

    Attributes:
        progress: where it is.
        committed: what was committed last, None before the first commit.
        seen_before: offsets below are read again.
        begin: offset from which it is read since the take-over.
        last_record: wall clock of the last record or of the take-over, s.
    """

    progress: PartitionProgress
    committed: tuple[int, int, int] | None
    seen_before: int
    begin: int
    last_record: float
    ended_at: int = -1


class StageSession:
    """One life of a stage: its clients and its state, from the committed offsets to the next error or the end."""

    def __init__(self, stage: Stage, context: StageContext, group: str) -> None:
        self._stage = stage
        self._context = context
        self._options = context.options
        self._metrics = context.metrics
        self._owned: dict[int, Owned] = {}
        self._gained: list[int] = []
        self._lost = False
        self._in_transaction = False
        self._uncommitted = self._uncommitted_before = 0
        self._undelivered: list[KafkaError] = []
        self._first_output: float | None = None
        self._changelog: Changelog | None = None
        self._last_commit = self._last_deletion = time.monotonic()
        self.has_committed = False
        self._clients: list[Callable[[], Any]] = []
        try:
            self._open(group)
        except BaseException:
            self.close()
            raise

    def _open(self, group: str) -> None:
        context, stage = self._context, self._stage
        context.prepare()
        self._build()
        self._admin = AdminClient({"bootstrap.servers": context.kafka.bootstrap_servers})
        self._kafka = KafkaAdmin(context.kafka)
        self._sink_partitions = self._partitions(stage.sink.topic)
        self._lost_records: list[Rejected] = []
        self._producer = self._open_producer(f"{group}-{context.instance}")
        # Static membership: a process that comes back after kill -9 takes its partitions again without waiting.
        self._group = Consumer(
            {
                **consumer_config(context.kafka, group, "error"),
                "group.instance.id": context.instance,
                # Not the cooperative one: a member that starts again between its two rounds takes its old share without the
                # second, and the partitions that it had given up stay with nobody.
                "partition.assignment.strategy": "range",
                "session.timeout.ms": 10_000,
                "heartbeat.interval.ms": 2_000,
                "auto.offset.reset": "latest",
                "queued.max.messages.kbytes": 1024,
            }
        )
        self._clients.append(self._free_group)
        reading = {
            **consumer_config(context.kafka, f"{group}-reader", "error"),
            "enable.partition.eof": True,
            "queued.min.messages": 200_000,
            "queued.max.messages.kbytes": 65_536,
            "fetch.message.max.bytes": 4_194_304,
            "fetch.wait.max.ms": 100,
            "fetch.error.backoff.ms": 50,
        }
        self._reading_config = reading
        self._stream: BatchConsumer = open_batch_consumer(reading, with_headers=self._stage.with_headers)
        self._clients.append(self._stream.close)
        self._open_tables(reading)
        self._group.subscribe(
            [stage.source.topic], on_assign=self._on_assign, on_revoke=self._on_revoke, on_lost=self._on_lost
        )

    def _build(self) -> None:
        context, stage = self._context, self._stage
        self._pipeline = build(stage, context.schemas, context.write_schemas(stage))
        self._aggregate = self._pipeline.aggregate
        self._counters = self._pipeline.counters
        if stage.changelog is not None:
            self._changelog = Changelog(stage.changelog, self._pipeline)

    def _open_tables(self, reading: dict[str, Any]) -> None:
        self._tables = TableFollower(self._pipeline, reading, self._ends)
        self._clients.append(self._tables.close)

    def _open_producer(self, transactional_id: str) -> Producer:
        exact = self._options.guarantee is Guarantee.EXACTLY_ONCE
        config = producer_config(self._context.kafka, transactional_id if exact else None, linger_ms=5)
        if exact:
            config["transaction.timeout.ms"] = _TRANSACTION_TIMEOUT_MS
        else:
            undelivered = self._undelivered
            config["on_delivery"] = lambda error, message: undelivered.append(error) if error is not None else None
        config["queue.buffering.max.messages"] = 200_000
        if self._changelog is not None:
            config["message.max.bytes"] = CHANGELOG_BYTES
        producer = Producer(config)
        if exact:
            producer.init_transactions(_REQUEST_SECONDS)
        return producer

    # ---------------------------------------------------------------------------------------------- one round
    def step(self) -> int:
        """Consume and process one batch, and commit when it is time; return the number of records consumed."""
        self._serve_group()
        batch = self._stream.poll(_POLL_SECONDS if self._owned else 0.0, _BATCH_ROWS)
        for _, partition, offset in batch.ends:
            if partition in self._owned:
                self._owned[partition].ended_at = offset
        if len(batch):
            self._process(batch)
        self._close_idle_windows()
        self._commit_if_due()
        if not self._owned:
            time.sleep(_POLL_SECONDS / 2)
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
        if self._in_transaction:
            try:
                self._producer.abort_transaction(_REQUEST_SECONDS)
            except KafkaException as error:
                logger.info(
                    "query %s: aborting its transaction is left to the broker: %s", self._context.query_id, error
                )
        for close in reversed(self._clients):
            try:
                close()
            except Exception as error:
                # Nothing depends on a client that is given up; the next session has clients of its own.
                logger.info("query %s: closing a client: %s", self._context.query_id, error)

    def _free_group(self) -> None:
        """Let the membership's client go without closing it.

        An assignment that comes while it is closed would freeze the process: librdkafka's ``assign`` then never returns
        (confluentinc/librdkafka issue 4884), and confluent-kafka holds Python's lock over it. Freed, a client calls nothing
        back. The group isn't told, and needn't be: a static member keeps its partitions.
        """
        del self._group

    def _serve_group(self) -> None:
        message = self._group.poll(0)
        error = message.error() if message is not None else None
        if error is not None:
            logger.info("query %s: group: %s", self._context.query_id, error.str())
        if self._lost:
            raise AssignmentLostError(f"the group {self._stage.source.topic!r} is read by gave the partitions away")
        if self._gained:
            gained, self._gained = self._gained, []
            self._take_over(gained)

    def _process(self, batch: MessageBatch) -> None:
        batch = self._unprocessed(ordered(batch, self._owned))
        if not len(batch):
            return
        now = time.time()
        for piece in self._tables.pieces(batch, self._owned):
            results, rejects = self._pipeline.push(piece)
            self._send(results, [one for one in rejects if one.offset >= self._owned[one.partition].seen_before])
        self._send_rejects(self._tables.take_rejects())
        repeated = 0
        for partition, start, end in runs(batch.partition):
            owned = self._owned[partition]
            offsets = batch.offset[start:end]
            if owned.seen_before > offsets[0]:
                repeated += int(np.count_nonzero(offsets < owned.seen_before))
            owned.progress.position = int(offsets[-1]) + 1
            owned.last_record = now
        self._count(len(batch) - repeated, now)

    def _unprocessed(self, batch: MessageBatch) -> MessageBatch:
        """Leave out records before a partition's position, which a client may still hold from before it was assigned anew."""
        positions = {partition: self._owned[partition].progress.position for partition, _, _ in runs(batch.partition)}
        if all(batch.offset[start] >= positions[partition] for partition, start, _ in runs(batch.partition)):
            return batch
        first = np.array([positions[partition] for partition in batch.partition.tolist()])
        return select(batch, np.flatnonzero(batch.offset >= first))

    def _send(self, results: pl.DataFrame, rejects: Sequence[Rejected]) -> None:
        self._send_rejects(rejects)
        if not len(results):
            return
        self._produce(self._pipeline.sink.write(results, self._sink_partitions))

    def _produce(self, outgoing: Outgoing) -> None:
        self._produce_to(self._stage.sink.topic, outgoing)
        self._uncommitted += len(outgoing)

    def _produce_to(self, topic: str, outgoing: Outgoing) -> None:
        self._begin()
        produce = self._producer.produce
        partitions = outgoing.partitions or [-1] * len(outgoing)
        headers: Iterable[Any] = outgoing.headers or repeat(None)
        for key, value, timestamp, partition, own in zip(
            outgoing.keys, outgoing.values, outgoing.timestamps, partitions, headers, strict=False
        ):
            while True:
                try:
                    produce(topic, value, key, partition, timestamp=timestamp, headers=own)
                    break
                except BufferError:
                    self._producer.poll(0.05)

    def _send_rejects(self, rejects: Sequence[Rejected]) -> None:
        if not rejects:
            return
        topic = processing_log.topic_name(self._context.service_id)
        now, count = round(time.time() * 1000), len(rejects)
        entries: list[bytes | None] = [processing_log.entry(self._context.query_id, one, now) for one in rejects]
        self._produce_to(topic, Outgoing([None] * count, entries, [now] * count, None))
        self._metrics.failed += len(rejects)

    def _begin(self) -> None:
        if self._first_output is None:
            self._first_output = time.monotonic()
        if self._options.guarantee is Guarantee.EXACTLY_ONCE and not self._in_transaction:
            self._producer.begin_transaction()
            self._in_transaction = True

    def _count(self, consumed: int, now: float) -> None:
        metrics, counters = self._metrics, self._counters
        metrics.consumed += consumed
        metrics.consumed_rate.add(consumed)
        metrics.last_message_ms = round(now * 1000)
        metrics.late += counters.late
        metrics.without_table_row += counters.without_table_row
        metrics.without_key += counters.without_key
        counters.late = counters.without_table_row = counters.without_key = 0

    # ---------------------------------------------------------------------------------------------- time passing
    def _close_idle_windows(self) -> None:
        """Move the stream time of partitions on that got nothing for long, so that a quiet stream's windows close."""
        limit = self._options.idle_close_ms
        windowing = self._aggregate.windowing if self._aggregate is not None else None
        if limit is None or windowing is None:
            return
        now = time.time()
        quiet = [
            partition
            for partition in windowing.open_partitions()
            if partition in self._owned and (now - self._owned[partition].last_record) * 1000 >= limit
        ]
        if not quiet:
            return
        topic = self._stage.source.topic
        # A partition with an open transaction isn't quiet: a producer that died in the middle goes on where it was.
        ends = self._ends([(topic, partition) for partition in quiet], IsolationLevel.READ_UNCOMMITTED)
        closing = [partition for partition in quiet if self._is_read(partition, ends[topic, partition])]
        for partition in closing:
            windowing.times.advance(partition, windowing.last_end(partition))
        if closing:
            self._send(self._pipeline.emit(), [])

    def _is_read(self, partition: int, end: int) -> bool:
        owned = self._owned[partition]
        return max(owned.ended_at, owned.progress.position) >= end

    def _ends(
        self, partitions: Iterable[Partition], level: IsolationLevel = IsolationLevel.READ_COMMITTED
    ) -> dict[Partition, int]:
        """Return the end of each partition as a reader of an isolation level sees it."""
        request = {TopicPartition(topic, partition): OffsetSpec.latest() for topic, partition in partitions}
        futures = self._admin.list_offsets(request, isolation_level=level, request_timeout=_REQUEST_SECONDS)
        return {(one.topic, one.partition): future.result().offset for one, future in futures.items()}

    # ---------------------------------------------------------------------------------------------- commits
    def _commit_if_due(self) -> None:
        now = time.monotonic()
        waiting = self._first_output is not None and now - self._first_output >= _OUTPUT_COMMIT_SECONDS
        # A burst of results (windows of all partitions close together) is over once a round brings no more.
        ended = self._first_output is not None and self._uncommitted == self._uncommitted_before
        self._uncommitted_before = self._uncommitted
        if waiting or ended or now - self._last_commit >= self._options.commit_seconds:
            self._commit()

    def _commit(self) -> None:
        offsets = self._changed_offsets()
        if self._changelog is not None and offsets:
            changes = self._changelog.changes(one.partition for one in offsets)
            if len(changes):
                self._produce_to(self._changelog.topic, changes)
        if offsets or self._first_output is not None:
            if self._options.guarantee is Guarantee.EXACTLY_ONCE:
                self._commit_transaction(offsets)
            else:
                self._deliver()
                if offsets:
                    self._group.commit(offsets=offsets, asynchronous=False)
            self.has_committed = True
        self._note_committed()
        self._metrics.produced += self._uncommitted
        self._metrics.produced_rate.add(self._uncommitted)
        self._uncommitted = self._uncommitted_before = 0
        self._first_output = None
        self._last_commit = time.monotonic()
        self._delete_used()

    def _deliver(self) -> None:
        """Wait until all that was produced is in its topics; a transaction does that by itself."""
        left = self._producer.flush(_REQUEST_SECONDS)
        if left or self._undelivered:
            reason = self._undelivered[0].str() if self._undelivered else f"no answer in {_REQUEST_SECONDS:g} s"
            count = left + len(self._undelivered)
            raise UndeliveredError(
                f"{count} record{'s' if count > 1 else ''} of query {self._context.query_id!r} could not be written: {reason}; "
                "see that the brokers are up and take records of that size"
            )

    def _note_committed(self) -> None:
        for partition, owned in self._owned.items():
            owned.committed = self._state_of(partition)

    def _delete_used(self) -> None:
        """Delete what has been read of a repartition topic: nobody else reads it."""
        topic, now = self._stage.source.topic, time.monotonic()
        repartition = topic.startswith("_confluent-ksql-") and self._stage.source.kind is SourceKind.STREAM
        if not repartition or now - self._last_deletion < _DELETION_SECONDS:
            return
        self._last_deletion = now
        used = [
            TopicPartition(topic, partition, owned.committed[0])
            for partition, owned in self._owned.items()
            if owned.committed is not None and owned.committed[0] > 0
        ]
        if used:
            self._admin.delete_records(used, request_timeout=_REQUEST_SECONDS)

    def _commit_transaction(self, offsets: list[TopicPartition]) -> None:
        self._begin()
        if offsets:
            metadata = self._group.consumer_group_metadata()
            try:
                send_offsets(self._producer, offsets, metadata)
            except HungClientError:
                # Nothing may wait for this producer any more, its freeing neither; the next one of its id fences it.
                _LOST.append(self._producer)
                self._in_transaction = False
                raise
        self._producer.commit_transaction(_REQUEST_SECONDS)
        self._in_transaction = False

    def _state_of(self, partition: int) -> tuple[int, int, int]:
        """Return (offset needed, position, stream time) of a partition."""
        owned = self._owned[partition]
        position = owned.progress.position
        windowing = self._aggregate.windowing if self._aggregate is not None else None
        if self._aggregate is None or self._changelog is not None:
            return position, position, windowing.times[partition] if windowing is not None else -1
        if windowing is None:
            # A join of tables needs all that their topic holds.
            return owned.begin, position, -1
        needed = windowing.needed_offset(partition)
        return position if needed is None else needed, position, windowing.resume_time(partition)

    def _changed_offsets(self) -> list[TopicPartition]:
        offsets = []
        for partition, owned in self._owned.items():
            state = self._state_of(partition)
            # While records are read again the position of the last commit still holds.
            if state == owned.committed or state[1] < owned.seen_before:
                continue
            offset, position, stream_time = state
            owned.progress.tables = _marks_from(owned.progress.tables, offset)
            metadata = replace(owned.progress, position=position, stream_time=stream_time).to_metadata()
            offsets.append(TopicPartition(self._stage.source.topic, partition, offset, metadata))
        return offsets

    # ---------------------------------------------------------------------------------------------- assignment
    def _on_assign(self, consumer: Consumer, partitions: list[TopicPartition]) -> None:
        consumer.assign(partitions)
        consumer.pause(partitions)
        self._gained = [one.partition for one in partitions]

    def _on_revoke(self, consumer: Consumer, partitions: list[TopicPartition]) -> None:
        """Commit before the group goes on: all partitions are given up, and those that come back are read from their commits."""
        self._commit()
        self._gained = []
        self._drop(list(self._owned))
        self._assign()
        consumer.unassign()

    def _drop(self, partitions: Iterable[int]) -> None:
        for partition in partitions:
            del self._owned[partition]
            self._pipeline.drop_partition(partition)
            self._tables.drop(partition)

    def _on_lost(self, consumer: Consumer, partitions: list[TopicPartition]) -> None:
        self._lost = True
        consumer.unassign()

    def _take_over(self, partitions: list[int]) -> None:
        for partition, progress in self._committed_progress(partitions).items():
            offset, found = progress
            seen_before = found.position
            self._owned[partition] = Owned(replace(found, position=offset), None, seen_before, offset, time.time())
            if self._aggregate is not None:
                self._aggregate.seen_before[partition] = seen_before
                if self._aggregate.windowing is not None:
                    self._aggregate.windowing.times.advance(partition, found.stream_time)
        self._tables.take_over({partition: self._owned[partition] for partition in partitions})
        self._send_rejects([*self._tables.take_rejects(), *self._lost_records])
        self._lost_records = []
        self._assign()
        if not self._is_from_earliest(self._stage.source):
            # Who fails before the first commit would begin at the topic's end of then, and miss what has come meanwhile.
            self._commit()

    def _assign(self) -> None:
        topic = self._stage.source.topic
        self._stream.assign([(topic, partition, owned.progress.position) for partition, owned in self._owned.items()])

    def _committed_progress(self, partitions: list[int]) -> dict[int, tuple[int, PartitionProgress]]:
        """Return, for each partition, the offset to read from and the progress committed with it."""
        topic = self._stage.source.topic
        wanted = [TopicPartition(topic, partition) for partition in partitions]
        committed = self._group.committed(wanted, timeout=_REQUEST_SECONDS)
        earliest = self._earliest(topic)
        ends = self._ends([(topic, partition) for partition in partitions])
        reached = self._take_up_state(partitions)
        result = {}
        for one in committed:
            if one.error is not None:
                raise KafkaException(one.error)
            partition, first = one.partition, earliest[topic, one.partition]
            if one.offset < 0:
                start = first if self._is_from_earliest(self._stage.source) else ends[topic, partition]
                # The group's offsets expire while nobody is in it; the state knows what is in it.
                start = reached.get(partition, start)
                result[partition] = (start, PartitionProgress(position=start))
                continue
            progress = PartitionProgress.from_metadata(one.metadata, one.offset)
            if progress.position <= one.offset:
                self._pipeline.go_on(partition)
            if one.offset < first:
                self._check_forgotten(partition, first, progress, one.offset)
                logger.warning(
                    "query %s: records %d to %d of %s/%d were deleted by retention before they were read",
                    self._context.query_id, one.offset, first - 1, topic, partition,
                )  # fmt: skip
            result[partition] = (max(one.offset, first), progress)
        return result

    def _is_from_earliest(self, source: SourceStep) -> bool:
        """Say whether a partition without a commit is read from its beginning: tables are, and topics of our own."""
        internal = source.topic.startswith("_confluent-ksql-")
        return self._options.reset == "earliest" or source.kind is SourceKind.TABLE or internal

    def _take_up_state(self, partitions: list[int]) -> dict[int, int]:
        """Put back the state that the changelog has of partitions, once their offsets are known to be stable."""
        if self._changelog is None:
            return {}
        # Up to the very end: what is committed with the offsets may not be marked so here yet.
        wanted = [(self._changelog.topic, partition) for partition in partitions]
        ends = self._ends(wanted, IsolationLevel.READ_UNCOMMITTED)
        filled = {partition: end for (_, partition), end in ends.items() if end > 0}
        if not filled:
            return {}
        with open_batch_consumer(self._reading_config) as consumer:
            return self._changelog.take_up(consumer, filled, _REQUEST_SECONDS + _TRANSACTION_TIMEOUT_MS / 1000)

    def _check_forgotten(self, partition: int, first: int, progress: PartitionProgress, offset: int) -> None:
        """Say it where records are gone that were to be read again for the state."""
        if self._aggregate is None or progress.position <= offset:
            return
        topic = self._stage.source.topic
        if self._aggregate.windowing is None:
            raise ForgottenRecordsError(
                f"records of {topic}/{partition} before offset {first} were deleted, and the query needs them all to be "
                "rebuilt; create the query anew"
            )
        reason = (
            f"the records of offsets {offset} to {min(first, progress.position) - 1} were deleted by retention; results of "
            "windows that were still open lack them"
        )
        self._lost_records.append(Rejected(topic, partition, offset, reason, None))

    def _earliest(self, topic: str) -> dict[Partition, int]:
        return self._kafka.offsets([topic], "earliest")

    def _partitions(self, topic: str) -> int:
        found = self._kafka.describe([topic])
        if topic not in found:
            raise LookupError(f"topic {topic!r} is not there; it was deleted, create it or drop the query")
        return found[topic].partitions


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
        self._logged: dict[Partition, int] = {}
        self._rejects: list[Rejected] = []

    def take_over(self, owned: dict[int, Owned]) -> None:
        """Read the partitions of the tables that go with newly gained stream partitions, up to their ends."""
        if self._consumer is None:
            return
        for partition, one in owned.items():
            marks = one.progress.tables
            if marks:
                self._repeats[partition] = _Repeat(list(marks), one.seen_before)
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
        deadline = time.monotonic() + _REQUEST_SECONDS
        while any(self._reached.get(one, -1) < end for one, end in wanted.items()):
            batch = self._consumer.poll(_POLL_SECONDS, _BATCH_ROWS)
            if len(batch) or batch.ends:
                deadline = time.monotonic() + _REQUEST_SECONDS
            elif time.monotonic() > deadline:
                behind = [one for one, end in wanted.items() if self._reached.get(one, -1) < end]
                raise TimeoutError(f"tables' partitions {behind!r} could not be read for {_REQUEST_SECONDS:g} s")
            self._apply(batch)

    def pieces(self, batch: MessageBatch, owned: dict[int, Owned]) -> Iterator[MessageBatch]:
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
        if len(batch):
            self._note(batch, owned)
            yield batch

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

    def _note(self, batch: MessageBatch, owned: dict[int, Owned]) -> None:
        """Note which table offsets the batch's records are joined with, where they have changed."""
        if self._consumer is None:
            return
        for partition, start, _ in runs(batch.partition):
            if partition in self._repeats:
                continue
            marks = owned[partition].progress.tables
            versions = tuple(max(self._positions[topic, partition], 0) for topic in self._inputs)
            if not marks or marks[-1][1] != versions:
                marks.append((int(batch.offset[start]), versions))

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
            part = batch if len(batch.topics) == 1 else select(batch, np.flatnonzero(batch.topic == number))
            part = ordered(part, {partition for name, partition in self._positions if name == topic})
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
        if not len(batch) or self._pipeline.keys is None:
            return
        for table in self._inputs[topic]:
            rejects = table.apply(batch, self._pipeline.keys)
            self._rejects.extend(one for one in rejects if one.offset >= self._logged[topic, one.partition])


def ordered(batch: MessageBatch, partitions: Iterable[int]) -> MessageBatch:
    """Return a batch's records of some partitions, ordered by partition (and offset, as each partition's are)."""
    here = {partition for partition, _, _ in runs(batch.partition)}
    if not here <= set(partitions):
        batch = select(batch, np.flatnonzero(np.isin(batch.partition, list(partitions))))
    if len(batch) and np.any(batch.partition[1:] < batch.partition[:-1]):
        batch = select(batch, np.argsort(batch.partition, kind="stable"))
    return batch


def select(batch: MessageBatch, rows: npt.NDArray[np.int64]) -> MessageBatch:
    """Return some rows of a batch."""
    taken = pa.array(rows)
    return MessageBatch(
        topics=batch.topics,
        topic=batch.topic[rows],
        partition=batch.partition[rows],
        offset=batch.offset[rows],
        timestamp=batch.timestamp[rows],
        key=batch.key.take(taken),
        value=batch.value.take(taken),
        ends=batch.ends,
        headers=None if batch.headers is None else tuple(batch.headers[row] for row in rows.tolist()),
    )


def _marks_from(marks: list[tuple[int, tuple[int, ...]]], offset: int) -> list[tuple[int, tuple[int, ...]]]:
    """Return the marks that records from `offset` on need: the last one at or before it, and all later ones."""
    first = sum(1 for mark, _ in marks if mark <= offset) - 1
    return marks[max(first, 0) :]
