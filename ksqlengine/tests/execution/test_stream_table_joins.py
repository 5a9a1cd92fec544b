"""Joins of a stream with a table of which no column is used: only it counts whether the key has a row."""

from __future__ import annotations

from typing import Any

import pytest

from ksqlengine import InMemory

STREAM = "CREATE STREAM clicks (user STRING KEY, page STRING) WITH (KAFKA_TOPIC='clicks', VALUE_FORMAT='JSON');"
TABLE = "CREATE TABLE users (id STRING PRIMARY KEY, country STRING) WITH (KAFKA_TOPIC='users', VALUE_FORMAT='JSON');"
LANGUAGES = (
    "CREATE TABLE languages (id STRING PRIMARY KEY, name STRING) WITH (KAFKA_TOPIC='languages', VALUE_FORMAT='JSON');"
)


def clicks(*users: str) -> list[dict[str, Any]]:
    return [{"user": user, "page": f"page of {user}"} for user in users]


@pytest.mark.parametrize(
    ("kind", "select", "expected"),
    [
        ("JOIN", "c.user AS user, page", [("ann", "page of ann"), ("bob", "page of bob")]),
        ("LEFT JOIN", "c.user AS user, page", [("ann", "page of ann"), ("eve", "page of eve"), ("bob", "page of bob")]),
        ("JOIN", "u.id AS user, page", [("ann", "page of ann"), ("bob", "page of bob")]),
    ],
)
def test_no_column_of_the_table_is_selected(kind: str, select: str, expected: list[tuple[str, str]]) -> None:
    session = InMemory()
    session.execute(STREAM + TABLE)
    session.execute(f"CREATE STREAM joined AS SELECT {select} FROM clicks c {kind} users u ON c.user = u.id;")
    session.insert(
        "users", [{"id": "ann", "country": "AT"}, {"id": "bob", "country": "BE"}, {"id": "eve", "country": "EE"}]
    )
    session.delete("users", [{"id": "eve"}])
    session.insert("clicks", clicks("ann", "eve", "bob"))
    assert session.rows("joined").rows() == expected


def test_it_counts_in_groups_and_with_a_second_table() -> None:
    session = InMemory()
    session.execute(STREAM + TABLE + LANGUAGES)
    session.execute(
        "CREATE TABLE counts AS SELECT c.user, COUNT(*) AS n FROM clicks c JOIN users u ON c.user = u.id GROUP BY c.user;"
        "CREATE STREAM both AS SELECT c.user, page, l.name FROM clicks c "
        "JOIN users u ON c.user = u.id JOIN languages l ON c.user = l.id;"
    )
    session.insert("users", [{"id": "ann", "country": "AT"}])
    session.insert("languages", [{"id": "ann", "name": "de"}, {"id": "bob", "name": "nl"}])
    session.insert("clicks", clicks("ann", "bob", "ann"))
    assert session.rows("counts").rows() == [("ann", 2)]
    assert session.rows("both").rows() == [("ann", "page of ann", "de")] * 2
