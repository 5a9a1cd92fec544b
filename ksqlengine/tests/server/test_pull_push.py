"""Queries that end with their request: pull queries while their table changes."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pyarrow as pa
import pytest

from kafkakit.batch_consumer import MessageBatch
from kafkakit.settings import KafkaSettings
from ksqlengine.language import ast
from ksqlengine.language.lexer import split_statements
from ksqlengine.language.parser import parse_statements
from ksqlengine.planning.statements import Analyzer
from ksqlengine.server import pull_push
from ksqlengine.server.in_memory import InMemoryEngine, MemoryRegistry
from ksqlengine.server.pull_push import RunningTransientQuery

TABLE = "CREATE TABLE t (k STRING PRIMARY KEY, v INT) WITH (KAFKA_TOPIC='t', VALUE_FORMAT='JSON');"


@dataclass
class Topic:
    """A topic of one partition; as `Resources` and as `KafkaAdmin` it answers for itself."""

    topic_id: str = "one"
    records: list[tuple[bytes, bytes | None]] = field(default_factory=list)
    read: list[int] = field(default_factory=list)


class Resources:
    """What a query asks of a service's topics."""

    def __init__(self, topic: Topic) -> None:
        self._topic = topic
        self.kafka = self

    def partitions(self, topic: str) -> int:
        return 1

    def reader_group(self, name: str) -> str:
        return name

    def topic_id(self, topic: str) -> str:
        return self._topic.topic_id

    def ends(self, partitions: list[tuple[str, int]]) -> dict[tuple[str, int], int]:
        return dict.fromkeys(partitions, len(self._topic.records))

    def schema(self, schema_id: int) -> Any:
        raise AssertionError(schema_id)


class Reader:
    """Reads the topic, and notes from which offset."""

    def __init__(self, topic: Topic) -> None:
        self._topic = topic

    def __enter__(self) -> Reader:
        return self

    def __exit__(self, *_: object) -> None:
        pass

    def assign(self, positions: Iterable[tuple[str, int, int]]) -> None:
        ((self._name, _, offset),) = positions
        self._position = max(offset, 0)
        self._topic.read.append(self._position)

    def poll(self, _: float) -> MessageBatch:
        keys, values = zip(*self._topic.records[self._position :], strict=True)
        count, first = len(keys), self._position
        self._position += count
        return MessageBatch(
            topics=(self._name,),
            topic=np.zeros(count, dtype=np.int32),
            partition=np.zeros(count, dtype=np.int32),
            offset=np.arange(first, first + count),
            timestamp=np.zeros(count, dtype=np.int64),
            key=pa.array(keys, pa.large_binary()),
            value=pa.array(values, pa.large_binary()),
        )


@pytest.fixture
def topic(monkeypatch: pytest.MonkeyPatch) -> Topic:
    made = Topic()
    monkeypatch.setattr(pull_push, "open_batch_consumer", lambda config, **_: Reader(made))
    monkeypatch.setattr(pull_push, "_TABLES", pull_push._Tables())
    return made


def select(topic: Topic, sql: str) -> list[list[Any]]:
    driver = InMemoryEngine({}, {})
    driver.execute(split_statements(TABLE)[0])
    (statement,) = parse_statements(sql)
    assert isinstance(statement.statement, ast.QueryStatement)
    plan = Analyzer(driver.catalog, MemoryRegistry({})).transient(statement.statement.query, sql)
    query = RunningTransientQuery(plan, KafkaSettings(), Resources(topic), {})  # type: ignore[arg-type]
    return [row.columns for rows in query.rows() for row in rows]


def test_a_pull_query_reads_only_what_is_new(topic: Topic) -> None:
    topic.records = [(b"a", b'{"V": 1}'), (b"b", b'{"V": 2}')]
    assert select(topic, "SELECT * FROM t;") == [["a", 1], ["b", 2]]
    topic.records += [(b"a", None), (b"b", b'{"V": 3}')]
    assert select(topic, "SELECT * FROM t;") == [["b", 3]]
    assert select(topic, "SELECT * FROM t;") == [["b", 3]]
    assert topic.read == [0, 2]


def test_a_table_whose_topic_was_made_anew_has_none_of_the_old_rows(topic: Topic) -> None:
    topic.records = [(b"a", b'{"V": 1}')]
    assert select(topic, "SELECT * FROM t;") == [["a", 1]]
    topic.topic_id, topic.records = "two", [(b"b", b'{"V": 2}'), (b"c", b'{"V": 3}')]
    assert select(topic, "SELECT * FROM t;") == [["b", 2], ["c", 3]]


def test_rows_that_were_read_long_ago_are_read_anew(topic: Topic, monkeypatch: pytest.MonkeyPatch) -> None:
    topic.records = [(b"a", b'{"V": 1}'), (b"b", b'{"V": 2}')]
    assert select(topic, "SELECT * FROM t;") == [["a", 1], ["b", 2]]
    # Both the row of a and its deletion have been compacted away meanwhile.
    topic.records = [(b"b", b'{"V": 2}'), (b"b", b'{"V": 2}'), (b"b", b'{"V": 3}')]
    monkeypatch.setattr(pull_push, "_KEPT_SECONDS", -1)
    assert select(topic, "SELECT * FROM t;") == [["b", 3]]
    assert topic.read == [0, 0]
