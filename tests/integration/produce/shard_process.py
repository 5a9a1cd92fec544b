"""Sends a shard of numbered events as a process of its own, so that a test can kill it: BROKERS TOPIC RUN BATCHES RATE."""

from __future__ import annotations

import sys

import numpy as np
import pyarrow as pa

from heartwatch.produce.messages import Encoder, Events
from heartwatch.produce.pacing import Pacer
from heartwatch.produce.run import run_shard
from heartwatch.produce.sender import ShardProgress, ShardSender
from heartwatch.produce.shards import Shard
from kafkakit import avro_codec
from kafkakit.settings import KafkaSettings

BATCH_EVENTS, PARTITIONS = 500, 4
SCHEMA = avro_codec.parse(
    '{"type": "record", "name": "Numbered", "fields": [{"name": "device", "type": "string"},'
    ' {"name": "at", "type": {"type": "long", "logicalType": "timestamp-millis"}}, {"name": "number", "type": "int"}]}'
)
START = 1_700_000_000_000


class Numbers:
    """Batches of events that are numbered through."""

    def __init__(self, batches: int) -> None:
        self._batches = batches

    def batch(self, index: int) -> Events | None:
        if index >= self._batches:
            return None
        number = np.arange(index * BATCH_EVENTS, (index + 1) * BATCH_EVENTS)
        columns = {
            "device": pa.array((number % 101).astype(str)).cast(pa.string()),
            "at": pa.array(START + number, pa.timestamp("ms")),
            "number": pa.array(number, pa.int32()),
        }
        return Events(pa.record_batch(columns))


def main(brokers: str, topic: str, run: str, batches: int, rate: float) -> None:
    shard = Shard(0, 1, tuple(range(PARTITIONS)))
    encoder = Encoder(SCHEMA, 1, "device", "at", PARTITIONS, shard.partitions)

    def report(progress: ShardProgress) -> None:
        print(progress.next_batch, flush=True)

    with ShardSender(KafkaSettings(bootstrap_servers=brokers), topic, run, shard) as sender:
        print("started", flush=True)
        pacer = Pacer(events_per_second=rate)
        run_shard(Numbers(batches), encoder, sender, pacer, lambda: False, report, transaction_seconds=0.05)


if __name__ == "__main__":
    main(*sys.argv[1:4], int(sys.argv[4]), float(sys.argv[5]))
