"""Put the project's files and each machine's settings on the clusters' machines, all at once.

Requires: AWS credentials, clusters that provision-clusters made. No SSH: Systems Manager carries it.
"""

from __future__ import annotations

from prefect import flow, unmapped

from heartwatch.clusters.remote_commands import CommandOutcome
from heartwatch.clusters.spec import ClusterName
from tasks.machines import find_fleet, publish_outcomes, sync_machine, upload_release


@flow(name="sync-clusters", flow_run_name="sync-{clusters.stack_name}")
def sync_clusters(
    clusters: ClusterName = ClusterName(),  # noqa: B008  frozen
    credentials: str | None = None,
) -> list[CommandOutcome]:
    """Bring every machine to the same release.

    Args:
        clusters: Which clusters: analytic, version and AWS region.
        credentials: Name of an `AwsCredentials` block in Prefect. Empty: the credentials of the worker's environment.

    Returns:
        what the sync script did on each machine.

    Raises:
        ClustersError: machines are gone, a script failed, or AWS refused.
    """
    fleet = find_fleet(clusters, credentials)
    release = upload_release(clusters, fleet, credentials)
    outcomes = sync_machine.map(
        fleet.alive, unmapped(fleet), unmapped(release), unmapped(clusters), unmapped(credentials)
    ).result()
    publish_outcomes("sync-clusters", outcomes, fleet.gone)
    return outcomes
