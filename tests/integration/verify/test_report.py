"""A day's report over real Iceberg tables, kept once in S3."""

from __future__ import annotations

from datetime import UTC, date, datetime, timedelta
from typing import Any

import polars as pl
import pyarrow as pa
import pytest
from psycopg2 import sql

from heartwatch.analytic import Analytic
from heartwatch.iceberg import open_catalog
from heartwatch.platform.platform import Platform
from heartwatch.postgres import execute
from heartwatch.report.day import ReportError, Reports, Totals, by_key, compute_day, totals
from heartwatch.settings import Settings, load_settings

pytestmark = pytest.mark.parts("postgres", "s3")
DAY = date(2026, 3, 4)
NOON = datetime(2026, 3, 4, 12, tzinfo=UTC)
RATES = {0: 70, 10: 150, 20: 150, 90: 70, 100: 40}
"""Heart rate of user 1 (own range 50 to 100) by second after noon: 10 s inside, 10 s above, a gap of 70 s, 10 s inside."""


@pytest.fixture
def settings(platform: Platform) -> Settings:
    settings = load_settings()
    return settings.model_copy(
        update={
            "pipeline": settings.pipeline.model_copy(update={"version": 74}),
            "postgres": settings.postgres.model_copy(update={"historical_table": "historical_74"}),
        }
    )


def append(settings: Settings, resource: str, rows: list[dict[str, Any]], schema: pa.Schema) -> None:
    catalog = open_catalog(settings.postgres, settings.s3)
    catalog.create_namespace_if_not_exists(settings.s3.namespace)
    name = (settings.s3.namespace, Analytic.of(settings.pipeline).topic(resource))
    catalog.create_table_if_not_exists(name, schema).append(pa.Table.from_pylist(rows, schema))
    catalog.close()


def sample(user: str, at: datetime, rate: int) -> dict[str, Any]:
    return {"user_id": user, "event_time": at, "heart_rate": rate}


def test_a_day_is_reported_once_however_often(settings: Settings) -> None:
    with pytest.raises(ReportError, match="no table 'heart_rate_realtime_v74'"):
        compute_day(settings, DAY, 30)
    execute(
        settings.postgres,
        sql.SQL(
            "CREATE TABLE public.historical_74 AS SELECT 1 AS user_id, 50 AS min_heart_rate, 100 AS max_heart_rate"
        ),
    )
    stamp = pa.timestamp("us", "UTC")
    events = [sample("1", NOON + timedelta(seconds=second), rate) for second, rate in RATES.items()]
    events += [
        sample("2", NOON, 200),
        sample("1", NOON - timedelta(days=1), 200),
        sample("1", NOON + timedelta(days=1), 9),
    ]
    append(
        settings,
        "realtime",
        events,
        pa.schema([("user_id", pa.string()), ("event_time", stamp), ("heart_rate", pa.int32())]),
    )
    assert totals(compute_day(settings, DAY, 30), "user_id").alerts == 0, "the sink's table comes with the first alert"
    alerts = [{"user_id": "1", "window_start": NOON + timedelta(seconds=10)}, {"user_id": "3", "window_start": NOON}]
    append(settings, "alerts", alerts, pa.schema([("user_id", pa.string()), ("window_start", stamp)]))
    rows, reports = compute_day(settings, DAY, 30), Reports(settings)
    assert totals(rows, "user_id") == Totals(
        users=3,
        users_alerted=2,
        events=6,
        alerts=2,
        observed_seconds=10 + 10 + 30 + 10,
        outside_seconds=10 + 30,
        gaps=1,
        gap_seconds=70,
    )
    assert by_key(rows, "user_id")["user_id"].to_list() == ["1", "3", "2"], (
        "those with most alerts and time outside first"
    )
    assert rows.filter(pl.col("user_id") == "2")["events_without_range"].to_list() == [1]
    assert reports.read(DAY) is None
    for _ in range(2):
        address = reports.write(DAY, compute_day(settings, DAY, 30))
    assert address.endswith("/reports/heart_rate_v74/daily/date=2026-03-04/report.parquet")
    again = reports.read(DAY)
    assert again is not None
    assert again.equals(rows)
    assert list(reports.days(DAY + timedelta(days=1), 7)) == [DAY]
