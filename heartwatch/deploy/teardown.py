"""Tear-down of one pipeline version, in dependency order: whoever reads something goes before it.

Queries, then the streams and tables that they read, connectors (with positions, replication slot and publication), subjects,
topics, consumer groups, and, when asked for, Iceberg tables. Only what carries the version is touched, and only names that
the analytic's files give or that live on its topics: nothing is found by a pattern that another analytic could match.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from psycopg2 import sql
from pyiceberg.exceptions import NoSuchTableError

from heartwatch.connect import Connect
from heartwatch.deploy.connectors import Config, is_sink, remove_connector
from heartwatch.deploy.plan import Change, DeployError, Plan, deletions
from heartwatch.iceberg import open_catalog
from heartwatch.postgres import execute
from heartwatch.settings import PostgresSettings, S3Settings
from kafkakit.admin import KafkaAdmin
from kafkakit.registry import Registry
from kafkakit.waiting import wait_until
from ksqlengine.client.rest_client import Ksqldb, QueryInfo, SourceInfo, quoted

_POLL_SECONDS = 0.2
_SLOT_SECONDS = 30


@dataclass(frozen=True)
class Clients:
    """The systems that hold a pipeline version."""

    kafka: KafkaAdmin
    registry: Registry
    connect: Connect
    ksqldb: Ksqldb
    postgres: PostgresSettings
    s3: S3Settings


@dataclass(frozen=True)
class Footprint:
    """The names of a pipeline version: all topics, connectors, KSQL streams and tables in order of creation."""

    topics: tuple[str, ...]
    connectors: Mapping[str, Config]
    sources: tuple[str, ...]


class Teardown:
    """Removes one pipeline version."""

    def __init__(self, clients: Clients, footprint: Footprint, iceberg_tables: bool) -> None:
        """Make a tear-down; nothing is removed yet.

        Args:
            clients: the systems.
            footprint: what is the version's.
            iceberg_tables: whether the sink's tables and their files go too.
        """
        self._clients = clients
        self._footprint = footprint
        self._iceberg_tables = iceberg_tables

    def plan(self) -> Plan:
        """Find what is there of the version, in the order in which it has to go.

        Raises:
            Exception: a system could not be asked; each client's own error.
        """
        plan = self._plan_ksql() + self._plan_connectors() + self._plan_kafka()
        if self._iceberg_tables:
            plan += deletions("iceberg table", self._present_tables(), "its sink is gone")
        return plan

    def carry_out(self, change: Change) -> None:
        """Remove one thing; nothing happens when it is gone already."""
        clients = self._clients
        removals: dict[str, Callable[[str], Any]] = {
            "query": self._terminate,
            "stream": lambda name: clients.ksqldb.execute(f"DROP STREAM IF EXISTS {quoted(name)};"),
            "table": lambda name: clients.ksqldb.execute(f"DROP TABLE IF EXISTS {quoted(name)};"),
            "connector": lambda name: remove_connector(clients.connect, name),
            "replication slot": lambda name: drop_slot(clients.postgres, name),
            "publication": lambda name: drop_publication(clients.postgres, name),
            "subject": clients.registry.delete,
            "topic": lambda name: clients.kafka.delete([name]),
            "consumer group": lambda name: clients.kafka.delete_groups([name]),
            "iceberg table": self._drop_table,
        }
        removals[change.kind](change.resource)

    def _terminate(self, query: str) -> None:
        if any(running.query_id == query for running in self._clients.ksqldb.queries()):
            self._clients.ksqldb.execute(f"TERMINATE {query};")

    def _plan_ksql(self) -> Plan:
        sources = [*self._clients.ksqldb.streams(), *self._clients.ksqldb.tables()]
        doomed = order_sources(sources, self._footprint)
        queries = queries_of(doomed, self._clients.ksqldb)
        plan = deletions("query", queries, "works on the version's streams and tables")
        for source in doomed:
            plan += deletions(source.kind.lower(), [source.name], f"stands for topic {source.topic}")
        return plan

    def _plan_connectors(self) -> Plan:
        present = set(self._clients.connect.connectors())
        names = [name for name in self._footprint.connectors if name in present]
        plan = deletions("connector", reversed(names), "reads or writes the version's topics")
        slots = [config["slot.name"] for config in self._footprint.connectors.values() if "slot.name" in config]
        publications = [
            config["publication.name"] for config in self._footprint.connectors.values() if "publication.name" in config
        ]
        found_slots, found_publications = find_replication(self._clients.postgres, slots, publications)
        plan += deletions("replication slot", found_slots, "would keep the database's log indefinitely")
        return plan + deletions("publication", found_publications, "its connector is gone")

    def _plan_kafka(self) -> Plan:
        kafka, topics = self._clients.kafka, self._footprint.topics
        wanted = {f"{topic}-{side}" for topic in topics for side in ("key", "value")}
        subjects = [subject for subject in self._clients.registry.subjects() if subject in wanted]
        found = kafka.describe(topics)
        sinks = [name for name, config in self._footprint.connectors.items() if is_sink(config)]
        groups = groups_of(sinks, kafka.groups()) if sinks else []
        plan = deletions("subject", subjects, "describes a topic of the version")
        plan += deletions("topic", [topic for topic in topics if topic in found], "belongs to the version")
        return plan + deletions("consumer group", groups, "its sink is gone")

    def _present_tables(self) -> list[str]:
        wanted = {
            config["iceberg.tables"] for config in self._footprint.connectors.values() if "iceberg.tables" in config
        }
        if not wanted:
            return []
        catalog = open_catalog(self._clients.postgres, self._clients.s3)
        return sorted(name for name in wanted if catalog.table_exists(name))

    def _drop_table(self, name: str) -> None:
        try:
            open_catalog(self._clients.postgres, self._clients.s3).purge_table(name)
        except NoSuchTableError:
            return


def tear_down(plan: Plan, teardown: Teardown, report: Callable[[str], None] = lambda _: None) -> None:
    """Carry out a tear-down's plan; a second run goes on where one failed.

    Raises:
        DeployError: something could not be removed; what comes after it is untouched.
    """
    for change in plan.needed:
        report(f"delete {change.kind} {change.resource!r}: {change.reason}")
        try:
            teardown.carry_out(change)
        except Exception as error:
            raise DeployError(
                f"can't delete {change.kind} {change.resource!r}: {error}; fix the cause and run the tear-down again"
            ) from error


def order_sources(sources: Iterable[SourceInfo], footprint: Footprint) -> list[SourceInfo]:
    """Return the streams and tables of a version, last created first; those made by hand on its topics before all."""
    order = {name: index for index, name in enumerate(footprint.sources)}
    mine = [source for source in sources if source.name in order or source.topic in footprint.topics]
    return sorted(mine, key=lambda source: order.get(source.name, len(order)), reverse=True)


def queries_of(sources: Iterable[SourceInfo], ksqldb: Ksqldb) -> list[str]:
    """Return the ids of the queries that read or write streams and tables, newest first."""
    ids = set()
    for source in sources:
        description = ksqldb.describe(source.name)
        ids |= {*description.read_queries, *description.write_queries}
    present: list[QueryInfo] = ksqldb.queries()
    return [query.query_id for query in reversed(present) if query.query_id in ids]


def groups_of(sinks: Iterable[str], groups: Iterable[str]) -> list[str]:
    """Return those of some consumer groups that are a sink connector's: the name alone, or followed by a part of its own.

    A version's number may begin another one's: ``…_sink_v1`` and ``…_sink_v12``.
    """
    names = [f"{prefix}{sink}" for sink in sinks for prefix in ("connect-", "cg-control-", "cg-control-connect-")]
    return [group for group in groups if any(group == name or group.startswith(f"{name}-") for name in names)]


def find_replication(
    postgres: PostgresSettings, slots: Iterable[str], publications: Iterable[str]
) -> tuple[list[str], list[str]]:
    """Return which of some replication slots and publications there are.

    Raises:
        heartwatch.postgres.PostgresError: Postgres could not be asked.
    """
    slot_rows = execute(postgres, "SELECT slot_name FROM pg_replication_slots WHERE slot_name = ANY(%s)", [list(slots)])
    publication_rows = execute(
        postgres, "SELECT pubname FROM pg_publication WHERE pubname = ANY(%s)", [list(publications)]
    )
    return [row[0] for row in slot_rows], [row[0] for row in publication_rows]


def drop_slot(postgres: PostgresSettings, name: str) -> None:
    """Drop a replication slot once its connector has let go of it.

    Raises:
        DeployError: somebody still uses it after 30 s.
        heartwatch.postgres.PostgresError: Postgres refused.
    """

    def dropped() -> bool:
        rows = execute(postgres, "SELECT active FROM pg_replication_slots WHERE slot_name = %s", [name])
        if rows and rows[0][0]:
            return False
        if rows:
            execute(postgres, "SELECT pg_drop_replication_slot(%s)", [name])
        return True

    wait_until(
        dropped,
        _SLOT_SECONDS,
        _POLL_SECONDS,
        lambda: DeployError(
            f"replication slot {name!r} is still in use after {_SLOT_SECONDS} s; stop whoever reads from it"
        ),
    )


def drop_publication(postgres: PostgresSettings, name: str) -> None:
    """Drop a publication.

    Raises:
        heartwatch.postgres.PostgresError: Postgres refused.
    """
    execute(postgres, sql.SQL("DROP PUBLICATION IF EXISTS {}").format(sql.Identifier(name)), [])
