"""How far ksqlDB had come with a statement that it refuses: the beginning of its message, and the text it shows."""

from __future__ import annotations

import pytest

from kafkakit.admin import TopicState
from ksqlengine.language.lexer import split_statements
from ksqlengine.language.parser import parse_statements
from ksqlengine.planning.ddl import CatalogChanger
from ksqlengine.server.in_memory import InMemoryEngine
from ksqlengine.server.refused_texts import refused_text
from ksqlengine.types.errors import NotSupportedError, StatementError

MADE = "CREATE STREAM s (k STRING KEY, v INT) WITH (KAFKA_TOPIC='s', VALUE_FORMAT='JSON', PARTITIONS=1);"
PLANNED = "Could not determine output schema for query due to error: "
NAMED = "Exception while preparing statement: "
WITH = "WITH (CLEANUP_POLICY='{}', KAFKA_TOPIC='O', PARTITIONS=3, REPLICAS=1, RETENTION_MS=7)"

WITH_S = "CREATE STREAM S " + WITH.format("delete").replace("'O'", "'S'") + " AS SELECT *"


@pytest.fixture
def engine() -> InMemoryEngine:
    made = InMemoryEngine({}, {})
    for parsed in split_statements(MADE):
        made.execute(parsed)
    return made


def refused(engine: InMemoryEngine, sql: str) -> tuple[StatementError, str]:
    (prepared,) = parse_statements(sql)
    with pytest.raises(StatementError) as caught:
        CatalogChanger(engine.analyzer, 1, {}).change(prepared)
    topic = TopicState("s", 3, 1, {"retention.ms": "7"})
    text = refused_text(prepared, caught.value, engine.analyzer, {"s": topic}.get)
    return caught.value.with_statement(text), text


@pytest.mark.parametrize(
    ("sql", "message", "text"),
    [
        (
            "CREATE STREAM o AS SELECT * FROM s EMIT FINAL;",
            f"{PLANNED}EMIT FINAL is only supported for windowed aggregations.",
            f"CREATE STREAM O {WITH.format('delete')} AS SELECT *\nFROM S S\nEMIT FINAL;",
        ),
        (
            "CREATE STREAM s AS SELECT * FROM s;",
            f"{PLANNED}Cannot add stream 'S': A stream with the same name already exists",
            WITH_S,
        ),
        (
            "CREATE TABLE o AS SELECT * FROM s;",
            f"{PLANNED}Invalid result type. Your SELECT query produces a STREAM. Please use CREATE STREAM AS SELECT statement "
            f"instead.\nStatement: CREATE TABLE O {WITH.format('compact')} AS SELECT *\nFROM S S\nEMIT CHANGES;",
            f"CREATE TABLE O {WITH.format('compact')} AS SELECT *\nFROM S S\nEMIT CHANGES;",
        ),
        ("CREATE STREAM o AS SELECT * FROM nope;", f"{NAMED}NOPE does not exist.", None),
        ("CREATE STREAM o AS SELECT TRANSFORM(ARRAY[1], v => v) FROM s;",
         f"{NAMED}Lambda function argument can't be a column name: V", None),
        ("INSERT INTO nope SELECT * FROM s;", f"{NAMED}Line: 1, Col: 13: Source `NOPE` does not exist.", None),
        (
            "CREATE STREAM o (a ARRAY<INT>) WITH (KAFKA_TOPIC='o', VALUE_FORMAT='DELIMITED');",
            "Value format does not support schema.",
            "CREATE STREAM O (A ARRAY<INTEGER>) WITH (CLEANUP_POLICY='delete', KAFKA_TOPIC='o', KEY_FORMAT='KAFKA', "
            "VALUE_FORMAT='DELIMITED');",
        ),
        ("CREATE STREAM o (a INT) WITH (VALUE_FORMAT='JSON');",
         'Failed to prepare statement: Missing required property "KAFKA_TOPIC" which has no default value.', None),
    ],
)  # fmt: skip
def test_messages_and_texts(engine: InMemoryEngine, sql: str, message: str, text: str | None) -> None:
    error, shown = refused(engine, sql)
    assert error.message.startswith(message)
    assert str(error) == error.message
    assert shown.startswith(text or sql)


def test_what_only_this_engine_refuses_says_so(engine: InMemoryEngine) -> None:
    (prepared,) = parse_statements("CREATE STREAM o AS SELECT 1 AS x, s.v IN ('1e99') AS y FROM s;")
    with pytest.raises(NotSupportedError) as caught:
        CatalogChanger(engine.analyzer, 1, {}).change(prepared)
    assert caught.value.phase is None
    assert caught.value.message.endswith("run it on ksqlDB")


def test_inserted_values_are_not_shown(engine: InMemoryEngine) -> None:
    (prepared,) = parse_statements("insert into s (k, `v`) values ('secret', 1);")
    error = StatementError("no")
    assert (
        refused_text(prepared, error, engine.analyzer, {}.get)
        == "INSERT INTO `S` (`K`, `v`) VALUES ('[value]', '[value]');"
    )
