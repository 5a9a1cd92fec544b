"""The Java client's default partitioner for records with keys, a column at a time.

Source: ``org.apache.kafka.common.utils.Utils.murmur2`` (seed 0x9747b28c) and ``toPositive`` (mask of the sign bit). librdkafka's
``murmur2`` and ``murmur2_random`` partitioners give the same numbers.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
import pyarrow as pa

_SEED = 0x9747B28C
_M = np.uint32(0x5BD1E995)
_R = np.uint32(24)


def murmur2(keys: pa.Array) -> npt.NDArray[np.uint32]:
    """Hash keys as the Java client does.

    Args:
        keys: text or binary array without nulls; text is hashed as UTF-8.

    Returns:
        one 32-bit hash a key.

    Raises:
        ValueError: a key is null (the Java client spreads such records freely, they have no partition of their own).
    """
    if keys.null_count:
        raise ValueError(
            f"{keys.null_count} of {len(keys)} keys are null; records without a key have no fixed partition"
        )
    binary = keys.cast(pa.large_binary())
    starts, data = _buffers(binary)
    lengths = np.diff(starts)
    hashes = np.empty(len(binary), dtype=np.uint32)
    # Keys of one length are hashed together: the same steps for all of them, without a loop over keys.
    for length in np.unique(lengths):
        rows = np.flatnonzero(lengths == length)
        positions = starts[rows][:, None] + np.arange(length)[None, :]
        hashes[rows] = _hash_equal_lengths(data[positions].reshape(len(rows), int(length)))
    return hashes


def partitions_of(keys: pa.Array, partitions: int) -> npt.NDArray[np.int32]:
    """Return the partition of each key in a topic of `partitions` partitions (see `murmur2`)."""
    if partitions < 1:
        raise ValueError(f"partitions={partitions!r} must be at least 1")
    positive = murmur2(keys) & np.uint32(0x7FFFFFFF)
    return (positive % np.uint32(partitions)).astype(np.int32)


def _buffers(binary: pa.LargeBinaryArray) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.uint8]]:
    _, offsets, data = binary.buffers()
    starts = np.frombuffer(offsets, dtype=np.int64)[binary.offset : binary.offset + len(binary) + 1]
    return starts, np.frombuffer(data if data is not None else b"", dtype=np.uint8)


def _hash_equal_lengths(rows: npt.NDArray[np.uint8]) -> npt.NDArray[np.uint32]:
    count, length = rows.shape
    with np.errstate(over="ignore"):
        hashes = np.full(count, _SEED ^ length, dtype=np.uint32)
        words = np.ascontiguousarray(rows[:, : length // 4 * 4]).view("<u4")
        for column in range(words.shape[1]):
            word = words[:, column] * _M
            word ^= word >> _R
            hashes = (hashes * _M) ^ (word * _M)
        tail = rows[:, length // 4 * 4 :].astype(np.uint32)
        if tail.shape[1]:
            for position in range(tail.shape[1]):
                hashes ^= tail[:, position] << np.uint32(8 * position)
            hashes *= _M
        hashes ^= hashes >> np.uint32(13)
        hashes *= _M
        hashes ^= hashes >> np.uint32(15)
    return hashes
