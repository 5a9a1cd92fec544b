"""The sampler on a real broker: what it says of stages, and how late results are."""

from __future__ import annotations

import time
from collections.abc import Sequence
from contextlib import suppress

import pytest
from confluent_kafka import Producer

from heartwatch.analytic import Analytic
from heartwatch.monitoring import Sample
from heartwatch.platform.platform import Platform
from heartwatch.settings import Settings, load_settings
from heartwatch.verify.latency import Note
from heartwatch.verify.stages import Sampler, results_stage, stream_stage
from kafkakit.admin import KafkaAdmin, KafkaClientError, TopicState, producer_config
from kafkakit.waiting import wait_until

pytestmark = pytest.mark.parts("kafka")
START = 1_700_000_000_000


@pytest.fixture
def settings(platform: Platform) -> Settings:
    settings = load_settings()
    # No KSQL server is asked for: the queries are found by their groups then, of which there are none.
    return settings.model_copy(
        update={
            "pipeline": settings.pipeline.model_copy(update={"version": 73}),
            "ksqldb": settings.ksqldb.model_copy(update={"urls": ["http://127.0.0.1:9"]}),
        }
    )


def send(settings: Settings, topic: str, records: Sequence[tuple[bytes, int]]) -> None:
    """Send records (key, timestamp in ms) to partition 0 in one transaction."""
    producer = Producer(producer_config(settings.kafka, transactional_id="test-latency"))
    producer.init_transactions(30)
    producer.begin_transaction()
    for key, timestamp in records:
        producer.produce(topic, b"value", key, partition=0, timestamp=timestamp)
    producer.commit_transaction(30)


def first_sample(sampler: Sampler) -> Sample:
    """Take a sample as soon as the brokers, just started, know who coordinates the groups."""

    def sample() -> Sample | None:
        with suppress(KafkaClientError):
            return sampler.sample()
        return None

    return wait_until(sample, 30, 0.1, AssertionError)


def seen(sampler: Sampler, notes: list[Note], end: int) -> float:
    """Take notes until a topic's partition 0 ends behind `end`, and return the first such note's time.

    A commit returns before the brokers have written the markers that make its records visible.
    """

    def noted() -> bool:
        if notes[-1].ends[0] <= end:
            sampler.note()
        return notes[-1].ends[0] > end

    wait_until(noted, 30, 0.05, AssertionError)
    return notes[-1].at


def test_a_result_is_timed_from_the_event_that_closed_its_window(
    settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("heartwatch.verify.stages._KSQL_SECONDS", 0.1)
    analytic = Analytic.of(settings.pipeline)
    realtime, alerts = analytic.topic("realtime"), analytic.topic("alerts")
    config = {"message.timestamp.before.max.ms": str(2**63 - 1), "message.timestamp.after.max.ms": str(2**63 - 1)}
    KafkaAdmin(settings.kafka).create([TopicState(topic, 2, 1, config) for topic in (realtime, alerts)])
    send(settings, realtime, [(b"1", START + second * 1_000) for second in range(12)])
    sampler = Sampler(settings)
    assert sampler.deployed
    first = first_sample(sampler)
    seen(sampler, sampler.event_notes, 11)
    before = sampler.event_notes[-1].ends[0]
    # Window 0..10 s with 10 s of grace: the event of second 20 closes it.
    send(settings, realtime, [(b"1", START + 19_000), (b"2", START + 20_000)])
    closed_at = seen(sampler, sampler.event_notes, before + 1)
    time.sleep(0.3)
    sampler.note()
    send(settings, alerts, [(b"1" + START.to_bytes(8, "big"), START)])
    came_at = seen(sampler, sampler.result_notes, 0)
    last = sampler.sample()
    assert last.positions[results_stage(analytic)] > first.positions[results_stage(analytic)]
    assert last.positions[stream_stage(analytic)] > first.positions[stream_stage(analytic)]
    (found,) = sampler.latencies(window_ms=10_000, grace_ms=10_000)
    assert (found.partition, found.offset, found.at) == (0, 0, came_at)
    assert found.since_closing_ms == pytest.approx((came_at - closed_at) * 1_000)
    assert found.since_closing_ms > 300
    assert found.since_window_end_ms == pytest.approx(came_at * 1_000 - START - 10_000)
