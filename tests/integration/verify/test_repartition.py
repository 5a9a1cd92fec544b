"""With `repartition = true` nobody is missed whose producer uses another partitioner, such as a plain librdkafka client."""

from __future__ import annotations

import shutil
import time
from pathlib import Path
from typing import Any
from zlib import crc32

import pyarrow as pa
import pytest
from confluent_kafka import Producer

from heartwatch.analytic import Analytic
from heartwatch.deploy import pipeline
from heartwatch.deploy.migrations import Migrations, MigrationState, migrations_topic, query_properties, read_migrations
from heartwatch.deploy.plan import apply
from heartwatch.platform.platform import Platform
from heartwatch.settings import ROOT, Settings, load_settings
from heartwatch.verify.batch import KEY
from heartwatch.verify.topics import PipelineTopics
from kafkakit import avro_codec
from kafkakit.admin import KafkaAdmin
from kafkakit.partitioning import partitions_of
from kafkakit.registry import Registry
from kafkakit.topic_reader import committed_ranges, read_ranges
from kafkakit.waiting import wait_until
from ksqlengine.client.rest_client import Ksqldb
from ksqlengine.internal_names import AHEAD

pytestmark = pytest.mark.parts("kafka", "registry", "engine")

_PARTITIONS = 4
_PEOPLE = [str(number) for number in range(1, 9)]
_PLACE = {"zipcode": 10_001, "latitude": 40.7, "longitude": -73.9}


def deployed(version: int, repartition: bool, folder: Path) -> Settings:
    for name in ("schemas", "ksql", "deployments/connect"):
        shutil.copytree(ROOT / name, folder / name)
    toml = folder / "schemas/heart_rate/analytic.toml"
    toml.write_text(toml.read_text().replace("repartition = false", f"repartition = {str(repartition).lower()}"))
    loaded = load_settings()
    settings = loaded.model_copy(
        update={
            "pipeline": loaded.pipeline.model_copy(update={"version": version}),
            "kafka": loaded.kafka.model_copy(update={"partitions": _PARTITIONS}),
        }
    )
    analytic = Analytic.of(settings.pipeline, folder)
    ksqldb = Ksqldb(settings.ksqldb)
    migrations = Migrations(
        ksqldb,
        MigrationState(settings.kafka, migrations_topic(analytic)),
        read_migrations(analytic.migrations_folder, analytic.variables(), analytic.repartition),
        query_properties(settings, ksqldb.has_property(AHEAD)),
    )
    for deployer in (pipeline.deployer("topics", settings), pipeline.deployer("schemas", settings), migrations):
        apply(deployer.plan(), deployer)
    return settings


def send(settings: Settings, resource: str, rows: list[dict[str, Any]], **config: str) -> None:
    analytic = Analytic.of(settings.pipeline)
    topic, registry = analytic.topic(resource), Registry(settings.registry)
    schema = avro_codec.parse(analytic.schema_text(resource))
    schema_id = registry.latest(f"{topic}-value").schema_id
    batch = pa.RecordBatch.from_pylist(rows, avro_codec.arrow_schema(schema))
    before = int(time.time() * 1_000) - 600_000
    producer = Producer({"bootstrap.servers": settings.kafka.bootstrap_servers, **config})
    for row, value in zip(rows, avro_codec.encode(batch, schema, schema_id), strict=True):
        producer.produce(topic, key=str(row["user_id"]).encode(), value=value, timestamp=row.get("event_time", before))
    assert producer.flush(30) == 0


def repartitioned(settings: Settings) -> int:
    """Return how many records the query has put into its own topic."""
    admin, query = KafkaAdmin(settings.kafka), f"_v{settings.pipeline.version}_"
    own = [topic for topic in admin.topics() if query in topic.lower() and "query_" in topic]
    parts = [records for topic in own for records in read_ranges(settings.kafka, topic, committed_ranges(admin, topic))]
    return sum(map(len, parts))


@pytest.mark.parametrize("repartition", [True, False])
def test_people_of_a_plain_client_are_found_where_the_query_repartitions(
    platform: Platform, tmp_path: Path, repartition: bool
) -> None:
    settings = deployed(7_301 + repartition, repartition, tmp_path)
    send(
        settings,
        "historical",
        [{"user_id": int(person), "min_heart_rate": 50, "max_heart_rate": 100} for person in _PEOPLE],
        partitioner="murmur2_random",
    )
    start = int(time.time() * 1_000) // 10_000 * 10_000 - 120_000
    danger = [
        {"user_id": person, "event_time": start + at * 1_000, "heart_rate": 180, **_PLACE}
        for at in range(5)
        for person in _PEOPLE
    ]
    send(settings, "realtime", danger)
    if repartition:
        # As they happen: a burst over several minutes from several partitions would be late in the query's own topic.
        unread = AssertionError("the query doesn't repartition the events")
        wait_until(lambda: repartitioned(settings) >= len(danger), 60, 0.5, lambda: unread)
    later = [{"user_id": person, "event_time": start + 60_000, "heart_rate": 70, **_PLACE} for person in _PEOPLE]
    send(settings, "realtime", later)
    right = partitions_of(pa.array(_PEOPLE), _PARTITIONS).tolist()
    placed = {one for one, place in zip(_PEOPLE, right, strict=True) if crc32(one.encode()) % _PARTITIONS == place}
    assert set() < placed < set(_PEOPLE), "the case shows nothing"
    topics, expected = PipelineTopics.of(settings), set(_PEOPLE) if repartition else placed

    def alerted() -> set[str]:
        return {row[KEY] for row in topics.read("alerts").table.to_pylist()}

    wait_until(lambda: alerted() >= expected, 60, 0.5, lambda: AssertionError(f"alerts for {sorted(alerted())} only"))
    assert alerted() == expected
