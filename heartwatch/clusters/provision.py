"""What provisioning the clusters would change and cost; and how a plan is applied, discarded, and the clusters deleted."""

from __future__ import annotations

from typing import TYPE_CHECKING

from pydantic import BaseModel

from heartwatch.clusters.environment import forget_secrets, keep_secrets
from heartwatch.clusters.machines import dead_machines, find_machines
from heartwatch.clusters.prices import Prices, cost_rows
from heartwatch.clusters.spec import ClusterName, ClusterSpec
from heartwatch.clusters.stack import Stack, StackPlan
from heartwatch.clusters.template import generations_of

if TYPE_CHECKING:
    from boto3 import Session


class ProvisionPlan(BaseModel):
    """What provisioning would change and cost.

    Attributes:
        stack: the change set.
        dead: names of the machines that are gone and would be replaced.
        costs: one row per role with its price.
        prices: date and source of the prices.
    """

    stack: StackPlan
    dead: tuple[str, ...]
    costs: list[dict[str, str]]
    prices: str

    @property
    def summary(self) -> str:
        """The plan in two sentences, for a person who approves it."""
        total = self.costs[-1]
        replaced = f" Replaces {', '.join(self.dead)}, which died." if self.dead else ""
        return (
            f"Stack {self.stack.stack}: {self.stack.summary}.{replaced} {total['machines']} machines cost "
            f"{total['USD an hour']} USD an hour, {total['USD a billion events']} USD a billion events ({self.prices})."
        )


def stack_of(session: Session, clusters: ClusterName) -> Stack:
    """Return the clusters' stack, whether it is there or not."""
    return Stack(session, clusters.stack_name, clusters.region)


def plan_provisioning(session: Session, clusters: ClusterSpec) -> ProvisionPlan:
    """Return what provisioning would change and cost; create nothing but the change set.

    Args:
        session: whose credentials are used.
        clusters: what is wanted.

    Raises:
        SpecError: a type or region is unknown.
        AwsError: AWS refused.
    """
    prices = Prices.load()
    prices.check_region(clusters.region)
    costs = cost_rows(clusters.machines(), prices, clusters.events_per_second)
    stack = stack_of(session, clusters)
    stack.check_types(clusters)
    found = find_machines(session, clusters.region, clusters.analytic, clusters.version)
    dead = dead_machines(generations_of(stack.template()), found)
    return ProvisionPlan(
        stack=stack.plan(clusters, prices, dead),
        dead=dead,
        costs=costs,
        prices=f"prices of {prices.date}, {prices.source}",
    )


def apply_plan(session: Session, clusters: ClusterName, plan: ProvisionPlan) -> None:
    """Carry out a plan and wait for its end; the machines' secrets are made when there are none.

    Raises:
        AwsError: AWS refused, or the stack could not be made as planned.
    """
    keep_secrets(session, clusters.region, clusters.stack_name)
    stack_of(session, clusters).apply(plan.stack)


def delete_clusters(session: Session, clusters: ClusterName) -> None:
    """Delete machines, network and secrets; the bucket with the tables stays.

    Raises:
        AwsError: AWS refused.
    """
    stack_of(session, clusters).delete()
    forget_secrets(session, clusters.region, clusters.stack_name)
