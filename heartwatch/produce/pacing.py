"""When the next batch is due: at a set rate, in (a multiple of) real time, or at once."""

from __future__ import annotations

import math
import time
from collections.abc import Callable

_SLICE_SECONDS = 0.2  # a stop is noticed at least this often while waiting


class Pacer:
    """Holds a shard to a rate and to the events' own clock; both limits may be set, the later one counts."""

    def __init__(
        self,
        events_per_second: float | None = None,
        speed: float | None = None,
        clock: Callable[[], float] = time.monotonic,
        sleep: Callable[[float], None] = time.sleep,
        waits: bool = False,
        wall_clock: Callable[[], float] = time.time,
    ) -> None:
        """Begin to count.

        Args:
            events_per_second: limit of the rate, events/s; None without limit.
            speed: seconds of event time per second of wall time, 1 for real time; None as fast as possible.
            clock: seconds, monotonic.
            sleep: waits that many seconds.
            waits: whether no batch is due before all of it has happened: an event that is ahead of the clock is rejected.
            wall_clock: seconds since the epoch.

        Raises:
            ValueError: a limit is not positive.
        """
        for name, value in (("events_per_second", events_per_second), ("speed", speed)):
            if value is not None and value <= 0:
                raise ValueError(f"{name}={value!r} must be more than 0; leave it out for no limit")
        self._rate, self._speed = events_per_second, speed
        self._clock, self._sleep = clock, sleep
        self._wall_clock = wall_clock if waits else None
        self._start = clock()
        self._first_ms: int | None = None
        self._sent = 0

    def due_in(self, first_ms: int, happened_ms: int = 0) -> float:
        """Return how many seconds from now a batch is due; 0 when it is.

        Args:
            first_ms: its first event time.
            happened_ms: when all of it has happened, ms since the epoch.
        """
        if self._first_ms is None:
            self._first_ms = first_ms
        due = self._start
        if self._rate is not None:
            due = max(due, self._start + self._sent / self._rate)
        if self._speed is not None:
            due = max(due, self._start + (first_ms - self._first_ms) / 1000 / self._speed)
        happens_in = happened_ms / 1000 - self._wall_clock() if self._wall_clock is not None else 0.0
        return max(0.0, due - self._clock(), happens_in)

    def wait(
        self, first_ms: int, should_stop: Callable[[], bool], at_most: float = math.inf, happened_ms: int = 0
    ) -> bool:
        """Wait until a batch is due (see `due_in`), `at_most` that many seconds; False if it isn't, or the run is stopped."""
        end = self._clock() + at_most
        while (left := min(self.due_in(first_ms, happened_ms), end - self._clock())) > 0:
            if should_stop():
                return False
            self._sleep(min(left, _SLICE_SECONDS))
        return self.due_in(first_ms, happened_ms) <= 0 and not should_stop()

    def sent(self, events: int) -> None:
        """Count events that were sent."""
        self._sent += events
