"""Statements in ksqlDB's own form: what it prints, and that the form says the same."""

from __future__ import annotations

import pytest

from ksqlengine.language import ast
from ksqlengine.language.formatting import expression_text, identifier, statement_text
from ksqlengine.language.parser import parse_expression, parse_statements

SHOWN = [
    (
        "create stream s (k string key, `Mixed` int, d decimal(4,2), a array<struct<x int, `y` string>>, m map<string, double>) "
        "with (value_format='JSON', kafka_topic='t', partitions=3);",
        "CREATE STREAM S (K STRING KEY, `Mixed` INTEGER, D DECIMAL(4, 2), A ARRAY<STRUCT<X INTEGER, `y` STRING>>, "
        "M MAP<STRING, DOUBLE>) WITH (KAFKA_TOPIC='t', PARTITIONS=3, VALUE_FORMAT='JSON');",
    ),
    (
        "CREATE OR REPLACE SOURCE TABLE IF NOT EXISTS t (k STRING PRIMARY KEY, h BYTES HEADER('x')) WITH (kafka_topic='it''s');",
        "CREATE OR REPLACE SOURCE TABLE IF NOT EXISTS T (K STRING PRIMARY KEY, H BYTES HEADER('x')) WITH (KAFKA_TOPIC='it''s');",
    ),
    (
        "create table t with (wrap_single_value=true) as select a.k, count(*) n, 1e3, -(-v), x->`y`, a.* , b->* from s a "
        "window hopping (size 1 minute, advance by 30 seconds, retention 1 day, grace period 0 seconds) "
        "where not a.v like 'x%' escape '!' and v in (1, 2) or v is not null group by a.k, b having count(*) > 1.50 emit final;",
        "CREATE TABLE T WITH (WRAP_SINGLE_VALUE=true) AS SELECT\n  A.K,\n  COUNT(*) N,\n  1E3,\n  - -V,\n  X->`y`,\n  A.*,\n"
        "  B->*\nFROM S A\n"
        "WINDOW HOPPING ( SIZE 1 MINUTES , ADVANCE BY 30 SECONDS , RETENTION 1 DAYS , GRACE PERIOD 0 SECONDS ) \n"
        "WHERE (((NOT (A.V LIKE 'x%' ESCAPE '!')) AND (V IN (1, 2))) OR (V IS NOT NULL))\nGROUP BY A.K, B\n"
        "HAVING (COUNT(*) > 1.50)\nEMIT FINAL;",
    ),
    (
        "create stream j as select * from a full join b within (3 seconds, 6 seconds) grace period 2 seconds on a.k = b.k "
        "left join t on t.k = a.k partition by case when v > 1 then cast(v as string) else null end emit changes;",
        "CREATE STREAM J AS SELECT *\nFROM A A\n"
        "FULL OUTER JOIN B B WITHIN (3 SECONDS, 6 SECONDS) GRACE PERIOD 2 SECONDS ON ((A.K = B.K))\n"
        "LEFT OUTER JOIN T T ON ((T.K = A.K))\n"
        "PARTITION BY (CASE WHEN (V > 1) THEN CAST(V AS STRING) ELSE null END)\nEMIT CHANGES;",
    ),
    (
        "create table w as select k, transform(a, x => x + 1), map('a':=1), struct(f:=2), array[1, 2][1] from s "
        "window session (30 seconds) group by k;",
        "CREATE TABLE W AS SELECT\n  K,\n  TRANSFORM(A, (X) => (X + 1)),\n  MAP('a':=1),\n  STRUCT(F:=2),\n  ARRAY[1, 2][1]\n"
        "FROM S S\nWINDOW SESSION ( 30 SECONDS ) \nGROUP BY K;",
    ),
]


def parsed(sql: str) -> ast.CreateSource | ast.CreateAsSelect:
    (found,) = parse_statements(sql)
    assert isinstance(found.statement, ast.CreateSource | ast.CreateAsSelect)
    return found.statement


@pytest.mark.parametrize(("sql", "shown"), SHOWN)
def test_statements_are_shown_as_ksqldb_shows_them(sql: str, shown: str) -> None:
    assert statement_text(parsed(sql)) == shown


@pytest.mark.parametrize("sql", [sql for sql, _ in SHOWN])
def test_what_is_shown_says_the_same(sql: str) -> None:
    statement = parsed(sql)
    again = parsed(statement_text(statement))
    assert statement_text(again) == statement_text(statement)
    assert again == parsed(sql) or sorted(again.properties) == sorted(statement.properties)


@pytest.mark.parametrize(
    ("name", "written"),
    [
        ("A1", "A1"),
        ("a", "`a`"),
        ("SELECT", "`SELECT`"),
        ("SOURCE", "SOURCE"),
        ("1A", "1A"),
        ("12", "`12`"),
        ("A B", "`A B`"),
    ],
)
def test_names_are_quoted_where_they_would_be_read_otherwise(name: str, written: str) -> None:
    assert identifier(name) == written


@pytest.mark.parametrize(
    ("sql", "shown"),
    [("1.5e10", "1.5E10"), ("0e0", "0E0"), ("1e-7", "1E-7"), ("-5", "-5"), ("2.50", "2.50")],
)
def test_numbers(sql: str, shown: str) -> None:
    assert expression_text(parse_expression(sql)) == shown
