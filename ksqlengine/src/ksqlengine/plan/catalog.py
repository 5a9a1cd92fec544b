"""What a KSQL server knows: streams and tables, persistent queries, types; who reads and who writes what.

A catalog is a value: every change returns a new one, or raises and leaves the old one as it is.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace

from ksqlengine.plan.steps import Column, Format, QueryPlan, Schema, SourceKind, SourceStep, Step, Window, walk
from ksqlengine.types.errors import BAD_REQUEST, KsqlError, Phase, StatementError
from ksqlengine.types.sqltypes import NamedType, SqlType


@dataclass(frozen=True)
class Source:
    """A stream or a table.

    Attributes:
        name: upper case unless it was quoted.
        kind: stream or table.
        schema: key and value columns (header columns are among the value columns).
        topic: Kafka topic.
        key_format: how keys are written.
        value_format: how values are written.
        key_window: window in the key, None for plain keys.
        timestamp_column: column that gives the event time, None for the record's timestamp.
        timestamp_format: its pattern where it is text.
        headers: header columns: name, and the header's key (None for all headers).
        read_only: CREATE SOURCE: nothing can be inserted.
        statement: the statement that made it.
        query_id: the query that made it (CREATE … AS SELECT), None where the topic was there before.
    """

    name: str
    kind: SourceKind
    schema: Schema
    topic: str
    key_format: Format
    value_format: Format
    key_window: Window | None = None
    timestamp_column: str | None = None
    timestamp_format: str | None = None
    headers: tuple[tuple[str, str | None], ...] = ()
    read_only: bool = False
    statement: str = ""
    query_id: str | None = None

    @property
    def record_schema(self) -> Schema:
        """Columns that keys and values of records hold: all but those of headers."""
        headers = dict(self.headers)
        return Schema(self.schema.key, tuple(column for column in self.schema.value if column.name not in headers))


@dataclass(frozen=True)
class PersistentQuery:
    """A persistent query: its plan, and whether it is paused."""

    plan: QueryPlan
    paused: bool = False

    @property
    def query_id(self) -> str:
        """The query's id."""
        return self.plan.query_id

    @property
    def reads(self) -> frozenset[str]:
        """Streams and tables that it reads."""
        return frozenset(source_step.source for source_step in source_steps(self.plan.root))

    @property
    def writes(self) -> str:
        """Stream or table that it writes."""
        return self.plan.sink


def source_steps(step: Step) -> list[SourceStep]:
    """Return the sources below a step, from left to right."""
    return [below for below in walk(step) if isinstance(below, SourceStep)]


@dataclass(frozen=True)
class Catalog:
    """Everything that statements refer to by name."""

    sources: Mapping[str, Source] = field(default_factory=dict)
    queries: Mapping[str, PersistentQuery] = field(default_factory=dict)
    types: Mapping[str, SqlType] = field(default_factory=dict)

    # ------------------------------------------------------------------ look-ups
    def source(self, name: str) -> Source:
        """Return a stream or table.

        Raises:
            StatementError: there is none of this name.
        """
        found = self.sources.get(name)
        if found is None:
            other = next((known for known in self.sources if known.upper() == name.upper()), None)
            hint = f'\nDid you mean "{other}"? Hint: wrap the source name in double quotes to make it case-sensitive.'
            raise StatementError(f"{name} does not exist.{hint if other else ''}")
        return found

    def described(self, name: str) -> Source:
        """Return a stream or table to describe.

        Raises:
            StatementError: there is none of this name.
        """
        try:
            return self.source(name)
        except StatementError as error:
            hint = error.message.removeprefix(f"{name} does not exist.")
            raise StatementError(f"Could not find STREAM/TABLE '{name}' in the Metastore{hint}") from None

    def query(self, query_id: str) -> PersistentQuery:
        """Return a persistent query.

        Raises:
            StatementError: there is none of this id.
        """
        found = next((query for known, query in self.queries.items() if known.upper() == query_id.upper()), None)
        if found is None:
            raise StatementError(f"Unknown queryId: {query_id}")
        return found

    def readers(self, name: str) -> list[str]:
        """Return the ids of the queries that read a stream or table."""
        return sorted(query_id for query_id, query in self.queries.items() if name in query.reads)

    def writers(self, name: str) -> list[str]:
        """Return the ids of the queries that write a stream or table."""
        return sorted(query_id for query_id, query in self.queries.items() if query.writes == name)

    def derived(self, name: str) -> list[str]:
        """Return the streams and tables that CREATE … AS SELECT made from this one."""
        made = {query_id: query for query_id, query in self.queries.items() if name in query.reads}
        return sorted(source.name for source in self.sources.values() if source.query_id in made)

    # ------------------------------------------------------------------ changes
    def with_source(self, source: Source, *, or_replace: bool = False) -> Catalog:
        """Add a stream or table.

        Raises:
            StatementError: the name is taken, or the new one can't replace the old one.
        """
        existing = self.sources.get(source.name)
        if existing is not None and not or_replace:
            raise already_exists(source.kind, existing)
        if existing is not None:
            check_replaceable(existing, source)
        return replace(self, sources={**self.sources, source.name: source})

    def without_source(
        self, name: str, kind: SourceKind, *, if_exists: bool = False, delete_topic: bool = False
    ) -> Catalog:
        """Remove a stream or table, and with it the query that made it.

        Raises:
            StatementError: it isn't there, is of the other kind, or a query still reads or writes it.
        """
        source = self.sources.get(name)
        if source is None:
            if if_exists:
                return self
            raise StatementError(f"{'Stream' if kind is SourceKind.STREAM else 'Table'} {name} does not exist.")
        if source.kind is not kind:
            raise StatementError(
                f"Incompatible data source type is {source.kind.value}, but statement was DROP {kind.value}"
            )
        if source.read_only and delete_topic:
            raise KsqlError(f"Cannot delete topic for read-only source: {name}", BAD_REQUEST)
        own = {source.query_id} if source.query_id else set()
        readers = [query_id for query_id in self.readers(name) if query_id not in own]
        writers = [query_id for query_id in self.writers(name) if query_id not in own]
        derived = self.derived(name)
        if derived:
            raise StatementError(
                f"Cannot drop {name}.\nThe following streams and/or tables read from this source: [{', '.join(derived)}].\n"
                f"You need to drop them before dropping {name}."
            )
        if readers or writers:
            raise StatementError(
                f"Cannot drop {name}.\nThe following queries read from this source: [{', '.join(readers)}].\n"
                f"The following queries write into this source: [{', '.join(writers)}].\n"
                f"You need to terminate them before dropping {name}."
            )
        sources = {key: value for key, value in self.sources.items() if key != name}
        queries = {key: value for key, value in self.queries.items() if key not in own}
        return replace(self, sources=sources, queries=queries)

    def with_query(self, plan: QueryPlan) -> Catalog:
        """Add a persistent query, or replace the one of the same id."""
        return replace(self, queries={**self.queries, plan.query_id: PersistentQuery(plan)})

    def without_query(self, query_id: str) -> Catalog:
        """Remove a persistent query.

        Raises:
            StatementError: there is none of this id.
        """
        found = self.query(query_id)
        return replace(self, queries={key: value for key, value in self.queries.items() if key != found.query_id})

    def with_paused(self, query_id: str, paused: bool) -> Catalog:
        """Mark a persistent query as paused or running.

        Raises:
            StatementError: there is none of this id.
        """
        found = self.query(query_id)
        return replace(self, queries={**self.queries, found.query_id: replace(found, paused=paused)})

    def with_type(self, name: str, type_: SqlType, *, if_not_exists: bool = False) -> Catalog:
        """Add a type of CREATE TYPE.

        Raises:
            StatementError: the name is taken.
        """
        if name in self.types:
            if if_not_exists:
                return self
            raise StatementError(
                f"Cannot register custom type '{name}' since it is already registered with type: {self.types[name]}"
            )
        return replace(self, types={**self.types, name: type_})

    def without_type(self, name: str, *, if_exists: bool = False) -> Catalog:
        """Remove a type.

        Raises:
            StatementError: there is none of this name.
        """
        if name not in self.types and not if_exists:
            raise StatementError(f"Type {name} does not exist.")
        return replace(self, types={key: value for key, value in self.types.items() if key != name})

    def resolve_type(self, type_: SqlType) -> SqlType:
        """Return a type with the names of CREATE TYPE replaced by what they stand for.

        Raises:
            StatementError: a name is unknown.
        """
        if isinstance(type_, NamedType):
            if type_.name not in self.types:
                raise StatementError(f"Cannot resolve unknown type: {type_.name}").in_phase(Phase.PARSED)
            return self.types[type_.name]
        return type_.map_parts(self.resolve_type)


def already_exists(kind: SourceKind, existing: Source) -> StatementError:
    """Return ksqlDB's error for a name that is taken."""
    return StatementError(
        f"Cannot add {kind.value.lower()} '{existing.name}': "
        f"A {existing.kind.value.lower()} with the same name already exists"
    )


def check_replaceable(existing: Source, new: Source) -> None:
    """Check that CREATE OR REPLACE keeps what readers of the old source rely on: columns may only be added at the end.

    Raises:
        StatementError: it doesn't.
    """
    name, kind = existing.name, existing.kind.value.lower()
    if existing.read_only or new.read_only:
        raise StatementError(f"Cannot add {kind} '{name}': CREATE OR REPLACE is not supported on source {kind}s.")
    issues = [
        f"DataSource '`{name}`' has {what} = {before} which is not upgradeable to {after}"
        for what, before, after in (
            ("type", f"K{existing.kind.value}", f"K{new.kind.value}"),
            ("topic", _topic_text(existing), _topic_text(new)),
            ("timestampColumn", existing.timestamp_column, new.timestamp_column),
        )
        if before != after
    ]
    reason = _schema_issue(existing.schema, new.schema)
    if reason is not None:
        schemas = [schema_text(source.schema, source.kind) for source in (existing, new)]
        issues.append(
            f"DataSource '`{name}`' has schema = {schemas[0]} which is not upgradeable to {schemas[1]}. ({reason})"
        )
    if issues:
        raise StatementError("Cannot upgrade data source: " + "\n\tAND ".join(issues))


def _topic_text(source: Source) -> str:
    key, value = (
        f"format=FormatInfo{{format={format_.name}, properties={{}}}}, features=[]"
        for format_ in (source.key_format, source.value_format)
    )
    window = "Optional.empty" if source.key_window is None else f"Optional[{source.key_window}]"
    return (
        f"KsqlTopic{{kafkaTopicName='{source.topic}', keyFormat=KeyFormat{{{key}, window={window}}}, "
        f"valueFormat=ValueFormat{{{value}}}}}"
    )


def _schema_issue(before: Schema, after: Schema) -> str | None:
    def changed(old: tuple[Column, ...], new: tuple[Column, ...], word: str = "") -> str:
        missing = [column for place, column in enumerate(old) if place >= len(new) or new[place] != column]
        return ", ".join(f"`{column.name}` {column.type}{word}" for column in missing)

    # As in ksqlDB, more columns are no issue, not even of the key.
    keys = changed(before.key, after.key, " KEY")
    if keys:
        return f"Key columns must be identical. The following key columns are changed, missing or reordered: [{keys}]"
    values = changed(before.value, after.value)
    return f"The following columns are changed, missing or reordered: [{values}]" if values else None


def check_names(schema: Schema) -> None:
    """Check that no name occurs twice.

    Raises:
        StatementError: one does.
    """
    names = [column.name for column in schema.columns]
    repeated = next((name for name in names if names.count(name) > 1), None)
    if repeated is not None:
        raise StatementError(f"Duplicate column names: {repeated}")


def schema_text(schema: Schema, kind: SourceKind = SourceKind.STREAM) -> str:
    """Return a schema as messages write it: ```ID` INTEGER KEY, `NAME` STRING``."""
    word = "PRIMARY KEY" if kind is SourceKind.TABLE else "KEY"
    keys = [f"`{column.name}` {column.type} {word}" for column in schema.key]
    return ", ".join([*keys, *(f"`{column.name}` {column.type}" for column in schema.value)])
