"""A part that hangs is told within half a minute, as one event that names it, and told again when it is over."""

from __future__ import annotations

import time
from datetime import datetime
from typing import Any

import httpx
import pytest
from faults import stopped
from schedules import prefect_credentials, wait_for

from heartwatch.platform.platform import Platform
from heartwatch.settings import load_settings
from heartwatch.web.outages import MEANING

pytestmark = [
    pytest.mark.parts("kafka", "registry", "postgres", "connect", "s3", "engine", "prefect", "workers", "web"),
    pytest.mark.chaos,
]

TOLD_SECONDS = 30.0
EVENTS = ["heartwatch.part.unreachable", "heartwatch.part.back", "heartwatch.worker.gone"]


def events_since(began: float) -> list[dict[str, Any]]:
    """Return the events of outages since a moment, the oldest first; none while Prefect's server doesn't answer."""
    try:
        found = httpx.post(
            f"{load_settings().prefect.api_url}/events/filter",
            json={"filter": {"event": {"name": EVENTS}, "order": "ASC"}},
            auth=prefect_credentials(),
            timeout=5,
        )
    except httpx.HTTPError:
        return []
    return [event for event in found.raise_for_status().json()["events"] if moment(event) >= began]


def ill(platform: Platform) -> list[str]:
    """Return the parts that run and aren't well."""
    return [status.name for status in platform.status() if status.pid is not None and not status.healthy]


def moment(event: dict[str, Any]) -> float:
    return datetime.fromisoformat(event["occurred"]).timestamp()


@pytest.mark.parametrize(
    ("part", "named", "kind"),
    [
        ("registry", "Schema registry", "Schema registry"),
        ("engine", "KSQL", "KSQL"),
        ("connect", "Connect", "Connect"),
        ("s3", "S3", "S3"),
        ("orchestration-1", "orchestration-1", "worker"),
        ("kafka-1", "Kafka", "Kafka"),
        ("prefect", "Prefect", "Prefect"),
        ("postgres", "Postgres", "Postgres"),
    ],
)
def test_a_part_that_hangs_is_told_once_and_its_end_too(deployed: Platform, part: str, named: str, kind: str) -> None:
    wait_for(lambda: not ill(deployed), "a platform that is well", 180)
    began = time.time()
    with stopped(deployed, part):
        time.sleep(TOLD_SECONDS + 5)  # the fault itself, not a wait for something
    ended = time.time()
    told = wait_for(lambda: [event for event in events_since(began) if event["event"].endswith("back")], "its end")
    assert [event["resource"]["prefect.resource.name"] for event in told] == [named]
    (first, _) = events_since(began)
    assert first["resource"]["prefect.resource.name"] == named
    assert moment(first) - began <= TOLD_SECONDS, "when it was said, whenever Prefect could take it"
    assert MEANING[kind] in first["payload"]["sentence"]
    assert moment(told[0]) >= ended - 1
