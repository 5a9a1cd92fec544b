"""The sink's reader on the real catalog and the real S3 server; the memory of what is proven; dead letters on a real broker."""

from __future__ import annotations

import threading
from datetime import UTC, datetime, timedelta

import pyarrow as pa
import pytest
from confluent_kafka import Producer

from heartwatch.iceberg import open_catalog
from heartwatch.platform.platform import Platform
from heartwatch.proof.dead_letters import DeadLetter, read_dead_letters
from heartwatch.proof.segments import Proofs, Segment, SegmentState
from heartwatch.proof.store import BusyError, ProofMemory
from heartwatch.settings import Settings, load_settings
from heartwatch.sink.iceberg import IcebergSink
from heartwatch.sink.reader import OFFSET, PARTITION, ObjectError, ObjectFault, SinkObject
from kafkakit.admin import KafkaAdmin, TopicState, producer_config

pytestmark = pytest.mark.parts("postgres", "s3", "kafka")

PLACES = pa.schema([pa.field(PARTITION, pa.int32()), pa.field(OFFSET, pa.int64()), pa.field("value", pa.float64())])


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


def test_manifests_and_listing_say_where_rows_are(settings: Settings) -> None:
    sink = IcebergSink.of(settings.postgres, settings.s3)
    assert sink.version("measured") == ""
    assert sink.listing("measured", 0).objects == {}
    write(settings, "measured", range(10))
    first = sink.version("measured")
    write(settings, "measured", range(10, 20))
    listing = sink.listing("measured", 3_600)
    assert listing.version == sink.version("measured") != first
    assert listing.faulty == []
    found = sorted(listing.objects.values(), key=lambda one: one.offsets)
    assert [(one.partitions, one.offsets, one.rows) for one in found] == [((0, 1), (0, 10), 10), ((0, 1), (10, 20), 10)]
    assert abs(sink.now() - datetime.now(UTC)) < timedelta(minutes=1)
    assert listing.written_at is not None
    assert abs(listing.written_at - sink.now()) < timedelta(minutes=1)
    (batch,) = sink.read("measured", found[1], PLACES)
    assert sorted(batch.column(OFFSET).to_pylist()) == list(range(10, 20))
    sink.close()


def test_an_object_that_is_gone_is_named(settings: Settings) -> None:
    write(settings, "damaged", range(5))
    table = open_catalog(settings.postgres, settings.s3).load_table((settings.s3.namespace, "damaged"))
    sink = IcebergSink.of(settings.postgres, settings.s3)
    (one,) = sink.listing("damaged", 0).objects.values()
    table.io.delete(one.path)
    with pytest.raises(ObjectError, match="is gone"):
        list(sink.read("damaged", one, PLACES))
    listing = sink.listing("damaged", 0)
    assert listing.objects == {}
    assert [(found.path, found.fault) for found in listing.faulty] == [(one.path, ObjectFault.ABSENT)]
    sink.close()


def test_what_is_proven_is_remembered_by_topic_and_its_id(settings: Settings) -> None:
    moment = datetime(2026, 1, 2, 3, 4, 5, 6, UTC)
    proofs = Proofs(
        base={0: 0, 1: 7},
        segments={
            (0, 0): Segment(0, 0, 10, 9, 8, 2**64 - 1, "hash 1", 0, 8),
            (1, 7): Segment(1, 7, 9, 0, 0, 0, "hash 1", state=SegmentState.UNCHECKED),
        },
        objects={
            "a": SinkObject("a", "3@4", 3, moment, (0, 1), (0, 9), 8),
            "b": SinkObject("b", "", 1, moment, (0, 0), (1, 2)),
        },
        waiting={1: (9, moment)},
    )
    memory = ProofMemory(settings.postgres, "remembered", "id 1")
    assert memory.load() == Proofs()
    memory.save(Proofs(), proofs, "1")
    assert memory.load() == proofs
    memory.save(proofs, proofs, "1")
    later = proofs.copy()
    later.add(Segment(0, 10, 12, 2, 2, 5, "hash 1", 10, 11))
    del later.objects["b"]
    later.waiting.clear()
    memory.save(proofs, later, "2")
    assert ProofMemory(settings.postgres, "remembered", "id 1").load() == later
    assert later.segments[0, 0].digest == 4
    assert ProofMemory(settings.postgres, "remembered", "id 2").load() == Proofs(), "another topic of the same name"


def test_one_check_of_a_topic_is_at_work_at_a_time(settings: Settings) -> None:
    one, other = (ProofMemory(settings.postgres, "locked", "id") for _ in range(2))
    inside: list[str] = []

    def second() -> None:
        with other.lock(30):
            inside.append("second")

    thread = threading.Thread(target=second)
    with one.lock(1):
        with pytest.raises(BusyError, match="'locked' is still running"), other.lock(0.1):
            pass
        thread.start()
        inside.append("first")
    thread.join(30)
    assert inside == ["first", "second"]


def test_dead_letters_say_where_they_came_from_and_are_read_once(settings: Settings) -> None:
    admin = KafkaAdmin(settings.kafka)
    admin.create([TopicState("dead", 1, 1)])
    producer = Producer(producer_config(settings.kafka))

    def send(topic: str, partition: int, offset: int, reason: str, at: int) -> None:
        names = ("topic", "partition", "offset", "exception.message")
        values = (topic, str(partition), str(offset), reason)
        headers = [(f"__connect.errors.{name}", value.encode()) for name, value in zip(names, values, strict=True)]
        producer.produce("dead", b"poison", headers=headers, timestamp=at)

    send("t", 0, 7, "bad", 2_000)
    send("t", 1, 3, "bad", 1_000)
    send("other", 0, 9, "worse", 3_000)
    producer.produce("dead", b"put here by hand")
    producer.flush(30)
    found = read_dead_letters(settings.kafka, admin, "dead", "t", {})
    assert [(one.partition, one.offset, one.reason) for one in found.found] == [(0, 7, "bad"), (1, 3, "bad")]
    assert (found.positions, found.strangers) == ({0: 4}, {0: 1})
    memory = ProofMemory(settings.postgres, "t", "id")
    for _ in range(2):
        memory.add_dead_letters("dead", "dead id", found.found, found.positions, found.strangers)
    send("t", 0, 8, "worst", 4_000)
    producer.flush(30)
    known = memory.dead_letter_positions("dead", "dead id")
    assert known == {0: 4}
    new = read_dead_letters(settings.kafka, admin, "dead", "t", known)
    assert [one.offset for one in new.found] == [8]
    memory.add_dead_letters("dead", "dead id", new.found, new.positions, new.strangers)
    assert sorted(memory.dead_letters([(0, 0, 8), (1, 3, 4)]).rows()) == [(0, 7), (1, 3)]
    summary = memory.summary()
    assert summary.reasons == {"bad": 2, "worst": 1}
    assert summary.first == DeadLetter(1, 3, "bad", datetime.fromtimestamp(1, UTC))
    assert summary.last == DeadLetter(0, 8, "worst", datetime.fromtimestamp(4, UTC))
