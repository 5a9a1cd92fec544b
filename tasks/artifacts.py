"""Artifacts: what a person sees of a run in Prefect's UI."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from prefect import task
from prefect.artifacts import create_markdown_artifact, create_table_artifact
from prefect.cache_policies import NO_CACHE

from heartwatch.verify.throughput import StageRate
from tasks.produce import ShardReport
from tasks.sink import SinkReport


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


def publish_producers(run_id: str, shards: Sequence[ShardReport]) -> None:
    """Show what each producer of a run sent."""
    rows = [
        {
            "shard": shard.shard,
            "delivered": shard.delivered,
            "sent again": shard.failed,
            "events/s": round(shard.events_per_second),
            "processes": shard.attempts,
            "finished": shard.finished,
        }
        for shard in shards
    ]
    delivered = sum(shard.delivered for shard in shards)
    publish_table("producers", rows, f"Run {run_id}: {delivered:,} events delivered by {len(shards)} shards.")


def publish_sinks(reports: Sequence[SinkReport]) -> None:
    """Show what was found of each sink, one row a topic and partition."""
    rows = [{"topic": report.topic, **partition} for report in reports for partition in report.partitions]
    sentences = (
        ". ".join(report.sentence for report in reports) or "The pipeline isn't deployed: there is nothing to prove"
    )
    publish_table("sink", rows, f"{sentences}.")


def publish_rates(rates: Sequence[StageRate], sentence: str) -> None:
    """Show the stages' rates and lags."""
    rows = [
        {
            "stage": rate.stage,
            "events/s": round(rate.events_per_second),
            "peak events/s": round(rate.peak_events_per_second),
            "lag, events": rate.lag_events,
            "lag, s": None if rate.lag_seconds is None else round(rate.lag_seconds, 1),
        }
        for rate in rates
    ]
    publish_table("throughput", rows, f"{sentence}.")
