"""Random numbers that depend on counters alone: any person's any moment can be computed by itself.

A draw is the SplitMix64 finaliser (Steele, Lea & Flood 2014, "Fast splittable pseudorandom number generators") over a key made
of the seed and a channel's name, and the given counters (a user id, a tick, …). So the same seed gives the same people and
events, however they are cut into chunks, batches or shards.
"""

from __future__ import annotations

import hashlib

import numpy as np
from numpy.typing import NDArray

Ints = NDArray[np.int64]
Floats = NDArray[np.float64]
Bits = NDArray[np.uint64]

_GOLDEN = np.uint64(0x9E3779B97F4A7C15)
_MULTIPLIERS = (np.uint64(0xBF58476D1CE4E5B9), np.uint64(0x94D049BB133111EB))
_SHIFTS = (np.uint64(30), np.uint64(27), np.uint64(31))
_HALF_WORD = np.uint64(0xFFFF)
_UNIT = 2.0**-53


def key(seed: int, channel: str) -> np.uint64:
    """Return the key of a channel: one independent sequence of draws a (seed, channel) pair."""
    digest = hashlib.blake2b(f"{seed}/{channel}".encode(), digest_size=8).digest()
    return np.uint64(int.from_bytes(digest, "little"))


def bits(start: np.uint64 | Bits, *counters: NDArray[np.integer]) -> Bits:
    """Return 64 random bits a row.

    Args:
        start: a channel's key, or earlier bits (a person's own sequence, say) to go on from.
        *counters: whole numbers, broadcast against each other.
    """
    state: Bits = np.asarray(start, dtype=np.uint64)
    for counter in counters:
        state = _mix(state + counter.astype(np.uint64) * _GOLDEN + _GOLDEN)
    return state


def uniform(start: np.uint64 | Bits, *counters: NDArray[np.integer]) -> Floats:
    """Return draws from [0, 1), with 53 random bits each."""
    return (bits(start, *counters) >> np.uint64(11)).astype(np.float64) * _UNIT


def normal(start: np.uint64 | Bits, *counters: NDArray[np.integer]) -> Floats:
    """Return draws with mean 0 and standard deviation 1, bell-shaped and never beyond ±3.47.

    The sum of four uniform 16-bit numbers (Irwin-Hall): no outlier, so that what is built on it keeps its bounds.
    """
    word = bits(start, *counters)
    total = word & _HALF_WORD
    for shift in (16, 32, 48):
        total = total + (word >> np.uint64(shift) & _HALF_WORD)
    return (total.astype(np.float64) - 2 * 65_535.0) * (np.sqrt(3.0) / 65_536.0)


def integers(low: int, high: int, start: np.uint64 | Bits, *counters: NDArray[np.integer]) -> Ints:
    """Return whole numbers from `low` to `high`, both included."""
    return low + (uniform(start, *counters) * (high - low + 1)).astype(np.int64)


def _mix(state: Bits) -> Bits:
    state ^= state >> _SHIFTS[0]
    state *= _MULTIPLIERS[0]
    state ^= state >> _SHIFTS[1]
    state *= _MULTIPLIERS[1]
    state ^= state >> _SHIFTS[2]
    return state
