"""Conditions of pull queries that ksqlDB refuses, and those that it takes."""

from __future__ import annotations

import pytest

from ksqlengine.language.parser import parse_expression
from ksqlengine.plan.steps import Column, Schema
from ksqlengine.planning.transient_query import check_pull_filter
from ksqlengine.types.errors import NotSupportedError, StatementError
from ksqlengine.types.sqltypes import BIGINT, STRING

SCHEMA = Schema((Column("K", STRING), Column("L", STRING)), (Column("N", BIGINT), Column("S", STRING)))


def check(text: str, windowed: bool = True) -> None:
    check_pull_filter(parse_expression(text), SCHEMA, windowed=windowed)


@pytest.mark.parametrize(
    "text",
    [
        "k = 'a' AND l = 'b'", "k IN ('a', 'b') AND l = 'c'", "k BETWEEN 'a' AND 'b'", "n > 3", "s LIKE 'a%'", "k <> 'a'",
        "NOT NOT k = 'a'", "k = l", "n + 1 = 2",
        "k = 'a' AND l = 'b' AND windowstart >= 1 AND windowstart < 5 AND windowend = 7",
        "UCASE(s) = 'A'", "UCASE(k) LIKE 'A'",
        "(k = 'a' OR k = 'b') AND (l = 'c' OR l = 'd')",
    ],
)  # fmt: skip
def test_taken(text: str) -> None:
    check(text)


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("NOT k = 'a'", "Unsupported expression in WHERE clause: (NOT (K = 'a'))"),
        ("n IS NULL", "Unsupported expression in WHERE clause: (N IS NULL)"),
        ("k = 'a' AND l = 'b' OR n IS NOT NULL", "Unsupported expression in WHERE clause: (N IS NOT NULL)"),
        ("k NOT IN ('a', 'b')", "Unsupported expression in WHERE clause: (NOT (K = 'a'))"),
        ("NOT (n = 1 OR n = 2)", "Unsupported expression in WHERE clause: (NOT (N = 1))"),
        ("true", "Unsupported expression in WHERE clause: true"),
        ("n = 1 AND (CASE WHEN n = 1 THEN true END)", "Unsupported expression in WHERE clause: (CASE WHEN"),
        ("n LIKE 'a'", "The column type for Like condition must be VARCHAR. The column type is BIGINT"),
        ("windowstart <> 5", "Unsupported `WINDOWSTART` bounds: NOT_EQUAL"),
        ("k = 'a' AND l = 'b' AND windowstart > 1 AND windowstart >= 2", "Duplicate `WINDOWSTART` bounds on: GREATER_THAN"),
        ("k = 'a' AND l = 'b' AND windowend > 1 AND 2 < windowend", "Duplicate `WINDOWEND` bounds on: GREATER_THAN"),
        ("k = 'a' AND l = 'b' AND windowend = 1 AND windowend < 2",
         "`(WINDOWEND < 2)` cannot be combined with other `WINDOWEND` bounds"),
    ],
)  # fmt: skip
def test_refused(text: str, reason: str) -> None:
    with pytest.raises(StatementError) as caught:
        check(text)
    assert caught.value.message.startswith(reason)
    assert "Pull queries require a WHERE clause that:" in caught.value.message


def test_a_key_is_never_null() -> None:
    with pytest.raises(StatementError, match=r"Primary key columns can not be NULL: \(K = null\)"):
        check("k = null AND l = 'a'")
    check("k = null", windowed=False)  # all rows are read for it


def test_bounds_are_told_of_windowed_tables_only() -> None:
    with pytest.raises(StatementError) as plain:
        check("n IS NULL", windowed=False)
    with pytest.raises(StatementError) as windowed:
        check("windowstart <> 1")
    assert ["Bounds on [`WINDOWSTART`, `WINDOWEND`]" in error.value.message for error in (plain, windowed)] == [
        False,
        True,
    ]


def test_a_not_that_ksqldb_loses_is_refused() -> None:
    with pytest.raises(NotSupportedError, match="NOT LIKE in a pull query"):
        check("s NOT LIKE 'a%'")
    check("NOT (s NOT LIKE 'a%')")
