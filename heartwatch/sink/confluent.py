"""Objects in the layout of Confluent's S3 sink: ``<folder>/<topic>/<partitioner's path>/<topic>+<partition>+<offset>.<ext>``.

Source: "Object names" in the manual of Confluent's S3 sink connector; the first record's offset has ten digits or more. Formats:
Avro containers, Parquet, and JSON lines, which may be compressed with gzip. Where a transform put the position into the rows
(`heartwatch.sink.reader.OFFSET`), it is read there; else the rows are the records from the name's offset on, in Kafka's order.
That holds for partitioners that keep a partition's records together: the default one and, while records come in order of time,
the time-based ones.
"""

from __future__ import annotations

import gzip
import re
from bisect import bisect_right
from collections.abc import Callable, Iterator
from contextlib import nullcontext
from datetime import UTC, datetime
from itertools import islice

import fastavro
import pyarrow as pa
import pyarrow.parquet as pq
from pyarrow import json
from pyarrow.fs import FileSystem

from heartwatch.iceberg import open_files
from heartwatch.settings import S3Settings
from heartwatch.sink.reader import NO_END, PLACES, FaultyObject, Listing, ObjectFault, SinkObject
from heartwatch.sink.store import READ_ERRORS, Store, Stored, open_clock

_NAME = re.compile(
    r"(?P<topic>.+)\+(?P<partition>\d+)\+(?P<offset>\d{10,})(?:(?:\.[a-z0-9]+)?\.(?:avro|parquet)|\.json(?:\.gz)?)"
)
_ROWS = 50_000


class ConfluentSink:
    """The sink's objects of each topic, in one folder of a bucket."""

    def __init__(self, files: FileSystem, folder: str, clock: Callable[[], datetime]) -> None:
        """Read a folder.

        Args:
            files: the store.
            folder: bucket and ``topics.dir`` of the connector.
            clock: tells the time by the store's clock.
        """
        self._store, self._folder = Store(files, clock), folder

    @classmethod
    def of(cls, s3: S3Settings) -> ConfluentSink:
        """Open the bucket that the settings name."""
        files = open_files(s3)
        return cls(files, f"{s3.bucket}/{s3.topics_folder}", open_clock(files, s3))

    def close(self) -> None:
        """Nothing is held open."""

    def now(self) -> datetime:
        """Return the time by the store's clock (see `SinkReader.now`)."""
        return self._store.clock()

    def version(self, topic: str) -> str:
        """Return a text that changes with every object (see `SinkReader.version`)."""
        stored = self._store.list_folder(f"{self._folder}/{topic}").values()
        newest = max((item.written_at for item in stored), default=datetime.fromtimestamp(0, UTC))
        return f"{len(stored)}@{newest.isoformat()}" if stored else ""

    def listing(self, topic: str, orphan_seconds: float) -> Listing:
        """Return the topic's objects by their names (see `SinkReader.listing`)."""
        stored = self._store.list_folder(f"{self._folder}/{topic}")
        newest = max((item.written_at for item in stored.values()), default=datetime.fromtimestamp(0, UTC))
        listing = Listing(f"{len(stored)}@{newest.isoformat()}" if stored else "")
        named: list[tuple[int, int, Stored]] = []
        for path, item in stored.items():
            match = _NAME.fullmatch(path.rpartition("/")[2])
            if match is None or match["topic"] != topic:
                text = f"{item.size} bytes; not a name that the sink gives: <topic>+<partition>+<offset>.<format>"
                listing.faulty.append(FaultyObject(path, ObjectFault.STRANGER, text))
            else:
                named.append((int(match["partition"]), int(match["offset"]), item))
        starts: dict[int, list[int]] = {}
        for partition, offset, _ in sorted(named, key=lambda item: item[:2]):
            starts.setdefault(partition, []).append(offset)
        for partition, offset, item in named:
            later = starts[partition][bisect_right(starts[partition], offset) :]
            span = (offset, later[0] if later else NO_END)
            listing.objects[item.path] = SinkObject(
                item.path, item.identity, item.size, item.written_at, (partition, partition), span, counted=True
            )
        return listing

    def read(self, topic: str, found: SinkObject, schema: pa.Schema) -> Iterator[pa.RecordBatch]:
        """Return an object's rows (see `SinkReader.read`)."""
        try:
            with self._store.open(found.path) as file:
                for batch in _batches(found.path, file, schema):
                    yield batch.select([name for name in schema.names if name in batch.schema.names])
        except READ_ERRORS as error:
            raise self._store.failure(found.path, error) from error


def _batches(path: str, file: pa.NativeFile, schema: pa.Schema) -> Iterator[pa.RecordBatch]:
    if path.endswith(".parquet"):
        yield from pq.ParquetFile(file).iter_batches(_ROWS)
    elif path.endswith(".avro"):
        rows = fastavro.reader(file)
        while part := list(islice(rows, _ROWS)):
            yield pa.RecordBatch.from_pylist(part)
    else:
        # Fields of a given schema are always there, if need be as nulls: places must not be.
        fields = [_json_field(field) for field in schema if field.name not in PLACES]
        options = json.ParseOptions(explicit_schema=pa.schema(fields))
        with gzip.open(file) if path.endswith(".gz") else nullcontext(file) as lines:
            yield from json.open_json(lines, parse_options=options)


def _json_field(field: pa.Field) -> pa.Field:
    """Return how Connect's JSON converter writes a field: times as numbers since the epoch."""
    return pa.field(field.name, pa.int64()) if pa.types.is_temporal(field.type) else field.with_nullable(True)
