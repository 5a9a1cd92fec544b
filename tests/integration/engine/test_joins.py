"""Joins of two streams and of two tables: the answer is exact whatever is killed on the way."""

from __future__ import annotations

import json
import random
import threading
import time
from collections import Counter
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from confluent_kafka import Producer
from engine_events import read
from engine_process import EngineProcess, eventually

from heartwatch.settings import Settings

pytestmark = pytest.mark.parts("kafka", "registry")

Engines = Callable[[str], EngineProcess]
EARLIEST = {"auto.offset.reset": "earliest"}
ROWS, KEYS, WITHIN_MS = 12_000, 300, 400
START_MS = time.time_ns() // 1_000_000 - 3_600_000  # young enough for the topics' retention


def rows_of(settings: Settings, topic: str) -> list[tuple[bytes, dict[str, Any] | None]]:
    found = read(settings, topic).values()
    return [(message.key(), json.loads(message.value() or b"null")) for messages in found for message in messages]


def records(seed: int) -> list[tuple[str, int, int, int]]:
    """Return (topic, key, number, time) of both streams, in order of time, and a last one that closes all windows."""
    rng = np.random.default_rng(seed)
    rows = [
        (("P", "Q")[int(side)], int(key), number, START_MS + number * 2)
        for number, (side, key) in enumerate(zip(rng.integers(0, 2, ROWS), rng.integers(0, KEYS, ROWS), strict=True))
    ]
    return [*rows, *((side, KEYS + key, ROWS + key, START_MS + 1_000_000) for key in range(20) for side in "PQ")]


def produce(settings: Settings, name: str, rows: list[tuple[str, int, int, int]], pause: float) -> None:
    producer = Producer({"bootstrap.servers": settings.kafka.bootstrap_servers, "partitioner": "murmur2_random"})
    for number, (topic, key, value, moment) in enumerate(rows):
        body = json.dumps({"V": value, "G": value % 7})
        producer.produce(f"{name}{topic}", body, str(key), timestamp=moment)
        if number % 500 == 0:
            producer.flush()
            time.sleep(pause)
    producer.flush()


def kill_now_and_then(engine: EngineProcess, while_alive: threading.Thread, seed: int) -> None:
    chance = random.Random(seed)
    for _ in range(3):
        time.sleep(chance.uniform(0.5, 4))
        engine.kill()
        engine.start()
    while_alive.join()


def stream_reference(rows: list[tuple[str, int, int, int]]) -> Counter[tuple[int, int, int | None]]:
    ours = [row for row in rows if row[1] < KEYS]
    right = [row for row in ours if row[0] == "Q"]
    expected: Counter[tuple[int, int, int | None]] = Counter()
    for _, key, value, moment in (row for row in ours if row[0] == "P"):
        matches = [row[2] for row in right if row[1] == key and abs(row[3] - moment) <= WITHIN_MS]
        expected.update((key, value, match) for match in matches or [None])
    return expected


def table_reference(rows: list[tuple[str, int, int, int]]) -> tuple[dict[int, Any], dict[int, Any]]:
    last: dict[str, dict[int, int]] = {"P": {}, "Q": {}}
    for topic, key, value, _ in rows:
        last[topic][key] = value
    groups: dict[int, tuple[int, int]] = {}
    for value in last["P"].values():
        count, total = groups.get(value % 7, (0, 0))
        groups[value % 7] = (count + 1, total + value)
    return {key: (last["P"].get(key), last["Q"].get(key)) for key in {*last["P"], *last["Q"]}}, groups


def test_joins_and_groups_of_tables_are_exact_through_kill_9(engines: Engines, settings: Settings) -> None:
    engine, name, rows = engines("one").start(), f"J{time.time_ns()}", records(1)
    for side in "PQ":
        engine.run(
            f"CREATE STREAM {name}_{side} (K STRING KEY, V INT) "
            f"WITH (KAFKA_TOPIC='{name}{side}', VALUE_FORMAT='JSON', PARTITIONS=2);"
            f"CREATE TABLE {name}_T{side} (K STRING PRIMARY KEY, V INT, G INT) "
            f"WITH (KAFKA_TOPIC='{name}{side}', VALUE_FORMAT='JSON', PARTITIONS=2);"
        )
    engine.run(
        f"CREATE STREAM {name}_J AS SELECT P.K AS K, P.V AS A, Q.V AS B FROM {name}_P P LEFT JOIN {name}_Q Q "
        f"WITHIN {WITHIN_MS} MILLISECONDS GRACE PERIOD 1 SECOND ON P.K = Q.K;"
        f"CREATE TABLE {name}_O AS SELECT ROWKEY AS K, P.V AS A, Q.V AS B, P.G AS G FROM {name}_TP P "
        f"FULL OUTER JOIN {name}_TQ Q ON P.K = Q.K;"
        f"CREATE TABLE {name}_N AS SELECT G, COUNT(*) AS N, SUM(A) AS S FROM {name}_O GROUP BY G;",
        EARLIEST,
    )
    producing = threading.Thread(target=produce, args=(settings, name, rows, 0.3))
    producing.start()
    kill_now_and_then(engine, producing, 1)
    expected = stream_reference(rows)

    def joined() -> Counter[tuple[int, int, int | None]]:
        found = [(int(key), row) for key, row in rows_of(settings, f"{name}_J") if row is not None]
        return Counter((key, row["A"], row["B"]) for key, row in found if key < KEYS)

    def tables() -> tuple[dict[int, Any], dict[int, Any]]:
        outer = {int(key): row and (row["A"], row["B"]) for key, row in rows_of(settings, f"{name}_O")}
        groups = rows_of(settings, f"{name}_N")
        return outer, {int.from_bytes(key, "big"): row and (row["N"], row["S"]) for key, row in groups}

    eventually(lambda: joined().total() >= expected.total(), 120, lambda: f"{joined().total()} of {expected.total()}")
    eventually(lambda: tables() == table_reference(rows), 120, lambda: f"{tables()[1]}, not {table_reference(rows)[1]}")
    assert joined() == expected
