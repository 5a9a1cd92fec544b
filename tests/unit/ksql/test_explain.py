"""What each engine is said to do with a file's statements."""

from __future__ import annotations

from pathlib import Path

import pytest

from heartwatch.cli import app
from heartwatch.ksql.explain import Explanation, explanations
from heartwatch.settings import ROOT
from ksqlengine.server.in_memory import InMemoryEngine

SOURCE = "CREATE STREAM s (k STRING KEY, v INT) WITH (KAFKA_TOPIC='s', VALUE_FORMAT='JSON');\n"
TABLE = "CREATE TABLE c AS SELECT k, COUNT(*) AS n FROM s GROUP BY k;\n"


def explained(sql: str) -> list[Explanation]:
    return list(explanations(SOURCE + TABLE + sql, InMemoryEngine({}, {})))[2:]


def test_each_statement_has_its_line_and_its_kind() -> None:
    found = list(explanations(f"{SOURCE}-- counted\n{TABLE}SHOW STREAMS;", InMemoryEngine({}, {})))
    assert [(one.line, one.laptop, one.ksqldb.split(",")[0]) for one in found] == [
        (1, "does it", "does the same"), (3, "does it", "does the same"), (4, "does it", "does the same"),
    ]  # fmt: skip
    assert [one.what.split(":")[0] for one in found] == [
        "a stream over a topic", "a persistent query", "a question, which changes nothing",
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("sql", "what", "notes"),
    [
        ("CREATE TABLE w AS SELECT k, COUNT(*) AS n FROM s WINDOW TUMBLING (SIZE 1 MINUTE) GROUP BY k EMIT FINAL;",
         "a persistent query", ("A window's result", "There is no RETENTION", "The laptop writes")),
        ("CREATE TABLE w AS SELECT k, COUNT_DISTINCT(v) AS n FROM s GROUP BY k;", "a persistent query",
         ("Changes of a key", "COUNT_DISTINCT", "The laptop writes")),
        ("CREATE STREAM j AS SELECT s.k, v, n FROM s JOIN c ON s.k = c.k;", "a persistent query",
         ("A row of the stream meets", "The laptop writes")),
        ("SELECT k, COUNT(*) FROM s GROUP BY k EMIT CHANGES;", "a push query", ("Each change is shown",)),
        ("SELECT * FROM c;", "a pull query", ("The laptop reads the topic",)),
        ("INSERT INTO s (k, v) VALUES ('a', 1);", "a record written into S", ()),
        ("DROP STREAM IF EXISTS nope;", "a command", ()),
    ],
)  # fmt: skip
def test_what_is_told(sql: str, what: str, notes: tuple[str, ...]) -> None:
    (one,) = explained(sql)
    assert one.what.startswith(what)
    assert one.laptop == "does it"
    assert len(one.notes) == len(notes)
    assert all(note.startswith(begin) for note, begin in zip(one.notes, notes, strict=True))


@pytest.mark.parametrize(
    ("sql", "laptop", "ksqldb"),
    [
        ("CREATE STREAM p WITH (VALUE_FORMAT='PROTOBUF') AS SELECT * FROM s;", "refuses it: The format PROTOBUF", "does the"),
        ("SELECT * FROM c WHERE n IS NULL;", "refuses it: Unsupported expression in WHERE", "refuses it too"),
        ("CREATE STREAM o AS SELECT * FROM nope;", "refuses it: Exception while preparing statement: NOPE", "refuses it too"),
    ],
)  # fmt: skip
def test_who_refuses(sql: str, laptop: str, ksqldb: str) -> None:
    (one,) = explained(sql)
    assert one.laptop.startswith(laptop)
    assert one.ksqldb.startswith(ksqldb)


def test_a_migration_is_explained_after_those_before_it(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as left:
        app(["ksql", "explain", str(ROOT / "ksql/heart_rate/V000003__alerts.sql")])
    assert left.value.code == 0
    assert "a persistent query: it runs from now on" in capsys.readouterr().out


def test_a_file_that_cannot_be_read(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as left:
        app(["ksql", "explain", str(tmp_path / "none.sql")])
    assert left.value.code == 2
    assert "can't be explained" in capsys.readouterr().err
