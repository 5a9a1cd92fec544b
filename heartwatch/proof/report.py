"""What was found of the sinks, in a form that Prefect can keep and people can read."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

from pydantic import BaseModel, Field

from heartwatch.markdown import picture
from heartwatch.monitoring import SinkCheck
from heartwatch.plots import over_time
from heartwatch.proof.dead_letters import DeadLetter, DeadLetterSummary
from heartwatch.proof.findings import Finding, Kind, PartitionProof, SinkProof

_MOST_FINDINGS = 100
_MOST_REASONS = 20
_AT_RISK = {Kind.MISSING, Kind.LOST, Kind.CHANGED, Kind.OBJECT_GONE, Kind.OBJECT_RESIZED, Kind.UNDECODABLE}
_PANELS = {
    "rows proven": "proven_rows",
    "records wrong": "wrong",
    "dead letters": "dead_letters",
    "waiting, s": "waiting_seconds",
}


class SinkReport(BaseModel):
    """What was found of one topic's sink.

    Attributes:
        topic: Kafka topic.
        proven: whether every record is accounted for and nothing else is there.
        at_risk: whether records are lost, left out or changed; a sink that is only behind gets them yet.
        sentence: what is wrong, or what is proven.
        records: records that Kafka has in the offsets compared.
        rows: the sink's rows proven: now, and before.
        dead_letters: all the topic's dead letters, by reason.
        seconds: how long the check took, the wait for the sink included.
        partitions: counts of each partition, for people.
        findings: what is wrong or worth telling, for people.
        totals: numbers of the whole topic, for machines.
        first_dead_letter: the first one by time, for people; empty for none.
        last_dead_letter: the last one.
    """

    topic: str
    proven: bool
    at_risk: bool = False
    sentence: str
    records: int
    rows: int
    dead_letters: dict[str, int]
    seconds: float
    partitions: list[dict[str, Any]]
    findings: list[dict[str, Any]] = Field(default_factory=list)
    totals: dict[str, float] = Field(default_factory=dict)
    first_dead_letter: str = ""
    last_dead_letter: str = ""


class Busy(BaseModel):
    """A topic that was not checked: another check of it is running, as the sentence says."""

    sentence: str


def make_report(proof: SinkProof, dead_letters: DeadLetterSummary) -> SinkReport:
    """Return what was found in a form that Prefect can keep."""
    return SinkReport(
        topic=proof.topic,
        proven=proof.proven,
        at_risk=any(finding.kind in _AT_RISK for finding in proof.faults),
        sentence=proof.sentence(),
        records=proof.total("in_kafka"),
        rows=proof.total("in_sink") + proof.total("proven_before"),
        dead_letters=dict(list(dead_letters.reasons.items())[:_MOST_REASONS]),
        seconds=proof.seconds,
        partitions=[_partition(partition) for partition in proof.partitions],
        findings=[_finding(finding) for finding in proof.findings[:_MOST_FINDINGS]],
        totals=_totals(proof, dead_letters),
        first_dead_letter=_dead_letter(dead_letters.first),
        last_dead_letter=_dead_letter(dead_letters.last),
    )


def _totals(proof: SinkProof, dead_letters: DeadLetterSummary) -> dict[str, float]:
    names = ("missing", "lost", "gaps", "duplicates", "unexpected", "changed")
    return {
        **{name: proof.total(name) for name in names},
        "behind": _behind(proof),
        "faults": len(proof.faults),
        "dead_letters": sum(dead_letters.reasons.values()),
        "objects": proof.objects,
        "objects_read": proof.read,
        "waiting_seconds": proof.waiting_seconds or 0.0,
        "newest_object_age_seconds": proof.age_seconds or 0.0,
    }


def _behind(proof: SinkProof) -> int:
    """Return how many of the missing records come after the sink's last one: all, unless it has left some out."""
    if not proof.of(Kind.MISSING):
        return proof.total("missing")
    return sum(finding.count for finding in proof.of(Kind.BEHIND))


def _partition(proof: PartitionProof) -> dict[str, Any]:
    """Return a partition's figures; what tells whether all is well comes first, as the table is wider than a page."""
    return {
        "partition": proof.partition,
        "in Kafka": proof.in_kafka,
        "in the sink": proof.in_sink,
        "proven before": proof.proven_before,
        "missing": proof.missing,
        "lost": proof.lost,
        "changed": proof.changed,
        "duplicates": proof.duplicates,
        "unexpected": proof.unexpected,
        "dead letters": proof.dead_letters,
        "tombstones": proof.tombstones,
        "no record": proof.without_record,
        "gaps": proof.gaps,
        "offsets": f"{proof.begin}-{proof.end}",
        "first in the sink": proof.first,
        "last in the sink": proof.last,
        "digest": proof.digest,
    }


def _finding(finding: Finding) -> dict[str, Any]:
    return {
        "what": finding.kind.value,
        "partition": finding.partition,
        "first offset": finding.first,
        "last offset": finding.last,
        "count": finding.count,
        "detail": "; ".join(filter(None, (finding.detail, finding.sample))),
        "fault": finding.fault,
    }


def _dead_letter(letter: DeadLetter | None) -> str:
    if letter is None:
        return ""
    return f"{letter.partition}:{letter.offset}" + (
        f" of {letter.at:%Y-%m-%d %H:%M:%S} UTC" if letter.at is not None else ""
    )


def sentences(reports: Sequence[SinkReport]) -> str:
    """Return what was found of each sink, without a full stop at the end."""
    found = ". ".join(report.sentence[:1].upper() + report.sentence[1:] for report in reports)
    return found or "The pipeline isn't deployed: there is nothing to prove"


def partition_rows(reports: Sequence[SinkReport]) -> list[dict[str, Any]]:
    """Return one row per topic and partition."""
    return [{"topic": report.topic, **partition} for report in reports for partition in report.partitions]


def finding_rows(reports: Sequence[SinkReport]) -> list[dict[str, Any]]:
    """Return one row per finding."""
    return [{"topic": report.topic, **finding} for report in reports for finding in report.findings]


def dead_letter_rows(reports: Sequence[SinkReport]) -> list[dict[str, Any]]:
    """Return one row per topic and reason of dead letters."""
    return [
        {
            "topic": report.topic,
            "reason": reason,
            "records": count,
            "first of the topic": report.first_dead_letter,
            "last of the topic": report.last_dead_letter,
        }
        for report in reports
        for reason, count in report.dead_letters.items()
    ]


def check_of(report: SinkReport, at: float) -> SinkCheck:
    """Return what the checks remember of a report.

    Args:
        report: what was found of a topic's sink.
        at: the check's end, seconds since the epoch.
    """
    wrong = sum(report.totals[name] for name in ("missing", "lost", "duplicates", "unexpected", "changed"))
    wrong -= report.totals["behind"]
    letters, waiting = int(report.totals["dead_letters"]), report.totals["waiting_seconds"]
    return SinkCheck(report.topic, at, report.rows, int(wrong), letters, waiting)


def found_nothing_new(history: Sequence[SinkCheck], checks: Sequence[SinkCheck]) -> bool:
    """Return whether checks found of each topic what the check before found.

    Args:
        history: earlier checks, in order of time.
        checks: of now, one per topic.
    """
    before = {check.topic: check for check in history}
    return all(check.topic in before and replace(before[check.topic], at=check.at) == check for check in checks)


def history_plot(checks: Sequence[SinkCheck]) -> str:
    """Return a plot of what checks found, as Markdown.

    Args:
        checks: of all topics, in order of time.
    """
    panels: dict[str, dict[str, list[tuple[float, float]]]] = {label: {} for label in _PANELS}
    for check in checks:
        for label, attribute in _PANELS.items():
            panels[label].setdefault(check.topic, []).append((check.at, getattr(check, attribute)))
    return picture(over_time(panels), "rows proven, what was wrong and what waited, over time")
