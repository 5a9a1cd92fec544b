"""A KSQL engine without a broker: topics are lists, the schema registry is a table, and records go through queries one by one.

Statements, plans, operators and formats are the engine's own. As in ksqlDB's test driver every topic has one partition and
nothing is cached, so that each input change gives its output change.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from functools import singledispatchmethod
from itertools import count

import numpy as np
import polars as pl
import pyarrow as pa

from heartwatch import codec
from heartwatch.batch_consumer import MessageBatch
from heartwatch.engine import syntax as ast
from heartwatch.engine.analyzer import Analyzer
from heartwatch.engine.avro import avro_of_schema
from heartwatch.engine.catalog import Catalog, Source, source_steps
from heartwatch.engine.errors import NotSupportedError, StatementError
from heartwatch.engine.expressions import TypedExpression
from heartwatch.engine.lexer import ParsedStatement
from heartwatch.engine.parser import PreparedStatement, prepare
from heartwatch.engine.plan import ROWTIME, Column, Format, QueryPlan, SourceKind
from heartwatch.engine.testing.records import RecordError, StoredRecord, TopicForm, topic_form
from heartwatch.engine.topology import (
    Outgoing,
    Pipeline,
    Rejected,
    SinkSpec,
    SinkWriter,
    WriteSchemas,
    build,
    stages,
)

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

    def parsed(self, schema_id: int) -> codec.AvroSchema:
        """Return the schema of an id.

        Raises:
            heartwatch.codec.UnknownSchemaError: there is none.
        """
        text = self.schema(schema_id)
        if text is None:
            raise codec.UnknownSchemaError(f"schema id {schema_id} is not registered")
        schema: codec.AvroSchema = json.loads(text)
        return schema

    def write_schema(
        self, topic: str, columns: tuple[Column, ...], format_: Format, *, is_key: bool
    ) -> tuple[codec.AvroSchema, int] | None:
        """Return what keys or values of a topic are written with, registered first; None for formats without schemas."""
        if format_.name != "AVRO" or not columns:
            return None
        if format_.schema_id is not None:
            return self.parsed(format_.schema_id), format_.schema_id
        wrapped = format_.wrap_single if format_.wrap_single is not None else not is_key
        schema = avro_of_schema(columns, format_.schema_name, wrap=wrapped)
        return schema, self.register(f"{topic}-{'key' if is_key else 'value'}", json.dumps(schema))

    def known(self, topic: str, *, is_key: bool) -> tuple[codec.AvroSchema, int] | None:
        """Return the latest schema of a topic's keys or values, None where there is none."""
        found = self.latest(f"{topic}-{'key' if is_key else 'value'}")
        return None if found is None else (json.loads(found[1]), found[0])


@dataclass
class RunningQuery:
    """A persistent query whose stages are fed record by record."""

    plan: QueryPlan
    pipelines: list[Pipeline]
    paused: bool = False
    rejects: list[Rejected] = field(default_factory=list)

    @property
    def topics(self) -> list[str]:
        """Topics that it reads, tables first."""
        steps = sorted(source_steps(self.plan.root), key=lambda step: step.kind is SourceKind.STREAM)
        return list(dict.fromkeys(step.topic for step in steps))

    def pipe(self, topic: str, record: StoredRecord, offset: int) -> list[StoredRecord]:
        """Process one record of a topic and all that follows from it inside the query; return what it writes."""
        written: list[StoredRecord] = []
        batch = _batch(topic, record, offset)
        for pipeline in self.pipelines:
            for table in pipeline.tables:
                if table.topic == topic and pipeline.keys is not None:
                    self.rejects.extend(table.apply(batch, pipeline.keys))
        for pipeline in self.pipelines:
            if pipeline.stage.source.topic != topic:
                continue
            rows, rejects = pipeline.push(batch)
            self.rejects.extend(rejects)
            results = _records(pipeline.sink.write(rows, 1)) if len(rows) else []
            sink = pipeline.sink.spec
            if not sink.internal:
                written.extend(results)
                continue
            for result in results:
                written.extend(self.pipe(sink.topic, result, offset))
        return written


class Driver:
    """Runs statements and keeps what they make: streams and tables, queries, topics, schemas."""

    def __init__(self, variables: Mapping[str, str], schemas: Mapping[str, str]) -> None:
        """Begin with variables and registered schemas (by subject) and nothing else."""
        self.catalog = Catalog()
        self.registry = MemoryRegistry(schemas)
        self.queries: dict[str, RunningQuery] = {}
        self.topics: dict[str, list[StoredRecord]] = {}
        self.inserted: list[tuple[str, StoredRecord]] = []  # records of INSERT VALUES not yet taken by `take_inserted`
        self._variables = dict(variables)
        self._properties: dict[str, str] = {}
        self._numbers = count()

    def execute(self, parsed: ParsedStatement) -> PreparedStatement:
        """Run one statement.

        Raises:
            heartwatch.engine.errors.KsqlError: it is refused.
        """
        prepared = prepare(parsed, self._variables)
        try:
            self._run(prepared.statement, prepared.text)
        except StatementError as error:
            raise error.with_statement(prepared.text) from error
        return prepared

    @property
    def analyzer(self) -> Analyzer:
        """Analyzer over what there is now."""
        return Analyzer(self.catalog, self.registry)

    def source_of(self, topic: str) -> Source:
        """Return a stream or table over a topic.

        Raises:
            RecordError: there is none.
        """
        found = next((source for source in self.catalog.sources.values() if source.topic == topic), None)
        if found is None:
            raise RecordError(f"no stream or table reads or writes topic {topic!r}")
        return found

    def form_of(self, topic: str) -> TopicForm:
        """Return how a topic's records look in test files.

        Raises:
            RecordError: no stream or table is over it.
        """
        source = self.source_of(topic)
        return topic_form(
            source.schema,
            source.key_format,
            source.value_format,
            source.key_window,
            self.registry.known(topic, is_key=True),
            self.registry.known(topic, is_key=False),
        )

    def append(self, topic: str, record: StoredRecord) -> int:
        """Append a record to a topic and return its offset."""
        records = self.topics.setdefault(topic, [])
        records.append(record)
        return len(records) - 1

    def take_inserted(self) -> list[tuple[str, StoredRecord]]:
        """Return what INSERT VALUES wrote since the last call."""
        inserted, self.inserted = self.inserted, []
        return inserted

    # ------------------------------------------------------------------------------------------------- statements
    @singledispatchmethod
    def _run(self, statement: ast.Statement, text: str) -> None:
        raise StatementError(f"{type(statement).__name__} is not a statement of tests")

    @_run.register
    def _(self, statement: ast.CreateSource, text: str) -> None:
        if statement.if_not_exists and statement.name in self.catalog.sources:
            return
        source = self.analyzer.create_source(statement, text)
        self.catalog = self.catalog.with_source(source, or_replace=statement.or_replace)
        for columns, format_, is_key in (
            (source.schema.key, source.key_format, True),
            (source.schema.value, source.value_format, False),
        ):
            if self.registry.known(source.topic, is_key=is_key) is None:
                self.registry.write_schema(source.topic, columns, format_, is_key=is_key)

    @_run.register
    def _(self, statement: ast.CreateAsSelect, text: str) -> None:
        if statement.if_not_exists and statement.name in self.catalog.sources:
            return
        source, plan = self.analyzer.create_as_select(statement, text, next(self._numbers), self._properties)
        changed = self.catalog.with_source(source, or_replace=statement.or_replace).with_query(plan)
        self._start(plan, changed)

    @_run.register
    def _(self, statement: ast.InsertInto, text: str) -> None:
        plan = self.analyzer.insert_into(statement, text, next(self._numbers), self._properties)
        self._start(plan, self.catalog.with_query(plan))

    @_run.register
    def _(self, statement: ast.InsertValues, text: str) -> None:
        source, values = self.analyzer.insert_values(statement)
        self.inserted.append((source.topic, self._row(source, values)))

    @_run.register
    def _(self, statement: ast.DropSource, text: str) -> None:
        kind = SourceKind(statement.kind)
        self.catalog = self.catalog.without_source(
            statement.name, kind, if_exists=statement.if_exists, delete_topic=statement.delete_topic
        )
        self._stop_dropped()

    @_run.register
    def _(self, statement: ast.TerminateQuery, text: str) -> None:
        for query_id in [statement.query_id] if statement.query_id is not None else list(self.catalog.queries):
            self.catalog = self.catalog.without_query(query_id)
        self._stop_dropped()

    @_run.register(ast.PauseQuery)
    @_run.register(ast.ResumeQuery)
    def _(self, statement: ast.PauseQuery | ast.ResumeQuery, text: str) -> None:
        paused = isinstance(statement, ast.PauseQuery)
        for query_id in [statement.query_id] if statement.query_id is not None else list(self.catalog.queries):
            self.catalog = self.catalog.with_paused(query_id, paused)
            self.queries[self.catalog.query(query_id).query_id].paused = paused

    @_run.register
    def _(self, statement: ast.SetProperty, text: str) -> None:
        self._properties[statement.name] = statement.value

    @_run.register
    def _(self, statement: ast.UnsetProperty, text: str) -> None:
        self._properties.pop(statement.name, None)

    @_run.register(ast.DefineVariable)
    @_run.register(ast.UndefineVariable)
    def _(self, statement: ast.Statement, text: str) -> None:
        """Parsing the statement changed the variables."""

    @_run.register
    def _(self, statement: ast.RegisterType, text: str) -> None:
        type_ = self.catalog.resolve_type(statement.type)
        self.catalog = self.catalog.with_type(statement.name, type_, if_not_exists=statement.if_not_exists)

    @_run.register
    def _(self, statement: ast.DropType, text: str) -> None:
        self.catalog = self.catalog.without_type(statement.name, if_exists=statement.if_exists)

    @_run.register
    def _(self, statement: ast.AssertTopic, text: str) -> None:
        there = any(source.topic == statement.topic for source in self.catalog.sources.values())
        if there is not statement.exists:
            state = "does not exist" if statement.exists else "exists"
            raise StatementError(f"Topic {statement.topic} {state}.")

    @_run.register
    def _(self, statement: ast.AssertSchema, text: str) -> None:
        found = (
            self.registry.latest(statement.subject)
            if statement.subject is not None
            else self.registry.schema(statement.schema_id or 0)
        )
        if (found is not None) is not statement.exists:
            name = f"subject name {statement.subject}" if statement.subject is not None else f"id {statement.schema_id}"
            state = "does not exist" if statement.exists else "exists"
            raise StatementError(f"Schema with {name} {state}.")

    @_run.register
    def _(self, statement: ast.Unsupported, text: str) -> None:
        raise NotSupportedError(statement.what)

    # ---------------------------------------------------------------------------------------------------- queries
    def _start(self, plan: QueryPlan, catalog: Catalog) -> None:
        pipelines = []
        for stage in stages(plan, _SERVICE_ID):
            sink = stage.sink
            write = WriteSchemas(
                self.registry.write_schema(sink.topic, sink.schema.key, sink.key_format, is_key=True),
                self.registry.write_schema(sink.topic, sink.schema.value, sink.value_format, is_key=False),
            )
            pipelines.append(build(stage, self.registry.parsed, write))
        self.catalog = catalog
        self.queries[plan.query_id] = RunningQuery(plan, pipelines)

    def _stop_dropped(self) -> None:
        self.queries = {query_id: query for query_id, query in self.queries.items() if query_id in self.catalog.queries}

    def _row(self, source: Source, values: Mapping[str, TypedExpression]) -> StoredRecord:
        frame = row_of(source, values)
        spec = SinkSpec(source.topic, source.schema, source.key_format, source.value_format, None, internal=False)
        write = WriteSchemas(
            self.registry.known(source.topic, is_key=True), self.registry.known(source.topic, is_key=False)
        )
        return _records(SinkWriter(spec, self.registry.parsed, write).write(frame, 1))[0]


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


def _batch(topic: str, record: StoredRecord, offset: int) -> MessageBatch:
    return MessageBatch(
        topics=(topic,),
        topic=np.zeros(1, np.int32),
        partition=np.zeros(1, np.int32),
        offset=np.array([offset], np.int64),
        timestamp=np.array([record.timestamp], np.int64),
        key=pa.array([record.key], pa.large_binary()),
        value=pa.array([record.value], pa.large_binary()),
    )


def _records(outgoing: Outgoing) -> list[StoredRecord]:
    rows: Iterable[tuple[bytes | None, bytes | None, int]] = zip(
        outgoing.keys, outgoing.values, outgoing.timestamps, strict=True
    )
    return [StoredRecord(key, value, timestamp) for key, value, timestamp in rows]
