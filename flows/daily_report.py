"""Report a day or a week over the S3 objects: alerts, time outside the personal range, data gaps, by user and for the fleet.

Requires: the sink's tables in S3, Postgres. Scheduled daily for the day before, and on Mondays for the week before. A day that is
reported again replaces what there is of it.
"""

from __future__ import annotations

from datetime import date
from typing import Annotated

from prefect import flow
from pydantic import Field

from heartwatch.report.day import Written, yesterday
from tasks.report import missing_days, publish_report, write_day


@flow(name="daily-report")
def daily_report(
    day: date | None = None,
    days: Annotated[int, Field(ge=1, le=31)] = 1,
    gap_seconds: Annotated[float, Field(gt=0)] = 30,
) -> list[Written]:
    """Make the report.

    Args:
        day: Last day to report, by the events' own time, UTC. Empty: yesterday.
        days: Number of days to report. Days before the last one are computed only if they have no report yet.
        gap_seconds: Longest time that a sample stands for, s. A longer time between two samples of a person is a data gap.

    Returns:
        the days that were written.

    Raises:
        ReportError: the sink has no tables, or the statement or the S3 server refused.
    """
    last = day or yesterday()
    written = [write_day(missing, gap_seconds) for missing in missing_days(last, days)]
    publish_report(last, days)
    return written
