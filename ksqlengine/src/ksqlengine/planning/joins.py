"""FROM: a query's sources, and their joins from left to right."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from ksqlengine.expressions.base import ColumnExpression, TypedExpression
from ksqlengine.language import ast
from ksqlengine.plan.catalog import Source
from ksqlengine.plan.steps import (
    Column,
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
    WindowKind,
    driving_path,
)
from ksqlengine.planning.scope import PSEUDO_TYPES, WINDOW_BOUNDS, AliasedSource, Scope, nodes
from ksqlengine.planning.with_clause import check_key_columns, holding
from ksqlengine.types.errors import NotSupportedError, StatementError
from ksqlengine.types.sqltypes import BIGINT

JOIN_KEY = "__JOIN_KEY"  # the key column below a join of two sides: what both have in common
SYNTHETIC_KEY = "ROWKEY"  # its name where it is neither side's column
WINDOWED_REPARTITION = "Implicit repartitioning of windowed sources is not supported. See https://github.com/confluentinc/ksql/issues/4385."
_NUMBERED = [f"{SYNTHETIC_KEY}_{number}" for number in range(1, 100)]
_JOIN_NAMES = {
    "INNER": "[INNER] JOIN", "LEFT": "LEFT [OUTER] JOIN", "RIGHT": "RIGHT [OUTER] JOIN", "OUTER": "[FULL] OUTER JOIN",
}  # fmt: skip

Bind = Callable[[ast.SyntaxExpression, Step], TypedExpression]


@dataclass(frozen=True)
class _Join:
    """A JOIN clause taken apart.

    Attributes:
        clause: as it was written.
        left: the source that the left expression reads, one of those that are joined already.
        right: the source that is added.
        left_expression: one side of ON.
        right_expression: the other side, over the added source.
    """

    clause: ast.JoinedRelation
    left: AliasedSource
    right: AliasedSource
    left_expression: ast.SyntaxExpression
    right_expression: ast.SyntaxExpression

    @property
    def sources(self) -> str:
        """Both sources and the kind of join, as messages show them."""
        return f"{self.left.source.name} {_JOIN_NAMES[self.clause.kind]} {self.right.source.name}"

    @property
    def is_on_primary_key(self) -> bool:
        """Whether the right side is the added source's whole key."""
        keys = [column.name for column in self.right.source.schema.key]
        named = self.right_expression.name if isinstance(self.right_expression, ast.ColumnReference) else None
        return keys == [named]


class JoinPlanner:
    """Builds the step that gives a query's rows before WHERE.

    Attributes:
        key_choices: frame names of which one must be selected: what the joins found equal to their key.
        synthetic_key: name of the key column where no column of a source is the key.
    """

    def __init__(self, query: ast.Query, scope: Scope, bind: Bind) -> None:
        """Prepare.

        Args:
            query: the query.
            scope: its sources.
            bind: gives an expression over a step's columns with its type.
        """
        self.key_choices: tuple[str, ...] = ()
        self.synthetic_key: str | None = None
        self._query = query
        self._scope = scope
        self._bind = bind
        self._first = scope.sources[0].source
        self._joined_by: list[list[ast.SyntaxExpression]] = []  # what join criteria say is equal
        self._equal: list[frozenset[str]] = []  # sets of the frame's columns that have one value in each row

    def build(self) -> Step:
        """Return the step.

        Raises:
            StatementError: a join is not right, in ksqlDB's words.
        """
        first, *others = self._scope.sources
        step: Step = self._source_step(first)
        joined = [first]
        for clause, right in zip(self._query.joins, others, strict=True):
            step = self._joined(step, self._criteria(clause, joined, right))
            joined.append(right)
        return step

    def _source_step(self, aliased: AliasedSource) -> SourceStep:
        source, alias = aliased.source, aliased.alias if self._scope.is_join else None

        def frame_name(column: str) -> str:
            return self._scope.frame_name(aliased.alias, column)

        def named(columns: tuple[Column, ...]) -> tuple[Column, ...]:
            return tuple(Column(frame_name(column.name), column.type) for column in columns)

        used = {node.name for node in nodes(self._query) if isinstance(node, ast.ColumnReference)} if alias else set()
        if shows_pseudo_columns(self._query):
            used |= set(PSEUDO_TYPES)
        pseudo = tuple(Column(name, type_) for name, type_ in PSEUDO_TYPES.items() if name in used)
        if alias and source.key_window is not None:
            pseudo += tuple(Column(name, BIGINT) for name in WINDOW_BOUNDS)
        schema = Schema(named(source.schema.key), named((*source.schema.value, *pseudo)))
        headers = tuple((frame_name(name), key) for name, key in source.headers)
        timestamp = frame_name(source.timestamp_column) if source.timestamp_column is not None else None
        return SourceStep(
            schema, source.name, source.kind, source.topic, source.key_format, source.value_format, timestamp,
            source.timestamp_format, source.key_window, alias, headers,
        )  # fmt: skip

    # ------------------------------------------------------------------ ON
    def _criteria(self, clause: ast.JoinedRelation, joined: list[AliasedSource], right: AliasedSource) -> _Join:
        criteria = clause.criteria
        if isinstance(criteria, ast.Logical):
            raise StatementError(
                f"Invalid join condition: joins on multiple conditions are not yet supported. Got "
                f"{self._scope.qualified(criteria)}."
            )
        if not isinstance(criteria, ast.Comparison):
            raise StatementError(f"Unsupported join expression: {criteria}")
        if criteria.operator != "=":
            raise StatementError("Only equality join criteria is supported.")
        scope = Scope((*joined, right))
        first, second = (self._side(side, criteria, scope) for side in (criteria.left, criteria.right))
        if first is second:
            raise StatementError(
                "Each side of the join must reference exactly one source and not the same source. "
                f"Left side references `{first.alias}` and right references `{second.alias}`"
            )
        if second is right:
            return _Join(clause, first, right, criteria.left, criteria.right)
        if first is right:
            return _Join(clause, second, right, criteria.right, criteria.left)
        raise StatementError(
            f"A join criteria is expected to reference the source (`{right.alias}`) in the FROM clause, instead the right "
            f"source references `{second.alias}` and the left source references `{first.alias}`"
        )

    @staticmethod
    def _side(side: ast.SyntaxExpression, criteria: ast.Comparison, scope: Scope) -> AliasedSource:
        """Return the only source that a side of ON reads."""
        scope.resolve(side, "JOIN ON")
        used = {
            source.alias: source
            for node in nodes(side)
            if isinstance(node, ast.ColumnReference)
            for source in scope.sources_of(node)
        }
        if len(used) != 1:
            raise StatementError(
                f"Invalid comparison expression '{side}' in join '{criteria}'. Each side of the join comparision must "
                "contain references from exactly one source."
            )
        return next(iter(used.values()))

    # ------------------------------------------------------------------ what can be joined
    def _joined(self, step: Step, join: _Join) -> Step:
        _check_windowing(join)
        sides = (self._first.kind, join.right.source.kind)
        if sides == (SourceKind.TABLE, SourceKind.STREAM):
            raise StatementError(
                "Invalid join order: table-stream joins are not supported; only stream-table joins. "
                f"Got {join.sources}."
            )
        if sides == (SourceKind.STREAM, SourceKind.TABLE):
            self._check_table_join(join)
            return self._stream_table_join(step, join)
        if sides == (SourceKind.STREAM, SourceKind.STREAM) and join.clause.before_ms is None:
            raise StatementError("Stream-Stream joins must have a WITHIN clause specified. None was provided.")
        if sides == (SourceKind.TABLE, SourceKind.TABLE):
            self._check_two_tables(step, join)
        return self._two_sided_join(step, join)

    def _check_table_join(self, join: _Join) -> None:
        if join.clause.kind == "OUTER":
            raise StatementError(
                f"Invalid join type: full-outer join not supported for stream-table join. Got {join.sources}."
            )
        if join.clause.kind == "RIGHT":
            raise StatementError("Invalid join type encountered: RIGHT [OUTER] JOIN")
        if join.clause.before_ms is not None:
            raise StatementError(
                "A window definition was provided for a Stream-Table join. These joins are not windowed. "
                "Please drop the window definition (ie. the WITHIN clause) and try to execute your join again."
            )
        if not join.is_on_primary_key:
            raise StatementError(
                "Invalid join condition: stream-table joins require to join on the table's primary key. "
                f"Got {self._equality(join)}."
            )

    def _check_two_tables(self, step: Step, join: _Join) -> None:
        if join.clause.before_ms is not None:
            raise StatementError(
                "A window definition was provided for a Table-Table join. These joins are not windowed. "
                "Please drop the window definition (i.e. the WITHIN clause) and try to execute your Table-Table join again."
            )
        if not join.is_on_primary_key:
            raise StatementError(
                "Invalid join condition: table-table joins require to join on the primary key of the right input table. "
                f"Got {self._equality(join)}."
            )
        current = step.schema.key[0].name
        same = next((names for names in self._equal if current in names), frozenset({current}))
        resolved = self._scope.resolve(join.left_expression, "JOIN ON")
        if len(step.schema.key) == 1 and isinstance(resolved, ast.ColumnReference) and resolved.name in same:
            return
        if join.clause.kind in ("OUTER", "RIGHT"):
            raise StatementError(
                f"Invalid join type: {'full' if join.clause.kind == 'OUTER' else 'right'}-outer join not supported for "
                f"foreign-key table-table join. Got {join.sources}."
            )
        if self._first.key_window is not None:
            raise StatementError("Foreign-key table-table joins are not supported on windowed tables.")
        raise NotSupportedError("A foreign-key table-table join")

    def _check_windowed_keys(self, keys: set[str], left: TypedExpression, right: TypedExpression, other: Step) -> None:
        """Check that windowed sources are joined by their keys as they are: nothing gives windows another key."""
        if self._first.key_window is None:
            return
        left_name, right_name = (side.name if isinstance(side, ColumnExpression) else None for side in (left, right))
        formats = {source.source.key_format.name for source in self._scope.sources}
        if left_name not in keys or [right_name] != [column.name for column in other.schema.key] or len(formats) > 1:
            raise StatementError(WINDOWED_REPARTITION)

    def _check_types(self, join: _Join, left: TypedExpression, right: TypedExpression) -> None:
        if left.type != right.type:
            raise StatementError(
                "Invalid join condition: types don't match. "
                f"Got {self._scope.qualified(join.left_expression)}{{{left.type}}} = "
                f"{self._scope.qualified(join.right_expression)}{{{right.type}}}."
            )

    def _equality(self, join: _Join) -> str:
        return f"{self._scope.qualified(join.left_expression)} = {self._scope.qualified(join.right_expression)}"

    # ------------------------------------------------------------------ the joins' steps
    def _stream_table_join(self, step: Step, join: _Join) -> Step:
        table = self._source_step(join.right)
        left = self._bind(self._scope.resolve(join.left_expression, "JOIN ON"), step)
        table_key = table.schema.key[0]
        right = ColumnExpression(table_key.type, table_key.name, text=table_key.name)
        self._check_types(join, left, right)
        left_name = left.name if isinstance(left, ColumnExpression) else None
        same = next((names for names in self._equal if left_name in names), frozenset({left_name} if left_name else ()))
        current = {column.name for column in step.schema.key}
        self._check_windowed_keys({*current, *same}, left, right, table)
        keyed_alike = _key_format_of(step).name == table.key_format.name
        if not (len(current) == 1 and current <= (same or {left_name}) and keyed_alike):
            step = self._rekeyed(step, left, table)
            left_name = step.schema.key[0].name
        new_same = frozenset({*same, table_key.name, left_name}) if left_name else frozenset({table_key.name})
        if join.clause.kind == "LEFT":
            new_same -= {table_key.name}
        self._equal = [*(names for names in self._equal if left_name not in names), new_same]
        key = step.schema.key[0]
        schema = Schema((key,), (*step.schema.value, *table.schema.columns))
        kind = JoinKind.LEFT if join.clause.kind == "LEFT" else JoinKind.INNER
        self._note_keys(join)
        return StreamTableJoinStep(schema, step, table, kind, key.name, table_key.name)

    def _rekeyed(self, step: Step, key: TypedExpression, table: SourceStep) -> Step:
        """Return a stream's rows keyed by what they are joined with a table by."""
        name = key.name if isinstance(key, ColumnExpression) else JOIN_KEY
        values = tuple(column for column in step.schema.columns if column.name != name)
        suffix = "Join-left-repartition" if not isinstance(step, StreamTableJoinStep) else "L_Join-left-repartition"
        schema = Schema((Column(name, key.type),), values)
        items = (SelectItem(name, key),)
        return RepartitionStep(schema, step, suffix, table.key_format, self._first.value_format.bare(), items)

    def _two_sided_join(self, step: Step, join: _Join) -> Step:
        clause, other = join.clause, self._source_step(join.right)
        left = self._bind(self._scope.resolve(join.left_expression, "JOIN ON"), step)
        right = self._bind(self._scope.resolve(join.right_expression, "JOIN ON"), other)
        self._check_types(join, left, right)
        keys = [column.name for column in step.schema.key]
        alike = next((names for names in self._equal if keys[:1] and keys[0] in names), frozenset(keys))
        self._check_windowed_keys({*keys, *alike}, left, right, other)
        check_key_columns((Column(str(left), left.type),), Format("JSON"))
        self._note_keys(join)
        kind = JoinKind(clause.kind)
        key = self._two_sided_key(kind)
        self._note_equal(key, kind, left, right)
        values = tuple(column for column in step.schema.columns if column.name not in (JOIN_KEY, self.synthetic_key))
        key_columns = (Column(key, left.type),)
        schema = Schema(key_columns, (*values, *other.schema.columns))
        suffix = f"{'L_' * (len(self._query.joins) - 1 - self._query.joins.index(clause))}Join"
        key_format = holding(self._first.key_format, key_columns)
        value_format = _nullable(self._first.value_format.bare())
        if self._first.kind is SourceKind.TABLE:
            return TableTableJoinStep(schema, step, other, kind, suffix, key_format, value_format, left, right)
        if -(clause.before_ms or 0) > (clause.after_ms or 0):
            raise StatementError("Window endTimestamp must not be smaller than window startTimestamp.")
        if (clause.grace_ms or 0) < 0:
            raise StatementError("Grace period must not be negative.")
        return StreamStreamJoinStep(
            schema, step, other, kind, suffix, key_format, value_format, left, right,
            clause.before_ms or 0, clause.after_ms or 0, clause.grace_ms,
        )  # fmt: skip

    # ------------------------------------------------------------------ the joins' keys
    def _two_sided_key(self, kind: JoinKind) -> str:
        """Return the name of the key column: one that can be selected where no side's column stands for the key."""
        if kind is not JoinKind.OUTER and self.key_choices:
            return JOIN_KEY
        taken = {*self._scope.types(), *(name for source in self._scope.sources for name in source.types())}
        key = self.synthetic_key = next(name for name in (SYNTHETIC_KEY, *_NUMBERED) if name not in taken)
        self.key_choices = ()
        return key

    def _note_equal(self, key: str, kind: JoinKind, left: TypedExpression, right: TypedExpression) -> None:
        """Note which columns have the key's value in each row that a join of two sides gives."""
        left_names = {left.name} if isinstance(left, ColumnExpression) else set()
        right_names = {right.name} if isinstance(right, ColumnExpression) else set()
        same = next((names for names in self._equal if left_names & names), frozenset(left_names))
        as_key = {key} | (right_names if not kind.keeps_left else set()) | (same if not kind.keeps_right else set())
        self._equal = [*(names for names in self._equal if not left_names & names), frozenset(as_key)]

    def _note_keys(self, join: _Join) -> None:
        """Note which columns may stand for the join's key: those that the joins so far make equal to it."""
        sides = [self._scope.resolve(side, "JOIN ON") for side in (join.left_expression, join.right_expression)]
        chain = next((known for known in self._joined_by if sides[0] in known or sides[1] in known), None)
        if chain is None:
            self._joined_by.append(chain := [])
        chain += [side for side in sides if side not in chain]
        self.synthetic_key = None
        self.key_choices = tuple(side.name for side in chain if isinstance(side, ast.ColumnReference))


def shows_pseudo_columns(query: ast.Query) -> bool:
    """Say whether stars stand for pseudo columns too: ksqlDB doesn't know them under a join's names any more."""
    stars = any(isinstance(item, ast.SelectAll) for item in query.select)
    return len(query.joins) > 0 and query.partition_by is not None and stars


def in_star(source: Source, *, partitioned: bool) -> tuple[Column, ...]:
    """Return the columns of a joined source that a star stands for.

    Args:
        source: the source.
        partitioned: whether PARTITION BY follows: keys come last then, pseudo columns before them. Elsewhere a windowed
            source's bounds are there too.
    """
    if partitioned:
        pseudo = tuple(Column(name, type_) for name, type_ in PSEUDO_TYPES.items())
        return (*source.schema.value, *pseudo, *source.schema.key)
    bounds = tuple(Column(name, BIGINT) for name in WINDOW_BOUNDS) if source.key_window is not None else ()
    return (*source.schema.key, *bounds, *source.schema.value)


def _check_windowing(join: _Join) -> None:
    """Check that both sources are windowed alike or not at all."""
    left, right = join.left.source.key_window, join.right.source.key_window
    if (left is None) != (right is None):
        shown = [
            f"`{source.alias}` is {source.source.key_window.kind.value if source.source.key_window else 'not'} windowed"
            for source in (join.left, join.right)
        ]
        raise StatementError("Can not join windowed source to non-windowed source.\n" + "\n".join(shown))
    if left is None or right is None:
        return
    if (left.kind is WindowKind.SESSION) is not (right.kind is WindowKind.SESSION):
        raise StatementError(
            f"Incompatible windowed sources.\nLeft source: {left.kind.value}\nRight source: {right.kind.value}\n"
            "Session windowed sources can only be joined to other session windowed sources, and may still not result in "
            "expected behaviour as session bounds must be an exact match for the join to work\nHopping and tumbling "
            "windowed sources can only be joined to other hopping and tumbling windowed sources"
        )
    if left.kind is not right.kind or left.size_ms != right.size_ms:
        raise StatementError(WINDOWED_REPARTITION)


def _key_format_of(step: Step) -> Format:
    """Return how a step's rows are keyed."""
    keyed = next(below for below in driving_path(step) if isinstance(below, SourceStep | ThroughTopicStep))
    return keyed.key_format


def _nullable(format_: Format) -> Format:
    """Return a format for rows of which a part may be missing: JSON where DELIMITED or KAFKA can't tell that."""
    return format_ if format_.name in ("AVRO", "JSON") else Format("JSON")
