"""Sends a run's shards out to the producers' workers, looks after them, and sends a shard out again when its process dies.

What runs the shards stands behind `ShardRuns`: Prefect's server and its workers, or whatever a test puts there. What a shard has
sent is read from Kafka, where it is committed (see `heartwatch.produce.sender`); what becomes of it is decided in
`heartwatch.produce.supervision`.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Protocol
from uuid import UUID

import psutil

from heartwatch.analytic import Analytic
from heartwatch.errors import HeartWatchError
from heartwatch.produce.reports import ShardReport
from heartwatch.produce.sender import ShardProgress, forget_progress, read_progress
from heartwatch.produce.shards import Shard
from heartwatch.produce.spec import RunSpec
from heartwatch.produce.supervision import Limits, Sighting, Verdict, judge, queue_of
from heartwatch.settings import Settings
from kafkakit.admin import KafkaAdmin, KafkaClientError, OffsetReader
from kafkakit.topic_reader import wait_until_committed

_WATCH_SECONDS = 1.0
_VISIBLE_SECONDS = 90.0  # longer than the brokers let a dead producer's transaction stay open


class ProduceError(HeartWatchError):
    """A run could not send all it should have; what was committed stays."""


@dataclass(frozen=True)
class ShardRun:
    """A shard's run as its orchestrator shows it.

    Attributes:
        name: the run's name.
        state: type of its state, as Prefect names it (SCHEDULED, PENDING, RUNNING, COMPLETED, …).
        entered_at: when it entered that state, seconds since the epoch.
        final: whether the state is the last one.
        pid: id of its process on the worker's machine; None before it has one.
    """

    name: str
    state: str
    entered_at: float
    final: bool
    pid: str | None = None


class ShardRuns(Protocol):
    """What the dispatcher needs of the orchestrator."""

    def submit(self, spec: RunSpec, shard: Shard, attempt: int, queue: str | None) -> UUID:
        """Have a worker run a shard, and return the run's id; a repetition with the same attempt starts no second run.

        Args:
            spec: the run of which it is a part.
            shard: which part.
            attempt: how often the shard was sent out, this time included.
            queue: work queue; None for the pool's default one.
        """

    def states(self, run_ids: Sequence[UUID]) -> Mapping[UUID, ShardRun]:
        """Return the runs that have a state, by id; any exception means that the orchestrator can't be asked."""

    def reclaim(self) -> str:
        """Tell the orchestrator that the run which dispatches lives, where it was marked as crashed.

        Returns:
            what the orchestrator said about the crash; empty where there was none. Any exception means that it can't be asked.
        """

    def cancel(self, run_id: UUID, reason: str) -> None:
        """End a run whose process is gone or hangs, whatever its state is.

        Args:
            run_id: which.
            reason: why, for people.
        """


@dataclass
class _Dispatched:
    """A shard that was sent out: its run now, and since when it is looked after."""

    shard: Shard
    run_id: UUID
    attempts: int = 1
    since: float = field(init=False)
    beat: float = field(init=False)
    progress: ShardProgress = field(default_factory=ShardProgress)
    gone_since: float | None = None
    done: bool = False

    def __post_init__(self) -> None:
        """Look after it from now on."""
        self.since = self.beat = time.time()


def is_alive(pid: str | None) -> bool | None:
    """Return whether a process of this machine is running; None where no process is known."""
    if pid is None or not pid.isdigit():
        return None
    try:
        return bool(psutil.Process(int(pid)).status() != psutil.STATUS_ZOMBIE)
    except psutil.Error:
        return False


class Dispatcher:
    """Sends shards out to the workers of the producers' pool, and again when one of them dies."""

    def __init__(
        self,
        settings: Settings,
        spec: RunSpec,
        limits: Limits,
        runs: ShardRuns,
        on_progress: Callable[[int], None],
        warn: Callable[[str], None],
    ) -> None:
        """Prepare a run.

        Args:
            settings: where the brokers are, and the producer machines.
            spec: the run.
            limits: how long a shard may show nothing.
            runs: the orchestrator.
            on_progress: called with the events delivered so far, about once a second.
            warn: called with a sentence about each thing that goes wrong and is dealt with.
        """
        self._spec, self._limits, self._runs = spec, limits, runs
        self._on_progress, self._warn = on_progress, warn
        self._machines = settings.producer.machines
        self._topic = Analytic.of(settings.pipeline).stream_topic
        self._admin = KafkaAdmin(settings.kafka, timeout_seconds=10)
        self._offsets = OffsetReader(settings.kafka)
        # The embedded platform's workers are on this machine: their processes can be looked at.
        self._sees_processes = settings.profile == "local"

    def run(self, shards: list[Shard]) -> list[ShardReport]:
        """Send the shards out and wait for all of them.

        Raises:
            ProduceError: a shard was cancelled, or its processes ended badly as often as the limits allow.
        """
        began = time.monotonic()
        open_shards = [_Dispatched(shard, self._submit(shard, 1)) for shard in shards]
        done: list[_Dispatched] = []
        while open_shards:
            time.sleep(_WATCH_SECONDS)
            runs = self._read_runs(open_shards)
            if runs:
                self._reclaim()
            for shown in open_shards:
                self._look(shown, runs.get(shown.run_id))
            done += [shown for shown in open_shards if shown.done]
            open_shards = [shown for shown in open_shards if not shown.done]
            self._on_progress(sum(shown.progress.delivered for shown in [*done, *open_shards]))
        seconds = time.monotonic() - began
        reports = [self._final(shown, seconds) for shown in sorted(done, key=lambda shown: shown.shard.index)]
        self._await_visible()
        self._forget(shards)
        return reports

    def _submit(self, shard: Shard, attempt: int) -> UUID:
        return self._runs.submit(self._spec, shard, attempt, queue_of(shard.index, attempt, self._machines))

    def _read_runs(self, shown: Sequence[_Dispatched]) -> Mapping[UUID, ShardRun]:
        """Read the runs' states; empty when the API doesn't answer, which says nothing of the producers."""
        try:
            return self._runs.states([dispatched.run_id for dispatched in shown])
        except Exception as error:
            self._warn(f"Prefect's API can't be asked for the producers' states: {error}")
            return {}

    def _reclaim(self) -> None:
        """Set a word of this run's death right: while the orchestrator hung, it took silence for the process' end."""
        try:
            said = self._runs.reclaim()
        except Exception as error:
            self._warn(f"Prefect's API can't be asked for this run's state: {error}")
            return
        if said:
            self._warn(
                f"this run was marked as crashed while it was at work ({said}); it goes on, and takes its shards up again"
            )

    def _look(self, shown: _Dispatched, run: ShardRun | None) -> None:
        reachable = self._read_progress(shown)
        if run is None:
            return
        if not reachable:
            shown.beat = time.time()
        verdict, reason = judge(self._sighting(shown, run, reachable), self._limits)
        shown.done = verdict is Verdict.DONE
        if verdict is Verdict.CANCEL:
            raise ProduceError(f"shard {shown.shard.index} of run {self._spec.run_id!r}: {reason}; start the run again")
        if verdict is Verdict.DISPATCH:
            self._submit_again(shown, run, reason)

    def _sighting(self, shown: _Dispatched, run: ShardRun, reachable: bool) -> Sighting:
        now = time.time()
        alive = is_alive(run.pid) if self._sees_processes else None
        shown.gone_since = None if alive is not False else shown.gone_since or now
        return Sighting(
            state=run.state,
            state_seconds=now - max(run.entered_at, shown.since),
            silent_seconds=now - max(shown.beat, run.entered_at) if reachable else None,
            finished=shown.progress.finished,
            alive=alive,
            gone_seconds=0.0 if shown.gone_since is None else now - shown.gone_since,
        )

    def _read_progress(self, shown: _Dispatched) -> bool:
        """Read a shard's committed progress; False when the brokers can't be asked."""
        try:
            found = read_progress(self._offsets, self._topic, self._spec.run_id, shown.shard)
        except KafkaClientError:
            return False
        if found is not None and found.at_ms != shown.progress.at_ms:
            shown.progress, shown.beat = found, time.time()
        return True

    def _submit_again(self, shown: _Dispatched, run: ShardRun, reason: str) -> None:
        if shown.attempts >= self._limits.attempts:
            raise ProduceError(
                f"shard {shown.shard.index} of run {self._spec.run_id!r} was sent out {shown.attempts} times, "
                f"the last time {reason}; look at flow run {run.name!r} and see that workers of the producers' pool are up"
            )
        if not run.final:
            self._runs.cancel(shown.run_id, f"sent out again: {reason}")
        shown.attempts += 1
        shown.run_id = self._submit(shown.shard, shown.attempts)
        shown.since = shown.beat = time.time()
        shown.gone_since = None
        self._warn(f"shard {shown.shard.index} is sent out again: {reason}")

    def _final(self, shown: _Dispatched, seconds: float) -> ShardReport:
        """Return what a shard reached; its last commit may have come after the last look."""
        self._read_progress(shown)
        return ShardReport.of(shown.shard, shown.progress, seconds, shown.attempts)

    def _await_visible(self) -> None:
        """Wait until readers see all that was sent: markers of transactions follow the commits."""
        try:
            seen = wait_until_committed(self._admin, self._topic, _VISIBLE_SECONDS)
        except KafkaClientError as error:
            self._warn(f"the topic's end can't be asked for: {error}")
            return
        if not seen:
            self._warn(f"after {_VISIBLE_SECONDS:g} s a transaction is still open on topic {self._topic!r}")

    def _forget(self, shards: list[Shard]) -> None:
        try:
            forget_progress(self._admin, self._spec.run_id, shards)
        except KafkaClientError as error:
            # All was sent; groups that nobody uses are removed by the brokers after a week.
            self._warn(f"the shards' progress could not be deleted: {error}")
