"""Deploy, produce, prove and tear down as on the clusters: the clusters' profile, one worker a machine, each with its own queue.

The rehearsal of the machines (tests/integration/clusters) ends where their services run. Here the embedded platform stands for
those services: the workers have the clusters' settings, with the platform's addresses in place of the private zone's names.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tomllib
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import psutil
import pytest
from prefect.client.orchestration import get_client
from prefect.client.schemas.filters import FlowRunFilter, FlowRunFilterParentFlowRunId
from prefect.client.schemas.objects import FlowRun
from prefect.deployments import run_deployment

from heartwatch.analytic import Analytic
from heartwatch.platform.platform import Platform
from heartwatch.settings import ROOT, load_settings, merge
from kafkakit.admin import KafkaAdmin

pytestmark = pytest.mark.parts("kafka", "registry", "postgres", "connect", "s3", "engine", "prefect", "workers")

MACHINES = {"website": "orchestration", "producer-1": "producers", "producer-2": "producers"}
"""Machines, with the work pool that each one's worker serves (`docker/prefect.yaml`, `docker/producers.yaml`)."""

VERSION = 7
RUN_SECONDS = 240


def machine_environment(home: Path, own_home: Path) -> dict[str, str]:
    """The clusters' profile, and over it where the platform's parts are and what it lacks (brokers, Confluent's converter)."""
    addresses: dict[str, Any] = {}
    for name in ("endpoints.toml", "secrets.toml"):
        addresses = merge(addresses, tomllib.loads((home / name).read_text(encoding="utf-8")))
    converter = load_settings().connect.avro_converter
    own = {
        "kafka": {"partitions": 4},
        "connect": {"avro_converter": converter},
        "pipeline": {"version": VERSION},
        "producer": {"machines": ["producer-1", "producer-2"], "processes_per_machine": 2},
    }
    sections = merge(addresses, own)
    inherited = {name: value for name, value in os.environ.items() if not name.startswith(("HEARTWATCH_", "PREFECT_"))}
    return {
        **inherited,
        **{f"HEARTWATCH_{name.upper()}": json.dumps(values) for name, values in sections.items()},
        # The image's Python is what a machine's worker starts runs with.
        "PATH": os.pathsep.join((str(Path(sys.executable).parent), os.environ["PATH"])),
        "HEARTWATCH_PROFILE": "ec2",
        "HEARTWATCH_HOME": str(own_home),
        "PREFECT_HOME": str(own_home / "prefect"),
        "PREFECT_API_URL": addresses["prefect"]["api_url"],
        "PREFECT_API_AUTH_STRING": addresses["prefect"]["auth_string"],
        "PREFECT_WORKER_QUERY_SECONDS": "1",
    }


@pytest.fixture(scope="module")
def machines(deployed: Platform, platform_home: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """A worker for each machine, with the settings that the machine has on the clusters."""
    own_home = tmp_path_factory.mktemp("machines")
    environment = machine_environment(platform_home, own_home)
    started = []
    for name, pool in MACHINES.items():
        queues = ["--pool", pool, "--work-queue", name, "--name", name, "--type", "process"]
        log = (own_home / f"{name}.log").open("wb")
        command = [sys.executable, "-m", "prefect", "worker", "start", *queues]
        started.append(subprocess.Popen(command, cwd=ROOT, env=environment, stdout=log, stderr=log))
    try:
        yield
    finally:
        for worker in started:
            children = psutil.Process(worker.pid).children(recursive=True)
            worker.terminate()
            worker.wait(30)
            psutil.wait_procs(children, timeout=30)


def run_on_website(deployment: str, **parameters: Any) -> FlowRun:
    """Run a deployment to its end on the machine that runs flows."""
    run = run_deployment(
        f"{deployment}/{deployment}",
        parameters=parameters,
        work_queue_name="website",
        timeout=RUN_SECONDS,
        poll_interval=1,
    )
    assert isinstance(run, FlowRun)
    assert run.state is not None
    assert run.state.is_completed(), f"{deployment}: {run.state.type.value}: {run.state.message}"
    return run


def topics() -> set[str]:
    """The topics of this version of the pipeline."""
    settings = load_settings()
    return {name for name in KafkaAdmin(settings.kafka).topics() if name.endswith(f"_v{VERSION}")}


def test_the_pipeline_is_deployed_filled_proven_and_removed(machines: None) -> None:
    run_on_website("deploy-pipeline")
    assert Analytic.load("heart_rate", VERSION).topic("realtime") in topics()
    run_on_website("generate-historical", people=500)
    run_on_website("load-historical")

    produced = run_on_website("produce", events=40_000, people=500)
    children = FlowRunFilter(parent_flow_run_id=FlowRunFilterParentFlowRunId(any_=[produced.id]))
    with get_client(sync_client=True) as client:
        shards = client.read_flow_runs(flow_run_filter=children)
    assert Counter(shard.work_queue_name for shard in shards) == {"producer-1": 2, "producer-2": 2}

    run_on_website("verify-sink", deadline_seconds=120)
    run_on_website("teardown-pipeline", dry_run=False, iceberg_tables=True)
    assert topics() == set()
