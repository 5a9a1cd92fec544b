"""A part of the orchestration hangs or dies while producers send: the run ends in a state that is true, and its books balance."""

from __future__ import annotations

import json
import signal
import time
from typing import Any
from uuid import UUID

import psutil
import pytest
from faults import stopped
from prefect.client.orchestration import get_client
from prefect.client.schemas.filters import ArtifactFilter, ArtifactFilterKey, FlowRunFilter, FlowRunFilterName
from prefect.client.schemas.objects import FlowRun
from prefect.deployments import run_deployment
from prefect.states import Scheduled
from schedules import wait_for

from heartwatch.heartbeats import are_heartbeats
from heartwatch.platform.platform import Platform
from heartwatch.settings import load_settings
from heartwatch.verify.topics import PipelineTopics
from kafkakit.admin import KafkaAdmin
from tasks.shard_runs import patiently

pytestmark = [
    pytest.mark.parts("kafka", "registry", "postgres", "connect", "s3", "engine", "prefect", "workers", "heartbeat"),
    pytest.mark.chaos,
]

HANG_SECONDS = 45
RUN_SECONDS = 420
EVENTS, RATE = 180_000, 2_000


def runs_called(name: str) -> list[FlowRun]:
    """Return the flow runs of a name."""
    wanted = FlowRunFilter(name=FlowRunFilterName(like_=name))
    with get_client(sync_client=True) as client:
        return patiently(lambda: client.read_flow_runs(flow_run_filter=wanted))


def read(run_id: UUID) -> FlowRun:
    with get_client(sync_client=True) as client:
        return patiently(lambda: client.read_flow_run(run_id))


def records() -> int:
    """Return how many events of people the stream's topic holds, heartbeats apart."""
    topics = PipelineTopics.of(load_settings())
    keys = topics.read(topics.analytic.stream).table["event_key"]
    return len(keys) - int(are_heartbeats(keys).sum())


def shards_of(run_id: UUID) -> list[dict[str, Any]]:
    """Return what a run says that its shards have sent."""
    with get_client(sync_client=True) as client:
        found = client.read_artifacts(artifact_filter=ArtifactFilter(key=ArtifactFilterKey(any_=["producers"])))
    (shown,) = [one for one in found if str(run_id) in (one.description or "")]
    rows: list[dict[str, Any]] = json.loads(str(shown.data))
    return rows


def begin(deployed: Platform) -> tuple[UUID, int]:
    """Deploy the topics, start a run, and wait until its events come; give its id and how many events were there before."""
    for deployment in ("deploy-topics", "deploy-schemas"):
        done = run_deployment(f"{deployment}/{deployment}", timeout=120, poll_interval=1)
        assert isinstance(done, FlowRun)
        assert done.state is not None
        assert done.state.is_completed(), done.state.message
    before = records()
    parameters = {
        "events": EVENTS,
        "events_per_second": RATE,
        "people": 2_000,
        "faults": False,
        "distribution": "share",
    }
    run = run_deployment("produce/produce", parameters=parameters, timeout=0)
    assert isinstance(run, FlowRun)
    settings = load_settings()
    topic, admin = PipelineTopics.of(settings).analytic.stream_topic, KafkaAdmin(settings.kafka)
    start = sum(admin.offsets([topic], "latest").values())
    wait_for(lambda: sum(admin.offsets([topic], "latest").values()) > start + 10 * RATE, "the run's events", 120)
    assert runs_called(f"{run.id}-shard"), "they are this run's"
    return run.id, before


def assert_balanced(run_id: UUID, before: int) -> None:
    """The run ends well, so do those of its shards that count, and the topic holds each event once."""
    wait_for(lambda: (state := read(run_id).state) is not None and state.is_final(), "the run's end", RUN_SECONDS)
    state = read(run_id).state
    assert state is not None
    assert state.is_completed(), f"{state.type.value}: {state.message}"
    wait_for(lambda: all(run.state and run.state.is_final() for run in runs_called(f"{run_id}-shard")), "all ends", 120)
    shards = shards_of(run_id)
    assert all(shard["finished"] for shard in shards)
    # A shard draws its share of the rows at random: the sum is near what was asked for, and exactly what the topic holds.
    assert sum(shard["delivered"] for shard in shards) == pytest.approx(EVENTS, rel=0.05)
    assert records() - before == sum(shard["delivered"] for shard in shards)


def comes_back(run_id: UUID) -> bool:
    """Whether a run that crashed is at work again; it is asked for once more where the worker told of the crash a second time."""
    run = read(run_id)
    assert run.state is not None
    if run.state.is_crashed():
        with get_client(sync_client=True) as client:
            client.set_flow_run_state(run_id, Scheduled(), force=True)
    return run.run_count > 1 and run.state.is_running()


@pytest.mark.parametrize("part", ["postgres", "prefect", "orchestration-1", "producers-1"])
def test_a_part_that_hangs_for_a_while_ends_no_run(deployed: Platform, part: str) -> None:
    run_id, before = begin(deployed)
    with stopped(deployed, part):
        time.sleep(HANG_SECONDS)  # the fault itself, not a wait for something
    assert_balanced(run_id, before)


@pytest.mark.parametrize("part", ["postgres", "prefect"])
def test_a_server_that_is_killed_ends_no_run(deployed: Platform, part: str) -> None:
    run_id, before = begin(deployed)
    deployed.kill(part, signal.SIGKILL)
    assert_balanced(run_id, before)


def test_a_parent_that_is_killed_takes_its_shards_up_when_it_is_run_again(deployed: Platform) -> None:
    run_id, before = begin(deployed)
    pid = read(run_id).infrastructure_pid
    assert pid is not None
    psutil.Process(int(pid)).kill()
    wait_for(lambda: (state := read(run_id).state) is not None and state.is_crashed(), "the worker's word of the crash")
    wait_for(lambda: comes_back(run_id), "the second process")
    assert_balanced(run_id, before)


def test_shards_whose_parent_stays_away_end_and_say_why(deployed: Platform) -> None:
    run_id, _ = begin(deployed)
    pid = read(run_id).infrastructure_pid
    assert pid is not None
    psutil.Process(int(pid)).kill()
    shards = wait_for(lambda: [run for run in runs_called(f"{run_id}-shard") if run.state], "the shards")
    for shard in shards:
        wait_for(lambda shard=shard: (read(shard.id).state or shard.state).is_final(), "the shard's end", 150)
        state = read(shard.id).state
        assert state is not None
        assert state.is_completed() or "the run that sent it out is CRASHED" in (state.message or ""), state.message
