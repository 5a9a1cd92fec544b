"""Tasks that prove the sink."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import partial
from typing import Any

from prefect import get_run_logger, task
from prefect.cache_policies import NO_CACHE
from prefect.tasks import exponential_backoff
from pydantic import BaseModel

from heartwatch.analytic import Analytic
from heartwatch.codec import AvroSchema, Decoder, UnknownSchemaError, parse
from heartwatch.kafka import KafkaAdmin
from heartwatch.registry import NotRegisteredError, Registry
from heartwatch.settings import Settings, load_settings
from heartwatch.sink.iceberg import IcebergSink
from heartwatch.verify.dead_letters import read_dead_letters
from heartwatch.verify.sink import Check, PartitionProof, SinkProof, check_sink
from heartwatch.verify.topics import committed_ranges, read_ranges
from tasks.artifacts import publish_table

_SINK_FILE = "_sink"


class SinkReport(BaseModel):
    """What was found of one topic's sink.

    Attributes:
        topic: Kafka topic.
        proven: whether every record is accounted for and nothing else is there.
        sentence: what is wrong, or what is proven.
        records: records that Kafka has in the offsets looked at.
        rows: of these, those in the sink.
        dead_letters: of these, those in the dead-letter topic, by reason.
        seconds: how long the check took, the wait for the sink included.
        partitions: counts of each partition.
    """

    topic: str
    proven: bool
    sentence: str
    records: int
    rows: int
    dead_letters: dict[str, int]
    seconds: float
    partitions: list[dict[str, Any]]


def sink_topics(analytic: Analytic) -> list[str]:
    """Return the resources of an analytic's topics that have a sink connector."""
    files = analytic.connectors_folder.glob(f"*{_SINK_FILE}.json")
    return sorted(path.stem.removesuffix(_SINK_FILE) for path in files)


def schema_lookup(registry: Registry) -> Any:
    """Return what gives a codec the schema of an id."""

    def look_up(schema_id: int) -> AvroSchema:
        try:
            return parse(registry.schema(schema_id))
        except NotRegisteredError as error:
            raise UnknownSchemaError(f"schema id {schema_id!r} is not registered") from error

    return look_up


@task(
    task_run_name="prove-{resource}",
    cache_policy=NO_CACHE,
    retries=2,
    retry_delay_seconds=exponential_backoff(backoff_factor=2),
    retry_jitter_factor=0.5,
)
def prove_sink(
    resource: str,
    deadline_seconds: float,
    most_records: int | None = None,
    since: Mapping[int, int] | None = None,
) -> SinkReport | None:
    """Prove one topic's sink.

    Args:
        resource: topic, as `analytic.toml` names it.
        deadline_seconds: how long the sink may take to get what Kafka has now.
        most_records: look at so many offsets of each partition at most, the newest; None for all.
        since: by partition the first offset to look at.

    Returns:
        what was found; None where the topic isn't deployed.

    Raises:
        SinkError: the sink can't be read.
        TopicError: the topic can't be read.
    """
    settings = load_settings()
    analytic = Analytic.of(settings.pipeline)
    topic, admin = analytic.topic(resource), KafkaAdmin(settings.kafka)
    if not admin.describe([topic]):
        return None
    chosen = _chosen(committed_ranges(admin, topic), most_records, since or {})
    dead_letters = partial(read_dead_letters, settings.kafka, admin, analytic.name(f"{resource}_dead_letters"), topic)
    sink = IcebergSink.of(settings.postgres, settings.s3)
    try:
        proof = check_sink(
            Check(
                topic,
                chosen,
                lambda: read_ranges(settings.kafka, topic, chosen),
                _decoder(settings, analytic, resource),
                sink,
                lambda: dead_letters().rows,
            ),
            deadline_seconds,
        )
    finally:
        sink.close()
    get_run_logger().info("%s, in %.1f s", proof.sentence(), proof.seconds)
    return _report(proof, dead_letters().reasons())


def _chosen(
    ranges: Mapping[int, tuple[int, int]], most: int | None, since: Mapping[int, int]
) -> dict[int, tuple[int, int]]:
    return {
        partition: (max(begin, since.get(partition, begin), begin if most is None else end - most), end)
        for partition, (begin, end) in ranges.items()
    }


def _decoder(settings: Settings, analytic: Analytic, resource: str) -> Decoder:
    return Decoder(parse(analytic.schema_text(resource)), schema_lookup(Registry(settings.registry)))


def _report(proof: SinkProof, reasons: dict[str, int]) -> SinkReport:
    return SinkReport(
        topic=proof.topic,
        proven=proof.proven,
        sentence=proof.sentence(),
        records=proof.total("in_kafka"),
        rows=proof.total("in_sink"),
        dead_letters=reasons,
        seconds=proof.seconds,
        partitions=[_row(one) for one in proof.partitions],
    )


def _row(proof: PartitionProof) -> dict[str, Any]:
    return {
        "partition": proof.partition,
        "offsets": f"{proof.begin}-{proof.end}",
        "in Kafka": proof.in_kafka,
        "in the sink": proof.in_sink,
        "no record": proof.without_record,
        "tombstones": proof.tombstones,
        "dead letters": proof.dead_letters,
        "missing": proof.missing,
        "gaps": proof.gaps,
        "duplicates": proof.duplicates,
        "unexpected": proof.unexpected,
        "changed": proof.changed,
        "digest": proof.digest,
    }


def publish_sinks(reports: Sequence[SinkReport]) -> None:
    """Show what was found of each sink, one row a topic and partition."""
    rows = [{"topic": report.topic, **partition} for report in reports for partition in report.partitions]
    sentences = (
        ". ".join(report.sentence for report in reports) or "The pipeline isn't deployed: there is nothing to prove"
    )
    publish_table("sink", rows, f"{sentences}.")
