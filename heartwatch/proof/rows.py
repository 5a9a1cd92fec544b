"""Reads the sink's rows, several objects at a time, as hashes by partition and offset."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass
from itertools import groupby

import numpy as np
import polars as pl
import pyarrow as pa

from heartwatch.proof import compare
from heartwatch.proof.findings import Kind
from heartwatch.proof.hashes import KEYS, ROW_SCHEMA, positions, row_frame, wanted_schema
from heartwatch.proof.ledger import Ledger
from heartwatch.proof.look import Look
from heartwatch.proof.segments import Span
from heartwatch.sink.reader import OFFSET, PARTITION, ObjectError, SinkObject

_SMALL_ROWS = 20_000
"""An object with fewer rows is hashed together with others."""
_TOGETHER_ROWS = 100_000
"""So many rows of small objects are hashed at once."""
_THREADS = 8


@dataclass(frozen=True)
class ObjectRows:
    """What was read of an object.

    Attributes:
        source: the object.
        rows: hashes of its rows.
        wrong: which fields its schema has wrong.
        problem: why it can't be read; empty where it can.
        batches: rows that aren't hashed yet.
        surplus: how many rows without offsets are left when Kafka's records are over.
        unplaced: how many rows of an object with offsets have none.
    """

    source: SinkObject
    rows: pl.DataFrame
    wrong: frozenset[str] = frozenset()
    problem: str = ""
    batches: Sequence[pa.RecordBatch] = ()
    surplus: int = 0
    unplaced: int = 0


@dataclass(frozen=True)
class Surplus:
    """Rows without offsets that come after all records which they may be.

    Attributes:
        source: their object.
        count: how many.
        read_to: up to where Kafka's records were read.
    """

    source: SinkObject
    count: int
    read_to: int


@dataclass(frozen=True)
class KafkaRecords:
    """What Kafka has in the offsets that are read of the sink: rows without offsets get theirs from it.

    Attributes:
        records: hashes of the records, in order.
        dead_letters: partition and offset of each record in the dead-letter topic.
    """

    records: pl.DataFrame
    dead_letters: pl.DataFrame


class RowReader:
    """Reads the objects that one look sees."""

    def __init__(self, look: Look, ledger: Ledger, read_paths: set[str]) -> None:
        """Prepare; nothing is read yet.

        Args:
            look: the objects that there are.
            ledger: gets the objects that can't be read, or whose schema is wrong.
            read_paths: gets the paths of the objects that were read.
        """
        self._look, self._ledger, self._read_paths = look, ledger, read_paths
        self._check, self._fields = look.check, look.check.fields

    def rows(self, spans: Sequence[Span]) -> pl.DataFrame:
        """Read the sink's rows of spans.

        Raises:
            heartwatch.sink.reader.SinkError: the store is away.
        """
        found, _ = self._read_spans(spans, None)
        return found

    def rows_beside(self, spans: Sequence[Span], kafka: KafkaRecords) -> tuple[pl.DataFrame, list[Surplus]]:
        """Read the sink's rows of spans, those without offsets beside Kafka's records; return which of them are no record's, too.

        Raises:
            heartwatch.sink.reader.SinkError: the store is away.
        """
        return self._read_spans(spans, kafka)

    def places(self, objects: Sequence[SinkObject]) -> Iterator[ObjectRows]:
        """Read only where the rows of objects belong: partition and offset, -1 where a row doesn't say."""
        return self._in_threads(self._read_places, objects)

    def keys(self, spans: Sequence[Span], key: str) -> pl.DataFrame:
        """Read partition, offset and the key of the sink's rows in spans, for the objects that have the key's field."""
        schema = pa.schema([pa.field(PARTITION, pa.int32()), pa.field(OFFSET, pa.int64()), self._fields.field(key)])
        frames = [pl.DataFrame(schema={name: ROW_SCHEMA[name] for name in KEYS} | {"key": pl.String})]
        for source, batch in self.batches(self._look.objects_of(spans), schema):
            if key in batch.schema.names:
                partition, offset = positions(batch, _first_place(source))
                text = pl.Series(pl.from_arrow(batch.column(key))).cast(pl.String)
                frames.append(pl.DataFrame({"partition": partition, "offset": offset, "key": text}))
        return pl.concat(frames)

    def batches(self, objects: Iterable[SinkObject], schema: pa.Schema) -> Iterator[tuple[SinkObject, pa.RecordBatch]]:
        """Return the rows of those objects that can be read; the others are reported already."""
        for source in objects:
            with suppress(ObjectError):
                for batch in self._check.sink.read(self._check.topic, source, schema):
                    yield source, batch

    def _read_spans(self, spans: Sequence[Span], kafka: KafkaRecords | None) -> tuple[pl.DataFrame, list[Surplus]]:
        if not spans:
            return pl.DataFrame(schema=ROW_SCHEMA), []
        by_partition: dict[int, list[tuple[int, int]]] = {}
        for partition, begin, end in spans:
            by_partition.setdefault(partition, []).append((begin, end))
        kept = rows_of(by_partition)
        frames: list[pl.DataFrame] = []
        reads: list[ObjectRows] = []
        surplus: list[Surplus] = []
        waiting = 0
        for found in self._in_threads(lambda source: self._read(source, kept, kafka), self._look.objects_of(spans)):
            if found.surplus:
                read_to = max(end for _, end in by_partition[found.source.partitions[0]])
                surplus.append(Surplus(found.source, found.surplus, read_to))
            self._ledger.report_unplaced(found.source, found.unplaced)
            reads.append(found)
            waiting += sum(batch.num_rows for batch in found.batches)
            if waiting >= _TOGETHER_ROWS:
                frames += self._hashed_together(reads, kept)
                reads, waiting = [], 0
        frames += self._hashed_together(reads, kept)
        return (pl.concat(frames) if frames else pl.DataFrame(schema=ROW_SCHEMA)), surplus

    def _in_threads(
        self, work: Callable[[SinkObject], ObjectRows], objects: Sequence[SinkObject]
    ) -> Iterator[ObjectRows]:
        """Do work on objects, a few at once: most of the time goes by waiting for the store."""

        def guarded(source: SinkObject) -> ObjectRows:
            try:
                return work(source)
            except ObjectError as error:
                return ObjectRows(source, pl.DataFrame(schema=ROW_SCHEMA), problem=str(error))

        with ThreadPoolExecutor(_THREADS, "sink") as pool:
            for found in pool.map(guarded, objects):
                self._read_paths.add(found.source.path)
                if found.problem:
                    self._ledger.report_unreadable(found.source, found.problem)
                yield found

    def _read(self, source: SinkObject, kept: pl.Expr, kafka: KafkaRecords | None) -> ObjectRows:
        """Read an object's rows; those of a small one are left as they are, to be hashed together with others."""
        frames, wrong, counted, waiting, unplaced = [], set(), False, 0, 0
        place = _first_place(source)
        batches: list[pa.RecordBatch] = []
        for read in self._check.sink.read(self._check.topic, source, wanted_schema(self._fields)):
            counted = OFFSET not in read.schema.names
            unplaced += _unplaced(read)
            waiting += read.num_rows
            batches.append(read)
            if counted or waiting >= _SMALL_ROWS:
                for batch in batches:
                    frame, faults = row_frame(batch, self._check.topic, self._fields, place)
                    place = (place[0], place[1] + batch.num_rows)
                    wrong |= faults
                    frames.append(frame if counted else frame.filter(kept))
                batches, waiting = [], 0
        rows = pl.concat(frames) if frames else pl.DataFrame(schema=ROW_SCHEMA)
        surplus = 0
        if counted:
            if kafka is not None:
                rows, surplus = self._placed(source, rows, kafka)
            rows = rows.filter(kept)
        return ObjectRows(source, rows, frozenset(wrong), batches=batches, surplus=surplus, unplaced=unplaced)

    def _placed(self, source: SinkObject, rows: pl.DataFrame, kafka: KafkaRecords) -> tuple[pl.DataFrame, int]:
        """Give the rows of an object the offsets of the records that they are; return how many are left over, too."""
        (partition, first), log_starts = _first_place(source), self._look.log_starts
        due = compare.due_records(kafka.records, kafka.dead_letters, partition, first)
        if first < log_starts.get(partition, 0):
            rows = compare.without_removed(rows, due)
        placed = compare.place_counted(rows, due)
        return placed, rows.height - placed.height

    def _hashed_together(self, reads: Sequence[ObjectRows], kept: pl.Expr) -> Iterator[pl.DataFrame]:
        """Return the rows of objects as frames, those together that are of one schema; report the schemas that are wrong."""
        for found in reads:
            yield found.rows
            if found.wrong and found.rows.height:
                self._report_schema(found.source, found.wrong)
        pieces = [(found.source, batch) for found in reads for batch in found.batches]
        for _, group in groupby(pieces, key=lambda piece: piece[1].schema):
            same = list(group)
            for batch in pa.Table.from_batches([batch for _, batch in same]).combine_chunks().to_batches():
                frame, wrong = row_frame(batch, self._check.topic, self._fields, (0, 0))
                yield (rows := frame.filter(kept))
                for source in {source.path: source for source, _ in same}.values() if wrong and rows.height else ():
                    self._report_schema(source, wrong)

    def _report_schema(self, source: SinkObject, wrong: Iterable[str]) -> None:
        self._ledger.report_object(Kind.WRONG_SCHEMA, source.path, "; ".join(sorted(wrong)), source)

    def _read_places(self, source: SinkObject) -> ObjectRows:
        schema = wanted_schema(pa.schema([])).remove(0).remove(2)
        frames = [
            pl.DataFrame(dict(zip(KEYS, positions(batch, _first_place(source)), strict=True)))
            for batch in self._check.sink.read(self._check.topic, source, schema)
        ]
        nothing = pl.DataFrame(schema={name: ROW_SCHEMA[name] for name in KEYS})
        return ObjectRows(source, pl.concat(frames) if frames else nothing)


def rows_of(spans: Mapping[int, Sequence[tuple[int, int]]]) -> pl.Expr:
    """Return which rows lie in spans, partitions of the same spans together."""
    same: dict[tuple[tuple[int, int], ...], list[int]] = {}
    for partition, found in spans.items():
        same.setdefault(tuple(found), []).append(partition)
    terms = [
        pl.col("partition").is_in(partitions)
        & pl.any_horizontal((pl.col("offset") >= begin) & (pl.col("offset") < end) for begin, end in found)
        for found, partitions in same.items()
    ]
    return pl.any_horizontal(terms)


def _first_place(source: SinkObject) -> tuple[int, int]:
    return source.partitions[0], source.offsets[0]


def _unplaced(batch: pa.RecordBatch) -> int:
    """Return how many rows say no partition or no offset, though others of their object may."""
    columns = [batch.column(name) for name in (PARTITION, OFFSET) if name in batch.schema.names]
    if not any(column.null_count for column in columns):
        return 0
    return int(np.any([column.is_null().to_numpy(zero_copy_only=False) for column in columns], axis=0).sum())
