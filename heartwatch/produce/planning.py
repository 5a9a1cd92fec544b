"""A run's description, completed with what has to be asked of Kafka."""

from __future__ import annotations

import time
from datetime import UTC, datetime
from typing import Any

from heartwatch.analytic import Analytic
from heartwatch.produce.sources import first_event_ms, last_event_ms, windows_of
from heartwatch.produce.spec import RunSpec
from heartwatch.settings import Settings
from kafkakit.admin import KafkaAdmin
from kafkakit.topic_reader import newest_event_ms

_WORTH_A_WORD_MS = 60_000


def plan_run(settings: Settings, start: datetime | None, run_id: str, **choices: Any) -> RunSpec:
    """Complete a run's description: the stream's partitions, and when its event time begins.

    Args:
        settings: where the brokers are, and the producers' batch size and transaction interval.
        start: first event time; None for now, after all that was sent before.
        run_id: names the run.
        **choices: further fields of `RunSpec`.

    Raises:
        UnknownTopicError: the stream's topic isn't deployed.
        SourceError: the choices can't be used.
    """
    analytic = Analytic.of(settings.pipeline)
    topic = analytic.stream_topic
    admin = KafkaAdmin(settings.kafka)
    partitions = len(admin.offsets([topic], "earliest"))
    variables = analytic.variables(settings.pipeline.variables)
    spec = RunSpec(run_id=run_id, partitions=partitions, close_after_ms=sum(windows_of(variables)), **choices)
    if start is not None:
        return spec.model_copy(update={"start_ms": round(start.timestamp() * 1000)})
    newest_ms = newest_event_ms(settings.kafka, admin, topic)
    start_ms = first_event_ms(spec, newest_ms, time.time_ns() // 1_000_000, variables)
    # A file says itself when its events were; those from the future are rejected.
    return spec.model_copy(update={"start_ms": start_ms, "waits": spec.source != "file"})


def wait_ahead(spec: RunSpec, now_ms: int) -> str:
    """Say how long a run at full speed waits for its own events to happen; empty where they have happened, or soon have.

    Args:
        spec: the run, planned.
        now_ms: now, ms since the epoch.

    Raises:
        SourceError: the run's recordings can't be read.
    """
    last_ms = last_event_ms(spec) if spec.waits and spec.speed is None else None
    if last_ms is None or last_ms - now_ms < _WORTH_A_WORD_MS:
        return ""
    return (
        f"the run begins after the topic's newest event and sends nothing before it has happened, so it ends at "
        f"{datetime.fromtimestamp(last_ms / 1000, UTC):%H:%M:%S} UTC, in {round((last_ms - now_ms) / 60_000)} minutes; topics "
        f"without events (after teardown-pipeline, or of another version) take it at full speed"
    )
