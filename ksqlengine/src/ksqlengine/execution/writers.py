"""Result rows to records of a topic."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
import polars as pl
import pyarrow as pa

from kafkakit import avro_codec
from kafkakit.partitioning import partitions_of
from ksqlengine.execution.operators import DELETED, HEADERS, SIDE, TIME, VALUELESS
from ksqlengine.execution.readers import SchemaLookup, with_time
from ksqlengine.execution.stages import JOIN_KEY, KEYLESS, SinkSpec
from ksqlengine.formats.factory import serde
from ksqlengine.plan.steps import ROWPARTITION, ROWTIME, WINDOWEND, WINDOWSTART, Window, WindowKind


@dataclass(frozen=True)
class Outgoing:
    """Records to be produced, as columns.

    Attributes:
        keys: keys.
        values: values.
        timestamps: ms since the epoch.
        partitions: None where the producer's partitioner decides by the key.
        headers: headers of the records from which they were made; None where those were not read, or are held in a state.
    """

    keys: list[bytes | None]
    values: list[bytes | None]
    timestamps: list[int]
    partitions: list[int] | None
    headers: list[list[tuple[str, bytes | None]]] | None = None

    def __len__(self) -> int:
        """Return the number of records."""
        return len(self.values)


@dataclass(frozen=True)
class WriteSchemas:
    """Avro schemas (with their ids) that a stage writes its keys and values with, where the format is AVRO."""

    key: tuple[avro_codec.AvroSchema, int] | None = None
    value: tuple[avro_codec.AvroSchema, int] | None = None


class SinkWriter:
    """Turns result rows into records."""

    def __init__(self, spec: SinkSpec, schemas: SchemaLookup, write: WriteSchemas) -> None:
        self.spec = spec
        self._key = serde(spec.key_format, spec.schema.key, schemas, write.key, key=True)
        self._value = serde(spec.value_format, spec.schema.value, schemas, write.value)

    def write(self, frame: pl.DataFrame, partitions: int) -> Outgoing:
        """Return the records of rows.

        Args:
            frame: rows with the sink's columns and the pseudo columns.
            partitions: partitions of the sink's topic.
        """
        if self.spec.timestamp_column is not None:
            frame = self._with_own_time(frame, self.spec.timestamp_column)
        keys = self._keys(frame)
        values = self._value.write(frame)
        for name in (DELETED, VALUELESS):
            if name in frame.columns:
                values = [None if gone else value for value, gone in zip(values, frame[name], strict=True)]
        timestamps = frame[TIME if TIME in frame.columns else ROWTIME].to_list()
        headers = _headers_of(frame)
        if self.spec.sided:
            return self._sided(frame, partitions, Outgoing(keys, values, timestamps, None, headers))
        if self.spec.key_window is None:
            return Outgoing(keys, values, timestamps, None, headers)
        # Windows of a key stay in the key's partition: Kafka Streams partitions by the key without its window.
        base = pa.array(keys, pa.large_binary())
        targets = partitions_of(base, partitions).tolist()
        return Outgoing(_windowed_keys(keys, frame, self.spec.key_window), values, timestamps, targets, headers)

    def _sided(self, frame: pl.DataFrame, partitions: int, records: Outgoing) -> Outgoing:
        """Return a join's records with the side in their keys."""
        keyed, keys = frame[JOIN_KEY].is_not_null(), records.keys
        # Both sides' records of a key go into one partition: that of the key without its side. Rows without a key stay.
        bare = pa.array(keys if keyed.all() else [key or b"" for key in keys], pa.large_binary())
        targets = np.where(
            keyed.to_numpy(), partitions_of(bare, partitions), frame[ROWPARTITION].to_numpy() % partitions
        )
        if self.spec.key_window is not None:
            keys = _windowed_keys(keys, frame, self.spec.key_window)
        ends = (frame[SIDE] + (~keyed).cast(pl.Int32) * KEYLESS).to_list()
        keys = [((key or b"") if end < KEYLESS else b"") + bytes((end,)) for key, end in zip(keys, ends, strict=True)]
        return replace(records, keys=keys, partitions=targets.tolist())

    def _keys(self, frame: pl.DataFrame) -> list[bytes | None]:
        names = [column.name for column in self.spec.schema.key]
        if not names:
            return [None] * len(frame)
        keys = self._key.write(frame)
        if not self.spec.hands_on_keys or not all(frame[name].has_nulls() for name in names):
            return keys
        missing = frame.select(pl.all_horizontal(pl.col(names).is_null())).to_series()
        return [None if gone else key for key, gone in zip(keys, missing, strict=True)]

    def _with_own_time(self, frame: pl.DataFrame, column: str) -> pl.DataFrame:
        """Take the records' timestamps from a column; rows where it gives none are left out, as in ksqlDB."""
        return with_time(frame, column, self.spec.timestamp_format).filter(pl.col(ROWTIME) >= 0)


def _headers_of(frame: pl.DataFrame) -> list[list[tuple[str, bytes | None]]] | None:
    if HEADERS not in frame.columns:
        return None
    return [[(header["KEY"], header["VALUE"]) for header in row or ()] for row in frame[HEADERS].to_list()]


def _windowed_keys(keys: list[bytes | None], frame: pl.DataFrame, window: Window) -> list[bytes | None]:
    # Source: Kafka Streams' SessionKeySchema and WindowKeySchema.
    names = (WINDOWEND, WINDOWSTART) if window.kind is WindowKind.SESSION else (WINDOWSTART,)
    bounds = np.stack([frame[name].to_numpy() for name in names], axis=1).astype(">i8")
    return [(key or b"") + bound.tobytes() for key, bound in zip(keys, bounds, strict=True)]
