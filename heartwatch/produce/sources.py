"""Opens the source of events that a run names."""

from __future__ import annotations

import tempfile
from collections.abc import Mapping
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path

import numpy as np
import numpy.typing as npt
import polars as pl
import pyarrow as pa

from heartwatch.analytic import Analytic, TopicDefinition
from heartwatch.files import times
from heartwatch.files.recordings import RecordingError, read_recordings
from heartwatch.files.rejects import RejectFile
from heartwatch.produce.messages import Events, RawMessage
from heartwatch.produce.run import Source
from heartwatch.produce.shards import Shard, plan_shards, whole_shards
from heartwatch.produce.spec import RunSpec
from heartwatch.produce.table_source import ClosingSource, SourceError, StampedNow, TableSource, read_events, with_times
from heartwatch.ranges import HistoricalError
from heartwatch.ranges.read import read_ranges
from heartwatch.simulate.replay import Replay
from heartwatch.simulate.simulation import FaultRates, Simulation, SimulationError
from heartwatch.simulate.uniform import UniformError, UniformGenerator
from kafkakit import avro_codec
from kafkakit.partitioning import partitions_of

_BATCH_SECONDS = 0.5
_ENDLESS_TICKS = 2**31  # of two seconds each: 136 years

_YEAR_MS = 365.25 * 86_400_000
_EARLIEST_MS = round(times.EARLIEST.timestamp() * 1000)


def shards_of(spec: RunSpec) -> list[Shard]:
    """Return the shards of a run; fewer than its processes where the topic has fewer partitions."""
    plan = plan_shards if spec.distribution == "share" else whole_shards
    return plan(spec.partitions, spec.processes)


def first_event_ms(spec: RunSpec, newest_ms: int | None, now_ms: int, variables: Mapping[str, str]) -> int:
    """Return when a run's event time begins, ms since the epoch: so that no event is sent before it has happened.

    A run at full speed lies in the past, with the events that close its last windows; one faster than real time ends when its
    last event happens; one in real time, or without end, begins now. Each begins only after all earlier events' windows and their
    grace period: events from before would be late, and windows would mix two runs. What comes to lie in the future is sent when
    it happens.

    Args:
        spec: the run; its `start_ms` doesn't matter.
        newest_ms: the latest event time on the topic, None without events; one that lies ahead of now is a wrong clock's.
        now_ms: now.
        variables: the analytic's KSQL variables; `window_ms` and `grace_ms` count where it has them.

    Raises:
        SourceError: the run lasts longer on the clock of its events than there was time since 2000, or can't be opened.
    """
    window_ms, grace_ms = windows_of(variables)
    before_ms = _before_now_ms(spec, window_ms)
    begin = now_ms - before_ms
    if begin < _EARLIEST_MS:
        raise SourceError(
            f"the run's events last {before_ms / _YEAR_MS:,.0f} years and would begin before 2000; give it fewer events, more "
            "people, fewer passes (repeat), a smaller stagger_ms, or a speed"
        )
    if newest_ms is not None:
        begin = max(begin, min(newest_ms, now_ms) + 2 * window_ms + grace_ms)
    return -(-begin // window_ms) * window_ms if window_ms else begin


def _before_now_ms(spec: RunSpec, window_ms: int) -> int:
    """Return how long before now a run's first event lies, ms; a window more where it may begin so much later, with a window."""
    if not spec.repeat:
        return 0
    if spec.speed is None:
        return span_ms(spec) + spec.close_after_ms + window_ms
    return round(span_ms(spec) * max(0.0, 1 - 1 / spec.speed))


def windows_of(variables: Mapping[str, str]) -> tuple[int, int]:
    """Return the length of an analytic's windows and their grace period, ms; 0 where it has none."""
    return int(variables.get("window_ms", 0)), int(variables.get("grace_ms", 0))


def span_ms(spec: RunSpec) -> int:
    """Return how long a run lasts on the clock of its events, ms; 0 for a run without end, and for files.

    Raises:
        SourceError: the run's recordings can't be read.
    """
    if spec.source in ("simulator", "uniform"):
        return ticks_of(spec) * spec.sample_interval_ms
    if spec.source == "file":
        return 0
    try:
        stamps = [recording["event_time"].dt.epoch("ms") for recording in replay_of(spec).recordings]
    except RecordingError as error:
        raise SourceError(f"source 'recordings' can't be opened: {error}") from error
    return max(int(stamp[-1] - stamp[0]) for stamp in stamps) * spec.repeat + spec.stagger_ms


def last_event_ms(spec: RunSpec) -> int | None:
    """Return when a planned run's last event happens, ms since the epoch; None where only its end says it.

    Raises:
        SourceError: the run's recordings can't be read.
    """
    return None if not spec.repeat or spec.source == "file" else spec.start_ms + span_ms(spec)


def open_source(spec: RunSpec, shard: Shard, analytic: Analytic, schema_id: int, rejects: Path) -> Source:
    """Open a run's source for one shard.

    Args:
        spec: the run.
        shard: the shard; a source may leave out what isn't in its partitions.
        analytic: whose events they are.
        schema_id: the registry's id of the event schema.
        rejects: where bad rows of a file go, and what is left out of recordings.

    Raises:
        SourceError: the source can't be opened.
    """
    event_time = _event_time(analytic.topics[analytic.stream])
    schema = avro_codec.parse(analytic.schema_text(analytic.stream))
    try:
        source = _open(spec, shard, schema, event_time, schema_id, rejects)
    except (UniformError, RecordingError) as error:
        raise SourceError(f"source {spec.source!r} can't be opened: {error}") from error
    if spec.distribution == "whole":
        return StampedNow(source, event_time)
    if not spec.close_after_ms:
        return source
    key = analytic.topics[analytic.stream].key
    return ClosingSource(source, key, event_time, spec.partitions, shard.partitions, spec.close_after_ms)


def _open(
    spec: RunSpec, shard: Shard, schema: avro_codec.AvroSchema, event_time: str, schema_id: int, rejects: Path
) -> Source:
    if spec.source == "simulator":
        size = batch_events_of(spec, spec.people / spec.sample_interval_ms)
        return GeneratedSource(replace(simulation_of(spec), schema_id=schema_id), spec, shard, size, event_time)
    if spec.source == "uniform":
        return UniformSource(UniformGenerator(schema, spec.seed), spec, event_time)
    if spec.source == "recordings":
        with RejectFile(rejects) as reject_file:
            replay = replay_of(spec, reject_file)
        return GeneratedSource(replay, spec, shard, batch_events_of(spec, replay.events_per_ms), event_time)
    return _open_file(spec, schema, event_time, rejects)


def batch_events_of(spec: RunSpec, events_per_ms: float) -> int:
    """Return how many events a batch has: so few that a run with a rate or a speed sends steadily.

    A batch is sent at once when it is due. With as many as at full speed, a slow run would be silent for minutes between two of
    them, and heartbeats would close the windows that the next batch goes on with.

    Args:
        spec: the run.
        events_per_ms: events a ms of event time, of all shards together.
    """
    of_speed = None if spec.speed is None else 1_000 * events_per_ms * spec.speed
    rates = [rate for rate in (spec.events_per_second, of_speed) if rate is not None]
    if not rates:
        return spec.batch_events
    return max(1, min(spec.batch_events, int(min(rates) / len(shards_of(spec)) * _BATCH_SECONDS)))


def ticks_of(spec: RunSpec) -> int:
    """Return how many samples each person sends; 0 for a run without end."""
    return -(-spec.events * spec.repeat // spec.people)


def simulation_of(spec: RunSpec) -> Simulation:
    """Return the simulation that a run sends: the same for every shard, and for whoever wants to know the truth of it.

    Raises:
        SourceError: the simulation's parameters can't be used.
    """
    ticks = ticks_of(spec) or _ENDLESS_TICKS
    try:
        return Simulation(
            seed=spec.seed,
            start=datetime.fromtimestamp(spec.start_ms / 1000, UTC),
            people=spec.people,
            duration=timedelta(milliseconds=ticks * spec.sample_interval_ms),
            sample_interval_ms=spec.sample_interval_ms,
            faults=FaultRates() if spec.faults else FaultRates.none(),
            ranges=None if spec.ranges is None else _ranges(Path(spec.ranges)),
        )
    except (SimulationError, HistoricalError) as error:
        raise SourceError(f"the simulator can't run: {error}") from error


def replay_of(spec: RunSpec, rejects: RejectFile | None = None) -> Replay:
    """Return the replay of recordings that a run sends.

    Args:
        spec: the run.
        rejects: takes what is left out of the recordings.

    Raises:
        SourceError: the run names no recording.
        RecordingError: none can be read.
    """
    if spec.path is None:
        raise SourceError("source='recordings' needs path: a .fit, .gpx or .tcx file, or a folder of them")
    return Replay(
        recordings=list(read_recordings(Path(spec.path), rejects).values()),
        start=datetime.fromtimestamp(spec.start_ms / 1000, UTC),
        people=spec.people,
        stagger_ms=spec.stagger_ms,
        hold_position=spec.hold_position,
        repeat=spec.repeat,
        seed=spec.seed,
    )


def _ranges(path: Path) -> pl.DataFrame:
    """Read a file of personal ranges; its bad rows were named when it was loaded into the database."""
    with tempfile.TemporaryDirectory() as folder, RejectFile(Path(folder) / "rejects.jsonl") as rejects:
        return pl.concat(read_ranges(path, rejects))


class GeneratedSource:
    """Batches of the simulator or of a replay: those people of a shard whose events go to its partitions."""

    def __init__(
        self, made: Simulation | Replay, spec: RunSpec, shard: Shard, batch_events: int, event_time: str
    ) -> None:
        """Prepare; nothing is generated yet.

        Args:
            made: the whole simulation or replay.
            spec: the run.
            shard: whose people to take.
            batch_events: events a batch, about.
            event_time: the timestamp column.
        """
        self._event_time = event_time
        ids = np.arange(1, spec.people + 1, dtype=np.int64)
        homes = partitions_of(pa.array(ids).cast(pa.string()), spec.partitions)
        chosen = ids[np.isin(homes, shard.partitions)]
        self._batches = made.shard(chosen).batches(batch_events) if len(chosen) else None

    def batch(self, index: int) -> Events | None:
        """Return the batch of an index; None after the last one, and for a shard without people."""
        batch = self._batches.batch(index) if self._batches is not None else None
        if batch is None:
            return None
        raw = [RawMessage(bad.row, bad.key, bad.value) for bad in batch.malformed]
        if not len(batch.emission_ms):
            return Events(batch.records, raw)
        newest_ms = int(_milliseconds(batch.records.column(self._event_time)).max())
        # A device's clock may be ahead of the time at which it sends.
        return Events(batch.records, raw, int(batch.emission_ms[0]), min(newest_ms, int(batch.emission_ms[-1])))


class UniformSource:
    """Batches of the original's generator: random users, places and rates, spread evenly over the event time.

    As many events come in a second of event time as the run's people would send.
    """

    def __init__(self, generator: UniformGenerator, spec: RunSpec, event_time: str) -> None:
        """Take a generator.

        Args:
            generator: of the schema of the events.
            spec: the run.
            event_time: the timestamp column.
        """
        self._generator, self._event_time = generator, event_time
        self._size = batch_events_of(spec, spec.people / spec.sample_interval_ms)
        self._start_ms, self._spacing_ms = spec.start_ms, spec.sample_interval_ms / spec.people
        self._total = spec.events * spec.repeat if spec.repeat else None

    def batch(self, index: int) -> Events | None:
        """Return the batch of an index; None after the last one."""
        first = index * self._size
        count = self._size if self._total is None else min(self._size, self._total - first)
        if count <= 0:
            return None
        times = self._start_ms + ((first + np.arange(count)) * self._spacing_ms).astype(np.int64)
        return Events(with_times(self._generator.batch(first, count, self._start_ms), self._event_time, times))


def _open_file(spec: RunSpec, schema: avro_codec.AvroSchema, event_time: str, rejects: Path) -> TableSource:
    if spec.path is None:
        raise SourceError("source='file' needs path: a .csv, .tsv, .json, .jsonl, .ndjson or .parquet file of events")
    with RejectFile(rejects) as reject_file:
        events = read_events(Path(spec.path), avro_codec.arrow_schema(schema), event_time, reject_file)
    stamps = _milliseconds(events.column(event_time))
    events_per_ms = len(stamps) / max(1, int(np.ptp(stamps))) if len(stamps) else 0.0
    size = batch_events_of(spec, events_per_ms)
    return TableSource(events, event_time, size, spec.repeat, start_ms=spec.start_ms or None)


def _event_time(topic: TopicDefinition) -> str:
    if topic.event_time is None:
        raise SourceError("the topic of the events has no event_time; add it to analytic.toml")
    return topic.event_time


def _milliseconds(column: pa.Array | pa.ChunkedArray) -> npt.NDArray[np.int64]:
    """Return timestamps as ms since the epoch."""
    stamps: npt.NDArray[np.int64] = column.cast(pa.timestamp("ms")).view(pa.int64()).to_numpy()
    return stamps
