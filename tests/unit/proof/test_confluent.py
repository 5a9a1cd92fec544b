"""The same proof over objects as Confluent's S3 sink writes them, in each of its formats, and the faults that they can have."""

from __future__ import annotations

import gzip
import io
import json
import os
from collections.abc import Callable, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import fastavro
import polars as pl
import pyarrow.parquet as pq
import pytest
from pyarrow.fs import LocalFileSystem
from sinks import DEAD, PARTITIONS, POISON, SCHEMA, MemoryLog, event, places, table, written

from heartwatch.proof.check import check_sink
from heartwatch.proof.findings import Kind, SinkProof
from heartwatch.proof.look import Check
from heartwatch.proof.segments import Proofs, Span
from heartwatch.sink.confluent import ConfluentSink
from heartwatch.sink.reader import OFFSET, PARTITION
from kafkakit import avro_codec

Rows = list[dict[str, Any]]


def avro(rows: Rows) -> bytes:
    file = io.BytesIO()
    fastavro.writer(file, SCHEMA, rows)
    return file.getvalue()


def parquet(rows: Rows) -> bytes:
    file = io.BytesIO()
    stamped = pl.DataFrame(rows).with_columns(pl.col("at").cast(pl.Datetime("ms")))
    pq.write_table(stamped.to_arrow(), file)
    return file.getvalue()


def lines(rows: Rows) -> bytes:
    return "".join(json.dumps(row) + "\n" for row in rows).encode()


FORMATS: dict[str, Callable[[Rows], bytes]] = {
    "avro": avro,
    "snappy.parquet": parquet,
    "json": lines,
    "json.gz": lambda rows: gzip.compress(lines(rows)),
}


def rows_of(partition: int, begin: int, end: int) -> Rows:
    """What the sink writes of a range: tombstones and poison left out, and no word of offsets."""
    here = (pl.col(PARTITION) == partition) & (pl.col(OFFSET) >= begin)
    return [event(partition, offset) for offset in written(end=end).filter(here)[OFFSET].to_list()]


class Open(MemoryLog):
    """A topic with an open transaction at its end."""

    def ends(self) -> dict[int, int]:
        return dict.fromkeys(PARTITIONS, 30)


class Folder:
    """A connector's folder with two objects a partition, of offsets 0-5 and 6-19."""

    def __init__(self, path: Path, kind: str = "avro") -> None:
        self.path, self.kind = path, kind
        for partition in PARTITIONS:
            self.put(partition, 0, rows_of(partition, 0, 6))
            self.put(partition, 6, rows_of(partition, 6, 20))

    def put(self, partition: int, offset: int, rows: Rows, folder: str = "") -> Path:
        path = (
            self.path
            / "samples"
            / (folder or f"partition={partition}")
            / f"samples+{partition}+{offset:010}.{self.kind}"
        )
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(FORMATS[self.kind](rows))
        return path

    def object(self, partition: int, offset: int) -> Path:
        return next((self.path / "samples").rglob(f"samples+{partition}+{offset:010}.*"))

    def check(self, proofs: Proofs | None = None, log: MemoryLog | None = None, dead: pl.DataFrame = DEAD) -> SinkProof:
        def dead_letters(spans: Sequence[Span]) -> pl.DataFrame:
            return dead

        sink = ConfluentSink(LocalFileSystem(), str(self.path), lambda: datetime.now(UTC))
        decoder = avro_codec.Decoder(SCHEMA, lambda _: SCHEMA)
        check = Check("samples", log or MemoryLog(end=20), decoder, sink, dead_letters)
        return check_sink(check, proofs if proofs is not None else Proofs(), 0)


@pytest.fixture
def folder(tmp_path: Path) -> Folder:
    return Folder(tmp_path)


def found(proof: SinkProof) -> list[tuple[Kind, int | None, int | None, int | None, int]]:
    return [(one.kind, one.partition, one.first, one.last, one.count) for one in proof.findings]


@pytest.mark.parametrize("kind", FORMATS)
def test_every_format_is_proven(tmp_path: Path, kind: str) -> None:
    folder, proofs, log = Folder(tmp_path, kind), Proofs(), MemoryLog(end=20)
    proof = folder.check(proofs, log)
    assert proof.findings == []
    assert proof.total("in_sink") == 30
    assert [(one.first, one.last) for one in proof.partitions] == [(0, 18), (0, 18)]
    log.reads.clear()
    again = folder.check(proofs, log)
    assert again.findings == []
    assert (log.reads, again.read) == ([], 0)


@pytest.mark.parametrize("kind", FORMATS)
def test_a_changed_row_is_found_in_every_format(tmp_path: Path, kind: str) -> None:
    folder = Folder(tmp_path, kind)
    rows = rows_of(1, 0, 6)
    rows[3] = rows[3] | {"value": 99.5}
    folder.put(1, 0, rows)
    assert found(folder.check()) == [(Kind.CHANGED, 1, 3, 3, 1)]


@pytest.mark.parametrize("kind", FORMATS)
def test_a_truncated_object_is_found_in_every_format(tmp_path: Path, kind: str) -> None:
    folder, proofs = Folder(tmp_path, kind), Proofs()
    assert folder.check(proofs).proven
    damaged = folder.object(0, 6)
    damaged.write_bytes(damaged.read_bytes()[: damaged.stat().st_size // 2])
    proof = folder.check(proofs)
    assert (Kind.UNDECODABLE, 0, 6) in [(one.kind, one.partition, one.first) for one in proof.findings]
    assert {(one.partition, one.last) for one in proof.of(Kind.BEHIND)} == {(0, 18)}


def test_positions_that_a_transform_put_into_the_rows_are_used(tmp_path: Path) -> None:
    folder = Folder(tmp_path, "snappy.parquet")
    for partition in PARTITIONS:
        rows = table(written(begin=6, end=20).filter(pl.col(PARTITION) == partition))
        # In no order: a partitioner by a field mixes records.
        pq.write_table(rows.take(list(reversed(range(rows.num_rows)))), folder.object(partition, 6))
    assert folder.check().findings == []


def test_a_deleted_object_is_missing(folder: Folder) -> None:
    proofs = Proofs()
    assert folder.check(proofs).proven
    folder.object(1, 0).unlink()
    for _ in range(2):
        proof = folder.check(proofs)
        assert [one for one in found(proof) if one[0] == Kind.MISSING] == [(Kind.MISSING, 1, 0, 5, 5)]
    folder.put(1, 0, rows_of(1, 0, 6))
    assert folder.check(proofs).findings == []


def test_the_same_object_in_another_folder_is_a_duplicate(folder: Folder) -> None:
    proofs = Proofs()
    assert folder.check(proofs).proven
    folder.put(1, 0, rows_of(1, 0, 6), "year=2026")
    for _ in range(2):
        assert found(folder.check(proofs)) == [(Kind.DUPLICATE, 1, 0, 5, 5)]


def test_the_same_rows_under_another_offset_are_found(folder: Folder) -> None:
    folder.put(0, 3, rows_of(0, 0, 6))
    assert {Kind.DUPLICATE, Kind.CHANGED} >= {one.kind for one in folder.check().faults} != set()


@pytest.mark.parametrize(("partition", "offset"), [(1, 20), (1, 5_000), (7, 0)], ids=["end", "later", "no partition"])
def test_the_same_rows_where_kafka_has_none_are_unexpected(folder: Folder, partition: int, offset: int) -> None:
    proofs = Proofs()
    assert folder.check(proofs).proven
    folder.put(partition, offset, rows_of(1, 0, 6))
    for _ in range(2):
        assert found(folder.check(proofs)) == [(Kind.UNEXPECTED, partition, offset, offset + 4, 5)]


def test_what_an_open_transaction_may_have_is_not_unexpected(folder: Folder) -> None:
    rows = rows_of(1, 6, 20)
    folder.put(1, 6, [*rows, *rows[:2]])
    folder.put(0, 20, rows_of(0, 0, 6))
    assert folder.check(log=Open(end=20)).findings == []


@pytest.mark.parametrize("chunk", [2_000_000, 3])
def test_rows_after_an_objects_last_record_are_unexpected(
    folder: Folder, monkeypatch: pytest.MonkeyPatch, chunk: int
) -> None:
    monkeypatch.setattr("heartwatch.proof.segments._CHUNK_OFFSETS", chunk)
    proofs = Proofs()
    assert folder.check(proofs).proven
    rows = rows_of(1, 6, 20)
    folder.put(1, 6, [*rows, *rows[:2]])
    for _ in range(2):
        proof = folder.check(proofs)
        assert found(proof) == [(Kind.UNEXPECTED, 1, 20, 20, 2)]
        assert proof.total("unexpected") == 2
    folder.put(1, 6, rows)
    assert folder.check(proofs).findings == []


def test_an_object_without_a_name_of_the_sinks_is_told(folder: Folder) -> None:
    copy = folder.object(0, 0)
    copy.with_name("copy of " + copy.name + ".bak").write_bytes(copy.read_bytes())
    proof = folder.check()
    assert [(one.kind, one.fault) for one in proof.findings] == [(Kind.STRANGER, True)]


def test_a_record_left_out_in_the_middle_is_named(folder: Folder) -> None:
    rows = rows_of(0, 6, 20)
    del rows[4]
    folder.put(0, 6, rows)
    left_out = [offset for offset in places(20) if offset >= 6][4]
    assert found(folder.check()) == [(Kind.MISSING, 0, left_out, left_out, 1)]


def test_what_a_dead_letter_accounts_for_is_not_counted_in(folder: Folder) -> None:
    assert found(folder.check(dead=DEAD.clear())) == [(Kind.MISSING, *POISON, POISON[1], 1)]


def test_a_wrong_type_is_a_wrong_schema(tmp_path: Path) -> None:
    folder = Folder(tmp_path, "snappy.parquet")
    folder.put(0, 0, [row | {"value": str(row["value"])} for row in rows_of(0, 0, 6)])
    proof = folder.check()
    assert [one.partition for one in proof.of(Kind.WRONG_SCHEMA)] == [0]
    assert proof.total("changed") == 4


def test_new_objects_are_read_from_where_an_object_begins(folder: Folder) -> None:
    # The last object goes on past what Kafka shows at the first check: its rows can only be counted from its beginning.
    proofs = Proofs()
    proof = folder.check(proofs, Open(end=12))
    assert proof.findings == []
    assert folder.check(proofs).findings == []
    assert [(one.begin, one.end, one.rows) for one in proofs.of(1)] == [(0, 20, 15)]


@pytest.mark.parametrize("start", [1, 2, 3, 5, 6, 7, 14, 18, 19, 20])
def test_an_object_of_which_kafka_has_removed_the_first_records_is_proven(folder: Folder, start: int) -> None:
    proofs = Proofs()
    assert folder.check(proofs, MemoryLog(start=start, end=20)).findings == []
    assert folder.check(proofs, MemoryLog(start=start, end=20)).read == 0
    folder.put(1, 20, rows_of(1, 20, 30))
    folder.put(0, 20, rows_of(0, 20, 30))
    assert folder.check(proofs, MemoryLog(start=start, end=30)).findings == []


def test_a_fault_after_the_records_that_kafka_has_removed_is_named(folder: Folder) -> None:
    rows = rows_of(1, 6, 20)
    folder.put(1, 6, [*rows[:4], rows[4] | {"value": 99.5}, *rows[5:-1]])
    changed, last = ([offset for offset in places(20) if offset >= 6 and offset != POISON[1]][at] for at in (4, -1))
    assert found(folder.check(log=MemoryLog(start=8, end=20))) == [
        (Kind.CHANGED, 1, changed, changed, 1),
        (Kind.BEHIND, 1, last, last, 1),
    ]


def test_an_object_that_is_written_again_is_compared_though_kafka_has_removed_records_before_it(folder: Folder) -> None:
    # The sink writes an object again, the same, when its task ended before the offsets were committed.
    proofs, log = Proofs(), MemoryLog(start=3, end=20)
    assert folder.check(proofs).proven
    os.utime(folder.object(0, 6), ns=(1, 1))
    proof = folder.check(proofs, log)
    assert proof.findings == []
    assert (proof.partitions[0].proven_before, proof.partitions[0].in_sink) == (2, 13)
    folder.object(0, 6).unlink()
    for _ in range(2):
        assert {one.kind for one in folder.check(proofs, log).findings} <= {Kind.BEHIND, Kind.OBJECT_GONE}


def test_objects_are_read_whole_however_a_check_is_cut(folder: Folder, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("heartwatch.proof.segments._CHUNK_OFFSETS", 3)
    proofs = Proofs()
    proof = folder.check(proofs)
    assert proof.findings == []
    assert proof.total("in_sink") == 30
    assert sum(one.rows for one in proofs.segments.values()) == 30
