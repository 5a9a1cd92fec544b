"""Which partitions each producer process sends to.

Shards are cut by partition rather than by user or by row: a partition then has one producer, so its event times stay in order
and a shard that stops early makes no other shard's events late.
"""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Shard:
    """A producer process's share.

    Attributes:
        index: number of the shard, from 0.
        count: how many shards the run has.
        partitions: partitions of the topic of the events that it sends to, ascending.
    """

    index: int
    count: int
    partitions: tuple[int, ...]


def plan_shards(partitions: int, processes: int) -> list[Shard]:
    """Deal a topic's partitions out to producer processes, one in turn each.

    Args:
        partitions: partitions of the topic.
        processes: producer processes wanted; more than there are partitions would have nothing to send and are left out.

    Raises:
        ValueError: a number is below 1.
    """
    if partitions < 1 or processes < 1:
        raise ValueError(f"partitions={partitions!r} and processes={processes!r} must both be at least 1")
    count = min(partitions, processes)
    return [Shard(index, count, tuple(range(index, partitions, count))) for index in range(count)]


def whole_shards(partitions: int, processes: int) -> list[Shard]:
    """Return shards that each send to every partition, as the original's producers did.

    Raises:
        ValueError: a number is below 1.
    """
    if partitions < 1 or processes < 1:
        raise ValueError(f"partitions={partitions!r} and processes={processes!r} must both be at least 1")
    return [Shard(index, processes, tuple(range(partitions))) for index in range(processes)]
