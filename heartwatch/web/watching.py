"""A part that is read at intervals in a thread of its own: its last value, whether it answers, and since when."""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Generic, Self, TypeVar

from heartwatch.web.readings.base import PartReader

logger = logging.getLogger(__name__)

Value = TypeVar("Value")

_REASON_LENGTH = 300
_UNWATCHED_FACTOR = 5.0
# However rarely: an outage is told within half a minute, viewers or not.
_UNWATCHED_SECONDS = 10.0
# Longer than a reading takes in which every request is just answered in time.
_PATIENCE_SECONDS = 30.0


@dataclass(frozen=True)
class Health:
    """Whether a part answers.

    Attributes:
        part: its name.
        up: whether it answered the last request; None before the first answer.
        since: when that state began, seconds since the epoch.
        reason: why it doesn't answer; empty while it does.
    """

    part: str
    up: bool | None
    since: float
    reason: str = ""


class Watch(Generic[Value]):
    """Reads one part for as long as the page runs; a part that hangs or fails delays no other.

    Attributes:
        value: its last answer; kept while it doesn't answer. None before the first answer.
        read_at: when that answer came, seconds since the epoch; 0 before the first answer.
    """

    def __init__(
        self,
        part: str,
        read: Callable[[], Value],
        interval_seconds: float,
        on_read: Callable[[], None] = lambda: None,
    ) -> None:
        """Take the part; nothing is read before `start`.

        Args:
            part: the part's name.
            read: asks it; any exception means that it doesn't answer.
            interval_seconds: time between two readings while somebody views the page, s; five times that otherwise, 10 s at most.
            on_read: called in the reading thread after each reading.
        """
        self._health = Health(part, None, time.time())
        self._asked_at: float | None = None
        self.value: Value | None = None
        self.read_at = 0.0
        self._read, self._interval, self._on_read = read, interval_seconds, on_read
        self._stop, self._wake = threading.Event(), threading.Event()
        self._watched = False
        self._thread = threading.Thread(target=self._run, name=f"watch-{part}", daemon=True)

    @classmethod
    def of(cls, reader: PartReader[Value], on_read: Callable[[], None] = lambda: None) -> Self:
        """Return a watch over a part's reader (arguments as for the constructor)."""
        return cls(reader.part, reader.read, reader.interval_seconds, on_read)

    @property
    def health(self) -> Health:
        """Whether the part answers; a part whose reading takes very long counts as one that doesn't."""
        known, asked = self._health, self._asked_at
        if known.up is False or asked is None or time.time() - asked < _PATIENCE_SECONDS:
            return known
        return Health(known.part, False, asked, "no answer to the last request")

    def start(self) -> None:
        """Begin to read."""
        self._thread.start()

    def stop(self) -> None:
        """Stop reading; a reading in progress is not waited for."""
        self._stop.set()
        self._wake.set()

    def set_watched(self, watched: bool) -> None:
        """Read often while somebody views the page, rarely otherwise."""
        begins = watched and not self._watched
        self._watched = watched
        if begins:
            self._wake.set()

    def read_once(self) -> None:
        """Ask the part now and note the outcome."""
        self._asked_at = time.time()
        try:
            self.value = self._read()
        except Exception as error:
            # Whatever went wrong is shown to viewers; the page must outlive every part.
            self._note(False, str(error) or type(error).__name__)
        else:
            self.read_at = time.time()
            self._note(True, "")
        self._asked_at = None
        self._on_read()

    def _note(self, up: bool, reason: str) -> None:
        before = self._health
        short = " ".join(reason.split())[:_REASON_LENGTH]
        since = before.since if before.up is up else time.time()
        self._health = Health(before.part, up, since, short)
        if before.up is not up:
            logger.log(
                logging.INFO if up else logging.WARNING,
                "%s is %s",
                before.part,
                "up" if up else f"not responding: {short}",
            )

    def _run(self) -> None:
        while not self._stop.is_set():
            self._wake.clear()
            self.read_once()
            rarely = max(self._interval, min(self._interval * _UNWATCHED_FACTOR, _UNWATCHED_SECONDS))
            self._wake.wait(self._interval if self._watched else rarely)
