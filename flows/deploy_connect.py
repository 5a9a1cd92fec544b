"""Create or update the analytic's connectors, and wait until every task runs.

Requires: Kafka Connect, and what its connectors reach: Kafka, the registry, Postgres, S3. Topics and schemas come first. Safe to
run again: only what differs is changed, and a failed run leaves what was there.
"""

from __future__ import annotations

from prefect import flow

from heartwatch.deploy.plan import Plan
from heartwatch.deploy.target import Target
from tasks.deploy import deploy_stage


@flow(name="deploy-connect")
def deploy_connect(target: Target | None = None, dry_run: bool = False) -> Plan:
    """Deploy the connectors; one that Connect finds wrong is refused with the reason for each field.

    Args:
        target: Pipeline version to deploy: analytic, version and KSQL variables. Empty: as the settings say.
        dry_run: Show the plan and change nothing.

    Returns:
        the changes that were made; in a dry run, those that would be made.

    Raises:
        DeployError: a change is refused or failed; nothing is left changed.
    """
    return deploy_stage("connect", target or Target(), dry_run)
