"""Pull queries show what the windows' store still has; the rows are those of a real server's answers."""

from __future__ import annotations

import struct

import numpy as np
import pyarrow as pa
import pytest

from kafkakit.batch_consumer import MessageBatch
from ksqlengine.plan.steps import Window, WindowKind
from ksqlengine.server.transient_stages import still_stored

FIRST = 1_700_000_000_000
TIMES = [0, 10, 20, 40, 70, 90, 100, 110]


def rows(keys: list[bytes], partitions: list[int]) -> MessageBatch:
    count = len(keys)
    return MessageBatch(
        topics=("t",),
        topic=np.zeros(count, np.int32),
        partition=np.array(partitions, np.int32),
        offset=np.arange(count),
        timestamp=np.zeros(count, np.int64),
        key=pa.array(keys, pa.large_binary()),
        value=pa.array([b"v"] * count, pa.large_binary()),
        headers=None,
    )


def time_of(seconds: int) -> bytes:
    return struct.pack(">q", FIRST + seconds * 1_000)


@pytest.mark.parametrize(
    ("retention_ms", "starts"), [(30_000, [90, 100, 110]), (None, [100, 110]), (86_400_000, TIMES)]
)
def test_windows_less_than_the_retention_behind_the_newest_are_shown(
    retention_ms: int | None, starts: list[int]
) -> None:
    window = Window(WindowKind.TUMBLING, 10_000, 10_000, 5_000, retention_ms)
    given = rows([b"a" + time_of(time) for time in TIMES], [0] * len(TIMES))
    assert still_stored(given, window).key.to_pylist() == [b"a" + time_of(time) for time in starts]


def test_each_partition_has_a_newest_window_of_its_own() -> None:
    window = Window(WindowKind.TUMBLING, 10_000, 10_000, 5_000)
    given = rows([b"a" + time_of(0), b"a" + time_of(50), b"b" + time_of(0)], [0, 0, 1])
    assert still_stored(given, window).key.to_pylist() == [b"a" + time_of(50), b"b" + time_of(0)]


def test_a_session_is_judged_by_its_end() -> None:
    window = Window(WindowKind.SESSION, 5_000, 5_000, 5_000)
    keys = [b"a" + time_of(end) + time_of(0) for end in (3, 60, 69, 70)]
    assert still_stored(rows(keys, [0] * 4), window).key.to_pylist() == keys[2:]


def test_an_empty_table_has_no_windows() -> None:
    assert len(still_stored(rows([], []), Window(WindowKind.TUMBLING, 1, 1, 1))) == 0
