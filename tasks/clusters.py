"""Tasks of the clusters' CloudFormation stack: plan, apply, discard, list, delete."""

from __future__ import annotations

from prefect import task
from prefect.cache_policies import NO_CACHE

from heartwatch.clusters import provision
from heartwatch.clusters.provision import ProvisionPlan, stack_of
from heartwatch.clusters.spec import ClusterName, ClusterSpec
from tasks.artifacts import publish_table
from tasks.aws import session_of


@task(task_run_name="plan-{clusters.stack_name}", cache_policy=NO_CACHE, timeout_seconds=600)
def plan_clusters(clusters: ClusterSpec, credentials: str | None) -> ProvisionPlan:
    """Plan what provisioning would change and cost, and show it; create nothing but the plan.

    Args:
        clusters: what is wanted.
        credentials: name of an `AwsCredentials` block; None for the environment's.

    Raises:
        ClustersError: a type or region is unknown, or AWS refused.
    """
    plan = provision.plan_provisioning(session_of(credentials), clusters)
    publish_table("clusters-cost", plan.costs, plan.summary)
    publish_table("clusters-plan", list(plan.stack.changes), f"Stack {clusters.stack_name}: {plan.stack.summary}.")
    return plan


@task(task_run_name="apply-{clusters.stack_name}", cache_policy=NO_CACHE, timeout_seconds=1_800)
def apply_plan(clusters: ClusterName, plan: ProvisionPlan, credentials: str | None) -> None:
    """Carry out a plan and wait for its end; the machines' secrets are made when there are none.

    Args:
        clusters: which.
        plan: what `plan_clusters` gave.
        credentials: name of an `AwsCredentials` block; None for the environment's.

    Raises:
        AwsError: AWS refused, or the stack could not be made as planned.
    """
    provision.apply_plan(session_of(credentials), clusters, plan)


@task(task_run_name="discard-{clusters.stack_name}", cache_policy=NO_CACHE, timeout_seconds=300)
def discard_plan(clusters: ClusterName, plan: ProvisionPlan, credentials: str | None) -> None:
    """Discard a plan that nobody approved.

    Args:
        clusters: which.
        plan: what `plan_clusters` gave.
        credentials: name of an `AwsCredentials` block; None for the environment's.

    Raises:
        AwsError: AWS refused.
    """
    stack_of(session_of(credentials), clusters).discard(plan.stack)


@task(task_run_name="list-{clusters.stack_name}", cache_policy=NO_CACHE, timeout_seconds=300)
def list_resources(clusters: ClusterName, credentials: str | None) -> list[dict[str, str]]:
    """Return and show what a termination removes.

    Args:
        clusters: which.
        credentials: name of an `AwsCredentials` block; None for the environment's.

    Raises:
        AwsError: AWS refused.
    """
    rows = stack_of(session_of(credentials), clusters).resources()
    publish_table("clusters-resources", rows, f"Stack {clusters.stack_name} has {len(rows)} resources.")
    return rows


@task(task_run_name="delete-{clusters.stack_name}", cache_policy=NO_CACHE, timeout_seconds=1_800)
def delete_clusters(clusters: ClusterName, credentials: str | None) -> None:
    """Delete machines, network and secrets; the bucket with the tables stays.

    Args:
        clusters: which.
        credentials: name of an `AwsCredentials` block; None for the environment's.

    Raises:
        AwsError: AWS refused.
    """
    provision.delete_clusters(session_of(credentials), clusters)
