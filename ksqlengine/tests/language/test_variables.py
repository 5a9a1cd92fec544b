"""Variables of a session. What is refused, where and in which words is as a ksqlDB 8.2.0 server answered it."""

from __future__ import annotations

import pytest

from ksqlengine.language.parser import parse_statements
from ksqlengine.types.errors import StatementError

JOIN = "CREATE STREAM o AS SELECT a.k, a.v AS q FROM a JOIN b "
TABLE = "CREATE TABLE o AS SELECT k, COUNT(*) AS n FROM a WINDOW "
NAME = "Identifier names cannot start with '@' and may only contain alphanumeric values and '_'."


@pytest.mark.parametrize(
    ("sql", "said"),
    [
        (f"{TABLE}TUMBLING (SIZE ${{x}} SECONDS) GROUP BY k;", ""),
        (f"{TABLE}TUMBLING (SIZE 10 ${{x}}) GROUP BY k;", ""),
        (f"{TABLE}TUMBLING (SIZE -${{x}} SECONDS) GROUP BY k;", "Syntax error at or near '${x}' at line {where}"),
        (f"{TABLE}TUMBLING (SIZE 10 SECONDS, RETENTION ${{x}} DAYS) GROUP BY k;", ""),
        (f"{TABLE}TUMBLING (SIZE 10 SECONDS, GRACE PERIOD ${{x}} DAYS) GROUP BY k;", ""),
        (f"{TABLE}HOPPING (SIZE ${{x}} SECONDS, ADVANCE BY 1 SECONDS) GROUP BY k;", ""),
        (f"{TABLE}HOPPING (SIZE 10 SECONDS, ADVANCE BY ${{x}} SECONDS) GROUP BY k;", ""),
        (f"{TABLE}SESSION (${{x}} SECONDS) GROUP BY k;", ""),
        (f"{TABLE}${{x}} TUMBLING (SIZE 10 SECONDS) GROUP BY k;", ""),
        (f"{JOIN}WITHIN ${{x}} SECONDS ON a.k = b.k;", ""),
        (f"{JOIN}WITHIN 5 ${{x}} ON a.k = b.k;", ""),
        (f"{JOIN}WITHIN (${{x}} SECONDS, 1 SECONDS) ON a.k = b.k;", ""),
        (f"{JOIN}WITHIN (1 SECONDS, ${{x}} SECONDS) GRACE PERIOD 1 SECOND ON a.k = b.k;", ""),
        (f"{JOIN}WITHIN 1 SECONDS GRACE PERIOD ${{x}} SECOND ON a.k = b.k;", ""),
        ("CREATE STREAM o (k STRING KEY, v DECIMAL(${x},2)) WITH (KAFKA_TOPIC='a', VALUE_FORMAT='JSON');", ""),
        ("CREATE STREAM o (k STRING KEY, v ARRAY<DECIMAL(${x},2)>) WITH (KAFKA_TOPIC='a');", ""),
        (
            "CREATE STREAM o (k STRING KEY, v VARCHAR(${x})) WITH (KAFKA_TOPIC='a');",
            "Expecting {'STRING', INTEGER_VALUE}",
        ),
        ("CREATE TYPE o AS STRUCT<a DECIMAL(4,${x})>;", ""),
        ("ALTER STREAM a ADD COLUMN c DECIMAL(${x},2);", ""),
        (
            "CREATE STREAM o AS SELECT CAST(v AS DECIMAL(${x}, 2)) FROM a;",
            "Syntax error at or near '${x}' at line {where}",
        ),
        (
            "CREATE STREAM o AS SELECT CAST(v AS DECIMAL(4,${x})) FROM a;",
            "Syntax error at or near '${x}' at line {where}",
        ),
        (
            "CREATE STREAM o AS SELECT CAST(v AS VARCHAR(${x})) FROM a;",
            "Syntax error at or near '${x}' at line {where}",
        ),
        ("CREATE STREAM o AS SELECT k FROM a LIMIT ${x};", ""),
        ("CREATE STREAM o AS SELECT k FROM a LIMIT 5${x};", "Expecting ';'"),
        ("PRINT 'a' LIMIT ${x};", ""),
        ("PRINT a INTERVAL ${x};", ""),
        ("ASSERT TOPIC a TIMEOUT ${x} SECONDS;", ""),
    ],
)
@pytest.mark.parametrize("variables", [{}, {"x": "1"}])
def test_where_no_variable_may_stand(sql: str, said: str, variables: dict[str, str]) -> None:
    where = f"1:{sql.index('${x}') + 1}"
    with pytest.raises(StatementError) as caught:
        parse_statements(sql, variables)
    entity = caught.value.entity()
    assert entity["message"] == f"line {where}: Syntax Error\n{said.replace('{where}', where)}"
    assert (entity["error_code"], entity["statementText"]) == (40001, sql)


@pytest.mark.parametrize(
    ("sql", "variables", "message"),
    [
        ("DESCRIBE ${x};", {"y": "1"}, f"Illegal argument at Line: 1, Col: 10. {NAME} Got: '${{x}}'"),
        ("DESCRIBE ${x};", {"x": "a b"}, f"Illegal argument at Line: 1, Col: 10. {NAME} Got: 'a b'"),
        (
            "DESCRIBE ${x};",
            {"x": "a; SHOW STREAMS"},
            f"Illegal argument at Line: 1, Col: 10. {NAME} Got: 'a; SHOW STREAMS'",
        ),
        ("DESCRIBE ${x};", {"x": "'a'"}, f"Illegal argument at Line: 1, Col: 10. {NAME} Got: ''a''"),
        ("DESCRIBE ${x};", {"x": ""}, "Exception while preparing statement: String index out of range: 0"),
        (
            "CREATE STREAM o AS SELECT k, ${x} AS q FROM ${x};",
            {"x": "1"},
            f"Illegal argument at Line: 1, Col: 45. {NAME} Got: '1'",
        ),
        (
            "CREATE STREAM o AS SELECT k, ${x} AS q FROM a;",
            {"x": "v"},
            "Illegal argument at Line: 1, Col: 30. Got: 'v'",
        ),
        (
            "CREATE STREAM o AS SELECT k, ${x} AS q FROM a;",
            {"x": "NULL"},
            "Illegal argument at Line: 1, Col: 30. Got: 'NULL'",
        ),
        ("CREATE STREAM o AS SELECT k, ${x} AS q FROM a;", {"x": ""}, "Illegal argument at Line: 1, Col: 30. Got: ''"),
        (
            "CREATE STREAM o AS SELECT k,\n ${x}+1 AS q FROM a;",
            {"x": "1 + 2"},
            "Illegal argument at Line: 2, Col: 2. Got: '1 + 2'",
        ),
        (
            "CREATE STREAM o WITH (PARTITIONS=${x}) AS SELECT k FROM a;",
            {"x": "one"},
            "Illegal argument at Line: 1, Col: 34. Got: 'one'",
        ),
        (
            "CREATE STREAM o AS SELECT k FROM a PARTITION BY ${x};",
            {"x": "v"},
            "Illegal argument at Line: 1, Col: 49. Got: 'v'",
        ),
        (
            "CREATE STREAM o AS SELECT DATEADD(${x}, 1, t) AS q FROM a;",
            {"x": "DAYS"},
            "Illegal argument at Line: 1, Col: 35. Got: 'DAYS'",
        ),
        (
            "CREATE STREAM o AS SELECT TRANSFORM(ARRAY[1], ${x} => ${x} + 1) AS q FROM a;",
            {"x": "z"},
            "Illegal argument at Line: 1, Col: 55. Got: 'z'",
        ),
        ("INSERT INTO a (k, v) VALUES (${x}, 5);", {"x": "a"}, "Illegal argument at Line: 1, Col: 30. Got: 'a'"),
        ("CREATE TYPE o AS ARRAY<${x}>;", {"x": "5"}, f"Illegal argument at Line: 1, Col: 24. {NAME} Got: '5'"),
        ("CREATE STREAM o AS SELECT k, ${x} AS q FROM a;", {}, "Failed to prepare statement: not yet implemented"),
        ("DESCRIBE ${n-a};", {"n-a": "X"}, "line 1:10: Syntax Error\nSyntax error at or near '$' at line 1:10"),
        ("DEFINE `x` = '1';", {}, "line 1:8: Syntax Error\nExpecting IDENTIFIER"),
        ("DEFINE x = 5;", {}, "line 1:12: Syntax Error\nExpecting STRING"),
    ],
)
def test_values_that_cannot_stand_where_the_variable_does(sql: str, variables: dict[str, str], message: str) -> None:
    with pytest.raises(StatementError) as caught:
        parse_statements(sql, variables)
    entity = caught.value.entity()
    assert (entity["message"], entity["error_code"], entity["statementText"]) == (message, 40001, sql)


def test_without_variables_a_placeholder_is_a_name() -> None:
    with pytest.raises(StatementError) as caught:
        parse_statements("DESCRIBE ${name};")
    assert caught.value.entity() == {
        "@type": "statement_error",
        "error_code": 40001,
        "message": "Illegal argument at Line: 1, Col: 10. Source names may only contain alphanumeric values, '_' or '-'. "
        "Got: '${NAME}'",
        "statementText": "${NAME}",
        "entities": [],
    }
    (one,) = parse_statements("CREATE STREAM o (k STRING KEY, ${c} INT) WITH (KAFKA_TOPIC='a');")
    assert "'${C}'" in repr(one.statement)


@pytest.mark.parametrize(
    ("sql", "variables", "text"),
    [
        (
            "SELECT a.${c} AS d FROM a WHERE v > ${n};",
            {"c": "v", "n": "-2.5e3"},
            "SELECT a.v AS d FROM a WHERE v > -2.5e3;",
        ),
        (
            "SELECT CAST(v AS ${t}), CAST(v AS ${u}(4,2)) FROM a;",
            {"t": "BIGINT", "u": "DECIMAL"},
            "SELECT CAST(v AS BIGINT), CAST(v AS DECIMAL(4,2)) FROM a;",
        ),
        (
            "SELECT ${f}(v), STRUCT(${a} := 1)->${a} FROM a ${r};",
            {"f": "ABS", "a": "z", "r": "rr"},
            "SELECT ABS(v), STRUCT(z := 1)->z FROM a rr;",
        ),
        (
            "SELECT ${x}, ${y}, ${z} FROM a;",
            {"x": "TRUE", "y": " 5 ", "z": "'it's'"},
            "SELECT TRUE,  5 , 'it''s' FROM a;",
        ),
        ("SELECT ARRAY[${a}, ${b}][${a}] FROM a;", {"a": "1", "b": "2"}, "SELECT ARRAY[1, 2][1] FROM a;"),
        (
            "SELECT '${x} $${x} ${y} ${z:-d} ${n-a}' FROM a;",
            {"x": "it's", "n-a": "1"},
            "SELECT 'it''s ${x} ${y} d 1' FROM a;",
        ),
        ("SELECT '$${x}' FROM a;", {}, "SELECT '$${x}' FROM a;"),
        (
            "SELECT k FROM a WHERE k LIKE '${p}' ESCAPE '${e}';",
            {"p": "a%", "e": "!"},
            "SELECT k FROM a WHERE k LIKE 'a%' ESCAPE '${e}';",
        ),
        ("SELECT v AS `${p}` FROM a;", {"p": "zz"}, "SELECT v AS `${p}` FROM a;"),
        (
            "CREATE STREAM o WITH (${p}='JSON', PARTITIONS=${n}) AS SELECT k FROM a;",
            {"p": "value_format", "n": "1"},
            "CREATE STREAM o WITH (value_format='JSON', PARTITIONS=1) AS SELECT k FROM a;",
        ),
        (
            "INSERT INTO a (${c}, v) VALUES ('${k}', -${v});",
            {"c": "k", "k": "it''s", "v": "5"},
            "INSERT INTO a (k, v) VALUES ('it''''s', -5);",
        ),
        ("PRINT ${t};", {"t": "a"}, "PRINT a;"),
        ("ASSERT SCHEMA ID ${n};", {"n": "1"}, "ASSERT SCHEMA ID 1;"),
        ("SET '${p}' = '${v}';", {"p": "auto.offset.reset", "v": "earliest"}, "SET 'auto.offset.reset' = 'earliest';"),
    ],
)
def test_what_is_put_in_place(sql: str, variables: dict[str, str], text: str) -> None:
    if "ESCAPE" in sql:  # what is left there is refused by both
        with pytest.raises(StatementError, match=r"escape|Escape|ESCAPE"):
            parse_statements(sql, variables)
        return
    (one,) = parse_statements(sql, variables)
    assert one.text == text


def test_a_value_may_name_a_variable_of_the_session() -> None:
    variables = {"b": "2"}
    parse_statements("DEFINE a = '${b}'; DEFINE size = '1';", variables)
    assert variables == {"a": "2", "b": "2", "size": "1"}


def test_the_case_of_a_variable_s_name_does_not_matter() -> None:
    variables = {"name": "a"}
    first, second, *_ = parse_statements(
        "DESCRIBE ${Name}; PRINT '${NAME}'; DEFINE NAME = 'b'; UNDEFINE nAme;", variables
    )
    assert (first.text, second.text, variables) == ("DESCRIBE a;", "PRINT 'a';", {})


def test_what_is_not_ksql_is_refused_where_it_stands_before_variables_are_replaced() -> None:
    with pytest.raises(StatementError, match=r"^line 1:14: "):
        parse_statements("SELECT '${x}';", {"x": "a longer text"})
    with pytest.raises(StatementError, match=r"^line 1:25: "):
        parse_statements("SELECT ${x} AS ${y} FROM;", {"x": "a b", "y": "1"})


def test_undefining_what_is_not_defined_is_warned_of() -> None:
    first, second = parse_statements("DEFINE a = '1'; UNDEFINE nope;", {})
    assert (first.warning, second.warning) == (None, "Cannot undefine variable 'nope' which was never defined")
