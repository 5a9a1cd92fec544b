"""People depend on the seed and their id alone, and are possible people."""

import numpy as np
import polars as pl
import pytest
from hypothesis import given
from hypothesis import strategies as st

from heartwatch.simulate import draws, places
from heartwatch.simulate.people import PeopleError, make_people, people_chunks, with_ranges

EVERYBODY = make_people(1, np.arange(1, 50_001))


@given(st.lists(st.integers(1, 50_000), min_size=1, max_size=20))
def test_a_person_is_the_same_however_asked_for(ids: list[int]):
    assert make_people(1, np.array(ids)).equals(EVERYBODY[[number - 1 for number in ids]])


def test_chunks_make_the_same_people():
    assert pl.concat(people_chunks(1, 50_000, chunk=7_001)).equals(EVERYBODY)


def test_another_seed_makes_other_people():
    other = make_people(2, np.arange(1, 50_001))
    assert (other["home_latitude"] == EVERYBODY["home_latitude"]).sum() == 0


def test_two_million_people_can_not_be_more_than_an_int_numbers():
    with pytest.raises(PeopleError, match="people=0"):
        next(people_chunks(1, 0))
    with pytest.raises(PeopleError, match="from 1 to 2147483647"):
        next(people_chunks(1, 2**31))


def test_hearts_are_possible():
    checks = EVERYBODY.select(
        age=pl.col("age").is_between(18, 90).all(),
        lowest=pl.col("min_heart_rate").is_between(40, 75).all(),
        order=(pl.col("min_heart_rate") < pl.col("resting_heart_rate")).all(),
        highest=(pl.col("resting_heart_rate") + 40 < pl.col("max_heart_rate")).all(),
        maximal=pl.col("maximal_heart_rate").is_between(120, 220).all(),
    )
    assert all(checks.row(0))


def test_places_lie_in_the_originals_ranges_and_have_the_nearest_zipcode():
    for place in ("home", "work", "gym"):
        latitude, longitude = (EVERYBODY[f"{place}_{axis}"].to_numpy() for axis in ("latitude", "longitude"))
        assert ((latitude > 39) & (latitude < 41)).all()
        assert ((longitude > -75) & (longitude < -73)).all()
        middles = places.middle(np.arange(places.COUNT))
        distances = np.stack(
            [places.metres_between(latitude, longitude, *middle) for middle in zip(*middles, strict=True)]
        )
        nearest = places.nearest_zipcode(*middles)[distances.argmin(axis=0)]
        assert (nearest == EVERYBODY[f"{place}_zipcode"].to_numpy()).mean() > 0.999


def test_nobody_commutes_further_than_a_train_goes():
    home, work = (
        [EVERYBODY[f"{place}_{axis}"].to_numpy() for axis in ("latitude", "longitude")] for place in ("home", "work")
    )
    assert places.metres_between(*home, *work).max() < 20_050


def test_ranges_of_another_source_replace_the_own_ones():
    ranges = pl.DataFrame({"user_id": [3, 1], "min_heart_rate": [51, 52], "max_heart_rate": [107, 108]})
    changed = with_ranges(EVERYBODY[:3], ranges)
    assert changed["min_heart_rate"].to_list() == [52, EVERYBODY["min_heart_rate"][1], 51]
    assert changed["max_heart_rate"].to_list() == [108, EVERYBODY["max_heart_rate"][1], 107]
    assert changed.columns == EVERYBODY.columns
    assert changed["user_id"].to_list() == [1, 2, 3]


def test_draws_are_spread_evenly_and_independent():
    counters = np.arange(200_000)
    first, second = (draws.uniform(draws.key(1, name), counters) for name in ("a", "b"))
    assert abs(first.mean() - 0.5) < 0.003
    assert np.histogram(first, bins=20, range=(0, 1))[0].std() < 150
    assert abs(np.corrcoef(first, second)[0, 1]) < 0.01
    assert abs(np.corrcoef(first[:-1], first[1:])[0, 1]) < 0.01
    bell = draws.normal(draws.key(1, "c"), counters)
    assert abs(bell.mean()) < 0.01
    assert abs(bell.std() - 1) < 0.01
    assert np.abs(bell).max() < 3.47
    whole = draws.integers(3, 5, draws.key(1, "d"), counters)
    assert set(whole) == {3, 4, 5}
