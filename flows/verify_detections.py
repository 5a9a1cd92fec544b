"""Compare the query's results with an independent batch computation and, where the events are simulated, with the truth.

Requires: Kafka, the schema registry, Postgres. Scheduled twice an hour for what came since the check before; heart-watch runs it
for its own events.
"""

from __future__ import annotations

from typing import Annotated

from prefect import flow
from pydantic import Field

from heartwatch.analytic import Analytic
from heartwatch.errors import HeartWatchError
from heartwatch.events import Wrong
from heartwatch.produce.spec import RunSpec
from heartwatch.settings import load_settings
from heartwatch.verify.detections import AlertsReport, missed_objectives
from heartwatch.verify.late import missed_sentence
from heartwatch.verify.topics import Offsets
from tasks.events import announce
from tasks.verify import (
    publish_detections,
    publish_detections_over_time,
    verify_alerts,
    verify_newest_alerts,
)


class DetectionError(HeartWatchError):
    """The query's results are not those of the batch computation; the message says what differs."""


@flow(name="verify-detections")
def verify_detections(
    run: RunSpec | None = None,
    offsets: Offsets | None = None,
    most_events: Annotated[int, Field(ge=1_000, le=50_000_000)] = 3_000_000,
    deadline_seconds: Annotated[float, Field(ge=0, le=900)] = 150,
) -> AlertsReport | None:
    """Verify the detections.

    Args:
        run: Producer run whose results are verified, as `produce` describes it. Empty: the results of everything that came since
            the check before, whoever sent it.
        offsets: Where the run began: by topic (as the analytic's file names it) and partition, the first offset. Empty: at the
            topics' beginnings.
        most_events: Without a run: number of newest events (offsets) to look at, all partitions together.
        deadline_seconds: Longest time to wait for the query's results, s.

    Returns:
        what was found; None when nothing is new, the personal ranges have changed since, or the pipeline isn't deployed.

    Raises:
        DetectionError: the results are not those of the batch computation.
    """
    report = (
        verify_newest_alerts(most_events, deadline_seconds)
        if run is None
        else verify_alerts(run, offsets, deadline_seconds)
    )
    if report is None:
        return None
    publish_detections(report)
    publish_detections_over_time(report)
    settings = load_settings()
    pipeline = Analytic.of(settings.pipeline).name("pipeline")
    for sentence in missed_objectives(report, settings.objectives):
        announce(Wrong.SLO_BREACHED, pipeline, sentence)
    if report.missed:
        announce(Wrong.ALERTS_MISSED, pipeline, missed_sentence(report.missed))
    if not report.exact:
        sentence = f"{report.alerts:,} alerts are not those of the batch computation: {report.sentence}"
        announce(Wrong.DETECTIONS_WRONG, pipeline, sentence)
        raise DetectionError(sentence)
    return report
