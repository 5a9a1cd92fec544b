"""Kafka: brokers, topics, and where each stage of the pipeline is."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

from confluent_kafka import Consumer, KafkaException

from heartwatch.analytic import Analytic
from heartwatch.monitoring import Sample
from heartwatch.settings import Settings
from heartwatch.verify.stages import MOST_MARKERS, QUERY, results_stage, sink_readers, stream_stage
from heartwatch.verify.throughput import behind
from heartwatch.web.timeouts import REQUEST_SECONDS
from kafkakit.admin import QUIET, KafkaClientError, OffsetReader, consumer_config
from kafkakit.topic_reader import read_ranges

_SHAPE_SECONDS = 5.0
_SETTLED_SECONDS = 3.0


@dataclass(frozen=True)
class TopicShape:
    """A topic: its partitions, and how many of them have no leader or too few replicas in sync."""

    name: str
    partitions: int
    leaderless: int
    under_replicated: int


@dataclass(frozen=True)
class KafkaReading:
    """What the brokers report.

    Attributes:
        sample: where each stage was at one moment; None while the topics aren't deployed.
        brokers: ``host:port`` of the brokers that are up.
        topics: the analytic's topics that exist.
    """

    sample: Sample | None
    brokers: tuple[str, ...]
    topics: tuple[TopicShape, ...]


@dataclass(frozen=True)
class _ReadingStage:
    """A stage that reads a topic: its name, the topic and its consumer groups, of which the furthest counts."""

    stage: str
    topic: str
    groups: tuple[str, ...]


class KafkaReader:
    """Reads brokers, topics and positions, through consumers that join no group (see `kafkakit.admin.OffsetReader`)."""

    part: ClassVar[str] = "Kafka"
    interval_seconds: ClassVar[float] = 0.9

    def __init__(self, settings: Settings, analytic: Analytic) -> None:
        """Take the settings; `query_groups` is set by whoever knows the persistent queries."""
        self.query_groups: tuple[str, ...] = ()
        self._kafka, self._analytic = settings.kafka, analytic
        self._stream, self._results = analytic.stream_topic, analytic.results_topic
        self._offsets = OffsetReader(settings.kafka, REQUEST_SECONDS)
        self._client: Consumer | None = None
        self._shape: tuple[tuple[str, ...], tuple[TopicShape, ...]] = ((), ())
        self._shape_at = 0.0
        self._settled: dict[str, tuple[dict[int, tuple[int, int]], bool]] = {}
        self._ends: dict[str, tuple[float, dict[int, int]]] = {}

    def read(self) -> KafkaReading:
        """Ask the brokers.

        Raises:
            KafkaClientError: they don't answer.
        """
        if time.monotonic() - self._shape_at > _SHAPE_SECONDS:
            self._shape, self._shape_at = self._read_shape(), time.monotonic()
        brokers, topics = self._shape
        deployed = {self._stream, self._results} <= {topic.name for topic in topics}
        if not deployed:
            # The topics may be created again with other partitions.
            self._offsets, self._ends, self._settled = OffsetReader(self._kafka, REQUEST_SECONDS), {}, {}
        return KafkaReading(self._sample() if deployed else None, brokers, topics)

    def _read_shape(self) -> tuple[tuple[str, ...], tuple[TopicShape, ...]]:
        if self._client is None:
            self._client = Consumer(consumer_config(self._kafka, "heartwatch-web") | QUIET)
        try:
            found = self._client.list_topics(timeout=REQUEST_SECONDS)
        except KafkaException as error:
            servers = self._kafka.bootstrap_servers
            raise KafkaClientError(f"{error.args[0].str()}; check that the brokers {servers} are running") from None
        brokers = tuple(sorted(f"{broker.host}:{broker.port}" for broker in found.brokers.values()))
        names = [self._analytic.topic(resource) for resource in self._analytic.topics]
        return brokers, tuple(_shape(found.topics[name]) for name in names if name in found.topics)

    def _sample(self) -> Sample:
        spans: dict[str, dict[int, tuple[int, int]]] = {self._stream: {}, self._results: {}}
        for (topic, partition), span in self._offsets.spans(list(spans)).items():
            spans[topic][partition] = span
        heads = {topic: {partition: end for partition, (_, end) in found.items()} for topic, found in spans.items()}
        positions = {stream_stage(self._analytic): sum(heads[self._stream].values())}
        behind_heads: dict[str, int] = {}
        for reader in self._stage_readers():
            found = self._positions(reader)
            positions[reader.stage], behind_heads[reader.stage] = behind(found, heads[reader.topic])
            if self._only_markers_left(reader, found, spans[reader.topic]):
                behind_heads[reader.stage] = positions[reader.stage]
        positions[results_stage(self._analytic)] = sum(heads[self._results].values())
        return Sample(time.time(), positions, behind_heads)

    def _stage_readers(self) -> list[_ReadingStage]:
        """Return the stages that read a topic; all queries count as a single stage."""
        sinks = [_ReadingStage(sink.stage, sink.topic, (sink.group,)) for sink in sink_readers(self._analytic)]
        query = [_ReadingStage(QUERY, self._stream, self.query_groups)] if self.query_groups else []
        return [*query, *sinks]

    def _positions(self, reader: _ReadingStage) -> dict[int, int]:
        """Return the furthest of the groups' positions in each partition."""
        positions: dict[int, int] = {}
        for group in reader.groups:
            for (_, partition), committed in self._offsets.committed(group, reader.topic).items():
                positions[partition] = max(positions.get(partition, 0), committed.position)
        return positions

    def _only_markers_left(
        self, reader: _ReadingStage, found: Mapping[int, int], spans: Mapping[int, tuple[int, int]]
    ) -> bool:
        """Whether a stage has read all of a topic but transaction markers, which nobody commits.

        Checked once for each end of a topic that hasn't moved for a while. What retention removed can't be checked.
        """
        topic, ends = reader.topic, {partition: end for partition, (_, end) in spans.items()}
        since, known = self._ends.get(topic, (time.monotonic(), ends))
        since = since if known == ends else time.monotonic()
        self._ends[topic] = since, ends
        if time.monotonic() - since < _SETTLED_SECONDS:
            return False
        left = {partition: (max(first, found.get(partition, 0)), end) for partition, (first, end) in spans.items()}
        if self._settled.get(reader.stage, ({}, False))[0] != left:
            self._settled[reader.stage] = (left, self._has_no_record(topic, left))
        return self._settled[reader.stage][1]

    def _has_no_record(self, topic: str, spans: Mapping[int, tuple[int, int]]) -> bool:
        if any(end - begin > MOST_MARKERS for begin, end in spans.values()):
            return False
        return not any(map(len, read_ranges(self._kafka, topic, spans, silence_seconds=REQUEST_SECONDS)))


def _shape(topic: Any) -> TopicShape:
    partitions: Sequence[Any] = list(topic.partitions.values())
    return TopicShape(
        topic.topic,
        len(partitions),
        sum(partition.leader < 0 for partition in partitions),
        sum(len(partition.isrs) < len(partition.replicas) for partition in partitions),
    )
