"""Rows of a query in ksqlDB's media types, and which of them a client gets."""

from __future__ import annotations

from collections.abc import Iterator

import orjson
import pytest

from ksqlengine.plan.steps import Column
from ksqlengine.rest.answers import DELIMITED, JSON, KSQL_JSON, accepted, delimited, json_array, rows_in_objects
from ksqlengine.server.pull_push import Row
from ksqlengine.types.sqltypes import INTEGER, STRING

OFFERED = (DELIMITED, JSON, KSQL_JSON)


class Query:
    """A query with two rows, the second a tombstone."""

    query_id = "transient_S_1"
    columns = (Column("K", STRING), Column("A", INTEGER))
    keys = frozenset({"K"})

    def __init__(self, *, push: bool, fails: bool = False) -> None:
        self.push = self.ends_with_message = push
        self.final_message: str | None = None
        self._fails = fails

    def stop(self) -> None:
        raise AssertionError("nobody stops it")

    def rows(self) -> Iterator[list[Row]]:
        yield [Row(["k", 1], False)]
        yield []
        if self._fails:
            raise TimeoutError("Kafka is away")
        yield [Row(["k", None], True)]
        self.final_message = "Limit Reached"


@pytest.mark.parametrize(
    ("accept", "kind"),
    [
        (None, DELIMITED),
        ("*/*", DELIMITED),
        ("application/*", DELIMITED),
        (JSON, JSON),
        (KSQL_JSON, KSQL_JSON),
        (f"{JSON};q=0.5, {KSQL_JSON}", KSQL_JSON),
        ("text/html, */*;q=0.1", DELIMITED),
        ("text/plain", None),
        (f"{JSON};q=0", None),
        (f"{JSON};q=x", None),
    ],
)
def test_the_media_type_that_a_client_likes_best(accept: str | None, kind: str | None) -> None:
    assert accepted(accept, OFFERED) == kind


def test_each_row_has_its_own_line_end_at_once() -> None:
    """Who reads line by line is never one row behind."""
    header = b'{"queryId":"transient_S_1","columnNames":["K","A"],"columnTypes":["STRING","INTEGER"]}'
    assert list(delimited(Query(push=True))) == [header + b"\n", b'["k",1]\n', b"", b""]
    assert list(rows_in_objects(Query(push=True))) == [
        b'[{"header":{"queryId":"transient_S_1","schema":"`K` STRING, `A` INTEGER"}},\n',
        b'{"row":{"columns":["k",1]}},\n',
        b"",
        b'{"row":{"columns":["k",null],"tombstone":true}},\n',
        b'{"finalMessage":"Limit Reached"}',
        b"]",
    ]


def test_one_json_array() -> None:
    assert orjson.loads(b"".join(json_array(Query(push=True))))[1:] == [["k", 1]]
    pulled = orjson.loads(b"".join(rows_in_objects(Query(push=False))))
    assert pulled[0]["header"]["schema"] == "`K` STRING KEY, `A` INTEGER"
    assert pulled[1:] == [{"row": {"columns": ["k", 1]}}, {"row": {"columns": ["k", None], "tombstone": True}}]


def test_an_error_is_the_last_row() -> None:
    error = {"@type": "generic_error", "error_code": 50000, "message": "Kafka is away"}
    assert orjson.loads(list(delimited(Query(push=True, fails=True)))[-1]) == error
    assert orjson.loads(b"".join(json_array(Query(push=True, fails=True))))[-1] == error
    for push in (True, False):
        assert orjson.loads(b"".join(rows_in_objects(Query(push=push, fails=True)))[:-1].rstrip(b",\n") + b"]")
