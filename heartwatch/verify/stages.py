"""The stages of the pipeline: their names, their consumer groups, and where each of them is.

A stage either writes a topic (its position is the topic's end) or reads one (its position is what its consumer group committed).
The names are those of the rows in the schema `monitoring`, of the checks' artifacts and of the live page.
"""

from __future__ import annotations

import itertools
import threading
import time
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass

import numpy as np
import pyarrow as pa

from heartwatch.analytic import Analytic
from heartwatch.heartbeats import without_heartbeats
from heartwatch.monitoring import Latency, Sample
from heartwatch.settings import Settings
from heartwatch.verify.latency import Note, PartitionEvents, PartitionResults, latencies, window_ends
from heartwatch.verify.throughput import behind
from kafkakit.admin import KafkaAdmin, KafkaClientError, OffsetReader
from kafkakit.topic_reader import Records, read_ranges
from ksqlengine.client.rest_client import Ksqldb, KsqldbError
from ksqlengine.internal_names import INTERNAL_PREFIX, query_group

QUERY = "query"
"""Stage of the queries that read the events; that of a single query is ``query <id>``."""

MOST_MARKERS = 1_000
"""Offsets after a stage's position in which it is looked whether they are all markers of transactions."""

_KSQL_SECONDS = 5.0
# What of the events is read to find those that close windows: so many before the first note, and so many in all.
_LOOK_BACK = 2_000
_MOST_EVENTS = 4_000_000


@dataclass(frozen=True)
class StageReader:
    """A stage that reads a topic.

    Attributes:
        stage: its name.
        topic: Kafka topic.
        group: its consumer group.
    """

    stage: str
    topic: str
    group: str


def stream_stage(analytic: Analytic) -> str:
    """Return the name of the stage in which events arrive."""
    return f"{analytic.stream} topic"


def results_stage(analytic: Analytic) -> str:
    """Return the name of the stage in which results are written."""
    return f"{analytic.results} topic"


def sink_readers(analytic: Analytic) -> list[StageReader]:
    """Return the sinks of an analytic's topics; a sink connector's consumer group is named as Kafka Connect names it."""
    return [
        StageReader(f"{resource} sink", analytic.topic(resource), f"connect-{analytic.sink_connector(resource)}")
        for resource in analytic.sink_topics()
    ]


class Sampler:
    """Takes samples of all stages: ends of topics, and the positions of the queries' and the connectors' consumer groups.

    Attributes:
        event_notes: ends of the topic of the events, noted at each `note` and each `sample`.
        result_notes: the same of the topic of the results.
    """

    def __init__(self, settings: Settings) -> None:
        """Find out which stages there are."""
        analytic = Analytic.of(settings.pipeline)
        self._kafka = settings.kafka
        self._admin = KafkaAdmin(settings.kafka, timeout_seconds=10)
        self._offsets = OffsetReader(settings.kafka)
        self._events, self._results = analytic.stream_topic, analytic.results_topic
        self._event_stage, self._result_stage = stream_stage(analytic), results_stage(analytic)
        self._readers: list[StageReader] = []
        self.event_notes: list[Note] = []
        self.result_notes: list[Note] = []
        if self.deployed:
            self._readers = [*self._queries(settings), *sink_readers(analytic)]

    @property
    def deployed(self) -> bool:
        """Whether the pipeline's topics are there."""
        return len(self._admin.describe([self._events, self._results])) == 2

    @property
    def queries(self) -> list[str]:
        """The stages that are queries."""
        return [reader.stage for reader in self._readers if reader.stage.startswith(QUERY)]

    def _queries(self, settings: Settings) -> list[StageReader]:
        """Return the queries that read the events, as the KSQL server says, or by their groups where it is away."""
        ksqldb = Ksqldb(settings.ksqldb, retry_seconds=_KSQL_SECONDS)
        try:
            sources = [source.name for source in (*ksqldb.streams(), *ksqldb.tables()) if source.topic == self._events]
            found = sorted({query for name in sources for query in ksqldb.describe(name).read_queries})
            service_id = ksqldb.info().service_id
            groups = {query: query_group(service_id, query) for query in found}
        except KsqldbError:
            groups = {
                group.partition("query_")[2]: group
                for group in self._admin.groups(INTERNAL_PREFIX)
                if self._offsets.committed(group, self._events)
            }
        finally:
            ksqldb.close()
        return [StageReader(f"{QUERY} {query}", self._events, group) for query, group in groups.items()]

    def note(self) -> dict[str, dict[int, int]]:
        """Note where the topics end for a read_committed reader, by topic and partition.

        Raises:
            KafkaClientError: the brokers could not be asked.
        """
        ends = self._offsets.ends([self._events, self._results])
        heads: dict[str, dict[int, int]] = {self._events: {}, self._results: {}}
        for (topic, partition), end in ends.items():
            heads[topic][partition] = end
        now = time.time()
        self.event_notes.append(Note(now, heads[self._events]))
        self.result_notes.append(Note(now, heads[self._results]))
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
        positions = {
            self._event_stage: sum(heads[self._events].values()),
            self._result_stage: sum(heads[self._results].values()),
        }
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
        rows = self._between(self._results, self.result_notes, keys=True)
        results = {
            partition: PartitionResults(records.offset, window_ends(records.key.to_pylist(), window_ms))
            for partition, records in rows.items()
        }
        if not results:
            return []
        events = {
            partition: PartitionEvents(records.offset, records.timestamp)
            for partition, records in self._between(self._events, self.event_notes, look_back=_LOOK_BACK).items()
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
        """Return the positions, moved over markers of transactions and heartbeats: to the first record that waits, or the end.

        What nobody commits is no work. Else the first event after an idle hour, of which the markers are an hour old, would look
        as if it had waited for that long.
        """
        left = {partition: (found.get(partition, 0), end) for partition, end in ends.items()}
        left = self._still_there(topic, left)
        near = {
            partition: (begin, min(end, begin + MOST_MARKERS))
            for partition, (begin, end) in left.items()
            if begin < end
        }
        reached = {partition: begin for partition, (begin, _) in left.items()} | {
            partition: end for partition, (_, end) in near.items()
        }
        for records in read_ranges(self._kafka, topic, near):
            waiting = without_heartbeats(records)
            for partition in np.unique(waiting.partition).tolist():
                first = int(waiting.offset[waiting.partition == partition].min())
                reached[partition] = min(reached[partition], first)
        return found | reached

    def _still_there(self, topic: str, ranges: Mapping[int, tuple[int, int]]) -> dict[int, tuple[int, int]]:
        """Return ranges without the offsets that retention has removed: nobody can read those, nor has to."""
        starts = {partition: begin for (_, partition), (begin, _) in self._offsets.spans([topic]).items()}
        return {
            partition: (min(end, max(begin, starts.get(partition, 0))), end)
            for partition, (begin, end) in ranges.items()
        }

    def _positions(self, reader: StageReader) -> dict[int, int]:
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
