"""Tables as CSV, safe to open in a spreadsheet: no cell is a formula."""

from __future__ import annotations

import csv
import io
from collections.abc import Iterable, Sequence
from datetime import UTC, datetime
from typing import Any

from heartwatch.analytic import PageDefinition
from heartwatch.web.alerts import Episode
from heartwatch.web.board import STEP_SECONDS, Snapshot

_FORMULA = ("=", "+", "-", "@", "\t", "\r")


def safe_cell(value: Any) -> Any:
    """Return a cell that no spreadsheet takes for a formula (OWASP, CSV injection): such texts get an apostrophe in front."""
    return f"'{value}" if isinstance(value, str) and value.startswith(_FORMULA) else value


def csv_bytes(headings: Sequence[str], rows: Iterable[Sequence[Any]]) -> bytes:
    """Return a table as CSV in UTF-8, its first line the headings."""
    text = io.StringIO()
    writer = csv.writer(text)
    writer.writerow([safe_cell(heading) for heading in headings])
    writer.writerows([safe_cell(cell) for cell in row] for row in rows)
    return text.getvalue().encode()


def episodes_csv(episodes: Iterable[Episode], page: PageDefinition) -> bytes:
    """Return alerts as CSV, one row per episode."""
    headings = ("who", page.area_title, "since", "until", "windows", "average", "low", "high", "north", "east")
    rows = (
        (
            episode.subject,
            episode.last.area,
            _iso(episode.since_ms),
            _iso(episode.last.end_ms),
            episode.windows,
            round(episode.last.average, 2),
            episode.last.low,
            episode.last.high,
            episode.last.north,
            episode.last.east,
        )
        for episode in episodes
    )
    return csv_bytes(headings, rows)


def _iso(at_ms: int) -> str:
    return datetime.fromtimestamp(at_ms / 1000, UTC).isoformat(timespec="milliseconds")


def stages_csv(snapshot: Snapshot) -> bytes:
    """Return rate and lag of each stage as CSV."""
    rows = (
        (
            rate.stage,
            round(rate.events_per_second, 1),
            round(rate.peak_events_per_second, 1),
            rate.lag_events,
            None if rate.lag_seconds is None else round(rate.lag_seconds, 1),
        )
        for rate in snapshot.rates
    )
    return csv_bytes(("stage", "events/s", "peak events/s", "lag, events", "lag, s"), rows)


def series_csv(snapshot: Snapshot) -> bytes:
    """Return the charts' numbers as CSV, one row per step."""
    found = snapshot.series
    columns = zip(found.arriving, found.queried, found.alerts_per_minute, strict=True)
    last = snapshot.at // STEP_SECONDS * STEP_SECONDS
    steps = len(found.arriving)
    rows = (
        (_iso(round(1000 * (last - STEP_SECONDS * (steps - 1 - step)))), *values) for step, values in enumerate(columns)
    )
    return csv_bytes(("until", "arriving, events/s", "read by the query, events/s", "alerts per minute"), rows)


def areas_csv(snapshot: Snapshot, with_alerts: dict[str, int], page: PageDefinition) -> bytes:
    """Return people by area as CSV."""
    rows = (
        (area.name, area.people, with_alerts.get(area.name, 0), round(area.north, 5), round(area.east, 5))
        for area in snapshot.areas.areas
    )
    return csv_bytes((page.area_title, "people", "with an alert", "north", "east"), rows)
