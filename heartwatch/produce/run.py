"""The loop of one producer process: source, pacing, transactions, stop."""

from __future__ import annotations

import time
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from typing import Protocol

from heartwatch.produce.messages import Encoder, Events, Messages
from heartwatch.produce.pacing import Pacer
from heartwatch.produce.sender import QUEUE_MESSAGES, ShardProgress, ShardSender
from heartwatch.produce.supervision import BEAT_SECONDS


class Source(Protocol):
    """Where events come from."""

    def batch(self, index: int) -> Events | None:
        """Return the batch of an index, the same whenever it is asked for; None after the last one."""


@dataclass(frozen=True)
class ShardOutcome:
    """What a producer process did.

    Attributes:
        progress: the shard's progress at the end, over all processes that ran it.
        delivered: messages that this process committed.
        seconds: how long that took, from the first batch on.
        stopped: it ended because it was stopped.
    """

    progress: ShardProgress
    delivered: int
    seconds: float
    stopped: bool

    @property
    def events_per_second(self) -> float:
        """Rate of this process, events/s."""
        return self.delivered / self.seconds if self.seconds > 0 else 0.0


def run_shard(
    source: Source,
    encoder: Encoder,
    sender: ShardSender,
    pacer: Pacer,
    should_stop: Callable[[], bool],
    report: Callable[[ShardProgress], None],
    transaction_seconds: float = 0.2,
) -> ShardOutcome:
    """Send a shard's batches from where it ended until the source or the stop ends it.

    Args:
        source: batches by index.
        encoder: makes messages of them.
        sender: started sender.
        pacer: when each batch is due.
        should_stop: asked at least five times a second; what was sent is committed before the return.
        report: called after each commit.
        transaction_seconds: longest open transaction; the brokers show nothing of one before its end.

    Raises:
        DeliveryError: messages could not be delivered.
    """
    began, before = time.monotonic(), sender.progress.delivered
    index, finished = sender.progress.next_batch, sender.progress.finished
    stopped = False
    with ThreadPoolExecutor(1, thread_name_prefix="next-batch") as ahead:
        following = ahead.submit(_prepare, source, encoder, index)
        while not finished and not stopped:
            messages = following.result()
            if messages is None:
                finished = True
                break
            following = ahead.submit(_prepare, source, encoder, index + 1)
            if not _due(pacer, messages, sender, index, should_stop, report):
                stopped = True
                break
            sender.send(messages)
            pacer.sent(len(messages))
            index += 1
            if sender.open_seconds >= transaction_seconds or sender.pending > QUEUE_MESSAGES // 2:
                report(sender.commit(index))
        _cancel(following)
    if finished or sender.pending:
        report(sender.commit(index, finished))
    return ShardOutcome(sender.progress, sender.progress.delivered - before, time.monotonic() - began, stopped)


def _prepare(source: Source, encoder: Encoder, index: int) -> Messages | None:
    events = source.batch(index)
    return None if events is None else encoder.encode(events)


def _due(
    pacer: Pacer,
    messages: Messages,
    sender: ShardSender,
    index: int,
    should_stop: Callable[[], bool],
    report: Callable[[ShardProgress], None],
) -> bool:
    """Wait for a batch's time with no transaction open, and give signs of life; False when the run was stopped."""
    if sender.pending and pacer.due_in(messages.due_ms, messages.happened_ms) > 0:
        report(sender.commit(index))
    while not pacer.wait(messages.due_ms, should_stop, BEAT_SECONDS, messages.happened_ms):
        if should_stop():
            return False
        report(sender.commit(index))
    return True


def _cancel(following: Future[Messages | None]) -> None:
    """Let a batch that nobody wants any more go; its error, if it has one, no longer matters."""
    following.cancel()
