"""What CREATE statements leave to the server, filled in as ksqlDB fills it in."""

from __future__ import annotations

import pytest

from ksqlengine.language import ast
from ksqlengine.language.lexer import split_statements
from ksqlengine.language.parser import parse_statements
from ksqlengine.planning.canonical import ResultTopic, created_as_text, created_source_text
from ksqlengine.server.in_memory import InMemoryEngine

MADE = """
CREATE STREAM s (k STRING KEY, v INT, st STRUCT<x INT>) WITH (KAFKA_TOPIC='s', VALUE_FORMAT='JSON', PARTITIONS=1);
CREATE STREAM r (k STRING KEY, v INT, `w` INT) WITH (KAFKA_TOPIC='r', VALUE_FORMAT='JSON', PARTITIONS=1);
"""
TOPIC = ResultTopic("out", 2, 1, 604_800_000)
WITH = "WITH (CLEANUP_POLICY='{}', KAFKA_TOPIC='out', PARTITIONS=2, REPLICAS=1, RETENTION_MS=604800000)"


@pytest.fixture
def engine() -> InMemoryEngine:
    made = InMemoryEngine({}, {})
    for parsed in split_statements(MADE):
        made.execute(parsed)
    return made


def shown(engine: InMemoryEngine, sql: str) -> str:
    (found,) = parse_statements(sql)
    assert isinstance(found.statement, ast.CreateAsSelect)
    return created_as_text(found.statement, engine.catalog, TOPIC)


@pytest.mark.parametrize(
    ("sql", "text"),
    [
        (
            "CREATE STREAM o AS SELECT k, v + 1, st->x, ROWTIME FROM s WHERE v > 1;",
            f"CREATE STREAM O {WITH.format('delete')} AS SELECT\n  S.K K,\n  (S.V + 1) KSQL_COL_0,\n  S.ST->X X,\n"
            "  S.ROWTIME ROWTIME\nFROM S S\nWHERE (S.V > 1)\nEMIT CHANGES;",
        ),
        (
            "CREATE TABLE o AS SELECT k, COUNT(*) AS n FROM s GROUP BY k EMIT CHANGES;",
            f"CREATE TABLE O {WITH.format('compact')} AS SELECT\n  S.K K,\n  COUNT(*) N\nFROM S S\nGROUP BY S.K\nEMIT CHANGES;",
        ),
        (
            "CREATE TABLE o AS SELECT k, COUNT(*) AS n FROM s WINDOW TUMBLING (SIZE 1 MINUTE, RETENTION 1 DAY) GROUP BY k "
            "EMIT FINAL;",
            f"CREATE TABLE O {WITH.format('compact,delete')} AS SELECT\n  S.K K,\n  COUNT(*) N\nFROM S S\n"
            "WINDOW TUMBLING ( SIZE 1 MINUTES , RETENTION 1 DAYS ) \nGROUP BY S.K\nEMIT FINAL;",
        ),
        (
            "CREATE STREAM o AS SELECT a.k, a.v, b.v, `w` FROM s a JOIN r b WITHIN 5 SECONDS ON a.k = b.k;",
            f"CREATE STREAM O {WITH.format('delete')} AS SELECT\n  A.K A_K,\n  A.V A_V,\n  B.V B_V,\n  B.`w` `w`\nFROM S A\n"
            "INNER JOIN R B WITHIN 5 SECONDS ON ((A.K = B.K))\nEMIT CHANGES;",
        ),
        (
            "CREATE STREAM o AS SELECT k, TRANSFORM(ARRAY[v], v2 => v2 + v) AS t FROM s;",
            f"CREATE STREAM O {WITH.format('delete')} AS SELECT\n  S.K K,\n  TRANSFORM(ARRAY[S.V], (V2) => (V2 + S.V)) T\n"
            "FROM S S\nEMIT CHANGES;",
        ),
    ],
)
def test_queries_name_every_source_and_column(engine: InMemoryEngine, sql: str, text: str) -> None:
    assert shown(engine, sql) == text


def test_what_a_statement_says_itself_stays(engine: InMemoryEngine) -> None:
    text = shown(engine, "CREATE STREAM o WITH (RETENTION_MS=1000, VALUE_FORMAT='AVRO') AS SELECT * FROM s;")
    assert "RETENTION_MS=1000, VALUE_FORMAT='AVRO') AS SELECT *\n" in text


def test_sources_get_their_formats_and_policy(engine: InMemoryEngine) -> None:
    (found,) = parse_statements("CREATE STREAM s (k STRING KEY, v INT) WITH (KAFKA_TOPIC='s', VALUE_FORMAT='JSON');")
    assert isinstance(found.statement, ast.CreateSource)
    source = engine.analyzer.create_source(
        ast.CreateSource("STREAM", "X", found.statement.columns, found.statement.properties), ""
    )
    assert created_source_text(found.statement, source) == (
        "CREATE STREAM S (K STRING KEY, V INTEGER) WITH (CLEANUP_POLICY='delete', KAFKA_TOPIC='s', KEY_FORMAT='KAFKA', "
        "VALUE_FORMAT='JSON');"
    )
