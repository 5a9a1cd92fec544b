"""One producer process: opens a shard's source and its sender, and sends until the source or a stop ends it."""

from __future__ import annotations

from pathlib import Path

from heartwatch.analytic import Analytic
from heartwatch.errors import HeartWatchError
from heartwatch.files.rejects import RejectFile
from heartwatch.produce.companion import Companion
from heartwatch.produce.messages import Encoder
from heartwatch.produce.pacing import Pacer
from heartwatch.produce.run import ShardOutcome, run_shard
from heartwatch.produce.sender import ShardSender
from heartwatch.produce.shards import Shard
from heartwatch.produce.sources import open_source, shards_of
from heartwatch.produce.spec import RunSpec
from heartwatch.settings import Settings
from kafkakit import avro_codec
from kafkakit.registry import Registry


class AbandonedError(HeartWatchError):
    """Nobody wants a shard's events any more, and its process ended; what was committed stays, and can be gone on from."""


def send_shard(settings: Settings, spec: RunSpec, shard: Shard, companion: Companion) -> ShardOutcome:
    """Send a shard's events until its source ends or the companion says stop.

    Args:
        settings: where the brokers and the registry are.
        spec: the run.
        shard: which part of it.
        companion: not started yet; it runs while the shard is sent.

    Raises:
        DeliveryError: messages could not be delivered; a second run of the shard goes on after what was committed.
        SourceError: the source can't be opened.
        AbandonedError: nobody wants its events any more; all that was sent is committed.
    """
    analytic = Analytic.of(settings.pipeline)
    encoder = _encoder(settings, analytic, spec, shard)
    rejects = settings.home / "rejects" / f"{spec.run_id}-{shard.index}.jsonl"
    source = open_source(spec, shard, analytic, encoder.schema_id, rejects)
    rate = spec.events_per_second / len(shards_of(spec)) if spec.events_per_second else None
    unsent = RejectFile(unsent_file(settings, spec, shard), keep=True)
    with (
        unsent,
        ShardSender(settings.kafka, analytic.stream_topic, spec.run_id, shard, rejects=unsent) as sender,
        companion,
    ):
        outcome = run_shard(
            source,
            encoder,
            sender,
            Pacer(rate, spec.speed, waits=spec.waits),
            companion.should_stop,
            companion.report,
            spec.transaction_interval_ms / 1000,
        )
    if companion.abandoned and not outcome.progress.finished:
        raise AbandonedError(
            f"shard {shard.index} of run {spec.run_id!r} ended after {outcome.progress.delivered:,} events, all committed: "
            f"{companion.abandoned}; run the parent again to go on from there"
        )
    return outcome


def unsent_file(settings: Settings, spec: RunSpec, shard: Shard) -> Path:
    """Return the file of a shard's events that could not be sent, whatever was tried."""
    return settings.home / "rejects" / f"{spec.run_id}-{shard.index}-unsent.jsonl"


def _encoder(settings: Settings, analytic: Analytic, spec: RunSpec, shard: Shard) -> Encoder:
    topic = analytic.topics[analytic.stream]
    text = analytic.schema_text(analytic.stream)
    registered = Registry(settings.registry).register(f"{analytic.stream_topic}-value", text)
    return Encoder(
        schema=avro_codec.parse(text),
        schema_id=registered.schema_id,
        key=topic.key,
        event_time=topic.event_time or "",
        partitions=spec.partitions,
        chosen=shard.partitions,
    )


def outcome_sentence(shard: Shard, outcome: ShardOutcome) -> str:
    """Return what a process did, for its log."""
    progress = outcome.progress
    rejected = f"{progress.rejected} rejected, " if progress.rejected else ""
    return (
        f"shard {shard.index}: {progress.delivered} events delivered, {progress.failed} sent again, {rejected}"
        f"{outcome.events_per_second:.0f} events/s{', stopped' if outcome.stopped else ''}"
    )
