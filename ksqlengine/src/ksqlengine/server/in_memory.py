"""A KSQL engine without a broker: topics are lists, the schema registry is a table, and records go straight through the queries.

Statements, plans, operators and formats are those of the engine that runs against Kafka. As in ksqlDB's test driver every topic
has one partition. The test runner and the Python API are built on it.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import count, repeat

import numpy as np
import polars as pl

from kafkakit import avro_codec
from kafkakit.batch_consumer import Headers, MessageBatch
from ksqlengine.execution.pipeline import Pipeline
from ksqlengine.execution.readers import Rejected
from ksqlengine.execution.stage_chain import StageChain, arrival_order, batch_of
from ksqlengine.execution.stages import SinkSpec, Stage, stages
from ksqlengine.execution.writers import Outgoing, SinkWriter, WriteSchemas
from ksqlengine.expressions.base import TypedExpression
from ksqlengine.formats.avro import avro_of_schema
from ksqlengine.language import ast
from ksqlengine.language.lexer import ParsedStatement
from ksqlengine.language.parser import PreparedStatement, prepare
from ksqlengine.plan.catalog import Catalog, Source, source_steps
from ksqlengine.plan.steps import ROWTIME, Column, Format, QueryPlan, SourceKind
from ksqlengine.planning.ddl import CatalogChange, CatalogChanger, is_change
from ksqlengine.planning.statements import Analyzer
from ksqlengine.server import session_properties
from ksqlengine.streams.changelog import Changelog
from ksqlengine.types.errors import KsqlError, NotSupportedError, StatementError

_SERVICE_ID = "test_"


class MemoryRegistry:
    """A schema registry in memory."""

    def __init__(self, schemas: Mapping[str, str]) -> None:
        """Begin with one schema for each of some subjects."""
        self._texts: list[str] = []
        self._subjects: dict[str, int] = {}
        for subject, text in schemas.items():
            self.register(subject, text)

    def register(self, subject: str, text: str) -> int:
        """Make a schema the latest of a subject and return its id; equal schemas have one id."""
        if text not in self._texts:
            self._texts.append(text)
        self._subjects[subject] = schema_id = self._texts.index(text) + 1
        return schema_id

    def latest(self, subject: str) -> tuple[int, str] | None:
        """Return id and text of a subject's latest schema, None where there is none."""
        schema_id = self._subjects.get(subject)
        return None if schema_id is None else (schema_id, self._texts[schema_id - 1])

    def schema(self, schema_id: int) -> str | None:
        """Return the text of an id, None where there is none."""
        return self._texts[schema_id - 1] if 0 < schema_id <= len(self._texts) else None

    def parsed(self, schema_id: int) -> avro_codec.AvroSchema:
        """Return the schema of an id.

        Raises:
            kafkakit.avro_codec.UnknownSchemaError: there is none.
        """
        text = self.schema(schema_id)
        if text is None:
            raise avro_codec.UnknownSchemaError(f"schema id {schema_id} is not registered")
        schema: avro_codec.AvroSchema = json.loads(text)
        return schema

    def write_schema(
        self, topic: str, columns: tuple[Column, ...], format_: Format, *, is_key: bool
    ) -> tuple[avro_codec.AvroSchema, int] | None:
        """Return what keys or values of a topic are written with, registered first; None for formats without schemas."""
        if format_.name != "AVRO" or not columns:
            return None
        if format_.schema_id is not None:
            return self.parsed(format_.schema_id), format_.schema_id
        wrapped = format_.wrap_single if format_.wrap_single is not None else not is_key
        schema = avro_of_schema(columns, format_.schema_name, wrap=wrapped)
        return schema, self.register(f"{topic}-{'key' if is_key else 'value'}", json.dumps(schema))

    def write_schemas(self, stage: Stage) -> WriteSchemas:
        """Return what a stage's results are written with, registered first."""
        sink = stage.sink
        return WriteSchemas(
            self.write_schema(sink.topic, sink.schema.key, sink.key_format, is_key=True),
            self.write_schema(sink.topic, sink.schema.value, sink.value_format, is_key=False),
        )

    def known(self, topic: str, *, is_key: bool) -> tuple[avro_codec.AvroSchema, int] | None:
        """Return the latest schema of a topic's keys or values, None where there is none."""
        found = self.latest(f"{topic}-{'key' if is_key else 'value'}")
        return None if found is None else (json.loads(found[1]), found[0])


@dataclass(frozen=True)
class StoredRecord:
    """A record as bytes."""

    key: bytes | None
    value: bytes | None
    timestamp: int
    headers: Headers = ()


class InMemoryQuery:
    """A persistent query that is fed with records."""

    def __init__(self, plan: QueryPlan, registry: MemoryRegistry) -> None:
        """Build its stages."""
        self.plan = plan
        self.paused = False
        self.rejects: list[Rejected] = []
        self.chain = StageChain(
            stages(plan, _SERVICE_ID),
            registry.parsed,
            registry.write_schemas,
            arrival_order(self.rejects.extend),
            self.rejects.extend,
        )

    @property
    def topics(self) -> list[str]:
        """Topics that it reads, tables first."""
        steps = sorted(source_steps(self.plan.root), key=lambda step: step.kind is SourceKind.STREAM)
        return list(dict.fromkeys(step.topic for step in steps))

    @property
    def table_topics(self) -> list[str]:
        """Topics of tables that it reads."""
        return [step.topic for step in source_steps(self.plan.root) if step.kind is SourceKind.TABLE]

    def pipe(self, topic: str, records: Sequence[StoredRecord], offset: int) -> list[StoredRecord]:
        """Process records of a topic and all that follows from them inside the query.

        Args:
            topic: one of `topics`.
            records: in order.
            offset: of the first one.

        Returns:
            what the query writes into its sink.
        """
        batch = batch_of_records(topic, records, offset)
        self.chain.apply_to_tables(batch)
        sink = self.chain.last.sink
        return [
            record
            for result in self.chain.feed(batch)
            for record in stored_records(sink.write(result.rows, 1), result.headers)
        ]

    def restore_from(self, before: InMemoryQuery) -> None:
        """Restore the state of the query that this one replaces, as it would be in its changelog."""
        self.chain.internal_ends = before.chain.internal_ends
        older = {
            pipeline.stage.changelog: pipeline for pipeline in before.chain.pipelines if isinstance(pipeline, Pipeline)
        }
        for pipeline in self.chain.pipelines:
            if not isinstance(pipeline, Pipeline):
                continue
            topic = pipeline.stage.changelog
            if topic is None or topic not in older:
                continue
            changes = Changelog(topic, older[topic]).changes([0])
            states = {key: value for key, value in zip(changes.keys, changes.values, strict=True) if key and value}
            if states:
                Changelog(topic, pipeline).put_back(0, states)


class InMemoryEngine:
    """Runs statements and keeps what they make: streams and tables, queries, topics, schemas.

    Attributes:
        catalog: streams, tables, types and queries.
        registry: the schema registry.
        queries: persistent queries, by id.
        topics: records, by topic.
        variables: values of ``${name}``.
        defaults: session properties that UNSET gives back.
        properties: session properties that are set.
        arrivals: in which order records were fed: topic, first offset, and the offset after the last one.
    """

    def __init__(
        self,
        variables: Mapping[str, str],
        schemas: Mapping[str, str],
        batch_rows: int = 1,
        properties: Mapping[str, str] | None = None,
    ) -> None:
        """Begin with variables and registered schemas (by subject) and nothing else.

        Args:
            variables: values of ``${name}``.
            schemas: Avro schemas, by subject.
            batch_rows: how many records of one `feed` go through the queries together, at most.
            properties: session properties that are set, and that UNSET gives back.
        """
        self.catalog = Catalog()
        self.registry = MemoryRegistry(schemas)
        self.queries: dict[str, InMemoryQuery] = {}
        self.topics: dict[str, list[StoredRecord]] = {}
        self.variables = dict(variables)
        self.defaults: Mapping[str, str] = dict(properties or {})
        self.properties: dict[str, str] = dict(self.defaults)
        self.arrivals: list[tuple[str, int, int]] = []
        self._batch_rows = batch_rows
        self._numbers = count()
        self._inserted: list[tuple[str, StoredRecord]] = []

    def execute(self, parsed: ParsedStatement) -> PreparedStatement:
        """Run one statement.

        Raises:
            ksqlengine.types.errors.KsqlError: it is refused.
        """
        prepared = prepare(parsed, self.variables)
        try:
            self._run(prepared)
        except StatementError as error:
            raise error.with_statement(prepared.text) from error
        return prepared

    @property
    def analyzer(self) -> Analyzer:
        """Analyzer over what there is now."""
        return Analyzer(self.catalog, self.registry, session_properties.engine_defaults(self.properties))

    def append(self, topic: str, record: StoredRecord) -> int:
        """Append a record to a topic and return its offset."""
        records = self.topics.setdefault(topic, [])
        records.append(record)
        return len(records) - 1

    def feed(self, topic: str, records: Sequence[StoredRecord], path: tuple[str, ...] = ()) -> None:
        """Append records to a topic and let them, and all that is made of them, go through the queries that run.

        Args:
            topic: the topic.
            records: in order.
            path: topics through which they came, of queries that made them.

        Raises:
            KsqlError: a query writes into a topic that its own records came from.
        """
        path = (*path, topic)
        for start in range(0, len(records), self._batch_rows):
            piece = records[start : start + self._batch_rows]
            stored = self.topics.setdefault(topic, [])
            offset = len(stored)
            stored.extend(piece)
            self.arrivals.append((topic, offset, len(stored)))
            readers = [query for query in self.queries.values() if topic in query.topics and not query.paused]
            for query, written in [(query, query.pipe(topic, piece, offset)) for query in readers]:
                target = query.plan.topic
                if target in path and written:
                    raise KsqlError(f"Detected illegal cycle in topology: {'->'.join([*path, target])}")
                self.feed(target, written, path)

    def records_of(self, source: Source, rows: pl.DataFrame) -> list[StoredRecord]:
        """Return the records of a stream's or table's rows.

        Args:
            source: the stream or table.
            rows: its columns, `ROWTIME`, the window's bounds where its key has one, and `DELETED` for rows that are deleted.
        """
        spec = SinkSpec(
            source.topic,
            source.record_schema,
            source.key_format,
            source.value_format,
            source.key_window,
            internal=False,
        )
        write = WriteSchemas(
            self.registry.known(source.topic, is_key=True), self.registry.known(source.topic, is_key=False)
        )
        return stored_records(SinkWriter(spec, self.registry.parsed, write).write(rows, 1))

    def take_inserted(self) -> list[tuple[str, StoredRecord]]:
        """Return what INSERT VALUES wrote since the last call."""
        inserted, self._inserted = self._inserted, []
        return inserted

    # ------------------------------------------------------------------------------------------------- statements
    def _run(self, prepared: PreparedStatement) -> None:
        match prepared.statement:
            case statement if is_change(statement):
                self._carry_out(CatalogChanger(self.analyzer, next(self._numbers), self.properties).change(prepared))
            case ast.InsertValues() as statement:
                source, values = self.analyzer.insert_values(statement)
                self._inserted.append((source.topic, self.records_of(source, row_of(source, values))[0]))
            case ast.SetProperty(name, value):
                self.properties = session_properties.with_changes(self.properties, {name: value})
            case ast.UnsetProperty(name):
                session_properties.check_name(name)
                name = session_properties.canonical(name)
                kept = {kept_name: value for kept_name, value in self.properties.items() if kept_name != name}
                self.properties = kept | {
                    default_name: value for default_name, value in self.defaults.items() if default_name == name
                }
            case ast.AssertTopic() | ast.AssertSchema() as statement:
                self._assert_exists(statement)
            case ast.DefineVariable() | ast.UndefineVariable():
                return  # parsing it changed the variables
            case ast.QueryStatement():
                raise StatementError("SELECT gives rows and changes nothing; run it by itself")
            case ast.Unsupported(what):
                raise NotSupportedError(what)
            case statement:
                raise StatementError(f"{type(statement).__name__} changes nothing; an engine in memory runs what does")

    def _carry_out(self, change: CatalogChange) -> None:
        if change.nothing is not None:
            return
        if change.source is not None and change.plan is None:
            self._register_declared(change.source)
        started = InMemoryQuery(change.plan, self.registry) if change.plan is not None else None
        if started is not None and started.plan.query_id in change.stopped:
            started.restore_from(self.queries[started.plan.query_id])
        self.catalog = change.catalog
        for query_id in change.stopped:
            self.queries.pop(query_id, None)
        for query_id, paused in change.paused.items():
            self.queries[query_id].paused = paused
        if started is not None:
            self.queries[started.plan.query_id] = started

    def _register_declared(self, source: Source) -> None:
        """Register what a CREATE says of a topic without schemas, as ksqlDB's test runner does."""
        for columns, format_, is_key in (
            (source.schema.key, source.key_format, True),
            (source.record_schema.value, source.value_format, False),
        ):
            if self.registry.known(source.topic, is_key=is_key) is None:
                self.registry.write_schema(source.topic, columns, format_, is_key=is_key)

    def _assert_exists(self, statement: ast.AssertTopic | ast.AssertSchema) -> None:
        if isinstance(statement, ast.AssertTopic):
            there = any(source.topic == statement.topic for source in self.catalog.sources.values())
            what = f"Topic {statement.topic}"
        elif statement.subject is not None:
            there, what = (
                self.registry.latest(statement.subject) is not None,
                f"Schema with subject {statement.subject}",
            )
        else:
            there, what = self.registry.schema(statement.schema_id or 0) is not None, f"Schema {statement.schema_id}"
        if there is not statement.exists:
            raise StatementError(f"{what} {'does not exist' if statement.exists else 'exists'}.")


def row_of(source: Source, values: Mapping[str, TypedExpression]) -> pl.DataFrame:
    """Return the row that INSERT VALUES or ASSERT VALUES states; columns that are not given are null, ROWTIME is now."""
    given = pl.select(expression.to_polars().alias(name) for name, expression in values.items())
    columns = [
        given[column.name].cast(column.type.polars)
        if column.name in given.columns
        else pl.Series(column.name, [None], dtype=column.type.polars)
        for column in source.schema.columns
    ]
    now = pl.select(pl.lit(_now_ms(), dtype=pl.Int64).alias(ROWTIME))
    return pl.DataFrame(columns).hstack(given.select(ROWTIME) if ROWTIME in given.columns else now)


def _now_ms() -> int:
    return int(np.datetime64("now", "ms").astype(np.int64))


def batch_of_records(topic: str, records: Sequence[StoredRecord], offset: int) -> MessageBatch:
    """Return records as messages of a topic of one partition; `offset` is that of the first one."""
    columns = Outgoing(
        [record.key for record in records],
        [record.value for record in records],
        [record.timestamp for record in records],
        partitions=None,
        headers=[list(record.headers) for record in records],
    )
    return batch_of(topic, columns, offset)


def stored_records(outgoing: Outgoing, headers: Headers = ()) -> list[StoredRecord]:
    """Return records one by one; `headers` are those of records that have none of their own."""
    own: Iterable[Iterable[tuple[str, bytes | None]]] = outgoing.headers or repeat(headers, len(outgoing))
    rows = zip(outgoing.keys, outgoing.values, outgoing.timestamps, own, strict=True)
    return [StoredRecord(key, value, timestamp, tuple(own_headers)) for key, value, timestamp, own_headers in rows]
