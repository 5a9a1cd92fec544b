"""The clients of one life of a stage: what it reads with, its membership of the consumer group, and what it writes with.

Membership of the group, which spreads the partitions over the engine processes, is confluent-kafka's; the records themselves are
read as columns by a `BatchConsumer`.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Iterable, Sequence
from itertools import repeat
from typing import Any

from confluent_kafka import Consumer, IsolationLevel, KafkaError, KafkaException, Producer, TopicPartition
from confluent_kafka.admin import AdminClient, OffsetSpec

from kafkakit.admin import HungClientError, KafkaAdmin, consumer_config, producer_config, send_offsets
from kafkakit.batch_consumer import BatchConsumer, open_batch_consumer
from kafkakit.record_times import written_ms
from kafkakit.security import kafka_config
from ksqlengine.execution.readers import Rejected
from ksqlengine.execution.stages import Stage
from ksqlengine.execution.writers import Outgoing
from ksqlengine.streams import processing_log
from ksqlengine.streams.changelog import CHANGELOG_BYTES
from ksqlengine.streams.context import (
    REQUEST_SECONDS,
    TRANSACTION_TIMEOUT_MS,
    Guarantee,
    StageContext,
    UndeliveredError,
)
from ksqlengine.streams.tables import Partition

logger = logging.getLogger(__name__)

_OUTPUT_COMMIT_SECONDS = 0.1  # with results waiting, they decide how old an alert gets

_LOST: list[Producer] = []
"""Producers whose call hangs: to free them would wait for that call."""


class StageClients:
    """A stage's clients; `connect` opens them, `close` closes them and what was handed to `on_close`.

    Attributes:
        output: the producer.
        group: the membership of the consumer group; it reads nothing.
        stream: reads the topics that drive the stage.
        reading_config: settings of clients that read as `stream` does.
    """

    output: StageOutput
    group: Consumer
    stream: BatchConsumer

    def __init__(self, stage: Stage, context: StageContext, group: str) -> None:
        """Prepare.

        Args:
            stage: the stage.
            context: what it is run with.
            group: its consumer group.
        """
        self._stage = stage
        self._context = context
        self._group_name = group
        self._closing: list[Callable[[], object]] = []
        self._admin = AdminClient(kafka_config(context.kafka))
        self._kafka = KafkaAdmin(context.kafka)
        self.reading_config: dict[str, Any] = {
            **consumer_config(context.kafka, f"{group}-reader", "error"),
            "enable.partition.eof": True,
            "queued.min.messages": 200_000,
            "queued.max.messages.kbytes": 65_536,
            "fetch.message.max.bytes": 4_194_304,
            "fetch.wait.max.ms": 100,
            "fetch.error.backoff.ms": 50,
        }

    def connect(self) -> None:
        """Open the clients; another process's transaction of this stage and instance is aborted by it.

        Raises:
            LookupError: the topic that the stage writes is not there.
            KafkaException: the brokers can't be reached.
        """
        sink_partitions = self.partitions(self._stage.sink.topic)
        self.output = StageOutput(
            self._stage, self._context, f"{self._group_name}-{self._context.instance}", sink_partitions
        )
        # Static membership: a process that comes back after kill -9 takes its partitions again without waiting.
        self.group = Consumer(
            {
                **consumer_config(self._context.kafka, self._group_name, "error"),
                "group.instance.id": self._context.instance,
                # Not the cooperative one: a member that starts again between its two rounds takes its old share without the
                # second, and the partitions that it had given up stay with nobody.
                "partition.assignment.strategy": "range",
                "session.timeout.ms": 10_000,
                "heartbeat.interval.ms": 2_000,
                "auto.offset.reset": "latest",
                "queued.max.messages.kbytes": 1024,
            }
        )
        self.on_close(self._free_group)
        self.stream = self.open_reader(with_headers=self._stage.with_headers)
        self.on_close(self.stream.close)
        self.on_close(self.output.abort)

    def open_reader(self, *, with_headers: bool = False) -> BatchConsumer:
        """Return another client that reads as `stream` does."""
        return open_batch_consumer(self.reading_config, with_headers=with_headers)

    def on_close(self, close: Callable[[], object]) -> None:
        """Have something called by `close`, before what was handed in earlier."""
        self._closing.append(close)

    def close(self) -> None:
        """Abort what isn't committed and close the clients."""
        for close in reversed(self._closing):
            try:
                close()
            except Exception as error:
                # Nothing depends on a client that is given up; the next session has clients of its own.
                logger.info("query %s: closing a client: %s", self._context.query_id, error)

    def _free_group(self) -> None:
        """Let the membership's client go without closing it.

        An assignment that comes while it is closed would freeze the process: librdkafka's ``assign`` then never returns
        (confluentinc/librdkafka issue 4884), and confluent-kafka holds Python's lock over it. Freed, a client calls nothing
        back. The group isn't notified, and needn't be: a static member keeps its partitions.
        """
        del self.group

    def poll_group(self) -> None:
        """Serve the membership: assignments call back from here."""
        message = self.group.poll(0)
        error = message.error() if message is not None else None
        if error is not None:
            logger.info("query %s: group: %s", self._context.query_id, error.str())

    def commit(self, offsets: list[TopicPartition]) -> None:
        """Commit what was written, and the group's positions that go with it.

        Raises:
            UndeliveredError: at least once: not all of it could be written.
            KafkaException: the brokers refused it.
            HungClientError: they gave no answer.
        """
        if self._context.options.guarantee is Guarantee.EXACTLY_ONCE:
            self.output.commit(offsets, self.group.consumer_group_metadata() if offsets else None)
            return
        self.output.deliver()
        if offsets:
            self.group.commit(offsets=offsets, asynchronous=False)

    # ---------------------------------------------------------------------------------------------- what brokers know
    def committed(self, partitions: Iterable[Partition]) -> list[TopicPartition]:
        """Return the offsets and metadata that the group has committed of partitions.

        Raises:
            KafkaException: the brokers could not say it of all of them.
        """
        wanted = [TopicPartition(*partition) for partition in partitions]
        found: list[TopicPartition] = self.group.committed(wanted, timeout=REQUEST_SECONDS)
        failed = next((partition.error for partition in found if partition.error is not None), None)
        if failed is not None:
            raise KafkaException(failed)
        return found

    def earliest(self, topic: str) -> dict[Partition, int]:
        """Return the first offset of each partition of a topic."""
        return self._kafka.offsets([topic], "earliest")

    def ends(
        self, partitions: Iterable[Partition], level: IsolationLevel = IsolationLevel.READ_COMMITTED
    ) -> dict[Partition, int]:
        """Return the end of each partition as a reader of an isolation level sees it."""
        request = {TopicPartition(topic, partition): OffsetSpec.latest() for topic, partition in partitions}
        futures = self._admin.list_offsets(request, isolation_level=level, request_timeout=REQUEST_SECONDS)
        return {(asked.topic, asked.partition): future.result().offset for asked, future in futures.items()}

    def partitions(self, topic: str) -> int:
        """Return a topic's number of partitions.

        Raises:
            LookupError: there is no such topic.
        """
        found = self._kafka.describe([topic])
        if topic not in found:
            raise LookupError(f"topic {topic!r} is not there; it was deleted, create it or drop the query")
        return found[topic].partitions

    def delete_records(self, before: list[TopicPartition]) -> None:
        """Delete the records of partitions that stand before an offset; doesn't wait until they are gone."""
        self._admin.delete_records(before, request_timeout=REQUEST_SECONDS)


class StageOutput:
    """What a stage writes: results, its state's changes, log entries, and the positions that go with them.

    With exactly once all of that is one transaction, which begins with the first record after a commit.
    """

    def __init__(self, stage: Stage, context: StageContext, transactional_id: str, sink_partitions: int) -> None:
        """Open the producer.

        Args:
            stage: the stage.
            context: what it is run with.
            transactional_id: fences a process that had it before.
            sink_partitions: partitions of the topic that the stage writes.
        """
        self.sink_partitions = sink_partitions
        self._topic = stage.sink.topic
        self._log_topic = processing_log.topic_name(context.service_id)
        self._context = context
        self._exact = context.options.guarantee is Guarantee.EXACTLY_ONCE
        self._in_transaction = False
        self._results = self._results_before = 0
        self._first_output: float | None = None
        self._undelivered: list[KafkaError] = []
        config = producer_config(context.kafka, transactional_id if self._exact else None, linger_ms=5)
        if self._exact:
            config["transaction.timeout.ms"] = TRANSACTION_TIMEOUT_MS
        else:
            undelivered = self._undelivered
            config["on_delivery"] = lambda error, message: undelivered.append(error) if error is not None else None
        config["queue.buffering.max.messages"] = 200_000
        if stage.changelog is not None:
            config["message.max.bytes"] = CHANGELOG_BYTES
        self._producer = Producer(config)
        if self._exact:
            self._producer.init_transactions(REQUEST_SECONDS)

    @property
    def is_waiting(self) -> bool:
        """Whether something was written since the last commit."""
        return self._first_output is not None

    def end_round(self) -> bool:
        """Note that a round is over; say whether what was written should be committed now."""
        waiting = self._first_output is not None and time.monotonic() - self._first_output >= _OUTPUT_COMMIT_SECONDS
        # A burst of results (windows of all partitions close together) is over once a round brings no more.
        ended = self._first_output is not None and self._results == self._results_before
        self._results_before = self._results
        return waiting or ended

    def write(self, results: Outgoing) -> None:
        """Write results into the stage's topic."""
        self.write_to(self._topic, results)
        self._results += len(results)

    def write_to(self, topic: str, records: Outgoing) -> None:
        """Write records into another topic; they don't count as results."""
        self._begin()
        produce = self._producer.produce
        partitions = records.partitions or [-1] * len(records)
        headers: Iterable[Any] = records.headers or repeat(None)
        for key, value, timestamp, partition, own in zip(
            records.keys, records.values, records.timestamps, partitions, headers, strict=False
        ):
            while True:
                try:
                    produce(topic, value, key, partition, timestamp=written_ms(timestamp), headers=own)
                    break
                except BufferError:
                    self._producer.poll(0.05)

    def write_rejects(self, rejects: Sequence[Rejected]) -> None:
        """Write bad messages into the processing log."""
        if not rejects:
            return
        now, count = round(time.time() * 1000), len(rejects)
        entries: list[bytes | None] = [processing_log.entry(self._context.query_id, bad, now) for bad in rejects]
        self.write_to(self._log_topic, Outgoing([None] * count, entries, [now] * count, None))
        self._context.metrics.failed += len(rejects)

    def commit(self, offsets: list[TopicPartition], group_metadata: object) -> None:
        """Commit the transaction, and with it positions of the group that some metadata stands for."""
        self._begin()
        if offsets:
            try:
                send_offsets(self._producer, offsets, group_metadata)
            except HungClientError:
                # Nothing may wait for this producer any more, its freeing neither; the next one of its id fences it.
                _LOST.append(self._producer)
                self._in_transaction = False
                raise
        self._producer.commit_transaction(REQUEST_SECONDS)
        self._in_transaction = False

    def deliver(self) -> None:
        """Wait until all that was written is in its topics; a transaction does that by itself.

        Raises:
            UndeliveredError: not all of it could be written.
        """
        left = self._producer.flush(REQUEST_SECONDS)
        if left or self._undelivered:
            reason = self._undelivered[0].str() if self._undelivered else f"no answer in {REQUEST_SECONDS:g} s"
            count = left + len(self._undelivered)
            raise UndeliveredError(
                f"{count} record{'s' if count > 1 else ''} of query {self._context.query_id!r} could not be written: {reason}; "
                "see that the brokers are up and take records of that size"
            )

    def take_count(self) -> int:
        """Return the number of results since the last call; what was written is no longer waiting."""
        results = self._results
        self._results = self._results_before = 0
        self._first_output = None
        return results

    def abort(self) -> None:
        """Abort what isn't committed."""
        if not self._in_transaction:
            return
        try:
            self._producer.abort_transaction(REQUEST_SECONDS)
        except KafkaException as error:
            logger.info("query %s: aborting its transaction is left to the broker: %s", self._context.query_id, error)

    def _begin(self) -> None:
        if self._first_output is None:
            self._first_output = time.monotonic()
        if self._exact and not self._in_transaction:
            self._producer.begin_transaction()
            self._in_transaction = True
