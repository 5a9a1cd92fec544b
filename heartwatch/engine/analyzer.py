"""Statements to plans: names resolved, types found, ksqlDB's rules checked, every default filled in.

`Analyzer` gives a `Source` for CREATE STREAM or TABLE, a `QueryPlan` for a persistent query, and a `TransientPlan` for a SELECT
by itself. It reads the catalog and the schema registry and changes nothing.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, fields, is_dataclass, replace
from typing import Any, Protocol, TypeVar, cast

from heartwatch.engine import syntax as ast
from heartwatch.engine.aggregates import AGGREGATES, check_call
from heartwatch.engine.avro import columns_of_avro
from heartwatch.engine.binder import Binder
from heartwatch.engine.casts import can_cast
from heartwatch.engine.catalog import Catalog, Source, already_exists
from heartwatch.engine.errors import NotSupportedError, Position, StatementError
from heartwatch.engine.expressions import Cast, Literal, TypedExpression, referenced_columns
from heartwatch.engine.expressions import Column as ColumnExpression
from heartwatch.engine.functions.registry import widening
from heartwatch.engine.plan import (
    PSEUDO_COLUMNS,
    ROWOFFSET,
    ROWPARTITION,
    ROWTIME,
    WINDOWEND,
    WINDOWSTART,
    AggregateCall,
    AggregateStep,
    Column,
    FilterStep,
    Format,
    JoinKind,
    ProjectStep,
    QueryPlan,
    RepartitionStep,
    Schema,
    SelectItem,
    SourceKind,
    SourceStep,
    Step,
    StreamTableJoinStep,
    Window,
    WindowKind,
)
from heartwatch.engine.properties import (
    Properties,
    check_key_columns,
    check_value_columns,
    create_as_properties,
    create_properties,
    insert_properties,
)
from heartwatch.engine.types import BIGINT, BOOLEAN, BYTES, INTEGER, NULL, STRING, ArrayType, SqlType, StructType

DEFAULT_GRACE_MS = 86_400_000  # of windows without GRACE PERIOD, as in Kafka Streams
WINDOW_BOUNDS = (WINDOWSTART, WINDOWEND)
PSEUDO_TYPES: Mapping[str, SqlType] = {ROWTIME: BIGINT, ROWPARTITION: INTEGER, ROWOFFSET: BIGINT}
SYSTEM_COLUMNS = (*PSEUDO_COLUMNS, *WINDOW_BOUNDS)
HEADERS_TYPE = ArrayType(element=StructType(fields=(("KEY", STRING), ("VALUE", BYTES))))

Node = TypeVar("Node")


class SchemaRegistry(Protocol):
    """What inference needs of the schema registry."""

    def latest(self, subject: str) -> tuple[int, str] | None:
        """Return (id, Avro schema as JSON) of a subject's latest version, None where there is none."""

    def schema(self, schema_id: int) -> str | None:
        """Return the Avro schema of an id as JSON, None where there is none."""


@dataclass(frozen=True)
class EngineDefaults:
    """Settings of the server that statements fall back on."""

    key_format: str = "KAFKA"
    value_format: str | None = None
    topic_prefix: str = ""


@dataclass(frozen=True)
class TransientPlan:
    """A SELECT by itself.

    Attributes:
        root: its last step; the schema's columns are all value columns, in the order of the select list.
        push: EMIT was given: rows come as they change. Otherwise it is a pull query: it answers from what is there.
        limit: LIMIT.
        emit_final: EMIT FINAL.
        source: the stream or table of a pull query.
        where: a pull query's condition over the source's columns, which also gives the keys to look up.
        statement: the statement's text.
    """

    root: Step
    push: bool
    limit: int | None
    emit_final: bool
    source: Source
    where: TypedExpression | None
    statement: str


def rewrite(node: Node, change: Callable[[Any], Any]) -> Node:
    """Return a syntax tree with `change` applied to each node from the bottom up."""
    if isinstance(node, tuple):
        return cast(Node, tuple(rewrite(part, change) for part in node))
    if not isinstance(node, ast.Node) or not is_dataclass(node):
        return node
    changed = {}
    for one in fields(node):
        value = getattr(node, one.name)
        new = rewrite(value, change)
        if new is not value:
            changed[one.name] = new
    return cast(Node, change(replace(node, **changed) if changed else node))


def nodes(node: Any) -> Iterable[ast.Node]:
    """Yield the nodes of a syntax tree, from the top."""
    if isinstance(node, tuple):
        for part in node:
            yield from nodes(part)
    elif isinstance(node, ast.Node):
        yield node
        for one in fields(node):
            yield from nodes(getattr(node, one.name))


def _located(position: Position) -> str:
    return f"Line: {position.line}, Col: {position.column}"


def _joined(words: Sequence[str], last: str = "and") -> str:
    return words[0] if len(words) == 1 else f"{', '.join(words[:-1])} {last} {words[-1]}"


# ---------------------------------------------------------------------------------------------------- names
@dataclass(frozen=True)
class AliasedSource:
    """A stream or table under its name in the query."""

    alias: str
    source: Source

    def types(self) -> dict[str, SqlType]:
        """Return the columns that can be named, pseudo columns included."""
        types = {column.name: column.type for column in self.source.schema.columns}
        types.update(PSEUDO_TYPES)
        if self.source.key_window is not None:
            types.update(dict.fromkeys(WINDOW_BOUNDS, BIGINT))
        return types


@dataclass(frozen=True)
class Scope:
    """The sources of a query; resolves references to the names of the frame's columns."""

    sources: tuple[AliasedSource, ...]

    @property
    def is_join(self) -> bool:
        """Whether columns carry their source's alias."""
        return len(self.sources) > 1

    def frame_name(self, alias: str, column: str) -> str:
        """Return a source's column's name in the frame."""
        if not self.is_join or column in (*PSEUDO_TYPES, *WINDOW_BOUNDS):
            return column
        return f"{alias}_{column}"

    def types(self) -> dict[str, SqlType]:
        """Return the frame's columns."""
        return {self.frame_name(one.alias, name): type_ for one in self.sources for name, type_ in one.types().items()}

    def sources_of(self, reference: ast.ColumnReference) -> list[AliasedSource]:
        """Return the sources that a reference may mean."""
        return [
            one
            for one in self.sources
            if (reference.qualifier is None or reference.qualifier == one.alias) and reference.name in one.types()
        ]

    def clashes(self, column: str) -> bool:
        """Return whether several sources have a column of this name."""
        return sum(column in one.types() for one in self.sources) > 1

    def resolve(self, expression: Node, clause: str, extra: Iterable[str] = ()) -> Node:
        """Return an expression whose column references are names of the frame.

        Args:
            expression: what to resolve.
            clause: where it stands, for messages.
            extra: further names that are known (window bounds, the key of a join).

        Raises:
            StatementError: a column is unknown or ambiguous.
        """
        known = set(extra)

        def change(node: Any) -> Any:
            if not isinstance(node, ast.ColumnReference):
                return node
            if node.name in known and node.qualifier is None and not self.sources_of(node):
                return node
            return self._resolved(node, clause)

        return _outside_lambdas(expression, change)

    def _resolved(self, node: ast.ColumnReference, clause: str) -> ast.ColumnReference:
        if node.qualifier is not None and all(node.qualifier != one.alias for one in self.sources):
            raise StatementError(f"'{node.qualifier}' is not a valid stream/table name or alias.")
        found = self.sources_of(node)
        if not found:
            raise StatementError(f"{_located(node.position)}: {clause} column '{node}' cannot be resolved.")
        if len(found) > 1:
            options = ", ".join(sorted(f"{one.alias}.{node.name}" for one in found))
            raise StatementError(
                f"{_located(node.position)}: Column '{node.name}' is ambiguous. Could be any of: {options}"
            )
        only = found[0]
        if self.is_join and node.name in PSEUDO_TYPES and only is not self.sources[0]:
            raise NotSupportedError(f"{node}, a pseudo column of a join's right side, is")
        return ast.ColumnReference(self.frame_name(only.alias, node.name), position=node.position)


def _outside_lambdas(expression: Node, change: Callable[[Any], Any]) -> Node:
    """Apply `change` to column references that aren't lambda parameters."""

    def protected(node: Any, names: frozenset[str]) -> Any:
        if isinstance(node, tuple):
            return tuple(protected(part, names) for part in node)
        if isinstance(node, ast.Lambda):
            return replace(node, body=protected(node.body, names | frozenset(node.parameters)))
        if isinstance(node, ast.ColumnReference):
            return node if node.qualifier is None and node.name in names else change(node)
        if not isinstance(node, ast.Node):
            return node
        parts = {one.name: protected(getattr(node, one.name), names) for one in fields(node) if one.name != "position"}
        return replace(node, **parts)

    return cast(Node, protected(expression, frozenset()))


class AliasGenerator:
    """Names select items that have none: KSQL_COL_0, …, or the field's name for ``x->field``."""

    def __init__(self, taken: Iterable[str]) -> None:
        self._taken = set(taken)

    def name(self, expression: ast.SyntaxExpression) -> str:
        """Return a name for an expression."""
        if isinstance(expression, ast.Dereference):
            return self._unused(expression.field_name, bare=True)
        return self._unused("KSQL_COL", bare=False)

    def _unused(self, base: str, *, bare: bool) -> str:
        candidates = [base] if bare else []
        number = 1 if bare else 0
        while not candidates or candidates[-1] in self._taken:
            candidates.append(f"{base}_{number}")
            number += 1
        self._taken.add(candidates[-1])
        return candidates[-1]


@dataclass(frozen=True)
class Item:
    """A select item: its name in the result and its expression over the frame's names."""

    name: str
    expression: ast.SyntaxExpression


# ---------------------------------------------------------------------------------------------------- analyzer
@dataclass(frozen=True)
class Sink:
    """What a persistent query writes into."""

    name: str
    kind: SourceKind | None
    properties: Properties
    existing: Source | None = None


@dataclass
class Analyzer:
    """Analyses statements against a catalog."""

    catalog: Catalog
    registry: SchemaRegistry | None = None
    defaults: EngineDefaults = field(default_factory=EngineDefaults)

    # ------------------------------------------------------------------ CREATE STREAM, CREATE TABLE
    def create_source(self, statement: ast.CreateSource, text: str) -> Source:
        """Return the stream or table that a CREATE without query describes.

        Raises:
            StatementError: the statement is not right.
        """
        kind = SourceKind(statement.kind)
        existing = self.catalog.sources.get(statement.name)
        if existing is not None and not statement.or_replace and not statement.if_not_exists:
            raise already_exists(kind, existing)
        if statement.or_replace and (statement.read_only or (existing is not None and existing.read_only)):
            raise StatementError(
                f"Cannot add {kind.value.lower()} '{statement.name}': CREATE OR REPLACE is not supported on source "
                f"{kind.value.lower()}s."
            )
        properties = create_properties(statement.properties)
        key_format, value_format = self._formats(properties, statement.name)
        schema, headers = self._declared(statement, kind, properties, key_format, value_format)
        check_key_columns(schema.key, key_format)
        values = tuple(column for column in schema.value if column.name not in dict(headers))
        check_value_columns(values, value_format)
        return Source(
            statement.name,
            kind,
            schema,
            properties.get("KAFKA_TOPIC"),
            key_format,
            value_format,
            properties.window(),
            properties.timestamp_column(schema),
            properties.get("TIMESTAMP_FORMAT"),
            headers,
            statement.read_only,
            text,
        )

    def _formats(self, properties: Properties, name: str) -> tuple[Format, Format]:
        value_name = properties.value_format_name() or self.defaults.value_format
        if value_name is None:
            raise StatementError(
                "Statement is missing the 'VALUE_FORMAT' property from the WITH clause. Either provide one or set a default "
                "via the 'ksql.persistence.default.format.value' config."
            )
        key_name = properties.key_format_name() or self.defaults.key_format
        return properties.key_format(key_name, name), properties.value_format(value_name)

    def _declared(
        self,
        statement: ast.CreateSource,
        kind: SourceKind,
        properties: Properties,
        key_format: Format,
        value_format: Format,
    ) -> tuple[Schema, tuple[tuple[str, str | None], ...]]:
        headers: list[tuple[str, str | None]] = []
        keys: list[Column] = []
        values: list[Column] = []
        for definition in statement.columns:
            column = self._defined_column(definition, kind)
            if definition.constraint in ("KEY", "PRIMARY KEY"):
                keys.append(column)
                continue
            values.append(column)
            if definition.constraint in ("HEADERS", "HEADER"):
                headers.append((column.name, definition.header))
        keys = keys or self._inferred(properties, key_format, "key")
        if len(values) == len(headers):
            values = self._inferred(properties, value_format, "value", {column.name for column in keys}) + values
        schema = Schema(tuple(keys), tuple(values))
        _check_names(schema)
        if not schema.columns or len(values) == len(headers):
            raise StatementError("The statement does not define any columns.")
        if kind is SourceKind.TABLE and not keys:
            raise StatementError(
                "Tables require a PRIMARY KEY. Please define the PRIMARY KEY."
                if statement.columns
                else "Tables require a PRIMARY KEY. Please define the PRIMARY KEY.\n"
                "Use a partial schema to define the primary key and still load the value columns from the Schema Registry, "
                f"for example:\n\tCREATE TABLE {statement.name} (ID INT PRIMARY KEY) WITH (...);"
            )
        return schema, tuple(headers)

    def _defined_column(self, definition: ast.ColumnDefinition, kind: SourceKind) -> Column:
        name = definition.name
        if name in SYSTEM_COLUMNS:
            raise StatementError(f"'{name}' is a reserved column name. You cannot use it as a name for a column.")
        type_ = self.catalog.resolve_type(definition.type)
        at = f"Line: {definition.position.line}, Col: {definition.position.column}: "
        if definition.constraint == "KEY" and kind is SourceKind.TABLE:
            raise StatementError(
                f"{at}Column `{name}` is a 'KEY' column: please use 'PRIMARY KEY' for tables.\n"
                "Tables have PRIMARY KEYs, which are unique and NON NULL.\nStreams have KEYs, which have no uniqueness or "
                "NON NULL constraints."
            )
        if definition.constraint == "PRIMARY KEY" and kind is SourceKind.STREAM:
            raise StatementError(
                f"{at}Column `{name}` is a 'PRIMARY KEY' column: please use 'KEY' for streams.\n"
                "Tables have PRIMARY KEYs, which are unique and NON NULL.\nStreams have KEYs, which have no uniqueness or "
                "NON NULL constraints."
            )
        if definition.constraint == "HEADERS" and type_ != HEADERS_TYPE:
            raise StatementError(
                f"Invalid type for HEADERS column: expected ARRAY<STRUCT<`KEY` STRING, `VALUE` BYTES>>, got {type_}"
            )
        if definition.constraint == "HEADER" and type_ != BYTES:
            raise StatementError(f"Invalid type for HEADER('{definition.header}') column: expected BYTES, got {type_}")
        return Column(name, type_)

    def _inferred(self, properties: Properties, format_: Format, side: str, keys: Iterable[str] = ()) -> list[Column]:
        """Return columns of the registry's schema; none where the format has no schemas or the key has none."""
        if format_.name != "AVRO" or self.registry is None:
            return []
        subject = f"{properties.get('KAFKA_TOPIC')}-{side}"
        if format_.schema_id is not None:
            schema = self.registry.schema(format_.schema_id)
            if schema is None:
                raise StatementError(
                    f"Schema for message {side} with schema id: {format_.schema_id} does not exist in Schema Registry."
                )
        else:
            found = self.registry.latest(subject)
            if found is None:
                if side == "key":
                    return []
                raise StatementError(
                    f"Schema for message {side}s on topic '{properties.get('KAFKA_TOPIC')}' does not exist in the Schema "
                    f"Registry.\nSubject: {subject}\nPossible causes include:\n- The topic itself does not exist\n"
                    f"- Messages on the topic are not AVRO serialized\n- The subject {subject} was never registered"
                )
            schema = found[1]
        columns = columns_of_avro(schema, key=side == "key", uppercase=format_.schema_id is None)
        return [column for column in columns if column.name not in set(keys)]

    # ------------------------------------------------------------------ persistent queries
    def create_as_select(
        self, statement: ast.CreateAsSelect, text: str, number: int, settings: Mapping[str, str] | None = None
    ) -> tuple[Source, QueryPlan]:
        """Return the stream or table that CREATE … AS SELECT makes, and its query.

        Args:
            statement: the statement.
            text: its text, variables replaced.
            number: makes the query's id unique.
            settings: properties of the session that hold for the query.

        Raises:
            StatementError: the statement is not right.
        """
        kind = SourceKind(statement.kind)
        existing = self.catalog.sources.get(statement.name)
        if existing is not None and not statement.or_replace and not statement.if_not_exists:
            raise already_exists(kind, existing)
        sink = Sink(statement.name, kind, create_as_properties(statement.properties))
        prefix = "CSAS" if kind is SourceKind.STREAM else "CTAS"
        query_id = f"{prefix}_{statement.name}_{number}"
        if existing is not None and statement.or_replace and existing.query_id is not None:
            query_id = existing.query_id
        return _Persistent(self, statement.query, sink, query_id, text, dict(settings or {})).plan()

    def insert_into(
        self, statement: ast.InsertInto, text: str, number: int, settings: Mapping[str, str] | None = None
    ) -> QueryPlan:
        """Return the query of INSERT INTO … SELECT.

        Raises:
            StatementError: the statement is not right.
        """
        target = self.catalog.source(statement.target)
        if target.kind is not SourceKind.STREAM:
            raise StatementError(f"INSERT INTO can only be used to insert into a stream. {target.name} is a table.")
        if target.headers:
            raise StatementError(f"Cannot insert into {target.name} because it has header columns")
        if target.read_only:
            raise StatementError(f"Cannot insert into read-only stream: {target.name}")
        properties = insert_properties(statement.properties)
        query_id = properties.get("QUERY_ID") or f"INSERTQUERY_{number}"
        if query_id.upper() in self.catalog.queries:
            raise StatementError(f"Query ID '{query_id.upper()}' already exists.")
        sink = Sink(target.name, None, properties, target)
        persistent = _Persistent(self, statement.query, sink, query_id.upper(), text, dict(settings or {}))
        return persistent.plan()[1]

    # ------------------------------------------------------------------ SELECT by itself
    def transient(self, query: ast.Query, text: str) -> TransientPlan:
        """Return the plan of a pull or push query.

        Raises:
            StatementError: the query is not right.
        """
        return _Transient(self, query, text).plan()

    # ------------------------------------------------------------------ INSERT VALUES
    def insert_values(self, statement: ast.InsertValues) -> tuple[Source, dict[str, TypedExpression]]:
        """Return the target of INSERT VALUES, and an expression without columns for each column given (ROWTIME too).

        Raises:
            StatementError: the statement is not right.
        """
        target = self.catalog.source(statement.target)
        if target.read_only:
            raise StatementError(f"Cannot insert values into read-only {target.kind.value.lower()}: {target.name}")
        if target.key_window is not None:
            raise StatementError("Cannot insert values into windowed stream/table!")
        if target.headers:
            raise StatementError(f"Cannot insert into {target.name} because it has header columns")
        return target, self._row(statement, target)

    def assert_values(self, statement: ast.AssertValues) -> tuple[Source, dict[str, TypedExpression]]:
        """Return the stream or table of ASSERT VALUES (or ASSERT NULL VALUES), and what its next row must hold.

        Raises:
            StatementError: the statement is not right.
        """
        target = self.catalog.source(statement.values.target)
        return target, self._row(statement.values, target, keys_only=statement.tombstone)

    def _row(
        self, statement: ast.InsertValues, target: Source, *, keys_only: bool = False
    ) -> dict[str, TypedExpression]:
        types = {column.name: column.type for column in (target.schema.key if keys_only else target.schema.columns)}
        allowed = {**types, ROWTIME: BIGINT}
        if target.key_window is not None:
            allowed.update(dict.fromkeys(WINDOW_BOUNDS, BIGINT))
        names = statement.columns or tuple(types)
        if len(names) != len(statement.values):
            raise StatementError(
                f"Failed to prepare statement: Expected a value for each column. Expected Columns: {list(names)}. "
                f"Got {len(statement.values)} values."
            )
        unknown = next((name for name in names if name not in allowed), None)
        if unknown is not None:
            raise StatementError(f"Column name {unknown} does not exist.")
        if target.kind is SourceKind.TABLE:
            missing = next((column.name for column in target.schema.key if column.name not in names), None)
            if missing is not None:
                raise StatementError(f"Value for primary key column(s) {missing} is required for tables")
        binder = Binder({})
        return {
            name: _inserted(name, binder.bind(value), allowed[name])
            for name, value in zip(names, statement.values, strict=True)
        }


def _check_names(schema: Schema) -> None:
    names = [column.name for column in schema.columns]
    repeated = next((name for name in names if names.count(name) > 1), None)
    if repeated is not None:
        raise StatementError(f"Duplicate column names: {repeated}")


def _inserted(name: str, value: TypedExpression, type_: SqlType) -> TypedExpression:
    """Return a value of INSERT VALUES in its column's type; numbers and texts convert where nothing is lost."""
    if value.type == type_:
        return value
    if isinstance(value, Literal) and value.type == NULL:
        return Literal(type_, None, text=value.text)
    lossless = widening(value.type, type_) is not None or (value.type == STRING and type_.name in _FROM_TEXT)
    same_kind = value.type.name == type_.name and can_cast(value.type, type_)
    if not lossless and not same_kind:
        raise StatementError(f"Expected type {type_} for field `{name}` but got {value}({value.type})")
    return Cast(type_, value, text=value.text)


_FROM_TEXT = ("INTEGER", "BIGINT", "DOUBLE", "DECIMAL", "BOOLEAN", "TIMESTAMP", "DATE", "TIME")


# ---------------------------------------------------------------------------------------------------- queries
class _QueryAnalysis:
    """What all queries share: sources, joins, filters, projections, aggregates."""

    persistent = True

    def __init__(self, analyzer: Analyzer, query: ast.Query) -> None:
        self.analyzer = analyzer
        self.catalog = analyzer.catalog
        self.query = query
        self.scope = self._sources()
        self.first = self.scope.sources[0].source
        self.windowed_source = self.first.key_window is not None
        taken = {name for one in self.scope.sources for name in one.types()}
        self.aliases = AliasGenerator(taken)
        self.key_choices: tuple[str, ...] = ()  # frame names of which one must be selected: the join's keys
        self.synthetic_key: str | None = None
        self._check_aggregates_without_group()
        if query.group_by is not None and query.partition_by is not None:
            raise StatementError("PARTITION BY and GROUP BY can't be used together.")

    def _sources(self) -> Scope:
        relations = [self.query.source, *(join.relation for join in self.query.joins)]
        found: list[AliasedSource] = []
        for relation in relations:
            source = self.catalog.source(relation.name)
            if any(one.source.name == source.name for one in found):
                first = found[0].source.name
                raise StatementError(
                    f"N-way joins do not support multiple occurrences of the same source. Source: '{source.name}'."
                    if len(found) > 1
                    else f"Can not join '{source.name}' to '{first}': self joins are not yet supported."
                )
            found.append(AliasedSource(relation.alias, source))
        if len(found) > 1:
            self._check_value_formats(found, "JOIN")
        elif self.query.group_by is not None:
            self._check_value_formats(found, "GROUP BY")
        return Scope(tuple(found))

    @staticmethod
    def _check_value_formats(sources: list[AliasedSource], clause: str) -> None:
        plain = ", ".join(one.alias for one in sources if one.source.value_format.name == "KAFKA")
        if plain:
            raise StatementError(
                f"Source(s) {plain} are using the 'KAFKA' value format. This format does not yet support {clause}."
            )

    def _check_aggregates_without_group(self) -> None:
        if self.query.group_by is not None:
            return
        for item in self.query.select:
            for node in nodes(item):
                if isinstance(node, ast.FunctionCall) and node.name in AGGREGATES:
                    raise StatementError(
                        f"CREATE TABLE AS SELECT statement does not support aggregate function [{node}] without a GROUP BY clause."
                        if self.persistent
                        else f"Aggregate function {node} needs a GROUP BY clause."
                    )

    # ------------------------------------------------------------------ sources and joins
    def build_source(self) -> Step:
        """Return the step that gives the query's rows before WHERE."""
        if not self.scope.is_join:
            return self._source_step(self.scope.sources[0])
        step = self._source_step(self.scope.sources[0])
        joined = [self.scope.sources[0]]
        equal: list[frozenset[str]] = []
        for join, right in zip(self.query.joins, self.scope.sources[1:], strict=True):
            step, equal = self._join(step, joined, join, right, equal)
            joined.append(right)
        return step

    def _source_step(self, one: AliasedSource) -> SourceStep:
        source, alias = one.source, one.alias if self.scope.is_join else None

        def named(columns: tuple[Column, ...]) -> tuple[Column, ...]:
            return tuple(Column(self.scope.frame_name(one.alias, column.name), column.type) for column in columns)

        schema = Schema(named(source.schema.key), named(source.schema.value))
        headers = tuple((self.scope.frame_name(one.alias, name), key) for name, key in source.headers)
        timestamp = source.timestamp_column
        if timestamp is not None:
            timestamp = self.scope.frame_name(one.alias, timestamp)
        return SourceStep(
            schema, source.name, source.kind, source.topic, source.key_format, source.value_format, timestamp,
            source.timestamp_format, source.key_window, alias, headers,
        )  # fmt: skip

    def _join(
        self,
        step: Step,
        joined: list[AliasedSource],
        join: ast.JoinedRelation,
        right: AliasedSource,
        equal: list[frozenset[str]],
    ) -> tuple[Step, list[frozenset[str]]]:
        left_expression, right_expression, left = self._criteria(join, joined, right)
        self._check_windowing(left.source, right.source, left.alias, right.alias)
        if right.source.kind is SourceKind.STREAM:
            kinds = "stream-stream" if self.first.kind is SourceKind.STREAM else "table-stream"
            if kinds == "table-stream":
                raise StatementError(
                    "Invalid join order: table-stream joins are not supported; only stream-table joins. "
                    f"Got {left.source.name} {_JOIN_NAMES[join.kind]} {right.source.name}."
                )
            if join.before_ms is None:
                raise StatementError("Stream-Stream joins must have a WITHIN clause specified. None was provided.")
            raise NotSupportedError("A stream-stream join is")
        if self.first.kind is SourceKind.TABLE:
            raise NotSupportedError("A table-table join is")
        self._check_table_join(join, left, right, left_expression, right_expression)
        return self._stream_table_join(step, join, right, left_expression, right_expression, equal)

    def _criteria(
        self, join: ast.JoinedRelation, joined: list[AliasedSource], right: AliasedSource
    ) -> tuple[ast.SyntaxExpression, ast.SyntaxExpression, AliasedSource]:
        criteria = join.criteria
        if isinstance(criteria, ast.Logical):
            raise StatementError(
                f"Invalid join condition: joins on multiple conditions are not yet supported. Got {criteria}."
            )
        if not isinstance(criteria, ast.Comparison):
            raise StatementError(f"Unsupported join expression: {criteria}")
        if criteria.operator != "=":
            raise StatementError("Only equality join criteria is supported.")
        scope = Scope((*joined, right))
        sides = []
        for side in (criteria.left, criteria.right):
            scope.resolve(side, "JOIN ON")
            used = {
                one.alias: one
                for node in nodes(side)
                if isinstance(node, ast.ColumnReference)
                for one in scope.sources_of(node)
            }
            if len(used) != 1:
                raise StatementError(
                    f"Invalid comparison expression '{side}' in join '{criteria}'. Each side of the join comparision must "
                    "contain references from exactly one source."
                )
            sides.append((side, next(iter(used.values()))))
        (first, first_source), (second, second_source) = sides
        if first_source is second_source:
            raise StatementError(
                "Each side of the join must reference exactly one source and not the same source. "
                f"Left side references `{first_source.alias}` and right references `{second_source.alias}`"
            )
        if second_source is right:
            return first, second, first_source
        if first_source is right:
            return second, first, second_source
        raise StatementError(
            f"A join criteria is expected to reference the source (`{right.alias}`) in the FROM clause, instead the right "
            f"source references `{second_source.alias}` and the left source references `{first_source.alias}`"
        )

    @staticmethod
    def _check_windowing(left: Source, right: Source, left_alias: str, right_alias: str) -> None:
        if (left.key_window is None) != (right.key_window is None):
            shown = [
                f"`{alias}` is {one.key_window.kind.value if one.key_window else 'not'} windowed"
                for alias, one in ((left_alias, left), (right_alias, right))
            ]
            raise StatementError("Can not join windowed source to non-windowed source.\n" + "\n".join(shown))
        if left.key_window is not None:
            raise NotSupportedError("A join of windowed sources is")

    def _check_table_join(
        self, join: ast.JoinedRelation, left: AliasedSource, right: AliasedSource,
        left_expression: ast.SyntaxExpression, right_expression: ast.SyntaxExpression,
    ) -> None:  # fmt: skip
        if join.kind == "OUTER":
            raise StatementError(
                "Invalid join type: full-outer join not supported for stream-table join. "
                f"Got {left.source.name} {_JOIN_NAMES[join.kind]} {right.source.name}."
            )
        if join.kind == "RIGHT":
            raise StatementError(
                "Invalid join type: right-outer join not supported for stream-table join. "
                f"Got {left.source.name} {_JOIN_NAMES[join.kind]} {right.source.name}."
            )
        if join.before_ms is not None:
            raise StatementError(
                "A window definition was provided for a Stream-Table join. These joins are not windowed. "
                "Please drop the window definition (i.e. the WITHIN clause) and try to execute your join again."
            )
        keys = [column.name for column in right.source.schema.key]
        named = right_expression.name if isinstance(right_expression, ast.ColumnReference) else None
        if len(keys) != 1 or named != keys[0]:
            criteria = cast(ast.Comparison, join.criteria)
            raise StatementError(
                "Invalid join condition: stream-table joins require to join on the table's primary key. "
                f"Got {criteria.left} = {criteria.right}."
            )

    def _stream_table_join(
        self, step: Step, join: ast.JoinedRelation, right: AliasedSource,
        left_expression: ast.SyntaxExpression, right_expression: ast.SyntaxExpression, equal: list[frozenset[str]],
    ) -> tuple[Step, list[frozenset[str]]]:  # fmt: skip
        table = self._source_step(right)
        left_bound = self._bind(self.scope.resolve(left_expression, "JOIN ON"), step)
        right_key = table.schema.key[0]
        if left_bound.type != right_key.type:
            criteria = cast(ast.Comparison, join.criteria)
            raise StatementError(
                f"Invalid join condition: types don't match. Got {criteria.left}{{{left_bound.type}}} = "
                f"{criteria.right}{{{right_key.type}}}."
            )
        left_name = left_bound.name if isinstance(left_bound, ColumnExpression) else None
        same = next((names for names in equal if left_name in names), frozenset({left_name} if left_name else ()))
        current = {column.name for column in step.schema.key}
        if not (len(current) == 1 and current <= (same or {left_name})):
            step = self._rekeyed_for_join(step, left_bound, table)
            left_name = step.schema.key[0].name
        new_same = frozenset({*same, right_key.name, left_name}) if left_name else frozenset({right_key.name})
        equal = [*(names for names in equal if left_name not in names), new_same]
        key_name = step.schema.key[0]
        schema = Schema((key_name,), (*step.schema.value, *table.schema.columns))
        kind = JoinKind.LEFT if join.kind == "LEFT" else JoinKind.INNER
        synthetic = left_bound if not isinstance(left_bound, ColumnExpression) else None
        self.synthetic_key = key_name.name if synthetic is not None and join.kind == "LEFT" else None
        viable = [name for name in (left_name, right_key.name) if name and name != self.synthetic_key]
        if synthetic is not None:
            viable = [right_key.name] if join.kind != "LEFT" else []
        elif join.kind == "LEFT":
            viable = [cast(str, left_name)]
        self.key_choices = tuple(dict.fromkeys([*viable, *(name for name in same if name and join.kind != "LEFT")]))
        joined = StreamTableJoinStep(schema, step, table, kind, key_name.name, right_key.name)
        return joined, equal

    def _rekeyed_for_join(self, step: Step, key: TypedExpression, table: SourceStep) -> Step:
        name = (
            key.name
            if isinstance(key, ColumnExpression)
            else AliasGenerator(self.scope.types())._unused("KSQL_COL", bare=False)
        )
        values = tuple(column for column in step.schema.columns if column.name != name)
        suffix = "Join-left-repartition" if not isinstance(step, StreamTableJoinStep) else "L_Join-left-repartition"
        key_format = table.key_format
        return RepartitionStep(
            Schema((Column(name, key.type),), values),
            step,
            (SelectItem(name, key),),
            suffix,
            key_format,
            self._internal_value_format(),
        )

    def _internal_value_format(self) -> Format:
        """Return the format of a repartition topic's values: the first source's."""
        return Format(self.first.value_format.name, delimiter=self.first.value_format.delimiter)

    # ------------------------------------------------------------------ expressions
    def frame_types(self, step: Step) -> dict[str, SqlType]:
        """Return what expressions over a step may name."""
        types = {column.name: column.type for column in step.schema.columns}
        types.update(PSEUDO_TYPES)
        if self.windowed_source:
            types.update(dict.fromkeys(WINDOW_BOUNDS, BIGINT))
        return types

    def _bind(self, node: ast.SyntaxExpression, step: Step) -> TypedExpression:
        return Binder(self.frame_types(step)).bind(self._with_types(node))

    def _with_types(self, node: Node) -> Node:
        """Return an expression whose CASTs have the types that CREATE TYPE names stand for."""

        def change(one: Any) -> Any:
            return replace(one, type=self.catalog.resolve_type(one.type)) if isinstance(one, ast.Cast) else one

        return rewrite(node, change)

    def filtered(self, step: Step, condition: ast.SyntaxExpression | None) -> Step:
        """Return the step with WHERE applied."""
        if condition is None:
            return step
        resolved = self.scope.resolve(condition, "WHERE")
        return FilterStep(step.schema, step, self._predicate(resolved, "WHERE", Binder(self.frame_types(step))))

    def _predicate(self, node: ast.SyntaxExpression, clause: str, binder: Binder) -> TypedExpression:
        try:
            bound = binder.bind(self._with_types(node))
        except StatementError as error:
            raise StatementError(f"Error in {clause} expression: {error.message}") from error
        if bound.type != BOOLEAN:
            raise StatementError(
                f"Type error in {clause} expression: Should evaluate to boolean but is {bound} ({bound.type}) instead."
            )
        return bound

    # ------------------------------------------------------------------ select list
    def items(self, step: Step, extra: Iterable[str] = ()) -> list[Item]:
        """Return the select list over the frame's names, stars spelled out.

        Args:
            step: what the query selects from.
            extra: further names that may be selected.
        """
        found: list[Item] = []
        for item in self.query.select:
            if isinstance(item, ast.SelectAll):
                found += [Item(name, ast.ColumnReference(name)) for name in self._star(item, step)]
            elif isinstance(item, ast.SelectStructAll):
                found += self._struct_star(item, step)
            else:
                found.append(self._item(item, extra))
        names = [item.name for item in found]
        repeated = sorted({name for name in names if names.count(name) > 1})
        if repeated:
            raise StatementError(
                f"The projection contains a column more than once: {_joined([f'`{name}`' for name in repeated])}."
            )
        return found

    def _item(self, item: ast.SelectColumn, extra: Iterable[str]) -> Item:
        resolved = self.scope.resolve(item.expression, "SELECT", extra)
        reference = item.expression
        if item.alias is not None:
            name = item.alias
        elif isinstance(reference, ast.ColumnReference):
            name = reference.name
            sources = self.scope.sources_of(reference)
            if sources and self.scope.clashes(name):
                name = self.scope.frame_name(sources[0].alias, name)
        else:
            name = self.aliases.name(reference)
        self._check_reserved(name, item)
        return Item(name, resolved)

    def _check_reserved(self, name: str, item: ast.SelectColumn) -> None:
        if name.upper() not in SYSTEM_COLUMNS:
            return
        same = isinstance(item.expression, ast.ColumnReference) and item.expression.name == name.upper()
        if not same:
            raise StatementError(
                f"`{name.upper()}` is a reserved column name. You cannot use it as an alias for a column."
            )
        if self.persistent and name.upper() not in WINDOW_BOUNDS:
            raise StatementError(
                f"Reserved column name in select: `{name.upper()}`. Please remove or alias the column."
            )

    def _star(self, item: ast.SelectAll, step: Step) -> list[str]:
        if item.qualifier is not None and all(item.qualifier != one.alias for one in self.scope.sources):
            raise StatementError(f"'{item.qualifier}' is not a valid stream/table name or alias.")
        if not self.scope.is_join:
            bounds = list(WINDOW_BOUNDS) if self.windowed_source and not self.persistent else []
            return [
                *(column.name for column in step.schema.key),
                *bounds,
                *(column.name for column in step.schema.value),
            ]
        names = [
            self.scope.frame_name(one.alias, column.name)
            for one in self.scope.sources
            if item.qualifier in (None, one.alias)
            for column in one.source.schema.columns
        ]
        synthetic = [self.synthetic_key] if self.synthetic_key and item.qualifier is None else []
        return [*synthetic, *names]

    def _struct_star(self, item: ast.SelectStructAll, step: Step) -> list[Item]:
        base = self.scope.resolve(item.base, "SELECT")
        type_ = self._bind(base, step).type
        if not isinstance(type_, StructType):
            raise StatementError(f"Cannot use '->*' on {item.base}: it is not a STRUCT but {type_}")
        return [Item(name, ast.Dereference(base, name)) for name, _ in type_.fields]

    # ------------------------------------------------------------------ aggregates
    def window(self) -> Window | None:
        """Return the WINDOW clause with its defaults."""
        clause = self.query.window
        if clause is None:
            return None
        kind = WindowKind(clause.kind)
        advance = clause.advance_ms if clause.advance_ms is not None else clause.size_ms
        if clause.size_ms <= 0:
            raise StatementError(f"{_located(clause.position)}: window size must be larger than zero.")
        if kind is WindowKind.HOPPING and not 0 < advance <= clause.size_ms:
            raise StatementError(
                f"Window advancement interval should be more than zero and less than window duration. Got {advance} ms."
            )
        grace = clause.grace_ms if clause.grace_ms is not None else DEFAULT_GRACE_MS
        if clause.retention_ms is not None and clause.retention_ms < clause.size_ms + (clause.grace_ms or 0):
            raise StatementError("The window's RETENTION must be at least its size plus the grace period.")
        return Window(kind, clause.size_ms, advance, grace, clause.retention_ms)

    def aggregated(self, step: Step, group_by: tuple[ast.SyntaxExpression, ...]) -> _Aggregated:
        """Return the aggregate of GROUP BY over a step."""
        return _Aggregation(self, step, group_by).build()


_JOIN_NAMES = {
    "INNER": "[INNER] JOIN", "LEFT": "LEFT [OUTER] JOIN", "RIGHT": "RIGHT [OUTER] JOIN", "OUTER": "[FULL] OUTER JOIN",
}  # fmt: skip


@dataclass(frozen=True)
class _Aggregated:
    """An aggregate: its step (HAVING applied), the select items over it, and which of them are keys."""

    step: Step
    items: tuple[SelectItem, ...]
    keys: tuple[SelectItem, ...]
    window: Window | None


class _Aggregation:
    """Builds GROUP BY: repartitioning where the key changes, the aggregate, HAVING, and the select list over it."""

    def __init__(self, analysis: _QueryAnalysis, step: Step, group_by: tuple[ast.SyntaxExpression, ...]) -> None:
        self.analysis = analysis
        self.step = step
        self.window = analysis.window()
        self.group_by = tuple(self._grouping(one) for one in group_by)
        if not self.group_by:
            raise StatementError("GROUP BY needs at least one expression.")
        if len(set(self.group_by)) < len(self.group_by):
            raise StatementError("Duplicate expressions in GROUP BY clause.")
        # Bounds of this query's own windows; below a join ksqlDB doesn't know them.
        own = WINDOW_BOUNDS if self.window is not None and not analysis.scope.is_join else ()
        self.items = analysis.items(step, own)
        self.having = (
            analysis.scope.resolve(analysis.query.having, "HAVING", own) if analysis.query.having is not None else None
        )
        self.calls: dict[ast.FunctionCall, AggregateCall] = {}

    def _grouping(self, expression: ast.SyntaxExpression) -> ast.SyntaxExpression:
        resolved = self.analysis.scope.resolve(expression, "GROUP BY")
        for node in nodes(resolved):
            if isinstance(node, ast.FunctionCall) and node.name in AGGREGATES:
                raise StatementError(
                    f"GROUP BY does not support aggregate functions: {node.name} is an aggregate function."
                )
        return resolved

    def build(self) -> _Aggregated:
        """Return the aggregate."""
        self._check_items()
        names = self._key_names()
        keyed, keys = self._keyed(names)
        binder = Binder(self.analysis.frame_types(keyed))
        used = [node for item in self.items for node in self._aggregate_calls(item.expression)]
        used += self._aggregate_calls(self.having) if self.having is not None else []
        if not used:
            raise StatementError("GROUP BY requires aggregate functions in either the SELECT or HAVING clause.")
        for node in used:
            if node not in self.calls:
                self.calls[node] = self._call(node, binder)
        outputs = tuple(Column(call.output, call.type) for call in self.calls.values())
        schema = Schema(tuple(Column(name, type_) for name, type_ in keys), outputs)
        emit_final = self.analysis.query.emit == "FINAL"
        key_names = tuple(name for name, _ in keys)
        step: Step = AggregateStep(schema, keyed, key_names, tuple(self.calls.values()), self.window, emit_final)
        over = self._binder_over(schema, keys)
        if self.having is not None:
            step = FilterStep(schema, step, self.analysis._predicate(self.having, "HAVING", over))
        items = tuple(
            SelectItem(item.name, over.bind(self.analysis._with_types(item.expression))) for item in self.items
        )
        key_items = tuple(
            SelectItem(name, ColumnExpression(type_, key, text=str(expression)))
            for name, (key, type_), expression in zip(names, keys, self.group_by, strict=True)
        )
        return _Aggregated(step, items, key_items, self.window)

    def _key_names(self) -> list[str]:
        """Return the result's names of the grouping expressions: as selected, else their own."""
        names = []
        for expression in self.group_by:
            selected = [item.name for item in self.items if item.expression == expression]
            if len(selected) > 1:
                raise StatementError(
                    f"The projection contains a key column more than once: {_joined([f'`{name}`' for name in selected])}.\n"
                    "Each key column must only be in the projection once. If you intended to copy the key into the value, then "
                    "consider using the AS_VALUE function to indicate which key reference should be copied."
                )
            if selected:
                names.append(selected[0])
            elif isinstance(expression, ast.ColumnReference):
                names.append(expression.name)
            else:
                names.append(self.analysis.aliases.name(expression))
        return names

    def _keyed(self, names: list[str]) -> tuple[Step, list[tuple[str, SqlType]]]:
        """Return the input keyed by the grouping, and the key columns."""
        step = self.step
        current = [column.name for column in step.schema.key]
        wanted = [one.name if isinstance(one, ast.ColumnReference) else None for one in self.group_by]
        if current == wanted:
            return step, [(column.name, column.type) for column in step.schema.key]
        if self.analysis.first.kind is SourceKind.TABLE:
            raise NotSupportedError("GROUP BY on a table is")
        bound = [self.analysis._bind(expression, step) for expression in self.group_by]
        generator = AliasGenerator([*self.analysis.frame_types(step)])
        columns = [
            one.name if isinstance(one, ColumnExpression) else generator._unused("KSQL_COL", bare=False)
            for one in bound
        ]
        keys = tuple(SelectItem(name, one) for name, one in zip(columns, bound, strict=True))
        key_columns = tuple(Column(name, one.type) for name, one in zip(columns, bound, strict=True))
        values = self._needed_values(step, set(columns))
        key_format = self.analysis.repartition_key_format(key_columns)
        schema = Schema(key_columns, values)
        repartition = RepartitionStep(
            schema, step, keys, "Aggregate-GroupBy-repartition", key_format, self.analysis._internal_value_format()
        )
        return repartition, [(column.name, column.type) for column in key_columns]

    def _needed_values(self, step: Step, keys: set[str]) -> tuple[Column, ...]:
        """Return the columns that the aggregates' arguments read: the repartition topic holds no others."""
        binder = Binder(self.analysis.frame_types(step))
        expressions: list[ast.SyntaxExpression] = [item.expression for item in self.items]
        expressions += [self.having] if self.having is not None else []
        used: set[str] = set()
        for expression in expressions:
            for node in self._aggregate_calls(expression):
                for argument in node.arguments:
                    used |= referenced_columns(binder.bind(self.analysis._with_types(argument)))
        pseudo = sorted(used & {ROWPARTITION, ROWOFFSET})
        if pseudo:
            raise NotSupportedError(f"{pseudo[0]} of the source behind a repartition topic is")
        return tuple(column for column in step.schema.columns if column.name in used and column.name not in keys)

    def _aggregate_calls(self, expression: ast.SyntaxExpression) -> list[ast.FunctionCall]:
        return [node for node in nodes(expression) if isinstance(node, ast.FunctionCall) and node.name in AGGREGATES]

    def _call(self, node: ast.FunctionCall, binder: Binder) -> AggregateCall:
        for inner in node.arguments:
            nested = self._aggregate_calls(inner)
            if nested:
                raise StatementError(f"Aggregate functions can not be nested: {node.name}({nested[0].name}())")
            self._check_bounds(inner)
        function = AGGREGATES[node.name]
        count = min(len(node.arguments), len(function.accepts))
        arguments = [binder.bind(self.analysis._with_types(argument)) for argument in node.arguments[:count]]
        constants = []
        for argument in node.arguments[count:]:
            value = getattr(argument, "value", None)
            if not isinstance(argument, ast.IntegerLiteral | ast.BooleanLiteral):
                raise StatementError(
                    f"Parameter {count + len(constants) + 1} passed to function {node.name} must be a literal constant, but was expression: '{argument}'"
                )
            constants.append(value)
        shown = ", ".join(str(argument.type) for argument in arguments)
        type_, wanted = check_call(node.name, [argument.type for argument in arguments], constants, shown)
        converted = tuple(
            argument if argument.type == target else Cast(target, argument, text=argument.text)
            for argument, target in zip(arguments, wanted, strict=True)
        )
        return AggregateCall(f"KSQL_AGG_VARIABLE_{len(self.calls)}", node.name, converted, type_, tuple(constants))

    def _check_bounds(self, expression: ast.SyntaxExpression) -> None:
        if self.window is None:
            return
        for node in nodes(expression):
            if isinstance(node, ast.ColumnReference) and node.name in WINDOW_BOUNDS and node.qualifier is None:
                raise StatementError(
                    f"Window bounds column {node} can only be used in the SELECT clause of windowed aggregations and can not "
                    "be passed to aggregate functions.\nSee https://github.com/confluentinc/ksql/issues/4397"
                )

    def _binder_over(self, schema: Schema, keys: list[tuple[str, SqlType]]) -> Binder:
        replacements: dict[ast.SyntaxExpression, TypedExpression] = {
            expression: ColumnExpression(type_, name, text=str(expression))
            for expression, (name, type_) in zip(self.group_by, keys, strict=True)
        }
        for node, call in self.calls.items():
            replacements[node] = ColumnExpression(call.type, call.output, text=str(node))
        types = {column.name: column.type for column in schema.columns} | {ROWTIME: BIGINT}
        if self.window is not None or self.analysis.windowed_source:
            types.update(dict.fromkeys(WINDOW_BOUNDS, BIGINT))
        return Binder(types, replacements)

    # ------------------------------------------------------------------ what may be selected
    def _check_items(self) -> None:
        plain, mixed = [], []
        for item in self.items:
            outside = self._outside(item.expression)
            if not outside:
                continue
            if self._aggregate_calls(item.expression):
                mixed += outside
            else:
                plain.append(item.expression)
        if plain:
            raise StatementError(
                f"Non-aggregate SELECT expression(s) not part of GROUP BY: {', '.join(map(str, plain))}\n"
                "Either add the column to the GROUP BY or remove it from the SELECT."
            )
        if mixed:
            raise StatementError(
                "Column used in aggregate SELECT expression(s) outside of aggregate functions not part of GROUP BY: "
                f"{', '.join(map(str, mixed))}\nEither add the column to the GROUP BY or remove it from the SELECT."
            )
        if self.having is not None:
            self._check_bounds(self.having)
            others = self._outside(self.having)
            if others:
                raise StatementError(
                    f"Non-aggregate HAVING expression not part of GROUP BY: {', '.join(map(str, others))}\n"
                    "Consider switching the HAVING clause to a WHERE clause before the GROUP BY."
                )

    def _outside(self, expression: ast.SyntaxExpression) -> list[ast.SyntaxExpression]:
        """Return column references that are neither grouped by nor inside an aggregate's arguments."""
        if expression in self.group_by:
            return []
        if isinstance(expression, ast.FunctionCall) and expression.name in AGGREGATES:
            return []
        if isinstance(expression, ast.ColumnReference):
            return [] if expression.name in WINDOW_BOUNDS else [expression]
        if isinstance(expression, ast.Lambda):
            inside = self._outside(expression.body)
            return [one for one in inside if cast(ast.ColumnReference, one).name not in expression.parameters]
        parts: list[ast.SyntaxExpression] = []
        for one in fields(expression):
            parts += self._in_parts(getattr(expression, one.name))
        return parts

    def _in_parts(self, part: Any) -> list[ast.SyntaxExpression]:
        if isinstance(part, tuple):
            return [found for one in part for found in self._in_parts(one)]
        if isinstance(part, ast.WhenClause):
            return self._outside(part.condition) + self._outside(part.result)
        return self._outside(part) if isinstance(part, ast.SyntaxExpression) else []


class _Persistent(_QueryAnalysis):
    """A persistent query: what it writes, under which key, in which formats."""

    def __init__(
        self, analyzer: Analyzer, query: ast.Query, sink: Sink, query_id: str, text: str, settings: dict[str, str]
    ) -> None:
        super().__init__(analyzer, query)
        self.sink = sink
        self.query_id = query_id
        self.text = text
        self.settings = settings
        self._check_clauses()

    def _check_clauses(self) -> None:
        query = self.query
        if query.limit is not None:
            raise NotSupportedError("LIMIT in a persistent query is")
        if query.window is not None and query.group_by is None:
            raise StatementError(f"{_located(query.window.position)}: WINDOW clause requires a GROUP BY clause.")
        if query.having is not None and query.group_by is None:
            raise StatementError("HAVING requires a GROUP BY clause.")
        if query.emit == "FINAL" and (query.group_by is None or query.window is None):
            raise StatementError("EMIT FINAL is only supported for windowed aggregations.")

    def plan(self) -> tuple[Source, QueryPlan]:
        """Return the sink as a source of later queries, and the query."""
        step = self.filtered(self.build_source(), self.query.where)
        if self.query.group_by is not None:
            keys, values, step, window, kind = self._aggregate_result(step, self.query.group_by)
        else:
            keys, values, step, window, kind = self._plain_result(step)
        if not values:
            raise StatementError("The projection contains no value columns.")
        self._check_kind(kind)
        if self.sink.existing is not None:
            keys, values = self._into_existing(self.sink.existing, keys, values)
        schema = Schema(_columns(keys), _columns(values))
        _check_names(schema)
        root = ProjectStep(schema, step, (*keys, *values))
        source = self._sink_source(schema, window, kind)
        properties = self.sink.properties
        plan = QueryPlan(
            self.query_id, source.name, source.kind, source.topic, properties.get("PARTITIONS"), properties.get("REPLICAS"),
            source.key_format, source.value_format, source.key_window, root, self.settings, self.text,
        )  # fmt: skip
        return source, plan

    # ------------------------------------------------------------------ results
    def _aggregate_result(
        self, step: Step, group_by: tuple[ast.SyntaxExpression, ...]
    ) -> tuple[list[SelectItem], list[SelectItem], Step, Window | None, SourceKind]:
        aggregated = self.aggregated(step, group_by)
        names = {item.name for item in aggregated.items}
        missing = [
            str(expression)
            for expression, key in zip(group_by, aggregated.keys, strict=True)
            if key.name not in names or not self._is_key(aggregated, key)
        ]
        if missing:
            self._keys_missing("grouping expression", missing)
        key_names = {key.name for key in aggregated.keys}
        values = [item for item in aggregated.items if item.name not in key_names and not _is_bound(item)]
        return (
            list(aggregated.keys),
            values,
            aggregated.step,
            aggregated.window or self.first.key_window,
            SourceKind.TABLE,
        )

    @staticmethod
    def _is_key(aggregated: _Aggregated, key: SelectItem) -> bool:
        return any(item.name == key.name and item.expression == key.expression for item in aggregated.items)

    def _plain_result(self, step: Step) -> tuple[list[SelectItem], list[SelectItem], Step, Window | None, SourceKind]:
        key_expressions = self._key_expressions(step)
        extra = [self.synthetic_key] if self.synthetic_key else []
        items = self.items(step, extra)
        items = self._partitioned_order(items, step)
        binder = Binder(self.frame_types(step))
        keys: list[SelectItem] = []
        used: set[int] = set()
        for key in key_expressions:
            selected = [index for index, item in enumerate(items) if item.expression == key]
            if not selected:
                if self.scope.is_join and self.query.partition_by is None:
                    continue
                self._keys_missing(
                    "partitioning expression" if self.query.partition_by is not None else "key column",
                    [str(one) for one in (self.query.partition_by or key_expressions)],
                )
            if len(selected) > 1:
                names = sorted(items[index].name for index in selected)
                raise StatementError(
                    f"The projection contains a key column (`{key}`) more than once, aliased as: {_joined(names)}.\n"
                    "Each key column must only be in the projection once. If you intended to copy the key into the value, then "
                    "consider using the AS_VALUE function to indicate which key reference should be copied."
                )
            used.add(selected[0])
            keys.append(SelectItem(items[selected[0]].name, binder.bind(self._with_types(key))))
            if self.scope.is_join and self.query.partition_by is None:
                break
        if self.scope.is_join and self.query.partition_by is None and not keys:
            self._join_key_missing()
        values = [
            SelectItem(item.name, binder.bind(self._with_types(item.expression)))
            for index, item in enumerate(items)
            if index not in used and not _is_bound_reference(item)
        ]
        untyped = next((item for item in values if cast(TypedExpression, item.expression).type == NULL), None)
        if untyped is not None:
            raise StatementError(
                "Can't infer a type of null. Please explicitly cast it to a required type, e.g. CAST(null AS VARCHAR)."
            )
        return keys, values, step, self.first.key_window, self.first.kind

    def _key_expressions(self, step: Step) -> list[ast.SyntaxExpression]:
        """Return the expressions of which the result's key is made."""
        if self.query.partition_by is not None:
            if self.first.kind is SourceKind.TABLE:
                raise StatementError(
                    "PARTITION BY is not supported on TABLE sources; only streams can be partitioned again."
                )
            if self.first.key_window is not None:
                raise StatementError("PARTITION BY is not supported on windowed sources.")
            resolved = [self._partitioning(one) for one in self.query.partition_by]
            if any(isinstance(one, ast.NullLiteral) for one in resolved):
                if len(resolved) > 1:
                    raise StatementError("Cannot PARTITION BY multiple columns including NULL")
                return []
            return resolved
        if self.scope.is_join:
            choices = self.key_choices or (self.synthetic_key or "",)
            return [ast.ColumnReference(name) for name in choices]
        return [ast.ColumnReference(column.name) for column in step.schema.key]

    def _partitioning(self, expression: ast.SyntaxExpression) -> ast.SyntaxExpression:
        for node in nodes(expression):
            if isinstance(node, ast.ColumnReference) and not self.scope.sources_of(node):
                raise StatementError(
                    f"{_located(node.position)}: PARTITION BY column '{node}' cannot be resolved. '{node}' must be a column in "
                    "the source schema since PARTITION BY is applied on the input."
                )
        return self.scope.resolve(expression, "PARTITION BY")

    def _partitioned_order(self, items: list[Item], step: Step) -> list[Item]:
        """Return the items with the star's columns in the order that PARTITION BY leaves: old keys come last."""
        if self.query.partition_by is None or not any(isinstance(item, ast.SelectAll) for item in self.query.select):
            return items
        expressions = self._key_expressions(step)
        old = {column.name for column in step.schema.key}
        computed = [one for one in expressions if not isinstance(one, ast.ColumnReference)]
        new = [Item(self.aliases.name(one), one) for one in computed if all(item.expression != one for item in items)]
        moved = [
            item for item in items if isinstance(item.expression, ast.ColumnReference) and item.expression.name in old
        ]
        kept = [item for item in items if item not in moved]
        return [*new, *kept, *moved]

    def _keys_missing(self, what: str, keys: list[str], last: str = "and") -> None:
        plural = "s" if len(keys) > 1 else ""
        key_plural = plural if last == "and" else ""
        example = ", ".join(keys) if last == "and" else keys[0]
        raise StatementError(
            f"Key{key_plural} missing from projection (ie, SELECT). \nThe query used to build `{self.sink.name}` must include "
            f"the {what}{plural} {_joined(keys, last)} in its projection (eg, SELECT {example}...)."
        )

    def _join_key_missing(self) -> None:
        names = []
        for name in self.key_choices or (self.synthetic_key or "",):
            owner = next((one for one in self.scope.sources if name.startswith(f"{one.alias}_")), None)
            names.append(f"{owner.alias}.{name.removeprefix(f'{owner.alias}_')}" if owner else name)
        self._keys_missing("join expression", names, "or")

    # ------------------------------------------------------------------ the sink
    def _check_kind(self, kind: SourceKind) -> None:
        wanted = self.sink.kind
        if wanted is None or wanted is kind:
            if wanted is None and kind is SourceKind.TABLE:
                raise StatementError(
                    f"Incompatible data sink type. Expected {SourceKind.STREAM.value}, but the query's result is a TABLE."
                )
            return
        other = "CREATE TABLE AS SELECT" if kind is SourceKind.TABLE else "CREATE STREAM AS SELECT"
        what = "TABLE" if kind is SourceKind.TABLE else "STREAM"
        raise StatementError(
            f"Invalid result type. Your SELECT query produces a {what}. Please use {other} statement instead."
        )

    def repartition_key_format(self, columns: tuple[Column, ...]) -> Format:
        """Return the key format of a repartition topic: the source's where it can hold the key, else JSON's."""
        return _holding(self.first.key_format, columns)

    def _into_existing(
        self, target: Source, keys: list[SelectItem], values: list[SelectItem]
    ) -> tuple[list[SelectItem], list[SelectItem]]:
        """Return the select items in the types of the stream that INSERT INTO writes."""

        def fitted(items: list[SelectItem], columns: tuple[Column, ...]) -> list[SelectItem] | None:
            if [item.name for item in items] != [column.name for column in columns]:
                return None
            out = []
            for item, column in zip(items, columns, strict=True):
                expression = cast(TypedExpression, item.expression)
                if expression.type == column.type:
                    out.append(item)
                elif widening(expression.type, column.type) is not None:
                    out.append(SelectItem(item.name, Cast(column.type, expression, text=expression.text)))
                else:
                    return None
            return out

        new_keys, new_values = fitted(keys, target.schema.key), fitted(values, target.schema.value)
        if new_keys is None or new_values is None:
            result = Schema(_columns(keys), _columns(values))
            raise StatementError(
                "Incompatible schema between results and sink.\n"
                f"Result schema is {schema_text(result)}\nSink schema is {schema_text(target.schema)}"
            )
        return new_keys, new_values

    def _sink_source(self, schema: Schema, window: Window | None, kind: SourceKind) -> Source:
        if self.sink.existing is not None:
            return self.sink.existing
        properties, name = self.sink.properties, self.sink.name
        key_format = self._sink_key_format(schema)
        source_value = self.first.value_format
        value_format = properties.value_format(properties.value_format_name() or source_value.name, source_value)
        check_key_columns(schema.key, key_format)
        check_value_columns(schema.value, value_format)
        return Source(
            name,
            kind,
            schema,
            properties.get("KAFKA_TOPIC") or f"{self.analyzer.defaults.topic_prefix}{name}",
            key_format,
            value_format,
            window,
            properties.timestamp_column(schema),
            properties.get("TIMESTAMP_FORMAT"),
            statement=self.text,
            query_id=self.query_id,
        )

    def _sink_key_format(self, schema: Schema) -> Format:
        properties, source_key = self.sink.properties, self.first.key_format
        given = properties.key_format_name()
        if not schema.key:
            if given not in (None, "NONE") and self.query.partition_by is not None:
                raise StatementError("Key format specified for stream without key columns.")
            return (
                Format("NONE")
                if self.query.partition_by is not None
                else properties.key_format(given or source_key.name, self.sink.name)
            )
        name = given or source_key.name
        if given is None and name == "NONE":
            name = self.analyzer.defaults.key_format
        return properties.key_format(name, self.sink.name, source_key)


def _holding(format_: Format, columns: tuple[Column, ...]) -> Format:
    """Return a format that can hold key columns: the given one, or JSON where KAFKA or NONE can't."""
    try:
        check_key_columns(columns, format_)
    except StatementError:
        if format_.name in ("KAFKA", "NONE"):
            plain = Format("KAFKA")
            return Format("JSON") if format_.name == "KAFKA" else _holding(plain, columns)
        raise
    return format_


def _columns(items: Sequence[SelectItem]) -> tuple[Column, ...]:
    return tuple(Column(item.name, cast(TypedExpression, item.expression).type) for item in items)


def _is_bound(item: SelectItem) -> bool:
    return (
        isinstance(item.expression, ColumnExpression)
        and item.expression.name == item.name
        and item.name in WINDOW_BOUNDS
    )


def _is_bound_reference(item: Item) -> bool:
    return (
        isinstance(item.expression, ast.ColumnReference)
        and item.expression.name == item.name
        and item.name in WINDOW_BOUNDS
    )


def schema_text(schema: Schema, kind: SourceKind = SourceKind.STREAM) -> str:
    """Return a schema as messages write it: ```ID` INTEGER KEY, `NAME` STRING``."""
    word = "PRIMARY KEY" if kind is SourceKind.TABLE else "KEY"
    keys = [f"`{column.name}` {column.type} {word}" for column in schema.key]
    return ", ".join([*keys, *(f"`{column.name}` {column.type}" for column in schema.value)])


class _Transient(_QueryAnalysis):
    """A SELECT by itself."""

    persistent = False

    def __init__(self, analyzer: Analyzer, query: ast.Query, text: str) -> None:
        super().__init__(analyzer, query)
        self.text = text

    def repartition_key_format(self, columns: tuple[Column, ...]) -> Format:
        """Return the key format of a repartition topic."""
        return _holding(self.first.key_format, columns)

    def plan(self) -> TransientPlan:
        """Return the plan."""
        if self.query.emit is None:
            return self._pull()
        return self._push()

    def _pull(self) -> TransientPlan:
        query = self.query
        rules = (
            (bool(query.joins), "JOIN clauses"),
            (query.window is not None, "WINDOW clauses"),
            (query.group_by is not None, "GROUP BY clauses"),
            (query.partition_by is not None, "PARTITION BY clauses"),
            (query.having is not None, "HAVING clauses"),
        )
        for broken, what in rules:
            if broken:
                raise StatementError(f"Pull queries don't support {what}.{_PULL_HELP}")
        if query.limit is not None and query.limit < 0:
            raise StatementError(f"Pull queries don't support negative integers in the LIMIT clause.{_PULL_HELP}")
        for clause, part in (("SELECT", query.select), ("WHERE", query.where)):
            names = sorted(
                {node.name for node in nodes(part) if isinstance(node, ast.ColumnReference)} & {ROWPARTITION, ROWOFFSET}
            )
            if names:
                raise StatementError(
                    f"Pull queries don't support the following columns in {clause} clauses: "
                    f"{', '.join(f'`{name}`' for name in names)}\n{_PULL_HELP}"
                )
        source = self.build_source()
        step = self.filtered(source, query.where)
        where = step.predicate if isinstance(step, FilterStep) else None
        root = self._projected(step)
        return TransientPlan(root, False, query.limit, False, self.first, cast(Any, where), self.text)

    def _push(self) -> TransientPlan:
        query = self.query
        if query.window is not None and query.group_by is None:
            raise StatementError(f"{_located(query.window.position)}: WINDOW clause requires a GROUP BY clause.")
        if query.emit == "FINAL" and (query.group_by is None or query.window is None):
            raise StatementError("EMIT FINAL is only supported for windowed aggregations.")
        step = self.filtered(self.build_source(), query.where)
        if query.group_by is not None:
            aggregated = self.aggregated(step, query.group_by)
            root: Step = ProjectStep(Schema((), _columns(aggregated.items)), aggregated.step, aggregated.items)
        else:
            root = self._projected(step)
        return TransientPlan(root, True, query.limit, query.emit == "FINAL", self.first, None, self.text)

    def _projected(self, step: Step) -> ProjectStep:
        binder = Binder(self.frame_types(step))
        items = tuple(
            SelectItem(item.name, binder.bind(self._with_types(item.expression))) for item in self.items(step)
        )
        return ProjectStep(Schema((), _columns(items)), step, items)


_PULL_HELP = " See https://cnfl.io/queries for more info.\nAdd EMIT CHANGES if you intended to issue a push query."
