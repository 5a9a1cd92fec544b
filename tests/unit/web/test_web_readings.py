"""What the page's readers make of parts that are well but no longer have everything, and of parts that hang."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Iterable, Iterator, Mapping
from datetime import UTC, datetime, timedelta
from typing import Any, cast

import pytest
import yaml
from prefect.server.schemas.schedules import CronSchedule

from heartwatch.analytic import Analytic
from heartwatch.settings import ROOT, load_settings
from heartwatch.web.access import Gate
from heartwatch.web.pages.person import PersonPanels
from heartwatch.web.pages.site import Pages
from heartwatch.web.prefect_api import PrefectApi
from heartwatch.web.readings import areas, kafka, prefect, traces
from kafkakit.admin import GroupOffset, Partition
from kafkakit.batch_consumer import BatchConsumerError
from kafkakit.topic_reader import Records


class Emptied:
    """Brokers whose retention removed all of a topic up to offset 5,000; the last offsets of it are transactions' markers."""

    end, position = 5_000, 4_998

    def spans(self, topics: Iterable[str]) -> dict[Partition, tuple[int, int]]:
        return {(topic, 0): (self.end, self.end) for topic in topics}

    def ends(self, topics: Iterable[str]) -> dict[Partition, int]:
        return {where: end for where, (_, end) in self.spans(topics).items()}

    def committed(self, _: str, topic: str) -> dict[Partition, GroupOffset]:
        return {(topic, 0): GroupOffset(self.position, None)}

    def read(
        self, _: Any, topic: str, ranges: Mapping[int, tuple[int, int]], *__: Any, **___: Any
    ) -> Iterator[Records]:
        for begin, end in ranges.values():
            if begin < min(end, self.end):
                raise BatchConsumerError(f"{topic}: no offset {begin}")
        yield from ()


@pytest.fixture
def emptied(monkeypatch: pytest.MonkeyPatch) -> Emptied:
    brokers = Emptied()
    for module in (kafka, areas, traces):
        monkeypatch.setattr(module, "OffsetReader", lambda *_: brokers)
        monkeypatch.setattr(module, "read_ranges", brokers.read)
    return brokers


ANALYTIC = Analytic.load("heart_rate", 1)
assert ANALYTIC.page is not None
PAGE = ANALYTIC.page


def test_kafka_is_well_when_retention_removed_what_was_read(emptied: Emptied, monkeypatch: pytest.MonkeyPatch) -> None:
    shapes = tuple(kafka.TopicShape(ANALYTIC.topic(resource), 1, 0, 0) for resource in ANALYTIC.topics)
    monkeypatch.setattr(kafka.KafkaReader, "_read_shape", lambda _: ((), shapes))
    monkeypatch.setattr(kafka, "_SETTLED_SECONDS", 0.0)
    sample = kafka.KafkaReader(load_settings(), ANALYTIC).read().sample
    assert sample is not None
    assert {stage: sample.positions[stage] for stage in sample.heads} == sample.heads, "nothing is left to read"


def test_nobody_is_anywhere_when_retention_removed_all_samples(emptied: Emptied) -> None:
    assert areas.AreasReader(load_settings(), ANALYTIC, PAGE).read() == areas.AreasReading()
    trace = traces.Trace("7", 0, 100)
    reader = traces.Traces(load_settings(), ANALYTIC, PAGE)
    assert reader._read("7", trace, 0).next_offset == 5_000


def test_people_who_are_looked_at_while_kafka_hangs_hold_up_nothing_else(monkeypatch: pytest.MonkeyPatch) -> None:
    goes_on = threading.Event()

    def hang(*_: Any) -> traces.Trace:
        goes_on.wait(20)
        return traces.Trace("7", 0, 0)

    async def look() -> str:
        pages = Pages(load_settings(), Gate("", 60))
        looking = [asyncio.create_task(pages.person.refresh(PersonPanels(PAGE, str(one)))) for one in range(50)]
        try:
            return await asyncio.wait_for(asyncio.to_thread(lambda: "stopped"), 5)
        finally:
            goes_on.set()
            await asyncio.gather(*looking)

    monkeypatch.setattr(traces.Traces, "trace", hang)
    monkeypatch.setattr(PersonPanels, "show", lambda *_: None)
    assert asyncio.run(look()) == "stopped"


class PrefectWithSchedules:
    """Prefect's answers: a run that somebody started, and since then one of a scheduled check each minute."""

    flows = ("heart-watch", "verify-throughput")
    began = datetime(2026, 1, 1, tzinfo=UTC)
    paused = False

    def ask(self, _: str, path: str, body: Any) -> Any:
        if path == "/flows/filter":
            return [{"id": flow, "name": flow} for flow in self.flows]
        if path == "/deployments/filter":
            return [
                {"flow_id": flow, "paused": self.paused, "schedules": [{"active": True}] * index}
                for index, flow in enumerate(self.flows)
            ]
        if path == "/flow_runs/filter":
            wanted = body.get("flows", {}).get("id", {}).get("any_", self.flows)
            return [run for run in self.runs() if run["flow_id"] in wanted][: body["limit"]]
        return 0 if path.endswith("/count") else []

    def runs(self) -> Iterator[dict[str, Any]]:
        for minute in range(300, -1, -1):
            yield {
                "id": str(minute),
                "name": "run",
                "flow_id": self.flows[minute > 0],
                "state": {"type": "COMPLETED"},
                "start_time": (self.began + timedelta(minutes=minute)).isoformat(),
                "auto_scheduled": minute > 0,
            }


def test_what_people_started_is_shown_however_many_checks_came_since() -> None:
    reading = prefect.PrefectReader(cast("PrefectApi", PrefectWithSchedules())).read()
    assert [run.flow for run in reading.runs] == ["heart-watch"]


def test_checks_that_do_not_end_any_more_are_overdue(monkeypatch: pytest.MonkeyPatch) -> None:
    began = PrefectWithSchedules.began.timestamp()
    last = began + 300 * 60
    monkeypatch.setattr(prefect.time, "time", lambda: last - 3_600)
    reader = prefect.PrefectReader(cast("PrefectApi", PrefectWithSchedules()))
    assert reader.read().overdue == ()
    monkeypatch.setattr(prefect.time, "time", lambda: last + 170)
    assert reader.read().overdue == ()
    monkeypatch.setattr(prefect.time, "time", lambda: last + 190)
    assert reader.read().overdue == (prefect.OverdueCheck("verify-throughput", last, 60.0),)


def test_nobody_waits_for_the_checks_of_a_deployment_that_was_paused(monkeypatch: pytest.MonkeyPatch) -> None:
    later = PrefectWithSchedules.began.timestamp() + 10**6
    monkeypatch.setattr(prefect.time, "time", lambda: later)
    server = PrefectWithSchedules()
    server.paused = True
    reader = prefect.PrefectReader(cast("PrefectApi", server))
    reader.read()
    monkeypatch.setattr(prefect.time, "time", lambda: later + 600)
    assert reader.read().overdue == ()


def test_a_page_that_has_just_started_waits_for_the_checks_first(monkeypatch: pytest.MonkeyPatch) -> None:
    later = PrefectWithSchedules.began.timestamp() + 10**6
    monkeypatch.setattr(prefect.time, "time", lambda: later)
    reader = prefect.PrefectReader(cast("PrefectApi", PrefectWithSchedules()))
    assert reader.read().overdue == ()
    monkeypatch.setattr(prefect.time, "time", lambda: later + 181)
    assert [check.flow for check in reader.read().overdue] == ["verify-throughput"]


def test_the_intervals_are_those_of_the_schedules() -> None:
    stated = yaml.safe_load((ROOT / "prefect.yaml").read_text(encoding="utf-8"))["deployments"]
    crons = {one["name"]: one["schedules"][0]["cron"] for one in stated if one["name"] in prefect.INTERVALS}
    assert crons.keys() == prefect.INTERVALS.keys()
    for name, cron in crons.items():
        first, second = asyncio.run(CronSchedule(cron=cron).get_dates(2, PrefectWithSchedules.began))
        assert (second - first).total_seconds() == prefect.INTERVALS[name], name
