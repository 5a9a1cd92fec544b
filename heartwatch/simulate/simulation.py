"""The real-time simulator: what the wearables of simulated people send, faults included.

A sample is taken at `start + phase(user) + tick · interval`; it is sent a little later (network), and by set rates much later,
out of order, twice, or followed by garbage. Batches come in the order of sending. Which events a batch holds, and every byte of
them, depends on the simulation's parameters, the shard's users and the batch's index alone: a producer that died asks for the
batch it died at. The events of one user are the same in every shard.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from datetime import datetime, timedelta
from functools import cached_property
from typing import Any
from zoneinfo import ZoneInfo

import numpy as np
import polars as pl
import pyarrow as pa
from numpy.typing import NDArray

from heartwatch.errors import HeartWatchError
from heartwatch.simulate import draws, places
from heartwatch.simulate.draws import Bits, Floats, Ints
from heartwatch.simulate.events import EventBatch, Malformed, record_batch
from heartwatch.simulate.malformed import KINDS, malformed_value
from heartwatch.simulate.movement import Chances, Latest, Population, heart_rates, positions
from heartwatch.simulate.people import make_people, with_ranges

_NEW_YORK = ZoneInfo("America/New_York")
_HEART_NOISE = 1.5
_NETWORK_MS = (20, 200)
_REPEAT_MS = (1, 1_500)
_CHUNK = 100_000

# Channels of the draws of one moment.
_NORTH, _EAST, _HEART, _FAULT, _DELAY, _REPEAT = (np.array([channel]) for channel in range(6))

_EVENT = np.dtype(
    [
        ("emission", "i8"),
        ("time", "i8"),
        ("person", "i8"),
        ("latitude", "f8"),
        ("longitude", "f8"),
        ("rate", "f8"),
        ("zipcode", "i4"),
        ("malformed", "i1"),
    ]
)
_WHOLE = -1


class SimulationError(HeartWatchError, ValueError):
    """The simulation's parameters can't be used; the message names the value and what is allowed."""


@dataclass(frozen=True)
class FaultRates:
    """How often what goes wrong, as shares of all events (of all people, for clocks).

    One event has one fault at most. The delays' defaults fit a window and a grace period of 10 s each: a `late` event still
    counts, a `too_late` one is dropped however its window lies.

    A clock that is ahead closes windows for all people of its partition, because stream time is the largest time seen: one
    such device can hide everybody's alerts. That is the stream engine's meaning of time, so the default has none of these.

    Attributes:
        out_of_order: sent up to `out_of_order_ms` later, so that others overtake it.
        late: sent up to `late_ms` later.
        too_late: sent up to `too_late_ms` later.
        duplicated: sent twice.
        malformed: preceded by a message that is not valid Avro.
        clock_behind: people whose device's clock is 1 to 120 minutes slow.
        clock_ahead: people whose device's clock is 1 to 120 minutes fast.
        out_of_order_ms: least and most delay, ms.
        late_ms: least and most delay, ms.
        too_late_ms: least and most delay, ms.
    """

    out_of_order: float = 0.02
    late: float = 0.01
    too_late: float = 0.002
    duplicated: float = 0.005
    malformed: float = 0.0005
    clock_behind: float = 0.001
    clock_ahead: float = 0.0
    out_of_order_ms: tuple[int, int] = (500, 3_000)
    late_ms: tuple[int, int] = (3_000, 9_500)
    too_late_ms: tuple[int, int] = (21_000, 35_000)

    def __post_init__(self) -> None:
        """Check the rates.

        Raises:
            SimulationError: a rate is not a share, rates sum to more than 1, or a delay's ends are in the wrong order.
        """
        shares = {name: getattr(self, name) for name in (*_EVENT_FAULTS, "clock_behind", "clock_ahead")}
        for name, share in shares.items():
            if not 0 <= share <= 1:
                raise SimulationError(f"faults.{name}={share!r} is not a share; give a number from 0 to 1")
        for names in (_EVENT_FAULTS, ("clock_behind", "clock_ahead")):
            if sum(shares[name] for name in names) > 1:
                raise SimulationError(f"faults {', '.join(names)} sum to more than 1; lower them")
        for name in ("out_of_order_ms", "late_ms", "too_late_ms"):
            low, high = getattr(self, name)
            if not 0 <= low <= high:
                raise SimulationError(f"faults.{name}={(low, high)!r} must be (least, most) and not negative")

    @classmethod
    def none(cls) -> FaultRates:
        """Return rates without any fault."""
        return cls(out_of_order=0, late=0, too_late=0, duplicated=0, malformed=0, clock_behind=0, clock_ahead=0)

    @property
    def longest_ms(self) -> int:
        """The longest time between a sample and its last sending, ms."""
        return max(self.out_of_order_ms[1], self.late_ms[1], self.too_late_ms[1], _NETWORK_MS[1] + _REPEAT_MS[1])


_EVENT_FAULTS = ("out_of_order", "late", "too_late", "duplicated", "malformed")


@dataclass(frozen=True, eq=False)
class Simulation:
    """People who wear devices, for some time.

    Attributes:
        seed: random seed: the same seed gives the same simulation.
        start: first moment, with a time zone.
        people: the people 1 to `people`.
        duration: how long; a part of a sample interval at the end is cut off.
        sample_interval_ms: time between two samples of a person, ms.
        chances: how often people fall ill and devices fail.
        faults: what goes wrong between device and topic.
        ranges: personal ranges that the people get (user_id, min_heart_rate, max_heart_rate); None for those of the people
            themselves.
        schema_id: the registry's id of the event schema; with it, malformed values are also made from its wire format.
        user_ids: the people of this shard, ascending; None for all.
    """

    seed: int
    start: datetime
    people: int = 20_000
    duration: timedelta = timedelta(seconds=110)
    sample_interval_ms: int = 2_000
    chances: Chances = field(default_factory=Chances)
    faults: FaultRates = field(default_factory=FaultRates)
    ranges: pl.DataFrame | None = None
    schema_id: int | None = None
    user_ids: Ints | None = None

    def __post_init__(self) -> None:
        """Check the parameters.

        Raises:
            SimulationError: one can't be used.
        """
        if self.start.tzinfo is None:
            raise SimulationError(f"start={self.start!r} has no time zone; give one, such as UTC")
        if not 1 <= self.people <= np.iinfo(np.int32).max:
            raise SimulationError(f"people={self.people!r} must be from 1 to {np.iinfo(np.int32).max}")
        if self.sample_interval_ms < 1:
            raise SimulationError(f"sample_interval_ms={self.sample_interval_ms!r} must be at least 1")
        if self.ticks < 1:
            raise SimulationError(f"duration={self.duration!r} must be at least one sample_interval_ms")
        for name, chance in vars(self.chances).items():
            if not 0 <= chance <= 1:
                raise SimulationError(f"chances.{name}={chance!r} must be from 0 to 1")

    @property
    def start_ms(self) -> int:
        """First moment, ms since the epoch."""
        return round(self.start.timestamp() * 1000)

    @property
    def end_ms(self) -> int:
        """First moment after the simulation, ms since the epoch."""
        return self.start_ms + self.ticks * self.sample_interval_ms

    @property
    def ticks(self) -> int:
        """Samples that each person's device takes, unless it is off."""
        return int(self.duration / timedelta(milliseconds=1)) // self.sample_interval_ms

    def shard(self, user_ids: Ints) -> Simulation:
        """Return the part of the simulation that has these people only.

        Raises:
            SimulationError: a user is not among the simulation's people.
        """
        chosen = np.unique(np.asarray(user_ids, dtype=np.int64))
        if chosen.size and not 1 <= chosen[0] <= chosen[-1] <= self.people:
            raise SimulationError(f"user ids {chosen[0]} to {chosen[-1]} are not all among 1 to {self.people}")
        return replace(self, user_ids=chosen)

    @cached_property
    def frame(self) -> pl.DataFrame:
        """The people of this shard, one row each, ascending by user_id."""
        ids = np.arange(1, self.people + 1, dtype=np.int64) if self.user_ids is None else self.user_ids
        made = make_people(self.seed, ids)
        return made if self.ranges is None else with_ranges(made, self.ranges)

    @cached_property
    def population(self) -> Population:
        """What the people of this shard do."""
        offset = self.start.astimezone(_NEW_YORK).utcoffset() or timedelta()
        return Population(self.frame, self.seed, round(offset.total_seconds() * 1000), self.chances)

    @cached_property
    def phases(self) -> Ints:
        """Time of each person's first sample after the start, ms."""
        return draws.integers(0, self.sample_interval_ms - 1, self._key("phase"), self.population.ids)

    @cached_property
    def wrong_clock_ms(self) -> Ints:
        """How much each person's clock is wrong beyond the usual fraction of a second, ms; 0 for most."""
        ids, faults = self.population.ids, self.faults
        drawn = draws.uniform(self._key("wrong clock"), ids)
        minutes = 120 ** draws.uniform(self._key("wrong clock minutes"), ids)
        sign = np.select([drawn < faults.clock_behind, drawn < faults.clock_behind + faults.clock_ahead], [-1, 1], 0)
        return np.rint(sign * minutes * 60_000).astype(np.int64)

    def batches(self, batch_events: int = 20_000) -> Batches:
        """Return the shard's batches.

        Args:
            batch_events: samples a batch; it may hold a few more events or less, since some come twice or later.

        Raises:
            SimulationError: `batch_events` is not positive.
        """
        if batch_events < 1:
            raise SimulationError(f"batch_events={batch_events!r} must be at least 1")
        return Batches(self, batch_events)

    def _key(self, channel: str) -> np.uint64:
        return draws.key(self.seed, f"simulation/{channel}")

    @cached_property
    def _person_bits(self) -> Bits:
        return draws.bits(self._key("moment"), self.population.ids)

    def moment_bits(self, person: Ints, tick: Ints) -> Bits:
        """Return the random bits of a sample, from which all its draws follow."""
        return draws.bits(self._person_bits[person], tick)

    def sample_times(self, person: Ints, tick: Ints) -> Ints:
        """Return when samples are taken, true time, ms since the epoch."""
        return self.start_ms + self.phases[person] + tick * self.sample_interval_ms

    def clock_offsets(self, person: Ints) -> Ints:
        """Return what people's devices add to the true time, ms."""
        return self.population["clock_offset_ms"][person] + self.wrong_clock_ms[person]

    def delays(self, moment: Bits) -> tuple[Ints, NDArray[np.int64], NDArray[np.int8]]:
        """Return what happens to samples on their way.

        Returns:
            Time until the sending, ms; time until the second sending, ms, -1 without one; and the kind of malformed message
            before it, -1 without one.
        """
        faults = self.faults
        fault, amount = draws.uniform(moment, _FAULT), draws.uniform(moment, _DELAY)
        bounds = np.cumsum([getattr(faults, name) for name in _EVENT_FAULTS])
        delay = _between(_NETWORK_MS, amount)
        again = np.full(len(moment), -1, dtype=np.int64)
        garbage = np.full(len(moment), _WHOLE, dtype=np.int8)
        hit = np.flatnonzero(fault < bounds[-1])
        kind = np.searchsorted(bounds, fault[hit], side="right")
        for code, span in enumerate((faults.out_of_order_ms, faults.late_ms, faults.too_late_ms)):
            chosen = hit[kind == code]
            delay[chosen] = _between(span, amount[chosen])
        twice, bad = hit[kind == _EVENT_FAULTS.index("duplicated")], hit[kind == _EVENT_FAULTS.index("malformed")]
        again[twice] = delay[twice] + _between(_REPEAT_MS, draws.uniform(moment[twice], _REPEAT))
        garbage[bad] = (draws.uniform(moment[bad], _REPEAT) * len(KINDS)).astype(np.int8)
        return delay, again, garbage


def _between(span: tuple[int, int], share: Floats) -> Ints:
    return span[0] + (share * (span[1] - span[0] + 1)).astype(np.int64)


class Batches:
    """The batches of a shard, in the order of sending; not to be used by two threads at once.

    The samples of the shard, in the order in which they are taken, are cut into steps of `batch_events`. A step gives one
    batch: what is sent before the next step's first sample is taken. What is sent later waits. Asking for the next batch costs
    its events; asking for any other batch first looks back over the longest delay.
    """

    def __init__(self, simulation: Simulation, batch_events: int) -> None:
        """Prepare; nothing is generated yet."""
        self._simulation = simulation
        self._size = batch_events
        people = simulation.population
        self._order = np.argsort(simulation.phases, kind="stable")
        self._samples = len(people) * simulation.ticks
        self._steps = -(-self._samples // batch_events)
        self._blocks = Latest(people.blocks, len(people))
        self._slots = Latest(people.slots, len(people))
        self._names = pa.array(people.ids).cast(pa.string())
        self._next = 0
        self._waiting = np.zeros(0, dtype=_EVENT)

    def __iter__(self) -> Iterator[EventBatch]:
        """Yield all batches from the first on."""
        return self.starting(0)

    def starting(self, index: int) -> Iterator[EventBatch]:
        """Yield the batches from `index` on."""
        while (batch := self.batch(index)) is not None:
            yield batch
            index += 1

    def batch(self, index: int) -> EventBatch | None:
        """Return a batch, the same whenever it is asked for; None after the last.

        Raises:
            SimulationError: `index` is negative.
        """
        if index < 0:
            raise SimulationError(f"batch index={index!r} must not be negative")
        if index >= self._steps:
            return self._tail(index)
        if index != self._next:
            self._waiting = self._sent_from(index)
        self._next = index + 1
        generated = self._events(*self._sample(index * self._size, (index + 1) * self._size))
        events = np.concatenate([self._waiting, generated])
        due = events["emission"] < self._begin(index + 1)
        self._waiting = events[~due]
        return self._batch(index, events[due])

    def _tail(self, index: int) -> EventBatch | None:
        """Return a batch of what is sent after the last sample was taken."""
        if self._next < self._steps:
            self._waiting, self._next = self._sent_from(self._steps), self._steps
        events = self._waiting[np.argsort(self._waiting["emission"], kind="stable")]
        first = (index - self._steps) * self._size
        return self._batch(index, events[first : first + self._size]) if first < len(events) else None

    def _begin(self, step: int) -> int:
        """Return when the first sample of a step is taken; the end of the simulation after the last step."""
        position = step * self._size
        if position >= self._samples:
            return self._simulation.end_ms
        return int(self._simulation.sample_times(*self._sample(position, position + 1))[0])

    def _sample(self, first: int, end: int) -> tuple[Ints, Ints]:
        """Return person and tick of the `first`-th sample to the one before the `end`-th."""
        position = np.arange(first, min(end, self._samples), dtype=np.int64)
        tick, rank = np.divmod(position, len(self._order))
        return self._order[rank], tick

    def _sent_from(self, step: int) -> NDArray[Any]:
        """Return the events of earlier steps' samples that are sent after the step begins."""
        begin, people = self._begin(step), len(self._order)
        simulation = self._simulation
        ticks = -(-simulation.faults.longest_ms // simulation.sample_interval_ms) + 1
        end = min(step * self._size, self._samples)
        waiting = [np.zeros(0, dtype=_EVENT)]
        for first in range(max(0, end - ticks * people), end, _CHUNK):
            person, tick = self._sample(first, min(first + _CHUNK, end))
            delay, again, _ = simulation.delays(simulation.moment_bits(person, tick))
            later = simulation.sample_times(person, tick) + np.maximum(delay, again) >= begin
            events = self._events(person[later], tick[later])
            waiting.append(events[events["emission"] >= begin])
        return np.concatenate(waiting)

    def _events(self, person: Ints, tick: Ints) -> NDArray[Any]:
        """Return the events of samples, in the order of the samples, an event's second sending after the first."""
        simulation = self._simulation
        people = simulation.population
        taken = simulation.sample_times(person, tick)
        slots = self._slots.get(person, people.slot_of(person, taken))
        on = ((taken < slots["offline_from"]) | (taken >= slots["offline_until"])) & (taken < slots["dead_from"])
        if not on.all():
            person, tick, taken, slots = person[on], tick[on], taken[on], slots[on]
        blocks = self._blocks.get(person, people.block_of(person, taken))
        moment = simulation.moment_bits(person, tick)
        delay, again, garbage = simulation.delays(moment)
        latitude, longitude, zipcode = positions(blocks, taken)
        noise = people["position_noise_m"][person]
        events = np.empty(len(person), dtype=_EVENT)
        events["emission"] = taken + delay
        events["time"] = taken + simulation.clock_offsets(person)
        events["person"] = person
        events["latitude"] = latitude + noise * draws.normal(moment, _NORTH) / places.METRES_PER_DEGREE
        events["longitude"] = longitude + noise * draws.normal(moment, _EAST) * blocks["east_metre"]
        events["rate"] = heart_rates(blocks, slots, taken) + _HEART_NOISE * draws.normal(moment, _HEART)
        events["zipcode"] = zipcode
        events["malformed"] = garbage
        return _with_second_sendings(events, taken, again)

    def _batch(self, index: int, events: NDArray[Any]) -> EventBatch:
        events = events.take(np.argsort(events["emission"], kind="stable"))
        names = self._names.take(pa.array(events["person"]))
        columns = (events[name] for name in ("time", "zipcode", "latitude", "longitude", "rate"))
        bad = [self._malformed(int(row), events[row]) for row in np.flatnonzero(events["malformed"] != _WHOLE)]
        return EventBatch(index, record_batch(names, *columns), events["emission"].copy(), bad)

    def _malformed(self, row: int, event: np.void) -> Malformed:
        user = str(self._simulation.population.ids[event["person"]]).encode()
        number = int(event["emission"])
        return Malformed(row, user, malformed_value(int(event["malformed"]), number, self._simulation.schema_id))


def _with_second_sendings(events: NDArray[Any], taken: Ints, again: Ints) -> NDArray[Any]:
    if not (again >= 0).any():
        return events
    copies = 1 + (again >= 0)
    both = np.repeat(events, copies)
    second = np.cumsum(copies)[again >= 0] - 1
    both["emission"][second] = (taken + again)[again >= 0]
    return both
