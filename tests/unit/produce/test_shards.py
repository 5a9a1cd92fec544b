"""Shards share a topic's partitions out, none twice and none left."""

from collections.abc import Callable

import pytest

from heartwatch.produce.shards import Shard, plan_shards, whole_shards


@pytest.mark.parametrize(("partitions", "processes"), [(8, 1), (8, 2), (8, 3), (30, 6), (1, 4), (5, 5)])
def test_each_partition_has_one_producer(partitions: int, processes: int) -> None:
    shards = plan_shards(partitions, processes)
    dealt = sorted(partition for shard in shards for partition in shard.partitions)
    assert dealt == list(range(partitions))
    assert all(shard.partitions for shard in shards)
    assert {shard.count for shard in shards} == {len(shards)}
    assert max(len(s.partitions) for s in shards) - min(len(s.partitions) for s in shards) <= 1


def test_whole_sends_everything_from_each_process() -> None:
    shards = whole_shards(4, 6)
    assert [shard.index for shard in shards] == list(range(6))
    assert {shard.partitions for shard in shards} == {(0, 1, 2, 3)}


@pytest.mark.parametrize("plan", [plan_shards, whole_shards])
@pytest.mark.parametrize(("partitions", "processes"), [(0, 1), (8, 0), (8, -1)])
def test_numbers_below_one_are_refused(
    plan: Callable[[int, int], list[Shard]], partitions: int, processes: int
) -> None:
    with pytest.raises(ValueError, match=f"partitions={partitions}"):
        plan(partitions, processes)
