"""The analyzer: plans of the migrations and of queries of every kind, and ksqlDB's refusals."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from analyzer_session import Session

from ksqlengine.language.ast import Node
from ksqlengine.language.rendering import render
from ksqlengine.plan.catalog import schema_text
from ksqlengine.plan.explain import explain, explain_step
from ksqlengine.plan.steps import (
    AggregateStep,
    FilterStep,
    JoinKind,
    ProjectStep,
    RepartitionStep,
    SourceKind,
    SourceStep,
    Step,
    StreamTableJoinStep,
    WindowKind,
)
from ksqlengine.types.errors import KsqlError, NotSupportedError, StatementError

MIGRATIONS = Path(__file__).parents[3] / "ksql" / "heart_rate"
VARIABLES = {
    "historical_table": "historical", "historical_topic": "hr_historical", "realtime_stream": "realtime",
    "realtime_topic": "hr_realtime", "alerts_table": "alerts", "alerts_topic": "hr_alerts", "window_ms": "10000",
    "grace_ms": "2000", "minimum_events": "3", "still_degrees": "0.0002", "ahead_ms": "10000",
}  # fmt: skip


def steps(root: Step) -> list[Step]:
    return [root, *(step for child in root.inputs for step in steps(child))]


def schema(step: Step) -> str:
    return schema_text(step.schema).replace("`", "")


class TestMigrations:
    @pytest.fixture
    def session(self) -> Session:
        made = Session()
        for path in sorted(MIGRATIONS.glob("V*.sql")):
            made.run(render(path.read_text(), VARIABLES))
        return made

    def test_the_sources(self, session: Session) -> None:
        table, stream = session.catalog.source("HISTORICAL"), session.catalog.source("REALTIME")
        assert (table.kind, table.topic, table.key_format.name) == (SourceKind.TABLE, "hr_historical", "KAFKA")
        assert [column.name for column in table.schema.key] == ["user_id"]
        assert (stream.kind, stream.value_format.name, stream.timestamp_column) == (
            SourceKind.STREAM,
            "AVRO",
            "event_time",
        )

    def test_the_alerts(self, session: Session) -> None:
        (query,) = session.catalog.queries.values()
        plan = query.plan
        assert (plan.query_id, plan.topic, plan.sink_kind) == ("CTAS_ALERTS_3", "hr_alerts", SourceKind.TABLE)
        assert plan.value_format.name == "AVRO"
        assert plan.value_format.schema_name == "heartwatch.heart_rate.Alert"
        assert plan.key_window is not None
        assert (plan.key_window.kind, plan.key_window.size_ms, plan.key_window.grace_ms) == (
            WindowKind.TUMBLING,
            10_000,
            2_000,
        )
        assert schema(plan.root) == (
            "key_user_id STRING KEY, user_id STRING, window_start TIMESTAMP, window_end TIMESTAMP, event_count BIGINT, "
            "avg_heart_rate DOUBLE, min_heart_rate INTEGER, max_heart_rate INTEGER, zipcode INTEGER, latitude DOUBLE, "
            "longitude DOUBLE"
        )
        kinds = [type(step) for step in steps(plan.root)]
        assert kinds == [
            ProjectStep,
            FilterStep,
            AggregateStep,
            FilterStep,
            StreamTableJoinStep,
            SourceStep,
            SourceStep,
        ]
        aggregate = next(step for step in steps(plan.root) if isinstance(step, AggregateStep))
        assert aggregate.emit_final
        assert {call.function for call in aggregate.calls} == {"MIN", "MAX", "COUNT", "AVG"}
        assert session.catalog.readers("REALTIME") == ["CTAS_ALERTS_3"]


@pytest.mark.parametrize(
    ("sql", "result"),
    [
        ("create stream o as select id, v + 1, s->y, v * 2 as dbl from st where v > 3;",
         "ID INTEGER KEY, KSQL_COL_0 INTEGER, Y STRING, DBL INTEGER"),
        ("create stream o as select * from st;",
         "ID INTEGER KEY, NAME STRING, V INTEGER, W DOUBLE, ARR ARRAY<INTEGER>, S STRUCT<X INTEGER, Y STRING>, TS BIGINT"),
        ("create stream o as select s->*, id from st;", "ID INTEGER KEY, X INTEGER, Y STRING"),
        ("create stream o as select as_value(id) a, id, v from st;", "ID INTEGER KEY, A INTEGER, V INTEGER"),
        ("create stream o as select rowtime as rt, id from st;", "ID INTEGER KEY, RT BIGINT"),
        ("create stream o as select name, id, v from st partition by name;", "NAME STRING KEY, ID INTEGER, V INTEGER"),
        ("create stream o as select id + 1 as k, v from st partition by id + 1;", "K INTEGER KEY, V INTEGER"),
        ("create stream o as select v from st partition by null;", "V INTEGER"),
        ("create stream o as select a, b, c from two;", "A INTEGER KEY, B STRING KEY, C INTEGER"),
        ("create table o as select name, count(*) as c, sum(v) from st group by name;",
         "NAME STRING KEY, C BIGINT, KSQL_COL_0 INTEGER"),
        ("create table o with (key_format='json') as select name, v, count(*) n from st group by name, v;",
         "NAME STRING KEY, V INTEGER KEY, N BIGINT"),
        ("create table o as select s->y as town, count(1) n from st group by s->y;", "TOWN STRING KEY, N BIGINT"),
        ("create table o as select id, windowstart ws, windowend we, count(*) n from st "
         "window tumbling (size 1 minute) group by id;",
         "ID INTEGER KEY, WS BIGINT, WE BIGINT, N BIGINT"),
        ("create table o as select id, topk(v, 3), histogram(name), latest_by_offset(v, 2) from st group by id;",
         "ID INTEGER KEY, KSQL_COL_0 ARRAY<INTEGER>, KSQL_COL_1 MAP<STRING, BIGINT>, KSQL_COL_2 ARRAY<INTEGER>"),
        ("create stream o as select st.id, name, label from st left join tb on st.id = tb.id;",
         "ST_ID INTEGER KEY, NAME STRING, LABEL STRING"),
        ("create stream o as select a.v, b.label, b.id from st a join tb b on a.v = b.id;",
         "V INTEGER KEY, LABEL STRING, B_ID INTEGER"),
        ("create stream o as select st.id, st.name, tb.id, label, k, val from st join tb on st.id = tb.id "
         "join names on st.name = names.k;",
         "NAME STRING KEY, ST_ID INTEGER, TB_ID INTEGER, LABEL STRING, K STRING, VAL INTEGER"),
        ("create table o as select id, label from tb where label like 'a%';", "ID INTEGER KEY, LABEL STRING"),
    ],
)  # fmt: skip
def test_results(session: Session, sql: str, result: str) -> None:
    plan = session.plan(sql)
    assert schema(plan.root) == result
    assert session.catalog.source("O").schema == plan.root.schema


def test_a_join_keeps_aliases_below_and_states_its_keys(session: Session) -> None:
    plan = session.plan("create stream o as select l.id, l.v, r.label from st l left join tb r on l.id = r.id;")
    join = next(step for step in steps(plan.root) if isinstance(step, StreamTableJoinStep))
    assert (join.kind, join.left_key, join.right_key) == (JoinKind.LEFT, "L_ID", "R_ID")
    assert schema(join).startswith("L_ID INTEGER KEY, L_NAME STRING")
    assert schema(join).endswith("R_ID INTEGER, R_LABEL STRING")


class TestRepartition:
    def test_only_where_the_key_changes(self, session: Session) -> None:
        same = session.plan("create table o1 as select id, count(*) from st group by id;")
        other = session.plan("create table o2 as select name, count(*) n, sum(v) s from st group by name;")
        joined = session.plan(
            "create table o3 as select st.id, count(*) n from st join tb on st.id = tb.id group by st.id;"
        )
        assert not any(isinstance(step, RepartitionStep) for step in [*steps(same.root), *steps(joined.root)])
        (found,) = (step for step in steps(other.root) if isinstance(step, RepartitionStep))
        assert schema(found) == "NAME STRING KEY, V INTEGER"  # only what the aggregates read goes through the topic
        assert found.topic_suffix == "Aggregate-GroupBy-repartition"

    def test_a_join_on_another_column_repartitions_the_stream(self, session: Session) -> None:
        plan = session.plan("create stream o as select st.v, label from st join tb on st.v = tb.id;")
        (found,) = (step for step in steps(plan.root) if isinstance(step, RepartitionStep))
        assert [column.name for column in found.schema.key] == ["ST_V"]
        assert found.topic_suffix == "Join-left-repartition"

    def test_a_key_that_kafka_cannot_hold_is_json(self, session: Session) -> None:
        plan = session.plan(
            "create table o with (key_format='json') as select name, v, count(*) n from st group by name, v;"
        )
        (found,) = (step for step in steps(plan.root) if isinstance(step, RepartitionStep))
        assert found.key_format.name == "JSON"


def test_windows_have_ksqldbs_grace(session: Session) -> None:
    plan = session.plan("create table o as select id, count(*) n from st window session (5 minutes) group by id;")
    assert plan.key_window is not None
    assert (plan.key_window.kind, plan.key_window.size_ms, plan.key_window.grace_ms) == (
        WindowKind.SESSION, 300_000, 86_100_000,
    )  # fmt: skip


def test_formats_and_the_topic_come_from_the_source_or_with(session: Session) -> None:
    plan = session.plan("create stream o as select * from two;")
    assert (plan.topic, plan.key_format.name, plan.value_format.name) == ("O", "JSON", "JSON")
    plan = session.plan(
        "create stream p with (kafka_topic='elsewhere', value_format='delimited', value_delimiter='|', partitions=4) as "
        "select id, v from st;"
    )
    assert (plan.topic, plan.partitions, plan.value_format.delimiter) == ("elsewhere", 4, "|")


def test_query_ids(session: Session) -> None:
    number = session.number
    assert session.plan("create stream o as select * from st;").query_id == f"CSAS_O_{number + 1}"
    assert session.plan("create table q as select * from tb;").query_id == f"CTAS_Q_{number + 2}"
    assert session.plan("insert into o select * from st;").query_id == f"INSERTQUERY_{number + 3}"
    assert session.plan("insert into o with (query_id='mine') select * from st;").query_id == "MINE"
    replaced = session.plan("create or replace stream o as select * from st where v > 1;")
    assert replaced.query_id == f"CSAS_O_{number + 1}"


def test_pull_and_push(session: Session) -> None:
    pull = session.select("select * from wt where id = 1 limit 2;")
    assert (pull.push, pull.limit, str(pull.where)) == (False, 2, "(ID = 1)")
    assert schema(pull.root) == "ID INTEGER, WINDOWSTART BIGINT, WINDOWEND BIGINT, C BIGINT"
    push = session.select("select id, rowtime, rowpartition, rowoffset from st emit changes limit 3;")
    assert (push.push, push.limit) == (True, 3)
    assert schema(push.root) == "ID INTEGER, ROWTIME BIGINT, ROWPARTITION INTEGER, ROWOFFSET BIGINT"
    grouped = session.select("select id, count(*) from st group by id emit changes;")
    assert isinstance(grouped.root, ProjectStep)
    assert isinstance(grouped.root.source, AggregateStep)


def test_insert_values(session: Session) -> None:
    ((target, values),) = session.run("insert into st (id, name, w, rowtime) values (1, 'a', 2, 5);")
    assert target.name == "ST"
    assert {name: str(value.type) for name, value in values.items()} == {
        "ID": "INTEGER", "NAME": "STRING", "W": "DOUBLE", "ROWTIME": "BIGINT",
    }  # fmt: skip


def test_topics_are_made_as_asked(session: Session) -> None:
    plans = session.run(
        "create stream o with (retention_ms=-1, cleanup_policy='Compact, delete') as select * from st;"
        "create table p as select * from tb; create stream q with (retention_ms=5) as select * from nokey;"
    )
    assert [plan.topic_config for plan in plans] == [
        {"cleanup.policy": "compact,delete", "retention.ms": "-1"}, {"cleanup.policy": "compact"}, {"retention.ms": "5"},
    ]  # fmt: skip


def test_decimals_are_inserted_whole_and_widened_where_all_fit(session: Session) -> None:
    session.run(
        "create stream narrow (x decimal(2, 1)) with (kafka_topic='n', value_format='json');"
        "create stream wide (x decimal(5, 2)) with (kafka_topic='w', value_format='json');"
        "insert into wide select * from narrow;"
    )
    with pytest.raises(StatementError, match="Incompatible schema between results and sink"):
        session.run("insert into narrow select * from wide;")
    with pytest.raises(StatementError, match=r"Expected type DECIMAL\(2, 1\) for field `X` but got DECIMAL\(1\.25\)"):
        session.run("insert into narrow values (1.25);")


def test_types_by_name(session: Session) -> None:
    session.run("create type address as struct<street string, zip int>;")
    source = session.source("create stream o (id int key, a address) with (kafka_topic='o', value_format='json');")
    assert str(source.schema.value[0].type) == "STRUCT<`STREET` STRING, `ZIP` INTEGER>"
    with pytest.raises(StatementError, match="NOPE"):
        session.source("create stream p (a nope) with (kafka_topic='o', value_format='json');")


def test_headers_and_windowed_keys(session: Session) -> None:
    source = session.source(
        "create stream o (id int key, x bytes header('x'), y bytes header('y'), v int) "
        "with (kafka_topic='o', value_format='json', window_type='tumbling', window_size='10 seconds');"
    )
    assert source.headers == (("X", "x"), ("Y", "y"))
    assert source.key_window is not None
    assert source.key_window.size_ms == 10_000


_REFUSED: list[tuple[str, str]] = [
    ("create stream o as select v, w from st;",
     "Key missing from projection (ie, SELECT). \nThe query used to build `O` must include the key column ID in its projection "
     "(eg, SELECT ID...)."),
    ("create stream o as select id, id as id2, v from st;",
     "The projection contains a key column (`ID`) more than once, aliased as: ID and ID2."),
    ("create stream o as select id, v, v as v from st;", "Duplicate value columns found in schema: `V` INTEGER"),
    ("create stream o as select id, foo from st;", "Line: 1, Col: 31: SELECT column 'FOO' cannot be resolved."),
    ("create stream o as select id, v from st where foo = 1;", "WHERE column 'FOO' cannot be resolved."),
    ("create stream o as select x.v from st;", "'X' is not a valid stream/table name or alias."),
    ("create stream o as select id from st join tb on st.id = tb.id;",
     "Column 'ID' is ambiguous. Could be ST.ID or TB.ID."),
    ("create stream o as select rowtime, id, v from st;",
     "Reserved column name in select: `ROWTIME`. Please remove or alias the column."),
    ("create stream o as select id, v as rowtime from st;", "`ROWTIME` is a reserved column name."),
    ("create table o as select id, windowstart, count(*) n from st window tumbling (size 1 minute) group by id;",
     "Reserved column name in select: `WINDOWSTART`. Please remove or alias the column."),
    ("create stream o as select id, v from st where v;", "Type error in WHERE expression: Should evaluate to boolean but is V"),
    ("create stream o as select id, null m from st;", "Can't infer a type of null."),
    ("create stream o as select * from nope;", "NOPE does not exist."),
    ("create table o as select id, v from st;", "Invalid result type. Your SELECT query produces a STREAM."),
    ("create stream o as select id, label from tb;", "Invalid result type. Your SELECT query produces a TABLE."),
    ("create table o as select count(*) from st group by name;", "must include the grouping expression NAME in its projection"),
    ("create table o as select name, v, count(*) from st group by name;",
     "Non-aggregate SELECT expression(s) not part of GROUP BY: V"),
    ("create table o as select name, v + count(*) from st group by name;",
     "Non-aggregate SELECT expression(s) not part of GROUP BY: (V + COUNT(*))\nEither add the column(s) to the GROUP BY or "
     "remove them from the SELECT."),
    ("create table o as select name, len(name) as n, count(*) as n from st group by name;",
     "Duplicate value columns found in schema: `N` BIGINT"),
    ("create table o as select count(*) from st group by name, st.name;", "Duplicate GROUP BY expression: ST.NAME"),
    ("create table o as select name, no_such(v) from st group by name;", "Can't find any functions with the name 'NO_SUCH'"),
    ("create table o as select v from st group by name;", "GROUP BY requires aggregate functions"),
    ("create table o as select sum(count(*)) from st group by name;", "Aggregate functions can not be nested: SUM(COUNT())"),
    ("create table o as select name, count(*) from st;", "Non-aggregate SELECT expression(s) not part of GROUP BY: NAME"),
    ("create table o as select id, windowstart ws, c from wt;",
     "KSQL does not support persistent queries on windowed tables."),
    ("create stream o as select st.id, v, c from st join wt on st.id = wt.id;",
     "KSQL does not support persistent queries on windowed tables."),
    ("create stream x (id int key, a int) with (kafka_topic='x', value_format='json', window_type='hopping', "
     "window_size='30 bobs');", "Configuration WINDOW_SIZE is invalid: Invalid duration: '30 bobs'. Unknown time unit: 'BOBS'"),
    ("create stream o as select explode(array[v, v]), id from st partition by explode(array[v, v]);",
     "Can't find any functions with the name 'EXPLODE'"),
    ("create stream o as select id, v from st partition by ();", "PARTITION BY requires at least one expression"),
    ("create stream o as select id, v from st partition by abs(v);",
     "must include the partitioning expression ABS(ST.V) in its projection (eg, SELECT ABS(ST.V)...)."),
    ("create table o as select name, count(*) from st group by name having v > 1;",
     "Non-aggregate HAVING expression not part of GROUP BY: V"),
    ("create table o as select name from st group by name;", "GROUP BY requires aggregate functions"),
    ("create table o as select count(*) from st;",
     "CREATE TABLE AS SELECT statement does not support aggregate function [COUNT(ROWTIME)] without a GROUP BY clause."),
    ("create table o as select id, count(*) from st group by id emit final;",
     "EMIT FINAL is only supported for windowed aggregations."),
    ("create stream o as select * from st limit 3;",
     "Failed to prepare statement: CREATE STREAM AS SELECT statements don't support LIMIT clause."),
    ("create stream o as select * from nope;", "Exception while preparing statement: NOPE does not exist."),
    ("create stream o as select z.id from st;",
     "Failed to prepare statement: 'Z' is not a valid stream/table name or alias."),
    ("create stream o with (partitions='x') as select * from st;", "Failed to prepare statement: Invalid value x for"),
    ("create stream o (a nope) with (kafka_topic='o', value_format='json');",
     "Failed to prepare statement: Cannot resolve unknown type: NOPE"),
    ("create table o as select id, sum(count(*)) from st group by id;", "Aggregate functions can not be nested: SUM(COUNT())"),
    ("create table o as select name, v, count(*) from st group by name, v;", "The 'KAFKA' format only supports a single field."),
    ("create table o as select st.id, windowstart ws, count(*) n from st join tb on st.id = tb.id "
     "window tumbling (size 1 minute) group by st.id;", "SELECT column 'WINDOWSTART' cannot be resolved."),
    ("create table o as select id, max(windowstart) from st window tumbling (size 1 minute) group by id;",
     "Window bounds column WINDOWSTART can only be used in the SELECT clause of windowed aggregations"),
    ("create stream o as select v from st join tb on st.id = tb.id;",
     "must include the join expressions ST.ID or TB.ID in its projection"),
    ("create stream o as select st.v, label from st join tb on st.id = tb.label;",
     "Invalid join condition: stream-table joins require to join on the table's primary key. Got ST.ID = TB.LABEL."),
    ("create stream o as select v from st join tb on label = name;",
     "Invalid join condition: stream-table joins require to join on the table's primary key. Got ST.NAME = TB.LABEL."),
    ("create stream o as select name from st join tb on st.name = tb.id;",
     "Invalid join condition: types don't match. Got ST.NAME{STRING} = TB.ID{INTEGER}."),
    ("create stream o as select * from st join tb on st.id > tb.id;", "Only equality join criteria is supported."),
    ("create stream o as select * from st right join tb on st.id = tb.id;", "Invalid join type encountered: RIGHT [OUTER] JOIN"),
    ("create stream o as select * from st join nokey on st.name = nokey.name;",
     "Stream-Stream joins must have a WITHIN clause specified."),
    ("create stream o as select * from st join st on st.id = st.id;", "self joins are not yet supported."),
    ("create stream o with (foo='x') as select * from st;", "Invalid config variable(s) in the WITH clause: FOO"),
    ("create stream st (a int) with (kafka_topic='x', value_format='json');",
     "Cannot add stream 'ST': A stream with the same name already exists"),
    ("create table x (a int) with (kafka_topic='x', value_format='json');", "Tables require a PRIMARY KEY."),
    ("create stream x (a int primary key) with (kafka_topic='x', value_format='json');",
     "Line: 1, Col: 18: Column `A` is a 'PRIMARY KEY' column: please use 'KEY' for streams."),
    ("create table x (a int key) with (kafka_topic='x', value_format='json');", "please use 'PRIMARY KEY' for tables."),
    ("create stream x (a int, a string) with (kafka_topic='x', value_format='json');", "Duplicate column names: A"),
    ("create stream x (rowtime int) with (kafka_topic='x', value_format='json');", "'ROWTIME' is a reserved column name."),
    ("create stream x (a int) with (value_format='json');", 'Missing required property "KAFKA_TOPIC"'),
    ("create stream x (a int) with (kafka_topic='x');", "Statement is missing the 'VALUE_FORMAT' property"),
    ("create stream x (a array<int>) with (kafka_topic='x', value_format='delimited');",
     "The 'DELIMITED' format does not support type 'ARRAY', column: `A`"),
    ("create stream x (a int) with (kafka_topic='x', value_format='json', timestamp='b');",
     "The TIMESTAMP column set in the WITH clause does not exist in the schema: 'B'"),
    ("insert into tb select * from tb;", "INSERT INTO can only be used to insert into a stream. TB is a table."),
    ("insert into st select id, name from st;", "Incompatible schema between results and sink."),
    ("insert into st values (1);", "Expected a value for each column."),
    ("insert into st (id, v) values (1, 1.5);", "Expected type INTEGER for field `V` but got DECIMAL(1.5)"),
    ("insert into st (id, v) values ('1', 1);", "Failed to insert values into 'ST'. Expected type INTEGER for field `ID`"),
    ("insert into st (id, v) values (1, 1 / 0);", "Failed to insert values into 'ST'. "),
    ("insert into st (id, v) values (1, v);", "Unsupported column reference in insert value: V"),
    ("insert into st (id, v) values (1, 'x');", "Expected type INTEGER for field `V` but got STRING(x)"),
    ("insert into st (id, v) values (1);", "Failed to prepare statement: Expected number columns and values to match: 2, 1"),
    ("insert into st (id, rowoffset) values (1, 2);", "Inserting into column `ROWOFFSET` is not allowed."),
    ("insert into st (id, nope) values (1, 2);", "Column name `NOPE` does not exist."),
    ("insert into nope select * from st;", "Line: 1, Col: 13: Source `NOPE` does not exist."),
    ("create stream o with (kafka_topic='o', timestamp='s') as select * from st;",
     "Timestamp column, `S`, should be LONG(INT64), TIMESTAMP, or a String with a timestamp_format specified."),
    ("create table o with (retention_ms=1000) as select * from tb;",
     "Invalid config variable in the WITH clause: RETENTION_MS. Non-windowed tables do not support retention."),
    ("create stream o (a map<int, int>) with (kafka_topic='o', value_format='json');",
     "JSON only supports MAP types with STRING keys"),
    ("insert into tb (label) values ('x');", "Value for primary key column(s) ID is required for tables"),
    ("create table o as select id, count(*) from st window tumbling (size 1 hour, grace period -1 seconds) group by id;",
     "Grace period must not be negative."),
    ("create stream o as select * from st join nokey b within 1 second grace period -1 seconds on st.name = b.name;",
     "Grace period must not be negative."),
    ("create stream o as select * from st join nokey b within -1 seconds on st.name = b.name;",
     "Window endTimestamp must not be smaller than window startTimestamp."),
    ("create table o as select id, count(*) from st window tumbling (size 106751991168 days) group by id;",
     "Invalid numeric literal: 9223372036915200000"),
    (f"create stream o as select id, {'9' * 5000} as x from st;", "Invalid numeric literal: 999"),
    ("create stream o as select id, decimal 'a' as x from st;", "Invalid numeric literal: a"),
    ("create stream o as select id, decimal 'NaN' as x from st;", "Invalid numeric literal: NaN"),
    ("select * from st emit changes limit -1;", "Push queries don't support negative integers in the LIMIT clause: -1."),
    ("select id, count(*) from wt group by id;", "Pull queries don't support GROUP BY clauses."),
]  # fmt: skip


@pytest.mark.parametrize(("sql", "message"), _REFUSED, ids=[sql[:60] for sql, _ in _REFUSED])
def test_refusals_change_nothing(session: Session, sql: str, message: str) -> None:
    before = session.catalog
    with pytest.raises(KsqlError) as caught:
        session.run(sql)
    assert message in str(caught.value)
    assert session.catalog is before


@pytest.mark.parametrize(
    ("sql", "what"),
    [
        ("create table o as select * from tb join names on tb.label = names.k;", "A foreign-key table-table join is"),
        (
            "create stream o as select * from st; insert into o select * from st limit 3;",
            "LIMIT in a persistent query is",
        ),
        ("create stream o (a int) with (kafka_topic='o', value_format='protobuf');", "The format PROTOBUF is"),
        (f"create stream o as select {'9' * 38}.5 as x from st;", f"{'9' * 38}.5: a DECIMAL of more than 38 digits is"),
        ("create stream o as select v in ('1e99') as x from st;", "1E+99: a DECIMAL of more than 38 digits is"),
    ],
)
def test_what_is_missing_is_refused_by_name(session: Session, sql: str, what: str) -> None:
    with pytest.raises(NotSupportedError) as caught:
        session.run(sql)
    assert str(caught.value) == f"{what} not supported by the embedded engine; run it on ksqlDB"


class TestCatalog:
    def test_a_source_in_use_is_not_dropped(self, session: Session) -> None:
        session.run("create stream o as select * from st; insert into o select * from st;")
        with pytest.raises(
            StatementError, match=r"Cannot drop ST\.\nThe following streams and/or tables read from this source"
        ):
            session.run("drop stream st;")
        with pytest.raises(StatementError, match="INSERTQUERY"):
            session.run("drop stream o;")

    def test_dropping_ends_the_query_that_made_it(self, session: Session) -> None:
        plan = session.plan("create stream o as select * from st;")
        session.run("drop stream o;")
        assert plan.query_id not in session.catalog.queries
        assert "O" not in session.catalog.sources

    def test_kinds_and_names(self, session: Session) -> None:
        with pytest.raises(
            StatementError, match="Incompatible data source type is STREAM, but statement was DROP TABLE"
        ):
            session.run("drop table st;")
        with pytest.raises(StatementError, match=r"Stream NOPE does not exist\."):
            session.run("drop stream nope;")
        session.run("drop stream if exists nope;")

    def test_replacing_may_add_columns_only(self, session: Session) -> None:
        create = "create or replace stream n ({}) with (kafka_topic='n', value_format='json');"
        session.source(create.format("a int key, b int"))
        session.source(create.format("a int key, b int, c int"))
        for columns in ("a int key, b string, c int", "a int key, b int", "a string key, b int, c int"):
            with pytest.raises(StatementError, match="Cannot upgrade data source"):
                session.source(create.format(columns))

    def test_an_older_catalog_stays_as_it_was(self, session: Session) -> None:
        before = session.catalog
        session.run("create stream o as select * from st;")
        assert "O" not in before.sources
        assert "O" in session.catalog.sources


class Registry:
    """Subjects' schemas."""

    def __init__(self, **subjects: str) -> None:
        self.subjects = {name.replace("_", "-"): text for name, text in subjects.items()}

    def latest(self, subject: str) -> tuple[int, str] | None:
        return (1, self.subjects[subject]) if subject in self.subjects else None

    def schema(self, schema_id: int) -> str | None:
        return next(iter(self.subjects.values())) if schema_id == 1 else None


SCHEMA = """{"type": "record", "name": "r", "fields": [
    {"name": "id", "type": "int"}, {"name": "name", "type": ["null", "string"]}]}"""


class TestInference:
    def test_value_columns(self) -> None:
        session = Session(Registry(t_value=SCHEMA))
        source = session.source("create stream a (k int key) with (kafka_topic='t', value_format='avro');")
        assert schema_text(source.schema) == "`K` INTEGER KEY, `ID` INTEGER, `NAME` STRING"

    def test_key_columns_aren_t_repeated(self) -> None:
        session = Session(Registry(t_value=SCHEMA))
        source = session.source("create table a (id int primary key) with (kafka_topic='t', value_format='avro');")
        assert schema_text(source.schema, source.kind) == "`ID` INTEGER PRIMARY KEY, `NAME` STRING"

    def test_a_schema_id_keeps_names_as_they_are(self) -> None:
        session = Session(Registry(t_value=SCHEMA))
        source = session.source("create stream a with (kafka_topic='t', value_format='avro', value_schema_id=1);")
        assert schema_text(source.schema) == "`id` INTEGER, `name` STRING"

    def test_a_missing_schema(self) -> None:
        session = Session(Registry())
        with pytest.raises(
            StatementError, match="Schema for message values on topic 't' does not exist in the Schema Registry"
        ):
            session.source("create stream a with (kafka_topic='t', value_format='avro');")


def test_explain_shows_every_step(session: Session) -> None:
    plan = session.plan(
        "create table o as select name, count(*) n from st where v > 1 group by name having count(*) > 2;"
    )
    lines = [line.split("[")[1].split("]")[0].strip() for line in explain(plan).splitlines()]
    assert lines == ["SINK", "PROJECT", "FILTER", "AGGREGATE", "REKEY", "FILTER", "SOURCE"]
    select = session.select("select id from st emit changes;")
    assert [line.split("[")[1].split("]")[0].strip() for line in explain_step(select.root).splitlines()] == [
        "PROJECT",
        "SOURCE",
    ]


def test_expressions_of_a_plan_hash_and_compare(session: Session) -> None:
    sql = "create or replace table o as select name, count(*) n from st where v > 1 group by name;"
    first: Any = session.plan(sql).root
    second: Any = session.plan(sql).root
    assert first == second
    assert not isinstance(first, Node)
