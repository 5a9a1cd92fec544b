"""A running persistent query: the threads of its stages, and what they count."""

from __future__ import annotations

from dataclasses import dataclass

from ksqlengine.plan.catalog import PersistentQuery
from ksqlengine.streams.context import Status
from ksqlengine.streams.metrics import QueryMetrics
from ksqlengine.streams.stage_thread import StageThread


@dataclass
class RunningQuery:
    """A running persistent query."""

    query: PersistentQuery
    threads: list[StageThread]
    metrics: QueryMetrics

    @property
    def status(self) -> Status:
        """ERROR where a stage is in one, else what it was told to do."""
        if any(thread.status is Status.ERROR for thread in self.threads):
            return Status.ERROR
        return Status.PAUSED if self.query.paused else Status.RUNNING

    @property
    def obeys(self) -> bool:
        """Whether its stages do what it was told: a paused one that is still in a round may consume."""
        wanted = Status.PAUSED if self.query.paused else Status.RUNNING
        return all(thread.status in (wanted, Status.ERROR) for thread in self.threads)

    @property
    def errors(self) -> list[str]:
        """Errors that its stages are in."""
        return [thread.last_error for thread in self.threads if thread.last_error is not None]

    @property
    def groups(self) -> list[str]:
        """Consumer groups of its stages."""
        return [thread.group for thread in self.threads]

    @property
    def own_topics(self) -> list[str]:
        """Repartition and changelog topics, which only this query uses."""
        stages = [thread.stage for thread in self.threads]
        internal = [stage.sink.topic for stage in stages if stage.sink.internal]
        return [*internal, *(stage.changelog for stage in stages if stage.changelog is not None)]

    def start(self) -> None:
        """Start its stages."""
        for thread in self.threads:
            thread.start()

    def set_paused(self, paused: bool) -> None:
        """Pause or resume its stages."""
        for thread in self.threads:
            thread.set_paused(paused)

    def stop(self) -> None:
        """Ask its stages to commit and end; `join` waits for them."""
        for thread in self.threads:
            thread.stop()

    def join(self) -> None:
        """Wait until its stages have ended."""
        for thread in self.threads:
            thread.join()
