"""Placeholders of SQL files, replaced on the client's side."""

from __future__ import annotations

import pytest

from ksqlengine.language.parser import parse_statements
from ksqlengine.language.rendering import RenderingError, placeholders, render

VALUES = {
    "name": "heart_rate_v1", "size": "10", "low": "-0.5", "text": "it's; -- ${name}", "quoted": "`Mixed`", "flag": "true",
    "exponent": "1e-5",
}  # fmt: skip


@pytest.mark.parametrize(
    ("sql", "rendered"),
    [
        ("SELECT * FROM ${name} r;", "SELECT * FROM heart_rate_v1 r;"),
        ("(SIZE ${size} SECONDS,RETENTION ${size} DAYS)", "(SIZE 10 SECONDS,RETENTION 10 DAYS)"),
        ("CAST(a AS DECIMAL(${size},2))", "CAST(a AS DECIMAL(10,2))"),
        ("a > ${low} AND b-${low} < ${exponent}", "a > -0.5 AND b- -0.5 < 1e-5"),
        ("r.${quoted}=${flag}", "r.`Mixed`=true"),
        ("'${text}' 'a''${size}''b'", "'it''s; -- ${name}' 'a''10''b'"),
        ("'$${name}' '$$${size}'", "'${name}' '$${size}'"),
        ("-- ${name} and ${nope}\n/* ${nope} */ ${size}", "-- ${name} and ${nope}\n/* ${nope} */ 10"),
        ("nothing here", "nothing here"),
        ("", ""),
    ],
)
def test_what_stands_for_a_placeholder(sql: str, rendered: str) -> None:
    assert render(sql, VALUES) == rendered


@pytest.mark.parametrize(
    ("sql", "value", "message"),
    [
        ("a\n ${x}", None, "2:2: variable 'x' is unknown; known are: y"),
        ("'a\n${x}'", None, "2:1: variable 'x' is unknown"),
        ("${x}", "a b", "1:1: variable 'x' with the value 'a b' is neither an identifier nor a number"),
        ("${x}", "'a'", "put the placeholder between single quotes for a text"),
        ("${x}", "a;", "neither"),
        ("${x}", "--", "neither"),
        ("${x}", "1.2.3", "neither"),
        ("${x}", "", "neither"),
        ("${x}", "a\n", "neither"),
        ("${x}", "from", "'from' is a reserved word"),
        ("a${x}", "b", "1:2: variable 'x' can't be a part of a word"),
        ("${x}_b", "b", "part of a word"),
        ("${x}${y}", "b", "part of a word"),
        ("${x}'b'", "b", "part of a word"),
        ("SELECT `a ${x}`;", "b", "1:11: variable 'x' can't be a part of the quoted identifier '`a ${x}`'"),
        ('"${x}"', "b", "quoted identifier"),
        ("a\n  ${n-a}", "b", "2:3: '$' can't stand here"),
    ],
)
def test_what_cannot_be_replaced(sql: str, value: str | None, message: str) -> None:
    with pytest.raises(RenderingError) as caught:
        render(sql, {"y": "1"} | ({} if value is None else {"x": value}))
    assert message in str(caught.value)


def test_a_value_can_not_add_a_statement() -> None:
    for value in ("x'; DROP STREAM a; --", "x''; DROP STREAM a; --", "\\'; DROP STREAM a; --"):
        (one,) = parse_statements(render("SELECT '${x}' FROM a;", {"x": value}))
        assert one.text.count("DROP") == 1


def test_where_placeholders_stand() -> None:
    found = placeholders("-- ${no}\nSELECT ${a}, 'x ${b} $${no}';")
    assert [(one.name, str(one.position), one.in_text) for one in found] == [("a", "2:8", False), ("b", "2:17", True)]
