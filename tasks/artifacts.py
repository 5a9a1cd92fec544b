"""Artifacts: what a person sees of a run in Prefect's UI."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from prefect import task
from prefect.artifacts import create_markdown_artifact, create_table_artifact
from prefect.cache_policies import NO_CACHE


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
