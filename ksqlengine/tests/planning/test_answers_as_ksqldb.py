"""Pull queries that go through all sessions of a table give no row, and joins without GRACE PERIOD a notice, as in ksqlDB."""

from __future__ import annotations

import pytest
from analyzer_session import Session

from ksqlengine.language.parser import parse_statements
from ksqlengine.server.responses import deprecations
from ksqlengine.server.transient_stages import reads_nothing

SESSIONS = "CREATE TABLE se AS SELECT id, COUNT(*) c FROM st WINDOW SESSION (5 SECONDS) GROUP BY id;"


@pytest.mark.parametrize(
    ("select", "expected"),
    [
        ("SELECT * FROM se;", True),
        ("SELECT * FROM se WHERE c > 1;", True),
        ("SELECT * FROM se WHERE id = 1;", False),
        ("SELECT * FROM se WHERE id = 1 AND windowstart > 5;", False),
        ("SELECT * FROM wt;", False),
        ("SELECT * FROM st;", False),
        ("SELECT * FROM se EMIT CHANGES;", False),
    ],
)
def test_sessions_are_only_looked_up_by_their_keys(session: Session, select: str, expected: bool) -> None:
    session.run(SESSIONS)
    assert reads_nothing(session.select(select)) is expected


@pytest.mark.parametrize(
    ("statement", "notices"),
    [
        ("CREATE STREAM j AS SELECT a.id, b.v FROM st a JOIN st2 b WITHIN 1 SECOND ON a.id = b.id;", 1),
        (
            "CREATE STREAM j AS SELECT a.id, b.v FROM st a JOIN st2 b WITHIN 1 SECOND GRACE PERIOD 0 SECONDS ON a.id = b.id;",
            0,
        ),
        ("CREATE STREAM j AS SELECT a.id, label FROM st a JOIN tb b ON a.id = b.id;", 0),
        ("CREATE STREAM j AS SELECT * FROM st;", 0),
    ],
)
def test_a_join_of_streams_without_a_grace_period_gets_a_notice(session: Session, statement: str, notices: int) -> None:
    session.run("CREATE STREAM st2 (id INT KEY, v INT) WITH (KAFKA_TOPIC='t2', VALUE_FORMAT='JSON');")
    (parsed,) = parse_statements(statement, {})
    assert len(deprecations(parsed.statement, session.plan(statement))) == notices
