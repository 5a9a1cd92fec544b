"""Provide the EC2 clusters: show what would change and what it costs, and after approval make it so.

Requires: AWS credentials (an `AwsCredentials` block, or the environment). Running it again changes only what differs, and
replaces machines that died.
"""

from __future__ import annotations

from prefect import flow, get_run_logger, pause_flow_run
from prefect.input import RunInput

from heartwatch.clusters.provision import ProvisionPlan
from heartwatch.clusters.spec import ClusterSpec
from tasks.clusters import apply_plan, discard_plan, plan_clusters

_HOUR, _POLL = 3_600, 3  # seconds


class Approval(RunInput):
    """What is asked of a person before machines are paid for."""

    approved: bool = False


@flow(name="provision-clusters", flow_run_name="provision-{clusters.stack_name}")
def provision_clusters(
    clusters: ClusterSpec = ClusterSpec(),  # noqa: B008  frozen
    dry_run: bool = True,
    ask: bool = True,
    credentials: str | None = None,
) -> ProvisionPlan:
    """Plan the clusters; without `dry_run`, and when somebody approves, apply the plan.

    Args:
        clusters: Which clusters, and their machines: numbers, instance types, disks.
        dry_run: Show the plan and its price, and change nothing.
        ask: Wait for a person's approval before the plan is applied, one hour at most.
        credentials: Name of an `AwsCredentials` block in Prefect. Empty: the credentials of the worker's environment.

    Returns:
        the plan, applied or not.

    Raises:
        ClustersError: a type or region is unknown, or AWS refused.
    """
    plan = plan_clusters(clusters, credentials)
    get_run_logger().info(plan.summary)
    if plan.stack.change_set is None:
        return plan
    if dry_run or (ask and not _approved(plan)):
        discard_plan(clusters, plan, credentials)
        return plan
    apply_plan(clusters, plan, credentials)
    return plan


def _approved(plan: ProvisionPlan) -> bool:
    form = Approval.with_initial_data(description=plan.summary)
    return bool(pause_flow_run(wait_for_input=form, timeout=_HOUR, poll_interval=_POLL).approved)
