"""The Python API: sessions over given rows."""

from __future__ import annotations

import subprocess
import sys
from datetime import UTC, date, datetime, timedelta, timezone
from datetime import time as time_of_day
from decimal import Decimal
from typing import Any

import polars as pl
import pytest

import ksqlengine
from ksqlengine import InMemory, KsqlError, RowError

CLICKS = "CREATE STREAM clicks (user STRING KEY, page STRING) WITH (KAFKA_TOPIC='clicks_topic', VALUE_FORMAT='JSON');"
USERS = "CREATE TABLE users (id STRING PRIMARY KEY, country STRING) WITH (KAFKA_TOPIC='users', VALUE_FORMAT='JSON');"
COUNTS = "CREATE TABLE counts AS SELECT user, COUNT(*) AS n FROM clicks GROUP BY user;"


def session(*statements: str, **options: Any) -> InMemory:
    made = InMemory(**options)
    made.execute("".join(statements))
    return made


def click(user: str, page: str = "home", time: int | None = None) -> dict[str, Any]:
    return {"user": user, "page": page} | ({} if time is None else {"ROWTIME": time})


# ------------------------------------------------------------------------------------------------------- queries
def test_a_table_keeps_up_with_a_stream() -> None:
    running = session(CLICKS, COUNTS)
    running.insert("clicks", [click("ann"), click("bob"), click("ann")])
    expected = pl.DataFrame({"USER": ["ann", "bob"], "N": [2, 1]})
    assert running.rows("counts").equals(expected)
    running.insert("clicks_topic", pl.DataFrame({"USER": ["bob"], "PAGE": ["home"]}))
    running.execute("INSERT INTO clicks VALUES ('bob', 'home');")
    assert running.rows("COUNTS").to_dicts() == [{"USER": "ann", "N": 2}, {"USER": "bob", "N": 3}]
    assert running.rows("clicks").height == 5


def test_a_query_joins_a_stream_with_what_its_table_holds_when_a_row_comes() -> None:
    running = session(CLICKS, USERS)
    running.execute(
        "CREATE STREAM joined AS SELECT c.user, page, country FROM clicks c LEFT JOIN users u ON c.user = u.id;"
    )
    running.insert("clicks", [click("ann", "1")])
    running.insert("users", [{"id": "ann", "country": "AT"}])
    running.insert("clicks", [click("ann", "2")])
    running.delete("users", [{"id": "ann"}])
    running.insert("clicks", [click("ann", "3")])
    expected = [("ann", "1", None), ("ann", "2", "AT"), ("ann", "3", None)]
    assert running.rows("joined").rows() == expected
    select = "SELECT c.user, page, country FROM clicks c LEFT JOIN users u ON c.user = u.id EMIT CHANGES;"
    assert running.query(select).rows() == expected
    assert running.rows("users").height == 0


JOIN = "SELECT {key} AS id, a.v AS av, b.v AS bv FROM a LEFT JOIN b WITHIN 5 SECONDS GRACE PERIOD 1 SECOND ON {on}"
PAIR = "".join(
    f"CREATE STREAM {name} (id INT KEY, other INT, v STRING) WITH (KAFKA_TOPIC='{name}', FORMAT='JSON');"
    for name in "ab"
)


@pytest.mark.parametrize("on", ["a.id = b.id", "a.other = b.other"], ids=["by key", "repartitioned"])
def test_streams_are_joined_within_a_time(on: str) -> None:
    running = session(PAIR)
    running.execute(f"CREATE STREAM kept AS {JOIN.format(key=on.split(maxsplit=1)[0], on=on)};")

    def row(value: str, time: int) -> dict[str, Any]:
        return {"id": 1, "other": 1, "v": value, "ROWTIME": time}

    running.insert("a", [row("a0", 0), row("a1", 20_000)])
    running.insert("b", [row("b0", 21_000), row("b1", 40_000)])
    running.insert("a", [row("a2", 60_000)])
    assert running.rows("kept").rows() == [(1, "a0", None), (1, "a1", "b0")]


def test_windows_close_with_stream_time() -> None:
    final = "SELECT user, COUNT(*) AS n FROM clicks WINDOW TUMBLING (SIZE 10 SECONDS, GRACE PERIOD 5 SECONDS)"
    running = session(CLICKS, f"CREATE TABLE closed AS {final} GROUP BY user EMIT FINAL;")
    running.insert("clicks", [click("ann", time=1_000), click("ann", time=9_000), click("ann", time=14_999)])
    assert running.rows("closed").height == 0
    running.insert("clicks", [click("ann", time=2_000), click("bob", time=15_000), click("ann", time=3_000)])
    assert running.rows("closed").to_dicts() == [{"USER": "ann", "WINDOWSTART": 0, "WINDOWEND": 10_000, "N": 3}]
    assert running.query(f"{final} GROUP BY user EMIT FINAL;").rows() == [("ann", 3)]


def test_sessions_and_windowed_sources() -> None:
    running = session(
        CLICKS,
        "CREATE TABLE visits AS SELECT user, COUNT(*) AS n FROM clicks WINDOW SESSION (10 SECONDS) GROUP BY user;",
    )
    running.insert("clicks", [click("ann", time=1_000), click("ann", time=30_000), click("ann", time=35_000)])
    columns = "SELECT user, WINDOWSTART, WINDOWEND, n FROM visits;"
    assert running.query(columns).rows() == [("ann", 1_000, 1_000, 1), ("ann", 30_000, 35_000, 2)]
    running.execute(
        "CREATE STREAM hourly (id STRING KEY, v INT) "
        "WITH (KAFKA_TOPIC='h', VALUE_FORMAT='JSON', WINDOW_TYPE='TUMBLING', WINDOW_SIZE='1 HOUR');"
    )
    with pytest.raises(RowError, match="WINDOWSTART"):
        running.insert("hourly", [{"id": "a", "v": 1}])
    running.insert("hourly", [{"id": "a", "v": 1, "WINDOWSTART": datetime(1970, 1, 1, 1, tzinfo=UTC)}])
    assert running.query("SELECT id, WINDOWSTART, WINDOWEND, v FROM hourly;").rows() == [("a", 3_600_000, 7_200_000, 1)]


def test_every_change_comes_out_however_batches_are_cut() -> None:
    changes = "SELECT user, COUNT(*) AS n FROM clicks GROUP BY user EMIT CHANGES;"
    rows = [click("ann"), click("bob"), click("ann")]
    found = {}
    for batch_rows in (1, 100):
        running = session(CLICKS, batch_rows=batch_rows)
        running.insert("clicks", rows)
        found[batch_rows] = tuple(running.query(changes).rows())
    assert found == dict.fromkeys((1, 100), (("ann", 1), ("bob", 1), ("ann", 2)))


def test_a_limit_ends_a_query() -> None:
    running = session(CLICKS)
    running.insert("clicks", [click("ann"), click("bob")])
    assert running.query("SELECT user FROM clicks EMIT CHANGES LIMIT 1;").rows() == [("ann",)]
    assert running.query("SELECT user FROM clicks LIMIT 1;").rows() == [("ann",)]


# ------------------------------------------------------------------------------------------------------- statements
def test_a_new_query_reads_what_is_there() -> None:
    running = session(CLICKS)
    running.insert("clicks", [click("ann"), click("ann")])
    running.execute(COUNTS)
    assert running.rows("counts").rows() == [("ann", 2)]
    running.execute("SET 'auto.offset.reset'='latest';" + COUNTS.replace("TABLE counts", "TABLE later"))
    running.execute("UNSET 'auto.offset.reset';" + COUNTS.replace("TABLE counts", "TABLE again"))
    running.insert("clicks", [click("ann")])
    assert [running.rows(name).rows() for name in ("later", "again")] == [[("ann", 1)], [("ann", 3)]]


def test_tables_are_read_from_their_beginning_whatever_the_property_says() -> None:
    running = session(CLICKS, USERS, properties={"auto.offset.reset": "latest"})
    running.insert("users", [{"id": "ann", "country": "AT"}])
    running.insert("clicks", [click("ann", "1")])
    running.execute("CREATE STREAM joined AS SELECT c.user, page, country FROM clicks c JOIN users u ON c.user = u.id;")
    running.insert("clicks", [click("ann", "2")])
    assert running.rows("joined").rows() == [("ann", "2", "AT")]


def test_a_paused_query_goes_on_where_it_was() -> None:
    running = session(CLICKS, COUNTS)
    running.insert("clicks", [click("ann")])
    running.execute("PAUSE ALL;")
    running.insert("clicks", [click("ann")])
    assert running.rows("counts").rows() == [("ann", 1)]
    running.execute("RESUME ALL;")
    running.insert("clicks", [click("ann")])
    assert running.rows("counts").rows() == [("ann", 3)]


def test_a_deleted_topic_is_empty_when_it_is_made_again() -> None:
    running = session(CLICKS)
    running.insert("clicks", [click("ann")])
    running.execute("DROP STREAM clicks;" + CLICKS)
    assert running.rows("clicks").height == 1
    running.execute("DROP STREAM clicks DELETE TOPIC;" + CLICKS + COUNTS)
    assert running.rows("clicks").height == 0
    running.insert("clicks", [click("bob")])
    assert running.rows("counts").rows() == [("bob", 1)]


def test_variables_properties_and_replaced_queries() -> None:
    running = session(
        "DEFINE name = 'x_clicks';",
        CLICKS.replace("clicks (", "${name} (").replace("clicks_topic", "${topic}"),
        variables={"topic": "t"},
    )
    running.insert("t", [click("ann")])
    assert running.query("SELECT user FROM ${name};").rows() == [("ann",)]
    running.execute("CREATE STREAM copy AS SELECT * FROM x_clicks WHERE page = 'home';")
    running.execute("CREATE OR REPLACE STREAM copy AS SELECT * FROM x_clicks WHERE page = 'end';")
    running.insert("t", [click("bob"), click("bob", "end")])
    assert running.rows("copy").rows() == [("ann", "home"), ("bob", "end")]


def test_what_a_query_writes_goes_on_to_the_next() -> None:
    running = session(CLICKS, "CREATE STREAM homes AS SELECT * FROM clicks WHERE page = 'home';")
    running.execute("CREATE TABLE n AS SELECT user, COUNT(*) AS n FROM homes GROUP BY user;")
    running.insert("clicks", [click("ann"), click("ann", "end")])
    assert running.rows("n").rows() == [("ann", 1)]


# ------------------------------------------------------------------------------------------------------- errors
@pytest.mark.parametrize(
    ("sql", "said"),
    [
        ("CREATE STREAM;", "line 1:30: Syntax Error\nSyntax error at or near ';' at line 1:30"),
        ("CREATE STREAM s AS SELECT nothing FROM clicks;", "SELECT column 'NOTHING' cannot be resolved"),
        ("CREATE STREAM s AS SELECT * FROM nothing;", "NOTHING does not exist"),
        ("DROP STREAM nothing;", "Stream NOTHING does not exist."),
        ("SET 'no.such' = '1';", "Unknown property: no.such"),
        ("SELECT * FROM clicks;", "SELECT gives rows"),
        ("SHOW STREAMS;", "changes nothing"),
    ],
)
def test_bad_statements_are_refused_in_the_words_of_the_server(sql: str, said: str) -> None:
    running = session(CLICKS)
    with pytest.raises(KsqlError) as refused:
        running.execute(f"DEFINE x = '1'; {sql}")
    assert said in str(refused.value)
    running.insert("clicks", [click("ann")])
    assert running.rows("clicks").height == 1


@pytest.mark.parametrize("sql", ["", "SELECT 1; SELECT 2;", CLICKS, "SELECT * FROM nothing;", "SELECT FROM clicks;"])
def test_what_is_not_one_query_is_refused(sql: str) -> None:
    with pytest.raises(KsqlError):
        session(CLICKS).query(sql)


def test_unknown_names_are_refused() -> None:
    running = session(CLICKS)
    for call in (lambda: running.rows("nothing"), lambda: running.insert("nothing", [])):
        with pytest.raises(KsqlError, match="nothing does not exist"):
            call()
    with pytest.raises(KsqlError, match="is a stream"):
        running.delete("clicks", [{"user": "ann"}])


def test_rows_that_cannot_be_processed_are_in_the_log() -> None:
    running = session(
        CLICKS,
        "CREATE STREAM nullable (k STRING KEY, t STRING) "
        "WITH (KAFKA_TOPIC='n', VALUE_FORMAT='JSON', TIMESTAMP='t', TIMESTAMP_FORMAT='yyyy-MM-dd');",
        "CREATE STREAM copied AS SELECT * FROM nullable;",
    )
    running.insert("nullable", [{"k": "a", "t": "2020-01-01"}, {"k": "b", "t": "yesterday"}])
    assert running.query("SELECT k, ROWTIME FROM copied;").rows() == [("a", 1_577_836_800_000)]
    (rejected,) = running.rejected().to_dicts()
    assert (rejected["topic"], rejected["offset"]) == ("n", 1)
    assert "the event time" in rejected["reason"]


def test_a_query_that_feeds_itself_is_refused() -> None:
    running = session(CLICKS, "CREATE STREAM copy AS SELECT * FROM clicks;", "INSERT INTO clicks SELECT * FROM copy;")
    with pytest.raises(KsqlError, match="illegal cycle"):
        running.insert("clicks", [click("ann")])


# ------------------------------------------------------------------------------------------------------- values
TYPES = (
    "CREATE STREAM all_types (k BIGINT KEY, b BOOLEAN, i INT, d DOUBLE, e DECIMAL(4, 2), s STRING, y BYTES, da DATE, ti TIME, "
    "ts TIMESTAMP, a ARRAY<INT>, m MAP<STRING, DECIMAL(3, 1)>, r STRUCT<x INT, `y` STRING>) "
    "WITH (KAFKA_TOPIC='all', KEY_FORMAT='KAFKA', VALUE_FORMAT='{format}');"
)
VALUES: dict[str, Any] = {
    "k": 2**40, "b": True, "i": -5, "d": 1, "e": 1.25, "s": "ä", "y": b"\x00\xff", "da": date(2020, 2, 29),
    "ti": time_of_day(1, 2, 3), "ts": datetime(2020, 1, 1, 2, tzinfo=timezone(timedelta(hours=2))), "a": [1, None],
    "m": {"x": Decimal("1.5")}, "r": {"x": 1, "y": "b"},
}  # fmt: skip
SHOWN: tuple[Any, ...] = (
    2**40, True, -5, 1.0, Decimal("1.25"), "ä", b"\x00\xff", date(2020, 2, 29), time_of_day(1, 2, 3), datetime(2020, 1, 1),
    [1, None], [{"key": "x", "value": Decimal("1.5")}], {"X": 1, "y": "b"},
)  # fmt: skip


@pytest.mark.parametrize("format_", ["JSON", "AVRO"])
def test_values_of_all_types_come_back(format_: str) -> None:
    running = session(TYPES.format(format=format_))
    running.insert("all_types", [VALUES, {}])
    shown = running.rows("all_types")
    assert shown.rows() == [SHOWN, (None,) * len(SHOWN)]
    running.insert("all_types", shown)
    assert running.rows("all_types").equals(pl.concat([shown, shown]))


@pytest.mark.parametrize(
    ("column", "value", "said"),
    [
        ("i", 2**31, "column I of ALL_TYPES can't hold 2147483648: it doesn't fit INTEGER"),
        ("i", 1.5, "can't hold 1.5"),
        ("i", True, "bool is not INTEGER"),
        ("i", "1", "str is not INTEGER"),
        ("b", 1, "int is not BOOLEAN"),
        ("s", 1, "int is not STRING"),
        ("e", 100, "it doesn't fit DECIMAL(4, 2)"),
        ("e", Decimal("1.234"), "more digits after the point"),
        ("e", float("nan"), "it doesn't fit"),
        ("y", "text", "str is not BYTES"),
        ("da", datetime(2020, 1, 1), "datetime is not DATE"),
        ("ts", "yesterday", "can't hold 'yesterday'"),
        ("a", [1, "x"], "str is not INTEGER"),
        ("a", "x", "str is not ARRAY<INTEGER>"),
        ("m", {1: Decimal(1)}, "int is not STRING"),
        ("r", {"nope": 1}, "has no field 'NOPE'"),
        ("nope", 1, "ALL_TYPES has no column 'nope'; it has K, B, I,"),
    ],
)
def test_a_value_that_does_not_fit_is_refused(column: str, value: Any, said: str) -> None:
    running = session(TYPES.format(format="JSON"))
    with pytest.raises(RowError) as refused:
        running.insert("all_types", [{column: value}])
    assert said in str(refused.value)
    assert running.rows("all_types").height == 0


def test_frames_of_other_types_are_taken_where_nothing_is_lost() -> None:
    running = session(TYPES.format(format="JSON"))
    moment = datetime(2020, 1, 1)
    frame = pl.DataFrame(
        {
            "i": pl.Series([1, 2], dtype=pl.UInt8),
            "d": pl.Series([1, None], dtype=pl.Int64),
            "s": pl.Series(["x", "y"], dtype=pl.Categorical),
            "ts": pl.Series([moment, None]).dt.replace_time_zone("UTC"),
            "ROWTIME": pl.Series([moment, moment]).dt.cast_time_unit("us"),
            "e": [1.5, 2.25],
            "b": [None, None],
        }
    )
    running.insert("all_types", frame)
    assert running.query("SELECT i, d, s, ts, ROWTIME, e, b FROM all_types;").rows() == [
        (1, 1.0, "x", moment, 1_577_836_800_000, Decimal("1.50"), None),
        (2, None, "y", None, 1_577_836_800_000, Decimal("2.25"), None),
    ]
    with pytest.raises(RowError, match="column I of ALL_TYPES can't hold Int64 as INTEGER"):
        running.insert("all_types", pl.DataFrame({"i": [2**31]}))
    with pytest.raises(RowError, match="given twice"):
        running.insert("all_types", pl.DataFrame({"i": [1], "I": [2]}))


def test_columns_of_a_registered_schema() -> None:
    schema = {
        "type": "record",
        "name": "Reading",
        "fields": [{"name": "id", "type": "int"}, {"name": "v", "type": ["null", "double"]}],
    }
    running = session(
        "CREATE STREAM readings WITH (KAFKA_TOPIC='readings', VALUE_FORMAT='AVRO');",
        schemas={"readings-value": schema},
    )
    running.insert("readings", [{"id": 1, "v": 2.5}, {"id": 2}])
    assert running.rows("readings").rows() == [(1, 2.5), (2, None)]


# ------------------------------------------------------------------------------------------------------- run
def test_run_joins_in_order_of_event_time() -> None:
    statements = (
        f"{CLICKS}{USERS}SELECT c.user, page, country FROM clicks c JOIN users u ON c.user = u.id EMIT CHANGES;"
    )
    clicks = [click("ann", "late", time=30), click("ann", "early", time=10)]
    moves = [{"id": "ann", "country": "AT", "ROWTIME": 0}, {"id": "ann", "country": "DE", "ROWTIME": 20}]
    found = ksqlengine.run(statements, {"clicks": clicks, "users": moves})
    assert found.rows() == [("ann", "early", "AT"), ("ann", "late", "DE")]
    # A table's rows without a time are there from the beginning.
    timeless = [{"id": "ann", "country": "AT"}]
    assert ksqlengine.run(statements, {"clicks": clicks, "users": timeless})["COUNTRY"].to_list() == ["AT", "AT"]


def test_run_orders_rows_by_the_column_that_is_their_time() -> None:
    statements = """
        CREATE STREAM a (k INT KEY, happened TIMESTAMP) WITH (KAFKA_TOPIC='a', VALUE_FORMAT='JSON', TIMESTAMP='happened');
        CREATE STREAM b (k INT KEY, happened STRING)
            WITH (KAFKA_TOPIC='b', VALUE_FORMAT='JSON', TIMESTAMP='happened', TIMESTAMP_FORMAT='yyyy-MM-dd');
        CREATE STREAM both AS SELECT * FROM a PARTITION BY k;
        CREATE STREAM c AS SELECT k, 'a' AS origin FROM a;
        INSERT INTO c SELECT k, 'b' AS origin FROM b;
    """
    rows = {
        "a": [{"k": 1, "happened": datetime(2020, 1, 1)}, {"k": 3, "happened": datetime(2020, 1, 3)}],
        "b": [{"k": 2, "happened": "2020-01-02"}],
    }
    assert ksqlengine.run(statements, rows).rows() == [(1, "a"), (2, "b"), (3, "a")]
    assert ksqlengine.run(statements, rows, result="both")["K"].to_list() == [1, 3]


def test_run_gives_what_the_last_query_writes() -> None:
    assert ksqlengine.run(CLICKS + COUNTS, {"clicks": [click("ann")]}).rows() == [("ann", 1)]
    assert ksqlengine.run(CLICKS, {"clicks": [click("ann")]}, result="clicks").rows() == [("ann", "home")]
    with pytest.raises(KsqlError, match="No statement gives rows"):
        ksqlengine.run(CLICKS)
    with pytest.raises(KsqlError, match="No statement gives rows"):
        ksqlengine.run("")
    with pytest.raises(KsqlError, match="users does not exist"):
        ksqlengine.run(CLICKS + COUNTS, {"users": []})


def test_an_empty_result_has_the_columns_and_their_types() -> None:
    found = ksqlengine.run(CLICKS + COUNTS)
    assert found.schema == {"USER": pl.String, "N": pl.Int64}
    assert found.is_empty()


def test_the_package_loads_nothing_before_the_api_is_used() -> None:
    code = "import sys, ksqlengine; print('polars' in sys.modules); ksqlengine.InMemory; print('polars' in sys.modules)"
    shown = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
    assert shown == "False\nTrue\n"
    with pytest.raises(AttributeError, match="nothing"):
        ksqlengine.nothing  # noqa: B018
