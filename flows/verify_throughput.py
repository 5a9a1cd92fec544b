"""Measure events/s, lag and latency of every stage, and compare them with the settings' objectives while a run is on.

Requires: Kafka, Postgres; the KSQL server says which queries there are. Scheduled every minute; at rest it takes one sample.
"""

from __future__ import annotations

from typing import Annotated, Any

from prefect import flow
from prefect.states import Completed, State
from pydantic import Field

from heartwatch.analytic import Analytic
from heartwatch.errors import HeartWatchError
from heartwatch.events import Wrong
from heartwatch.settings import load_settings
from tasks.events import announce
from tasks.throughput import measure_stages, publish_throughput


class ObjectiveMissedError(HeartWatchError):
    """A stage is slower or further behind than its objective; the message says which and by how much."""


@flow(name="verify-throughput")
def verify_throughput(
    seconds: Annotated[float, Field(gt=0, le=600)] = 10,
    interval_seconds: Annotated[float, Field(gt=0, le=60)] = 1,
) -> State[Any]:
    """Measure the stages.

    Args:
        seconds: How long to sample, s.
        interval_seconds: Time between two samples, s.

    Raises:
        ObjectiveMissedError: an objective is missed while a run is on.
    """
    measured = measure_stages(seconds, interval_seconds)
    if measured is None:
        return Completed(message="no run: the pipeline isn't deployed, or at rest")
    publish_throughput(measured)
    if measured.missed:
        sentence = "; ".join(measured.missed)
        announce(Wrong.SLO_BREACHED, Analytic.of(load_settings().pipeline).name("pipeline"), sentence)
        raise ObjectiveMissedError(sentence)
    return Completed(message="objectives met" if measured.running else "no run")
