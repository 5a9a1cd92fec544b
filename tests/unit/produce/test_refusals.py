"""A row that can't be sent is rejected with its reason; all others stay, in their order."""

import json
from pathlib import Path

import pytest
from confluent_kafka import KafkaError

from heartwatch.files.rejects import RejectFile
from heartwatch.produce.messages import Messages
from heartwatch.produce.refusals import Limits, Refusals, batch_bytes


def messages(*sizes: int) -> Messages:
    values: list[bytes | None] = [bytes([place]) * size for place, size in enumerate(sizes)]
    count = len(sizes)
    return Messages(
        [f"user {n}".encode() for n in range(count)], values, [n % 2 for n in range(count)], list(range(count)), 7
    )


class Delivered:
    """A message as the client's callback gets it."""

    def __init__(self, sent: Messages, place: int) -> None:
        self._sent, self._place = sent, place

    def partition(self) -> int:
        return self._sent.partitions[self._place]

    def key(self) -> bytes:
        return self._sent.keys[self._place]

    def value(self) -> bytes | None:
        return self._sent.values[self._place]


@pytest.mark.parametrize(
    ("key", "value", "size"),
    [(b"", None, 68), (b"1", b"", 69), (b"k", b"v" * 100, 171), (b"key", b"v" * 20_000, 20_075)],
)
def test_a_batch_of_one_message_has_the_size_that_brokers_count(key: bytes, value: bytes | None, size: int):
    assert batch_bytes(key, value) == size


def test_a_row_is_too_large_from_the_first_byte_on(tmp_path: Path):
    limit = batch_bytes(b"user 1", b"v" * 500)
    with RejectFile(tmp_path / "unsent.jsonl", keep=True) as rejects:
        refusals = Refusals(rejects, Limits(limit))
        kept = refusals.fitting(messages(10, 500, 501, 0, 10_000), 0)
    assert [len(value or b"") for value in kept.values] == [10, 500, 0]
    assert (kept.keys, kept.due_ms) == ([b"user 0", b"user 1", b"user 3"], 7)
    assert (refusals.count, dict(rejects.reasons)) == (2, {"larger than the topic takes": 2})
    first = json.loads(rejects.path.read_text().splitlines()[0])
    assert "key 'user 2'" in first["reason"]
    assert f"the topic takes {limit} (max.message.bytes)" in first["reason"]


@pytest.mark.parametrize(
    ("settings", "kept"),
    [
        ({"message.timestamp.after.max.ms": "2", "message.timestamp.before.max.ms": "1"}, [9, 10, 11, 12]),
        ({"message.timestamp.after.max.ms": "2", "message.timestamp.type": "LogAppendTime"}, list(range(16))),
        ({}, list(range(16))),
    ],
)
def test_times_further_from_the_clock_than_the_topic_takes_are_rejected(settings: dict[str, str], kept: list[int]):
    refusals = Refusals(None, Limits.of(settings))
    assert refusals.fitting(messages(*[1] * 16), now_ms=10).timestamps == kept
    assert refusals.count == 16 - len(kept)


def test_what_brokers_refuse_for_itself_is_rejected_and_its_neighbours_stay(tmp_path: Path):
    sent = messages(5, 6, 7, 8)
    with RejectFile(tmp_path / "unsent.jsonl", keep=True) as rejects:
        refusals = Refusals(rejects)
        for place, code in (
            (0, KafkaError._INVALID_DIFFERENT_RECORD),
            (1, KafkaError.INVALID_TIMESTAMP),
            (2, KafkaError.INVALID_RECORD),
            (3, KafkaError._PURGE_QUEUE),
        ):
            refusals.delivered(KafkaError(code), Delivered(sent, place))  # type: ignore[arg-type]
        refusals.delivered(None, Delivered(sent, 0))  # type: ignore[arg-type]
        [kept, other] = refusals.without_refused([sent, messages(1)])
    assert kept.keys == [b"user 0", b"user 3"]
    assert len(other) == 1
    assert rejects.reasons == {
        "refused by the brokers: INVALID_RECORD": 1,
        "refused by the brokers: INVALID_TIMESTAMP": 1,
    }
    assert refusals.without_refused([kept]) == [kept], "what was told once is not told again"
