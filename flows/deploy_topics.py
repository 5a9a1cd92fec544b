"""Bring Kafka's topics to what the analytic's files and the settings say.

Requires: Kafka. Safe to run again: only what differs is changed, and a failed run leaves what was there.
"""

from __future__ import annotations

from typing import Annotated

from prefect import flow
from pydantic import Field

from heartwatch.deploy.plan import Plan
from tasks.deploy import Target, deploy_stage


@flow(name="deploy-topics")
def deploy_topics(
    target: Annotated[Target | None, Field(description="pipeline version; None: the settings'")] = None,
    dry_run: Annotated[bool, Field(description="show the plan and change nothing")] = False,
) -> Plan:
    """Create and reconfigure topics; a change that would break keys is refused.

    Returns:
        the changes that were made; in a dry run, those that would be made.

    Raises:
        DeployError: a change is refused or failed; nothing is left changed.
    """
    return deploy_stage("topics", target or Target(), dry_run)
