"""Columns become messages of the right key, partition and timestamp, in order; raw messages go between them."""

import numpy as np
import pyarrow as pa
import pytest

from heartwatch.produce.messages import Encoder, Events, RawMessage
from kafkakit import avro_codec
from kafkakit.partitioning import partitions_of

SCHEMA = avro_codec.parse(
    '{"type": "record", "name": "Sample", "fields": [{"name": "device", "type": "string"},'
    ' {"name": "at", "type": {"type": "long", "logicalType": "timestamp-millis"}}, {"name": "value", "type": "int"}]}'
)
PARTITIONS = 4
START = 1_700_000_000_000


def columns(count: int) -> pa.RecordBatch:
    return pa.record_batch(
        {
            "device": pa.array([f"d{row % 7}" for row in range(count)]),
            "at": pa.array(START + np.arange(count), pa.timestamp("ms")),
            "value": pa.array(np.arange(count), pa.int32()),
        }
    )


def encoder(*chosen: int) -> Encoder:
    return Encoder(SCHEMA, 42, "device", "at", PARTITIONS, chosen)


def decode(values: list[bytes | None]) -> avro_codec.Decoded:
    return avro_codec.Decoder(SCHEMA, lambda _: SCHEMA).decode(values)


def test_every_column_follows_from_the_events() -> None:
    messages = encoder(0, 1, 2, 3).encode(Events(columns(50)))
    assert messages.keys == [f"d{row % 7}".encode() for row in range(50)]
    assert messages.timestamps == list(range(START, START + 50))
    assert messages.newest_ms == START + 49
    expected = partitions_of(pa.array(messages.keys, pa.binary()), PARTITIONS)
    assert messages.partitions == expected.tolist()
    assert decode(messages.values).batch.to_pylist() == columns(50).to_pylist()
    assert {type(item) for item in messages.partitions + messages.timestamps} == {int}


def test_shards_together_send_each_event_once() -> None:
    parts = [encoder(0, 2).encode(Events(columns(50))), encoder(1, 3).encode(Events(columns(50)))]
    assert {partition for partition in parts[0].partitions} <= {0, 2}
    sent = sorted(row["value"] for part in parts for row in decode(part.values).batch.to_pylist())
    assert sent == list(range(50))


def test_raw_messages_keep_their_place_among_a_shards_events() -> None:
    raw = [RawMessage(0, b"d1", b"\x07"), RawMessage(20, b"d1", None), RawMessage(50, b"d1", b"")]
    home = int(partitions_of(pa.array([b"d1"], pa.binary()), PARTITIONS)[0])
    messages = encoder(home).encode(Events(columns(50), raw))
    good = [row for row in range(50) if partitions_of(pa.array([f"d{row % 7}"]), PARTITIONS)[0] == home]
    assert len(messages) == len(good) + 3
    assert messages.values[0] == b"\x07"
    assert messages.values[1 + sum(row < 20 for row in good)] is None
    assert messages.values[-1] == b""
    assert messages.timestamps[0] == START
    assert messages.timestamps[-1] == START + 49
    assert messages.timestamps == sorted(messages.timestamps)
    other = (home + 1) % PARTITIONS
    assert all(value for value in encoder(other).encode(Events(columns(50), raw)).values)


def test_a_batch_without_events_of_the_shard_is_empty() -> None:
    assert len(encoder(0).encode(Events(columns(0)))) == 0


def test_a_batch_is_due_at_the_same_time_for_every_shard() -> None:
    one = columns(1)
    home = int(partitions_of(one.column("device"), PARTITIONS)[0])
    for chosen in range(PARTITIONS):
        messages = encoder(chosen).encode(Events(one))
        assert (len(messages), messages.due_ms) == (int(chosen == home), START)
    assert encoder(0).encode(Events(one, due_ms=7)).due_ms == 7
    assert encoder(0).encode(Events(columns(0))).due_ms == 0


def test_a_missing_column_is_named() -> None:
    with pytest.raises(avro_codec.CodecError, match="'value'"):
        encoder(0, 1, 2, 3).encode(Events(columns(5).drop_columns(["value"])))


def test_no_event_is_stamped_with_the_wall_clock() -> None:
    # librdkafka takes the timestamp 0 as "now", and brokers take -1 as none.
    times = pa.array([0, -1, -5_000, 1, START], pa.timestamp("ms"))
    events = pa.record_batch({"device": pa.array(["d"] * 5), "at": times, "value": pa.array(range(5), pa.int32())})
    messages = encoder(0, 1, 2, 3).encode(Events(events, [RawMessage(0, b"d", b"x")]))
    assert messages.timestamps == [1, 1, 1, 1, 1, START]
    assert decode(messages.values[1:]).batch.column(1).cast(pa.int64()).to_pylist() == [0, -1, -5_000, 1, START]
