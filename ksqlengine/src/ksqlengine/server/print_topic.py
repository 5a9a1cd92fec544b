"""PRINT: a topic's records as lines of text, keys and values shown as what their bytes most likely are.

As in ksqlDB, every format that fits all keys (or values) so far stays possible; records are shown in the first of them, and lines
before the records name them all whenever they change.
"""

from __future__ import annotations

import json
import struct
import threading
import uuid
from collections.abc import Callable, Generator, Mapping
from datetime import UTC, datetime, timedelta
from functools import partial
from typing import Any

import orjson

from kafkakit.admin import consumer_config
from kafkakit.batch_consumer import BEGINNING, END, MessageBatch, open_batch_consumer
from kafkakit.settings import KafkaSettings
from ksqlengine.language import ast
from ksqlengine.server.topics_and_schemas import Resources
from ksqlengine.types.casts import java_double
from ksqlengine.types.errors import BAD_REQUEST, BAD_STATEMENT, KsqlError

_POLL_SECONDS = 0.2
_NO_DATA = "¯\\_(ツ)_/¯ - no data processed"
_NO_FORMAT = (
    " does not match any supported format. It may be a STRING with encoding other than UTF8, or some other format."
)


def print_topic(
    statement: ast.PrintTopic,
    kafka: KafkaSettings,
    resources: Resources,
    stop: threading.Event,
    *,
    with_formats: bool = True,
) -> Generator[bytes]:
    """Yield a topic's records as lines of text; nothing now and then while none comes.

    Args:
        statement: the topic, where to begin, and how many records to show.
        kafka: brokers.
        resources: topics and schemas.
        stop: ends it.
        with_formats: begin with lines that name the possible formats.

    Raises:
        KsqlError: there is no such topic.
    """
    if not resources.kafka.describe([statement.topic]):
        if not with_formats:
            raise KsqlError(f"Topic does not exist: {statement.topic}", BAD_STATEMENT)
        raise _missing(statement.topic, resources)
    partitions = resources.partitions(statement.topic)
    group = resources.reader_group(f"print_{uuid.uuid4().hex}")
    config = {**consumer_config(kafka, group, "earliest"), "fetch.wait.max.ms": 50}
    printed = PrintedRecords(resources.decoded)
    return _printed(statement, partitions, config, printed, stop, with_formats=with_formats)


def _missing(topic: str, resources: Resources) -> KsqlError:
    alike = sorted(name for name in resources.kafka.topics() if name.lower() == topic.lower())
    question = "".join(["\nDid you mean:", *(f"\n\tprint {name};" for name in alike)]) if alike else ""
    return KsqlError(
        f"Could not find topic '{topic}', or the KSQL user does not have permissions to list the topic. "
        f"Topic names are case-sensitive.{question}",
        BAD_REQUEST,
    )


def _printed(
    statement: ast.PrintTopic,
    partitions: int,
    config: Mapping[str, Any],
    printed: PrintedRecords,
    stop: threading.Event,
    *,
    with_formats: bool,
) -> Generator[bytes]:
    begin = BEGINNING if statement.from_beginning else END
    shown = seen = 0
    with open_batch_consumer(config) as consumer:
        consumer.assign([(statement.topic, partition, begin) for partition in range(partitions)])
        while not stop.is_set():
            batch = consumer.poll(_POLL_SECONDS)
            if not len(batch):
                yield b""
                continue
            interval = statement.interval or 1
            rows = [row for row in range(len(batch)) if (seen + row) % interval == 0]
            seen += len(batch)
            if statement.limit is not None:
                rows = rows[: statement.limit - shown]
            lines = printed.lines(batch)
            if with_formats:
                yield from (f"{line}\n".encode() for line in printed.changed_formats())
            yield from (f"{lines[row]}\n".encode() for row in rows)
            shown += len(rows)
            if statement.limit is not None and shown >= statement.limit:
                return


class PrintedRecords:
    """Records as lines of text, and what formats they may have."""

    def __init__(self, decode: Callable[[bytes], Any]) -> None:
        """Begin with every format possible.

        Args:
            decode: gives the value of Avro bytes, None for others.
        """
        self._keys, self._values = PossibleFormats(decode, windowed=True), PossibleFormats(decode, windowed=False)
        self._named: tuple[str, str] = ("", "")

    def lines(self, batch: MessageBatch) -> list[str]:
        """Return a line for each record; the formats that don't fit one of them are out before the first is shown."""
        keys, values = (self._shown(side, column) for side, column in self._sides(batch))
        return [
            f"rowtime: {shown_time(int(time))}, key: {key}, value: {value}, partition: {partition}"
            for time, key, value, partition in zip(batch.timestamp, keys, values, batch.partition, strict=True)
        ]

    def _sides(self, batch: MessageBatch) -> tuple[tuple[PossibleFormats, Any], tuple[PossibleFormats, Any]]:
        return (self._keys, batch.key), (self._values, batch.value)

    @staticmethod
    def _shown(formats: PossibleFormats, column: Any) -> list[str]:
        contents = column.to_pylist()
        formats.narrow(contents)
        return [formats.shown(content) for content in contents]

    def changed_formats(self) -> list[str]:
        """Return the lines that name the formats, where they are others than at the last call."""
        names = ("Key format: " + self._keys.named(), "Value format: " + self._values.named())
        changed = [name for name, before in zip(names, self._named, strict=True) if name != before]
        self._named = names
        return changed


class PossibleFormats:
    """The formats that fit all keys or values so far, most specific first."""

    def __init__(self, decode: Callable[[bytes], Any], *, windowed: bool) -> None:
        """Begin with every format.

        Args:
            decode: gives the value of Avro bytes, None for others.
            windowed: the bounds of a window may stand behind the content.
        """
        plain: dict[str, Callable[[bytes], str]] = {
            "AVRO": lambda content: _avro(content, decode),
            "JSON": _json,
            "KAFKA_INT": lambda content: str(struct.unpack(">i", content)[0]),
            "KAFKA_BIGINT": lambda content: str(struct.unpack(">q", content)[0]),
            "KAFKA_DOUBLE": lambda content: java_double(struct.unpack(">d", content)[0]),
            "KAFKA_STRING": _text,
        }
        self._formats: dict[str, Callable[[bytes], str]] = {}
        for name, show in plain.items():
            if windowed:
                self._formats[f"SESSION({name})"] = partial(_session, show=show)
                for kind in ("HOPPING", "TUMBLING"):
                    self._formats[f"{kind}({name})"] = partial(_window, show=show)
            self._formats[name] = show
        self._seen = False

    def narrow(self, contents: list[bytes | None]) -> None:
        """Leave only the formats that fit these too."""
        for content in contents:
            if content is not None:
                self._seen = True
                self._formats = {name: show for name, show in self._formats.items() if _fits(show, content)}

    def shown(self, content: bytes | None) -> str:
        """Return one of the contents that `narrow` has seen as text."""
        if content is None:
            return "<null>"
        show = next(iter(self._formats.values()), _bytes)
        return show(content)

    def named(self) -> str:
        """Return the names of the formats that are left."""
        if not self._seen:
            return _NO_DATA
        return " or ".join(self._formats) if self._formats else _NO_FORMAT


def _fits(show: Callable[[bytes], str], content: bytes) -> bool:
    try:
        show(content)
    except (ValueError, struct.error):
        return False
    return True


def _avro(content: bytes, decode: Callable[[bytes], Any]) -> str:
    decoded = decode(content)
    if decoded is None:
        raise ValueError("no Avro of a known schema")
    return json.dumps(decoded, default=str, ensure_ascii=False)


def _json(content: bytes) -> str:
    orjson.loads(content)
    return content.decode()


def _text(content: bytes) -> str:
    text = content.decode()
    if not text:
        raise ValueError("no text")
    return text


def _bytes(content: bytes) -> str:
    return "".join(chr(byte) if 32 <= byte < 127 and byte != 92 else f"\\x{byte:02X}" for byte in content)


def _session(content: bytes, show: Callable[[bytes], str]) -> str:
    key, (end, start) = content[:-16], struct.unpack(">2q", content[-16:])
    if not key or start not in _WINDOW_TIMES_MS or end not in _WINDOW_TIMES_MS:
        raise ValueError("no bounds of a session")
    return f"[{show(key)}@{start}/{end}]"


def _window(content: bytes, show: Callable[[bytes], str]) -> str:
    key, (start,) = content[:-8], struct.unpack(">q", content[-8:])
    if not key or start not in _WINDOW_TIMES_MS:
        raise ValueError("no start of a window")
    # As ksqlDB prints them: the end of a time window isn't in the key.
    return f"[{show(key)}@{start}/-]"


# ksqlDB takes the last 8 letters of any longer text for a window's start.
_WINDOW_TIMES_MS = range(946_684_800_000, 4_102_444_800_000)  # the years 2000 to 2099


def shown_time(milliseconds: int) -> str:
    """Show a record's time, as a number where no calendar has it (a producer may give nanoseconds)."""
    try:
        moment = datetime(1970, 1, 1, tzinfo=UTC) + timedelta(milliseconds=milliseconds)
    except OverflowError:
        return f"{milliseconds} ms"
    return f"{moment:%Y/%m/%d %H:%M:%S}.{moment.microsecond // 1000:03d} Z"
