"""What is shown of a snapshot: HTML without anybody's markup, charts, CSV without formulas."""

from __future__ import annotations

import csv
import io
import re
from dataclasses import replace
from datetime import UTC, datetime
from html.parser import HTMLParser
from types import SimpleNamespace

import orjson
import polars as pl
import pytest

from heartwatch.analytic import Analytic
from heartwatch.connect import ConnectorStatus, TaskStatus
from heartwatch.monitoring import Sample
from heartwatch.settings import load_settings
from heartwatch.web import charts, tables, views, watching
from heartwatch.web.access import PersonTokens
from heartwatch.web.alerts import Alert, AlertFilter, Episode
from heartwatch.web.board import Point, Series, Snapshot, recent_rates, series
from heartwatch.web.operations import Order, run_of
from heartwatch.web.pages.alerts import FilteredAlerts
from heartwatch.web.readings.alerts import AlertsReading
from heartwatch.web.readings.areas import Area, AreasReading
from heartwatch.web.readings.kafka import KafkaReading, TopicShape
from heartwatch.web.readings.ksql import KsqlReading
from heartwatch.web.readings.postgres import PostgresReading, Proof
from heartwatch.web.readings.prefect import FlowRun, OverdueCheck, PrefectReading, WorkerState
from heartwatch.web.readings.traces import Trace
from heartwatch.web.watching import Health, Watch
from ksqlengine.client.rest_client import QueryInfo, Statistics

EVIL = "<script>alert('x')</script>"
QUIET = Series((0,) * 150, (0,) * 150, (0,) * 150)
PAGE = Analytic.load("heart_rate", 1).page
assert PAGE is not None


def snapshot() -> Snapshot:
    sample = Sample(1.0, {"realtime topic": 100, "query": 90, "alerts topic": 3}, {"query": 100})
    last = Alert(EVIL, EVIL, 40.7, -74.0, 10_000, 20_000, 150.0, 50.0, 110.0)
    run = FlowRun("1", EVIL, EVIL, "FAILED", EVIL, datetime.now(UTC), 3.0)
    return Snapshot(
        at=1_700_000_000.0,
        health=(Health("Kafka", True, 0.0), Health("Connect", False, 1_700_000_000.0, EVIL)),
        kafka=KafkaReading(sample, ("127.0.0.1:1",), (TopicShape(EVIL, 8, 1, 0),)),
        ksql=KsqlReading(
            {EVIL: True}, "1", (QueryInfo(EVIL, "ERROR", (), (EVIL,), ""),), Statistics(5), Statistics(0, 0, 3), ()
        ),
        connectors=(ConnectorStatus(EVIL, "RUNNING", "", (TaskStatus(0, "FAILED", ""),)),),
        prefect=PrefectReading(
            (WorkerState(EVIL, EVIL, False, None),),
            (run,),
            {"verify-sink": run},
            2,
            3,
            (OverdueCheck(EVIL, 1.0, 60.0),),
        ),
        memory=PostgresReading(20_000, (Proof(EVIL, 5, 1, None, datetime.now(UTC)),), 1.0, 2.0, (1.0, 2.0, 3_000.0)),
        alerts=AlertsReading(3, (Episode(last, 10_000, 1, 150.0),), 1, 20_000, 0),
        areas=AreasReading((Area(EVIL, 3, 40.7, -74.0),), 3, 20_000),
        rates=tuple(recent_rates([sample, replace(sample, at=2.0)], 2.0)),
        series=QUIET,
    )


class Elements(HTMLParser):
    """Collects what elements there are, and complains of one that isn't closed."""

    def __init__(self) -> None:
        super().__init__()
        self.names: list[str] = []
        self.open: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.names.append(tag)
        if tag not in {"input", "img", "br"}:
            self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag


def everything(shown: Snapshot) -> dict[str, str]:
    settings, people = load_settings(), PersonTokens()
    trace = Trace("1", 0, 0)
    return {
        "pill": views.pill(shown),
        "banner": views.banner(shown),
        "parts": views.parts(shown),
        "stream": views.first_stream(shown),
        "table": views.final_table(shown),
        "objective": views.objective(shown, settings),
        "check": views.check(
            shown.prefect.checks.get("verify-sink") if shown.prefect else None, "http://p", "a", "b", "c"
        ),
        "stages": views.stages(shown),
        "brokers": views.brokers(shown, ["127.0.0.1:1", "127.0.0.1:2"]),
        "connectors": views.connectors(shown),
        "queries": views.queries(shown),
        "workers": views.workers(shown),
        "runs": views.runs(shown, "http://p"),
        "sizes": views.sizes(shown, settings),
        "clusters": views.clusters(10_000),
        "episodes": views.episodes(shown.alerts.episodes, len(shown.alerts.episodes), shown, people, PAGE),
        "areas": views.areas(shown, {EVIL: 1}, "zip code"),
        "person": views.person(trace, shown.alerts.episodes, PAGE, shown),
    }


def test_nothing_from_outside_becomes_markup() -> None:
    for name, html in everything(snapshot()).items():
        elements = Elements()
        elements.feed(html)
        assert not elements.open, name
        assert "script" not in elements.names, name


def test_losses_are_shown_where_the_server_counts_them() -> None:
    shown = snapshot()
    assert shown.ksql is not None
    counted = replace(shown, ksql=replace(shown.ksql, stream=Statistics(5, late=31, let_go=17)))
    html = views.first_stream(counted)
    assert "31" in html
    assert "17" in html
    assert "31" not in views.first_stream(shown)


def test_every_panel_has_something_to_say_before_anything_is_known() -> None:
    empty = Snapshot(
        0.0, (Health("Kafka", None, 0.0),), None, None, None, None, None, AlertsReading(), AreasReading(), (), QUIET
    )
    for name, html in everything(empty).items():
        assert html or name == "banner"
    assert "checking" in views.pill(empty)
    assert "No alerts" in everything(empty)["episodes"]


def test_what_is_wrong_is_said_in_words_and_since_when() -> None:
    shown = everything(snapshot())
    assert "1 part of the platform is not responding" in shown["banner"]
    assert "14 Nov 22:13:20" in shown["banner"]
    assert "1 part down" in shown["pill"]
    connectors = views.last_known("Connect", views.connectors)
    assert "Last known state: Connect is not responding" in connectors(snapshot())
    assert "Last known" not in views.last_known("Kafka", views.stages)(snapshot())
    assert "1 failed" in shown["connectors"]
    assert "1 without leader" in shown["brokers"]
    assert shown["brokers"].count("state-bad") == 2, "the topic, and the broker that was there before"
    assert "error" in shown["queries"]
    assert "offline" in shown["workers"]


def test_links_to_people_hold_a_token_and_no_id() -> None:
    shown, people = snapshot(), PersonTokens()
    last = replace(shown.alerts.episodes[0].last, subject="4711")
    html = views.episodes([replace(shown.alerts.episodes[0], last=last)], 1, shown, people, PAGE)
    (token,) = re.findall(r'href="/person/([^"]+)"', html)
    assert "4711" not in token
    assert people.subject(token) == "4711"


@pytest.mark.parametrize(
    ("average", "mark"), [(80, 50), (50, 25), (110, 75), (20, 0), (140, 100), (1_000, 100), (-50, 0)]
)
def test_an_average_stands_beside_the_own_range(average: float, mark: int) -> None:
    assert views.band(average, 50, 110) == (25, 50, mark)


@pytest.mark.parametrize(
    ("value", "text"), [(None, "\N{EN DASH}"), (0, "0"), (3.25, "3.2"), (1234.5, "1,234"), (12_000_000, "12,000,000")]
)
def test_numbers_are_for_people(value: float | None, text: str) -> None:
    assert views.number(value) == text


def test_rates_come_from_counts_and_gaps_stay_gaps() -> None:
    points = [Point(1_000.0 + second, 50 * second, 40 * second, second // 10) for second in range(61)]
    points += [Point(1_100.0 + second, 10_000 + 100 * second, 9_000, 6) for second in range(11)]
    found = series(points, 1_110.9, 120)
    assert len(found.arriving) == 60
    assert found.arriving[:5] == (None,) * 5
    assert set(found.arriving[6:34]) == {50}
    assert set(found.queried[6:34]) == {40}
    assert None in found.arriving[36:54], "nothing is known of the forty seconds between"
    assert set(found.arriving[-4:]) == {100}
    assert found.alerts_per_minute[34] == 6
    assert found.alerts_per_minute[-1] == 1


def test_a_topic_that_was_made_anew_has_no_negative_rate() -> None:
    points = [Point(1_000.0 + second, 5_000 if second < 30 else 0, 0, 0) for second in range(60)]
    assert min(value for value in series(points, 1_060.0, 60).arriving if value is not None) == 0
    # Where the query's position becomes known, it hasn't read everything at once.
    points = [Point(1_000.0 + second, 9_000, None if second < 30 else 9_000, 0) for second in range(60)]
    assert set(series(points, 1_060.0, 60).queried) == {None, 0}


def test_stages_that_appear_later_begin_without_a_leap() -> None:
    before = [Sample(float(second), {"realtime topic": 1_000}, {}) for second in range(5)]
    after = [Sample(5.0 + second, {"realtime topic": 1_000, "query": 1_000}, {"query": 1_000}) for second in range(2)]
    assert {rate.stage: rate.events_per_second for rate in recent_rates([*before, *after], 6.0)} == {
        "realtime topic": 0,
        "query": 0,
    }
    assert recent_rates(before, 100.0) == [], "what was read long ago says nothing of now"


def test_charts_tell_screen_readers_what_they_show() -> None:
    shown = replace(QUIET, arriving=(None, 5, 10, 7))
    options = charts.throughput(shown)
    assert "now 7, at most 10" in options["aria"]["label"]["description"]
    assert options["series"][0]["data"] == (None, 5, 10, 7)
    for made in (
        options,
        charts.alerts_per_minute(shown),
        charts.trace(Trace("1", 0, 0), (), "beats/min", "heart rate"),
        charts.places(Trace("1", 0, 0)),
        charts.density(snapshot().areas.areas, {EVIL: 1}, "zip code"),
    ):
        assert made["aria"]["enabled"]
        assert orjson.dumps(made)


def test_a_line_has_a_hole_where_nothing_came() -> None:
    times = [*range(0, 10_000, 1_000), *range(100_000, 110_000, 1_000)]
    samples = pl.DataFrame({"at": times, "measure": 60.0, "north": 40.7, "east": -74.0})
    (line, *_) = charts.trace(Trace("1", 0, 0, samples), (), "beats/min", "heart rate")["series"]
    assert [at for at, value in line["data"] if value is None] == [9_001]


def test_csv_runs_no_formulas() -> None:
    rows = [("=1+1", "+1", "-1", "@x", "\tx", "plain", -5, None)]
    (_, row) = csv.reader(io.StringIO(tables.csv_bytes(["a"] * 8, rows).decode()))
    assert row == ["'=1+1", "'+1", "'-1", "'@x", "'\tx", "plain", "-5", ""]


def test_csv_has_what_the_page_shows() -> None:
    shown = snapshot()
    alerts = list(csv.DictReader(io.StringIO(tables.episodes_csv(shown.alerts.episodes, PAGE).decode())))
    assert alerts[0]["since"] == "1970-01-01T00:00:10.000+00:00"
    assert (alerts[0]["low"], alerts[0]["average"]) == ("50.0", "150.0")
    assert len(tables.series_csv(shown).splitlines()) == 151
    assert b"query,0.0,0.0,10," in tables.stages_csv(shown)
    assert tables.areas_csv(shown, {EVIL: 2}, PAGE).splitlines()[1].endswith(b",3,2,40.7,-74.0")


def test_an_order_is_a_deployment_with_parameters() -> None:
    assert run_of(Order(True, 10, 20)) == ("heart-watch/heart-watch", {"people": 10, "events": 20})
    assert run_of(Order(False, 10, 20, 5.0)) == (
        "produce/produce",
        {"people": 10, "events": 20, "events_per_second": 5.0},
    )


def test_a_part_that_goes_and_comes_is_told_with_the_time_of_the_change() -> None:
    answers: list[int | Exception] = [1, ValueError("gone\n for now"), ValueError("gone"), 2]

    def read() -> int:
        answer = answers.pop(0)
        if isinstance(answer, Exception):
            raise answer
        return answer

    watch = Watch("Kafka", read, 1)
    assert watch.health.up is None
    watch.read_once()
    assert (watch.health.up, watch.value) == (True, 1)
    watch.read_once()
    down = watch.health
    assert (down.up, down.reason, watch.value) == (False, "gone for now", 1)
    watch.read_once()
    assert watch.health.since == down.since
    watch.read_once()
    assert (watch.health.up, watch.health.reason, watch.value) == (True, "", 2)


def test_a_part_that_leaves_a_reading_without_an_end_is_away_since_it_was_asked(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    now, seen = 1_000.0, []

    def hang() -> int:
        nonlocal now
        seen.append(watch.health)
        now += 40
        seen.append(watch.health)
        return 1

    monkeypatch.setattr(watching, "time", SimpleNamespace(time=lambda: now))
    watch = Watch("Postgres", lambda: 1, 1)
    watch.read_once()
    now += 5
    watch._read = hang
    watch.read_once()
    assert [(one.up, one.since) for one in (*seen, watch.health)] == [
        (True, 1_000.0),
        (False, 1_005.0),
        (True, 1_000.0),
    ]


def test_links_of_a_search_hold_however_long_nothing_happens() -> None:
    now = 0.0
    people = PersonTokens(clock=lambda: now)
    found = FilteredAlerts(AlertFilter(text="7"), lambda shown, some: views.episodes(some, 1, shown, people, PAGE))
    alert = Alert("7", "10001", 40.7, -74.0, 10_000, 20_000, 150.0, 50.0, 110.0)
    shown = replace(snapshot(), alerts=AlertsReading(1, (Episode(alert, 10_000, 1, 150.0),), 1, 20_000, 0))
    for _ in range(10):
        (token,) = re.findall(r"/person/([\w-]+)", found.html(replace(shown, at=now)))
        assert people.subject(token) == "7"
        now += 600


def test_checks_that_do_not_complete_are_told_though_every_part_answers() -> None:
    shown = replace(snapshot(), health=(Health("Kafka", True, 0.0),))
    assert "checks overdue" in views.pill(shown)
    assert "1 scheduled check does not complete any more." in views.banner(shown)
    assert "it should every 1 min 00 s" in views.banner(shown)
    assert views.banner(replace(shown, prefect=PrefectReading())) == ""
