"""Artifacts: what a person sees of a run in Prefect's UI."""

from __future__ import annotations

import base64
import re
from collections.abc import Mapping, Sequence
from typing import Any

from prefect import task
from prefect.artifacts import create_markdown_artifact, create_table_artifact
from prefect.cache_policies import NO_CACHE

_FIGURE = re.compile("[-+\N{MULTIPLICATION SIGN}]? ?[0-9,.]*( %)?")


@task(task_run_name="publish-{key}", cache_policy=NO_CACHE)
def publish_table(key: str, rows: Sequence[Mapping[str, Any]], description: str) -> None:
    """Show rows as a table.

    Args:
        key: lowercase letters, digits and dashes.
        rows: one mapping a row, all with the same columns.
        description: what the table says, as one sentence.
    """
    create_table_artifact(table=[dict(row) for row in rows], key=key, description=description)


@task(task_run_name="publish-{key}", cache_policy=NO_CACHE)
def publish_markdown(key: str, text: str, description: str) -> None:
    """Show a text in Markdown.

    Args:
        key: lowercase letters, digits and dashes.
        text: Markdown.
        description: what it is about, as one sentence.
    """
    create_markdown_artifact(markdown=text, key=key, description=description)


def picture(png: bytes, title: str) -> str:
    """Return Markdown that shows a PNG by itself: the picture is in the text, no file or server is needed."""
    return f"![{title}](data:image/png;base64,{base64.b64encode(png).decode()})"


def table(rows: Sequence[Mapping[str, Any]]) -> str:
    """Return rows, all with the same columns, as a Markdown table, numbers to the right; an empty text for none."""
    if not rows:
        return ""
    head = list(rows[0])
    cells = [[_cell(row[name]) for name in head] for row in rows]
    sides = [
        "---:" if all(_FIGURE.fullmatch(cell) for cell in column) else "---" for column in zip(*cells, strict=True)
    ]
    lines = [head, ["---", *sides[1:]], *cells]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def _cell(value: Any) -> str:
    if value is None:
        return ""
    if isinstance(value, int | float) and not isinstance(value, bool):
        return f"{value:,}"
    # A stroke ends a cell, and a line a row, whatever they are part of.
    return " ".join(str(value).replace("|", "\\|").splitlines())
