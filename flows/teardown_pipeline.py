"""Remove one version of the pipeline, in dependency order, and nothing of any other version.

Requires: Kafka, the schema registry, Connect, a KSQL server, Postgres; S3 when the tables go too. Shows what it would remove
unless `dry_run` is false. Safe to run again: a second run goes on where one failed.
"""

from __future__ import annotations

from prefect import flow

from heartwatch.deploy.plan import Plan
from heartwatch.deploy.target import Target
from tasks.deploy import apply_teardown, plan_teardown, publish_plan


@flow(name="teardown-pipeline")
def teardown_pipeline(
    target: Target | None = None,
    iceberg_tables: bool = False,
    dry_run: bool = True,
) -> Plan:
    """Remove queries, streams, tables, connectors, subjects, topics and, when asked for, Iceberg tables.

    Args:
        target: Pipeline version to remove: analytic, version and KSQL variables. Empty: as the settings say.
        iceberg_tables: Remove the sink's tables and their files too.
        dry_run: Show the plan and remove nothing.

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
