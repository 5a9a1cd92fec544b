"""Expressions: types, values and errors as ksqlDB's.

Rows of the frame: ordinary values; NULLs (J is 2); negative, zero or empty values.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from datetime import date, datetime, time
from decimal import Decimal
from typing import Any

import pytest
from expression_rows import TYPES

from ksqlengine.language.parser import parse_expression
from ksqlengine.planning.binder import Binder
from ksqlengine.types.errors import StatementError

Evaluate = Callable[[str], Any]
NONE = [None, None, None]


def same(values: list[Any], wanted: Any) -> bool:
    """Compare with one value for all rows, or a value a row."""
    return values == (wanted if isinstance(wanted, list) and len(wanted) == 3 else [wanted] * 3)


@pytest.mark.parametrize(
    ("text", "type_", "wanted"),
    [
        ("I + J", "INTEGER", [9, None, -7]),
        ("I + L", "BIGINT", [10_000_000_007, None, -5]),
        ("I + 1.5", "DECIMAL(12, 1)", [Decimal("8.5"), None, Decimal("-5.5")]),
        ("I + 1e0", "DOUBLE", [8.0, None, -6.0]),
        ("M1 + M2", "DECIMAL(5, 2)", [Decimal("12.10"), None, Decimal("1.00")]),
        ("M1 * M2", "DECIMAL(9, 4)", [Decimal("20.2000"), None, Decimal("0.0000")]),
        ("M1 + I", "DECIMAL(13, 2)", [Decimal("17.10"), None, Decimal("-6.00")]),
        ("M1 + D", "DOUBLE", [11.6, None, -1.5]),
        ("-I", "INTEGER", [-7, None, 7]),
        ("I / 2", "INTEGER", [3, None, -3]),
        ("I % 2", "INTEGER", [1, None, -1]),
        ("2147483647 + J", "INTEGER", [-2147483647, -2147483647, 2147483647]),
        ("L * L", "BIGINT", [7766279631452241920, None, 4]),
        ("S || 'x' || S", "STRING", ["abcxabc", "x", "12x12"]),  # CONCAT, which leaves NULLs out
        ("S + 'x'", "STRING", ["abcx", "nullx", "12x"]),  # Java's
    ],
)
def test_arithmetic(evaluate: Evaluate, text: str, type_: str, wanted: list[Any]) -> None:
    found = evaluate(text)
    assert (str(found.type), found.values) == (type_, wanted)
    assert found.errors == [[], [], []]


@pytest.mark.parametrize(
    ("text", "wanted", "failed"),
    [
        ("I / J", [3, None, None], 2),
        ("I % J", [1, None, None], 2),
        ("M1 / M2", [Decimal("5.0500000"), None, None], 2),
        ("CAST(S AS INT)", [None, None, 12], 0),
        ("CAST(L AS DECIMAL(3, 0))", [None, None, Decimal(2)], 0),
    ],
)
def test_a_failure_gives_null_and_an_error(evaluate: Evaluate, text: str, wanted: list[Any], failed: int) -> None:
    found = evaluate(text)
    assert found.values == wanted
    assert [bool(row) for row in found.errors] == [row == failed for row in range(3)]


@pytest.mark.parametrize(
    ("text", "wanted"),
    [
        ("I / 1.5e0", [7 / 1.5, None, -7 / 1.5]),  # not 7 * (1 / 1.5)
        ("D % 0.1e0", [math.fmod(1.5, 0.1), None, math.fmod(-2.5, 0.1)]),
        ("LOG(3, I + 20)", [math.log(27) / math.log(3), None, math.log(13) / math.log(3)]),
        ("CAST(0 - (D - D) AS STRING)", ["0.0", None, "0.0"]),
        ("(M1 % ST->X) = (L / 1)", [False, None, None]),  # parts in common with a failure's condition
        ("CAST(NULL AS INT) * 1e0 BETWEEN 0 AND D", [None] * 3),
        (
            "L * 1000000000.1234567890123456789012345678",
            [None, None, Decimal("2000000000.2469135780246913578024691356")],
        ),
    ],
)
def test_every_digit_is_javas(evaluate: Evaluate, text: str, wanted: list[Any]) -> None:
    assert evaluate(text).values == wanted


def test_a_like_pattern_that_is_too_long_fails(evaluate: Evaluate) -> None:
    found = evaluate("S LIKE LPAD(S, 50000, '%')")
    assert found.values == NONE
    assert found.errors == [["LIKE pattern is too long"], [], ["LIKE pattern is too long"]]


def test_division_of_doubles_by_zero_is_no_failure(evaluate: Evaluate) -> None:
    found = evaluate("D / 0e0")
    assert found.values == [float("inf"), None, float("-inf")]
    assert found.errors == [[], [], []]


@pytest.mark.parametrize(
    ("text", "wanted"),
    [
        ("I = J", [False, False, False]),
        ("I <> J", [True, False, True]),
        ("I > 1.5", [True, False, False]),
        ("M1 < D", [False, False, False]),
        ("NOT I > J", [False, True, True]),
        ("I > J AND B", [True, False, False]),
        ("B OR I = 7", [True, None, False]),
        ("J = 2 OR B", [True, True, False]),
        ("B OR J = 2", [True, None, False]),  # as in Java, only what stands left saves from a NULL on the right
        ("I IS NULL", [False, True, False]),
        ("I IS NOT NULL", [True, False, True]),
        ("I IS DISTINCT FROM J", [True, True, True]),
        ("I IS NOT DISTINCT FROM I", True),
        ("I BETWEEN -7 AND 6", [False, False, True]),
        ("I NOT BETWEEN -7 AND 6", [True, True, False]),
        ("I IN (7, '3', NULL)", [True, False, False]),
        ("S LIKE 'a%'", [True, None, False]),
        ("S LIKE '_b_'", [True, None, False]),
        ("S NOT LIKE 'a%'", [False, None, True]),
        ("'100%' LIKE '%!%' ESCAPE '!'", True),
        ("'a.c' LIKE 'a.c'", True),
        ("'abc' LIKE 'a.c'", False),
        ("T = '2020-01-02T03:04:05.678'", [True, False, False]),
        ("T BETWEEN '2020' AND '2021'", [True, False, False]),
        ("DT > '2019-12-31'", [True, False, False]),
        ("TM < '02:00'", [True, False, True]),
        ("A = ARRAY[1, 2, 3]", [True, False, False]),
    ],
)
def test_conditions(evaluate: Evaluate, text: str, wanted: Any) -> None:
    found = evaluate(text)
    assert str(found.type) == "BOOLEAN"
    assert same(found.values, wanted)


@pytest.mark.parametrize(
    ("text", "type_", "wanted"),
    [
        ("CASE WHEN J = 0 THEN 0 ELSE I / J END", "INTEGER", [3, None, 0]),
        ("CASE WHEN I > 0 THEN 'a' END", "STRING", ["a", None, None]),
        ("CASE I WHEN 7 THEN 'seven' ELSE 'other' END", "STRING", ["seven", "other", "other"]),
        ("A[1]", "INTEGER", [1, None, None]),
        ("A[-1]", "INTEGER", [3, None, None]),
        ("A[0]", "INTEGER", NONE),
        ("A[J]", "INTEGER", [2, None, None]),
        ("M['a']", "INTEGER", [1, None, None]),
        ("ST->Y", "STRING", ["y", None, None]),
        ("ARRAY[I, J, 1]", "ARRAY<INTEGER>", [[7, 2, 1], [None, 2, 1], [-7, 0, 1]]),
        ("ARRAY[1, 2.5]", "ARRAY<DECIMAL(11, 1)>", [Decimal("1.0"), Decimal("2.5")]),
        ("STRUCT(a := I, b := 'x')->A", "INTEGER", [7, None, -7]),
        ("MAP('a' := I, 'b' := 2)['b']", "INTEGER", 2),
        ("TRANSFORM(A, x => x * I)", "ARRAY<INTEGER>", [[7, 14, 21], None, []]),
        ("FILTER(A, x => x > 1)", "ARRAY<INTEGER>", [[2, 3], None, []]),
        ("REDUCE(A, 10, (q, x) => q + x)", "INTEGER", [16, 10, 10]),
        ("REDUCE(M, 1, (q, k, v) => q + v + LEN(k))", "INTEGER", [3, 1, 1]),
        ("MAP_KEYS(TRANSFORM(M, (k, v) => UCASE(k), (k, v) => v + 1))", "ARRAY<STRING>", [["A"], None, []]),
        ("TRANSFORM(ARRAY[ARRAY[1, 2], ARRAY[3]], x => REDUCE(x, 0, (q, z) => q + z))", "ARRAY<INTEGER>", [3, 3]),
        ("AS_VALUE(I)", "INTEGER", [7, None, -7]),
        ("COALESCE(I, J)", "INTEGER", [7, 2, -7]),
        ("COALESCE(I + 1, 0)", "INTEGER", [8, None, -6]),  # a NULL operand ends the whole expression, as in ksqlDB
        ("IFNULL(I, 0)", "INTEGER", [7, 0, -7]),
        ("NULLIF(I, 7)", "INTEGER", [None, None, -7]),
        ("COALESCE(PARSE_DATE(S, 'yyyy-MM'), PARSE_DATE('2020-01-02', 'yyyy-MM-dd'))", "DATE", date(2020, 1, 2)),
    ],
)
def test_nested_values_and_conditionals(evaluate: Evaluate, text: str, type_: str, wanted: Any) -> None:
    found = evaluate(text)
    assert str(found.type) == type_
    assert same(found.values, wanted) or found.values == [wanted] * 3


@pytest.mark.parametrize(
    ("text", "wanted"),
    [
        ("CAST(D AS INT)", [1, None, -2]),
        ("CAST(D AS STRING)", ["1.5", None, "-2.5"]),
        ("CAST(1e10 AS STRING)", "1.0E10"),
        ("CAST(M1 AS STRING)", ["10.10", None, "1.00"]),
        ("CAST(B AS STRING)", ["true", None, "false"]),
        ("CAST('yes' AS BOOLEAN)", True),
        ("CAST(' 12 ' AS INT)", 12),
        ("CAST('1e2' AS DOUBLE)", 100.0),
        ("CAST('2.345' AS DECIMAL(3, 2))", Decimal("2.35")),
        ("CAST(L AS INT)", [1410065408, None, 2]),
        ("CAST(A AS ARRAY<STRING>)", [["1", "2", "3"], None, []]),
        ("CAST(A AS STRING)", ["[1, 2, 3]", None, "[]"]),
        ("CAST(M AS STRING)", ["{a=1}", None, "{}"]),
        ("CAST(T AS STRING)", ["2020-01-02T03:04:05.678", None, "1970-01-01T00:00:00.000"]),
        ("CAST('2020-01-02T03:04:05.678' AS TIMESTAMP)", datetime(2020, 1, 2, 3, 4, 5, 678000)),
        ("CAST('2020-01-02' AS DATE)", date(2020, 1, 2)),
        ("CAST('03:04' AS TIME)", time(3, 4)),
        ("CAST(T AS DATE)", [date(2020, 1, 2), None, date(1970, 1, 1)]),
        ("CAST(NULL AS INT)", NONE),
    ],
)
def test_casts(evaluate: Evaluate, text: str, wanted: Any) -> None:
    assert same(evaluate(text).values, wanted)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("I + B", "Unsupported arithmetic types. INTEGER BOOLEAN"),
        ("NULL * 1.5", "Arithmetic on types null and DECIMAL(2, 1) are not supported."),
        ("I > 'a'", "Cannot compare I (INTEGER) to 'a' (STRING) with GREATER_THAN."),
        ("M = M AND M > M", "Cannot compare M"),
        ("I = NULL", "Comparison with NULL not supported: INTEGER = NULL\nUse 'IS NULL' or 'IS NOT NULL' instead."),
        ("CAST(A AS INT)", "Cast of ARRAY<INTEGER> to INTEGER is not supported"),
        ("nope(1)", "Can't find any functions with the name 'NOPE'"),
        ("ABS('x')", "Function 'ABS' does not accept parameters (STRING)."),
        ("COALESCE()", "Function 'COALESCE' does not accept parameters ()."),
        ("ST->nope", "NOPE"),
        ("ARRAY[]", "Array constructor cannot be empty."),
        ("ARRAY[1, 'x']", "x"),
        ("CASE WHEN B THEN 1 ELSE 'x' END", "type"),
        ("CASE WHEN I THEN 1 END", "WHEN"),
        ("9223372036854775808", "9223372036854775808"),
        ("1 - 9223372036854775808", "9223372036854775808"),
        ("TRANSFORM(A, I => I + 1)", "Lambda function argument can't be a column name: I"),
        ("EXPLODE(A)", "Can't find any functions with the name 'EXPLODE'"),
        ("T = 'soon'", "soon"),
    ],
)
def test_what_does_not_fit_is_refused(evaluate: Evaluate, text: str, message: str) -> None:
    with pytest.raises(StatementError) as caught:
        evaluate(text)
    assert message in str(caught.value)


@pytest.mark.parametrize(
    ("inner", "outer", "wanted"),
    [
        ("L", "{} / J", 156_250_000),
        ("L", "{} % I", 4),
        ("D", "{} / 2e0", 1.5 / 2**6),
        ("D", "{} + 1e0", 7.5),
        ("S", "SUBSTRING({}, 1, J + 1)", "abc"),
        ("S", "NULLIF({}, 'x')", "abc"),
        ("D", "GREATEST({}, 0e0)", 1.5),
        ("D", "CAST(CAST({} AS INT) AS DOUBLE)", 1.0),
        ("T", "TIMESTAMPADD(DAYS, 1, {})", datetime(2020, 1, 8, 3, 4, 5, 678000)),
    ],
)
def test_what_is_nested_is_computed_once(evaluate: Evaluate, inner: str, outer: str, wanted: Any) -> None:
    text = inner
    for _ in range(6):
        text = outer.format(f"({text})")
    assert evaluate(text).values[0] == wanted
    read = Binder(TYPES).bind(parse_expression(text)).compile().value.meta.root_names()
    assert len(read) <= 20
