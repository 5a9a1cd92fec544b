"""Sessions against Kafka Streams' algorithm, record by record, and against themselves after a restart and in other batches."""

from __future__ import annotations

import random
from dataclasses import dataclass, field, replace
from itertools import pairwise

import polars as pl
import pytest

from ksqlengine.execution.operators import DELETED, KEY, Counters
from ksqlengine.execution.session_windows import SessionWindows
from ksqlengine.execution.windows import Aggregates
from ksqlengine.plan.steps import ROWOFFSET, ROWPARTITION, ROWTIME, WINDOWEND, WINDOWSTART, Window, WindowKind

GAP, GRACE = 5, 4
WINDOW = Window(WindowKind.SESSION, GAP, GAP, GRACE)
LISTED = Aggregates(
    inputs=("V",),
    partial=(pl.col("V").implode().alias("vs"),),
    merge=(pl.col("vs").explode().implode().alias("vs"),),
    result=(pl.col("vs").alias("VS"),),
)
Row = tuple[int, int, int, int]  # partition, offset, time, key
Output = tuple[int, int, int, tuple[int, ...] | None]  # key, start, end, offsets of the records (None: deleted)


def sessions(final: bool, retention_ms: int | None = None) -> SessionWindows:
    window = replace(WINDOW, retention_ms=retention_ms)
    return SessionWindows(window, LISTED, {"vs": pl.List(pl.Int64)}, Counters(), final)


def push(subject: SessionWindows, rows: list[Row]) -> list[Output]:
    frame = pl.DataFrame(
        rows, schema={ROWPARTITION: pl.Int32, ROWOFFSET: pl.Int64, ROWTIME: pl.Int64, KEY: pl.Int64}, orient="row"
    ).with_columns(pl.col(ROWOFFSET).alias("V"))
    found = subject.settle(subject.push(frame))
    if not len(found):
        return []
    deleted = found[DELETED].to_list() if DELETED in found.columns else [False] * len(found)
    columns = (
        found[KEY].to_list(),
        found[WINDOWSTART].to_list(),
        found[WINDOWEND].to_list(),
        found["VS"].to_list(),
        deleted,
    )
    return [(k, s, e, None if gone else tuple(vs)) for k, s, e, vs, gone in zip(*columns, strict=True)]


@dataclass
class Reference:
    """KStreamSessionWindowAggregate; its store hides sessions that end the retention before the newest."""

    final: bool
    kept_ms: int = GAP + GRACE
    time: int = -1
    late: int = 0
    store: dict[tuple[int, int, int], tuple[int, ...]] = field(default_factory=dict)
    final_already: set[tuple[int, int, int]] = field(default_factory=set)

    def push(self, row: Row) -> list[Output]:
        _, offset, time, key = row
        self.time = max(self.time, time)
        close = self.time - GAP - GRACE
        near = [one for one in self.store if one[0] == key and one[2] >= time - GAP and one[1] <= time + GAP]
        near.sort(key=lambda one: one[2])
        start, end = min([time, *(one[1] for one in near)]), max([time, *(one[2] for one in near)])
        out: list[Output] = []
        if end < close:
            self.late += 1
        else:
            values: tuple[int, ...] = sum((self.store[one] for one in near), ())
            for one in near:
                del self.store[one]
                if (start, end) != (time, time):
                    out.append((*one, None))
            self.store[key, start, end] = (*values, offset)
            out.append((key, start, end, (*values, offset)))
            self.final_already.discard((key, start, end))
        due = [one for one in sorted(self.store) if one[2] <= close and one not in self.final_already]
        closed = [(*one, self.store[one]) for one in due]
        self.final_already |= set(due)
        self.store = {one: values for one, values in self.store.items() if one[2] > self.time - self.kept_ms}
        return closed if self.final else out


def rows_of(seed: int, count: int = 60) -> list[Row]:
    draw = random.Random(seed)
    now, rows = 0, []
    for offset in range(count):
        now += draw.choice((0, 0, 1, 2, 3, 9))
        rows.append((0, offset, max(0, now - draw.choice((0, 0, 0, 2, 5, 9, 12, 20))), draw.randrange(2)))
    return rows


SEEDS = range(6)


@pytest.mark.parametrize("retention_ms", [None, 20])
@pytest.mark.parametrize("final", [False, True])
@pytest.mark.parametrize("seed", SEEDS)
def test_record_by_record_it_is_kafka_streams(seed: int, final: bool, retention_ms: int | None) -> None:
    subject, reference = sessions(final, retention_ms), Reference(final, retention_ms or GAP + GRACE)
    for row in rows_of(seed):
        assert sorted(push(subject, [row]), key=str) == sorted(reference.push(row), key=str), row
    assert subject._counters.late == reference.late


def chunks(rows: list[Row], draw: random.Random) -> list[list[Row]]:
    cuts = sorted({0, len(rows), *(draw.randrange(len(rows)) for _ in range(6))})
    return [rows[start:end] for start, end in pairwise(cuts)]


@pytest.mark.parametrize("retention_ms", [None, 20])
@pytest.mark.parametrize("seed", SEEDS)
def test_final_sessions_do_not_depend_on_the_batches(seed: int, retention_ms: int | None) -> None:
    rows, draw = rows_of(seed), random.Random(seed)
    whole, parts = sessions(True, retention_ms), sessions(True, retention_ms)
    one_by_one = [out for row in rows for out in push(whole, [row])]
    assert sorted(out for chunk in chunks(rows, draw) for out in push(parts, chunk)) == sorted(one_by_one)
    assert parts._counters.late == whole._counters.late


@pytest.mark.parametrize("seed", SEEDS)
def test_changes_in_batches_come_to_the_same_table(seed: int) -> None:
    rows, draw = rows_of(seed), random.Random(seed)
    whole, parts = sessions(False), sessions(False)
    assert table(out for row in rows for out in push(whole, [row])) == table(
        out for chunk in chunks(rows, draw) for out in push(parts, chunk)
    )


def table(outputs: object) -> dict[tuple[int, int, int], tuple[int, ...]]:
    rows: dict[tuple[int, int, int], tuple[int, ...]] = {}
    for key, start, end, values in outputs:  # type: ignore[attr-defined]
        if values is None:
            del rows[key, start, end]
        else:
            rows[key, start, end] = values
    return rows


@pytest.mark.parametrize("retention_ms", [None, 20])
@pytest.mark.parametrize("final", [False, True])
@pytest.mark.parametrize("seed", SEEDS)
def test_a_restart_loses_and_repeats_nothing(seed: int, final: bool, retention_ms: int | None) -> None:
    rows, draw = rows_of(seed), random.Random(seed)
    whole = sessions(final, retention_ms)
    wanted = [out for row in rows for out in push(whole, [row])]
    stops = sorted(draw.sample(range(1, len(rows)), 3))
    subject, got, begin = sessions(final, retention_ms), [], 0
    for stop in [*stops, len(rows)]:
        for row in rows[begin:stop]:
            got += push(subject, [row])
        needed = subject.windowing.needed_offset(0)
        time = subject.windowing.resume_time(0)
        begin = stop if needed is None else needed
        subject = sessions(final, retention_ms)
        subject.windowing.times.advance(0, time)
        subject.seen_before[0] = stop
    assert got == wanted


@pytest.mark.parametrize(("retention_ms", "batch", "lost"), [(None, 1, 2), (None, 9, 2), (3_600_000, 1, 0)])
def test_sessions_that_left_the_store_before_the_look_are_lost(retention_ms: int | None, batch: int, lost: int) -> None:
    # The records and results of a real ksqlDB server that looked at every record.
    window = Window(WindowKind.SESSION, 5_000, 5_000, 3_000, retention_ms)
    subject = SessionWindows(window, LISTED, {"vs": pl.List(pl.Int64)}, Counters(), final=True)
    first = 1_700_000_000_000
    times = [(0, 1), (4_000, 1), (9_000, 2), (16_000, 1), (36_000, 2), (90_000, 1), (200_000, 1)]
    rows = [(0, offset, first + time, key) for offset, (time, key) in enumerate(times)]
    found = [out for begin in range(0, len(rows), batch) for out in push(subject, rows[begin : begin + batch])]
    kept = [(1, 0, 4_000), (2, 9_000, 9_000), (1, 16_000, 16_000), (2, 36_000, 36_000), (1, 90_000, 90_000)]
    assert sorted((key, start - first, end - first) for key, start, end, _ in found) == sorted(kept[: 5 - lost])
    assert subject._counters.let_go == lost
