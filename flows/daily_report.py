"""Report a day or a week over the S3 objects: alerts, time outside the personal range, data gaps, by user and for the fleet.

Requires: the sink's tables in S3, Postgres. Scheduled daily for the day before, and on Mondays for the week before. A day that is
reported again replaces what there is of it.
"""

from __future__ import annotations

from datetime import date
from typing import Annotated

from prefect import flow
from pydantic import Field

from tasks.report import Written, missing_days, publish_report, write_day, yesterday


@flow(name="daily-report")
def daily_report(
    day: Annotated[date | None, Field(description="last day, by the events' own time, UTC; None: yesterday")] = None,
    days: Annotated[
        int, Field(ge=1, le=31, description="how many days; those before the last are made if they are missing")
    ] = 1,
    gap_seconds: Annotated[float, Field(gt=0, description="longest time that a sample stands for, s")] = 30,
) -> list[Written]:
    """Make the report.

    Returns:
        the days that were written.

    Raises:
        ReportError: the sink has no tables, or the statement or the S3 server refused.
    """
    last = day or yesterday()
    written = [write_day(one, gap_seconds) for one in missing_days(last, days)]
    publish_report(last, days)
    return written
