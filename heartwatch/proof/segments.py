"""What is known of a topic's sink from earlier checks: proven segments, and the objects that were there. Pure."""

from __future__ import annotations

from bisect import bisect_left, bisect_right
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import datetime
from enum import StrEnum

from heartwatch.sink.reader import SinkObject

Span = tuple[int, int, int]
"""Partition, first offset, and the offset after the last one."""

SEGMENT_OFFSETS = 1_000_000
"""Longest segment: what has to be read again when an object of it changes."""
_CHUNK_OFFSETS = 2_000_000
"""Offsets that are read at once, about: what a check needs memory for."""
_MODULUS = 2**64


class SegmentState(StrEnum):
    """What is known of a segment."""

    PROVEN = "proven"
    """Every record of Kafka's was accounted for."""
    BROKEN = "broken"
    """It was proven; the sink's rows are others now, and Kafka no longer has the records."""
    UNCHECKED = "unchecked"
    """Kafka removed the records before a check; the sink has a row for each offset, or somebody accepted the loss."""


@dataclass(frozen=True)
class Segment:
    """Offsets of a partition that need no comparison any more, as long as the sink's objects stay.

    Attributes:
        partition: Kafka partition.
        begin: first offset.
        end: offset after the last one.
        records: Kafka's records there.
        rows: the sink's rows there.
        digest: sum of the rows' hashes modulo 2^64.
        hashed_by: which hash function.
        first: first offset with a row; None without rows.
        last: last offset with a row.
        state: what is known of it.
    """

    partition: int
    begin: int
    end: int
    records: int
    rows: int
    digest: int
    hashed_by: str
    first: int | None = None
    last: int | None = None
    state: SegmentState = SegmentState.PROVEN


class SegmentIndex:
    """Segments by partition and offset."""

    def __init__(self, by_partition: Mapping[int, Sequence[Segment]]) -> None:
        """Make an index of segments that don't overlap, each partition's in order."""
        self._segments = by_partition
        self._begins = {partition: [segment.begin for segment in found] for partition, found in by_partition.items()}

    def overlapping(self, spans: Iterable[Span]) -> list[Segment]:
        """Return the segments that have offsets in any of the spans."""
        found: dict[tuple[int, int], Segment] = {}
        for partition, begin, end in spans:
            segments, begins = self._segments.get(partition, ()), self._begins.get(partition, ())
            for segment in segments[max(0, bisect_right(begins, begin) - 1) : bisect_left(begins, end)]:
                if segment.end > begin:
                    found[segment.partition, segment.begin] = segment
        return list(found.values())


@dataclass
class Proofs:
    """What is known of a topic's sink.

    Attributes:
        base: by partition the first offset that checks are responsible for.
        segments: by partition and first offset; they don't overlap.
        objects: by path.
        waiting: by partition the first record that the sink hadn't got, and when that was found first (by the store's clock).
    """

    base: dict[int, int] = field(default_factory=dict)
    segments: dict[tuple[int, int], Segment] = field(default_factory=dict)
    objects: dict[str, SinkObject] = field(default_factory=dict)
    waiting: dict[int, tuple[int, datetime]] = field(default_factory=dict)

    def copy(self) -> Proofs:
        """Return a copy that changes leave alone."""
        return Proofs(dict(self.base), dict(self.segments), dict(self.objects), dict(self.waiting))

    def of(self, partition: int) -> list[Segment]:
        """Return a partition's segments in order."""
        return sorted(
            (segment for segment in self.segments.values() if segment.partition == partition),
            key=lambda segment: segment.begin,
        )

    def overlapping(self, spans: Iterable[Span]) -> list[Segment]:
        """Return the segments that have offsets in any of the spans."""
        return self.index().overlapping(spans)

    def index(self) -> SegmentIndex:
        """Return the segments as they are now in an order in which spans find them quickly."""
        by_partition: dict[int, list[Segment]] = {}
        for _, segment in sorted(self.segments.items()):
            by_partition.setdefault(segment.partition, []).append(segment)
        return SegmentIndex(by_partition)

    def unproven(self, partition: int, begin: int, end: int) -> list[Span]:
        """Return what of a range no segment covers."""
        spans, position = [], begin
        for segment in self.of(partition):
            if segment.end <= position:
                continue
            if segment.begin >= end:
                break
            if segment.begin > position:
                spans.append((partition, position, segment.begin))
            position = max(position, segment.end)
        if position < end:
            spans.append((partition, position, end))
        return spans

    def add(self, segment: Segment) -> None:
        """Add a segment that overlaps no other; it joins the one before where both together aren't too long."""
        before = next((known for known in self.of(segment.partition) if known.end == segment.begin), None)
        if (
            before is not None
            and (before.state, before.hashed_by) == (segment.state, segment.hashed_by)
            and segment.end - before.begin <= SEGMENT_OFFSETS
        ):
            segment = _joined(before, segment)
        self.segments[segment.partition, segment.begin] = segment


def _joined(before: Segment, after: Segment) -> Segment:
    return replace(
        before,
        end=after.end,
        records=before.records + after.records,
        rows=before.rows + after.rows,
        digest=(before.digest + after.digest) % _MODULUS,
        first=before.first if before.first is not None else after.first,
        last=after.last if after.last is not None else before.last,
    )


def batches(segments: Sequence[Segment]) -> Iterator[list[Segment]]:
    """Return segments in their order, so many together as are read at once."""
    batch: list[Segment] = []
    offsets = 0
    for segment in segments:
        batch.append(segment)
        offsets += segment.end - segment.begin
        if offsets >= _CHUNK_OFFSETS:
            yield batch
            batch, offsets = [], 0
    if batch:
        yield batch


def chunks(spans: Sequence[Span], starts: Mapping[int, Sequence[int]]) -> Iterator[list[tuple[int, Span]]]:
    """Cut spans into parts that are read at once, all partitions going on together as their offsets were written together.

    Args:
        spans: what is to be read.
        starts: by partition, first offsets (sorted) of objects whose rows carry none: such an object can only be read whole, so
            that parts are cut there.

    Yields:
        the spans of a part, each after the offset from which on to read.
    """
    total = sum(end - begin for _, begin, end in spans)
    count = max(1, -(-total // _CHUNK_OFFSETS))
    reached = {span: span[1] for span in spans}
    for number in range(1, count + 1):
        part = []
        for span in spans:
            partition, begin, end = span
            cut = end if number == count else _snap(begin + (end - begin) * number // count, starts.get(partition, ()))
            if cut > reached[span]:
                part.append((_snap(reached[span], starts.get(partition, ())), (partition, reached[span], cut)))
                reached[span] = cut
        if part:
            yield part


def _snap(offset: int, starts: Sequence[int]) -> int:
    """Return the last start that isn't after an offset; the offset where there is none."""
    position = bisect_right(starts, offset)
    return starts[position - 1] if position else offset
