"""Provide the EC2 clusters: show what would change and what it costs, and after approval make it so.

Requires: AWS credentials (an `AwsCredentials` block, or the environment). Running it again changes only what differs, and
replaces machines that died.
"""

from __future__ import annotations

from typing import Annotated

from prefect import flow, get_run_logger, pause_flow_run
from prefect.input import RunInput
from pydantic import Field

from heartwatch.clusters.spec import ClusterSpec
from tasks.aws import ProvisionPlan, apply_plan, discard_plan, plan_clusters

Credentials = Annotated[str | None, Field(description="AwsCredentials block; None: the environment")]
_HOUR, _POLL = 3_600, 3


class Approval(RunInput):
    """What is asked of a person before machines are paid for."""

    approved: bool = False


@flow(name="provision-clusters", flow_run_name="provision-{clusters.stack_name}")
def provision_clusters(
    clusters: ClusterSpec = ClusterSpec(),  # noqa: B008  frozen
    dry_run: Annotated[bool, Field(description="show the plan and its price, change nothing")] = True,
    ask: Annotated[bool, Field(description="wait for a person's approval before applying the plan")] = True,
    credentials: Credentials = None,
) -> ProvisionPlan:
    """Plan the clusters; without `dry_run`, and when somebody approves, apply the plan.

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
