"""What really happened in a simulation, and how good alerts are against it.

What the query's parameters should be was read off this truth: 20,000 people, 110 s, a sample every 2 s, all faults at their
default rates, six runs (seeds 1, 2, 3, at 7 in the morning and at half past five), windows and grace of 10 s, late events
dropped by each partition's stream time. Worst recall / worst precision of the six:

=================  ==============  ==============  ==============  ==============
still distance     2 events        3 events        4 events        5 events
=================  ==============  ==============  ==============  ==============
0.00005 degrees    0.971 / 0.991   0.971 / 1.000   0.971 / 1.000   0.971 / 1.000
0.000075 degrees   1.000 / 0.981   1.000 / 1.000   1.000 / 1.000   1.000 / 1.000
0.0001 degrees     1.000 / 0.978   1.000 / 0.997   1.000 / 1.000   1.000 / 1.000
0.00015 degrees    1.000 / 0.674   1.000 / 0.678   1.000 / 0.678   1.000 / 0.710
0.0002 degrees     1.000 / 0.110   1.000 / 0.110   1.000 / 0.110   1.000 / 0.110
=================  ==============  ==============  ==============  ==============

So 0.000075 degrees (8.3 m north, 6.3 m east) and 3 events are the best defaults: below, the receivers' noise hides people who are
still; above, runners on a diagonal stay in the box; and two events 2 s apart prove no rest, which a runner whose device goes
offline shows. More events than needed would blind the query for devices that send less often.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import polars as pl
from numpy.typing import NDArray

from heartwatch.simulate.arrays import spread
from heartwatch.simulate.draws import Ints
from heartwatch.simulate.movement import BLOCK_MS, SETTLE_MS, SLOT_MS, Activity, Illness, Population, Rows
from heartwatch.simulate.simulation import Simulation

TIME = pl.Datetime("ms", "UTC")
_CLOCK_SPREAD_MS = 1_050  # between the fastest and the slowest of the clocks that are right


class Device:
    """States of a device, as `truth` names them."""

    ON = "on"
    OFFLINE = "offline"
    DEAD = "dead battery"


def truth(simulation: Simulation) -> pl.DataFrame:
    """Return what each person of the shard did, gap-free, from the simulation's start to its end.

    Returns:
        One row per person and interval, ordered: user_id (text, as in the events), activity (sleep, rest, walk, train, travel),
        illness (tachycardia, bradycardia or null), device (on, offline, dead battery), still, start, end. Times are true
        times: a device's clock adds its offset to them.
    """
    people = simulation.population
    person, begin = _changes(simulation)
    last = np.append(person[1:] != person[:-1], True)
    end = np.where(last, simulation.end_ms, np.roll(begin, -1))
    slots = people.slots(person, people.slot_of(person, begin))
    activity = people.activities(person, people.block_of(person, begin))
    ill = (slots["ill_from"] <= begin) & (begin < slots["ill_until"])
    offline = (slots["offline_from"] <= begin) & (begin < slots["offline_until"])
    return pl.DataFrame(
        {
            "user_id": pl.Series(people.ids[person]).cast(pl.String),
            "activity": _named(activity, Activity),
            "illness": _named(np.where(ill, slots["illness"], Illness.NONE), Illness),
            "device": np.select([begin >= slots["dead_from"], offline], [Device.DEAD, Device.OFFLINE], Device.ON),
            "still": activity <= Activity.REST,
            "start": pl.Series(begin).cast(TIME),
            "end": pl.Series(end).cast(TIME),
        }
    )


def expected_windows(
    simulation: Simulation, window_ms: int = 10_000, grace_ms: int = 10_000, minimum_events: int = 3
) -> pl.DataFrame:
    """Return the windows in which an alert is right, and those in which it is neither right nor wrong.

    An alert must come when the person was ill and still for the whole window, the heart rate had settled, and at least
    `minimum_events` samples reached the topic surely in time. It may come when the window only touches an illness, has too
    few such samples, or belongs to a person whose clock is wrong.

    Args:
        simulation: a simulation or a shard of it.
        window_ms: length of the tumbling windows, ms.
        grace_ms: how long after a window's end its late events still count, ms.
        minimum_events: samples without which a window gives no alert.

    Returns:
        One row per person and window, ordered: user_id (text), window_start (by the device's clock, as in the alerts), illness,
        samples (surely in time), expected (true: must, false: may).
    """
    episodes = _episodes(simulation)
    people = simulation.population
    offset = simulation.clock_offsets(episodes.person)
    first, last = episodes.begin + offset, episodes.end + SETTLE_MS + offset
    touched = np.maximum(first, simulation.start_ms + offset), np.minimum(last, simulation.end_ms - 1 + offset)
    episode, number = spread(touched[0] // window_ms, touched[1] // window_ms)
    window = number * window_ms
    settled = (window >= first[episode] + SETTLE_MS) & (window + window_ms <= episodes.end[episode] + offset[episode])
    right_clock = simulation.wrong_clock_ms[episodes.person[episode]] == 0
    frame = pl.DataFrame(
        {
            "user_id": pl.Series(people.ids[episodes.person[episode]]).cast(pl.String),
            "window_start": pl.Series(window).cast(TIME),
            "illness": _named(episodes.kind[episode], Illness),
            "episode": episode,
            "settled": settled & right_clock,
        }
    )
    samples = _samples_in_time(simulation, episodes, window_ms, grace_ms)
    return (
        frame.join(samples, on=["episode", "window_start"], how="left")
        .with_columns(pl.col("samples").fill_null(0))
        .with_columns(expected=pl.col("settled") & (pl.col("samples") >= minimum_events))
        .sort("user_id", "window_start")
        .select("user_id", "window_start", "illness", "samples", "expected")
    )


@dataclass(frozen=True)
class Score:
    """How alerts compare with the truth, per person and window.

    Attributes:
        hits: alerts that had to come.
        misses: windows that should have had an alert: user_id, window_start, illness, samples.
        false_alarms: alerts without a reason: the alerts' columns.
    """

    hits: int
    misses: pl.DataFrame
    false_alarms: pl.DataFrame

    @property
    def recall(self) -> float:
        """Share of the alerts that had to come that came; 1 when none had to."""
        return self.hits / (self.hits + self.misses.height) if self.hits + self.misses.height else 1.0

    @property
    def precision(self) -> float:
        """Share of the alerts that were right, not counting those that may come; 1 without alerts."""
        return self.hits / (self.hits + self.false_alarms.height) if self.hits + self.false_alarms.height else 1.0


def score(alerts: pl.DataFrame, expected: pl.DataFrame) -> Score:
    """Compare alerts with the truth.

    Args:
        alerts: at least user_id (text or number) and window_start (a time, or ms since the epoch).
        expected: what `expected_windows` gave, of all shards together.
    """
    by = ["user_id", "window_start"]
    given = alerts.with_columns(pl.col("user_id").cast(pl.String), _utc(alerts)).unique(by, maintain_order=True)
    must = expected.filter("expected")
    return Score(
        hits=must.join(given, on=by, how="semi").height,
        misses=must.join(given, on=by, how="anti").drop("expected"),
        false_alarms=given.join(expected, on=by, how="anti"),
    )


@dataclass(frozen=True)
class _Episodes:
    """Illnesses that touch the simulation's time, each with the row of its slot."""

    person: Ints
    slots: Rows

    @property
    def begin(self) -> Ints:
        return self.slots["ill_from"]

    @property
    def end(self) -> Ints:
        return self.slots["ill_until"]

    @property
    def kind(self) -> NDArray[np.int8]:
        return self.slots["illness"]


def _episodes(simulation: Simulation) -> _Episodes:
    persons, rows = [], []
    for person, slots in _all_slots(simulation):
        touching = (slots["illness"] != Illness.NONE) & (slots["ill_until"] + SETTLE_MS > simulation.start_ms)
        touching &= slots["ill_from"] < simulation.end_ms
        persons.append(person[touching])
        rows.append(slots[touching])
    return _Episodes(np.concatenate(persons), np.concatenate(rows))


def _all_slots(simulation: Simulation) -> Iterator[tuple[Ints, Rows]]:
    """Yield all people with the slots that touch the simulation's time, one slot a person at a time."""
    people = simulation.population
    everybody = np.arange(len(people), dtype=np.int64)
    first = people.slot_of(everybody, np.full(len(people), simulation.start_ms))
    for further in range((simulation.end_ms - simulation.start_ms) // SLOT_MS + 2):
        yield everybody, people.slots(everybody, first + further)


def _changes(simulation: Simulation) -> tuple[Ints, Ints]:
    """Return person and moment of every change, and of the start, ordered and once each."""
    people = simulation.population
    everybody = np.arange(len(people), dtype=np.int64)
    moments = [(everybody, np.full(len(people), simulation.start_ms))]
    moments += _block_changes(people, everybody, simulation)
    for person, slots in _all_slots(simulation):
        columns = [slots[name] for name in ("ill_from", "ill_until", "offline_from", "offline_until", "dead_from")]
        moments += [(person, column) for column in [*columns, people.slot_begin(person, slots["key"])]]
    inside = [(time > simulation.start_ms) & (time < simulation.end_ms) for _, time in moments[1:]]
    kept = [moments[0], *[(who[chosen], time[chosen]) for (who, time), chosen in zip(moments[1:], inside, strict=True)]]
    frame = pl.DataFrame({"person": np.concatenate([p for p, _ in kept]), "time": np.concatenate([t for _, t in kept])})
    ordered = frame.unique().sort("person", "time")
    return ordered["person"].to_numpy(), ordered["time"].to_numpy()


def _block_changes(people: Population, everybody: Ints, simulation: Simulation) -> list[tuple[Ints, Ints]]:
    first = people.block_of(everybody, np.full(len(people), simulation.start_ms))
    count = (simulation.end_ms - simulation.start_ms) // BLOCK_MS + 2
    return [(everybody, people.block_begin(everybody, first + further)) for further in range(1, count)]


def _samples_in_time(simulation: Simulation, episodes: _Episodes, window_ms: int, grace_ms: int) -> pl.DataFrame:
    """Count, for each episode and window, the samples that reach the topic before the window can be closed."""
    interval = simulation.sample_interval_ms
    since = simulation.start_ms + simulation.phases[episodes.person]
    first = np.maximum(-(-(episodes.begin - since) // interval), 0)
    last = np.minimum((episodes.end - 1 - since) // interval, simulation.ticks - 1)
    episode, tick = spread(first, last)
    person, slots = episodes.person[episode], episodes.slots[episode]
    taken = simulation.sample_times(person, tick)
    delay, _, _ = simulation.delays(simulation.moment_bits(person, tick))
    offline = (slots["offline_from"] <= taken) & (taken < slots["offline_until"])
    counted = ~offline & (taken < slots["dead_from"]) & (delay < grace_ms - _CLOCK_SPREAD_MS)
    window = (taken + simulation.clock_offsets(person)) // window_ms * window_ms
    frame = pl.DataFrame({"episode": episode, "window_start": pl.Series(window).cast(TIME)}).filter(pl.Series(counted))
    return frame.group_by("episode", "window_start").agg(samples=pl.len().cast(pl.Int64))


def _named(codes: NDArray[Any], kinds: type[Activity] | type[Illness]) -> pl.Series:
    names = np.array([kind.name.lower() for kind in kinds], dtype=object)
    text = pl.Series(names[codes.astype(np.int64)].tolist(), dtype=pl.String)
    return text.set(text == Illness.NONE.name.lower(), None)


def score_by_window(alerts: pl.DataFrame, expected: pl.DataFrame) -> pl.DataFrame:
    """Compare alerts with the truth window by window.

    Args:
        alerts: as `score` takes them.
        expected: what `expected_windows` gave, of all shards together.

    Returns:
        One row per window, ordered: window_start, expected (alerts that had to come), hits, missed, false_alarms, recall (null
        when none had to come) and precision (null without hits and false alarms).
    """
    found = score(alerts, expected)
    must = expected.filter("expected").group_by("window_start").agg(expected=pl.len())
    missed = found.misses.group_by("window_start").agg(missed=pl.len())
    wrong = found.false_alarms.group_by("window_start").agg(false_alarms=pl.len())
    counts = [must, missed, wrong]
    windows = pl.concat([count.select("window_start") for count in counts]).unique()
    for count in counts:
        windows = windows.join(count, on="window_start", how="left")
    hits = pl.col("expected") - pl.col("missed")
    return (
        windows.with_columns(pl.exclude("window_start").fill_null(0).cast(pl.Int64))
        .with_columns(hits=hits)
        .with_columns(
            recall=pl.when(pl.col("expected") > 0).then(pl.col("hits") / pl.col("expected")),
            precision=pl.when(pl.col("hits") + pl.col("false_alarms") > 0).then(
                pl.col("hits") / (pl.col("hits") + pl.col("false_alarms"))
            ),
        )
        .select("window_start", "expected", "hits", "missed", "false_alarms", "recall", "precision")
        .sort("window_start")
    )


def with_state(rows: pl.DataFrame, simulation: Simulation, window_ms: int, known: pl.DataFrame) -> pl.DataFrame:
    """Say what each person did, and how their device was, in the middle of a window.

    Args:
        rows: at least user_id (text) and window_start (UTC, by the device's clock).
        simulation: whose people.
        window_ms: length of the windows, ms.
        known: what `truth` gave.

    Returns:
        The rows with the column state: offline, dead battery, ill and still, ill and moving, or the activity; null outside the
        simulation.
    """
    people = simulation.population
    everybody = np.arange(len(people), dtype=np.int64)
    clocks = pl.DataFrame(
        {
            "user_id": pl.Series(people.ids).cast(pl.String),
            "clock": pl.Series(simulation.clock_offsets(everybody)).cast(pl.Duration("ms")),
        }
    )
    moment = pl.col("window_start") + pl.duration(milliseconds=window_ms // 2) - pl.col("clock")
    states = known.select("user_id", "start", state=state_of(known)).sort("start")
    return (
        rows.join(clocks, on="user_id", how="left")
        .with_columns(moment=moment.cast(TIME))
        .sort("moment")
        .join_asof(states, left_on="moment", right_on="start", by="user_id", check_sortedness=False)
        .drop("clock", "moment", "start")
    )


def state_of(known: pl.DataFrame) -> pl.Series:
    """Return what `truth`'s rows say in two or three words."""
    ill = pl.when("still").then(pl.lit("ill and still")).otherwise(pl.lit("ill and moving"))
    healthy = pl.when(pl.col("illness").is_not_null()).then(ill).otherwise(pl.col("activity"))
    return known.select(state=pl.when(pl.col("device") != Device.ON).then("device").otherwise(healthy))["state"]


def score_by_state(
    alerts: pl.DataFrame, expected: pl.DataFrame, simulation: Simulation, window_ms: int = 10_000
) -> pl.DataFrame:
    """Compare alerts with the truth by what people did.

    Args:
        alerts: user_id (text or number) and window_start.
        expected: what `expected_windows` gave.
        simulation: whose people.
        window_ms: length of the windows, ms.

    Returns:
        One row per state, ordered: state, windows (time that people spent in it, in windows), alerts, expected, missed,
        false_alarms.
    """
    known = truth(simulation)
    found = score(alerts, expected)
    given = alerts.select(pl.col("user_id").cast(pl.String), _utc(alerts)).unique()
    spent = (
        known.with_columns(state=state_of(known))
        .group_by("state")
        .agg(
            windows=((pl.col("end") - pl.col("start")).dt.total_milliseconds().sum() / window_ms).round().cast(pl.Int64)
        )
    )
    parts = {
        "alerts": given,
        "expected": expected.filter("expected"),
        "missed": found.misses,
        "false_alarms": found.false_alarms,
    }
    for name, rows in parts.items():
        placed = with_state(rows.select("user_id", "window_start"), simulation, window_ms, known)
        spent = spent.join(placed.group_by("state").agg(pl.len().alias(name)), on="state", how="left")
    return spent.with_columns(pl.col(list(parts)).fill_null(0).cast(pl.Int64)).sort("state")


def _utc(alerts: pl.DataFrame) -> pl.Expr:
    """Return the alerts' windows as times in UTC; a time without a zone means UTC."""
    start, kind = pl.col("window_start"), alerts.schema["window_start"]
    if isinstance(kind, pl.Datetime) and kind.time_zone is None:
        start = start.dt.replace_time_zone("UTC")
    return start.cast(TIME)
