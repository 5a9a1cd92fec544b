"""Hold the query's results to an independent batch computation, and where the events are simulated to the truth.

Requires: Kafka, the schema registry, Postgres. Scheduled twice an hour for what came since the check before; heart-watch runs it
for its own events.
"""

from __future__ import annotations

from typing import Annotated

from prefect import flow
from pydantic import Field

from heartwatch.analytic import Analytic
from heartwatch.errors import HeartWatchError
from heartwatch.produce.spec import RunSpec
from heartwatch.settings import ObjectiveSettings, load_settings
from tasks.events import Wrong, announce
from tasks.verify import (
    AlertsReport,
    Offsets,
    publish_detections,
    publish_detections_over_time,
    verify_alerts,
    verify_newest_alerts,
)


class DetectionError(HeartWatchError):
    """The query's results are not those of the batch computation; the message says what differs."""


@flow(name="verify-detections")
def verify_detections(
    run: Annotated[
        RunSpec | None, Field(description="producer run; None: what came since the check before, whoever sent it")
    ] = None,
    offsets: Annotated[
        Offsets | None, Field(description="by topic and partition, where the run began; None: at the beginning")
    ] = None,
    most_events: Annotated[
        int,
        Field(ge=1_000, le=50_000_000, description="without a run: newest offsets to look at, all partitions together"),
    ] = 3_000_000,
    deadline_seconds: Annotated[
        float, Field(ge=0, le=900, description="how long the query may take to give the results")
    ] = 150,
) -> AlertsReport | None:
    """Verify the detections.

    Returns:
        what was found; None when nothing is new, the own ranges have changed since, or the pipeline isn't deployed.

    Raises:
        DetectionError: the results are not those of the batch computation.
    """
    if run is None:
        report = verify_newest_alerts(most_events, deadline_seconds)
    else:
        report = verify_alerts(run, offsets or {"realtime": {}, "alerts": {}}, deadline_seconds)
    if report is None:
        return None
    publish_detections(report)
    publish_detections_over_time(report)
    settings = load_settings()
    pipeline = Analytic.of(settings.pipeline).name("pipeline")
    for sentence in missed_objectives(report, settings.objectives):
        announce(Wrong.SLO_BREACHED, pipeline, sentence)
    if not report.exact:
        sentence = f"{report.alerts:,} alerts are not those of the batch computation: {report.sentence}"
        announce(Wrong.DETECTIONS_WRONG, pipeline, sentence)
        raise DetectionError(sentence)
    return report


def missed_objectives(report: AlertsReport, objectives: ObjectiveSettings) -> list[str]:
    """Return one sentence for each objective of the truth that is not met."""
    found = []
    for name, value, least in (
        ("recall", report.recall, objectives.min_recall),
        ("precision", report.precision, objectives.min_precision),
    ):
        if value is not None and value < least:
            found.append(f"the alerts' {name} is {value:.3f}, less than the objective of {least:g}")
    return found
