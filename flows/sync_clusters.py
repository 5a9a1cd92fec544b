"""Put the project's files and each machine's settings on the clusters' machines, all at once.

Requires: AWS credentials, clusters that provision-clusters made. No SSH: Systems Manager carries it.
"""

from __future__ import annotations

from prefect import flow, unmapped

from flows.provision_clusters import Credentials
from heartwatch.clusters.remote_commands import CommandOutcome
from heartwatch.clusters.spec import ClusterName
from tasks.aws import find_fleet, publish_outcomes, sync_machine, upload_release


@flow(name="sync-clusters", flow_run_name="sync-{clusters.stack_name}")
def sync_clusters(
    clusters: ClusterName = ClusterName(),  # noqa: B008  frozen
    credentials: Credentials = None,
) -> list[CommandOutcome]:
    """Bring every machine to the same release.

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
