"""Every part is looked at, whatever is the matter with the others."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from httpx import ConnectError as HttpConnectError

from heartwatch.connect import ConnectError
from heartwatch.events import Wrong
from heartwatch.postgres import PostgresError
from heartwatch.settings import Settings, load_settings
from heartwatch.verify import health_checks
from heartwatch.verify.health import HealthFinding, WorkerSeen
from heartwatch.verify.health_checks import finding_rows, findings_sentence, look_at_disk, look_at_parts
from kafkakit.admin import KafkaClientError
from ksqlengine.client.rest_client import KsqldbError

PARTS = {
    "Connect": ConnectError,
    "KSQL": KsqldbError,
    "Kafka": KafkaClientError,
    "disk": OSError,
    "keys": KafkaClientError,
    "table": PostgresError,
    "processing log": KafkaClientError,
}
LOOKS = {
    "Connect": "look_at_connectors",
    "KSQL": "look_at_queries",
    "Kafka": "look_at_partitions",
    "disk": "look_at_disk",
    "keys": "look_at_keys",
    "table": "look_at_table",
    "processing log": "look_at_rejects",
}


def well(pools: Sequence[str]) -> list[WorkerSeen]:
    return [WorkerSeen(pool, f"{pool}-1", True, datetime.now(UTC)) for pool in pools]


def away(_: Sequence[str]) -> list[WorkerSeen]:
    raise HttpConnectError("no route")


@pytest.mark.parametrize("broken", [*PARTS, "Prefect"])
def test_a_part_that_does_not_answer_hides_no_other(monkeypatch: pytest.MonkeyPatch, broken: str) -> None:
    def look(part: str) -> Any:
        def answer(_: Settings) -> list[HealthFinding]:
            if part == broken:
                raise PARTS[part]("no answer")
            return [HealthFinding(part, part, "well")]

        return answer

    for part, name in LOOKS.items():
        monkeypatch.setattr(health_checks, name, look(part))
    found = look_at_parts(load_settings(), away if broken == "Prefect" else well)
    assert [finding.part for finding in found if finding.event is Wrong.PART_UNREACHABLE] == [broken]
    workers = 0 if broken == "Prefect" else 2
    assert sum(finding.part == "worker" for finding in found) == workers
    assert len(found) == 7 + max(1, workers)


def test_an_error_that_is_not_the_parts_is_not_hidden(monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(_: Settings) -> list[HealthFinding]:
        raise ZeroDivisionError

    monkeypatch.setattr(health_checks, "look_at_connectors", fail)
    with pytest.raises(ZeroDivisionError):
        look_at_parts(load_settings(), well)


def test_workers_of_both_pools_are_asked_for_and_missed_for_some_hours(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in LOOKS.values():
        monkeypatch.setattr(health_checks, name, lambda _: [])
    settings = load_settings()
    asked: list[str] = []
    hours = settings.monitoring.worker_memory_hours

    def gone(pools: Sequence[str]) -> list[WorkerSeen]:
        asked.extend(pools)
        now = datetime.now(UTC)
        return [
            WorkerSeen("p", "missed", False, now - timedelta(hours=hours) / 2),
            WorkerSeen("p", "taken away", False, now - timedelta(hours=hours) * 2),
        ]

    assert [finding.resource for finding in look_at_parts(settings, gone)] == ["missed"]
    assert asked == [settings.prefect.orchestration_pool, settings.prefect.producers_pool]


@pytest.mark.parametrize(("free", "event"), [(1_000, Wrong.DISK_FILLING), (999_000, None)])
def test_the_disk_of_the_platforms_data_is_looked_at(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, free: int, event: Wrong | None
) -> None:
    home = tmp_path / "not" / "there"
    usage = SimpleNamespace(free=free, total=1_000_000)
    monkeypatch.setattr(health_checks.shutil, "disk_usage", lambda path: usage if path == home else None)
    (finding,) = look_at_disk(load_settings().model_copy(update={"home": home}))
    assert finding.event == event


def test_what_is_wrong_comes_first() -> None:
    found = [
        HealthFinding("query", "q", "RUNNING"),
        HealthFinding("disk", "d", "full", Wrong.DISK_FILLING, "make room"),
        HealthFinding("connector", "c", "FAILED", Wrong.CONNECTOR_FAILED, "see its log"),
    ]
    assert [row["resource"] for row in finding_rows(found)] == ["c", "d", "q"]
    assert findings_sentence(found) == "2 of 3 are not as they should be."
    assert findings_sentence(found[:1]) == "All is well."
