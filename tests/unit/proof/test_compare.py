"""What is compared in order, without a join, comes out as it does with one; and times are judged a part at a time as at once."""

from __future__ import annotations

from collections.abc import Set

import numpy as np
import polars as pl
from hypothesis import given, settings
from hypothesis import strategies as st

from heartwatch.proof.compare import judge, on_the_way
from heartwatch.proof.hashes import KEYS, ROW_SCHEMA, in_order, off_times, within

NO_DEAD = pl.DataFrame(schema={"partition": pl.Int32, "offset": pl.Int64})
PLACES = st.sets(st.tuples(st.integers(0, 2), st.integers(0, 8)), max_size=20)


def rows(
    places: Set[tuple[int, int]],
    changed: Set[tuple[int, int]] = frozenset(),
    untimed: Set[tuple[int, int]] = frozenset(),
) -> pl.DataFrame:
    """Return rows in order whose contents follow from their place, but those that are changed or have no time."""
    data = [(p, o, (99 if (p, o) in changed else o) + p, None if (p, o) in untimed else o) for p, o in places]
    return in_order(pl.DataFrame(data, schema=ROW_SCHEMA, orient="row"))


@given(kafka=PLACES, left_out=PLACES, changed=PLACES, untimed=PLACES)
@settings(deadline=None)
def test_rows_by_place_are_judged_as_by_a_join(
    kafka: set[tuple[int, int]],
    left_out: set[tuple[int, int]],
    changed: set[tuple[int, int]],
    untimed: set[tuple[int, int]],
) -> None:
    of_kafka = rows(kafka).with_columns(kind=pl.lit(0, pl.Int8))
    of_sink = rows(kafka - left_out, changed, untimed)
    # Rows that are there twice need the join; these are in a partition of their own.
    doubled = rows({(9, 0)})
    by_place = judge(of_kafka, of_sink, NO_DEAD)
    joined = judge(of_kafka, pl.concat([of_sink, doubled, doubled]), NO_DEAD)
    assert joined.filter(pl.col("partition") == 9)["duplicates"].to_list() == [1]
    assert by_place.equals(joined.filter(pl.col("partition") != 9))
    assert by_place.filter("missing").select(KEYS).rows() == sorted(kafka & left_out)
    assert by_place.filter("changed").select(KEYS).rows() == sorted((kafka - left_out) & changed)


def test_a_partition_that_was_added_during_a_check_is_on_the_way() -> None:
    judged = judge(rows({(0, 1), (0, 7), (1, 2), (1, 3)}).with_columns(kind=pl.lit(0, pl.Int8)), rows(set()), NO_DEAD)
    assert on_the_way(judged, {0: 5}) == {0: 7, 1: 2}


@given(places=PLACES, partition=st.integers(0, 3), begin=st.integers(0, 9), length=st.integers(0, 9))
def test_rows_of_a_span_are_those_of_a_filter(
    places: set[tuple[int, int]], partition: int, begin: int, length: int
) -> None:
    found = within(rows(places), partition, begin, begin + length)
    assert found.select(KEYS).rows() == sorted(
        one for one in places if one[0] == partition and begin <= one[1] < begin + length
    )


def test_times_are_judged_by_those_around_them_however_many_there_are() -> None:
    times = np.arange(45_000, dtype=np.int64) * 1_000
    # Near the beginning, on both sides of a part's border, and near the end.
    wrong = [60, 9_999, 10_000, 20_037, 44_940]
    times[wrong] += 3_600_000
    assert np.flatnonzero(off_times(times, 1_800)).tolist() == wrong
    assert not off_times(np.sort(times), 1_800).any(), "time that goes on is not wrong, whatever it spans"
    assert not off_times(times[:0], 1_800).any()
