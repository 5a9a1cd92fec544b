"""Small array tools."""

from __future__ import annotations

import numpy as np

from heartwatch.simulate.draws import Ints


def spread(first: Ints, last: Ints) -> tuple[Ints, Ints]:
    """Return, for each row, the whole numbers from its first to its last, and for each of them the row's number."""
    count = np.maximum(last - first + 1, 0)
    row = np.repeat(np.arange(len(first), dtype=np.int64), count)
    within = np.arange(len(row), dtype=np.int64) - np.repeat(np.cumsum(count) - count, count)
    return row, first[row] + within
