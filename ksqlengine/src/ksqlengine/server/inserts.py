"""INSERT VALUES: single rows written into a stream's or table's topic."""

from __future__ import annotations

import threading
import time
from collections.abc import Mapping
from dataclasses import dataclass
from decimal import Decimal
from typing import Any

import polars as pl
from confluent_kafka import KafkaError, KafkaException, Message, Producer

from kafkakit.admin import producer_config
from kafkakit.record_times import written_ms
from kafkakit.settings import KafkaSettings
from ksqlengine.execution.writers import SinkWriter
from ksqlengine.expressions.base import TypedExpression
from ksqlengine.formats.values import from_json
from ksqlengine.plan.catalog import Source
from ksqlengine.plan.steps import ROWTIME
from ksqlengine.server.topics_and_schemas import Resources, sink_of
from ksqlengine.types.errors import BAD_REQUEST, SERVER_ERROR, KsqlError, StatementError
from ksqlengine.types.sqltypes import SqlType

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
        least = min(outgoing.timestamps, default=0)
        if least < 0:
            raise StatementError(
                f"Failed to insert values into '{source.name}'. Invalid timestamp: {least}. Timestamp should always be "
                "non-negative or null."
            )
        failed: list[KafkaError] = []

        def delivered(error: KafkaError | None, message: Message) -> None:
            if error is not None:
                failed.append(error)

        with self._lock:
            try:
                for key, value, timestamp in zip(outgoing.keys, outgoing.values, outgoing.timestamps, strict=True):
                    at = written_ms(timestamp)
                    self._producer.produce(source.topic, value, key, timestamp=at, on_delivery=delivered)
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


@dataclass(frozen=True)
class Written:
    """What became of rows: how many were written, and why the one after them wasn't."""

    count: int
    error: KsqlError | None = None


def row_of(source: Source, values: Mapping[str, Any]) -> pl.DataFrame:
    """Return a row given as a JSON object as a frame with all columns.

    Names are upper case unless they stand in quotes. As in ksqlDB, names without a column are ignored.

    Raises:
        KsqlError: a key column is missing, or a value has the wrong type.
    """
    given: dict[str, Any] = {}
    for name, value in values.items():
        exact = name[1:-1] if len(name) > 2 and name[0] == name[-1] and name[0] in '`"' else name.upper()
        if exact in given:
            raise KsqlError(f"Found duplicate column / struct field name: {exact}", BAD_REQUEST)
        given[exact] = value
    keys = {column.name for column in source.schema.key}
    row: dict[str, pl.Series] = {}
    for column in source.schema.columns:
        value = given.get(column.name)
        if value is None and column.name in keys:
            raise KsqlError(f"Key field must be specified: {column.name}", BAD_REQUEST)
        row[column.name] = pl.Series(column.name, [_coerced(value, column.type)], dtype=column.type.polars)
    return pl.DataFrame(row)


def _coerced(value: Any, type_: SqlType) -> Any:
    """Return a column's value of a JSON value; unlike JSON in a topic, numbers and texts don't stand for each other."""
    if value is None:
        return None
    try:
        if not isinstance(value, _TAKEN.get(type_.name, object)) or (
            isinstance(value, bool) and type_.name != "BOOLEAN"
        ):
            raise ValueError(type_)
        if isinstance(value, int) and type_.name == "INTEGER" and not -(2**31) <= value < 2**31:
            raise ValueError(type_)
        return from_json(value, type_)
    except (ValueError, TypeError, ArithmeticError) as error:
        kind = _java_class(value)
        raise KsqlError(f"Can't coerce a field of type class {kind} into type {type_}", BAD_REQUEST) from error


_TAKEN: Mapping[str, type | tuple[type, ...]] = {
    "BOOLEAN": bool,
    "INTEGER": int,
    "BIGINT": int,
    "DOUBLE": (int, float, Decimal),
    "DECIMAL": (int, float, Decimal, str),
    "STRING": str,
    "BYTES": str,
    "TIMESTAMP": str,
    "DATE": str,
    "TIME": str,
}
"""Of JSON's values those that a column of a type takes."""


def _java_class(value: Any) -> str:
    """Return what ksqlDB calls a JSON value."""
    if isinstance(value, int) and not isinstance(value, bool):
        return "java.lang.Integer" if -(2**31) <= value < 2**31 else "java.lang.Long"
    for kind, name in ((bool, "lang.Boolean"), (str, "lang.String"), (Decimal, "lang.Double"), (list, "")):
        if isinstance(value, kind):
            return f"java.{name}" if name else "io.vertx.core.json.JsonArray"
    return "io.vertx.core.json.JsonObject"


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
