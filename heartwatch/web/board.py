"""The one reader of the pipeline: watches every part, remembers the last minutes, and gives out snapshots of all of it.

However many people look, the parts are asked once.
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
from heartwatch.verify.stages import QUERY, REALTIME
from heartwatch.verify.throughput import stage_rates
from heartwatch.web.alerts import AlertsPart, AlertsReading
from heartwatch.web.parts import (
    ConnectPart,
    KafkaPart,
    KafkaReading,
    KsqlPart,
    KsqlReading,
    PostgresPart,
    PostgresReading,
    PrefectApi,
    PrefectPart,
    PrefectReading,
    RegistryPart,
    StoragePart,
)
from heartwatch.web.people import AreasPart, AreasReading
from heartwatch.web.watching import Health, Watch

STEP_SECONDS = 2
_RATE_SAMPLES = 6
_LONGEST_GAP_SECONDS = 15.0
_READING_SECONDS = 0.9


@dataclass(frozen=True)
class Point:
    """Counts so far at one moment: events in the first topic, events that the query has read (None: unknown), alerts."""

    at: float
    arriving: int
    queried: int | None
    alerts: int


@dataclass(frozen=True)
class Series:
    """Rates over the last minutes, one number a step, the oldest first; None where nothing is known."""

    arriving: tuple[int | None, ...]
    queried: tuple[int | None, ...]
    alerts_per_minute: tuple[int | None, ...]


@dataclass(frozen=True)
class Snapshot:
    """All that the page knows at one moment; what a part said stays while it is away."""

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
        return [one for one in self.health if one.up is False]

    @property
    def starting(self) -> bool:
        """Whether some part was not asked yet."""
        return any(one.up is None for one in self.health)

    @property
    def deployed(self) -> bool:
        """Whether the pipeline's topics are there."""
        return self.kafka is not None and self.kafka.sample is not None

    def rate(self, stage: str) -> StageRate | None:
        """Return a stage's rate; None where the stage isn't known."""
        return next((rate for rate in self.rates if rate.stage == stage), None)

    @property
    def is_live(self) -> bool:
        """Whether events came during the last minute."""
        return any(self.series.arriving[-60 // STEP_SECONDS :])

    @property
    def now_ms(self) -> int:
        """The latest event time that is known, ms since the epoch; 0 without any."""
        return max(self.alerts.latest_ms, self.areas.latest_ms)


class Board:
    """Watches the parts."""

    def __init__(self, settings: Settings, analytic: Analytic, page: PageDefinition, prefect: PrefectApi) -> None:
        """Prepare; nothing is read before `start`."""
        self._history = settings.web.history_seconds
        self._samples: deque[Sample] = deque(maxlen=2 * self._history)
        self._points: deque[Point] = deque(maxlen=2 * self._history)
        self._tell: Callable[[], None] = lambda: None
        self._kafka_part = KafkaPart(settings, analytic)
        self.kafka: Watch[KafkaReading] = Watch("Kafka", self._kafka_part.read, _READING_SECONDS, self._kafka_was_read)
        self.ksql: Watch[KsqlReading] = Watch("KSQL", KsqlPart(settings, analytic).read, 2, self._ksql_was_read)
        self.alerts: Watch[AlertsReading] = Watch("Alerts", AlertsPart(settings, analytic, page).read, 0.6)
        self.connect: Watch[tuple[ConnectorStatus, ...]] = Watch("Connect", ConnectPart(settings).read, 5)
        self.prefect: Watch[PrefectReading] = Watch("Prefect", PrefectPart(prefect).read, 5)
        self.postgres: Watch[PostgresReading] = Watch("Postgres", PostgresPart(settings, analytic).read, 5)
        self.registry: Watch[int] = Watch("Schema registry", RegistryPart(settings).read, 5)
        self.storage: Watch[bool] = Watch("S3", StoragePart(settings).read, 5)
        self.areas: Watch[AreasReading] = Watch("Areas", AreasPart(settings, analytic, page).read, 10)
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

    def start(self, tell: Callable[[], None]) -> None:
        """Begin to read.

        Args:
            tell: called in a reading thread whenever there is news worth showing.
        """
        self._tell = tell
        for watch in self._watches:
            watch.start()

    def stop(self) -> None:
        """Stop reading."""
        for watch in self._watches:
            watch.stop()

    def set_watched(self, watched: bool) -> None:
        """Read often while somebody looks, seldom otherwise."""
        for watch in self._watches:
            watch.set_watched(watched)

    def snapshot(self) -> Snapshot:
        """Return all that is known now."""
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
        """Return the servers, and the topics' readers where these alone have a trouble of their own."""
        deployed = self.kafka.value is not None and self.kafka.value.sample is not None
        troubled = [watch for watch in (self.alerts, self.areas) if watch.health.up is False]
        return [*self._servers, *(troubled if deployed and self.kafka.health.up else [])]

    def _ksql_was_read(self) -> None:
        if self.ksql.value is not None:
            self._kafka_part.query_groups = self.ksql.value.groups

    def _kafka_was_read(self) -> None:
        reading = self.kafka.value
        if reading is not None and reading.sample is not None and self.kafka.health.up:
            sample = reading.sample
            self._samples.append(sample)
            positions: Mapping[str, int] = sample.positions
            alerts = self.alerts.value.total if self.alerts.value is not None else 0
            self._points.append(Point(sample.at, positions[REALTIME], positions.get(QUERY), alerts))
        self._tell()


def recent_rates(samples: Sequence[Sample], now: float) -> list[StageRate]:
    """Return the stages' rates over the last few samples, and their lags; none where nothing was read lately.

    Samples from before the stages were these don't count.
    """
    if not samples or now - samples[-1].at > _LONGEST_GAP_SECONDS:
        return []
    stages = samples[-1].positions.keys()
    same = [sample for sample in samples if sample.positions.keys() == stages]
    return stage_rates(same[-_RATE_SAMPLES:], same[:-_RATE_SAMPLES]) if len(same) >= 2 else []


def series(points: Sequence[Point], now: float, history_seconds: int) -> Series:
    """Return the rates of the last minutes, one a step of `STEP_SECONDS`.

    Args:
        points: in order of time.
        now: where the last step ends, seconds since the epoch.
        history_seconds: how far back to go.
    """
    steps = history_seconds // STEP_SECONDS
    # Steps end at round times, so that numbers don't change from one look to the next.
    last = (now - _READING_SECONDS) // STEP_SECONDS * STEP_SECONDS
    edges = last - STEP_SECONDS * np.arange(steps, -1, -1, dtype=float)
    if len(points) < 2:
        nothing = (None,) * steps
        return Series(nothing, nothing, nothing)
    at = np.array([point.at for point in points])
    known = _known(at, edges)
    columns = [
        np.array([getattr(point, name) for point in points], dtype=float) for name in ("arriving", "queried", "alerts")
    ]
    arriving, queried, alerts = columns
    minute = np.maximum(np.interp(edges[1:], at, alerts) - np.interp(edges[1:] - 60, at, alerts), 0)
    return Series(_rates(at, arriving, edges, known), _rates(at, queried, edges, known), _rounded(minute, known))


def _known(at: np.ndarray, edges: np.ndarray) -> np.ndarray:
    """Tell for each step whether the counts around it were read close enough together."""
    inside = (edges[:-1] >= at[0]) & (edges[1:] <= at[-1])
    for before, after in pairwise(at):
        if after - before > _LONGEST_GAP_SECONDS:
            inside &= ~((edges[1:] > before + STEP_SECONDS) & (edges[:-1] < after))
    return inside


def _rates(at: np.ndarray, counts: np.ndarray, edges: np.ndarray, known: np.ndarray) -> tuple[int | None, ...]:
    # A count that falls was taken of a topic that was made anew.
    return _rounded(np.maximum(np.diff(np.interp(edges, at, counts)), 0) / STEP_SECONDS, known)


def _rounded(values: np.ndarray, known: np.ndarray) -> tuple[int | None, ...]:
    there = known & ~np.isnan(values)
    return tuple(round(float(value)) if is_there else None for value, is_there in zip(values, there, strict=True))
