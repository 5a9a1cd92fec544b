"""The one interface through which a sink is read back, and what its rows say of where they came from."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Protocol

import pyarrow as pa

TOPIC, PARTITION, OFFSET, TIMESTAMP = "kafka_topic", "kafka_partition", "kafka_offset", "kafka_timestamp"
"""Columns that the connectors put beside a record's fields: where the record stands in Kafka, and its Kafka timestamp."""

Ranges = Mapping[int, tuple[int, int]]
"""For each partition the first offset and the offset after the last one."""


class SinkError(Exception):
    """The sink can't be read; the message names the table or object and the remedy."""


@dataclass(frozen=True)
class SinkVersion:
    """A state of the sink's data for one topic; another one has another `identity`.

    Attributes:
        identity: what tells this state from any other.
        written_at: when it was written (UTC).
        records: rows in it, None where the layout doesn't say without reading them.
        objects: data objects that hold them.
    """

    identity: str
    written_at: datetime
    records: int | None
    objects: int | None


class SinkReader(Protocol):
    """A sink, whatever its layout."""

    def version(self, topic: str) -> SinkVersion | None:
        """Return the present state of a topic's data, None before the first record.

        Raises:
            SinkError: the sink can't be asked.
        """

    def rows(self, topic: str, ranges: Ranges, columns: Sequence[str]) -> Iterator[pa.RecordBatch]:
        """Return rows of a topic, in no order, a part at a time.

        Args:
            topic: Kafka topic.
            ranges: which partitions and offsets; rows of others are left out.
            columns: columns wanted; those that the sink doesn't have are missing in the answer.

        Raises:
            SinkError: an object can't be read.
        """
