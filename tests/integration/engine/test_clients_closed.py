"""What a query opened is closed with it: threads, and connections to the brokers, of a real server process."""

from __future__ import annotations

import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import httpx
import psutil
import pytest
from engine_process import EngineProcess, eventually

pytestmark = pytest.mark.parts("kafka", "registry")

_QUERIES, _AT_ONCE = 20, 5
_SPARE_THREADS, _SPARE_CONNECTIONS = 12, 6
"""What a server may keep for later queries: threads of its pools, connections of its own producer and reader."""


def held(engine: EngineProcess) -> tuple[int, int]:
    """Return threads and connections of the server's process."""
    assert engine._process is not None
    process = psutil.Process(engine._process.pid)
    established = [one for one in process.net_connections("tcp") if one.status == psutil.CONN_ESTABLISHED]
    return process.num_threads(), len(established)


def push_query(engine: EngineProcess, name: str) -> None:
    """Read the first row of a push query, then go away."""
    body: dict[str, Any] = {
        "sql": f"SELECT * FROM {name} EMIT CHANGES;",
        "properties": {"auto.offset.reset": "earliest"},
    }
    with httpx.stream("POST", f"{engine.url}/query-stream", json=body, timeout=60) as answer:
        lines = answer.iter_lines()
        next(lines)
        next(line for line in lines if line.strip())


def test_what_queries_opened_is_closed_with_them(engines: Callable[[str], EngineProcess]) -> None:
    engine = engines("one").start()
    topic = f"closed_{time.time_ns()}"
    engine.run(
        f"CREATE STREAM S (K STRING KEY, V INT) WITH (KAFKA_TOPIC='{topic}', VALUE_FORMAT='JSON', PARTITIONS=2);"
    )
    engine.run("INSERT INTO S VALUES ('a', 1);")
    push_query(engine, "S")
    before = held(engine)
    for number in range(_QUERIES):
        engine.run(
            f"CREATE TABLE T{number} WITH (KAFKA_TOPIC='{topic}_{number}') AS SELECT K, COUNT(*) AS N FROM S GROUP BY K;",
            {"auto.offset.reset": "earliest"},
        )
        (query,) = engine.run("SHOW QUERIES;")[0]["queries"]
        engine.run(f"TERMINATE {query['id']};")
        engine.run(f"DROP TABLE T{number};")
    with ThreadPoolExecutor(_AT_ONCE) as pool:
        list(pool.map(lambda _: push_query(engine, "S"), range(_QUERIES)))

    def closed() -> bool:
        threads, connections = held(engine)
        return threads <= before[0] + _SPARE_THREADS and connections <= before[1] + _SPARE_CONNECTIONS

    eventually(closed, 60, lambda: f"before {before} threads and connections, after {held(engine)}")
