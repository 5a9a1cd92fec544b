"""Tasks that prove the sink."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

from prefect import get_run_logger, task
from prefect.cache_policies import NO_CACHE
from prefect.tasks import exponential_backoff
from pydantic import BaseModel, Field

from heartwatch.analytic import Analytic
from heartwatch.events import Wrong
from heartwatch.markdown import picture
from heartwatch.monitoring import Monitoring, SinkCheck
from heartwatch.proof.dead_letters import DeadLetter, DeadLetterSummary
from heartwatch.proof.findings import Finding, Kind, PartitionProof, SinkProof
from heartwatch.proof.store import BusyError
from heartwatch.proof.topic import Request, prove, schema_lookup
from heartwatch.settings import load_settings
from tasks.artifacts import publish_markdown, publish_table
from tasks.events import announce

__all__ = [
    "Busy",
    "SinkReport",
    "find_sinks",
    "prove_sink",
    "publish_sinks",
    "publish_sinks_over_time",
    "report_incomplete",
    "schema_lookup",
]

_MOST_FINDINGS = 100
_MOST_REASONS = 20
_AT_RISK = {Kind.MISSING, Kind.LOST, Kind.CHANGED, Kind.OBJECT_GONE, Kind.OBJECT_RESIZED, Kind.UNDECODABLE}
_PLOTTED_SECONDS = 24 * 3_600
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


def find_sinks(version: int | None) -> list[str]:
    """Return the resources of the analytic's topics that have a sink connector."""
    settings = load_settings()
    return Analytic.load(settings.pipeline.analytic, version or settings.pipeline.version).sink_topics()


@task(
    task_run_name="prove-{resource}",
    cache_policy=NO_CACHE,
    retries=2,
    retry_delay_seconds=exponential_backoff(backoff_factor=2),
    retry_jitter_factor=0.5,
)
def prove_sink(resource: str, request: Request, version: int | None = None) -> SinkReport | Busy | None:
    """Prove one topic's sink.

    Args:
        resource: topic, as `analytic.toml` names it.
        request: what is to be proven.
        version: pipeline version; None for the settings'.

    Returns:
        what was found; None where the topic isn't deployed.

    Raises:
        SinkError: the sink can't be read.
        TopicError: the topic can't be read.
    """
    settings = load_settings()
    analytic = Analytic.load(settings.pipeline.analytic, version or settings.pipeline.version)
    try:
        found = prove(settings, analytic, resource, request)
    except BusyError as error:
        get_run_logger().info("%s", error)
        return Busy(sentence=str(error))
    if found is None:
        return None
    proof, dead_letters = found
    get_run_logger().info("%s, in %.1f s", proof.sentence(), proof.seconds)
    return make_report(proof, dead_letters)


def make_report(proof: SinkProof, dead_letters: DeadLetterSummary) -> SinkReport:
    """Return what was found in a form that Prefect can keep."""
    return SinkReport(
        topic=proof.topic,
        proven=proof.proven,
        at_risk=any(one.kind in _AT_RISK for one in proof.faults),
        sentence=proof.sentence(),
        records=proof.total("in_kafka"),
        rows=proof.total("in_sink") + proof.total("proven_before"),
        dead_letters=dict(list(dead_letters.reasons.items())[:_MOST_REASONS]),
        seconds=proof.seconds,
        partitions=[_partition(one) for one in proof.partitions],
        findings=[_finding(one) for one in proof.findings[:_MOST_FINDINGS]],
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
    return sum(one.count for one in proof.of(Kind.BEHIND))


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


def _finding(one: Finding) -> dict[str, Any]:
    return {
        "what": one.kind.value,
        "partition": one.partition,
        "first offset": one.first,
        "last offset": one.last,
        "count": one.count,
        "detail": "; ".join(filter(None, (one.detail, one.sample))),
        "fault": one.fault,
    }


def _dead_letter(one: DeadLetter | None) -> str:
    if one is None:
        return ""
    return f"{one.partition}:{one.offset}" + (f" of {one.at:%Y-%m-%d %H:%M:%S} UTC" if one.at is not None else "")


def publish_sinks(reports: Sequence[SinkReport]) -> None:
    """Show what was found of each sink: a row a topic and partition, a row a finding, and a row a reason of dead letters."""
    sentences = (
        ". ".join(report.sentence[:1].upper() + report.sentence[1:] for report in reports)
        or "The pipeline isn't deployed: there is nothing to prove"
    )
    rows = [{"topic": report.topic, **partition} for report in reports for partition in report.partitions]
    publish_table("sink", rows, f"{sentences}.")
    findings = [{"topic": report.topic, **finding} for report in reports for finding in report.findings]
    publish_table("sink-findings", findings, f"{len(findings)} things that are wrong or worth telling.")
    letters = [
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
    publish_table(
        "sink-dead-letters", letters, "Records that connectors refused, by reason; partition:offset and time."
    )


def publish_sinks_over_time(reports: Sequence[SinkReport], version: int | None = None) -> None:
    """Keep what a check of all that is new found, and plot what the checks of the last day found where that changed.

    Args:
        reports: of each topic; what was limited to some offsets says nothing of a sink as a whole and isn't for here.
        version: pipeline version; None for the settings'.
    """
    settings = load_settings()
    pipeline = settings.pipeline.model_copy(update={"version": version or settings.pipeline.version})
    memory, now = Monitoring(settings.postgres, pipeline), time.time()
    checks = [_check(report, now) for report in reports]
    history = memory.sink_checks(now - _PLOTTED_SECONDS)
    before = {one.topic: one for one in history}
    memory.add_sink_checks(checks)
    if all(one.topic in before and replace(before[one.topic], at=now) == one for one in checks):
        return
    # Most runs find nothing new and draw nothing: loading the charts' library takes as long as they do.
    from heartwatch.plots import over_time  # noqa: PLC0415

    panels: dict[str, dict[str, list[tuple[float, float]]]] = {label: {} for label in _PANELS}
    for one in (*history, *checks):
        for label, attribute in _PANELS.items():
            panels[label].setdefault(one.topic, []).append((one.at, getattr(one, attribute)))
    sentence = "; ".join(report.sentence for report in reports)
    text = f"{sentence}.\n\n{picture(over_time(panels), 'rows proven, what was wrong and what waited, over time')}"
    publish_markdown("sink-over-time", text, "What the checks of the sinks found in the last 24 hours.")


def _check(report: SinkReport, at: float) -> SinkCheck:
    wrong = sum(report.totals[name] for name in ("missing", "lost", "duplicates", "unexpected", "changed"))
    wrong -= report.totals["behind"]
    letters, waiting = int(report.totals["dead_letters"]), report.totals["waiting_seconds"]
    return SinkCheck(report.topic, at, report.rows, int(wrong), letters, waiting)


def report_incomplete(report: SinkReport) -> None:
    """Emit the event that automations react to: what is wrong and where, and the topic's numbers."""
    announce(Wrong.SINK_INCOMPLETE, report.topic, report.sentence, report.totals, records_at_risk=report.at_risk)
