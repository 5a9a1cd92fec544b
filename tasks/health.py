"""Tasks that look at the parts of the pipeline, restart what may be restarted, and report what is wrong."""

from __future__ import annotations

from collections.abc import Sequence

from prefect import get_run_logger, task
from prefect.cache_policies import NO_CACHE
from prefect.client.orchestration import get_client

from heartwatch.events import Wrong
from heartwatch.settings import load_settings
from heartwatch.verify import health_checks
from heartwatch.verify.health import HealthFinding, WorkerSeen
from tasks.artifacts import publish_table
from tasks.events import announce


@task(cache_policy=NO_CACHE)
def look_at_parts() -> list[HealthFinding]:
    """Look at every part, restart failed connector tasks, and emit an event for each thing that is wrong.

    A part that doesn't answer hides no other. Connector tasks are restarted at most as often as the settings allow.

    Returns:
        at least one finding per part, those that are well among them.
    """
    findings = health_checks.look_at_parts(load_settings(), _workers)
    for finding in findings:
        if finding.event is not None:
            get_run_logger().warning(finding.sentence)
            # A broker whose disk is full stops, and what it has not copied is gone with it.
            at_risk = finding.event == Wrong.DISK_FILLING
            facts = {"state": finding.state}
            announce(finding.event, finding.resource, finding.sentence, facts, records_at_risk=at_risk)
    return findings


def _workers(pools: Sequence[str]) -> list[WorkerSeen]:
    with get_client(sync_client=True) as client:
        return [
            WorkerSeen(pool, worker.name, worker.status.value == "ONLINE", worker.last_heartbeat_time)
            for pool in pools
            for worker in client.read_workers_for_work_pool(pool)
        ]


def publish_health(findings: Sequence[HealthFinding]) -> None:
    """Show what was found, what is wrong first.

    Args:
        findings: of all parts.
    """
    rows = health_checks.finding_rows(findings)
    publish_table("health", rows, health_checks.findings_sentence(findings))
