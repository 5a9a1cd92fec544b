"""Checking migrations without a server: each kind of finding, with its file, line and remedy."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from heartwatch.analytic import AnalyticError
from heartwatch.cli import app
from heartwatch.ksql.check import Finding, check_analytic, known_analytics, shown, shown_as_json

TOML = """[topics.walks]
schema = "walks.avsc"
key = "device"
cleanup_policy = "delete"

[variables]
size = 10
"""
STREAM = """CREATE STREAM ${walks_stream} (k STRING KEY, v INT)
  WITH (KAFKA_TOPIC = '${walks_topic}', VALUE_FORMAT = 'JSON', PARTITIONS = 1);
"""
TABLE = """-- Counts.
CREATE TABLE counts AS SELECT k, COUNT(*) AS n FROM ${walks_stream}
  WINDOW TUMBLING (SIZE ${size} SECONDS, RETENTION 1 DAY)
  GROUP BY k EMIT FINAL;
"""


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """A project with one analytic that has nothing wrong."""
    (tmp_path / "schemas" / "steps").mkdir(parents=True)
    (tmp_path / "ksql" / "steps").mkdir(parents=True)
    (tmp_path / "schemas" / "steps" / "analytic.toml").write_text(TOML)
    (tmp_path / "schemas" / "steps" / "walks.avsc").write_text('{"type": "record", "name": "Walk", "fields": []}')
    write(tmp_path, V000001__stream=STREAM, V000002__counts=TABLE)
    return tmp_path


def write(root: Path, **files: str) -> None:
    for name, text in files.items():
        (root / "ksql" / "steps" / f"{name}.sql").write_text(text)


def only(root: Path, **overrides: object) -> Finding:
    findings = check_analytic("steps", overrides, root)
    assert len(findings) == 1, shown(findings)
    return findings[0]


def test_the_repository_s_own_migrations_have_nothing_wrong() -> None:
    assert "heart_rate" in known_analytics()
    assert [finding for name in known_analytics() for finding in check_analytic(name)] == []


def test_what_is_right_gives_nothing(root: Path) -> None:
    assert check_analytic("steps", {"size": 20}, root) == []
    assert known_analytics(root) == ["steps"]


def test_a_windowed_query_without_retention(root: Path) -> None:
    write(root, V000002__counts=TABLE.replace(", RETENTION 1 DAY", ", GRACE PERIOD 5 SECONDS"))
    found = only(root)
    assert (found.file, found.line) == ("ksql/steps/V000002__counts.sql", 3)
    assert "EMIT FINAL and has no RETENTION: ksqlDB keeps a window for 15,000 ms" in found.what
    assert "RETENTION 1 DAY" in found.remedy


@pytest.mark.parametrize("change", [(", RETENTION 1 DAY", ""), (" EMIT FINAL", " EMIT CHANGES")])
def test_a_query_that_writes_every_change_needs_no_retention(root: Path, change: tuple[str, str]) -> None:
    write(root, V000002__counts=TABLE.replace(*change).replace("EMIT FINAL", "EMIT CHANGES"))
    assert check_analytic("steps", None, root) == []


def test_an_unknown_variable_in_a_statement(root: Path) -> None:
    write(root, V000002__counts=TABLE.replace("${size}", "${sise}"))
    first, second = check_analytic("steps", None, root)
    assert first == Finding(
        "ksql/steps/V000002__counts.sql",
        3,
        "variable 'sise' is unknown",
        "add 'sise' under [variables] in analytic.toml, or correct the name",
    )
    assert second == Finding(
        "schemas/steps/analytic.toml", 7, "variable 'size' is used by no statement", "remove it, or use it"
    )


def test_an_unknown_variable_in_a_comment(root: Path) -> None:
    write(root, V000002__counts="\n-- About ${nope}, ${nope}.\n" + TABLE)
    found = only(root)
    assert (found.line, found.what) == (2, "variable 'nope' is unknown, which is refused in a comment too")


def test_a_variable_that_only_a_batch_statement_uses_is_used(root: Path) -> None:
    (root / "ksql" / "steps" / "batch").mkdir()
    (root / "ksql" / "steps" / "batch" / "counts.sql").write_text("SELECT $size")
    write(root, V000002__counts=TABLE.replace("${size}", "10"))
    assert check_analytic("steps", None, root) == []


def test_a_value_that_cannot_stand_where_it_should(root: Path) -> None:
    found = only(root, size="ten; DROP STREAM a")
    assert (found.file, found.line) == ("ksql/steps/V000002__counts.sql", 3)
    assert found.what == "variable 'size' with the value 'ten; DROP STREAM a' is neither an identifier nor a number"
    assert "between single quotes" in found.remedy


def test_every_wrong_placeholder_of_a_file_is_named(root: Path) -> None:
    write(root, V000002__counts=TABLE.replace("counts", "${a}").replace("GROUP BY k", "GROUP BY ${b}"))
    assert [(found.line, found.what) for found in check_analytic("steps", None, root)] == [
        (2, "variable 'a' is unknown"),
        (4, "variable 'b' is unknown"),
    ]


def test_a_placeholder_that_is_a_part_of_a_word(root: Path) -> None:
    write(root, V000002__counts=TABLE.replace("counts", "a_${size}"))
    found = only(root)
    assert (found.line, found.what) == (2, "variable 'size' can't be a part of a word")
    assert found.remedy == "make the whole word a variable, or put a space between them"


@pytest.mark.parametrize(
    ("change", "line", "what"),
    [
        (("GROUP BY k", "GROUP k"), 4, "mismatched input 'k'"),
        (("COUNT(*)", "COUNT_ALL(*)"), 2, "COUNT_ALL"),
        (("SELECT k", "SELECT j, k"), 2, "J"),
        (("FROM ${walks_stream}", "FROM elsewhere"), 2, "ELSEWHERE does not exist"),
        (("SIZE ${size} SECONDS, RETENTION 1 DAY", "SIZE ${size} SECONDS, RETENTION 1 SECOND"), 2, "retention period"),
        (("AS n", "AS n$"), 2, "'$'"),
    ],
)
def test_a_statement_that_is_refused(root: Path, change: tuple[str, str], line: int, what: str) -> None:
    write(root, V000002__counts=TABLE.replace(*change))
    found = next(one for one in check_analytic("steps", None, root) if one.file.endswith("counts.sql"))
    assert (found.line, what in found.what) == (line, True), found
    assert found.remedy.startswith(("correct the", "write it otherwise"))


def test_statements_after_a_refused_one_are_not_blamed(root: Path) -> None:
    write(root, V000001__stream=STREAM.replace("INT", "INTT"))
    found = only(root)
    assert (found.file, found.line) == ("ksql/steps/V000001__stream.sql", 1)


def test_wrong_names_and_numbers(root: Path) -> None:
    write(root, V000004__more="-- Nothing.\n", more="-- Nothing.\n")
    assert [(found.file, found.what) for found in check_analytic("steps", None, root)] == [
        ("ksql/steps/V000004__more.sql", "the migration has the number 4 where 3 is next"),
        ("ksql/steps/more.sql", "the migration's name 'more.sql' is wrong"),
    ]


def test_findings_as_text_and_as_json() -> None:
    findings = [Finding("a.sql", 3, "it is\nwrong", "correct it"), Finding("b.sql", 1, "b", "c")]
    assert shown(findings) == "a.sql:3: it is wrong; correct it\nb.sql:1: b; c"
    assert shown([]) == "nothing found"
    assert json.loads(shown_as_json(findings))[0] == {
        "file": "a.sql",
        "line": 3,
        "what": "it is\nwrong",
        "remedy": "correct it",
    }


def test_the_command(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(SystemExit) as ended:
        app(["check", "heart_rate", "--json"])
    assert (ended.value.code, json.loads(capsys.readouterr().out)) == (0, [])
    found = [Finding("a.sql", 3, "wrong", "correct it")]
    monkeypatch.setattr("heartwatch.ksql.check.check_analytic", lambda *_: found)
    with pytest.raises(SystemExit) as ended:
        app(["check"])
    assert (ended.value.code, capsys.readouterr().out) == (1, "a.sql:3: wrong; correct it\n")


def test_an_analytic_that_is_not_there(root: Path) -> None:
    with pytest.raises(AnalyticError, match="no analytic 'nope'"):
        check_analytic("nope", None, root)
