"""What a check of a sink found: counts by partition, and each thing that is wrong with its place."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field, replace
from datetime import datetime
from enum import StrEnum


class Kind(StrEnum):
    """What may be wrong."""

    MISSING = "missing"
    """Kafka has the records, the sink has later ones, but not these."""
    BEHIND = "behind"
    """Kafka has the records, the sink has none of them and none after them."""
    LOST = "lost"
    """Kafka removed the offsets before they were proven, and the sink has no rows for them."""
    DUPLICATE = "duplicate"
    """The sink has the records more than once."""
    UNEXPECTED = "unexpected"
    """The sink has rows that Kafka never had: at offsets of markers, aborted records and tombstones, past the end, or nowhere."""
    CHANGED = "changed"
    """The sink's rows differ from Kafka's records."""
    OBJECT_GONE = "object gone"
    """An object is not in the store, though the catalog names it or its rows were proven."""
    OBJECT_RESIZED = "object resized"
    """The store's object has another size than the catalog says."""
    UNDECODABLE = "undecodable object"
    """An object is there and can't be read."""
    WRONG_SCHEMA = "wrong schema"
    """An object lacks a required field, or has it in a type that the topic's schema doesn't allow."""
    ORPHAN = "orphan object"
    """An object that nothing refers to: half-written, or left over."""
    STRANGER = "strange object"
    """An object among the sink's that doesn't have a name of the sink's."""
    CONNECTOR = "connector"
    """The connector or one of its tasks doesn't run."""
    CLOCK = "clock"
    """A clock is wrong: this machine's against the store's, or records' times against their neighbours'."""


@dataclass(frozen=True)
class Finding:
    """One thing that is wrong.

    Attributes:
        kind: what.
        partition: where; None for what isn't of one partition.
        first: first offset concerned.
        last: last offset concerned.
        count: records, rows or objects concerned, between `first` and `last`.
        detail: the same in words: object, values, cause.
        fault: whether it fails the check; else it is only reported.
        sample: contents of a record concerned; not for messages, which reach people who may not see records.
    """

    kind: Kind
    partition: int | None = None
    first: int | None = None
    last: int | None = None
    count: int = 1
    detail: str = ""
    fault: bool = True
    sample: str = ""

    def __str__(self) -> str:
        """Return what and where: ``3 missing in partition 1, offsets 5-7``."""
        text = f"{self.count:,} {self.kind}"
        if self.partition is not None:
            text += f" in partition {self.partition}"
        if self.first is not None:
            text += f", offset{'' if self.first == self.last else 's'} {self.first}"
            text += "" if self.first == self.last else f"-{self.last}"
        return f"{text} ({self.detail})" if self.detail else text


COUNTS = ("in_kafka", "in_sink", "tombstones", "dead_letters", "missing", "duplicates", "unexpected", "changed")
"""Counts of a partition that a comparison of records gives."""


@dataclass
class PartitionProof:
    """What was found of one partition; counts are of what this check compared, unless they say otherwise.

    Attributes:
        partition: its number.
        begin: Kafka's first offset now.
        end: offset after the last one that a read_committed reader may see.
        first: first offset that the sink has, of those compared or proven before; None for none.
        last: last one.
        proven_before: rows of the sink that earlier checks have proven and that are still there.
        compared: offsets that this check looked at.
        in_kafka: records that Kafka has there.
        in_sink: of these, those that the sink has.
        tombstones: records without a value: a sink of rows has nothing to write.
        dead_letters: records in the dead-letter topic.
        missing: records nowhere to be found.
        lost: offsets that Kafka removed before they were proven and that the sink doesn't have.
        gaps: runs of missing or lost offsets.
        duplicates: rows that the sink has once more than it should.
        unexpected: rows of the sink that Kafka never had.
        superseded: rows of the sink whose records Kafka has compacted away since, as a later record of the key shows.
        changed: rows whose contents differ from Kafka's.
        digest: sum of the hashes of the rows compared, as 16 hexadecimal digits.
    """

    partition: int
    begin: int
    end: int
    first: int | None = None
    last: int | None = None
    proven_before: int = 0
    compared: int = 0
    in_kafka: int = 0
    in_sink: int = 0
    tombstones: int = 0
    dead_letters: int = 0
    missing: int = 0
    lost: int = 0
    gaps: int = 0
    duplicates: int = 0
    unexpected: int = 0
    superseded: int = 0
    changed: int = 0
    digest: str = f"{0:016x}"

    @property
    def without_record(self) -> int:
        """Offsets compared that hold no record: markers, aborted or compacted records."""
        return max(0, self.compared - self.in_kafka - self.lost)

    def saw(self, first: int, last: int) -> None:
        """Note offsets that the sink has."""
        self.first = first if self.first is None else min(first, self.first)
        self.last = last if self.last is None else max(last, self.last)


_SHOWN = 6


@dataclass(frozen=True)
class SinkProof:
    """What was found of one topic's sink.

    Attributes:
        topic: Kafka topic.
        partitions: one proof a partition.
        findings: what is wrong, or worth reporting.
        objects: data objects of the sink.
        read: of these, those whose contents were read.
        written_at: when the newest one was written, by the store's clock; None for none.
        age_seconds: how old it is by that clock.
        waiting_seconds: how long records have been waiting for the sink at least; None when none waits.
        seconds: how long the check took.
    """

    topic: str
    partitions: list[PartitionProof]
    findings: list[Finding] = field(default_factory=list)
    objects: int = 0
    read: int = 0
    written_at: datetime | None = None
    age_seconds: float | None = None
    waiting_seconds: float | None = None
    seconds: float = 0.0

    @property
    def faults(self) -> list[Finding]:
        """Findings that fail the check."""
        return [finding for finding in self.findings if finding.fault]

    @property
    def proven(self) -> bool:
        """Whether every record is accounted for and nothing else is there."""
        return not self.faults

    def of(self, kind: Kind) -> list[Finding]:
        """Return the findings of a kind."""
        return [finding for finding in self.findings if finding.kind == kind]

    def total(self, name: str) -> int:
        """Return the sum of a count over the partitions."""
        return sum(getattr(proof, name) for proof in self.partitions)

    def sentence(self) -> str:
        """Return what is wrong and where, or what is proven."""
        if faults := self.faults:
            more = f"; and {len(faults) - _SHOWN} more" if len(faults) > _SHOWN else ""
            return f"sink of topic {self.topic!r}: {'; '.join(map(str, faults[:_SHOWN]))}{more}"
        before = self.total("proven_before")
        text = f"sink of topic {self.topic!r}: all {self.total('in_kafka'):,} records accounted for"
        return f"{text}, {before:,} rows proven before are still there" if before else text


def merge_runs(runs: Iterable[Finding]) -> list[Finding]:
    """Join findings of one kind and partition that follow on each other, as parts of one range that was read in parts.

    Those that each say something of their own, such as of which object they are, stay by themselves.
    """
    merged: list[Finding] = []
    for finding in sorted(
        runs, key=lambda run: (run.kind, -1 if run.partition is None else run.partition, run.first or 0)
    ):
        last = merged[-1] if merged else None
        if (
            last is not None
            and last.kind == finding.kind
            and last.partition == finding.partition is not None
            and last.last is not None
            and last.last + 1 == finding.first
            and finding.detail in {"", last.detail}
        ):
            merged[-1] = replace(last, last=finding.last, count=last.count + finding.count)
        else:
            merged.append(finding)
    return merged
