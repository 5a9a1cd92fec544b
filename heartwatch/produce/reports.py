"""What a producer run sent, shard by shard."""

from __future__ import annotations

from collections.abc import Sequence

from pydantic import BaseModel

from heartwatch.produce.sender import ShardProgress
from heartwatch.produce.shards import Shard
from heartwatch.produce.spec import RunSpec


class ShardReport(BaseModel):
    """What was sent of a shard, over all processes that ran it.

    Attributes:
        shard: number of the shard, from 0.
        delivered: events committed.
        failed: events whose transaction was aborted and that were sent again.
        rejected: events that can't be sent: too large, or refused by the brokers.
        newest_ms: largest event time committed, ms since the epoch; 0 before the first.
        finished: whether the source's end is committed.
        attempts: processes that ran the shard.
        seconds: how long it took, s.
    """

    shard: int
    delivered: int
    failed: int
    newest_ms: int
    finished: bool
    attempts: int = 1
    seconds: float = 0.0
    rejected: int = 0

    @classmethod
    def of(cls, shard: Shard, progress: ShardProgress, seconds: float, attempts: int = 1) -> ShardReport:
        """Return the report of a shard that has come so far.

        Args:
            shard: which.
            progress: what is committed of it.
            seconds: how long that took, s.
            attempts: processes that ran it.
        """
        return cls(
            shard=shard.index,
            delivered=progress.delivered,
            failed=progress.failed,
            rejected=progress.rejected,
            newest_ms=progress.newest_ms,
            finished=progress.finished,
            attempts=attempts,
            seconds=seconds,
        )

    @property
    def events_per_second(self) -> float:
        """Mean rate, events/s."""
        return self.delivered / self.seconds if self.seconds > 0 else 0.0


class ProduceReport(BaseModel):
    """What a run sent.

    Attributes:
        spec: the run.
        shards: what each shard sent.
        delivered: events committed.
        failed: events whose transaction was aborted and that were sent again.
        rejected: events that can't be sent; each shard's process names its reject file in its log.
        seconds: from the first shard's dispatch to the last one's end, s.
    """

    spec: RunSpec
    shards: list[ShardReport]
    delivered: int
    failed: int
    seconds: float
    rejected: int = 0

    @classmethod
    def of(cls, spec: RunSpec, shards: Sequence[ShardReport]) -> ProduceReport:
        """Return the report of a run from those of its shards, of which there is at least one."""
        return cls(
            spec=spec,
            shards=list(shards),
            delivered=sum(shard.delivered for shard in shards),
            failed=sum(shard.failed for shard in shards),
            rejected=sum(shard.rejected for shard in shards),
            seconds=max(shard.seconds for shard in shards),
        )


def shard_rows(shards: Sequence[ShardReport]) -> list[dict[str, int | bool]]:
    """Return one row per shard for people; rejected events have a column where there are some."""
    rejected = any(shard.rejected for shard in shards)
    return [
        {
            "shard": shard.shard,
            "delivered": shard.delivered,
            "sent again": shard.failed,
            **({"rejected": shard.rejected} if rejected else {}),
            "events/s": round(shard.events_per_second),
            "processes": shard.attempts,
            "finished": shard.finished,
        }
        for shard in shards
    ]
