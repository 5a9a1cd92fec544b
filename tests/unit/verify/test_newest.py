"""Which windows a check of what is new looks at."""

from __future__ import annotations

from datetime import UTC, datetime
from string import Formatter
from types import SimpleNamespace
from typing import Any, cast

import polars as pl

from heartwatch.analytic import Analytic
from heartwatch.settings import load_settings
from heartwatch.verify.detections import show_rows
from heartwatch.verify.scopes import next_judged_from, scope_of_new
from kafkakit.topic_reader import NewRecords, new_records

START = 1_700_000_000_000


def test_records_before_the_new_ones_are_never_judged() -> None:
    spans = {0: (0, 90), 1: (0, 900), 2: (50, 900), 3: (0, 90), 4: (0, 40), 5: (860, 900), 6: (0, 90)}
    checked = {0: 80, 1: 880, 2: 60, 3: 0, 4: 40, 5: 70}
    new = new_records(spans, checked, look_back=100, most=500)
    assert new.ranges == {0: (0, 90), 1: (780, 900), 2: (400, 900), 3: (0, 90), 4: (0, 40), 5: (860, 900), 6: (0, 90)}
    # 0: read from the topic's beginning, of which 80 were checked or met other own ranges; 2: most of what is new is left out.
    assert new.judged_from == {0: 80, 1: 880, 2: 500, 3: 0, 4: 40, 5: 960, 6: 0}


def test_windows_that_events_before_may_have_touched_and_open_ones_are_left_out() -> None:
    settings = load_settings()
    reading = cast("Any", SimpleNamespace(analytic=Analytic.of(settings.pipeline), settings=settings))
    rows = [(0, 5, 0), (0, 6, 30_000), (0, 7, 20_000), (0, 8, 90_000), (1, 0, 0), (1, 1, 50_000), (2, 9, 1_000)]
    known = pl.DataFrame(
        {
            "partition": pl.Series([row[0] for row in rows], dtype=pl.Int32),
            "offset": [row[1] for row in rows],
            "event_time": pl.Series([datetime.fromtimestamp((START + row[2]) / 1000, UTC) for row in rows]),
        }
    )
    # Partition 0 was read from offset 5 on, of which those before 8 are early; 1 from its beginning; 2 has early ones only.
    scope = scope_of_new(reading, known, NewRecords({0: (5, 9), 1: (0, 2), 2: (9, 10)}, {0: 8, 1: 0, 2: 10}))
    assert scope.since["realtime"] == {0: 5, 1: 0, 2: 9}
    windows = pl.DataFrame(
        {
            "partition": pl.Series([0, 0, 0, 0, 1, 1, 2], dtype=pl.Int32),
            "window_start": pl.Series([START + at for at in (20_000, 30_000, 40_000, 80_000, 0, 40_000, 10_000)]).cast(
                pl.Datetime("ms", "UTC")
            ),
        }
    )
    kept = windows.filter(scope.holds("window_start"))
    found = kept.select("partition", pl.col("window_start").dt.epoch("ms") - START).rows()
    assert found == [(0, 40_000), (1, 0)], "after the 30 s of partition 0's early events; closed 20 s before its newest"


def test_every_window_is_judged_by_one_check_or_the_next() -> None:
    settings = load_settings()
    reading = cast("Any", SimpleNamespace(analytic=Analytic.of(settings.pipeline), settings=settings))
    # An event every second in partition 0, every tenth one 7 s late; partition 1 ends with the first check.
    times = [START + 1_000 * (number - (7 if number % 10 == 9 else 0)) for number in range(300)]
    events = pl.DataFrame(
        {
            "partition": pl.Series([0] * 300 + [1] * 100, dtype=pl.Int32),
            "offset": [*range(300), *range(100)],
            "event_time": pl.Series([*times, *times[:100]]).cast(pl.Datetime("ms", "UTC")),
        }
    )
    windows = pl.DataFrame(
        {
            "partition": pl.Series([0] * 30, dtype=pl.Int32),
            "window_start": pl.Series([START + 10_000 * number for number in range(30)]).cast(pl.Datetime("ms", "UTC")),
        }
    )
    judged: list[int] = []
    checked = {0: 0, 1: 0}
    for end in (100, 200, 201, 300):
        new = new_records({0: (0, end), 1: (0, 100)}, checked, look_back=20, most=1_000)
        read = [
            (pl.col("partition") == partition) & pl.col("offset").is_between(begin, last, closed="left")
            for partition, (begin, last) in new.ranges.items()
        ]
        known = events.filter(pl.any_horizontal(read))
        scope = scope_of_new(reading, known, new)
        kept = windows.filter(scope.holds("window_start"))["window_start"].dt.epoch("ms")
        judged += [(one - START) // 10_000 for one in kept]
        checked = next_judged_from(reading, known, new, scope)
    assert set(judged) == set(range(28)), "all that events have closed"
    assert checked[1] < 100, "what no event has closed yet is left to the next check"


def test_results_are_shown_even_without_some_values() -> None:
    analytic = Analytic.of(load_settings().pipeline)
    row = {name: None for text in analytic.summary.values() for _, name, _, _ in Formatter().parse(text) if name}
    (shown,) = show_rows(
        analytic, pl.DataFrame([row | {"window_start": datetime.fromtimestamp(0, UTC), "user_id": "7"}])
    )
    assert shown == {column: "7" if column == "user" else "-" for column in analytic.summary}
