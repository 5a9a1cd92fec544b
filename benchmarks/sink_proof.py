"""Records that a proof of the sink verifies per second, how that grows, and what a run without news costs.

Run against a platform that is up (`heartwatch up --parts kafka,registry,postgres,s3`):

    python -m benchmarks.sink_proof --records 300000 3000000 --objects 100 1000

Kafka and the sink are real; the table is written by pyiceberg with the columns that the connector gives it, each object holding
records of all partitions, as the connector's do. Memory is the process's own (resident, sampled), above what it has before.
"""

from __future__ import annotations

import argparse
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass

import numpy as np
import psutil
import pyarrow as pa
import pyarrow.parquet as pq
from confluent_kafka import Producer

from heartwatch import codec
from heartwatch.analytic import Analytic
from heartwatch.iceberg import open_catalog
from heartwatch.kafka import KafkaAdmin, TopicState, producer_config
from heartwatch.registry import Registry
from heartwatch.settings import Settings, load_settings
from heartwatch.sink.reader import OFFSET, PARTITION, TIMESTAMP, TOPIC
from heartwatch.verify.sinks import Request, prove_records
from heartwatch.verify.topics import TopicLog, read_ranges

_PARTITIONS = 8
_BATCH = 50_000
_RESOURCE = "realtime"


@dataclass(frozen=True)
class Measured:
    """One proof: wall clock and CPU seconds, and memory above what was there before, MiB."""

    seconds: float
    cpu_seconds: float
    memory_mib: float


@contextmanager
def _measured() -> Iterator[list[Measured]]:
    process, found, ended = psutil.Process(), [], threading.Event()
    before, peak = process.memory_info().rss, [0]

    def sample() -> None:
        while not ended.wait(0.02):
            peak[0] = max(peak[0], process.memory_info().rss)

    sampler = threading.Thread(target=sample, daemon=True)
    sampler.start()
    wall, cpu = time.perf_counter(), time.process_time()
    yield found
    wall, cpu = time.perf_counter() - wall, time.process_time() - cpu
    ended.set()
    sampler.join()
    found.append(Measured(wall, cpu, max(0, peak[0] - before) / 2**20))


class Pipeline:
    """A topic with events, and a table with the same rows."""

    def __init__(self, settings: Settings, analytic: Analytic, records: int, objects: int) -> None:
        self.settings, self.analytic, self.records = settings, analytic, records
        self.topic = analytic.topic(_RESOURCE)
        text = analytic.schema_text(_RESOURCE)
        self._schema = codec.parse(text)
        KafkaAdmin(settings.kafka).create([TopicState(self.topic, _PARTITIONS, 1, {"retention.ms": "-1"})])
        self._schema_id = Registry(settings.registry).register(f"{self.topic}-value", text).schema_id
        self._send()
        self._write(objects)

    def _send(self) -> None:
        rng, start = np.random.default_rng(1), int(time.time() * 1000)
        producer = Producer(producer_config(self.settings.kafka) | {"queue.buffering.max.messages": 1_000_000})
        for first in range(0, self.records, _BATCH):
            size = min(_BATCH, self.records - first)
            times = start + np.arange(first, first + size) // 100
            users = [str(user) for user in rng.integers(1, 20_000, size).tolist()]
            batch = pa.RecordBatch.from_pydict(
                {
                    "user_id": users,
                    "event_time": pa.array(times, pa.timestamp("ms")),
                    "zipcode": pa.array(rng.integers(10_001, 10_040, size), pa.int32()),
                    "latitude": rng.uniform(39, 41, size),
                    "longitude": rng.uniform(-75, -73, size),
                    "heart_rate": pa.array(rng.integers(50, 130, size), pa.int32()),
                }
            )
            values = codec.encode(batch, self._schema, self._schema_id)
            for index, (value, moment) in enumerate(zip(values, times.tolist(), strict=True)):
                producer.produce(self.topic, value, users[index], partition=index % _PARTITIONS, timestamp=moment)
                if index % 1_000 == 0:
                    producer.poll(0)
        assert producer.flush(300) == 0

    def _write(self, objects: int) -> None:
        """Write what the connector would: some partitions' records of a while into one object."""
        log = TopicLog(self.settings.kafka, KafkaAdmin(self.settings.kafka), self.topic)
        decoder = codec.Decoder(self._schema, lambda _: self._schema)
        catalog = open_catalog(self.settings.postgres, self.settings.s3)
        catalog.create_namespace_if_not_exists(self.settings.s3.namespace)
        ranges = log.ranges()
        tables = []
        for records in read_ranges(self.settings.kafka, self.topic, ranges):
            decoded = decoder.decode(records.value.to_pylist())
            columns = {name: decoded.batch.column(name) for name in decoded.batch.schema.names}
            columns |= {
                TOPIC: pa.array([self.topic] * len(records)),
                PARTITION: pa.array(records.partition),
                OFFSET: pa.array(records.offset),
                TIMESTAMP: pa.array(records.timestamp, pa.timestamp("ms", "UTC")),
            }
            tables.append(pa.table(columns))
        rows = pa.concat_tables(tables).sort_by([(OFFSET, "ascending"), (PARTITION, "ascending")])
        table = catalog.create_table((self.settings.s3.namespace, self.topic), rows.schema)
        size = -(-rows.num_rows // objects)
        files = table.io

        def write(number: int) -> str:
            path = f"{table.location()}/data/{number:06}.parquet"
            with files.new_output(path).create() as file:
                pq.write_table(rows.slice(number * size, size), file)
            return path

        with ThreadPoolExecutor(8) as pool:
            paths = list(pool.map(write, range(objects)))
        table.add_files(paths, check_duplicate_files=False)

    def prove(self, full: bool = False) -> Measured:
        """Prove the sink, which must be in order."""
        with _measured() as found:
            result = prove_records(self.settings, self.analytic, _RESOURCE, Request(0, full=full))
        assert result is not None
        assert result[0].proven, result[0].sentence()
        return found[0]


def main() -> None:
    """Prove sinks of several sizes and print what it took."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--records", type=int, nargs="+", default=[300_000, 3_000_000])
    parser.add_argument("--objects", type=int, nargs="+", default=[100])
    arguments = parser.parse_args()
    settings, version = load_settings(), int(time.time()) % 9_000
    print(
        f"{'records':>10} {'objects':>8} {'records/s':>10} {'CPU s/M':>8} {'MiB':>6} {'no news, s':>10} {'CPU, s':>7}"
    )
    for records in arguments.records:
        for objects in arguments.objects:
            version += 1
            pipeline = Pipeline(settings, Analytic.load(settings.pipeline.analytic, version), records, objects)
            first, again = pipeline.prove(), pipeline.prove()
            print(
                f"{records:>10,} {objects:>8,} {records / first.seconds:>10,.0f} {first.cpu_seconds / records * 1e6:>8.2f} "
                f"{first.memory_mib:>6,.0f} {again.seconds:>10.2f} {again.cpu_seconds:>7.2f}",
                flush=True,
            )


if __name__ == "__main__":
    main()
