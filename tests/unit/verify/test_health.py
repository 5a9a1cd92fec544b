"""What is wrong with the parts, and how often a connector is restarted."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

import pytest

from heartwatch.connect import ConnectorStatus, TaskStatus
from heartwatch.monitoring import ConnectorRestarts
from heartwatch.verify.health import (
    HealthFinding,
    WorkerSeen,
    judge_connectors,
    judge_disk,
    judge_partitions,
    judge_queries,
    judge_workers,
)
from kafkakit.admin import PartitionReplicas
from ksqlengine.client.rest_client import QueryInfo

NOW = datetime(2026, 1, 1, tzinfo=UTC)
CALM = timedelta(minutes=30)


def connector(name: str, state: str) -> ConnectorStatus:
    trace = "java.lang.Boom: no\n\tat x" if state == "FAILED" else None
    return ConnectorStatus(name, "RUNNING", "w", (TaskStatus(0, state, "w", trace),))


def events(findings: list[HealthFinding]) -> list[str | None]:
    return [finding.event for finding in findings]


def test_a_failed_connector_is_restarted_until_the_limit() -> None:
    restarts: dict[str, ConnectorRestarts] = {}
    done = []
    for _ in range(5):
        plan = judge_connectors([connector("a", "FAILED")], restarts, 3, CALM, NOW)
        done.append(plan.restart)
        assert plan.findings[0].mended == bool(plan.restart)
        assert "java.lang.Boom: no" in plan.findings[0].sentence
        restarts |= {name: ConnectorRestarts(count, NOW) for name, count in plan.restart.items()}
    assert done == [{"a": 1}, {"a": 2}, {"a": 3}, {}, {}]
    assert "restarted 3 times already" in plan.findings[0].sentence


def test_restarts_are_forgotten_after_a_calm_while() -> None:
    before = {
        "a": ConnectorRestarts(3, NOW - CALM),
        "b": ConnectorRestarts(3, NOW),
        "c": ConnectorRestarts(3, NOW - CALM),
    }
    statuses = [connector("a", "RUNNING"), connector("b", "RUNNING"), connector("c", "UNASSIGNED")]
    plan = judge_connectors(statuses, before, 3, CALM, NOW)
    assert (plan.restart, plan.forget) == ({}, ["a"])
    assert judge_connectors([], before, 3, CALM, NOW).forget == ["a", "b", "c"], "they are gone"
    assert events(plan.findings) == [None, None, None]


@pytest.mark.parametrize(
    ("state", "event"), [("RUNNING", None), ("PAUSED", None), ("ERROR", "heartwatch.query.failed")]
)
def test_a_query_in_error_is_wrong(state: str, event: str | None) -> None:
    (found,) = judge_queries([QueryInfo("Q", state, (), (), "")])
    assert found.event == event


def test_brokers_out_of_sync_are_named_with_what_they_lack() -> None:
    well = PartitionReplicas("t", 0, 1, (1, 2, 3), (1, 2, 3))
    assert events(judge_partitions([well], 2)) == [None]
    one, two = PartitionReplicas("t", 1, 1, (1, 2, 3), (1, 3)), PartitionReplicas("t", 2, 1, (1, 2, 3), (1,))
    found = judge_partitions([well, one, two], 2)
    assert [(finding.resource, finding.event) for finding in found] == [
        ("2", "heartwatch.broker.out_of_sync"),
        ("3", "heartwatch.broker.out_of_sync"),
    ]
    assert "2 partitions, such as t/1, t/2; 1 of them have fewer in-sync replicas than the 2" in found[0].sentence
    assert "leaders" in [
        finding.resource for finding in judge_partitions([PartitionReplicas("t", 0, None, (1,), (1,))], 1)
    ]


def test_workers_are_missed_for_a_while() -> None:
    day = timedelta(hours=24)
    seen = [
        WorkerSeen("p", "here", True, NOW),
        WorkerSeen("p", "gone", False, NOW - timedelta(minutes=2)),
        WorkerSeen("p", "taken away", False, NOW - day),
        WorkerSeen("p", "never", False, None),
    ]
    found = {finding.resource: finding.event for finding in judge_workers(seen, day, NOW)}
    assert found == {"here": None, "gone": "heartwatch.worker.gone", "never": "heartwatch.worker.gone"}


@pytest.mark.parametrize(("free", "event"), [(11, None), (10, None), (9, "heartwatch.disk.filling")])
def test_a_disk_is_filling_below_its_least_share(free: int, event: str | None) -> None:
    assert judge_disk("data", free, 100, 0.1).event == event
