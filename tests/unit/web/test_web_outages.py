"""What the page tells of outages: once when one begins, with its cause, and once when it is over."""

from __future__ import annotations

from dataclasses import replace
from typing import Any, cast

import pytest
from test_web_views import snapshot

from heartwatch.events import Wrong
from heartwatch.web.board import Snapshot
from heartwatch.web.outages import MEANING, Crier, Outages
from heartwatch.web.prefect_api import PrefectApi, PrefectError
from heartwatch.web.readings.kafka import KafkaReading
from heartwatch.web.readings.prefect import OverdueCheck, PrefectReading, WorkerState
from heartwatch.web.watching import Health

BEGAN = 1_700_000_000.0
SERVERS = ("Kafka", "KSQL", "Connect", "Schema registry", "Postgres", "S3", "Prefect")


def seen(after: float, *away: str, brokers: tuple[str, ...] = ("one:1",), workers: tuple[str, ...] = ()) -> Snapshot:
    """Return what the page knows some seconds after parts stopped answering."""
    return replace(
        snapshot(),
        at=BEGAN + after,
        health=tuple(Health(part, part not in away, BEGAN, "no route" if part in away else "") for part in SERVERS),
        kafka=KafkaReading(None, brokers, ()),
        prefect=PrefectReading(tuple(WorkerState(name, "producers", True, None) for name in workers)),
    )


@pytest.mark.parametrize("part", SERVERS)
def test_each_part_is_told_once_and_told_again_when_it_is_back(part: str) -> None:
    outages = Outages()
    told = [notice for after in range(0, 30, 2) for notice in outages.judge(seen(after, part))]
    (notice,) = told
    assert (notice.wrong, notice.resource) == (Wrong.PART_UNREACHABLE, part)
    assert notice.sentence == f"{part} doesn't answer since 22:13:20 UTC: {MEANING[part]} (no route)"
    (over,) = outages.judge(seen(50))
    assert (over.wrong, over.resource) == (Wrong.PART_BACK, part)
    assert over.sentence == f"{part} answers again since 22:14:10 UTC, after 50 s"
    assert outages.judge(seen(52)) == []
    assert over.wrong.resource_id(part) != notice.wrong.resource_id(part), (
        "a notification a quarter of an hour would hide it"
    )


def test_a_part_that_answers_late_once_is_not_told() -> None:
    outages = Outages()
    assert outages.judge(seen(4, "KSQL")) == []
    assert outages.judge(seen(6)) == []


def test_what_an_outage_brings_about_is_one_event_with_it() -> None:
    outages = Outages()
    assert outages.judge(seen(5, "Connect", "KSQL", "Schema registry")) == [], "they wait for their cause"
    told = [
        notice
        for after in range(8, 60, 2)
        for notice in outages.judge(seen(after, "Connect", "KSQL", "Schema registry", "Kafka"))
    ]
    assert [notice.resource for notice in told] == ["Kafka"]
    (left,) = outages.judge(seen(60, "Connect", "Kafka")) + outages.judge(seen(62, "Connect"))[1:]
    assert left.resource == "Connect", "it is still away when its cause is over"


def test_a_broker_and_a_worker_that_go_are_named() -> None:
    outages = Outages()
    assert outages.judge(seen(0, brokers=("one:1", "two:2"), workers=("producers-1",))) == []
    assert outages.judge(seen(10)) == []
    told = {notice.resource: notice for notice in outages.judge(seen(23))}
    assert told.keys() == {"broker two:2", "producers-1"}
    assert told["broker two:2"].wrong is Wrong.PART_UNREACHABLE
    assert told["producers-1"].wrong is Wrong.WORKER_GONE
    assert told["producers-1"].sentence.startswith("worker producers-1 doesn't answer since 22:13:30 UTC: alerts go on")
    back = outages.judge(seen(40, brokers=("one:1", "two:2"), workers=("producers-1",)))
    assert [notice.wrong for notice in back] == [Wrong.PART_BACK] * 2


def test_brokers_and_workers_are_not_missed_while_nobody_can_be_asked() -> None:
    outages = Outages()
    outages.judge(seen(0, brokers=("one:1", "two:2"), workers=("producers-1",)))
    told = [n.resource for after in range(0, 60, 5) for n in outages.judge(seen(after, "Kafka", "Prefect"))]
    assert sorted(told) == ["Kafka", "Prefect"]


def test_a_check_that_does_not_end_is_told() -> None:
    late = PrefectReading(overdue=(OverdueCheck("verify-sink", BEGAN, 300.0),))
    (notice,) = Outages().judge(replace(seen(901), prefect=late))
    assert notice.sentence.startswith(
        "check verify-sink has not ended since 22:13:20 UTC: alerts go on, and what it watches"
    )


class Server:
    """Takes events when it is there."""

    def __init__(self) -> None:
        self.away = False
        self.events: list[dict[str, Any]] = []

    def ask(self, method: str, path: str, body: Any) -> None:
        assert (method, path) == ("POST", "/events")
        if self.away:
            raise PrefectError("no answer")
        self.events += body


def test_what_prefect_can_not_be_told_waits_for_it() -> None:
    server, shown = Server(), [seen(0)]
    crier = Crier(cast("PrefectApi", server), lambda: shown[0])
    server.away = True
    shown[0] = seen(14, "Prefect")
    crier.look()
    crier.look()
    assert server.events == []
    server.away, shown[0] = False, seen(60)
    crier.look()
    assert [event["event"] for event in server.events] == ["heartwatch.part.unreachable", "heartwatch.part.back"]
    assert server.events[0]["resource"]["prefect.resource.id"] == "heartwatch.part.Prefect"
    crier.look()
    assert len(server.events) == 2, "each is told once"
