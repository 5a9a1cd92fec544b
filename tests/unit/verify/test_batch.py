"""The batch statement against a plain loop over the events, and each fault of the original against its own formula."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any

import numpy as np
import polars as pl
import pyarrow as pa
import pytest

from heartwatch.analytic import Analytic
from heartwatch.simulate.movement import Chances
from heartwatch.simulate.simulation import Simulation
from heartwatch.verify.batch import Computed, Topic, compare, compute, decode_topic, latest_rows
from kafkakit import avro_codec
from kafkakit.partitioning import partitions_of
from kafkakit.topic_reader import Records

ANALYTIC = Analytic.load("heart_rate", 1)
VARIABLES = ANALYTIC.variables(
    {"window_ms": 10_000, "grace_ms": 10_000, "still_degrees": 0.0001, "minimum_events": 2}
) | {"max_ahead_ms": "5000"}
START = 1_700_000_000_000
PARTITIONS = 4
BY = ["user_id", "window_start"]


@dataclass
class Event:
    user: str
    at: int
    rate: int
    latitude: float = 40.0
    longitude: float = -74.0
    partition: int = 0
    ahead: int = 0


def realtime(events: list[Event]) -> pa.Table:
    return pa.table(
        {
            "user_id": pa.array([event.user for event in events], pa.string()),
            "event_time": pa.array([START + event.at for event in events], pa.timestamp("ms")),
            "zipcode": pa.array([10001] * len(events), pa.int32()),
            "latitude": pa.array([event.latitude for event in events], pa.float64()),
            "longitude": pa.array([event.longitude for event in events], pa.float64()),
            "heart_rate": pa.array([event.rate for event in events], pa.int32()),
            "event_key": pa.array([event.user for event in events], pa.string()),
            "partition": pa.array([event.partition for event in events], pa.int32()),
            "offset": pa.array(range(len(events)), pa.int64()),
            "timestamp": pa.array([START + event.at - event.ahead for event in events], pa.int64()),
        }
    )


def historical(**ranges: tuple[int, int]) -> pa.Table:
    return pa.table(
        {
            "event_key": list(ranges),
            "min_heart_rate": pa.array([low for low, _ in ranges.values()], pa.int32()),
            "max_heart_rate": pa.array([high for _, high in ranges.values()], pa.int32()),
        }
    )


def run(events: list[Event], **ranges: tuple[int, int]) -> Computed:
    return compute(ANALYTIC, "alerts", realtime(events), historical(**ranges), VARIABLES)


def users(computed: Computed) -> list[str]:
    return sorted(computed.rows["user_id"].to_list())


def still(user: str, rate: int, first: int = 0, count: int = 5) -> list[Event]:
    return [Event(user, first + 1_000 * number, rate) for number in range(count)]


def test_a_rate_above_or_below_the_own_range_at_rest_alarms() -> None:
    events = [*still("high", 120), *still("low", 40), *still("well", 80)]
    assert users(run(events, high=(50, 100), low=(50, 100), well=(50, 100))) == ["high", "low"]


# The faults of the first HeartWatch. Each test states its formula, shows that it gives the wrong answer, and the right one.


def test_not_moving_is_not_the_same_as_one_event() -> None:
    """COUNT(lat|lon) = 1 counted rows: whoever sent two events from one place was taken for moving."""
    events = still("ill", 150, count=5)
    original = len([(event.latitude, event.longitude) for event in events]) == 1
    assert not original
    assert users(run(events, ill=(50, 100))) == ["ill"]


def test_moving_is_not_hidden_by_sending_once() -> None:
    """COUNT(lat|lon) = 1 held for everybody with one event, a runner too; one position proves no rest."""
    events = [Event("runner", 0, 170)]
    original = len(events) == 1
    assert original
    assert users(run(events, runner=(50, 100))) == []


def test_the_range_does_not_grow_with_the_rows() -> None:
    """The average was compared with the sums of min and max over the window's rows."""
    events = still("ill", 150, count=4)
    average = sum(event.rate for event in events) / len(events)
    original = average < sum(50 for _ in events) or average > sum(100 for _ in events)
    low_of_sums, high_of_sums = 4 * 50, 4 * 100
    assert original == (average < low_of_sums)
    assert not average > high_of_sums
    assert users(run(events, ill=(50, 100))) == ["ill"]


def test_a_healthy_rate_is_not_below_a_sum() -> None:
    """With four rows of minimum 50 the original's lower end was 200: every healthy person alarmed."""
    events = still("well", 80, count=4)
    assert sum(50 for _ in events) > 80
    assert users(run(events, well=(50, 100))) == []


def test_people_near_the_border_of_a_cell_stay_still() -> None:
    """A grid cell of 1/100 degree has borders that a person at rest jumps over."""
    events = [Event("ill", 1_000 * number, 150, latitude=40.01 + 0.00002 * (-1) ** number) for number in range(4)]
    cells = {int(event.latitude * 100) for event in events}
    assert len(cells) == 2
    assert users(run(events, ill=(50, 100))) == ["ill"]


def test_a_runner_inside_a_cell_moves() -> None:
    events = [Event("runner", 1_000 * number, 170, latitude=40.001 + 0.00003 * number) for number in range(8)]
    cells = {int(event.latitude * 100) for event in events}
    assert len(cells) == 1
    assert users(run(events, runner=(50, 100))) == []


def test_late_is_decided_by_the_joined_events_of_the_partition_in_order() -> None:
    at_the_edge = [Event("ill", 0, 150), Event("clock", 19_999, 80), Event("ill", 1_000, 150)]
    assert users(run(at_the_edge, ill=(50, 100), clock=(50, 100))) == ["ill"]
    late = [Event("ill", 0, 150), Event("clock", 20_000, 80), Event("ill", 1_000, 150)]
    assert users(run(late, ill=(50, 100), clock=(50, 100))) == []
    assert users(run(late, ill=(50, 100))) == ["ill"], "an event without a row moves no time"
    elsewhere = [late[0], Event("clock", 20_000, 80, partition=1), late[2]]
    assert users(run(elsewhere, ill=(50, 100), clock=(50, 100))) == ["ill"]


def test_a_clock_that_is_ahead_makes_nobody_late() -> None:
    ahead = Event("ahead", 600_000, 70, ahead=600_000)
    near = Event("near", 5_000, 150, ahead=5_000)
    computed = run(
        [ahead, near, *still("ill", 150), Event("later", 60_000, 70)], ill=(50, 100), ahead=(50, 100), near=(50, 100)
    )
    assert users(computed) == ["ill"]


def test_a_window_is_closed_by_later_events_only() -> None:
    open_window = run([*still("ill", 150), Event("clock", 19_999, 80)], ill=(50, 100), clock=(50, 100))
    assert open_window.rows["closed"].to_list() == [False]
    closed = run([*still("ill", 150), Event("clock", 20_000, 80)], ill=(50, 100), clock=(50, 100))
    assert closed.rows["closed"].to_list() == [True]


def test_people_without_a_row_are_counted() -> None:
    computed = run([*still("stranger", 150), *still("other", 150), *still("ill", 150)], ill=(50, 100))
    assert (computed.unknown_events, computed.unknown_keys) == (10, 2)


def by_hand(events: pa.Table, ranges: dict[str, tuple[int, int]]) -> dict[tuple[str, int], dict[str, Any]]:
    """The query's meaning, event after event."""
    stream_time: dict[int, int] = defaultdict(lambda: -1)
    windows: dict[tuple[str, int], list[dict[str, Any]]] = defaultdict(list)
    for event in events.sort_by([("partition", "ascending"), ("offset", "ascending")]).to_pylist():
        if event["event_key"] not in ranges:
            continue
        at = round(event["event_time"].replace(tzinfo=UTC).timestamp() * 1000)
        partition = event["partition"]
        stream_time[partition] = max(stream_time[partition], at)
        start = at // 10_000 * 10_000
        if start + 20_000 > stream_time[partition]:
            windows[event["user_id"], start].append(event)
    alerts = {}
    for (user, start), rows in windows.items():
        average = sum(row["heart_rate"] for row in rows) / len(rows)
        sides = [[row[side] for row in rows] for side in ("latitude", "longitude")]
        low, high = ranges[user]
        if len(rows) >= 2 and all(max(side) - min(side) <= 0.0001 for side in sides) and not low <= average <= high:
            alerts[user, start] = {"event_count": len(rows), "avg_heart_rate": average}
    return alerts


@pytest.mark.parametrize("seed", [1, 2, 3])
def test_the_statement_equals_a_loop_over_simulated_events(seed: int) -> None:
    noon = datetime(2025, 3, 4, 17, tzinfo=UTC)
    simulation = Simulation(seed, noon, people=400, duration=timedelta(seconds=120), chances=Chances(ill=0.2))
    table = simulated(simulation)
    people = simulation.frame.filter(pl.col("user_id") % 7 != 0)
    ranges = {
        str(user): (low, high)
        for user, low, high in people.select("user_id", "min_heart_rate", "max_heart_rate").iter_rows()
    }
    computed = compute(ANALYTIC, "alerts", table, historical(**ranges), VARIABLES)
    expected = by_hand(table, ranges)
    found = {
        (row["user_id"], round(row["window_start"].replace(tzinfo=UTC).timestamp() * 1000)): {
            "event_count": row["event_count"],
            "avg_heart_rate": row["avg_heart_rate"],
        }
        for row in computed.rows.iter_rows(named=True)
    }
    assert found == expected
    assert len(expected) > 3


def simulated(simulation: Simulation) -> pa.Table:
    batches = [batch.records for batch in simulation.batches(5_000)]
    events = pa.Table.from_batches(batches)
    keys = events.column("user_id").combine_chunks()
    events = events.set_column(1, "event_time", events.column("event_time").cast(pa.timestamp("ms")))
    return (
        events.append_column("event_key", keys)
        .append_column("partition", pa.array(partitions_of(keys, PARTITIONS)))
        .append_column("offset", pa.array(range(len(events)), pa.int64()))
        .append_column("timestamp", events.column("event_time").cast(pa.int64()))
    )


def alert(user: str, start: int, **fields: Any) -> dict[str, Any]:
    at = datetime.fromtimestamp((START + start) / 1000, UTC).replace(tzinfo=None)
    return {"user_id": user, "window_start": at, "event_count": 5, "avg_heart_rate": 150.0, **fields}


def frame(*rows: dict[str, Any], closed: bool | None = None) -> pl.DataFrame:
    schema = {
        "user_id": pl.String,
        "window_start": pl.Datetime("ms"),
        "event_count": pl.Int64,
        "avg_heart_rate": pl.Float64,
    }
    made = pl.DataFrame(rows, schema=schema)
    return made if closed is None else made.with_columns(pl.lit(closed).alias("closed"))


@pytest.mark.parametrize(
    ("found", "computed", "what"),
    [
        (lambda: frame(alert("a", 0)), lambda: frame(alert("a", 0), closed=True), None),
        (frame, lambda: frame(alert("a", 0), closed=True), "missing"),
        (frame, lambda: frame(alert("a", 0), closed=False), None),
        (lambda: frame(alert("a", 0)), lambda: frame(closed=True), "extra"),
        (lambda: frame(alert("a", 0)), lambda: frame(alert("a", 10_000), closed=False), "extra"),
        (lambda: frame(alert("a", 0)), lambda: frame(alert("a", 0, event_count=4), closed=False), "different"),
        (lambda: frame(alert("a", 0), alert("a", 0)), lambda: frame(alert("a", 0), closed=True), "repeated"),
    ],
)
def test_every_difference_is_told(
    found: Callable[[], pl.DataFrame], computed: Callable[[], pl.DataFrame], what: str | None
) -> None:
    comparison = compare(found(), computed(), BY)
    assert comparison.exact == (what is None)
    if what is not None:
        assert getattr(comparison, what).height == 1
        assert f"1 {what}" in comparison.sentence()
    assert comparison.differences()["difference"].to_list() == ([] if what is None else [what])


def records(values: list[bytes | None], keys: list[bytes]) -> Records:
    count = len(values)
    return Records(
        np.zeros(count, dtype=np.int32),
        np.arange(count, dtype=np.int64),
        np.full(count, START, dtype=np.int64),
        pa.array(keys, pa.large_binary()),
        pa.array(values, pa.large_binary()),
    )


def decoded(values: list[bytes | None], keys: list[bytes], windowed_key: bool = False) -> Topic:
    schema = avro_codec.parse(ANALYTIC.schema_text("historical"))
    return decode_topic([records(values, keys)], avro_codec.Decoder(schema, lambda _: schema), windowed_key)


def test_a_compacted_topic_has_the_latest_row_of_each_key() -> None:
    schema = avro_codec.parse(ANALYTIC.schema_text("historical"))
    batch = pa.record_batch(
        {
            name: pa.array(values, pa.int32())
            for name, values in {
                "user_id": [1, 2, 1],
                "min_heart_rate": [50, 51, 52],
                "max_heart_rate": [90, 91, 92],
            }.items()
        }
    )
    first, second, third = avro_codec.encode(batch, schema, 3)
    topic = decoded([first, second, third, None, b"\x01bad"], [b"1", b"2", b"1", b"2", b"9"])
    assert latest_rows(topic).select(["event_key", "min_heart_rate"]).to_pylist() == [
        {"event_key": "1", "min_heart_rate": 52}
    ]
    assert [reject[:2] for reject in topic.rejects] == [(0, 4)]
    windowed = decoded([first], [b"17" + bytes(8)], windowed_key=True)
    assert windowed.table.column("event_key").to_pylist() == ["17"]
