"""Every kind of fault that a sink can have is made to happen in real Iceberg tables, and told apart from what is no fault."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import polars as pl
import pyarrow as pa
import pytest
from pyiceberg.catalog.sql import SqlCatalog

from heartwatch import codec
from heartwatch.sink.iceberg import IcebergSink
from heartwatch.sink.reader import OFFSET, PARTITION, TIMESTAMP, TOPIC
from heartwatch.verify.sink import Check, Position, SinkProof, check_sink
from heartwatch.verify.topics import Records

SCHEMA = codec.parse(
    '{"type": "record", "name": "Sample", "fields": [{"name": "device", "type": "string"},'
    ' {"name": "at", "type": {"type": "long", "logicalType": "timestamp-millis"}}, {"name": "value", "type": "double"}]}'
)
ARROW = codec.arrow_schema(SCHEMA)
START = 1_700_000_000_000
NAMESPACE = "heartwatch"
# Offsets 4 and 9 hold markers of transactions.
OFFSETS = [0, 1, 2, 3, 5, 6, 7, 8]
RANGES = {0: (0, 10), 1: (0, 10)}
TOMBSTONE, POISON = (0, 2), (1, 6)


def open_folder(folder: Path) -> SqlCatalog:
    catalog = SqlCatalog("iceberg", uri=f"sqlite:///{folder}/catalog.db", warehouse=f"file://{folder}")
    catalog.create_namespace(NAMESPACE)
    return catalog


def append(catalog: SqlCatalog, topic: str, rows: pa.Table) -> None:
    catalog.create_table_if_not_exists((NAMESPACE, topic), rows.schema).append(rows)


def event(partition: int, offset: int) -> dict[str, object]:
    return {"device": f"d{partition}", "at": START + offset, "value": offset / 7}


def kafka() -> Iterator[Records]:
    for partition in RANGES:
        values: list[bytes | None] = []
        for offset in OFFSETS:
            batch = pa.RecordBatch.from_pylist([event(partition, offset)], schema=ARROW)
            values.append(codec.encode(batch, SCHEMA, 5)[0])
            if (partition, offset) == TOMBSTONE:
                values[-1] = None
            elif (partition, offset) == POISON:
                values[-1] = b"\x00\x00"
        yield Records(
            np.full(len(OFFSETS), partition, dtype=np.int32),
            np.array(OFFSETS, dtype=np.int64),
            np.array([START + offset for offset in OFFSETS], dtype=np.int64),
            pa.array([b"key"] * len(OFFSETS), pa.large_binary()),
            pa.array(values, pa.large_binary()),
        )


def written(*left_out: tuple[int, int], topic: str = "samples") -> pl.DataFrame:
    """What the connector writes: all but tombstones and poison."""
    places = [(partition, offset) for partition in RANGES for offset in OFFSETS]
    rows = [
        event(*place) | {TOPIC: topic, PARTITION: place[0], OFFSET: place[1], TIMESTAMP: START + place[1]}
        for place in places
        if place not in {TOMBSTONE, POISON, *left_out}
    ]
    return pl.DataFrame(rows).with_columns(pl.col(PARTITION).cast(pl.Int32))


def table(frame: pl.DataFrame) -> pa.Table:
    time = pl.Datetime("us", "UTC")
    stamped = frame.with_columns((pl.col("at", TIMESTAMP) * 1000).cast(time))
    # The connector adds its columns wherever it likes: order must not matter.
    return stamped.select(reversed(stamped.columns)).to_arrow()


DEAD = pl.DataFrame(
    {"partition": [POISON[0]], "offset": [POISON[1]]}, schema={"partition": pl.Int32, "offset": pl.Int64}
)


@pytest.fixture
def catalog(tmp_path: Path) -> SqlCatalog:
    return open_folder(tmp_path)


def check(catalog: SqlCatalog, dead: pl.DataFrame = DEAD, seconds: float = 0) -> SinkProof:
    decoder = codec.Decoder(SCHEMA, lambda _: SCHEMA)
    return check_sink(
        Check("samples", RANGES, kafka, decoder, IcebergSink(catalog, NAMESPACE), lambda: dead),
        deadline_seconds=seconds,
    )


def test_what_is_accounted_for_is_proven(catalog: SqlCatalog) -> None:
    append(catalog, "samples", table(written()))
    proof = check(catalog)
    assert proof.proven, proof.sentence()
    assert proof.total("in_kafka") == 16
    assert proof.total("in_sink") == 14
    assert (proof.total("tombstones"), proof.total("dead_letters")) == (1, 1)
    assert proof.total("without_record") == 4
    assert "16 records accounted for" in proof.sentence()


def test_order_and_number_of_files_do_not_matter(catalog: SqlCatalog) -> None:
    rows = written()
    for part in (rows.tail(5), rows.head(5), rows.slice(5, rows.height - 10)):
        append(catalog, "samples", table(part.reverse()))
    assert check(catalog).proven


def test_missing_records_are_named_and_counted_in_gaps(catalog: SqlCatalog) -> None:
    append(catalog, "samples", table(written((0, 0), (0, 1), (1, 8))))
    proof = check(catalog)
    assert not proof.proven
    assert [one.missing for one in proof.partitions] == [2, 1]
    assert [one.gaps for one in proof.partitions] == [1, 1]
    assert proof.samples["missing"] == [Position(0, 0), Position(0, 1), Position(1, 8)]
    assert "3 missing (partition:offset 0:0, 0:1, 1:8)" in proof.sentence()


def test_no_table_is_no_proof(catalog: SqlCatalog) -> None:
    assert check(catalog).total("missing") == 14


def test_poison_that_no_dead_letter_accounts_for_is_missing(catalog: SqlCatalog) -> None:
    append(catalog, "samples", table(written()))
    proof = check(catalog, DEAD.clear())
    assert proof.samples["missing"] == [Position(*POISON)]


def test_a_row_written_twice_is_a_duplicate(catalog: SqlCatalog) -> None:
    append(catalog, "samples", table(written()))
    append(catalog, "samples", table(written().head(2)))
    proof = check(catalog)
    assert proof.total("duplicates") == 2
    assert not proof.proven


@pytest.mark.parametrize("place", [(0, 4), (1, 9)], ids=["marker in the middle", "marker at the end"])
def test_rows_that_kafka_never_had_are_unexpected(catalog: SqlCatalog, place: tuple[int, int]) -> None:
    extra = (
        written()
        .head(1)
        .with_columns(pl.lit(place[0], pl.Int32).alias(PARTITION), pl.lit(place[1], pl.Int64).alias(OFFSET))
    )
    append(catalog, "samples", table(pl.concat([written(), extra.select(written().columns)])))
    proof = check(catalog)
    assert proof.samples == {"unexpected": [Position(*place)]}


@pytest.mark.parametrize("column", ["device", "at", "value", TIMESTAMP, TOPIC])
def test_a_changed_field_is_found(catalog: SqlCatalog, column: str) -> None:
    rows = written()
    other = {"device": "x", "at": START - 1, "value": 0.5, TIMESTAMP: START - 1, TOPIC: "others"}[column]
    here = (pl.col(PARTITION) == 1) & (pl.col(OFFSET) == 3)
    changed = rows.with_columns(
        pl.when(here).then(pl.lit(other, rows.schema[column])).otherwise(pl.col(column)).alias(column)
    )
    append(catalog, "samples", table(changed))
    proof = check(catalog)
    assert proof.samples == {"changed": [Position(1, 3)]}


def test_a_missing_column_changes_every_row(catalog: SqlCatalog) -> None:
    append(catalog, "samples", table(written()).drop_columns(["value"]))
    assert check(catalog).total("changed") == 14


def test_what_comes_before_the_deadline_is_waited_for(catalog: SqlCatalog) -> None:
    append(catalog, "samples", table(written((1, 7), (1, 8))))
    rows = written()
    late = rows.filter((pl.col(PARTITION) == 1) & (pl.col(OFFSET) >= 7))
    sink = IcebergSink(catalog, NAMESPACE)
    seen = []

    class Clock:
        """Writes the late rows when the check begins to wait."""

        def __call__(self) -> float:
            seen.append(1)
            if len(seen) == 2:
                append(catalog, "samples", table(late))
            return len(seen) / 100

    decoder = codec.Decoder(SCHEMA, lambda _: SCHEMA)
    proof = check_sink(Check("samples", RANGES, kafka, decoder, sink, lambda: DEAD), 30, Clock())
    assert proof.proven, proof.sentence()
    assert sink.version("samples") is not None


def test_the_digest_depends_on_every_row(catalog: SqlCatalog, tmp_path: Path) -> None:
    append(catalog, "samples", table(written()))
    (tmp_path / "other").mkdir()
    other = open_folder(tmp_path / "other")
    append(other, "samples", table(written().with_columns(value=pl.col("value") + 1)))
    assert [one.digest for one in check(catalog).partitions] != [one.digest for one in check(other).partitions]


def test_only_the_wanted_offsets_are_read(catalog: SqlCatalog) -> None:
    append(catalog, "samples", table(written()))
    batches = list(
        IcebergSink(catalog, NAMESPACE).rows("samples", {0: (3, 6), 1: (8, 100)}, [PARTITION, OFFSET, "none"])
    )
    found = [row for batch in batches for row in batch.to_pylist()]
    assert sorted((row[PARTITION], row[OFFSET]) for row in found) == [(0, 3), (0, 5), (1, 8)]
    assert set(found[0]) == {PARTITION, OFFSET}


def test_a_snapshot_says_how_much_it_holds(catalog: SqlCatalog) -> None:
    sink = IcebergSink(catalog, NAMESPACE)
    assert sink.version("samples") is None
    append(catalog, "samples", table(written()))
    version = sink.version("samples")
    assert version is not None
    assert (version.records, version.objects) == (14, 1)
