"""Pull and push queries to plans."""

from __future__ import annotations

from dataclasses import dataclass

from ksqlengine.expressions.base import ColumnExpression
from ksqlengine.language import ast
from ksqlengine.plan.catalog import Catalog, Source
from ksqlengine.plan.expression import Expression
from ksqlengine.plan.steps import ROWOFFSET, ROWPARTITION, FilterStep, ProjectStep, Schema, SelectItem, SourceKind, Step
from ksqlengine.planning.group_by import Aggregation
from ksqlengine.planning.pull_filter import PULL_HELP, check_pull_filter
from ksqlengine.planning.query_base import QueryPlanner, check_distinct, columns_of
from ksqlengine.planning.scope import WINDOW_BOUNDS, nodes
from ksqlengine.types.errors import StatementError


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
        alias: what FROM calls the first source.
        keys: the result's columns that are a table's key (or its windows' bounds): none of a pull query on a stream.
    """

    root: Step
    push: bool
    limit: int | None
    emit_final: bool
    source: Source
    where: Expression | None
    statement: str
    alias: str
    keys: frozenset[str] = frozenset()


class TransientQueryPlanner(QueryPlanner):
    """A SELECT by itself."""

    persistent = False

    def __init__(self, catalog: Catalog, query: ast.Query, text: str) -> None:
        super().__init__(catalog, query)
        self.text = text

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
            (query.group_by is not None or self.has_aggregates(), "GROUP BY clauses"),
            (query.partition_by is not None, "PARTITION BY clauses"),
            (query.having is not None, "HAVING clauses"),
        )
        for broken, what in rules:
            if broken:
                raise StatementError(f"Pull queries don't support {what}.{PULL_HELP}")
        if query.limit is not None and query.limit < 0:
            raise StatementError(f"Pull queries don't support negative integers in the LIMIT clause.{PULL_HELP}")
        for clause, part in (("SELECT", query.select), ("WHERE", query.where)):
            names = sorted(
                {node.name for node in nodes(part) if isinstance(node, ast.ColumnReference)} & {ROWPARTITION, ROWOFFSET}
            )
            if names:
                raise StatementError(
                    f"Pull queries don't support the following columns in {clause} clauses: "
                    f"{', '.join(f'`{name}`' for name in names)}\n{PULL_HELP}"
                )
        step = self.filtered(self.joins.build(), query.where)
        if query.where is not None and self.first.kind is SourceKind.TABLE:
            check_pull_filter(query.where, self.first.schema, windowed=self.first.key_window is not None)
        where = step.predicate if isinstance(step, FilterStep) else None
        root = self._projected(step)
        return TransientPlan(
            root,
            False,
            query.limit,
            False,
            self.first,
            where,
            self.text,
            query.source.alias,
            _keys_shown(root) if self.first.kind is SourceKind.TABLE else frozenset(),
        )

    def _push(self) -> TransientPlan:
        query = self.query
        if query.window is not None and query.group_by is None:
            raise StatementError(f"{query.window.position.located}: WINDOW clause requires a GROUP BY clause.")
        if query.emit == "FINAL" and (query.group_by is None or query.window is None):
            raise StatementError("EMIT FINAL is only supported for windowed aggregations.")
        if query.limit is not None and query.limit < 0:
            raise StatementError(f"Push queries don't support negative integers in the LIMIT clause: {query.limit}.")
        step = self.filtered(self.joins.build(), query.where)
        group_by = query.group_by
        if group_by is None and self.has_aggregates():
            # All rows are one group: that of a constant.
            group_by = (ast.IntegerLiteral(0),)
        if group_by is not None:
            aggregated = Aggregation(self, step, group_by).build()
            root = ProjectStep(Schema((), columns_of(aggregated.items)), aggregated.step, aggregated.items)
        else:
            root = self._projected(step)
        return TransientPlan(
            root,
            True,
            query.limit,
            query.emit == "FINAL",
            self.first,
            None,
            self.text,
            query.source.alias,
            _keys_shown(root),
        )

    def _projected(self, step: Step) -> ProjectStep:
        selected = self.items(step)
        step, binder = self.flat_mapped(step, selected)
        items = tuple(SelectItem(item.name, binder.bind(self.typed(item.expression))) for item in selected)
        check_distinct(items)
        return ProjectStep(Schema((), columns_of(items)), step, items)


def _keys_shown(root: ProjectStep) -> frozenset[str]:
    keys = {*(column.name for column in root.source.schema.key), *WINDOW_BOUNDS}
    return frozenset(
        item.name
        for item in root.items
        if isinstance(item.expression, ColumnExpression) and item.expression.name in keys
    )
