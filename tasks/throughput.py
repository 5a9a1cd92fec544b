"""Tasks that measure the stages of the pipeline."""

from __future__ import annotations

from collections.abc import Sequence

import httpx
from prefect import get_run_logger, task
from prefect.cache_policies import NO_CACHE
from prefect.client.orchestration import get_client

from heartwatch.monitoring import Monitoring, StageRate
from heartwatch.produce.spec import RunSpec
from heartwatch.settings import load_settings
from heartwatch.verify import measure
from heartwatch.verify.measure import Measured
from heartwatch.verify.render_throughput import latency_clause, objectives_sentence, rate_rows, throughput_history
from tasks.artifacts import publish_markdown, publish_table
from tasks.shard_runs import running_specs


@task(cache_policy=NO_CACHE, retries=2, retry_delay_seconds=2)
def measure_stages(seconds: float, interval_seconds: float) -> Measured | None:
    """Sample the stages for some time, keep what was found, and compare it with the objectives.

    Args:
        seconds: how long to sample, s.
        interval_seconds: time between two samples, s.

    Returns:
        None where the pipeline isn't deployed or at rest.

    Raises:
        KafkaClientError: the brokers could not be asked.
        PostgresError: Postgres could not be asked.
    """
    return measure.measure_stages(load_settings(), seconds, interval_seconds, _specs_under_way())


def _specs_under_way() -> list[RunSpec]:
    """Return the descriptions of the runs whose shards are being sent; none where Prefect's server can't be asked."""
    try:
        with get_client(sync_client=True) as client:
            return running_specs(client)
    except httpx.HTTPError as error:
        get_run_logger().warning("which rate was asked for isn't known: %r", error)
        return []


def publish_throughput(measured: Measured) -> None:
    """Show a check's rates, lags and latencies, and how they were in the last six hours."""
    settings, sentence = load_settings(), objectives_sentence(measured)
    publish_rates(measured.rates, sentence + latency_clause(measured))
    memory = Monitoring(settings.postgres, settings.pipeline)
    text = throughput_history(memory, settings, sentence)
    publish_markdown("throughput-over-time", text, "Events/s, lag and latency of the last six hours.")


def publish_rates(rates: Sequence[StageRate], sentence: str) -> None:
    """Show the stages' rates and lags as a table.

    Args:
        rates: of each stage.
        sentence: what they say, without a full stop.
    """
    publish_table("throughput", rate_rows(rates), f"{sentence}.")
