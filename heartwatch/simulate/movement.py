"""What people do, where they are and how their hearts beat, at any moment.

Everything is a closed formula of the moment, nothing is carried from sample to sample, so that any moment of any person can be
computed by itself:

- A person's time is cut into blocks of 20 minutes (each person's begin at another moment). The habits say in which place a block
  begins: asleep at home, at work, in the gym, at home. A block that begins in one place and ends in another is a journey; any
  other is sleep, rest, a walk or a training run, both along a closed loop. So positions are continuous.
- The heart rate goes exponentially from the last block's target to this block's. A run ends in a walk that slows down more slowly
  than the heart does, as people cool down.
- In slots of 5 minutes a person may fall ill for 40 to 90 seconds: tachycardia or bradycardia, clearly outside the personal
  range, sudden at both ends, and only while still. Devices are offline now and then, or dead until they are charged.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from enum import IntEnum
from functools import cached_property
from typing import Any

import numpy as np
import polars as pl
from numpy.typing import NDArray

from heartwatch.simulate import draws, places
from heartwatch.simulate.draws import Floats, Ints
from heartwatch.simulate.people import DAY_MINUTES

Rows = NDArray[Any]
"""A structured array: one row per person and block, or per person and slot."""

BLOCK_MS = 20 * 60_000
SLOT_MS = 5 * 60_000
SETTLE_MS = 8_000
"""How long after its beginning, and after its end, an illness leaves the heart rate neither here nor there, ms."""

_HOME, _WORK, _GYM = 0, 1, 2
_MONDAY_TO_FRIDAY, _DAYS, _EPOCH_WEEKDAY = 5, 7, 3  # 1 January 1970 was a Thursday
_HEART_SECONDS = 25.0
_SLOWING_SECONDS = 60.0
_ILL_SECONDS = 2.5
_LAP_METRES = 1_300.0
_LOWEST_FOR_BRADYCARDIA = 38
_BATTERY_SLOTS = 36  # three hours
_NEVER = np.iinfo(np.int64).max


class Activity(IntEnum):
    """What a person does; positions don't change in the first two."""

    SLEEP = 0
    REST = 1
    WALK = 2
    TRAIN = 3
    TRAVEL = 4


class Illness(IntEnum):
    """A heart rate outside the personal range at rest."""

    NONE = 0
    TACHYCARDIA = 1
    BRADYCARDIA = 2


_BLOCK = np.dtype(
    [
        ("key", "i8"),
        ("begin", "i8"),
        ("activity", "i1"),
        ("zipcode", "i4"),
        ("latitude", "f8"),
        ("longitude", "f8"),
        ("to_latitude", "f8"),
        ("to_longitude", "f8"),
        ("east_metre", "f8"),
        ("angle", "f8"),
        ("first_speed", "f8"),
        ("speed", "f8"),
        ("target_before", "f8"),
        ("target", "f8"),
    ]
)
_SLOT = np.dtype(
    [
        ("key", "i8"),
        ("illness", "i1"),
        ("ill_from", "i8"),
        ("ill_until", "i8"),
        ("ill_target", "f8"),
        ("offline_from", "i8"),
        ("offline_until", "i8"),
        ("dead_from", "i8"),
    ]
)


@dataclass(frozen=True)
class Chances:
    """How often things happen to a person.

    Attributes:
        ill: chance that an illness begins in a slot of 5 minutes (it does if the person is still).
        offline: chance that the device is offline for 5 to 60 seconds of such a slot.
        battery: chance that the battery dies in a stretch of three hours, until its end.
    """

    ill: float = 0.01
    offline: float = 0.02
    battery: float = 0.02


@dataclass(frozen=True)
class _Places:
    """Where people are when a block begins, and whether they sleep then."""

    place: Ints
    asleep: NDArray[np.bool_]


class Population:
    """People as columns, with what is needed to know what they do.

    Persons are given by their index into the frame, moments in ms since the epoch.
    """

    def __init__(self, people: pl.DataFrame, seed: int, utc_offset_ms: int, chances: Chances) -> None:
        """Take people.

        Args:
            people: frame of `heartwatch.simulate.people.make_people`.
            seed: the simulation's seed.
            utc_offset_ms: local time minus UTC, by which habits go, ms.
            chances: how often things happen.
        """
        self._columns = {name: people[name].to_numpy() for name in people.columns}
        self._seed = seed
        self._utc_offset_ms = utc_offset_ms
        self.chances = chances
        self.ids: Ints = self._columns["user_id"].astype(np.int64)
        self.block_phase = draws.integers(0, BLOCK_MS - 1, self._key("block phase"), self.ids)
        self.slot_phase = draws.integers(0, SLOT_MS - 1, self._key("slot phase"), self.ids)

    def __len__(self) -> int:
        return len(self.ids)

    def __getitem__(self, name: str) -> NDArray[Any]:
        """Return a column of the people's frame."""
        return self._columns[name]

    def _key(self, channel: str) -> np.uint64:
        return draws.key(self._seed, f"movement/{channel}")

    @cached_property
    def _span(self) -> Floats:
        return (self["max_heart_rate"] - self["min_heart_rate"]).astype(np.float64)

    def block_of(self, person: Ints, moment: Ints) -> Ints:
        """Return the number of the block that each moment lies in."""
        return (moment - self.block_phase[person]) // BLOCK_MS

    def slot_of(self, person: Ints, moment: Ints) -> Ints:
        """Return the number of the slot that each moment lies in."""
        return (moment - self.slot_phase[person]) // SLOT_MS

    def block_begin(self, person: Ints, block: Ints) -> Ints:
        """Return a block's first moment."""
        return block * BLOCK_MS + self.block_phase[person]

    def slot_begin(self, person: Ints, slot: Ints) -> Ints:
        """Return a slot's first moment."""
        return slot * SLOT_MS + self.slot_phase[person]

    def activities(self, person: Ints, block: Ints) -> NDArray[np.int8]:
        """Return what people do in a block (values of `Activity`)."""
        return self._activities(person, block, *(self._place(person, block + further) for further in range(3)))

    def _activities(
        self, person: Ints, block: Ints, this: _Places, following: _Places, after: _Places
    ) -> NDArray[np.int8]:
        """Return what people do in a block, from where they are when it, the next and the one after begin."""
        walks = draws.uniform(self._key("walks"), self.ids[person], block) < self["walk_chance"][person]
        in_gym = (this.place == _GYM) & (following.place == _GYM)
        cases = [
            (this.place != following.place, Activity.TRAVEL),
            (this.asleep, Activity.SLEEP),
            (in_gym & (after.place == _GYM), Activity.TRAIN),
            (in_gym | walks, Activity.WALK),
        ]
        conditions, results = zip(*cases, strict=True)
        return np.select(conditions, results, Activity.REST).astype(np.int8)

    def _place(self, person: Ints, block: Ints) -> _Places:
        minute = self._local_minute(person, block)

        def during(habit: str) -> NDArray[np.bool_]:
            return (minute - self[f"{habit}_minute"][person]) % DAY_MINUTES < self[f"{habit}_minutes"][person]

        workday = (minute // DAY_MINUTES + _EPOCH_WEEKDAY) % _DAYS < _MONDAY_TO_FRIDAY
        day = self._training_day(person, minute)
        trains = draws.uniform(self._key("trains"), self.ids[person], day) < self["train_chance"][person]
        asleep = during("sleep")
        at_work = self["works"][person] & workday & during("work")
        place = np.select([asleep, trains & during("train"), at_work], [_HOME, _GYM, _WORK], _HOME)
        return _Places(place, asleep)

    def _local_minute(self, person: Ints, block: Ints) -> Ints:
        return (self.block_begin(person, block) + self._utc_offset_ms) // 60_000

    def _training_day(self, person: Ints, minute: Ints) -> Ints:
        """Return the number of days that begin when a person's training may begin."""
        return (minute - self["train_minute"][person]) // DAY_MINUTES

    def blocks(self, person: Ints, block: Ints) -> Rows:
        """Return what is needed to know people's positions and heart rates within a block."""
        rows = np.zeros(len(person), dtype=_BLOCK)
        rows["key"], rows["begin"] = block, self.block_begin(person, block)
        earlier, this, following, after = (self._place(person, block + further) for further in range(-1, 3))
        before = self._activities(person, block - 1, earlier, this, following)
        activity = self._activities(person, block, this, following, after)
        rows["activity"] = activity
        rows["target_before"] = self._target(person, block - 1, before)
        rows["target"] = self._target(person, block, activity)
        here, there = this.place, following.place
        for code, name in ((_HOME, "home"), (_WORK, "work"), (_GYM, "gym")):
            for prefix, place in (("", here), ("to_", there)):
                chosen = place == code
                rows[f"{prefix}latitude"][chosen] = self[f"{name}_latitude"][person[chosen]]
                rows[f"{prefix}longitude"][chosen] = self[f"{name}_longitude"][person[chosen]]
            rows["zipcode"][here == code] = self[f"{name}_zipcode"][person[here == code]]
        rows["east_metre"] = 1 / (places.METRES_PER_DEGREE * np.cos(np.radians(rows["latitude"])))
        # One direction a training day: a run of several blocks goes on without turning round where they meet.
        day = self._training_day(person, self._local_minute(person, block))
        rows["angle"] = 2 * np.pi * draws.uniform(self._key("direction"), self.ids[person], day)
        rows["speed"] = np.where(activity == Activity.TRAIN, self["run_speed"][person], self["walk_speed"][person])
        rows["first_speed"] = np.where(before == Activity.TRAIN, self["run_speed"][person], rows["speed"])
        return rows

    def _target(self, person: Ints, block: Ints, activity: NDArray[np.int8]) -> Floats:
        """Return the heart rate that an activity settles at; for a run by Karvonen's formula, 65 to 80 % of the reserve."""
        share = draws.uniform(self._key("target"), self.ids[person], block)
        lowest, span = self["min_heart_rate"][person], self._span[person]
        resting = lowest + 0.2 * span
        running = resting + (0.65 + 0.15 * share) * (self["maximal_heart_rate"][person] - resting)
        quiet = lowest + span * (0.25 + 0.2 * share)
        settled = {
            Activity.SLEEP: lowest + span * (0.13 + 0.05 * share),
            Activity.WALK: lowest + span * (0.70 + 0.1 * share),
            Activity.TRAIN: running,
        }
        return np.select([activity == kind for kind in settled], list(settled.values()), quiet)

    def slots(self, person: Ints, slot: Ints) -> Rows:
        """Return illness, offline gap and battery of people's slots."""
        rows = np.zeros(len(person), dtype=_SLOT)
        ids, begin = self.ids[person], self.slot_begin(person, slot)
        rows["key"] = slot
        gap = np.flatnonzero(draws.uniform(self._key("offline"), ids, slot) < self.chances.offline)
        length = draws.integers(5_000, 60_000, self._key("offline length"), ids[gap], slot[gap])
        start = draws.integers(0, SLOT_MS - 60_000, self._key("offline start"), ids[gap], slot[gap])
        rows["offline_from"][gap] = begin[gap] + start
        rows["offline_until"][gap] = begin[gap] + start + length
        rows["dead_from"] = self._dead_from(person, slot)
        self._fall_ill(rows, person, slot)
        return rows

    def _dead_from(self, person: Ints, slot: Ints) -> Ints:
        ids, stretch = self.ids[person], slot // _BATTERY_SLOTS
        dies = draws.uniform(self._key("battery"), ids, stretch) < self.chances.battery
        length = _BATTERY_SLOTS * SLOT_MS
        after = draws.integers(0, length - 1, self._key("battery end"), ids, stretch)
        return np.where(dies, self.slot_begin(person, stretch * _BATTERY_SLOTS) + after, _NEVER)

    def _fall_ill(self, rows: Rows, person: Ints, slot: Ints) -> None:
        drawn = np.flatnonzero(draws.uniform(self._key("ill"), self.ids[person], slot) < self.chances.ill)
        who, when = person[drawn], slot[drawn]
        ids = self.ids[who]
        start = self.slot_begin(who, when) + draws.integers(10_000, 190_000, self._key("ill start"), ids, when)
        end = start + draws.integers(40_000, 90_000, self._key("ill length"), ids, when)
        still = self._still(who, start) & self._still(who, end + SETTLE_MS)
        lowest, highest = self["min_heart_rate"][who], self["max_heart_rate"][who]
        slow = (draws.uniform(self._key("ill kind"), ids, when) < 0.4) & (lowest >= _LOWEST_FOR_BRADYCARDIA)
        force = draws.uniform(self._key("ill force"), ids, when)
        target = np.where(slow, lowest - 12 - 4 * force, highest + 25 + 30 * force)
        kind = np.where(slow, Illness.BRADYCARDIA, Illness.TACHYCARDIA)
        for name, value in (("ill_from", start), ("ill_until", end), ("ill_target", target), ("illness", kind)):
            rows[name][drawn[still]] = value[still]

    def _still(self, person: Ints, moment: Ints) -> NDArray[np.bool_]:
        return self.activities(person, self.block_of(person, moment)) <= Activity.REST


class Latest:
    """Remembers for each person the row of the last block or slot that was asked for, since most moments follow the last."""

    def __init__(self, compute: Callable[[Ints, Ints], Rows], people: int) -> None:
        """Remember the rows of `compute` for so many people."""
        self._compute = compute
        self._table = compute(np.zeros(0, dtype=np.int64), np.zeros(0, dtype=np.int64))
        self._table = np.zeros(people, dtype=self._table.dtype)
        self._table["key"] = -_NEVER

    def get(self, person: Ints, number: Ints) -> Rows:
        """Return the rows of people's blocks or slots, the same as `compute` gives."""
        stale = np.flatnonzero(self._table["key"][person] != number)
        if stale.size:
            self._table[person[stale]] = self._compute(person[stale], number[stale])
        rows = self._table.take(person)
        other = np.flatnonzero(rows["key"] != number)
        if other.size:
            rows[other] = self._compute(person[other], number[other])
        return rows


def heart_rates(blocks: Rows, slots: Rows, moment: Ints) -> Floats:
    """Return the heart rates, beats a minute, without the sensor's noise."""
    seconds = (moment - blocks["begin"]) / 1000
    rate = blocks["target"] + (blocks["target_before"] - blocks["target"]) * np.exp(-seconds / _HEART_SECONDS)
    ill = np.flatnonzero((slots["ill_from"] <= moment) & (moment < slots["ill_until"] + 5 * SETTLE_MS))
    if ill.size:
        episode, now = slots[ill], moment[ill]
        inside = (np.minimum(now, episode["ill_until"]) - episode["ill_from"]) / 1000
        after = np.maximum(now - episode["ill_until"], 0) / 1000
        weight = (1 - np.exp(-inside / _ILL_SECONDS)) * np.exp(-after / _ILL_SECONDS)
        rate[ill] += weight * (episode["ill_target"] - rate[ill])
    return rate


def positions(blocks: Rows, moment: Ints) -> tuple[Floats, Floats, Ints]:
    """Return latitude and longitude (degrees) and the postal code, without the receiver's noise."""
    latitude, longitude = blocks["latitude"].copy(), blocks["longitude"].copy()
    zipcode = blocks["zipcode"].astype(np.int64)
    moving = np.flatnonzero(blocks["activity"] > Activity.REST)
    if moving.size:
        row = blocks[moving]
        seconds = (moment[moving] - row["begin"]) / 1000
        travel = row["activity"] == Activity.TRAVEL
        share = np.where(travel, seconds * 1000 / BLOCK_MS, 0.0)
        north, east = _loop(row, seconds)
        latitude[moving] += np.where(
            travel, share * (row["to_latitude"] - row["latitude"]), north / places.METRES_PER_DEGREE
        )
        longitude[moving] += np.where(
            travel, share * (row["to_longitude"] - row["longitude"]), east * row["east_metre"]
        )
        zipcode[moving] = places.nearest_zipcode(latitude[moving], longitude[moving])
    return latitude, longitude, zipcode


def _loop(row: Rows, seconds: Floats) -> tuple[Floats, Floats]:
    """Return metres north and east of the loop's beginning; whole laps fill the block."""
    whole_way = _metres_gone(row, np.full(len(row), BLOCK_MS / 1000))
    laps = np.maximum(np.round(whole_way / _LAP_METRES), 1)
    radius = whole_way / (2 * np.pi * laps)
    turned = row["angle"] + _metres_gone(row, seconds) / radius
    return radius * (np.sin(turned) - np.sin(row["angle"])), radius * (np.cos(turned) - np.cos(row["angle"]))


def _metres_gone(row: Rows, seconds: Floats) -> Floats:
    """Return the way since the block's begin, slowing down exponentially from the first speed to the block's."""
    slowing = _SLOWING_SECONDS * (1 - np.exp(-seconds / _SLOWING_SECONDS))
    return row["speed"] * seconds + (row["first_speed"] - row["speed"]) * slowing
