"""Rows that can't be sent, whatever is tried: they are rejected with their reason, and the rest of the shard goes on.

A row is too large where a batch with it alone is larger than the topic takes (`max.message.bytes`, which Kafka compares with
whole batches), and its time is refused where it is further ahead of the brokers' clock, or further behind, than the topic takes
(`message.timestamp.after.max.ms`, `message.timestamp.before.max.ms`). These are left out before they are sent, since a broker
refuses the whole batch that they are in. Whatever else is refused is found by batches of one row each.
"""

from __future__ import annotations

import threading
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime

from confluent_kafka import KafkaError, Message

from heartwatch.files.rejects import RejectFile
from heartwatch.produce.messages import Messages

USUAL_LARGEST = 1_048_588
"""Kafka's own `max.message.bytes`, for where the topic's can't be read."""

_BATCH_HEAD = 61  # bytes before the first record of a batch, version 2 of the format
_BY_ROW = {
    KafkaError.INVALID_RECORD,
    KafkaError.INVALID_TIMESTAMP,
    KafkaError.MSG_SIZE_TOO_LARGE,
}
_Row = tuple[int, bytes | None, bytes | None]
_NO_LIMIT = 2**63 - 1


@dataclass(frozen=True)
class Limits:
    """What a topic takes.

    Attributes:
        largest: bytes of a batch.
        ahead_ms: how far a message's time may be ahead of the brokers' clock, ms.
        behind_ms: how far it may be behind, ms.
    """

    largest: int = USUAL_LARGEST
    ahead_ms: int = _NO_LIMIT
    behind_ms: int = _NO_LIMIT

    @classmethod
    def of(cls, settings: Mapping[str, str]) -> Limits:
        """Return the limits of a topic's settings; Kafka's own where they don't say."""
        largest = int(settings.get("max.message.bytes", USUAL_LARGEST))
        if settings.get("message.timestamp.type") == "LogAppendTime":
            return cls(largest)
        names = ("message.timestamp.after.max.ms", "message.timestamp.before.max.ms")
        return cls(largest, *(int(settings.get(name, _NO_LIMIT)) for name in names))


class Refusals:
    """Finds the rows that can't be sent, and writes them to a reject file.

    Attributes:
        count: rows rejected by this process.
        limits: what the topic takes.
    """

    def __init__(self, rejects: RejectFile | None, limits: Limits | None = None) -> None:
        """Take a reject file.

        Args:
            rejects: takes the rows, open; None only counts them.
            limits: what the topic takes.
        """
        self.count = 0
        self.limits = limits or Limits()
        self._rejects = rejects
        self._refused: dict[_Row, KafkaError] = {}
        self._lock = threading.Lock()

    def delivered(self, error: KafkaError | None, message: Message) -> None:
        """Remember a message that was in a batch which the brokers refused for a row of it: the client's delivery callback."""
        if error is None or error.code() not in _BY_ROW:
            return
        with self._lock:
            self._refused[message.partition() or 0, message.key(), message.value()] = error

    def take_refused(self) -> dict[_Row, KafkaError]:
        """Return the messages that `delivered` remembers, and forget them."""
        with self._lock:
            refused, self._refused = self._refused, {}
        return refused

    def fitting(self, messages: Messages, now_ms: int) -> Messages:
        """Return messages without those that the topic can't take, which are rejected.

        Args:
            messages: a batch.
            now_ms: now, ms since the epoch.
        """
        return self._near_in_time(self._small_enough(messages), now_ms)

    def _small_enough(self, messages: Messages) -> Messages:
        # Most are far smaller: only the others are worth the exact size.
        near = self.limits.largest - _BATCH_HEAD - 30
        longest = max(map(len, messages.keys), default=0) + max(map(len, filter(None, messages.values)), default=0)
        if longest <= near:
            return messages
        sizes = (len(key) + len(value or b"") for key, value in zip(messages.keys, messages.values, strict=True))
        reasons = {
            place: f"{size} bytes in a batch of its own, the topic takes {self.limits.largest} (max.message.bytes)"
            for place in [place for place, size in enumerate(sizes) if size > near]
            if (size := batch_bytes(messages.keys[place], messages.values[place])) > self.limits.largest
        }
        return self._without(messages, reasons, "larger than the topic takes")

    def _near_in_time(self, messages: Messages, now_ms: int) -> Messages:
        if self.limits.ahead_ms == self.limits.behind_ms == _NO_LIMIT:
            return messages
        earliest, latest = now_ms - self.limits.behind_ms, now_ms + self.limits.ahead_ms
        if not messages.timestamps or (min(messages.timestamps) >= earliest and max(messages.timestamps) <= latest):
            return messages
        ahead = f"the topic takes {self.limits.ahead_ms} ms (message.timestamp.after.max.ms)"
        behind = f"the topic takes {self.limits.behind_ms} ms (message.timestamp.before.max.ms)"
        reasons = {
            place: ahead if time_ms > latest else behind
            for place, time_ms in enumerate(messages.timestamps)
            if not earliest <= time_ms <= latest
        }
        return self._without(messages, reasons, "time further from the clock than the topic takes")

    def without_refused(self, batches: Sequence[Messages]) -> list[Messages]:
        """Return messages without those that the brokers refused each in a batch of its own, which are rejected."""
        refused = self.take_refused()
        return [self._without_rows(messages, refused) for messages in batches] if refused else list(batches)

    def _without_rows(self, messages: Messages, refused: dict[_Row, KafkaError]) -> Messages:
        rows = zip(messages.partitions, messages.keys, messages.values, strict=True)
        found = {place: refused[row] for place, row in enumerate(rows) if row in refused}
        for name in sorted({error.name() for error in found.values()}):
            reasons = {place: error.str() for place, error in found.items() if error.name() == name}
            kept = [place for place in found if place not in reasons]
            messages = self._without(messages, reasons, f"refused by the brokers: {name}")
            # What is left moves up.
            found = {place - sum(gone < place for gone in reasons): found[place] for place in kept}
        return messages

    def _without(self, messages: Messages, reasons: dict[int, str], kind: str) -> Messages:
        if not reasons:
            return messages
        for place, reason in reasons.items():
            self._reject(messages, place, reason, kind)
        kept = [place for place in range(len(messages)) if place not in reasons]
        return replace(
            messages,
            keys=[messages.keys[place] for place in kept],
            values=[messages.values[place] for place in kept],
            partitions=[messages.partitions[place] for place in kept],
            timestamps=[messages.timestamps[place] for place in kept],
        )

    def _reject(self, messages: Messages, place: int, reason: str, kind: str) -> None:
        self.count += 1
        if self._rejects is None:
            return
        time_ms = messages.timestamps[place]
        shown = f"key {messages.keys[place].decode(errors='backslashreplace')!r}, time {_iso(time_ms)}"
        self._rejects.add(place + 1, messages.values[place] or b"", f"{kind}: {shown}: {reason}", kind)


def batch_bytes(key: bytes, value: bytes | None) -> int:
    """Return how many bytes a batch with one message has, as brokers count them.

    Protocol: Kafka's record batch, version 2; lengths are zigzag varints.
    """
    size = 0 if value is None else len(value)
    # Attributes, the differences of time and offset (0), and the number of headers (0) are a byte each.
    body = 4 + _varint(len(key)) + len(key) + _varint(-1 if value is None else size) + size
    return _BATCH_HEAD + _varint(body) + body


def _varint(number: int) -> int:
    zigzag = number << 1 if number >= 0 else (-number << 1) - 1
    return max(1, -(-zigzag.bit_length() // 7))


def _iso(time_ms: int) -> str:
    try:
        return datetime.fromtimestamp(time_ms / 1000, UTC).isoformat()
    except (ValueError, OverflowError, OSError):
        return f"{time_ms} ms"
