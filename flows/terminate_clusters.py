"""Remove the EC2 clusters: machines, network, secrets. The bucket with the sink's tables stays, data disks become snapshots.

Requires: AWS credentials.
"""

from __future__ import annotations

from prefect import flow

from heartwatch.clusters.spec import ClusterName
from tasks.clusters import delete_clusters, list_resources


@flow(name="terminate-clusters", flow_run_name="terminate-{clusters.stack_name}")
def terminate_clusters(
    clusters: ClusterName = ClusterName(),  # noqa: B008  frozen
    dry_run: bool = True,
    credentials: str | None = None,
) -> list[dict[str, str]]:
    """Show what belongs to the clusters and, without `dry_run`, remove it.

    Args:
        clusters: Which clusters: analytic, version and AWS region.
        dry_run: Show what would be removed, and change nothing.
        credentials: Name of an `AwsCredentials` block in Prefect. Empty: the credentials of the worker's environment.

    Returns:
        the stack's resources.

    Raises:
        AwsError: AWS refused.
    """
    resources = list_resources(clusters, credentials)
    if not dry_run:
        delete_clusters(clusters, credentials)
    return resources
