"""What a check of one topic's sink is given, what lasts through it, and what one look at the sink sees."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Protocol

import polars as pl
import pyarrow as pa

from heartwatch.proof.compare import Ranges
from heartwatch.proof.findings import Finding, PartitionProof
from heartwatch.proof.hashes import kafka_frame
from heartwatch.proof.segments import Proofs, Span
from heartwatch.sink.reader import Listing, SinkObject, SinkReader
from kafkakit.avro_codec import Decoder
from kafkakit.topic_reader import Records


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
        clock_seconds: how far a record's time may be from those around it until it is reported.
        accept_losses: take what is lost for known: it isn't reported again.
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

    @property
    def fields(self) -> pa.Schema:
        """The records' fields, in the order and types in which they are decoded."""
        return self.decoder.arrow_schema

    def limited(self, ranges: Ranges) -> dict[int, tuple[int, int]]:
        """Return the offsets to look at, of those that Kafka has."""
        wanted = self.limits or {}
        return {partition: _within(span, wanted.get(partition)) for partition, span in ranges.items()}


def _within(span: tuple[int, int], limit: tuple[int, int] | None) -> tuple[int, int]:
    if limit is None:
        return span
    begin = max(span[0], limit[0])
    return begin, max(begin, min(span[1], limit[1]))


@dataclass
class CheckRun:
    """What lasts from one look at the sink to the next.

    Attributes:
        check: what to look at.
        proofs: what is proven; kept up to date.
        write: keeps the proofs and the sink's version.
        targets: by partition where Kafka ended when the check began: what is before has to be in the sink before the deadline.
        partitions: counts of what is proven.
        gone: findings of objects that are gone; a look forgets what it has reported.
        off_times: records with strange times, by partition.
        read_paths: objects whose contents were read.
    """

    check: Check
    proofs: Proofs
    write: Callable[[Proofs, str], None]
    targets: dict[int, int]
    partitions: dict[int, PartitionProof] = field(default_factory=dict)
    gone: list[Finding] = field(default_factory=list)
    off_times: dict[int, Finding] = field(default_factory=dict)
    read_paths: set[str] = field(default_factory=set)

    @classmethod
    def begin(cls, check: Check, proofs: Proofs, write: Callable[[Proofs, str], None]) -> CheckRun:
        """Begin a check: ask where Kafka ends now."""
        targets = {partition: end for partition, (_, end) in check.limited(check.log.ranges()).items()}
        return cls(check, proofs, write, targets)

    def save(self, version: str) -> None:
        """Keep what is proven, so that a check that is ended early isn't in vain."""
        self.write(self.proofs, version)


@dataclass(frozen=True)
class Look:
    """What one look at the sink sees.

    Attributes:
        check: what to look at.
        listing: the sink's objects.
        log_starts: by partition the first offset that Kafka still has.
        limits: by partition the offsets to look at.
    """

    check: Check
    listing: Listing
    log_starts: Mapping[int, int]
    limits: Ranges

    @classmethod
    def take(cls, check: Check) -> Look:
        """List the sink's objects, and ask which offsets Kafka has.

        Raises:
            heartwatch.sink.reader.SinkError: the sink can't be asked.
        """
        # In this order no row of the listed objects can lie past Kafka's end.
        listing = check.sink.listing(check.topic, check.orphan_seconds)
        ranges = check.log.ranges()
        return cls(
            check, listing, {partition: begin for partition, (begin, _) in ranges.items()}, check.limited(ranges)
        )

    def identity(self, path: str) -> str | None:
        """Return what an object is now; None where it is gone."""
        found = self.listing.objects.get(path)
        return found.identity if found is not None else None

    def objects_of(self, spans: Sequence[Span]) -> list[SinkObject]:
        """Return the objects that may have rows of spans."""
        return [found for found in self.listing.objects.values() if any(found.overlaps(*span) for span in spans)]

    def spans_of(self, objects: Iterable[SinkObject]) -> list[Span]:
        """Return the spans that objects touch, of partitions that there are."""
        return [
            (partition, max(touching.offsets[0], 0), touching.offsets[1])
            for touching in objects
            for partition in self.limits
            if touching.partitions[0] <= partition <= touching.partitions[1]
        ]

    def counted_starts(self) -> dict[int, list[int]]:
        """Return by partition where the objects begin whose rows carry no offsets."""
        starts: dict[int, set[int]] = {}
        for found in self.listing.objects.values():
            if found.counted:
                starts.setdefault(found.partitions[0], set()).add(found.offsets[0])
        return {partition: sorted(offsets) for partition, offsets in starts.items()}

    def kafka(self, spans: Sequence[Span]) -> pl.DataFrame:
        """Read Kafka's records of spans; a partition with several is read as often."""
        layers: list[dict[int, tuple[int, int]]] = []
        for partition, begin, end in spans:
            layer = next((layer for layer in layers if partition not in layer), None)
            if layer is None:
                layers.append(layer := {})
            layer[partition] = (begin, end)
        check = self.check
        return kafka_frame((records for layer in layers for records in check.log.read(layer)), check.decoder)
