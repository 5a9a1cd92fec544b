"""Kafka: topics, offsets and consumer groups, and the client configurations that every producer and consumer starts from.

Thin over confluent-kafka's AdminClient. Its errors can't be pickled, so that a Prefect task could not report them; they leave
here as `KafkaClientError`, which can.
"""

from __future__ import annotations

import json
import threading
from collections.abc import Callable, Iterable, Mapping, Sequence
from concurrent.futures import Future
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Any, Literal, TypeVar

from confluent_kafka import (
    Consumer,
    IsolationLevel,
    KafkaException,
    Producer,
    TopicCollection,
    TopicPartition,
)
from confluent_kafka.admin import (
    AdminClient,
    AlterConfigOpType,
    ConfigEntry,
    ConfigResource,
    ConfigSource,
    NewTopic,
    OffsetSpec,
    ResourceType,
)

from kafkakit.commit_metadata import raw_metadata, unframed
from kafkakit.errors import KafkaKitError
from kafkakit.security import kafka_config
from kafkakit.settings import KafkaSettings
from kafkakit.waiting import wait_until

Result = TypeVar("Result")
Partition = tuple[str, int]

_POLL_SECONDS = 0.05
_UNKNOWN_TOPIC = {"UNKNOWN_TOPIC_OR_PART", "_UNKNOWN_TOPIC"}
_MOVING = {
    "NOT_LEADER_FOR_PARTITION",
    "LEADER_NOT_AVAILABLE",
    "FENCED_LEADER_EPOCH",
    "UNKNOWN_LEADER_EPOCH",
    "OFFSET_NOT_AVAILABLE",
    "COORDINATOR_LOAD_IN_PROGRESS",
    "COORDINATOR_NOT_AVAILABLE",
    "NOT_COORDINATOR",
}
"""What brokers answer while a partition or a group moves to another of them, or is just being made: it passes in a moment."""


class KafkaClientError(KafkaKitError):
    """Kafka refused or didn't answer; the message names the operation, the resource and the broker's reason."""


class TopicExistsError(KafkaClientError):
    """The topic is there already."""


class UnknownTopicError(KafkaClientError):
    """There is no such topic."""


class HungClientError(KafkaClientError):
    """A client's call doesn't return; the client is lost, and its transaction with it: another client has to go on."""


@dataclass(frozen=True)
class TopicState:
    """A topic as the brokers have it.

    Attributes:
        name: the topic.
        partitions: how many.
        replication_factor: copies of each partition.
        config: what was set on the topic itself (the brokers' defaults are left out).
    """

    name: str
    partitions: int
    replication_factor: int
    config: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class GroupOffset:
    """A consumer group's committed position in one partition, with the text that was committed beside it.

    Attributes:
        offset: the committed offset.
        metadata: the text, without its frame and without what the client hands on behind it (see `kafkakit.commit_metadata`).
    """

    offset: int
    metadata: str | None

    @property
    def position(self) -> int:
        """How far the group has come: the embedded engine commits what open windows still need, and beside it where it is."""
        with suppress(ValueError, TypeError):
            body = json.loads(self.metadata or "")
            if isinstance(body, Mapping) and isinstance(body.get("position"), int):
                return int(body["position"])
        return self.offset


@dataclass(frozen=True)
class PartitionReplicas:
    """Which brokers have a partition: their ids, those of them that are in sync, and the leader's (None without one)."""

    topic: str
    partition: int
    leader: int | None
    replicas: tuple[int, ...]
    in_sync: tuple[int, ...]


class KafkaAdmin:
    """What deploys and checks need of a Kafka cluster."""

    def __init__(self, settings: KafkaSettings, timeout_seconds: float = 30) -> None:
        """Make a client; nothing is asked of the brokers yet.

        Args:
            settings: where the brokers are.
            timeout_seconds: limit of one request.
        """
        self._brokers = settings.bootstrap_servers
        self._timeout = timeout_seconds
        self._admin = AdminClient(kafka_config(settings))

    def topics(self) -> list[str]:
        """Return the names of all topics but Kafka's own (``__…``), sorted.

        Raises:
            KafkaClientError: no broker answered in time.
        """
        return sorted(name for name in self._metadata().topics if not name.startswith("__"))

    def cluster_id(self) -> str:
        """Return the cluster's id.

        Raises:
            KafkaClientError: no broker answered in time.
        """
        return str(self._metadata().cluster_id)

    def brokers(self) -> list[str]:
        """Return ``host:port`` of the brokers that are up, sorted.

        Raises:
            KafkaClientError: no broker answered in time.
        """
        return sorted(f"{broker.host}:{broker.port}" for broker in self._metadata().brokers.values())

    def replicas(self) -> list[PartitionReplicas]:
        """Return which brokers have the partitions of all topics, Kafka's own among them.

        Raises:
            KafkaClientError: no broker answered in time.
        """
        return [
            PartitionReplicas(
                topic.topic,
                partition.id,
                partition.leader if partition.leader >= 0 else None,
                tuple(sorted(partition.replicas)),
                tuple(sorted(partition.isrs)),
            )
            for topic in self._metadata().topics.values()
            for partition in topic.partitions.values()
        ]

    def describe(self, names: Iterable[str]) -> dict[str, TopicState]:
        """Return the state of those of the named topics that exist.

        Raises:
            KafkaClientError: the brokers could not be asked.
        """
        wanted = list(dict.fromkeys(names))
        if not wanted:
            return {}
        described = self._admin.describe_topics(TopicCollection(wanted), request_timeout=self._timeout)
        shapes: dict[str, tuple[int, int]] = {}
        for name, future in described.items():
            try:
                topic = self._result(future, f"describe topic {name!r}")
            except UnknownTopicError:
                continue
            shapes[name] = (
                len(topic.partitions),
                min((len(partition.replicas) for partition in topic.partitions), default=0),
            )
        configs = self._configs(shapes)
        return {name: TopicState(name, *shapes[name], config) for name, config in configs.items()}

    def create(self, topics: Sequence[TopicState]) -> None:
        """Create topics and wait until every one of them can be described.

        Raises:
            TopicExistsError: one of them is there already.
            KafkaClientError: the brokers refused one; those created before it stay.
        """
        if not topics:
            return
        new = [
            NewTopic(topic.name, topic.partitions, topic.replication_factor, config=dict(topic.config))
            for topic in topics
        ]
        futures = self._admin.create_topics(new, operation_timeout=self._timeout, request_timeout=self._timeout)
        for name, future in futures.items():
            self._result(future, f"create topic {name!r}")
        names = {topic.name for topic in topics}
        self._wait(lambda: names <= set(self.describe(names)), f"topics {sorted(names)!r} to be created")

    def alter_config(self, name: str, changes: Mapping[str, str | None]) -> None:
        """Set settings of a topic; None takes a setting back to the brokers' default. Others stay.

        Raises:
            UnknownTopicError: there is no such topic.
            KafkaClientError: the brokers refused the change.
        """
        entries = [
            ConfigEntry(
                key,
                value,
                incremental_operation=AlterConfigOpType.DELETE if value is None else AlterConfigOpType.SET,
            )
            for key, value in changes.items()
        ]
        resource = ConfigResource(ResourceType.TOPIC, name, incremental_configs=entries)
        futures = self._admin.incremental_alter_configs([resource], request_timeout=self._timeout)
        for future in futures.values():
            self._result(future, f"alter topic {name!r} to {dict(changes)!r}")

    def delete(self, names: Iterable[str]) -> list[str]:
        """Delete topics and wait until they are gone; those that aren't there are left out.

        Returns:
            the topics that were deleted.

        Raises:
            KafkaClientError: the brokers refused, or a topic didn't go in time.
        """
        wanted = list(dict.fromkeys(names))
        if not wanted:
            return []
        deleted = []
        futures = self._admin.delete_topics(wanted, operation_timeout=self._timeout, request_timeout=self._timeout)
        for name, future in futures.items():
            try:
                self._result(future, f"delete topic {name!r}")
                deleted.append(name)
            except UnknownTopicError:
                continue
        self._wait(lambda: not self.describe(deleted), f"topics {deleted!r} to be gone")
        return deleted

    def offsets(
        self, topics: Iterable[str], which: Literal["earliest", "latest"], committed: bool = False
    ) -> dict[Partition, int]:
        """Return the first offset, or the offset after the last record, of every partition of some topics.

        Args:
            topics: topics that exist.
            which: the lower or the upper end.
            committed: the upper end that a read_committed reader sees, open transactions left out.

        Raises:
            UnknownTopicError: one of the topics isn't there.
            KafkaClientError: the brokers could not be asked.
        """
        wanted = list(dict.fromkeys(topics))
        found = self.describe(wanted)
        missing = sorted(set(wanted) - set(found))
        if missing:
            raise UnknownTopicError(f"topics {missing!r} are not on {self._brokers}; deploy them first")
        spec = OffsetSpec.earliest() if which == "earliest" else OffsetSpec.latest()
        request = {
            TopicPartition(topic.name, partition): spec
            for topic in found.values()
            for partition in range(topic.partitions)
        }
        level = IsolationLevel.READ_COMMITTED if committed else IsolationLevel.READ_UNCOMMITTED
        futures = self._admin.list_offsets(request, isolation_level=level, request_timeout=self._timeout)
        return {
            (place.topic, place.partition): self._result(
                future, f"read the {which} offset of {place.topic}/{place.partition}"
            ).offset
            for place, future in futures.items()
        }

    def topic_id(self, topic: str) -> str:
        """Return what tells a topic from another one that had or will have its name.

        Raises:
            UnknownTopicError: there is no such topic.
            KafkaClientError: the brokers could not be asked.
        """
        futures = self._admin.describe_topics(TopicCollection([topic]), request_timeout=self._timeout)
        return str(self._result(futures[topic], f"describe topic {topic!r}").topic_id)

    def offsets_at(self, topic: str, timestamp_ms: int) -> dict[int, int]:
        """Return by partition the first offset whose Kafka timestamp is not before a time; the end where there is none.

        Args:
            topic: topic that exists.
            timestamp_ms: ms since the epoch.

        Raises:
            UnknownTopicError: there is no such topic.
            KafkaClientError: the brokers could not be asked.
        """
        ends = self.offsets([topic], "latest")
        request = {TopicPartition(*where): OffsetSpec.for_timestamp(timestamp_ms) for where in ends}
        futures = self._admin.list_offsets(request, request_timeout=self._timeout)
        found = {
            place.partition: self._result(future, f"read offsets of {topic!r}").offset
            for place, future in futures.items()
        }
        return {partition: ends[topic, partition] if offset < 0 else offset for partition, offset in found.items()}

    def groups(self, prefix: str = "") -> list[str]:
        """Return the ids of the consumer groups that begin with a text, sorted.

        Raises:
            KafkaClientError: the brokers could not be asked.
        """
        future = self._admin.list_consumer_groups(request_timeout=self._timeout)
        answer = self._result(future, "list the consumer groups")
        return sorted(group.group_id for group in answer.valid if group.group_id.startswith(prefix))

    def delete_groups(self, groups: Iterable[str]) -> list[str]:
        """Delete consumer groups without members; those that aren't there are left out.

        Returns:
            the groups that were deleted.

        Raises:
            KafkaClientError: a group still has members, or the brokers could not be asked.
        """
        wanted = list(dict.fromkeys(groups))
        deleted = []
        for group in wanted:
            future = self._admin.delete_consumer_groups([group], request_timeout=self._timeout)[group]
            try:
                self._result(future, f"delete consumer group {group!r}")
                deleted.append(group)
            except KafkaClientError as error:
                if "GROUP_ID_NOT_FOUND" not in str(error):
                    raise
        return deleted

    def _metadata(self) -> Any:
        try:
            return self._admin.list_topics(timeout=self._timeout)
        except KafkaException as error:
            raise _translate(error, "list the topics", self._brokers) from None

    def _configs(self, names: Iterable[str]) -> dict[str, dict[str, str]]:
        resources = [ConfigResource(ResourceType.TOPIC, name) for name in names]
        if not resources:
            return {}
        futures = self._admin.describe_configs(resources, request_timeout=self._timeout)
        own = ConfigSource.DYNAMIC_TOPIC_CONFIG.value
        configs = {}
        for resource, future in futures.items():
            try:
                entries = self._result(future, f"read the settings of topic {resource.name!r}")
            except UnknownTopicError:
                # Deleted since it was described.
                continue
            configs[resource.name] = {entry.name: entry.value for entry in entries.values() if entry.source == own}
        return configs

    def topic_settings(self, topic: str) -> dict[str, str]:
        """Return the settings that apply to a topic, its own and the brokers'.

        Raises:
            UnknownTopicError: there is no such topic.
            KafkaClientError: the brokers could not be asked.
        """
        resource = ConfigResource(ResourceType.TOPIC, topic)
        [future] = self._admin.describe_configs([resource], request_timeout=self._timeout).values()
        entries = self._result(future, f"read the settings of topic {topic!r}")
        return {entry.name: entry.value for entry in entries.values() if entry.value is not None}

    def _result(self, future: Future[Result], operation: str) -> Result:
        try:
            return future.result(timeout=self._timeout + 5)
        except KafkaException as error:
            raise _translate(error, operation, self._brokers) from None
        except TimeoutError as error:
            raise KafkaClientError(
                f"can't {operation}: {self._brokers} didn't answer in {self._timeout:g} s; see that the brokers are up"
            ) from error

    def _wait(self, condition: Callable[[], bool], what: str) -> None:
        wait_until(
            condition,
            self._timeout,
            _POLL_SECONDS,
            lambda: KafkaClientError(
                f"waited {self._timeout:g} s for {what} on {self._brokers}; look at the brokers' log"
            ),
        )


def send_offsets(producer: Producer, offsets: list[TopicPartition], group: Any, timeout_seconds: float = 5.0) -> None:
    """Add a consumer group's offsets to a producer's transaction, and come back in any case.

    librdkafka's call ignores its timeout: it may hang indefinitely when a broker was killed (confluentinc/librdkafka issues
    5456 and 5511). So it runs in a thread that is left behind then.

    Args:
        producer: producer with an open transaction.
        offsets: the offsets.
        group: the consumer's `consumer_group_metadata()`.
        timeout_seconds: librdkafka's timeout; three seconds more are waited for it.

    Raises:
        HungClientError: the call doesn't return.
        KafkaException: the call failed.
    """
    failures: list[BaseException] = []

    def call() -> None:
        try:
            producer.send_offsets_to_transaction(offsets, group, timeout_seconds)
        except BaseException as error:
            failures.append(error)

    thread = threading.Thread(target=call, name="send-offsets", daemon=True)
    thread.start()
    thread.join(timeout_seconds + 3)
    if thread.is_alive():
        raise HungClientError(
            "can't add offsets to a transaction: the client's call doesn't return; open another client"
        )
    if failures:
        raise failures[0]


class OffsetReader:
    """Asks for topics' ends and groups' positions again and again, through consumers that join no group.

    librdkafka's admin client can abort the whole process when a broker dies under a request (``rd_kafka_enq_once_del_source``:
    reference count), so that whoever must outlive a broker doesn't poll with it.
    """

    def __init__(self, settings: KafkaSettings, timeout_seconds: float = 10, committed: bool = True) -> None:
        """Prepare; the brokers are asked only when something is wanted of them.

        Args:
            settings: where the brokers are.
            timeout_seconds: limit of one request.
            committed: topics end for it where a read_committed reader's records end; else where open transactions end.
        """
        self._settings, self._timeout = settings, timeout_seconds
        self._isolation = "read_committed" if committed else "read_uncommitted"
        self._consumers: dict[str, Consumer] = {}
        self._partitions: dict[str, int] = {}

    def ends(self, topics: Iterable[str]) -> dict[Partition, int]:
        """Return the offset after the last record, as this reader sees it, of every partition of some topics.

        Raises:
            UnknownTopicError: one of the topics isn't there.
            KafkaClientError: the brokers could not be asked.
        """
        return {where: end for where, (_, end) in self.spans(topics).items()}

    def spans(self, topics: Iterable[str]) -> dict[Partition, tuple[int, int]]:
        """Return the first offset and the one after the last record, as this reader sees it, by partition.

        Raises:
            UnknownTopicError: one of the topics isn't there.
            KafkaClientError: the brokers could not be asked.
        """
        return {
            (topic, partition): self._span(topic, partition)
            for topic in topics
            for partition in range(self._count(topic))
        }

    def committed(self, group: str, topic: str) -> dict[Partition, GroupOffset]:
        """Return a group's committed positions in a topic; empty when it has none there.

        Raises:
            UnknownTopicError: the topic isn't there.
            KafkaClientError: the brokers could not be asked.
        """
        where = [TopicPartition(topic, partition) for partition in range(self._count(topic))]
        consumer = self._consumer(group)
        found = self._ask(
            lambda: consumer.committed(where, timeout=self._timeout), f"read the offsets of group {group!r}"
        )
        return {
            (committed.topic, committed.partition): GroupOffset(committed.offset, unframed(raw_metadata(committed)))
            for committed in found
            if committed.error is None and committed.offset >= 0
        }

    def close(self) -> None:
        """End the connections, and forget how many partitions topics have; it may be used again."""
        for consumer in self._consumers.values():
            consumer.close()
        self._consumers.clear()
        self._partitions.clear()

    def _span(self, topic: str, partition: int) -> tuple[int, int]:
        consumer, where = self._consumer("heartwatch-offsets"), TopicPartition(topic, partition)
        operation = f"read the offsets of {topic}/{partition}"
        found = self._ask(lambda: consumer.get_watermark_offsets(where, timeout=self._timeout), operation)
        if found is None:
            raise KafkaClientError(f"can't {operation}: no answer in {self._timeout:g} s; see that the brokers are up")
        return int(found[0]), int(found[1])

    def _consumer(self, group: str) -> Consumer:
        if group not in self._consumers:
            config = consumer_config(self._settings, group) | QUIET | {"isolation.level": self._isolation}
            self._consumers[group] = Consumer(config)
        return self._consumers[group]

    def _count(self, topic: str) -> int:
        if topic not in self._partitions:
            consumer = self._consumer("heartwatch-offsets")
            found = self._ask(lambda: consumer.list_topics(topic, self._timeout), f"describe topic {topic!r}").topics[
                topic
            ]
            if found.error is not None:
                raise UnknownTopicError(
                    f"topic {topic!r} is not on {self._settings.bootstrap_servers}; deploy it first"
                )
            self._partitions[topic] = len(found.partitions)
        return self._partitions[topic]

    def _ask(self, request: Callable[[], Result], operation: str) -> Result:
        """Ask, and ask again while brokers answer that a partition's leader or a group's coordinator is changing."""
        refused: list[KafkaException] = []

        def answered() -> tuple[Result] | None:
            try:
                return (request(),)
            except KafkaException as error:
                refused.append(error)
                if error.args[0].name() in _MOVING:
                    return None
                raise

        try:
            return wait_until(answered, self._timeout, _POLL_SECONDS, lambda: refused[-1])[0]
        except KafkaException as error:
            raise _translate(error, operation, self._settings.bootstrap_servers) from None


def producer_config(
    settings: KafkaSettings, transactional_id: str | None = None, linger_ms: int = 20, **overrides: Any
) -> dict[str, Any]:
    """Return the configuration of a producer that loses and doubles nothing.

    Args:
        settings: where the brokers are.
        transactional_id: makes the producer transactional.
        linger_ms: how long a batch may fill, ms.
        **overrides: further librdkafka settings, with ``_`` for ``.``.
    """
    config: dict[str, Any] = {
        **kafka_config(settings),
        "acks": "all",
        "enable.idempotence": True,
        # The Java client's hash, so that Connect, KSQL and our producers put one key into one partition number.
        "partitioner": "murmur2_random",
        "linger.ms": linger_ms,
        "compression.type": "none",
    }
    if transactional_id is not None:
        config["transactional.id"] = transactional_id
    return {**config, **_dotted(overrides)}


QUIET = {"log_level": 2}
"""For those that ask again and again and must outlive the brokers: librdkafka logs each attempt to connect, twenty a second."""


def consumer_config(
    settings: KafkaSettings, group: str, reset: Literal["earliest", "latest", "error"] = "earliest", **overrides: Any
) -> dict[str, Any]:
    """Return the configuration of a consumer that sees committed records only and commits nothing by itself.

    Args:
        settings: where the brokers are.
        group: consumer group.
        reset: where to begin without a committed offset.
        **overrides: further librdkafka settings, with ``_`` for ``.``.
    """
    config = {
        **kafka_config(settings),
        "group.id": group,
        "isolation.level": "read_committed",
        "enable.auto.commit": False,
        "auto.offset.reset": reset,
    }
    return {**config, **_dotted(overrides)}


def _dotted(overrides: Mapping[str, Any]) -> dict[str, Any]:
    return {name.replace("_", "."): value for name, value in overrides.items()}


def _translate(error: KafkaException, operation: str, brokers: str) -> KafkaClientError:
    """Return our own error for confluent-kafka's, which holds a C object and doesn't pickle."""
    cause = error.args[0]
    text = f"can't {operation}: {cause.str()} ({cause.name()})"
    if cause.name() in _UNKNOWN_TOPIC:
        return UnknownTopicError(text)
    if cause.name() == "TOPIC_ALREADY_EXISTS":
        return TopicExistsError(text)
    if cause.name() in {"_TRANSPORT", "_TIMED_OUT", "_ALL_BROKERS_DOWN"}:
        text += f"; see that the brokers {brokers} are up"
    return KafkaClientError(text)
