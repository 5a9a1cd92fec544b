"""Reads a connector's dead-letter topic: where its records came from, and why they were refused.

Source: Kafka Connect's context headers (KIP-298), on with ``errors.deadletterqueue.context.headers.enable``.
"""

from __future__ import annotations

import time
from collections import Counter
from dataclasses import dataclass

import polars as pl
from confluent_kafka import Consumer, KafkaError, Message, TopicPartition

from heartwatch.kafka import KafkaAdmin, consumer_config
from heartwatch.settings import KafkaSettings
from heartwatch.verify.topics import TopicError, committed_ranges

_TOPIC, _PARTITION, _OFFSET = "__connect.errors.topic", "__connect.errors.partition", "__connect.errors.offset"
_REASON = "__connect.errors.exception.message"
_SCHEMA = {"partition": pl.Int32, "offset": pl.Int64, "reason": pl.String}
_SILENCE_SECONDS = 30.0


@dataclass(frozen=True)
class DeadLetters:
    """Records of one topic that its connector refused.

    Attributes:
        rows: partition, offset and reason of each.
        without_origin: records in the dead-letter topic that don't say where they come from.
    """

    rows: pl.DataFrame
    without_origin: int = 0

    def reasons(self) -> dict[str, int]:
        """Return how many there are of each reason, most first."""
        return dict(Counter(self.rows["reason"].to_list()).most_common())


def read_dead_letters(settings: KafkaSettings, admin: KafkaAdmin, dead_letter_topic: str, topic: str) -> DeadLetters:
    """Read a dead-letter topic to its present end.

    Args:
        settings: where the brokers are.
        admin: client of the same brokers.
        dead_letter_topic: topic to read; one that isn't there has no records.
        topic: topic whose records are wanted.

    Raises:
        TopicError: the brokers said nothing for too long, or refused.
    """
    if not admin.describe([dead_letter_topic]):
        return DeadLetters(pl.DataFrame(schema=_SCHEMA))
    ends = {
        partition: span for partition, span in committed_ranges(admin, dead_letter_topic).items() if span[1] > span[0]
    }
    rows: list[tuple[int, int, str]] = []
    strangers = 0
    for message in _messages(settings, dead_letter_topic, ends):
        headers = {name: _text(value) for name, value in dict(message.headers() or {}).items()}
        if _OFFSET not in headers or _PARTITION not in headers:
            strangers += 1
        elif headers.get(_TOPIC, topic) == topic:
            rows.append((int(headers[_PARTITION]), int(headers[_OFFSET]), headers.get(_REASON, "no reason given")))
    return DeadLetters(pl.DataFrame(rows, schema=_SCHEMA, orient="row"), strangers)


def _text(value: str | bytes | None) -> str:
    return value.decode(errors="replace") if isinstance(value, bytes) else value or ""


def _messages(settings: KafkaSettings, topic: str, ranges: dict[int, tuple[int, int]]) -> list[Message]:
    left = {partition: end for partition, (_, end) in ranges.items()}
    consumer = Consumer(consumer_config(settings, f"heartwatch-verify-{topic}", "error", enable_partition_eof=True))
    found: list[Message] = []
    try:
        consumer.assign([TopicPartition(topic, partition, begin) for partition, (begin, _) in ranges.items()])
        heard = time.monotonic()
        while left:
            for message in consumer.consume(1_000, 0.2):
                heard = time.monotonic()
                error = message.error()
                partition = message.partition()
                if error is None:
                    found.append(message)
                if error is not None and error.code() != KafkaError._PARTITION_EOF and not error.retriable():
                    raise TopicError(f"topic {topic!r} can't be read: {error.str()}")
                if partition in left and (error is not None or (message.offset() or 0) >= left[partition] - 1):
                    del left[partition]
            if time.monotonic() - heard > _SILENCE_SECONDS:
                raise TopicError(
                    f"topic {topic!r}: nothing came for {_SILENCE_SECONDS:g} s; see that the brokers are up"
                )
    finally:
        consumer.close()
    return found
