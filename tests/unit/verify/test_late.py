"""Events that come after their window has closed: counted by window, and the people named whose alerts they would have given."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any
from unittest.mock import MagicMock

import polars as pl
import pytest

from heartwatch.analytic import Analytic
from heartwatch.settings import load_settings
from heartwatch.verify.batch import Topic
from heartwatch.verify.detections import AlertsReport, DetectionVerifier
from heartwatch.verify.late import LateRules, late_events, missed_sentence
from heartwatch.verify.render_detections import detections_text
from heartwatch.verify.topics import PipelineTopics
from kafkakit.topic_reader import NewRecords

START = 1_700_000_000_000
SETTINGS = load_settings()
ANALYTIC = Analytic.of(SETTINGS.pipeline)
RULES = LateRules("event_time", 10_000, 10_000, 5_000)
REPORT = AlertsReport(
    exact=True, wrong=0, sentence="all equal", alerts=0, events=0, rejected=0, unknown_events=0, unknown_users=0, rows=[],
    seconds=0,
)  # fmt: skip
Event = tuple[str, int, int]  # user, time after START in s, heart rate


def events_of(rows: list[Event], partition: int = 0) -> pl.DataFrame:
    times = pl.Series([START + 1_000 * at for _, at, _ in rows], dtype=pl.Int64)
    return pl.DataFrame(
        {
            "user_id": [user for user, _, _ in rows],
            "event_time": times.cast(pl.Datetime("ms", "UTC")),
            "zipcode": pl.Series([10_007] * len(rows), dtype=pl.Int32),
            "latitude": [40.7] * len(rows),
            "longitude": [-74.0] * len(rows),
            "heart_rate": pl.Series([rate for _, _, rate in rows], dtype=pl.Int32),
            "event_key": [user for user, _, _ in rows],
            "partition": pl.Series([partition] * len(rows), dtype=pl.Int32),
            "offset": range(len(rows)),
            "timestamp": times,
        }
    )


def ranges_of(*users: str) -> pl.DataFrame:
    count = len(users)
    return pl.DataFrame(
        {
            "user_id": list(range(count)),
            "min_heart_rate": [60] * count,
            "max_heart_rate": [100] * count,
            "event_key": list(users),
            "partition": pl.Series([0] * count, dtype=pl.Int32),
            "offset": range(count),
            "timestamp": [START] * count,
        }
    )


# 7 sends from a tunnel: three high samples of the first window come when the second person's clock says 40 s; 8 is late but well.
ROWS: list[Event] = [
    ("8", 1, 80), ("8", 40, 80), ("7", 2, 150), ("7", 3, 150), ("7", 4, 150), ("8", 5, 80), ("7", 41, 90), ("heartbeat-1", 3, 70),
]  # fmt: skip


def verified(
    events: pl.DataFrame, alerts: pl.DataFrame, judged_from: int, begin: int = 0, first: int = 0
) -> AlertsReport:
    """Return what is said of late events; the topics are read from `begin`, and the first late window begins at `first`."""
    asked: list[Any] = []

    def read(resource: str, ranges: Any = None) -> Topic:
        frames = {"realtime": events, "historical": ranges_of("7", "8", "heartbeat-1"), "alerts": alerts}
        frame = frames[resource]
        if resource == "realtime":
            asked.append(ranges)
            frame = frame.filter(pl.col("offset").is_between(*ranges[0], closed="left"))
        keys = frame.select("event_key", "partition", "offset", "timestamp") if "offset" in frame.columns else frame
        return Topic(frame.to_arrow(), keys.clear().to_arrow(), [])

    admin = MagicMock()
    admin.offsets_at.return_value = {0: first}
    topics = SimpleNamespace(settings=SETTINGS, analytic=ANALYTIC, admin=admin, read=read)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(PipelineTopics, "of", lambda _: topics)
        verifier = DetectionVerifier(SETTINGS, 0, "test", lambda _: None)
    known = events.filter(pl.col("offset") >= begin)
    return verifier._with_late(REPORT, known, NewRecords({0: (begin, len(events))}, {0: judged_from}), 1_000)


NO_ALERTS = events_of([]).select("user_id", pl.col("event_time").alias("window_start"), "event_key")


def test_who_was_missed_is_named_and_late_events_are_counted_by_window() -> None:
    report = verified(events_of(ROWS), NO_ALERTS, judged_from=0)
    assert report.late_events == 4
    assert report.late_windows == [{"window": "2023-11-14 22:13:20", "late events": 4, "people": 2}]
    assert report.missed == [{"person": "7", "window": "2023-11-14 22:13:20"}]
    assert missed_sentence(report.missed) == (
        "1 alert was missed because events came after their window had closed: 7 (window of 2023-11-14 22:13:20 UTC)"
    )
    assert "| 7" in detections_text(report)


def test_an_alert_that_the_query_wrote_is_not_missed() -> None:
    alerts = events_of([("7", 0, 0)]).select("user_id", pl.col("event_time").alias("window_start"), "event_key")
    report = verified(events_of(ROWS), alerts, judged_from=0)
    assert (report.late_events, report.missed) == (4, [])


def test_what_was_told_before_is_not_told_again() -> None:
    assert verified(events_of(ROWS), NO_ALERTS, judged_from=6) == REPORT


def test_the_window_of_a_late_event_is_computed_with_the_events_before_those_that_are_new() -> None:
    # Only the last of three high samples is new, and only it is late: two came in time.
    rows: list[Event] = [("7", 2, 150), ("7", 3, 150), ("8", 40, 80), ("7", 4, 150)]
    assert verified(events_of(rows), NO_ALERTS, judged_from=3, begin=2, first=0).missed == [
        {"person": "7", "window": "2023-11-14 22:13:20"}
    ]
    assert verified(events_of(rows), NO_ALERTS, judged_from=3, begin=2, first=2).missed == []


def test_nothing_is_said_where_nothing_is_late() -> None:
    assert verified(events_of([("7", 1, 150), ("7", 12, 150)]), NO_ALERTS, judged_from=0) == REPORT


def test_each_partition_has_a_time_of_its_own_and_a_wrong_clock_moves_none() -> None:
    ahead = events_of([("8", 900, 80), ("7", 2, 150)]).with_columns(pl.lit(START).alias("timestamp"))
    assert late_events(ahead, RULES, {0: 0}).is_empty()
    other = pl.concat([events_of([("8", 900, 80)]), events_of([("7", 2, 150)], partition=1)])
    assert late_events(other, RULES, {}).is_empty()


def test_many_people_are_cut_short() -> None:
    rows = [{"person": str(number), "window": "w"} for number in range(25)]
    assert missed_sentence(rows).endswith("19 (window of w UTC) and 5 more")
