"""The serde of a format by its name: KAFKA, AVRO, JSON, DELIMITED and NONE."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from kafkakit import avro_codec
from ksqlengine.formats.avro_serde import AvroSerde
from ksqlengine.formats.base import FormatError, Serde
from ksqlengine.formats.delimited import DelimitedSerde
from ksqlengine.formats.json import JsonSerde
from ksqlengine.formats.kafka import KafkaSerde, NoneSerde
from ksqlengine.plan.steps import Column, Format


def serde(
    format_: Format,
    columns: Sequence[Column],
    writer_schemas: Callable[[int], avro_codec.AvroSchema],
    write_schema: tuple[avro_codec.AvroSchema, int] | None = None,
    key: bool = False,
) -> Serde:
    """Return the serde of a format.

    Args:
        format_: the format and its properties.
        columns: key or value columns.
        writer_schemas: AVRO: gives the schema of an id.
        write_schema: AVRO: what is written.
        key: for record keys: a single column is not wrapped unless the format says so.

    Raises:
        FormatError: the format can't hold these columns, or there is no such format here.
    """
    wrapped = format_.wrap_single if format_.wrap_single is not None else not key
    match format_.name:
        case "KAFKA":
            return KafkaSerde(columns)
        case "NONE":
            return NoneSerde(())
        case "DELIMITED":
            return DelimitedSerde(columns, format_.delimiter)
        case "JSON":
            return JsonSerde(columns, wrapped or len(columns) != 1)
        case "AVRO":
            return AvroSerde(columns, writer_schemas, write_schema, wrapped or len(columns) != 1)
    raise FormatError(f"there is no serde for the format {format_.name!r}; use KAFKA, AVRO, JSON, DELIMITED or NONE")
