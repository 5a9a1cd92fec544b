"""Migration files, what they create, and what the recorded state and the server's evidence mean together."""

import hashlib
from pathlib import Path

import pytest

from heartwatch.analytic import Analytic
from heartwatch.deploy.migrations import Migration, MigrationError, plan_migration, query_properties, read_migrations
from heartwatch.settings import load_settings
from ksqlengine.internal_names import AHEAD
from ksqlengine.language.rendering import render


def write(folder: Path, **files: str) -> Path:
    for name, text in files.items():
        (folder / f"{name}.sql").write_text(text)
    return folder


def test_files_are_read_in_order_with_their_checksum(tmp_path: Path):
    folder = write(tmp_path, V000002__b="SELECT '${x}';", V000001__make_a="CREATE STREAM a (b INT);")
    first, second = read_migrations(folder, {"x": "1", "unused": "2"})
    assert (first.version, first.name, first.file) == (1, "make a", "V000001__make_a.sql")
    assert first.checksum == hashlib.md5(b"CREATE STREAM a (b INT);").hexdigest()  # noqa: S324
    assert (first.variables, second.variables) == ({}, {"x": "1"})


@pytest.mark.parametrize(
    ("files", "reason"),
    [
        ({"V1__a": ""}, "wrong name"),
        ({"V000001__a": "", "V000003__c": ""}, "without gaps"),
        ({"V000001__a": "", "V000001__b": ""}, "without gaps"),
        ({"V000001__a": "${nope}"}, r"unknown variables \['nope'\]"),
    ],
)
def test_wrong_files_are_named(tmp_path: Path, files: dict[str, str], reason: str):
    with pytest.raises(MigrationError, match=reason):
        read_migrations(write(tmp_path, **files), {})


def migration(sql: str, **variables: str) -> Migration:
    return Migration(1, "a", "V000001__a.sql", sql, "sum", variables, render(sql, variables))


def test_what_a_file_creates():
    sql = """
    -- CREATE TABLE commented (a INT);
    CREATE OR REPLACE STREAM ${s} (a VARCHAR) WITH (KAFKA_TOPIC = 'CREATE TABLE no');
    create source table if not exists `Mixed` (a INT PRIMARY KEY) /* CREATE STREAM c */;
    CREATE TABLE t AS SELECT * FROM x;
    """
    assert migration(sql, s="first_v1").sources == (("STREAM", "FIRST_V1"), ("TABLE", "Mixed"), ("TABLE", "T"))


def test_the_repository_s_own_migrations():
    analytic = Analytic.load("heart_rate", 1)
    migrations = read_migrations(analytic.migrations_folder, analytic.variables())
    assert [source for one in migrations for source in one.sources] == [
        ("TABLE", "HEART_RATE_HISTORICAL_V1"),
        ("STREAM", "HEART_RATE_REALTIME_V1"),
        ("TABLE", "HEART_RATE_ALERTS_V1"),
    ]


def test_variables_are_replaced_before_anything_is_sent(tmp_path: Path):
    text = "-- ${size}\nCREATE TABLE ${t} AS SELECT COUNT(*) FROM a\n  WINDOW TUMBLING (SIZE ${size} SECONDS) GROUP BY '${t}';"
    (one,) = read_migrations(write(tmp_path, V000001__a=text), {"t": "o_1", "size": "10"})
    assert one.statements == text.replace("${t}", "o_1").replace("SIZE ${size}", "SIZE 10")
    assert one.variables == {"size": "10", "t": "o_1"}


@pytest.mark.parametrize("value", ["'ten'", "10; DROP TABLE a", "10) --", "select", "", "1 0", "a.b"])
def test_a_value_that_cannot_stand_where_its_placeholder_does(tmp_path: Path, value: str):
    folder = write(tmp_path, V000001__a="CREATE STREAM a AS SELECT *\n  FROM ${x};")
    with pytest.raises(MigrationError) as caught:
        read_migrations(folder, {"x": value})
    assert str(caught.value).startswith(f"migration V000001__a.sql:2:8: variable 'x' with the value {value!r} is ")


ONE = migration("CREATE STREAM a (b INT);", window_ms="10")
RECORD = {
    "version": 1,
    "name": "a",
    "checksum": "sum",
    "variables": {"window_ms": "10"},
    "state": "MIGRATED",
    "started": "2026-01-01",
    "ended": "2026-01-02",
}


@pytest.mark.parametrize(
    ("record", "present", "action", "reason"),
    [
        (None, set(), "create", "was not applied"),
        (RECORD, {"A"}, "unchanged", "was applied 2026-01-02"),
        ({**RECORD, "state": "RUNNING"}, {"A"}, "create", "an apply of 2026-01-01 didn't end"),
        (RECORD, set(), "create", "the server doesn't have A"),
        ({**RECORD, "checksum": "other"}, {"A"}, "refused", "write the change as a new migration"),
        ({**RECORD, "variables": {"window_ms": "20"}}, {"A"}, "refused", "other values (window_ms: 20 → 10)"),
    ],
)
def test_state_and_evidence(record: dict[str, object] | None, present: set[str], action: str, reason: str):
    change = plan_migration(ONE, record, present, {AHEAD: "5"})
    assert change.action == action
    assert reason in change.reason


@pytest.mark.parametrize(
    ("sql", "ahead_ms", "offset_reset", "action"),
    [
        ("CREATE TABLE a AS SELECT b FROM c;", "5", "latest", "unchanged"),
        ("CREATE TABLE a AS SELECT b FROM c;", "6", "earliest", "refused"),
        ("CREATE STREAM a (b INT) WITH (KAFKA_TOPIC='SELECT');", "6", "earliest", "unchanged"),
    ],
)
def test_a_running_query_s_other_properties_are_noticed(sql: str, ahead_ms: str, offset_reset: str, action: str):
    applied = {
        **RECORD,
        "variables": {},
        "properties": {"auto.offset.reset": "earliest", AHEAD: "5"},
    }
    wanted = {"auto.offset.reset": offset_reset, AHEAD: ahead_ms}
    change = plan_migration(migration(sql), applied, {"A"}, wanted)
    assert change.action == action
    assert (f"{AHEAD}: 5 → 6" in change.reason) is (action == "refused")


EARLIER = "0123456789abcdef0123456789abcdef"


def test_a_text_that_replaces_an_earlier_one_leaves_what_was_deployed_alone():
    newer = migration(f"-- About.\n-- Replaces MD5 {EARLIER}: the same rows.\nCREATE STREAM a (b INT);", window_ms="10")
    unchanged = plan_migration(newer, {**RECORD, "checksum": EARLIER}, {"A"}, {})
    assert (unchanged.action, unchanged.differences) == ("unchanged", ())
    assert unchanged.reason == "was applied 2026-01-02 from an earlier text that makes the same rows"
    assert plan_migration(newer, {**RECORD, "checksum": EARLIER[::-1]}, {"A"}, {}).action == "refused"
    other = {**RECORD, "checksum": EARLIER, "variables": {"window_ms": "20"}}
    assert plan_migration(newer, other, {"A"}, {}).action == "refused"
    assert plan_migration(newer, {**RECORD, "checksum": EARLIER}, set(), {}).action == "create"


def test_a_pipeline_of_the_first_release_is_not_refused():
    analytic = Analytic.load("heart_rate", 1)
    alerts = read_migrations(analytic.migrations_folder, analytic.variables())[2]
    assert "9761a36f20179c9f790d6c41d422f9c6" in alerts.checksums


def test_only_a_server_that_has_the_property_gets_it():
    settings = load_settings()
    assert query_properties(settings, bounds_ahead=False) == {
        "auto.offset.reset": "earliest",
        "processing.guarantee": "exactly_once_v2",
    }
    assert query_properties(settings, bounds_ahead=True)[AHEAD] == str(settings.pipeline.max_ahead_ms)
