"""One shard's transactional producer: messages and the shard's progress commit together.

The progress is a consumer-group offset: group `progress_group(run, shard)`, first partition of the shard, the offset being the
index of the next batch. A shard that died is run again with the same transactional id: that fences the old process if it still
lives, ends its open transaction, and the committed offset says where to go on. Nothing is lost and nothing is sent twice.

Protocol: KIP-98 (transactions), KIP-447 (offsets in them); librdkafka's transactional producer for which errors to retry, which
to abort on and which are the end.
"""

from __future__ import annotations

import itertools
import json
import time
from collections import deque
from collections.abc import Callable
from contextlib import suppress
from dataclasses import asdict, dataclass, replace
from typing import Any

from confluent_kafka import Consumer, KafkaError, KafkaException, Producer, TopicPartition

from heartwatch.errors import HeartWatchError
from heartwatch.files.rejects import RejectFile
from heartwatch.produce.messages import Messages
from heartwatch.produce.refusals import Limits, Refusals
from heartwatch.produce.shards import Shard
from kafkakit.admin import HungClientError, KafkaAdmin, OffsetReader, consumer_config, producer_config, send_offsets
from kafkakit.commit_metadata import framed, raw_metadata, unframed
from kafkakit.errors import KafkaKitError
from kafkakit.settings import KafkaSettings

QUEUE_MESSAGES = 1_000_000  # messages that may wait in the client; a transaction holds less than that
_CHUNK = 5_000  # messages handed over between two looks at the client's queue
_BATCH_BYTES = 1_000_000
_TRANSACTION_TIMEOUT_MS = 60_000  # after it the brokers abort what a dead producer left open
_ATTEMPTS = 5  # times that a transaction's messages are sent before the shard fails
_PATIENCE_SECONDS = 120.0  # how long one step may take while the brokers come back
# Errors that a consumer's requests meet while a coordinator starts, moves or is away; the client doesn't call them retriable.
_PASSING = {
    KafkaError._TIMED_OUT,
    KafkaError._TRANSPORT,
    KafkaError._WAIT_COORD,
    KafkaError._ALL_BROKERS_DOWN,
    KafkaError.NOT_COORDINATOR,
    KafkaError.COORDINATOR_NOT_AVAILABLE,
    KafkaError.COORDINATOR_LOAD_IN_PROGRESS,
    KafkaError.UNSTABLE_OFFSET_COMMIT,
}
_FENCED = {KafkaError._FENCED, KafkaError.PRODUCER_FENCED, KafkaError.INVALID_PRODUCER_EPOCH}


_LOST: list[tuple[Producer, Consumer]] = []
"""Clients whose call hangs: to free them would wait for that call."""


class DeliveryError(HeartWatchError):
    """Messages could not be delivered; what was committed before stays, and a second run of the shard goes on after it."""


class FencedError(DeliveryError):
    """A newer process sends this shard; this one must end."""


@dataclass(frozen=True)
class ShardProgress:
    """How far a shard has come.

    Attributes:
        next_batch: index of the first batch that is not committed.
        delivered: messages committed, over all processes that ran the shard.
        failed: messages of transactions that were aborted and sent again.
        rejected: messages that can't be sent, whatever is tried, over all processes that ran the shard.
        newest_ms: largest event time committed, ms since the epoch; 0 before the first.
        finished: the source had no more batches.
        at_ms: when it was committed, ms since the epoch by the producer's clock: its sign of life.
    """

    next_batch: int = 0
    delivered: int = 0
    failed: int = 0
    newest_ms: int = 0
    finished: bool = False
    at_ms: int = 0
    rejected: int = 0


def progress_group(run_id: str, shard: Shard) -> str:
    """Return the consumer group whose offset is the shard's progress."""
    return f"heartwatch-produce-{run_id}-{shard.index}"


def read_progress(offsets: OffsetReader, topic: str, run_id: str, shard: Shard) -> ShardProgress | None:
    """Return a shard's committed progress, None before its first commit.

    Raises:
        KafkaClientError: the brokers could not be asked.
    """
    found = offsets.committed(progress_group(run_id, shard), topic).get((topic, shard.partitions[0]))
    return None if found is None else _parse(found.offset, found.metadata)


def forget_progress(admin: KafkaAdmin, run_id: str, shards: list[Shard]) -> None:
    """Delete the progress of a run that is over.

    Raises:
        KafkaClientError: the brokers refused.
    """
    admin.delete_groups(progress_group(run_id, shard) for shard in shards)


def _parse(offset: int, metadata: str | None) -> ShardProgress:
    values: dict[str, Any] = json.loads(metadata or "{}")
    return ShardProgress(offset, **values)


class ShardSender:
    """Sends one shard's messages; use it as a context manager."""

    def __init__(
        self,
        settings: KafkaSettings,
        topic: str,
        run_id: str,
        shard: Shard,
        clock: Callable[[], float] = time.monotonic,
        rejects: RejectFile | None = None,
    ) -> None:
        """Make the clients; `start` connects.

        Args:
            settings: where the brokers are.
            topic: topic to send to.
            run_id: names the run; the same for every attempt at it.
            shard: which shard this is.
            clock: seconds, monotonic.
            rejects: takes messages that can't be sent, open; the others go on.
        """
        self.progress = ShardProgress()
        self._brokers = settings.bootstrap_servers
        self._topic, self._shard, self._clock = topic, shard, clock
        self._transactional_id = f"heartwatch-produce-{run_id}-{shard.index}"
        self._settings, self._group = settings, progress_group(run_id, shard)
        self._refusals, self._counted, self._careful = Refusals(rejects), 0, False
        self._open_clients()
        self._pending: list[Messages] = []
        self._began: float | None = None

    def _open_clients(self) -> None:
        config = producer_config(
            self._settings,
            self._transactional_id,
            transaction_timeout_ms=_TRANSACTION_TIMEOUT_MS,
            queue_buffering_max_messages=QUEUE_MESSAGES,
            queue_buffering_max_kbytes=1_048_576,
            # One row each where a row of a batch was refused: then it is the row's own fault.
            batch_num_messages=1 if self._careful else 50_000,
            batch_size=min(_BATCH_BYTES, self._refusals.limits.largest),
            message_max_bytes=max(_BATCH_BYTES, self._refusals.limits.largest),
            # Commits report failures; an event for each delivered message would only cost.
            delivery_report_only_error=True,
        )
        self._producer = Producer({**config, "on_delivery": self._refusals.delivered})
        self._consumer = Consumer(consumer_config(self._settings, self._group))

    def __enter__(self) -> ShardSender:
        self.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def start(self) -> ShardProgress:
        """Fence older processes of this shard and read how far they came.

        Raises:
            DeliveryError: the brokers can't be reached.
        """
        self._fit_topic()
        self._retry(lambda: self._producer.init_transactions(10), "start the transactional producer")
        where = [TopicPartition(self._topic, self._shard.partitions[0])]
        found = self._retry(lambda: self._consumer.committed(where, timeout=10), "read the shard's progress")[0]
        if found.error is not None:
            raise DeliveryError(f"can't read the progress of {self._transactional_id!r}: {found.error.str()}")
        if found.offset >= 0:
            self.progress = _parse(found.offset, unframed(raw_metadata(found)))
        return self.progress

    def _fit_topic(self) -> None:
        """Make batches no larger than the topic takes: brokers refuse larger ones whole, with the rows that fit."""
        try:
            limits = Limits.of(KafkaAdmin(self._settings).topic_settings(self._topic))
        except KafkaKitError:
            return  # the next step says what is wrong with the brokers
        if limits.largest != self._refusals.limits.largest:
            self._refusals.limits = limits
            self._close_clients()
            self._open_clients()
        self._refusals.limits = limits

    @property
    def pending(self) -> int:
        """Messages sent but not committed."""
        return sum(map(len, self._pending))

    @property
    def open_seconds(self) -> float:
        """Age of the open transaction, 0 without one."""
        return 0.0 if self._began is None else self._clock() - self._began

    def send(self, messages: Messages) -> None:
        """Add a batch to the open transaction, beginning one where none is open.

        Messages that are larger than the topic takes, or whose time it refuses, are rejected.

        Raises:
            FencedError: a newer process sends this shard.
            DeliveryError: the client took nothing for two minutes.
        """
        if self._began is None:
            self._began = self._clock()
            self._producer.begin_transaction()
        sent = self._refusals.fitting(messages, time.time_ns() // 1_000_000)
        self._pending.append(sent)
        try:
            self._hand_over(sent)
        except KafkaException as error:
            self._start_again(error)

    def commit(self, next_batch: int, finished: bool = False) -> ShardProgress:
        """Commit what was sent together with the progress; sends it again where the brokers made it abort.

        Args:
            next_batch: index of the batch to go on with.
            finished: there is no such batch.

        Raises:
            FencedError: a newer process sends this shard.
            DeliveryError: the messages could not be delivered.
        """
        if self._began is None:
            self._began = self._clock()
            self._producer.begin_transaction()
        attempts = 0
        while attempts < _ATTEMPTS:
            reached, refused = self._reached(next_batch, finished), self._refusals.count
            attempts += 1
            try:
                self._commit(reached)
            except KafkaException as error:
                self._start_again(error)
                if self._refusals.count > refused:
                    attempts = 0  # without the rows that were to blame, it is another transaction
                continue
            except HungClientError:
                self._replace_clients()
                continue
            self._pending, self._began, self.progress = [], None, reached
            self._counted = self._refusals.count
            self._end_careful()
            return reached
        raise DeliveryError(
            f"{self.pending} messages of batches before {next_batch!r} were aborted {_ATTEMPTS} times on topic "
            f"{self._topic!r}; see that the brokers {self._brokers} have enough in-sync replicas, then run the shard again"
        )

    def close(self) -> None:
        """Abort what is not committed and let the clients go."""
        try:
            if self._began is not None:
                # Where that fails it was fenced, or the brokers are gone: they abort it themselves.
                with suppress(KafkaException):
                    self._producer.abort_transaction(10)
        finally:
            self._began, self._pending = None, []
            self._close_clients()

    def _close_clients(self) -> None:
        self._consumer.close()
        with suppress(KafkaException):
            # A fenced producer has nothing left to send, and says so again.
            self._producer.close()

    def _reached(self, next_batch: int, finished: bool) -> ShardProgress:
        return ShardProgress(
            next_batch,
            self.progress.delivered + self.pending,
            self.progress.failed,
            max([self.progress.newest_ms, *(messages.newest_ms for messages in self._pending)]),
            finished,
            time.time_ns() // 1_000_000,
            self.progress.rejected + self._refusals.count - self._counted,
        )

    def _hand_over(self, messages: Messages) -> None:
        columns = zip(messages.keys, messages.values, messages.partitions, messages.timestamps, strict=True)
        while chunk := list(itertools.islice(columns, _CHUNK)):
            self._wait_for_room(len(chunk))
            keys, values, partitions, timestamps = zip(*chunk, strict=True)
            nothing = itertools.repeat(None)
            # A call a message is what the client's API costs most; `map` with positional arguments halves it.
            calls = map(
                self._producer.produce,
                itertools.repeat(self._topic),
                values,
                keys,
                partitions,
                nothing,
                nothing,
                timestamps,
            )
            deque(calls, maxlen=0)

    def _wait_for_room(self, messages: int) -> None:
        deadline = self._clock() + _PATIENCE_SECONDS
        self._producer.poll(0)
        while len(self._producer) + messages > QUEUE_MESSAGES:
            if self._clock() > deadline:
                raise DeliveryError(
                    f"the brokers {self._brokers} took no message of topic {self._topic!r} for {_PATIENCE_SECONDS:g} s; "
                    "see that they are up, then run the shard again"
                )
            self._producer.poll(0.05)

    def _commit(self, reached: ShardProgress) -> None:
        values = asdict(reached)
        del values["next_batch"]
        offset = TopicPartition(self._topic, self._shard.partitions[0], reached.next_batch, framed(json.dumps(values)))
        group = self._consumer.consumer_group_metadata()
        self._retry(lambda: send_offsets(self._producer, [offset], group), "send the progress")
        self._retry(lambda: self._producer.commit_transaction(10), "commit")

    def _start_again(self, error: KafkaException) -> None:
        """Abort the transaction and send its messages in a new one; ends the shard where that can't help.

        Messages that the brokers refused for themselves are rejected instead of being sent again.

        Raises:
            FencedError: a newer process sends this shard.
            DeliveryError: the producer can't go on.
        """
        for _ in range(_ATTEMPTS):
            self._end_if_fatal(error)
            self.progress = replace(self.progress, failed=self.progress.failed + self.pending)
            try:
                self._retry(lambda: self._producer.abort_transaction(10), "abort")
                self._producer.poll(0)  # what became of the messages
                if self._refuse_rows():
                    return
                self._producer.begin_transaction()
                for messages in self._pending:
                    self._hand_over(messages)
            except KafkaException as next_error:
                error = next_error
                continue
            return
        raise DeliveryError(
            f"{self.pending} messages could not be sent to topic {self._topic!r} in {_ATTEMPTS} transactions: "
            f"{error.args[0].str()}; see that the topic exists and the brokers {self._brokers} are up"
        )

    def _refuse_rows(self) -> bool:
        """Reject rows that the brokers refused each in a batch of its own.

        Where the batches had more rows, the transaction is begun again with batches of one row each.

        Returns:
            whether that was done, with all messages handed over.
        """
        if self._careful:
            self._pending = self._refusals.without_refused(self._pending)
        elif self._refusals.take_refused():
            self._careful = True
            self.progress = replace(self.progress, failed=self.progress.failed - self.pending)  # counted below again
            self._close_clients()
            self._resume()
            return True
        return False

    def _end_careful(self) -> None:
        """Fill batches again once what was refused is left behind."""
        if not self._careful:
            return
        self._careful = False
        reached = self.progress
        self._close_clients()
        self._open_clients()
        if self.start().next_batch != reached.next_batch:
            raise FencedError(f"a newer process sends {self._transactional_id!r}: this one ends, having lost nothing")

    def _replace_clients(self) -> None:
        """Go on with new clients where a call of the old ones hangs: as a new process would, but with the batches at hand.

        Raises:
            DeliveryError: the brokers can't be reached, or another process went on with the shard meanwhile.
        """
        _LOST.append((self._producer, self._consumer))
        self._resume()

    def _resume(self) -> None:
        """Open new clients and send the batches at hand in a new transaction.

        Raises:
            DeliveryError: the brokers can't be reached, or another process went on with the shard meanwhile.
        """
        reached = self.progress
        self._open_clients()
        if self.start().next_batch != reached.next_batch:
            raise FencedError(f"a newer process sends {self._transactional_id!r}: this one ends, having lost nothing")
        self.progress = replace(reached, failed=reached.failed + self.pending)
        self._producer.begin_transaction()
        try:
            for messages in self._pending:
                self._hand_over(messages)
        except KafkaException as error:
            self._start_again(error)

    def _end_if_fatal(self, error: KafkaException) -> None:
        cause = error.args[0]
        if cause.code() in _FENCED:
            raise FencedError(
                f"a newer process sends {self._transactional_id!r}: this one ends, having lost nothing"
            ) from None
        if cause.fatal():
            raise DeliveryError(
                f"the producer {self._transactional_id!r} can't go on: {cause.str()} ({cause.name()}); run the shard again"
            ) from None

    def _retry(self, step: Callable[[], Any], what: str) -> Any:
        """Repeat a step while its error says that it may succeed.

        Raises:
            KafkaException: the step failed otherwise.
            DeliveryError: it did not succeed in time.
        """
        deadline = self._clock() + _PATIENCE_SECONDS
        while True:
            try:
                return step()
            except KafkaException as error:
                cause = error.args[0]
                again = cause.retriable() or cause.code() in _PASSING
                if not again or cause.txn_requires_abort() or cause.fatal():
                    raise
                if self._clock() > deadline:
                    raise DeliveryError(
                        f"can't {what} for {_PATIENCE_SECONDS:g} s: {cause.str()}; see that the brokers {self._brokers} are up"
                    ) from None
                time.sleep(0.1)
