"""From a stage to its pipeline.

Only what a plan uses is read: columns are pruned from the sink down to the sources, and a key that only joins and groups
stays a code until it is written.
"""

from __future__ import annotations

from dataclasses import replace

import polars as pl

from ksqlengine.execution.joins import JoinWindow, StreamStreamJoin
from ksqlengine.execution.keys import Keys
from ksqlengine.execution.operators import (
    Counters,
    FailureCheck,
    FailureChecks,
    Filter,
    FlatMap,
    KeyColumns,
    Operator,
    Project,
    StatefulOperator,
    StreamTableJoin,
    columns_read,
)
from ksqlengine.execution.pipeline import MergePipeline, Pipeline, RunningArm, TableInput
from ksqlengine.execution.readers import SchemaLookup, SourceReader
from ksqlengine.execution.rows import Rows
from ksqlengine.execution.session_windows import SessionWindows
from ksqlengine.execution.stages import JoinedSidesStep, Stage, path_to
from ksqlengine.execution.table_operators import TableAggregate, TableFilter, TableRegrouping, TableTableJoin
from ksqlengine.execution.windows import Aggregates, ChangingGroups, FinalWindows
from ksqlengine.execution.writers import SinkWriter, WriteSchemas
from ksqlengine.expressions import aggregates
from ksqlengine.plan.steps import (
    PSEUDO_COLUMNS,
    WINDOWEND,
    WINDOWSTART,
    AggregateStep,
    Column,
    Expression,
    FilterStep,
    FlatMapStep,
    JoinKind,
    ProjectStep,
    RepartitionStep,
    SourceKind,
    SourceStep,
    Step,
    StreamStreamJoinStep,
    StreamTableJoinStep,
    TableGroupStep,
    WindowKind,
    carried,
)
from ksqlengine.types.errors import NotSupportedError


def build(stage: Stage, schemas: SchemaLookup, write: WriteSchemas) -> Pipeline:
    """Build a stage's operators.

    Args:
        stage: what to run.
        schemas: gives the Avro schema of an id.
        write: what results are written with.
    """
    return _StageBuilder(stage, schemas).build(write)


def build_merge(stage: Stage, schemas: SchemaLookup, write: WriteSchemas) -> MergePipeline:
    """Build the operators of a stage with `Stage.arms` (see `build`)."""
    counters = Counters()
    arms = [
        _StageBuilder(replace(stage, root=arm.root, source=arm.source), schemas, counters).arm() for arm in stage.arms
    ]
    return MergePipeline(stage, arms, SinkWriter(stage.sink, schemas, write), counters)


class _StageBuilder:
    """Walks a stage's steps: down to see which columns are used, up to make the operators."""

    def __init__(self, stage: Stage, schemas: SchemaLookup, counters: Counters | None = None) -> None:
        self._stage = stage
        self._schemas = schemas
        self._path = path_to(stage.root)
        self._counters = counters or Counters()
        self._tables: list[TableInput] = []
        self._needed = self._needed_below()
        self._aggregates = [
            step for step in self._path if isinstance(step, AggregateStep | JoinedSidesStep | TableGroupStep)
        ]
        grouped = any(isinstance(step, AggregateStep | TableGroupStep) for step in self._path)
        self._filters_table = stage.source.kind is SourceKind.TABLE and not grouped
        filtered = self._filters_table and any(isinstance(step, FilterStep) for step in self._path)
        coded = bool(self._aggregates or stage.tables or filtered)
        self._source = SourceReader(stage.source, self._needed[0], schemas, keeps_valueless=not coded)
        self._keys = Keys(self._source.key.valid) if coded else None

    def build(self, write: WriteSchemas) -> Pipeline:
        if len(self._aggregates) > 1:
            raise NotSupportedError("An aggregate over an aggregate")
        before: list[Operator] = []
        after: list[Operator] = []
        aggregate: StatefulOperator | None = None
        table_filters: list[TableFilter] = []
        operators = before
        for step, needed in zip(self._path[1:], self._needed[1:], strict=True):
            if isinstance(step, AggregateStep):
                if len(step.keys) > 1:
                    # A row is grouped only where no grouping column is NULL; with one, that is a null key.
                    before.append(Filter(pl.all_horizontal(pl.col(step.keys).is_not_null())))
                aggregate = self._aggregate(step)
                operators = after
            elif isinstance(step, JoinedSidesStep):
                aggregate = self._two_sided_join(step, needed)
                operators = after
            elif isinstance(step, TableGroupStep):
                keys = {item.name: item.expression.to_polars() for item in step.keys}
                before.append(
                    Project(keys | {one.name: _handed_on(one) for one in step.schema.value if one.name != step.undo})
                )
                aggregate = self._regrouping(step)
                operators = after
            elif isinstance(step, FilterStep) and self._filters_table:
                table_filters.append(TableFilter(step.predicate.to_polars()))
                operators += [*self._checks(step, needed), table_filters[-1]]
            else:
                operators += [*self._checks(step, needed), self._operator(step, needed)]
        for stateful in self._aggregates:
            if not isinstance(stateful, TableGroupStep):
                after = self._with_key_columns(after, stateful)
        inner = any(isinstance(step, StreamTableJoinStep) and step.kind is JoinKind.INNER for step in self._path)
        sink = SinkWriter(self._stage.sink, self._schemas, write)
        return Pipeline(
            self._stage,
            self._source,
            self._tables,
            before,
            aggregate,
            after,
            sink,
            self._keys,
            self._counters,
            adds_keys=bool(self._aggregates) and not inner,
            table_filters=table_filters,
        )

    def arm(self) -> RunningArm:
        """Return the operators of one side of a join."""
        chain: list[Operator] = []
        for step, needed in zip(self._path[1:], self._needed[1:], strict=True):
            chain += [*self._checks(step, needed), self._operator(step, needed)]
        reader = SourceReader(self._stage.source, self._needed[0], self._schemas)
        return RunningArm(reader, chain, self._stage.source.kind)

    def _needed_below(self) -> list[set[str]]:
        """Return, for each step of the path, which columns of its output are used."""
        needed = {column.name for column in self._stage.root.schema.columns}
        result = [needed]
        for step in reversed(self._path[1:]):
            if isinstance(step, ProjectStep):
                needed = set(columns_read([item.expression.to_polars() for item in step.items if item.name in needed]))
            elif isinstance(step, RepartitionStep):
                keys = {item.name for item in step.keys}
                needed = {_CARRIED.get(name, name) for name in needed - keys}
                needed |= set(columns_read([item.expression.to_polars() for item in step.keys]))
            elif isinstance(step, FilterStep):
                needed = needed | set(columns_read([step.predicate.to_polars()]))
            elif isinstance(step, FlatMapStep):
                arrays = columns_read([item.expression.to_polars() for item in step.items])
                needed = (needed - {item.name for item in step.items}) | set(arrays)
            elif isinstance(step, TableGroupStep):
                keys = set(columns_read([item.expression.to_polars() for item in step.keys]))
                needed = {column.name for column in step.schema.value if column.name != step.undo} | keys
            elif isinstance(step, AggregateStep):
                needed = set(aggregates_of(step).inputs) | (set(step.keys) if len(step.keys) > 1 else set())
                needed |= {step.undo} if step.undo else set()
            result.append(needed)
        return result[::-1]

    def _checks(self, step: Step, needed: set[str]) -> list[Operator]:
        """Return what notes the rows for which a step's expressions fail; nothing where none can."""
        found: list[FailureCheck] = []
        if isinstance(step, FilterStep):
            having = any(isinstance(one, AggregateStep) for one in path_to(step))
            found += _ways_to_fail(
                step.predicate,
                "HavingFilter" if having else "WhereFilter",
                f"Error evaluating predicate {step.predicate}",
            )
        elif isinstance(step, ProjectStep):
            for index, item in enumerate(step.items):
                what = f"Error computing expression {item.expression} for column {item.name} with index {index}"
                found += _ways_to_fail(item.expression, "Project", what) if item.name in needed else []
        elif isinstance(step, RepartitionStep):
            for item in step.keys:
                found += _ways_to_fail(item.expression, "PartitionBy", f"Error calculating key {item.expression}")
        return [FailureChecks(found, self._counters)] if found else []

    def _operator(self, step: Step, needed: set[str]) -> Operator:
        if isinstance(step, FilterStep):
            return Filter(step.predicate.to_polars())
        if isinstance(step, ProjectStep):
            items = {item.name: item.expression.to_polars() for item in step.items if item.name in needed}
            return Project(items, self._keys_of_values(step))
        if isinstance(step, FlatMapStep):
            return FlatMap({item.name: item.expression.to_polars() for item in step.items})
        if isinstance(step, RepartitionStep):
            keys = {item.name: item.expression.to_polars() for item in step.keys}
            return Project(keys | {column.name: _handed_on(column) for column in step.schema.value})
        if isinstance(step, StreamTableJoinStep):
            return self._join(step, needed)
        raise NotSupportedError(type(step).__name__.removesuffix("Step"))

    @staticmethod
    def _keys_of_values(step: ProjectStep) -> frozenset[str]:
        """Return the key columns that are made of the value's columns."""
        keys = {column.name for column in step.schema.key}
        kept = {column.name for column in step.source.schema.key}
        return frozenset(
            item.name
            for item in step.items
            if item.name in keys and set(columns_read([item.expression.to_polars()])) - kept
        )

    def _join(self, step: StreamTableJoinStep, needed: set[str]) -> StreamTableJoin:
        right = path_to(step.right)
        wanted = [column for column in step.right.schema.columns if column.name in needed]
        below = {column.name for column in wanted}
        chain: list[Operator] = []
        for table_step in reversed(right[1:]):
            chain.insert(0, self._operator(table_step, below))
            if isinstance(table_step, FilterStep):
                below = below | set(columns_read([table_step.predicate.to_polars()]))
            elif isinstance(table_step, ProjectStep):
                items = [item for item in table_step.items if item.name in below]
                below = set(columns_read([item.expression.to_polars() for item in items]))
        source = right[0]
        if not isinstance(source, SourceStep):
            raise NotSupportedError("A join with anything but a table's topic")
        reader = SourceReader(source, below, self._schemas)
        rows = Rows({column.name: column.type.polars for column in wanted})
        self._tables.append(TableInput(reader, chain, rows, [column.name for column in wanted]))
        return StreamTableJoin(rows, step.kind, self._counters)

    def _two_sided_join(self, step: JoinedSidesStep, needed: set[str]) -> StatefulOperator:
        join = step.join
        columns = tuple(
            {
                one.name: one.type.polars
                for one in side.schema.columns
                if one.name in needed and one in step.schema.value
            }
            for side in (join.left, join.right)
        )
        left, right = columns
        if not isinstance(join, StreamStreamJoinStep):
            return TableTableJoin(join.kind, (left, right), self._counters)
        window = JoinWindow(join.before_ms, join.after_ms, join.grace_ms)
        return StreamStreamJoin(window, join.kind, (left, right), self._known_keys())

    @staticmethod
    def _regrouping(step: TableGroupStep) -> StatefulOperator:
        columns = {one.name: one.type.polars for one in step.schema.columns if one.name != step.undo}
        return TableRegrouping(columns, [item.name for item in step.keys], step.undo)

    def _known_keys(self) -> Keys:
        if self._keys is None:
            raise NotSupportedError("An aggregate over a source without keys")
        return self._keys

    def _aggregate(self, step: AggregateStep) -> StatefulOperator:
        functions = aggregates_of(step)
        if step.undo is not None:
            return TableAggregate(functions, state_types(step), step.undo, self._counters)
        if step.window is not None and step.window.kind is WindowKind.SESSION:
            return SessionWindows(step.window, functions, state_types(step), self._counters, step.emit_final)
        if step.emit_final:
            if step.window is None:
                raise NotSupportedError("EMIT FINAL without a window")
            return FinalWindows(step.window, functions, self._counters)
        return ChangingGroups(step.window, functions, state_types(step), self._counters)

    def _with_key_columns(self, after: list[Operator], step: AggregateStep | JoinedSidesStep) -> list[Operator]:
        """Put the key columns back as late as possible: filters that don't read them go first."""
        reader = self._source.key
        names = step.keys if isinstance(step, AggregateStep) else tuple(column.name for column in step.schema.key)
        back = KeyColumns(
            self._known_keys(),
            lambda found: reader.columns(found).rename(dict(zip(reader.names, names, strict=True))),
            ordered=isinstance(step, AggregateStep) and step.emit_final,
        )
        steps = self._path[self._path.index(step) + 1 :]
        first = 0
        for one in steps:
            if not isinstance(one, FilterStep) or set(names) & set(columns_read([one.predicate.to_polars()])):
                break
            first += 1
        return [*after[:first], back, *after[first:]]


def _handed_on(column: Column) -> pl.Expr:
    """Return what a value column of a repartition topic takes: a column, or where the row came from."""
    return pl.col(_CARRIED.get(column.name, column.name))


_CARRIED = {carried(name): name for name in (*PSEUDO_COLUMNS, WINDOWSTART, WINDOWEND)}


def _ways_to_fail(expression: Expression, step: str, message: str) -> list[FailureCheck]:
    errors = expression.errors()
    return [FailureCheck(error.condition, step, message, error.message) for error in errors]


def aggregates_of(step: AggregateStep) -> Aggregates:
    """Return a step's aggregate functions as expressions."""
    bound = [aggregates.bind(call, over_table=step.undo is not None) for call in step.calls]
    return Aggregates(
        inputs=tuple(sorted({name for one in bound for name in one.inputs})),
        partial=tuple(expression for one in bound for expression in one.partial),
        merge=tuple(expression for one in bound for expression in one.merge),
        result=tuple(one.result for one in bound),
        undo=tuple(expression for one in bound for expression in one.undo or ()),
    )


def state_types(step: AggregateStep) -> dict[str, pl.DataType]:
    """Return names and types of a step's state columns."""
    return {
        name: type_
        for call in step.calls
        for name, type_ in aggregates.bind(call, over_table=step.undo is not None).states.items()
    }
