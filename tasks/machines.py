"""Tasks on the clusters' machines, found by EC2's tags and reached through Systems Manager."""

from __future__ import annotations

from collections.abc import Sequence

from prefect import get_run_logger, task
from prefect.cache_policies import NO_CACHE

from heartwatch.clusters import fleet as fleets
from heartwatch.clusters.fleet import Fleet, Scripts
from heartwatch.clusters.machines import Found
from heartwatch.clusters.remote_commands import CommandOutcome
from heartwatch.clusters.spec import ClusterName
from tasks.artifacts import publish_table
from tasks.aws import session_of


def _logged(script: str, outcome: CommandOutcome) -> CommandOutcome:
    get_run_logger().info("%s on %s: %s\n%s", script, outcome.machine, outcome.status, outcome.output)
    return outcome


@task(task_run_name="find-{clusters.stack_name}", cache_policy=NO_CACHE, timeout_seconds=300)
def find_fleet(clusters: ClusterName, credentials: str | None) -> Fleet:
    """Find the machines by their tags, and those that should be there but are not.

    Args:
        clusters: whose machines.
        credentials: name of an `AwsCredentials` block; None for the environment's.

    Raises:
        AwsError: AWS refused, or there is no stack.
    """
    fleet = fleets.find_fleet(session_of(credentials), clusters)
    for name, state in fleet.gone.items():
        get_run_logger().error("machine %s is %s", name, state)
    return fleet


@task(task_run_name="release", cache_policy=NO_CACHE, timeout_seconds=300)
def upload_release(clusters: ClusterName, fleet: Fleet, credentials: str | None) -> str:
    """Bring the project's files into the bucket, once for each state of them; return the release's name.

    Args:
        clusters: which.
        fleet: their machines and bucket.
        credentials: name of an `AwsCredentials` block; None for the environment's.

    Raises:
        AwsError: AWS refused.
    """
    name, new = fleets.upload_release(session_of(credentials), clusters, fleet)
    get_run_logger().info("release %s %s", name, "uploaded" if new else "is there already")
    return name


@task(task_run_name="sync-{machine.name}", cache_policy=NO_CACHE)
def sync_machine(
    machine: Found, fleet: Fleet, release: str, clusters: ClusterName, credentials: str | None
) -> CommandOutcome:
    """Bring a release and the machine's settings to a machine.

    Args:
        machine: which.
        fleet: all machines.
        release: what `upload_release` gave.
        clusters: whose machine.
        credentials: name of an `AwsCredentials` block; None for the environment's.
    """
    return _logged("sync.sh", Scripts(session_of(credentials), clusters).sync(machine, fleet, release))


@task(task_run_name="start-{machine.name}", cache_policy=NO_CACHE)
def start_machine(
    machine: Found, files: tuple[str, ...], wait_seconds: int, clusters: ClusterName, credentials: str | None
) -> CommandOutcome:
    """Start services of a machine and wait until they are healthy.

    Args:
        machine: which.
        files: compose files of the services.
        wait_seconds: how long the services may take to be healthy, s.
        clusters: whose machine.
        credentials: name of an `AwsCredentials` block; None for the environment's.
    """
    return _logged("start.sh", Scripts(session_of(credentials), clusters).start(machine, files, wait_seconds))


@task(task_run_name="stop-{machine.name}", cache_policy=NO_CACHE)
def stop_machine(
    machine: Found, files: tuple[str, ...], clusters: ClusterName, credentials: str | None
) -> CommandOutcome:
    """Stop services of a machine; their data stays.

    Args:
        machine: which.
        files: compose files of the services.
        clusters: whose machine.
        credentials: name of an `AwsCredentials` block; None for the environment's.
    """
    return _logged("stop.sh", Scripts(session_of(credentials), clusters).stop(machine, files))


def publish_outcomes(key: str, outcomes: Sequence[CommandOutcome], gone: dict[str, str]) -> None:
    """Show one row per machine, and fail when a script failed on one or one is gone.

    Args:
        key: lowercase letters, digits and dashes.
        outcomes: what the scripts did.
        gone: names of machines that don't run, with their state.

    Raises:
        MachinesError: the message names each machine with its trouble and the remedy.
    """
    publish_table(key, fleets.outcome_rows(outcomes, gone), fleets.outcomes_sentence(outcomes, gone))
    fleets.check_outcomes(outcomes, gone)
