"""Proves a sink complete: Kafka against what the connector wrote, by partition and offset, and record by record.

What Kafka has is found by reading it, not by counting: offsets without a record are markers of transactions, or aborted or
compacted records, and no loss. A record that Kafka has is accounted for when the sink has it with the same contents, when it is a
tombstone (a sink of rows has nothing to write), or when the connector put it into its dead-letter topic with the reason.

What was proven once isn't read again: the next check lists the sink's objects, and as long as those that it knows are there
unchanged, only new offsets and new objects are looked into. Where an object is gone or another one, the segments that it touched
are summed up again; where the sums differ, they are compared with Kafka once more. Offsets that Kafka removed before they were
proven are lost unless the sink has a row for each of them.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from itertools import groupby
from typing import Protocol

import numpy as np
import polars as pl
import pyarrow as pa

from heartwatch.proof import compare
from heartwatch.proof.compare import MOST_RUNS, Ranges
from heartwatch.proof.findings import Finding, Kind, PartitionProof, SinkProof, merge_runs
from heartwatch.proof.hashes import (
    DIGEST,
    KEYS,
    ROW_SCHEMA,
    comparable,
    differences,
    in_order,
    kafka_frame,
    off_times,
    positions,
    row_frame,
    sum_digests,
    wanted_schema,
    within,
)
from heartwatch.proof.segments import Proofs, Segment, SegmentIndex, SegmentState, Span, chunks
from heartwatch.sink.reader import (
    NO_END,
    OFFSET,
    PARTITION,
    TIMESTAMP,
    Listing,
    ObjectError,
    ObjectFault,
    SinkObject,
    SinkReader,
)
from kafkakit.avro_codec import Decoder
from kafkakit.topic_reader import Records

_CHUNK_OFFSETS = 2_000_000
_SMALL_ROWS = 20_000
_TOGETHER_ROWS = 100_000
_THREADS = 8
_POLL_SECONDS = 0.5
_EXPLAINED = 3
_MACHINE_CLOCK_SECONDS = 60.0
_MODULUS = 2**64
_OBJECT_KINDS = {
    ObjectFault.ABSENT: Kind.OBJECT_GONE,
    ObjectFault.RESIZED: Kind.OBJECT_RESIZED,
    ObjectFault.ORPHAN: Kind.ORPHAN,
    ObjectFault.STRANGER: Kind.STRANGER,
}


class Log(Protocol):
    """A topic, as a check reads it."""

    def ranges(self) -> dict[int, tuple[int, int]]:
        """Return for each partition the first offset, and the one after the last that a read_committed reader may see."""

    def ends(self) -> dict[int, int]:
        """Return for each partition the offset after the last one, open transactions' too."""

    def read(self, ranges: Ranges) -> Iterator[Records]:
        """Read the committed records of ranges."""


@dataclass(frozen=True)
class Check:
    """What a check of one topic's sink needs.

    Attributes:
        topic: Kafka topic.
        log: reads it.
        decoder: of its values.
        sink: where the connector writes.
        dead_letters: gives partition and offset of the topic's records in the dead-letter topic that lie in some spans.
        limits: offsets to look at by partition; None for all that the proofs are responsible for.
        compacted_key: field that repeats the key, for a topic that Kafka compacts: rows whose records a later one of the same key
            has replaced are no fault.
        orphan_seconds: how old an object that belongs to nothing may be.
        clock_seconds: how far a record's time may be from those around it until it is told.
        accept_losses: take what is lost for known: it isn't told again.
    """

    topic: str
    log: Log
    decoder: Decoder
    sink: SinkReader
    dead_letters: Callable[[Sequence[Span]], pl.DataFrame]
    limits: Ranges | None = None
    compacted_key: str | None = None
    orphan_seconds: float = 3_600
    clock_seconds: float = 1_800
    accept_losses: bool = False


def check_sink(
    check: Check,
    proofs: Proofs,
    deadline_seconds: float,
    save: Callable[[Proofs, str], None] = lambda _proofs, _version: None,
    clock: Callable[[], float] = time.monotonic,
    machine_time: Callable[[], datetime] = lambda: datetime.now(UTC),
) -> SinkProof:
    """Compare what isn't proven yet, and again what the sink lacks until it has all or the time is over.

    Args:
        check: what to look at.
        proofs: what is known from earlier checks; brought up to date.
        deadline_seconds: how long the sink may take to get what Kafka had at the beginning.
        save: keeps the proofs and the sink's version; called after each part, so that a check that is ended early isn't in vain.
        clock: seconds, monotonic.
        machine_time: this machine's time.

    Raises:
        SinkError: the sink can't be asked.
    """
    began = clock()
    run = _Run(check, proofs, save)
    while True:
        look = _Look(run)
        look.work()
        missing = any(one.kind == Kind.MISSING for one in look.findings)
        if not missing or not _wait_for_version(check, look.listing.version, began + deadline_seconds, clock):
            break
    return replace(look.result(machine_time()), seconds=clock() - began)


def _wait_for_version(check: Check, known: str, deadline: float, clock: Callable[[], float]) -> bool:
    """Wait until the sink has written something; False when it doesn't before the deadline."""
    while clock() < deadline:
        if check.sink.version(check.topic) != known:
            return True
        time.sleep(_POLL_SECONDS)
    return False


@dataclass(frozen=True)
class _Read:
    """What was read of an object; `problem` says why it can't be read, `wrong` which fields its schema has wrong.

    `batches` are rows that aren't hashed yet, `surplus` is how many rows without offsets are left when Kafka's records are over,
    `nowhere` is how many rows of an object with offsets have none.
    """

    one: SinkObject
    rows: pl.DataFrame
    wrong: frozenset[str] = frozenset()
    problem: str = ""
    batches: Sequence[pa.RecordBatch] = ()
    surplus: int = 0
    nowhere: int = 0


class _Run:
    """What lasts from one look at the sink to the next.

    Attributes:
        targets: by partition where Kafka ended when the check began: what is before has to be in the sink before the deadline.
        partitions: counts of what is proven.
        gone: findings of objects that are gone; a look forgets what it has told.
        off: records with strange times, by partition.
    """

    def __init__(self, check: Check, proofs: Proofs, save: Callable[[Proofs, str], None]) -> None:
        self.check, self.proofs, self.save = check, proofs, save
        spans = check.log.ranges()
        self.targets = {partition: end for partition, (_, end) in self.limits(spans).items()}
        self.partitions: dict[int, PartitionProof] = {}
        self.gone: list[Finding] = []
        self.off: dict[int, Finding] = {}
        self.read_paths: set[str] = set()

    def limits(self, spans: Mapping[int, tuple[int, int]]) -> dict[int, tuple[int, int]]:
        """Return the offsets to look at of what Kafka has."""
        wanted = self.check.limits or {}
        return {partition: _within(span, wanted.get(partition)) for partition, span in spans.items()}


class _Look:
    """One look at the sink."""

    def __init__(self, run: _Run) -> None:
        self.run, self.check, self.proofs = run, run.check, run.proofs
        self.fields = self.check.decoder.arrow_schema
        # In this order no row of the listed objects can lie past Kafka's end.
        self.listing: Listing = self.check.sink.listing(self.check.topic, self.check.orphan_seconds)
        spans = self.check.log.ranges()
        self.log_starts = {partition: begin for partition, (begin, _) in spans.items()}
        self.limits = run.limits(spans)
        self.findings: list[Finding] = []
        self.unsettled: set[str] = set()
        self.told: set[tuple[Kind, str]] = set()
        self.past: dict[int, int] = {}
        self.partitions: dict[int, PartitionProof] = {}
        for partition, (begin, _) in self.limits.items():
            self.proofs.base.setdefault(partition, begin)

    def work(self) -> None:
        """Look at the objects, then at the offsets that aren't proven."""
        for faulty in self.listing.faulty:
            kind = _OBJECT_KINDS[faulty.fault]
            self._tell_object(kind, faulty.path, faulty.detail, faulty.object, fault=kind != Kind.ORPHAN)
        known = self.proofs.objects
        gone = [one for path, one in known.items() if self._now_at(path) != one.identity]
        new = [
            one
            for path, one in self.listing.objects.items()
            if path not in known or known[path].identity != one.identity
        ]
        touched = [*self._spans_of(gone), *self._strays(new)]
        broken = [one for one in self.proofs.segments.values() if one.state == SegmentState.BROKEN]
        suspects = {(one.partition, one.begin): one for one in [*self.proofs.overlapping(touched), *broken]}
        failed = self._recheck(list(suspects.values()), gone, touched)
        self._tell_gone(gone, failed)
        self._begin_counting()
        self._look_before_the_log()
        todo = [
            span
            for partition, (begin, end) in self.limits.items()
            for span in self.proofs.unproven(partition, max(begin, self.log_starts[partition]), end)
        ]
        for part in chunks(todo, _CHUNK_OFFSETS, self._starts()):
            self._compare(part)
        self._remember(gone)
        self.run.save(self.proofs, self.listing.version)

    def _begin_counting(self) -> None:
        """Begin with what earlier checks have proven and earlier looks have counted."""
        counted = self.run.partitions
        for partition, span in self.limits.items():
            if partition not in counted:
                counted[partition] = PartitionProof(partition, *span)
                _count_proven(counted[partition], self.proofs.of(partition))
            self.partitions[partition] = replace(counted[partition], unexpected=self.past.get(partition, 0))

    # Objects

    def _now_at(self, path: str) -> str | None:
        one = self.listing.objects.get(path)
        return one.identity if one is not None else None

    def _spans_of(self, objects: Iterable[SinkObject]) -> list[Span]:
        """Return the spans that objects touch, of partitions that there are."""
        return [
            (partition, max(one.offsets[0], 0), one.offsets[1])
            for one in objects
            for partition in self.limits
            if one.partitions[0] <= partition <= one.partitions[1]
        ]

    def _strays(self, new: Sequence[SinkObject]) -> list[Span]:
        """Return where new objects have rows in proven segments; tell rows that can't be Kafka's at all.

        By their statistics most new objects have none: only the others are read, and only their rows' places.
        """
        index = self.proofs.index()
        doubtful = [one for one in new if (self._is_past(one) if one.counted else self._may_stray(one, index))]
        touched = [span for one in new if one.counted for span in self._spans_of([one])]
        beyond: list[pl.DataFrame] = []
        for read in self._in_threads(self._places, doubtful):
            somewhere = read.rows.filter((pl.col("partition") >= 0) & (pl.col("offset") >= 0))
            self._tell_nowhere(read.one, read.rows.height - somewhere.height)
            for (partition,), part in somewhere.group_by("partition"):
                low, high = int(part["offset"].min()), int(part["offset"].max())  # type: ignore[arg-type]
                end = self.limits[partition][1] if partition in self.limits else 0
                if partition in self.limits and low < end:
                    offsets = part["offset"].to_numpy()
                    for one in index.overlapping([(int(partition), low, high + 1)]):
                        inside = offsets[(offsets >= one.begin) & (offsets < one.end)]
                        if len(inside):
                            touched.append((one.partition, int(inside.min()), int(inside.max()) + 1))
                if high >= end:
                    beyond.append(part.filter(pl.col("offset") >= end))
                    self.unsettled.add(read.one.path)
        if beyond and self.check.limits is None:
            self._tell_beyond(pl.concat(beyond))
        return touched

    def _is_past(self, one: SinkObject) -> bool:
        """Whether an object whose rows carry no offsets begins where Kafka has no record yet."""
        return self.check.limits is None and one.offsets[0] >= self.limits.get(one.partitions[0], (0, 0))[1]

    def _may_stray(self, one: SinkObject, index: SegmentIndex) -> bool:
        spans = self._spans_of([one])
        if index.overlapping(spans):
            return True
        past = any(end > self.limits[partition][1] for partition, _, end in spans)
        return self.check.limits is None and (past or one.partitions[1] > max(self.limits, default=-1))

    def _tell_surplus(self, found: _Read, read_to: int) -> None:
        """Tell rows without offsets that come after all records which they may be: none of Kafka's is left for them.

        Args:
            found: what was read of their object.
            read_to: up to where Kafka's records were read.
        """
        one, partition = found.one, found.one.partitions[0]
        if one.offsets[1] > read_to:
            # The object may go on past what was read: an open transaction's records, or those that a check is limited to.
            is_end = self.check.limits is None and read_to == self.limits[partition][1]
            if not is_end or self.check.log.ends()[partition] > read_to:
                return
        self.unsettled.add(one.path)
        self.partitions[partition].unexpected += found.surplus
        text = f"{one.path}: rows after all that Kafka has from its first offset on"
        self.findings.append(Finding(Kind.UNEXPECTED, partition, read_to, read_to, found.surplus, text))

    def _tell_nowhere(self, one: SinkObject, count: int) -> None:
        """Tell rows that don't say which record they are, such as those that somebody else has put into the table."""
        if count:
            self.unsettled.add(one.path)
            self._tell_object(Kind.UNEXPECTED, one.path, f"{count:,} rows without partition or offset", one)

    def _tell_beyond(self, rows: pl.DataFrame) -> None:
        """Tell rows at offsets that Kafka hasn't reached even now."""
        ends = self.check.log.ends()
        bounds = pl.DataFrame(list(ends.items()), schema={"partition": pl.Int32, "log_end": pl.Int64}, orient="row")
        past = rows.join(bounds, on="partition", how="left").filter(pl.col("offset") >= pl.col("log_end").fill_null(0))
        for (partition,), part in past.group_by("partition", maintain_order=True):
            first, last = int(part["offset"].min()), int(part["offset"].max())  # type: ignore[arg-type]
            text = "past Kafka's end" if partition in ends else "the topic has no such partition"
            self.findings.append(Finding(Kind.UNEXPECTED, int(partition), first, last, part.height, text))
            self.past[int(partition)] = part.height

    def _recheck(
        self, suspects: Sequence[Segment], gone: Sequence[SinkObject], touched: Sequence[Span]
    ) -> list[Segment]:
        """Sum up the sink's rows of segments again; return those that aren't as they were proven.

        What Kafka still has of them is forgotten, so that it is compared with it.

        Args:
            suspects: the segments.
            gone: objects that are no longer as they were.
            touched: where something is no longer as it was.
        """
        failed = []
        for one, counted, (height, digest) in self._sums(suspects):
            key = (one.partition, one.begin)
            in_kafka = one.begin >= self.log_starts.get(one.partition, 0)
            # Without the same hash function, and without Kafka, numbers of rows are all that can be compared.
            same = digest == one.digest if one.hashed_by == DIGEST else not in_kafka
            if not counted and height == one.rows and same:
                self.proofs.segments[key] = replace(one, state=_sound(one.state))
                continue
            failed.append(one)
            if in_kafka:
                del self.proofs.segments[key]
            elif self._keeps_front(one, touched):
                continue
            elif self.check.accept_losses:
                known = one if counted else replace(one, rows=height, digest=digest, hashed_by=DIGEST)
                self.proofs.segments[key] = replace(known, state=SegmentState.UNCHECKED)
            else:
                self.proofs.segments[key] = replace(one, state=SegmentState.BROKEN)
                self._tell_broken(one, None if counted else height, gone)
        return failed

    def _keeps_front(self, one: Segment, touched: Sequence[Span]) -> bool:
        """Keep what Kafka no longer has of a segment, and forget the rest; False where what it no longer has may be touched."""
        start = self.log_starts.get(one.partition, 0)
        if one.state == SegmentState.BROKEN or not one.begin < start < one.end:
            return False
        if any(partition == one.partition and begin < start and end > one.begin for partition, begin, end in touched):
            return False
        front = replace(one, end=start, last=None if one.last is None else min(one.last, start - 1))
        ((_, counted, (rows, digest)),) = self._sums([front])
        if counted:
            # Such rows can't be summed up without Kafka's records, but numbers can: those that it has are no longer in front.
            span = (one.partition, start, one.end)
            there = compare.due_records(self._kafka([span]), self.check.dead_letters([span]), one.partition, start)
            rows, digest = one.rows - there.height, one.digest
        front = replace(front, records=min(one.records, rows), rows=rows, digest=digest, hashed_by=DIGEST)
        self.proofs.segments[one.partition, one.begin] = front
        return True

    def _sums(self, segments: Sequence[Segment]) -> Iterator[tuple[Segment, bool, tuple[int, int]]]:
        """Return how many rows each segment has now and the sum of their hashes; and whether rows there carry no offsets."""
        batch: list[Segment] = []
        for position, one in enumerate(segments):
            batch.append(one)
            if position + 1 < len(segments) and sum(each.end - each.begin for each in batch) < _CHUNK_OFFSETS:
                continue
            spans = [(each.partition, each.begin, each.end) for each in batch]
            counted = [any(found.counted for found in self._objects_of([span])) for span in spans]
            rows = self._rows([span for span, skip in zip(spans, counted, strict=True) if not skip])
            for each, span, skip in zip(batch, spans, counted, strict=True):
                mine = rows.filter(_filter({span[0]: [span[1:]]}))
                yield each, skip, sum_digests(mine).get(each.partition, (0, 0))
            batch = []

    def _tell_broken(self, one: Segment, rows: int | None, gone: Sequence[SinkObject]) -> None:
        touching = [found for found in gone if found.overlaps(one.partition, one.begin, one.end)]
        first = max(one.begin, min((found.offsets[0] for found in touching), default=one.begin))
        last = min(one.end, max((found.offsets[1] for found in touching), default=one.end)) - 1
        if rows is None:
            rows = 0 if touching else 2 * one.rows
        kind = Kind.LOST if rows < one.rows else Kind.DUPLICATE if rows > one.rows else Kind.CHANGED
        count = abs(rows - one.rows) or one.rows
        text = "these were proven, the sink's rows are others now, and Kafka no longer has the records"
        self.findings.append(Finding(kind, one.partition, first, last, count, text))

    def _tell_gone(self, gone: Sequence[SinkObject], failed: Sequence[Segment]) -> None:
        """Tell objects that are no longer there, unless others have their rows now, as after a compaction of the table."""
        told_already = {one.path for one in self.listing.faulty}
        for one in gone:
            if self._now_at(one.path) is not None or one.path in told_already:
                continue
            if any(one.overlaps(segment.partition, segment.begin, segment.end) for segment in failed):
                told = self._object_finding(
                    Kind.OBJECT_GONE, one.path, "its rows were proven, and it is no longer among the sink's", one
                )
                self.run.gone.append(told)

    def _tell_object(self, kind: Kind, path: str, text: str, one: SinkObject | None, fault: bool = True) -> None:
        """Tell what is wrong with an object, once."""
        if (kind, path) not in self.told:
            self.told.add((kind, path))
            self.findings.append(self._object_finding(kind, path, text, one, fault))

    @staticmethod
    def _object_finding(kind: Kind, path: str, text: str, one: SinkObject | None, fault: bool = True) -> Finding:
        detail = text if path in text else f"{path}: {text}"
        if one is None or one.partitions[0] != one.partitions[1]:
            return Finding(kind, detail=detail, fault=fault)
        last = one.offsets[1] - 1 if one.offsets[1] != NO_END else one.offsets[0]
        return Finding(kind, one.partitions[0], one.offsets[0], last, 1, detail, fault)

    def _remember(self, gone: Sequence[SinkObject]) -> None:
        """Note the objects that are there and settled; those that are gone stay known where their rows can't be compared."""
        needed = [one for one in self.proofs.segments.values() if one.state == SegmentState.BROKEN]
        for one in gone:
            if not any(one.overlaps(segment.partition, segment.begin, segment.end) for segment in needed):
                self.proofs.objects.pop(one.path, None)
        for path, one in self.listing.objects.items():
            if path not in self.unsettled:
                self.proofs.objects[path] = one

    def _starts(self) -> dict[int, list[int]]:
        """Return by partition where the objects begin whose rows carry no offsets."""
        found: dict[int, set[int]] = {}
        for one in self.listing.objects.values():
            if one.counted:
                found.setdefault(one.partitions[0], set()).add(one.offsets[0])
        return {partition: sorted(starts) for partition, starts in found.items()}

    # Offsets

    def _look_before_the_log(self) -> None:
        """Tell the offsets that Kafka removed before they were proven and for which the sink has no row."""
        for partition, start in self.log_starts.items():
            begin = self.proofs.base[partition]
            spans = self.proofs.unproven(partition, begin, start) if begin < start else []
            for span in [part for whole in chunks(spans, _CHUNK_OFFSETS, {}) for _, part in whole]:
                rows = self._rows([span])
                dead = self.check.dead_letters([span])
                present = np.unique(np.concatenate([rows["offset"].to_numpy(), dead["offset"].to_numpy()]))
                lost = _holes(present[(present >= span[1]) & (present < span[2])], span)
                proof = self.partitions[partition]
                first = last = None
                if rows.height:
                    first, last = int(rows["offset"].min()), int(rows["offset"].max())  # type: ignore[arg-type]
                    proof.saw(first, last)
                twice = self._tell_twice(proof, rows)
                if lost and not self.check.accept_losses:
                    self._tell_lost(proof, lost)
                elif not twice:
                    height, digest = sum_digests(rows).get(partition, (0, 0))
                    self.proofs.add(Segment(*span, height, height, digest, DIGEST, first, last, SegmentState.UNCHECKED))

    def _tell_twice(self, proof: PartitionProof, rows: pl.DataFrame) -> bool:
        """Tell rows that the sink has more than once, which needs no Kafka to see; return whether there are any."""
        copies = rows.group_by("offset").len().filter(pl.col("len") > 1).sort("offset")
        offsets, surplus = copies["offset"].to_numpy(), copies["len"].to_numpy().astype(np.int64) - 1
        proof.duplicates += int(surplus.sum())
        cuts = np.flatnonzero(np.diff(offsets) > 1) + 1
        runs = zip(np.split(offsets, cuts), np.split(surplus, cuts), strict=True) if len(offsets) else ()
        self.findings += [
            Finding(Kind.DUPLICATE, proof.partition, int(run[0]), int(run[-1]), int(count.sum()))
            for run, count in list(runs)[:MOST_RUNS]
        ]
        return not copies.is_empty()

    def _tell_lost(self, proof: PartitionProof, lost: Sequence[tuple[int, int]]) -> None:
        proof.lost += sum(last - first + 1 for first, last in lost)
        proof.compared += sum(last - first + 1 for first, last in lost)
        proof.gaps += len(lost)
        text = "Kafka removed them unproven, and the sink has no rows for them; transactions' markers may be among them"
        self.findings += [
            Finding(Kind.LOST, proof.partition, first, last, last - first + 1, text) for first, last in lost[:MOST_RUNS]
        ]

    def _compare(self, part: Sequence[tuple[int, Span]]) -> None:
        """Compare spans of offsets, each read from an offset on, and keep what is proven."""
        # An object may begin before the first record that Kafka still has.
        part = [(max(begin, self.log_starts[span[0]]), span) for begin, span in part]
        wide = [(partition, begin, end) for begin, (partition, _, end) in part]
        kafka = self._kafka(wide)
        dead = self.check.dead_letters(wide)
        rows = in_order(self._without_superseded(self._rows(wide, kafka, dead), kafka))
        judged = compare.judge(kafka, rows, dead)
        ends = compare.on_the_way(judged, self.run.targets)
        judged, rows = compare.before(judged, ends), compare.before(rows, ends)
        kept = []
        for begin, (partition, first, last) in part:
            end = min(last, ends.get(partition, last))
            if end > first:
                kept.append((partition, first, self._keep((partition, first, end), begin, judged, rows)))
        good = pl.concat([within(judged, *span) for span in kept]) if kept else judged.clear()
        counts = compare.counts(judged)
        _add_counts(self.run.partitions, counts if good.height == judged.height else compare.counts(good))
        _add_counts(self.partitions, counts)
        self.findings += self._explained(compare.runs(judged))
        for span in kept:
            self._note_times(span[0], within(kafka, *span))
        self.run.save(self.proofs, self.listing.version)

    def _kafka(self, spans: Sequence[Span]) -> pl.DataFrame:
        """Read Kafka's records of spans; a partition with several is read as often."""
        layers: list[dict[int, tuple[int, int]]] = []
        for partition, begin, end in spans:
            layer = next((one for one in layers if partition not in one), None)
            if layer is None:
                layers.append(layer := {})
            layer[partition] = (begin, end)
        return kafka_frame((records for layer in layers for records in self.check.log.read(layer)), self.check.decoder)

    def _keep(self, span: Span, read_from: int, judged: pl.DataFrame, rows: pl.DataFrame) -> int:
        """Keep what of a span is proven: all of it, or what lies before the first fault; return up to where that is."""
        partition, begin, end = span
        said, mine = within(judged, *span), within(rows, *span)
        proven_to = compare.first_fault(said, end)
        _note_rows(self.partitions[partition], mine, end - read_from)
        if proven_to > begin:
            good, here = within(mine, partition, begin, proven_to), within(said, partition, begin, proven_to)
            digest, first, last = _note_rows(self.run.partitions[partition], good, proven_to - begin)
            records = int(here["in_kafka"].sum())
            self.proofs.add(Segment(partition, begin, proven_to, records, good.height, digest, DIGEST, first, last))
        return proven_to

    def _note_times(self, partition: int, kafka: pl.DataFrame) -> None:
        times, offsets = kafka["timestamp"].to_numpy(), kafka["offset"].to_numpy()
        off = off_times(times, self.check.clock_seconds)
        if off.any():
            before = self.run.off.get(partition)
            first = before.first if before is not None else int(offsets[off][0])
            count = int(off.sum()) + (before.count if before is not None else 0)
            text = f"times more than {self.check.clock_seconds:g} s from those around them"
            last = int(offsets[off][-1])
            self.run.off[partition] = Finding(Kind.CLOCK, partition, first, last, count, text, fault=False)

    # Rows

    def _objects_of(self, spans: Sequence[Span]) -> list[SinkObject]:
        return [one for one in self.listing.objects.values() if any(one.overlaps(*span) for span in spans)]

    def _rows(
        self, spans: Sequence[Span], kafka: pl.DataFrame | None = None, dead: pl.DataFrame | None = None
    ) -> pl.DataFrame:
        """Read the sink's rows of spans; tell the objects that can't be read, or whose schema is wrong."""
        if not spans:
            return pl.DataFrame(schema=ROW_SCHEMA)
        by_partition: dict[int, list[tuple[int, int]]] = {}
        for partition, begin, end in spans:
            by_partition.setdefault(partition, []).append((begin, end))
        kept = _filter(by_partition)

        def read(one: SinkObject) -> _Read:
            return self._read(one, kept, kafka, dead)

        frames: list[pl.DataFrame] = []
        reads: list[_Read] = []
        waiting = 0
        for found in self._in_threads(read, self._objects_of(spans)):
            if found.surplus:
                self._tell_surplus(found, max(end for _, end in by_partition[found.one.partitions[0]]))
            self._tell_nowhere(found.one, found.nowhere)
            reads.append(found)
            waiting += sum(batch.num_rows for batch in found.batches)
            if waiting >= _TOGETHER_ROWS:
                frames += self._framed(reads, kept)
                reads, waiting = [], 0
        frames += self._framed(reads, kept)
        return pl.concat(frames) if frames else pl.DataFrame(schema=ROW_SCHEMA)

    def _read(self, one: SinkObject, kept: pl.Expr, kafka: pl.DataFrame | None, dead: pl.DataFrame | None) -> _Read:
        """Read an object's rows; those of a small one are left as they are, to be hashed together with others."""
        frames, wrong, counted, waiting, nowhere = [], set(), False, 0, 0
        place = (one.partitions[0], one.offsets[0])
        batches: list[pa.RecordBatch] = []
        for batch in self.check.sink.read(self.check.topic, one, wanted_schema(self.fields)):
            counted = OFFSET not in batch.schema.names
            nowhere += _nowhere(batch)
            waiting += batch.num_rows
            batches.append(batch)
            if counted or waiting >= _SMALL_ROWS:
                for each in batches:
                    frame, faults = row_frame(each, self.check.topic, self.fields, place)
                    place = (place[0], place[1] + each.num_rows)
                    wrong |= faults
                    frames.append(frame if counted else frame.filter(kept))
                batches, waiting = [], 0
        rows = pl.concat(frames) if frames else pl.DataFrame(schema=ROW_SCHEMA)
        surplus = 0
        if counted and kafka is not None and dead is not None:
            due = compare.due_records(kafka, dead, one.partitions[0], one.offsets[0])
            if one.offsets[0] < self.log_starts.get(one.partitions[0], 0):
                rows = compare.without_removed(rows, due)
            surplus, rows = rows.height, compare.place_counted(rows, due)
            surplus -= rows.height
        rows = rows.filter(kept) if counted else rows
        return _Read(one, rows, frozenset(wrong), batches=batches, surplus=surplus, nowhere=nowhere)

    def _framed(self, reads: Sequence[_Read], kept: pl.Expr) -> Iterator[pl.DataFrame]:
        """Return the rows of objects as frames, those together that are of one schema; tell the schemas that are wrong."""
        for found in reads:
            yield found.rows
            if found.wrong and found.rows.height:
                self._tell_object(Kind.WRONG_SCHEMA, found.one.path, "; ".join(sorted(found.wrong)), found.one)
        pieces = [(found.one, batch) for found in reads for batch in found.batches]
        for _, group in groupby(pieces, key=lambda piece: piece[1].schema):
            same = list(group)
            for batch in pa.Table.from_batches([batch for _, batch in same]).combine_chunks().to_batches():
                frame, wrong = row_frame(batch, self.check.topic, self.fields, (0, 0))
                yield (rows := frame.filter(kept))
                for path, one in {one.path: one for one, _ in same}.items() if wrong and rows.height else ():
                    self._tell_object(Kind.WRONG_SCHEMA, path, "; ".join(sorted(wrong)), one)

    def _places(self, one: SinkObject) -> _Read:
        """Read only where an object's rows belong."""
        schema = wanted_schema(pa.schema([])).remove(0).remove(2)
        frames = [
            pl.DataFrame(dict(zip(KEYS, positions(batch, (one.partitions[0], one.offsets[0])), strict=True)))
            for batch in self.check.sink.read(self.check.topic, one, schema)
        ]
        return _Read(
            one, pl.concat(frames) if frames else pl.DataFrame(schema={name: ROW_SCHEMA[name] for name in KEYS})
        )

    def _in_threads(self, work: Callable[[SinkObject], _Read], objects: Sequence[SinkObject]) -> Iterator[_Read]:
        """Do work on objects, a few at once: most of the time goes by waiting for the store."""

        def guarded(one: SinkObject) -> _Read:
            try:
                return work(one)
            except ObjectError as error:
                return _Read(one, pl.DataFrame(schema=ROW_SCHEMA), problem=str(error))

        with ThreadPoolExecutor(_THREADS, "sink") as pool:
            for found in pool.map(guarded, objects):
                self.run.read_paths.add(found.one.path)
                if found.problem:
                    self.unsettled.add(found.one.path)
                    self._tell_object(Kind.UNDECODABLE, found.one.path, found.problem, found.one)
                yield found

    def _without_superseded(self, rows: pl.DataFrame, kafka: pl.DataFrame) -> pl.DataFrame:
        """Take out rows whose records Kafka has compacted away: a later record of the same key is the evidence."""
        key = self.check.compacted_key
        surplus = rows.join(kafka, on=KEYS, how="anti") if key is not None else rows.clear()
        if key is None or surplus.is_empty():
            return rows
        bounds = surplus.group_by("partition").agg(begin=pl.col("offset").min(), end=pl.col("offset").max() + 1)
        spans = [(int(partition), int(begin), int(end)) for partition, begin, end in bounds.iter_rows()]
        keys = self._keys_in_sink(spans, key).join(surplus.select(KEYS), on=KEYS, how="semi")
        ranges = {partition: (self.log_starts[partition], self.limits[partition][1]) for partition, _, _ in spans}
        latest = (
            pl.concat([_keys_in_kafka(records) for records in self.check.log.read(ranges)])
            .group_by("partition", "key")
            .agg(latest=pl.col("offset").max())
        )
        gone = keys.join(latest, on=["partition", "key"]).filter(pl.col("latest") > pl.col("offset"))
        for (partition,), part in gone.group_by("partition"):
            self.partitions[int(partition)].superseded += part.height
        return rows.join(gone, on=KEYS, how="anti")

    def _keys_in_sink(self, spans: Sequence[Span], key: str) -> pl.DataFrame:
        schema = pa.schema([pa.field(PARTITION, pa.int32()), pa.field(OFFSET, pa.int64()), self.fields.field(key)])
        frames = [pl.DataFrame(schema={name: ROW_SCHEMA[name] for name in KEYS} | {"key": pl.String})]
        for one, batch in self._readable(self._objects_of(spans), schema):
            if key in batch.schema.names:
                partition, offset = positions(batch, (one.partitions[0], one.offsets[0]))
                text = pl.Series(pl.from_arrow(batch.column(key))).cast(pl.String)
                frames.append(pl.DataFrame({"partition": partition, "offset": offset, "key": text}))
        return pl.concat(frames)

    def _readable(
        self, objects: Sequence[SinkObject], schema: pa.Schema
    ) -> Iterator[tuple[SinkObject, pa.RecordBatch]]:
        """Return the rows of those objects that can be read; of the others it is told already."""
        for one in objects:
            with suppress(ObjectError):
                for batch in self.check.sink.read(self.check.topic, one, schema):
                    yield one, batch

    # What is told

    def _explained(self, found: Sequence[Finding]) -> list[Finding]:
        """Say of the first changed rows which fields differ."""
        left = _EXPLAINED
        told = []
        for one in found:
            if one.kind == Kind.CHANGED and left:
                left -= 1
                told.append(self._explain(one))
            else:
                told.append(one)
        return told

    def _explain(self, one: Finding) -> Finding:
        partition, offset = one.partition or 0, one.first or 0
        kafka: dict[str, object] = {}
        for records in self.check.log.read({partition: (offset, offset + 1)}):
            decoded = self.check.decoder.decode(records.value.to_pylist())
            times = pa.array(records.timestamp, pa.timestamp("ms"))
            kafka = {**decoded.batch.to_pylist()[0], TIMESTAMP: times[0].as_py()}
        there = self._objects_of([(partition, offset, offset + 1)])
        for found, batch in self._readable(there, wanted_schema(self.fields)):
            if OFFSET not in batch.schema.names:
                return replace(one, detail=found.path)
            partitions, offsets = positions(batch, (found.partitions[0], found.offsets[0]))
            rows = batch.filter(pa.array((partitions == partition) & (offsets == offset)))
            for row in comparable(rows, self.fields):
                if other := differences(kafka, row):
                    values = "; ".join(f"{name}: {values}" for name, values in other.items())
                    return replace(one, detail=f"{', '.join(other)} differ", sample=f"offset {offset}: {values}")
        return one

    def result(self, machine_time: datetime) -> SinkProof:
        """Return what was found."""
        now = self.check.sink.now()
        findings = sorted((self._behind(one) for one in merge_runs([*self.findings, *self.run.gone])), key=_place)
        waiting = self._note_waiting([one for one in findings if one.kind == Kind.BEHIND], now)
        self.run.save(self.proofs, self.listing.version)
        skew = abs((machine_time - now).total_seconds())
        if skew > _MACHINE_CLOCK_SECONDS:
            text = f"this machine's clock is {skew:,.0f} s from the store's: set it by NTP"
            findings.append(Finding(Kind.CLOCK, detail=text))
        written = self.listing.written_at
        return SinkProof(
            self.check.topic,
            [proof for _, proof in sorted(self.partitions.items())],
            [*findings, *self.run.off.values()],
            objects=len(self.listing.objects),
            read=len(self.run.read_paths),
            written_at=written,
            age_seconds=(now - written).total_seconds() if written is not None else None,
            waiting_seconds=waiting,
        )

    def _behind(self, one: Finding) -> Finding:
        """Tell records after the sink's last one from those that it has left out."""
        if one.kind != Kind.MISSING or one.partition is None or one.first is None:
            return one
        last = self.partitions[one.partition].last
        return replace(one, kind=Kind.BEHIND) if last is None or one.first > last else one

    def _note_waiting(self, behind: Sequence[Finding], now: datetime) -> float | None:
        """Note since when records wait for the sink, and return for how many seconds at least."""
        known = self.proofs.waiting
        first = {one.partition: one.first for one in behind if one.partition is not None and one.first is not None}
        self.proofs.waiting = {
            # The same record, or one before it, may have been waiting when the last check looked.
            partition: known[partition] if partition in known and known[partition][0] >= offset else (offset, now)
            for partition, offset in first.items()
        }
        since = min((moment for _, moment in self.proofs.waiting.values()), default=None)
        return (now - since).total_seconds() if since is not None else None


def _place(one: Finding) -> tuple[int, int]:
    return (-1 if one.partition is None else one.partition, one.first or 0)


def _count_proven(proof: PartitionProof, segments: Sequence[Segment]) -> None:
    """Note what earlier checks have proven of a partition."""
    digest = 0
    for one in segments:
        if one.state != SegmentState.BROKEN:
            proof.proven_before += one.rows
            digest += one.digest
            if one.first is not None and one.last is not None:
                proof.saw(one.first, one.last)
    proof.digest = f"{digest % _MODULUS:016x}"


def _within(span: tuple[int, int], limit: tuple[int, int] | None) -> tuple[int, int]:
    if limit is None:
        return span
    begin = max(span[0], limit[0])
    return begin, max(begin, min(span[1], limit[1]))


def _sound(state: SegmentState) -> SegmentState:
    return SegmentState.PROVEN if state == SegmentState.BROKEN else state


def _filter(spans: Mapping[int, Sequence[tuple[int, int]]]) -> pl.Expr:
    """Return which rows lie in spans, partitions of the same ones together."""
    same: dict[tuple[tuple[int, int], ...], list[int]] = {}
    for partition, found in spans.items():
        same.setdefault(tuple(found), []).append(partition)
    terms = [
        pl.col("partition").is_in(partitions)
        & pl.any_horizontal((pl.col("offset") >= begin) & (pl.col("offset") < end) for begin, end in found)
        for found, partitions in same.items()
    ]
    return pl.any_horizontal(terms)


def _note_rows(proof: PartitionProof, rows: pl.DataFrame, offsets: int) -> tuple[int, int | None, int | None]:
    """Note rows of a partition; return the sum of their hashes, and their first and last offset."""
    proof.compared += offsets
    if rows.is_empty():
        return 0, None, None
    first, last = int(rows["offset"].min()), int(rows["offset"].max())  # type: ignore[arg-type]
    proof.saw(first, last)
    ((_, digest),) = sum_digests(rows).values()
    proof.digest = f"{(int(proof.digest, 16) + digest) % _MODULUS:016x}"
    return digest, first, last


def _add_counts(partitions: Mapping[int, PartitionProof], counts: Mapping[int, Mapping[str, int]]) -> None:
    for partition, found in counts.items():
        for name, count in found.items():
            setattr(partitions[partition], name, getattr(partitions[partition], name) + count)


def _nowhere(batch: pa.RecordBatch) -> int:
    """Return how many rows say no partition or no offset, though others of their object may."""
    columns = [batch.column(name) for name in (PARTITION, OFFSET) if name in batch.schema.names]
    if not any(column.null_count for column in columns):
        return 0
    return int(np.any([column.is_null().to_numpy(zero_copy_only=False) for column in columns], axis=0).sum())


def _holes(present: np.ndarray[tuple[int], np.dtype[np.int64]], span: Span) -> list[tuple[int, int]]:
    """Return first and last of each run of offsets of a span that aren't present (sorted, unique)."""
    edges = np.concatenate([[span[1] - 1], present, [span[2]]])
    wide = np.flatnonzero(np.diff(edges) > 1)
    return [(int(edges[index]) + 1, int(edges[index + 1]) - 1) for index in wide]


def _keys_in_kafka(records: Records) -> pl.DataFrame:
    keys = [key.decode(errors="replace") if key is not None else None for key in records.key.to_pylist()]
    return pl.DataFrame({"partition": records.partition, "offset": records.offset, "key": keys})
