"""The truth covers all time, agrees with the events, and the query finds it."""

from datetime import UTC, datetime, timedelta

import duckdb
import numpy as np
import polars as pl
import pyarrow as pa
import pytest

from heartwatch.simulate.movement import Chances
from heartwatch.simulate.simulation import FaultRates, Simulation
from heartwatch.simulate.truth import (
    Device,
    Score,
    expected_windows,
    score,
    score_by_state,
    score_by_window,
    truth,
)
from kafkakit.partitioning import partitions_of

# The query's answer computed another way: SQL over all events at once, late ones dropped by each partition's stream time.
STILL_DEGREES, MINIMUM_EVENTS, PARTITIONS = 0.000075, 3, 8

_ALERTS = """
WITH arrived AS (
  SELECT *, window_ms + 20000 > max(ms) OVER (PARTITION BY part ORDER BY sent) AS in_time
  FROM (SELECT *, epoch_ms(event_time) AS ms, epoch_ms(event_time) // 10000 * 10000 AS window_ms FROM events)
)
SELECT a.user_id, window_ms AS window_start, count(*) AS event_count, avg(heart_rate) AS avg_heart_rate
FROM arrived a JOIN people p ON a.user_id = p.user_id::VARCHAR
WHERE in_time
GROUP BY a.user_id, window_ms
HAVING count(*) >= $events
  AND max(latitude) - min(latitude) <= $degrees AND max(longitude) - min(longitude) <= $degrees
  AND (avg(heart_rate) < min(min_heart_rate) OR avg(heart_rate) > max(max_heart_rate))
"""

EVENING = datetime(2026, 3, 4, 22, 30, tzinfo=UTC)
MANY_ILL = Chances(ill=0.3, offline=0.2, battery=0.3)


def all_events(simulation: Simulation) -> pl.DataFrame:
    """Return all events in sending order, with partition and position."""
    table = pa.Table.from_batches([batch.records for batch in simulation.batches()])
    part = partitions_of(table["user_id"].combine_chunks(), PARTITIONS)
    return pl.DataFrame(pl.from_arrow(table)).with_columns(part=pl.Series(part)).with_row_index("sent")


def alerts_of(events: pl.DataFrame, people: pl.DataFrame) -> pl.DataFrame:
    """Return user_id, window_start (ms), event_count and avg_heart_rate of the alerts."""
    with duckdb.connect() as database:
        database.register("events", events.to_arrow())
        database.register("people", people.select("user_id", "min_heart_rate", "max_heart_rate").to_arrow())
        parameters = {"events": MINIMUM_EVENTS, "degrees": STILL_DEGREES}
        return database.sql(_ALERTS, params=parameters).pl()


@pytest.fixture(scope="module")
def simulation() -> Simulation:
    return Simulation(seed=4, start=EVENING, people=2_000, chances=MANY_ILL, duration=timedelta(minutes=12))


@pytest.fixture(scope="module")
def events(simulation: Simulation) -> pl.DataFrame:
    return all_events(simulation)


def test_the_truth_has_no_gap_and_no_overlap(simulation: Simulation):
    intervals = truth(simulation)
    assert intervals["user_id"].n_unique() == 2_000
    per_user = intervals.group_by("user_id", maintain_order=True).agg(
        pl.col("start").first(), pl.col("end").last(), gapless=(pl.col("start") == pl.col("end").shift()).all()
    )
    assert per_user["gapless"].all()
    assert per_user["start"].dt.epoch("ms").unique().to_list() == [simulation.start_ms]
    assert per_user["end"].dt.epoch("ms").unique().to_list() == [simulation.end_ms]
    assert (intervals["end"] > intervals["start"]).all()
    assert intervals.filter(pl.col("illness").is_not_null())["still"].all()
    assert set(intervals["device"]) == {Device.ON, Device.OFFLINE, Device.DEAD}
    assert set(intervals["illness"].drop_nulls()) == {"tachycardia", "bradycardia"}


def test_the_truth_says_when_devices_are_silent(simulation: Simulation, events: pl.DataFrame):
    offsets = pl.DataFrame(
        {"user_id": simulation.population.ids.astype(str), "offset": simulation.clock_offsets(np.arange(2_000))}
    )
    sampled = (
        events.join(offsets, on="user_id")
        .select("user_id", "heart_rate", at=pl.col("event_time") - pl.duration(milliseconds=pl.col("offset")))
        .sort("at")
        .join_asof(
            truth(simulation).sort("start"), left_on="at", right_on="start", by="user_id", check_sortedness=False
        )
    )
    assert sampled["device"].unique().to_list() == [Device.ON]
    assert (sampled["at"] < sampled["end"]).all()
    silent = truth(simulation).filter(pl.col("device") != Device.ON)
    assert (silent["end"] - silent["start"]).sum() > timedelta(hours=10)


def test_every_expected_window_is_one_by_its_events(simulation: Simulation, events: pl.DataFrame):
    expected = expected_windows(simulation, minimum_events=3).filter("expected")
    assert expected.height > 1_000
    assert expected.select("user_id", "window_start").is_unique().all()
    people = simulation.frame.select(pl.col("user_id").cast(pl.String), "min_heart_rate", "max_heart_rate")
    windows = (
        events.with_columns(window_start=pl.col("event_time").dt.truncate("10s"))
        .join(expected, on=["user_id", "window_start"])
        .join(people, on="user_id")
        .group_by("user_id", "window_start")
        .agg(
            events=pl.len(),
            outside=(
                (pl.col("heart_rate") < pl.col("min_heart_rate")) | (pl.col("heart_rate") > pl.col("max_heart_rate"))
            ).all(),
            samples=pl.col("samples").first(),
        )
    )
    assert windows.height == expected.height
    assert windows["outside"].all()
    assert (windows["events"] >= windows["samples"]).all()


def test_shards_expect_what_the_whole_expects(simulation: Simulation):
    whole = expected_windows(simulation)
    parts = [expected_windows(simulation.shard(np.arange(first, 2_001, 3))) for first in (1, 2, 3)]
    assert pl.concat(parts).sort("user_id", "window_start").equals(whole)


def test_people_with_a_wrong_clock_neither_must_nor_must_not_alarm():
    wrong = Simulation(seed=4, start=EVENING, people=500, chances=MANY_ILL, faults=FaultRates(clock_behind=1.0))
    expected = expected_windows(wrong)
    assert expected.height > 100
    assert not expected["expected"].any()


@pytest.mark.parametrize("seed", [1, 2, 3])
def test_the_query_finds_nearly_all_and_nearly_only_people_in_danger(seed: int):
    simulation = Simulation(seed=seed, start=EVENING, people=8_000, chances=Chances(ill=0.02))
    found = score(alerts_of(all_events(simulation), simulation.frame), expected_windows(simulation, minimum_events=3))
    assert found.hits > 100
    assert found.recall >= 0.98, found.misses
    assert found.precision >= 0.98, found.false_alarms


def test_nobody_is_found_when_nobody_is_ill():
    simulation = Simulation(seed=1, start=EVENING, people=8_000, chances=Chances(ill=0))
    expected = expected_windows(simulation)
    assert expected.is_empty()
    result = score(alerts_of(all_events(simulation), simulation.frame), expected)
    assert result.false_alarms.height <= 2
    assert result.recall == 1.0


def test_score_counts_hits_misses_and_false_alarms():
    at = [EVENING + timedelta(seconds=10 * step) for step in range(5)]
    expected = pl.DataFrame(
        {
            "user_id": ["1", "1", "2", "2"],
            "window_start": [at[0], at[1], at[0], at[1]],
            "illness": "tachycardia",
            "samples": 5,
            "expected": [True, True, False, True],
        },
        schema_overrides={"window_start": pl.Datetime("ms", "UTC")},
    )
    for start in (
        pl.Series([at[0], at[0], at[3]]).dt.cast_time_unit("us"),
        pl.Series([at[0], at[0], at[3]]).dt.epoch("ms"),
        pl.Series([at[0], at[0], at[3]]).dt.replace_time_zone(None),
    ):
        result = score(pl.DataFrame({"user_id": [1, 2, 3], "window_start": start}), expected)
        assert result.hits == 1
        assert result.misses.rows() == [("1", at[1], "tachycardia", 5), ("2", at[1], "tachycardia", 5)]
        assert result.false_alarms.rows() == [("3", at[3])]
        assert result.recall == pytest.approx(1 / 3)
        assert result.precision == pytest.approx(1 / 2)


def test_a_score_without_alerts():
    nothing = Score(0, pl.DataFrame(), pl.DataFrame())
    assert (nothing.recall, nothing.precision) == (1.0, 1.0)


def test_scores_by_window_and_by_state_add_up_to_the_whole(simulation: Simulation):
    expected = expected_windows(simulation)
    must = expected.filter("expected").select("user_id", "window_start")
    healthy = set(truth(simulation)["user_id"]) - set(expected["user_id"])
    wrong = must.head(3).with_columns(user_id=pl.Series(sorted(healthy)[:3]))
    alerts = pl.concat([must.tail(-5), wrong])
    whole = score(alerts, expected)
    windows = score_by_window(alerts, expected)
    assert windows["window_start"].is_sorted()
    assert (windows["hits"].sum(), windows["missed"].sum(), windows["false_alarms"].sum()) == (whole.hits, 5, 3)
    assert windows.filter(pl.col("missed") > 0)["recall"].max() < 1
    states = score_by_state(alerts, expected, simulation)
    assert states["alerts"].sum() == alerts.height
    assert (states["missed"].sum(), states["false_alarms"].sum()) == (5, 3)
    found = {row["state"]: row for row in states.iter_rows(named=True)}
    # In the middle of a window that must alarm, a device may have gone after it had sent enough.
    must_alarm = {state for state, row in found.items() if row["expected"]}
    assert must_alarm <= {"ill and still", "offline", "dead battery"}
    assert found["ill and still"]["expected"] > 0.99 * must.height
    assert found["ill and still"]["false_alarms"] == 0
    hours = simulation.population.ids.size * (simulation.end_ms - simulation.start_ms) / 10_000
    assert states["windows"].sum() == pytest.approx(hours, rel=0.001), "people were somewhere all the time"
