"""What the periodic check finds in topics: keys in a wrong partition, changes of the table that were lost, rejected records."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import closing
from itertools import count

import polars as pl
import pytest
from confluent_kafka import Producer

from heartwatch.analytic import Analytic
from heartwatch.connect import Connect
from heartwatch.deploy import pipeline
from heartwatch.deploy.connectors import connector_configs
from heartwatch.deploy.plan import apply
from heartwatch.deploy.teardown import drop_slot
from heartwatch.events import Wrong
from heartwatch.platform.platform import Platform
from heartwatch.postgres import connect, execute
from heartwatch.ranges import SCHEMA
from heartwatch.ranges.load import load_ranges
from heartwatch.settings import Settings, load_settings
from heartwatch.verify.record_checks import look_at_keys, look_at_rejects, look_at_table
from heartwatch.verify.topics import PipelineTopics
from kafkakit.admin import KafkaAdmin, TopicState
from kafkakit.waiting import wait_until

pytestmark = pytest.mark.parts("kafka", "registry", "postgres", "connect")

_PEOPLE = 200
_VERSIONS = count(901)


@pytest.fixture
def settings(platform: Platform) -> Settings:
    """Settings of a pipeline version that no other test has, with a table of its own."""
    version, settings = next(_VERSIONS), load_settings()
    return settings.model_copy(
        update={
            "pipeline": settings.pipeline.model_copy(update={"version": version}),
            "postgres": settings.postgres.model_copy(update={"historical_table": f"historical_{version}"}),
            "kafka": settings.kafka.model_copy(update={"partitions": 3}),
        }
    )


@pytest.fixture
def deployed(settings: Settings) -> Iterator[Settings]:
    """Topics, schemas, the table with rows, and its source connector."""
    with closing(connect(settings.postgres)) as connection:
        frame = pl.DataFrame([(user, 50, 100) for user in range(1, _PEOPLE + 1)], schema=SCHEMA, orient="row")
        load_ranges(connection, [frame], settings.postgres.historical_table)
    for stage in ("topics", "schemas"):
        deployer = pipeline.deployer(stage, settings)
        apply(deployer.plan(), deployer)
    analytic, client = Analytic.of(settings.pipeline), Connect(settings.connect)
    name = analytic.name("historical_source")
    client.put(connector_configs(analytic, settings)[name])
    client.wait_running(name)
    wait_until(lambda: len(rows_of_topic(settings)) == _PEOPLE, 60, 0.5)
    yield settings
    client.delete(name)
    drop_slot(settings.postgres, name)


def change(settings: Settings, statement: str) -> None:
    execute(settings.postgres, statement.replace("$table", f"public.{settings.postgres.historical_table}"))


def rows_of_topic(settings: Settings) -> dict[int, int]:
    """Return the newest upper end of each person in the topic, tombstones applied."""
    topic = PipelineTopics.of(settings).read("historical")
    events = [
        (row["offset"], row["partition"], row["event_key"], row["max_heart_rate"]) for row in topic.table.to_pylist()
    ]
    events += [(row["offset"], row["partition"], row["event_key"], None) for row in topic.tombstones.to_pylist()]
    newest = {key: high for _, _, key, high in sorted(events, key=lambda event: event[:2])}
    return {int(key): high for key, high in newest.items() if high is not None}


def wrong(settings: Settings) -> list[Wrong | None]:
    return [finding.event for finding in look_at_table(settings)]


def test_a_truncate_ends_as_tombstones(deployed: Settings) -> None:
    change(deployed, "TRUNCATE $table")
    wait_until(lambda: rows_of_topic(deployed) == {}, 60, 0.5)
    assert wrong(deployed) == [None]


def test_changes_that_a_lost_slot_lost_are_told_and_sent_again(deployed: Settings) -> None:
    client, name = Connect(deployed.connect), Analytic.of(deployed.pipeline).name("historical_source")
    assert wrong(deployed) == [None]
    client.stop(name)
    wait_until(
        lambda: execute(
            deployed.postgres,
            "SELECT 1 FROM pg_replication_slots WHERE slot_name = %s AND NOT active AND "
            "pg_drop_replication_slot(slot_name) IS NOT NULL",
            [name],
        ),
        30,
        0.5,
    )
    change(deployed, "DELETE FROM $table WHERE user_id <= 3")
    change(deployed, "UPDATE $table SET max_heart_rate = 120 WHERE user_id = 10")
    change(deployed, "INSERT INTO $table VALUES (5000, 60, 110)")
    client.resume(name)
    assert client.wait_running(name).running
    [finding] = look_at_table(deployed)
    assert finding.event is Wrong.TABLE_DIFFERS
    assert finding.mended
    assert "2 rows lacking, 3 left over" in finding.sentence
    wait_until(lambda: len(rows_of_topic(deployed)) == _PEOPLE - 2, 60, 0.5)
    assert wrong(deployed) == [None]
    rows = rows_of_topic(deployed)
    assert (rows[10], rows[5000]) == (120, 110)
    assert not {1, 2, 3} & set(rows)


def test_a_column_that_was_widened_is_told_with_the_remedy(deployed: Settings) -> None:
    change(deployed, "ALTER TABLE $table ALTER COLUMN max_heart_rate TYPE bigint")
    change(deployed, "UPDATE $table SET max_heart_rate = 130 WHERE user_id = 10")
    client, name = Connect(deployed.connect), Analytic.of(deployed.pipeline).name("historical_source")

    def told() -> str:
        found = [finding.sentence for finding in look_at_table(deployed) if finding.event is Wrong.TABLE_DIFFERS]
        return next((sentence for sentence in found if "user_id" in sentence), "")

    sentence = wait_until(told, 60, 1)
    assert "[10]" in sentence
    assert "can't be read with the table's schema" in sentence or client.status(name).failed


def test_keys_of_a_plain_client_are_found_with_its_partitioner(settings: Settings) -> None:
    deployer = pipeline.deployer("topics", settings)
    apply(deployer.plan(), deployer)
    topic = Analytic.of(settings.pipeline).stream_topic
    assert [finding.event for finding in look_at_keys(settings)] == [None, None]
    producer = Producer({"bootstrap.servers": settings.kafka.bootstrap_servers})
    for user in range(40):
        producer.produce(topic, key=str(user).encode(), value=b"\0")
    assert producer.flush(30) == 0
    found = next(finding for finding in look_at_keys(settings) if finding.resource == topic)
    assert found.event is Wrong.KEYS_MISPLACED
    assert "of 40 sampled in a wrong partition" in found.state
    assert "librdkafka's default partitioner (CRC-32)" in found.sentence
    assert "belongs to" in found.sentence


def test_what_queries_rejected_since_the_look_before_is_told_once(settings: Settings) -> None:
    topic = f"v{settings.pipeline.version}_ksql_processing_log"
    KafkaAdmin(settings.kafka).create([TopicState(topic, 1, 1, {})])

    def finding() -> tuple[Wrong | None, str]:
        return next((one.event, one.sentence) for one in look_at_rejects(settings) if one.resource == topic)

    assert finding() == (None, "")
    producer = Producer({"bootstrap.servers": settings.kafka.bootstrap_servers})
    entry = b'{"logger": "processing.Q_7", "message": {"type": 0, "deserializationError": {"errorMessage": "no LONG"}}}'
    producer.produce(topic, value=entry)
    producer.produce(topic, value=b"no entry")
    assert producer.flush(30) == 0
    event, sentence = finding()
    assert event is Wrong.RECORDS_REJECTED
    assert "Q_7: 1, such as no LONG" in sentence
    assert "no entry" in sentence
    assert finding() == (None, "")
