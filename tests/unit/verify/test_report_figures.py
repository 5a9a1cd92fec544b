"""How a report's figures are shown."""

from __future__ import annotations

import pytest

from heartwatch.report.day import change
from tasks.artifacts import table


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
    assert table([]) == ""
