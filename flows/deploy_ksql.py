"""Apply the analytic's KSQL migrations that are missing, in order, and wait until their queries run.

Requires: a KSQL server (ksqlDB or the embedded engine), Kafka. Topics and schemas come first. Safe to run again: only what is
missing is applied, and a failed run leaves what was there.
"""

from __future__ import annotations

from typing import Annotated

from prefect import flow
from pydantic import Field

from heartwatch.deploy.plan import Plan
from tasks.deploy import Target, deploy_stage


@flow(name="deploy-ksql")
def deploy_ksql(
    target: Annotated[Target | None, Field(description="pipeline version; None: the settings'")] = None,
    dry_run: Annotated[bool, Field(description="show the plan and change nothing")] = False,
) -> Plan:
    """Apply the migrations; a file that was changed after it was applied is refused.

    Returns:
        the changes that were made; in a dry run, those that would be made.

    Raises:
        DeployError: a change is refused or failed; nothing is left changed.
    """
    return deploy_stage("ksql", target or Target(), dry_run)
