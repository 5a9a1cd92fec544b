"""Compares the offsets that aren't proven, part by part, and keeps what is proven of each part."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import replace

import polars as pl

from heartwatch.proof import compare
from heartwatch.proof.compaction import without_superseded
from heartwatch.proof.counts import add_counts, count_proven, note_rows
from heartwatch.proof.explain import explained
from heartwatch.proof.findings import Finding, Kind, PartitionProof
from heartwatch.proof.hashes import DIGEST, in_order, off_times, within
from heartwatch.proof.ledger import Ledger
from heartwatch.proof.look import CheckRun, Look
from heartwatch.proof.removed import look_before_the_log
from heartwatch.proof.rows import KafkaRecords, RowReader, Surplus
from heartwatch.proof.segments import Segment, Span, chunks


class OffsetComparison:
    """Compares Kafka with the sink where nothing is proven yet.

    Attributes:
        partitions: counts by partition of what earlier checks have proven and what this look has compared.
    """

    def __init__(self, run: CheckRun, look: Look, reader: RowReader, ledger: Ledger) -> None:
        """Begin with what earlier checks have proven and earlier looks have counted.

        Args:
            run: what is proven, and counted; brought up to date.
            look: what there is.
            reader: reads the sink's rows.
            ledger: gets what is wrong.
        """
        self._run, self._look, self._reader, self._ledger = run, look, reader, ledger
        self._check, self._proofs = look.check, run.proofs
        self.partitions: dict[int, PartitionProof] = {}
        for partition, span in look.limits.items():
            if partition not in run.partitions:
                run.partitions[partition] = PartitionProof(partition, *span)
                count_proven(run.partitions[partition], self._proofs.of(partition))
            past_end = ledger.past_end.get(partition, 0)
            self.partitions[partition] = replace(run.partitions[partition], unexpected=past_end)

    def compare_all(self) -> None:
        """Look at all offsets that aren't proven.

        Raises:
            heartwatch.sink.reader.SinkError: the store is away.
        """
        self._ledger.findings += look_before_the_log(self._look, self._proofs, self._reader, self.partitions)
        log_starts = self._look.log_starts
        unproven = [
            span
            for partition, (begin, end) in self._look.limits.items()
            for span in self._proofs.unproven(partition, max(begin, log_starts[partition]), end)
        ]
        for part in chunks(unproven, self._look.counted_starts()):
            # An object may begin before the first record that Kafka still has.
            self._compare([(max(begin, log_starts[span[0]]), span) for begin, span in part])
            self._run.save(self._look.listing.version)

    def _compare(self, part: Sequence[tuple[int, Span]]) -> None:
        """Compare spans of offsets, each read from an offset on, and keep what is proven."""
        wide = [(partition, begin, end) for begin, (partition, _, end) in part]
        kafka, dead = self._look.kafka(wide), self._check.dead_letters(wide)
        rows = self._rows(wide, KafkaRecords(kafka, dead))
        judged = compare.judge(kafka, rows, dead)
        ends = compare.on_the_way(judged, self._run.targets)
        judged, rows = compare.before(judged, ends), compare.before(rows, ends)
        kept = []
        for begin, (partition, first, last) in part:
            end = min(last, ends.get(partition, last))
            if end > first:
                kept.append((partition, first, self._keep((partition, first, end), begin, judged, rows)))
        self._count(judged, kept)
        self._ledger.findings += explained(compare.runs(judged), self._look, self._reader)
        for span in kept:
            self._note_times(span[0], within(kafka, *span))

    def _rows(self, spans: Sequence[Span], kafka: KafkaRecords) -> pl.DataFrame:
        """Return the sink's rows of spans in order, without those that are no fault; report those that are no record's."""
        rows, surplus = self._reader.rows_beside(spans, kafka)
        self._report_surplus(surplus)
        rows, superseded = without_superseded(self._look, self._reader, rows, kafka.records)
        for partition, count in superseded.items():
            self.partitions[partition].superseded += count
        return in_order(rows)

    def _report_surplus(self, surplus: Iterable[Surplus]) -> None:
        """Report rows without offsets that come after all records which they may be: none of Kafka's is left for them."""
        for found in surplus:
            partition, read_to = found.source.partitions[0], found.read_to
            if found.source.offsets[1] > read_to and not self._is_end(partition, read_to):
                # The object may go on past what was read: an open transaction's records, or those that a check is limited to.
                continue
            self._ledger.unsettled.add(found.source.path)
            self.partitions[partition].unexpected += found.count
            text = f"{found.source.path}: rows after all that Kafka has from its first offset on"
            finding = Finding(Kind.UNEXPECTED, partition, read_to, read_to, found.count, text)
            self._ledger.findings.append(finding)

    def _is_end(self, partition: int, offset: int) -> bool:
        """Whether Kafka has nothing from an offset on, not even of an open transaction."""
        if self._check.limits is not None or offset != self._look.limits[partition][1]:
            return False
        return self._check.log.ends()[partition] <= offset

    def _keep(self, span: Span, read_from: int, judged: pl.DataFrame, rows: pl.DataFrame) -> int:
        """Keep what of a span is proven: all of it, or what lies before the first fault; return up to where that is."""
        partition, begin, end = span
        said, own = within(judged, *span), within(rows, *span)
        proven_to = compare.first_fault(said, end)
        note_rows(self.partitions[partition], own, end - read_from)
        if proven_to > begin:
            good, here = within(own, partition, begin, proven_to), within(said, partition, begin, proven_to)
            digest, first, last = note_rows(self._run.partitions[partition], good, proven_to - begin)
            records = int(here["in_kafka"].sum())
            self._proofs.add(Segment(partition, begin, proven_to, records, good.height, digest, DIGEST, first, last))
        return proven_to

    def _count(self, judged: pl.DataFrame, kept: Sequence[Span]) -> None:
        """Count all that was said of offsets for this look, and what is proven of it for the next ones, too."""
        good = pl.concat([within(judged, *span) for span in kept]) if kept else judged.clear()
        counts = compare.counts(judged)
        add_counts(self._run.partitions, counts if good.height == judged.height else compare.counts(good))
        add_counts(self.partitions, counts)

    def _note_times(self, partition: int, kafka: pl.DataFrame) -> None:
        times, offsets = kafka["timestamp"].to_numpy(), kafka["offset"].to_numpy()
        off = off_times(times, self._check.clock_seconds)
        if off.any():
            before = self._run.off_times.get(partition)
            first = before.first if before is not None else int(offsets[off][0])
            count = int(off.sum()) + (before.count if before is not None else 0)
            text = f"times more than {self._check.clock_seconds:g} s from those around them"
            last = int(offsets[off][-1])
            self._run.off_times[partition] = Finding(Kind.CLOCK, partition, first, last, count, text, fault=False)
