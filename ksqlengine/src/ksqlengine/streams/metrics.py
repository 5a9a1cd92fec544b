"""Counts and rates of a running query, as DESCRIBE EXTENDED shows them."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass, field

from ksqlengine.execution.operators import Counters

_HALF_LIFE_SECONDS = 10.0


@dataclass
class Rate:
    """Events a second, recent ones counting most: a count and a time that both fade with the same half-life."""

    clock: Callable[[], float] = time.monotonic
    _count: float = 0.0
    _seconds: float = 0.0
    _last: float | None = None

    def add(self, count: int) -> None:
        """Count events that happened just now."""
        self._fade()
        self._count += count

    def value(self) -> float:
        """Return events a second; 0 before any time has passed."""
        self._fade()
        return self._count / self._seconds if self._seconds else 0.0

    def _fade(self) -> None:
        now = self.clock()
        passed = now - self._last if self._last is not None else 0.0
        self._last = now
        kept = 0.5 ** (passed / _HALF_LIFE_SECONDS)
        self._count *= kept
        self._seconds = self._seconds * kept + passed


@dataclass
class QueryMetrics:
    """What a query's threads count; written by one thread, read by any.

    Attributes:
        consumed: stream records processed (records read again after a restart don't count).
        produced: records of committed transactions.
        failed: records that could not be read.
        late: records dropped because their window had closed.
        let_go: groups of closed windows that never came out, because the store had let their window go (RETENTION).
        without_table_row: records dropped by an INNER join.
        without_key: records dropped because their key is null.
        last_message_ms: when the last record was processed, wall clock, ms since the epoch.
        restarts: how often the query was rebuilt from its committed offsets after an error.
    """

    consumed: int = 0
    produced: int = 0
    failed: int = 0
    late: int = 0
    let_go: int = 0
    without_table_row: int = 0
    without_key: int = 0
    last_message_ms: int | None = None
    restarts: int = 0
    consumed_rate: Rate = field(default_factory=Rate)
    produced_rate: Rate = field(default_factory=Rate)

    def count_consumed(self, consumed: int, counters: Counters, now: float) -> None:
        """Count records that were processed at a time (wall clock, s), and take over what a pipeline has counted of them."""
        self.consumed += consumed
        self.consumed_rate.add(consumed)
        self.last_message_ms = round(now * 1000)
        self.late += counters.late
        self.let_go += counters.let_go
        self.without_table_row += counters.without_table_row
        self.without_key += counters.without_key
        counters.late = counters.let_go = counters.without_table_row = counters.without_key = 0

    def count_produced(self, produced: int) -> None:
        """Count records whose transaction was just committed."""
        self.produced += produced
        self.produced_rate.add(produced)
