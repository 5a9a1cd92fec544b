"""KSQL migrations on a real server: all or none, once each, and on after an apply that died."""

from __future__ import annotations

import pytest

from heartwatch.analytic import Analytic
from heartwatch.deploy import pipeline
from heartwatch.deploy.migrations import (
    Migrations,
    MigrationState,
    migrations_topic,
    query_properties,
    read_migrations,
)
from heartwatch.deploy.plan import DeployError, RefusedPlanError, apply
from heartwatch.settings import Settings
from ksqlengine.client.rest_client import Ksqldb
from ksqlengine.internal_names import AHEAD

pytestmark = pytest.mark.parts("kafka", "registry", "postgres", "connect", "s3", "engine")


@pytest.fixture(autouse=True)
def _topics_and_schemas(settings: Settings) -> None:
    for stage in ("topics", "schemas"):
        deployer = pipeline.deployer(stage, settings)
        apply(deployer.plan(), deployer)


def state(settings: Settings) -> MigrationState:
    return MigrationState(settings.kafka, migrations_topic(Analytic.of(settings.pipeline)))


def migrations(files: Analytic, settings: Settings, **variables: str) -> Migrations:
    ksqldb = Ksqldb(settings.ksqldb)
    return Migrations(
        ksqldb,
        state(settings),
        read_migrations(files.migrations_folder, files.variables(variables)),
        query_properties(settings, ksqldb.has_property(AHEAD)),
    )


def sources(files: Analytic, settings: Settings) -> list[str]:
    ksqldb = Ksqldb(settings.ksqldb)
    end = f"_V{files.version}"
    return sorted(source.name for source in [*ksqldb.streams(), *ksqldb.tables()] if source.name.endswith(end))


def names(files: Analytic) -> list[str]:
    return sorted(files.name(resource).upper() for resource in ("historical", "realtime", "alerts"))


def test_a_mistake_in_the_third_migration_takes_back_the_first_two(files: Analytic, settings: Settings):
    path = files.migrations_folder / "V000003__alerts.sql"
    right = path.read_text()
    path.write_text(right.replace("r.`heart_rate`", "r.`heart_beat`"))
    broken = migrations(files, settings)
    with pytest.raises(DeployError, match=r"V000003__alerts.sql[\s\S]*heart_beat[\s\S]*all 3 .*taken back"):
        apply(broken.plan(), broken)
    assert sources(files, settings) == []
    assert state(settings).read() == {}
    path.write_text(right)
    mended = migrations(files, settings)
    apply(mended.plan(), mended)
    assert sources(files, settings) == names(files)
    assert migrations(files, settings).plan().summary() == "3 unchanged"


def test_a_changed_file_and_changed_values_are_refused(files: Analytic, settings: Settings):
    first = migrations(files, settings)
    apply(first.plan(), first)
    with pytest.raises(RefusedPlanError, match=r"window_ms: 10000 → 20000\); deploy a new pipeline version"):
        migrations(files, settings, window_ms="20000").plan().check()
    path = files.migrations_folder / "V000001__historical_table.sql"
    path.write_text(path.read_text() + "-- changed\n")
    with pytest.raises(RefusedPlanError, match="write the change as a new migration"):
        migrations(files, settings).plan().check()


def test_an_apply_that_died_is_gone_on_with(files: Analytic, settings: Settings):
    first = migrations(files, settings)
    apply(first.plan(), first)
    record = state(settings).read()[3]
    state(settings).write(3, {**record, "state": "RUNNING", "ended": None})
    again = migrations(files, settings)
    planned = again.plan()
    assert [change.reason for change in planned.needed] == [f"an apply of {record['started']} didn't end"]
    apply(planned, again)
    assert state(settings).read()[3]["state"] == "MIGRATED"
    assert sources(files, settings) == names(files)


def test_a_migration_that_died_between_two_statements_starts_anew(files: Analytic, settings: Settings):
    path = files.migrations_folder / "V000004__copies.sql"
    one, two = files.name("one").upper(), files.name("two").upper()
    path.write_text(
        f"CREATE STREAM {one} (a INT KEY, b INT) WITH (KAFKA_TOPIC = '{files.topic('realtime')}', VALUE_FORMAT = 'JSON');\n"
        f"CREATE STREAM {two} (a INT KEY, b INT) WITH (KAFKA_TOPIC = '{files.topic('realtime')}', VALUE_FORMAT = 'JSON');\n"
    )
    first = migrations(files, settings)
    apply(first.plan(), first)
    record = state(settings).read()[4]
    Ksqldb(settings.ksqldb).execute(f"DROP STREAM {two};")
    state(settings).write(4, {**record, "state": "RUNNING", "ended": None})
    again = migrations(files, settings)
    apply(again.plan(), again)
    assert sources(files, settings) == sorted([*names(files), one, two])


def test_a_source_that_someone_dropped_is_made_again(files: Analytic, settings: Settings):
    first = migrations(files, settings)
    apply(first.plan(), first)
    ksqldb, alerts = Ksqldb(settings.ksqldb), files.name("alerts").upper()
    query = next(query for query in ksqldb.queries() if alerts in query.sinks)
    ksqldb.execute(f"TERMINATE {query.query_id};")
    ksqldb.execute(f"DROP TABLE {alerts};")
    again = migrations(files, settings)
    planned = again.plan()
    assert [change.reason for change in planned.needed] == [f"was applied, but the server doesn't have {alerts}"]
    apply(planned, again)
    assert sources(files, settings) == names(files)
