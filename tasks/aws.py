"""Tasks on AWS: plan and apply the clusters, find their machines, run scripts on them.

Requires: credentials from an `AwsCredentials` block of prefect-aws, or without its name from the environment. Clients are made
inside each task, because they don't travel between processes.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, cast

from prefect import get_run_logger, task
from prefect.cache_policies import NO_CACHE
from pydantic import BaseModel

from heartwatch.clusters.environment import (
    forget_secrets,
    keep_secrets,
    machine_settings,
    secrets_parameter,
    services_of,
)
from heartwatch.clusters.errors import ClustersError
from heartwatch.clusters.machines import Found, dead_machines, find_machines
from heartwatch.clusters.prices import Prices, cost_rows
from heartwatch.clusters.release import pack, upload
from heartwatch.clusters.remote_commands import CommandOutcome, Commands, script_with
from heartwatch.clusters.spec import ClusterName, ClusterSpec
from heartwatch.clusters.stack import Stack, StackPlan
from heartwatch.clusters.template import FOLDER, generations_of
from heartwatch.extras import needed
from tasks.artifacts import publish_table

if TYPE_CHECKING:
    from boto3 import Session

_SYNC_SECONDS = 600


class MachinesError(ClustersError):
    """Machines are gone, or a script failed on some; the message names each."""


class ProvisionPlan(BaseModel):
    """What provisioning would change and cost.

    Attributes:
        stack: the change set.
        dead: names of the machines that are gone and would be replaced.
        costs: one row a role with its price.
        prices: date and source of the prices.
    """

    stack: StackPlan
    dead: tuple[str, ...]
    costs: list[dict[str, str]]
    prices: str

    @property
    def summary(self) -> str:
        """The plan in two sentences, for a person who approves it."""
        total = self.costs[-1]
        replaced = f" Replaces {', '.join(self.dead)}, which died." if self.dead else ""
        return (
            f"Stack {self.stack.stack}: {self.stack.summary}.{replaced} {total['machines']} machines cost "
            f"{total['USD an hour']} USD an hour, {total['USD a billion events']} USD a billion events ({self.prices})."
        )


class Fleet(BaseModel):
    """The machines of the clusters.

    Attributes:
        alive: those that run.
        gone: names of those that are in the stack but don't run, with their state.
        bucket: the clusters' bucket.
    """

    alive: list[Found]
    gone: dict[str, str]
    bucket: str


def _session(credentials: str | None) -> Session:
    with needed("clusters"):
        import boto3  # noqa: PLC0415
        from prefect_aws import AwsCredentials  # noqa: PLC0415

    if credentials is None:
        return boto3.Session()
    return cast(AwsCredentials, AwsCredentials.load(credentials)).get_boto3_session()


def _stack(clusters: ClusterName, credentials: str | None) -> Stack:
    return Stack(_session(credentials), clusters.stack_name, clusters.region)


@task(task_run_name="plan-{clusters.stack_name}", cache_policy=NO_CACHE, timeout_seconds=600)
def plan_clusters(clusters: ClusterSpec, credentials: str | None) -> ProvisionPlan:
    """Say what provisioning would change and cost; create nothing but the plan."""
    prices = Prices.load()
    prices.check_region(clusters.region)
    costs = cost_rows(clusters.machines(), prices, clusters.events_per_second)
    stack = _stack(clusters, credentials)
    stack.check_types(clusters)
    found = find_machines(_session(credentials), clusters.region, clusters.analytic, clusters.version)
    dead = dead_machines(generations_of(stack.template()), found)
    plan = ProvisionPlan(
        stack=stack.plan(clusters, prices, dead),
        dead=dead,
        costs=costs,
        prices=f"prices of {prices.date}, {prices.source}",
    )
    publish_table("clusters-cost", costs, plan.summary)
    publish_table("clusters-plan", list(plan.stack.changes), f"Stack {clusters.stack_name}: {plan.stack.summary}.")
    return plan


@task(task_run_name="apply-{clusters.stack_name}", cache_policy=NO_CACHE, timeout_seconds=1_800)
def apply_plan(clusters: ClusterName, plan: ProvisionPlan, credentials: str | None) -> None:
    """Carry out a plan and wait for its end; the machines' secrets are made when there are none."""
    keep_secrets(_session(credentials), clusters.region, clusters.stack_name)
    _stack(clusters, credentials).apply(plan.stack)


@task(task_run_name="discard-{clusters.stack_name}", cache_policy=NO_CACHE, timeout_seconds=300)
def discard_plan(clusters: ClusterName, plan: ProvisionPlan, credentials: str | None) -> None:
    """Forget a plan that nobody approved."""
    _stack(clusters, credentials).discard(plan.stack)


@task(task_run_name="list-{clusters.stack_name}", cache_policy=NO_CACHE, timeout_seconds=300)
def list_resources(clusters: ClusterName, credentials: str | None) -> list[dict[str, str]]:
    """Return and show what a termination removes."""
    rows = _stack(clusters, credentials).resources()
    publish_table("clusters-resources", rows, f"Stack {clusters.stack_name} has {len(rows)} resources.")
    return rows


@task(task_run_name="delete-{clusters.stack_name}", cache_policy=NO_CACHE, timeout_seconds=1_800)
def delete_clusters(clusters: ClusterName, credentials: str | None) -> None:
    """Delete machines, network and secrets; the bucket with the tables stays."""
    _stack(clusters, credentials).delete()
    forget_secrets(_session(credentials), clusters.region, clusters.stack_name)


@task(task_run_name="find-{clusters.stack_name}", cache_policy=NO_CACHE, timeout_seconds=300)
def find_fleet(clusters: ClusterName, credentials: str | None) -> Fleet:
    """Find the machines by their tags, and those that should be there but are not."""
    stack = _stack(clusters, credentials)
    bucket = stack.resource_id("Bucket")
    found = find_machines(_session(credentials), clusters.region, clusters.analytic, clusters.version)
    states = {machine.name: machine.state for machine in found}
    alive = [machine for machine in found if machine.alive]
    names = {machine.name for machine in alive}
    gone = {name: states.get(name, "not there") for name in generations_of(stack.template()) if name not in names}
    for name, state in gone.items():
        get_run_logger().error("machine %s is %s", name, state)
    return Fleet(alive=alive, gone=gone, bucket=bucket)


@task(task_run_name="release", cache_policy=NO_CACHE, timeout_seconds=300)
def upload_release(clusters: ClusterName, fleet: Fleet, credentials: str | None) -> str:
    """Bring the project's files into the bucket, once for each state of them; return the release's name."""
    name, content = pack()
    new = upload(_session(credentials), clusters.region, fleet.bucket, name, content)
    get_run_logger().info("release %s %s", name, "uploaded" if new else "is there already")
    return name


@task(task_run_name="sync-{machine.name}", cache_policy=NO_CACHE)
def sync_machine(
    machine: Found, fleet: Fleet, release: str, clusters: ClusterName, credentials: str | None
) -> CommandOutcome:
    """Bring a release and the machine's settings to a machine."""
    settings = machine_settings(machine, fleet.alive, Prices.load(), fleet.bucket, clusters.region)
    variables = {
        "RELEASE": release,
        "BUCKET": fleet.bucket,
        "AWS_DEFAULT_REGION": clusters.region,
        "SECRETS_PARAMETER": secrets_parameter(clusters.stack_name),
        "ROLES_FILES": " ".join(services_of(machine, fleet.alive)),
        "MACHINE_SETTINGS": "\n".join(f"{name}={value}" for name, value in settings.items()),
    }
    return _run(machine, "sync.sh", variables, _SYNC_SECONDS, clusters, credentials)


@task(task_run_name="start-{machine.name}", cache_policy=NO_CACHE)
def start_machine(
    machine: Found, files: tuple[str, ...], wait_seconds: int, clusters: ClusterName, credentials: str | None
) -> CommandOutcome:
    """Start services of a machine and wait until they are healthy."""
    variables = {"ROLES_FILES": " ".join(files), "WAIT_SECONDS": str(wait_seconds)}
    # The first start builds or fetches images before the wait begins.
    return _run(machine, "start.sh", variables, 2 * wait_seconds + _SYNC_SECONDS, clusters, credentials)


@task(task_run_name="stop-{machine.name}", cache_policy=NO_CACHE)
def stop_machine(
    machine: Found, files: tuple[str, ...], clusters: ClusterName, credentials: str | None
) -> CommandOutcome:
    """Stop services of a machine; their data stays."""
    return _run(machine, "stop.sh", {"ROLES_FILES": " ".join(files)}, _SYNC_SECONDS, clusters, credentials)


def _run(
    machine: Found, script: str, variables: dict[str, str], seconds: int, clusters: ClusterName, credentials: str | None
) -> CommandOutcome:
    text = script_with(variables, (FOLDER / script).read_text(encoding="utf-8"))
    outcome = Commands(_session(credentials), clusters.region).run(machine, text, seconds)
    get_run_logger().info("%s on %s: %s\n%s", script, machine.name, outcome.status, outcome.output)
    return outcome


def publish_outcomes(key: str, outcomes: Sequence[CommandOutcome], gone: dict[str, str]) -> None:
    """Show one row a machine, and fail when one failed or is gone.

    Raises:
        MachinesError: the message names each machine with its trouble and the remedy.
    """
    rows = [outcome.row() for outcome in outcomes]
    rows += [
        {"machine": name, "instance": "", "status": state, "seconds": "", "output": ""} for name, state in gone.items()
    ]
    failed = [outcome for outcome in outcomes if not outcome.succeeded]
    publish_table(key, rows, f"{len(rows) - len(failed) - len(gone)} of {len(rows)} machines are well.")
    troubles = [
        f"{one.machine} ({one.status}): {one.output.splitlines()[-1] if one.output else 'no output'}" for one in failed
    ]
    if failed:
        troubles.append("mend these and run again: machines that are well are not touched")
    if gone:
        names = ", ".join(f"{name} ({state})" for name, state in gone.items())
        troubles.append(f"{names}: run provision-clusters to replace what died, start in EC2 what was stopped")
    if troubles:
        raise MachinesError("; ".join(troubles))
