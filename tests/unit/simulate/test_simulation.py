"""Batches are the same however they are asked for, and hold the faults that were ordered."""

import json
from datetime import UTC, datetime, timedelta
from typing import Any

import numpy as np
import polars as pl
import pyarrow as pa
import pytest

from heartwatch.settings import ROOT
from heartwatch.simulate.events import SCHEMA, EventBatch
from heartwatch.simulate.malformed import KINDS, malformed_value
from heartwatch.simulate.movement import Chances
from heartwatch.simulate.simulation import FaultRates, Simulation, SimulationError
from kafkakit import avro_codec

START = datetime(2026, 3, 4, 22, 30, tzinfo=UTC)
REALTIME = avro_codec.parse((ROOT / "schemas" / "heart_rate" / "realtime.avsc").read_text())
MANY_FAULTS = FaultRates(0.1, 0.1, 0.05, 0.1, 0.05, clock_behind=0.1)


def simulation(**changes: Any) -> Simulation:
    return Simulation(**{"seed": 5, "start": START, "people": 300, "faults": MANY_FAULTS, **changes})


def frame(batches: list[EventBatch]) -> pl.DataFrame:
    table = pa.Table.from_batches([batch.records for batch in batches])
    emission = np.concatenate([batch.emission_ms for batch in batches])
    return pl.DataFrame(pl.from_arrow(table)).with_columns(emission=pl.Series(emission))


def same(first: EventBatch, second: EventBatch) -> bool:
    return (
        first.index == second.index
        and first.records.equals(second.records)
        and first.malformed == second.malformed
        and bool((first.emission_ms == second.emission_ms).all())
    )


def test_columns_are_the_avro_fields_in_order():
    assert SCHEMA.names == [field["name"] for field in REALTIME["fields"]]
    batch = simulation().batches(100).batch(3)
    assert batch is not None
    assert batch.records.schema == SCHEMA
    messages = avro_codec.encode(batch.records, REALTIME, 1)
    decoded = avro_codec.Decoder(REALTIME, lambda _: REALTIME).decode(messages)
    assert decoded.batch.cast(SCHEMA).to_pylist() == batch.records.to_pylist()


@pytest.mark.parametrize("size", [7, 300, 1_000, 100_000])
def test_a_batch_is_the_same_whenever_it_is_asked_for(size: int):
    shorter = simulation(duration=timedelta(seconds=20), people=60)
    in_order = list(shorter.batches(size))
    assert [batch.index for batch in in_order] == list(range(len(in_order)))
    batches = shorter.batches(size)
    for index in np.random.default_rng(1).permutation(len(in_order)).tolist():
        again = batches.batch(index)
        assert again is not None
        assert same(again, in_order[index])
    assert batches.batch(len(in_order)) is None
    resumed = list(shorter.batches(size).starting(len(in_order) // 2))
    assert all(map(same, resumed, in_order[len(in_order) // 2 :]))


def test_events_are_the_same_however_they_are_batched():
    by_size = [frame(list(simulation().batches(size))) for size in (50, 10_000)]
    assert by_size[0].equals(by_size[1])


def test_batches_come_in_the_order_of_sending():
    for size in (50, 10_000):
        assert frame(list(simulation().batches(size)))["emission"].is_sorted()


def test_a_persons_events_are_the_same_in_every_shard():
    everybody = frame(list(simulation().batches(200)))
    for users in (np.arange(1, 301, 3), np.array([300, 17, 4]), np.array([9])):
        shard = frame(list(simulation().shard(users).batches(70)))
        assert shard.equals(everybody.filter(pl.col("user_id").is_in(users.astype(str).tolist())))
    assert list(simulation().shard(np.zeros(0)).batches(10)) == []


def test_another_seed_gives_other_events():
    first, second = (frame(list(simulation(seed=seed).batches())) for seed in (1, 2))
    assert not first.head(100)["latitude"].equals(second.head(100)["latitude"])


def test_without_faults_every_sample_comes_once_and_soon():
    calm = simulation(faults=FaultRates.none(), chances=Chances(0, 0, 0))
    events = frame(list(calm.batches(1_000)))
    assert events.height == 300 * 55
    assert events.group_by("user_id").len()["len"].unique().to_list() == [55]
    delay = events["emission"] - events["event_time"].dt.epoch("ms")
    assert delay.is_between(20 - 525, 200 + 525).all()
    steps = events.sort("user_id", "event_time")["event_time"].diff().dt.total_milliseconds()
    assert steps.filter(steps.is_between(0, 10_000)).unique().to_list() == [2_000]


def test_faults_come_at_their_rates():
    rates = FaultRates(0.05, 0.04, 0.03, 0.02, 0.01, clock_behind=0.1, clock_ahead=0.05)
    wrong = simulation(people=2_000, faults=rates, chances=Chances(0, 0, 0), schema_id=3)
    batches = list(wrong.batches())
    events = frame(batches)
    samples = 2_000 * 55
    offsets = pl.DataFrame(
        {"user_id": wrong.population.ids.astype(str), "offset": wrong.clock_offsets(np.arange(2_000))}
    )
    delay = pl.col("emission") - pl.col("event_time").dt.epoch("ms") + pl.col("offset")
    late = events.join(offsets, on="user_id", maintain_order="left").select("user_id", "event_time", delay=delay)
    first = late.filter(pl.struct("user_id", "event_time").is_first_distinct())
    assert events.height - first.height == pytest.approx(0.02 * samples, rel=0.1)
    assert first["delay"].is_between(501, 2_999).sum() == pytest.approx(0.05 * samples, rel=0.1)
    assert first["delay"].is_between(3_001, 9_500).sum() == pytest.approx(0.04 * samples, rel=0.1)
    assert first["delay"].is_between(21_000, 35_000).sum() == pytest.approx(0.03 * samples, rel=0.1)
    assert (first["delay"] <= 200).sum() == pytest.approx(0.88 * samples, rel=0.02)
    assert (offsets["offset"] < -50_000).sum() == pytest.approx(200, rel=0.25)
    assert (offsets["offset"] > 50_000).sum() == pytest.approx(100, rel=0.25)
    malformed = [bad for batch in batches for bad in batch.malformed]
    assert len(malformed) == pytest.approx(0.01 * samples, rel=0.1)
    assert all(0 <= bad.row < batch.records.num_rows for batch in batches for bad in batch.malformed)


def test_a_duplicate_is_equal_to_its_event():
    events = frame(list(simulation(people=1_000).batches()))
    repeated = (
        events.group_by("user_id", "event_time").agg(pl.all().n_unique(), copies=pl.len()).filter(pl.col("copies") > 1)
    )
    assert repeated.height > 1_000
    assert repeated.select("zipcode", "latitude", "longitude", "heart_rate").unique().rows() == [(1, 1, 1, 1)]


@pytest.mark.parametrize("kind", range(len(KINDS)))
def test_malformed_values_can_not_be_decoded(kind: int):
    def registry(schema_id: int) -> avro_codec.AvroSchema:
        if schema_id != 7:
            raise avro_codec.UnknownSchemaError(f"no schema {schema_id}")
        return REALTIME

    good = avro_codec.encode(simulation().batches(10).batch(0).records.slice(0, 1), REALTIME, 7)  # type: ignore[union-attr]
    decoder = avro_codec.Decoder(REALTIME, registry)
    for schema_id in (7, None):
        decoded = decoder.decode([good[0], malformed_value(kind, 42, schema_id), good[0]])
        assert [reject.index for reject in decoded.rejects] == [1]
        assert decoded.batch.num_rows == 2


def test_given_ranges_are_kept():
    ranges = pl.DataFrame({"user_id": range(1, 301), "min_heart_rate": 51, "max_heart_rate": 107})
    ours = simulation(ranges=ranges, chances=Chances(ill=0))
    assert ours.frame["max_heart_rate"].unique().to_list() == [107]


def test_positions_and_rates_are_in_the_originals_ranges():
    events = frame(list(simulation(people=2_000).batches()))
    options = next(f for f in REALTIME["fields"] if f["name"] == "zipcode")["type"]["arg.properties"]["options"]
    assert set(options) < set(range(10_001, 11_700))
    assert events["latitude"].is_between(39, 41).all()
    assert events["longitude"].is_between(-75, -73).all()
    assert events["heart_rate"].is_between(20, 250).all()
    assert len(set(events["zipcode"]) & set(options)) > 20


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"start": datetime(2026, 1, 1)}, "has no time zone"),
        ({"people": 0}, "people=0"),
        ({"sample_interval_ms": 0}, "sample_interval_ms=0"),
        ({"duration": timedelta(seconds=1)}, "at least one sample_interval_ms"),
        ({"chances": Chances(ill=2)}, r"chances\.ill=2"),
    ],
)
def test_wrong_parameters_are_named(changes: dict[str, Any], message: str):
    with pytest.raises(SimulationError, match=message):
        simulation(**changes)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"late": 1.5}, r"faults\.late=1\.5 is not a share"),
        ({"late": 0.6, "malformed": 0.6}, "sum to more than 1"),
        ({"late_ms": (5, 2)}, r"faults\.late_ms=\(5, 2\)"),
    ],
)
def test_wrong_fault_rates_are_named(changes: dict[str, Any], message: str):
    with pytest.raises(SimulationError, match=message):
        FaultRates(**changes)


def test_wrong_users_and_batches_are_named():
    with pytest.raises(SimulationError, match="not all among 1 to 300"):
        simulation().shard(np.array([301]))
    with pytest.raises(SimulationError, match="batch_events=0"):
        simulation().batches(0)
    with pytest.raises(SimulationError, match="index=-1"):
        simulation().batches().batch(-1)


def test_the_defaults_send_a_million_events():
    defaults = Simulation(seed=1, start=START)
    assert json.dumps([defaults.people, defaults.ticks]) == "[20000, 55]"
    assert sum(batch.records.num_rows for batch in defaults.batches()) > 1_000_000
