"""What all queries share: sources, joins, filters and select lists."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import fields, replace
from typing import Any, TypeVar, cast

from ksqlengine.expressions.aggregates import AGGREGATES
from ksqlengine.expressions.base import ColumnExpression, TypedExpression
from ksqlengine.expressions.functions.tables import TABLE_FUNCTIONS
from ksqlengine.language import ast
from ksqlengine.plan.catalog import Catalog, Source
from ksqlengine.plan.steps import (
    Column,
    FilterStep,
    FlatMapStep,
    Format,
    JoinKind,
    RepartitionStep,
    Schema,
    SelectItem,
    SourceKind,
    SourceStep,
    Step,
    StreamStreamJoinStep,
    StreamTableJoinStep,
    TableTableJoinStep,
    ThroughTopicStep,
    Window,
    WindowKind,
    driving_path,
)
from ksqlengine.planning.binder import Binder
from ksqlengine.planning.scope import (
    PSEUDO_TYPES,
    SYSTEM_COLUMNS,
    WINDOW_BOUNDS,
    AliasedSource,
    AliasGenerator,
    Item,
    Scope,
    located,
    nodes,
    rewrite,
)
from ksqlengine.planning.with_clause import check_key_columns
from ksqlengine.types.errors import NotSupportedError, StatementError
from ksqlengine.types.sqltypes import BIGINT, BOOLEAN, ArrayType, SqlType, StructType

Node = TypeVar("Node")
DEFAULT_RETENTION_MS = 86_400_000  # of windows without GRACE PERIOD, size included, as in Kafka Streams
JOIN_KEY = "__JOIN_KEY"  # the key column below a join of two sides: what both have in common
SYNTHETIC_KEY = "ROWKEY"  # its name where it is neither side's column
_NUMBERED = [f"{SYNTHETIC_KEY}_{number}" for number in range(1, 100)]
WINDOWED_REPARTITION = "Implicit repartitioning of windowed sources is not supported. See https://github.com/confluentinc/ksql/issues/4385."
_JOIN_NAMES = {
    "INNER": "[INNER] JOIN", "LEFT": "LEFT [OUTER] JOIN", "RIGHT": "RIGHT [OUTER] JOIN", "OUTER": "[FULL] OUTER JOIN",
}  # fmt: skip


class QueryAnalysis:
    """What all queries share: sources, joins, filters, projections, aggregates."""

    persistent = True

    def __init__(self, catalog: Catalog, query: ast.Query, settings: Mapping[str, str] | None = None) -> None:
        self.catalog = catalog
        self.settings = dict(settings or {})
        self.query = query
        self.scope = self._sources()
        self.first = self.scope.sources[0].source
        self.windowed_source = self.first.key_window is not None
        taken = {name for one in self.scope.sources for name in one.types()}
        self.aliases = AliasGenerator(taken)
        self.key_choices: tuple[str, ...] = ()  # frame names of which one must be selected: the join's keys
        self.synthetic_key: str | None = None
        self._joined_by: list[list[ast.SyntaxExpression]] = []  # what join criteria say is equal
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
            if any(_table_calls(item) for item in self.query.select):
                raise StatementError("Table functions cannot be used with aggregations.")
            return
        for item in self.query.select:
            for node in nodes(item):
                if isinstance(node, ast.FunctionCall) and node.name in AGGREGATES:
                    if not self.persistent and self.query.emit is not None:
                        return
                    check_grouped(
                        [one.expression for one in self.query.select if isinstance(one, ast.SelectColumn)], ()
                    )
                    call = str(node).replace("(*)", "(ROWTIME)")  # what ksqlDB counts for COUNT(*)
                    raise StatementError(
                        f"CREATE TABLE AS SELECT statement does not support aggregate function [{call}] "
                        "without a GROUP BY clause."
                    )

    def has_aggregates(self) -> bool:
        """Say whether the select list has aggregate functions."""
        return any(isinstance(node, ast.FunctionCall) and node.name in AGGREGATES for node in nodes(self.query.select))

    # ------------------------------------------------------------------ sources and joins
    def build_source(self) -> Step:
        """Return the step that gives the query's rows before WHERE."""
        if not self.scope.is_join:
            return self._source_step(self.scope.sources[0])
        step: Step = self._source_step(self.scope.sources[0])
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

        used = {node.name for node in nodes(self.query) if isinstance(node, ast.ColumnReference)} if alias else set()
        if self._shows_pseudo_columns():
            used |= set(PSEUDO_TYPES)
        pseudo = tuple(Column(name, type_) for name, type_ in PSEUDO_TYPES.items() if name in used)
        if alias and source.key_window is not None:
            pseudo += tuple(Column(name, BIGINT) for name in WINDOW_BOUNDS)
        schema = Schema(named(source.schema.key), named((*source.schema.value, *pseudo)))
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
        sides = (self.first.kind, right.source.kind)
        if sides == (SourceKind.TABLE, SourceKind.STREAM):
            raise StatementError(
                "Invalid join order: table-stream joins are not supported; only stream-table joins. "
                f"Got {left.source.name} {_JOIN_NAMES[join.kind]} {right.source.name}."
            )
        if sides == (SourceKind.STREAM, SourceKind.TABLE):
            self._check_table_join(join, left, right, left_expression, right_expression)
            return self._stream_table_join(step, join, right, left_expression, right_expression, equal)
        if sides == (SourceKind.STREAM, SourceKind.STREAM) and join.before_ms is None:
            raise StatementError("Stream-Stream joins must have a WITHIN clause specified. None was provided.")
        if sides == (SourceKind.TABLE, SourceKind.TABLE):
            self._check_two_tables(step, join, left, right, left_expression, right_expression, equal)
        return self._two_sided_join(step, join, right, left_expression, right_expression, equal)

    def _check_two_tables(
        self, step: Step, join: ast.JoinedRelation, left: AliasedSource, right: AliasedSource,
        left_expression: ast.SyntaxExpression, right_expression: ast.SyntaxExpression, equal: list[frozenset[str]],
    ) -> None:  # fmt: skip
        if join.before_ms is not None:
            raise StatementError(
                "A window definition was provided for a Table-Table join. These joins are not windowed. "
                "Please drop the window definition (i.e. the WITHIN clause) and try to execute your Table-Table join again."
            )
        keys = [column.name for column in right.source.schema.key]
        named = right_expression.name if isinstance(right_expression, ast.ColumnReference) else None
        if len(keys) != 1 or named != keys[0]:
            raise StatementError(
                "Invalid join condition: table-table joins require to join on the primary key of the right input table. "
                f"Got {self.scope.qualified(left_expression)} = {self.scope.qualified(right_expression)}."
            )
        current = step.schema.key[0].name
        same = next((names for names in equal if current in names), frozenset({current}))
        resolved = self.scope.resolve(left_expression, "JOIN ON")
        if len(step.schema.key) != 1 or not isinstance(resolved, ast.ColumnReference) or resolved.name not in same:
            if join.kind in ("OUTER", "RIGHT"):
                raise StatementError(
                    f"Invalid join type: {'full' if join.kind == 'OUTER' else 'right'}-outer join not supported for "
                    f"foreign-key table-table join. Got {left.source.name} {_JOIN_NAMES[join.kind]} {right.source.name}."
                )
            if self.windowed_source:
                raise StatementError("Foreign-key table-table joins are not supported on windowed tables.")
            raise NotSupportedError("A foreign-key table-table join")

    def _criteria(
        self, join: ast.JoinedRelation, joined: list[AliasedSource], right: AliasedSource
    ) -> tuple[ast.SyntaxExpression, ast.SyntaxExpression, AliasedSource]:
        criteria = join.criteria
        if isinstance(criteria, ast.Logical):
            raise StatementError(
                f"Invalid join condition: joins on multiple conditions are not yet supported. Got "
                f"{self.scope.qualified(criteria)}."
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
        if left.key_window is None or right.key_window is None:
            return
        kinds = left.key_window.kind, right.key_window.kind
        if (kinds[0] is WindowKind.SESSION) is not (kinds[1] is WindowKind.SESSION):
            raise StatementError(
                f"Incompatible windowed sources.\nLeft source: {kinds[0].value}\nRight source: {kinds[1].value}\n"
                "Session windowed sources can only be joined to other session windowed sources, and may still not result in "
                "expected behaviour as session bounds must be an exact match for the join to work\nHopping and tumbling "
                "windowed sources can only be joined to other hopping and tumbling windowed sources"
            )
        if kinds[0] is not kinds[1] or left.key_window.size_ms != right.key_window.size_ms:
            raise StatementError(WINDOWED_REPARTITION)

    def _check_windowed_keys(self, keys: set[str], left: TypedExpression, right: TypedExpression, other: Step) -> None:
        """Check that windowed sources are joined by their keys as they are: nothing gives windows another key."""
        if not self.windowed_source:
            return
        named = [side.name if isinstance(side, ColumnExpression) else None for side in (left, right)]
        formats = {one.source.key_format.name for one in self.scope.sources}
        if named[0] not in keys or [named[1]] != [column.name for column in other.schema.key] or len(formats) > 1:
            raise StatementError(WINDOWED_REPARTITION)

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
            raise StatementError(
                "Invalid join condition: stream-table joins require to join on the table's primary key. "
                f"Got {self.scope.qualified(left_expression)} = {self.scope.qualified(right_expression)}."
            )

    def _stream_table_join(
        self, step: Step, join: ast.JoinedRelation, right: AliasedSource,
        left_expression: ast.SyntaxExpression, right_expression: ast.SyntaxExpression, equal: list[frozenset[str]],
    ) -> tuple[Step, list[frozenset[str]]]:  # fmt: skip
        table = self._source_step(right)
        left_bound = self.bind(self.scope.resolve(left_expression, "JOIN ON"), step)
        right_key = table.schema.key[0]
        if left_bound.type != right_key.type:
            raise StatementError(
                f"Invalid join condition: types don't match. Got {self.scope.qualified(left_expression)}{{{left_bound.type}}} = "
                f"{self.scope.qualified(right_expression)}{{{right_key.type}}}."
            )
        left_name = left_bound.name if isinstance(left_bound, ColumnExpression) else None
        same = next((names for names in equal if left_name in names), frozenset({left_name} if left_name else ()))
        current = {column.name for column in step.schema.key}
        keyed_alike = _key_format_of(step).name == table.key_format.name
        right_bound = ColumnExpression(right_key.type, right_key.name, text=right_key.name)
        self._check_windowed_keys({*current, *same}, left_bound, right_bound, table)
        if not (len(current) == 1 and current <= (same or {left_name}) and keyed_alike):
            step = self._rekeyed_for_join(step, left_bound, table)
            left_name = step.schema.key[0].name
        new_same = frozenset({*same, right_key.name, left_name}) if left_name else frozenset({right_key.name})
        if join.kind == "LEFT":
            new_same -= {right_key.name}
        equal = [*(names for names in equal if left_name not in names), new_same]
        key_name = step.schema.key[0]
        schema = Schema((key_name,), (*step.schema.value, *table.schema.columns))
        kind = JoinKind.LEFT if join.kind == "LEFT" else JoinKind.INNER
        self._note_keys(left_expression, right_expression)
        joined = StreamTableJoinStep(schema, step, table, kind, key_name.name, right_key.name)
        return joined, equal

    def _note_keys(self, left: ast.SyntaxExpression, right: ast.SyntaxExpression) -> None:
        """Note which columns may stand for the join's key: those that the joins so far make equal to it."""
        sides = [self.scope.resolve(side, "JOIN ON") for side in (left, right)]
        chain = next((one for one in self._joined_by if sides[0] in one or sides[1] in one), None)
        if chain is None:
            self._joined_by.append(chain := [])
        chain += [side for side in sides if side not in chain]
        self.synthetic_key = None
        self.key_choices = tuple(side.name for side in chain if isinstance(side, ast.ColumnReference))

    def _two_sided_join(
        self, step: Step, join: ast.JoinedRelation, right: AliasedSource,
        left_expression: ast.SyntaxExpression, right_expression: ast.SyntaxExpression, equal: list[frozenset[str]],
    ) -> tuple[Step, list[frozenset[str]]]:  # fmt: skip
        other = self._source_step(right)
        left_bound = self.bind(self.scope.resolve(left_expression, "JOIN ON"), step)
        right_bound = self.bind(self.scope.resolve(right_expression, "JOIN ON"), other)
        if left_bound.type != right_bound.type:
            raise StatementError(
                f"Invalid join condition: types don't match. Got {self.scope.qualified(left_expression)}{{{left_bound.type}}} = "
                f"{self.scope.qualified(right_expression)}{{{right_bound.type}}}."
            )
        kind = JoinKind(join.kind)
        left_names = {left_bound.name} if isinstance(left_bound, ColumnExpression) else set()
        right_names = {right_bound.name} if isinstance(right_bound, ColumnExpression) else set()
        same = next((names for names in equal if left_names & names), frozenset(left_names))
        own_keys = [column.name for column in step.schema.key]
        alike = next((names for names in equal if own_keys[:1] and own_keys[0] in names), frozenset(own_keys))
        self._check_windowed_keys({*own_keys, *alike}, left_bound, right_bound, other)
        check_key_columns((Column(str(left_bound), left_bound.type),), Format("JSON"))
        self._note_keys(left_expression, right_expression)
        key = JOIN_KEY
        if kind is JoinKind.OUTER or not self.key_choices:
            taken = {*self.scope.types(), *(name for one in self.scope.sources for name in one.types())}
            key = self.synthetic_key = next(name for name in (SYNTHETIC_KEY, *_NUMBERED) if name not in taken)
            self.key_choices = ()
        as_key = {key} | (right_names if not kind.keeps_left else set()) | (same if not kind.keeps_right else set())
        equal = [*(names for names in equal if not left_names & names), frozenset(as_key)]
        values = tuple(column for column in step.schema.columns if column.name not in (JOIN_KEY, self.synthetic_key))
        key_columns = (Column(key, left_bound.type),)
        schema = Schema(key_columns, (*values, *other.schema.columns))
        number = sum(isinstance(below, ast.JoinedRelation) for below in self.query.joins)
        suffix = f"{'L_' * (number - 1 - self.query.joins.index(join))}Join"
        key_format = self.repartition_key_format(key_columns)
        value_format = _nullable(self.internal_value_format())
        if self.first.kind is SourceKind.TABLE:
            return TableTableJoinStep(
                schema, step, other, kind, suffix, key_format, value_format, left_bound, right_bound
            ), equal
        if -(join.before_ms or 0) > (join.after_ms or 0):
            raise StatementError("Window endTimestamp must not be smaller than window startTimestamp.")
        if (join.grace_ms or 0) < 0:
            raise StatementError("Grace period must not be negative.")
        return StreamStreamJoinStep(
            schema, step, other, kind, suffix, key_format, value_format, left_bound, right_bound,
            join.before_ms or 0, join.after_ms or 0, join.grace_ms,
        ), equal  # fmt: skip

    def _rekeyed_for_join(self, step: Step, key: TypedExpression, table: SourceStep) -> Step:
        name = key.name if isinstance(key, ColumnExpression) else JOIN_KEY
        values = tuple(column for column in step.schema.columns if column.name != name)
        suffix = "Join-left-repartition" if not isinstance(step, StreamTableJoinStep) else "L_Join-left-repartition"
        return RepartitionStep(
            Schema((Column(name, key.type),), values),
            step,
            suffix,
            table.key_format,
            self.internal_value_format(),
            (SelectItem(name, key),),
        )

    def internal_value_format(self) -> Format:
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

    def bind(self, node: ast.SyntaxExpression, step: Step) -> TypedExpression:
        """Return an expression over a step's columns, with its type."""
        return Binder(self.frame_types(step)).bind(self.typed(node))

    def typed(self, node: Node) -> Node:
        """Return an expression whose CASTs have the types that CREATE TYPE names stand for."""

        def change(one: Any) -> Any:
            return replace(one, type=self.catalog.resolve_type(one.type)) if isinstance(one, ast.Cast) else one

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
        if self.persistent:
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
        partitioned = self._shows_pseudo_columns()
        names = [
            self.scope.frame_name(one.alias, column.name)
            for one in self.scope.sources
            if item.qualifier in (None, one.alias)
            for column in (_in_partitioned_star(one.source) if partitioned else _in_star(one.source))
        ]
        synthetic = [self.synthetic_key] if self.synthetic_key and item.qualifier is None else []
        return [*synthetic, *names]

    def _shows_pseudo_columns(self) -> bool:
        """Say whether stars stand for pseudo columns too: ksqlDB doesn't know them under a join's names any more."""
        stars = any(isinstance(item, ast.SelectAll) for item in self.query.select)
        return len(self.query.joins) > 0 and self.query.partition_by is not None and stars

    def _struct_star(self, item: ast.SelectStructAll, step: Step) -> list[Item]:
        base = self.scope.resolve(item.base, "SELECT")
        type_ = self.bind(base, step).type
        if not isinstance(type_, StructType):
            raise StatementError(f"Cannot use '->*' on {item.base}: it is not a STRUCT but {type_}")
        return [Item(name, ast.Dereference(base, name)) for name, _ in type_.fields]

    # ------------------------------------------------------------------ table functions
    def flat_mapped(self, step: Step, items: Iterable[Item]) -> tuple[Step, Binder]:
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
            raise StatementError(f"{located(clause.position)}: window size must be larger than zero.")
        if kind is WindowKind.HOPPING and not 0 < advance <= clause.size_ms:
            raise StatementError(
                f"Window advancement interval should be more than zero and less than window duration. Got {advance} ms."
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
                f"plus the grace period. Got {size}=[{clause.size_ms}], grace=[{grace}], retention=[{clause.retention_ms}]"
            )
        return Window(kind, clause.size_ms, advance, grace, clause.retention_ms)

    def repartition_key_format(self, columns: tuple[Column, ...]) -> Format:
        """Return the key format of a repartition topic: the source's where it can hold the key, else JSON's."""
        return _holding(self.first.key_format, columns)


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
        return [found for one in part for found in outside_aggregates(one, group_by, parameters)]
    if not isinstance(part, ast.Node) or part in group_by:
        return []
    if isinstance(part, ast.FunctionCall) and part.name in AGGREGATES:
        return []
    if isinstance(part, ast.ColumnReference):
        return [] if part.name in (*WINDOW_BOUNDS, *parameters) else [part]
    if isinstance(part, ast.Lambda):
        return outside_aggregates(part.body, group_by, parameters | frozenset(part.parameters))
    return [
        found for one in fields(part) for found in outside_aggregates(getattr(part, one.name), group_by, parameters)
    ]


def _table_calls(expression: Any) -> list[ast.FunctionCall]:
    """Return an expression's calls of table functions.

    Raises:
        StatementError: one is an argument of another.
    """
    calls = [node for node in nodes(expression) if isinstance(node, ast.FunctionCall) and node.name in TABLE_FUNCTIONS]
    for call in calls:
        inner = next((one for argument in call.arguments for one in _table_calls(argument)), None)
        if inner is not None:
            raise StatementError(f"Table functions cannot be nested: {call.name}({inner.name}())")
    return calls


def _in_star(source: Source) -> tuple[Column, ...]:
    """Return the columns that a star stands for below a join: of a windowed source its bounds too."""
    bounds = tuple(Column(name, BIGINT) for name in WINDOW_BOUNDS) if source.key_window is not None else ()
    return (*source.schema.key, *bounds, *source.schema.value)


def _in_partitioned_star(source: Source) -> tuple[Column, ...]:
    """Return the same below a join that PARTITION BY follows: keys come last, pseudo columns before them."""
    pseudo = tuple(Column(name, type_) for name, type_ in PSEUDO_TYPES.items())
    return (*source.schema.value, *pseudo, *source.schema.key)


def _key_format_of(step: Step) -> Format:
    """Return how a step's rows are keyed."""
    keyed = next(below for below in driving_path(step) if isinstance(below, SourceStep | ThroughTopicStep))
    return keyed.key_format


def _nullable(format_: Format) -> Format:
    """Return a format for rows of which a part may be missing: JSON where DELIMITED or KAFKA can't tell that."""
    return format_ if format_.name in ("AVRO", "JSON") else Format("JSON")


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
