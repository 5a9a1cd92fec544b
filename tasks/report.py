"""Tasks of the daily and weekly reports."""

from __future__ import annotations

from datetime import date

from prefect import get_run_logger, task
from prefect.cache_policies import NO_CACHE
from prefect.tasks import exponential_backoff

from heartwatch.analytic import Analytic
from heartwatch.report import day as day_report
from heartwatch.report.day import Reports, Totals, Written, key_of
from heartwatch.report.render import render_report
from heartwatch.settings import load_settings
from tasks.artifacts import publish_markdown


@task(
    task_run_name="report-{day}",
    cache_policy=NO_CACHE,
    retries=2,
    retry_delay_seconds=exponential_backoff(backoff_factor=5),
    retry_jitter_factor=0.5,
)
def write_day(day: date, gap_seconds: float) -> Written:
    """Compute a day's report and write it to S3, in place of an earlier one.

    Args:
        day: by the events' own time, UTC.
        gap_seconds: longest time that a sample stands for, s.

    Raises:
        ReportError: the sink has no tables, or the statement or the S3 server refused.
    """
    written = day_report.write_day(load_settings(), day, gap_seconds)
    get_run_logger().info("%d rows of %s are in %s", written.rows, day, written.address)
    return written


def missing_days(last: date, count: int) -> list[date]:
    """Return those of `count` days up to `last` that have no report yet; the last one always.

    Raises:
        ReportError: the S3 server refused or is away.
    """
    return Reports(load_settings()).missing(last, count)


@task(cache_policy=NO_CACHE)
def publish_report(last: date, days: int) -> Totals:
    """Show what the reports of some days say, beside the same days a week before, or as many weeks before as they reach into.

    Args:
        last: the last day.
        days: how many.

    Returns:
        the fleet's figures of those days.

    Raises:
        ReportError: the S3 server refused or is away.
    """
    settings = load_settings()
    report = render_report(Reports(settings), key_of(Analytic.of(settings.pipeline)), last, days)
    publish_markdown(report.kind, report.text, report.description)
    return report.fleet
