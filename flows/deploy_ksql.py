"""Apply the analytic's KSQL migrations that are missing, in order, and wait until their queries run.

Requires: a KSQL server (ksqlDB or the embedded engine), Kafka. Topics and schemas come first. Safe to run again: only what is
missing is applied, and a failed run leaves what was there.
"""

from __future__ import annotations

from prefect import flow

from heartwatch.deploy.plan import Plan
from heartwatch.deploy.target import Target
from tasks.deploy import deploy_stage


@flow(name="deploy-ksql")
def deploy_ksql(target: Target | None = None, dry_run: bool = False) -> Plan:
    """Apply the migrations; a file that was changed after it was applied is refused.

    Args:
        target: Pipeline version to deploy: analytic, version and KSQL variables. Empty: as the settings say.
        dry_run: Show the plan and change nothing.

    Returns:
        the changes that were made; in a dry run, those that would be made.

    Raises:
        DeployError: a change is refused or failed; nothing is left changed.
    """
    return deploy_stage("ksql", target or Target(), dry_run)
