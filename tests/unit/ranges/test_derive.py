"""Ranges from recordings, by the rule that the module states."""

from datetime import UTC, datetime, timedelta
from pathlib import Path

import numpy as np
import polars as pl
import pytest

from heartwatch.files.recordings import SCHEMA
from heartwatch.files.rejects import RejectFile
from heartwatch.ranges import HistoricalError
from heartwatch.ranges.derive import derive_ranges, range_of


def recording(rates: list[int], metres_a_second: float = 0.0, step_seconds: int = 1) -> pl.DataFrame:
    start = datetime(2026, 3, 4, tzinfo=UTC)
    count = len(rates)
    times = [start + timedelta(seconds=step_seconds * number) for number in range(count)]
    north = 40 + np.arange(count) * step_seconds * metres_a_second / 111_195
    return pl.DataFrame([times, north, [-73.9] * count, rates], schema=SCHEMA)


def test_still_samples_give_percentiles_with_a_margin():
    rates = [100] * 10 + list(range(80, 181))
    assert range_of(recording(rates)) == (60, 184)
    low = [100] * 10 + [45] * 50
    assert range_of(recording(low)) == (40, 100)


def test_rates_while_moving_do_not_count():
    assert range_of(recording([170] * 300, metres_a_second=3)) is None
    pause = recording([80] * 60)
    run = recording([170] * 300, metres_a_second=3).with_columns(pl.col("event_time") + timedelta(hours=1))
    assert range_of(pl.concat([pause, run])) == (60, 100)


def test_the_normal_range_at_rest_is_always_inside():
    assert range_of(recording([75] * 60)) == (60, 100)


def test_ends_stay_possible():
    assert range_of(recording([22] * 60 + [249] * 60)) == (20, 250)


def test_rare_samples_prove_nothing():
    assert range_of(recording([75] * 200, step_seconds=60)) is None
    assert range_of(recording([75] * 39)) is None
    assert range_of(recording([75] * 40)) == (60, 100)


def test_people_get_the_ranges_of_the_recordings_that_they_wear(tmp_path: Path):
    worn = {"a.fit": recording([75] * 60), "b.fit": recording([170] * 60, 3), "c.fit": recording([45] * 60)}
    with RejectFile(tmp_path / "rejects.jsonl") as rejects:
        ranges = pl.concat(derive_ranges(worn, 200_000, rejects))
    assert ranges.height == 133_333
    assert ranges[:4].rows() == [(1, 60, 100), (3, 40, 100), (4, 60, 100), (6, 40, 100)]
    assert ranges["user_id"].is_unique().all()
    assert rejects.reasons == {"too few still samples": 1}
    assert '"line":2,"text":"b.fit"' in rejects.path.read_text()


def test_without_a_single_range_there_is_an_error(tmp_path: Path):
    with RejectFile(tmp_path / "rejects.jsonl") as rejects:
        with pytest.raises(HistoricalError, match="none of 1 recordings"):
            next(derive_ranges({"a": recording([170] * 60, 3)}, 5, rejects))
        with pytest.raises(HistoricalError, match="people=0"):
            next(derive_ranges({}, 0, rejects))
