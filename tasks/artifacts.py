"""Artifacts: what a person sees of a run in Prefect's UI.

What can't be shown fails nothing: a run that did its work has done it, whether or not Prefect's server was there to be told.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any
from uuid import UUID

from prefect import task
from prefect.artifacts import (
    create_markdown_artifact,
    create_progress_artifact,
    create_table_artifact,
    update_progress_artifact,
)
from prefect.cache_policies import NO_CACHE
from prefect.logging import get_logger


@task(task_run_name="publish-{key}", cache_policy=NO_CACHE)
def publish_table(key: str, rows: Sequence[Mapping[str, Any]], description: str) -> None:
    """Show rows as a table.

    Args:
        key: lowercase letters, digits and dashes.
        rows: one mapping a row, all with the same columns.
        description: what the table says, as one sentence.
    """
    table = [dict(row) for row in rows]
    _try_to_show(key, lambda: create_table_artifact(table=table, key=key, description=description))


@task(task_run_name="publish-{key}", cache_policy=NO_CACHE)
def publish_markdown(key: str, text: str, description: str) -> None:
    """Show a text in Markdown.

    Args:
        key: lowercase letters, digits and dashes.
        text: Markdown.
        description: what it is about, as one sentence.
    """
    _try_to_show(key, lambda: create_markdown_artifact(markdown=text, key=key, description=description))


def _try_to_show(key: str, show: Callable[[], object]) -> None:
    """Show something; say in the log where that can't be done."""
    try:
        show()
    except Exception as error:
        # Whatever Prefect's client raises: what is to be shown is only told, never part of the work.
        get_logger("artifacts").warning("artifact %r can't be shown, the run goes on: %r", key, error)


class ProgressArtifact:
    """A progress bar, made when it is first shown."""

    def __init__(self, key: str) -> None:
        """Prepare.

        Args:
            key: lowercase letters, digits and dashes.
        """
        self._key = key
        self._artifact: UUID | None = None
        self._failing = False

    def show(self, percent: float, description: str | None = None) -> None:
        """Show how far something has come; a server that is away is told in the log once, and asked again the next time.

        Args:
            percent: 0 to 100.
            description: what it is and how far it has come, for people; None leaves what was shown before.
        """
        try:
            self._show(percent, description)
        except Exception as error:
            # As above: progress that nobody sees is progress all the same.
            if not self._failing:
                get_logger("artifacts").warning("progress %r can't be shown, the run goes on: %r", self._key, error)
            self._failing = True
        else:
            self._failing = False

    def _show(self, percent: float, description: str | None) -> None:
        if self._artifact is None:
            created = create_progress_artifact(progress=percent, key=self._key, description=description)
            # In an event loop it would be a coroutine, of which the artifact's id can't be asked here.
            self._artifact = created if isinstance(created, UUID) else None
        else:
            update_progress_artifact(self._artifact, progress=percent, description=description)
