"""Register the analytic's Avro schemas under their topics' subjects, after a compatibility check.

Requires: the schema registry. Safe to run again: only what differs is changed, and a failed run leaves what was there.
"""

from __future__ import annotations

from typing import Annotated

from prefect import flow
from pydantic import Field

from heartwatch.deploy.plan import Plan
from tasks.deploy import Target, deploy_stage


@flow(name="deploy-schemas")
def deploy_schemas(
    target: Annotated[Target | None, Field(description="pipeline version; None: the settings'")] = None,
    dry_run: Annotated[bool, Field(description="show the plan and change nothing")] = False,
) -> Plan:
    """Register the schemas; an incompatible one is refused.

    Returns:
        the changes that were made; in a dry run, those that would be made.

    Raises:
        DeployError: a change is refused or failed; nothing is left changed.
    """
    return deploy_stage("schemas", target or Target(), dry_run)
