"""Reads bounded ranges of topics as columns."""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from kafkakit.admin import KafkaAdmin, consumer_config
from kafkakit.batch_consumer import MessageBatch, open_batch_consumer
from kafkakit.errors import KafkaKitError
from kafkakit.settings import KafkaSettings
from kafkakit.waiting import wait_until

_LIMIT = 10_000
_POLL_SECONDS = 0.05
# A partition whose queue is full is asked again soon: librdkafka's own second leaves the reader waiting.
_PREFETCH = {"queued_min_messages": 100_000, "fetch_message_max_bytes": 4_194_304, "fetch_queue_backoff_ms": 20}
_SILENCE_SECONDS = 60.0
_LAST_RECORDS = 2_000  # far more than arrive while the latest event is on its way


class TopicError(KafkaKitError):
    """A topic can't be read as far as it should be; the message names the topic, the partition and the remedy."""


@dataclass(frozen=True)
class Records:
    """Records of a topic, each partition's in order of offset.

    Attributes:
        partition: partition of each record.
        offset: offset of each record.
        timestamp: Kafka timestamp of each record, ms since the epoch.
        key: keys.
        value: values, null for tombstones.
    """

    partition: npt.NDArray[np.int32]
    offset: npt.NDArray[np.int64]
    timestamp: npt.NDArray[np.int64]
    key: pa.LargeBinaryArray
    value: pa.LargeBinaryArray

    def __len__(self) -> int:
        return len(self.offset)

    def at(self, rows: npt.NDArray[np.int64]) -> Records:
        """Return some of the records: those at these places, in this order."""
        places = pa.array(rows)
        return Records(
            self.partition[rows],
            self.offset[rows],
            self.timestamp[rows],
            self.key.take(places),
            self.value.take(places),
        )


def committed_ranges(admin: KafkaAdmin, topic: str) -> dict[int, tuple[int, int]]:
    """Return for each partition the first offset, and the offset after the last that a read_committed reader may see.

    Raises:
        UnknownTopicError: there is no such topic.
        KafkaClientError: the brokers could not be asked.
    """
    first = admin.offsets([topic], "earliest")
    last = admin.offsets([topic], "latest", committed=True)
    return {partition: (first[topic, partition], end) for (_, partition), end in sorted(last.items())}


@dataclass(frozen=True)
class NewRecords:
    """What a check of what is new reads of a topic.

    Attributes:
        ranges: by partition, the first offset read, and the one after the last.
        judged_from: by partition, the first offset that is new; those read before it only say how far time had come. 0 where
            nothing was before: the topic begins with what is new.
    """

    ranges: dict[int, tuple[int, int]]
    judged_from: dict[int, int]


def new_records(
    spans: Mapping[int, tuple[int, int]], checked: Mapping[int, int], look_back: int, most: int
) -> NewRecords:
    """Choose what to read of a topic whose beginning was checked before, or was of no concern.

    Args:
        spans: by partition, the first offset that is there, and the one after the last.
        checked: by partition, where the check before ended; a partition that isn't named is all new.
        look_back: offsets of a partition that say how far time had come.
        most: offsets of a partition to read at most; the newest ones.
    """
    ranges, judged_from = {}, {}
    for partition, (first, end) in spans.items():
        since = min(end, checked.get(partition, 0))
        begin = max(first, since - look_back, end - most)
        ranges[partition] = (begin, end)
        # Where records stood before those that are read, the first of these are needed to know how far time had come.
        judged_from[partition] = max(since, begin + look_back if begin else 0)
    return NewRecords(ranges, judged_from)


class TopicLog:
    """One topic, as a check of its sink reads it."""

    def __init__(self, settings: KafkaSettings, admin: KafkaAdmin, topic: str) -> None:
        """Prepare; nothing is read yet.

        Args:
            settings: where the brokers are.
            admin: client of the same brokers.
            topic: topic that exists.
        """
        self._settings, self._admin, self._topic = settings, admin, topic

    def ranges(self) -> dict[int, tuple[int, int]]:
        """Return for each partition the first offset, and the one after the last that a read_committed reader may see.

        Raises:
            KafkaClientError: the brokers could not be asked.
        """
        return committed_ranges(self._admin, self._topic)

    def ends(self) -> dict[int, int]:
        """Return for each partition the offset after the last one, open transactions' too.

        Raises:
            KafkaClientError: the brokers could not be asked.
        """
        return {partition: end for (_, partition), end in self._admin.offsets([self._topic], "latest").items()}

    def read(self, ranges: Mapping[int, tuple[int, int]]) -> Iterator[Records]:
        """Read the committed records of ranges (see `read_ranges`)."""
        return read_ranges(self._settings, self._topic, ranges)


def wait_until_committed(admin: KafkaAdmin, topic: str, deadline_seconds: float) -> bool:
    """Wait until a read_committed reader sees what a topic has now; False when that isn't so before the deadline.

    A commit returns when the coordinator has decided: the markers that make the records visible follow a moment later. An open
    transaction, such as a dead producer's, holds a partition back until it is aborted.

    Raises:
        UnknownTopicError: there is no such topic.
        KafkaClientError: the brokers could not be asked.
    """
    ends = admin.offsets([topic], "latest")

    def all_visible() -> bool:
        visible = admin.offsets([topic], "latest", committed=True)
        return all(visible[partition] >= end for partition, end in ends.items())

    return wait_until(all_visible, deadline_seconds, _POLL_SECONDS)


def last_ranges(admin: KafkaAdmin, topic: str, records: int) -> dict[int, tuple[int, int]]:
    """Return the ranges of the last offsets of each partition, `records` at most.

    Raises:
        UnknownTopicError: there is no such topic.
        KafkaClientError: the brokers could not be asked.
    """
    return {
        partition: (max(first, end - records), end)
        for partition, (first, end) in committed_ranges(admin, topic).items()
    }


def ends_before(
    settings: KafkaSettings, topic: str, ranges: Mapping[int, tuple[int, int]], timestamp_ms: int
) -> dict[int, int]:
    """Return by partition the offset after the last record of a range whose Kafka timestamp lies before a time.

    Records' times need not be in order, and Kafka's own answer (the first offset at a time or later) counts the markers of
    transactions, whose timestamps are the brokers' time: only reading tells.

    Args:
        settings: where the brokers are.
        topic: topic to read.
        ranges: for each partition the first offset and the offset after the last.
        timestamp_ms: ms since the epoch.

    Returns:
        the range's first offset where no record of it lies before the time.

    Raises:
        TopicError: the topic can't be read.
    """
    ends = {partition: begin for partition, (begin, _) in ranges.items()}
    for records in read_ranges(settings, topic, ranges):
        early = records.timestamp < timestamp_ms
        for partition in np.unique(records.partition[early]).tolist():
            last = int(records.offset[early & (records.partition == partition)].max())
            ends[partition] = max(ends[partition], last + 1)
    return ends


def newest_event_ms(settings: KafkaSettings, admin: KafkaAdmin, topic: str) -> int | None:
    """Return the largest timestamp among each partition's last records, ms since the epoch; None for an empty topic.

    Kafka's own answer (the offset of the largest timestamp) would count the markers of transactions, whose timestamps are the
    brokers' time.

    Raises:
        UnknownTopicError: there is no such topic.
        TopicError: the topic can't be read.
    """
    parts = read_ranges(settings, topic, last_ranges(admin, topic, _LAST_RECORDS))
    return max((int(records.timestamp.max()) for records in parts if len(records)), default=None)


def read_ranges(
    settings: KafkaSettings,
    topic: str,
    ranges: Mapping[int, tuple[int, int]],
    silence_seconds: float = _SILENCE_SECONDS,
) -> Iterator[Records]:
    """Read the committed records of ranges, a part at a time.

    Offsets without a record (markers of transactions, aborted or compacted records) are not there.

    Args:
        settings: where the brokers are.
        topic: topic to read.
        ranges: for each partition the first offset and the offset after the last.
        silence_seconds: how long the brokers may say nothing.

    Raises:
        TopicError: the brokers said nothing for too long.
        BatchConsumerError: a partition can't be read.
    """
    left = {partition: end for partition, (begin, end) in ranges.items() if end > begin}
    config = consumer_config(settings, f"heartwatch-verify-{topic}", "error", enable_partition_eof=True, **_PREFETCH)
    with open_batch_consumer(config) as consumer:
        consumer.assign([(topic, partition, ranges[partition][0]) for partition in left])
        heard = time.monotonic()
        while left:
            batch = consumer.poll(0.2, _LIMIT)
            if len(batch) or batch.ends:
                heard = time.monotonic()
            elif time.monotonic() - heard > silence_seconds:
                raise TopicError(
                    f"topic {topic!r}, partitions {sorted(left)!r}: nothing came for {silence_seconds:g} s though offsets up to "
                    f"{max(left.values())} are committed; see that the brokers {settings.bootstrap_servers} are up"
                )
            wanted = _within(batch, left)
            if len(wanted):
                yield wanted
            _strike_out(batch, left)


def _within(batch: MessageBatch, left: Mapping[int, int]) -> Records:
    """Return the records before the ranges' ends."""
    if not len(batch):
        return _records(batch)
    ends = np.zeros(int(batch.partition.max()) + 1, dtype=np.int64)
    for partition, end in left.items():
        if partition < len(ends):
            ends[partition] = end
    inside = batch.offset < ends[batch.partition]
    records = _records(batch)
    return records if inside.all() else records.at(np.flatnonzero(inside))


def _records(batch: MessageBatch) -> Records:
    return Records(batch.partition, batch.offset, batch.timestamp, batch.key, batch.value)


def _strike_out(batch: MessageBatch, left: dict[int, int]) -> None:
    """Take the partitions out of `left` whose range is read: its last offset was reached, or the partition's end."""
    for partition in np.unique(batch.partition).tolist():
        if partition in left and int(batch.offset[batch.partition == partition].max()) >= left[partition] - 1:
            del left[partition]
    for _, partition, end in batch.ends:
        if partition in left and end >= left[partition]:
            del left[partition]
