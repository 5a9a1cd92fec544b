"""What the planners of all queries share: sources, filters and select lists."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import fields, replace
from typing import Any, TypeVar, cast

from ksqlengine.expressions.aggregates import AGGREGATES
from ksqlengine.expressions.base import ColumnExpression, TypedExpression
from ksqlengine.expressions.functions.tables import TABLE_FUNCTIONS
from ksqlengine.language import ast
from ksqlengine.plan.catalog import Catalog
from ksqlengine.plan.steps import (
    Column,
    FilterStep,
    FlatMapStep,
    Schema,
    SelectItem,
    SourceKind,
    Step,
    Window,
    WindowKind,
)
from ksqlengine.planning.binder import Binder
from ksqlengine.planning.joins import JoinPlanner, in_star, shows_pseudo_columns
from ksqlengine.planning.scope import (
    PSEUDO_TYPES,
    SYSTEM_COLUMNS,
    WINDOW_BOUNDS,
    AliasedSource,
    AliasGenerator,
    ResolvedItem,
    Scope,
    nodes,
    rewrite,
    unknown_source,
)
from ksqlengine.types.errors import SERVER_ERROR, ExpressionError, Phase, StatementError, refusing
from ksqlengine.types.sqltypes import BIGINT, BOOLEAN, ArrayType, SqlType, StructType

Node = TypeVar("Node")
DEFAULT_RETENTION_MS = 86_400_000  # of windows without GRACE PERIOD, size included, as in Kafka Streams


class QueryPlanner:
    """What all queries share: sources, filters, select lists, table functions, windows."""

    persistent = True

    def __init__(self, catalog: Catalog, query: ast.Query, settings: Mapping[str, str] | None = None) -> None:
        self.catalog = catalog
        self.settings = dict(settings or {})
        self.query = query
        self.scope = self._sources()
        self.first = self.scope.sources[0].source
        self.windowed_source = self.first.key_window is not None
        taken = {name for source in self.scope.sources for name in source.types()}
        self.aliases = AliasGenerator(taken)
        self.joins = JoinPlanner(query, self.scope, self.bind)
        self._check_aggregates_without_group()
        if query.group_by is not None and query.partition_by is not None:
            raise StatementError("PARTITION BY and GROUP BY can't be used together.")

    def _sources(self) -> Scope:
        relations = [self.query.source, *(join.relation for join in self.query.joins)]
        found: list[AliasedSource] = []
        for relation in relations:
            with refusing(Phase.NAMED):
                source = self.catalog.source(relation.name)
            if any(known.source.name == source.name for known in found):
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
        plain = ", ".join(source.alias for source in sources if source.source.value_format.name == "KAFKA")
        if plain:
            raise StatementError(
                f"Source(s) {plain} are using the 'KAFKA' value format. This format does not yet support {clause}."
            )

    def _check_aggregates_without_group(self) -> None:
        if self.query.group_by is not None:
            if any(_table_calls(item) for item in self.query.select):
                raise StatementError("Table functions cannot be used with aggregations.")
            return
        for item in self.query.select:
            for node in nodes(item):
                if isinstance(node, ast.FunctionCall) and node.name in AGGREGATES:
                    if not self.persistent:
                        return
                    check_grouped(
                        [item.expression for item in self.query.select if isinstance(item, ast.SelectColumn)], ()
                    )
                    call = str(node).replace("(*)", "(ROWTIME)")  # what ksqlDB counts for COUNT(*)
                    raise StatementError(
                        f"CREATE TABLE AS SELECT statement does not support aggregate function [{call}] "
                        "without a GROUP BY clause."
                    )

    def has_aggregates(self) -> bool:
        """Say whether the select list has aggregate functions."""
        return any(isinstance(node, ast.FunctionCall) and node.name in AGGREGATES for node in nodes(self.query.select))

    # ------------------------------------------------------------------ expressions
    def frame_types(self, step: Step) -> dict[str, SqlType]:
        """Return what expressions over a step may name."""
        types = {column.name: column.type for column in step.schema.columns}
        types.update(PSEUDO_TYPES)
        if self.windowed_source:
            types.update(dict.fromkeys(WINDOW_BOUNDS, BIGINT))
        return types

    def bind(self, node: ast.SyntaxExpression, step: Step) -> TypedExpression:
        """Return an expression over a step's columns, with its type."""
        return Binder(self.frame_types(step)).bind(self.typed(node))

    def typed(self, node: Node) -> Node:
        """Return an expression whose CASTs have the types that CREATE TYPE names stand for."""

        def change(node: Any) -> Any:
            return replace(node, type=self.catalog.resolve_type(node.type)) if isinstance(node, ast.Cast) else node

        return rewrite(node, change)

    def filtered(self, step: Step, condition: ast.SyntaxExpression | None) -> Step:
        """Return the step with WHERE applied."""
        if condition is None:
            return step
        resolved = self.scope.resolve(condition, "WHERE")
        return FilterStep(step.schema, step, self.predicate(resolved, "WHERE", Binder(self.frame_types(step))))

    def predicate(self, node: ast.SyntaxExpression, clause: str, binder: Binder) -> TypedExpression:
        """Return the condition of WHERE or HAVING, with its type.

        Raises:
            StatementError: it is not right, or not BOOLEAN.
        """
        try:
            bound = binder.bind(self.typed(node))
        except StatementError as error:
            raise ExpressionError(f"Error in {clause} expression: {error.message}", node) from error
        if bound.type != BOOLEAN:
            words = (
                f"Type error in {clause} expression: Should evaluate to boolean but is {bound} ({bound.type}) instead."
            )
            raise ExpressionError(words, node)
        return bound

    # ------------------------------------------------------------------ select list
    def items(self, step: Step, extra: Iterable[str] = ()) -> list[ResolvedItem]:
        """Return the select list over the frame's names, stars spelled out.

        Args:
            step: what the query selects from.
            extra: further names that may be selected.
        """
        found: list[ResolvedItem] = []
        for item in self.query.select:
            if isinstance(item, ast.SelectAll):
                found += [ResolvedItem(name, ast.ColumnReference(name)) for name in self._star(item, step)]
            elif isinstance(item, ast.SelectStructAll):
                found += self._struct_star(item, step)
            else:
                found.append(self._item(item, extra))
        return found

    def _item(self, item: ast.SelectColumn, extra: Iterable[str]) -> ResolvedItem:
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
        return ResolvedItem(name, resolved)

    def _check_reserved(self, name: str, item: ast.SelectColumn) -> None:
        if name.upper() not in SYSTEM_COLUMNS:
            return
        same = isinstance(item.expression, ast.ColumnReference) and item.expression.name == name.upper()
        if not same:
            raise StatementError(
                f"`{name.upper()}` is a reserved column name. You cannot use it as an alias for a column."
            )
        if self.persistent:
            raise StatementError(
                f"Reserved column name in select: `{name.upper()}`. Please remove or alias the column."
            )

    def _star(self, item: ast.SelectAll, step: Step) -> list[str]:
        if item.qualifier is not None and all(item.qualifier != source.alias for source in self.scope.sources):
            raise unknown_source(item.qualifier)
        if not self.scope.is_join:
            bounds = list(WINDOW_BOUNDS) if self.windowed_source and not self.persistent else []
            return [
                *(column.name for column in step.schema.key),
                *bounds,
                *(column.name for column in step.schema.value),
            ]
        partitioned = shows_pseudo_columns(self.query)
        names = [
            self.scope.frame_name(source.alias, column.name)
            for source in self.scope.sources
            if item.qualifier in (None, source.alias)
            for column in in_star(source.source, partitioned=partitioned)
        ]
        key = self.joins.synthetic_key
        synthetic = [key] if key and item.qualifier is None else []
        return [*synthetic, *names]

    def _struct_star(self, item: ast.SelectStructAll, step: Step) -> list[ResolvedItem]:
        base = self.scope.resolve(item.base, "SELECT")
        type_ = self.bind(base, step).type
        if not isinstance(type_, StructType):
            raise StatementError(f"Cannot use '->*' on {item.base}: it is not a STRUCT but {type_}")
        return [ResolvedItem(name, ast.Dereference(base, name)) for name, _ in type_.fields]

    # ------------------------------------------------------------------ table functions
    def flat_mapped(self, step: Step, items: Iterable[ResolvedItem]) -> tuple[Step, Binder]:
        """Return the step with the select list's table functions as columns, and what binds expressions over it."""
        calls = list(dict.fromkeys(call for item in items for call in _table_calls(self.typed(item.expression))))
        binder = Binder(self.frame_types(step))
        if not calls:
            return step, binder
        if self.first.kind is SourceKind.TABLE:
            raise StatementError("Table source is not supported with table functions")
        if self.query.emit is None and not self.persistent:
            raise StatementError("Pull queries don't support table functions.")
        arrays = [binder.table_function(call) for call in calls]
        columns = [
            Column(f"KSQL_SYNTH_{number}", cast(ArrayType, array.type).element) for number, array in enumerate(arrays)
        ]
        schema = Schema(step.schema.key, (*step.schema.value, *columns))
        added = tuple(SelectItem(column.name, array) for column, array in zip(columns, arrays, strict=True))
        step = FlatMapStep(schema, step, added)
        replacements: dict[ast.SyntaxExpression, TypedExpression] = {
            call: ColumnExpression(column.type, column.name, text=str(call))
            for call, column in zip(calls, columns, strict=True)
        }
        return step, Binder(self.frame_types(step), replacements)

    # ------------------------------------------------------------------ aggregates
    def window(self) -> Window | None:
        """Return the WINDOW clause with its defaults."""
        clause = self.query.window
        if clause is None:
            return None
        kind = WindowKind(clause.kind)
        advance = clause.advance_ms if clause.advance_ms is not None else clause.size_ms
        if clause.size_ms <= 0:
            raise StatementError("Size must be positive")
        if kind is WindowKind.HOPPING and not 0 < advance <= clause.size_ms:
            raise StatementError(
                "Window advancement interval should be more than zero and less than window duration which is "
                f"{clause.size_ms} ms, but given advancement interval is: {advance} ms",
                error_code=SERVER_ERROR,
            )
        grace = clause.grace_ms
        if grace is None:
            # With EMIT FINAL ksqlDB doesn't wait for what may be late.
            grace = 0 if self.query.emit == "FINAL" else max(DEFAULT_RETENTION_MS - clause.size_ms, 0)
        if grace < 0:
            raise StatementError("Grace period must not be negative.")
        if clause.retention_ms is not None and clause.retention_ms < clause.size_ms + grace:
            session = kind is WindowKind.SESSION
            store, least, size = (
                ("session", "the session inactivity gap", "gap") if session else ("window", "its window size", "size")
            )
            raise StatementError(
                f"The retention period of the {store} store Aggregate-Aggregate-Materialize must be no smaller than {least} "
                f"plus the grace period. Got {size}=[{clause.size_ms}], grace=[{grace}], retention=[{clause.retention_ms}]",
                error_code=SERVER_ERROR,
            )
        return Window(kind, clause.size_ms, advance, grace, clause.retention_ms)


def columns_of(items: Iterable[SelectItem]) -> tuple[Column, ...]:
    """Return the columns that select items make."""
    return tuple(Column(item.name, item.expression.type) for item in items)


def check_distinct(items: Iterable[SelectItem]) -> None:
    """Check that no two select items have one name.

    Raises:
        StatementError: two have.
    """
    seen: set[str] = set()
    for item in items:
        if item.name in seen:
            type_ = item.expression.type
            raise StatementError(f"Duplicate value columns found in schema: `{item.name}` {type_}")
        seen.add(item.name)


def aggregate_calls(expression: ast.SyntaxExpression) -> list[ast.FunctionCall]:
    """Return an expression's calls of aggregate functions."""
    return [node for node in nodes(expression) if isinstance(node, ast.FunctionCall) and node.name in AGGREGATES]


def check_grouped(selected: Iterable[ast.SyntaxExpression], group_by: tuple[ast.SyntaxExpression, ...]) -> None:
    """Check that select items need no columns but those that are grouped by or that aggregates take.

    Raises:
        StatementError: some do.
    """
    others = ", ".join(str(expression) for expression in selected if outside_aggregates(expression, group_by))
    if others:
        raise StatementError(
            f"Non-aggregate SELECT expression(s) not part of GROUP BY: {others}\n"  # noqa: S608
            "Either add the column(s) to the GROUP BY or remove them from the SELECT."
        )


def outside_aggregates(
    part: Any, group_by: tuple[ast.SyntaxExpression, ...], parameters: frozenset[str] = frozenset()
) -> list[ast.ColumnReference]:
    """Return column references that are neither grouped by nor inside an aggregate's arguments.

    Args:
        part: an expression, or a part of one.
        group_by: what is grouped by.
        parameters: of the lambdas around it.
    """
    if isinstance(part, tuple):
        return [found for element in part for found in outside_aggregates(element, group_by, parameters)]
    if not isinstance(part, ast.Node) or part in group_by:
        return []
    if isinstance(part, ast.FunctionCall) and part.name in AGGREGATES:
        return []
    if isinstance(part, ast.ColumnReference):
        return [] if part.name in (*WINDOW_BOUNDS, *parameters) else [part]
    if isinstance(part, ast.Lambda):
        return outside_aggregates(part.body, group_by, parameters | frozenset(part.parameters))
    return [
        found for field in fields(part) for found in outside_aggregates(getattr(part, field.name), group_by, parameters)
    ]


def _table_calls(expression: Any) -> list[ast.FunctionCall]:
    """Return an expression's calls of table functions.

    Raises:
        StatementError: one is an argument of another.
    """
    calls = [node for node in nodes(expression) if isinstance(node, ast.FunctionCall) and node.name in TABLE_FUNCTIONS]
    for call in calls:
        inner = next((nested for argument in call.arguments for nested in _table_calls(argument)), None)
        if inner is not None:
            raise StatementError(f"Table functions cannot be nested: {call.name}({inner.name}())")
    return calls
