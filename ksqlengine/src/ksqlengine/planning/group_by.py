"""GROUP BY: the key, the aggregates' calls, HAVING, and what may be selected."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from ksqlengine.expressions.aggregates import AGGREGATES, check_call
from ksqlengine.expressions.base import ColumnExpression, TypedExpression
from ksqlengine.expressions.overloads import FUNCTIONS
from ksqlengine.language import ast
from ksqlengine.plan.steps import (
    ROWOFFSET,
    ROWPARTITION,
    ROWTIME,
    AggregateCall,
    AggregateStep,
    Column,
    FilterStep,
    Format,
    RepartitionStep,
    Schema,
    SelectItem,
    SourceKind,
    Step,
    TableGroupStep,
    Window,
    carried,
)
from ksqlengine.planning.binder import Binder
from ksqlengine.planning.query_base import (
    QueryPlanner,
    aggregate_calls,
    check_distinct,
    check_grouped,
    outside_aggregates,
)
from ksqlengine.planning.scope import PSEUDO_TYPES, WINDOW_BOUNDS, AliasGenerator, joined_words, nodes
from ksqlengine.planning.with_clause import holding
from ksqlengine.types.errors import StatementError
from ksqlengine.types.sqltypes import BIGINT, BOOLEAN, SqlType

_UNDO = "__UNDO"
_OF_A_ROW = {name: PSEUDO_TYPES[name] for name in (ROWPARTITION, ROWOFFSET)} | dict.fromkeys(WINDOW_BOUNDS, BIGINT)
_CARRIED: dict[ast.SyntaxExpression, TypedExpression] = {
    ast.ColumnReference(name): ColumnExpression(type_, carried(name), text=name) for name, type_ in _OF_A_ROW.items()
}  # where a row came from, behind a topic of the query's own


@dataclass(frozen=True)
class Aggregated:
    """An aggregate: its step (HAVING applied), the select items over it, and which of them are keys."""

    step: Step
    items: tuple[SelectItem, ...]
    keys: tuple[SelectItem, ...]
    window: Window | None


class Aggregation:
    """Builds GROUP BY: repartitioning where the key changes, the aggregate, HAVING, and the select list over it."""

    def __init__(self, planner: QueryPlanner, step: Step, group_by: tuple[ast.SyntaxExpression, ...]) -> None:
        self.planner = planner
        self.step = step
        self.window = planner.window()
        self.of_table = planner.first.kind is SourceKind.TABLE
        if self.of_table and self.window is not None:
            raise StatementError("Windowing not supported for table aggregations.")
        self.group_by = tuple(self._grouping(expression) for expression in group_by)
        if not self.group_by:
            raise StatementError("GROUP BY needs at least one expression.")
        for place, expression in enumerate(self.group_by):
            if expression in self.group_by[:place]:
                raise StatementError(f"Duplicate GROUP BY expression: {planner.scope.qualified(group_by[place])}")
        # Bounds of this query's own windows; below a join ksqlDB doesn't know them.
        own = WINDOW_BOUNDS if self.window is not None and not planner.scope.is_join else ()
        self.items = planner.items(step, own)
        self.having = (
            planner.scope.resolve(planner.query.having, "HAVING", own) if planner.query.having is not None else None
        )
        self.calls: dict[ast.FunctionCall, AggregateCall] = {}

    def _grouping(self, expression: ast.SyntaxExpression) -> ast.SyntaxExpression:
        if self.planner.first.key_window is None:
            self._check_bounds(expression)
        resolved = self.planner.scope.resolve(expression, "GROUP BY")
        for node in nodes(resolved):
            if isinstance(node, ast.FunctionCall) and node.name in AGGREGATES:
                raise StatementError(
                    f"GROUP BY does not support aggregate functions: {node.name} is an aggregate function."
                )
        return resolved

    def build(self) -> Aggregated:
        """Return the aggregate."""
        used = [node for item in self.items for node in aggregate_calls(item.expression)]
        used += aggregate_calls(self.having) if self.having is not None else []
        self._check_calls(used)
        self._check_items()
        names = self._key_names()
        keyed, keys = self._keyed(names)
        binder = Binder(self.planner.frame_types(keyed), _CARRIED if keyed is not self.step else {})
        for node in used:
            if node not in self.calls:
                self.calls[node] = self._call(node, binder)
        outputs = tuple(Column(call.output, call.type) for call in self.calls.values())
        schema = Schema(tuple(Column(name, type_) for name, type_ in keys), outputs)
        emit_final = self.planner.query.emit == "FINAL"
        key_names = tuple(name for name, _ in keys)
        undo = _UNDO if self.of_table else None
        step: Step = AggregateStep(schema, keyed, key_names, tuple(self.calls.values()), self.window, emit_final, undo)
        if undo is not None:
            self._check_undo()
        over = self._binder_over(schema, keys)
        if self.having is not None:
            step = FilterStep(schema, step, self.planner.predicate(self.having, "HAVING", over))
        items = tuple(SelectItem(item.name, over.bind(self.planner.typed(item.expression))) for item in self.items)
        check_distinct(items)
        key_items = tuple(
            SelectItem(name, ColumnExpression(type_, key, text=str(expression)))
            for name, (key, type_), expression in zip(names, keys, self.group_by, strict=True)
        )
        # A windowed stream's keys stay windowed only where they stay its keys.
        window = (
            None
            if self.of_table
            else self.window or (None if keyed is not self.step else self.planner.first.key_window)
        )
        return Aggregated(step, items, key_items, window)

    def _key_names(self) -> list[str]:
        """Return the result's names of the grouping expressions: as selected, else their own."""
        names = []
        for expression in self.group_by:
            selected = [item.name for item in self.items if item.expression == expression]
            if len(selected) > 1:
                raise StatementError(
                    f"The projection contains a key column more than once: {joined_words([f'`{name}`' for name in selected])}.\n"
                    "Each key column must only be in the projection once. If you intended to copy the key into the value, then "
                    "consider using the `AS_VALUE` function to indicate which key reference should be copied."
                )
            if selected:
                names.append(selected[0])
            elif isinstance(expression, ast.ColumnReference):
                names.append(expression.name)
            else:
                names.append(self.planner.aliases.name(expression))
        return names

    def _keyed(self, names: list[str]) -> tuple[Step, list[tuple[str, SqlType]]]:
        """Return the input keyed by the grouping, and the key columns."""
        step = self.step
        current = [column.name for column in step.schema.key]
        wanted = [
            expression.name if isinstance(expression, ast.ColumnReference) else None for expression in self.group_by
        ]
        if current == wanted and not self.of_table:
            return step, [(column.name, column.type) for column in step.schema.key]
        bound = [self.planner.bind(expression, step) for expression in self.group_by]
        generator = AliasGenerator([*self.planner.frame_types(step)])
        columns = [
            key.name if isinstance(key, ColumnExpression) and key.name not in PSEUDO_TYPES else generator.column()
            for key in bound
        ]
        keys = tuple(SelectItem(name, key) for name, key in zip(columns, bound, strict=True))
        key_columns = tuple(Column(name, key.type) for name, key in zip(columns, bound, strict=True))
        values = self._needed_values(step, set(columns))
        key_format = holding(self.planner.first.key_format, key_columns)
        suffix, value_format = "Aggregate-GroupBy-repartition", self.planner.first.value_format.bare()
        grouped = [(column.name, column.type) for column in key_columns]
        if self.of_table:
            schema = Schema(key_columns, (*values, Column(_UNDO, BOOLEAN)))
            if value_format.name not in ("AVRO", "JSON"):
                value_format = Format("JSON")
            return TableGroupStep(schema, step, suffix, key_format, value_format, keys, _UNDO), grouped
        return RepartitionStep(Schema(key_columns, values), step, suffix, key_format, value_format, keys), grouped

    def _check_undo(self) -> None:
        """Check that the aggregates of a table can take a row out again.

        Raises:
            StatementError: one can't.
        """
        lasting = [
            *dict.fromkeys(call.function for call in self.calls.values() if not AGGREGATES[call.function].undoes)
        ]
        if lasting:
            raise StatementError(
                f"The aggregation function{'s' if len(lasting) > 1 else ''} {joined_words(lasting)} cannot be applied to a table "
                "source, only to a stream source."
            )

    def _needed_values(self, step: Step, keys: set[str]) -> tuple[Column, ...]:
        """Return the columns that the aggregates' arguments read: the repartition topic holds no others."""
        binder = Binder(self.planner.frame_types(step))
        expressions: list[ast.SyntaxExpression] = [item.expression for item in self.items]
        expressions += [self.having] if self.having is not None else []
        used: set[str] = set()
        for expression in expressions:
            for node in aggregate_calls(expression):
                for argument in node.arguments:
                    used |= binder.bind(self.planner.typed(argument)).columns
        pseudo = tuple(Column(carried(name), type_) for name, type_ in _OF_A_ROW.items() if name in used)
        own = tuple(column for column in step.schema.columns if column.name in used and column.name not in keys)
        return (*own, *pseudo)

    def _call(self, node: ast.FunctionCall, binder: Binder) -> AggregateCall:
        function = AGGREGATES[node.name]
        if function.nested and self.planner.first.value_format.name == "DELIMITED":
            raise StatementError(
                "One of the functions used in the statement has an intermediate type that the value format can not handle. "
                "Please remove the function or change the format."
            )
        count = function.count_arguments(len(node.arguments))
        arguments = [binder.bind(self.planner.typed(argument)) for argument in node.arguments[:count]]
        constants: list[Any] = []
        for argument in node.arguments[count:]:
            value = getattr(argument, "value", None)
            if not isinstance(argument, ast.IntegerLiteral | ast.BooleanLiteral):
                raise StatementError(
                    f"Parameter {count + len(constants) + 1} passed to function {node.name} must be a literal constant, "
                    f"but was expression: '{argument}'"
                )
            constants.append(value)
        shown = ", ".join(str(argument.type) for argument in arguments)
        type_ = check_call(node.name, [argument.type for argument in arguments], constants, shown)
        limit = int(self.planner.settings.get(f"ksql.functions.{node.name.lower()}.limit", -1))
        return AggregateCall(
            f"KSQL_AGG_VARIABLE_{len(self.calls)}",
            node.name,
            tuple(arguments),
            type_,
            tuple(constants),
            limit if limit >= 0 else None,
        )

    def _check_bounds(self, expression: ast.SyntaxExpression) -> None:
        if self.window is None:
            return
        for node in nodes(expression):
            if isinstance(node, ast.ColumnReference) and node.name in WINDOW_BOUNDS:
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
        if self.window is not None or self.planner.windowed_source:
            types.update(dict.fromkeys(WINDOW_BOUNDS, BIGINT))
        return Binder(types, replacements)

    # ------------------------------------------------------------------ what may be selected
    def _check_calls(self, used: list[ast.FunctionCall]) -> None:
        """Check that functions are known, and that there are aggregates, none of them in another."""
        for expression in (*(item.expression for item in self.items), self.having):
            for node in nodes(expression):
                if isinstance(node, ast.FunctionCall) and node.name not in AGGREGATES and node.name not in FUNCTIONS:
                    raise StatementError(f"Can't find any functions with the name '{node.name}'")
        if self.having is not None:
            self._check_bounds(self.having)
        for node in used:
            for argument in node.arguments:
                nested = aggregate_calls(argument)
                if nested:
                    raise StatementError(f"Aggregate functions can not be nested: {node.name}({nested[0].name}())")
                self._check_bounds(argument)
        if not used:
            raise StatementError("GROUP BY requires aggregate functions in either the SELECT or HAVING clause.")

    def _check_items(self) -> None:
        check_grouped([item.expression for item in self.items], self.group_by)
        if self.having is not None:
            others = outside_aggregates(self.having, self.group_by)
            if others:
                raise StatementError(
                    f"Non-aggregate HAVING expression not part of GROUP BY: {', '.join(map(str, others))}\n"
                    "Consider switching the HAVING clause to a WHERE clause before the GROUP BY."
                )
