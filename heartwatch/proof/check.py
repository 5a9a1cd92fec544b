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
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime

from heartwatch.proof.findings import Finding, Kind, PartitionProof, SinkProof, merge_runs
from heartwatch.proof.ledger import Ledger
from heartwatch.proof.look import Check, CheckRun, Look
from heartwatch.proof.objects import ObjectChanges
from heartwatch.proof.offsets import OffsetComparison
from heartwatch.proof.recheck import Recheck
from heartwatch.proof.rows import RowReader
from heartwatch.proof.segments import Proofs
from kafkakit.waiting import Patience, wait_until

_POLL_SECONDS = 0.5
_MACHINE_CLOCK_SECONDS = 60.0


def check_sink(
    check: Check,
    proofs: Proofs,
    deadline_seconds: float,
    save: Callable[[Proofs, str], None] = lambda _proofs, _version: None,
    clock: Callable[[], float] = time.monotonic,
    machine_time: Callable[[], datetime] = lambda: datetime.now(UTC),
) -> SinkProof:
    """Compare what isn't proven yet, and again what the sink lacks until it has all or gets nothing more for a while.

    Args:
        check: what to look at.
        proofs: what is known from earlier checks; brought up to date.
        deadline_seconds: how long the sink may get nothing of what it lacks of what Kafka had at the beginning.
        save: keeps the proofs and the sink's version; called after each part, so that a check that is ended early isn't in vain.
        clock: seconds, monotonic.
        machine_time: this machine's time.

    Raises:
        heartwatch.sink.reader.SinkError: the sink can't be asked.
    """
    began, patience = clock(), Patience(deadline_seconds, clock)
    run = CheckRun.begin(check, proofs, save)
    while True:
        found = _look(run)
        missing = sum(finding.count for finding in found.findings if finding.kind == Kind.MISSING)
        if not missing or not _wait_for_version(check, found.look, patience.left(missing), clock):
            break
    return replace(_result(run, found, machine_time()), seconds=clock() - began)


def _wait_for_version(check: Check, look: Look, seconds: float, clock: Callable[[], float]) -> bool:
    """Wait until the sink has written something; False when it doesn't in time."""
    if seconds <= 0:
        return False
    return wait_until(
        lambda: check.sink.version(check.topic) != look.listing.version, seconds, _POLL_SECONDS, clock=clock
    )


@dataclass(frozen=True)
class _Found:
    """What one look has found."""

    look: Look
    findings: Sequence[Finding]
    partitions: Mapping[int, PartitionProof]


def _look(run: CheckRun) -> _Found:
    """Look at the objects, then at the offsets that aren't proven."""
    look, ledger, proofs = Look.take(run.check), Ledger(), run.proofs
    for partition, (begin, _) in look.limits.items():
        proofs.base.setdefault(partition, begin)
    reader = RowReader(look, ledger, run.read_paths)
    objects = ObjectChanges(look, proofs, reader, ledger)
    objects.report_faulty()
    failed = Recheck(look, proofs, reader, ledger).run(objects.touched(), objects.gone)
    run.gone += objects.gone_for_good(failed)
    offsets = OffsetComparison(run, look, reader, ledger)
    offsets.compare_all()
    objects.remember()
    run.save(look.listing.version)
    return _Found(look, ledger.findings, offsets.partitions)


def _result(run: CheckRun, found: _Found, machine_time: datetime) -> SinkProof:
    check, listing = run.check, found.look.listing
    now = check.sink.now()
    merged = merge_runs([*found.findings, *run.gone])
    findings = sorted((_behind(finding, found.partitions) for finding in merged), key=_place)
    waiting = _note_waiting(run.proofs, [finding for finding in findings if finding.kind == Kind.BEHIND], now)
    run.save(listing.version)
    skew = abs((machine_time - now).total_seconds())
    if skew > _MACHINE_CLOCK_SECONDS:
        text = f"this machine's clock is {skew:,.0f} s from the store's: set it by NTP"
        findings.append(Finding(Kind.CLOCK, detail=text))
    written = listing.written_at
    return SinkProof(
        check.topic,
        [proof for _, proof in sorted(found.partitions.items())],
        [*findings, *run.off_times.values()],
        objects=len(listing.objects),
        read=len(run.read_paths),
        written_at=written,
        age_seconds=(now - written).total_seconds() if written is not None else None,
        waiting_seconds=waiting,
    )


def _behind(finding: Finding, partitions: Mapping[int, PartitionProof]) -> Finding:
    """Tell records after the sink's last one from those that it has left out."""
    if finding.kind != Kind.MISSING or finding.partition is None or finding.first is None:
        return finding
    last = partitions[finding.partition].last
    return replace(finding, kind=Kind.BEHIND) if last is None or finding.first > last else finding


def _note_waiting(proofs: Proofs, behind: Sequence[Finding], now: datetime) -> float | None:
    """Note since when records wait for the sink, and return for how many seconds at least."""
    known = proofs.waiting
    first = {
        finding.partition: finding.first
        for finding in behind
        if finding.partition is not None and finding.first is not None
    }
    proofs.waiting = {
        # The same record, or one before it, may have been waiting when the last check looked.
        partition: known[partition] if partition in known and known[partition][0] >= offset else (offset, now)
        for partition, offset in first.items()
    }
    since = min((moment for _, moment in proofs.waiting.values()), default=None)
    return (now - since).total_seconds() if since is not None else None


def _place(finding: Finding) -> tuple[int, int]:
    return (-1 if finding.partition is None else finding.partition, finding.first or 0)
