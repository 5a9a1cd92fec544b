"""Provision, sync, start, lose a machine, stop and terminate, against moto's AWS server: every line of these flows runs.

What is not AWS here: moto keeps the books of CloudFormation, EC2, S3, IAM, Route 53 and Systems Manager, but no machine boots
(`deployments/clusters/machine.sh` is not run) and no container starts. Scripts of Run Command do run, see `aws_server.py`.
"""

from __future__ import annotations

import json
import threading
from collections.abc import Callable
from pathlib import Path

import boto3
import pytest
from prefect.client.orchestration import get_client
from prefect.client.schemas.filters import FlowRunFilter, FlowRunFilterState, FlowRunFilterStateType
from prefect.client.schemas.objects import FlowRun, StateType

from flows.provision_clusters import provision_clusters
from flows.start_services import start_services
from flows.stop_services import stop_services
from flows.sync_clusters import sync_clusters
from flows.terminate_clusters import terminate_clusters
from heartwatch.clusters.errors import AwsError, MachinesError
from heartwatch.clusters.machines import Found, find_machines
from heartwatch.clusters.spec import ClusterName, ClusterSpec
from kafkakit.waiting import wait_until

CLUSTERS = ClusterName()
FEW = ClusterSpec(owner="rehearsal", ksql_servers=2, producers=1)
pytestmark = pytest.mark.usefixtures("prefect_server", "release")


def living(aws: boto3.Session) -> dict[str, Found]:
    return {one.name: one for one in find_machines(aws, CLUSTERS.region, "heart_rate", 1) if one.alive}


def services(folder: Path, machine: Found) -> dict[str, dict[str, str]]:
    record = folder / machine.instance_id / "services.json"
    return json.loads(record.read_text()) if record.exists() else {}


def answer_approval(approved: bool) -> threading.Thread:
    """Answer the next flow run that waits for a person, as the UI's form does."""

    def answer() -> None:
        paused = FlowRunFilter(state=FlowRunFilterState(type=FlowRunFilterStateType(any_=[StateType.PAUSED])))
        with get_client(sync_client=True) as client:
            runs = until(lambda: client.read_flow_runs(flow_run_filter=paused))
            client.resume_flow_run(runs[0].id, run_input={"approved": approved})

    thread = threading.Thread(target=answer)
    thread.start()
    return thread


def until(find: Callable[[], list[FlowRun]], seconds: float = 60) -> list[FlowRun]:
    return wait_until(find, seconds, 0.2, lambda: AssertionError("no flow run waits for approval"))


def test_01_a_dry_run_shows_price_and_plan_and_creates_nothing(aws: boto3.Session) -> None:
    plan = provision_clusters()

    assert "Add" in plan.stack.summary
    assert plan.costs[-1]["machines"] == "12", "the original's"
    assert plan.costs[-1]["USD an hour"] == "1.395"
    assert living(aws) == {}
    assert aws.client("cloudformation").describe_stacks()["Stacks"] == []


def test_02_without_approval_nothing_is_created(aws: boto3.Session) -> None:
    person = answer_approval(approved=False)
    provision_clusters(FEW, dry_run=False)
    person.join()

    assert living(aws) == {}


def test_03_with_approval_the_machines_are_there_with_their_tags(aws: boto3.Session) -> None:
    with pytest.raises(AwsError, match="run provision-clusters first"):
        sync_clusters()
    person = answer_approval(approved=True)
    provision_clusters(FEW, dry_run=False)
    person.join()

    assert sorted(living(aws)) == sorted(machine.name for machine in FEW.machines())
    tags = {
        tag["Key"]: tag["Value"]
        for tag in aws.client("ec2").describe_tags()["Tags"]
        if tag["ResourceType"] == "instance"
    }
    assert {"analytic", "version", "role", "owner"} <= set(tags)


def test_04_a_second_apply_changes_nothing(aws: boto3.Session) -> None:
    before = living(aws)
    plan = provision_clusters(FEW, dry_run=False, ask=False)

    assert plan.stack.change_set is None
    assert living(aws) == before


def test_05_services_do_not_start_without_files() -> None:
    with pytest.raises(MachinesError, match="run sync-clusters first"):
        start_services()


def test_06_sync_brings_files_settings_and_secrets(aws: boto3.Session, machines_folder: Path) -> None:
    first = sync_clusters()
    second = sync_clusters()

    assert [one.succeeded for one in first + second] == [True] * 18
    assert all("unpacked" in one.output for one in first)
    assert not any("unpacked" in one.output for one in second)
    secrets = set()
    for machine in living(aws).values():
        home = machines_folder / machine.instance_id
        assert (home / "secrets.env").stat().st_mode & 0o077 == 0
        secrets.add((home / "secrets.env").read_text())
        assert f"MACHINE_NAME={machine.name}\n" in (home / "machine.env").read_text()
    assert len(secrets) == 1, "all machines share one set of secrets"
    password = next(
        line.split("=", 1)[1] for line in secrets.pop().splitlines() if line.startswith("POSTGRES_PASSWORD")
    )
    scripts = [path.read_text() for path in machines_folder.glob("*/script-*.sh")]
    assert len(scripts) >= 18
    assert not any(password in script for script in scripts), "AWS' console shows scripts"


def test_07_services_start_in_the_order_of_their_dependencies(aws: boto3.Session, machines_folder: Path) -> None:
    outcomes = start_services(wait_seconds=30)

    assert [one.machine.split("-")[0] for one in outcomes] == (
        ["broker"] * 3 + ["database", "connect"] + ["ksql"] * 2 + ["website", "producer"]
    )
    machines = living(aws)
    assert set(services(machines_folder, machines["broker-2"])["heartwatch-brokers"]) == {"broker"}
    assert set(services(machines_folder, machines["connect"])["heartwatch-connect"]) == {"registry", "connect"}
    assert set(services(machines_folder, machines["website"])) == {"heartwatch-prefect", "heartwatch-website"}


def test_08_an_unhealthy_service_stops_what_depends_on_it_and_is_named(
    aws: boto3.Session, machines_folder: Path
) -> None:
    stop_services()
    broken = machines_folder / living(aws)["ksql-2"].instance_id / "broken-ksql"
    broken.touch()
    with pytest.raises(MachinesError, match=r"ksql-2 \(Failed\): ksql.yaml is not healthy after 30 s"):
        start_services(wait_seconds=30)
    broken.unlink()

    assert services(machines_folder, living(aws)["ksql-1"]) != {}
    assert services(machines_folder, living(aws)["producer-1"]) == {}
    assert all(one.succeeded for one in start_services(wait_seconds=30)), "a second run goes on"


def test_09_a_machine_that_died_is_named_and_replaced(aws: boto3.Session, machines_folder: Path) -> None:
    dead = living(aws)["broker-2"]
    aws.client("ec2").terminate_instances(InstanceIds=[dead.instance_id])
    with pytest.raises(MachinesError, match=r"broker-2 \(terminated\): run provision-clusters"):
        start_services(wait_seconds=30)

    plan = provision_clusters(FEW, dry_run=False, ask=False)

    assert plan.dead == ("broker-2",)
    assert {change["resource"] for change in plan.stack.changes if "Broker" in change["resource"]} == {
        "Broker2Generation1",
        "Broker2Generation1Data",
        "Broker2Generation2",
        "Broker2Generation2Data",
        "Broker2Record",
    }
    new = living(aws)["broker-2"]
    assert new.instance_id != dead.instance_id
    sync_clusters()
    start_services(wait_seconds=30)
    assert set(services(machines_folder, new)["heartwatch-brokers"]) == {"broker"}


def test_10_without_producer_machines_the_brokers_produce(aws: boto3.Session, machines_folder: Path) -> None:
    provision_clusters(FEW.model_copy(update={"producers": 0}), dry_run=False, ask=False)
    sync_clusters()
    outcomes = start_services(wait_seconds=30)

    assert [one.machine for one in outcomes][-3:] == ["broker-1", "broker-2", "broker-3"]
    machines = living(aws)
    assert "producer-1" not in machines
    assert set(services(machines_folder, machines["broker-1"])) == {"heartwatch-brokers", "heartwatch-producers"}


def test_11_stop_stops_everything(aws: boto3.Session, machines_folder: Path) -> None:
    outcomes = stop_services()

    assert outcomes[0].machine.startswith("broker"), "producers first"
    assert outcomes[-1].machine in {"broker-3", "database"}
    assert all(services(machines_folder, machine) == {} for machine in living(aws).values())


def test_12_terminate_shows_first_and_keeps_the_tables(aws: boto3.Session) -> None:
    before = living(aws)
    bucket = next(row["id"] for row in terminate_clusters() if row["resource"] == "Bucket")
    assert living(aws) == before != {}

    terminate_clusters(dry_run=False)

    assert living(aws) == {}
    assert [one["Name"] for one in aws.client("s3").list_buckets()["Buckets"]] == [bucket]
    names = {
        one["Name"]
        for page in aws.client("ssm").get_paginator("describe_parameters").paginate()
        for one in page["Parameters"]
    }
    assert [name for name in names if name.startswith("/heartwatch/")] == [], "the secrets went too"
    assert terminate_clusters(dry_run=False) == [], "safe to repeat"
