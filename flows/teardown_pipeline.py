"""Remove one version of the pipeline, in dependency order, and nothing of any other version.

Requires: Kafka, the schema registry, Connect, a KSQL server, Postgres; S3 when the tables go too. Shows what it would remove
unless `dry_run` is false. Safe to run again: a second run goes on where one failed.
"""

from __future__ import annotations

from typing import Annotated

from prefect import flow
from pydantic import Field

from heartwatch.deploy.plan import Plan
from tasks.deploy import Target, apply_teardown, plan_teardown, publish_plan


@flow(name="teardown-pipeline")
def teardown_pipeline(
    target: Annotated[Target | None, Field(description="pipeline version; None: the settings'")] = None,
    iceberg_tables: Annotated[bool, Field(description="remove the sink's tables and their files too")] = False,
    dry_run: Annotated[bool, Field(description="show the plan and remove nothing")] = True,
) -> Plan:
    """Remove queries, streams, tables, connectors, subjects, topics and, when asked for, Iceberg tables.

    Returns:
        what was removed; in a dry run, what would be.

    Raises:
        DeployError: something could not be removed; what comes after it is untouched.
    """
    chosen = target or Target()
    plan = plan_teardown(chosen, iceberg_tables)
    publish_plan("teardown-pipeline", plan, dry_run)
    if not dry_run:
        apply_teardown(chosen, iceberg_tables, plan)
    return plan
