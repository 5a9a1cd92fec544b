"""Arrays that stand beside frames: numbers, flags, and the stretches of rows that belong to one partition."""

from __future__ import annotations

from itertools import pairwise

import numpy as np
import numpy.typing as npt

Ints = npt.NDArray[np.int64]
Mask = npt.NDArray[np.bool_]


def runs(partitions: npt.NDArray[np.int32]) -> list[tuple[int, int, int]]:
    """Return (partition, start, end) of each stretch of equal partitions."""
    if not len(partitions):
        return []
    if partitions[0] == partitions[-1] and np.all(partitions == partitions[0]):
        return [(int(partitions[0]), 0, len(partitions))]
    edges = [0, *(np.flatnonzero(np.diff(partitions)) + 1).tolist(), len(partitions)]
    return [(int(partitions[start]), start, end) for start, end in pairwise(edges)]
