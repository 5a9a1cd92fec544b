"""Deploy one version of the pipeline: topics, schemas, connectors and KSQL migrations, in this order.

Requires: Kafka, the schema registry, Connect, a KSQL server, Postgres, S3. Safe to run again: an unchanged pipeline is one plan
and no change. When a stage fails, the stages before it are taken back too, so that what was there before is there again.
"""

from __future__ import annotations

from prefect import Flow, flow

from flows.deploy_connect import deploy_connect
from flows.deploy_ksql import deploy_ksql
from flows.deploy_schemas import deploy_schemas
from flows.deploy_topics import deploy_topics
from heartwatch.deploy.pipeline import Stage
from heartwatch.deploy.plan import DeployError, Plan
from heartwatch.deploy.target import Target
from tasks.deploy import take_back_stage

_STAGES: dict[Stage, Flow[..., Plan]] = {
    "topics": deploy_topics,
    "schemas": deploy_schemas,
    "connect": deploy_connect,
    "ksql": deploy_ksql,
}


@flow(name="deploy-pipeline")
def deploy_pipeline(target: Target | None = None, dry_run: bool = False) -> Plan:
    """Deploy all stages, or none.

    Args:
        target: Pipeline version to deploy: analytic, version and KSQL variables. Empty: as the settings say.
        dry_run: Show the plans and change nothing.

    Returns:
        the changes that were made; in a dry run, those that would be made.

    Raises:
        DeployError: a stage failed; the message says whether everything was taken back.
    """
    chosen = target or Target()
    applied: dict[Stage, Plan] = {}
    for stage, deploy in _STAGES.items():
        try:
            applied[stage] = deploy(chosen, dry_run)
        except Exception as error:
            if dry_run:
                raise
            raise DeployError(f"{error}{_take_back(chosen, applied)}") from error
    return Plan(tuple(change for plan in applied.values() for change in plan.changes))


def _take_back(target: Target, applied: dict[Stage, Plan]) -> str:
    """Take back the stages that were applied, last first; return what came of it."""
    outcomes = [
        f"{stage}: {take_back_stage(stage, target, plan)}" for stage, plan in reversed(applied.items()) if plan.changes
    ]
    return "".join(f"\n{outcome}" for outcome in outcomes)
