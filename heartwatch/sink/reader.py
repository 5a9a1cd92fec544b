"""The one interface through which a sink is read back, and what its rows say of where they came from."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from datetime import datetime
from enum import StrEnum
from typing import Protocol

import pyarrow as pa

from heartwatch.errors import HeartWatchError

TOPIC, PARTITION, OFFSET, TIMESTAMP = "kafka_topic", "kafka_partition", "kafka_offset", "kafka_timestamp"
"""Columns that the connectors put beside a record's fields: where the record stands in Kafka, and its Kafka timestamp."""

PLACES = (TOPIC, PARTITION, OFFSET, TIMESTAMP)

NO_END = 2**63 - 1
"""End of a span whose end isn't known."""


class SinkError(HeartWatchError):
    """The sink can't be read; the message names the table or folder and the remedy."""


class ObjectError(HeartWatchError):
    """One object can't be read though the store is up; the message names it and the reason."""


class ObjectFault(StrEnum):
    """What a listing shows to be wrong with an object, without reading it."""

    ABSENT = "absent"
    RESIZED = "resized"
    ORPHAN = "orphan"
    STRANGER = "stranger"


@dataclass(frozen=True)
class SinkObject:
    """A data object, and what is known of its rows without reading it.

    Attributes:
        path: address of the object, in the store's form.
        identity: changes when the object is written again (size and time of writing), or rows of it are deleted elsewhere.
        size: bytes.
        written_at: when the store got it (UTC).
        partitions: lowest and highest Kafka partition of its rows.
        offsets: lowest offset and the one after the highest, over all its partitions; `NO_END` where that isn't known.
        rows: how many; None where only reading tells.
        counted: its rows carry no offsets: they are the records from the first offset on, in Kafka's order.
    """

    path: str
    identity: str
    size: int
    written_at: datetime
    partitions: tuple[int, int]
    offsets: tuple[int, int]
    rows: int | None = None
    counted: bool = False

    def overlaps(self, partition: int, begin: int, end: int) -> bool:
        """Tell whether a row of a partition's offsets may be in it."""
        return (
            self.partitions[0] <= partition <= self.partitions[1] and self.offsets[0] < end and self.offsets[1] > begin
        )


@dataclass(frozen=True)
class FaultyObject:
    """An object with which something is wrong.

    Attributes:
        path: its address.
        fault: what is wrong.
        detail: the same in words.
        object: what the catalog says of it, if it does.
    """

    path: str
    fault: ObjectFault
    detail: str
    object: SinkObject | None = None


@dataclass(frozen=True)
class Listing:
    """The sink's objects of one topic at one moment.

    Attributes:
        version: another state of the sink's data has another version.
        objects: those that can be read.
        faulty: those with which something is wrong; resized ones are among the `objects`, too.
    """

    version: str
    objects: dict[str, SinkObject] = field(default_factory=dict)
    faulty: list[FaultyObject] = field(default_factory=list)

    @property
    def written_at(self) -> datetime | None:
        """When the newest object was written, by the store's clock."""
        return max((item.written_at for item in self.objects.values()), default=None)


class SinkReader(Protocol):
    """A sink, whatever its layout. Reading may be done by several threads at once."""

    def now(self) -> datetime:
        """Return the time by the store's own clock, which also stamps the objects.

        Raises:
            SinkError: the store can't be asked.
        """

    def version(self, topic: str) -> str:
        """Return what changes with every write to a topic's data; empty before the first one.

        Raises:
            SinkError: the sink can't be asked.
        """

    def listing(self, topic: str, orphan_seconds: float) -> Listing:
        """Return a topic's objects: names, sizes, statistics; no contents.

        Args:
            topic: Kafka topic.
            orphan_seconds: how old an object that belongs to nothing may be; younger ones may be about to be committed.

        Raises:
            SinkError: the sink can't be asked.
        """

    def read(self, topic: str, found: SinkObject, schema: pa.Schema) -> Iterator[pa.RecordBatch]:
        """Return an object's rows in their order, a part at a time.

        Args:
            topic: Kafka topic.
            found: object of a listing of this topic.
            schema: columns wanted, and the types that they will be compared in; those that the object doesn't have are missing
                in the answer, and the answer's types are the object's.

        Raises:
            ObjectError: the object is gone, damaged or of another form.
            SinkError: the store is away.
        """
