"""What the checks remember, on a real Postgres."""

from __future__ import annotations

import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from heartwatch.monitoring import DetectionCheck, Latency, Monitoring, Run, Sample, SinkCheck, StageRate
from heartwatch.platform.platform import Platform
from heartwatch.postgres import PostgresError, execute, migrate
from heartwatch.settings import Settings, load_settings

pytestmark = pytest.mark.parts("postgres")


@pytest.fixture
def settings(platform: Platform) -> Settings:
    return load_settings()


def test_migrations_are_applied_once_however_many_start(settings: Settings, tmp_path: Path) -> None:
    (tmp_path / "V000001__first.sql").write_text("CREATE TABLE tried.a (x int);")
    with ThreadPoolExecutor(4) as threads:
        done = list(threads.map(lambda _: migrate(settings.postgres, "tried", tmp_path), range(4)))
    assert sorted(map(len, done)) == [0, 0, 0, 1]
    (tmp_path / "V000002__second.sql").write_text(
        "ALTER TABLE tried.a ADD COLUMN y int; ALTER TABLE tried.none ADD x int;"
    )
    with pytest.raises(PostgresError, match="none"):
        migrate(settings.postgres, "tried", tmp_path)
    columns = "SELECT column_name FROM information_schema.columns WHERE table_schema = 'tried' AND table_name = 'a'"
    assert execute(settings.postgres, columns) == [("x",)], "all or nothing"
    (tmp_path / "V000002__second.sql").unlink()
    (tmp_path / "V000001__first.sql").write_text("CREATE TABLE tried.a (x bigint);")
    with pytest.raises(PostgresError, match=r"V000001__first\.sql.*edited"):
        migrate(settings.postgres, "tried", tmp_path)


def test_each_pipeline_has_its_rows_once_and_until_they_are_old(settings: Settings) -> None:
    one, other = (
        Monitoring(settings.postgres, settings.pipeline.model_copy(update={"version": version})) for version in (71, 72)
    )
    now = round(time.time(), 3)
    samples = [Sample(now - 1, {"in": 5, "query": 3}, {"query": 5}), Sample(now, {"in": 9, "query": 9}, {"query": 9})]
    assert one.last_sample() is None
    for _ in range(2):
        one.add_samples(samples)
        one.add_latencies(
            [Latency(0, 1, now, 20.0, None), Latency(0, 2, now, 40.0, 9.0), Latency(0, 3, now, None, 9.0)]
        )
        one.add_run(Run("r71", now - 9, now, 90, 10.0, None, None, None, None, None, 1, True, 1.0, 0.5))
    assert one.samples(now - 1) == samples
    assert one.last_sample() == samples[-1]
    rate = StageRate("query", 6.0, 6.0, 0, 0.0)
    one.add_rates(now, 1.0, [rate])
    assert one.rates(now) == [(now, rate)]
    assert [value for _, value in one.latency_percentiles(now - 1)[50]] == [20.0]
    assert [value for _, value in one.latency_percentiles(now - 1)[99]] == [40.0]
    # The same record measured twice is one; another one at its place is in a topic that was made anew.
    one.add_latencies([Latency(0, 1, now + 5, 7.0, None), Latency(0, 2, now + 300, 80.0, 9.0)])
    assert [value for _, value in one.latency_percentiles(now - 1)[99]] == [20.0, 80.0]
    sink_check, check = SinkCheck("t", now, 90, 1, 2, 0.5), DetectionCheck(now, 7, 0, None, 0.5)
    for _ in range(2):
        one.add_sink_checks([sink_check])
        one.add_detection_check(check)
    assert (one.sink_checks(now), one.detection_checks(now)) == ([sink_check], [check])
    assert (one.sink_checks(now + 1), other.sink_checks(now), other.detection_checks(now)) == ([], [], [])
    one.set_mark("check", "a")
    one.set_mark("check", "b")
    assert (one.mark("check"), other.mark("check")) == ("b", None)
    assert (other.samples(0), other.rates(0)) == ([], [])
    assert other.forget(0) == 0, "the other pipeline's rows are none of its business"
    assert one.forget(1) == 0
    assert one.forget(0) == 4 + 1 + 2 + 1 + 1 + 1, "one of the latencies is later than now"
    assert one.samples(0) == []


def test_restarts_of_connectors_are_counted_and_forgotten(settings: Settings) -> None:
    memory = Monitoring(settings.postgres, settings.pipeline)
    assert memory.add_connector_restart("a", 1)
    assert not memory.add_connector_restart("a", 1), "another run has counted it, and restarts it"
    assert memory.add_connector_restart("a", 2)
    assert memory.connector_restarts()["a"].restarts == 2
    memory.forget_connector_restarts(["a"])
    assert "a" not in memory.connector_restarts()
