"""Proves a sink complete: Kafka against what the connector wrote, by partition and offset, and record by record.

What Kafka has is found by reading it, not by counting: offsets without a record are markers of transactions, or aborted or
compacted records, and no loss. A record that Kafka has is accounted for when the sink has it, when it is a tombstone (a sink
of rows has nothing to write), or when the connector put it into its dead-letter topic with the reason. Contents are compared by
a 64-bit hash of all fields and the timestamp, so that memory holds 21 bytes a record, whatever a record is.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from enum import IntEnum
from typing import Any

import numpy as np
import polars as pl
import pyarrow as pa

from heartwatch.codec import Decoder
from heartwatch.sink.reader import OFFSET, PARTITION, TIMESTAMP, TOPIC, Ranges, SinkReader
from heartwatch.verify.topics import Records

_KEYS = ["partition", "offset"]
_SCHEMA = {"partition": pl.Int32, "offset": pl.Int64, "digest": pl.UInt64}
_SAMPLES = 5
_POLL_SECONDS = 0.5


class Kind(IntEnum):
    """What a record in Kafka is."""

    ROW = 0
    TOMBSTONE = 1
    UNDECODABLE = 2


@dataclass(frozen=True)
class Position:
    """A record's place in Kafka."""

    partition: int
    offset: int


@dataclass(frozen=True)
class PartitionProof:
    """What was found of one partition.

    Attributes:
        partition: its number.
        begin: first offset looked at.
        end: offset after the last one looked at.
        in_kafka: records that Kafka has there.
        without_record: offsets there that hold no record (markers, aborted or compacted records).
        in_sink: of Kafka's records, those that the sink has.
        tombstones: records without a value.
        dead_letters: records in the dead-letter topic.
        missing: records nowhere to be found.
        gaps: runs of missing offsets.
        duplicates: rows that the sink has once more than it should.
        unexpected: rows of the sink that Kafka never had.
        changed: rows whose contents differ from Kafka's.
        digest: sum of the hashes of the partition's rows in the sink, as 16 hexadecimal digits.
    """

    partition: int
    begin: int
    end: int
    in_kafka: int = 0
    without_record: int = 0
    in_sink: int = 0
    tombstones: int = 0
    dead_letters: int = 0
    missing: int = 0
    gaps: int = 0
    duplicates: int = 0
    unexpected: int = 0
    changed: int = 0
    digest: str = ""

    @property
    def proven(self) -> bool:
        """Whether every record is accounted for and nothing else is there."""
        return not (self.missing or self.duplicates or self.unexpected or self.changed)


@dataclass(frozen=True)
class SinkProof:
    """What was found of one topic's sink.

    Attributes:
        topic: Kafka topic.
        partitions: one proof a partition.
        samples: places of records that are missing, duplicated, unexpected or changed, by what is wrong.
        seconds: how long the sink lagged behind: from the beginning of the check until nothing was missing any more.
    """

    topic: str
    partitions: list[PartitionProof]
    samples: dict[str, list[Position]] = field(default_factory=dict)
    seconds: float = 0.0

    @property
    def proven(self) -> bool:
        """Whether every partition is proven."""
        return all(one.proven for one in self.partitions)

    def total(self, name: str) -> int:
        """Return the sum of a count over the partitions."""
        return sum(getattr(one, name) for one in self.partitions)

    def sentence(self) -> str:
        """Return what is wrong and where, or what is proven."""
        wrong = []
        for name in ("missing", "duplicates", "unexpected", "changed"):
            if count := self.total(name):
                where = ", ".join(f"{one.partition}:{one.offset}" for one in self.samples.get(name, []))
                wrong.append(f"{count} {name} (partition:offset {where})")
        if wrong:
            return f"sink of topic {self.topic!r}: {'; '.join(wrong)}"
        return f"sink of topic {self.topic!r}: all {self.total('in_kafka'):,} records accounted for"


def kafka_frame(parts: Iterable[Records], decoder: Decoder) -> pl.DataFrame:
    """Return partition, offset, digest and kind of each record.

    Args:
        parts: records of one topic.
        decoder: of their values.
    """
    frames = []
    for records in parts:
        decoded = decoder.decode(records.value.to_pylist())
        kind = np.full(len(records), Kind.UNDECODABLE, dtype=np.int8)
        kind[decoded.indices] = Kind.ROW
        kind[decoded.nulls] = Kind.TOMBSTONE
        digest = np.zeros(len(records), dtype=np.uint64)
        digest[decoded.indices] = _digests(decoded.batch, records.timestamp[decoded.indices])
        frames.append(
            pl.DataFrame(
                {"partition": records.partition, "offset": records.offset, "digest": digest, "kind": kind},
                schema=_SCHEMA | {"kind": pl.Int8},
            )
        )
    return pl.concat(frames) if frames else pl.DataFrame(schema=_SCHEMA | {"kind": pl.Int8})


def sink_frame(sink: SinkReader, topic: str, ranges: Ranges, schema: pa.Schema) -> pl.DataFrame:
    """Return partition, offset and digest of each of the sink's rows in the ranges.

    Args:
        sink: where to read.
        topic: Kafka topic.
        ranges: which partitions and offsets.
        schema: the fields, in the order and types in which Kafka's records are decoded.

    Raises:
        SinkError: the sink can't be read.
    """
    columns = [TOPIC, PARTITION, OFFSET, TIMESTAMP, *schema.names]
    frames = [_sink_rows(batch, topic, schema) for batch in sink.rows(topic, ranges, columns)]
    return pl.concat(frames) if frames else pl.DataFrame(schema=_SCHEMA)


def _sink_rows(batch: pa.RecordBatch, topic: str, schema: pa.Schema) -> pl.DataFrame:
    count = batch.num_rows
    fields = [_column(batch, field_.name, field_.type) for field_ in schema]
    times = _column(batch, TIMESTAMP, pa.timestamp("ms")).view(pa.int64()).to_numpy(zero_copy_only=False)
    digest = _digests(pa.RecordBatch.from_arrays(fields, schema=schema), times)
    return pl.DataFrame(
        {
            "partition": _column(batch, PARTITION, pa.int32()).to_numpy(zero_copy_only=False),
            "offset": _column(batch, OFFSET, pa.int64()).to_numpy(zero_copy_only=False),
            # A row of another topic has nothing to do here: no digest of Kafka's equals it.
            "digest": np.where(_is_of(batch, topic), digest, digest ^ np.uint64(1)) if count else digest,
        },
        schema=_SCHEMA,
    )


def _is_of(batch: pa.RecordBatch, topic: str) -> np.ndarray[Any, Any]:
    position = batch.schema.get_field_index(TOPIC)
    if position < 0:
        return np.ones(batch.num_rows, dtype=bool)
    return np.asarray(pa.compute.equal(batch.column(position), topic).fill_null(False).to_numpy(zero_copy_only=False))


def _column(batch: pa.RecordBatch, name: str, kind: pa.DataType) -> pa.Array:
    """Return a column in the wanted type; one that the sink doesn't have is all nulls, so that its rows count as changed."""
    position = batch.schema.get_field_index(name)
    if position < 0:
        return pa.nulls(batch.num_rows, kind)
    return batch.column(position).cast(kind, safe=False)


def _digests(columns: pa.RecordBatch, timestamps: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
    """Return a hash of each row's fields and timestamp."""
    frame = pl.from_arrow(columns)
    assert isinstance(frame, pl.DataFrame)  # noqa: S101 - a batch never becomes a series
    return frame.with_columns(pl.Series("__timestamp", timestamps)).hash_rows(seed=7).to_numpy()


def prove(kafka: pl.DataFrame, sink: pl.DataFrame, dead_letters: pl.DataFrame, ranges: Ranges, topic: str) -> SinkProof:
    """Compare what Kafka has with what the sink has.

    Args:
        kafka: what `kafka_frame` gave.
        sink: what `sink_frame` gave.
        dead_letters: partition and offset of each record in the dead-letter topic.
        ranges: what was looked at.
        topic: Kafka topic.
    """
    copies = sink.group_by(_KEYS).agg(
        copies=pl.len(), digest_sink=pl.col("digest").first(), kinds=pl.col("digest").n_unique()
    )
    dead = dead_letters.select(_KEYS).unique().with_columns(dead=pl.lit(True))
    joined = kafka.join(copies, on=_KEYS, how="full", coalesce=True).join(dead, on=_KEYS, how="left")
    in_kafka, in_sink, is_dead = (
        pl.col("kind").is_not_null(),
        pl.col("copies").is_not_null(),
        pl.col("dead").is_not_null(),
    )
    is_row, is_tombstone = pl.col("kind") == Kind.ROW, pl.col("kind") == Kind.TOMBSTONE
    judged = joined.with_columns(
        in_kafka=in_kafka,
        in_sink=in_kafka & in_sink,
        tombstones=in_kafka & is_tombstone,
        dead_letters=in_kafka & is_dead,
        missing=in_kafka & ~in_sink & ~is_dead & ~is_tombstone,
        unexpected=~in_kafka,
        changed=in_sink & is_row & ((pl.col("digest") != pl.col("digest_sink")) | (pl.col("kinds") > 1)),
        duplicates=pl.col("copies").fill_null(1) - 1,
    ).with_columns(pl.col("tombstones", "dead_letters", "missing", "changed").fill_null(False))
    return SinkProof(topic, _proofs(judged, sink, ranges), _samples(judged))


_COUNTS = ("in_kafka", "in_sink", "tombstones", "dead_letters", "missing", "duplicates", "unexpected", "changed")


def _proofs(judged: pl.DataFrame, sink: pl.DataFrame, ranges: Ranges) -> list[PartitionProof]:
    counts = judged.group_by("partition").agg(pl.col(*_COUNTS).cast(pl.Int64).sum())
    digests = sink.group_by("partition").agg(pl.col("digest").sum())
    gaps = (
        judged.filter("missing")
        .sort(_KEYS)
        .group_by("partition")
        .agg(gaps=(pl.col("offset").diff().fill_null(2) > 1).cast(pl.Int64).sum())
    )
    rows = {row["partition"]: row for row in counts.iter_rows(named=True)}
    digest_of = dict(digests.iter_rows())
    gaps_of = dict(gaps.iter_rows())
    return [
        PartitionProof(
            partition,
            begin,
            end,
            **{name: int(rows.get(partition, {}).get(name, 0)) for name in _COUNTS},
            without_record=max(0, end - begin - int(rows.get(partition, {}).get("in_kafka", 0))),
            gaps=int(gaps_of.get(partition, 0)),
            digest=f"{digest_of.get(partition, 0):016x}",
        )
        for partition, (begin, end) in sorted(ranges.items())
    ]


def _samples(judged: pl.DataFrame) -> dict[str, list[Position]]:
    samples = {}
    for name in ("missing", "duplicates", "unexpected", "changed"):
        found = judged.filter(pl.col(name).cast(pl.Int64) > 0).sort(_KEYS).head(_SAMPLES)
        if found.height:
            samples[name] = [Position(*row) for row in found.select(_KEYS).iter_rows()]
    return samples


def missing_ranges(
    kafka: pl.DataFrame, sink: pl.DataFrame, dead_letters: pl.DataFrame, ranges: Ranges
) -> dict[int, tuple[int, int]]:
    """Return where to look again: in each partition from its first record that is nowhere yet."""
    found = pl.concat([sink.select(_KEYS), dead_letters.select(_KEYS)])
    absent = kafka.filter(pl.col("kind") != Kind.TOMBSTONE).join(found, on=_KEYS, how="anti")
    first = absent.group_by("partition").agg(pl.col("offset").min())
    return {partition: (offset, ranges[partition][1]) for partition, offset in first.iter_rows()}


@dataclass(frozen=True)
class Check:
    """What a check of one topic's sink needs.

    Attributes:
        topic: Kafka topic.
        ranges: partitions and offsets to look at.
        kafka: reads the topic's records in the ranges.
        decoder: of their values.
        sink: where the connector writes.
        dead_letters: reads partition and offset of the topic's records in the dead-letter topic.
    """

    topic: str
    ranges: Ranges
    kafka: Callable[[], Iterator[Records]]
    decoder: Decoder
    sink: SinkReader
    dead_letters: Callable[[], pl.DataFrame]


def check_sink(check: Check, deadline_seconds: float, clock: Callable[[], float] = time.monotonic) -> SinkProof:
    """Read Kafka once, then the sink until nothing is missing any more or the time is over.

    Only what was missing is read again, and only when the sink has written something new.

    Args:
        check: what to look at.
        deadline_seconds: how long the sink may take to get what Kafka had at the beginning.
        clock: seconds, monotonic.

    Raises:
        SinkError: the sink can't be read.
    """
    began = clock()
    schema = check.decoder.arrow_schema
    kafka = kafka_frame(check.kafka(), check.decoder)
    version = check.sink.version(check.topic)
    sink = sink_frame(check.sink, check.topic, check.ranges, schema)
    dead = check.dead_letters()
    while left := missing_ranges(kafka, sink, dead, check.ranges):
        newer = _wait_for_version(check, version, began + deadline_seconds, clock)
        dead = check.dead_letters()
        if newer is None:
            break
        version = newer
        later = pl.col("first").is_not_null() & (pl.col("offset") >= pl.col("first"))
        kept = sink.join(_bounds(left), on="partition", how="left").filter(~later).select(sink.columns)
        sink = pl.concat([kept, sink_frame(check.sink, check.topic, left, schema)])
    return replace(prove(kafka, sink, dead, check.ranges, check.topic), seconds=clock() - began)


def _bounds(ranges: Mapping[int, tuple[int, int]]) -> pl.DataFrame:
    rows: Sequence[tuple[int, int]] = [(partition, begin) for partition, (begin, _) in ranges.items()]
    return pl.DataFrame(rows, schema={"partition": pl.Int32, "first": pl.Int64}, orient="row")


def _wait_for_version(check: Check, known: Any, deadline: float, clock: Callable[[], float]) -> Any:
    """Return the sink's next version, None when there is none before the deadline."""
    while clock() < deadline:
        version = check.sink.version(check.topic)
        if version is not None and version != known:
            return version
        time.sleep(_POLL_SECONDS)
    return None
