"""Sums up proven segments again where objects of theirs are gone or others came: equal sums need no second comparison."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

from heartwatch.proof import compare
from heartwatch.proof.findings import Finding, Kind
from heartwatch.proof.hashes import DIGEST, sum_digests
from heartwatch.proof.ledger import Ledger
from heartwatch.proof.look import Look
from heartwatch.proof.rows import RowReader, rows_of
from heartwatch.proof.segments import Proofs, Segment, SegmentState, Span, batches
from heartwatch.sink.reader import SinkObject


@dataclass(frozen=True)
class Sum:
    """What the sink has of a segment now.

    Attributes:
        counted: whether rows there carry no offsets: they can't be told apart without Kafka's records.
        rows: how many there are; 0 where they are counted.
        digest: sum of their hashes modulo 2^64.
    """

    counted: bool
    rows: int
    digest: int


class Recheck:
    """Looks at the proven segments that may have been touched."""

    def __init__(self, look: Look, proofs: Proofs, reader: RowReader, ledger: Ledger) -> None:
        """Prepare; nothing is read yet.

        Args:
            look: what there is.
            proofs: what is proven; brought up to date.
            reader: reads the sink's rows.
            ledger: gets what is wrong.
        """
        self._look, self._proofs, self._reader, self._ledger = look, proofs, reader, ledger
        self._check = look.check

    def run(self, touched: Sequence[Span], gone: Sequence[SinkObject]) -> list[Segment]:
        """Sum up the sink's rows of segments again; return those that aren't as they were proven.

        What Kafka still has of them is forgotten, so that it is compared with it.

        Args:
            touched: where something is no longer as it was.
            gone: objects that are no longer as they were.
        """
        broken = [segment for segment in self._proofs.segments.values() if segment.state == SegmentState.BROKEN]
        suspects = {(found.partition, found.begin): found for found in [*self._proofs.overlapping(touched), *broken]}
        return [
            segment
            for segment, found in self._sums(list(suspects.values()))
            if not self._holds(segment, found, touched, gone)
        ]

    def _holds(self, segment: Segment, found: Sum, touched: Sequence[Span], gone: Sequence[SinkObject]) -> bool:
        key = (segment.partition, segment.begin)
        in_kafka = segment.begin >= self._start(segment.partition)
        # Without the same hash function, and without Kafka, numbers of rows are all that can be compared.
        same = found.digest == segment.digest if segment.hashed_by == DIGEST else not in_kafka
        if not found.counted and found.rows == segment.rows and same:
            state = SegmentState.PROVEN if segment.state == SegmentState.BROKEN else segment.state
            self._proofs.segments[key] = replace(segment, state=state)
            return True
        if in_kafka:
            del self._proofs.segments[key]
        elif self._keeps_front(segment, touched):
            pass
        elif self._check.accept_losses:
            known = segment
            if not found.counted:
                known = replace(segment, rows=found.rows, digest=found.digest, hashed_by=DIGEST)
            self._proofs.segments[key] = replace(known, state=SegmentState.UNCHECKED)
        else:
            self._proofs.segments[key] = replace(segment, state=SegmentState.BROKEN)
            self._ledger.findings.append(broken_finding(segment, None if found.counted else found.rows, gone))
        return False

    def _start(self, partition: int) -> int:
        return self._look.log_starts.get(partition, 0)

    def _keeps_front(self, segment: Segment, touched: Sequence[Span]) -> bool:
        """Keep what Kafka no longer has of a segment, and forget the rest; False where what it no longer has may be touched."""
        start = self._start(segment.partition)
        if segment.state == SegmentState.BROKEN or not segment.begin < start < segment.end:
            return False
        if any(
            partition == segment.partition and begin < start and end > segment.begin
            for partition, begin, end in touched
        ):
            return False
        front = replace(segment, end=start, last=None if segment.last is None else min(segment.last, start - 1))
        ((_, found),) = self._sums([front])
        rows, digest = found.rows, found.digest
        if found.counted:
            # Such rows can't be summed up without Kafka's records, but numbers can: those that it has are no longer in front.
            span = (segment.partition, start, segment.end)
            dead = self._check.dead_letters([span])
            there = compare.due_records(self._look.kafka([span]), dead, segment.partition, start)
            rows, digest = segment.rows - there.height, segment.digest
        front = replace(front, records=min(segment.records, rows), rows=rows, digest=digest, hashed_by=DIGEST)
        self._proofs.segments[segment.partition, segment.begin] = front
        return True

    def _sums(self, segments: Sequence[Segment]) -> Iterator[tuple[Segment, Sum]]:
        """Return what the sink has of each segment now."""
        for batch in batches(segments):
            spans = [(segment.partition, segment.begin, segment.end) for segment in batch]
            counted = [any(found.counted for found in self._look.objects_of([span])) for span in spans]
            rows = self._reader.rows([span for span, skip in zip(spans, counted, strict=True) if not skip])
            for segment, span, skip in zip(batch, spans, counted, strict=True):
                own = rows.filter(rows_of({span[0]: [span[1:]]}))
                yield segment, Sum(skip, *sum_digests(own).get(segment.partition, (0, 0)))


def broken_finding(segment: Segment, rows: int | None, gone: Sequence[SinkObject]) -> Finding:
    """Return what is wrong with a segment whose rows are others now, and whose records Kafka no longer has.

    Args:
        segment: as it was proven.
        rows: how many rows the sink has there now; None where only the objects that are gone tell.
        gone: objects that are no longer as they were.
    """
    touching = [found for found in gone if found.overlaps(segment.partition, segment.begin, segment.end)]
    first = max(segment.begin, min((found.offsets[0] for found in touching), default=segment.begin))
    last = min(segment.end, max((found.offsets[1] for found in touching), default=segment.end)) - 1
    if rows is None:
        rows = 0 if touching else 2 * segment.rows
    kind = Kind.LOST if rows < segment.rows else Kind.DUPLICATE if rows > segment.rows else Kind.CHANGED
    count = abs(rows - segment.rows) or segment.rows
    text = "these were proven, the sink's rows are others now, and Kafka no longer has the records"
    return Finding(kind, segment.partition, first, last, count, text)
