"""Batches of events as every generator of this package gives them."""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from heartwatch.simulate.draws import Floats, Ints

SCHEMA = pa.schema(
    [
        ("user_id", pa.string()),
        ("event_time", pa.timestamp("ms", tz="UTC")),
        ("zipcode", pa.int32()),
        ("latitude", pa.float64()),
        ("longitude", pa.float64()),
        ("heart_rate", pa.int32()),
    ]
)
"""Columns of a batch: the fields of schemas/heart_rate/realtime.avsc in its order."""

_LOWEST_RATE, _HIGHEST_RATE = 20, 250


@dataclass(frozen=True)
class Malformed:
    """A message whose value is not valid Avro, sent between the events.

    Attributes:
        row: it goes before this row of its batch.
        key: the user id, UTF-8.
        value: the value's bytes.
    """

    row: int
    key: bytes
    value: bytes


@dataclass(frozen=True)
class EventBatch:
    """Events in the order in which they are sent.

    Attributes:
        index: number of the batch in its shard, from 0.
        records: the events, columns as in `SCHEMA`.
        emission_ms: when each event is sent, ms since the epoch, never falling.
        malformed: messages that are not valid events, beside the records.
    """

    index: int
    records: pa.RecordBatch
    emission_ms: Ints
    malformed: list[Malformed] = field(default_factory=list)


def record_batch(
    user_ids: pa.StringArray, event_ms: Ints, zipcode: Ints, latitude: Floats, longitude: Floats, rate: Floats
) -> pa.RecordBatch:
    """Return events as a record batch; heart rates are rounded to whole beats from 20 to 250."""
    beats: NDArray[np.int32] = np.clip(np.rint(rate), _LOWEST_RATE, _HIGHEST_RATE).astype(np.int32)
    columns = [
        user_ids,
        pa.array(event_ms, pa.int64()).cast(SCHEMA.field("event_time").type),
        pa.array(zipcode.astype(np.int32)),
        pa.array(latitude),
        pa.array(longitude),
        pa.array(beats),
    ]
    return pa.RecordBatch.from_arrays(columns, schema=SCHEMA)
