"""Register the analytic's Avro schemas under their topics' subjects, after a compatibility check.

Requires: the schema registry. Safe to run again: only what differs is changed, and a failed run leaves what was there.
"""

from __future__ import annotations

from prefect import flow

from heartwatch.deploy.plan import Plan
from heartwatch.deploy.target import Target
from tasks.deploy import deploy_stage


@flow(name="deploy-schemas")
def deploy_schemas(target: Target | None = None, dry_run: bool = False) -> Plan:
    """Register the schemas; an incompatible one is refused.

    Args:
        target: Pipeline version to deploy: analytic, version and KSQL variables. Empty: as the settings say.
        dry_run: Show the plan and change nothing.

    Returns:
        the changes that were made; in a dry run, those that would be made.

    Raises:
        DeployError: a change is refused or failed; nothing is left changed.
    """
    return deploy_stage("schemas", target or Target(), dry_run)
