"""Avro schemas to columns and back, in ksqlDB's shapes."""

from __future__ import annotations

import json
from typing import Any

import fastavro
import pytest

from ksqlengine.formats.avro import avro_of_schema, columns_of_avro
from ksqlengine.language.parser import parse_type
from ksqlengine.plan.steps import Column
from ksqlengine.types.errors import StatementError


def columns(**types: str) -> list[Column]:
    return [Column(name, parse_type(text)) for name, text in types.items()]


def record(*fields: Any) -> str:
    return json.dumps(
        {"type": "record", "name": "r", "fields": [{"name": name, "type": type_} for name, type_ in fields]}
    )


@pytest.mark.parametrize(
    ("avro", "sql"),
    [
        ("boolean", "BOOLEAN"),
        ("int", "INTEGER"),
        ("long", "BIGINT"),
        ("float", "DOUBLE"),
        ("double", "DOUBLE"),
        ("string", "STRING"),
        ("bytes", "BYTES"),
        ({"type": "fixed", "name": "f", "size": 2}, "BYTES"),
        ({"type": "enum", "name": "e", "symbols": ["A"]}, "STRING"),
        (["null", "int"], "INTEGER"),
        ({"type": "long", "logicalType": "timestamp-millis"}, "TIMESTAMP"),
        ({"type": "int", "logicalType": "date"}, "DATE"),
        ({"type": "int", "logicalType": "time-millis"}, "TIME"),
        ({"type": "bytes", "logicalType": "decimal", "precision": 4, "scale": 2}, "DECIMAL(4, 2)"),
        ({"type": "array", "items": ["null", "long"]}, "ARRAY<BIGINT>"),
        ({"type": "map", "values": "double"}, "MAP<STRING, DOUBLE>"),
        ({"type": "record", "name": "s", "fields": [{"name": "x", "type": "int"}]}, "STRUCT<`X` INTEGER>"),
    ],
)
def test_types(avro: Any, sql: str) -> None:
    (column,) = columns_of_avro(record(("a", avro)))
    assert (column.name, str(column.type)) == ("A", sql)


def test_names_may_keep_their_case() -> None:
    (column,) = columns_of_avro(
        record(("aB", {"type": "record", "name": "s", "fields": [{"name": "xY", "type": "int"}]})), uppercase=False
    )
    assert (column.name, str(column.type)) == ("aB", "STRUCT<`xY` INTEGER>")


def test_types_without_a_counterpart_are_left_out() -> None:
    found = columns_of_avro(record(("a", "null"), ("b", "int")))
    assert [column.name for column in found] == ["B"]


def test_a_named_type_may_be_used_again() -> None:
    inner = {"type": "record", "name": "s", "fields": [{"name": "x", "type": "int"}]}
    first, second = columns_of_avro(record(("a", inner), ("b", ["null", "s"])))
    assert first.type == second.type


def test_keys_are_one_column() -> None:
    (column,) = columns_of_avro('"int"', single="ROWKEY")
    assert (column.name, str(column.type)) == ("ROWKEY", "INTEGER")
    (column,) = columns_of_avro(record(("a", "int")), single="ROWKEY")
    assert str(column.type) == "STRUCT<`A` INTEGER>"
    with pytest.raises(StatementError, match="anonymous type"):
        columns_of_avro('"int"')


def test_what_ksqldb_writes() -> None:
    assert avro_of_schema(columns(A="INT", T="TIMESTAMP")) == {
        "type": "record",
        "name": "KsqlDataSourceSchema",
        "namespace": "io.confluent.ksql.avro_schemas",
        "fields": [
            {"name": "A", "type": ["null", "int"], "default": None},
            {
                "name": "T",
                "type": [
                    "null",
                    {
                        "type": "long",
                        "connect.version": 1,
                        "connect.name": "org.apache.kafka.connect.data.Timestamp",
                        "logicalType": "timestamp-millis",
                    },
                ],
                "default": None,
            },
        ],
    }


def test_a_full_name_is_the_records() -> None:
    schema = avro_of_schema(columns(A="INT"), "heartwatch.heart_rate.Alert")
    assert (schema["namespace"], schema["name"]) == ("heartwatch.heart_rate", "Alert")


def test_one_column_unwrapped() -> None:
    assert avro_of_schema(columns(A="STRING"), wrap=False) == {"type": "string"}


EVERYTHING = columns(
    A="BOOLEAN", B="INT", C="BIGINT", D="DOUBLE", E="STRING", F="BYTES", G="DECIMAL(4, 2)", H="DATE", I="TIME", J="TIMESTAMP",
    K="ARRAY<STRUCT<X INT, Y ARRAY<STRING>>>", L="MAP<STRING, STRUCT<Z INT>>", M="STRUCT<X STRUCT<Y INT>>",
    N="MAP<STRING, MAP<STRING, INT>>",
)  # fmt: skip


def test_there_and_back() -> None:
    schema = avro_of_schema(EVERYTHING)
    fastavro.parse_schema(schema)  # names don't clash
    assert columns_of_avro(json.dumps(schema)) == EVERYTHING
