"""The REST API: statements, their errors, queries that end with their request, and state that survives a restart."""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from typing import Any

import httpx
import pytest
from confluent_kafka import Producer
from engine_events import read
from engine_process import EngineProcess, eventually

from heartwatch.settings import Settings
from kafkakit.admin import KafkaAdmin, producer_config
from kafkakit.registry import Registry
from ksqlengine.client.rest_client import MEDIA_TYPE

pytestmark = pytest.mark.parts("kafka", "registry")

Engines = Callable[[str], EngineProcess]
EARLIEST = {"auto.offset.reset": "earliest"}


@pytest.fixture
def name() -> str:
    return f"S{time.time_ns()}"


def stream(engine: EngineProcess, name: str, partitions: int = 2) -> None:
    engine.run(
        f"CREATE STREAM {name} (K STRING KEY, A INT, B STRING) "
        f"WITH (KAFKA_TOPIC='{name}', VALUE_FORMAT='JSON', PARTITIONS={partitions});"
    )


def select(engine: EngineProcess, sql: str, properties: dict[str, str] | None = None) -> list[list[Any]]:
    answer = httpx.post(f"{engine.url}/query-stream", json={"sql": sql, "properties": properties or {}}, timeout=120)
    assert answer.status_code == 200, answer.text
    return [json.loads(line) for line in answer.text.splitlines() if line][1:]


def in_objects(engine: EngineProcess, sql: str) -> list[dict[str, Any]]:
    """Return the answer of the older endpoint in its own media type."""
    body = {"ksql": sql, "streamsProperties": EARLIEST}
    answer = httpx.post(f"{engine.url}/query", json=body, headers={"Accept": MEDIA_TYPE}, timeout=120)
    assert answer.status_code == 200, answer.text
    return answer.json()  # type: ignore[no-any-return]


def insert(engine: EngineProcess, name: str, *rows: tuple[str, int, str]) -> None:
    lines = [{"target": name}, *({"K": key, "A": number, "B": text} for key, number, text in rows)]
    with httpx.Client(http1=False, http2=True, timeout=120) as client:
        answer = client.post(f"{engine.url}/inserts-stream", content="\n".join(map(json.dumps, lines)))
    assert [json.loads(line)["status"] for line in answer.text.splitlines()] == ["ok"] * len(rows)


def test_a_wrong_statement_changes_nothing_not_even_before_it(engines: Engines, name: str) -> None:
    engine = engines("one").start()
    answer = engine.post(
        f"CREATE STREAM {name} (A INT) WITH (KAFKA_TOPIC='{name}', VALUE_FORMAT='JSON', PARTITIONS=1); SELEC 1;"
    )
    assert answer.status_code == 400
    assert answer.json()["@type"] == "statement_error"
    assert answer.json()["error_code"] == 40001
    assert answer.json()["message"].startswith("line ")
    assert engine.run("SHOW STREAMS;")[0]["streams"] == []
    missing = engine.post(f"CREATE STREAM {name} (A INT) WITH (KAFKA_TOPIC='{name}', VALUE_FORMAT='JSON');").json()
    assert f"Topic '{name}' does not exist" in missing["message"]
    assert engine.post("SELECT * FROM X EMIT CHANGES;").json()["error_code"] == 40002


def test_co_partitioning_is_checked_and_the_error_says_what_to_do(engines: Engines, name: str) -> None:
    engine = engines("one").start()
    stream(engine, name)
    engine.run(
        f"CREATE TABLE {name}_T (K STRING PRIMARY KEY, C INT) "
        f"WITH (KAFKA_TOPIC='{name}_T', VALUE_FORMAT='JSON', PARTITIONS=3);"
    )
    answer = engine.post(
        f"CREATE STREAM {name}_J AS SELECT S.K, A, C FROM {name} S JOIN {name}_T T ON S.K = T.K;"
    ).json()
    assert "number of partitions don't match" in answer["message"]
    assert [one["name"] for one in engine.run("SHOW STREAMS;")[0]["streams"]] == [name]


def test_rows_go_in_and_come_out(engines: Engines, name: str) -> None:
    engine = engines("one").start()
    stream(engine, name)
    engine.run(f"INSERT INTO {name} (K, A, B) VALUES ('k', 7, 'it''s');")
    insert(engine, name, ("l", 8, "b"))
    assert sorted(select(engine, f"SELECT K, A * 2 AS D, B FROM {name};")) == [["k", 14, "it's"], ["l", 16, "b"]]
    pushed = select(engine, f"SELECT A FROM {name} WHERE A > 7 EMIT CHANGES LIMIT 1;", EARLIEST)
    assert pushed == [[8]]
    printed = httpx.post(f"{engine.url}/query", json={"ksql": f"PRINT '{name}' FROM BEGINNING LIMIT 2;"}, timeout=120)
    assert "key: k, value: " in printed.text


def test_an_aggregate_over_a_repartition_is_exact_over_a_kill(engines: Engines, name: str) -> None:
    engine = engines("one").start()
    stream(engine, name)
    engine.run(f"CREATE TABLE {name}_C AS SELECT B, COUNT(*) AS N, SUM(A) AS T FROM {name} GROUP BY B;", EARLIEST)
    table = f"SELECT * FROM {name}_C;"
    insert(engine, name, *((f"k{number}", number, f"b{number % 3}") for number in range(9)))
    eventually(
        lambda: sorted(select(engine, table)) == [["b0", 3, 9], ["b1", 3, 12], ["b2", 3, 15]], 120, "not counted"
    )
    engine.kill()
    engine.start()
    insert(engine, name, ("x", 100, "b0"))
    eventually(
        lambda: sorted(select(engine, table)) == [["b0", 4, 109], ["b1", 3, 12], ["b2", 3, 15]], 120, "lost count"
    )
    written = [message.value() for messages in read_topic(engine, f"{name}_C").values() for message in messages]
    assert len(written) == len(set(written)), "a result was written twice"


def read_topic(engine: EngineProcess, topic: str) -> dict[int, list[Any]]:
    return read(engine.settings, topic)


def positions(engine: EngineProcess, name: str) -> list[dict[str, int]]:
    """Where the only query that writes a stream is in the topic that it reads, by partition."""
    (summary,) = engine.run(f"DESCRIBE {name}_D EXTENDED;")[0]["sourceDescription"]["queryOffsetSummaries"]
    topics = {topic["kafkaTopic"]: topic["offsets"] for topic in summary["topicSummaries"]}
    assert topics.keys() <= {name}
    return topics.get(name, [])  # nothing is told of a topic in which it has committed nothing yet


def test_queries_are_paused_resumed_terminated_and_dropped(engines: Engines, name: str, settings: Settings) -> None:
    engine = engines("one").start()
    stream(engine, name)
    query = engine.run(f"CREATE STREAM {name}_D AS SELECT K, A FROM {name};", EARLIEST)[0]["commandStatus"]["queryId"]
    insert(engine, name, ("k", 1, "b"))
    eventually(lambda: select(engine, f"SELECT A FROM {name}_D;") == [[1]], 120, "not copied")
    engine.run(f"PAUSE {query};")
    eventually(lambda: engine.run("SHOW QUERIES;")[0]["queries"][0]["state"] == "PAUSED", 60, "not paused")
    insert(engine, name, ("k", 2, "b"))
    time.sleep(2)
    assert select(engine, f"SELECT A FROM {name}_D;") == [[1]]
    behind = [one["logEndOffset"] - one["consumerOffset"] for one in positions(engine, name)]
    assert sum(behind) > 0, "the second row is in the topic and not read"
    engine.kill()
    engine.start()
    assert engine.run("SHOW QUERIES;")[0]["queries"][0]["state"] == "PAUSED"
    engine.run(f"RESUME {query};")
    eventually(lambda: select(engine, f"SELECT A FROM {name}_D;") == [[1], [2]], 120, "not resumed")
    eventually(lambda: sum(one["consumerOffset"] for one in positions(engine, name)) >= 2, 30, "not committed")
    assert all(
        one["logStartOffset"] == 0 and one["consumerOffset"] <= one["logEndOffset"] for one in positions(engine, name)
    )
    refused = engine.post(f"DROP STREAM {name};").json()
    assert f"{name}_D" in refused["message"]
    engine.run(
        f"CREATE STREAM {name}_E (A INT) WITH (KAFKA_TOPIC='{name}_E', FORMAT='JSON', PARTITIONS=1, RETENTION_MS=-1);"
        f"CREATE STREAM {name}_F WITH (CLEANUP_POLICY='compact,delete', RETENTION_MS=60000) AS SELECT * FROM {name}_E;"
    )
    made = KafkaAdmin(settings.kafka).describe([f"{name}_E", f"{name}_F"])
    assert made[f"{name}_E"].config == {"retention.ms": "-1"}
    assert made[f"{name}_F"].config == {"cleanup.policy": "compact,delete", "retention.ms": "60000"}
    engine.run(f"CREATE STREAM {name}_G WITH (VALUE_FORMAT='AVRO') AS SELECT A FROM {name}_E;")
    registry = Registry(settings.registry)
    assert registry.subjects(f"{name}_G") == [f"{name}_G-value"]
    engine.run(
        f"DROP STREAM {name}_G DELETE TOPIC; DROP STREAM {name}_F DELETE TOPIC; DROP STREAM {name}_E DELETE TOPIC;"
    )
    assert registry.subjects(f"{name}_G") == []
    engine.run(f"DROP STREAM {name}_D DELETE TOPIC; DROP STREAM {name};")
    assert engine.run("SHOW QUERIES;")[0]["queries"] == []
    assert KafkaAdmin(settings.kafka).describe([f"{name}_D"]) == {}


def test_what_comes_while_a_query_is_away_is_not_missed_though_it_begins_at_the_end(
    engines: Engines, name: str, settings: Settings
) -> None:
    """Its place is committed before the first record, and not only with it."""
    engine = engines("one").start()
    stream(engine, name, partitions=1)
    insert(engine, name, ("k", 1, "before"))
    seldom = {"auto.offset.reset": "latest", "commit.interval.ms": "600000"}
    engine.run(f"CREATE STREAM {name}_D AS SELECT K, A FROM {name};", seldom)
    eventually(lambda: sum(one["consumerOffset"] for one in positions(engine, name)) >= 1, 60, "no place committed")
    engine.kill()
    producer = Producer(producer_config(settings.kafka))
    producer.produce(name, json.dumps({"A": 2, "B": "meanwhile"}), "k")
    assert producer.flush(30) == 0
    engine.start()
    eventually(lambda: select(engine, f"SELECT A FROM {name}_D;") == [[2]], 60, "what came meanwhile is missed")


def test_statements_follow_each_other_by_sequence_number_on_another_engine(engines: Engines, name: str) -> None:
    first, second = engines("one").start(), engines("two").start()
    answer = first.run(f"CREATE STREAM {name} (A INT) WITH (KAFKA_TOPIC='{name}', VALUE_FORMAT='JSON', PARTITIONS=1);")
    described = second.run(f"DESCRIBE {name};", after=answer[0]["commandSequenceNumber"])
    assert described[0]["sourceDescription"]["name"] == name
    late = second.post(f"DESCRIBE {name};", after=1_000)
    assert late.status_code == 503


def test_what_the_engine_says_of_itself(engines: Engines) -> None:
    engine = engines("one").start()
    info = httpx.get(f"{engine.url}/info").json()["KsqlServerInfo"]
    assert info["version"] == "8.2.0"
    assert info["serverStatus"] == "RUNNING"
    cluster = httpx.get(f"{engine.url}/clusterStatus").json()["clusterStatus"]
    assert all(host["hostAlive"] for host in cluster.values())
    assert httpx.get(f"{engine.url}/is_valid_property/auto.offset.reset").json() is True
    assert httpx.get(f"{engine.url}/is_valid_property/ksql.service.id").status_code == 400
    assert engine.post("SET 'nope'='1';").status_code == 400
    functions = {one["name"] for one in engine.run("SHOW FUNCTIONS;")[0]["functions"]}
    assert {"COUNT", "UNIX_TIMESTAMP"} <= functions


def test_push_queries_join_and_count_and_pull_queries_see_what_is_new(engines: Engines, name: str) -> None:
    engine = engines("one").start()
    stream(engine, name)
    stream(engine, f"{name}_R")
    table = f"{name}_T"
    engine.run(
        f"CREATE TABLE {table} (K STRING PRIMARY KEY, C INT) "
        f"WITH (KAFKA_TOPIC='{table}', VALUE_FORMAT='JSON', PARTITIONS=2);"
    )
    insert(engine, name, ("k", 1, "a"), ("l", 2, "b"))
    insert(engine, f"{name}_R", ("k", 3, "c"))
    joined = f"SELECT L.K, L.A, R.A FROM {name} L JOIN {name}_R R WITHIN 1 HOUR ON L.K = R.K EMIT CHANGES LIMIT 1;"
    assert select(engine, joined, EARLIEST) == [["k", 1, 3]]
    counted = f"SELECT COUNT(*) AS N, SUM(A) AS S FROM {name} EMIT CHANGES LIMIT 1;"
    assert select(engine, counted, EARLIEST)[0] in ([1, 1], [1, 2], [2, 3])
    # A record without a value is no row of a stream, to who asks.
    producer = Producer(producer_config(engine.settings.kafka))
    producer.produce(name, None, "m")
    assert producer.flush(30) == 0
    insert(engine, name, ("m", 4, "d"))
    assert sorted(select(engine, f"SELECT K, A FROM {name};")) == [["k", 1], ["l", 2], ["m", 4]]
    engine.run(f"CREATE TABLE {table}_Q AS SELECT * FROM {table};", EARLIEST)
    refused = httpx.post(f"{engine.url}/query-stream", json={"sql": f"SELECT * FROM {table};"})
    assert refused.json()["message"].startswith(f"The `{table}` table isn't queryable.")
    pulled = f"SELECT * FROM {table}_Q;"
    assert select(engine, pulled) == []
    engine.run(f"INSERT INTO {table} (K, C) VALUES ('x', 1); INSERT INTO {table} (K, C) VALUES ('y', 2);")
    eventually(lambda: sorted(select(engine, pulled)) == [["x", 1], ["y", 2]], 20, "the table's rows")
    engine.run(f"INSERT INTO {table} (K, C) VALUES ('x', 3);")
    eventually(lambda: sorted(select(engine, pulled)) == [["x", 3], ["y", 2]], 20, "the changed row")
    old = in_objects(engine, f"SELECT C, K FROM {table}_Q WHERE K = 'x';")
    assert (old[0]["header"]["schema"], old[1:]) == ("`C` INTEGER, `K` STRING KEY", [{"row": {"columns": [3, "x"]}}])
    assert select(engine, f"SELECT C FROM {table}_Q WHERE K = 'y';") == [[2]]
    pushed = f"SELECT C, C + 1 AS D, K FROM {table} WHERE C < 2 EMIT CHANGES LIMIT 2;"
    old = in_objects(engine, pushed)
    assert [one["row"] for one in old[1:-1]] == [
        {"columns": [1, 2, "x"]}, {"columns": [None, None, "x"], "tombstone": True},
    ]  # fmt: skip
    assert old[0]["header"]["schema"] == "`C` INTEGER, `D` INTEGER, `K` STRING"
    assert select(engine, pushed, EARLIEST) == [[1, 2, "x"]]
    pulled = in_objects(engine, f"SELECT A FROM {name} WHERE A = 2;")
    assert pulled[1:] == [{"row": {"columns": [2]}}, {"finalMessage": "Query Completed"}]


def test_a_push_query_sees_what_is_written_once_its_header_is_there(engines: Engines, name: str) -> None:
    engine = engines("one").start()
    stream(engine, name)
    insert(engine, name, ("a", 1, "before"))
    body = {"sql": f"SELECT A, B FROM {name} EMIT CHANGES LIMIT 5;", "properties": {"auto.offset.reset": "latest"}}
    with (
        httpx.Client(http1=False, http2=True, timeout=60) as client,
        client.stream("POST", f"{engine.url}/query-stream", json=body) as answer,
    ):
        pieces = (piece for piece in answer.iter_raw() if piece)
        header = json.loads(next(pieces))
        insert(engine, name, *((str(number), number, "after") for number in range(5)))
        # Each piece is one row: clients of others parse it as such.
        rows = [json.loads(next(pieces)) for _ in range(5)]
    assert header["columnNames"] == ["A", "B"]
    assert sorted(rows) == [[number, "after"] for number in range(5)]
