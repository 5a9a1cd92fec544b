"""Statements to plans: names resolved, types found, ksqlDB's rules checked, every default filled in.

`Analyzer` gives a `Source` for CREATE STREAM or TABLE, a `QueryPlan` for a persistent query, and a `TransientPlan` for a SELECT
by itself. It reads the catalog and the schema registry and changes nothing.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from decimal import Decimal
from typing import Protocol, TypeVar

import polars as pl

from ksqlengine.expressions.base import Literal, TypedExpression
from ksqlengine.expressions.conversion import Cast
from ksqlengine.expressions.overloads import widening
from ksqlengine.formats.avro import KEY_COLUMN, VALUE_COLUMN, columns_of_avro
from ksqlengine.language import ast
from ksqlengine.language.formatting import expression_text
from ksqlengine.plan.catalog import Catalog, Source, check_names
from ksqlengine.plan.steps import ROWOFFSET, ROWPARTITION, ROWTIME, Column, Format, QueryPlan, Schema, SourceKind
from ksqlengine.planning.binder import Binder
from ksqlengine.planning.common_type import with_bytes
from ksqlengine.planning.persistent_query import PersistentQueryPlanner, Sink
from ksqlengine.planning.scope import SYSTEM_COLUMNS, WINDOW_BOUNDS, nodes
from ksqlengine.planning.transient_query import TransientPlan, TransientQueryPlanner
from ksqlengine.planning.with_clause import (
    EngineDefaults,
    Properties,
    check_key_columns,
    check_value_columns,
    create_as_properties,
    create_properties,
    insert_properties,
    listed,
)
from ksqlengine.types.casts import can_cast
from ksqlengine.types.errors import BAD_REQUEST, KsqlError, NotSupportedError, Phase, StatementError, refusing
from ksqlengine.types.sqltypes import BIGINT, BYTES, NULL, STRING, ArrayType, DecimalType, MapType, SqlType, StructType

HEADERS_TYPE = ArrayType(element=StructType(fields=(("KEY", STRING), ("VALUE", BYTES))))

Node = TypeVar("Node")


class SchemaRegistry(Protocol):
    """What inference needs of the schema registry."""

    def latest(self, subject: str) -> tuple[int, str] | None:
        """Return (id, Avro schema as JSON) of a subject's latest version, None where there is none."""

    def schema(self, schema_id: int) -> str | None:
        """Return the Avro schema of an id as JSON, None where there is none."""


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
        if statement.or_replace and (statement.read_only or (existing is not None and existing.read_only)):
            raise StatementError(
                f"Cannot add {kind.value.lower()} '{statement.name}': CREATE OR REPLACE is not supported on source "
                f"{kind.value.lower()}s."
            )
        with refusing(Phase.PARSED):
            properties = create_properties(statement.properties)
        key_format, value_format = self._formats(properties, statement.name)
        schema, headers = self._declared(statement, kind, properties, key_format, value_format)
        check_key_columns(schema.key, key_format)
        values = tuple(column for column in schema.value if column.name not in dict(headers))
        value_format = self.defaults.wrapped(value_format, values)
        check_value_columns(values, value_format)
        window = properties.window()
        properties.topic_config(kind, window)
        return Source(
            statement.name,
            kind,
            schema,
            properties.get("KAFKA_TOPIC"),
            key_format,
            value_format,
            window,
            properties.timestamp_column(schema),
            properties.get("TIMESTAMP_FORMAT"),
            headers,
            statement.read_only,
            text,
        )

    def alter_source(self, statement: ast.AlterSource, text: str) -> Source:
        """Return a stream or table with the columns that ALTER adds; its statement is added to the one that made it.

        Raises:
            StatementError: there is no such stream or table, it can't be altered, or has a column of the same name.
        """
        source = self.catalog.sources.get(statement.name)
        if source is None:
            raise StatementError(f"Source {statement.name} does not exist.")
        if source.kind.value != statement.kind:
            raise StatementError(
                f"Incompatible data source type is {source.kind.value}, but statement was ALTER {statement.kind}"
            )
        if source.query_id is not None:
            raise StatementError("ALTER command is not supported for CREATE ... AS statements.")
        if source.read_only:
            kind = source.kind.value.lower()
            raise StatementError(
                f"Cannot alter {kind} '{source.name}': ALTER operations are not supported on source {kind}s."
            )
        names = {column.name for column in source.schema.columns}
        added = tuple(Column(name, self.catalog.resolve_type(type_)) for name, type_ in statement.added)
        for column in added:
            if column.name in names:
                raise StatementError(
                    f"Cannot add column `{column.name}` to schema. A column with the same name already exists."
                )
            names.add(column.name)
        schema = Schema(source.schema.key, source.schema.value + added)
        check_names(schema)
        check_value_columns(schema.value, source.value_format)
        return replace(source, schema=schema, statement=f"{source.statement}\n{text}")

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
                _check_header(definition.header, [header for _, header in headers])
                headers.append((column.name, definition.header))
        for side, given in (("KEY", keys), ("VALUE", values)):
            if given and properties.get(f"{side}_SCHEMA_ID") is not None:
                raise StatementError(f"Table elements and {side}_SCHEMA_ID cannot both exist for create statement.")
        keys = keys or self._inferred(properties, key_format, "key")
        if len(values) == len(headers):
            values = self._inferred(properties, value_format, "value", {column.name for column in keys}) + values
        schema = Schema(tuple(keys), tuple(values))
        check_names(schema)
        _check_supplied(schema, value_format, len(values) > len(headers))
        if properties.window() is not None and not keys:
            raise StatementError("Windowed sources require a key column.")
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
                raise _no_schema(properties, side, subject, format_.schema_id)
        else:
            found = self.registry.latest(subject)
            if found is None:
                if side == "key":
                    return []
                raise _no_schema(properties, side, subject)
            schema = found[1]
        single = KEY_COLUMN if side == "key" else VALUE_COLUMN if format_.wrap_single is False else None
        columns = columns_of_avro(schema, single=single, uppercase=format_.schema_id is None)
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
        with refusing(Phase.PARSED):
            properties = create_as_properties(statement.properties)
        sink = Sink(statement.name, kind, properties)
        prefix = "CSAS" if kind is SourceKind.STREAM else "CTAS"
        query_id = f"{prefix}_{statement.name.upper()}_{number}"
        if existing is not None and statement.or_replace and existing.query_id is not None:
            query_id = existing.query_id
        source, plan = PersistentQueryPlanner(
            self.catalog, self.defaults, statement.query, sink, query_id, text, dict(settings or {})
        ).plan()
        self._check_registered(source.schema.key, source.key_format, "key", sink.properties)
        self._check_registered(source.schema.value, source.value_format, "value", sink.properties)
        return source, plan

    def _check_registered(
        self, columns: tuple[Column, ...], format_: Format, side: str, properties: Properties
    ) -> None:
        """Check that the schema of an id, where one is given, begins with a query's columns.

        Raises:
            StatementError: it doesn't, or there is none.
        """
        if format_.schema_id is None:
            return
        registered = self._inferred(properties, format_, side)
        changed = [
            column for place, column in enumerate(columns) if place >= len(registered) or registered[place] != column
        ]
        if changed:
            raise StatementError(
                f"The following {side} columns are changed, missing or reordered: {listed(changed, side)}. "
                f"Schema from schema registry is {listed(registered, side)}"
            )

    def insert_into(
        self, statement: ast.InsertInto, text: str, number: int, settings: Mapping[str, str] | None = None
    ) -> QueryPlan:
        """Return the query of INSERT INTO … SELECT.

        Raises:
            StatementError: the statement is not right.
        """
        with refusing(Phase.NAMED):
            target = self._insert_target(statement)
        if target.read_only:
            raise StatementError(f"Cannot insert into read-only stream: {target.name}")
        with refusing(Phase.PARSED):
            properties = insert_properties(statement.properties)
        query_id = properties.get("QUERY_ID") or f"INSERTQUERY_{number}"
        if query_id.upper() in self.catalog.queries:
            raise StatementError(f"Query ID '{query_id.upper()}' already exists.")
        sink = Sink(target.name, None, properties, target)
        persistent = PersistentQueryPlanner(
            self.catalog, self.defaults, statement.query, sink, query_id.upper(), text, dict(settings or {})
        )
        return persistent.plan()[1]

    def _insert_target(self, statement: ast.InsertInto) -> Source:
        found = self.catalog.sources.get(statement.target)
        if found is None:
            column = statement.position.column + len("INSERT INTO ")
            place = f"Line: {statement.position.line}, Col: {column}"
            raise StatementError(f"{place}: Source `{statement.target}` does not exist.")
        if found.kind is not SourceKind.STREAM:
            raise StatementError(f"INSERT INTO can only be used to insert into a stream. {found.name} is a table.")
        if found.headers:
            raise StatementError(f"Cannot insert into {found.name} because it has header columns")
        return found

    # ------------------------------------------------------------------ SELECT by itself
    def transient(self, query: ast.Query, text: str) -> TransientPlan:
        """Return the plan of a pull or push query.

        Raises:
            StatementError: the query is not right.
        """
        return TransientQueryPlanner(self.catalog, query, text).plan()

    # ------------------------------------------------------------------ INSERT VALUES
    def insert_values(self, statement: ast.InsertValues) -> tuple[Source, dict[str, TypedExpression]]:
        """Return the target of INSERT VALUES, and an expression without columns for each column given (ROWTIME too).

        Raises:
            KsqlError: nothing can be inserted there.
            StatementError: the row isn't one of it.
        """
        target = self._insertable(statement)
        try:
            return target, self._row(statement, target)
        except StatementError as error:
            raise StatementError(f"Failed to insert values into '{target.name}'. {error.message}") from error

    def _insertable(self, statement: ast.InsertValues) -> Source:
        target = self.catalog.sources.get(statement.target)
        if target is None:
            raise KsqlError(f"Cannot insert values into an unknown stream/table: `{statement.target}`", BAD_REQUEST)
        if target.key_window is not None:
            raise KsqlError("Cannot insert values into windowed stream/table!", BAD_REQUEST)
        if target.read_only:
            kind = target.kind.value.lower()
            raise KsqlError(f"Cannot insert values into read-only {kind}: {target.name}", BAD_REQUEST)
        headers = [name for name, _ in target.headers if name in (statement.columns or dict(target.headers))]
        if headers:
            raise KsqlError(f"Cannot insert into HEADER columns: {', '.join(headers)}", BAD_REQUEST)
        return target

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
            given = ", ".join(map(expression_text, statement.values))
            raise StatementError(f"Expected a value for each column. Expected Columns: []. Got [{given}]")
        unknown = next((name for name in names if name not in allowed), None)
        if unknown in (ROWPARTITION, ROWOFFSET):
            raise StatementError(f"Inserting into column `{unknown}` is not allowed.")
        if unknown is not None:
            raise StatementError(f"Column name `{unknown}` does not exist.")
        if target.kind is SourceKind.TABLE:
            missing = next((column.name for column in target.schema.key if column.name not in names), None)
            if missing is not None:
                raise StatementError(f"Value for primary key column(s) {missing} is required for tables")
        return {
            name: _inserted(name, value, allowed[name]) for name, value in zip(names, statement.values, strict=True)
        }


def _check_header(header: str | None, before: list[str | None]) -> None:
    """Check that a header column goes with those before it: one for all headers stands alone."""
    if before and (header is None or None in before):
        raise StatementError("Schema already contains a HEADERS column.")
    if header in before:
        raise StatementError(f"Schema already contains a HEADER('{header}') column.")


# ---------------------------------------------------------------------------------------------------- values of INSERT
# Source: ksqlDB's ``GenericExpressionResolver`` and ``DefaultSqlValueCoercer.STRICT``: numbers widen, texts become times and
# bytes, nothing else converts.
_TEXT_HINTS = {
    "TIMESTAMP": ". Timestamp format must be yyyy-mm-ddThh:mm:ss[.S]",
    "TIME": ". Time format must be hh:mm:ss[.S]",
    "DATE": ". Date format must be yyyy-mm-dd",
}


def _inserted(name: str, expression: ast.SyntaxExpression, type_: SqlType) -> TypedExpression:
    """Return a value in its column's type.

    Args:
        name: the column.
        expression: the value, without columns.
        type_: the column's type.

    Raises:
        StatementError: it can't be computed, or isn't of the column's type.
    """
    if any(isinstance(node, ast.ColumnReference) for node in _outside_lambdas(expression)):
        raise StatementError(f"Unsupported column reference in insert value: {expression_text(expression)}")
    written = Binder({}).bind(expression)
    if isinstance(written, Literal) and written.type == NULL:
        return Literal(type_, None, text=written.text)
    _check_computed(written)
    try:
        value = with_bytes(written, type_)
    except NotSupportedError:
        raise
    except StatementError as error:
        raise _refused(name, written, type_) from error
    if value.type == type_:
        return value
    if not _converts(value.type, type_):
        raise _refused(name, value, type_)
    cast = Cast(type_, value, text=value.text)
    given, made = pl.select(value.to_polars().alias("given"), cast.to_polars().alias("made")).row(0)
    is_rounded = isinstance(made, Decimal) and isinstance(given, Decimal | int) and Decimal(given) != made
    if (given is not None and made is None) or is_rounded:
        raise _refused(name, value, type_)
    return cast


def _outside_lambdas(expression: ast.SyntaxExpression) -> list[ast.Node]:
    """Return the nodes of an expression without calls that take a lambda, whose parameters look like columns."""
    if any(isinstance(node, ast.Lambda) for node in nodes(expression)):
        return []
    return list(nodes(expression))


def _check_computed(value: TypedExpression) -> None:
    """Refuse a value whose evaluation fails; ksqlDB says no more than that."""
    failures = [failure.condition for failure in value.compile().failures if failure.message is not None]
    if failures and pl.select(pl.any_horizontal(pl.lit(False), *failures)).item():
        raise StatementError("")


def _converts(given: SqlType, wanted: SqlType) -> bool:
    if given in (wanted, NULL):
        return True
    if given == STRING:
        return wanted.name in _TEXT_HINTS
    if isinstance(given, ArrayType) and isinstance(wanted, ArrayType):
        return _converts(given.element, wanted.element)
    if isinstance(given, MapType) and isinstance(wanted, MapType):
        return _converts(given.key, wanted.key) and _converts(given.value, wanted.value)
    if isinstance(given, StructType) and isinstance(wanted, StructType):
        types = dict(wanted.fields)
        fits = all(_converts(type_, types[name]) for name, type_ in given.fields if name in types)
        return fits and can_cast(given, wanted)
    is_decimal = isinstance(given, DecimalType) and isinstance(wanted, DecimalType)
    return is_decimal or widening(given, wanted) is not None


def _refused(name: str, value: TypedExpression, type_: SqlType) -> StatementError:
    hint = _TEXT_HINTS.get(type_.name, "") if value.type == STRING else ""
    shown = str(value)
    if can_cast(value.type, STRING):
        shown = str(pl.select(Cast(STRING, value).to_polars()).item())
    return StatementError(f"Expected type {type_} for field `{name}` but got {value.type.name}({shown}){hint}")


def _no_schema(properties: Properties, side: str, subject: str, schema_id: int | None = None) -> StatementError:
    """Return ksqlDB's error for columns that the registry should give and doesn't."""
    topic, pages = properties.get("KAFKA_TOPIC"), "https://docs.confluent.io/current/schema-registry/docs"
    asked = f"Subject: {subject}" + ("" if schema_id is None else f"\nSchema Id: {schema_id}")
    return StatementError(
        f"Schema for message {side}s on topic '{topic}' does not exist in the Schema Registry.\n{asked}\n"
        "Possible causes include:\n- The topic itself does not exist\n\t-> Use SHOW TOPICS; to check\n"
        "- Messages on the topic are not serialized using a format Schema Registry supports\n"
        f"\t-> Use PRINT '{topic}' FROM BEGINNING; to verify\n"
        "- Messages on the topic have not been serialized using a Confluent Schema Registry supported serializer\n"
        f"\t-> See {pages}/serializer-formatter.html\n"
        "- The schema is registered on a different instance of the Schema Registry\n"
        f"\t-> Use the REST API to list available subjects\t{pages}/api.html#get--subjects\n"
        f"- You do not have permissions to access the Schema Registry.\n\t-> See {pages}/security.html"
    )


def _check_supplied(schema: Schema, value_format: Format, has_values: bool) -> None:
    """Refuse sources without columns; those of key columns alone are fine, but in one format."""
    if not schema.columns:
        raise StatementError("No columns supplied.")
    if not has_values and value_format.name == "KAFKA":
        raise NotSupportedError("A source of key columns alone with the value format KAFKA")
