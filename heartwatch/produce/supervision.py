"""Decides what becomes of a shard from what is seen of it: its flow run's state and its committed progress.

A heartbeat every few minutes is too slow to notice a dead worker by, and a run's state says RUNNING indefinitely once its process
was killed together with the worker. The shard's own commits are the sign of life: it commits at least every `BEAT_SECONDS`.
A false alarm costs nothing but time: the next process fences the one that was thought dead.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from enum import Enum

BEAT_SECONDS = 5.0
"""A running shard commits at least this often, s."""

PRODUCER_RUN = "producer_run"
"""Prefect variable: 0 stops every producer within five seconds."""


ENDED = frozenset({"COMPLETED", "FAILED", "CRASHED", "CANCELLED", "DELETED"})
"""Types of the states, as Prefect names them, in which a run does nothing any more; DELETED is that of a run that was there."""


class ParentWatch:
    """Decides when a shard's process ends because nobody wants its events any more.

    Either its own run was ended from outside, which means that another process sends the shard or nobody is to; or the run that
    sent it out has been over for a while. That one may come back, and takes its shards up again then.
    """

    def __init__(self, patience_seconds: float = 60.0) -> None:
        """Prepare.

        Args:
            patience_seconds: how long the parent may be over before the shard ends, s; one that was cancelled isn't waited for.
        """
        self._patience = patience_seconds
        self._seen = False
        self._over_since: float | None = None

    def reason(self, own: str | None, parent: str | None, now: float) -> str:
        """Return why the shard is to end; empty while it is to go on.

        Args:
            own: type of the state of the shard's run; None where there is none.
            parent: type of the state of the run that sent it out; None where there is none.
            now: by a clock that only goes forward, s.
        """
        if own in ENDED:
            return f"its run was marked {own} while it was sending"
        self._seen = self._seen or parent is not None
        state = "DELETED" if parent is None and self._seen else parent
        if state not in ENDED:
            self._over_since = None
            return ""
        self._over_since = now if self._over_since is None else self._over_since
        if state != "CANCELLED" and now - self._over_since < self._patience:
            return ""
        return f"the run that sent it out is {state} for {now - self._over_since:.0f} s and nobody counts its events"


class Verdict(Enum):
    """What to do about a shard."""

    WAIT = "wait"
    DONE = "done"
    DISPATCH = "dispatch again"
    CANCEL = "cancel"


@dataclass(frozen=True)
class Limits:
    """How long each state may last, seconds.

    Attributes:
        scheduled: until a worker takes the run.
        pending: until the worker has started its process.
        silent: between two commits of a running shard.
        gone: how long a process may be gone before its state says how it ended.
        patience: by how much `pending` and `silent` are stretched while the process is seen running: the machine is slow.
        attempts: processes that may run one shard.
    """

    scheduled: float = 60.0
    pending: float = 60.0
    silent: float = 30.0
    gone: float = 5.0
    patience: float = 5.0
    attempts: int = 4


@dataclass(frozen=True)
class Sighting:
    """What is seen of a shard now.

    Attributes:
        state: type of its flow run's state, as Prefect names it (SCHEDULED, PENDING, RUNNING, COMPLETED, …).
        state_seconds: age of that state.
        silent_seconds: time since its last commit or, later than that, since its run began; None where the brokers can't be
            asked, so that nothing can be said.
        finished: its source's end is committed.
        alive: whether its process is there; None where that can't be seen (another machine, or not started yet).
        gone_seconds: how long the process has been seen to be gone.
    """

    state: str
    state_seconds: float
    silent_seconds: float | None
    finished: bool = False
    alive: bool | None = None
    gone_seconds: float = 0.0


_VERDICTS = {
    "COMPLETED": Verdict.DONE,
    "FAILED": Verdict.DISPATCH,
    "CRASHED": Verdict.DISPATCH,
    "CANCELLED": Verdict.CANCEL,
    "CANCELLING": Verdict.CANCEL,
}


def queue_of(index: int, attempt: int, machines: Sequence[str]) -> str | None:
    """Return the work queue of the machine that a shard goes to.

    Shards go round the machines, so that each gets its part of a run; one that must be sent again goes to the next machine.

    Args:
        index: the shard's number, from 0.
        attempt: how often it was sent out, this time included.
        machines: producer machines; each one's worker has a queue of its name. Empty: the pool's default queue.
    """
    return machines[(index + attempt - 1) % len(machines)] if machines else None


def judge(sighting: Sighting, limits: Limits) -> tuple[Verdict, str]:
    """Return what to do about a shard, and why."""
    if sighting.finished:
        return Verdict.DONE, "all of it is committed"
    reason = _reason(sighting, limits)
    if reason:
        return Verdict.DISPATCH, reason
    return _VERDICTS.get(sighting.state, Verdict.WAIT), f"its run is {sighting.state}"


def _reason(sighting: Sighting, limits: Limits) -> str:
    """Return why a shard whose run has not ended must be sent out again; empty when it needn't."""
    state, age, silent = sighting.state, sighting.state_seconds, sighting.silent_seconds
    stretch = limits.patience if sighting.alive else 1.0
    if state == "SCHEDULED" and age > limits.scheduled:
        return f"no worker took its run for {age:.0f} s"
    if state in ("PENDING", "RUNNING") and sighting.alive is False and sighting.gone_seconds > limits.gone:
        return f"its process is gone while its run is {state}"
    if state == "PENDING" and age > limits.pending * stretch:
        return f"its run is PENDING for {age:.0f} s: the worker that took it did not start it"
    if state == "RUNNING" and silent is not None and silent > limits.silent * stretch:
        return f"it has committed nothing for {silent:.0f} s: its process is gone or hangs"
    return ""
