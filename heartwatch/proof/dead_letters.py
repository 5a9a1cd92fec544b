"""Reads a connector's dead-letter topic: where its records came from, and why they were refused.

Source: Kafka Connect's context headers (KIP-298), on with ``errors.deadletterqueue.context.headers.enable``.
"""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime

from confluent_kafka import TIMESTAMP_NOT_AVAILABLE, Consumer, KafkaError, Message, TopicPartition

from kafkakit.admin import KafkaAdmin, consumer_config
from kafkakit.settings import KafkaSettings
from kafkakit.topic_reader import TopicError, committed_ranges

_TOPIC, _PARTITION, _OFFSET = "__connect.errors.topic", "__connect.errors.partition", "__connect.errors.offset"
_REASON = "__connect.errors.exception.message"
_REASON_CHARACTERS = 300
_SILENCE_SECONDS = 30.0


@dataclass(frozen=True)
class DeadLetter:
    """A record that a connector refused.

    Attributes:
        partition: where it stands in its topic.
        offset: where it stands in its topic.
        reason: the connector's.
        at: the record's own time; None where it has none.
    """

    partition: int
    offset: int
    reason: str
    at: datetime | None = None


@dataclass(frozen=True)
class DeadLetterSummary:
    """A topic's dead letters.

    Attributes:
        reasons: how many there are of each reason, most first.
        first: the first one by time.
        last: the last one.
    """

    reasons: dict[str, int] = field(default_factory=dict)
    first: DeadLetter | None = None
    last: DeadLetter | None = None


@dataclass(frozen=True)
class DeadLetters:
    """What was read of a dead-letter topic.

    Attributes:
        found: records of the topic wanted.
        positions: by partition the first offset that hasn't been read.
        strangers: by partition how many records don't say where they come from.
    """

    found: list[DeadLetter] = field(default_factory=list)
    positions: dict[int, int] = field(default_factory=dict)
    strangers: dict[int, int] = field(default_factory=dict)


def read_dead_letters(
    settings: KafkaSettings, admin: KafkaAdmin, dead_letter_topic: str, topic: str, since: Mapping[int, int]
) -> DeadLetters:
    """Read a dead-letter topic to its present end.

    Args:
        settings: where the brokers are.
        admin: client of the same brokers.
        dead_letter_topic: topic to read.
        topic: topic whose records are wanted.
        since: by partition where to begin; others from their first record on.

    Raises:
        UnknownTopicError: there is no such dead-letter topic.
        TopicError: the brokers said nothing for too long, or refused.
    """
    spans = {
        partition: (max(begin, since.get(partition, begin)), end)
        for partition, (begin, end) in committed_ranges(admin, dead_letter_topic).items()
    }
    read = DeadLetters(positions={partition: max(span) for partition, span in spans.items()})
    for message in _messages(settings, dead_letter_topic, {p: span for p, span in spans.items() if span[1] > span[0]}):
        headers = {name: _text(value) for name, value in dict(message.headers() or {}).items()}
        if _OFFSET not in headers or _PARTITION not in headers:
            partition = message.partition() or 0
            read.strangers[partition] = read.strangers.get(partition, 0) + 1
        elif headers.get(_TOPIC, topic) == topic:
            reason = headers.get(_REASON, "no reason given").replace("\0", "")[:_REASON_CHARACTERS]
            read.found.append(DeadLetter(int(headers[_PARTITION]), int(headers[_OFFSET]), reason, _time(message)))
    return read


def _text(value: str | bytes | None) -> str:
    return value.decode(errors="replace") if isinstance(value, bytes) else value or ""


def _time(message: Message) -> datetime | None:
    kind, milliseconds = message.timestamp()
    if kind == TIMESTAMP_NOT_AVAILABLE:
        return None
    try:
        return datetime.fromtimestamp(milliseconds / 1000, UTC)
    except (ValueError, OverflowError, OSError):
        # Producers may write any number.
        return None


def _messages(settings: KafkaSettings, topic: str, ranges: Mapping[int, tuple[int, int]]) -> Iterator[Message]:
    if not ranges:
        return
    left = {partition: end for partition, (_, end) in ranges.items()}
    consumer = Consumer(consumer_config(settings, f"heartwatch-verify-{topic}", "error", enable_partition_eof=True))
    try:
        consumer.assign([TopicPartition(topic, partition, begin) for partition, (begin, _) in ranges.items()])
        heard = time.monotonic()
        while left:
            for message in consumer.consume(1_000, 0.2):
                heard = time.monotonic()
                error = message.error()
                partition, offset = message.partition(), message.offset() or 0
                if error is None and partition in left and offset < left[partition]:
                    yield message
                if error is not None and error.code() != KafkaError._PARTITION_EOF and not error.retriable():
                    raise TopicError(f"topic {topic!r} can't be read: {error.str()}")
                if partition in left and (error is not None or offset >= left[partition] - 1):
                    del left[partition]
            if time.monotonic() - heard > _SILENCE_SECONDS:
                raise TopicError(
                    f"topic {topic!r}: nothing came for {_SILENCE_SECONDS:g} s; see that the brokers are up"
                )
    finally:
        consumer.close()
