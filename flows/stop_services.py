"""Stop the clusters' services, those first that others don't need. Data stays on the machines.

Requires: AWS credentials.
"""

from __future__ import annotations

from prefect import flow, unmapped

from heartwatch.clusters.environment import start_waves
from heartwatch.clusters.remote_commands import CommandOutcome
from heartwatch.clusters.spec import ClusterName
from tasks.machines import find_fleet, publish_outcomes, stop_machine


@flow(name="stop-services", flow_run_name="stop-{clusters.stack_name}")
def stop_services(
    clusters: ClusterName = ClusterName(),  # noqa: B008  frozen
    credentials: str | None = None,
) -> list[CommandOutcome]:
    """Stop every service on the machines that run; one that fails doesn't keep the others from stopping.

    Args:
        clusters: Which clusters: analytic, version and AWS region.
        credentials: Name of an `AwsCredentials` block in Prefect. Empty: the credentials of the worker's environment.

    Returns:
        what the stop script did on each machine.

    Raises:
        ClustersError: a service could not be stopped, or AWS refused.
    """
    fleet = find_fleet(clusters, credentials)
    outcomes: list[CommandOutcome] = []
    for wave in reversed(start_waves(fleet.alive)):
        machines, files = zip(*[(machine, tuple(reversed(names))) for machine, names in wave], strict=True)
        outcomes += stop_machine.map(machines, files, unmapped(clusters), unmapped(credentials)).result()
    publish_outcomes("stop-services", outcomes, {})
    return outcomes
