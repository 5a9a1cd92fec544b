"""Tasks that compare the query's results with an independent batch computation and with the truth."""

from __future__ import annotations

import time
from typing import Any

from prefect import get_run_logger, task
from prefect.cache_policies import NO_CACHE
from prefect.runtime import flow_run
from prefect.tasks import exponential_backoff

from heartwatch.monitoring import Monitoring
from heartwatch.produce.spec import RunSpec
from heartwatch.settings import load_settings
from heartwatch.verify import topics
from heartwatch.verify.detections import AlertsReport, DetectionVerifier
from heartwatch.verify.render_detections import detections_history, detections_text, difference_rows
from heartwatch.verify.topics import Offsets
from tasks.artifacts import publish_markdown, publish_table

_RETRIES: dict[str, Any] = {
    "cache_policy": NO_CACHE,
    "retries": 3,
    "retry_delay_seconds": exponential_backoff(backoff_factor=2),
    "retry_jitter_factor": 0.5,
}


@task(**_RETRIES)
def note_offsets(resources: list[str]) -> Offsets:
    """Return where some topics end now: what comes later belongs to the run that begins.

    Args:
        resources: topics, as the analytic's file names them.

    Raises:
        UnknownTopicError: a topic isn't deployed.
    """
    return topics.note_offsets(load_settings(), resources)


@task(**_RETRIES)
def wait_for_table(deadline_seconds: float) -> int:
    """Wait until the table's topic has each row of the database's table, and return how many there are.

    Args:
        deadline_seconds: how long the source connector may take, s.

    Raises:
        NotReadyError: rows are missing or different after the deadline.
    """
    rows = topics.wait_for_table(load_settings(), deadline_seconds)
    get_run_logger().info("the table's topic has all %d rows", rows)
    return rows


@task(**_RETRIES)
def verify_alerts(spec: RunSpec, offsets: Offsets | None, deadline_seconds: float) -> AlertsReport:
    """Compute a run's results at one go, wait until the query's equal them, and score them against the truth.

    Args:
        spec: the run.
        offsets: what `note_offsets` gave before it, for the topics of the stream and the results; None for their beginnings.
        deadline_seconds: how long the query may take to give the results, s.

    Raises:
        TopicError: a topic can't be read.
        BatchError: the batch computation can't be run.
    """
    return _verifier(deadline_seconds).verify_run(spec, offsets)


@task(**_RETRIES)
def verify_newest_alerts(most_events: int, deadline_seconds: float) -> AlertsReport | None:
    """Compare the results of what came since the check before with the batch computation, whoever sent the events.

    Args:
        most_events: newest offsets of the stream to look at, all partitions together.
        deadline_seconds: how long the query may take to give the results, s.

    Returns:
        None where the pipeline isn't deployed, nothing came, or the personal ranges have changed.

    Raises:
        TopicError: a topic can't be read.
        BatchError: the batch computation can't be run.
    """
    return _verifier(deadline_seconds).verify_new(most_events)


def _verifier(deadline_seconds: float) -> DetectionVerifier:
    name = str(flow_run.id or "local")
    return DetectionVerifier(load_settings(), deadline_seconds, name, get_run_logger().info)


def publish_detections(report: AlertsReport) -> None:
    """Show how the results compare: in text, by window and by what people did, and what differs.

    Args:
        report: what a check found.
    """
    publish_markdown("detections", detections_text(report), "The alerts against a batch computation and the truth.")
    rows = difference_rows(report)
    description = "What differs, the first of each kind." if rows else "Nothing differs."
    publish_table("detections-differences", rows, description)


def publish_detections_over_time(report: AlertsReport) -> None:
    """Keep what a check found, and plot what the checks of the last seven days found.

    Args:
        report: what the check found.
    """
    settings = load_settings()
    memory = Monitoring(settings.postgres, settings.pipeline)
    memory.add_detection_check(report.check(time.time()))
    text = detections_history(memory, report)
    publish_markdown("detections-over-time", text, "What the checks of the detections found in the last seven days.")
