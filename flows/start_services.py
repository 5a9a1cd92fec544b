"""Start the clusters' services in the order of their dependencies, each step on all its machines at once.

Requires: AWS credentials, machines that sync-clusters filled.
"""

from __future__ import annotations

from typing import Annotated

from prefect import flow, unmapped
from pydantic import Field

from heartwatch.clusters.environment import start_waves
from heartwatch.clusters.remote_commands import CommandOutcome
from heartwatch.clusters.spec import ClusterName
from tasks.machines import find_fleet, publish_outcomes, start_machine


@flow(name="start-services", flow_run_name="start-{clusters.stack_name}")
def start_services(
    clusters: ClusterName = ClusterName(),  # noqa: B008  frozen
    wait_seconds: Annotated[int, Field(ge=10, le=1_800)] = 300,
    credentials: str | None = None,
) -> list[CommandOutcome]:
    """Start every service and wait until it is healthy; a step that fails keeps the later ones from starting.

    Args:
        clusters: Which clusters: analytic, version and AWS region.
        wait_seconds: Longest time that the services of a machine may take to be healthy, s.
        credentials: Name of an `AwsCredentials` block in Prefect. Empty: the credentials of the worker's environment.

    Returns:
        what the start script did on each machine.

    Raises:
        ClustersError: machines are gone, services are not healthy, or AWS refused.
    """
    fleet = find_fleet(clusters, credentials)
    outcomes: list[CommandOutcome] = []
    for wave in start_waves(fleet.alive):
        machines, files = zip(*wave, strict=True)
        outcomes += start_machine.map(
            machines, files, unmapped(wait_seconds), unmapped(clusters), unmapped(credentials)
        ).result()
        if not all(outcome.succeeded for outcome in outcomes):
            break
    publish_outcomes("start-services", outcomes, fleet.gone)
    return outcomes
