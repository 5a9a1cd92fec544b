"""`ksqlengine test`: what it takes, what it prints, how it exits."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest

from ksqlengine.cli import run_tests

STATEMENTS = """
CREATE STREAM samples (id INT KEY, pulse INT, weight DECIMAL(4, 1)) WITH (KAFKA_TOPIC='samples', VALUE_FORMAT='JSON');
CREATE TABLE counts AS SELECT id, COUNT(*) AS n, MAX(weight) AS w FROM samples WINDOW TUMBLING (SIZE 1 SECOND) GROUP BY id;
"""
INPUTS = [{"topic": "samples", "key": 1, "value": {"PULSE": 60, "WEIGHT": 70.5}, "timestamp": 1500}]
WINDOW = {"start": 1000, "end": 2000, "type": "time"}
EXPECTED = {"topic": "COUNTS", "key": 1, "value": {"N": 1, "W": "70.5"}, "timestamp": 1500, "window": WINDOW}


def write(folder: Path, outputs: Any, statements: str = STATEMENTS, inputs: Any = None) -> tuple[Path, Path, Path]:
    folder.mkdir(parents=True, exist_ok=True)
    files = folder / "statements.sql", folder / "input.json", folder / "output.json"
    expected = outputs if isinstance(outputs, dict) else {"outputs": outputs}
    texts = statements, json.dumps({"inputs": INPUTS if inputs is None else inputs}), json.dumps(expected)
    for path, text in zip(files, texts, strict=True):
        path.write_text(text)
    return files


def exit_code(*files: Path, properties: list[str] | None = None) -> int:
    with pytest.raises(SystemExit) as left:
        run_tests(*files, properties=properties)
    return int(left.value.code or 0)


def test_three_files_that_match(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert exit_code(*write(tmp_path, [EXPECTED])) == 0
    assert capsys.readouterr().out == "1 passed, 0 failed\n"


@pytest.mark.parametrize(
    ("changed", "reason"),
    [
        ({"timestamp": 1501}, "timestamp: expected 1501, actual 1500"),
        ({"key": 2}, "key: expected 2, actual 1"),
        ({"value": {"N": 2, "W": "70.5"}}, "value.N: expected 2, actual 1"),
        ({"value": {"N": 1, "W": "70.50"}}, "value.W: expected"),
        ({"value": {"N": 1}}, "value.W: expected null, actual 70.5"),
        ({"value": {"N": 1, "W": "70.5", "X": 1}}, "there is no field 'X'"),
        ({"value": None}, "value: expected null"),
        ({"window": {**WINDOW, "end": 2001}}, "window: expected time 1000-2001, actual time 1000-2000"),
        ({"window": None}, "window: expected none"),
        ({"topic": "samples"}, "window"),
    ],
)
def test_a_difference_is_shown(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], changed: dict[str, Any], reason: str
) -> None:
    assert exit_code(*write(tmp_path, [EXPECTED | changed])) == 1
    lines = capsys.readouterr().out.splitlines()
    assert reason in lines[0]
    assert lines[-1] == "0 passed, 1 failed"


def test_missing_and_extra_records_are_shown_where_they_are(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert exit_code(*write(tmp_path, [EXPECTED, EXPECTED])) == 1
    out = capsys.readouterr().out
    assert "expected 2 records, there are 1" in out
    assert re.search(r"^  key=1 .*\n- key=1 .*\n\?   nothing came$", out, re.MULTILINE)
    assert exit_code(*write(tmp_path, [])) == 1
    assert "expected 0 records, there are 1" in capsys.readouterr().out


def test_what_is_not_said_is_not_compared(tmp_path: Path) -> None:
    unsaid = {name: value for name, value in EXPECTED.items() if name != "timestamp"}
    assert exit_code(*write(tmp_path, [unsaid])) == 0


REFUSAL = {"type": "io.confluent.ksql.util.KsqlStatementException", "message": "NOTHING does not exist"}


@pytest.mark.parametrize(
    ("refusal", "code"),
    [
        (REFUSAL, 0),
        ({"type": "KsqlException"}, 0),
        ({"message": "NOTHING does not exist"}, 0),
        (REFUSAL | {"message": "SOMETHING"}, 1),
        (REFUSAL | {"type": "io.confluent.ksql.exception.KsqlTopicAuthorizationException"}, 1),
    ],
)
def test_statements_that_must_be_refused(tmp_path: Path, refusal: dict[str, str], code: int) -> None:
    statements = "CREATE STREAM s AS SELECT * FROM nothing;"
    assert exit_code(*write(tmp_path, {"expectedException": refusal}, statements, [])) == code
    assert exit_code(*write(tmp_path, {"expectedException": refusal})) == 1


def test_a_folder_of_cases(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    write(tmp_path / "good", [EXPECTED])
    write(tmp_path / "bad", [EXPECTED | {"key": 2}, EXPECTED])
    write(tmp_path / "broken", [EXPECTED], "CREATE NONSENSE;")
    assert exit_code(tmp_path) == 1
    lines = capsys.readouterr().out.splitlines()
    assert [line.split(":")[0] for line in lines] == ["FAILED bad", "FAILED broken", "1 passed, 2 failed"]


@pytest.mark.parametrize(
    ("name", "text", "said"),
    [
        ("input.json", "{", "is not JSON"),
        ("input.json", '{"inputs": [{"key": 1}]}', "inputs.0.topic"),
        (
            "output.json",
            '{"outputs": [], "expectedException": {"type": "X"}}',
            "either 'outputs' or 'expectedException'",
        ),
        ("output.json", '{"expectedException": {}}', "needs a type or a message"),
        (
            "output.json",
            '{"outputs": [{"topic": "T", "value": 1, "window": {"start": 0, "end": 1, "type": "x"}}]}',
            "window",
        ),
    ],
)
def test_a_file_that_cannot_be_used(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], name: str, text: str, said: str
) -> None:
    files = write(tmp_path, [EXPECTED])
    (tmp_path / name).write_text(text)
    assert exit_code(*files) == 2
    error = capsys.readouterr().err
    assert name in error
    assert said in error
    assert error.count("\n") == 1


def test_a_missing_file_and_an_empty_folder(tmp_path: Path) -> None:
    assert exit_code(tmp_path / "none.sql", tmp_path / "none.json", tmp_path / "none.json") == 2
    assert exit_code(tmp_path) == 2
    assert exit_code(tmp_path / "none") == 2


def test_a_record_that_does_not_fit_its_topic_fails_the_case(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert exit_code(*write(tmp_path, [], inputs=[INPUTS[0] | {"topic": "other"}])) == 1
    assert "no stream or table reads or writes topic 'other'" in capsys.readouterr().out
    assert exit_code(*write(tmp_path, [], inputs=[INPUTS[0] | {"key": "x"}])) == 1
    assert "'x' is not INTEGER for the KAFKA format" in capsys.readouterr().out


SQL_TESTS = """-- tests of a filter
--@test: passes
SET 'ksql.create.or.replace.enabled' = 'true';
CREATE STREAM a (id INT KEY, x INT) WITH (kafka_topic='a', value_format='JSON');
CREATE STREAM b AS SELECT * FROM a WHERE x > 0;
INSERT INTO a (id, x, ROWTIME) VALUES (1, 5, 10);
INSERT INTO a (id, x) VALUES (2, 0);
ASSERT VALUES b (id, x, ROWTIME) VALUES (1, 5, 10);
CREATE OR REPLACE STREAM b AS SELECT * FROM a WHERE x < 0;
INSERT INTO a (id, x) VALUES (1, 6);
INSERT INTO a (id, x) VALUES (1, -6);
ASSERT VALUES b (id, x) VALUES (1, -6);
ASSERT STREAM b (id INT KEY, x INT) WITH (kafka_topic='B', value_format='JSON');
--@test: a replaced aggregate goes on
CREATE STREAM a (id INT KEY, g INT, x INT) WITH (kafka_topic='a', value_format='JSON');
CREATE TABLE b AS SELECT g, SUM(x) AS s FROM a WHERE x > 0 GROUP BY g;
INSERT INTO a (id, g, x) VALUES (1, 7, 5);
ASSERT VALUES b (g, s) VALUES (7, 5);
CREATE OR REPLACE TABLE b AS SELECT g, SUM(x) AS s FROM a WHERE x < 0 GROUP BY g;
INSERT INTO a (id, g, x) VALUES (1, 7, 6);
INSERT INTO a (id, g, x) VALUES (2, 7, -1);
ASSERT VALUES b (g, s) VALUES (7, 4);
--@test: a replaced condition on groups says nothing of what it keeps out before and now
CREATE STREAM a (id INT KEY, x INT) WITH (kafka_topic='a', value_format='JSON');
CREATE TABLE b AS SELECT id, COUNT(*) AS n FROM a GROUP BY id HAVING COUNT(*) <> 2;
INSERT INTO a (id) VALUES (1);
ASSERT VALUES b (id, n) VALUES (1, 1);
CREATE OR REPLACE TABLE b AS SELECT id, COUNT(*) AS n FROM a GROUP BY id HAVING COUNT(*) > 2;
INSERT INTO a (id) VALUES (1);
INSERT INTO a (id) VALUES (1);
ASSERT VALUES b (id, n) VALUES (1, 3);
--@test: tombstones
CREATE TABLE t (id INT PRIMARY KEY, x INT) WITH (kafka_topic='t', value_format='JSON');
CREATE TABLE u AS SELECT * FROM t WHERE x > 0;
INSERT INTO t (id, x) VALUES (1, 1);
INSERT INTO t (id, x) VALUES (1, 0);
ASSERT VALUES u (id, x) VALUES (1, 1);
ASSERT NULL VALUES u (id) KEY (1);
DROP TABLE u;
--@test: through two queries
CREATE STREAM a (id INT KEY, x INT) WITH (kafka_topic='a', value_format='DELIMITED');
CREATE STREAM b AS SELECT id, x + 1 AS y FROM a;
CREATE TABLE c AS SELECT id, SUM(y) AS z FROM b GROUP BY id;
INSERT INTO a (id, x) VALUES (1, 1);
INSERT INTO a (id, x) VALUES (1, 2);
ASSERT VALUES c (id, z) VALUES (1, 2);
ASSERT VALUES c (id, z) VALUES (1, 5);
--@test: refused
--@expected.error: io.confluent.ksql.util.KsqlException
--@expected.message: NOTHING does not exist
CREATE STREAM b AS SELECT * FROM nothing;
--@test: wrong value
--@expected.error: java.lang.AssertionError
--@expected.message: Expected record does not match actual
CREATE STREAM a (id INT KEY, x INT) WITH (kafka_topic='a', value_format='JSON');
INSERT INTO a (id, x) VALUES (1, 1);
ASSERT VALUES a (id, x) VALUES (1, 2);
--@test: no record left
--@expected.message: Expected another record
CREATE STREAM a (id INT KEY, x INT) WITH (kafka_topic='a', value_format='JSON');
ASSERT VALUES a (id, x) VALUES (1, 2);
--@test: what is asserted may leave formats open, and bytes are base64
SET 'ksql.streams.topology.optimization' = 'none';
CREATE STREAM a (id DECIMAL(4,2) KEY, b BYTES, c ARRAY<BYTES>, d STRUCT<e BYTES>) WITH (kafka_topic='a', format='JSON');
CREATE STREAM b AS SELECT * FROM a;
INSERT INTO a VALUES (1.50, 'aGk=', ARRAY['aGk='], STRUCT(e := 'aGk='));
ASSERT VALUES b (id, b, c, d) VALUES (1.50, 'aGk=', ARRAY['aGk='], STRUCT(e := 'aGk='));
ASSERT STREAM b (id DECIMAL(4,2) KEY, b BYTES, c ARRAY<BYTES>, d STRUCT<e BYTES>) WITH (kafka_topic='B');
--@test: an inserted row without values deletes nothing
CREATE TABLE a (id INT PRIMARY KEY, x INT) WITH (kafka_topic='a', value_format='JSON');
CREATE TABLE b AS SELECT * FROM a;
INSERT INTO a (id) VALUES (1);
ASSERT VALUES b (id) VALUES (1);
--@test: no property
--@expected.message: Unknown property: ksql.no.such
SET 'ksql.no.such' = '1';
--@test: another shape
--@expected.message: Expected schema does not match actual for source A
CREATE STREAM a (id INT KEY, x INT) WITH (kafka_topic='a', value_format='JSON');
ASSERT STREAM a (id INT KEY, x BIGINT) WITH (kafka_topic='a', value_format='JSON');
"""


def test_sql_tests(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "tests.sql"
    path.write_text(SQL_TESTS)
    code = exit_code(path)
    assert capsys.readouterr().out == "12 passed, 0 failed\n"
    assert code == 0


def test_sql_tests_that_fail_name_their_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "tests.sql"
    path.write_text(
        SQL_TESTS.replace("(1, 5, 10);\nCREATE", "(1, 5, 11);\nCREATE").replace("FROM nothing", "FROM nobody")
    )
    assert exit_code(path) == 1
    lines = capsys.readouterr().out.splitlines()
    assert lines[0].startswith("FAILED passes: line 8: Expected record does not match actual.")
    assert lines[1].startswith("FAILED refused: expected a message with 'NOTHING does not exist'")
    assert lines[-1] == "10 passed, 2 failed"


def test_sql_before_the_first_test(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "tests.sql"
    path.write_text("CREATE STREAM a;")
    assert exit_code(path) == 2
    assert "must each begin with a line '--@test: name'" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("timestamp", "properties", "counted"),
    [
        (1_000, [], 2),
        (1_000, ["ksqlengine.timestamp.ahead.max.ms=500"], 1),
        (0, ["ksqlengine.timestamp.ahead.max.ms=500"], 2),
    ],
)
def test_records_of_no_time_are_not_judged_to_be_ahead_of_it(
    tmp_path: Path, timestamp: int, properties: list[str], counted: int
) -> None:
    statements = STATEMENTS.replace("weight DECIMAL(4, 1)", "weight DECIMAL(4, 1), seen BIGINT").replace(
        "VALUE_FORMAT", "TIMESTAMP='seen', VALUE_FORMAT"
    )
    inputs = [
        {"topic": "samples", "key": 1, "value": {"PULSE": 60, "SEEN": seen}, "timestamp": timestamp or None}
        for seen in (1_000, 1_900)
    ]
    outputs = [
        {"topic": "COUNTS", "key": 1, "value": {"N": number + 1, "W": None}, "window": WINDOW}
        for number in range(counted)
    ]

    assert exit_code(*write(tmp_path, outputs, statements, inputs), properties=properties) == 0
