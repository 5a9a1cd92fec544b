"""Which days a report is made of."""

from __future__ import annotations

from datetime import UTC, date, datetime, timedelta
from typing import Any

import polars as pl
import pytest

from heartwatch.report.day import Reports, yesterday

LAST = date(2026, 3, 1)


@pytest.mark.parametrize(
    ("there", "missing"),
    [([], [27, 28, 1]), ([28], [27, 1]), ([27, 28], [1]), ([27, 28, 1], [1])],
    ids=["none", "the middle one", "all but the last", "all"],
)
def test_days_that_have_a_report_are_not_made_again_but_for_the_last(
    monkeypatch: pytest.MonkeyPatch, there: list[int], missing: list[int]
) -> None:
    reports: Any = object.__new__(Reports)
    rows = pl.DataFrame({"alerts": [1]})
    monkeypatch.setattr(Reports, "read", lambda _, day: rows if day.day in there else None)
    assert [day.day for day in reports.missing(LAST, 3)] == missing


def test_yesterday_is_over() -> None:
    assert yesterday() == datetime.now(UTC).date() - timedelta(days=1)
