"""Aggregates go on from their changelog topics where the source's records are gone, whatever was killed before."""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from confluent_kafka import Producer, TopicPartition
from confluent_kafka.admin import AdminClient
from engine_events import read
from engine_process import EngineProcess, eventually

from heartwatch.settings import Settings
from kafkakit.admin import KafkaAdmin

pytestmark = pytest.mark.parts("kafka", "registry")

Engines = Callable[[str], EngineProcess]
EARLIEST = {"auto.offset.reset": "earliest"}
RECORDS, KEYS, GROUPS = 10_000, 200, 7
DAY_MS = 86_400_000
START_MS = time.time_ns() // 1_000_000 // DAY_MS * DAY_MS
Row = tuple[int, int]


def produce(settings: Settings, topic: str, rows: list[Row], pause: float = 0) -> None:
    producer = Producer({"bootstrap.servers": settings.kafka.bootstrap_servers, "partitioner": "murmur2_random"})
    for number, (key, value) in enumerate(rows):
        body = json.dumps({"V": value, "G": value % GROUPS})
        producer.produce(topic, body, f"k{key}", timestamp=START_MS + number)
        if number % 500 == 0:
            producer.flush()
            time.sleep(pause)
    producer.flush()


def rows_of(seed: int) -> list[Row]:
    rng = np.random.default_rng(seed)
    return list(zip(rng.integers(0, KEYS, RECORDS).tolist(), rng.integers(0, 1_000_000, RECORDS).tolist(), strict=True))


def versions(settings: Settings, topic: str) -> dict[bytes, list[dict[str, Any]]]:
    """Return the values of each key, in order."""
    found: dict[bytes, list[dict[str, Any]]] = {}
    for messages in read(settings, topic).values():
        for message in messages:
            found.setdefault(message.key(), []).append(json.loads(message.value()))
    return found


def last(settings: Settings, topic: str) -> dict[bytes, tuple[Any, ...]]:
    return {key: tuple(rows[-1].values()) for key, rows in versions(settings, topic).items()}


def expected_of_stream(rows: list[Row], group: Callable[[Row], bytes]) -> dict[bytes, tuple[Any, ...]]:
    groups: dict[bytes, list[int]] = {}
    for row in rows:
        groups.setdefault(group(row), []).append(row[1])
    return {key: (len(values), sum(values), sorted(values)[-2:][::-1], min(values)) for key, values in groups.items()}


def expected_of_table(rows: list[Row]) -> dict[bytes, tuple[Any, ...]]:
    groups: dict[bytes, list[int]] = {}
    for value in dict(rows).values():
        groups.setdefault((value % GROUPS).to_bytes(4, "big"), []).append(value)
    return {key: (len(values), sum(values)) for key, values in groups.items()}


def delete_records(settings: Settings, topics: list[str]) -> None:
    ends = KafkaAdmin(settings.kafka).offsets(topics, "latest")
    admin = AdminClient({"bootstrap.servers": settings.kafka.bootstrap_servers})
    for future in admin.delete_records([TopicPartition(*where, end) for where, end in ends.items()]).values():
        future.result()


def changelogs(settings: Settings, name: str) -> list[str]:
    topics = AdminClient({"bootstrap.servers": settings.kafka.bootstrap_servers}).list_topics(timeout=10).topics
    return [topic for topic in topics if name in topic and topic.endswith("-changelog")]


def test_totals_are_exact_after_kill_9_and_the_end_of_the_source_s_records(
    engines: Engines, settings: Settings
) -> None:
    engine, name = engines("one").start(), f"C{time.time_ns()}"
    functions = "COUNT(*) AS N, SUM(V) AS S, TOPK(V, 2) AS T, MIN(V) AS M"
    engine.run(
        f"CREATE STREAM {name}_S (K STRING KEY, V BIGINT, G INT) "
        f"WITH (KAFKA_TOPIC='{name}', VALUE_FORMAT='JSON', PARTITIONS=2);"
        f"CREATE TABLE {name}_T (K STRING PRIMARY KEY, V BIGINT, G INT) WITH (KAFKA_TOPIC='{name}', VALUE_FORMAT='JSON');"
        f"CREATE TABLE {name}_K AS SELECT K, {functions} FROM {name}_S GROUP BY K;"
        f"CREATE TABLE {name}_G AS SELECT G, {functions} FROM {name}_S GROUP BY G;"
        f"CREATE TABLE {name}_D AS SELECT K, {functions} FROM {name}_S "
        "WINDOW TUMBLING (SIZE 1 DAY, GRACE PERIOD 1 DAY) GROUP BY K;"
        f"CREATE TABLE {name}_R AS SELECT G, COUNT(*) AS N, SUM(V) AS S FROM {name}_T GROUP BY G;",
        EARLIEST,
    )
    rows: list[Row] = []

    def is_exact() -> bool:
        by_key = expected_of_stream(rows, lambda row: f"k{row[0]}".encode())
        by_day = {key + START_MS.to_bytes(8, "big"): values for key, values in by_key.items()}
        by_group = expected_of_stream(rows, lambda row: (row[1] % GROUPS).to_bytes(4, "big"))
        return (
            last(settings, f"{name}_K") == by_key
            and last(settings, f"{name}_D") == by_day
            and last(settings, f"{name}_G") == by_group
            and last(settings, f"{name}_R") == expected_of_table(rows)
        )

    def send(seed: int, kill: bool = False) -> None:
        more = rows_of(seed)
        rows.extend(more)
        producing = threading.Thread(target=produce, args=(settings, name, more, 0.1))
        producing.start()
        if kill:
            time.sleep(1)
            engine.kill()
            engine.start()
        producing.join()
        eventually(is_exact, 90, lambda: f"{last(settings, f'{name}_R')}, not {expected_of_table(rows)}")

    send(1, kill=True)
    engine.kill()
    delete_records(settings, [name])
    engine.start()
    engine.run(f"CREATE OR REPLACE TABLE {name}_K AS SELECT K, {functions} FROM {name}_S WHERE V >= 0 GROUP BY K;")
    send(2, kill=True)
    for table in "KG":
        for counts in versions(settings, f"{name}_{table}").values():
            numbers = [row["N"] for row in counts]
            assert numbers == sorted(set(numbers)), "a change came twice, or the count went back"
    assert len(changelogs(settings, name)) == 5, changelogs(settings, name)
    for table in "KGDR":
        engine.run(f"DROP TABLE {name}_{table};")
    eventually(lambda: not changelogs(settings, name), 30, "changelog topics outlive their queries")
