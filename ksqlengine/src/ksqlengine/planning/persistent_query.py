"""Persistent queries to plans: what a query writes, under which key, in which formats."""

from __future__ import annotations

from dataclasses import dataclass
from typing import cast

from ksqlengine.expressions.base import ColumnExpression, TypedExpression
from ksqlengine.expressions.conversion import Cast
from ksqlengine.expressions.functions.tables import TABLE_FUNCTIONS
from ksqlengine.expressions.overloads import widening
from ksqlengine.language import ast
from ksqlengine.plan.catalog import Catalog, Source, check_names, schema_text
from ksqlengine.plan.steps import Column, Format, ProjectStep, QueryPlan, Schema, SelectItem, SourceKind, Step, Window
from ksqlengine.planning.group_by import Aggregated, Aggregation
from ksqlengine.planning.joins import WINDOWED_REPARTITION
from ksqlengine.planning.query_base import QueryPlanner, check_distinct, columns_of
from ksqlengine.planning.scope import PSEUDO_TYPES, WINDOW_BOUNDS, ResolvedItem, joined_words, nodes
from ksqlengine.planning.with_clause import EngineDefaults, Properties, check_key_columns, check_value_columns
from ksqlengine.types.errors import BAD_REQUEST, KsqlError, NotSupportedError, StatementError
from ksqlengine.types.sqltypes import NULL, DecimalType

_SYNTHETIC_HELP = "See https://cnfl.io/2LV7ouS."


@dataclass(frozen=True)
class Sink:
    """What a persistent query writes into."""

    name: str
    kind: SourceKind | None
    properties: Properties
    existing: Source | None = None


class PersistentQueryPlanner(QueryPlanner):
    """A persistent query: what it writes, under which key, in which formats."""

    def __init__(
        self,
        catalog: Catalog,
        defaults: EngineDefaults,
        query: ast.Query,
        sink: Sink,
        query_id: str,
        text: str,
        settings: dict[str, str],
    ) -> None:
        super().__init__(catalog, query, settings)
        self.defaults = defaults
        self.sink = sink
        self.query_id = query_id
        self.text = text
        self._check_clauses()

    def _check_clauses(self) -> None:
        query = self.query
        if query.limit is not None:
            raise NotSupportedError("LIMIT in a persistent query")
        sources = [source.source for source in self.scope.sources]
        if any(source.kind is SourceKind.TABLE and source.key_window is not None for source in sources):
            raise StatementError("KSQL does not support persistent queries on windowed tables.")
        if query.window is not None and query.group_by is None:
            raise StatementError(f"{query.window.position.located}: WINDOW clause requires a GROUP BY clause.")
        if query.having is not None and query.group_by is None:
            raise StatementError("HAVING requires a GROUP BY clause.")
        if query.emit == "FINAL" and (query.group_by is None or query.window is None):
            raise StatementError("EMIT FINAL is only supported for windowed aggregations.")

    def plan(self) -> tuple[Source, QueryPlan]:
        """Return the sink as a source of later queries, and the query."""
        step = self.filtered(self.joins.build(), self.query.where)
        if self.query.group_by is not None:
            keys, values, step, window, kind = self._aggregate_result(step, self.query.group_by)
        else:
            keys, values, step, window, kind = self._plain_result(step)
        if not values:
            raise StatementError("The projection contains no value columns.")
        self._check_kind(kind)
        if self.sink.existing is not None:
            keys, values = self._into_existing(self.sink.existing, keys, values)
        schema = Schema(columns_of(keys), columns_of(values))
        check_names(schema)
        root = ProjectStep(schema, step, (*keys, *values))
        source = self._sink_source(schema, window, kind)
        properties = self.sink.properties
        timed = (source.timestamp_column, source.timestamp_format) if self.sink.existing is None else (None, None)
        plan = QueryPlan(
            self.query_id, source.name, source.kind, source.topic, properties.get("PARTITIONS"), properties.get("REPLICAS"),
            source.key_format, source.value_format, source.key_window, root, self.settings, self.text,
            *timed, properties.topic_config(kind, source.key_window) if self.sink.existing is None else {},
        )  # fmt: skip
        return source, plan

    # ------------------------------------------------------------------ results
    def _aggregate_result(
        self, step: Step, group_by: tuple[ast.SyntaxExpression, ...]
    ) -> tuple[list[SelectItem], list[SelectItem], Step, Window | None, SourceKind]:
        aggregated = Aggregation(self, step, group_by).build()
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
            aggregated.window,
            SourceKind.TABLE,
        )

    @staticmethod
    def _is_key(aggregated: Aggregated, key: SelectItem) -> bool:
        return any(item.name == key.name and item.expression == key.expression for item in aggregated.items)

    def _plain_result(self, step: Step) -> tuple[list[SelectItem], list[SelectItem], Step, Window | None, SourceKind]:
        key_expressions = self._key_expressions(step)
        extra = [self.joins.synthetic_key] if self.joins.synthetic_key else []
        items = self.items(step, extra)
        items = self._partitioned_order(items, step)
        step, binder = self.flat_mapped(step, items)
        bound = [SelectItem(item.name, binder.bind(self.typed(item.expression))) for item in items]
        check_distinct(bound)
        keys: list[SelectItem] = []
        used: set[int] = set()
        for key in key_expressions:
            selected = [index for index, item in enumerate(items) if item.expression == key]
            if not selected:
                if self.scope.is_join and self.query.partition_by is None:
                    continue
                partitioning = self.query.partition_by
                self._keys_missing(
                    "partitioning expression" if partitioning is not None else "key column",
                    [str(self.scope.qualified(expression)) for expression in partitioning or ()]
                    or [str(expression) for expression in key_expressions],
                )
            if len(selected) > 1:
                names = sorted(items[index].name for index in selected)
                raise StatementError(
                    f"The projection contains a key column (`{key}`) more than once, aliased as: {joined_words(names)}.\n"
                    "Each key column must only be in the projection once. If you intended to copy the key into the value, then "
                    "consider using the `AS_VALUE` function to indicate which key reference should be copied."
                )
            used.add(selected[0])
            if self.scope.is_join and self.query.partition_by is None:
                # The key is what the join found, also where the column's own side has no row.
                column = step.schema.key[0]
                keys.append(
                    SelectItem(items[selected[0]].name, ColumnExpression(column.type, column.name, text=str(key)))
                )
            else:
                keys.append(SelectItem(items[selected[0]].name, binder.bind(self.typed(key))))
            if self.scope.is_join and self.query.partition_by is None:
                break
        if self.scope.is_join and self.query.partition_by is None and not keys:
            self._join_key_missing()
        values = [
            bound[index] for index, item in enumerate(items) if index not in used and not _is_bound_reference(item)
        ]
        untyped = next((item for item in values if item.expression.type == NULL), None)
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
                raise StatementError(WINDOWED_REPARTITION)
            if not self.query.partition_by:
                raise StatementError("PARTITION BY requires at least one expression")
            resolved = [self._partitioning(expression) for expression in self.query.partition_by]
            if any(isinstance(expression, ast.NullLiteral) for expression in resolved):
                if len(resolved) > 1:
                    raise StatementError("Cannot PARTITION BY multiple columns including NULL")
                return []
            return resolved
        if self.scope.is_join:
            choices = self.joins.key_choices or (self.joins.synthetic_key or "",)
            return [ast.ColumnReference(name) for name in choices]
        return [ast.ColumnReference(column.name) for column in step.schema.key]

    def _partitioning(self, expression: ast.SyntaxExpression) -> ast.SyntaxExpression:
        for node in nodes(expression):
            if isinstance(node, ast.FunctionCall) and node.name in TABLE_FUNCTIONS:
                raise StatementError(f"Can't find any functions with the name '{node.name}'")
            if isinstance(node, ast.ColumnReference) and not self.scope.sources_of(node):
                raise StatementError(
                    f"{node.position.located}: PARTITION BY column '{node}' cannot be resolved. '{node}' must be a column in "
                    "the source schema since PARTITION BY is applied on the input."
                )
        return self.scope.resolve(expression, "PARTITION BY")

    def _partitioned_order(self, items: list[ResolvedItem], step: Step) -> list[ResolvedItem]:
        """Return the items with the star's columns in the order that PARTITION BY leaves: old keys come last.

        A join's columns stand in that order already.
        """
        if self.query.partition_by is None or not any(isinstance(item, ast.SelectAll) for item in self.query.select):
            return items
        expressions = self._key_expressions(step)
        old = {column.name for column in step.schema.key}
        computed = [
            expression
            for expression in expressions
            if not isinstance(expression, ast.ColumnReference) or expression.name in PSEUDO_TYPES
        ]
        new = [
            ResolvedItem(self.partition_name(expression), expression)
            for expression in computed
            if all(item.expression != expression for item in items)
        ]
        moved = [
            item
            for item in items
            if not self.scope.is_join
            and isinstance(item.expression, ast.ColumnReference)
            and item.expression.name in old
        ]
        kept = [item for item in items if item not in moved]
        return [*new, *kept, *moved]

    def partition_name(self, expression: ast.SyntaxExpression) -> str:
        """Return the key column's name of an expression that only PARTITION BY names."""
        return expression.name if isinstance(expression, ast.ColumnReference) else self.aliases.name(expression)

    def _keys_missing(self, what: str, keys: list[str], last: str = "and") -> None:
        plural = "s" if len(keys) > 1 else ""
        key_plural = plural if last == "and" else ""
        example = ", ".join(keys) if last == "and" else keys[0]
        synthetic = self.joins.synthetic_key is not None and last == "or"
        raise StatementError(
            f"Key{key_plural} missing from projection (ie, SELECT). {_SYNTHETIC_HELP if synthetic else ''}\n"
            f"The query used to build `{self.sink.name}` must include the {what}{plural} {joined_words(keys, last)} in its "
            f"projection (eg, SELECT {example}...)."
            + (
                f"\n{keys[0]} was added as a synthetic key column because the join criteria did not match any source column. "
                "This expression must be included in the projection and may be aliased. "
                if synthetic
                else ""
            )
        )

    def _join_key_missing(self) -> None:
        names = []
        for name in self.joins.key_choices or (self.joins.synthetic_key or "",):
            owner = next((source for source in self.scope.sources if name.startswith(f"{source.alias}_")), None)
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
            f"Invalid result type. Your SELECT query produces a {what}. Please use {other} statement instead.",
            quoted=True,
        )

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
                elif widening(expression.type, column.type) is not None or (
                    isinstance(expression.type, DecimalType)
                    and isinstance(column.type, DecimalType)
                    and column.type.holds(expression.type)
                ):
                    out.append(SelectItem(item.name, Cast(column.type, expression, text=expression.text)))
                else:
                    return None
            return out

        new_keys, new_values = fitted(keys, target.schema.key), fitted(values, target.schema.value)
        if new_keys is None or new_values is None:
            result = Schema(columns_of(keys), columns_of(values))
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
        value_format = self.defaults.wrapped(value_format, schema.value)
        try:
            check_key_columns(schema.key, key_format)
            check_value_columns(schema.value, value_format)
        except StatementError as error:
            # ksqlDB finds it when it has planned the query, and names no statement.
            raise KsqlError(error.message, BAD_REQUEST) from error
        return Source(
            name,
            kind,
            schema,
            properties.get("KAFKA_TOPIC") or f"{self.defaults.topic_prefix}{name}",
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
            name = self.defaults.key_format
        return properties.key_format(name, self.sink.name, source_key)


def _is_bound(item: SelectItem) -> bool:
    return (
        isinstance(item.expression, ColumnExpression)
        and item.expression.name == item.name
        and item.name in WINDOW_BOUNDS
    )


def _is_bound_reference(item: ResolvedItem) -> bool:
    return (
        isinstance(item.expression, ast.ColumnReference)
        and item.expression.name == item.name
        and item.name in WINDOW_BOUNDS
    )
