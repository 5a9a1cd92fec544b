"""The sender of heartbeats against a real broker, registry and engine: quiet partitions' alerts come, and nothing else does."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import polars as pl
import pyarrow as pa
import pytest
from confluent_kafka import Producer

from heartwatch.analytic import Analytic
from heartwatch.deploy import pipeline
from heartwatch.deploy.migrations import (
    Migrations,
    MigrationState,
    migrations_topic,
    query_properties,
    read_migrations,
)
from heartwatch.deploy.plan import apply
from heartwatch.heartbeats import HEADER, are_heartbeats, heartbeat_keys
from heartwatch.platform.platform import Platform
from heartwatch.produce.heartbeat import StreamPulse, is_alive, send_heartbeats
from heartwatch.produce.heartbeat_plan import LOOKS
from heartwatch.settings import Settings, load_settings
from heartwatch.verify.batch import KEY
from heartwatch.verify.topics import PipelineTopics
from kafkakit import avro_codec
from kafkakit.admin import KafkaAdmin, producer_config
from kafkakit.partitioning import partitions_of
from kafkakit.registry import Registry
from kafkakit.waiting import wait_until
from ksqlengine.client.rest_client import Ksqldb

pytestmark = pytest.mark.parts("kafka", "registry", "engine")

PARTITIONS = 3
VERSIONS = iter(range(7_001, 7_100))
PLACE = {"zipcode": 10_001, "latitude": 40.7, "longitude": -73.9}


@pytest.fixture
def settings(platform: Platform) -> Settings:
    """A pipeline version of its own, deployed without anything that closes windows by the clock."""
    loaded = load_settings()
    settings = loaded.model_copy(
        update={
            "pipeline": loaded.pipeline.model_copy(update={"version": next(VERSIONS)}),
            "kafka": loaded.kafka.model_copy(update={"partitions": PARTITIONS}),
            "heartbeat": loaded.heartbeat.model_copy(update={"look_after_seconds": 1.0, "close_after_seconds": 4.0}),
        }
    )
    analytic = Analytic.of(settings.pipeline)
    migrations = Migrations(
        Ksqldb(settings.ksqldb),
        MigrationState(settings.kafka, migrations_topic(analytic)),
        read_migrations(analytic.migrations_folder, analytic.variables()),
        query_properties(settings, bounds_ahead=False),
    )
    for deployer in (pipeline.deployer("topics", settings), pipeline.deployer("schemas", settings), migrations):
        apply(deployer.plan(), deployer)
    return settings


@contextmanager
def sending(settings: Settings) -> Iterator[None]:
    ended = threading.Event()
    thread = threading.Thread(target=send_heartbeats, args=(settings, ended))
    thread.start()
    try:
        yield
    finally:
        ended.set()
        thread.join(30)


def messages(settings: Settings, resource: str, rows: list[dict[str, Any]]) -> list[tuple[str, bytes, bytes, int]]:
    analytic = Analytic.of(settings.pipeline)
    topic, text = analytic.topic(resource), analytic.schema_text(resource)
    registered = Registry(settings.registry).register(f"{topic}-value", text)
    schema = avro_codec.parse(text)
    batch = pa.RecordBatch.from_pylist(rows, schema=avro_codec.arrow_schema(schema))
    values = avro_codec.encode(batch, schema, registered.schema_id)
    return [
        (topic, value, str(row["user_id"]).encode(), row.get("event_time", 1))
        for row, value in zip(rows, values, strict=True)
    ]


def send(settings: Settings, resource: str, rows: list[dict[str, Any]], producer: Producer | None = None) -> None:
    sender = producer or Producer(producer_config(settings.kafka))
    for topic, value, key, time_ms in messages(settings, resource, rows):
        sender.produce(topic, value, key, timestamp=time_ms)
    assert sender.flush(30) == 0


def frame(settings: Settings, resource: str) -> pl.DataFrame:
    found = pl.from_arrow(PipelineTopics.of(settings).read(resource).table)
    assert isinstance(found, pl.DataFrame)
    return found


def heartbeats(settings: Settings) -> pl.DataFrame:
    rows = frame(settings, "realtime")
    return rows.filter(pl.Series(are_heartbeats(rows[KEY].to_arrow()), dtype=pl.Boolean))


def high(user: str, begin_ms: int) -> list[dict[str, Any]]:
    """Three samples far above anybody's range, at one place."""
    return [
        {"user_id": user, "event_time": begin_ms + after, "heart_rate": 190, **PLACE} for after in (0, 2_000, 4_000)
    ]


def until(condition: Callable[[], bool], what: str, seconds: float = 60) -> None:
    wait_until(condition, seconds, 0.5, lambda: AssertionError(what))


def test_a_quiet_partitions_last_alert_comes_and_heartbeats_alert_nobody(settings: Settings) -> None:
    send(settings, "historical", [{"user_id": 7, "min_heart_rate": 50, "max_heart_rate": 100}])
    begin = (time.time_ns() // 1_000_000 - 60_000) // 10_000 * 10_000
    send(settings, "realtime", high("7", begin))
    with sending(settings):
        until(lambda: frame(settings, "alerts").height > 0, "the last window's alert didn't come")
        until(lambda: heartbeats(settings).height >= 3, "no looks came")
        assert is_alive(settings.home)
    assert frame(settings, "alerts")["user_id"].to_list() == ["7"]
    sent = heartbeats(settings)
    (home,) = partitions_of(pa.array(["7"]), PARTITIONS).tolist()
    assert sent["partition"].unique().to_list() == [home], "partitions without events need none"
    assert sent[KEY].unique().to_list() == [heartbeat_keys(PARTITIONS)[home]]
    times = sent["event_time"].dt.epoch("ms").to_list()
    last, closes = begin + 4_000, begin + 4_000 + 20_000 + 1_000
    assert times == sorted(times)
    assert set(times) <= {last, closes}
    assert closes in times
    assert len(times) <= 2 * LOOKS
    rows = frame(settings, "historical")
    assert sorted(rows[KEY].to_list()) == sorted(["7", *heartbeat_keys(PARTITIONS)])

    # A process that starts again finds its users' rows, and goes on where the one before was.
    for _ in range(3):
        StreamPulse(settings).step()
    assert frame(settings, "historical").height == rows.height


def test_heartbeats_carry_the_header_that_the_sinks_leave_out(settings: Settings) -> None:
    from confluent_kafka import Consumer, TopicPartition  # noqa: PLC0415

    send(settings, "realtime", high("7", time.time_ns() // 1_000_000))
    with sending(settings):
        until(lambda: heartbeats(settings).height > 0, "no look came")
    (row,) = heartbeats(settings).head(1).to_dicts()
    topic = Analytic.of(settings.pipeline).stream_topic
    consumer = Consumer({"bootstrap.servers": settings.kafka.bootstrap_servers, "group.id": "headers"})
    consumer.assign([TopicPartition(topic, row["partition"], row["offset"])])
    message = consumer.poll(30)
    assert message is not None
    assert [name for name, _ in message.headers()] == [HEADER]
    consumer.close()


def test_a_partition_with_an_open_transaction_is_not_closed(settings: Settings) -> None:
    begin = time.time_ns() // 1_000_000 - 600_000
    send(settings, "realtime", high("7", begin))
    producer = Producer(producer_config(settings.kafka, transactional_id=f"open-{settings.pipeline.version}"))
    producer.init_transactions(30)
    producer.begin_transaction()
    send(settings, "realtime", high("7", begin + 5_000)[:1], producer)
    topic, admin = Analytic.of(settings.pipeline).stream_topic, KafkaAdmin(settings.kafka)
    ends = admin.offsets([topic], "latest")
    with sending(settings):
        time.sleep(8)
        assert admin.offsets([topic], "latest") == ends
        producer.abort_transaction(30)
        until(lambda: heartbeats(settings).height > 0, "no heartbeat came after the transaction's end")
        closes = begin + 4_000 + 20_000 + 1_000
        until(lambda: closes in heartbeats(settings)["event_time"].dt.epoch("ms").to_list(), "it isn't closed")


def test_a_stream_that_is_deleted_and_made_again_is_followed_from_its_beginning(settings: Settings) -> None:
    pulse, analytic = StreamPulse(settings), Analytic.of(settings.pipeline)
    topics = [analytic.topic(resource) for resource in (analytic.stream, analytic.table)]
    send(settings, "realtime", high("7", time.time_ns() // 1_000_000))
    assert pulse.step() == 0
    KafkaAdmin(settings.kafka).delete(topics)
    until(lambda: pulse.step() == 0 and not KafkaAdmin(settings.kafka).describe(topics), "the topics aren't gone")
    assert pulse.step() == 0
    deployer = pipeline.deployer("topics", settings)
    apply(deployer.plan(), deployer)
    pulse.step()
    assert sorted(frame(settings, "historical")[KEY].to_list()) == sorted(heartbeat_keys(PARTITIONS))
