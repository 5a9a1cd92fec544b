"""The parser: statements, names, variables, splitting, errors with their place."""

from __future__ import annotations

import pytest

from ksqlengine.language import ast
from ksqlengine.language.parser import parse_expression, parse_statements, parse_type
from ksqlengine.types.errors import NotSupportedError, ParseError, StatementError


def only(sql: str) -> ast.Node:
    (one,) = parse_statements(sql)
    return one.statement


def test_each_statement_has_its_own_text() -> None:
    sql = "-- first; not the end\nSHOW STREAMS; /* ; */ LIST TOPICS\n;\n  SELECT ';' FROM a;"
    assert [one.text for one in parse_statements(sql)] == ["SHOW STREAMS;", "LIST TOPICS\n;", "SELECT ';' FROM a;"]


@pytest.mark.parametrize(
    ("sql", "kind"),
    [
        ("create or replace stream a (x int) with (kafka_topic='a');", ast.CreateSource),
        ("create source table if not exists a (x int primary key) with (kafka_topic='a');", ast.CreateSource),
        ("create table a as select b, count(*) from c group by b;", ast.CreateAsSelect),
        ("insert into a select * from b;", ast.InsertInto),
        ("insert into a (x, y) values (1, 'b');", ast.InsertValues),
        ("drop stream if exists a delete topic;", ast.DropSource),
        ("terminate all;", ast.TerminateQuery),
        ("pause q;", ast.PauseQuery),
        ("resume all;", ast.ResumeQuery),
        ("describe a extended;", ast.Node),
        ("describe function abs;", ast.Node),
        ("explain select * from a emit changes;", ast.Node),
        ("explain ctas_a_1;", ast.Node),
        ("set 'auto.offset.reset' = 'earliest';", ast.Node),
        ("unset 'auto.offset.reset';", ast.Node),
        ("define x = 'y';", ast.Node),
        ("undefine x;", ast.Node),
        ("print 'topic' from beginning interval 2 limit 3;", ast.Node),
        ("create type address as struct<street string>;", ast.RegisterType),
        ("drop type if exists address;", ast.Node),
        ("show all topics extended;", ast.Node),
        ("list properties;", ast.Node),
        ("show variables;", ast.Node),
        ("assert topic a with (partitions=1) timeout 3 seconds;", ast.Node),
        ("assert not exists schema subject 'a' id 3;", ast.Node),
        ("assert values a (x) values (1);", ast.AssertValues),
        ("assert null values a (x) key (1);", ast.AssertValues),
        ("assert stream a (x int) with (kafka_topic='a');", ast.Node),
        ("select * from a emit changes limit 3;", ast.QueryStatement),
    ],
)
def test_statements(sql: str, kind: type) -> None:
    assert isinstance(only(sql), kind)


def test_names_are_upper_case_unless_quoted() -> None:
    statement = only("create stream Abc (a int, `bC` int, \"dE\" int, date string) with (kafka_topic='x');")
    assert isinstance(statement, ast.CreateSource)
    assert statement.name == "ABC"
    assert [column.name for column in statement.columns] == ["A", "bC", "dE", "DATE"]


def test_windows_and_clauses() -> None:
    statement = only(
        "create table a as select b from c window hopping (size 1 hour, advance by 5 minutes, retention 2 days, "
        "grace period 10 seconds) where d group by b having count(*) > 1 emit final;"
    )
    assert isinstance(statement, ast.CreateAsSelect)
    window = statement.query.window
    assert window is not None
    assert (window.kind, window.size_ms, window.advance_ms) == ("HOPPING", 3_600_000, 300_000)
    assert (window.retention_ms, window.grace_ms) == (172_800_000, 10_000)
    assert statement.query.emit == "FINAL"


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("1 + 2 * 3", "(1 + (2 * 3))"),
        ("(1 + 2) * 3", "((1 + 2) * 3)"),
        ("a OR b AND NOT c", "(A OR (B AND (NOT C)))"),
        ("a->b[1]->c", "A->B[1]->C"),
        ("x => x + 1", "X => (X + 1)"),
        ("(x, y) => x + y", "(X, Y) => (X + Y)"),
        ("map('a':=1)", "MAP('a':=1)"),
        ("a between 1 and 2 or b", "((A BETWEEN 1 AND 2) OR B)"),
        ("s like 'a!%' escape '!'", "(S LIKE 'a!%' ESCAPE '!')"),
        ("a is not distinct from null", "(NOT (A IS DISTINCT FROM null))"),
        ("'it''s'", "'it''s'"),
        ("t.a", "T.A"),
    ],
)
def test_expressions_show_how_they_were_read(text: str, shown: str) -> None:
    if "=>" in text:
        assert str(parse_expression(f"TRANSFORM(a, {text})")) == f"TRANSFORM(A, {shown})"
    else:
        assert str(parse_expression(text)) == shown


@pytest.mark.parametrize(
    ("text", "value"),
    [("-2147483648", -2147483648), ("2147483648", 2147483648), ("0", 0)],
)
def test_numbers_at_the_edges(text: str, value: int) -> None:
    parsed = parse_expression(text)
    assert isinstance(parsed, ast.IntegerLiteral)
    assert parsed.value == value


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("int", "INTEGER"),
        ("varchar", "STRING"),
        ("varchar(3)", "STRING"),
        ("decimal(4, 2)", "DECIMAL(4, 2)"),
        (
            "array<map<string, struct<a int, b array<double>>>>",
            "ARRAY<MAP<STRING, STRUCT<`A` INTEGER, `B` ARRAY<DOUBLE>>>>",
        ),
        ("bytes", "BYTES"),
        ("timestamp", "TIMESTAMP"),
    ],
)
def test_types(text: str, shown: str) -> None:
    assert str(parse_type(text)) == shown


@pytest.mark.parametrize("text", ["decimal(0, 0)", "decimal(2, 3)"])
def test_decimals_that_cannot_be(text: str) -> None:
    with pytest.raises(StatementError, match="DECIMAL"):
        parse_type(text)


@pytest.mark.parametrize(
    ("sql", "message"),
    [
        ("SHOW STREAMS;\nSELEC a FROM b;", "line 2:1: Syntax Error\nUnknown statement 'SELEC'\nDid you mean 'SELECT'?"),
        ("SELECT a\nFROM\n;", "line 3:1: Syntax Error\n"),
        ("SELECT a FROM b", "line 1:16: Syntax Error\nSyntax error at or near \";\"\n'}', ']', or ')' is missing"),
        (
            "CREATE STREAM a (at INT) WITH (KAFKA_TOPIC='a');",
            'line 1:18: Syntax Error\n"at" is a reserved keyword and it can\'t be used',
        ),
        ("CREATE STREAM a (b NULL) WITH (KAFKA_TOPIC='a');", "line 1:20: Syntax Error\n"),
    ],
)
def test_errors_name_the_place(sql: str, message: str) -> None:
    with pytest.raises(ParseError) as caught:
        parse_statements(sql)
    assert str(caught.value).startswith(message)
    entity = caught.value.entity()
    assert entity["@type"] == "statement_error"
    assert entity["error_code"] == 40001
    assert entity["statementText"].strip() == sql.partition("STREAMS;\n")[2] or sql
    assert entity["entities"] == []


class TestVariables:
    def test_names_and_texts(self) -> None:
        sql = "CREATE STREAM ${name} (a INT) WITH (KAFKA_TOPIC='${topic}', PARTITIONS=${count});"
        (one,) = parse_statements(sql, {"name": "orders", "topic": "o_1", "count": "3"})
        assert one.text == "CREATE STREAM orders (a INT) WITH (KAFKA_TOPIC='o_1', PARTITIONS=3);"
        assert isinstance(one.statement, ast.CreateSource)
        assert one.statement.name == "ORDERS"

    def test_define_holds_from_there_on_and_undefine_ends_it(self) -> None:
        variables: dict[str, str] = {}
        parsed = parse_statements("DEFINE topic = 'a'; PRINT ${topic}; DEFINE topic = 'b'; PRINT ${topic};", variables)
        assert [one.text for one in parsed if one.text.startswith("PRINT")] == ["PRINT a;", "PRINT b;"]
        parse_statements("UNDEFINE topic;", variables)
        assert variables == {}

    def test_an_unknown_variable_is_an_error_outside_texts(self) -> None:
        with pytest.raises(StatementError, match=r"\$\{NOPE\}"):
            parse_statements("SELECT * FROM ${nope};")
        (one,) = parse_statements("SELECT '${nope}' FROM a;")
        assert one.text == "SELECT '${nope}' FROM a;"

    def test_a_value_cannot_bring_a_statement(self) -> None:
        with pytest.raises(StatementError):
            parse_statements("SELECT * FROM ${x};", {"x": "a; DROP STREAM b"})
        (one,) = parse_statements("SELECT '${x}' FROM a;", {"x": "it's"})
        assert one.text == "SELECT 'it''s' FROM a;"


@pytest.mark.parametrize(("before", "after"), [("ABS(", ")"), ("", " OR v")])
def test_a_statement_may_be_nested_deeply_and_is_refused_where_it_is_too_deep(before: str, after: str) -> None:
    def nested(levels: int) -> str:
        return f"SELECT {before * levels}v{after * levels} FROM s EMIT CHANGES;"

    (prepared,) = parse_statements(nested(250))
    assert hash(prepared.statement) == hash(parse_statements(nested(250))[0].statement)
    with pytest.raises(NotSupportedError, match="nested more than 300 levels deep") as refused:
        parse_statements(nested(5000))
    assert refused.value.statement == nested(5000)
