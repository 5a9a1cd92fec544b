"""Windows of alerts become episodes, a bounded number of them, newest first."""

from __future__ import annotations

import random
from collections.abc import Iterable
from types import SimpleNamespace
from typing import Any

import numpy as np
import pyarrow as pa
import pytest

from heartwatch.analytic import Analytic
from heartwatch.settings import load_settings
from heartwatch.web.alerts import Alert, AlertFilter, Episode, Episodes, EpisodeState, by_area, state_of
from heartwatch.web.readings import alerts, decoding
from kafkakit import avro_codec
from kafkakit.admin import Partition, UnknownTopicError
from kafkakit.batch_consumer import BatchConsumerError, MessageBatch

WINDOW = 10_000


def alert(subject: str, window: int, average: float = 150.0, area: str = "10001") -> Alert:
    return Alert(subject, area, 40.7, -74.0, window * WINDOW, (window + 1) * WINDOW, average, 50.0, 110.0)


def collected(alerts: list[Alert], most: int = 100) -> tuple[Episode, ...]:
    episodes = Episodes(most)
    episodes.add(alerts)
    return episodes.newest_first()


def test_windows_that_follow_on_each_other_are_one_episode() -> None:
    (one,) = collected([alert("a", 1, 120), alert("a", 2, 160), alert("a", 3, 130)])
    assert (one.since_ms, one.last.end_ms, one.windows, one.extreme, one.seconds) == (WINDOW, 4 * WINDOW, 3, 160, 30)


def test_one_missed_window_does_not_end_an_episode_and_two_do() -> None:
    assert [one.windows for one in collected([alert("a", 1), alert("a", 3)])] == [2]
    assert [one.windows for one in collected([alert("a", 1), alert("a", 4)])] == [1, 1]


def test_the_extreme_is_the_farthest_from_the_own_range_on_either_side() -> None:
    (one,) = collected([alert("a", 1, 49), alert("a", 2, 30), alert("a", 3, 112)])
    assert one.extreme == 30


def test_the_newest_come_first_and_no_more_than_the_limit_stay() -> None:
    alerts = [alert(str(number), number) for number in range(50)]
    random.Random(1).shuffle(alerts)
    found = collected(alerts, most=20)
    assert len(found) == 20
    assert [one.last.end_ms for one in found] == sorted((one.last.end_ms for one in found), reverse=True)


def test_an_episode_that_grows_outlives_newer_ones_that_do_not() -> None:
    episodes = Episodes(2)
    episodes.add([alert("a", 1), alert("b", 1), alert("a", 2), alert("c", 2)])
    assert {one.subject for one in episodes.newest_first()} == {"a", "c"}
    episodes.add([alert("b", 2)])
    assert {one.subject for one in episodes.newest_first()} == {"b", "c"}


def test_a_second_episode_does_not_make_the_first_one_outlive_newer_ones() -> None:
    found = collected([alert("a", 1), alert("b", 2), alert("a", 9)], most=2)
    assert [(one.subject, one.since_ms) for one in found] == [("a", 9 * WINDOW), ("b", 2 * WINDOW)]


@pytest.mark.parametrize(
    ("now", "live", "state"),
    [
        (2, True, EpisodeState.ACTIVE),
        (5, True, EpisodeState.ACTIVE),
        (6, True, EpisodeState.ENDED),
        (2, False, EpisodeState.SILENT),
        (6, False, EpisodeState.ENDED),
    ],
)
def test_an_episode_goes_on_while_another_window_may_follow(now: int, live: bool, state: EpisodeState) -> None:
    (one,) = collected([alert("a", 1)])
    assert state_of(one, now * WINDOW, live) is state


@pytest.mark.parametrize(
    ("wanted", "subjects"),
    [
        (AlertFilter(), {"17", "170", "8"}),
        (AlertFilter(text="17"), {"17", "170"}),
        (AlertFilter(text=" 10002 "), {"8"}),
        (AlertFilter(area="10002"), {"8"}),
        (AlertFilter(text="17", area="10002"), set()),
        (AlertFilter(hide_ended=True), {"8"}),
    ],
)
def test_viewers_find_what_they_look_for(wanted: AlertFilter, subjects: set[str]) -> None:
    found = collected([alert("17", 1), alert("170", 1), alert("8", 9, area="10002")])
    assert {one.subject for one in wanted.matching(found, 10 * WINDOW)} == subjects


def test_a_person_counts_once_in_an_area() -> None:
    found = collected([alert("a", 1), alert("a", 8), alert("b", 1), alert("c", 1, area="10002")])
    assert by_area(found) == {"10001": 2, "10002": 1}


class Topic:
    """An alerts topic of one partition, its reader's clients, and what goes wrong."""

    name = "heart_rate_alerts_v1"

    def __init__(self) -> None:
        self.values: list[bytes] | None = []
        self.next = 0
        self.fault: Exception | None = None
        self.slow: Any = None

    def append(self, *windows: int) -> None:
        columns = {
            "user_id": ["a"] * len(windows),
            "window_start": pa.array([WINDOW * one for one in windows], pa.timestamp("ms")),
            "window_end": pa.array([WINDOW * (one + 1) for one in windows], pa.timestamp("ms")),
            "avg_heart_rate": [150.0] * len(windows),
        }
        schema = avro_codec.parse(Analytic.load("heart_rate", 1).schema_text("alerts"))
        kinds = avro_codec.arrow_schema(schema)
        arrays = [pa.array(columns.get(name, [None] * len(windows)), kinds.field(name).type) for name in kinds.names]
        batch = pa.RecordBatch.from_arrays(arrays, schema=kinds)
        self.values = [*(self.values or []), *avro_codec.encode(batch, schema, 1)]

    def ends(self, _: Iterable[str]) -> dict[Partition, int]:
        if self.values is None:
            raise UnknownTopicError("gone")
        return {(self.name, 0): len(self.values)}

    def assign(self, positions: Iterable[tuple[str, int, int]]) -> None:
        ((_, _, self.next),) = positions

    def poll(self, _: float, limit: int) -> MessageBatch:
        if self.slow is not None:
            self.slow()
        if self.fault is not None:
            fault, self.fault = self.fault, None
            raise fault
        there = self.values or []
        if self.next > len(there):
            # Kafka has no such offset any more: the client begins at the first one.
            self.next = 0
        values = there[self.next : self.next + limit]
        offset = np.arange(self.next, self.next + len(values))
        self.next += len(values)
        none = np.zeros(len(values), dtype=np.int32)
        column = pa.array(values, pa.large_binary())
        return MessageBatch((self.name,), none, none, offset, offset, column, column)

    def close(self) -> None:
        """Nothing to let go of."""

    def avro_schema(self, _: int) -> avro_codec.AvroSchema:
        return avro_codec.parse(Analytic.load("heart_rate", 1).schema_text("alerts"))


@pytest.fixture
def topic(monkeypatch: pytest.MonkeyPatch) -> Topic:
    topic = Topic()
    for module, name in ((alerts, "OffsetReader"), (decoding, "Registry"), (alerts, "open_batch_consumer")):
        monkeypatch.setattr(module, name, lambda *_: topic)
    return topic


def reader() -> alerts.AlertsReader:
    analytic = Analytic.load("heart_rate", 1)
    assert analytic.page is not None
    return alerts.AlertsReader(load_settings(), analytic, analytic.page)


def test_what_was_there_before_is_shown_and_what_comes_is_counted_once_whatever_goes_wrong(topic: Topic) -> None:
    topic.append(*range(5))
    part = reader()
    found = part.read()
    assert (found.total, found.episodes[0].windows) == (0, 5)
    topic.append(5, 6)
    assert part.read().total == 2
    topic.fault = BatchConsumerError("the broker is gone")
    with pytest.raises(BatchConsumerError):
        part.read()
    topic.append(7)
    found = part.read()
    assert (found.total, found.episodes[0].windows) == (3, 8)


@pytest.mark.parametrize("seen", [True, False], ids=["seen to be gone", "within a moment"])
def test_alerts_of_a_topic_that_was_made_anew_are_news(topic: Topic, seen: bool) -> None:
    topic.append(*range(100, 150))
    part = reader()
    assert part.read().total == 0
    topic.values = None
    if seen:
        topic.fault = BatchConsumerError("no such topic")
        for error in (BatchConsumerError, UnknownTopicError):
            with pytest.raises(error):
                part.read()
    topic.append(1, 2, 3)
    found = part.read()
    assert (found.total, [one.windows for one in found.episodes]) == (3, [3])
    assert found.latest_ms == 4 * WINDOW, "the time of the topic that is gone says nothing of who is in danger now"


def test_a_reading_that_takes_long_loses_nothing(topic: Topic, monkeypatch: pytest.MonkeyPatch) -> None:
    now = 0.0

    def pass_by() -> None:
        nonlocal now
        now += 10

    part = reader()
    part.read()
    monkeypatch.setattr(alerts, "time", SimpleNamespace(monotonic=lambda: now))
    topic.slow = pass_by
    topic.append(1, 2)
    assert part.read().total == 2
