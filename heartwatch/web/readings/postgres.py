"""Postgres: people with a personal range, and what the scheduled checks remember."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any, ClassVar

from heartwatch import postgres
from heartwatch.analytic import Analytic
from heartwatch.monitoring import Monitoring
from heartwatch.settings import Settings
from heartwatch.verify.stages import stream_stage

_REMEMBERED_SECONDS = 3_600


@dataclass(frozen=True)
class Proof:
    """What is proven of a topic's sink: rows, broken segments, since when records wait, and when it was last checked."""

    topic: str
    rows: int
    broken: int
    waiting_since: datetime | None
    checked_at: datetime


@dataclass(frozen=True)
class PostgresReading:
    """What Postgres keeps.

    Attributes:
        people: number of people with a personal range.
        proofs: what is proven of the sinks.
        measured_at: when the stages were last measured, seconds since the epoch; None before the first measurement.
        measured: rate of the first stream at that time, events/s.
        latency_ms: 50th, 95th and 99th percentile of the results' latency in the newest minute that has any, ms.
    """

    people: int = 0
    proofs: tuple[Proof, ...] = ()
    measured_at: float | None = None
    measured: float | None = None
    latency_ms: tuple[float, float, float] | None = None


class PostgresReader:
    """Reads how many people have a personal range, and what the scheduled checks remember."""

    part: ClassVar[str] = "Postgres"
    interval_seconds: ClassVar[float] = 5.0

    def __init__(self, settings: Settings, analytic: Analytic) -> None:
        """Take the settings; nothing is asked before `read`."""
        self._settings, self._analytic = settings, analytic
        self._memory: Monitoring | None = None

    def read(self) -> PostgresReading:
        """Ask Postgres.

        Raises:
            PostgresError: it doesn't answer.
        """
        since, stage = time.time() - _REMEMBERED_SECONDS, stream_stage(self._analytic)
        self._memory = self._memory or Monitoring(self._settings.postgres, self._settings.pipeline)
        rates = [(at, rate) for at, rate in self._memory.rates(since) if rate.stage == stage]
        latencies = self._memory.latency_percentiles(since)
        newest = [latencies[percent][-1][1] for percent in (50, 95, 99) if latencies[percent]]
        return PostgresReading(
            people=self._people(),
            proofs=self._proofs(),
            measured_at=rates[-1][0] if rates else None,
            measured=rates[-1][1].events_per_second if rates else None,
            latency_ms=(newest[0], newest[1], newest[2]) if newest else None,
        )

    def _people(self) -> int:
        table = self._settings.postgres.historical_table
        # The settings check the table's name.
        return int(self._ask(f"SELECT count(*) FROM {table}")[0][0]) if self._has(f"public.{table}") else 0  # noqa: S608

    def _proofs(self) -> tuple[Proof, ...]:
        if not self._has("sink_proof.topics"):
            return ()
        names = [self._analytic.topic(resource) for resource in self._analytic.sink_topics()]
        rows = self._ask(_PROOFS, (names,))
        return tuple(Proof(topic, int(proven), int(broken), waiting, at) for topic, proven, broken, waiting, at in rows)

    def _has(self, table: str) -> bool:
        return bool(self._ask("SELECT to_regclass(%s) IS NOT NULL", (table,))[0][0])

    def _ask(self, statement: str, arguments: Sequence[Any] = ()) -> list[tuple[Any, ...]]:
        return postgres.execute(self._settings.postgres, statement, arguments)


_PROOFS = """
SELECT topic, coalesce(sum(rows) FILTER (WHERE state = 'proven'), 0), count(*) FILTER (WHERE state = 'broken'),
  (SELECT min(waiting_since) FROM sink_proof.partitions WHERE partitions.topic = topics.topic), max(checked_at)
FROM sink_proof.topics LEFT JOIN sink_proof.segments USING (topic)
WHERE topic = ANY(%s) GROUP BY topic ORDER BY topic
"""
