"""Real recordings of wearables: FIT, GPX and TCX files, replayed as events.

The parsers are fitdecode, gpxpy and tcxreader (python-tcxparser gives times, positions and heart rates as separate lists, which
no longer fit together once a track point lacks one of them).
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import polars as pl
import pyarrow as pa

from heartwatch.errors import HeartWatchError
from heartwatch.extras import require
from heartwatch.simulate import draws
from heartwatch.simulate.arrays import spread
from heartwatch.simulate.draws import Ints
from heartwatch.simulate.events import EventBatch, record_batch
from heartwatch.simulate.places import nearest_zipcode

if TYPE_CHECKING:
    from gpxpy.gpx import GPXTrackPoint

SCHEMA = pl.Schema(
    [
        ("event_time", pl.Datetime("ms", "UTC")),
        ("latitude", pl.Float64),
        ("longitude", pl.Float64),
        ("heart_rate", pl.Int32),
    ]
)
"""Columns of a recording: when, where (degrees, WGS 84), beats a minute."""

_FIT_FIELDS = ("timestamp", "position_lat", "position_long", "heart_rate")
_SEMICIRCLE = 180 / 2**31
_LOWEST_RATE, _HIGHEST_RATE = 20, 250
_ENDLESS = 2**31
_Sample = tuple[Any, Any, Any, Any]


class RecordingError(HeartWatchError):
    """A recording can't be read or replayed; the message names the file, the reason and the remedy."""


def read_recording(path: Path) -> pl.DataFrame:
    """Read a recording.

    Samples without time, position or heart rate, with a heart rate outside 20 to 250, and repeated ones are left out.

    Args:
        path: a ``.fit``, ``.gpx`` or ``.tcx`` file.

    Returns:
        One row a sample, ordered by time, columns as in `SCHEMA`.

    Raises:
        RecordingError: the file can't be read, or has no complete sample.
        MissingExtraError: the formats' parsers aren't installed.
    """
    reader = _READERS.get(path.suffix.lower())
    if reader is None:
        raise RecordingError(f"{path.name!r} is not a recording; the name must end in {', '.join(_READERS)}")
    require("recordings")
    try:
        samples = list(reader(path))
    except OSError as error:
        raise RecordingError(f"recording {str(path)!r} can't be opened: {error.strerror}; check the path") from error
    except Exception as error:  # parsers raise anything on broken bytes
        reason = f"{type(error).__name__}: {error}"
        raise RecordingError(f"recording {str(path)!r} can't be read: {reason}; export it again") from error
    complete = [_at_utc(sample) for sample in samples if None not in sample and isinstance(sample[0], datetime)]
    frame = pl.DataFrame(complete, schema=SCHEMA, orient="row")
    good = frame.filter(pl.col("heart_rate").is_between(_LOWEST_RATE, _HIGHEST_RATE)).unique("event_time", keep="first")
    if good.is_empty():
        raise RecordingError(
            f"recording {str(path)!r} has {len(samples)} samples, but none with time, position and heart rate; "
            "give one that was made outdoors with a heart-rate sensor"
        )
    return good.sort("event_time")


def read_recordings(path: Path) -> dict[str, pl.DataFrame]:
    """Read one recording, or all of a folder in the order of their names.

    Returns:
        Frames as `read_recording` gives them, by file name.

    Raises:
        RecordingError: there is none, or one can't be read.
    """
    paths = sorted(file for file in path.glob("*") if file.suffix.lower() in _READERS) if path.is_dir() else [path]
    if not paths:
        raise RecordingError(f"{str(path)!r} has no recording; put files that end in {', '.join(_READERS)} there")
    return {file.name: read_recording(file) for file in paths}


def _at_utc(sample: _Sample) -> _Sample:
    """Return a sample with its time in UTC: the formats' times are in UTC where they don't say otherwise."""
    time, latitude, longitude, rate = sample
    return time.astimezone(UTC) if time.tzinfo else time.replace(tzinfo=UTC), latitude, longitude, rate


def _read_fit(path: Path) -> Iterator[_Sample]:
    import fitdecode  # noqa: PLC0415  of the extra `recordings`

    lenient, strict = fitdecode.ErrorHandling.IGNORE, fitdecode.CrcCheck.RAISE
    with fitdecode.FitReader(path, error_handling=lenient, check_crc=strict) as reader:
        for message in reader:
            if not isinstance(message, fitdecode.FitDataMessage) or message.name != "record":
                continue
            time, north, east, rate = (message.get_value(name, fallback=None) for name in _FIT_FIELDS)
            place = (None, None) if north is None or east is None else (north * _SEMICIRCLE, east * _SEMICIRCLE)
            yield time, *place, rate


def _read_gpx(path: Path) -> Iterator[_Sample]:
    import gpxpy  # noqa: PLC0415  of the extra `recordings`

    with path.open(encoding="utf-8-sig") as file:
        for track in gpxpy.parse(file).tracks:
            for point in (point for segment in track.segments for point in segment.points):
                yield point.time, point.latitude, point.longitude, _gpx_heart_rate(point)


def _gpx_heart_rate(point: GPXTrackPoint) -> int | None:
    """Return the rate of a track point extension, whatever version and prefix it has."""
    for extension in point.extensions:
        for element in extension.iter():
            if str(element.tag).rpartition("}")[2] == "hr" and element.text:
                return round(float(element.text))
    return None


def _read_tcx(path: Path) -> Iterator[_Sample]:
    from tcxreader.tcxreader import TCXReader  # noqa: PLC0415  of the extra `recordings`

    for point in TCXReader().read(str(path), only_gps=False).trackpoints:
        yield point.time, point.latitude, point.longitude, point.hr_value


_READERS: dict[str, Callable[[Path], Iterator[_Sample]]] = {".fit": _read_fit, ".gpx": _read_gpx, ".tcx": _read_tcx}


@dataclass(frozen=True, eq=False)
class Replay:
    """Recordings, worn again by any number of people.

    Person n wears the recording number n modulo their count. Event times keep the recorded distances, moved so that the first
    is at `start` or up to `stagger_ms` after it; how fast they are sent is the producer's affair.

    Attributes:
        recordings: frames as `read_recording` gives them.
        start: event time of the first events, with a time zone.
        people: the people 1 to `people`.
        stagger_ms: people begin this much later at most, each at another time, ms.
        hold_position: everybody stays where their recording begins, the heart rate goes on as recorded.
        repeat: how often each recording is worn; 0 indefinitely.
        seed: what tells one stagger from another.
        user_ids: the people of this shard, ascending; None for all.
    """

    recordings: Sequence[pl.DataFrame]
    start: datetime
    people: int = 1
    stagger_ms: int = 0
    hold_position: bool = False
    repeat: int = 1
    seed: int = 1
    user_ids: Ints | None = None

    def __post_init__(self) -> None:
        """Check the parameters.

        Raises:
            RecordingError: one can't be used.
        """
        if not self.recordings or any(recording.is_empty() for recording in self.recordings):
            raise RecordingError(
                "a replay needs recordings with at least one sample each; give what read_recording returns"
            )
        if self.start.tzinfo is None:
            raise RecordingError(f"start={self.start!r} has no time zone; give one, such as UTC")
        if not 1 <= self.people <= np.iinfo(np.int32).max:
            raise RecordingError(f"people={self.people!r} must be from 1 to {np.iinfo(np.int32).max}")
        for name in ("stagger_ms", "repeat"):
            if getattr(self, name) < 0:
                raise RecordingError(f"{name}={getattr(self, name)!r} must not be negative")

    def shard(self, user_ids: Ints) -> Replay:
        """Return the part of the replay that has these people only.

        Raises:
            RecordingError: a user is not among the replay's people.
        """
        chosen = np.unique(np.asarray(user_ids, dtype=np.int64))
        if chosen.size and not 1 <= chosen[0] <= chosen[-1] <= self.people:
            raise RecordingError(f"user ids {chosen[0]} to {chosen[-1]} are not all among 1 to {self.people}")
        return replace(self, user_ids=chosen)

    @cached_property
    def ids(self) -> Ints:
        """The people of this shard."""
        return np.arange(1, self.people + 1, dtype=np.int64) if self.user_ids is None else self.user_ids

    @property
    def events_per_ms(self) -> float:
        """Events of all the replay's people in a ms of event time, about."""
        mean = sum(one.height / _period_ms(one) for one in self.recordings) / len(self.recordings)
        return self.people * mean

    def batches(self, batch_events: int = 20_000) -> ReplayBatches:
        """Return the shard's batches.

        Args:
            batch_events: events a batch, about; more only where recordings are denser than their mean.

        Raises:
            RecordingError: `batch_events` is not positive.
        """
        if batch_events < 1:
            raise RecordingError(f"batch_events={batch_events!r} must be at least 1")
        return ReplayBatches(self, batch_events)


def _period_ms(recording: pl.DataFrame) -> int:
    """Return how long a pass over a recording is: the next one begins one mean distance after the last sample."""
    stamps = recording["event_time"].dt.epoch("ms")
    span = int(stamps[-1] - stamps[0])
    return span + max(1, span // max(1, recording.height - 1))


class _Worn:
    """A recording and the people who wear it."""

    def __init__(self, recording: pl.DataFrame, people: Ints, shift: Ints, hold_position: bool) -> None:
        stamps = recording["event_time"].dt.epoch("ms").to_numpy()
        self.times = stamps - stamps[0]
        self.period = _period_ms(recording)
        place = np.zeros(len(self.times), dtype=np.int64) if hold_position else np.arange(len(self.times))
        self.latitude, self.longitude = (recording[name].to_numpy()[place] for name in ("latitude", "longitude"))
        self.zipcode = nearest_zipcode(self.latitude, self.longitude)
        self.rate = recording["heart_rate"].to_numpy().astype(np.float64)
        self.people, self.shift = people, shift

    def sample_from(self, moment: int, passes: int) -> Ints:
        """Return for each person the number of the first sample, over all passes, that is not before a moment."""
        turn, rest = np.divmod(moment - self.shift, self.period)
        number = turn * len(self.times) + np.searchsorted(self.times, rest)
        return np.clip(number, 0, passes * len(self.times))


class ReplayBatches:
    """The batches of a replay: slices of equal length of event time, each the same whenever it is asked for."""

    def __init__(self, replay: Replay, batch_events: int) -> None:
        """Prepare; nothing is generated yet."""
        self._start_ms = round(replay.start.timestamp() * 1000)
        self._passes = replay.repeat or _ENDLESS
        shift = draws.integers(0, replay.stagger_ms, draws.key(replay.seed, "replay/shift"), replay.ids)
        which = (replay.ids - 1) % len(replay.recordings)
        self._worn = [
            _Worn(recording, replay.ids[which == number], shift[which == number], replay.hold_position)
            for number, recording in enumerate(replay.recordings)
        ]
        per_ms = sum(len(worn.people) * len(worn.times) / worn.period for worn in self._worn)
        self._slice_ms = max(1, int(batch_events / per_ms)) if per_ms else 1
        self._end = max(
            (int(worn.shift.max()) + self._passes * worn.period for worn in self._worn if len(worn.people)), default=0
        )

    def __iter__(self) -> Iterator[EventBatch]:
        """Yield all batches."""
        index = 0
        while (batch := self.batch(index)) is not None:
            yield batch
            index += 1

    def batch(self, index: int) -> EventBatch | None:
        """Return a batch; it may be empty where nobody's recording has a sample; None after the last.

        Raises:
            RecordingError: `index` is negative.
        """
        if index < 0:
            raise RecordingError(f"batch index={index!r} must not be negative")
        begin = index * self._slice_ms
        if begin >= self._end:
            return None
        parts = [self._part(worn, begin) for worn in self._worn]
        people, moment, *columns = (np.concatenate(column) for column in zip(*parts, strict=True))
        order = np.lexsort((people, moment))
        time = self._start_ms + moment[order]
        names = pa.array(people[order]).cast(pa.string())
        zipcode, latitude, longitude, rate = (column[order] for column in columns)
        return EventBatch(index, record_batch(names, time, zipcode, latitude, longitude, rate), time)

    def _part(self, worn: _Worn, begin: int) -> tuple[np.ndarray, ...]:
        first, end = (worn.sample_from(moment, self._passes) for moment in (begin, begin + self._slice_ms))
        person, number = spread(first, end - 1)
        turn, sample = np.divmod(number, len(worn.times))
        moment = worn.shift[person] + turn * worn.period + worn.times[sample]
        where = (worn.zipcode[sample], worn.latitude[sample], worn.longitude[sample])
        return worn.people[person], moment, *where, worn.rate[sample]
