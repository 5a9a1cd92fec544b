"""A small topic in memory, and what connectors would write of it: into real Iceberg tables and real objects in a folder."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import polars as pl
import pyarrow as pa
from pyiceberg.catalog.sql import SqlCatalog

from heartwatch.sink.reader import OFFSET, PARTITION, TIMESTAMP, TOPIC
from kafkakit import avro_codec
from kafkakit.topic_reader import Records

SCHEMA = avro_codec.parse(
    '{"type": "record", "name": "Sample", "fields": [{"name": "device", "type": "string"},'
    ' {"name": "at", "type": {"type": "long", "logicalType": "timestamp-millis"}}, {"name": "value", "type": "double"}]}'
)
ARROW = avro_codec.arrow_schema(SCHEMA)
START = 1_700_000_000_000
NAMESPACE = "heartwatch"
# Offsets 4 and 9 hold markers of transactions.
OFFSETS = [0, 1, 2, 3, 5, 6, 7, 8]
PARTITIONS = (0, 1)
TOMBSTONE, POISON = (0, 2), (1, 6)
DEAD = pl.DataFrame(
    {"partition": [POISON[0]], "offset": [POISON[1]]}, schema={"partition": pl.Int32, "offset": pl.Int64}
)


def event(partition: int, offset: int) -> dict[str, object]:
    return {"device": f"d{partition}", "at": START + offset, "value": offset / 7}


def encoded(partition: int, offset: int) -> bytes | None:
    if (partition, offset) == TOMBSTONE:
        return None
    if (partition, offset) == POISON:
        return b"\x00\x00"
    return avro_codec.encode(pa.RecordBatch.from_pylist([event(partition, offset)], schema=ARROW), SCHEMA, 5)[0]


@dataclass
class MemoryLog:
    """A topic whose records from one offset on, up to another, are there."""

    end: int = 10
    start: int = 0
    keys: Mapping[tuple[int, int], str] = field(default_factory=dict)
    removed: set[tuple[int, int]] = field(default_factory=set)
    reads: list[dict[int, tuple[int, int]]] = field(default_factory=list)

    def ranges(self) -> dict[int, tuple[int, int]]:
        return {partition: (self.start, self.end) for partition in PARTITIONS}

    def ends(self) -> dict[int, int]:
        return dict.fromkeys(PARTITIONS, self.end)

    def read(self, ranges: Mapping[int, tuple[int, int]]) -> Iterator[Records]:
        self.reads.append(dict(ranges))
        for partition, (begin, end) in ranges.items():
            assert begin >= self.start, f"partition {partition} is read from {begin}: out of range"
            there = [
                offset
                for offset in places(self.end)
                if max(begin, self.start) <= offset < end and (partition, offset) not in self.removed
            ]
            yield Records(
                np.full(len(there), partition, dtype=np.int32),
                np.array(there, dtype=np.int64),
                np.array([START + offset for offset in there], dtype=np.int64),
                pa.array([self.keys.get((partition, offset), "key").encode() for offset in there], pa.large_binary()),
                pa.array([encoded(partition, offset) for offset in there], pa.large_binary()),
            )


def places(end: int = 10) -> list[int]:
    """Offsets with a record: each tenth fourth and ninth hold markers."""
    return [offset for offset in range(end) if offset % 10 in OFFSETS]


def written(*left_out: tuple[int, int], topic: str = "samples", begin: int = 0, end: int = 10) -> pl.DataFrame:
    """What the connector writes: all but tombstones and poison."""
    rows = [
        event(partition, offset) | {TOPIC: topic, PARTITION: partition, OFFSET: offset, TIMESTAMP: START + offset}
        for partition in PARTITIONS
        for offset in places(end)
        if offset >= begin and (partition, offset) not in {TOMBSTONE, POISON, *left_out}
    ]
    return pl.DataFrame(rows).with_columns(pl.col(PARTITION).cast(pl.Int32))


def table(frame: pl.DataFrame) -> pa.Table:
    time = pl.Datetime("us", "UTC")
    stamped = frame.with_columns((pl.col("at", TIMESTAMP) * 1000).cast(time))
    # The connector adds its columns wherever it likes: order must not matter.
    return stamped.select(reversed(stamped.columns)).to_arrow()


def open_folder(folder: Path) -> SqlCatalog:
    catalog = SqlCatalog("iceberg", uri=f"sqlite:///{folder}/catalog.db", warehouse=f"file://{folder}")
    catalog.create_namespace(NAMESPACE)
    return catalog


def append(catalog: SqlCatalog, topic: str, rows: pa.Table) -> None:
    catalog.create_table_if_not_exists((NAMESPACE, topic), rows.schema).append(rows)
