"""Whether CREATE OR REPLACE may put a query in another one's place, which goes on with its offsets and its state.

Source: the `validateUpgrade` methods of ksqlDB's execution steps. A step that keeps state or decides where a record goes must
be there again with the same properties; steps that only pick columns or rows may come, go and change; all others may not be
there. The steps of both plans are compared from the sink down, each taking its turn: a passive one hands its turn over.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field

from ksqlengine.plan.expression import Expression
from ksqlengine.plan.steps import (
    ROWTIME,
    AggregateCall,
    AggregateStep,
    FilterStep,
    FlatMapStep,
    ProjectStep,
    QueryPlan,
    RepartitionStep,
    SourceKind,
    SourceStep,
    Step,
    TableGroupStep,
)
from ksqlengine.types.errors import StatementError

_PACKAGE = "io.confluent.ksql.execution.plan"


@dataclass(frozen=True)
class _KsqldbStep:
    """A step as ksqlDB sees it: its class there, and what must be the same; None where it may be left out or changed."""

    name: str
    must_match: dict[str, str] | None = None
    upgradeable: bool = True
    source: bool = field(default=False)

    @property
    def passive(self) -> bool:
        return self.must_match is None

    def check_supported(self) -> None:
        if not self.upgradeable:
            raise StatementError(f"Upgrades not yet supported for {self.name}")


def check_upgrade(before: QueryPlan, after: QueryPlan) -> None:
    """Check that a query may be replaced by another one.

    Raises:
        StatementError: it may not, in ksqlDB's words.
    """
    _validate(_ksqldb_steps(before), _ksqldb_steps(after))


def _validate(steps: Sequence[_KsqldbStep], others: Sequence[_KsqldbStep]) -> None:
    first = steps[0]
    first.check_supported()
    if first.source:
        _check_source(first, others)
    elif first.passive:
        _validate(others, steps[1:])
    else:
        _check_same(first, others[0])
        _validate(steps[1:], others[1:])


def _check_source(source: _KsqldbStep, other: Sequence[_KsqldbStep]) -> None:
    for part in other:
        if part.source:
            _check_same(source, part)
            return
        part.check_supported()
        if not part.passive:
            raise StatementError(
                f"Query is not upgradeable. Cannot add a class {_PACKAGE}.{part.name} step that is not in the original query "
                "plan."
            )


def _check_same(part: _KsqldbStep, other: _KsqldbStep) -> None:
    values = [("class", f"class {_PACKAGE}.{part.name}", f"class {_PACKAGE}.{other.name}")]
    if part.name == other.name:
        values = [(name, value, (other.must_match or {})[name]) for name, value in (part.must_match or {}).items()]
    for name, value, changed in values:
        if value != changed:
            raise StatementError(
                f"Query is not upgradeable. Plan step of type {part.name} must have matching {name}. "
                f"Values differ: {value} vs. {changed}"
            )


# ------------------------------------------------------------------------------------------------------- plans
def _ksqldb_steps(plan: QueryPlan) -> list[_KsqldbStep]:
    """Return a plan's steps from the sink down, up to the source or to one that can't be upgraded."""
    steps: list[_KsqldbStep] = []
    step: Step | None = plan.root
    kind = plan.sink_kind
    while step is not None:
        part = _ksqldb_step(step, kind, plan)
        steps.append(part)
        keys = _new_keys(step) if kind is SourceKind.STREAM else []
        if keys:
            steps.append(_KsqldbStep("StreamSelectKey", {"keyExpression": ", ".join(keys)}))
        if isinstance(step, AggregateStep):
            kind = SourceKind.STREAM
            if not isinstance(step.source, RepartitionStep):
                steps.append(_KsqldbStep("StreamGroupByKey", {}))
        step = _below(step) if part.upgradeable else None
    return steps


def _new_keys(step: Step) -> list[str]:
    """Return the expressions by which a projection gives rows another key, which is PARTITION BY; none where it doesn't."""
    if not isinstance(step, ProjectStep):
        return []
    keys = [str(item.expression) for item in step.items[: len(step.schema.key)]]
    return keys if keys != [column.name for column in step.source.schema.key] else []


def _below(step: Step) -> Step | None:
    if isinstance(step, ProjectStep | FilterStep | RepartitionStep | AggregateStep):
        return step.source
    return None


def _ksqldb_step(step: Step, kind: SourceKind, plan: QueryPlan) -> _KsqldbStep:
    prefix = kind.value.capitalize()
    if isinstance(step, ProjectStep | FilterStep):
        return _KsqldbStep(f"{prefix}{'Select' if isinstance(step, ProjectStep) else 'Filter'}")
    if isinstance(step, SourceStep):
        return _source_step(step, prefix)
    if isinstance(step, RepartitionStep):
        return _KsqldbStep("StreamGroupBy", {"group by clause": _listed(str(item.expression) for item in step.keys)})
    if isinstance(step, AggregateStep) and step.undo is None and step.window is None:
        functions = [f"{call.function}({', '.join(_arguments(call))})" for call in step.calls]
        columns = [f"`{name}`" for name in _columns(plan.root, step)]
        return _KsqldbStep(
            "StreamAggregate",
            {"columns not part of aggregate": _listed(columns), "aggregate functions": _listed(functions)},
        )
    return _KsqldbStep(_unsupported(step), upgradeable=False)


def _source_step(step: SourceStep, prefix: str) -> _KsqldbStep:
    name = f"Windowed{prefix}Source" if step.key_window is not None else f"{prefix}Source"
    properties = {
        "topicName": step.topic,
        "formats": f"{step.key_format}, {step.value_format}",
        "timestampColumn": str(step.timestamp_column),
    }
    return _KsqldbStep(name, properties, source=True)


def _unsupported(step: Step) -> str:
    """Return what ksqlDB calls a step whose query can't be replaced."""
    if isinstance(step, AggregateStep):
        return "TableAggregate" if step.undo else "TableSuppress" if step.emit_final else "StreamWindowedAggregate"
    return _KSQLDB_NAMES.get(type(step), type(step).__name__.removesuffix("Step"))


_KSQLDB_NAMES: dict[type[Step], str] = {FlatMapStep: "StreamFlatMap", TableGroupStep: "TableGroupBy"}


def _listed(values: Iterable[str]) -> str:
    return f"[{', '.join(values)}]"


def _arguments(call: AggregateCall) -> list[str]:
    constants = [str(constant).lower() if isinstance(constant, bool) else str(constant) for constant in call.constants]
    return [*map(str, call.arguments), *constants] or [ROWTIME]


def _columns(root: Step, aggregate: AggregateStep) -> list[str]:
    """Return the source's columns that the query reads, in the order in which it names them."""
    source = aggregate.source
    made: dict[str, tuple[str, ...]] = {call.output: _of_call(call) for call in aggregate.calls}
    if isinstance(source, RepartitionStep):
        made |= {item.name: tuple(_referenced(item.expression)) for item in source.keys}
        source = source.source
    selected = [*_expressions(root, aggregate, ProjectStep), *_expressions(root, aggregate, FilterStep)]
    read = [name for expression in selected for name in _referenced(expression)]
    filtered = [name for expression in _expressions(source, None, FilterStep) for name in _referenced(expression)]
    return list(dict.fromkeys([column for name in read for column in made.get(name, (name,))] + filtered))


def _expressions(top: Step, bottom: Step | None, kind: type[Step]) -> list[Expression]:
    """Return the expressions of the steps of a kind between two steps."""
    found: list[Expression] = []
    step: Step | None = top
    while step is not None and step is not bottom:
        if isinstance(step, ProjectStep) and isinstance(step, kind):
            found += [item.expression for item in step.items]
        elif isinstance(step, FilterStep) and isinstance(step, kind):
            found.append(step.predicate)
        step = _below(step)
    return found


def _of_call(call: AggregateCall) -> tuple[str, ...]:
    return tuple(name for argument in call.arguments for name in _referenced(argument)) or (ROWTIME,)


def _referenced(expression: Expression) -> list[str]:
    return sorted(expression.columns)
