"""How a report's figures are shown."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from datetime import UTC, date, datetime, timedelta
from typing import Any

import polars as pl
import pytest

from heartwatch.markdown import table
from heartwatch.report import render
from heartwatch.report.day import FIGURES, change
from tasks import report


@pytest.mark.parametrize(
    ("now", "before", "shown"),
    [
        (112, 100, "+12 %"),
        (88, 100, "-12 %"),
        (5, 0, "-"),
        (0, 4, "-100 %"),
        (999, 100, "+899 %"),
        (207.6, 0.8, "\N{MULTIPLICATION SIGN} 260"),
    ],
)
def test_a_change_is_a_share_or_so_many_times(now: float, before: float, shown: str) -> None:
    assert change(now, before) == shown


def test_numbers_stand_to_the_right_but_not_what_they_are_of() -> None:
    rows = [
        {"user": 7, "alerts": 1_234, "change": "+12 %", "place": "home"},
        {"user": 8, "alerts": None, "change": "-", "place": "7"},
    ]
    assert table(rows).splitlines() == [
        "| user | alerts | change | place |",
        "| --- | ---: | ---: | --- |",
        "| 7 | 1,234 | +12 % | home |",
        "| 8 |  | - | 7 |",
    ]
    assert table([{"user": "7|8\n9", "alerts": 1}]).splitlines()[2] == "| 7\\|8 9 | 1 |"
    assert table([]) == ""


class Kept:
    """Reports of some days, of one user with ten alerts a day."""

    def __init__(self, days: Sequence[date]) -> None:
        self._days = days

    def path(self, day: date) -> str:
        return f"bucket/date={day}"

    def days(self, last: date, count: int) -> dict[date, pl.DataFrame]:
        wanted = [last - timedelta(days=back) for back in reversed(range(count))]
        return {day: day_of(day) for day in wanted if day in self._days}


def day_of(day: date) -> pl.DataFrame:
    figures = dict.fromkeys(FIGURES, 10)
    return pl.DataFrame({"user_id": ["1"], "hour": [datetime(day.year, day.month, day.day, tzinfo=UTC)], **figures})


@pytest.fixture
def published(monkeypatch: pytest.MonkeyPatch) -> Callable[[int, int], tuple[str, dict[str, dict[str, float]]]]:
    """Publish a report of some days of which so many are kept; return the text and the picture's alerts."""
    drawn: dict[str, dict[str, float]] = {}
    texts: list[str] = []

    def bars(panels: Mapping[str, dict[str, dict[str, float]]], label: str) -> bytes:
        drawn.update(panels["alerts"])
        return b""

    def publish(days: int, kept: int) -> tuple[str, dict[str, dict[str, float]]]:
        last = date(2026, 3, 1)
        drawn.clear()
        monkeypatch.setattr(report, "Reports", lambda _: Kept([last - timedelta(days=back) for back in range(kept)]))
        report.publish_report.fn(last, days)
        return texts[-1], dict(drawn)

    monkeypatch.setattr(render, "bars", bars)
    monkeypatch.setattr(report, "publish_markdown", lambda _kind, text, _description: texts.append(text))
    return publish


def test_a_week_is_compared_with_the_week_before_if_that_has_all_its_days(published: Any) -> None:
    text, drawn = published(7, 14)
    assert "# Week 2026-02-23 to 2026-03-01 (UTC)" in text
    assert "| alerts | 70 | 70 | +0 % |" in text
    assert {name: len(days) for name, days in drawn.items()} == {"this week": 7, "a week before": 7}
    text, drawn = published(7, 10)
    assert "| fleet | this week | a week before (3 of 7 days) | change |" in text
    assert "| alerts | 70 | 30 | - |" in text, "fewer days aren't fewer alerts"
    assert list(drawn["a week before (3 of 7 days)"]) == ["Fri 27", "Sat 28", "Sun 01"]
    text, _ = published(7, 7)
    assert "a week before (no report)" in text


def test_more_days_than_a_week_are_compared_with_other_days_and_all_drawn(published: Any) -> None:
    text, drawn = published(10, 24)
    assert "# 10 days 2026-02-20 to 2026-03-01 (UTC)" in text
    assert "| fleet | these 10 days | 2 weeks before | change |" in text
    assert {name: len(days) for name, days in drawn.items()} == {"these 10 days": 10, "2 weeks before": 10}
    assert [*drawn["these 10 days"]] == [*drawn["2 weeks before"]]
