"""People move as bodies do, and their hearts follow."""

from collections.abc import Callable
from datetime import UTC, datetime, timedelta

import numpy as np
import polars as pl
import pytest

from heartwatch.simulate import places
from heartwatch.simulate.draws import Ints
from heartwatch.simulate.movement import (
    BLOCK_MS,
    SETTLE_MS,
    SLOT_MS,
    Activity,
    Chances,
    Illness,
    Latest,
    Population,
    Rows,
    heart_rates,
    positions,
)
from heartwatch.simulate.people import make_people

PEOPLE = 300
START = round(datetime(2026, 3, 4, 5, tzinfo=UTC).timestamp() * 1000)  # midnight in New York, a Wednesday
DAY_MS = 86_400_000


@pytest.fixture(scope="module")
def population() -> Population:
    return Population(make_people(1, np.arange(1, PEOPLE + 1)), 1, -5 * 3_600_000, Chances(ill=0.2))


def grid(step_ms: int, length_ms: int, people: int = PEOPLE) -> tuple[Ints, Ints]:
    """Return every person at every step, a person's moments together."""
    moments = START + np.arange(0, length_ms, step_ms, dtype=np.int64)
    return np.repeat(np.arange(people), len(moments)), np.tile(moments, people)


def rows_at(population: Population, person: Ints, moment: Ints) -> tuple[Rows, Rows]:
    def each_once(compute: Callable[[Ints, Ints], Rows], number: Ints) -> Rows:
        _, first, inverse = np.unique(person * 10**9 + number, return_index=True, return_inverse=True)
        return compute(person[first], number[first])[inverse]

    return (
        each_once(population.blocks, population.block_of(person, moment)),
        each_once(population.slots, population.slot_of(person, moment)),
    )


def test_nobody_jumps(population: Population):
    person, moment = grid(1_000, DAY_MS, people=30)
    blocks, _ = rows_at(population, person, moment)
    latitude, longitude, _ = positions(blocks, moment)
    speed = places.metres_between(latitude[:-1], longitude[:-1], latitude[1:], longitude[1:])
    same = person[:-1] == person[1:]
    activity = np.maximum(blocks["activity"][:-1], blocks["activity"][1:])
    assert speed[same].max() < 18
    assert speed[same & (activity == Activity.TRAIN)].max() < 4.2
    assert speed[same & (activity == Activity.WALK)].max() < 4.2
    still = same & (blocks["activity"][:-1] <= Activity.REST) & (blocks["activity"][1:] <= Activity.REST)
    assert speed[still].max() < 1e-3
    running = same & (blocks["activity"][:-1] == Activity.TRAIN) & (blocks["activity"][1:] == Activity.TRAIN)
    assert speed[running].min() > 1.9


def test_heart_rates_do_not_jump_and_stay_in_the_own_range_at_rest(population: Population):
    person, moment = grid(1_000, DAY_MS // 4 * 3, people=40)
    blocks, slots = rows_at(population, person, moment)
    rate = heart_rates(blocks, slots, moment)
    same = person[:-1] == person[1:]
    quiet = (slots["ill_from"] > moment) | (moment >= slots["ill_until"] + SETTLE_MS)
    assert np.abs(np.diff(rate))[same & quiet[1:] & quiet[:-1]].max() < 6
    still = quiet & (blocks["activity"] <= Activity.REST)
    settled = still & (moment - blocks["begin"] > 120_000)
    assert (rate[settled] > population["min_heart_rate"][person[settled]] + 3).all()
    assert (rate[settled] < population["max_heart_rate"][person[settled]] - 10).all()
    assert (rate[still] < population["max_heart_rate"][person[still]]).all()
    training = (blocks["activity"] == Activity.TRAIN) & (moment - blocks["begin"] > 120_000)
    assert (rate[training] > population["max_heart_rate"][person[training]]).mean() > 0.8


def test_who_is_ill_lies_still_with_a_rate_outside_the_own_range(population: Population):
    person, moment = grid(1_000, DAY_MS // 4 * 3, people=40)
    blocks, slots = rows_at(population, person, moment)
    rate = heart_rates(blocks, slots, moment)
    ill = (slots["ill_from"] <= moment) & (moment < slots["ill_until"])
    assert ill.mean() > 0.02
    assert (blocks["activity"][ill] <= Activity.REST).all()
    settled = ill & (moment >= slots["ill_from"] + SETTLE_MS)
    fast, slow = (settled & (slots["illness"] == kind) for kind in (Illness.TACHYCARDIA, Illness.BRADYCARDIA))
    assert (rate[fast] > population["max_heart_rate"][person[fast]] + 15).all()
    assert (rate[slow] < population["min_heart_rate"][person[slow]] - 5).all()
    assert fast.any()
    assert slow.any()


def test_illness_is_over_before_its_slot_ends(population: Population):
    person = np.repeat(np.arange(PEOPLE), 50)
    slot = np.tile(np.arange(START // SLOT_MS, START // SLOT_MS + 50), PEOPLE)
    rows = population.slots(person, slot)
    ill = rows["illness"] != Illness.NONE
    length = (rows["ill_until"] - rows["ill_from"])[ill]
    assert (length >= 40_000).all()
    assert (length <= 90_000).all()
    assert (rows["ill_until"][ill] + SETTLE_MS < population.slot_begin(person, slot + 1)[ill]).all()


def test_people_keep_their_habits(population: Population):
    person, moment = grid(BLOCK_MS, 5 * DAY_MS)
    blocks, _ = rows_at(population, person, moment)
    share = {kind: (blocks["activity"] == kind).mean() for kind in Activity}
    assert 0.25 < share[Activity.SLEEP] < 0.40
    assert 0.3 < share[Activity.REST] < 0.65
    assert 0.01 < share[Activity.TRAIN] < 0.08
    hour = (moment - START) // 3_600_000 % 24
    asleep = blocks["activity"] == Activity.SLEEP
    assert asleep[hour == 3].mean() > 0.8
    assert asleep[hour == 15].mean() < 0.15


def test_after_training_comes_more_training_or_a_walk(population: Population):
    person, moment = grid(BLOCK_MS, 7 * DAY_MS)
    activity = population.activities(person, population.block_of(person, moment))
    following = activity[1:][(activity[:-1] == Activity.TRAIN) & (person[1:] == person[:-1])]
    assert set(following.tolist()) == {Activity.TRAIN, Activity.WALK}


def test_who_moves_gets_the_zipcode_of_where_they_are(population: Population):
    person, moment = grid(60_000, DAY_MS)
    blocks, _ = rows_at(population, person, moment)
    latitude, longitude, zipcode = positions(blocks, moment)
    assert (zipcode == places.nearest_zipcode(latitude, longitude)).all()


def test_remembered_rows_are_the_computed_ones_even_when_a_person_comes_twice(population: Population):
    latest = Latest(population.blocks, PEOPLE)
    for block in (START // BLOCK_MS, START // BLOCK_MS + 1, START // BLOCK_MS - 3):
        person = np.concatenate([np.arange(PEOPLE), np.arange(20)])
        number = np.concatenate([np.full(PEOPLE, block), np.full(20, block + 1)])
        assert (latest.get(person, number) == population.blocks(person, number)).all()


def test_any_range_is_kept_at_rest():
    frame = make_people(1, np.arange(1, 101)).with_columns(
        min_heart_rate=pl.lit(60, pl.Int64), max_heart_rate=pl.lit(70, pl.Int64)
    )
    population = Population(frame, 1, 0, Chances(ill=0))
    person, moment = grid(60_000, DAY_MS, people=100)
    blocks, slots = rows_at(population, person, moment)
    still = (blocks["activity"] <= Activity.REST) & (moment - blocks["begin"] > 120_000)
    rate = heart_rates(blocks, slots, moment)[still]
    assert (rate > 60.5).all()
    assert (rate < 69).all()


def test_a_day_has_gaps_and_dead_batteries(population: Population):
    day = timedelta(days=1) // timedelta(milliseconds=SLOT_MS)
    person = np.repeat(np.arange(PEOPLE), day)
    slot = np.tile(START // SLOT_MS + np.arange(day), PEOPLE)
    rows = population.slots(person, slot)
    offline = rows["offline_until"] > 0
    assert 0.01 < offline.mean() < 0.03
    assert (rows["offline_from"][offline] >= population.slot_begin(person, slot)[offline]).all()
    assert (rows["offline_until"][offline] <= population.slot_begin(person, slot + 1)[offline]).all()
    dead = rows["dead_from"] < population.slot_begin(person, slot)
    assert 0.002 < dead.mean() < 0.03
    assert not dead[slot % 36 == 0].any()
