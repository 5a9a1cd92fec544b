"""Reads Kafka topics as columns: a batch of messages becomes Arrow arrays without a Python object a message.

`BatchConsumer` is the interface. `NativeBatchConsumer` calls librdkafka's public C API (the library that confluent-kafka ships)
and copies keys and values into Arrow buffers in compiled loops; `PlainBatchConsumer` does the same over confluent-kafka's
`consume`. `open_batch_consumer` takes the first where it can run. Both only read partitions that were assigned to them;
group membership and offset commits stay with confluent-kafka's own clients.

The layout of ``rd_kafka_message_t`` is part of librdkafka's public, versioned API (rdkafka.h); other versions than the tested
major version are left to the plain consumer.
"""

from __future__ import annotations

import ctypes
from abc import ABC, abstractmethod
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import confluent_kafka
import numpy as np
import numpy.typing as npt
import pyarrow as pa

from kafkakit.errors import KafkaKitError

Offset = tuple[str, int, int]
"""A position to read from: topic, partition, offset; `BEGINNING` or `END` for either end."""

Headers = tuple[tuple[str, bytes | None], ...]
"""A message's headers."""

BEGINNING = confluent_kafka.OFFSET_BEGINNING
END = confluent_kafka.OFFSET_END

_TESTED_MAJOR_VERSION = 2
_CONSUMER_TYPE = 1
_ERROR_TEXT_BYTES = 512
_END = "_PARTITION_EOF"
_TRANSIENT = {"_TRANSPORT", "_ALL_BROKERS_DOWN", "_RESOLVE", "_TIMED_OUT", "_MAX_POLL_EXCEEDED"}


class BatchConsumerError(KafkaKitError):
    """Kafka refused to be read; the message names the topic, the partition and the broker's reason."""


@dataclass(frozen=True)
class MessageBatch:
    """Messages in the order in which they came; each partition's are in order of offset.

    Attributes:
        topics: topic names, indexed by `topic`.
        topic: index into `topics`, one a message.
        partition: partition of each message.
        offset: offset of each message.
        timestamp: Kafka timestamp of each message, ms since the epoch; -1 where it has none.
        key: keys, null where the message has none.
        value: values, null where the message has none.
        ends: partitions whose end was reached, with the offset of the next record; only with the consumer setting
            ``enable.partition.eof``.
        headers: names and values of each message's headers in order; None where they were not read.
    """

    topics: tuple[str, ...]
    topic: npt.NDArray[np.int32]
    partition: npt.NDArray[np.int32]
    offset: npt.NDArray[np.int64]
    timestamp: npt.NDArray[np.int64]
    key: pa.LargeBinaryArray
    value: pa.LargeBinaryArray
    ends: tuple[Offset, ...] = ()
    headers: tuple[Headers, ...] | None = None

    def __len__(self) -> int:
        """Return the number of messages."""
        return len(self.offset)


class BatchConsumer(ABC):
    """Reads assigned partitions in batches."""

    @abstractmethod
    def assign(self, positions: Iterable[Offset]) -> None:
        """Read these partitions from these offsets, and no others."""

    @abstractmethod
    def poll(self, timeout_seconds: float, limit: int = 10_000) -> MessageBatch:
        """Return the next messages, at most `limit`; waits for the first one, at most `timeout_seconds`.

        Raises:
            BatchConsumerError: a partition can't be read. A broker that is away is waited for instead.
        """

    @abstractmethod
    def close(self) -> None:
        """Stop reading and free what the client holds."""

    def __enter__(self) -> BatchConsumer:
        """Return itself."""
        return self

    def __exit__(self, *_: object) -> None:
        """Close it."""
        self.close()


def open_batch_consumer(config: Mapping[str, Any], *, with_headers: bool = False) -> BatchConsumer:
    """Return the fastest consumer that runs here.

    Args:
        config: librdkafka's consumer configuration; ``group.id`` is required by librdkafka though no group is joined.
        with_headers: read the messages' headers too, which only the plain consumer does.
    """
    # Python's callbacks (tokens of `oauth_cb`) are confluent-kafka's.
    if native_is_available() and not with_headers and "oauth_cb" not in config:
        return NativeBatchConsumer(config)
    return PlainBatchConsumer(config, with_headers=with_headers)


def native_is_available() -> bool:
    """Say whether librdkafka can be called directly: the compiled loops' library and a tested version are there."""
    try:
        from kafkakit import _message_loops  # noqa: F401, PLC0415 - compiled loops are optional
    except ImportError:
        return False
    return _library_path() is not None and confluent_kafka.libversion()[1] >> 24 == _TESTED_MAJOR_VERSION


class PlainBatchConsumer(BatchConsumer):
    """Reads through confluent-kafka's `consume`."""

    def __init__(self, config: Mapping[str, Any], *, with_headers: bool = False) -> None:
        """Open the client; nothing is read before `assign`."""
        self._with_headers = with_headers
        self._consumer = confluent_kafka.Consumer(dict(config))

    def assign(self, positions: Iterable[Offset]) -> None:
        """Read these partitions from these offsets, and no others."""
        self._consumer.assign([confluent_kafka.TopicPartition(*position) for position in positions])

    def poll(self, timeout_seconds: float, limit: int = 10_000) -> MessageBatch:
        """Return the next messages (see `BatchConsumer.poll`)."""
        messages = self._consumer.consume(1, timeout_seconds)
        if messages:
            messages += self._consumer.consume(min(limit, 1_000) - 1, 0) if limit > 1 else []
        good = []
        ends: list[Offset] = []
        for message in messages:
            error = message.error()
            if error is None:
                good.append(message)
            elif error.name() == _END:
                ends.append((str(message.topic()), int(message.partition() or 0), int(message.offset() or 0)))
            elif error.name() not in _TRANSIENT:
                raise _refused(str(message.topic()), int(message.partition() or 0), error.str())
        names: dict[str, int] = {}
        topic = [names.setdefault(str(message.topic()), len(names)) for message in good]
        return MessageBatch(
            topics=tuple(names),
            topic=np.array(topic, dtype=np.int32),
            partition=np.array([message.partition() for message in good], dtype=np.int32),
            offset=np.array([message.offset() for message in good], dtype=np.int64),
            timestamp=np.array([message.timestamp()[1] for message in good], dtype=np.int64),
            key=pa.array([message.key() for message in good], pa.large_binary()),
            value=pa.array([message.value() for message in good], pa.large_binary()),
            ends=tuple(ends),
            headers=tuple(_headers(message) for message in good) if self._with_headers else None,
        )

    def close(self) -> None:
        """Stop reading and free the client."""
        self._consumer.close()


class NativeBatchConsumer(BatchConsumer):
    """Reads through librdkafka's batch queue."""

    def __init__(self, config: Mapping[str, Any]) -> None:
        """Open the client; nothing is read before `assign`.

        Raises:
            BatchConsumerError: librdkafka refuses a setting.
        """
        from kafkakit import _message_loops  # noqa: PLC0415 - compiled loops are optional

        self._loops = _message_loops
        self._library = _load_library()
        self._topics: dict[int, int] = {}
        self._names: list[str] = []
        self._pointers = np.zeros(0, dtype=np.uint64)
        self._client = self._open(config)
        self._library.rd_kafka_poll_set_consumer(self._client)
        self._queue = self._library.rd_kafka_queue_get_consumer(self._client)

    def _open(self, config: Mapping[str, Any]) -> int:
        text = ctypes.create_string_buffer(_ERROR_TEXT_BYTES)
        conf = self._library.rd_kafka_conf_new()
        for name, value in config.items():
            shown = str(value).lower() if isinstance(value, bool) else str(value)
            if self._library.rd_kafka_conf_set(conf, name.encode(), shown.encode(), text, _ERROR_TEXT_BYTES):
                self._library.rd_kafka_conf_destroy(conf)
                raise BatchConsumerError(f"consumer setting {name!r} is refused: {text.value.decode()}")
        client = self._library.rd_kafka_new(_CONSUMER_TYPE, conf, text, _ERROR_TEXT_BYTES)
        if not client:
            self._library.rd_kafka_conf_destroy(conf)
            raise BatchConsumerError(f"the consumer can't be opened: {text.value.decode()}")
        return int(client)

    def assign(self, positions: Iterable[Offset]) -> None:
        """Read these partitions from these offsets, and no others."""
        wanted = list(positions)
        assigned = self._library.rd_kafka_topic_partition_list_new(len(wanted))
        for topic, partition, offset in wanted:
            self._library.rd_kafka_topic_partition_list_add(assigned, topic.encode(), partition)
            self._library.rd_kafka_topic_partition_list_set_offset(assigned, topic.encode(), partition, offset)
        code = self._library.rd_kafka_assign(self._client, assigned)
        self._library.rd_kafka_topic_partition_list_destroy(assigned)
        if code:
            raise BatchConsumerError(f"partitions {wanted!r} can't be assigned: {self._reason(code)}")

    def poll(self, timeout_seconds: float, limit: int = 10_000) -> MessageBatch:
        """Return the next messages (see `BatchConsumer.poll`)."""
        if len(self._pointers) < limit:
            self._pointers = np.zeros(limit, dtype=np.uint64)
        count = self._take(0, 1, timeout_seconds)
        if count:
            count += self._take(count, limit - count, 0)
        pointers = self._pointers[:count]
        try:
            return self._columns(pointers)
        finally:
            self._loops.destroy(pointers, self._loops.address(self._library.rd_kafka_message_destroy))

    def _take(self, start: int, limit: int, timeout_seconds: float) -> int:
        """Fill pointers from `start` on; librdkafka waits until it has `limit` messages or the time is over."""
        first = self._pointers.ctypes.data + start * self._pointers.itemsize
        count = self._library.rd_kafka_consume_batch_queue(self._queue, int(timeout_seconds * 1000), first, limit)
        return max(int(count), 0)

    def _columns(self, pointers: npt.NDArray[np.uint64]) -> MessageBatch:
        fields = self._loops.fields(pointers)
        ends: tuple[Offset, ...] = ()
        if fields.error.any():
            fields, ends = self._without_errors(fields)
        timestamp = self._loops.timestamps(
            fields.pointer, self._loops.address(self._library.rd_kafka_message_timestamp)
        )
        return MessageBatch(
            topics=tuple(self._names_of(fields.topic)),
            topic=self._topic_index(fields.topic),
            partition=fields.partition,
            offset=fields.offset,
            timestamp=timestamp,
            key=_binary(*self._loops.copy(fields.key, fields.key_bytes)),
            value=_binary(*self._loops.copy(fields.value, fields.value_bytes)),
            ends=ends,
        )

    def _without_errors(self, fields: Any) -> tuple[Any, tuple[Offset, ...]]:
        ends: list[Offset] = []
        for row in np.flatnonzero(fields.error):
            code = int(fields.error[row])
            error = self._library.rd_kafka_err2name(code).decode()
            topic = int(fields.topic[row])
            name = self._library.rd_kafka_topic_name(topic).decode() if topic else "(none)"
            if error == _END:
                ends.append((name, int(fields.partition[row]), int(fields.offset[row])))
            elif error not in _TRANSIENT:
                raise _refused(name, int(fields.partition[row]), self._reason(code))
        return self._loops.Fields(*(column[fields.error == 0] for column in fields)), tuple(ends)

    def _reason(self, code: int) -> str:
        return str(self._library.rd_kafka_err2str(code).decode())

    def _names_of(self, topics: npt.NDArray[np.uint64]) -> list[str]:
        for topic in np.unique(topics).tolist():
            if topic not in self._topics:
                name = self._library.rd_kafka_topic_name(topic).decode()
                if name not in self._names:
                    self._names.append(name)
                self._topics[topic] = self._names.index(name)
        return self._names

    def _topic_index(self, topics: npt.NDArray[np.uint64]) -> npt.NDArray[np.int32]:
        found, position = np.unique(topics, return_inverse=True)
        return np.array([self._topics[topic] for topic in found.tolist()], dtype=np.int32)[position]

    def close(self) -> None:
        """Stop reading and free the client; a second call does nothing."""
        if self._client:
            self._library.rd_kafka_consumer_close(self._client)
            self._library.rd_kafka_queue_destroy(self._queue)
            self._library.rd_kafka_destroy(self._client)
            self._client = 0


def _binary(validity: npt.NDArray[np.bool_], offsets: npt.NDArray[np.int64], data: npt.NDArray[np.uint8]) -> Any:
    nulls = None if validity.all() else pa.array(validity).buffers()[1]
    buffers = [nulls, pa.py_buffer(offsets), pa.py_buffer(data)]
    return pa.Array.from_buffers(pa.large_binary(), len(validity), buffers)


def _headers(message: confluent_kafka.Message) -> Headers:
    given: Any = message.headers() or ()
    return tuple((str(name), value) for name, value in given)


def _refused(topic: str, partition: int, reason: str) -> BatchConsumerError:
    return BatchConsumerError(
        f"topic {topic!r} partition {partition} can't be read: {reason}; check that it exists and that its offsets do"
    )


def _library_path() -> Path | None:
    folder = Path(confluent_kafka.__file__).parent.parent / "confluent_kafka.libs"
    return next(iter(sorted(folder.glob("librdkafka*.so*"))), None)


def _load_library() -> Any:
    path = _library_path()
    if path is None:
        raise BatchConsumerError("confluent-kafka's librdkafka was not found; use PlainBatchConsumer")
    library = ctypes.CDLL(str(path))
    pointer, text, number = ctypes.c_void_p, ctypes.c_char_p, ctypes.c_int
    signatures: dict[str, tuple[Any, Sequence[Any]]] = {
        "rd_kafka_conf_new": (pointer, []),
        "rd_kafka_conf_destroy": (None, [pointer]),
        "rd_kafka_conf_set": (number, [pointer, text, text, text, ctypes.c_size_t]),
        "rd_kafka_new": (pointer, [number, pointer, text, ctypes.c_size_t]),
        "rd_kafka_destroy": (None, [pointer]),
        "rd_kafka_poll_set_consumer": (number, [pointer]),
        "rd_kafka_queue_get_consumer": (pointer, [pointer]),
        "rd_kafka_queue_destroy": (None, [pointer]),
        "rd_kafka_consumer_close": (number, [pointer]),
        "rd_kafka_consume_batch_queue": (ctypes.c_ssize_t, [pointer, number, pointer, ctypes.c_size_t]),
        "rd_kafka_message_destroy": (None, [pointer]),
        "rd_kafka_message_timestamp": (ctypes.c_int64, [pointer, pointer]),
        "rd_kafka_topic_name": (text, [pointer]),
        "rd_kafka_err2str": (text, [number]),
        "rd_kafka_err2name": (text, [number]),
        "rd_kafka_assign": (number, [pointer, pointer]),
        "rd_kafka_topic_partition_list_new": (pointer, [number]),
        "rd_kafka_topic_partition_list_destroy": (None, [pointer]),
        "rd_kafka_topic_partition_list_add": (pointer, [pointer, text, ctypes.c_int32]),
        "rd_kafka_topic_partition_list_set_offset": (number, [pointer, text, ctypes.c_int32, ctypes.c_int64]),
    }
    for name, (result, arguments) in signatures.items():
        function = getattr(library, name)
        function.restype, function.argtypes = result, list(arguments)
    return library
