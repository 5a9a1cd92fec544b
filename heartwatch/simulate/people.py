"""People from a seed: age, heart, personal range, places, habits, device.

Every property of a person depends on the seed and the user id alone, so that any chunk of any number of people can be made by
itself, in any order.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import polars as pl
from numpy.typing import NDArray

from heartwatch.errors import HeartWatchError
from heartwatch.simulate import draws, places
from heartwatch.simulate.draws import Floats, Ints

DAY_MINUTES = 1440
MAXIMUM_COMMUTE_METRES = 20_000.0
_RESTING_BOUNDS = (50, 84)
_CHUNK = 100_000

Column = NDArray[Any]


class PeopleError(HeartWatchError, ValueError):
    """People can't be made from what was given; the message says what and what to do."""


def make_people(seed: int, user_ids: Ints) -> pl.DataFrame:
    """Make people.

    The maximal heart rate is 208 - 0.7 · age on average (Tanaka, Monahan & Seals 2001). A person's personal range goes from a
    little below the rate asleep to a little above the rate of a brisk walk, so that a rate outside it while not moving means
    something. Rates are beats a minute, places degrees (WGS 84) with their postal code, habits local minutes of the day.

    Args:
        seed: random seed: the same seed gives the same people.
        user_ids: whole numbers from 1.

    Returns:
        One row per person, in the order of `user_ids`.
    """
    draw = _Draws(seed, user_ids)
    columns = {
        "user_id": user_ids,
        **_heart(draw),
        **_places(draw),
        **_habits(draw),
        "walk_speed": 1.4 + 0.15 * draw.normal("walk speed"),
        "run_speed": 3.0 + 0.3 * draw.normal("run speed"),
        "position_noise_m": 0.4 + 0.9 * draw.uniform("position noise"),
        "clock_offset_ms": np.round(150 * draw.normal("clock offset")).astype(np.int64),
    }
    return pl.DataFrame(columns)


def people_chunks(seed: int, count: int, chunk: int = _CHUNK) -> Iterator[pl.DataFrame]:
    """Make the people 1 to `count`, `chunk` at a time, so that memory doesn't grow with `count`.

    Raises:
        PeopleError: `count` is not positive or does not fit Postgres' and Avro's int.
    """
    if not 1 <= count <= np.iinfo(np.int32).max:
        raise PeopleError(f"people={count!r} can't be made; give a number from 1 to {np.iinfo(np.int32).max}")
    for first in range(1, count + 1, chunk):
        yield make_people(seed, np.arange(first, min(first + chunk, count + 1), dtype=np.int64))


def with_ranges(frame: pl.DataFrame, ranges: pl.DataFrame) -> pl.DataFrame:
    """Give people the personal ranges of another source (a file of historical ranges, say).

    Args:
        frame: people.
        ranges: user_id, min_heart_rate, max_heart_rate; people not in it keep their own.
    """
    given = ranges.select(
        pl.col("user_id").cast(pl.Int64),
        pl.col("min_heart_rate").cast(pl.Int64).alias("given_min"),
        pl.col("max_heart_rate").cast(pl.Int64).alias("given_max"),
    )
    return (
        frame.join(given, on="user_id", how="left", maintain_order="left")
        .with_columns(
            min_heart_rate=pl.coalesce("given_min", "min_heart_rate"),
            max_heart_rate=pl.coalesce("given_max", "max_heart_rate"),
        )
        .drop("given_min", "given_max")
    )


@dataclass(frozen=True)
class _Draws:
    """One draw a person for each name."""

    seed: int
    user_ids: Ints

    def uniform(self, name: str) -> Floats:
        return draws.uniform(draws.key(self.seed, f"people/{name}"), self.user_ids)

    def normal(self, name: str) -> Floats:
        return draws.normal(draws.key(self.seed, f"people/{name}"), self.user_ids)

    def integers(self, name: str, low: int, high: int) -> Ints:
        return draws.integers(low, high, draws.key(self.seed, f"people/{name}"), self.user_ids)


def _heart(draw: _Draws) -> dict[str, Column]:
    age = 18 + (72 * draw.uniform("age") ** 1.3).astype(np.int64)
    fitness = draw.normal("fitness")
    resting = 66 - 5.0 * fitness + 0.05 * (age - 45) + 3.0 * draw.normal("resting")
    resting = np.clip(np.round(resting), *_RESTING_BOUNDS)
    maximal = np.round(208 - 0.7 * age + 6.0 * draw.normal("maximal"))
    lowest = np.floor(0.9 * resting - 5)
    highest = np.ceil(resting + 42 + 6.0 * draw.uniform("highest"))
    return {
        "age": age,
        "resting_heart_rate": resting.astype(np.int64),
        "maximal_heart_rate": maximal.astype(np.int64),
        "min_heart_rate": lowest.astype(np.int64),
        "max_heart_rate": highest.astype(np.int64),
    }


def _places(draw: _Draws) -> dict[str, Column]:
    """Homes are spread around the postal codes' middles, gyms lie near the home, work is at most 20 km away."""
    home = _around(draw, "home", draw.integers("home zip", 0, places.COUNT - 1))
    work = _around(draw, "work", draw.integers("work zip", 0, places.COUNT - 1))
    reach = np.minimum(1.0, MAXIMUM_COMMUTE_METRES / np.maximum(places.metres_between(*home, *work), 1.0))
    work = home[0] + reach * (work[0] - home[0]), home[1] + reach * (work[1] - home[1])
    distance, direction = 600 + 1_200 * draw.uniform("gym distance"), 2 * np.pi * draw.uniform("gym direction")
    gym = places.moved(*home, distance * np.sin(direction), distance * np.cos(direction))
    columns: dict[str, Column] = {}
    for name, (latitude, longitude) in {"home": home, "work": work, "gym": gym}.items():
        columns[f"{name}_latitude"], columns[f"{name}_longitude"] = latitude, longitude
        columns[f"{name}_zipcode"] = places.nearest_zipcode(latitude, longitude)
    return columns


def _around(draw: _Draws, name: str, zip_index: Ints) -> tuple[Floats, Floats]:
    north, east = (300 * draw.normal(f"{name} {axis}") for axis in ("north", "east"))
    return places.moved(*places.middle(zip_index), north, east)


def _habits(draw: _Draws) -> dict[str, Column]:
    """Most sleep at night; one in twelve works at night. Training comes before or after work, or in free people's day."""
    night_shift = draw.uniform("night shift") < 1 / 12
    sleep = np.round(1_390 + 45 * draw.normal("sleep") + 600 * night_shift).astype(np.int64)
    sleep_minutes = draw.integers("sleep minutes", 400, 520)
    wake = sleep + sleep_minutes
    works = (draw.uniform("works") < 0.65) | night_shift
    work = wake + draw.integers("work start", 150, 240)
    work_minutes = draw.integers("work minutes", 420, 540)
    early = draw.uniform("early training") < 0.3
    free = draw.integers("free training", 60, 700)
    after_work = work - wake + work_minutes + draw.integers("late training", 20, 60)
    train = wake + np.where(~works, free, np.where(early, 10, after_work))
    return {
        "sleep_minute": sleep % DAY_MINUTES,
        "sleep_minutes": sleep_minutes,
        "works": works,
        "work_minute": work % DAY_MINUTES,
        "work_minutes": work_minutes,
        "train_minute": train % DAY_MINUTES,
        "train_minutes": 20 * draw.integers("train minutes", 3, 5),
        "train_chance": 0.1 + 0.7 * draw.uniform("trainings"),
        "walk_chance": 0.05 + 0.15 * draw.uniform("walks"),
    }
