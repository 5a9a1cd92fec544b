"""KSQL migrations: numbered files in the format of ksqlDB's own migrations tool, applied once each and in order.

What was applied is kept in a compacted Kafka topic of the pipeline version, one JSON record a migration. The tool keeps it in a
stream and a table of the KSQL server, for one series of migrations a server; the topic keeps each pipeline version's
series apart, needs no KSQL feature to be read (so it works alike on ksqlDB and on the embedded engine), and is still there when a
server has lost its command topic. The record alone is not believed: the server's own SHOW STREAMS and SHOW TABLES must agree,
and where an apply died half-way they tell what it had done.

Variables are replaced here before the statements are sent (see `ksqlengine.language.rendering`), since ksqlDB doesn't take them
in place of a number in a WINDOW clause.

A file must not change once it was applied. Where a release changes one all the same in a way that changes no row, the line
``-- Replaces MD5 <checksum>`` in it names the earlier text: a pipeline that was deployed from that one stays as it is.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from confluent_kafka import Consumer, KafkaException, Producer, TopicPartition

from heartwatch.analytic import Analytic
from heartwatch.deploy.plan import Change, DeployError, Plan
from heartwatch.settings import Settings
from kafkakit.admin import (
    KafkaAdmin,
    KafkaClientError,
    TopicExistsError,
    TopicState,
    consumer_config,
    producer_config,
)
from kafkakit.settings import KafkaSettings
from ksqlengine.client.rest_client import Ksqldb, quoted
from ksqlengine.internal_names import AHEAD
from ksqlengine.language.rendering import RenderingError, render

FILE_NAME = re.compile(r"V(\d{6})__(.+)\.sql")
VARIABLE = re.compile(r"\$\{(\w+)\}")
_COMMENT = re.compile(r"--[^\n]*|/\*.*?\*/", re.DOTALL)
_REPLACES = re.compile(r"^--[ \t]*Replaces MD5 ([0-9a-f]{32})\b", re.MULTILINE)
_TEXT = re.compile(r"'(?:[^']|'')*'")
_SELECT = re.compile(r"\bSELECT\b", re.IGNORECASE)
_CREATE = re.compile(
    r"\bCREATE\s+(?:OR\s+REPLACE\s+)?(?:SOURCE\s+)?(STREAM|TABLE)\s+(?:IF\s+NOT\s+EXISTS\s+)?(`(?:[^`]|``)+`|\w+)",
    re.IGNORECASE,
)


class MigrationError(DeployError):
    """The migrations' files or their recorded state can't be used; the message names the file and the remedy."""


@dataclass(frozen=True)
class Migration:
    """One file.

    Attributes:
        version: its number.
        name: what it does.
        file: its name.
        sql: its text, with placeholders.
        checksum: MD5 of its bytes.
        variables: values of the variables that it names, in comments too.
        statements: the text with the placeholders replaced, as it is sent.
    """

    version: int
    name: str
    file: str
    sql: str
    checksum: str
    variables: Mapping[str, str]
    statements: str

    @property
    def checksums(self) -> tuple[str, ...]:
        """Checksums of this file and of the earlier texts that it replaces without changing a row."""
        return (self.checksum, *_REPLACES.findall(self.sql))

    @property
    def has_query(self) -> bool:
        """Whether a statement of the file starts a persistent query."""
        return _SELECT.search(_without_texts(self.statements)) is not None

    @property
    def sources(self) -> tuple[tuple[str, str], ...]:
        """What the file creates, in order: (STREAM or TABLE, name as the server keeps it)."""
        created = _CREATE.findall(_without_texts(self.statements))
        return tuple((kind.upper(), _stored_name(name)) for kind, name in created)


def _without_texts(sql: str) -> str:
    return _TEXT.sub("''", _COMMENT.sub(" ", sql))


def migration_files(folder: Path, repartition: bool = False) -> list[Path]:
    """Return a folder's migrations in order.

    Args:
        folder: where they are.
        repartition: a file of the same name in the folder ``repartition`` below it stands in place of one.
    """
    files = {path.name: path for path in folder.glob("*.sql")}
    if repartition:
        files |= {path.name: path for path in (folder / "repartition").glob("*.sql")}
    return [files[name] for name in sorted(files)]


def read_migrations(folder: Path, variables: Mapping[str, str], repartition: bool = False) -> list[Migration]:
    """Read the files ``V000001__name.sql``, ``V000002__…`` of a folder.

    Args:
        folder: where they are.
        variables: values for ``${name}``.
        repartition: see `migration_files`.

    Raises:
        MigrationError: a name has another shape, a number is missing or double, a file is not UTF-8, a variable is unknown, or
            its value can't stand where the file has it.
    """
    migrations = []
    for path in migration_files(folder, repartition):
        shape = FILE_NAME.fullmatch(path.name)
        if shape is None:
            raise MigrationError(f"migration {path.name!r} has a wrong name; call it V000001__what_it_does.sql")
        content = path.read_bytes()
        try:
            sql = content.decode("utf-8")
        except UnicodeDecodeError as error:
            raise MigrationError(f"migration {path.name!r} is not UTF-8: {error}; save it as UTF-8") from error
        used = dict.fromkeys(VARIABLE.findall(sql))
        unknown = sorted(set(used) - set(variables))
        if unknown:
            raise MigrationError(
                f"migration {path.name!r} uses unknown variables {unknown!r}; add them to analytic.toml, or use one of "
                f"{sorted(variables)!r}"
            )
        migrations.append(
            Migration(
                version=int(shape[1]),
                name=shape[2].replace("_", " "),
                file=path.name,
                sql=sql,
                checksum=hashlib.md5(content, usedforsecurity=False).hexdigest(),
                variables={name: variables[name] for name in used},
                statements=_rendered(path.name, sql, variables),
            )
        )
    expected = list(range(1, len(migrations) + 1))
    if [migration.version for migration in migrations] != expected:
        raise MigrationError(
            f"migrations in {folder.name!r} are {[migration.file for migration in migrations]!r}; number them from 1 without gaps"
        )
    return migrations


def _rendered(file: str, sql: str, variables: Mapping[str, str]) -> str:
    try:
        return render(sql, variables)
    except RenderingError as error:
        raise MigrationError(f"migration {file}:{error}") from error


class MigrationState:
    """What was applied to one pipeline version: version → record, in a compacted topic."""

    def __init__(self, settings: KafkaSettings, topic: str) -> None:
        self._settings = settings
        self._topic = topic
        self._admin = KafkaAdmin(settings)

    def read(self) -> dict[int, dict[str, Any]]:
        """Return the latest record of each migration; nothing when the topic isn't there.

        Raises:
            KafkaClientError: the topic can't be read.
        """
        if not self._admin.describe([self._topic]):
            return {}
        end = self._admin.offsets([self._topic], "latest")[(self._topic, 0)]
        consumer = Consumer(
            consumer_config(self._settings, f"{self._topic}-reader", "error", enable_partition_eof=True)
        )
        records: dict[int, dict[str, Any]] = {}
        try:
            start = self._admin.offsets([self._topic], "earliest")[(self._topic, 0)]
            consumer.assign([TopicPartition(self._topic, 0, start)])
            while start < end:
                message = consumer.poll(30)
                if message is None:
                    raise KafkaClientError(
                        f"topic {self._topic!r} can't be read to offset {end}; see that the brokers are up"
                    )
                if message.error():
                    break
                start = (message.offset() or 0) + 1
                _keep(records, message.key() or b"", message.value())
        except KafkaException as error:
            raise KafkaClientError(f"topic {self._topic!r} can't be read: {error}") from None
        finally:
            consumer.close()
        return records

    def write(self, version: int, record: Mapping[str, Any] | None) -> None:
        """Keep a migration's record, or forget it (None); returns when the brokers have it.

        Raises:
            KafkaClientError: the brokers didn't take it.
        """
        self._create_topic()
        producer = Producer(producer_config(self._settings, linger_ms=0))
        failures: list[str] = []

        def delivered(error: Any, _: Any) -> None:
            if error is not None:
                failures.append(str(error))

        value = None if record is None else json.dumps(record).encode()
        producer.produce(self._topic, key=str(version).encode(), value=value, on_delivery=delivered)
        if producer.flush(30) or failures:
            raise KafkaClientError(f"topic {self._topic!r} didn't take the state of migration {version}: {failures!r}")

    def _create_topic(self) -> None:
        config = {"cleanup.policy": "compact", "min.insync.replicas": str(self._settings.min_insync_replicas)}
        if not self._admin.describe([self._topic]):
            try:
                self._admin.create([TopicState(self._topic, 1, self._settings.replication_factor, config)])
            except TopicExistsError:
                return


class Migrations:
    """Deploys the KSQL migrations of one pipeline version."""

    def __init__(
        self,
        ksqldb: Ksqldb,
        state: MigrationState,
        migrations: Iterable[Migration],
        properties: Mapping[str, str],
        report: Callable[[str], None] = lambda _: None,
    ) -> None:
        self._ksqldb = ksqldb
        self._state = state
        self._migrations = list(migrations)
        self._properties = dict(properties)
        self._report = report
        self._sequence_number: int | None = None

    def plan(self) -> Plan:
        """Compare the files with what was applied and with what the server has.

        Raises:
            ksqlengine.client.rest_client.KsqldbError: no server could be asked.
            kafkakit.admin.KafkaClientError: the state could not be read.
        """
        records, present = self._state.read(), self._present()
        changes = [
            plan_migration(migration, records.get(migration.version), present, self._properties)
            for migration in self._migrations
        ]
        known = {migration.version for migration in self._migrations}
        changes += [
            Change(
                "migration",
                f"V{version:06}",
                "refused",
                f"was applied as {record['name']!r}, but its file is gone: restore it",
            )
            for version, record in sorted(records.items())
            if version not in known and record["state"] == "MIGRATED"
        ]
        return Plan(tuple(changes))

    def carry_out(self, change: Change) -> None:
        """Apply a migration and wait until its queries run, or take it back.

        Raises:
            ksqlengine.client.rest_client.StatementRefusedError: a statement is wrong.
            ksqlengine.client.rest_client.KsqldbError: a query doesn't run, or no server is ready.
        """
        migration = next(found for found in self._migrations if found.file == change.resource)
        if change.after is None:
            drop_sources(self._ksqldb, [name for _, name in migration.sources])
            self._state.write(migration.version, None)
        else:
            self._apply(migration)

    def _apply(self, migration: Migration) -> None:
        started = _now()
        present = self._present()
        names = [name for _, name in migration.sources]
        missing = [name for name in names if name not in present]
        if missing and len(missing) < len(names):
            # An apply died between two statements of this file.
            drop_sources(self._ksqldb, [name for name in names if name in present])
        if missing or not names:
            self._state.write(migration.version, _record(migration, self._properties, "RUNNING", started))
            results = self._ksqldb.execute(migration.statements, self._properties, after=self._sequence_number)
            self._sequence_number = max([result.sequence_number for result in results], default=-1)
            self._sequence_number = self._sequence_number if self._sequence_number >= 0 else None
            for result in results:
                self._report(f"{migration.file}: {result.message}")
        for query in self._ksqldb.queries():
            if set(query.sinks) & set(names):
                self._ksqldb.wait_query(query.query_id)
        self._state.write(migration.version, _record(migration, self._properties, "MIGRATED", started, _now()))

    def _present(self) -> set[str]:
        return {source.name for source in [*self._ksqldb.streams(), *self._ksqldb.tables()]}


def plan_migration(
    migration: Migration, record: Mapping[str, Any] | None, present: set[str], properties: Mapping[str, str]
) -> Change:
    """Return what a migration needs.

    Args:
        migration: the file.
        record: what is kept of its last apply, None without one.
        present: streams and tables that the server has.
        properties: streams properties that its queries should run with.
    """
    lasting = _lasting(properties) if migration.has_query else {}
    after = {"checksum": migration.checksum, **migration.variables, **lasting}
    if record is None or record["state"] != "MIGRATED":
        reason = "was not applied" if record is None else f"an apply of {record['started']} didn't end"
        return Change("migration", migration.file, "create", reason, None, after)
    used = _lasting(record["properties"]) if migration.has_query else {}
    replaced = record["checksum"] != migration.checksum and record["checksum"] in migration.checksums
    before = {"checksum": migration.checksum if replaced else record["checksum"], **record["variables"], **used}
    if record["checksum"] not in migration.checksums:
        reason = (
            "the file was changed after it was applied; restore it and write the change as a new migration, or deploy a new "
            "pipeline version"
        )
        return Change("migration", migration.file, "refused", reason, before, after)
    if before != after:
        change = Change("migration", migration.file, "refused", "", before, after)
        shown = "; ".join(str(difference) for difference in change.differences)
        reason = (
            f"it was applied with other values ({shown}); deploy a new pipeline version, or tear this one down first"
        )
        return Change("migration", migration.file, "refused", reason, before, after)
    missing = [name for _, name in migration.sources if name not in present]
    if missing:
        reason = f"was applied, but the server doesn't have {', '.join(missing)}"
        return Change("migration", migration.file, "create", reason, None, after)
    reason = f"was applied {record['ended']}" + (" from an earlier text that makes the same rows" if replaced else "")
    return Change("migration", migration.file, "unchanged", reason, before, after)


def _lasting(properties: Mapping[str, str]) -> dict[str, str]:
    """Return the properties that a query runs with for good: where it began says nothing of how it goes on."""
    return {name: value for name, value in properties.items() if name != "auto.offset.reset"}


def drop_sources(ksqldb: Ksqldb, names: Iterable[str]) -> None:
    """Terminate the queries that read or write streams and tables, then drop these, last created first.

    Args:
        ksqldb: the server.
        names: as the server keeps them, in order of creation; those that aren't there are left out.

    Raises:
        ksqlengine.client.rest_client.KsqldbError: the server refused, for example because another stream reads one of them.
    """
    wanted = list(names)
    sources = {source.name: source for source in [*ksqldb.streams(), *ksqldb.tables()]}
    doomed = [sources[name] for name in wanted if name in sources]
    queries = {
        query_id
        for source in doomed
        for description in [ksqldb.describe(source.name)]
        for query_id in [*description.read_queries, *description.write_queries]
    }
    for query_id in sorted(queries):
        ksqldb.execute(f"TERMINATE {query_id};")
    for source in reversed(doomed):
        ksqldb.execute(f"DROP {source.kind} IF EXISTS {quoted(source.name)};")


def query_properties(settings: Settings, bounds_ahead: bool) -> dict[str, str]:
    """Return the streams properties of the migrations' queries.

    Args:
        settings: where a new query begins, and how far an event may lie ahead.
        bounds_ahead: whether the server has the property `AHEAD`, which keeps events of a wrong clock out by the record's own
            time; on ksqlDB, which hasn't, the query's WHERE does it by the server's clock.
    """
    properties = {
        "auto.offset.reset": settings.pipeline.offset_reset,
        "processing.guarantee": "exactly_once_v2",
    }
    if bounds_ahead:
        properties[AHEAD] = str(settings.pipeline.max_ahead_ms)
    return properties


def migrations_topic(analytic: Analytic) -> str:
    """Return the topic that keeps what was applied to a pipeline version."""
    return analytic.name("migrations")


def _record(
    migration: Migration, properties: Mapping[str, str], state: str, started: str, ended: str | None = None
) -> dict[str, Any]:
    return {
        "version": migration.version,
        "name": migration.name,
        "checksum": migration.checksum,
        "variables": dict(migration.variables),
        "properties": dict(properties),
        "state": state,
        "started": started,
        "ended": ended,
    }


def _keep(records: dict[int, dict[str, Any]], key: bytes, value: bytes | None) -> None:
    if value is None:
        records.pop(int(key), None)
    else:
        records[int(key)] = json.loads(value)


def _stored_name(name: str) -> str:
    return name[1:-1].replace("``", "`") if name.startswith("`") else name.upper()


def _now() -> str:
    return datetime.now(UTC).isoformat(timespec="seconds")
