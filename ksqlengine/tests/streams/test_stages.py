"""Stages against brokers in memory: what is committed, what is written, and what a bad moment does to either."""

from __future__ import annotations

import json
import threading
from base64 import b64decode
from collections.abc import Callable, Iterable
from concurrent.futures import Future
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Any

import numpy as np
import polars as pl
import pyarrow as pa
import pytest
from confluent_kafka import KafkaError, KafkaException, TopicPartition
from confluent_kafka.admin import OffsetSpec

from kafkakit.admin import TopicState
from kafkakit.batch_consumer import BEGINNING, MessageBatch
from kafkakit.settings import KafkaSettings
from ksqlengine.execution.stages import Stage, stages
from ksqlengine.execution.writers import WriteSchemas
from ksqlengine.language.lexer import split_statements
from ksqlengine.server.in_memory import InMemoryEngine
from ksqlengine.streams import clients
from ksqlengine.streams.context import Guarantee, QueryOptions, StageContext, UndeliveredError
from ksqlengine.streams.metrics import QueryMetrics
from ksqlengine.streams.pipeline_work import PipelineWork
from ksqlengine.streams.stage_session import StageSession
from ksqlengine.streams.stage_thread import StageThread, open_session

SERVICE = "test_"
LOG = f"{SERVICE}ksql_processing_log"
Where = tuple[str, int]


@dataclass
class Brokers:
    """Topics of one partition, and what groups have committed."""

    topics: dict[str, list[tuple[bytes | None, bytes | None]]] = field(default_factory=dict)
    committed: dict[Where, tuple[int, str]] = field(default_factory=dict)
    refuses: Callable[[str], bool] = lambda topic: False

    def commit(self, offsets: Iterable[TopicPartition]) -> None:
        self.committed.update({(one.topic, one.partition): (one.offset, one.metadata) for one in offsets})

    def values(self, topic: str) -> list[bytes | None]:
        return [value for _, value in self.topics.get(topic, [])]


class Group:
    """The membership's client; it has all partitions from its first poll on."""

    def __init__(self, brokers: Brokers) -> None:
        self._brokers = brokers
        self._topics: list[str] = []

    def subscribe(self, topics: list[str], on_assign: Any, **_: Any) -> None:
        self._topics, self._on_assign = topics, on_assign

    def poll(self, _: float) -> None:
        topics, self._topics = self._topics, []
        if topics:
            self._on_assign(self, [TopicPartition(topic, 0) for topic in topics])

    def assign(self, _: Any) -> None:
        pass

    pause = assign

    def committed(self, wanted: list[TopicPartition], timeout: float) -> list[TopicPartition]:
        found = [(one, self._brokers.committed.get((one.topic, one.partition), (-1001, ""))) for one in wanted]
        return [TopicPartition(one.topic, one.partition, *at) for one, at in found]

    def consumer_group_metadata(self) -> None:
        return None

    def commit(self, offsets: list[TopicPartition], asynchronous: bool) -> None:
        self._brokers.commit(offsets)


class Writer:
    """A producer, with or without transactions."""

    def __init__(self, brokers: Brokers, config: dict[str, Any]) -> None:
        self._brokers = brokers
        self._limit = config.get("message.max.bytes", 1_000_000)
        self._told = config.get("on_delivery")
        self._waiting: list[tuple[str, bytes | None, bytes | None]] = []
        self._offsets: list[TopicPartition] = []

    def init_transactions(self, _: float) -> None:
        pass

    def begin_transaction(self) -> None:
        pass

    def abort_transaction(self, _: float) -> None:
        self._waiting, self._offsets = [], []

    def poll(self, _: float) -> None:
        pass

    def produce(
        self, topic: str, value: bytes | None = None, key: bytes | None = None, partition: int = -1, **_: Any
    ) -> None:
        if len(value or b"") + len(key or b"") > self._limit:
            raise KafkaException(KafkaError(KafkaError.MSG_SIZE_TOO_LARGE))
        self._waiting.append((topic, key, value))

    def send_offsets_to_transaction(self, offsets: list[TopicPartition], *_: Any) -> None:
        self._offsets = offsets

    def commit_transaction(self, _: float) -> None:
        self.flush(0)
        self._brokers.commit(self._offsets)
        self._offsets = []

    def flush(self, _: float) -> int:
        waiting, self._waiting = self._waiting, []
        for topic, key, value in waiting:
            refused = self._brokers.refuses(topic)
            if not refused:
                self._brokers.topics.setdefault(topic, []).append((key, value))
            if self._told is not None:
                self._told(KafkaError(KafkaError._MSG_TIMED_OUT) if refused else None, None)
        return 0


class Reader:
    """Reads assigned topics."""

    def __init__(self, brokers: Brokers) -> None:
        self._brokers = brokers
        self._positions: dict[str, int] = {}

    def assign(self, positions: Iterable[tuple[str, int, int]]) -> None:
        self._positions = {topic: max(offset, 0) if offset != BEGINNING else 0 for topic, _, offset in positions}

    def poll(self, _: float, limit: int = 10_000) -> MessageBatch:
        rows = [
            (number, offset, *self._brokers.topics[topic][offset])
            for number, (topic, start) in enumerate(self._positions.items())
            for offset in range(start, len(self._brokers.topics[topic]))
        ]
        self._positions = {topic: len(self._brokers.topics[topic]) for topic in self._positions}
        number, offset, key, value = zip(*rows, strict=True) if rows else ((), (), (), ())
        return MessageBatch(
            topics=tuple(self._positions),
            topic=np.array(number, dtype=np.int32),
            partition=np.zeros(len(rows), dtype=np.int32),
            offset=np.array(offset, dtype=np.int64),
            timestamp=np.full(len(rows), 1_000),
            key=pa.array(key, pa.large_binary()),
            value=pa.array(value, pa.large_binary()),
            ends=tuple((topic, 0, end) for topic, end in self._positions.items()),
        )

    def close(self) -> None:
        pass


class Admin:
    """What a stage asks brokers."""

    def __init__(self, brokers: Brokers) -> None:
        self._brokers = brokers

    def list_offsets(self, request: dict[TopicPartition, OffsetSpec], **_: Any) -> dict[TopicPartition, Future[Any]]:
        answers: dict[TopicPartition, Future[Any]] = {one: Future() for one in request}
        for one, answer in answers.items():
            answer.set_result(TopicPartition(one.topic, one.partition, len(self._brokers.topics[one.topic])))
        return answers

    def describe(self, names: Iterable[str]) -> dict[str, TopicState]:
        return {name: TopicState(name, 1, 1) for name in names}

    def offsets(self, topics: Iterable[str], which: str) -> dict[Where, int]:
        assert which == "earliest"
        return {(topic, 0): 0 for topic in topics}


@pytest.fixture
def brokers(monkeypatch: pytest.MonkeyPatch) -> Brokers:
    made = Brokers()
    monkeypatch.setattr(clients, "Consumer", lambda config: Group(made))
    monkeypatch.setattr(clients, "Producer", lambda config: Writer(made, config))
    monkeypatch.setattr(clients, "AdminClient", lambda config: Admin(made))
    monkeypatch.setattr(clients, "KafkaAdmin", lambda settings: Admin(made))
    monkeypatch.setattr(clients, "open_batch_consumer", lambda config, **_: Reader(made))
    return made


def first_stage(sql: str) -> Stage:
    """Return the first stage of a text's last statement."""
    driver = InMemoryEngine({}, {})
    for statement in split_statements(sql):
        driver.execute(statement)
    return stages(list(driver.queries.values())[-1].plan, SERVICE)[0]


def context(options: QueryOptions) -> StageContext:
    return StageContext(
        KafkaSettings(),
        SERVICE,
        "one",
        "Q_1",
        options,
        lambda: None,
        lambda schema_id: "",
        lambda stage: WriteSchemas(),
        QueryMetrics(),
    )


def session(stage: Stage, options: QueryOptions) -> StageSession:
    """Begin a life of a stage, up to its partitions."""
    begun = open_session(stage, context(options), "group")
    begun.step()
    return begun


JOIN = """
    CREATE STREAM a (k STRING KEY, v INT) WITH (KAFKA_TOPIC='a', VALUE_FORMAT='JSON');
    CREATE STREAM b (k STRING KEY, w INT) WITH (KAFKA_TOPIC='b', VALUE_FORMAT='JSON');
    CREATE STREAM j AS SELECT a.k, v, w FROM a JOIN b WITHIN 1 HOUR ON a.k = b.k;
"""


def test_a_join_that_begins_at_the_ends_of_its_topics_goes_on_from_there_after_a_restart(brokers: Brokers) -> None:
    brokers.topics |= {"a": [(b"k", b'{"V": 1}')], "b": [(b"k", b'{"W": 2}')]}
    stage = first_stage(JOIN)
    session(stage, QueryOptions()).close()
    # The process is dead when one of the sides gets its first record.
    brokers.topics["b"].append((b"k", b'{"W": 3}'))
    again = session(stage, QueryOptions())
    again.step()
    again.finish()
    assert brokers.values(stage.sink.topic) == [b'{"A_K":null,"A_V":null,"B_K":"k","B_W":3}']


COPY = """
    CREATE STREAM a (k STRING KEY, v INT) WITH (KAFKA_TOPIC='a', VALUE_FORMAT='JSON');
    CREATE STREAM c AS SELECT * FROM a;
"""
EARLIEST = QueryOptions(reset="earliest")


def test_bad_messages_that_are_too_large_for_the_log_stop_nothing(brokers: Brokers) -> None:
    quoted = b'{"V": "%s"}' % (b"\x7f" * 590_000)  # its reason would be four times as long
    brokers.topics["a"] = [(b"k", b"x" * 900_000), (b"k", quoted), (b"k", b'{"V": 1}')]
    session(first_stage(COPY), EARLIEST).finish()
    assert brokers.values("C") == [b'{"V":1}']
    entries = [json.loads(value or b"")["message"]["deserializationError"] for value in brokers.values(LOG)]
    assert [(one["topic"], one["offset"]) for one in entries] == [("a", 0), ("a", 1)]
    assert entries[0]["recordB64"] is None
    assert "900000 bytes" in entries[0]["errorMessage"]
    assert b64decode(entries[1]["recordB64"]) == quoted


def test_a_full_queue_is_waited_for_by_the_log_too(brokers: Brokers, monkeypatch: pytest.MonkeyPatch) -> None:
    brokers.topics["a"] = [(b"k", b"x"), (b"k", b'{"V": 1}')]
    full = [BufferError()]

    def produce(writer: Writer, topic: str, *given: Any, **more: Any) -> None:
        if topic == LOG and full:
            raise full.pop()
        original(writer, topic, *given, **more)

    original = Writer.produce
    monkeypatch.setattr(Writer, "produce", produce)
    session(first_stage(COPY), EARLIEST).finish()
    assert (brokers.values("C"), len(brokers.values(LOG))) == ([b'{"V":1}'], 1)


def test_results_that_were_not_delivered_leave_the_position_where_it_was(brokers: Brokers) -> None:
    brokers.topics["a"] = [(b"k", b'{"V": 1}')]
    brokers.refuses = lambda topic: topic == "C"
    options = replace(EARLIEST, guarantee=Guarantee.AT_LEAST_ONCE)
    with pytest.raises(UndeliveredError, match="1 record"):
        session(first_stage(COPY), options).finish()
    assert brokers.committed == {}
    brokers.refuses = lambda topic: False
    session(first_stage(COPY), options).finish()
    assert (brokers.values("C"), brokers.committed["a", 0][0]) == ([b'{"V":1}'], 1)


def test_a_query_goes_on_after_a_panic_of_the_expression_engine(brokers: Brokers) -> None:
    went_on = threading.Event()

    class Life(StageSession):
        """Panics in its first life, as Polars does: with an error that is no `Exception`."""

        lives = 0

        def step(self) -> int:
            Life.lives += 1
            if Life.lives == 1:
                raise pl.exceptions.PanicException("index out of bounds")
            went_on.set()
            return super().step()

    brokers.topics["a"] = []
    running = context(EARLIEST)
    thread = StageThread(first_stage(COPY), running, partial(Life, make_work=PipelineWork))
    thread.start()
    assert went_on.wait(30), f"the query's thread ended with state {thread.status}"
    thread.stop()
    thread.join()
    assert running.metrics.restarts == 1
