"""A filter over a table's changes says of a key that its row is gone exactly where it had let one through."""

from __future__ import annotations

import numpy as np
import polars as pl
from hypothesis import given, settings
from hypothesis import strategies as st

from ksqlengine.execution.operators import DELETED, KEY
from ksqlengine.execution.table_operators import TableFilter
from ksqlengine.plan.steps import ROWPARTITION

Change = tuple[int, int | None]
CHANGES = st.lists(st.tuples(st.integers(0, 3), st.one_of(st.none(), st.integers(0, 3))), max_size=30)


def push(table_filter: TableFilter, changes: list[Change]) -> list[Change]:
    frame = pl.DataFrame(
        {
            KEY: pl.Series([key for key, _ in changes], dtype=pl.Int64),
            "V": pl.Series([value for _, value in changes], dtype=pl.Int64),
            DELETED: pl.Series([value is None for _, value in changes], dtype=pl.Boolean),
            ROWPARTITION: pl.Series([0] * len(changes), dtype=pl.Int32),
        }
    )
    rows = table_filter.push(frame).select(KEY, "V", DELETED).rows()
    return [(key, None if deleted else value) for key, value, deleted in rows]


def expected(changes: list[Change], continued: bool) -> list[Change]:
    rows: dict[int, int | None] = {}
    written: list[Change] = []
    for key, value in changes:
        kept = value if value is not None and value > 1 else None
        if kept is not None or rows.get(key, 0 if continued else None) is not None:
            written.append((key, kept))
        rows[key] = kept
    return written


@given(CHANGES, st.integers(0, 30), st.booleans())
@settings(deadline=None)
def test_however_the_changes_are_cut(changes: list[Change], cut: int, continued: bool) -> None:
    table_filter = TableFilter(pl.col("V") > 1)
    if continued:
        table_filter.go_on(0)
    assert push(table_filter, changes[:cut]) + push(table_filter, changes[cut:]) == expected(changes, continued)


def test_it_follows_new_numbers_and_forgets_partitions() -> None:
    table_filter = TableFilter(pl.col("V") > 1)
    push(table_filter, [(0, 0), (1, 5), (2, 5)])
    assert table_filter.live_codes().tolist() == [1, 2]
    table_filter.renumber(np.array([-1, 0, 1]))
    assert push(table_filter, [(0, 0), (1, 0), (2, 0)]) == [(0, None), (1, None)]
    push(table_filter, [(0, 5)])
    table_filter.forget(0, np.array([0, 1, 5000]))
    assert push(table_filter, [(0, 0)]) == []
