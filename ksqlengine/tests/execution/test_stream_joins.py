"""Joins of two streams give what Kafka Streams' algorithm, done row by row, gives, however the input is cut or read again."""

from __future__ import annotations

from dataclasses import dataclass, field
from itertools import pairwise
from typing import Any

import numpy as np
import polars as pl
import pytest

from ksqlengine.execution.joins import JoinWindow, StreamStreamJoin
from ksqlengine.execution.keys import Keys
from ksqlengine.execution.operators import KEY, SIDE
from ksqlengine.plan.steps import ROWOFFSET, ROWPARTITION, ROWTIME, JoinKind

Row = tuple[int, int, int, int]  # side, key code, time, offset
Pair = tuple[int | None, int | None, int]  # left row, right row, time of the result
KEYS = [b"d", b"a", b"c", b"b"]


def rows_of(seed: int, count: int) -> list[Row]:
    rng = np.random.default_rng(seed)
    times = (
        np.cumsum(rng.integers(0, 4_000, count)) - rng.integers(0, 60_000, count) * (rng.random(count) < 0.3) + 60_000
    )
    drawn = zip(rng.integers(0, 2, count), rng.integers(0, len(KEYS), count), times, strict=True)
    return [(int(side), int(key), int(time) // 1_000 * 1_000, offset) for offset, (side, key, time) in enumerate(drawn)]


@dataclass
class RowByRow:
    """Kafka Streams' join, a record at a time."""

    window: JoinWindow
    kind: JoinKind
    stores: tuple[list[Row], list[Row]] = field(default_factory=lambda: ([], []))
    store_times: list[int] = field(default_factory=lambda: [-1, -1])
    waiting: list[Row] = field(default_factory=list)
    stream_time: int = -1

    def oldest(self, side: int) -> int:
        return int(self.window.oldest(np.array([self.store_times[side]]))[0])

    def push(self, row: Row) -> list[Pair]:
        side, key, time, _ = row
        self.store_times[side] = max(self.store_times[side], time)
        if time >= self.oldest(side):
            self.stores[side].append(row)
        self.stream_time = max(self.stream_time, time)
        results = self.closed() if time == self.stream_time else []
        before, after = self.window.reach(side)
        matches = [
            other
            for other in sorted(self.stores[1 - side], key=lambda one: (one[2], one[3]))
            if other[1] == key and time - before <= other[2] <= time + after and other[2] >= self.oldest(1 - side)
        ]
        for other in matches:
            self.waiting = [one for one in self.waiting if one != other]
            results.append(self.pair(row, other))
        if not matches and (self.kind.keeps_left, self.kind.keeps_right)[side]:
            if self.window.grace_ms is None or time + after < self.stream_time:
                results.append(self.pair(row, None))
            else:
                self.waiting.append(row)
        return results

    def closed(self) -> list[Pair]:
        ready = [
            row
            for row in self.waiting
            if row[2] + self.window.reach(row[0])[1] + (self.window.grace_ms or 0) < self.stream_time
        ]
        self.waiting = [row for row in self.waiting if row not in ready]
        return [
            self.pair(row, None) for row in sorted(ready, key=lambda one: (one[2], one[0] == 0, KEYS[one[1]], one[3]))
        ]

    @staticmethod
    def pair(row: Row, other: Row | None) -> Pair:
        ids: list[int | None] = [None, None]
        ids[row[0]] = row[3]
        if other is not None:
            ids[other[0]] = other[3]
        return ids[0], ids[1], max(row[2], other[2] if other is not None else -1)


def join_of(window: JoinWindow, kind: JoinKind) -> StreamStreamJoin:
    keys = Keys(lambda key: True)
    keys.codes(KEYS, np.zeros(len(KEYS), np.int32), True)
    return StreamStreamJoin(window, kind, ({"L": pl.Int64()}, {"R": pl.Int64()}), keys)


def frame_of(rows: list[Row]) -> pl.DataFrame:
    sides, codes, times, offsets = (list(column) for column in zip(*rows, strict=True))
    columns: dict[str, Any] = {
        "L": pl.Series(offsets, dtype=pl.Int64),
        "R": pl.Series(offsets, dtype=pl.Int64),
        ROWTIME: pl.Series(times, dtype=pl.Int64),
        ROWPARTITION: pl.Series([0] * len(rows), dtype=pl.Int32),
        ROWOFFSET: pl.Series(offsets, dtype=pl.Int64),
        KEY: pl.Series(codes, dtype=pl.Int64),
        SIDE: pl.Series(sides, dtype=pl.Int32),
    }
    return pl.DataFrame(columns)


def push(join: StreamStreamJoin, rows: list[Row]) -> list[Pair]:
    results = join.settle(join.push(frame_of(rows))) if rows else pl.DataFrame()
    return results.select("L", "R", ROWTIME).rows() if len(results) else []


WINDOWS = [JoinWindow(10_000, 10_000, None), JoinWindow(5_000, 20_000, 0), JoinWindow(30_000, 30_000, 20_000)]


@pytest.mark.parametrize("kind", JoinKind)
@pytest.mark.parametrize("window", WINDOWS, ids=str)
@pytest.mark.parametrize("seed", [1, 2])
def test_results_are_those_of_the_algorithm_row_by_row(window: JoinWindow, kind: JoinKind, seed: int) -> None:
    rows = rows_of(seed, 400)
    reference, join = RowByRow(window, kind), join_of(window, kind)
    expected = [pair for row in rows for pair in reference.push(row)]
    cuts = sorted({0, len(rows), *np.random.default_rng(seed).integers(0, len(rows), 6).tolist()})
    found = [pair for start, end in pairwise(cuts) for pair in push(join, rows[start:end])]
    assert len(expected) > 100
    assert found == expected


@pytest.mark.parametrize("kind", [JoinKind.LEFT, JoinKind.OUTER])
@pytest.mark.parametrize("window", WINDOWS, ids=str)
@pytest.mark.parametrize("position", [50, 133, 271])
def test_reading_again_from_the_needed_offset_gives_the_rest_and_nothing_twice(
    window: JoinWindow, kind: JoinKind, position: int
) -> None:
    rows = rows_of(3, 400)
    whole, first, second = join_of(window, kind), join_of(window, kind), join_of(window, kind)
    expected = push(whole, rows)
    begun = push(first, rows[:position])
    needed = first.windowing.needed_offset(0)
    start = position if needed is None else needed
    second.windowing.times.advance(0, first.windowing.resume_time(0))
    second.seen_before[0] = position
    rest = push(second, rows[start : position + 7]) + push(second, rows[position + 7 :])
    assert begun + rest == expected
