"""Tasks that look at the parts of the pipeline, restart what may be restarted, and tell what is wrong."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Sequence
from contextlib import closing
from datetime import UTC, datetime, timedelta

from httpx import HTTPError
from prefect import get_run_logger, task
from prefect.cache_policies import NO_CACHE
from prefect.client.orchestration import get_client

from heartwatch.connect import Connect, ConnectError, UnknownConnectorError
from heartwatch.events import Wrong
from heartwatch.monitoring import Monitoring
from heartwatch.postgres import PostgresError
from heartwatch.settings import Settings, load_settings
from heartwatch.verify.health import (
    Finding,
    WorkerSeen,
    judge_connectors,
    judge_disk,
    judge_partitions,
    judge_queries,
    judge_workers,
    unreachable,
)
from kafkakit.admin import KafkaAdmin, KafkaClientError
from ksqlengine.client.rest_client import Ksqldb, KsqldbError
from tasks.artifacts import publish_table
from tasks.events import announce

_ANSWER_SECONDS = 10.0


@task(cache_policy=NO_CACHE)
def look_at_parts() -> list[Finding]:
    """Look at every part; one that doesn't answer hides no other. Failed connector tasks are restarted, so and so often at most.

    Returns:
        a finding each, those that are well among them.
    """
    settings = load_settings()
    looks: dict[str, tuple[Callable[[Settings], list[Finding]], type[Exception] | tuple[type[Exception], ...]]] = {
        "Connect": (look_at_connectors, (ConnectError, PostgresError)),
        "KSQL": (_queries, KsqldbError),
        "Kafka": (_partitions, KafkaClientError),
        "Prefect": (_workers, HTTPError),
        "disk": (_disk, OSError),
    }
    findings: list[Finding] = []
    for part, (look, errors) in looks.items():
        try:
            findings += look(settings)
        except errors as error:
            findings.append(unreachable(part, error))
    for finding in findings:
        if finding.event is not None:
            get_run_logger().warning(finding.sentence)
            # A broker whose disk is full stops, and what it has not copied is gone with it.
            at_risk = finding.event is Wrong.DISK_FILLING
            facts = {"state": finding.state}
            announce(finding.event, finding.resource, finding.sentence, facts, records_at_risk=at_risk)
    return findings


def look_at_connectors(settings: Settings) -> list[Finding]:
    """Look at the connectors, and restart the failed tasks of those that haven't been restarted too often.

    Raises:
        ConnectError: Connect doesn't answer.
        heartwatch.postgres.PostgresError: the restarts so far aren't known.
    """
    memory = Monitoring(settings.postgres, settings.pipeline)
    with closing(Connect(settings.connect, _ANSWER_SECONDS, retry_seconds=_ANSWER_SECONDS)) as connect:
        # Asked before the states: what a run beside this one restarts meanwhile isn't restarted once more.
        remembered = memory.connector_restarts()
        statuses = []
        for name in connect.connectors():
            # One that is being deleted, or was just made, has no state.
            try:
                statuses.append(connect.status(name))
            except UnknownConnectorError:
                continue
        calm = timedelta(seconds=settings.monitoring.connector_calm_seconds)
        plan = judge_connectors(statuses, remembered, settings.monitoring.connector_restarts, calm, datetime.now(UTC))
        for name, restarts in plan.restart.items():
            # Counted first: a run that is killed here has restarted too little, never too often.
            if memory.add_connector_restart(name, restarts):
                connect.restart_failed(name)
        memory.forget_connector_restarts(plan.forget)
    return plan.findings


def _queries(settings: Settings) -> list[Finding]:
    with closing(Ksqldb(settings.ksqldb, retry_seconds=_ANSWER_SECONDS)) as ksqldb:
        return judge_queries(ksqldb.queries())


def _partitions(settings: Settings) -> list[Finding]:
    admin = KafkaAdmin(settings.kafka, timeout_seconds=_ANSWER_SECONDS)
    return judge_partitions(admin.replicas(), settings.kafka.min_insync_replicas)


def _workers(settings: Settings) -> list[Finding]:
    pools = (settings.prefect.orchestration_pool, settings.prefect.producers_pool)
    with get_client(sync_client=True) as client:
        seen = [
            WorkerSeen(pool, worker.name, worker.status.value == "ONLINE", worker.last_heartbeat_time)
            for pool in pools
            for worker in client.read_workers_for_work_pool(pool)
        ]
    return judge_workers(seen, timedelta(hours=settings.monitoring.worker_memory_hours), datetime.now(UTC))


def _disk(settings: Settings) -> list[Finding]:
    settings.home.mkdir(parents=True, exist_ok=True)
    usage = shutil.disk_usage(settings.home)
    return [judge_disk("the platform's data", usage.free, usage.total, settings.monitoring.least_free_disk)]


def publish_health(findings: Sequence[Finding]) -> None:
    """Show what was found, what is wrong first."""
    ordered = sorted(findings, key=lambda finding: (finding.event is None, finding.part, finding.resource))
    rows = [
        {"part": one.part, "resource": one.resource, "state": one.state, "what is wrong": one.sentence}
        for one in ordered
    ]
    wrong = sum(finding.event is not None for finding in findings)
    publish_table("health", rows, f"{wrong} of {len(rows)} are not as they should be." if wrong else "All is well.")
