"""Answers of the ``/ksql`` endpoint, in the shapes of ksqlDB's entities."""

from __future__ import annotations

import re
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from datetime import UTC, datetime
from functools import singledispatchmethod
from typing import Any, Protocol

from kafkakit.admin import TopicState
from kafkakit.registry import NotRegisteredError
from kafkakit.waiting import wait_until
from ksqlengine.expressions.aggregates import AGGREGATES
from ksqlengine.expressions.functions import FUNCTIONS
from ksqlengine.expressions.functions.tables import TABLE_FUNCTIONS
from ksqlengine.language import ast
from ksqlengine.language.parser import PreparedStatement
from ksqlengine.plan.catalog import Catalog, PersistentQuery, Source, source_steps
from ksqlengine.plan.explain import explain, explain_step
from ksqlengine.plan.steps import Column, QueryPlan, SourceKind, StreamStreamJoinStep, walk
from ksqlengine.planning.statements import Analyzer
from ksqlengine.planning.transient_query import TransientPlan
from ksqlengine.server.running_query import RunningQuery
from ksqlengine.server.session_properties import PROPERTIES, RequestSession
from ksqlengine.server.topics_and_schemas import Resources
from ksqlengine.types.errors import ASSERTION_FAILED, KsqlError, NotSupportedError, StatementError
from ksqlengine.types.sqltypes import ArrayType, DecimalType, MapType, SqlType, StructType

_ASSERT_SECONDS = 1.0
_POLL_SECONDS = 0.1
# ksqlDB's default of ksql.hidden.topics, and Kafka's own.
_HIDDEN_TOPICS = re.compile(
    r"_confluent|__confluent|_schemas\Z|__(consumer_offsets|transaction_state|share_group_state)\Z"
)

Entity = dict[str, Any]


class ConfigView(Protocol):
    """What answers show of an engine's configuration."""

    @property
    def properties(self) -> Mapping[str, str]:
        """The server's defaults of the session properties."""

    @property
    def address(self) -> str:
        """``host:port`` of the engine process."""


class EngineView(Protocol):
    """What answers show of an engine."""

    @property
    def catalog(self) -> Catalog:
        """Streams, tables, types and queries as they are now."""

    @property
    def queries(self) -> Mapping[str, RunningQuery]:
        """Running persistent queries, by id."""

    @property
    def resources(self) -> Resources:
        """Topics and schemas."""

    @property
    def config(self) -> ConfigView:
        """What the engine was started with."""

    def analyzer(self, properties: Mapping[str, str]) -> Analyzer:
        """Return an analyzer over the catalog as it is."""


class Responses:
    """Answers statements that change nothing."""

    def __init__(self, engine: EngineView) -> None:
        """Answer for an engine."""
        self._engine = engine

    def answer(self, statement: PreparedStatement, session: RequestSession) -> Entity:
        """Return a statement's entity.

        Raises:
            StatementError: it can't be answered.
        """
        entity = self._of(statement.statement, statement.text, session)
        return {"@type": entity.pop("@type"), "statementText": statement.text, **entity, "warnings": []}

    @singledispatchmethod
    def _of(self, node: ast.Statement, text: str, session: RequestSession) -> Entity:
        raise NotSupportedError(getattr(node, "what", type(node).__name__))

    # ------------------------------------------------------------------------------------------------ lists
    @_of.register(ast.Show)
    def _show(self, node: ast.Show, text: str, session: RequestSession) -> Entity:
        answers: dict[str, Callable[[], Entity]] = {
            "STREAMS": lambda: self._sources(SourceKind.STREAM, extended=node.extended),
            "TABLES": lambda: self._sources(SourceKind.TABLE, extended=node.extended),
            "QUERIES": lambda: self._queries(extended=node.extended),
            "TOPICS": lambda: self._topics(show_all=node.show_all, extended=node.extended),
            "FUNCTIONS": lambda: {"@type": "function_names", "functions": _function_names()},
            "PROPERTIES": lambda: self._properties(session),
            "VARIABLES": lambda: {"@type": "variables", "variables": _named(session.variables)},
            "TYPES": self._types,
        }
        if node.what not in answers:
            raise NotSupportedError(f"SHOW {node.what}")
        return answers[node.what]()

    def _types(self) -> Entity:
        return {
            "@type": "type_list",
            "types": {name: schema_of(type_) for name, type_ in self._engine.catalog.types.items()},
        }

    def _sources(self, kind: SourceKind, *, extended: bool) -> Entity:
        found = [source for source in self._engine.catalog.sources.values() if source.kind is kind]
        if extended:
            return self._descriptions(found)
        name = f"{kind.value.lower()}s"
        return {"@type": name, name: [_source_item(source) for source in found]}

    def _queries(self, *, extended: bool) -> Entity:
        running = list(self._engine.queries.values())
        if extended:
            return {
                "@type": "queryDescriptions",
                "queryDescriptions": [self._query_description(query) for query in running],
            }
        return {"@type": "queries", "queries": [_query_item(query.query, query.status.value) for query in running]}

    def _topics(self, *, show_all: bool, extended: bool) -> Entity:
        kafka = self._engine.resources.kafka
        names = [name for name in kafka.topics() if show_all or not _HIDDEN_TOPICS.match(name)]
        topics: list[Entity] = [
            {"name": state.name, "replicaInfo": [state.replication_factor] * state.partitions}
            for state in sorted(kafka.describe(names).values(), key=lambda state: state.name)
        ]
        if extended:
            topics = [{**topic, "consumerCount": 0, "consumerGroupCount": 0} for topic in topics]
        return {"@type": "kafka_topics_extended" if extended else "kafka_topics", "topics": topics}

    def _properties(self, session: RequestSession) -> Entity:
        server = self._engine.config.properties
        values = {name: property_.default for name, property_ in PROPERTIES.items()} | dict(server) | session.properties
        listed = [
            {"name": name, "scope": "KSQL", "value": value, "editable": True, "level": "QUERY"}
            for name, value in sorted(values.items())
        ]
        overwritten = sorted(name for name, value in session.properties.items() if server.get(name) != value)
        return {
            "@type": "properties",
            "properties": listed,
            "overwrittenProperties": overwritten,
            "defaultProperties": [],
        }

    # ------------------------------------------------------------------------------------------------ descriptions
    @_of.register(ast.DescribeSource)
    def _describe(self, node: ast.DescribeSource, text: str, session: RequestSession) -> Entity:
        source = self._engine.catalog.described(node.name)
        return {"@type": "sourceDescription", "sourceDescription": self._description(source, extended=node.extended)}

    @_of.register(ast.DescribeAll)
    def _describe_all(self, node: ast.DescribeAll, text: str, session: RequestSession) -> Entity:
        kind = SourceKind(node.what.removesuffix("S"))
        return self._descriptions(
            [source for source in self._engine.catalog.sources.values() if source.kind is kind], node.extended
        )

    def _descriptions(self, sources: Iterable[Source], extended: bool = True) -> Entity:
        found = [self._description(source, extended=extended) for source in sources]
        return {"@type": "source_descriptions", "sourceDescriptions": found}

    def _description(self, source: Source, *, extended: bool) -> Entity:
        catalog = self._engine.catalog
        topic = self._engine.resources.kafka.describe([source.topic]).get(source.topic)
        statistics, errors = self._statistics(source)
        return {
            "name": source.name,
            "windowType": source.key_window.kind.value if source.key_window else None,
            "readQueries": self._items(catalog.readers(source.name)),
            "writeQueries": self._items(catalog.writers(source.name)),
            "fields": _fields(source),
            "type": source.kind.value,
            "timestamp": source.timestamp_column or "",
            "statistics": _formatted(statistics, "last-message") if extended else "",
            "errorStats": _formatted(errors, "last-failed") if extended else "",
            "extended": extended,
            "keyFormat": source.key_format.name,
            "valueFormat": source.value_format.name,
            "topic": source.topic,
            "partitions": topic.partitions if topic else 0,
            "replication": topic.replication_factor if topic else 0,
            "statement": source.statement,
            "queryOffsetSummaries": self._offsets(source) if extended else [],
            "sourceConstraints": catalog.derived(source.name),
            "clusterStatistics": statistics,
            "clusterErrorStats": errors,
        }

    def _items(self, query_ids: Iterable[str]) -> list[Entity]:
        running = self._engine.queries
        return [
            _query_item(
                self._engine.catalog.queries[name], running[name].status.value if name in running else "RUNNING"
            )
            for name in query_ids
        ]

    def _statistics(self, source: Source) -> tuple[list[Entity], list[Entity]]:
        """Return what queries counted on a stream or table since its first record, in ksqlDB's names where it has them.

        Returns:
            what they did, and what failed; nothing before the first record.
        """
        readers = [query for query in self._engine.queries.values() if source.name in query.query.reads]
        writers = [query for query in self._engine.queries.values() if query.query.writes == source.name]
        drives = [query.metrics for query in readers if source_steps(query.query.plan.root)[0].source == source.name]
        makes = [query.metrics for query in writers]
        counted = drives or makes
        last = max((metrics.last_message_ms or 0 for metrics in counted), default=0)
        if not last:
            return [], []
        values: dict[str, float] = {}
        if makes:
            values["messages-per-sec"] = round(sum(metrics.produced_rate.value() for metrics in makes), 2)
            values["total-messages"] = sum(metrics.produced for metrics in makes)
        if drives:
            values["consumer-messages-per-sec"] = round(sum(metrics.consumed_rate.value() for metrics in drives), 2)
            values["consumer-total-messages"] = sum(metrics.consumed for metrics in drives)
        for name, pick in _LOSSES.items():
            values[name] = sum(pick(metrics) for metrics in counted)
        shown = [
            {"host": self._engine.config.address, "name": name, "value": value, "timestamp": last}
            for name, value in values.items()
        ]
        failed = [one for one in shown if one["name"] == "failed-messages"]
        return [one for one in shown if one not in failed], failed

    def _offsets(self, source: Source) -> list[Entity]:
        """Return how far the groups of the queries that write a stream or table are in what they read, as ksqlDB."""
        threads = [
            thread
            for running in self._engine.queries.values()
            if running.query.writes == source.name
            for thread in running.threads
        ]
        return [
            {"groupId": thread.group, "topicSummaries": self._topics_read(thread.group, thread.stage.driving_topics)}
            for thread in threads
        ]

    def _topics_read(self, group: str, topics: Iterable[str]) -> list[Entity]:
        """Return where a group is in topics; those of which it has committed nothing are left out."""
        found = []
        for topic in topics:
            positions = self._engine.resources.positions(topic, [group])[group]
            offsets = [
                {
                    "partition": partition,
                    "logStartOffset": at.first,
                    "logEndOffset": at.end,
                    "consumerOffset": at.committed,
                }
                for partition, at in positions.items()
            ]
            if any(at.committed for at in positions.values()):
                found.append({"kafkaTopic": topic, "offsets": offsets})
        return found

    @_of.register(ast.DescribeFunction)
    def _describe_function(self, node: ast.DescribeFunction, text: str, session: RequestSession) -> Entity:
        name = node.name.upper()
        function, aggregate = FUNCTIONS.get(name) or TABLE_FUNCTIONS.get(name), AGGREGATES.get(name)
        if function is None and aggregate is None:
            raise StatementError(f"Can't find any functions with the name '{node.name}'")
        if function is not None:
            shown = [
                {
                    "arguments": _arguments([str(parameter) for parameter in overload.parameters], overload.variadic),
                    "returnType": str(overload.returns) if isinstance(overload.returns, SqlType) else "",
                    "description": function.description,
                }
                for overload in function.overloads
            ]
            kind, description = "TABLE" if name in TABLE_FUNCTIONS else "SCALAR", function.description
        else:
            accepts = [" | ".join(types) if types else "ANY" for types in aggregate.accepts]  # type: ignore[union-attr]
            description = aggregate.description  # type: ignore[union-attr]
            shown = [{"arguments": _arguments(accepts), "returnType": "", "description": description}]
            kind = "AGGREGATE"
        return {
            "@type": "describe_function", "name": name, "description": description, "author": "ksqlengine", "version": "",
            "path": "internal", "functions": shown, "type": kind,
        }  # fmt: skip

    @_of.register(ast.Explain)
    def _explain(self, node: ast.Explain, text: str, session: RequestSession) -> Entity:
        if node.query_id is not None:
            query_id = self._engine.catalog.query(node.query_id).query_id
            return {
                "@type": "queryDescription",
                "queryDescription": self._query_description(self._engine.queries[query_id]),
            }
        analyzer = self._engine.analyzer(session.properties)
        inner = node.statement
        if isinstance(inner, ast.QueryStatement):
            found: TransientPlan | QueryPlan = analyzer.transient(inner.query, text)
        elif isinstance(inner, ast.CreateAsSelect):
            found = analyzer.create_as_select(inner, text, 0, session.properties)[1]
        elif isinstance(inner, ast.InsertInto):
            found = analyzer.insert_into(inner, text, 0, session.properties)
        else:
            raise StatementError("The provided statement does not run a ksql query")
        shown = explain(found) if isinstance(found, QueryPlan) else explain_step(found.root)
        description = {
            "id": "", "statementText": text, "windowType": None, "fields": fields_of(found.root.schema.columns),
            "sources": sorted({step.source for step in source_steps(found.root)}), "sinks": [], "topology": shown,
            "executionPlan": shown, "overriddenProperties": session.properties, "ksqlHostQueryStatus": {}, "queryType": "PUSH",
            "queryErrors": [], "tasksMetadata": [], "state": None,
        }  # fmt: skip
        return {"@type": "queryDescription", "queryDescription": description}

    def _query_description(self, running: RunningQuery) -> Entity:
        plan = running.query.plan
        status = running.status.value
        return {
            "id": plan.query_id,
            "statementText": plan.statement,
            "windowType": plan.key_window.kind.value if plan.key_window else None,
            "fields": fields_of(plan.root.schema.key, "KEY") + fields_of(plan.root.schema.value),
            "sources": sorted(running.query.reads),
            "sinks": [plan.sink],
            "topology": explain(plan),
            "executionPlan": explain(plan),
            "overriddenProperties": plan.properties,
            "ksqlHostQueryStatus": {self._engine.config.address: status},
            "queryType": "PERSISTENT",
            "queryErrors": [
                {"timestamp": round(time.time() * 1000), "errorMessage": message, "type": "UNKNOWN"}
                for message in running.errors
            ],
            "tasksMetadata": [],
            "state": status,
        }

    # ------------------------------------------------------------------------------------------------ assertions
    @_of.register(ast.AssertTopic)
    def _assert_topic(self, node: ast.AssertTopic, text: str, session: RequestSession) -> Entity:
        kafka = self._engine.resources.kafka
        problem = ""

        def holds() -> bool:
            nonlocal problem
            topic = kafka.describe([node.topic]).get(node.topic)
            if not node.exists:
                problem = f"Topic {node.topic} exists"
                return topic is None
            problem = f"Topic {node.topic} does not exist" if topic is None else _mismatches(topic, node.properties)
            return not problem

        _wait(holds, node.timeout_ms, lambda: problem)
        return {"@type": "assert_topic", "topicName": node.topic, "exists": node.exists}

    @_of.register(ast.AssertSchema)
    def _assert_schema(self, node: ast.AssertSchema, text: str, session: RequestSession) -> Entity:
        def there() -> bool:
            registry = self._engine.resources.registry
            try:
                if node.subject is not None:
                    found = registry.latest(node.subject)
                    return node.schema_id is None or found.schema_id == node.schema_id
                registry.schema(node.schema_id or 0)
            except NotRegisteredError:
                return False
            return True

        subject = "" if node.subject is None else f" subject name {node.subject}"
        number = "" if node.schema_id is None else f" id {node.schema_id}"
        sentence = f"Schema with{subject}{number} {'does not exist' if node.exists else 'exists'}"
        _wait(lambda: there() == node.exists, node.timeout_ms, lambda: sentence)
        return {"@type": "assert_schema", "subject": node.subject, "id": node.schema_id, "exists": node.exists}


def _wait(reached: Callable[[], bool], timeout_ms: int | None, sentence: Callable[[], str]) -> None:
    """Wait until an assertion holds.

    Raises:
        KsqlError: it doesn't in time.
    """
    seconds = timeout_ms / 1000 if timeout_ms is not None else _ASSERT_SECONDS
    wait_until(reached, seconds, _POLL_SECONDS, lambda: KsqlError(sentence(), ASSERTION_FAILED))


def _mismatches(topic: TopicState, expected: ast.Properties) -> str:
    """Return in what a topic differs from an assertion's WITH clause, a line for each difference."""
    actual = {"partitions": topic.partitions, "replicas": topic.replication_factor}
    lines = []
    for name, expression in expected:
        value = getattr(expression, "value", None)
        found = actual.get(name.lower())
        if found is None:
            lines.append(f"Cannot assert unknown topic property: {name}")
        elif value != found:
            lines.append(
                f"Mismatched configuration for topic {topic.name}: For config {name.lower()}, expected {value} got {found}"
            )
    return "\n".join(lines)


def current_status(text: str, command_id: str, message: str, query_id: str | None, number: int) -> Entity:
    """Return the answer to a statement that was carried out."""
    status = {"status": "SUCCESS", "message": message, "queryId": query_id}
    return {
        "@type": "currentStatus", "statementText": text, "commandId": command_id, "commandStatus": status,
        "commandSequenceNumber": number, "warnings": [],
    }  # fmt: skip


_NO_GRACE = (
    "DEPRECATION NOTICE: Stream-stream joins statements without a GRACE PERIOD will not be accepted in a future ksqlDB "
    "version.\nPlease use the GRACE PERIOD clause as specified in "
    "https://docs.ksqldb.io/en/latest/developer-guide/ksqldb-reference/select-push-query/"
)


def deprecations(node: ast.Statement, plan: QueryPlan | None) -> list[Entity]:
    """Return ksqlDB's notice where a statement joins streams without GRACE PERIOD; INSERT INTO gets none.

    Source: ksqlDB's ``DeprecatedStatementsChecker``.
    """
    if plan is None or not isinstance(node, ast.CreateAsSelect):
        return []
    joins = [step for step in walk(plan.root) if isinstance(step, StreamStreamJoinStep)]
    return [{"message": _NO_GRACE}] if any(join.grace_ms is None for join in joins) else []


_LOSSES: Mapping[str, Any] = {
    "failed-messages": lambda metrics: metrics.failed,
    "late-record-drop": lambda metrics: metrics.late,
    "windows-let-go": lambda metrics: metrics.let_go,
    "dropped-no-table-row": lambda metrics: metrics.without_table_row,
    "dropped-null-key": lambda metrics: metrics.without_key,
}


def _formatted(statistics: Sequence[Entity], last: str) -> str:
    """Return statistics as the one text that ksqlDB's command line shows."""
    if not statistics:
        return ""
    values = [(one["name"], one["value"]) for one in statistics]
    shown = (f"{name:>16}:{value:10.{0 if value == round(value) else 2}f} " for name, value in values)
    at = datetime.fromtimestamp(statistics[0]["timestamp"] / 1000, UTC).isoformat(timespec="milliseconds")
    return f"{''.join(shown)}{last:>16}: {at.replace('+00:00', 'Z')}"


def warning(statement: PreparedStatement) -> Entity:
    """Return the answer to a statement that did nothing, with the reason."""
    return {
        "@type": "warning_entity", "statementText": statement.text, "message": statement.warning, "warnings": [],
    }  # fmt: skip


def _named(values: Mapping[str, str]) -> list[Entity]:
    return [{"name": name, "value": value} for name, value in sorted(values.items())]


def _source_item(source: Source) -> Entity:
    return {
        "type": source.kind.value, "name": source.name, "topic": source.topic, "keyFormat": source.key_format.name,
        "valueFormat": source.value_format.name, "isWindowed": source.key_window is not None,
    }  # fmt: skip


def _query_item(query: PersistentQuery, status: str = "RUNNING") -> Entity:
    plan = query.plan
    return {
        "queryString": plan.statement, "sinks": [plan.sink], "sinkKafkaTopics": [plan.topic], "id": plan.query_id,
        "statusCount": {status: 1}, "queryType": "PERSISTENT", "state": status,
    }  # fmt: skip


def _function_names() -> list[Entity]:
    scalar = [
        {"name": function.name, "type": "SCALAR", "category": function.category} for function in FUNCTIONS.values()
    ]
    aggregates = [
        {"name": function.name, "type": "AGGREGATE", "category": "AGGREGATE"} for function in AGGREGATES.values()
    ]
    tables = [
        {"name": function.name, "type": "TABLE", "category": function.category} for function in TABLE_FUNCTIONS.values()
    ]
    return sorted(scalar + aggregates + tables, key=lambda item: item["name"])


def _fields(source: Source) -> list[Entity]:
    """Return a source's columns as ksqlDB's field entities: which are of the key, and which of headers."""
    headers = dict(source.headers)
    return fields_of(source.schema.key, "KEY") + [
        field
        for column in source.schema.value
        for field in fields_of([column], "HEADER" if column.name in headers else None)
    ]


def fields_of(columns: Iterable[Column], kind: str | None = None) -> list[Entity]:
    """Return columns as ksqlDB's field entities."""
    found = []
    for column in columns:
        entity = {"name": column.name, "schema": schema_of(column.type)}
        found.append({**entity, "type": kind} if kind else entity)
    return found


def schema_of(type_: SqlType) -> Entity:
    """Return a type as ksqlDB's schema entity."""
    if isinstance(type_, ArrayType):
        return {"type": "ARRAY", "fields": None, "memberSchema": schema_of(type_.element)}
    if isinstance(type_, MapType):
        return {"type": "MAP", "fields": None, "memberSchema": schema_of(type_.value)}
    if isinstance(type_, StructType):
        fields = [{"name": name, "schema": schema_of(inner)} for name, inner in type_.fields]
        return {"type": "STRUCT", "fields": fields, "memberSchema": None}
    if isinstance(type_, DecimalType):
        parameters = {"precision": type_.precision, "scale": type_.scale}
        return {"type": "DECIMAL", "parameters": parameters, "fields": None, "memberSchema": None}
    return {"type": type_.name, "fields": None, "memberSchema": None}


def _arguments(types: Sequence[str], variadic: bool = False) -> list[dict[str, Any]]:
    """Return a function's parameters as ksqlDB shows them; the last of a variadic function may come again."""
    last = len(types) - 1
    return [
        {"name": "", "type": type_, "description": "", "isVariadic": variadic and place == last}
        for place, type_ in enumerate(types)
    ]
