"""Keys in a wrong partition are found, with the partitioner that puts them there."""

from __future__ import annotations

from zlib import crc32

import numpy as np
import pyarrow as pa
import pytest

from heartwatch.events import Wrong
from heartwatch.verify.keys import judge_keys, sample_keys
from kafkakit.partitioning import partitions_of
from kafkakit.topic_reader import Records

PARTITIONS = 6


def records(keys: list[str | None], partitions: list[int]) -> Records:
    count = len(keys)
    binary = pa.array([None if key is None else key.encode() for key in keys], pa.large_binary())
    offsets = np.arange(count, dtype=np.int64)
    return Records(np.array(partitions, np.int32), offsets, offsets + 1_000, binary, binary)


def murmur2_places(keys: list[str], partitions: int = PARTITIONS) -> list[int]:
    return partitions_of(pa.array(keys), partitions).tolist()


KEYS = [str(number) for number in range(200)]


def test_keys_where_murmur2_puts_them_are_well() -> None:
    finding = judge_keys("t", sample_keys([records(KEYS, murmur2_places(KEYS))], PARTITIONS))
    assert (finding.event, finding.state) == (None, "200 sampled, all in their partition")


def test_records_without_a_key_belong_nowhere() -> None:
    assert sample_keys([records([None, "1"], [3, murmur2_places(["1"])[0]])], PARTITIONS).misplaced == ()


@pytest.mark.parametrize("keys", [["a"], ["a", "b"], KEYS])
def test_a_plain_librdkafka_client_is_told_by_its_partitioner(keys: list[str]) -> None:
    places = [crc32(key.encode()) % PARTITIONS for key in keys]
    sample = sample_keys([records(keys, places)], PARTITIONS)
    wrong = [key for key, place, right in zip(keys, places, murmur2_places(keys), strict=True) if place != right]
    assert sum(found.records for found in sample.misplaced) == len(wrong) > 0
    for found in sample.misplaced:
        assert found.partitioner.startswith("librdkafka's default partitioner")
    finding = judge_keys("t", sample)
    assert finding.event is Wrong.KEYS_MISPLACED
    assert "murmur2_random" in finding.sentence


def test_a_producer_that_knew_fewer_partitions_is_found_without_a_wrong_guess() -> None:
    sample = sample_keys([records(KEYS, murmur2_places(KEYS, 4))], PARTITIONS)
    assert sample.misplaced
    assert {found.partitioner for found in sample.misplaced} == {""}
    assert "by no partitioner that is known here" in judge_keys("t", sample).sentence


def test_the_place_is_named() -> None:
    right = murmur2_places(["7"])[0]
    partition = (right + 1) % PARTITIONS
    [found] = sample_keys([records(["7", "7"], [partition, partition])], PARTITIONS).misplaced
    assert (found.partition, found.records, found.keys, found.examples) == (partition, 2, 1, (("7", right),))
    assert (found.first_offset, found.last_offset, found.last_timestamp) == (0, 1, 1_001)


def test_sarama_places_by_the_signed_hash() -> None:
    # FNV-1a of "a" is 0xE40C292C: -468,965,076 as a signed number, whose remainder by 6 is 0 without its sign.
    [found] = sample_keys([records(["a"], [0])], PARTITIONS).misplaced
    assert found.partitioner.startswith("Sarama")


def test_a_repartitioned_stream_misses_nobody() -> None:
    places = [crc32(key.encode()) % PARTITIONS for key in KEYS]
    finding = judge_keys("t", sample_keys([records(KEYS, places)], PARTITIONS), repartitioned=True)
    assert finding.event is None
    assert "repartitions them" in finding.state
