"""Tasks that plan, apply and take back a stage of the pipeline, and that tear a version down.

A stage is one outside system: Kafka's topics, the schema registry, Connect, the KSQL servers. What each does with its resources
is a deployer of `heartwatch.deploy`; the tasks are the same for all of them.
"""

from __future__ import annotations

from typing import Any

from prefect import get_run_logger, task
from prefect.cache_policies import NO_CACHE
from prefect.client.schemas.objects import State, TaskRun
from prefect.tasks import Task, exponential_backoff

from heartwatch.deploy import pipeline
from heartwatch.deploy.pipeline import Stage
from heartwatch.deploy.plan import Plan, apply, take_back
from heartwatch.deploy.retries import may_pass
from heartwatch.deploy.target import Target
from heartwatch.deploy.teardown import tear_down
from tasks.artifacts import publish_table


def _may_pass(_: Task[..., Any], __: TaskRun, state: State[Any]) -> bool:
    try:
        state.result()
    except Exception as error:
        return may_pass(error)
    return False


_OPTIONS: dict[str, Any] = {
    "cache_policy": NO_CACHE,
    "retries": 2,
    "retry_delay_seconds": exponential_backoff(backoff_factor=2),
    "retry_jitter_factor": 0.5,
    "retry_condition_fn": _may_pass,
}


@task(task_run_name="plan-{stage}", **_OPTIONS)
def plan_stage(stage: Stage, target: Target) -> Plan:
    """Compare a stage's resources with what is wanted; change nothing.

    Args:
        stage: topics, schemas, connect or ksql.
        target: pipeline version.

    Returns:
        one change per resource, those that change nothing among them.

    Raises:
        heartwatch.deploy.plan.DeployError: one of the analytic's files is wrong.
    """
    plan = pipeline.deployer(stage, target.settings()).plan()
    get_run_logger().info("%s: %s", stage, plan.summary())
    return plan


@task(task_run_name="apply-{stage}", **_OPTIONS)
def apply_stage(stage: Stage, target: Target, plan: Plan) -> Plan:
    """Make a plan's changes; when one fails, those before it are taken back.

    Args:
        stage: topics, schemas, connect or ksql.
        target: pipeline version.
        plan: what `plan_stage` gave.

    Returns:
        the changes that were made.

    Raises:
        heartwatch.deploy.plan.DeployError: a change failed.
    """
    logger = get_run_logger()
    return apply(plan, pipeline.deployer(stage, target.settings(), logger.info), logger.info)


@task(task_run_name="take-back-{stage}", cache_policy=NO_CACHE)
def take_back_stage(stage: Stage, target: Target, applied: Plan) -> str:
    """Take back the changes of a stage that was applied, because a later one failed.

    Args:
        stage: topics, schemas, connect or ksql.
        target: pipeline version.
        applied: the changes that were made.

    Returns:
        a sentence that says what is left.
    """
    logger = get_run_logger()
    deployer = pipeline.deployer(stage, target.settings(), logger.info)
    return take_back(applied.changes, deployer, logger.info)


@task(task_run_name="plan-teardown", **_OPTIONS)
def plan_teardown(target: Target, iceberg_tables: bool) -> Plan:
    """Find what is there of a pipeline version, in the order in which it has to go; change nothing.

    Args:
        target: pipeline version.
        iceberg_tables: whether the sink's tables and their files go too.

    Raises:
        heartwatch.deploy.plan.DeployError: one of the analytic's files is wrong.
    """
    plan = pipeline.teardown(target.settings(), iceberg_tables).plan()
    get_run_logger().info("tear-down: %s", plan.summary())
    return plan


@task(task_run_name="apply-teardown", **_OPTIONS)
def apply_teardown(target: Target, iceberg_tables: bool, plan: Plan) -> None:
    """Remove what a tear-down planned; what is gone already is not an error, so a repetition goes on.

    Args:
        target: pipeline version.
        iceberg_tables: whether the sink's tables and their files go too.
        plan: what `plan_teardown` gave.

    Raises:
        heartwatch.deploy.plan.DeployError: something could not be removed.
    """
    logger = get_run_logger()
    tear_down(plan, pipeline.teardown(target.settings(), iceberg_tables), logger.info)


def publish_plan(name: str, plan: Plan, dry_run: bool) -> None:
    """Show a plan as a table, one row per resource.

    Args:
        name: what is planned; lowercase letters, digits and dashes.
        plan: the plan.
        dry_run: whether it stays a plan.
    """
    effect = "A dry run: nothing was changed." if dry_run else "Only what differs is changed."
    publish_table(name, plan.rows(), f"Plan of {name}: {plan.summary()}. {effect}")


def deploy_stage(stage: Stage, target: Target, dry_run: bool) -> Plan:
    """Plan a stage, show the plan and, unless it is a dry run, apply it.

    Args:
        stage: topics, schemas, connect or ksql.
        target: pipeline version.
        dry_run: whether nothing is to be changed.

    Returns:
        the changes that were made; in a dry run, those that would be made.

    Raises:
        heartwatch.deploy.plan.RefusedPlanError: the plan holds changes that must not be made.
        heartwatch.deploy.plan.DeployError: a change failed; those before it were taken back.
    """
    plan = plan_stage(stage, target)
    publish_plan(f"deploy-{stage}", plan, dry_run)
    plan.check()
    return Plan(plan.needed) if dry_run or not plan.needed else apply_stage(stage, target, plan)
