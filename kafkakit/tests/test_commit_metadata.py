"""Commit metadata, behind which the client hands on what lies in memory."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, cast

import pytest
from confluent_kafka import TopicPartition

from kafkakit.admin import OffsetReader
from kafkakit.commit_metadata import framed, raw_metadata, unframed
from kafkakit.settings import KafkaSettings

BODY = '{"position":12,"name":"Åse \\"x\\""}'


class Committed:
    """A committed offset whose metadata is decoded when it is asked for, as confluent-kafka does."""

    topic, partition, offset, error = "t", 0, 7, None

    def __init__(self, data: bytes | None) -> None:
        self._data = data

    @property
    def metadata(self) -> str | None:
        return None if self._data is None else self._data.decode()


def committed(data: bytes | None) -> TopicPartition:
    return cast(TopicPartition, Committed(data))


@pytest.mark.parametrize("behind", [b"", b"x", b"{}", b"\xa2", b"\xe2\x82", framed("1").encode()])
@pytest.mark.parametrize("written", [framed(BODY), BODY])
def test_a_text_comes_back_whatever_lies_behind_it(written: str, behind: bytes) -> None:
    assert unframed(raw_metadata(committed(written.encode() + behind))) == BODY


def test_what_has_no_frame_and_is_not_json_is_shown_as_it_is() -> None:
    assert unframed(raw_metadata(committed(b"AgAAAZ\xa2"))) == "AgAAAZ\ufffd"
    assert unframed(raw_metadata(committed(None))) == unframed(None) == unframed("") == ""


def test_a_frame_that_does_not_fit_its_text_is_not_one() -> None:
    changed = framed(BODY).replace("12", "13")
    assert unframed(changed) == changed
    assert unframed(framed(BODY)[:-4]) == framed(BODY)[:-4]


def test_the_client_s_own_object_is_read() -> None:
    assert raw_metadata(TopicPartition("t", 0, 1, framed(BODY))) == framed(BODY).encode()


@pytest.mark.parametrize(
    ("metadata", "position"), [(framed(BODY).encode() + b"\xa2", 12), (b"AgAAAZx0\xa2", 7), (None, 7)]
)
def test_a_group_s_position_is_read_whatever_lies_behind_its_metadata(
    monkeypatch: pytest.MonkeyPatch, metadata: bytes | None, position: int
) -> None:
    class Group:
        def committed(self, where: list[TopicPartition], timeout: float) -> list[TopicPartition]:
            return [committed(metadata)]

    def ask(call: Callable[[], Any], operation: str) -> Any:
        return call()

    reader = OffsetReader(KafkaSettings())
    monkeypatch.setattr(reader, "_count", lambda topic: 1)
    monkeypatch.setattr(reader, "_consumer", lambda group: Group())
    assert reader.committed("g", "t")["t", 0].position == position
