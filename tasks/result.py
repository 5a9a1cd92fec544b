"""Tasks that keep and show what a run found."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from prefect import task
from prefect.cache_policies import NO_CACHE

from heartwatch.settings import Settings, load_settings
from tasks.artifacts import publish_markdown, publish_table


def result_path(settings: Settings, run_id: str) -> Path:
    """Return the file that holds a run's result."""
    return settings.home / "results" / f"heart-watch-{run_id}.json"


@task(cache_policy=NO_CACHE)
def write_result(run_id: str, result: Mapping[str, Any]) -> None:
    """Keep a run's result as JSON under the settings' home, whole or not at all."""
    path = result_path(load_settings(), run_id)
    path.parent.mkdir(parents=True, exist_ok=True)
    written = path.with_suffix(".new")
    written.write_text(json.dumps(result), encoding="utf-8")
    written.replace(path)


def publish_result(run_id: str, found: Mapping[str, str], rows: Sequence[Mapping[str, str]]) -> None:
    """Show what a run found, as text and as a table of its newest results."""
    lines = [f"| {name} | {text} |" for name, text in found.items()]
    text = "\n".join([f"# Run {run_id}", "", "| | |", "|---|---|", *lines, "", *_table(rows)])
    publish_markdown("heart-watch", text, f"What run {run_id} sent, found and proved.")
    publish_table("alerts", rows, f"The newest {len(rows)} results of run {run_id}.")


def _table(rows: Sequence[Mapping[str, str]]) -> list[str]:
    if not rows:
        return ["No results."]
    head = list(rows[0])
    return [
        f"| {' | '.join(head)} |",
        "|" + "---|" * len(head),
        *(f"| {' | '.join(row[name] for name in head)} |" for row in rows),
    ]
