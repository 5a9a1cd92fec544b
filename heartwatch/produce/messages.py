"""Events as columns become messages: key, value, partition and timestamp of each, in sending order."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from kafkakit import avro_codec
from kafkakit.partitioning import partitions_of
from kafkakit.record_times import LEAST_MS, written_ms


@dataclass(frozen=True)
class RawMessage:
    """A message sent as it is, such as the simulator's malformed ones.

    Attributes:
        row: it goes before this row of its batch's events.
        key: key, UTF-8.
        value: value; None is a null value.
    """

    row: int
    key: bytes
    value: bytes | None


@dataclass(frozen=True)
class Events:
    """A batch of a source.

    Attributes:
        columns: events in sending order.
        raw: messages between them.
        due_ms: when the batch is due, on the clock of the event times, ms; None where the first event's time says it.
        happened_ms: when all of it has happened, on that clock, ms; None where the events' times say it.
    """

    columns: pa.RecordBatch
    raw: Sequence[RawMessage] = field(default_factory=tuple)
    due_ms: int | None = None
    happened_ms: int | None = None


@dataclass(frozen=True)
class Messages:
    """Messages ready to send; the four lists have one entry each.

    Attributes:
        keys: user ids, UTF-8.
        values: values in the registry's wire format; raw messages as they are.
        partitions: partition of each.
        timestamps: event times, ms since the epoch; none before the earliest that can be written, so an event without a sensible
            time keeps its own in its value, where KSQL finds and rejects it.
        due_ms: when they are due, on the clock of the event times.
        happened_ms: when all of it has happened, on that clock.
    """

    keys: list[bytes]
    values: list[bytes | None]
    partitions: list[int]
    timestamps: list[int]
    due_ms: int = 0
    happened_ms: int = 0

    def __len__(self) -> int:
        return len(self.keys)

    @property
    def newest_ms(self) -> int:
        """Largest event time, ms; 0 without messages."""
        return max(self.timestamps, default=0)


@dataclass(frozen=True)
class Encoder:
    """Turns a shard's part of a batch into messages.

    Attributes:
        schema: Avro schema of the values.
        schema_id: the registry's id of it.
        key: field whose text is the key.
        event_time: field that is the Kafka timestamp too.
        partitions: partitions of the topic.
        chosen: the shard's partitions.
    """

    schema: avro_codec.AvroSchema
    schema_id: int
    key: str
    event_time: str
    partitions: int
    chosen: tuple[int, ...]

    def encode(self, events: Events) -> Messages:
        """Return the messages of the shard's events.

        Args:
            events: a batch; events of other shards' partitions are left out.

        Raises:
            CodecError: a column is missing or does not fit the schema.
        """
        keys, partitions = self._keys_and_partitions(events.columns)
        rows = np.flatnonzero(np.isin(partitions, self.chosen))
        columns = events.columns if len(rows) == len(partitions) else events.columns.take(pa.array(rows))
        values: list[bytes | None] = list(avro_codec.encode(columns, self.schema, self.schema_id))
        times = np.maximum(_milliseconds(columns.column(self.event_time)), LEAST_MS)
        messages = Messages(
            keys[rows].tolist(),
            values,
            partitions[rows].tolist(),
            times.tolist(),
            self._due_ms(events),
            int(times.max(initial=0)) if events.happened_ms is None else events.happened_ms,
        )
        return self._with_raw(messages, events, rows) if events.raw else messages

    def _due_ms(self, events: Events) -> int:
        """Return when a batch is due: for all shards at the same time, whether they have events in it or not."""
        if events.due_ms is not None or not events.columns.num_rows:
            return events.due_ms or 0
        return int(_milliseconds(events.columns.column(self.event_time).slice(0, 1))[0])

    def _keys_and_partitions(self, columns: pa.RecordBatch) -> tuple[npt.NDArray[np.object_], npt.NDArray[np.int32]]:
        """Hash and convert each distinct key once: a batch holds the same users many times."""
        encoded = columns.column(self.key).cast(pa.string()).dictionary_encode()
        codes = encoded.indices.to_numpy()
        distinct = encoded.dictionary.cast(pa.binary())
        objects = np.empty(len(distinct), dtype=object)
        objects[:] = distinct.to_pylist()
        return objects[codes], partitions_of(distinct, self.partitions)[codes]

    def _with_raw(self, messages: Messages, events: Events, rows: npt.NDArray[np.int64]) -> Messages:
        """Put the shard's raw messages between its events, each with its neighbour's event time."""
        keys, values = list(messages.keys), list(messages.values)
        partitions, times = list(messages.partitions), list(messages.timestamps)
        all_times = _milliseconds(events.columns.column(self.event_time))
        where = partitions_of(pa.array([raw.key for raw in events.raw], pa.binary()), self.partitions).tolist()
        # From the last to the first, so that the places of those before stay right.
        for raw, partition in sorted(zip(events.raw, where, strict=True), key=lambda pair: pair[0].row, reverse=True):
            if partition not in self.chosen:
                continue
            place = int(np.searchsorted(rows, raw.row))
            keys.insert(place, raw.key)
            values.insert(place, raw.value)
            partitions.insert(place, partition)
            own = int(all_times[min(raw.row, len(all_times) - 1)]) if len(all_times) else 0
            times.insert(place, written_ms(own))
        return replace(messages, keys=keys, values=values, partitions=partitions, timestamps=times)


def _milliseconds(column: pa.Array) -> npt.NDArray[np.int64]:
    if pa.types.is_timestamp(column.type):
        column = column.cast(pa.timestamp("ms")).view(pa.int64())
    return column.cast(pa.int64()).to_numpy()
