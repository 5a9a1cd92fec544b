"""What the checks of the detections found, as rows and Markdown for people."""

from __future__ import annotations

import time
from typing import Any

from heartwatch.markdown import picture, table
from heartwatch.monitoring import Monitoring
from heartwatch.plots import over_time
from heartwatch.verify.detections import AlertsReport

_DETECTIONS_SECONDS = 7 * 24 * 3_600


def detections_text(report: AlertsReport) -> str:
    """Return how the results compare, by window and by what people did, as Markdown."""
    parts = [f"Against the batch computation: {report.sentence}."]
    if report.recall is not None and report.precision is not None:
        parts.append(
            f"Against the truth: recall {report.recall:.3f} ({report.misses:,} missed), precision {report.precision:.3f} "
            f"({report.false_alarms:,} false alarms)."
        )
    for title, rows in (("By what people did", report.states), ("By window (UTC)", report.windows)):
        if rows:
            named = [{name.replace("_", " "): value for name, value in row.items()} for row in rows]
            parts.append(f"## {title}\n\n{table(named)}")
    if report.late_events:
        rows = [*report.late_windows]
        parts.append(
            f"## Events that came after their window had closed\n\n{report.late_events:,} events.\n\n{table(rows)}"
        )
    if report.missed:
        parts.append(f"## Alerts that were missed for it\n\n{table([*report.missed])}")
    if report.file is not None:
        parts.append(f"Everything that differs is in `{report.file}`.")
    return "\n\n".join(parts)


def difference_rows(report: AlertsReport) -> list[dict[str, Any]]:
    """Return what differs, the first of each kind, all rows with the same columns."""
    columns = list(dict.fromkeys(name for row in report.differences for name in row))
    return [{name: row.get(name) for name in columns} for row in report.differences]


def detections_history(memory: Monitoring, report: AlertsReport) -> str:
    """Return a plot of what the checks of the last seven days found, as Markdown.

    Args:
        memory: what the checks have kept.
        report: what the last of them found.

    Raises:
        PostgresError: Postgres could not be asked.
    """
    checks = memory.detection_checks(time.time() - _DETECTIONS_SECONDS)
    shares = {
        name: [(check.at, value) for check in checks if (value := getattr(check, name)) is not None]
        for name in ("recall", "precision")
    }
    panels = {
        "alerts compared": {"alerts": [(check.at, check.alerts) for check in checks]},
        "alerts wrong": {"wrong": [(check.at, check.wrong) for check in checks]},
        "share": {name: points for name, points in shares.items() if points},
    }
    png = over_time({label: series for label, series in panels.items() if series})
    return f"{report.sentence}.\n\n{picture(png, 'alerts compared, alerts wrong, recall and precision over time')}"
