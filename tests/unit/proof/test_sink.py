"""Every kind of fault that a sink can have is made to happen in real Iceberg tables, and told apart from what is no fault."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping, Sequence
from datetime import UTC, datetime, timedelta
from pathlib import Path

import polars as pl
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from pyiceberg.catalog.sql import SqlCatalog
from pyiceberg.manifest import DataFile, DataFileContent, FileFormat
from pyiceberg.table import DataScan, FileScanTask
from pyiceberg.types import TimestamptzType
from sinks import (
    DEAD,
    NAMESPACE,
    POISON,
    SCHEMA,
    START,
    TOMBSTONE,
    MemoryLog,
    append,
    open_folder,
    table,
    written,
)

from heartwatch.proof.check import check_sink
from heartwatch.proof.dead_letters import DeadLetterSummary
from heartwatch.proof.findings import Finding, Kind, SinkProof, merge_runs
from heartwatch.proof.look import Check
from heartwatch.proof.report import check_of, make_report
from heartwatch.proof.segments import Proofs, SegmentState, Span
from heartwatch.sink.iceberg import IcebergSink
from heartwatch.sink.reader import OFFSET, PARTITION, TIMESTAMP, TOPIC
from kafkakit import avro_codec
from kafkakit.topic_reader import Records


def make_check(
    catalog: SqlCatalog, log: MemoryLog | None = None, dead: pl.DataFrame = DEAD, **options: object
) -> Check:
    def dead_letters(spans: Sequence[Span]) -> pl.DataFrame:
        return dead

    decoder = avro_codec.Decoder(SCHEMA, lambda _: SCHEMA)
    sink = IcebergSink(catalog, NAMESPACE)
    return Check("samples", log or MemoryLog(), decoder, sink, dead_letters, **options)  # type: ignore[arg-type]


def check(
    catalog: SqlCatalog,
    log: MemoryLog | None = None,
    dead: pl.DataFrame = DEAD,
    proofs: Proofs | None = None,
    **options: object,
) -> SinkProof:
    return check_sink(make_check(catalog, log, dead, **options), proofs if proofs is not None else Proofs(), 0)


def found(proof: SinkProof) -> list[tuple[Kind, int | None, int | None, int | None, int]]:
    return [(one.kind, one.partition, one.first, one.last, one.count) for one in proof.findings]


def test_what_is_accounted_for_is_proven(catalog: SqlCatalog) -> None:
    append(catalog, "samples", table(written()))
    proof = check(catalog)
    assert proof.proven, proof.sentence()
    assert proof.findings == []
    assert proof.total("in_kafka") == 16
    assert proof.total("in_sink") == 14
    assert (proof.total("tombstones"), proof.total("dead_letters")) == (1, 1)
    assert proof.total("without_record") == 4
    assert [(one.first, one.last) for one in proof.partitions] == [(0, 8), (0, 8)]
    assert "16 records accounted for" in proof.sentence()


def test_order_and_number_of_files_do_not_matter(catalog: SqlCatalog) -> None:
    rows = written()
    for part in (rows.tail(5), rows.head(5), rows.slice(5, rows.height - 10)):
        append(catalog, "samples", table(part.reverse()))
    assert check(catalog).proven


def test_missing_records_are_named_and_counted_in_gaps(catalog: SqlCatalog) -> None:
    append(catalog, "samples", table(written((0, 3), (0, 5), (1, 8))))
    proof = check(catalog)
    assert not proof.proven
    assert [one.missing for one in proof.partitions] == [2, 1]
    assert [one.gaps for one in proof.partitions] == [1, 1]
    # Nothing follows on the one: the sink may just be behind; the marker between the others is no record.
    assert found(proof) == [(Kind.MISSING, 0, 3, 5, 2), (Kind.BEHIND, 1, 8, 8, 1)]
    assert "2 missing in partition 0, offsets 3-5" in proof.sentence()


def test_a_sink_that_is_only_behind_puts_no_record_at_risk(catalog: SqlCatalog) -> None:
    append(catalog, "samples", table(written((0, 6), (0, 8), (1, 8))))
    left_out = make_report(check(catalog), DeadLetterSummary())
    assert (left_out.at_risk, left_out.totals["missing"], left_out.totals["behind"]) == (True, 3, 2)
    append(catalog, "samples", table(written().filter((pl.col(PARTITION) == 0) & (pl.col(OFFSET) == 6))))
    behind = make_report(check(catalog), DeadLetterSummary())
    assert not behind.proven
    assert not behind.at_risk
    assert [check_of(report, 0).wrong for report in (left_out, behind)] == [1, 0]


def test_no_table_is_no_proof(catalog: SqlCatalog) -> None:
    assert check(catalog).total("missing") == 14


def test_poison_that_no_dead_letter_accounts_for_is_missing(catalog: SqlCatalog) -> None:
    append(catalog, "samples", table(written()))
    assert found(check(catalog, dead=DEAD.clear())) == [(Kind.MISSING, *POISON, POISON[1], 1)]


def test_a_row_written_twice_is_a_duplicate(catalog: SqlCatalog) -> None:
    append(catalog, "samples", table(written()))
    append(catalog, "samples", table(written().head(2)))
    assert found(check(catalog)) == [(Kind.DUPLICATE, 0, 0, 1, 2)]


@pytest.mark.parametrize(
    "place",
    [(0, 4), (1, 9), TOMBSTONE, (1, 12), (7, 3)],
    ids=["marker", "last marker", "tombstone", "past the end", "no partition"],
)
def test_rows_that_kafka_never_had_are_unexpected(catalog: SqlCatalog, place: tuple[int, int]) -> None:
    extra = (
        written()
        .head(1)
        .with_columns(pl.lit(place[0], pl.Int32).alias(PARTITION), pl.lit(place[1], pl.Int64).alias(OFFSET))
    )
    append(catalog, "samples", table(pl.concat([written(), extra.select(written().columns)])))
    proofs = Proofs()
    assert found(check(catalog, proofs=proofs)) == [(Kind.UNEXPECTED, *place, place[1], 1)]
    assert found(check(catalog, proofs=proofs)) == [(Kind.UNEXPECTED, *place, place[1], 1)], (
        "told as long as it is there"
    )


@pytest.mark.parametrize("column", [PARTITION, OFFSET])
@pytest.mark.parametrize("together", [True, False], ids=["in an object with others", "by themselves"])
def test_rows_that_do_not_say_where_they_are_from_are_unexpected(
    catalog: SqlCatalog, column: str, together: bool
) -> None:
    extra = written().head(2).with_columns(pl.lit(None, written().schema[column]).alias(column))
    for part in [pl.concat([written(), extra])] if together else [written(), extra]:
        append(catalog, "samples", table(part))
    proofs = Proofs()
    for _ in range(2):
        (one,) = check(catalog, proofs=proofs).findings
        assert one.kind == Kind.UNEXPECTED
        assert "2 rows without partition or offset" in one.detail


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
    assert found(proof) == [(Kind.CHANGED, 1, 3, 3, 1)]
    if column != TOPIC:
        assert proof.findings[0].detail == f"{column} differ"
        assert (
            str(rows.row(11, named=True)["device"] if column == "device" else "in the sink") in proof.findings[0].sample
        )


def interleaved(catalog: SqlCatalog, rows: pl.DataFrame, damaged_first: bool) -> None:
    """Write rows as two objects whose offsets overlap, and damage the one that has those below 2 and the last ones."""
    outer = (pl.col(OFFSET) < 2) | (pl.col(OFFSET) == 8)
    for part in (outer, ~outer) if damaged_first else (~outer, outer):
        append(catalog, "samples", table(rows.filter(part)))
    file = next(one for one in data_files(catalog) if 0 in pq.read_table(one)[OFFSET].to_pylist())
    file.write_bytes(b"?" * file.stat().st_size)


@pytest.mark.parametrize("damaged_first", [True, False])
def test_a_changed_row_beside_a_damaged_object_is_told(catalog: SqlCatalog, damaged_first: bool) -> None:
    here = (pl.col(PARTITION) == 1) & (pl.col(OFFSET) == 3)
    interleaved(
        catalog, written().with_columns(value=pl.when(here).then(0.5).otherwise(pl.col("value"))), damaged_first
    )
    proof = check(catalog)
    assert {one.kind for one in proof.findings} == {Kind.UNDECODABLE, Kind.MISSING, Kind.BEHIND, Kind.CHANGED}
    assert [one.detail for one in proof.of(Kind.CHANGED)] == ["value differ"]


@pytest.mark.parametrize("damaged_first", [True, False])
def test_rows_of_compacted_records_beside_a_damaged_object_are_superseded(
    catalog: SqlCatalog, damaged_first: bool
) -> None:
    interleaved(catalog, written(), damaged_first)
    keys = {(partition, offset): f"d{partition}" for partition in (0, 1) for offset in range(10)}
    proof = check(catalog, MemoryLog(keys=keys, removed={(1, 3)}), compacted_key="device")
    assert {one.kind for one in proof.findings} == {Kind.UNDECODABLE, Kind.MISSING, Kind.BEHIND}
    assert proof.total("superseded") == 1


def test_a_missing_column_changes_every_row(catalog: SqlCatalog) -> None:
    append(catalog, "samples", table(written()).drop_columns(["value"]))
    proof = check(catalog)
    assert proof.total("changed") == 14
    (schema,) = proof.of(Kind.WRONG_SCHEMA)
    assert "value is missing" in schema.detail


def test_a_column_of_another_type_is_a_wrong_schema(catalog: SqlCatalog) -> None:
    append(catalog, "samples", table(written().with_columns(pl.col("value").cast(pl.String))))
    (schema,) = check(catalog).of(Kind.WRONG_SCHEMA)
    assert "value is large_string, not double" in schema.detail


def test_what_comes_before_the_deadline_is_waited_for(catalog: SqlCatalog) -> None:
    append(catalog, "samples", table(written((1, 7), (1, 8))))
    late = written().filter((pl.col(PARTITION) == 1) & (pl.col(OFFSET) >= 7))
    seen = []

    def clock() -> float:
        """Writes the late rows when the check begins to wait."""
        seen.append(1)
        if len(seen) == 2:
            append(catalog, "samples", table(late))
        return len(seen) / 100

    proof = check_sink(make_check(catalog), Proofs(), 30, clock=clock)
    assert proof.proven, proof.sentence()
    assert proof.total("in_kafka") == 16
    assert proof.total("in_sink") == 14


@pytest.mark.parametrize(("seconds", "proven"), [(15, True), (9, False)])
def test_a_sink_that_gets_on_slowly_is_waited_for_and_one_that_stands_still_is_not(
    catalog: SqlCatalog, seconds: int, proven: bool
) -> None:
    append(catalog, "samples", table(written((1, 6), (1, 7), (1, 8))))
    rows = [written().filter((pl.col(PARTITION) == 1) & (pl.col(OFFSET) == offset)) for offset in (6, 7, 8)]
    now = [0.0]

    def clock() -> float:
        """A question takes 2 s; a row comes every 10 s, the last of them after the first deadline."""
        now[0] += 2
        if rows and now[0] % 10 == 0:
            append(catalog, "samples", table(rows.pop(0)))
        return now[0]

    assert check_sink(make_check(catalog), Proofs(), seconds, clock=clock).proven is proven


def test_what_kafka_gets_during_a_check_is_not_waited_for(catalog: SqlCatalog) -> None:
    append(catalog, "samples", table(written()))

    class Growing(MemoryLog):
        def ranges(self) -> dict[int, tuple[int, int]]:
            ranges = super().ranges()
            self.end = 20
            return ranges

    proofs = Proofs()
    proof = check(catalog, Growing(), proofs=proofs)
    assert proof.findings == []
    assert {one.end for one in proofs.segments.values()} == {10}
    append(catalog, "samples", table(written(begin=10, end=20)))
    proof = check(catalog, MemoryLog(end=20), proofs=proofs)
    assert proof.findings == []
    assert proof.total("proven_before") == 14


def test_the_digest_depends_on_every_row(catalog: SqlCatalog, tmp_path: Path) -> None:
    append(catalog, "samples", table(written()))
    (tmp_path / "other").mkdir()
    other = open_folder(tmp_path / "other")
    append(other, "samples", table(written().with_columns(value=pl.col("value") + 1)))
    assert [one.digest for one in check(catalog).partitions] != [one.digest for one in check(other).partitions]


# What earlier checks have proven


def data_files(catalog: SqlCatalog) -> list[Path]:
    tasks = catalog.load_table((NAMESPACE, "samples")).scan().plan_files()
    return [Path(task.file.file_path.removeprefix("file://")) for task in tasks]


@pytest.fixture
def proofs(catalog: SqlCatalog) -> Proofs:
    """Two objects, 0-9 and 10-19, proven."""
    append(catalog, "samples", table(written()))
    append(catalog, "samples", table(written(begin=10, end=20)))
    proofs = Proofs()
    assert check(catalog, MemoryLog(end=20), proofs=proofs).proven
    assert len(proofs.objects) == 2
    assert [(one.begin, one.end, one.rows) for one in proofs.of(0)] == [(0, 20, 15)]
    return proofs


def test_what_is_proven_is_not_read_again(catalog: SqlCatalog, proofs: Proofs) -> None:
    log = MemoryLog(end=20)
    proof = check(catalog, log, proofs=proofs)
    assert proof.proven
    assert log.reads == []
    assert proof.read == 0
    assert proof.total("proven_before") == 30
    assert "30 rows proven before are still there" in proof.sentence()
    append(catalog, "samples", table(written(begin=20, end=30)))
    log = MemoryLog(end=30)
    proof = check(catalog, log, proofs=proofs)
    assert proof.proven
    assert log.reads == [{0: (20, 30), 1: (20, 30)}]
    assert proof.read == 1
    assert proof.total("in_kafka") == 16


def test_the_digest_does_not_depend_on_how_often_was_checked(catalog: SqlCatalog, proofs: Proofs) -> None:
    append(catalog, "samples", table(written(begin=20, end=30)))
    bit_by_bit = check(catalog, MemoryLog(end=30), proofs=proofs)
    at_once = check(catalog, MemoryLog(end=30))
    assert [one.digest for one in bit_by_bit.partitions] == [one.digest for one in at_once.partitions]


def test_a_deleted_object_is_found_though_it_was_proven(catalog: SqlCatalog, proofs: Proofs) -> None:
    gone = data_files(catalog)[0]
    gone.unlink()
    first = next(one.offsets[0] for path, one in proofs.objects.items() if path.endswith(gone.name))
    for _ in range(2):
        proof = check(catalog, MemoryLog(end=20), proofs=proofs)
        assert proof.of(Kind.OBJECT_GONE)[0].detail.startswith(f"file://{gone}")
        missing = [one for one in proof.findings if one.kind in {Kind.MISSING, Kind.BEHIND}]
        assert {(one.partition, one.first, one.last) for one in missing} == {
            (0, first, first + 8),
            (1, first, first + 8),
        }


def test_a_truncated_object_is_found_though_it_was_proven(catalog: SqlCatalog, proofs: Proofs) -> None:
    damaged = data_files(catalog)[0]
    with damaged.open("r+b") as file:
        file.truncate(damaged.stat().st_size // 2)
    proof = check(catalog, MemoryLog(end=20), proofs=proofs)
    assert {one.kind for one in proof.findings} >= {Kind.OBJECT_RESIZED, Kind.UNDECODABLE}
    assert proof.total("missing") in {14, 16}


def test_an_object_changed_in_place_is_found(catalog: SqlCatalog, proofs: Proofs) -> None:
    file = data_files(catalog)[0]
    rows = pq.read_table(file)
    values = rows["value"].to_pylist()
    values[3] += 1
    position = rows.schema.get_field_index("value")
    changed = rows.set_column(position, rows.schema.field(position), [values])
    pq.write_table(changed, file)
    proof = check(catalog, MemoryLog(end=20), proofs=proofs)
    (one,) = proof.of(Kind.CHANGED)
    assert (one.partition, one.first) == (rows[PARTITION][3].as_py(), rows[OFFSET][3].as_py())
    assert one.detail == "value differ"


def test_an_object_touched_but_equal_is_no_fault(catalog: SqlCatalog, proofs: Proofs) -> None:
    file = data_files(catalog)[0]
    os.utime(file, ns=(1, 1))
    log = MemoryLog(end=20)
    proof = check(catalog, log, proofs=proofs)
    assert proof.findings == []
    assert proof.read == 2, "its segments' sums are made anew"
    assert log.reads == []


def test_a_compacted_table_is_no_fault(catalog: SqlCatalog, proofs: Proofs) -> None:
    catalog.load_table((NAMESPACE, "samples")).overwrite(table(written(end=20)))
    log = MemoryLog(end=20)
    proof = check(catalog, log, proofs=proofs)
    assert proof.findings == []
    assert log.reads == []
    assert len(proofs.objects) == len(data_files(catalog))


def test_an_object_added_again_under_another_name_is_found(catalog: SqlCatalog, proofs: Proofs) -> None:
    append(catalog, "samples", table(written().head(3)))
    for _ in range(2):
        proof = check(catalog, MemoryLog(end=20), proofs=proofs)
        # Offset 2 is a tombstone, of which there is no row.
        assert found(proof) == [(Kind.DUPLICATE, 0, 0, 1, 2), (Kind.DUPLICATE, 0, 3, 3, 1)]


def test_rows_deleted_from_the_table_are_missing(catalog: SqlCatalog, proofs: Proofs) -> None:
    catalog.load_table((NAMESPACE, "samples")).delete(f"{OFFSET} == 7 and {PARTITION} == 1")
    proof = check(catalog, MemoryLog(end=20), proofs=proofs)
    assert [one.kind for one in proof.findings] == [Kind.OBJECT_GONE, Kind.MISSING], "the object was replaced"
    assert found(proof)[1] == (Kind.MISSING, 1, 7, 7, 1)


def test_rows_that_a_file_of_deletes_takes_out_are_missing(
    catalog: SqlCatalog, proofs: Proofs, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # As other engines delete rows: the object stays as it is, another file says which of its rows don't count.
    file = next(one for one in data_files(catalog) if pq.read_table(one)[OFFSET][0].as_py() == 0)
    rows = pq.read_table(file)
    position = rows[OFFSET].to_pylist().index(7)
    deletes = tmp_path / "deletes.parquet"
    pq.write_table(pa.table({"file_path": [f"file://{file}"], "pos": pa.array([position], pa.int64())}), deletes)
    delete_file = DataFile.from_args(
        content=DataFileContent.POSITION_DELETES, file_path=f"file://{deletes}", file_format=FileFormat.PARQUET
    )
    plan = DataScan.plan_files

    def with_deletes(scan: DataScan) -> list[FileScanTask]:
        tasks = list(plan(scan))
        return [
            FileScanTask(one.file, {delete_file}) if one.file.file_path.endswith(file.name) else one for one in tasks
        ]

    monkeypatch.setattr(DataScan, "plan_files", with_deletes)
    for _ in range(2):
        proof = check(catalog, MemoryLog(end=20), proofs=proofs)
        assert found(proof) == [(Kind.MISSING, rows[PARTITION][position].as_py(), 7, 7, 1)]


def test_records_that_kafka_removed_after_they_were_proven_are_no_loss(catalog: SqlCatalog, proofs: Proofs) -> None:
    proof = check(catalog, MemoryLog(start=15, end=20), proofs=proofs)
    assert proof.findings == []


def test_records_that_kafka_removed_before_the_sink_had_them_are_lost(catalog: SqlCatalog, proofs: Proofs) -> None:
    append(catalog, "samples", table(written(begin=26, end=30)))
    for _ in range(2):
        proof = check(catalog, MemoryLog(start=26, end=30), proofs=proofs)
        assert found(proof) == [(Kind.LOST, 0, 20, 25, 6), (Kind.LOST, 1, 20, 25, 6)]
    assert check(catalog, MemoryLog(start=26, end=30), proofs=proofs, accept_losses=True).proven
    assert check(catalog, MemoryLog(start=26, end=30), proofs=proofs).proven


def test_rows_that_vanish_are_lost_only_where_kafka_removed_their_records(catalog: SqlCatalog, proofs: Proofs) -> None:
    # One segment, 0-19, of which Kafka has lost the first five offsets; the object of the second half goes.
    next(file for file in data_files(catalog) if 10 in pq.read_table(file)[OFFSET].to_pylist()).unlink()
    log = MemoryLog(start=5, end=20)
    for _ in range(2):
        proof = check(catalog, log, proofs=proofs)
        assert {one.kind for one in proof.findings} == {Kind.OBJECT_GONE, Kind.BEHIND}
        assert {(one.partition, one.first, one.last) for one in proof.of(Kind.BEHIND)} == {(0, 10, 18), (1, 10, 18)}
        assert [one.proven_before + one.in_sink for one in proof.partitions] == [3 + 4, 4 + 3]
    catalog.load_table((NAMESPACE, "samples")).overwrite(table(written(end=20)))
    assert check(catalog, log, proofs=proofs).findings == []
    # What Kafka no longer has is still known by its sum.
    changed = written(end=20).with_columns(value=pl.when(pl.col(OFFSET) == 1).then(0.5).otherwise(pl.col("value")))
    catalog.load_table((NAMESPACE, "samples")).overwrite(table(changed))
    assert {(one.kind, one.first) for one in check(catalog, log, proofs=proofs).of(Kind.CHANGED)} == {(Kind.CHANGED, 0)}


def test_rows_that_are_there_twice_are_found_though_kafka_removed_their_records(
    catalog: SqlCatalog, proofs: Proofs
) -> None:
    # Nothing was lost; the sink wrote some records twice and Kafka removed them before a check came.
    late = written(begin=20, end=24)
    append(catalog, "samples", table(pl.concat([late, late.filter(pl.col(OFFSET) != 21)])))
    for accept_losses in (False, True, False):
        proof = check(catalog, MemoryLog(start=24, end=24), proofs=proofs, accept_losses=accept_losses)
        doubled = [
            (Kind.DUPLICATE, p, first, last, last - first + 1) for p in (0, 1) for first, last in ((20, 20), (22, 23))
        ]
        assert found(proof) == doubled
        assert proof.total("duplicates") == 6
    catalog.load_table((NAMESPACE, "samples")).overwrite(table(written(end=24)))
    assert check(catalog, MemoryLog(start=24, end=24), proofs=proofs).findings == []
    assert check(catalog, MemoryLog(start=24, end=24), proofs=proofs).read == 0, "all is known"
    assert {(one.first, one.last) for one in proofs.segments.values() if one.begin == 20} == {(20, 23)}


def test_rows_that_vanish_after_kafka_removed_their_records_are_lost(catalog: SqlCatalog, proofs: Proofs) -> None:
    catalog.load_table((NAMESPACE, "samples")).delete(f"{OFFSET} < 10")
    for _ in range(2):
        proof = check(catalog, MemoryLog(start=20, end=20), proofs=proofs)
        assert [(one.kind, one.partition, one.count) for one in proof.findings if one.partition is not None] == [
            (Kind.LOST, 0, 7),
            (Kind.LOST, 1, 7),
        ]
    assert {one.state for one in proofs.segments.values()} == {SegmentState.BROKEN}
    append(catalog, "samples", table(written()))
    assert check(catalog, MemoryLog(start=20, end=20), proofs=proofs).proven, "they are there again"


def test_rows_of_records_that_kafka_compacted_away_are_superseded(catalog: SqlCatalog) -> None:
    append(catalog, "samples", table(written()))
    # The rows' device is the key: d0 and d1; offset 8 is the last of each.
    keys = {(partition, offset): f"d{partition}" for partition in (0, 1) for offset in range(10)}
    log = MemoryLog(keys=keys, removed={(0, 0), (0, 1), (1, 3)})
    assert [(one.kind, one.first) for one in check(catalog, log).findings] == [
        (Kind.UNEXPECTED, 0),
        (Kind.UNEXPECTED, 3),
    ]
    proof = check(catalog, log, compacted_key="device")
    assert proof.findings == []
    assert proof.total("superseded") == 3
    # No later record of the key: nothing can have replaced it.
    log = MemoryLog(keys=keys, removed={(0, 8)})
    assert found(check(catalog, log, compacted_key="device")) == [(Kind.UNEXPECTED, 0, 8, 8, 1)]


# Objects that belong to nothing, and clocks


def test_an_object_in_no_manifest_is_an_orphan_once_it_is_old(catalog: SqlCatalog, proofs: Proofs) -> None:
    orphan = data_files(catalog)[0].with_name("half-written.parquet")
    orphan.write_bytes(b"PAR1")
    assert check(catalog, MemoryLog(end=20), proofs=proofs).findings == []
    proof = check(catalog, MemoryLog(end=20), proofs=proofs, orphan_seconds=-1)
    (one,) = proof.findings
    assert one.kind == Kind.ORPHAN
    assert not one.fault, "nothing is lost by it"
    assert str(orphan) in one.detail


def test_an_object_of_an_older_snapshot_is_no_orphan(catalog: SqlCatalog, proofs: Proofs) -> None:
    catalog.load_table((NAMESPACE, "samples")).overwrite(table(written(end=20)))
    assert check(catalog, MemoryLog(end=20), proofs=proofs, orphan_seconds=-1).findings == []


def test_a_machine_whose_clock_is_an_hour_wrong_is_told(catalog: SqlCatalog, proofs: Proofs) -> None:
    wrong = datetime.now(UTC) + timedelta(hours=1)
    proof = check_sink(make_check(catalog, MemoryLog(end=20)), proofs, 0, machine_time=lambda: wrong)
    (one,) = proof.findings
    assert one.kind == Kind.CLOCK
    assert one.fault
    assert "3,600 s from the store's" in one.detail


def test_a_device_whose_clock_is_an_hour_wrong_is_told(catalog: SqlCatalog) -> None:
    class Off(MemoryLog):
        def read(self, ranges: Mapping[int, tuple[int, int]]) -> Iterator[Records]:
            for records in super().read(ranges):
                records.timestamp[records.offset == 6] += 3_600_000
                yield records

    hour = pl.when(pl.col(OFFSET) == 6).then(3_600_000).otherwise(0)
    append(catalog, "samples", table(written().with_columns(pl.col(TIMESTAMP) + hour)))
    proof = check(catalog, Off())
    assert proof.proven
    assert [(one.kind, one.partition, one.first) for one in proof.findings] == [(Kind.CLOCK, 0, 6), (Kind.CLOCK, 1, 6)]


def test_waiting_is_counted_from_when_it_was_found_first(catalog: SqlCatalog) -> None:
    append(catalog, "samples", table(written((0, 8))))
    proofs = Proofs()
    check(catalog, proofs=proofs)
    offset, since = proofs.waiting[0]
    assert offset == 8
    proofs.waiting[0] = (offset, since - timedelta(minutes=5))
    proof = check(catalog, proofs=proofs)
    assert proof.waiting_seconds is not None
    assert proof.waiting_seconds >= 300
    append(catalog, "samples", table(written().filter((pl.col(PARTITION) == 0) & (pl.col(OFFSET) == 8))))
    assert check(catalog, proofs=proofs).waiting_seconds is None


def test_a_check_of_some_offsets_looks_at_no_others(catalog: SqlCatalog) -> None:
    append(catalog, "samples", table(written((0, 0), (1, 8))))
    log = MemoryLog()
    assert check(catalog, log, limits={0: (1, 10), 1: (0, 8)}).findings == []
    assert log.reads == [{0: (1, 10), 1: (0, 8)}]


def test_parts_are_kept_one_by_one(catalog: SqlCatalog, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("heartwatch.proof.segments._CHUNK_OFFSETS", 7)
    append(catalog, "samples", table(written((1, 5), end=30)))
    saved: list[int] = []
    proofs = Proofs()
    proof = check_sink(
        make_check(catalog, MemoryLog(end=30)),
        proofs,
        0,
        save=lambda one, _: saved.append(len(one.of(0)) and one.of(0)[-1].end),
    )
    assert found(proof) == [(Kind.MISSING, 1, 5, 5, 1)]
    assert saved == sorted(saved)
    assert len(set(saved)) > 5
    assert proof.total("in_sink") == 45
    assert proofs.unproven(1, 0, 30)[0][:2] == (1, 5)


def test_runs_in_parts_are_told_as_one() -> None:
    parts = [Finding(Kind.MISSING, 0, 5, 9, 5), Finding(Kind.MISSING, 0, 0, 4, 5), Finding(Kind.MISSING, 1, 10, 12, 3)]
    assert [(one.partition, one.first, one.last, one.count) for one in merge_runs(parts)] == [
        (0, 0, 9, 10),
        (1, 10, 12, 3),
    ]


def test_objects_side_by_side_are_each_named(catalog: SqlCatalog) -> None:
    files = []
    for begin, end in ((0, 2), (2, 4)):
        append(catalog, "samples", table(written(begin=begin, end=end).filter(pl.col(PARTITION) == 1)))
    append(catalog, "samples", table(written().filter(pl.col(PARTITION) == 0)))
    objects = make_check(catalog).sink.listing("samples", 0).objects.values()
    for one in objects:
        if one.partitions == (1, 1):
            files.append(one.path)
            Path(one.path.removeprefix("file://")).unlink()
    proof = check(catalog)
    assert len(files) == 2
    assert {one.detail.partition(": ")[0] for one in proof.of(Kind.OBJECT_GONE)} == set(files)


# Tables that have changed


def test_objects_of_an_earlier_schema_are_read_by_their_columns_ids(catalog: SqlCatalog) -> None:
    append(catalog, "samples", table(written(end=5)).rename_columns({"value": "measured"}))
    samples = catalog.load_table((NAMESPACE, "samples"))
    with samples.update_schema() as change:
        change.rename_column("measured", "value")
    append(catalog, "samples", table(written(begin=5)))
    assert check(catalog).proven


def test_objects_without_ids_and_columns_that_came_later_are_read_too(catalog: SqlCatalog) -> None:
    whole = table(written())
    samples = catalog.create_table((NAMESPACE, "samples"), whole.drop_columns([TIMESTAMP]).schema)
    path = f"{samples.location()}/data/added.parquet"
    with samples.io.new_output(path).create() as file:
        pq.write_table(whole.drop_columns([TIMESTAMP]), file)
    samples.add_files([path])
    with samples.update_schema() as change:
        change.add_column(TIMESTAMP, TimestamptzType())
    assert check(catalog).proven, "a row without a Kafka timestamp is proven by its contents"
