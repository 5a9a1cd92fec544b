"""A day's or some days' report as Markdown, with figures and plots beside those of the same days a week before."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import date, timedelta

import polars as pl

from heartwatch.markdown import picture, table
from heartwatch.plots import bars
from heartwatch.report.day import Reports, Totals, by_hour, by_key, change, totals

_SHOWN = 20
_WEEK = 7


@dataclass(frozen=True)
class RenderedReport:
    """A report as people see it.

    Attributes:
        kind: daily-report or weekly-report.
        text: Markdown.
        description: what it is about, as one sentence.
        fleet: the figures of those days.
    """

    kind: str
    text: str
    description: str
    fleet: Totals


def render_report(reports: Reports, key: str, last: date, days: int) -> RenderedReport:
    """Return what the reports of some days say, beside the same days a week before, or as many weeks before as they reach into.

    Nothing is said of a change where one of the days before has no report: fewer days would be taken for fewer alerts.

    Args:
        reports: where the days' reports are.
        key: field that says whose a row is.
        last: the last day.
        days: how many.

    Raises:
        ReportError: the S3 server refused or is away.
    """
    back = timedelta(weeks=-(-days // _WEEK))
    now, before = reports.days(last, days), reports.days(last - back, days)
    rows = pl.concat([*now.values()], how="diagonal_relaxed")
    earlier = pl.concat([*before.values()], how="diagonal_relaxed") if before else rows.clear()
    fleet, fleet_before = totals(rows, key), totals(earlier, key)
    this, compared = _names(days, len(before))
    png = _by_hour(rows, earlier) if days == 1 else _by_day({this: now, compared: before}, back, key)
    name = f"{last}" if days == 1 else f"{last - timedelta(days=days - 1)} to {last}"
    most = _key_rows(by_key(rows, key).head(_SHOWN), by_key(earlier, key), key)
    whole = [f"`s3://{reports.path(day)}`" for day in now]
    parts = [
        f"# {this.removeprefix('this ').removeprefix('these ').capitalize()} {name} (UTC)",
        table(_fleet_rows(fleet, fleet_before, this, compared, comparable=len(before) == days)),
        picture(png, "alerts and time outside the personal range"),
        f"## Most alerts, then most time outside\n\n{table(most)}",
        f"{fleet.users:,} users, {fleet.users_alerted:,} with an alert. The whole table, by user and hour: "
        + (whole[0] if len(whole) == 1 else f"{len(whole)} days from {whole[0]} to {whole[-1]}"),
    ]
    kind = "daily-report" if days == 1 else "weekly-report"
    description = f"{name}: {fleet.alerts:,} alerts of {fleet.users_alerted:,} users."
    return RenderedReport(kind, "\n\n".join(parts), description, fleet)


def _names(days: int, days_before: int) -> tuple[str, str]:
    """Return what to call some days, and those that they are compared with."""
    this = {1: "this day", _WEEK: "this week"}.get(days, f"these {days} days")
    weeks = -(-days // _WEEK)
    compared = "a week before" if weeks == 1 else f"{weeks} weeks before"
    if days_before == days:
        return this, compared
    return this, f"{compared} ({f'{days_before} of {days} days' if days_before else 'no report'})"


def _fleet_rows(now: Totals, before: Totals, this: str, compared: str, comparable: bool) -> list[dict[str, str]]:
    figures = {
        "users": (now.users, before.users),
        "users with an alert": (now.users_alerted, before.users_alerted),
        "samples": (now.events, before.events),
        "alerts": (now.alerts, before.alerts),
        "time observed, h": (now.observed_seconds / 3600, before.observed_seconds / 3600),
        "time outside the personal range, h": (now.outside_seconds / 3600, before.outside_seconds / 3600),
        "share outside, %": (100 * now.outside_share, 100 * before.outside_share),
        "data gaps": (now.gaps, before.gaps),
        "time in gaps, h": (now.gap_seconds / 3600, before.gap_seconds / 3600),
    }
    return [
        {
            "fleet": name,
            this: _number(value),
            compared: _number(earlier) if before.users else "-",
            "change": change(value, earlier) if comparable else "-",
        }
        for name, (value, earlier) in figures.items()
    ]


def _key_rows(rows: pl.DataFrame, earlier: pl.DataFrame, key: str) -> list[dict[str, str]]:
    before = {row[key]: row for row in earlier.iter_rows(named=True)}
    return [
        {
            "user": str(row[key]),
            "alerts": _number(row["alerts"]),
            "alerts a week before": _number(before[row[key]]["alerts"]) if row[key] in before else "-",
            "outside, min": _number(row["outside_seconds"] / 60),
            "observed, min": _number(row["observed_seconds"] / 60),
            "gaps": _number(row["gaps"]),
            "in gaps, min": _number(row["gap_seconds"] / 60),
        }
        for row in rows.iter_rows(named=True)
    ]


def _number(value: float) -> str:
    return f"{value:,.1f}" if isinstance(value, float) else f"{value:,}"


def _by_hour(rows: pl.DataFrame, earlier: pl.DataFrame) -> bytes | None:
    series = {"this day": by_hour(rows), "a week before": by_hour(earlier)}
    hours = [f"{hour:02}" for hour in range(24)]
    alerts, outside = {}, {}
    for name, frame in series.items():
        if frame.is_empty():
            continue
        found = {f"{row['hour']:%H}": row for row in frame.iter_rows(named=True)}
        alerts[name] = {hour: float(found[hour]["alerts"]) if hour in found else 0.0 for hour in hours}
        outside[name] = {hour: found[hour]["outside_seconds"] / 3600 if hour in found else 0.0 for hour in hours}
    return bars({"alerts": alerts, "outside, h": outside}, "hour (UTC)")


def _by_day(periods: Mapping[str, Mapping[date, pl.DataFrame]], back: timedelta, key: str) -> bytes | None:
    """Draw the days' figures; those of the second period stand beside the days that are so much later."""
    alerts: dict[str, dict[str, float]] = {}
    outside: dict[str, dict[str, float]] = {}
    for (name, found), shift in zip(periods.items(), (timedelta(), back), strict=True):
        for day, rows in found.items():
            fleet, place = totals(rows, key), f"{day + shift:%a %d}"
            alerts.setdefault(name, {})[place] = fleet.alerts
            outside.setdefault(name, {})[place] = fleet.outside_seconds / 3600
    return bars({"alerts": alerts, "outside, h": outside}, "day")
