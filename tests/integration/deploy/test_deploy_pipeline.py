"""The whole pipeline on the real platform: deploys, captures changes, fills tables, and goes without a trace."""

from __future__ import annotations

import io
import json
import time
from collections.abc import Callable

import fastavro
import pytest
from confluent_kafka import Consumer, Message, Producer, TopicPartition
from deploying import Versions, deploy, plan, remove

from heartwatch.analytic import Analytic
from heartwatch.connect import Connect
from heartwatch.iceberg import open_catalog
from heartwatch.postgres import execute
from heartwatch.settings import Settings
from kafkakit.admin import KafkaAdmin, consumer_config, producer_config
from kafkakit.registry import Registry
from kafkakit.waiting import wait_until
from ksqlengine.client.rest_client import Ksqldb

pytestmark = pytest.mark.parts("kafka", "registry", "postgres", "connect", "s3", "engine")

_SECONDS = 90


def wait_for(condition: Callable[[], bool], what: str) -> None:
    wait_until(condition, _SECONDS, 0.2, lambda: AssertionError(f"waited {_SECONDS} s for {what}"))


def read(settings: Settings, topic: str, how_many: int) -> list[Message]:
    """Return the first committed records of a topic, by partition."""
    consumer = Consumer(consumer_config(settings.kafka, "test-reader"))
    # Assigned, not subscribed: a consumer group would be left behind.
    starts = KafkaAdmin(settings.kafka).offsets([topic], "earliest")
    consumer.assign([TopicPartition(topic, partition, offset) for (_, partition), offset in starts.items()])
    found: list[Message] = []
    deadline = time.monotonic() + _SECONDS
    while len(found) < how_many:
        assert time.monotonic() < deadline, f"{topic} has {len(found)} of {how_many} records after {_SECONDS} s"
        found += [message for message in consumer.consume(how_many - len(found), 1) if message.error() is None]
    consumer.close()
    return found


def decode(settings: Settings, value: bytes | None) -> dict[str, object] | None:
    if value is None:
        return None
    assert value[0] == 0
    schema = fastavro.parse_schema(json.loads(Registry(settings.registry).schema(int.from_bytes(value[1:5], "big"))))
    body = io.BytesIO(value[5:])
    record = fastavro.schemaless_reader(body, schema)
    assert body.read() == b""
    return record


def test_an_unchanged_pipeline_is_one_plan_and_no_change(settings: Settings):
    assert {change.action for change in deploy(settings).changes} == {"create"}
    again = plan(settings)
    assert {change.action for change in again.changes} == {"unchanged"}
    assert {change.kind for change in again.changes} == {"topic", "schema", "connector", "migration"}
    client = Connect(settings.connect)
    names = [change.resource for change in again.changes if change.kind == "connector"]
    assert len(names) == 3
    assert all(client.status(name).running for name in names)
    alerts = Analytic.of(settings.pipeline).topic("alerts")
    assert [query.state for query in Ksqldb(settings.ksqldb).queries() if alerts in query.sink_topics] == ["RUNNING"]


def test_a_changed_range_reaches_the_topic_and_a_deleted_one_becomes_a_tombstone(settings: Settings):
    deploy(settings)
    table, topic = settings.postgres.historical_table, Analytic.of(settings.pipeline).topic("historical")
    rows = f"INSERT INTO {table} VALUES (1, 51, 107), (20000, 53, 109)"
    execute(settings.postgres, rows)
    read(settings, topic, 2)
    execute(settings.postgres, f"UPDATE {table} SET max_heart_rate = 140 WHERE user_id = 20000")
    execute(settings.postgres, f"DELETE FROM {table} WHERE user_id = 1")
    found = [(one.key(), decode(settings, one.value())) for one in read(settings, topic, 4)]
    assert [value for key, value in found if key == b"1"] == [
        {"user_id": 1, "min_heart_rate": 51, "max_heart_rate": 107},
        None,
    ]
    assert [value for key, value in found if key == b"20000"] == [
        {"user_id": 20000, "min_heart_rate": 53, "max_heart_rate": 109},
        {"user_id": 20000, "min_heart_rate": 53, "max_heart_rate": 140},
    ]


def test_events_reach_their_table_with_their_positions_and_bad_ones_the_dead_letters(settings: Settings):
    deploy(settings)
    analytic = Analytic.of(settings.pipeline)
    topic, registry = analytic.topic("realtime"), Registry(settings.registry)
    schema = fastavro.parse_schema(json.loads(analytic.schema_text("realtime")))
    header = b"\0" + registry.latest(f"{topic}-value").schema_id.to_bytes(4, "big")
    producer = Producer(producer_config(settings.kafka))
    now = int(time.time() * 1000)
    for number in range(100):
        body = io.BytesIO()
        event = {"user_id": str(number), "event_time": now, "zipcode": 10001, "latitude": 40.0, "longitude": -74.0}
        fastavro.schemaless_writer(body, schema, {**event, "heart_rate": number})
        producer.produce(topic, key=str(number), value=header + body.getvalue(), timestamp=now)
    producer.produce(topic, key="bad", value=b"no Avro at all", timestamp=now)
    assert producer.flush(30) == 0
    catalog, name = open_catalog(settings.postgres, settings.s3), f"{settings.s3.namespace}.{topic}"

    def complete() -> bool:
        return catalog.table_exists(name) and catalog.load_table(name).scan().count() >= 100

    wait_for(complete, f"100 rows in {name}")
    table = catalog.load_table(name)
    rows = table.scan().to_arrow().to_pylist()
    catalog.close()
    assert sorted(row["heart_rate"] for row in rows) == list(range(100))
    assert len({(row["kafka_partition"], row["kafka_offset"]) for row in rows}) == 100
    assert {(row["kafka_topic"], int(row["kafka_timestamp"].timestamp() * 1000)) for row in rows} == {(topic, now)}
    assert [field.name for field in table.spec().fields] == ["event_time_day"]
    letter = read(settings, analytic.name("realtime_dead_letters"), 1)[0]
    headers = dict(letter.headers() or [])
    assert letter.value() == b"no Avro at all"
    assert headers["__connect.errors.topic"] == topic.encode()


def test_a_torn_down_version_leaves_nothing_and_another_version_everything(versions: Versions):
    mine, other = versions(), versions()
    deploy(mine)
    deploy(other)
    execute(mine.postgres, f"INSERT INTO {mine.postgres.historical_table} VALUES (1, 51, 107)")
    read(mine, Analytic.of(mine.pipeline).topic("historical"), 1)
    remove(mine)
    remove(mine)
    suffix = f"_v{mine.pipeline.version}"
    rows = execute(
        mine.postgres,
        "SELECT slot_name::text FROM pg_replication_slots UNION ALL SELECT pubname::text FROM pg_publication",
    )
    ksqldb, kafka = Ksqldb(mine.ksqldb), KafkaAdmin(mine.kafka)
    there = [
        *kafka.topics(),
        *kafka.groups(),
        *Registry(mine.registry).subjects(deleted=True),
        *Connect(mine.connect).connectors(),
        *[source.name.lower() for source in [*ksqldb.streams(), *ksqldb.tables()]],
        *[query.query_id.lower() for query in ksqldb.queries()],
        *[row[0] for row in rows],
    ]
    assert [name for name in there if suffix in name.replace(f"{suffix}0", "")] == []
    assert {change.action for change in plan(other).changes} == {"unchanged"}
