"""The sender of heartbeats waits for a topic that isn't deployed without opening connections again and again."""

from __future__ import annotations

from typing import Any

import pytest

from heartwatch.produce import heartbeat
from heartwatch.produce.heartbeat import StreamPulse
from heartwatch.settings import load_settings
from kafkakit.admin import UnknownTopicError


class Readers:
    """Stands for the brokers: counts the readers that are made and closed."""

    def __init__(self) -> None:
        self.made = self.closed = 0
        self.spans_found: dict[tuple[str, int], tuple[int, int]] | None = None

    def __call__(self, *_: Any, **__: Any) -> Readers:
        self.made += 1
        return self

    def spans(self, topics: list[str]) -> dict[tuple[str, int], tuple[int, int]]:
        if self.spans_found is None:
            raise UnknownTopicError(f"topic {topics[0]!r} is not there")
        return self.spans_found

    def close(self) -> None:
        self.closed += 1


def test_a_topic_that_is_not_there_costs_no_new_reader(monkeypatch: pytest.MonkeyPatch) -> None:
    readers = Readers()
    monkeypatch.setattr(heartbeat, "OffsetReader", readers)
    monkeypatch.setattr(StreamPulse, "_has_rows", lambda *_: False)
    pulse = StreamPulse(load_settings())
    made = readers.made
    assert [pulse.step() for _ in range(3)] == [0, 0, 0]
    assert (readers.made, readers.closed) == (made, 0), "a reader is made for each look"
    topic = pulse._topic
    readers.spans_found = {(topic, 0): (0, 5)}
    pulse.step()
    readers.spans_found = None
    assert [pulse.step() for _ in range(2)] == [0, 0]
    assert readers.made == made
    assert readers.closed == 2, "what was known of a topic that went is forgotten once, by both readers"
