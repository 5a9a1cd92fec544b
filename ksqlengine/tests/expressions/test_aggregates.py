"""Aggregates: values, NULL rules, and that merged parts give what the whole gives."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import polars as pl
import pytest

from ksqlengine.expressions.aggregates import AGGREGATES, Aggregate, bind, check_call
from ksqlengine.expressions.base import ColumnExpression as Column
from ksqlengine.expressions.base import TypedExpression
from ksqlengine.expressions.structures import NewArray
from ksqlengine.plan.steps import AggregateCall
from ksqlengine.types.errors import StatementError
from ksqlengine.types.sqltypes import BIGINT, DOUBLE, INTEGER, STRING, ArrayType, DecimalType, SqlType

N, L, D, S = Column(INTEGER, "i"), Column(BIGINT, "l"), Column(DOUBLE, "d"), Column(STRING, "s")
PAIR = NewArray(ArrayType(element=INTEGER), (N, N))
FRAME = pl.DataFrame(
    {
        "key": [1, 1, 2, 1, 2, 2, 3],
        "part": [0, 0, 0, 1, 1, 1, 1],
        "i": [1, 2, 3, None, 5, 6, None],
        "l": [1, 2, 3, None, 5, 6, None],
        "s": ["a", "b", None, "a", "c", "c", None],
        "d": [1.0, 2.5, 3.0, 4.0, 5.0, 7.0, None],
    },
    schema={"key": pl.Int64, "part": pl.Int64, "i": pl.Int32, "l": pl.Int64, "s": pl.String, "d": pl.Float64},
)  # fmt: skip
NOTHING: list[Any] = []


def call(function: str, arguments: tuple[TypedExpression, ...], constants: tuple[Any, ...] = ()) -> AggregateCall:
    type_ = check_call(function, [one.type for one in arguments], list(constants), "")
    return AggregateCall("out", function, arguments, type_, constants)


def results(aggregate: Aggregate, states: pl.DataFrame) -> list[Any]:
    assert dict(states.schema) == {"key": pl.Int64, **aggregate.states}
    return states.sort("key").select(aggregate.result).to_series().to_list()


CASES: list[tuple[str, tuple[TypedExpression, ...], tuple[Any, ...], SqlType | str, list[Any]]] = [
    ("COUNT", (), (), BIGINT, [3, 3, 1]),
    ("COUNT", (N,), (), BIGINT, [2, 3, 0]),
    ("SUM", (N,), (), INTEGER, [3, 14, 0]),
    ("SUM", (L,), (), BIGINT, [3, 14, 0]),
    ("SUM", (D,), (), DOUBLE, [7.5, 15.0, 0.0]),
    ("SUM_LIST", (PAIR,), (), INTEGER, [6, 28, 0]),
    ("AVG", (N,), (), DOUBLE, [1.5, 14 / 3, 0.0]),
    ("AVG", (D,), (), DOUBLE, [2.5, 5.0, 0.0]),
    ("MIN", (S,), (), STRING, ["a", "c", None]),
    ("MAX", (D,), (), DOUBLE, [4.0, 7.0, None]),
    ("STDDEV_SAMP", (L,), (), DOUBLE, [0.5, 7 / 3, 0.0]),
    ("STDDEV_SAMPLE", (L,), (), DOUBLE, [0.5**0.5, (7 / 3) ** 0.5, 0.0]),
    ("COUNT_DISTINCT", (S,), (), BIGINT, [2, 1, 0]),
    ("COLLECT_LIST", (S,), (), "ARRAY<STRING>", [["a", "b", "a"], [None, "c", "c"], [None]]),
    ("COLLECT_LIST", (N,), (), "ARRAY<INTEGER>", [[1, 2, None], [3, 5, 6], [None]]),
    ("COLLECT_SET", (S,), (), "ARRAY<STRING>", [["a", "b"], [None, "c"], [None]]),
    ("TOPK", (N,), (2,), "ARRAY<INTEGER>", [[2, 1], [6, 5], NOTHING]),
    ("TOPKDISTINCT", (S,), (2,), "ARRAY<STRING>", [["b", "a"], ["c"], NOTHING]),
    ("LATEST_BY_OFFSET", (N,), (), INTEGER, [2, 6, None]),
    ("LATEST_BY_OFFSET", (N,), (False,), INTEGER, [None, 6, None]),
    ("LATEST_BY_OFFSET", (N,), (2,), "ARRAY<INTEGER>", [[1, 2], [5, 6], NOTHING]),
    ("EARLIEST_BY_OFFSET", (S,), (), STRING, ["a", "c", None]),
    ("EARLIEST_BY_OFFSET", (S,), (2, False), "ARRAY<STRING>", [["a", "b"], [None, "c"], [None]]),
    ("ATTR", (S,), (), STRING, [None, None, None]),
]


@pytest.mark.parametrize(("function", "arguments", "constants", "type_", "wanted"), CASES)
def test_values_and_that_parts_give_the_whole(
    function: str, arguments: tuple[TypedExpression, ...], constants: tuple[Any, ...], type_: Any, wanted: list[Any]
) -> None:
    one = call(function, arguments, constants)
    assert str(one.type) == str(type_)
    aggregate = bind(one)
    whole = FRAME.group_by("key", maintain_order=True).agg(*aggregate.partial)
    parts = pl.concat(
        [part.group_by("key", maintain_order=True).agg(*aggregate.partial) for part in FRAME.partition_by("part")]
    )
    merged = parts.group_by("key", maintain_order=True).agg(*aggregate.merge)
    found = results(aggregate, whole)
    close = type_ is DOUBLE
    assert found == (pytest.approx(wanted) if close else wanted)
    assert results(aggregate, merged) == (pytest.approx(found) if close else found)


def one_group(function: str, arguments: tuple[TypedExpression, ...], rows: pl.DataFrame, *constants: Any) -> list[Any]:
    """Return the result after each row, states merged one by one."""
    aggregate = bind(call(function, arguments, constants))
    state: pl.DataFrame | None = None
    seen = []
    for row in rows.iter_slices(1):
        new = row.group_by(pl.lit(1).alias("key")).agg(*aggregate.partial)
        state = new if state is None else pl.concat([state, new]).group_by("key").agg(*aggregate.merge)
        seen.append(state.select(aggregate.result).item())
    return seen


def test_the_deviations_are_ksqldbs() -> None:
    rows = pl.DataFrame({"i": [0, 10, 7, 6]}, schema={"i": pl.Int32})
    deviation = one_group("STDDEV_SAMPLE", (N,), rows)
    assert deviation == pytest.approx([0.0, 7.0710678118654755, 5.131601439446884, 4.193248541803041])
    assert one_group("STDDEV_SAMP", (N,), rows)[1] == pytest.approx(50.0)  # the variance, as in ksqlDB


def test_a_correlation() -> None:
    rows = pl.DataFrame({"k": [1, 2, 3, 4], "l": [2, 4, 6, 7]})
    assert one_group("CORRELATION", (replace(L, name="k"), L), rows)[3] == pytest.approx(8.5 / (5 * 14.75) ** 0.5)


def test_a_sum_of_integers_wraps() -> None:
    rows = pl.DataFrame({"i": [2147483647, 1]}, schema={"i": pl.Int32})
    assert one_group("SUM", (N,), rows) == [2147483647, -2147483648]


def test_an_average_of_bigints_adds_up_in_bigint() -> None:
    rows = pl.DataFrame({"l": [2**62, 2**62]})
    assert one_group("AVG", (L,), rows)[1] < 0


def test_a_histogram_counts_texts() -> None:
    rows = pl.DataFrame({"s": ["a", "b", "a"]})
    assert sorted((one["key"], one["value"]) for one in one_group("HISTOGRAM", (S,), rows)[2]) == [("a", 2), ("b", 1)]


@pytest.mark.parametrize(
    ("function", "argument", "wanted"),
    [
        ("COUNT", L, 3),
        ("SUM", L, 5),
        ("AVG", L, 5 / 3),
        ("STDDEV_SAMP", L, 1 / 3),
        ("COLLECT_LIST", L, [1, 2, 2]),
        ("COLLECT_LIST", S, ["a", "c", "d"]),
        ("ATTR", S, None),
        ("HISTOGRAM", S, [{"key": "a", "value": 1}, {"key": "c", "value": 1}, {"key": "d", "value": 1}]),
    ],
)
def test_undo_takes_rows_away(function: str, argument: Column, wanted: Any) -> None:
    aggregate = bind(call(function, (argument,)), over_table=True)
    assert aggregate.undo is not None

    def state(of: list[pl.Expr], numbers: list[int], texts: list[str]) -> pl.DataFrame:
        return pl.DataFrame({"key": 1, "l": numbers, "s": texts}).group_by("key").agg(*of)

    parts = [
        state(aggregate.partial, [1, 2, 9], ["a", "c", "b"]),
        state(aggregate.undo, [9], ["b"]),
        state(aggregate.partial, [2], ["d"]),
    ]
    left = pl.concat(parts).group_by("key", maintain_order=True).agg(*aggregate.merge)
    found = left.select(aggregate.result).item()
    found = found.to_list() if isinstance(found, pl.Series) else found
    assert found == pytest.approx(wanted) if isinstance(wanted, float) else found == wanted


def test_what_cannot_undo_says_so() -> None:
    assert not AGGREGATES["MAX"].undoes
    assert bind(call("SUM", (L,))).undo is None


def test_the_hot_states_are_plain_numbers() -> None:
    for function in ("COUNT", "SUM", "AVG", "MIN", "MAX"):
        assert all(type_.is_numeric() for type_ in bind(call(function, (D,))).states.values())


@pytest.mark.parametrize(
    ("function", "types", "constants", "message"),
    [
        ("SUM", [STRING], [], "Function 'sum' does not accept parameters (STRING)."),
        ("TOPK", [INTEGER], [], "Function 'topk' does not accept parameters (INTEGER)."),
        ("COLLECT_LIST", [], [], "Function 'collect_list' does not accept parameters ()."),
        (
            "AVG",
            [DecimalType(precision=5, scale=2)],
            [],
            "Function 'avg' does not accept parameters (DECIMAL(5, 2)).\nValid alternatives are:\navg(DOUBLE val1)"
            "\navg(INT val1)\navg(BIGINT val1)\nFor detailed information on a function run: DESCRIBE FUNCTION <Function-Name>;",
        ),
        (
            "CORRELATION",
            [INTEGER, DOUBLE],
            [],
            "Function 'correlation' does not accept parameters (INTEGER, DOUBLE).\nValid",
        ),
        ("CORRELATION", [INTEGER, BIGINT], [], "Function 'correlation' does not accept parameters (INTEGER, BIGINT)."),
    ],
)
def test_what_an_aggregate_does_not_take(
    function: str, types: list[SqlType], constants: list[Any], message: str
) -> None:
    with pytest.raises(StatementError) as caught:
        check_call(function, types, constants, ", ".join(map(str, types)))
    assert str(caught.value).startswith(message)


def test_every_aggregate_is_tried() -> None:
    others = {"CORRELATION", "HISTOGRAM"}
    assert set(AGGREGATES) == {case[0] for case in CASES} | others
