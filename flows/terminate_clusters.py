"""Remove the EC2 clusters: machines, network, secrets. The bucket with the sink's tables stays, data disks become snapshots.

Requires: AWS credentials.
"""

from __future__ import annotations

from typing import Annotated

from prefect import flow
from pydantic import Field

from flows.provision_clusters import Credentials
from heartwatch.clusters.spec import ClusterName
from tasks.aws import delete_clusters, list_resources


@flow(name="terminate-clusters", flow_run_name="terminate-{clusters.stack_name}")
def terminate_clusters(
    clusters: ClusterName = ClusterName(),  # noqa: B008  frozen
    dry_run: Annotated[bool, Field(description="show what would be removed, change nothing")] = True,
    credentials: Credentials = None,
) -> list[dict[str, str]]:
    """Show what belongs to the clusters and, without `dry_run`, remove it.

    Raises:
        AwsError: AWS refused.
    """
    resources = list_resources(clusters, credentials)
    if not dry_run:
        delete_clusters(clusters, credentials)
    return resources
