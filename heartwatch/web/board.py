"""Watches every part of the pipeline, remembers the last minutes, and gives out snapshots of all of it.

However many viewers there are, each part is asked once.
"""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import numpy as np

from heartwatch.analytic import Analytic, PageDefinition
from heartwatch.connect import ConnectorStatus
from heartwatch.monitoring import Sample, StageRate
from heartwatch.settings import Settings
from heartwatch.verify.stages import QUERY, stream_stage
from heartwatch.verify.throughput import stage_rates
from heartwatch.web.prefect_api import PrefectApi
from heartwatch.web.readings.alerts import AlertsReader, AlertsReading
from heartwatch.web.readings.areas import AreasReader, AreasReading
from heartwatch.web.readings.connect import ConnectReader
from heartwatch.web.readings.kafka import KafkaReader, KafkaReading
from heartwatch.web.readings.ksql import KsqlReader, KsqlReading
from heartwatch.web.readings.postgres import PostgresReader, PostgresReading
from heartwatch.web.readings.prefect import OverdueCheck, PrefectReader, PrefectReading
from heartwatch.web.readings.registry import RegistryReader
from heartwatch.web.readings.s3 import StorageReader
from heartwatch.web.watching import Health, Watch

STEP_SECONDS = 2
_RATE_SAMPLES = 6
_LONGEST_GAP_SECONDS = 15.0


@dataclass(frozen=True)
class Point:
    """Counts up to one moment: events in the first stream, events that the query has read (None: unknown), alerts."""

    at: float
    arriving: int
    queried: int | None
    alerts: int


@dataclass(frozen=True)
class Series:
    """Rates over the last minutes, one number per step of `STEP_SECONDS`, the oldest first; None where nothing is known."""

    arriving: tuple[int | None, ...]
    queried: tuple[int | None, ...]
    alerts_per_minute: tuple[int | None, ...]


@dataclass(frozen=True)
class Snapshot:
    """All that the page knows at one moment; a part's last answer stays while it doesn't answer.

    Attributes:
        at: seconds since the epoch.
        health: of the servers, and of the topics' readers if these alone have a problem.
        kafka: None before the first answer, as for the other parts.
        ksql: answer of the KSQL servers.
        connectors: answer of Kafka Connect.
        prefect: answer of Prefect.
        memory: what Postgres keeps.
        alerts: the newest alerts.
        areas: where people are.
        rates: rate and lag of each stage, in the order of the pipeline: the first stream comes first.
        series: rates over the last minutes.
    """

    at: float
    health: tuple[Health, ...]
    kafka: KafkaReading | None
    ksql: KsqlReading | None
    connectors: tuple[ConnectorStatus, ...] | None
    prefect: PrefectReading | None
    memory: PostgresReading | None
    alerts: AlertsReading
    areas: AreasReading
    rates: tuple[StageRate, ...]
    series: Series

    @property
    def away(self) -> list[Health]:
        """Parts that don't answer."""
        return [health for health in self.health if health.up is False]

    @property
    def overdue(self) -> tuple[OverdueCheck, ...]:
        """Scheduled checks that don't complete any more, as far as Prefect can be asked."""
        return self.prefect.overdue if self.prefect is not None else ()

    @property
    def starting(self) -> bool:
        """Whether some part has not answered yet."""
        return any(health.up is None for health in self.health)

    @property
    def deployed(self) -> bool:
        """Whether the pipeline's topics exist."""
        return self.kafka is not None and self.kafka.sample is not None

    @property
    def stream_rate(self) -> StageRate | None:
        """Rate of the first stream; None while it is unknown."""
        return self.rates[0] if self.rates else None

    @property
    def is_live(self) -> bool:
        """Whether events arrived during the last minute."""
        return any(self.series.arriving[-60 // STEP_SECONDS :])

    @property
    def now_ms(self) -> int:
        """Latest known event time, ms since the epoch; 0 if there is none."""
        return max(self.alerts.latest_ms, self.areas.latest_ms)


class Board:
    """Watches the parts."""

    def __init__(self, settings: Settings, analytic: Analytic, page: PageDefinition, prefect: PrefectApi) -> None:
        """Create the readers; nothing is read before `start`."""
        self._history = settings.web.history_seconds
        self._samples: deque[Sample] = deque(maxlen=2 * self._history)
        self._points: deque[Point] = deque(maxlen=2 * self._history)
        self._on_news: Callable[[], None] = lambda: None
        self._stream_stage = stream_stage(analytic)
        self._kafka_reader = KafkaReader(settings, analytic)
        self.kafka: Watch[KafkaReading] = Watch.of(self._kafka_reader, self._kafka_was_read)
        self.ksql: Watch[KsqlReading] = Watch.of(KsqlReader(settings, analytic), self._ksql_was_read)
        self.alerts: Watch[AlertsReading] = Watch.of(AlertsReader(settings, analytic, page))
        self.connect: Watch[tuple[ConnectorStatus, ...]] = Watch.of(ConnectReader(settings))
        self.prefect: Watch[PrefectReading] = Watch.of(PrefectReader(prefect))
        self.postgres: Watch[PostgresReading] = Watch.of(PostgresReader(settings, analytic))
        self.registry: Watch[int] = Watch.of(RegistryReader(settings))
        self.storage: Watch[bool] = Watch.of(StorageReader(settings))
        self.areas: Watch[AreasReading] = Watch.of(AreasReader(settings, analytic, page))
        self._servers: list[Watch[Any]] = [
            self.kafka,
            self.ksql,
            self.connect,
            self.registry,
            self.postgres,
            self.storage,
            self.prefect,
        ]
        self._watches = [*self._servers, self.alerts, self.areas]

    def start(self, on_news: Callable[[], None]) -> None:
        """Begin to read.

        Args:
            on_news: called in a reading thread whenever there is news worth showing.
        """
        self._on_news = on_news
        for watch in self._watches:
            watch.start()

    def stop(self) -> None:
        """Stop reading."""
        for watch in self._watches:
            watch.stop()

    def set_watched(self, watched: bool) -> None:
        """Read often while somebody views the page, rarely otherwise."""
        for watch in self._watches:
            watch.set_watched(watched)

    def snapshot(self) -> Snapshot:
        """Return all that is known at this moment."""
        now = time.time()
        return Snapshot(
            at=now,
            health=tuple(watch.health for watch in self._answering()),
            kafka=self.kafka.value,
            ksql=self.ksql.value,
            connectors=self.connect.value,
            prefect=self.prefect.value,
            memory=self.postgres.value,
            alerts=self.alerts.value or AlertsReading(),
            areas=self.areas.value or AreasReading(),
            rates=tuple(recent_rates(list(self._samples), now)),
            series=series(list(self._points), now, self._history),
        )

    def _answering(self) -> list[Watch[Any]]:
        """Return the servers, and the topics' readers if these alone have a problem."""
        deployed = self.kafka.value is not None and self.kafka.value.sample is not None
        troubled = [watch for watch in (self.alerts, self.areas) if watch.health.up is False]
        return [*self._servers, *(troubled if deployed and self.kafka.health.up else [])]

    def _ksql_was_read(self) -> None:
        if self.ksql.value is not None:
            self._kafka_reader.query_groups = self.ksql.value.groups

    def _kafka_was_read(self) -> None:
        reading = self.kafka.value
        if reading is not None and reading.sample is not None and self.kafka.health.up:
            sample = reading.sample
            self._samples.append(sample)
            positions: Mapping[str, int] = sample.positions
            alerts = self.alerts.value.total if self.alerts.value is not None else 0
            self._points.append(Point(sample.at, positions[self._stream_stage], positions.get(QUERY), alerts))
        self._on_news()


def recent_rates(samples: Sequence[Sample], now: float) -> list[StageRate]:
    """Return the stages' rates over the last few samples, and their lags; none if nothing was read recently.

    Samples of other stages than the newest sample's don't count.
    """
    if not samples or now - samples[-1].at > _LONGEST_GAP_SECONDS:
        return []
    stages = samples[-1].positions.keys()
    same = [sample for sample in samples if sample.positions.keys() == stages]
    return stage_rates(same[-_RATE_SAMPLES:], same[:-_RATE_SAMPLES]) if len(same) >= 2 else []


def series(points: Sequence[Point], now: float, history_seconds: int) -> Series:
    """Return the rates of the last minutes, one per step of `STEP_SECONDS`.

    Args:
        points: in order of time.
        now: where the last step ends, seconds since the epoch.
        history_seconds: how far back to go, s.
    """
    steps = history_seconds // STEP_SECONDS
    # Steps end at round times, so numbers don't change from one snapshot to the next.
    last = (now - KafkaReader.interval_seconds) // STEP_SECONDS * STEP_SECONDS
    edges = last - STEP_SECONDS * np.arange(steps, -1, -1, dtype=float)
    if len(points) < 2:
        nothing = (None,) * steps
        return Series(nothing, nothing, nothing)
    at = np.array([point.at for point in points])
    known = _known(at, edges)
    arriving = np.array([point.arriving for point in points], dtype=float)
    queried = np.array([point.queried for point in points], dtype=float)
    alerts = np.array([point.alerts for point in points], dtype=float)
    minute = np.maximum(np.interp(edges[1:], at, alerts) - np.interp(edges[1:] - 60, at, alerts), 0)
    return Series(_rates(at, arriving, edges, known), _rates(at, queried, edges, known), _rounded(minute, known))


def _known(at: np.ndarray, edges: np.ndarray) -> np.ndarray:
    """Return for each step whether the counts around it were read close enough together."""
    inside = (edges[:-1] >= at[0]) & (edges[1:] <= at[-1])
    for before, after in pairwise(at):
        if after - before > _LONGEST_GAP_SECONDS:
            inside &= ~((edges[1:] > before + STEP_SECONDS) & (edges[:-1] < after))
    return inside


def _rates(at: np.ndarray, counts: np.ndarray, edges: np.ndarray, known: np.ndarray) -> tuple[int | None, ...]:
    # A count that falls belongs to a topic that was recreated.
    return _rounded(np.maximum(np.diff(np.interp(edges, at, counts)), 0) / STEP_SECONDS, known)


def _rounded(values: np.ndarray, known: np.ndarray) -> tuple[int | None, ...]:
    there = known & ~np.isnan(values)
    return tuple(round(float(value)) if is_there else None for value, is_there in zip(values, there, strict=True))
