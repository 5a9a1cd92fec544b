"""PRINT: a topic's records as lines of text, keys and values shown as what their bytes most likely are."""

from __future__ import annotations

import struct
import threading
import uuid
from collections.abc import Callable, Generator, Mapping
from contextlib import suppress
from datetime import UTC, datetime, timedelta
from typing import Any

import orjson

from kafkakit.admin import consumer_config
from kafkakit.batch_consumer import BEGINNING, END, MessageBatch, open_batch_consumer
from kafkakit.settings import KafkaSettings
from ksqlengine.language import ast
from ksqlengine.server.topics_and_schemas import Resources
from ksqlengine.types.errors import StatementError

_POLL_SECONDS = 0.2


def print_topic(
    statement: ast.PrintTopic, kafka: KafkaSettings, resources: Resources, stop: threading.Event
) -> Generator[bytes]:
    """Yield a topic's records as lines of text; nothing now and then while none comes.

    Raises:
        StatementError: there is no such topic.
    """
    if not resources.kafka.describe([statement.topic]):
        raise StatementError(
            f"Could not find topic '{statement.topic}', or the KSQL user does not have permissions to list the topic."
        )
    partitions = resources.partitions(statement.topic)
    config = {**consumer_config(kafka, f"print_{uuid.uuid4().hex}", "earliest"), "fetch.wait.max.ms": 50}
    return _printed(statement, partitions, config, resources, stop)


def _printed(
    statement: ast.PrintTopic, partitions: int, config: Mapping[str, Any], resources: Resources, stop: threading.Event
) -> Generator[bytes]:
    begin = BEGINNING if statement.from_beginning else END
    shown = seen = 0
    with open_batch_consumer(config) as consumer:
        consumer.assign([(statement.topic, partition, begin) for partition in range(partitions)])
        while not stop.is_set():
            batch = consumer.poll(_POLL_SECONDS)
            if not len(batch):
                yield b""
            for row in range(len(batch)):
                seen += 1
                if statement.interval and (seen - 1) % statement.interval:
                    continue
                yield _line(batch, row, resources)
                shown += 1
                if statement.limit is not None and shown >= statement.limit:
                    return


def _line(batch: MessageBatch, row: int, resources: Resources) -> bytes:
    when = shown_time(int(batch.timestamp[row]))
    key, value = (readable(column[row].as_py(), resources.decoded) for column in (batch.key, batch.value))
    return f"rowtime: {when}, key: {key}, value: {value}, partition: {batch.partition[row]}\n".encode()


def shown_time(milliseconds: int) -> str:
    """Show a record's time, as a number where no calendar has it (a producer may give nanoseconds)."""
    try:
        moment = datetime(1970, 1, 1, tzinfo=UTC) + timedelta(milliseconds=milliseconds)
    except OverflowError:
        return f"{milliseconds} ms"
    return f"{moment:%Y/%m/%d %H:%M:%S}.{moment.microsecond // 1000:03d} Z"


def readable(value: bytes | None, decode: Callable[[bytes], Any]) -> str:
    """Show bytes as what they most likely are: Avro of a known schema, JSON or text, a number, a windowed key, else hexadecimal.

    Args:
        value: a key or a value.
        decode: gives the value of Avro bytes, None for others.
    """
    if value is None:
        return "<null>"
    decoded = decode(value)
    if decoded is not None:
        return orjson.dumps(decoded, default=str).decode()
    with suppress(UnicodeDecodeError):
        text = value.decode()
        if text.isprintable():
            return text
    if len(value) in _NUMBER_BYTES:
        return str(int.from_bytes(value, "big", signed=True))
    for bounds in (2, 1):  # start and end of a session; the start of a time window
        key, tail = value[: -8 * bounds], value[-8 * bounds :]
        moments = struct.unpack(f">{bounds}q", tail) if key else ()
        if moments and all(moment in _WINDOW_TIMES_MS for moment in moments):
            # As ksqlDB prints them: the end of a time window isn't in the key.
            return f"[{readable(key, decode)}@{moments[0]}/{moments[1] if bounds > 1 else '-'}]"
    return value.hex()


_NUMBER_BYTES = (4, 8)  # KAFKA's INTEGER and BIGINT
_WINDOW_TIMES_MS = range(946_684_800_000, 4_102_444_800_000)  # the years 2000 to 2099
