"""From a stage to its pipeline.

Only what a plan uses is read: columns are pruned from the sink down to the sources, and a key that only joins and groups
stays a code until it is written.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterable
from dataclasses import dataclass, field, replace
from typing import Any, Generic, TypeVar

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
    SelectItem,
    SourceKind,
    SourceStep,
    Step,
    StreamStreamJoinStep,
    StreamTableJoinStep,
    TableGroupStep,
    WindowKind,
    carried,
    driving_path,
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
        self._path = path_to(stage.root)
        self._needed = self._needed_below()
        self._stateful_steps = [step for step in self._path if type(step) in _STATEFUL_KINDS]
        grouped = any(isinstance(step, AggregateStep | TableGroupStep) for step in self._path)
        self._filters_table = stage.source.kind is SourceKind.TABLE and not grouped
        filtered = self._filters_table and any(isinstance(step, FilterStep) for step in self._path)
        coded = bool(self._stateful_steps or stage.tables or filtered)
        self._source = SourceReader(
            stage.source, self._needed[0], schemas, keeps_valueless=not coded, ahead_max_ms=stage.ahead_max_ms
        )
        self._keys = Keys(self._source.key.valid) if coded else None
        self._parts = _Parts(schemas, counters or Counters(), self._keys, stage.is_cached)

    def build(self, write: WriteSchemas) -> Pipeline:
        """Return the whole stage's pipeline."""
        if len(self._stateful_steps) > 1:
            raise NotSupportedError("An aggregate over an aggregate")
        before: list[Operator] = []
        after: list[Operator] = []
        stateful: StatefulOperator | None = None
        table_filters: list[TableFilter] = []
        operators = before
        for step, needed in zip(self._path[1:], self._needed[1:], strict=True):
            stateful_kind = _STATEFUL_KINDS.get(type(step))
            if stateful_kind is not None:
                before += stateful_kind.preparing(step)
                stateful = stateful_kind.operator(step, needed, self._parts)
                operators = after
            elif isinstance(step, FilterStep) and self._filters_table:
                table_filters.append(TableFilter(step.predicate.to_polars()))
                operators += [*self._checks(step, needed), table_filters[-1]]
            else:
                operators += [*self._checks(step, needed), _stateless_kind(step).operator(step, needed, self._parts)]
        for step in self._stateful_steps:
            after = self._with_key_columns(after, step)
        inner = any(isinstance(step, StreamTableJoinStep) and step.kind is JoinKind.INNER for step in self._path)
        return Pipeline(
            self._stage,
            self._source,
            self._parts.tables,
            before,
            stateful,
            after,
            SinkWriter(self._stage.sink, self._parts.schemas, write),
            self._keys,
            self._parts.counters,
            adds_keys=bool(self._stateful_steps) and not inner,
            table_filters=table_filters,
            gives_each_change=not self._stage.is_cached
            and any(isinstance(step, AggregateStep) and not step.emit_final for step in self._stateful_steps),
        )

    def arm(self) -> RunningArm:
        """Return the operators of one side of a join."""
        chain: list[Operator] = []
        for step, needed in zip(self._path[1:], self._needed[1:], strict=True):
            chain += [*self._checks(step, needed), _stateless_kind(step).operator(step, needed, self._parts)]
        reader = SourceReader(
            self._stage.source, self._needed[0], self._parts.schemas, ahead_max_ms=self._stage.ahead_max_ms
        )
        return RunningArm(reader, chain, self._stage.source.kind)

    def _needed_below(self) -> list[set[str]]:
        """Return, for each step of the path, which columns of its output are used."""
        needed = {column.name for column in self._stage.root.schema.columns}
        result = [needed]
        for step in reversed(self._path[1:]):
            needed = _kind(step).reads(step, needed)
            result.append(needed)
        return result[::-1]

    def _checks(self, step: Step, needed: set[str]) -> list[Operator]:
        """Return what notes the rows for which a step's expressions fail; nothing where none can."""
        checks = _kind(step).checks(step, needed)
        return [FailureChecks(checks, self._parts.counters)] if checks else []

    def _with_key_columns(self, after: list[Operator], step: Step) -> list[Operator]:
        """Put the key columns back as late as possible: filters that don't read them go first."""
        reader = self._source.key
        names = _STATEFUL_KINDS[type(step)].key_names(step)
        if names is None:
            return after
        back = KeyColumns(
            self._parts.known_keys,
            lambda found: reader.columns(found).rename(dict(zip(reader.names, names, strict=True))),
            ordered=isinstance(step, AggregateStep) and step.emit_final,
        )
        first = 0
        for later in self._path[self._path.index(step) + 1 :]:
            if not isinstance(later, FilterStep) or set(names) & set(columns_read([later.predicate.to_polars()])):
                break
            first += 1
        return [*after[:first], back, *after[first:]]


# ------------------------------------------------------------------------------------------------------ kinds of steps
@dataclass
class _Parts:
    """What the operators of one stage share.

    Attributes:
        schemas: gives the Avro schema of an id.
        counters: where losses are counted.
        keys: codes of the keys; None where nothing needs them.
        is_cached: whether a cache stands before the store.
        tables: joined tables, in order of the joins.
    """

    schemas: SchemaLookup
    counters: Counters
    keys: Keys | None
    is_cached: bool
    tables: list[TableInput] = field(default_factory=list)

    @property
    def known_keys(self) -> Keys:
        """The keys, for operators that can't do without."""
        if self.keys is None:
            raise NotSupportedError("An aggregate over a source without keys")
        return self.keys


AnyStep = TypeVar("AnyStep", bound=Step)


class _StepKind(Generic[AnyStep]):
    """How a kind of step is run; a new kind of step has an object of a subclass in `_KINDS` or `_STATEFUL_KINDS`."""

    def reads(self, step: AnyStep, needed: set[str]) -> set[str]:
        """Return which columns of the step's input are used, where `needed` of its output are."""
        return needed

    def checks(self, step: AnyStep, needed: set[str]) -> list[FailureCheck]:
        """Return the ways in which the step's expressions can fail."""
        return []


class _StatelessKind(_StepKind[AnyStep], ABC):
    """How a kind of step that remembers no rows of its own is run."""

    @abstractmethod
    def operator(self, step: AnyStep, needed: set[str], parts: _Parts) -> Operator:
        """Return the step's operator, which gives the columns that are needed."""


class _StatefulKind(_StepKind[AnyStep], ABC):
    """How a kind of step that remembers rows is run. Behind it rows have codes of keys, and key columns only once put back."""

    @abstractmethod
    def operator(self, step: AnyStep, needed: set[str], parts: _Parts) -> StatefulOperator:
        """Return the step's operator."""

    def preparing(self, step: AnyStep) -> list[Operator]:
        """Return the operators that rows go through before it."""
        return []

    def key_names(self, step: AnyStep) -> tuple[str, ...] | None:
        """Return the names of the key columns that are put back behind it, None where it gives them itself."""
        return tuple(column.name for column in step.schema.key)


class _FilterKind(_StatelessKind[FilterStep]):
    def reads(self, step: FilterStep, needed: set[str]) -> set[str]:
        return needed | set(columns_read([step.predicate.to_polars()]))

    def checks(self, step: FilterStep, needed: set[str]) -> list[FailureCheck]:
        having = any(isinstance(below, AggregateStep) for below in driving_path(step))
        name = "HavingFilter" if having else "WhereFilter"
        return _ways_to_fail(step.predicate, name, f"Error evaluating predicate {step.predicate}")

    def operator(self, step: FilterStep, needed: set[str], parts: _Parts) -> Operator:
        return Filter(step.predicate.to_polars())


class _ProjectKind(_StatelessKind[ProjectStep]):
    def reads(self, step: ProjectStep, needed: set[str]) -> set[str]:
        return _columns_of(item for item in step.items if item.name in needed)

    def checks(self, step: ProjectStep, needed: set[str]) -> list[FailureCheck]:
        found: list[FailureCheck] = []
        for index, item in enumerate(step.items):
            what = f"Error computing expression {item.expression} for column {item.name} with index {index}"
            found += _ways_to_fail(item.expression, "Project", what) if item.name in needed else []
        return found

    def operator(self, step: ProjectStep, needed: set[str], parts: _Parts) -> Operator:
        items = {item.name: item.expression.to_polars() for item in step.items if item.name in needed}
        return Project(items, self._keys_of_values(step))

    @staticmethod
    def _keys_of_values(step: ProjectStep) -> frozenset[str]:
        """Return the key columns that are made of the value's columns."""
        keys = {column.name for column in step.schema.key}
        kept = {column.name for column in step.source.schema.key}
        return frozenset(item.name for item in step.items if item.name in keys and _columns_of([item]) - kept)


class _FlatMapKind(_StatelessKind[FlatMapStep]):
    def reads(self, step: FlatMapStep, needed: set[str]) -> set[str]:
        return (needed - {item.name for item in step.items}) | _columns_of(step.items)

    def operator(self, step: FlatMapStep, needed: set[str], parts: _Parts) -> Operator:
        return FlatMap({item.name: item.expression.to_polars() for item in step.items})


class _RepartitionKind(_StatelessKind[RepartitionStep]):
    def reads(self, step: RepartitionStep, needed: set[str]) -> set[str]:
        keys = {item.name for item in step.keys}
        return {_CARRIED.get(name, name) for name in needed - keys} | _columns_of(step.keys)

    def checks(self, step: RepartitionStep, needed: set[str]) -> list[FailureCheck]:
        found: list[FailureCheck] = []
        for item in step.keys:
            found += _ways_to_fail(item.expression, "PartitionBy", f"Error calculating key {item.expression}")
        return found

    def operator(self, step: RepartitionStep, needed: set[str], parts: _Parts) -> Operator:
        keys = {item.name: item.expression.to_polars() for item in step.keys}
        return Project(keys | {column.name: _handed_on(column) for column in step.schema.value})


class _StreamTableJoinKind(_StatelessKind[StreamTableJoinStep]):
    def operator(self, step: StreamTableJoinStep, needed: set[str], parts: _Parts) -> Operator:
        source, *steps = path_to(step.right)
        if not isinstance(source, SourceStep):
            raise NotSupportedError("A join with anything but a table's topic")
        wanted = [column for column in step.right.schema.columns if column.name in needed]
        below = {column.name for column in wanted}
        chain: list[Operator] = []
        for table_step in reversed(steps):
            chain.insert(0, _stateless_kind(table_step).operator(table_step, below, parts))
            below = _kind(table_step).reads(table_step, below)
        rows = Rows({column.name: column.type.polars for column in wanted})
        reader = SourceReader(source, below, parts.schemas)
        parts.tables.append(TableInput(reader, chain, rows, [column.name for column in wanted]))
        return StreamTableJoin(rows, step.kind, parts.counters)


class _JoinedSidesKind(_StatefulKind[JoinedSidesStep]):
    def operator(self, step: JoinedSidesStep, needed: set[str], parts: _Parts) -> StatefulOperator:
        join = step.join
        left, right = (
            {
                column.name: column.type.polars
                for column in side.schema.columns
                if column.name in needed and column in step.schema.value
            }
            for side in (join.left, join.right)
        )
        if not isinstance(join, StreamStreamJoinStep):
            return TableTableJoin(join.kind, (left, right), parts.counters)
        before_ms, after_ms = join.before_ms, join.after_ms
        if join.kind is JoinKind.RIGHT:
            # ksqlDB's StreamStreamJoinBuilder joins the right stream with the left one then, and doesn't turn the window round.
            before_ms, after_ms = after_ms, before_ms
        window = JoinWindow(before_ms, after_ms, join.grace_ms)
        return StreamStreamJoin(window, join.kind, (left, right), parts.known_keys)


class _TableGroupKind(_StatefulKind[TableGroupStep]):
    def reads(self, step: TableGroupStep, needed: set[str]) -> set[str]:
        return {column.name for column in step.schema.value if column.name != step.undo} | _columns_of(step.keys)

    def preparing(self, step: TableGroupStep) -> list[Operator]:
        keys = {item.name: item.expression.to_polars() for item in step.keys}
        values = {column.name: _handed_on(column) for column in step.schema.value if column.name != step.undo}
        return [Project(keys | values)]

    def operator(self, step: TableGroupStep, needed: set[str], parts: _Parts) -> StatefulOperator:
        columns = {column.name: column.type.polars for column in step.schema.columns if column.name != step.undo}
        return TableRegrouping(columns, [item.name for item in step.keys], step.undo)

    def key_names(self, step: TableGroupStep) -> None:
        return None


class _AggregateKind(_StatefulKind[AggregateStep]):
    def reads(self, step: AggregateStep, needed: set[str]) -> set[str]:
        keys = set(step.keys) if len(step.keys) > 1 else set()
        return {*aggregates_of(step).inputs, *keys, *([step.undo] if step.undo else [])}

    def preparing(self, step: AggregateStep) -> list[Operator]:
        # A row is grouped only where no grouping column is NULL; with a single one, that is a null key.
        return [Filter(pl.all_horizontal(pl.col(step.keys).is_not_null()))] if len(step.keys) > 1 else []

    def operator(self, step: AggregateStep, needed: set[str], parts: _Parts) -> StatefulOperator:
        functions, states = aggregates_of(step), state_types(step)
        if step.undo is not None:
            return TableAggregate(functions, states, step.undo, parts.counters)
        if step.window is not None and step.window.kind is WindowKind.SESSION:
            return SessionWindows(step.window, functions, states, parts.counters, step.emit_final)
        if step.emit_final:
            if step.window is None:
                raise NotSupportedError("EMIT FINAL without a window")
            return FinalWindows(step.window, functions, parts.counters, parts.is_cached)
        return ChangingGroups(step.window, functions, states, parts.counters)

    def key_names(self, step: AggregateStep) -> tuple[str, ...]:
        return step.keys


_KINDS: dict[type[Step], _StatelessKind[Any]] = {
    FilterStep: _FilterKind(),
    ProjectStep: _ProjectKind(),
    FlatMapStep: _FlatMapKind(),
    RepartitionStep: _RepartitionKind(),
    StreamTableJoinStep: _StreamTableJoinKind(),
}
_STATEFUL_KINDS: dict[type[Step], _StatefulKind[Any]] = {
    JoinedSidesStep: _JoinedSidesKind(),
    TableGroupStep: _TableGroupKind(),
    AggregateStep: _AggregateKind(),
}


def _kind(step: Step) -> _StepKind[Any]:
    found = _STATEFUL_KINDS.get(type(step))
    return found if found is not None else _stateless_kind(step)


def _stateless_kind(step: Step) -> _StatelessKind[Any]:
    found = _KINDS.get(type(step))
    if found is None:
        raise NotSupportedError(type(step).__name__.removesuffix("Step"))
    return found


def _columns_of(items: Iterable[SelectItem]) -> set[str]:
    """Return the columns that items' expressions read."""
    return set(columns_read([item.expression.to_polars() for item in items]))


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
        inputs=tuple(sorted({name for function in bound for name in function.inputs})),
        partial=tuple(expression for function in bound for expression in function.partial),
        merge=tuple(expression for function in bound for expression in function.merge),
        result=tuple(function.result for function in bound),
        undo=tuple(expression for function in bound for expression in function.undo or ()),
    )


def state_types(step: AggregateStep) -> dict[str, pl.DataType]:
    """Return names and types of a step's state columns."""
    return {
        name: type_
        for call in step.calls
        for name, type_ in aggregates.bind(call, over_table=step.undo is not None).states.items()
    }
