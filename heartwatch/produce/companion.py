"""A thread beside the sending loop that talks to whoever started the producer.

A slow API never slows the producer down.
"""

from __future__ import annotations

import contextvars
import threading
import time
from collections.abc import Callable
from typing import Protocol

from heartwatch.produce.sender import ShardProgress

_WATCH_SECONDS = 1.0


class RunControl(Protocol):
    """What a producer process asks of whoever started it, and shows there."""

    def stop_requested(self) -> bool:
        """Return whether the producers are to stop."""

    def abandoned(self) -> str:
        """Return why nobody wants the shard any more; empty while somebody does."""

    def show(self, percent: float, text: str) -> None:
        """Show how far the shard has come.

        Args:
            percent: share of the shard that is sent, 0 to 100.
            text: counts and rate, for people.
        """


class Companion:
    """Asks once a second whether to stop, and shows the progress; use it as a context manager.

    An API that can't be reached changes nothing: the producer goes on, and what is shown follows later.

    Attributes:
        abandoned: why nobody wants the shard any more, so that it stops; empty while somebody does.
    """

    def __init__(self, shard: int, control: RunControl, warn: Callable[[str], None]) -> None:
        """Prepare.

        Args:
            shard: number of the shard, for people.
            control: whom to ask; called in a thread of its own that has this one's context variables.
            warn: called with a sentence when `control` can't be reached.
        """
        self._shard, self._control, self._warn = shard, control, warn
        self._stop, self._ended = threading.Event(), threading.Event()
        self._progress = ShardProgress()
        self._began = time.monotonic()
        self._first_delivered: int | None = None
        self.abandoned = ""
        context = contextvars.copy_context()
        self._thread = threading.Thread(target=lambda: context.run(self._run), name="producer-companion", daemon=True)

    def __enter__(self) -> Companion:
        self._began = time.monotonic()
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._ended.set()
        self._thread.join(timeout=10)

    def should_stop(self) -> bool:
        """Return whether the run was stopped."""
        return self._stop.is_set()

    def report(self, progress: ShardProgress) -> None:
        """Take note of a commit."""
        if self._first_delivered is None:
            self._first_delivered = progress.delivered
        self._progress = progress

    def _run(self) -> None:
        failing = False
        while True:
            last = self._ended.wait(_WATCH_SECONDS)
            try:
                if self._control.stop_requested():
                    self._stop.set()
                self._end_if_abandoned()
                self._show(last)
                failing = False
            except Exception as error:
                if not failing:
                    self._warn(f"Prefect's API can't be reached, the producer goes on: {error}")
                failing = True
            if last:
                return

    def _end_if_abandoned(self) -> None:
        if not self.abandoned and (reason := self._control.abandoned()):
            self.abandoned = reason
            self._stop.set()

    def _show(self, last: bool) -> None:
        progress, seconds = self._progress, time.monotonic() - self._began
        rate = (progress.delivered - (self._first_delivered or 0)) / seconds if seconds else 0.0
        counts = f"{progress.delivered:,} delivered, {progress.failed:,} sent again"
        done = 100.0 if last and progress.finished else 0.0
        self._control.show(done, f"shard {self._shard}: {rate:,.0f} events/s, {counts}")
