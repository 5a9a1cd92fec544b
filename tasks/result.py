"""Tasks that keep and show what a run found."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from prefect import task
from prefect.cache_policies import NO_CACHE

from heartwatch import run_report
from heartwatch.settings import load_settings
from tasks.artifacts import publish_markdown, publish_table


@task(cache_policy=NO_CACHE)
def write_result(run_id: str, result: Mapping[str, Any]) -> None:
    """Keep a run's result as JSON under the settings' home, whole or not at all.

    Args:
        run_id: the flow run.
        result: what JSON can hold.
    """
    run_report.write_result(load_settings(), run_id, result)


def publish_result(run_id: str, found: Mapping[str, str], rows: Sequence[Mapping[str, str]]) -> None:
    """Show what a run found, as text and as a table of its newest results.

    Args:
        run_id: the flow run.
        found: the run's summary.
        rows: the newest results, as the analytic shows them.
    """
    text = run_report.result_text(run_id, found, rows)
    publish_markdown("heart-watch", text, f"What run {run_id} sent, found and proved.")
    publish_table("alerts", rows, f"The newest {len(rows)} results of run {run_id}.")
