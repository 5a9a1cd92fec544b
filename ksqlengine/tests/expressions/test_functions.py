"""Scalar functions by family; values as ksqlDB's documentation and tests give them."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from contextlib import suppress
from datetime import date, datetime, time
from decimal import Decimal
from typing import Any

import pytest

from ksqlengine.expressions.functions import FUNCTIONS
from ksqlengine.expressions.overloads import ANY_DECIMAL, INTERVAL, Generic
from ksqlengine.types.errors import StatementError
from ksqlengine.types.sqltypes import (
    BIGINT,
    BOOLEAN,
    BYTES,
    DATE,
    DOUBLE,
    INTEGER,
    STRING,
    TIME,
    TIMESTAMP,
    ArrayType,
    MapType,
    SqlType,
)

Evaluate = Callable[[str], Any]

TEXTS = {
    "LCASE('aBC')": "abc", "UCASE('aBC')": "ABC", "TRIM('  x ')": "x", "LEN('abc')": 3, "LEN(TO_BYTES('0102', 'hex'))": 2,
    "REPLACE('foo', 'o', 'x')": "fxx", "CONCAT('a', NULL, 'b')": "ab", "CONCAT_WS('-', 'a', NULL, 'b')": "a-b",
    "SUBSTRING('stream', 2)": "tream", "SUBSTRING('stream', -3, 2)": "ea", "SUBSTRING('stream', 1, 9)": "stream",
    "LPAD('12', 5, 'xy')": "xyx12", "RPAD('12', 5, 'xy')": "12xyx", "LPAD('stream', 3, 'x')": "str",
    "LPAD('a', 3, '')": None, "INITCAP('hello wORLD')": "Hello World",
    "INSTR('CORPORATE FLOOR', 'OR')": 2, "INSTR('CORPORATE FLOOR', 'OR', 3, 2)": 14, "INSTR('CORPORATE FLOOR', 'OR', -3)": 5,
    "INSTR('a', 'b')": 0, "CHR(75)": "K", r"CHR('\u004b')": "K", "ELT(2, 'a', 'b')": "b", "ELT(3, 'a', 'b')": None,
    "FIELD('b', 'a', 'b')": 2, "FIELD('z', 'a', 'b')": 0,
    "MASK('My Test $123')": "Xx-Xxxx--nnn", "MASK('My Test $123', '*', NULL, '1', NULL)": "*y *est $111",
    "MASK_LEFT('Ab12', 2)": "Xx12", "MASK_RIGHT('Ab12', 1)": "Ab1n", "MASK_KEEP_LEFT('Ab12', 2)": "Abnn",
    "MASK_KEEP_RIGHT('Ab12', 2)": "Xx12",
    "SPLIT('a,b,,c', ',')": ["a", "b", "", "c"], "SPLIT('abc', '')": ["a", "b", "c"],
    "SPLIT_TO_MAP('a=1;b=2', ';', '=')['b']": "2",
    "REGEXP_EXTRACT('(.*) (.*)', 'hello there', 2)": "there", "REGEXP_EXTRACT('x', 'hello')": None,
    "REGEXP_EXTRACT_ALL('.t', 'cat hat')": ["at", "at"], "REGEXP_REPLACE('foobar', '(o)', '[$1]')": "f[o][o]bar",
    "REGEXP_SPLIT_TO_ARRAY('aabcda', '(ab|cd)')": ["a", "", "a"],
    "ENCODE('61', 'hex', 'ascii')": "a", "ENCODE('abc', 'utf8', 'base64')": "YWJj",
    "FROM_BYTES(TO_BYTES('YWJj', 'base64'), 'utf8')": "abc", "MD5('abc')": "900150983cd24fb0d6963f7d28e17f72",
    "UUID(TO_BYTES('000102030405060708090a0b0c0d0e0f', 'hex'))": "00010203-0405-0607-0809-0a0b0c0d0e0f",
    "UUID(TO_BYTES('000102030405060708090a0b0c0d0e0f10', 'hex'))": None, "INSTR('abc', 'b', 2, 0)": 0,
    "ENCODE('0x61', 'hex', 'ascii')": "a", "TO_BYTES('0x61', 'hex')": None, "TO_BYTES('Y$WI=', 'base64')": None,
    "TO_BYTES('YWI', 'base64')": b"ab", "ENCODE('Y$W-_', 'base64', 'hex')": "616fbf",
    r"REGEXP_EXTRACT('\d+', '٣3')": "3", "REGEXP_REPLACE('ab', '(?<x>b)|c', '<$1${x}$11\\$>')": "a<bbb1$>",
    "REGEXP_REPLACE('a', 'a', '$')": None, r"REGEXP_EXTRACT('[{a]{2}\{', 'a{{')": "a{{",
    "CHR(55357)": "\ufffd", r"""EXTRACTJSONFIELD('{"a":"\ud83dx","b":"\ud83d\ude00"}', '$.a')""": "\ufffdx",
    r"""JSON_RECORDS('{"a":"\ud83d"}')['a']""": "\ufffd", "URL_EXTRACT_PORT('http://a:99999999999/')": None,
    "REGEXP_SPLIT_TO_ARRAY('aabcda', '(b|c)*')": ["a", "a", "", "d", "a"],
}  # fmt: skip
NUMBERS = {
    "ABS(-2.5)": Decimal("2.5"), "ABS(-7)": 7, "CEIL(1.2)": Decimal("2.0"), "CEIL(-0.5e0)": -0.0, "FLOOR(-2.5e0)": -3.0,
    "FLOOR(-0.5)": None, "ROUND(1.5e0)": 2, "ROUND(-1.5e0)": -1, "ROUND(-1.6e0)": -2, "ROUND(2.25e0, 1)": 2.3,
    "ROUND(2.345, 2)": Decimal("2.350"), "TRUNC(-1.9e0)": -1, "TRUNC(1.99, 1)": Decimal("1.90"), "SIGN(-2)": -1,
    "SIGN(0)": 0, "SQRT(4)": 2.0, "CBRT(27)": 3.0, "EXP(0)": 1.0, "LN(1)": 0.0, "LOG(2, 8)": 3.0, "POWER(2, 10)": 1024.0,
    "GREATEST(1.5, 2.5, NULL)": Decimal("2.5"), "GREATEST(1, NULL, 3)": 3, "LEAST('b', 'a')": "a",
    "DEGREES(PI())": 180.0, "RADIANS(180)": 3.141592653589793, "ATAN2(1, 1)": 0.7853981633974483, "COS(0)": 1.0,
    "SIN(0)": 0.0, "TANH(0)": 0.0, "ACOS(1)": 0.0, "GEO_DISTANCE(37.4, -122.1, 37.4, -122.1)": 0.0,
    "INT_FROM_BYTES(TO_BYTES('0000002A', 'hex'))": 42, "INT_FROM_BYTES(TO_BYTES('2A000000', 'hex'), 'LITTLE_ENDIAN')": 42,
    "BIGINT_FROM_BYTES(TO_BYTES('00000000000003E8', 'hex'))": 1000, "INT_FROM_BYTES(TO_BYTES('2A', 'hex'))": None,
    "CAST(ROUND(-1.1e0, -1) AS STRING)": "0.0", "CAST(TRUNC(-0.5e0, 0) AS STRING)": "0.0",
    "CAST(POWER(1, SQRT(-1)) AS STRING)": "NaN", "CAST(POWER(-1, 1e0 / 0e0) AS STRING)": "NaN",
    "POWER(1, 5)": 1.0, "POWER(SQRT(-1), 0)": 1.0, "POWER(CAST(NULL AS INT), SQRT(-1))": None,
    "DOUBLE_FROM_BYTES(TO_BYTES('3FF0000000000000', 'hex'))": 1.0,
    "SIGN(SQRT(-1))": 0, "ROUND(0.49999999999999994e0)": 0, "LEAST(SQRT(-1), 1e0)": 1.0, "COT(0)": float("inf"),
    "CAST(GREATEST(SQRT(-1), 1e0) AS STRING)": "NaN",
}  # fmt: skip
TIMES = {
    "TIMESTAMPTOSTRING(0, 'yyyy-MM-dd HH:mm:ss.SSS')": "1970-01-01 00:00:00.000",
    "TIMESTAMPTOSTRING(1526075913000, 'yyyy.MM.dd G HH:mm:ss z', 'America/Los_Angeles')": "2018.05.11 AD 14:58:33 PDT",
    "STRINGTOTIMESTAMP('2021-08-15T17:29:03.511', 'yyyy-MM-dd''T''HH:mm:ss.SSS')": 1629048543511,
    "STRINGTODATE('1970-01-03', 'yyyy-MM-dd')": 2, "DATETOSTRING(2, 'dd.MM.yyyy')": "03.01.1970",
    "FORMAT_TIMESTAMP(FROM_UNIXTIME(1625097600000), 'w e')": "27 5",
    "FORMAT_TIMESTAMP(FROM_UNIXTIME(1616898600000), 'w')": "14",
    "FORMAT_TIMESTAMP(FROM_UNIXTIME(253402300799999), 'w')": "1",
    "FORMAT_TIMESTAMP(FROM_UNIXTIME(-1), 'w')": "1",
    "FORMAT_TIMESTAMP(FROM_UNIXTIME(1577934245678), 'EEE, d MMM yyyy hh:mm a')": "Thu, 2 Jan 2020 03:04 AM",
    "FORMAT_DATE(FROM_DAYS(18263), 'dd/MM/yy')": "02/01/20", "FORMAT_TIME(PARSE_TIME('1:02', 'H:mm'), 'HH.mm')": "01.02",
    "PARSE_TIMESTAMP('2020-02-28 10:11', 'yyyy-MM-dd HH:mm', 'Europe/Berlin')": datetime(2020, 2, 28, 9, 11),
    "PARSE_TIMESTAMP('2020-02-30', 'yyyy-MM-dd')": datetime(2020, 2, 29), "PARSE_DATE('01/02/20', 'dd/MM/yy')": date(2020, 2, 1),
    "PARSE_TIME('3:04 PM', 'h:mm a')": time(15, 4), "UNIX_TIMESTAMP(FROM_UNIXTIME(-1))": -1,
    "UNIX_DATE(FROM_DAYS(18263))": 18263, "FROM_UNIXTIME(1000)": datetime(1970, 1, 1, 0, 0, 1),
    "CONVERT_TZ(FROM_UNIXTIME(0), 'UTC', 'America/Los_Angeles')": datetime(1969, 12, 31, 16),
    "DATEADD(DAYS, 30, FROM_DAYS(18263))": date(2020, 2, 1), "DATESUB(DAYS, 1, FROM_DAYS(0))": date(1969, 12, 31),
    "TIMEADD(HOURS, 23, PARSE_TIME('01:00', 'HH:mm'))": time(0, 0),
    "TIMESUB(MINUTES, 5, PARSE_TIME('00:00', 'HH:mm'))": time(23, 55),
    "ARRAY_UNION(ARRAY[PARSE_DATE('0000-01-01', 'yyyy-MM-dd')], ARRAY[PARSE_DATE('0001-01-01', 'yyyy-MM-dd')])": [
        None, date(1, 1, 1)
    ],
    "PARSE_TIMESTAMP('0000-12-31', 'yyyy-MM-dd')": None,
    "TIMESTAMPADD(SECONDS, 10, FROM_UNIXTIME(0))": datetime(1970, 1, 1, 0, 0, 10),
    "TIMESTAMPSUB(DAYS, 1, FROM_UNIXTIME(0))": datetime(1969, 12, 31),
}  # fmt: skip
COLLECTIONS = {
    "ARRAY_SORT(ARRAY[3, 1, NULL, 2])": [1, 2, 3, None], "ARRAY_SORT(ARRAY[3, 1, NULL, 2], 'DESC')": [3, 2, 1, None],
    "ARRAY_DISTINCT(ARRAY[1, 2, NULL, 1, NULL])": [1, 2, None], "ARRAY_EXCEPT(ARRAY[1, 2, 3, 1], ARRAY[2])": [1, 3],
    "ARRAY_INTERSECT(ARRAY[1, 2, 3], ARRAY[3, 1])": [1, 3], "ARRAY_UNION(ARRAY[1, 2], ARRAY[2, 3])": [1, 2, 3],
    "ARRAY_CONCAT(ARRAY[1], ARRAY[1, 2])": [1, 1, 2], "ARRAY_REMOVE(ARRAY[1, 2, 1], 1)": [2],
    "ARRAY_MAX(ARRAY[1, 3, NULL])": 3, "ARRAY_MIN(ARRAY['b', 'a'])": "a", "ARRAY_JOIN(ARRAY[1, NULL, 2], '-')": "1-null-2",
    "ARRAY_CONTAINS(ARRAY[1, 2], 2)": True, "ARRAY_LENGTH(ARRAY[1, NULL])": 2, "SLICE(ARRAY[1, 2, 3], 2, 3)": [2, 3],
    "GENERATE_SERIES(1, 5, 2)": [1, 3, 5], "GENERATE_SERIES(2, 0)": [2, 1, 0], "GENERATE_SERIES(1, 2, 0)": None,
    "ENTRIES(MAP('b' := 2, 'a' := 1), true)": [{"K": "a", "V": 1}, {"K": "b", "V": 2}],
    "MAP_KEYS(AS_MAP(ARRAY['a', 'b'], ARRAY[1, 2]))": ["a", "b"], "MAP_VALUES(MAP('a' := 1, 'b' := 2))": [1, 2],
    "MAP_UNION(MAP('a' := 1), MAP('a' := 2, 'b' := 3))['a']": 2,
    "CAST(ARRAY_MAX(ARRAY[SQRT(-1), 1e0]) AS STRING)": "NaN", "ARRAY_MIN(ARRAY[SQRT(-1), 1e0])": 1.0,
    "ARRAY_MAX(ARRAY[TO_BYTES('80', 'hex'), TO_BYTES('7f', 'hex'), NULL])": b"\x7f",
    "ARRAY_MIN(ARRAY[TO_BYTES('80', 'hex'), TO_BYTES('7f', 'hex'), NULL])": b"\x80",
    "ARRAY_SORT(ARRAY[NULL, TO_BYTES('', 'hex'), TO_BYTES('7f', 'hex'), TO_BYTES('80', 'hex')])": [b"", b"\x80", b"\x7f", None],
    "ARRAY_SORT(ARRAY[TO_BYTES('80', 'hex'), TO_BYTES('8001', 'hex'), NULL], 'desc')": [b"\x80\x01", b"\x80", None],
    "ARRAY_EXCEPT(ARRAY[SQRT(-1), 1e0], ARRAY[SQRT(-1)])": [1.0],
    "ARRAY_MAX(ARRAY[ARRAY[1]])": None, "ARRAY_JOIN(ARRAY[FROM_DAYS(0)])": None,
    # The order of Java's HashMap: with as many buckets as the map needs, or with 16.
    "MAP_KEYS(MAP('yes, thanks' := 1, 'nope' := 2, 'sure, yeah' := 3))": ["yes, thanks", "sure, yeah", "nope"],
    "MAP_KEYS(SPLIT_TO_MAP('yes, thanks=1;nope=2;sure, yeah=3', ';', '='))": ["yes, thanks", "nope", "sure, yeah"],
    "CAST(MAP('b' := 1, 'a' := 2) AS STRING)": "{a=2, b=1}",
    "REDUCE(MAP('b' := 'b', 'a' := 'a'), '', (u, k, v) => u + v)": "ab",
    "CAST(ARRAY['1', 'x'] AS ARRAY<INT>)": None, "CAST(MAP('a' := 'x') AS MAP<STRING, INT>)": None,
    "CAST(STRUCT(a := ARRAY['x']) AS STRUCT<a ARRAY<INT>>)": None, "CAST(ARRAY['1', NULL] AS ARRAY<INT>)": [1, None],
    "CAST(ARRAY[FROM_UNIXTIME(10)] AS STRING)": "[1970-01-01 00:00:00.01]",
}  # fmt: skip
JSON = {
    """EXTRACTJSONFIELD('{"a": [{"b": "x"}]}', '$.a[0].b')""": "x", """EXTRACTJSONFIELD('{"a": {"b": 1}}', '$.a')""": '{"b":1}',
    """EXTRACTJSONFIELD('{"a": 1}', '$.b')""": None, """EXTRACTJSONFIELD('nothing', '$.a')""": None,
    """JSON_ITEMS('[{"a": 1}, "b"]')""": ['{"a":1}', '"b"'], """JSON_KEYS('{"a": 1, "b": 2}')""": ["a", "b"],
    """JSON_RECORDS('{"a": "x"}')['a']""": "x", """JSON_CONCAT('{"a": 1}', '{"b": 2}')""": '{"a":1,"b":2}',
    """JSON_CONCAT('[1]', '2')""": "[1,2]", """JSON_ARRAY_CONTAINS('[1, 2]', 2)""": True,
    """JSON_ARRAY_CONTAINS('["a"]', 'b')""": False, """JSON_ARRAY_LENGTH('[1, 2]')""": 2, """JSON_ARRAY_LENGTH('{}')""": None,
    """IS_JSON_STRING('[1')""": False, """IS_JSON_STRING('{"a": 1}')""": True,
    "TO_JSON_STRING(STRUCT(b := 1, a := 'x'))": '{"A":"x","B":1}', "TO_JSON_STRING(ARRAY[1, NULL])": "[1,null]",
    "TO_JSON_STRING(MAP('a' := 1))": '{"a":1}', "TO_JSON_STRING(FROM_DAYS(0))": '"1970-01-01"', "TO_JSON_STRING('a')": '"a"',
    "TO_JSON_STRING(1e10)": "1.0E10", "TO_JSON_STRING(ARRAY[SQRT(-1)])": '["NaN"]',
    "TO_JSON_STRING(ARRAY[0.0000001])": "[0.0000001]",
    "IS_JSON_STRING('{} what follows')": True, "IS_JSON_STRING('2020-01-01')": False, "IS_JSON_STRING(' ')": False,
    "JSON_CONCAT('1')": "1", "JSON_ARRAY_CONTAINS(CAST(NULL AS STRING), 1)": None,
}  # fmt: skip
URLS = {
    "URL_EXTRACT_HOST('http://test@confluent.io:8080/nested/path?q=2#x')": "confluent.io",
    "URL_EXTRACT_PORT('http://confluent.io:8080')": 8080, "URL_EXTRACT_PORT('http://confluent.io')": None,
    "URL_EXTRACT_PATH('http://confluent.io/a/b?c')": "/a/b", "URL_EXTRACT_QUERY('http://confluent.io/?c=1')": "c=1",
    "URL_EXTRACT_FRAGMENT('http://confluent.io/#x')": "x", "URL_EXTRACT_PROTOCOL('http://confluent.io')": "http",
    "URL_EXTRACT_PARAMETER('https://docs.confluent.io?a=1&b=2', 'b')": "2",
    "URL_EXTRACT_HOST('http://no_host/x')": None, "URL_EXTRACT_HOST('http://[::1]:8/')": "[::1]",
    "URL_EXTRACT_PATH('mailto:a@b.c')": None, "URL_EXTRACT_PATH('http://a.b/%zz')": None, "URL_DECODE_PARAM('%zz')": None,
    "URL_ENCODE_PARAM('url encoded')": "url+encoded", "URL_DECODE_PARAM('url%20encoded')": "url encoded",
}  # fmt: skip
CASES = {**TEXTS, **NUMBERS, **TIMES, **COLLECTIONS, **JSON, **URLS}


@pytest.mark.parametrize("text", CASES)
def test_values(evaluate: Evaluate, text: str) -> None:
    assert evaluate(text).values == [CASES[text]] * 3


def test_every_function_is_tried_but_those_of_chance() -> None:
    tried = {name for text in CASES for name in re.findall(r"[A-Z_0-9]+(?=\()", text)}
    elsewhere = {"AS_VALUE", "COALESCE", "FILTER", "IFNULL", "NULLIF", "REDUCE", "TRANSFORM"}
    shapes = {"ASIN", "ATAN", "COSH", "COT", "SINH", "TAN"}  # as their neighbours
    assert set(FUNCTIONS) - tried - elsewhere - shapes == {"RANDOM"}


@pytest.mark.parametrize("text", ["UUID()", "RANDOM()"])
def test_chance_differs_from_row_to_row(evaluate: Evaluate, text: str) -> None:
    assert len(set(evaluate(text).values)) == 3


@pytest.mark.parametrize(
    "text",
    [
        "PARSE_TIMESTAMP('2020-02-32', 'yyyy-MM-dd')",
        "GENERATE_SERIES(1, 2, 0)",
        "INT_FROM_BYTES(TO_BYTES('2A', 'hex'))",
        "TO_BYTES('xyz', 'hex')",
        "GEO_DISTANCE(91, 0, 0, 0)",
    ],
)
def test_a_failing_function_gives_null_and_an_error(evaluate: Evaluate, text: str) -> None:
    found = evaluate(text)
    assert found.values == [None] * 3
    name = text.partition("(")[0]
    assert all(f"Failed to invoke function {name}" in row for row in found.errors)


@pytest.mark.parametrize(
    "text",
    ["LCASE(S)", "LEN(S)", "ABS(I)", "SQRT(D)", "ARRAY_LENGTH(A)", "MAP_KEYS(M)", "UNIX_TIMESTAMP(T)", "SPLIT(S, ',')"],
)
def test_null_gives_null_without_an_error(evaluate: Evaluate, text: str) -> None:
    found = evaluate(text)
    assert found.values[1] is None
    assert found.errors[1] == []
    assert found.values[0] is not None


def test_columns_differ_by_row(evaluate: Evaluate) -> None:
    assert evaluate("FORMAT_TIMESTAMP(T, 'yyyy-MM-dd''T''HH:mm')").values == [
        "2020-01-02T03:04",
        None,
        "1970-01-01T00:00",
    ]
    assert evaluate("SLICE(A, 1, J)").values == [[1, 2], None, []]
    assert evaluate("INSTR(S, 'b')").values == [2, 0, 0]  # as ksqlDB's for a NULL text
    assert evaluate("CONCAT_WS(S, 'x', 'y')").values == ["xabcy", None, "x12y"]
    assert evaluate("ARRAY_JOIN(ARRAY[1, 2], S)").values == ["1abc2", "12", "1122"]
    assert evaluate("REPLACE('a1b', S, 'c')").values == ["a1b", None, "a1b"]
    assert evaluate("ARRAY[1, 2][J]").values == [2, 2, None]
    assert evaluate("ARRAY[1, 2][L]").values == [None, None, 2]
    assert evaluate("UNIX_TIMESTAMP() > 0").values == [True] * 3


ARGUMENTS: dict[SqlType, tuple[str, ...]] = {
    INTEGER: ("I", "CAST(NULL AS INT)", "2147483647"), BIGINT: ("L", "CAST(NULL AS BIGINT)", "-9223372036854775807"),
    DOUBLE: ("D", "CAST(NULL AS DOUBLE)", "1e300"), STRING: ("S", "CAST(NULL AS STRING)", "'b'"),
    BOOLEAN: ("B", "CAST(NULL AS BOOLEAN)", "TRUE"), BYTES: ("Y", "CAST(NULL AS BYTES)", "TO_BYTES('ff', 'hex')"),
    DATE: ("DT", "CAST(NULL AS DATE)", "FROM_DAYS(0)"), TIME: ("TM", "CAST(NULL AS TIME)", "'01:02'"),
    TIMESTAMP: ("T", "CAST(NULL AS TIMESTAMP)", "FROM_UNIXTIME(0)"), ANY_DECIMAL: ("M1", "CAST(NULL AS DECIMAL(4, 2))", "1.5"),
    INTERVAL: ("DAYS", "HOURS"),
}  # fmt: skip
SHAPES: dict[type[SqlType], tuple[str, ...]] = {
    Generic: ("I", "CAST(NULL AS INT)", "3"), ArrayType: ("A", "CAST(NULL AS ARRAY<INT>)", "ARRAY[1, NULL]"),
    MapType: ("M", "CAST(NULL AS MAP<STRING, INT>)", "MAP('a' := NULL, 'b' := 1)"),
}  # fmt: skip


def calls() -> Iterator[str]:
    """Calls of each overload with columns, NULLs and constants, which have one value where columns have one a row."""
    for function in FUNCTIONS.values():
        for overload in function.overloads:
            given = [ARGUMENTS.get(one) or SHAPES.get(type(one), ()) for one in overload.parameters]
            for turn in range(3 if all(given) else 0):
                for step in range(2):
                    chosen = (one[(turn + step * index) % len(one)] for index, one in enumerate(given))
                    yield f"{function.name}({', '.join(chosen)})"


def test_whatever_is_given_a_value_a_row_comes(evaluate: Evaluate) -> None:
    tried = 0
    for text in calls():
        with suppress(StatementError):  # ambiguous, or of types that don't fit
            assert len(evaluate(text).values) == 3, text
            tried += 1
    assert tried > 500


def test_java_patterns_that_cannot_be_are_refused(evaluate: Evaluate) -> None:
    with pytest.raises(StatementError, match="Unknown pattern letter: b"):
        evaluate("FORMAT_DATE(DT, 'bogus')")
    with pytest.raises(StatementError, match="Syntax Error"):
        evaluate("DATESUB(MONTHS, 1, DT)")


def test_a_regular_expression_that_only_java_knows_is_refused(evaluate: Evaluate) -> None:
    for text in (r"REGEXP_EXTRACT('\p{L}', S)", "REGEXP_EXTRACT('a{', S)", "REGEXP_REPLACE(S, '[a-z&&[^b]]', 'x')"):
        with pytest.raises(StatementError, match=r"regular expression .* is not supported by the embedded engine"):
            evaluate(text)
