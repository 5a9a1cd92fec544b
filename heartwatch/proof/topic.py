"""Proves the sink of one topic of an analytic, with the real Kafka, registry, sink, Connect and memory that the settings name."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import closing, nullcontext
from dataclasses import dataclass, replace
from datetime import UTC, datetime

import polars as pl

from heartwatch.analytic import Analytic
from heartwatch.connect import Connect, ConnectError, UnknownConnectorError
from heartwatch.heartbeats import without_heartbeats
from heartwatch.proof.check import check_sink
from heartwatch.proof.compare import Ranges
from heartwatch.proof.dead_letters import DeadLetterSummary, read_dead_letters
from heartwatch.proof.findings import Finding, Kind, SinkProof
from heartwatch.proof.look import Check
from heartwatch.proof.segments import Proofs, Span
from heartwatch.proof.store import ProofMemory
from heartwatch.settings import Settings
from heartwatch.sink.confluent import ConfluentSink
from heartwatch.sink.iceberg import IcebergSink
from kafkakit.admin import KafkaAdmin
from kafkakit.avro_codec import Decoder, parse
from kafkakit.registry import Registry
from kafkakit.topic_reader import Records, TopicLog, committed_ranges, ends_before
from kafkakit.writer_schemas import schema_lookup

_CONNECT_SECONDS = 5.0


@dataclass(frozen=True)
class Request:
    """What is to be proven of a topic's sink.

    Attributes:
        deadline_seconds: how long the sink may take to get what Kafka has now.
        since: look at records from this Kafka timestamp on only (UTC where it has no zone).
        until: look at records before this Kafka timestamp only, and at others that stand between them.
        from_offsets: by partition the first offset to look at.
        full: forget what was proven and prove it again.
        accept_losses: take what is lost for known: it isn't reported again.
        orphan_seconds: how old an object that belongs to nothing may be.
        wait_seconds: how long to wait for another check of the topic that is running.
    """

    deadline_seconds: float = 90
    since: datetime | None = None
    until: datetime | None = None
    from_offsets: Mapping[int, int] | None = None
    full: bool = False
    accept_losses: bool = False
    orphan_seconds: float = 3_600
    wait_seconds: float = 1_800

    def __post_init__(self) -> None:
        """Refuse a time that is over before it begins: there would be nothing to prove, and all would seem well.

        Raises:
            ValueError: `until` isn't after `since`.
        """
        if self.since is not None and self.until is not None and _milliseconds(self.since) >= _milliseconds(self.until):
            raise ValueError(
                f"until {self.until.isoformat()!r} isn't after since {self.since.isoformat()!r}; swap them"
            )

    @property
    def limited(self) -> bool:
        """Whether only some offsets are looked at: such a check reads them all, and neither uses nor changes the memory."""
        return self.since is not None or self.until is not None or self.from_offsets is not None


def prove(
    settings: Settings, analytic: Analytic, resource: str, request: Request
) -> tuple[SinkProof, DeadLetterSummary] | None:
    """Prove one topic's sink, and add what the connector's state explains.

    Args:
        settings: where everything is.
        analytic: whose topic.
        resource: topic, as `analytic.toml` names it.
        request: what is to be proven.

    Returns:
        what was found, and the topic's dead letters; None where the topic isn't deployed.

    Raises:
        heartwatch.sink.reader.SinkError: the sink can't be read.
        kafkakit.topic_reader.TopicError: the topic can't be read.
        heartwatch.proof.store.BusyError: another check of the topic is still running.
        heartwatch.postgres.PostgresError: the memory can't be asked.
    """
    found = prove_records(settings, analytic, resource, request)
    if found is None:
        return None
    proof, dead_letters = found
    return _with_connector(proof, settings, analytic.sink_connector(resource)), dead_letters


def prove_records(
    settings: Settings, analytic: Analytic, resource: str, request: Request
) -> tuple[SinkProof, DeadLetterSummary] | None:
    """Prove one topic's sink without asking Connect (see `prove`)."""
    topic, admin = analytic.topic(resource), KafkaAdmin(settings.kafka)
    if not admin.describe([topic]):
        return None
    memory = ProofMemory(settings.postgres, topic, admin.topic_id(topic))
    dead_letters = _DeadLetterReader(settings, admin, analytic.name(f"{resource}_dead_letters"), topic, memory)
    definition = analytic.topics[resource]
    with closing(_open_sink(settings)) as sink:
        check = Check(
            topic=topic,
            log=_PeoplesLog(settings.kafka, admin, topic),
            decoder=Decoder(parse(analytic.schema_text(resource)), schema_lookup(Registry(settings.registry))),
            sink=sink,
            dead_letters=dead_letters.of,
            limits=_limits(settings, admin, topic, request) if request.limited else None,
            compacted_key=definition.key if definition.cleanup_policy == "compact" else None,
            orphan_seconds=request.orphan_seconds,
            accept_losses=request.accept_losses,
        )
        with nullcontext() if request.limited else memory.lock(request.wait_seconds):
            proof = _checked(check, memory, request)
    return proof, memory.summary()


def _open_sink(settings: Settings) -> IcebergSink | ConfluentSink:
    if settings.s3.layout == "confluent":
        return ConfluentSink.of(settings.s3)
    return IcebergSink.of(settings.postgres, settings.s3)


def _checked(check: Check, memory: ProofMemory, request: Request) -> SinkProof:
    if request.limited:
        return check_sink(check, Proofs(), request.deadline_seconds)
    if request.full:
        memory.forget()
    proofs = memory.load()
    written = proofs.copy()

    def save(now: Proofs, version: str) -> None:
        nonlocal written
        memory.save(written, now, version)
        written = now.copy()

    return check_sink(check, proofs, request.deadline_seconds, save)


def _limits(settings: Settings, admin: KafkaAdmin, topic: str, request: Request) -> dict[int, tuple[int, int]]:
    """Return the offsets to look at: from the first record of the time asked for to the last one."""
    ranges = committed_ranges(admin, topic)
    first = admin.offsets_at(topic, _milliseconds(request.since)) if request.since is not None else {}
    given = request.from_offsets or {}
    limits = {
        partition: (min(end, max(begin, first.get(partition, begin), given.get(partition, begin))), end)
        for partition, (begin, end) in ranges.items()
    }
    if request.until is None:
        return limits
    until_ms = _milliseconds(request.until)
    # All that stands before the first record of a later time is of the time asked for.
    later = admin.offsets_at(topic, until_ms)
    unsure = {partition: (min(end, max(begin, later[partition])), end) for partition, (begin, end) in limits.items()}
    ends = ends_before(settings.kafka, topic, unsure, until_ms)
    return {partition: (begin, ends[partition]) for partition, (begin, _) in limits.items()}


def _milliseconds(moment: datetime) -> int:
    return int((moment if moment.tzinfo is not None else moment.replace(tzinfo=UTC)).timestamp() * 1000)


class _PeoplesLog(TopicLog):
    """A topic without its heartbeats, which the sink connectors leave out: their offsets hold no record."""

    def read(self, ranges: Ranges) -> Iterator[Records]:
        """Read the committed records of ranges, heartbeats left out."""
        return (people for records in super().read(ranges) if len(people := without_heartbeats(records)))


@dataclass(frozen=True)
class _DeadLetterReader:
    """Reads what is new of a dead-letter topic into the memory."""

    settings: Settings
    admin: KafkaAdmin
    dead_letter_topic: str
    topic: str
    memory: ProofMemory

    def of(self, spans: Sequence[Span]) -> pl.DataFrame:
        """Return partition and offset of the topic's dead letters in some spans."""
        if self.admin.describe([self.dead_letter_topic]):
            topic_id = self.admin.topic_id(self.dead_letter_topic)
            known = self.memory.dead_letter_positions(self.dead_letter_topic, topic_id)
            read = read_dead_letters(self.settings.kafka, self.admin, self.dead_letter_topic, self.topic, known)
            if read.positions != known:
                self.memory.add_dead_letters(
                    self.dead_letter_topic, topic_id, read.found, read.positions, read.strangers
                )
        return self.memory.dead_letters(spans)


def _with_connector(proof: SinkProof, settings: Settings, connector: str) -> SinkProof:
    """Add what the connector's state explains."""
    waiting = bool(proof.of(Kind.BEHIND) or proof.of(Kind.MISSING))
    with closing(Connect(settings.connect, retry_seconds=_CONNECT_SECONDS)) as connect:
        try:
            status = connect.status(connector)
        except UnknownConnectorError:
            text, fault = f"connector {connector!r} isn't deployed", waiting
        except ConnectError as error:
            text, fault = str(error), waiting
        else:
            if status.running:
                return proof
            text = f"connector {connector!r} is {status.summary}" + (f": {status.cause}" if status.cause else "")
            fault = status.failed or waiting
    return replace(proof, findings=[*proof.findings, Finding(Kind.CONNECTOR, detail=text, fault=fault)])
