"""What single people send: a person's latest samples, read on demand, and how many people are where, from a sample."""

from __future__ import annotations

import time
from collections.abc import Iterator
from dataclasses import dataclass, field, replace

import numpy as np
import polars as pl
import pyarrow as pa
import pyarrow.compute as pc
from cachetools import TTLCache
from confluent_kafka import Consumer, TopicPartition

from heartwatch import postgres
from heartwatch.analytic import Analytic, PageDefinition
from heartwatch.settings import Settings
from heartwatch.web.alerts import decoder
from heartwatch.web.parts import REQUEST_SECONDS
from kafkakit.admin import QUIET, OffsetReader, consumer_config
from kafkakit.partitioning import partitions_of
from kafkakit.topic_reader import read_ranges

_MOST_SAMPLES = 1_800
_MOST_OFFSETS = 200_000
_BACK_MS = 600_000
_KEPT_PEOPLE, _KEPT_SECONDS = 200, 900
_FRESH_SECONDS = 2.0
_TAIL_OFFSETS = 2_500
_SAMPLES = pl.Schema({"at": pl.Int64, "measure": pl.Float64, "north": pl.Float64, "east": pl.Float64})


@dataclass(frozen=True)
class Trace:
    """A person's latest samples.

    Attributes:
        subject: who.
        partition: where this person's records are.
        next_offset: from where on nothing was read yet.
        samples: one row a sample in order of time: `at` (ms since the epoch), `measure`, `north`, `east` (degrees).
        area: where the last sample was taken; empty without samples.
        own: the person's own range; None without one.
        read_at: when it was read, monotonic seconds.
    """

    subject: str
    partition: int
    next_offset: int
    samples: pl.DataFrame = field(default_factory=lambda: pl.DataFrame(schema=_SAMPLES))
    area: str = ""
    own: tuple[float, float] | None = None
    read_at: float = 0.0

    @property
    def points(self) -> list[tuple[int, float]]:
        """What was measured, by time in ms since the epoch."""
        return list(self.samples.select("at", "measure").iter_rows())


class Traces:
    """Reads people's samples from their partition of the realtime topic, one person at a time.

    Only what came since the last look is read again, and never more than a bounded number of offsets, so that looking at people
    costs the pipeline little. Not to be used by two threads at once.
    """

    def __init__(self, settings: Settings, analytic: Analytic, page: PageDefinition) -> None:
        """Prepare; nothing is read before `trace`."""
        self._settings, self._page = settings, page
        self._topic = analytic.topic("realtime")
        self._decoder = decoder(settings, analytic, "realtime")
        self._known: TTLCache[str, Trace] = TTLCache(_KEPT_PEOPLE, _KEPT_SECONDS)

    def trace(self, subject: str, around_ms: int) -> Trace:
        """Return a person's latest samples.

        Args:
            subject: who.
            around_ms: where to begin to look the first time: ten minutes before this, ms since the epoch.

        Raises:
            KafkaClientError: the brokers don't answer.
            TopicError: the topic can't be read.
            PostgresError: the own range can't be read.
        """
        known = self._known.get(subject)
        if known is not None and time.monotonic() - known.read_at < _FRESH_SECONDS:
            return known
        found = self._read(subject, known, around_ms)
        self._known[subject] = found
        return found

    def _read(self, subject: str, known: Trace | None, around_ms: int) -> Trace:
        spans = OffsetReader(self._settings.kafka, REQUEST_SECONDS).spans([self._topic])
        if known is None:
            partition = int(partitions_of(pa.array([subject]), len(spans))[0])
            known = Trace(
                subject, partition, self._first_offset(partition, around_ms - _BACK_MS), own=self._own(subject)
            )
        first, end = spans[self._topic, known.partition]
        # A topic that was made anew begins at 0 again; of one that is old the first records are gone.
        begin = known.next_offset if known.next_offset <= end else 0
        span = (max(begin, first, end - _MOST_OFFSETS), end)
        return replace(self._extended(known, span), next_offset=end, read_at=time.monotonic())

    def _first_offset(self, partition: int, at_ms: int) -> int:
        consumer = Consumer(consumer_config(self._settings.kafka, "heartwatch-web") | QUIET)
        try:
            asked = [TopicPartition(self._topic, partition, max(0, at_ms))]
            return max(0, consumer.offsets_for_times(asked, timeout=REQUEST_SECONDS)[0].offset)
        finally:
            consumer.close()

    def _own(self, subject: str) -> tuple[float, float] | None:
        page, table = self._page, self._settings.postgres.historical_table
        # Names come from the analytic's file and from the settings, which check them.
        statement = f"SELECT {page.low}, {page.high} FROM {table} WHERE {page.subject}::text = %s"  # noqa: S608
        rows = postgres.execute(self._settings.postgres, statement, (subject,))
        return (float(rows[0][0]), float(rows[0][1])) if rows else None

    def _extended(self, known: Trace, span: tuple[int, int]) -> Trace:
        batches = [pl.DataFrame(batch) for batch in self._samples(known.subject, known.partition, span)]
        if not batches:
            return known
        new, page = pl.concat(batches), self._page
        columns = {"at": "at", "measure": page.measure, "north": page.north, "east": page.east}
        chosen = new.select(**columns).cast(_SAMPLES)
        # Records may come late or twice.
        samples = pl.concat([known.samples, chosen]).unique("at", keep="last").sort("at").tail(_MOST_SAMPLES)
        return replace(known, area=str(new[page.area][-1]), samples=samples)

    def _samples(self, subject: str, partition: int, span: tuple[int, int]) -> Iterator[pa.RecordBatch]:
        for records in read_ranges(self._settings.kafka, self._topic, {partition: span}, REQUEST_SECONDS):
            rows = np.flatnonzero(np.asarray(pc.equal(records.key, pa.scalar(subject.encode(), pa.large_binary()))))
            if len(rows):
                decoded = self._decoder.decode(records.value.take(pa.array(rows)).to_pylist())
                times = pa.array(records.timestamp[rows][decoded.indices])
                yield decoded.batch.append_column("at", times)


@dataclass(frozen=True)
class Area:
    """People seen in an area lately, and the middle of where they were."""

    name: str
    people: int
    north: float
    east: float


@dataclass(frozen=True)
class AreasReading:
    """Where people are, from each partition's latest records: areas, the most people first, and the latest event time, ms."""

    areas: tuple[Area, ...] = ()
    people: int = 0
    latest_ms: int = 0


class AreasPart:
    """Counts people by area in the latest records of each partition: a sample, as cheap with a million people as with a few."""

    def __init__(self, settings: Settings, analytic: Analytic, page: PageDefinition) -> None:
        """Prepare."""
        self._kafka, self._page = settings.kafka, page
        self._topic = analytic.topic("realtime")
        self._decoder = decoder(settings, analytic, "realtime")
        self._spans: dict[tuple[str, int], tuple[int, int]] = {}
        self._reading = AreasReading()

    def read(self) -> AreasReading:
        """Look at the latest records, where there are new ones.

        Raises:
            UnknownTopicError: the topic isn't there.
            KafkaClientError: the brokers don't answer.
            TopicError: the topic can't be read.
        """
        spans = OffsetReader(self._kafka, REQUEST_SECONDS).spans([self._topic])
        if spans != self._spans:
            tails = {
                partition: (max(first, end - _TAIL_OFFSETS), end) for (_, partition), (first, end) in spans.items()
            }
            values = [
                value
                for records in read_ranges(self._kafka, self._topic, tails, REQUEST_SECONDS)
                for value in records.value.to_pylist()
            ]
            self._reading, self._spans = areas_of(self._decoder.decode(values).batch, self._page), spans
        return self._reading


def areas_of(batch: pa.RecordBatch, page: PageDefinition) -> AreasReading:
    """Return where people are, each where the last of the rows has this person."""
    if not batch.num_rows:
        return AreasReading()
    frame = pl.DataFrame(batch)
    latest = frame.group_by(page.subject, maintain_order=True).last()
    grouped = latest.group_by(page.area).agg(
        pl.len().alias("people"), pl.col(page.north).median(), pl.col(page.east).median()
    )
    areas = [Area(str(row[page.area]), row["people"], row[page.north], row[page.east]) for row in grouped.to_dicts()]
    times = [name for name, kind in frame.schema.items() if isinstance(kind, pl.Datetime)]
    newest = frame[times[0]].cast(pl.Datetime("ms")).to_physical().max() if times else 0
    return AreasReading(
        tuple(sorted(areas, key=lambda one: (-one.people, one.name))),
        latest.height,
        int(newest or 0),  # type: ignore[arg-type]
    )
