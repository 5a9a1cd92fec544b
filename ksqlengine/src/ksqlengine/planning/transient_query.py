"""Pull and push queries to plans.

What ksqlDB takes as the WHERE clause of a pull query on a table follows its ``QueryFilterNode``, ``PullQueryRewriter`` and
``LogicRewriter``: the condition is written as alternatives (OR) of comparisons and LIKEs that all hold (AND). Anything else is
refused, also where it could be computed: NULLs can't be asked for.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from typing import cast

from ksqlengine.expressions.base import ColumnExpression
from ksqlengine.language import ast
from ksqlengine.plan.catalog import Catalog, Source
from ksqlengine.plan.expression import Expression
from ksqlengine.plan.steps import (
    ROWOFFSET,
    ROWPARTITION,
    WINDOWEND,
    WINDOWSTART,
    FilterStep,
    ProjectStep,
    Schema,
    SelectItem,
    SourceKind,
    Step,
)
from ksqlengine.planning.group_by import Aggregation
from ksqlengine.planning.query_base import QueryPlanner, check_distinct, columns_of
from ksqlengine.planning.scope import WINDOW_BOUNDS, nodes, outside_lambdas
from ksqlengine.types.errors import NotSupportedError, StatementError
from ksqlengine.types.sqltypes import STRING

PULL_HELP = " See https://cnfl.io/queries for more info.\nAdd EMIT CHANGES if you intended to issue a push query."
_BOUNDS = (WINDOWSTART, WINDOWEND)
_TYPE_NAMES = {
    "=": "EQUAL", "<>": "NOT_EQUAL", "<": "LESS_THAN", "<=": "LESS_THAN_OR_EQUAL", ">": "GREATER_THAN",
    ">=": "GREATER_THAN_OR_EQUAL", "IS DISTINCT FROM": "IS_DISTINCT_FROM",
}  # fmt: skip
_SIDES = {"=": "EQUAL", "<": "LESS_THAN", "<=": "LESS_THAN", ">": "GREATER_THAN", ">=": "GREATER_THAN"}
_MIRRORED = {"LESS_THAN": "GREATER_THAN", "GREATER_THAN": "LESS_THAN"}

_Leaves = tuple[ast.SyntaxExpression, ...]


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
        scans: whether a pull query reads all of its table, as its condition names no keys.
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
    scans: bool = False


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
        scans = self.first.kind is SourceKind.TABLE
        if query.where is not None and scans:
            scans = not check_pull_filter(query.where, self.first.schema, windowed=self.first.key_window is not None)
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
            scans,
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


# ---------------------------------------------------------------------------------------------------- WHERE of pull queries
def check_pull_filter(condition: ast.SyntaxExpression, schema: Schema, *, windowed: bool) -> bool:
    """Check a pull query's condition, whose types are right.

    Args:
        condition: over the table's columns.
        schema: the table's.
        windowed: whether its key has a window.

    Returns:
        Whether it names the keys to look up; otherwise all of the table is read.

    Raises:
        StatementError: ksqlDB can't look rows up by it.
        NotSupportedError: ksqlDB computes something else than what is written.
    """
    plain = outside_lambdas(condition, lambda node: replace(node, qualifier=None))
    alternatives = list(_alternatives(_simple(plain)))
    if any(_needs_scan(leaves, schema, windowed) for leaves in alternatives):
        return False
    for leaves in alternatives:
        _check_keys(leaves, schema)
        if windowed:
            _check_bounds(leaves)
    return True


def check_queryable(source: Source) -> None:
    """Check that pull queries may read a stream or table.

    Raises:
        StatementError: it is a table that no query keeps.
    """
    if source.kind is SourceKind.TABLE and source.query_id is None and not source.read_only:
        remedy = " ".join(("CREATE TABLE", f"QUERYABLE_{source.name}", "AS SELECT * FROM", source.name))
        raise StatementError(
            f"The `{source.name}` table isn't queryable. To derive a queryable table, you can do '{remedy}'.{PULL_HELP}"
        )


def _needs_scan(leaves: _Leaves, schema: Schema, windowed: bool) -> bool:
    """Check one alternative, and say whether all of the table is read for it."""
    alternative = _Alternative(schema, windowed)
    for leaf in leaves:
        alternative.take(leaf)
    return alternative.scan or alternative.keys != {column.name for column in schema.key}


@dataclass
class _Alternative:
    """What the comparisons of one alternative come to.

    Attributes:
        scan: whether one of them can't be looked up.
        keys: key columns that are compared with a value.
    """

    schema: Schema
    windowed: bool
    scan: bool = False
    keys: set[str] = field(default_factory=set)

    def take(self, leaf: ast.SyntaxExpression) -> None:
        """Check one comparison or LIKE."""
        if isinstance(leaf, ast.Like):
            self._like(leaf)
        elif isinstance(leaf, ast.Comparison):
            self._comparison(leaf)
        else:
            raise _refused(f"Unsupported expression in WHERE clause: {leaf}")

    def _like(self, leaf: ast.Like) -> None:
        if not isinstance(leaf.value, ast.ColumnReference):
            self.scan = True
            return
        found = {column.name: column.type for column in self.schema.columns}.get(leaf.value.name)
        if found != STRING:
            shown = found.name if found is not None else leaf.value.name
            raise _refused(
                f"The column type for Like condition must be VARCHAR. The column type is {shown}",
                windowed=self.windowed,
            )

    def _comparison(self, leaf: ast.Comparison) -> None:
        column, other, _ = _sides(leaf)
        if column is None or any(isinstance(node, ast.ColumnReference) for node in nodes(other)):
            self.scan = True
        elif column in _BOUNDS:
            if leaf.operator not in _SIDES:
                raise _refused(f"Unsupported `{column}` bounds: {_TYPE_NAMES[leaf.operator]}", windowed=True)
        elif column in {key.name for key in self.schema.key}:
            self.scan |= leaf.operator not in _SIDES
            self.keys.add(column)


def _check_keys(leaves: _Leaves, schema: Schema) -> None:
    keys = {column.name for column in schema.key}
    for leaf in leaves:
        if isinstance(leaf, ast.Comparison):
            column, other, _ = _sides(leaf)
            if column in keys and isinstance(other, ast.NullLiteral):
                raise StatementError(f"Primary key columns can not be NULL: {leaf}")


def _check_bounds(leaves: _Leaves) -> None:
    """Refuse bounds of windows that are given twice, or beside the exact one."""
    seen: dict[str, set[str]] = {name: set() for name in _BOUNDS}
    for leaf in leaves:
        if not isinstance(leaf, ast.Comparison):
            continue
        column, _, mirrored = _sides(leaf)
        if column not in seen:
            continue
        side = _SIDES[leaf.operator]
        side = _MIRRORED.get(side, side) if mirrored else side
        repeated = side in seen[column]
        seen[column].add(side)
        if "EQUAL" in seen[column] and len(seen[column]) > 1:
            raise _refused(f"`{leaf}` cannot be combined with other `{column}` bounds", windowed=True)
        if repeated:
            raise _refused(f"Duplicate `{column}` bounds on: {side}", windowed=True)


def _sides(leaf: ast.Comparison) -> tuple[str | None, ast.SyntaxExpression, bool]:
    """Return the column that is compared (the right one of two), with what, and whether it stands to the right."""
    if isinstance(leaf.right, ast.ColumnReference):
        return leaf.right.name, leaf.left, True
    if isinstance(leaf.left, ast.ColumnReference):
        return leaf.left.name, leaf.right, False
    return None, leaf.right, False


# ---------------------------------------------------------------------------------------------------- normal form
def _simple(node: ast.SyntaxExpression, negated: bool = False) -> ast.SyntaxExpression:
    """Return a condition without BETWEEN and IN, NOT standing before single terms only."""
    if isinstance(node, ast.Not):
        return _simple(node.operand, not negated)
    if isinstance(node, ast.Logical):
        operator = {"AND": "OR", "OR": "AND"}[node.operator] if negated else node.operator
        return ast.Logical(operator, _simple(node.left, negated), _simple(node.right, negated))
    if isinstance(node, ast.Between):
        low, high = ast.Comparison(">=", node.value, node.low), ast.Comparison("<=", node.value, node.high)
        return _simple(ast.Logical("AND", low, high), negated)
    if isinstance(node, ast.InList):
        # Alternatives that differ in the value only are checked alike: a NULL stands for all where there is one.
        value = next((item for item in node.items if isinstance(item, ast.NullLiteral)), node.items[0])
        return _simple(ast.Comparison("=", node.value, value), negated)
    if negated and isinstance(node, ast.Like):
        raise NotSupportedError("NOT LIKE in a pull query, where ksqlDB leaves the NOT out,")
    return ast.Not(node) if negated else node


def _alternatives(node: ast.SyntaxExpression) -> Iterator[_Leaves]:
    """Yield the alternatives of a condition, each as terms that all must hold."""
    if not isinstance(node, ast.Logical):
        yield (node,)
    elif node.operator == "OR":
        yield from _alternatives(node.left)
        yield from _alternatives(node.right)
    else:
        right = list(_alternatives(node.right))
        for terms in _alternatives(node.left):
            yield from (cast(_Leaves, (*terms, *others)) for others in right)


_BOUNDS_HELP = (
    "\n - (optionally) limits the time bounds of the windowed table.\n"
    "\t Bounds on [`WINDOWSTART`, `WINDOWEND`] are supported\n"
    "\t Supported operators are [EQUAL, GREATER_THAN, GREATER_THAN_OR_EQUAL, LESS_THAN, LESS_THAN_OR_EQUAL]"
)
_WHERE_HELP = (
    "\nPull queries require a WHERE clause that:\n"
    " - includes a key equality expression, e.g. `SELECT * FROM X WHERE <key-column> = Y;`.\n"
    " - in the case of a multi-column key, is a conjunction of equality expressions that cover all key columns.\n"
    " - to support range expressions, e.g.,  SELECT * FROM X WHERE <key-column> < Y;`, range scans need to be enabled by "
    "setting ksql.query.pull.range.scan.enabled=true"
)
_SCAN_HELP = (
    "\nIf more flexible queries are needed, , table scans can be enabled by setting "
    "ksql.query.pull.table.scan.enabled=true."
)


def _refused(reason: str, *, windowed: bool = False) -> StatementError:
    return StatementError(f"{reason}. {PULL_HELP}{_WHERE_HELP}{_BOUNDS_HELP if windowed else ''}{_SCAN_HELP}")
