"""Records that a proof of the sink verifies per second, how that grows, and what runs cost that find little or nothing new.

Run against a platform that is up (`heartwatch up --parts kafka,registry,postgres,s3`):

    python -m benchmarks.sink_proof --records 1000000 10000000 --objects 100 1000 10000
    python -m benchmarks.sink_proof --records 100000000 --objects 10000

Kafka and the sink are real; the table has the columns that the connector gives it, and each object holds records of several
partitions in a span of offsets, as a connector's task writes them. A few hundred thousand events are made and encoded once and
sent again and again: what is measured is reading and comparing, and each record is read and compared. CPU is the process's own,
memory the most that it had resident above what it had before. What was made is removed.
"""

from __future__ import annotations

import argparse
import multiprocessing
import threading
import time
from collections import deque
from collections.abc import Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import closing, contextmanager
from dataclasses import dataclass
from typing import Any

import numpy as np
import psutil
import pyarrow as pa
import pyarrow.parquet as pq
from confluent_kafka import Producer
from pyiceberg.io.pyarrow import (
    PyArrowFileIO,
    compute_statistics_plan,
    data_file_statistics_from_parquet_metadata,
    parquet_path_to_id_mapping,
    schema_to_pyarrow,
)
from pyiceberg.manifest import DataFile, DataFileContent, FileFormat
from pyiceberg.table import Table
from pyiceberg.typedef import Record

from heartwatch.analytic import Analytic
from heartwatch.iceberg import open_catalog
from heartwatch.proof.store import ProofMemory
from heartwatch.proof.topic import Request, prove_records
from heartwatch.settings import Settings, load_settings
from heartwatch.sink.reader import OFFSET, PARTITION, TIMESTAMP, TOPIC
from kafkakit import avro_codec
from kafkakit.admin import KafkaAdmin, TopicState, producer_config
from kafkakit.registry import Registry

_PARTITIONS = 8
_WRITERS = 2
_OWN = _PARTITIONS // _WRITERS
_MADE = 200_000
_QUEUE = 500_000
_NEW_OBJECTS = 10
_UPLOADS = 8
_RESOURCE = "realtime"

Written = tuple[str, int, Any]
"""An object's address, its bytes, and its footer."""


@dataclass(frozen=True)
class Measured:
    """One proof: wall clock and CPU seconds, and memory above what was there before, MiB."""

    seconds: float
    cpu_seconds: float
    memory_mib: float


@contextmanager
def _measured() -> Iterator[list[Measured]]:
    found: list[Measured] = []
    process, ended = psutil.Process(), threading.Event()
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


@dataclass(frozen=True)
class _Share:
    """What one task of the connector and one producer do: some partitions' records, some objects.

    Attributes:
        version: pipeline version.
        writer: which of the writers.
        schema_id: the registry's.
        rows: records of an object.
        first: number of the first object.
        count: how many objects.
    """

    version: int
    writer: int
    schema_id: int
    rows: int
    first: int
    count: int


def _make_events(rows: int, writer: int) -> pa.RecordBatch:
    rng = np.random.default_rng(writer)
    return pa.RecordBatch.from_pydict(
        {
            "user_id": pa.array(rng.integers(1, 20_000, rows)).cast(pa.string()),
            "event_time": pa.array(int(time.time() * 1000) + np.arange(rows) // 100, pa.timestamp("ms")),
            "zipcode": pa.array(rng.integers(10_001, 10_040, rows), pa.int32()),
            "latitude": rng.uniform(39, 41, rows),
            "longitude": rng.uniform(-75, -73, rows),
            "heart_rate": pa.array(rng.integers(50, 130, rows), pa.int32()),
        }
    )


def _write(share: _Share) -> list[Written]:
    """Send a share's records, and write what the connector would."""
    settings = load_settings()
    analytic = Analytic.load(settings.pipeline.analytic, share.version)
    topic = analytic.topic(_RESOURCE)
    events = _make_events(share.rows * max(1, _MADE // share.rows), share.writer)
    values = avro_codec.encode(events, avro_codec.parse(analytic.schema_text(_RESOURCE)), share.schema_id)
    times = events.column("event_time").view(pa.int64()).to_pylist()
    partition = share.writer * _OWN + np.arange(len(events)) % _OWN
    messages = list(zip(values, events.column("user_id").to_pylist(), partition.tolist(), times, strict=True))
    producer = Producer(producer_config(settings.kafka) | {"queue.buffering.max.messages": 2 * _QUEUE + share.rows})
    written: list[Written] = []
    uploads: deque[Future[None]] = deque()
    with closing(open_catalog(settings.postgres, settings.s3)) as catalog, ThreadPoolExecutor(_UPLOADS) as pool:
        table = catalog.load_table((settings.s3.namespace, topic))
        schema = schema_to_pyarrow(table.schema())
        for number in range(share.first, share.first + share.count):
            begin = (number * share.rows) % len(events)
            while len(producer) > _QUEUE:
                producer.poll(0.01)
            for value, key, place, moment in messages[begin : begin + share.rows]:
                producer.produce(topic, value, key, place, timestamp=moment)
            columns = dict(zip(events.schema.names, events.slice(begin, share.rows).columns, strict=True))
            columns |= {
                TOPIC: pa.repeat(topic, share.rows),
                PARTITION: pa.array(partition[begin : begin + share.rows], pa.int32()),
                OFFSET: pa.array(number * share.rows // _OWN + np.arange(share.rows) // _OWN),
                TIMESTAMP: columns["event_time"],
            }
            rows = pa.table(
                [columns[name].cast(kind) for name, kind in zip(schema.names, schema.types, strict=True)], schema
            )
            content, footers = pa.BufferOutputStream(), list[Any]()
            pq.write_table(rows, content, compression="zstd", metadata_collector=footers)
            path = f"{table.location()}/data/{share.writer}-{number:06}.parquet"
            written.append((path, content.tell(), footers[0]))
            uploads.append(pool.submit(_upload, table, path, content.getvalue()))
            if len(uploads) > 2 * _UPLOADS:
                uploads.popleft().result()
        for upload in uploads:
            upload.result()
    assert producer.flush(600) == 0
    return written


def _upload(table: Table, path: str, content: pa.Buffer) -> None:
    with table.io.new_output(path).create() as file:
        file.write(content.to_pybytes())


class Pipeline:
    """A topic with events, and a table with the same rows."""

    def __init__(self, settings: Settings, analytic: Analytic, records: int, objects: int) -> None:
        self.settings, self.analytic = settings, analytic
        self.topic, self._objects = analytic.topic(_RESOURCE), 0
        # A whole number of rounds over a writer's partitions.
        self._rows = max(1, round(records / objects / _OWN)) * _OWN
        text = analytic.schema_text(_RESOURCE)
        KafkaAdmin(settings.kafka).create([TopicState(self.topic, _PARTITIONS, 1, {"retention.ms": "-1"})])
        self._schema_id = Registry(settings.registry).register(f"{self.topic}-value", text).schema_id
        self._catalog = open_catalog(settings.postgres, settings.s3)
        self._catalog.create_namespace_if_not_exists(settings.s3.namespace)
        places = [
            (TOPIC, pa.string()), (PARTITION, pa.int32()), (OFFSET, pa.int64()), (TIMESTAMP, pa.timestamp("us", "UTC")),
        ]  # fmt: skip
        fields = [*_make_events(1, 0).schema, *(pa.field(*place) for place in places)]
        kinds = [pa.field(one.name, pa.timestamp("us", "UTC")) if one.name == "event_time" else one for one in fields]
        self.table = self._catalog.create_table((settings.s3.namespace, self.topic), pa.schema(kinds))

    def add(self, objects: int) -> int:
        """Send records and write as many objects with them; return how many records."""
        first, each = self._objects // _WRITERS, -(-objects // _WRITERS)
        shares = [
            _Share(self.analytic.version, writer, self._schema_id, self._rows, first, each)
            for writer in range(_WRITERS)
        ]
        with multiprocessing.get_context("spawn").Pool(_WRITERS) as pool:
            self._commit([one for written in pool.map(_write, shares) for one in written])
        self._objects += each * _WRITERS
        return each * _WRITERS * self._rows

    def _commit(self, written: Sequence[Written]) -> None:
        table = self.table.refresh()
        with table.transaction() as transaction, transaction.update_snapshot().fast_append() as snapshot:
            for path, size, footer in written:
                snapshot.append_data_file(_data_file(table, path, size, footer))

    def prove(self) -> Measured:
        """Prove the sink, which must be in order."""
        with _measured() as found:
            result = prove_records(self.settings, self.analytic, _RESOURCE, Request(0))
        assert result is not None
        proof = result[0]
        assert proof.proven, proof.sentence()
        assert proof.total("in_kafka") + proof.total("proven_before") == self._objects * self._rows
        return found[0]

    def remove(self) -> None:
        """Remove the topic, the table with its objects, and what is remembered."""
        admin = KafkaAdmin(self.settings.kafka)
        ProofMemory(self.settings.postgres, self.topic, admin.topic_id(self.topic)).forget()
        admin.delete([self.topic])
        Registry(self.settings.registry).delete(f"{self.topic}-value")
        self._catalog.drop_table((self.settings.s3.namespace, self.topic))
        scheme, bucket, path = PyArrowFileIO.parse_location(self.table.location())
        PyArrowFileIO(self.table.io.properties).fs_by_scheme(scheme, bucket).delete_dir(path)
        self._catalog.close()


def _data_file(table: Table, path: str, size: int, footer: Any) -> DataFile:
    schema = table.schema()
    statistics = data_file_statistics_from_parquet_metadata(
        footer, compute_statistics_plan(schema, table.properties), parquet_path_to_id_mapping(schema)
    )
    return DataFile.from_args(
        content=DataFileContent.DATA,
        file_path=path,
        file_format=FileFormat.PARQUET,
        partition=Record(),
        file_size_in_bytes=size,
        sort_order_id=None,
        spec_id=table.metadata.default_spec_id,
        equality_ids=None,
        key_metadata=None,
        **statistics.to_serialized_dict(),
    )


def _line(records: int, objects: int, built: float, first: Measured, again: Measured, more: Measured) -> str:
    return (
        f"{records:>11,} {objects:>8,} {built:>8,.0f} {records / first.seconds:>10,.0f} "
        f"{first.cpu_seconds / records * 1e6:>8.2f} {first.memory_mib:>6,.0f} {again.seconds:>10.2f} "
        f"{again.cpu_seconds:>7.2f} {more.seconds:>11.2f} {more.cpu_seconds:>7.2f}"
    )


def main() -> None:
    """Prove sinks of several sizes and print what it took."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--records", type=int, nargs="+", default=[300_000, 3_000_000])
    parser.add_argument("--objects", type=int, nargs="+", default=[100])
    arguments = parser.parse_args()
    settings, version = load_settings(), int(time.time()) % 9_000
    print(
        f"{'records':>11} {'objects':>8} {'built, s':>8} {'records/s':>10} {'CPU s/M':>8} {'MiB':>6} {'no news, s':>10} "
        f"{'CPU, s':>7} {'10 more, s':>11} {'CPU, s':>7}",
        flush=True,
    )
    for records in arguments.records:
        for objects in arguments.objects:
            version += 1
            pipeline = Pipeline(settings, Analytic.load(settings.pipeline.analytic, version), records, objects)
            try:
                began = time.perf_counter()
                sent = pipeline.add(objects)
                built = time.perf_counter() - began
                first, again = pipeline.prove(), pipeline.prove()
                pipeline.add(_NEW_OBJECTS)
                print(_line(sent, objects, built, first, again, pipeline.prove()), flush=True)
            finally:
                pipeline.remove()


if __name__ == "__main__":
    main()
