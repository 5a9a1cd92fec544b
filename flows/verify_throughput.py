"""Measure events/s and lag of every stage, and hold them to the objectives of the settings while a run is on.

Requires: Kafka. Scheduled every minute.
"""

from __future__ import annotations

from typing import Annotated, Any

from prefect import flow
from prefect.states import Completed, State
from pydantic import Field

from heartwatch.settings import load_settings
from heartwatch.verify.throughput import breaches, is_running, stage_rates
from tasks.throughput import REALTIME, publish_rates, remember_samples, sample_stages


class ObjectiveMissedError(Exception):
    """A stage is slower or further behind than its objective; the message says which and by how much."""


@flow(name="verify-throughput")
def verify_throughput(
    seconds: Annotated[float, Field(gt=0, le=600, description="how long to sample")] = 10,
    interval_seconds: Annotated[float, Field(gt=0, le=60, description="time between two samples")] = 1,
) -> State[Any]:
    """Measure the stages.

    Raises:
        ObjectiveMissedError: an objective is missed while a run is on.
    """
    samples = sample_stages(seconds, interval_seconds)
    if samples is None:
        return Completed(message="no run: the pipeline isn't deployed")
    rates = stage_rates(samples, remember_samples(samples))
    running = is_running(samples, REALTIME)
    missed = breaches(rates, samples, REALTIME, load_settings().objectives) if running else []
    publish_rates(rates, "; ".join(missed) or ("all objectives are met" if running else "no run"))
    if missed:
        raise ObjectiveMissedError("; ".join(missed))
    return Completed(message="objectives met" if running else "no run")
