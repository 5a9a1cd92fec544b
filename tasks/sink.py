"""Tasks that prove the sink."""

from __future__ import annotations

import time
from collections.abc import Sequence

from prefect import get_run_logger, task
from prefect.cache_policies import NO_CACHE
from prefect.tasks import exponential_backoff

from heartwatch.analytic import Analytic
from heartwatch.events import Wrong
from heartwatch.monitoring import Monitoring
from heartwatch.proof.report import (
    Busy,
    SinkReport,
    check_of,
    dead_letter_rows,
    finding_rows,
    found_nothing_new,
    history_plot,
    make_report,
    partition_rows,
    sentences,
)
from heartwatch.proof.store import BusyError
from heartwatch.proof.topic import Request, prove
from heartwatch.settings import load_settings
from tasks.artifacts import publish_markdown, publish_table
from tasks.events import announce

_PLOTTED_SECONDS = 24 * 3_600


def find_sinks(version: int | None) -> list[str]:
    """Return the analytic's topics that have a sink connector, as its file names them.

    Args:
        version: pipeline version; None for the settings'.
    """
    settings = load_settings()
    return Analytic.load(settings.pipeline.analytic, version or settings.pipeline.version).sink_topics()


@task(
    task_run_name="prove-{resource}",
    cache_policy=NO_CACHE,
    retries=2,
    retry_delay_seconds=exponential_backoff(backoff_factor=2),
    retry_jitter_factor=0.5,
)
def prove_sink(resource: str, request: Request, version: int | None = None) -> SinkReport | Busy | None:
    """Prove one topic's sink.

    Args:
        resource: topic, as `analytic.toml` names it.
        request: what is to be proven.
        version: pipeline version; None for the settings'.

    Returns:
        what was found; None where the topic isn't deployed.

    Raises:
        SinkError: the sink can't be read.
        TopicError: the topic can't be read.
    """
    settings = load_settings()
    analytic = Analytic.load(settings.pipeline.analytic, version or settings.pipeline.version)
    try:
        found = prove(settings, analytic, resource, request)
    except BusyError as error:
        get_run_logger().info("%s", error)
        return Busy(sentence=str(error))
    if found is None:
        return None
    proof, dead_letters = found
    get_run_logger().info("%s, in %.1f s", proof.sentence(), proof.seconds)
    return make_report(proof, dead_letters)


def publish_sinks(reports: Sequence[SinkReport]) -> None:
    """Show what was found of each sink: by topic and partition, by finding, and the dead letters by reason.

    Args:
        reports: of each topic.
    """
    publish_table("sink", partition_rows(reports), f"{sentences(reports)}.")
    findings = finding_rows(reports)
    publish_table("sink-findings", findings, f"{len(findings)} things that are wrong or worth telling.")
    description = "Records that connectors refused, by reason; partition:offset and time."
    publish_table("sink-dead-letters", dead_letter_rows(reports), description)


def publish_sinks_over_time(reports: Sequence[SinkReport], version: int | None = None) -> None:
    """Keep what a check of all that is new found, and plot what the checks of the last day found where that changed.

    Args:
        reports: of each topic; what was limited to some offsets says nothing of a sink as a whole and isn't for here.
        version: pipeline version; None for the settings'.
    """
    settings = load_settings()
    pipeline = settings.pipeline.model_copy(update={"version": version or settings.pipeline.version})
    memory, now = Monitoring(settings.postgres, pipeline), time.time()
    checks = [check_of(report, now) for report in reports]
    history = memory.sink_checks(now - _PLOTTED_SECONDS)
    memory.add_sink_checks(checks)
    if found_nothing_new(history, checks):
        return
    text = f"{'; '.join(report.sentence for report in reports)}.\n\n{history_plot([*history, *checks])}"
    publish_markdown("sink-over-time", text, "What the checks of the sinks found in the last 24 hours.")


def report_incomplete(report: SinkReport) -> None:
    """Emit the event that automations react to: what is wrong and where, and the topic's numbers.

    Args:
        report: of a topic whose sink isn't proven.
    """
    announce(Wrong.SINK_INCOMPLETE, report.topic, report.sentence, report.totals, records_at_risk=report.at_risk)
