"""INSERT VALUES: single rows written into a stream's or table's topic."""

from __future__ import annotations

import threading
import time
from collections.abc import Mapping
from typing import Any

import polars as pl
from confluent_kafka import KafkaError, KafkaException, Message, Producer

from kafkakit.admin import producer_config
from kafkakit.settings import KafkaSettings
from ksqlengine.execution.writers import SinkWriter
from ksqlengine.expressions.base import TypedExpression
from ksqlengine.formats.values import from_json
from ksqlengine.plan.catalog import Source
from ksqlengine.plan.steps import ROWTIME
from ksqlengine.server.topics_and_schemas import Resources, sink_of
from ksqlengine.types.errors import SERVER_ERROR, StatementError

_SEND_SECONDS = 30.0


class Inserter:
    """Writes rows; a row is in its topic when `insert` returns."""

    def __init__(self, kafka: KafkaSettings, resources: Resources) -> None:
        """Open the producer."""
        self._resources = resources
        self._producer = Producer(producer_config(kafka, linger_ms=0))
        self._lock = threading.Lock()

    def insert(self, source: Source, values: Mapping[str, TypedExpression]) -> None:
        """Write one row.

        Args:
            source: the stream or table.
            values: an expression without columns for each column that is given, and for ROWTIME.

        Raises:
            StatementError: the row can't be written.
        """
        row = pl.select([value.to_polars().alias(name) for name, value in values.items()])
        self.insert_rows(source, row)

    def insert_rows(self, source: Source, rows: pl.DataFrame) -> None:
        """Write rows whose columns are some of the source's, and ROWTIME.

        Raises:
            StatementError: they can't be written.
        """
        if not self._resources.kafka.describe([source.topic]):
            raise StatementError(f"Kafka topic does not exist: {source.topic}")
        writer = SinkWriter(sink_of(source), self._resources.schema, self._resources.write_schemas(sink_of(source)))
        frame = _completed(source, rows)
        outgoing = writer.write(frame, 1)
        failed: list[KafkaError] = []

        def delivered(error: KafkaError | None, message: Message) -> None:
            if error is not None:
                failed.append(error)

        with self._lock:
            try:
                for key, value, timestamp in zip(outgoing.keys, outgoing.values, outgoing.timestamps, strict=True):
                    self._producer.produce(source.topic, value, key, timestamp=timestamp, on_delivery=delivered)
                left = self._producer.flush(_SEND_SECONDS)
            except (BufferError, KafkaException) as error:
                raise StatementError(
                    f"Failed to insert values into '{source.name}'. {error}", error_code=SERVER_ERROR
                ) from None
        if failed or left:
            reason = failed[0].str() if failed else f"no answer from Kafka in {_SEND_SECONDS:g} s"
            raise StatementError(f"Failed to insert values into '{source.name}'. {reason}", error_code=SERVER_ERROR)

    def close(self) -> None:
        """Send what is left."""
        self._producer.flush(_SEND_SECONDS)


def row_of(source: Source, values: Mapping[str, Any]) -> pl.DataFrame:
    """Return a row given as a JSON object as a frame; names are taken without regard to case where they don't fit as they are.

    Raises:
        StatementError: a column is unknown, or a value has the wrong type.
    """
    types = {column.name: column.type for column in source.schema.columns}
    row: dict[str, pl.Series] = {}
    for name, value in values.items():
        found = name if name in types else name.upper()
        if found not in types:
            raise StatementError(f"Column name {name} does not exist.")
        try:
            row[found] = pl.Series(found, [from_json(value, types[found])], dtype=types[found].polars)
        except (ValueError, TypeError, ArithmeticError) as error:
            raise StatementError(f"Can't coerce a field of column {found} to {types[found]}: {error}") from error
    return pl.DataFrame(row) if row else pl.DataFrame([{}])


def _completed(source: Source, rows: pl.DataFrame) -> pl.DataFrame:
    """Return rows with all columns, nulls where none were given; none is a tombstone, as in ksqlDB."""
    now = pl.lit(round(time.time() * 1000), pl.Int64).alias(ROWTIME)
    time_column = rows[ROWTIME] if ROWTIME in rows.columns else now
    columns: list[Any] = [
        pl.col(column.name).cast(column.type.polars)
        if column.name in rows.columns
        else pl.lit(None, column.type.polars).alias(column.name)
        for column in source.schema.columns
    ]
    return rows.select(*columns, time_column)
