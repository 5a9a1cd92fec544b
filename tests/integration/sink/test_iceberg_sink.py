"""The sink's reader on the real catalog and the real S3 server, and a dead-letter topic on a real broker."""

from __future__ import annotations

from datetime import UTC, datetime

import pyarrow as pa
import pytest
from confluent_kafka import Producer

from heartwatch.iceberg import open_catalog
from heartwatch.kafka import KafkaAdmin, TopicState, producer_config
from heartwatch.settings import Settings, load_settings
from heartwatch.sink.iceberg import IcebergSink
from heartwatch.sink.reader import OFFSET, PARTITION, SinkError
from heartwatch.stack.platform import Platform
from heartwatch.verify.dead_letters import read_dead_letters

pytestmark = pytest.mark.parts("postgres", "s3", "kafka")


@pytest.fixture
def settings(platform: Platform) -> Settings:
    return load_settings()


def write(settings: Settings, topic: str, offsets: range) -> None:
    catalog = open_catalog(settings.postgres, settings.s3)
    catalog.create_namespace_if_not_exists(settings.s3.namespace)
    rows = pa.table(
        {
            PARTITION: pa.array([offset % 2 for offset in offsets], pa.int32()),
            OFFSET: pa.array(offsets, pa.int64()),
            "value": pa.array([float(offset) for offset in offsets]),
        }
    )
    catalog.create_table_if_not_exists((settings.s3.namespace, topic), rows.schema).append(rows)


def test_rows_are_read_by_partition_and_offset_from_any_snapshot(settings: Settings) -> None:
    sink = IcebergSink.of(settings.postgres, settings.s3)
    assert sink.version("measured") is None
    write(settings, "measured", range(10))
    first = sink.version("measured")
    write(settings, "measured", range(10, 20))
    second = sink.version("measured")
    assert first is not None
    assert second is not None
    assert (first.records, second.records) == (10, 20)
    assert first.identity != second.identity
    assert (datetime.now(UTC) - second.written_at).total_seconds() < 60
    found = [
        row
        for batch in sink.rows("measured", {0: (4, 15), 1: (17, 99)}, [OFFSET, "value"])
        for row in batch.to_pylist()
    ]
    assert sorted(row[OFFSET] for row in found) == [4, 6, 8, 10, 12, 14, 17, 19]
    assert all(row["value"] == row[OFFSET] for row in found)
    sink.close()


def test_an_object_that_is_gone_is_named(settings: Settings) -> None:
    write(settings, "damaged", range(5))
    catalog = open_catalog(settings.postgres, settings.s3)
    table = catalog.load_table((settings.s3.namespace, "damaged"))
    for task in table.scan().plan_files():
        table.io.delete(task.file.file_path)
    with pytest.raises(SinkError, match="'damaged' can't be read"):
        list(IcebergSink(catalog, settings.s3.namespace).rows("damaged", {0: (0, 5)}, [OFFSET]))


def test_dead_letters_say_where_they_came_from(settings: Settings) -> None:
    admin = KafkaAdmin(settings.kafka)
    assert read_dead_letters(settings.kafka, admin, "no-such-topic", "t").rows.is_empty()
    admin.create([TopicState("dead", 1, 1)])
    producer = Producer(producer_config(settings.kafka))
    for topic, partition, offset, reason in (("t", 0, 7, "bad"), ("t", 1, 3, "bad"), ("other", 0, 9, "worse")):
        names = ("topic", "partition", "offset", "exception.message")
        values = (topic, str(partition), str(offset), reason)
        headers = [(f"__connect.errors.{name}", value.encode()) for name, value in zip(names, values, strict=True)]
        producer.produce("dead", b"poison", headers=headers)
    producer.produce("dead", b"put here by hand")
    producer.flush(30)
    found = read_dead_letters(settings.kafka, admin, "dead", "t")
    assert sorted(found.rows.select("partition", "offset").rows()) == [(0, 7), (1, 3)]
    assert found.reasons() == {"bad": 2}
    assert found.without_origin == 1
