"""A plan as text, one step a line, the sink first: what EXPLAIN shows."""

from __future__ import annotations

from ksqlengine.plan.steps import QueryPlan, Schema, Step


def explain(plan: QueryPlan) -> str:
    """Return a persistent query's plan as text."""
    window = f", key windowed {plan.key_window.clause}" if plan.key_window else ""
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
    line = f"{indent} > [ {step.label} ] | Schema: {_schema(step.schema)}"
    lines = [f"{line} | {step.details}" if step.details else line]
    for below in step.inputs:
        lines += _lines(below, depth + 1)
    return lines


def _schema(schema: Schema) -> str:
    keys = [f"{column.name} {column.type} KEY" for column in schema.key]
    return ", ".join([*keys, *(f"{column.name} {column.type}" for column in schema.value)])
