"""A query's state as records of its changelog topic, from which a restart restores it.

What an operator remembers for longer than its source topic may keep records (the groups of an aggregate, the rows of a table
that is grouped) goes into a compacted topic of the query's own, in the transaction that commits the offsets: a record per group
that changed, its last state as the value, none once the group is forgotten. The topic's partitions are those of the stage's
source. Source: Kafka Streams' changelog topics (KIP-892's sections on transactional state describe why both go together).

A key is the group's key, followed by the start of its window where there is one (Kafka Streams' ``WindowKeySchema``). A value is
Avro behind the registry's five bytes, whose id is made of the schema itself: states of another engine version are recognized.
"""

from __future__ import annotations

import json
import time
import zlib
from collections.abc import Iterable, Iterator, Mapping, Sequence
from itertools import count
from typing import Any

import numpy as np
import polars as pl
import pyarrow as pa

from kafkakit import avro_codec
from kafkakit.batch_consumer import BEGINNING, BatchConsumer
from ksqlengine.errors import KsqlEngineError
from ksqlengine.execution.operators import DELETED, KEY
from ksqlengine.execution.pipeline import Pipeline
from ksqlengine.execution.writers import Outgoing
from ksqlengine.plan.steps import ROWOFFSET, ROWPARTITION, WINDOWSTART

CHANGELOG_BYTES = 8_388_608
"""Largest state of a group: COLLECT_LIST keeps all values, which may be more than a message has otherwise."""

_WINDOW_BYTES = 8
_FINGERPRINT_BITS = 0x7FFFFF
_BATCH_ROWS = 65_536
_POLL_SECONDS = 0.5


class ChangelogError(KsqlEngineError):
    """The state in a changelog topic can't be restored; the message says why and what to do."""


class StateSerde:
    """States to records' values and back, a column at a time."""

    def __init__(self, columns: Mapping[str, pl.DataType]) -> None:
        """Prepare for columns."""
        self._types = pl.DataFrame(schema=dict(columns)).schema
        self._plain = {name: _plain(type_) for name, type_ in self._types.items()}
        # Fields may have any name in KSQL, but not in Avro: the same columns go under other names.
        self._named = {f"S{place}": _renamed(type_) for place, type_ in enumerate(self._plain.values())}
        names = count()
        fields = [{"name": name, "type": _avro(type_, names)} for name, type_ in self._named.items()]
        self._schema = {"type": "record", "name": "State", "fields": fields}
        text = json.dumps([self._schema, {name: str(type_) for name, type_ in self._types.items()}])
        self._id = zlib.crc32(text.encode()) & _FINGERPRINT_BITS
        self._decoder = avro_codec.Decoder(self._schema, self._writer)

    def write(self, states: pl.DataFrame) -> list[bytes]:
        """Return the values of states, one per row."""
        plain = states.select(pl.col(name).cast(type_) for name, type_ in self._plain.items())
        columns = [_viewed(plain[name], type_) for name, type_ in zip(plain.columns, self._named.values(), strict=True)]
        batch = pa.RecordBatch.from_arrays([column.to_arrow() for column in columns], names=list(self._named))
        return avro_codec.encode(batch, self._schema, self._id)

    def read(self, values: Sequence[bytes]) -> pl.DataFrame:
        """Return the states of values, one per row.

        Raises:
            ChangelogError: a value is none of these states.
        """
        decoded = self._decoder.decode(values)
        if decoded.rejects:
            raise ChangelogError(
                f"a state can't be read: {decoded.rejects[0].reason}; another version of the engine wrote it, or another "
                "program: start that version, or drop the query and create it again"
            )
        named = pl.DataFrame(pl.from_arrow(decoded.batch)).cast(self._named)  # type: ignore[arg-type]
        return pl.DataFrame(
            [
                _viewed(named[field], self._plain[name]).cast(type_).alias(name)
                for field, (name, type_) in zip(self._named, self._types.items(), strict=True)
            ]
        )

    def _writer(self, schema_id: int) -> avro_codec.AvroSchema:
        if schema_id != self._id:
            raise avro_codec.UnknownSchemaError(f"its layout is {schema_id}, this query's is {self._id}")
        return self._schema


def _plain(type_: Any) -> pl.DataType:
    """Return the type in which a column is written: one that casts to and fro exactly and that Avro has."""
    if isinstance(type_, pl.List):
        return pl.List(_plain(type_.inner))
    if isinstance(type_, pl.Struct):
        return pl.Struct({field.name: _plain(field.dtype) for field in type_.fields})
    if isinstance(type_, pl.Decimal):
        return pl.String()
    if isinstance(type_, pl.Datetime | pl.Time):
        return pl.Int64()
    return pl.Int32() if isinstance(type_, pl.Date) else type_


def _renamed(type_: Any) -> Any:
    """Return a type with names of its fields that Avro allows."""
    if isinstance(type_, pl.List):
        return pl.List(_renamed(type_.inner))
    if isinstance(type_, pl.Struct):
        return pl.Struct({f"F{place}": _renamed(field.dtype) for place, field in enumerate(type_.fields)})
    return type_


def _viewed(column: pl.Series, type_: Any) -> pl.Series:
    """Return a column with other names of its fields; nothing else may differ."""
    layout = pl.Series(dtype=type_).to_arrow().type
    return pl.Series(column.name, column.to_arrow().view(layout))


_AVRO: dict[type[pl.DataType], str] = {
    pl.Boolean: "boolean", pl.Int32: "int", pl.Int64: "long", pl.Float64: "double", pl.String: "string", pl.Binary: "bytes",
}  # fmt: skip


def _avro(type_: Any, names: Iterator[int]) -> Any:
    if isinstance(type_, pl.List):
        return ["null", {"type": "array", "items": _avro(type_.inner, names)}]
    if isinstance(type_, pl.Struct):
        name = f"R{next(names)}"
        fields = [{"name": field.name, "type": _avro(field.dtype, names)} for field in type_.fields]
        return ["null", {"type": "record", "name": name, "fields": fields}]
    return ["null", _AVRO[type(type_)]]


class Changelog:
    """A stage's state in its changelog topic: gives the records of what changed, and restores what is there."""

    def __init__(self, topic: str, pipeline: Pipeline) -> None:
        """Prepare; from now on the state's changes are remembered.

        Args:
            topic: the changelog topic.
            pipeline: holds the state.

        Raises:
            TypeError: the pipeline holds none that goes into a changelog.
        """
        operator, keys = pipeline.aggregate, pipeline.keys
        state = operator.changelog_state if operator is not None else None
        if state is None or keys is None:
            raise TypeError(f"a pipeline with {type(operator).__name__} has no state for {topic!r}")
        self.topic = topic
        self._pipeline = pipeline
        self._state = state
        self._keys = keys
        self._serde = StateSerde(state.kept)
        state.keep_changes()

    def changes(self, partitions: Iterable[int]) -> Outgoing:
        """Return the records of what has changed in partitions since the last call."""
        changed = self._state.take_changed(partitions)
        keys = self._keys.bytes_of(changed[KEY].to_numpy())
        if self._state.windowed:
            starts = changed[WINDOWSTART].to_list()
            keys = [key + start.to_bytes(_WINDOW_BYTES, "big") for key, start in zip(keys, starts, strict=True)]
        forgotten = changed[DELETED].to_list()
        states = iter(self._serde.write(changed.filter(~pl.col(DELETED))))
        values = [None if gone else next(states) for gone in forgotten]
        now = round(time.time() * 1000)
        return Outgoing(list(keys), values, [now] * len(keys), changed[ROWPARTITION].to_list())

    def restore(self, consumer: BatchConsumer, ends: Mapping[int, int], patience_seconds: float) -> dict[int, int]:
        """Read partitions to their ends and put their states back.

        Args:
            consumer: reads committed records only, and says where partitions end.
            ends: of the partitions to read, the offset that must be reached.
            patience_seconds: how long a partition may give nothing (a transaction of a process that died may still be open).

        Returns:
            for each partition with states that say so, the offset after the last record that is in them.

        Raises:
            ChangelogError: a partition could not be read to its end, or a state can't be read.
        """
        last: dict[int, dict[bytes, bytes]] = {partition: {} for partition in ends}
        reached = dict.fromkeys(ends, 0)
        consumer.assign([(self.topic, partition, BEGINNING) for partition in ends])
        deadline = time.monotonic() + patience_seconds
        while any(reached[partition] < end for partition, end in ends.items()):
            if time.monotonic() > deadline:
                behind = [partition for partition, end in ends.items() if reached[partition] < end]
                raise ChangelogError(
                    f"partitions {behind!r} of {self.topic!r} gave nothing for {patience_seconds:g} s before their ends; "
                    "is the broker up?"
                )
            batch = consumer.poll(_POLL_SECONDS, _BATCH_ROWS)
            if len(batch):
                deadline = time.monotonic() + patience_seconds
            for partition, offset, key, value in zip(
                batch.partition.tolist(),
                batch.offset.tolist(),
                batch.key.to_pylist(),
                batch.value.to_pylist(),
                strict=True,
            ):
                reached[partition] = offset + 1
                if value is None:
                    last[partition].pop(key, None)
                else:
                    last[partition][key] = value
            for _, partition, offset in batch.ends:
                reached[partition] = max(reached[partition], offset)
        return {
            partition: found
            for partition, states in last.items()
            if states and (found := self.put_back(partition, states)) is not None
        }

    def put_back(self, partition: int, states: Mapping[bytes, bytes]) -> int | None:
        """Put back a partition's states, given as values by key.

        Returns:
            the offset after the last record that is in them, None where they don't say.

        Raises:
            ChangelogError: a state can't be read.
        """
        frame = self._serde.read(list(states.values()))
        keys = list(states)
        if self._state.windowed:
            starts = [int.from_bytes(key[-_WINDOW_BYTES:], "big") for key in keys]
            frame = frame.with_columns(pl.Series(WINDOWSTART, starts, pl.Int64))
            keys = [key[:-_WINDOW_BYTES] for key in keys]
        partitions = np.full(len(keys), partition, dtype=np.int32)
        codes = self._keys.codes(keys, partitions, add=True)
        self._pipeline.put_back(frame.with_columns(pl.Series(ROWPARTITION, partitions), pl.Series(KEY, codes)))
        return int(frame[ROWOFFSET].max()) + 1 if ROWOFFSET in frame.columns else None  # type: ignore[arg-type]
