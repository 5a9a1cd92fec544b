"""A plan as text, one step a line, the sink first: what EXPLAIN shows."""

from __future__ import annotations

from ksqlengine.plan.catalog import children
from ksqlengine.plan.steps import (
    AggregateStep,
    FilterStep,
    FlatMapStep,
    ProjectStep,
    QueryPlan,
    RepartitionStep,
    Schema,
    SourceStep,
    Step,
    StreamStreamJoinStep,
    StreamTableJoinStep,
    TableGroupStep,
    TableTableJoinStep,
    TwoSidedJoinStep,
    Window,
)


def explain(plan: QueryPlan) -> str:
    """Return a persistent query's plan as text."""
    window = f", key windowed {_window(plan.key_window)}" if plan.key_window else ""
    head = (
        f" > [ SINK ] | Schema: {_schema(plan.root.schema)} | {plan.sink_kind.value} {plan.sink} into topic {plan.topic} "
        f"(key {plan.key_format.name}, value {plan.value_format.name}{window})"
    )
    return "\n".join([head, *_lines(plan.root, 1)])


def explain_step(root: Step) -> str:
    """Return a step and what is below it as text."""
    return "\n".join(_lines(root, 0))


def _lines(step: Step, depth: int) -> list[str]:
    indent = "\t" * depth
    line = f"{indent} > [ {_NAMES[type(step)]} ] | Schema: {_schema(step.schema)}"
    details = _details(step)
    lines = [f"{line} | {details}" if details else line]
    for child in children(step):
        lines += _lines(child, depth + 1)
    return lines


_NAMES: dict[type[Step], str] = {
    SourceStep: "SOURCE",
    FilterStep: "FILTER",
    ProjectStep: "PROJECT",
    FlatMapStep: "FLAT_MAP",
    RepartitionStep: "REKEY",
    StreamTableJoinStep: "JOIN",
    StreamStreamJoinStep: "JOIN",
    TableTableJoinStep: "JOIN",
    TableGroupStep: "REKEY",
    AggregateStep: "AGGREGATE",
}


def _details(step: Step) -> str:
    if isinstance(step, SourceStep):
        time = f", time {step.timestamp_column}" if step.timestamp_column else ""
        return f"{step.kind.value} {step.source} from topic {step.topic} ({step.key_format.name}, {step.value_format.name}{time})"
    if isinstance(step, FilterStep):
        return str(step.predicate)
    if isinstance(step, ProjectStep | FlatMapStep):
        return ", ".join(f"{item.expression} AS {item.name}" for item in step.items)
    if isinstance(step, RepartitionStep | TableGroupStep):
        return f"by {', '.join(str(item.expression) for item in step.keys)} through {step.topic_suffix}"
    if isinstance(step, StreamTableJoinStep | TwoSidedJoinStep):
        return f"{step.kind.value} on {step.left_key} = {step.right_key}{_within(step)}"
    return _aggregate(step) if isinstance(step, AggregateStep) else ""


def _within(step: Step) -> str:
    if not isinstance(step, StreamStreamJoinStep):
        return ""
    grace = f" GRACE PERIOD {step.grace_ms} MILLISECONDS" if step.grace_ms is not None else ""
    return f" WITHIN ({step.before_ms} MILLISECONDS, {step.after_ms} MILLISECONDS){grace}"


def _aggregate(step: AggregateStep) -> str:
    calls = []
    for call in step.calls:
        arguments = ", ".join(map(str, (*call.arguments, *call.constants))) or "*"
        calls.append(f"{call.function}({arguments}) AS {call.output}")
    window = f" in {_window(step.window)}" if step.window else ""
    return f"by {', '.join(step.keys)}{window}, EMIT {'FINAL' if step.emit_final else 'CHANGES'}: {', '.join(calls)}"


def _window(window: Window) -> str:
    advance = f", ADVANCE BY {window.advance_ms} MILLISECONDS" if window.advance_ms != window.size_ms else ""
    return f"{window.kind.value} (SIZE {window.size_ms} MILLISECONDS{advance}, GRACE PERIOD {window.grace_ms} MILLISECONDS)"


def _schema(schema: Schema) -> str:
    keys = [f"{column.name} {column.type} KEY" for column in schema.key]
    return ", ".join([*keys, *(f"{column.name} {column.type}" for column in schema.value)])
