"""murmur2 against the vectors of Kafka's own test (UtilsTest.testMurmur2), and against a byte-by-byte computation."""

from __future__ import annotations

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from kafkakit.partitioning import murmur2, partitions_of

VECTORS = {
    "21": -973932308,
    "foobar": -790332482,
    "a-little-bit-long-string": -985981536,
    "a-little-bit-longer-string": -1486304829,
    "lkjh234lh9fiuh90y23oiuhsafujhadof229phr9h19h89h8": -58897971,
    "abc": 479470107,
}


def scalar_murmur2(data: bytes) -> int:
    """Follow Utils.murmur2 step by step."""
    mask, m = 0xFFFFFFFF, 0x5BD1E995
    h = 0x9747B28C ^ len(data)
    for start in range(0, len(data) // 4 * 4, 4):
        k = int.from_bytes(data[start : start + 4], "little") * m & mask
        k = (k ^ (k >> 24)) * m & mask
        h = (h * m & mask) ^ k
    tail = data[len(data) // 4 * 4 :]
    if tail:
        h = (h ^ int.from_bytes(tail, "little")) * m & mask
    h = (h ^ (h >> 13)) * m & mask
    return h ^ (h >> 15)


def test_vectors_of_kafkas_own_test() -> None:
    assert murmur2(pa.array(list(VECTORS))).astype(np.int32).tolist() == list(VECTORS.values())


@settings(deadline=None, derandomize=True)
@given(st.lists(st.binary(max_size=40), max_size=30))
def test_columns_hash_as_single_keys_do(keys: list[bytes]) -> None:
    assert murmur2(pa.array(keys, pa.binary())).tolist() == [scalar_murmur2(key) for key in keys]


def test_slices_and_partitions() -> None:
    keys = pa.array([str(number) for number in range(1000)])
    whole = partitions_of(keys, 8)
    assert set(whole.tolist()) == set(range(8))
    assert partitions_of(keys.slice(100, 50), 8).tolist() == whole[100:150].tolist()


def test_null_keys_and_no_partitions_are_refused() -> None:
    with pytest.raises(ValueError, match="1 of 2 keys are null"):
        murmur2(pa.array(["a", None]))
    with pytest.raises(ValueError, match="partitions=0"):
        partitions_of(pa.array(["a"]), 0)
