"""Tasks that sample the stages of the pipeline."""

from __future__ import annotations

import itertools
import threading
import time
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass

import numpy as np
import pyarrow as pa
from prefect import task
from prefect.cache_policies import NO_CACHE

from heartwatch.analytic import Analytic
from heartwatch.monitoring import Latency, Monitoring, Sample, StageRate
from heartwatch.settings import Settings, load_settings
from heartwatch.verify.latency import (
    Note,
    PartitionEvents,
    PartitionResults,
    latencies,
    percentiles,
    window_ends,
)
from heartwatch.verify.throughput import (
    Headline,
    Steady,
    behind,
    breaches,
    headline,
    is_idle,
    is_running,
    stage_rates,
    steady,
)
from kafkakit.admin import KafkaAdmin, KafkaClientError, OffsetReader
from kafkakit.topic_reader import Records, read_ranges
from ksqlengine.client.rest_client import Ksqldb, KsqldbError
from tasks.artifacts import picture, publish_markdown, publish_table

REALTIME, QUERY, ALERTS = "realtime topic", "query", "alerts topic"
_QUERY_GROUP = "_confluent-ksql-"
_MOST_MARKERS = 1_000
_REMEMBERED_SECONDS = 3_600
_PLOTTED_SECONDS = 6 * 3_600
_KSQL_SECONDS = 5.0
_NOTE_SECONDS = 0.1
# What of the events is read to find those that close windows: so many before the first note, and so many in all.
_LOOK_BACK = 2_000
_MOST_EVENTS = 4_000_000


@dataclass(frozen=True)
class _Reader:
    """A stage that reads a topic: its name, the topic and its consumer group."""

    stage: str
    topic: str
    group: str


class Sampler:
    """Takes samples of all stages: ends of topics, and the positions of the queries' and the connectors' consumer groups.

    Attributes:
        event_notes: ends of the realtime topic, noted at each `note` and each `sample`.
        result_notes: the same of the alerts topic.
    """

    def __init__(self, settings: Settings) -> None:
        """Find out which stages there are."""
        analytic = Analytic.of(settings.pipeline)
        self._kafka = settings.kafka
        self._admin = KafkaAdmin(settings.kafka, timeout_seconds=10)
        self._offsets = OffsetReader(settings.kafka)
        self._realtime, self._alerts = analytic.topic("realtime"), analytic.topic("alerts")
        self._sinks = [
            _Reader(f"{resource} sink", analytic.topic(resource), f"connect-{analytic.sink_connector(resource)}")
            for resource in analytic.sink_topics()
        ]
        self._readers: list[_Reader] = []
        self.event_notes: list[Note] = []
        self.result_notes: list[Note] = []
        if self.deployed:
            self._readers = [*self._queries(settings), *self._sinks]

    @property
    def deployed(self) -> bool:
        """Whether the pipeline's topics are there."""
        return len(self._admin.describe([self._realtime, self._alerts])) == 2

    @property
    def queries(self) -> list[str]:
        """The stages that are queries."""
        return [reader.stage for reader in self._readers if reader.stage.startswith(QUERY)]

    def _queries(self, settings: Settings) -> list[_Reader]:
        """Return the queries that read the realtime topic, as the KSQL server says, or by their groups where it is away."""
        ksqldb = Ksqldb(settings.ksqldb, retry_seconds=_KSQL_SECONDS)
        try:
            sources = [one.name for one in (*ksqldb.streams(), *ksqldb.tables()) if one.topic == self._realtime]
            found = sorted({query for name in sources for query in ksqldb.describe(name).read_queries})
            prefix = f"{_QUERY_GROUP}{ksqldb.info().service_id}query_"
            groups = {query: prefix + query for query in found}
        except KsqldbError:
            groups = {
                group.partition("query_")[2]: group
                for group in self._admin.groups(_QUERY_GROUP)
                if self._offsets.committed(group, self._realtime)
            }
        finally:
            ksqldb.close()
        return [_Reader(f"{QUERY} {query}", self._realtime, group) for query, group in groups.items()]

    def note(self) -> dict[str, dict[int, int]]:
        """Note where the topics end for a read_committed reader, by topic and partition.

        Raises:
            KafkaClientError: the brokers could not be asked.
        """
        ends = self._offsets.ends([self._realtime, self._alerts])
        heads: dict[str, dict[int, int]] = {self._realtime: {}, self._alerts: {}}
        for (topic, partition), end in ends.items():
            heads[topic][partition] = end
        now = time.time()
        self.event_notes.append(Note(now, heads[self._realtime]))
        self.result_notes.append(Note(now, heads[self._alerts]))
        return heads

    def sample(self, settled: bool = False) -> Sample:
        """Take a sample.

        Args:
            settled: look whether there are records at all between a stage and its topic's end: the last offsets of a topic
                are markers of transactions, which nobody commits.

        Raises:
            KafkaClientError: the brokers could not be asked.
        """
        heads = self.note()
        positions = {REALTIME: sum(heads[self._realtime].values()), ALERTS: sum(heads[self._alerts].values())}
        behind_heads = {}
        for reader in self._readers:
            found = self._positions(reader)
            if settled:
                found = self._past_markers(reader.topic, found, heads[reader.topic])
            positions[reader.stage], behind_heads[reader.stage] = behind(found, heads[reader.topic])
        return Sample(self.event_notes[-1].at, positions, behind_heads)

    def latencies(self, window_ms: int, grace_ms: int) -> list[Latency]:
        """Time the results that came between the first note and the last (see `heartwatch.verify.latency`).

        Args:
            window_ms: length of the windows, ms.
            grace_ms: the query's grace period, ms.

        Raises:
            TopicError: a topic can't be read.
        """
        if len(self.event_notes) < 2:
            return []
        rows = self._between(self._alerts, self.result_notes, keys=True)
        results = {
            partition: PartitionResults(records.offset, window_ends(records.key.to_pylist(), window_ms))
            for partition, records in rows.items()
        }
        if not results:
            return []
        events = {
            partition: PartitionEvents(records.offset, records.timestamp)
            for partition, records in self._between(self._realtime, self.event_notes, look_back=_LOOK_BACK).items()
        }
        return latencies(self.event_notes, self.result_notes, events, results, grace_ms)

    def _between(self, topic: str, notes: Sequence[Note], look_back: int = 0, keys: bool = False) -> dict[int, Records]:
        """Read by partition what came between the first note and the last, the newest records where there are too many."""
        first, last = notes[0].ends, notes[-1].ends
        ranges = {
            partition: (max(0, first.get(partition, 0) - look_back, end - _MOST_EVENTS // len(last)), end)
            for partition, end in last.items()
            if end > first.get(partition, 0)
        }
        ranges = self._still_there(topic, ranges)
        parts: dict[int, list[Records]] = {}
        # The batches hold only what is wanted of them: offsets and times of the events, and the few results' keys.
        for records in read_ranges(self._kafka, topic, ranges):
            for partition in np.unique(records.partition).tolist():
                parts.setdefault(partition, []).append(_of_partition(records, partition, keys))
        return {partition: _joined(records) for partition, records in parts.items()}

    def _past_markers(self, topic: str, found: dict[int, int], ends: dict[int, int]) -> dict[int, int]:
        """Return the positions, moved to the end where no record lies between."""
        left = {partition: (found.get(partition, 0), end) for partition, end in ends.items()}
        left = self._still_there(topic, left)
        near = {partition: span for partition, span in left.items() if span[1] - span[0] <= _MOST_MARKERS}
        waiting = {int(one) for part in read_ranges(self._kafka, topic, near) for one in np.unique(part.partition)}
        return found | {partition: end for partition, (_, end) in near.items() if partition not in waiting}

    def _still_there(self, topic: str, ranges: Mapping[int, tuple[int, int]]) -> dict[int, tuple[int, int]]:
        """Return ranges without the offsets that retention has removed: nobody can read those, nor has to."""
        starts = {partition: begin for (_, partition), (begin, _) in self._offsets.spans([topic]).items()}
        return {
            partition: (min(end, max(begin, starts.get(partition, 0))), end)
            for partition, (begin, end) in ranges.items()
        }

    def _positions(self, reader: _Reader) -> dict[int, int]:
        """Return a reader's position in each partition."""
        found = self._offsets.committed(reader.group, reader.topic)
        return {partition: committed.position for (_, partition), committed in found.items()}


def _of_partition(records: Records, partition: int, keys: bool) -> Records:
    """Return a partition's records without their values, and without their keys unless they are wanted."""
    chosen = records.partition == partition
    rows = pa.array(np.flatnonzero(chosen) if keys else np.zeros(0, dtype=np.int64))
    return Records(
        records.partition[chosen],
        records.offset[chosen],
        records.timestamp[chosen],
        records.key.take(rows),
        pa.array([], pa.large_binary()),
    )


def _joined(parts: Sequence[Records]) -> Records:
    return Records(
        np.concatenate([part.partition for part in parts]),
        np.concatenate([part.offset for part in parts]),
        np.concatenate([part.timestamp for part in parts]),
        pa.chunked_array([part.key for part in parts]).combine_chunks(),
        pa.array([], pa.large_binary()),
    )


class Recorder:
    """Samples in a thread of its own while something else runs; use it as a context manager."""

    def __init__(self, settings: Settings, interval_seconds: float = 0.1, sample_every: int = 5) -> None:
        """Prepare.

        Args:
            settings: where the brokers are.
            interval_seconds: time between two notes of the topics' ends: what latencies may be wrong by.
            sample_every: notes for which one is a whole sample.
        """
        self.samples: list[Sample] = []
        self.sampler = Sampler(settings)
        self._interval, self._every = interval_seconds, sample_every
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._run, name="throughput-samples", daemon=True)

    def __enter__(self) -> Recorder:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._ended.set()
        self._thread.join(timeout=30)

    def _run(self) -> None:
        for turn in itertools.count():
            # Brokers that are away leave a hole in the samples, no more.
            with suppress(KafkaClientError):
                if turn % self._every == 0:
                    self.samples.append(self.sampler.sample())
                else:
                    self.sampler.note()
            if self._ended.wait(self._interval):
                return


@dataclass(frozen=True)
class Measured:
    """What a check found.

    Attributes:
        rates: of each stage.
        latencies: of the results that came meanwhile.
        running: whether a run is on.
        missed: objectives that are missed, one sentence each.
    """

    rates: list[StageRate]
    latencies: list[Latency]
    running: bool
    missed: list[str]


@task(cache_policy=NO_CACHE, retries=2, retry_delay_seconds=2)
def measure_stages(seconds: float, interval_seconds: float) -> Measured | None:
    """Sample the stages for some time, keep what was found, and hold it to the objectives.

    Where nothing came in since the check before and no stage has work, one sample is enough.

    Args:
        seconds: how long.
        interval_seconds: time between two samples.

    Returns:
        None where the pipeline isn't deployed or at rest.

    Raises:
        KafkaClientError: the brokers could not be asked.
        PostgresError: Postgres could not be asked.
    """
    settings = load_settings()
    sampler, memory = Sampler(settings), Monitoring(settings.postgres, settings.pipeline)
    if not sampler.deployed:
        return None
    memory.forget(settings.monitoring.retention_days)
    before, first = memory.last_sample(), sampler.sample(settled=True)
    if is_idle(first, before):
        memory.add_samples([first])
        return None
    samples = _sample_for(sampler, seconds, interval_seconds)
    earlier = memory.samples(samples[0].at - _REMEMBERED_SECONDS)
    memory.add_samples(samples)
    return _judge(settings, sampler, memory, samples, earlier)


def _sample_for(sampler: Sampler, seconds: float, interval_seconds: float) -> list[Sample]:
    samples = [sampler.sample()]
    deadline = time.monotonic() + seconds
    due = time.monotonic() + interval_seconds
    while time.monotonic() < deadline:
        time.sleep(_NOTE_SECONDS)
        if time.monotonic() < due:
            sampler.note()
        else:
            samples.append(sampler.sample())
            due += interval_seconds
    last = sampler.sample(settled=True)
    # Rates of two samples a moment apart say nothing: one transaction between them is a peak, none is a standstill.
    if len(samples) > 1 and last.at - samples[-1].at < interval_seconds / 2:
        samples.pop()
    return [*samples, last]


def _judge(
    settings: Settings, sampler: Sampler, memory: Monitoring, samples: list[Sample], earlier: list[Sample]
) -> Measured:
    rates, late = stage_rates(samples, earlier), timed_results(settings, sampler)
    memory.add_rates(samples[-1].at, samples[-1].at - samples[0].at, rates)
    memory.add_latencies(late)
    running = is_running(samples, REALTIME)
    missed = breaches(rates, samples, REALTIME, settings.objectives, percentiles(closing_ms(late))) if running else []
    return Measured(rates, late, running, missed)


def timed_results(settings: Settings, sampler: Sampler, variables: Mapping[str, str] | None = None) -> list[Latency]:
    """Return the latencies of the results that came while a sampler took notes; none for a query without windows.

    Args:
        settings: which analytic.
        sampler: whose notes.
        variables: overrides of the KSQL variables.
    """
    analytic = Analytic.of(settings.pipeline)
    names = analytic.variables({**settings.pipeline.variables, **(variables or {})})
    if not {"window_ms", "grace_ms"} <= names.keys():
        return []
    return sampler.latencies(int(names["window_ms"]), int(names["grace_ms"]))


def closing_ms(late: Sequence[Latency]) -> list[float]:
    """Return the times since the closing event, ms, of those results that have one."""
    return [one.since_closing_ms for one in late if one.since_closing_ms is not None]


def show_latency(latency_ms: tuple[float, float, float]) -> str:
    """Return percentiles of results' latencies as a text."""
    return ", ".join(f"{name} {value:,.0f} ms" for name, value in zip(("p50", "p95", "p99"), latency_ms, strict=True))


@dataclass(frozen=True)
class Figures:
    """What a whole run's samples say.

    Attributes:
        rates: of each stage over the run.
        missed: objectives that are missed, one sentence each.
        headline: the original's figure; None when nothing moved.
        steady: the rate that the run sustained; None when it was too short.
        latency_ms: 50th, 95th and 99th percentile of the time from a window's closing event to its result, ms; None when none
            was timed.
    """

    rates: list[StageRate]
    missed: list[str]
    headline: Headline | None
    steady: Steady | None
    latency_ms: tuple[float, float, float] | None


def measure_run(recorder: Recorder, settings: Settings, variables: Mapping[str, str]) -> Figures:
    """Keep what a recorder has found of a run, and make the run's figures of it.

    Args:
        recorder: that has ended.
        settings: where the rows are kept.
        variables: overrides of the KSQL variables.

    Raises:
        PostgresError: Postgres could not be asked.
    """
    memory = Monitoring(settings.postgres, settings.pipeline)
    samples, late = recorder.samples, timed_results(settings, recorder.sampler, variables)
    rates, latency_ms = stage_rates(samples), percentiles(closing_ms(late))
    memory.add_samples(samples)
    memory.add_latencies(late)
    return Figures(
        rates=rates,
        missed=breaches(rates, samples, REALTIME, settings.objectives, latency_ms),
        headline=headline(samples, REALTIME, ALERTS),
        steady=steady(samples, REALTIME, recorder.sampler.queries),
        latency_ms=latency_ms,
    )


def publish_throughput(measured: Measured) -> None:
    """Show a check's rates, lags and latencies, and how they were in the last hours."""
    settings = load_settings()
    sentence = "; ".join(measured.missed) or ("all objectives are met" if measured.running else "no run")
    late = percentiles(closing_ms(measured.latencies))
    shown = f"; from a window's closing event to its result {show_latency(late)}" if late else ""
    publish_rates(measured.rates, sentence + shown)
    publish_history(Monitoring(settings.postgres, settings.pipeline), settings, sentence)


def publish_history(memory: Monitoring, settings: Settings, sentence: str) -> None:
    """Show a plot of the checks' rates, lags and latencies over the last hours."""
    # Most runs find nothing moving and draw nothing: loading the charts' library takes as long as they do.
    from heartwatch.plots import over_time  # noqa: PLC0415

    since = time.time() - _PLOTTED_SECONDS
    rates: dict[str, list[tuple[float, float]]] = {}
    lags: dict[str, list[tuple[float, float]]] = {}
    for at, rate in memory.rates(since):
        if rate.stage != ALERTS:
            rates.setdefault(rate.stage, []).append((at, rate.events_per_second))
        if rate.lag_seconds is not None:
            lags.setdefault(rate.stage, []).append((at, rate.lag_seconds))
    late = {f"p{percent}": points for percent, points in memory.latency_percentiles(since).items()}
    objectives = settings.objectives
    limits = {
        "events/s": objectives.min_events_per_second,
        "lag, s": objectives.max_lag_seconds,
        "latency, ms": objectives.max_latency_ms,
    }
    png = over_time({"events/s": rates, "lag, s": lags, "latency, ms": late}, limits)
    text = f"{sentence}.\n\n{picture(png, 'events/s, lag and latency over time')}"
    publish_markdown("throughput-over-time", text, "Events/s, lag and latency of the last six hours.")


def publish_rates(rates: Sequence[StageRate], sentence: str) -> None:
    """Show the stages' rates and lags."""
    rows = [
        {
            "stage": rate.stage,
            "events/s": round(rate.events_per_second),
            "peak events/s": round(rate.peak_events_per_second),
            "lag, events": rate.lag_events,
            "lag, s": None if rate.lag_seconds is None else round(rate.lag_seconds, 1),
        }
        for rate in rates
    ]
    publish_table("throughput", rows, f"{sentence}.")
