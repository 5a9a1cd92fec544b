"""A recording's samples as they stand in a file: which of them count, and why the others don't."""

from __future__ import annotations

import itertools
import math
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from datetime import datetime

import orjson
import polars as pl

from heartwatch.errors import HeartWatchError
from heartwatch.files import times

SCHEMA = pl.Schema(
    [
        ("event_time", pl.Datetime("ms", "UTC")),
        ("latitude", pl.Float64),
        ("longitude", pl.Float64),
        ("heart_rate", pl.Int32),
    ]
)
"""Columns of a recording: when, where (degrees, WGS 84), beats a minute."""

LOWEST_RATE, HIGHEST_RATE = 20, 250
_DAY_MS, _BACK_MS, _SHORT_START_MS = 86_400_000, 60_000, 300_000

_UNIT = re.compile(r"\s*(bpm|/\s*min)$", re.IGNORECASE)
_NOWHERE_DEGREES = 1e-6
_SHIFTED_MS = 1_800_000

Value = str | int | float | datetime | None


@dataclass(slots=True)
class Sample:
    """A sample as its format gives it: values may be missing or nonsense.

    Attributes:
        time: text, datetime, or None.
        latitude: degrees, as number or text.
        longitude: degrees, as number or text.
        rate: beats a minute, as number or text.
        activity: number of the activity or track that it is in.
        segment: number of the uninterrupted part of it.
        broken: why the sample could not even be taken apart.
    """

    time: Value = None
    latitude: Value = None
    longitude: Value = None
    rate: Value = None
    activity: int = 0
    segment: int = 0
    broken: str | None = None

    def text(self) -> bytes:
        """Return it as JSON, for people."""
        values = {"time": self.time, "latitude": self.latitude, "longitude": self.longitude, "heart_rate": self.rate}
        shown = {
            name: value.encode(errors="replace").decode() if isinstance(value, str) else value
            for name, value in values.items()
        }
        return orjson.dumps(shown, default=str)


@dataclass(frozen=True)
class Reading:
    """What a parser took from a file.

    Attributes:
        samples: in the file's order.
        warnings: what is wrong with the file; it was read as far as that goes.
    """

    samples: list[Sample]
    warnings: list[str] = field(default_factory=list)


@dataclass(frozen=True)
class LeftOut:
    """A sample that doesn't count.

    Attributes:
        number: which of the file's samples, from 1.
        sample: the sample.
        reason: why, with the value.
        kind: why, without the value.
    """

    number: int
    sample: Sample
    reason: str
    kind: str


@dataclass(slots=True)
class _Row:
    number: int
    sample: Sample
    time_ms: int
    latitude: float
    longitude: float
    rate: int


class _UnfitError(HeartWatchError):
    """A sample doesn't count: its reason, and the reason without the value."""

    def __init__(self, kind: str, reason: str | None = None) -> None:
        super().__init__(reason or kind)
        self.kind = kind


def judged(samples: Sequence[Sample]) -> tuple[pl.DataFrame, list[LeftOut]]:
    """Return the samples that count, ordered by time, and those that don't.

    Left out are samples without a time, a position or a heart rate between 20 and 250; positions of exactly 0, 0, which devices
    write before they know where they are; times before the clock was set; and times that an earlier sample has.
    """
    rows: list[_Row] = []
    out: list[LeftOut] = []
    for number, sample in enumerate(samples, 1):
        try:
            rows.append(_row(number, sample))
        except _UnfitError as error:
            out.append(LeftOut(number, sample, str(error), error.kind))
    for row, reason, kind in _wrong_clocks(rows):
        out.append(LeftOut(row.number, row.sample, reason, kind))
    wrong = {found.number for found in out}
    first: dict[int, _Row] = {}
    for row in rows:
        if row.number in wrong:
            continue
        if first.setdefault(row.time_ms, row) is not row:
            out.append(LeftOut(row.number, row.sample, "an earlier sample has the same time", "repeated time"))
    good = sorted(first.values(), key=lambda row: row.time_ms)
    columns = {
        "event_time": pl.Series([row.time_ms for row in good], dtype=pl.Int64).cast(pl.Datetime("ms", "UTC")),
        "latitude": [row.latitude for row in good],
        "longitude": [row.longitude for row in good],
        "heart_rate": [row.rate for row in good],
    }
    return pl.DataFrame(columns, schema=SCHEMA), sorted(out, key=lambda found: found.number)


def _row(number: int, sample: Sample) -> _Row:
    if sample.broken is not None:
        raise _UnfitError("not readable", sample.broken)
    if sample.time is None:
        raise _UnfitError("no time")
    try:
        time_ms = times.milliseconds(sample.time)
    except times.TimeError as error:
        raise _UnfitError("no plausible time", str(error)) from error
    latitude, longitude = _position(sample)
    return _Row(number, sample, time_ms, latitude, longitude, _rate(sample.rate))


def _position(sample: Sample) -> tuple[float, float]:
    if _empty(sample.latitude) or _empty(sample.longitude):
        raise _UnfitError("no position")
    north, east = _number(sample.latitude), _number(sample.longitude)
    shown = f"{sample.latitude!r}, {sample.longitude!r}"
    if north is None or east is None:
        raise _UnfitError("no position", f"no position: {shown}")
    if max(abs(north), abs(east)) < _NOWHERE_DEGREES:
        raise _UnfitError("no fix: exactly 0, 0")
    if abs(north) > 90 or abs(east) > 180:
        raise _UnfitError("position outside the earth", f"position {shown} is outside the earth")
    return north, east


def _rate(value: Value) -> int:
    if _empty(value):
        raise _UnfitError("no heart rate")
    number = _number(value)
    if number is None:
        raise _UnfitError("no heart rate", f"no heart rate: {value!r}")
    if not LOWEST_RATE <= round(number) <= HIGHEST_RATE:
        bounds = f"outside {LOWEST_RATE} to {HIGHEST_RATE}"
        raise _UnfitError(f"heart rate {bounds}", f"heart rate {value!r} is {bounds}")
    return round(number)


def _empty(value: Value) -> bool:
    return value is None or (isinstance(value, str) and not value.strip())


def _number(value: Value) -> float | None:
    """Return a finite number, None where it is none; text may have a decimal comma."""
    if isinstance(value, str):
        text = _UNIT.sub("", value.strip())
        value = text.replace(",", ".") if text.count(",") == 1 and "." not in text else text
        if "_" in value:  # Python's own digit groups
            return None
    if value is None or isinstance(value, datetime):
        return None
    try:
        number = float(value)
    except (ValueError, OverflowError):
        return None
    return number if math.isfinite(number) else None


def _wrong_clocks(rows: Sequence[_Row]) -> Iterator[tuple[_Row, str, str]]:
    """Yield samples from before their device's clock was set, and those whose clock strayed.

    Within an activity the times are put together where less than a day lies between them; the largest such cluster is right.
    What was recorded after it, and is later, was recorded later. What was recorded before it is left out where no new segment
    begins in between, or where it is at most five minutes; anything else that lies apart is left out too. In a cluster, what
    comes before a step back by more than a minute is left out where it is the smaller part, and so are the first five minutes at
    most before a step of half an hour or more ahead, with which a clock in another zone is set: a pause so long begins a segment.
    """
    for _, group in itertools.groupby(rows, key=lambda row: row.sample.activity):
        activity = list(group)
        clusters = _clusters(activity)
        right = max(clusters, key=lambda cluster: (len(cluster), cluster[-1].time_ms))
        for cluster in clusters:
            if cluster is right:
                yield from _before_step_back(cluster)
                yield from _before_step_ahead(cluster)
            elif not _may_stay(cluster, right):
                moved = "behind" if cluster[0].time_ms < right[0].time_ms else "ahead"
                days = abs(cluster[0].time_ms - right[0].time_ms) / _DAY_MS
                for row in cluster:
                    yield row, f"time {row.sample.time}: the clock was {days:.1f} days {moved}", "clock not set"


def _clusters(rows: Sequence[_Row]) -> list[list[_Row]]:
    """Return rows put together by their times, each cluster in the file's order."""
    ordered = sorted(rows, key=lambda row: row.time_ms)
    clusters = [[ordered[0]]]
    for before, row in itertools.pairwise(ordered):
        if row.time_ms - before.time_ms > _DAY_MS:
            clusters.append([])
        clusters[-1].append(row)
    return [sorted(cluster, key=lambda row: row.number) for cluster in clusters]


def _may_stay(cluster: Sequence[_Row], right: Sequence[_Row]) -> bool:
    """Return whether a cluster apart from the right one is another part of the activity, and no fault of the clock."""
    if cluster[0].number > right[-1].number and cluster[0].time_ms > right[-1].time_ms:
        return True
    earlier = cluster[-1].number < right[0].number and cluster[0].time_ms < right[0].time_ms
    span = max(row.time_ms for row in cluster) - min(row.time_ms for row in cluster)
    return earlier and cluster[-1].sample.segment != right[0].sample.segment and span > _SHORT_START_MS


def _before_step_back(cluster: Sequence[_Row]) -> Iterator[tuple[_Row, str, str]]:
    steps = [
        place
        for place, (before, row) in enumerate(itertools.pairwise(cluster), 1)
        if before.time_ms - row.time_ms > _BACK_MS and before.sample.segment == row.sample.segment
    ]
    if steps and steps[-1] * 2 < len(cluster):
        for row in cluster[: steps[-1]]:
            yield row, f"time {row.sample.time}: the clock was set back after it", "clock not set"


def _before_step_ahead(cluster: Sequence[_Row]) -> Iterator[tuple[_Row, str, str]]:
    """Yield a short beginning whose clock was set ahead within a segment."""
    for place, (before, row) in enumerate(itertools.pairwise(cluster), 1):
        if before.time_ms - cluster[0].time_ms > _SHORT_START_MS or place * 2 >= len(cluster):
            return
        if row.time_ms - before.time_ms >= _SHIFTED_MS and before.sample.segment == row.sample.segment:
            for early in cluster[:place]:
                yield early, f"time {early.sample.time}: the clock was set ahead after it", "clock not set"
            return
