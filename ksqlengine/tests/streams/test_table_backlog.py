"""Stream records that were there first meet the table as it was at their time, however they are cut into batches."""

from __future__ import annotations

from itertools import pairwise

import numpy as np
import pyarrow as pa
from hypothesis import given
from hypothesis import strategies as st

from kafkakit.batch_consumer import MessageBatch
from ksqlengine.streams.table_backlog import TableBacklog

Record = tuple[int, int]  # key, time

RECORDS = st.lists(st.tuples(st.integers(0, 3), st.integers(0, 20)), max_size=25)


def batch_of(records: list[Record], first: int) -> tuple[MessageBatch, np.ndarray]:
    count = len(records)
    times = np.array([time for _, time in records], dtype=np.int64)
    batch = MessageBatch(
        topics=("t",),
        topic=np.zeros(count, np.int32),
        partition=np.zeros(count, np.int32),
        offset=np.arange(first, first + count),
        timestamp=times,
        key=pa.array([bytes([key]) for key, _ in records], pa.large_binary()),
        value=pa.array([b"v"] * count, pa.large_binary()),
        headers=None,
    )
    return batch, times


def reference(stream: list[Record], table: list[Record]) -> list[int | None]:
    """Take whichever topic's next record is older, the table's first; return the table's offset that each stream record meets."""
    rows: dict[int, int] = {}
    met: list[int | None] = []
    next_row = 0
    for key, time in stream:
        while next_row < len(table) and table[next_row][1] <= time:
            rows[table[next_row][0]] = next_row
            next_row += 1
        met.append(rows.get(key))
    return met


def joined(stream: list[Record], table: list[Record], cuts: list[int], restart: bool) -> list[int | None]:
    rows: dict[bytes, int] = {}
    backlog = TableBacklog(len(stream))
    backlog.hold("t", *batch_of(table, 0))
    met: list[int | None] = []
    edges = sorted({0, len(stream), *(cut % (len(stream) + 1) for cut in cuts)})
    for begin, end in pairwise(edges):
        for piece, due in backlog.pieces(*batch_of(stream[begin:end], begin)):
            for taken in due.get("t", []):
                rows.update(zip(taken.key.to_pylist(), taken.offset.tolist(), strict=True))
            met += [rows.get(key) for key in piece.key.to_pylist()]
        if restart:
            applied = backlog.first_held("t")
            backlog = TableBacklog(len(stream), backlog.time)
            first = len(table) if applied is None else applied
            backlog.hold("t", *batch_of(table[first:], first))
    rest = [offset for taken in backlog.rest().get("t", []) for offset in taken.offset.tolist()]
    assert rest == list(range(len(table) - len(rest), len(table)))
    assert backlog.first_held("t") is None
    return met


@given(RECORDS, RECORDS, st.lists(st.integers(0, 30), max_size=4))
def test_each_record_meets_the_row_of_its_time(stream: list[Record], table: list[Record], cuts: list[int]) -> None:
    assert joined(stream, table, cuts, restart=False) == reference(stream, table)


@given(RECORDS, RECORDS, st.lists(st.integers(0, 30), max_size=4))
def test_a_restart_between_batches_changes_nothing(stream: list[Record], table: list[Record], cuts: list[int]) -> None:
    # A record that was not due is never judged by an older time afterwards: the largest time is kept.
    assert joined(stream, table, cuts, restart=True) == reference(stream, table)
