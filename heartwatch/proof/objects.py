"""What changed among the sink's objects since the last check, and where that touches what is proven."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence

import polars as pl

from heartwatch.proof.findings import Finding, Kind
from heartwatch.proof.ledger import Ledger, object_finding
from heartwatch.proof.look import Look
from heartwatch.proof.rows import ObjectRows, RowReader
from heartwatch.proof.segments import Proofs, Segment, SegmentIndex, SegmentState, Span
from heartwatch.sink.reader import ObjectFault, SinkObject

_KINDS = {
    ObjectFault.ABSENT: Kind.OBJECT_GONE,
    ObjectFault.RESIZED: Kind.OBJECT_RESIZED,
    ObjectFault.ORPHAN: Kind.ORPHAN,
    ObjectFault.STRANGER: Kind.STRANGER,
}


class ObjectChanges:
    """The objects that one look sees, beside those that are known from earlier checks.

    Attributes:
        gone: known objects that are no longer as they were.
        new: objects that aren't known, or not as they are now.
    """

    def __init__(self, look: Look, proofs: Proofs, reader: RowReader, ledger: Ledger) -> None:
        """Compare the listing with the objects that are known; nothing is read yet.

        Args:
            look: the objects that there are.
            proofs: what is proven, and of which objects.
            reader: reads objects.
            ledger: gets what is wrong.
        """
        self._look, self._proofs, self._reader, self._ledger = look, proofs, reader, ledger
        self._whole = look.check.limits is None
        known = proofs.objects
        self.gone = [found for path, found in known.items() if look.identity(path) != found.identity]
        self.new = [
            found
            for path, found in look.listing.objects.items()
            if path not in known or known[path].identity != found.identity
        ]

    def report_faulty(self) -> None:
        """Report what the listing itself shows to be wrong."""
        for faulty in self._look.listing.faulty:
            kind = _KINDS[faulty.fault]
            self._ledger.report_object(kind, faulty.path, faulty.detail, faulty.object, fault=kind != Kind.ORPHAN)

    def touched(self) -> list[Span]:
        """Return where something is no longer as it was proven; report rows that can't be Kafka's at all.

        Raises:
            heartwatch.sink.reader.SinkError: the store is away.
        """
        return [*self._look.spans_of(self.gone), *self._strays()]

    def gone_for_good(self, failed: Sequence[Segment]) -> Iterator[Finding]:
        """Return findings of the objects that are gone, unless others have their rows now, as after a compaction of the table.

        Args:
            failed: segments whose rows aren't as they were proven.
        """
        reported = {faulty.path for faulty in self._look.listing.faulty}
        for found in self.gone:
            if self._look.identity(found.path) is None and found.path not in reported and _overlaps(found, failed):
                text = "its rows were proven, and it is no longer among the sink's"
                yield object_finding(Kind.OBJECT_GONE, found.path, text, found)

    def remember(self) -> None:
        """Note the objects that are there and settled; those that are gone stay known where their rows can't be compared."""
        needed = [segment for segment in self._proofs.segments.values() if segment.state == SegmentState.BROKEN]
        for found in self.gone:
            if not _overlaps(found, needed):
                self._proofs.objects.pop(found.path, None)
        for path, found in self._look.listing.objects.items():
            if path not in self._ledger.unsettled:
                self._proofs.objects[path] = found

    def _strays(self) -> list[Span]:
        """Return where new objects have rows in proven segments.

        By their statistics most new objects have none: only the others are read, and only their rows' places.
        """
        index = self._proofs.index()
        doubtful = [found for found in self.new if self._is_doubtful(found, index)]
        touched = [span for found in self.new if found.counted for span in self._look.spans_of([found])]
        past_end: list[pl.DataFrame] = []
        for read in self._reader.places(doubtful):
            placed = read.rows.filter((pl.col("partition") >= 0) & (pl.col("offset") >= 0))
            self._ledger.report_unplaced(read.source, read.rows.height - placed.height)
            for (partition,), part in placed.group_by("partition"):
                touched += _stray_spans(index, int(partition), part, self._end(int(partition)))
                past_end += self._past_end(read, int(partition), part)
        if past_end and self._whole:
            self._report_past_end(pl.concat(past_end))
        return touched

    def _end(self, partition: int) -> int:
        return self._look.limits[partition][1] if partition in self._look.limits else 0

    def _is_doubtful(self, found: SinkObject, index: SegmentIndex) -> bool:
        """Whether an object may have rows where it shouldn't, by what is known of it without reading it."""
        limits = self._look.limits
        if found.counted:
            # Its rows carry no offsets: does it begin where Kafka has no record yet?
            return self._whole and found.offsets[0] >= self._end(found.partitions[0])
        spans = self._look.spans_of([found])
        if index.overlapping(spans):
            return True
        past = any(end > limits[partition][1] for partition, _, end in spans)
        return self._whole and (past or found.partitions[1] > max(limits, default=-1))

    def _past_end(self, read: ObjectRows, partition: int, part: pl.DataFrame) -> list[pl.DataFrame]:
        end = self._end(partition)
        past = part.filter(pl.col("offset") >= end)
        if past.is_empty():
            return []
        self._ledger.unsettled.add(read.source.path)
        return [past]

    def _report_past_end(self, rows: pl.DataFrame) -> None:
        """Report rows at offsets that Kafka hasn't reached even now."""
        ends = self._look.check.log.ends()
        for (partition,), part in past_ends(rows, ends).group_by("partition", maintain_order=True):
            first, last = _bounds(part)
            text = "past Kafka's end" if partition in ends else "the topic has no such partition"
            finding = Finding(Kind.UNEXPECTED, int(partition), first, last, part.height, text)
            self._ledger.findings.append(finding)
            self._ledger.past_end[int(partition)] = part.height


def past_ends(rows: pl.DataFrame, ends: Mapping[int, int]) -> pl.DataFrame:
    """Return the rows at or after their partition's end; all of them where there is no such partition."""
    bounds = pl.DataFrame(list(ends.items()), schema={"partition": pl.Int32, "log_end": pl.Int64}, orient="row")
    joined = rows.join(bounds, on="partition", how="left")
    return joined.filter(pl.col("offset") >= pl.col("log_end").fill_null(0))


def _stray_spans(index: SegmentIndex, partition: int, rows: pl.DataFrame, end: int) -> Iterator[Span]:
    """Return where rows of a partition lie in proven segments."""
    low, high = _bounds(rows)
    if low >= end:
        return
    offsets = rows["offset"].to_numpy()
    for segment in index.overlapping([(partition, low, high + 1)]):
        inside = offsets[(offsets >= segment.begin) & (offsets < segment.end)]
        if len(inside):
            yield segment.partition, int(inside.min()), int(inside.max()) + 1


def _bounds(rows: pl.DataFrame) -> tuple[int, int]:
    """Return the lowest and the highest offset of some rows."""
    return int(rows["offset"].min()), int(rows["offset"].max())  # type: ignore[arg-type]


def _overlaps(found: SinkObject, segments: Sequence[Segment]) -> bool:
    return any(found.overlaps(segment.partition, segment.begin, segment.end) for segment in segments)
