"""Asks the parts of the pipeline how they are and restarts what may be restarted; `verify.health` judges their answers."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Sequence
from contextlib import closing
from datetime import UTC, datetime, timedelta
from typing import Any

from httpx import HTTPError

from heartwatch.connect import Connect, ConnectError, UnknownConnectorError
from heartwatch.errors import HeartWatchError
from heartwatch.monitoring import Monitoring
from heartwatch.postgres import PostgresError
from heartwatch.settings import Settings
from heartwatch.verify.health import (
    HealthFinding,
    WorkerSeen,
    judge_connectors,
    judge_disk,
    judge_partitions,
    judge_queries,
    judge_workers,
    unreachable,
)
from kafkakit.admin import KafkaAdmin, KafkaClientError
from kafkakit.errors import KafkaKitError
from ksqlengine.client.rest_client import Ksqldb, KsqldbError

_ANSWER_SECONDS = 10.0

ReadWorkers = Callable[[Sequence[str]], Sequence[WorkerSeen]]
"""Reads the workers of some work pools; raises `httpx.HTTPError` where Prefect's server doesn't answer."""


def look_at_parts(settings: Settings, read_workers: ReadWorkers) -> list[HealthFinding]:
    """Look at every part; one that doesn't answer hides no other.

    Failed connector tasks are restarted, at most as often as the settings allow.

    Args:
        settings: where the parts are.
        read_workers: asks the orchestrator.

    Returns:
        at least one finding per part, those that are well among them.
    """

    def look_at_workers(settings: Settings) -> list[HealthFinding]:
        pools = (settings.prefect.orchestration_pool, settings.prefect.producers_pool)
        memory = timedelta(hours=settings.monitoring.worker_memory_hours)
        return judge_workers(read_workers(pools), memory, datetime.now(UTC))

    looks: dict[
        str, tuple[Callable[[Settings], list[HealthFinding]], type[Exception] | tuple[type[Exception], ...]]
    ] = {
        "Connect": (look_at_connectors, (ConnectError, PostgresError)),
        "KSQL": (look_at_queries, KsqldbError),
        "Kafka": (look_at_partitions, KafkaClientError),
        "Prefect": (look_at_workers, HTTPError),
        "disk": (look_at_disk, OSError),
        "keys": (look_at_keys, (KafkaKitError, HeartWatchError)),
        "table": (look_at_table, (KafkaKitError, HeartWatchError)),
        "processing log": (look_at_rejects, (KafkaKitError, HeartWatchError)),
    }
    findings: list[HealthFinding] = []
    for part, (look, errors) in looks.items():
        try:
            findings += look(settings)
        except errors as error:
            findings.append(unreachable(part, error))
    return findings


def look_at_connectors(settings: Settings) -> list[HealthFinding]:
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


def look_at_queries(settings: Settings) -> list[HealthFinding]:
    """Look at the persistent queries.

    Raises:
        KsqldbError: no KSQL server answers.
    """
    with closing(Ksqldb(settings.ksqldb, retry_seconds=_ANSWER_SECONDS)) as ksqldb:
        return judge_queries(ksqldb.queries())


def look_at_partitions(settings: Settings) -> list[HealthFinding]:
    """Look at the replicas of all partitions.

    Raises:
        KafkaClientError: the brokers don't answer.
    """
    admin = KafkaAdmin(settings.kafka, timeout_seconds=_ANSWER_SECONDS)
    return judge_partitions(admin.replicas(), settings.kafka.min_insync_replicas)


def look_at_disk(settings: Settings) -> list[HealthFinding]:
    """Look at the disk that holds the platform's data.

    Raises:
        OSError: the disk can't be asked.
    """
    settings.home.mkdir(parents=True, exist_ok=True)
    usage = shutil.disk_usage(settings.home)
    return [judge_disk("the platform's data", usage.free, usage.total, settings.monitoring.least_free_disk)]


def finding_rows(findings: Sequence[HealthFinding]) -> list[dict[str, Any]]:
    """Return one row per finding, what is wrong first."""
    ordered = sorted(findings, key=lambda finding: (finding.event is None, finding.part, finding.resource))
    return [
        {
            "part": finding.part,
            "resource": finding.resource,
            "state": finding.state,
            "what is wrong": finding.sentence,
        }
        for finding in ordered
    ]


def findings_sentence(findings: Sequence[HealthFinding]) -> str:
    """Return how many findings are wrong."""
    wrong = sum(finding.event is not None for finding in findings)
    return f"{wrong} of {len(findings)} are not as they should be." if wrong else "All is well."


# What looks at records comes with Polars and DuckDB: a process that is asked for something else starts without them.
def look_at_keys(settings: Settings) -> list[HealthFinding]:
    """Compare where the newest records lie with where the join looks for them (see `record_checks`)."""
    from heartwatch.verify import record_checks  # noqa: PLC0415

    return record_checks.look_at_keys(settings)


def look_at_table(settings: Settings) -> list[HealthFinding]:
    """Compare the table's topic with Postgres (see `record_checks`)."""
    from heartwatch.verify import record_checks  # noqa: PLC0415

    return record_checks.look_at_table(settings)


def look_at_rejects(settings: Settings) -> list[HealthFinding]:
    """Look at what queries rejected since the last time (see `record_checks`)."""
    from heartwatch.verify import record_checks  # noqa: PLC0415

    return record_checks.look_at_rejects(settings)
