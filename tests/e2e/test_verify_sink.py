"""A sink that holds nothing: the flow fails with a sentence that says what and where, shows it, and emits the event."""

from __future__ import annotations

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextvars import copy_context
from typing import Any

import pyarrow as pa
import pytest
from confluent_kafka import Producer
from prefect.client.orchestration import get_client
from prefect.client.schemas.filters import ArtifactFilter, ArtifactFilterKey
from prefect.settings import temporary_settings
from schedules import prefect_settings

from flows.verify_sink import SinkBusyError, SinkIncompleteError, verify_sink
from heartwatch.analytic import Analytic
from heartwatch.platform.platform import Platform
from heartwatch.proof.store import ProofMemory
from heartwatch.settings import load_settings
from kafkakit import avro_codec
from kafkakit.admin import KafkaAdmin, TopicState, producer_config
from kafkakit.registry import Registry
from kafkakit.waiting import wait_until

pytestmark = pytest.mark.parts("kafka", "registry", "postgres", "connect", "s3", "prefect")

VERSION = 61
WAIT_SECONDS = 60


@pytest.fixture
def server(platform: Platform) -> Iterator[None]:
    """The platform's Prefect server as this process's; the flow runs here and needs no deployment."""
    with temporary_settings(prefect_settings()):
        yield


def send_three(analytic: Analytic) -> None:
    settings, topic = load_settings(), analytic.topic("alerts")
    KafkaAdmin(settings.kafka).create([TopicState(topic, 1, 1)])
    text = analytic.schema_text("alerts")
    schema, registered = avro_codec.parse(text), Registry(settings.registry).register(f"{topic}-value", text)
    rows = pa.RecordBatch.from_pylist(
        [{"user_id": str(user)} for user in range(3)], schema=avro_codec.arrow_schema(schema)
    )
    producer = Producer(producer_config(settings.kafka))
    for value in avro_codec.encode(rows, schema, registered.schema_id):
        producer.produce(topic, value, partition=0)
    assert producer.flush(30) == 0


def events(name: str, resource: str) -> list[dict[str, Any]]:
    wanted = {"filter": {"event": {"name": [name]}, "resource": {"id": [resource]}}}
    with get_client(sync_client=True) as client:
        return list(client._client.post("/events/filter", json=wanted).json()["events"])


def artifacts(key: str, topic: str) -> list[str]:
    """Return the artifacts of a key that are about a topic; other tests' runs make others."""
    with get_client(sync_client=True) as client:
        found = client.read_artifacts(artifact_filter=ArtifactFilter(key=ArtifactFilterKey(any_=[key])))
    return [str(artifact.data) for artifact in found if topic in str(artifact.data)]


@pytest.mark.usefixtures("server")
def test_an_incomplete_sink_fails_the_flow_with_what_and_where() -> None:
    analytic = Analytic.load(load_settings().pipeline.analytic, VERSION)
    topic = analytic.topic("alerts")
    send_three(analytic)
    with pytest.raises(SinkIncompleteError) as raised:
        verify_sink(topics=["alerts"], version=VERSION, deadline_seconds=0)
    sentence = str(raised.value)
    assert sentence.startswith(f"sink of topic {topic!r}: 3 behind in partition 0, offsets 0-2; 1 connector (")
    assert f"connector '{analytic.name('alerts_sink')}' isn't deployed" in sentence
    found = wait_until(
        lambda: events("heartwatch.sink.incomplete", f"heartwatch.sink.{topic}"),
        WAIT_SECONDS,
        0.5,
        lambda: AssertionError("the event comes"),
    )
    payload = found[0]["payload"]
    assert payload["sentence"] == sentence
    assert (payload["missing"], payload["faults"], payload["objects"]) == (3, 2, 0)
    assert any("behind" in data for data in artifacts("sink-findings", topic))
    (plot,) = artifacts("sink-over-time", topic)
    assert "data:image/png" in plot
    assert "3 behind in partition 0" in plot
    with pytest.raises(SinkIncompleteError):
        verify_sink(topics=["alerts"], version=VERSION, deadline_seconds=0, from_offsets={"alerts": {0: 0}})
    assert len(artifacts("sink-over-time", topic)) == 1, "a check of some offsets says nothing of the sink as a whole"


@pytest.mark.usefixtures("server")
def test_a_run_on_demand_waits_for_another_and_a_scheduled_one_leaves_it_the_topic() -> None:
    settings = load_settings()
    topic = Analytic.load(settings.pipeline.analytic, VERSION).topic("alerts")
    memory = ProofMemory(settings.postgres, topic, KafkaAdmin(settings.kafka).topic_id(topic))
    options: dict[str, Any] = {"topics": ["alerts"], "version": VERSION, "deadline_seconds": 0}
    with ThreadPoolExecutor() as pool:
        with memory.lock(5):
            skipped = verify_sink(**options, wait_seconds=0, return_state=True)
            assert (skipped.name, skipped.type.value) == ("Skipped", "COMPLETED")
            assert f"another check of the sink of topic {topic!r}" in (skipped.message or "")
            with pytest.raises(SinkBusyError, match="is still running"):
                verify_sink(**options, wait_seconds=0.1)
            context = copy_context()
            waiting = pool.submit(lambda: context.run(lambda: verify_sink(**options)))
            with pytest.raises(TimeoutError):
                waiting.result(timeout=5)
        with pytest.raises(SinkIncompleteError, match="3 behind"):
            waiting.result(timeout=WAIT_SECONDS)
