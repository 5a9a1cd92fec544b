"""The command topic: every statement that changes the catalog, in order, kept in Kafka.

Each engine process of a service id follows the topic and carries out what it reads, so state survives a restart of
everything and several processes agree. All writers share one transactional id: beginning to write fences every other writer,
and the writer then reads the topic to its end before it checks a statement. So a statement is checked against exactly the
state that it will meet.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import orjson
from confluent_kafka import KafkaError, KafkaException, Message, Producer

from kafkakit.admin import KafkaAdmin, TopicExistsError, TopicState, consumer_config, producer_config
from kafkakit.batch_consumer import BEGINNING, open_batch_consumer
from kafkakit.settings import KafkaSettings
from ksqlengine.errors import KsqlEngineError
from ksqlengine.internal_names import command_topic, reader_group

_REQUEST_SECONDS = 60.0
_POLL_SECONDS = 0.2
_VERSION = 1


class CommandConflictError(KsqlEngineError):
    """Another engine process wrote commands at the same time; nothing was written, the statement can be sent again."""


@dataclass(frozen=True)
class Command:
    """A statement to be carried out by every engine process.

    Attributes:
        statement: its text, variables replaced.
        properties: the session's properties that hold for it.
        schemas: what the registry answered when it was checked, so it means the same whenever it is carried out.
        shown: the text as ksqlDB shows it, empty where that is the statement's own.
    """

    statement: str
    properties: Mapping[str, str] = field(default_factory=dict)
    schemas: Mapping[str, Any] = field(default_factory=dict)
    shown: str = ""

    def to_bytes(self) -> bytes:
        """Write the command."""
        body = {
            "version": _VERSION,
            "statement": self.statement,
            "streamsProperties": dict(self.properties),
            "schemas": dict(self.schemas),
            "shown": self.shown,
        }
        return orjson.dumps(body)

    @classmethod
    def from_bytes(cls, value: bytes) -> Command:
        """Read a command.

        Raises:
            ValueError: it is of a later version of the engine, or not a command at all.
        """
        body = orjson.loads(value)
        if body.get("version") != _VERSION:
            raise ValueError(
                f"a command has version {body.get('version')!r}, this engine reads {_VERSION}; start the engine that wrote it"
            )
        return cls(body["statement"], body["streamsProperties"], body["schemas"], body.get("shown", ""))


class CommandTopic:
    """Writes to and follows the command topic of a service id."""

    def __init__(self, kafka: KafkaSettings, service_id: str, apply: Callable[[int, Command], None]) -> None:
        """Prepare.

        Args:
            kafka: brokers.
            service_id: the service.
            apply: carries out a command; called in order of the topic, by one thread, with the command's offset.
        """
        self.topic = command_topic(service_id)
        self._kafka = kafka
        self._transactional_id = f"{service_id}command_topic"
        self._service_id = service_id
        self._apply = apply
        self._admin = KafkaAdmin(kafka)
        self._applied = threading.Condition()
        self._position = 0
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._follow, name="commands", daemon=True)
        self.failure: str | None = None

    def create(self) -> None:
        """Create the topic unless it is there."""
        if self._admin.describe([self.topic]):
            return
        config = {"cleanup.policy": "delete", "retention.ms": "-1", "retention.bytes": "-1"}
        replicas = self._kafka.replication_factor
        try:
            self._admin.create([TopicState(self.topic, 1, replicas, config)])
        except TopicExistsError:
            return

    def start(self) -> None:
        """Begin to follow, and return once everything written so far has been carried out; may be called again.

        Raises:
            TimeoutError: it took too long.
        """
        if not self._thread.is_alive():
            self._thread.start()
        self.wait_for_end()

    def stop(self) -> None:
        """Stop following; does nothing before `start`."""
        self._stop.set()
        if self._thread.ident is not None:
            self._thread.join()

    def wait_for_end(self, timeout_seconds: float = _REQUEST_SECONDS) -> None:
        """Wait until everything written so far has been carried out.

        Raises:
            TimeoutError: it took too long.
        """
        end = self._admin.offsets([self.topic], "latest", committed=True)[self.topic, 0]
        self._wait(lambda: self._position >= end, timeout_seconds, f"offset {end}")

    def wait_for(self, offset: int, timeout_seconds: float) -> None:
        """Wait until the command at an offset has been carried out.

        Raises:
            TimeoutError: it took too long.
        """
        self._wait(lambda: self._position > offset, timeout_seconds, f"command {offset}")

    @contextmanager
    def writing(self) -> Iterator[Callable[[Command], int]]:
        """Let the caller check and write commands, alone among all engine processes.

        Yields:
            a function that writes a command and waits until this process has carried it out; it returns the offset.

        Raises:
            CommandConflictError: another process began to write meanwhile.
        """
        producer = Producer(producer_config(self._kafka, self._transactional_id, linger_ms=0))
        producer.init_transactions(_REQUEST_SECONDS)
        self.wait_for_end()
        yield lambda command: self._write(producer, command)

    def _write(self, producer: Producer, command: Command) -> int:
        written: list[int] = []
        failed: list[KafkaError] = []

        def delivered(error: KafkaError | None, message: Message) -> None:
            if error is not None:
                failed.append(error)
            else:
                written.append(int(message.offset() or 0))

        try:
            producer.begin_transaction()
            producer.produce(self.topic, command.to_bytes(), on_delivery=delivered)
            producer.flush(_REQUEST_SECONDS)
            producer.commit_transaction(_REQUEST_SECONDS)
        except KafkaException as error:
            raise CommandConflictError(
                f"the command topic {self.topic!r} could not be written: {error.args[0].str()}; send the statement again"
            ) from None
        if failed or not written:
            raise CommandConflictError(
                f"the command topic {self.topic!r} could not be written: {failed!r}; send the statement again"
            )
        self.wait_for(written[0], _REQUEST_SECONDS)
        return written[0]

    def _wait(self, reached: Callable[[], bool], timeout_seconds: float, what: str) -> None:
        with self._applied:
            if not self._applied.wait_for(lambda: reached() or self.failure is not None, timeout_seconds):
                raise TimeoutError(f"{what} of {self.topic!r} was not carried out in {timeout_seconds:g} s")
        if self.failure is not None:
            raise RuntimeError(f"the command topic can't be followed: {self.failure}")

    def _follow(self) -> None:
        config = consumer_config(self._kafka, reader_group(self._service_id, "commands"), "earliest")
        try:
            with open_batch_consumer({**config, "enable.partition.eof": True, "fetch.wait.max.ms": 50}) as consumer:
                consumer.assign([(self.topic, 0, BEGINNING)])
                while not self._stop.is_set():
                    self._carry_out(consumer.poll(_POLL_SECONDS))
        except Exception as error:
            self.failure = str(error)
            with self._applied:
                self._applied.notify_all()
            raise

    def _carry_out(self, batch: Any) -> None:
        for offset, value in zip(batch.offset.tolist(), batch.value.to_pylist(), strict=True):
            self._apply(offset, Command.from_bytes(value))
            self._advance(offset + 1)
        for _, _, offset in batch.ends:
            self._advance(offset)

    def _advance(self, position: int) -> None:
        with self._applied:
            self._position = max(self._position, position)
            self._applied.notify_all()
