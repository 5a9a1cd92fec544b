"""Tasks that prove the sink."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from prefect import get_run_logger, task
from prefect.cache_policies import NO_CACHE
from prefect.tasks import exponential_backoff
from pydantic import BaseModel, Field

from heartwatch.analytic import Analytic
from heartwatch.settings import load_settings
from heartwatch.verify.dead_letters import DeadLetter, DeadLetterSummary
from heartwatch.verify.findings import Finding, PartitionProof, SinkProof
from heartwatch.verify.sinks import Request, prove, schema_lookup, sink_topics
from tasks.artifacts import publish_table
from tasks.events import Wrong, announce

__all__ = [
    "SinkReport",
    "find_sinks",
    "prove_sink",
    "publish_sinks",
    "report_incomplete",
    "schema_lookup",
    "sink_topics",
]

_MOST_FINDINGS = 100
_MOST_REASONS = 20


class SinkReport(BaseModel):
    """What was found of one topic's sink.

    Attributes:
        topic: Kafka topic.
        proven: whether every record is accounted for and nothing else is there.
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


def find_sinks(version: int | None) -> list[str]:
    """Return the resources of the analytic's topics that have a sink connector."""
    settings = load_settings()
    return sink_topics(Analytic.load(settings.pipeline.analytic, version or settings.pipeline.version))


@task(
    task_run_name="prove-{resource}",
    cache_policy=NO_CACHE,
    retries=2,
    retry_delay_seconds=exponential_backoff(backoff_factor=2),
    retry_jitter_factor=0.5,
)
def prove_sink(resource: str, request: Request, version: int | None = None) -> SinkReport | None:
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
        BusyError: another check of the topic is still at work.
    """
    settings = load_settings()
    analytic = Analytic.load(settings.pipeline.analytic, version or settings.pipeline.version)
    found = prove(settings, analytic, resource, request)
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
        "faults": len(proof.faults),
        "dead_letters": sum(dead_letters.reasons.values()),
        "objects": proof.objects,
        "objects_read": proof.read,
        "waiting_seconds": proof.waiting_seconds or 0.0,
        "newest_object_age_seconds": proof.age_seconds or 0.0,
    }


def _partition(proof: PartitionProof) -> dict[str, Any]:
    return {
        "partition": proof.partition,
        "offsets": f"{proof.begin}-{proof.end}",
        "first in the sink": proof.first,
        "last in the sink": proof.last,
        "proven before": proof.proven_before,
        "in Kafka": proof.in_kafka,
        "in the sink": proof.in_sink,
        "no record": proof.without_record,
        "tombstones": proof.tombstones,
        "dead letters": proof.dead_letters,
        "missing": proof.missing,
        "lost": proof.lost,
        "gaps": proof.gaps,
        "duplicates": proof.duplicates,
        "unexpected": proof.unexpected,
        "changed": proof.changed,
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
        ". ".join(report.sentence for report in reports) or "The pipeline isn't deployed: there is nothing to prove"
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


def report_incomplete(report: SinkReport) -> None:
    """Emit the event that automations react to: what is wrong and where, and the topic's numbers.

    Records are at risk when some are lost or changed; a sink that is only behind gets them yet.
    """
    at_risk = any(report.totals.get(name, 0) for name in ("lost", "gaps", "changed"))
    announce(Wrong.SINK_INCOMPLETE, report.topic, report.sentence, report.totals, records_at_risk=at_risk)
