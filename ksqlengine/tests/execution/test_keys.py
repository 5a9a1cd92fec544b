"""Keys as codes, tables as rows."""

from __future__ import annotations

import numpy as np
import polars as pl
from hypothesis import given, settings
from hypothesis import strategies as st

from ksqlengine.execution.keys import ABSENT, BAD, Keys
from ksqlengine.execution.rows import Rows
from ksqlengine.types.arrays import runs


def partitions(*numbers: int) -> np.ndarray:
    return np.array(numbers, dtype=np.int32)


def test_a_key_has_a_code_of_its_own_in_each_partition() -> None:
    keys = Keys(lambda key: True)
    codes = keys.codes([b"a", b"b", b"a", None], partitions(0, 0, 1, 1), add=True)
    assert codes.tolist() == [0, 1, 2, ABSENT]
    assert keys.codes([b"a", b"c"], partitions(0, 0), add=False).tolist() == [0, ABSENT]
    assert keys.bytes_of(codes[:3]) == [b"a", b"b", b"a"]


def test_bytes_that_are_no_key_are_told_apart_and_not_kept() -> None:
    keys = Keys(lambda key: key != b"\xff")
    assert keys.codes([b"\xff", b"a"], partitions(0, 0), add=True).tolist() == [BAD, 0]
    assert keys.codes([b"\xff", b"b"], partitions(0, 0), add=False).tolist() == [BAD, ABSENT]
    assert len(keys) == 1


def test_compacting_renumbers_and_a_dropped_partition_goes() -> None:
    keys = Keys(lambda key: True)
    keys.codes([b"a", b"b", b"c", b"a"], partitions(0, 0, 0, 1), add=True)
    keys.drop_partition(1)
    renumbered = keys.compact(np.array([True, False, True, False]))
    assert renumbered.tolist() == [0, ABSENT, 1, ABSENT]
    assert keys.codes([b"c", b"b"], partitions(0, 0), add=True).tolist() == [1, 2]


def test_runs_are_stretches_of_one_partition() -> None:
    assert runs(partitions()) == []
    assert runs(partitions(3, 3)) == [(3, 0, 2)]
    assert runs(partitions(3, 3, 5, 3)) == [(3, 0, 2), (5, 2, 3), (3, 3, 4)]


@given(
    st.lists(
        st.lists(st.tuples(st.integers(0, 2_000), st.one_of(st.none(), st.integers(0, 9))), max_size=8), max_size=20
    )
)
@settings(max_examples=100, deadline=None)
def test_rows_keep_the_last_version_of_each_code(batches: list[list[tuple[int, int | None]]]) -> None:
    rows = Rows({"V": pl.Int64()})
    expected: dict[int, int] = {}
    for batch in batches:
        codes = np.array([code for code, _ in batch], dtype=np.int64)
        frame = pl.DataFrame({"V": [value for _, value in batch]}, schema={"V": pl.Int64})
        rows.put(codes, frame, frame["V"].is_null().to_numpy())
        for code, value in batch:
            expected.pop(code, None)
            if value is not None:
                expected[code] = value
        assert len(rows) == len(expected)
    asked = np.array([*range(2_001), -1, 5_000_000])
    found = rows.find(asked)
    values = rows.take(found)["V"].to_list()
    assert {code: value for code, value in zip(asked.tolist(), values, strict=True) if value is not None} == expected


def test_old_versions_are_swept_out() -> None:
    rows = Rows({"V": pl.Int64()})
    codes = np.arange(1_000)
    for number in range(200):
        rows.put(codes, pl.DataFrame({"V": codes + number}))
    assert rows.stored() < 100_000
    assert rows.take(rows.find(np.array([5])))["V"].to_list() == [204]
