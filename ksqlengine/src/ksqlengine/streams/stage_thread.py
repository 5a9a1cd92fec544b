"""Runs a query's stages against Kafka: a stage is one thread with its own clients, which starts again after errors."""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable

from polars.exceptions import PanicException

from ksqlengine.execution.stages import Stage
from ksqlengine.streams.context import POLL_SECONDS, StageContext, Status
from ksqlengine.streams.join_merge import MergeWork
from ksqlengine.streams.pipeline_work import PipelineWork
from ksqlengine.streams.stage_session import StageSession

logger = logging.getLogger(__name__)

# A short wait after a small batch lets the next one grow: the work of a batch is mostly independent of its size.
_LINGER_SECONDS = 0.02
_SMALL_BATCH_ROWS = 4_096
_FIRST_BACKOFF_SECONDS, _LAST_BACKOFF_SECONDS = 0.2, 10.0

OpenSession = Callable[[Stage, StageContext, str], StageSession]
"""Begins a life of a stage in a consumer group."""


def open_session(stage: Stage, context: StageContext, group: str) -> StageSession:
    """Begin a life of a stage with the work that it has."""
    return StageSession(stage, context, group, MergeWork if stage.arms else PipelineWork)


class StageThread:
    """A stage of a running query; it goes on through errors until it is stopped."""

    def __init__(self, stage: Stage, context: StageContext, session: OpenSession = open_session) -> None:
        """Prepare; `start` runs it.

        Args:
            stage: what to run.
            context: what it needs.
            session: begins a life of the stage.
        """
        self._session = session
        self.stage = stage
        self.context = context
        self.status = Status.RUNNING
        self.last_error: str | None = None
        self._stop = threading.Event()
        self._paused = threading.Event()
        name = f"{context.query_id}{'-' + stage.name if stage.name else ''}"
        self._thread = threading.Thread(target=self._run, name=name, daemon=True)

    @property
    def group(self) -> str:
        """The stage's consumer group."""
        return self.context.group(self.stage)

    def start(self) -> None:
        """Begin to run."""
        self._thread.start()

    def set_paused(self, paused: bool) -> None:
        """Stop or go on consuming; state and partitions are kept meanwhile."""
        if paused:
            self._paused.set()
        else:
            self._paused.clear()
        # A running thread says so itself once the round that it is in is over: a paused query consumes nothing any more.
        if not self._thread.is_alive():
            self._clear_error()

    def stop(self) -> None:
        """Commit what is done and end; doesn't wait."""
        self._stop.set()

    def join(self) -> None:
        """Wait until the thread has ended."""
        self._thread.join()

    def _run(self) -> None:
        backoff = _FIRST_BACKOFF_SECONDS
        while not self._stop.is_set():
            session: StageSession | None = None
            try:
                session = self._session(self.stage, self.context, self.group)
                self._clear_error()
                self._loop(session)
                session.finish()
            except (Exception, PanicException) as error:  # Polars' panics are not an `Exception`
                # Whatever it was: what is committed is right, and everything else is built again from there.
                logger.warning(
                    "query %s starts again in %.1f s: %s", self.context.query_id, backoff, error, exc_info=True
                )
                self.status, self.last_error = Status.ERROR, str(error)
                self.context.metrics.restarts += 1
                backoff = (
                    _FIRST_BACKOFF_SECONDS
                    if session and session.has_committed
                    else min(2 * backoff, _LAST_BACKOFF_SECONDS)
                )
            finally:
                if session is not None:
                    session.close()
            if self.status is Status.ERROR:
                self._stop.wait(backoff)

    def _clear_error(self) -> None:
        self.last_error = None
        self.status = Status.PAUSED if self._paused.is_set() else Status.RUNNING

    def _loop(self, session: StageSession) -> None:
        while not self._stop.is_set():
            self._clear_error()
            if self._paused.is_set():
                session.idle()
                self._stop.wait(POLL_SECONDS)
                continue
            if session.step() < _SMALL_BATCH_ROWS:
                self._stop.wait(_LINGER_SECONDS)
