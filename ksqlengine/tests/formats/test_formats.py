"""Formats: what is written is read again, and bad messages are told apart from good ones."""

from __future__ import annotations

import io
import math
import sys
from datetime import date, datetime, time
from decimal import Decimal
from typing import Any, cast

import fastavro
import polars as pl
import pyarrow as pa
import pytest

from kafkakit import avro_codec
from ksqlengine.formats.avro import avro_of_schema
from ksqlengine.formats.base import FormatError, Serde
from ksqlengine.formats.factory import serde
from ksqlengine.formats.json import JsonSerde
from ksqlengine.plan.steps import Column, Format
from ksqlengine.types.sqltypes import (
    BIGINT,
    BOOLEAN,
    BYTES,
    DATE,
    DOUBLE,
    INTEGER,
    STRING,
    TIME,
    TIMESTAMP,
    ArrayType,
    DecimalType,
    MapType,
    StructType,
)

PLAIN = [
    Column("I", INTEGER), Column("L", BIGINT), Column("D", DOUBLE), Column("S", STRING), Column("B", BOOLEAN),
    Column("X", BYTES), Column("T", TIMESTAMP), Column("DT", DATE), Column("TM", TIME),
    Column("DEC", DecimalType(precision=6, scale=2)),
]  # fmt: skip
NESTED = [
    Column("A", ArrayType(element=BIGINT)),
    Column("M", MapType(key=STRING, value=INTEGER)),
    Column("ST", StructType(fields=(("P", STRING), ("Q", DOUBLE)))),
]
PLAIN_ROW = (
    -7, 2**40, 1.5, "a,\"b\"\u00e9", True, b"\0\xff", datetime(2024, 2, 29, 12, 30, 1, 5_000), date(1969, 12, 31),
    time(23, 59, 58), Decimal("-12.50"),
)  # fmt: skip
NESTED_ROW = ([1, None, 3], [{"key": "k", "value": 5}], {"P": "x", "Q": None})


def frame(columns: list[Column], *rows: tuple[object, ...]) -> pl.DataFrame:
    return pl.DataFrame(list(rows), schema={column.name: column.type.polars for column in columns}, orient="row")


def avro(columns: list[Column]) -> Serde:
    schema = avro_of_schema(columns)
    return serde(Format("AVRO"), columns, lambda schema_id: schema, (schema, 7))


def no_schemas(schema_id: int) -> avro_codec.AvroSchema:
    raise AssertionError(schema_id)


def array(*messages: bytes | None) -> pa.LargeBinaryArray:
    return pa.array(messages, pa.large_binary())


@pytest.mark.parametrize("name", ["JSON", "AVRO"])
def test_every_type_comes_back(name: str) -> None:
    columns = PLAIN + NESTED
    rows = frame(columns, PLAIN_ROW + NESTED_ROW, (None,) * len(columns))
    it = avro(columns) if name == "AVRO" else serde(Format(name), columns, no_schemas)
    read = it.read(array(*it.write(rows)))
    assert read.rejects == []
    assert read.frame.equals(rows)


def test_delimited_holds_plain_types() -> None:
    it = serde(Format("DELIMITED"), PLAIN, no_schemas)
    rows = frame(PLAIN, PLAIN_ROW, (None,) * len(PLAIN))
    read = it.read(array(*it.write(rows)))
    assert read.rejects == []
    assert read.frame.equals(rows)
    with pytest.raises(FormatError, match="ARRAY"):
        serde(Format("DELIMITED"), NESTED, no_schemas)


@pytest.mark.parametrize(
    ("type_", "value", "message"),
    [
        (INTEGER, -2, b"\xff\xff\xff\xfe"),
        (BIGINT, 258, b"\0\0\0\0\0\0\1\2"),
        (DOUBLE, 1.0, b"\x3f\xf0\0\0\0\0\0\0"),
        (STRING, "\u00e9", b"\xc3\xa9"),
    ],
)
def test_kafka_is_the_java_clients_plain_format(type_: object, value: object, message: bytes) -> None:
    columns = [Column("K", type_)]  # type: ignore[arg-type]
    it = serde(Format("KAFKA"), columns, no_schemas, key=True)
    assert it.write(frame(columns, (value,))) == [message]
    assert it.read(array(message, message)).frame["K"].to_list() == [value, value]
    assert it.is_valid(message)


def test_kafka_tells_bad_bytes_apart() -> None:
    number = serde(Format("KAFKA"), [Column("K", INTEGER)], no_schemas, key=True)
    read = number.read(array(b"\0\0\0\1", b"\0", None, b"\0\0\0\2"))
    assert read.frame["K"].to_list() == [1, 2]
    assert read.rows.tolist() == [0, 3]
    assert read.nulls.tolist() == [2]
    assert [position for position, _ in read.rejects] == [1]
    assert not serde(Format("KAFKA"), [Column("K", STRING)], no_schemas, key=True).is_valid(b"\xff")


def test_bad_json_is_rejected_with_its_reason_and_hurts_no_neighbour() -> None:
    it = serde(Format("JSON"), [Column("I", INTEGER), Column("S", STRING)], no_schemas)
    read = it.read(array(b'{"i":1,"S":"a"}', b"{", b"[]", b'{"I":3000000000}', b'{"I":true}', b'{"S":{"x":1}}', None))
    assert read.frame.rows() == [(1, "a"), (3_000_000_000 - 2**32, None), (None, '{"x":1}')]  # Jackson narrows
    assert read.rows.tolist() == [0, 3, 5]
    assert [position for position, _ in read.rejects] == [1, 2, 4]
    assert all(reason for _, reason in read.rejects)


def test_json_too_deep_to_be_read_is_rejected() -> None:
    it = serde(Format("JSON"), [Column("S", STRING)], no_schemas)
    deep = b'{"S":1.5,"x":' + 1000 * b"[" + 1000 * b"]" + b"}"
    limit = sys.getrecursionlimit()
    sys.setrecursionlimit(900)
    try:
        read = it.read(array(deep, b'{"S":"a"}'))
    finally:
        sys.setrecursionlimit(limit)
    assert read.frame.rows() == [("a",)]
    assert [position for position, _ in read.rejects] == [0]


def test_a_single_key_column_is_not_wrapped_in_json() -> None:
    it = serde(Format("JSON"), [Column("K", BIGINT)], no_schemas, key=True)
    assert it.write(frame([Column("K", BIGINT)], (5,))) == [b"5"]
    assert it.read(array(b"5")).frame["K"].to_list() == [5]


def test_avro_fields_are_found_without_regard_to_case_and_missing_ones_are_null() -> None:
    written = {
        "type": "record",
        "name": "R",
        "fields": [{"name": "user_id", "type": "string"}, {"name": "n", "type": "int"}],
    }
    values = avro_codec.encode(
        pa.RecordBatch.from_pydict({"user_id": ["u"], "n": pa.array([3], pa.int32())}), written, 1
    )
    columns = [Column("N", INTEGER), Column("USER_ID", STRING), Column("OTHER", DOUBLE)]
    read = serde(Format("AVRO"), columns, lambda schema_id: written).read(array(*values))
    assert read.rejects == []
    assert read.frame.rows() == [(3, "u", None)]


def written_avro(value: object, schema: object) -> bytes:
    stream = io.BytesIO()
    parsed = cast(Any, fastavro.parse_schema(cast(Any, schema)))
    fastavro.schemaless_writer(stream, parsed, cast(Any, value))
    return b"\0\0\0\0\x01" + stream.getvalue()


def other_avro(**fields: object) -> dict[str, object]:
    return {
        "type": "record",
        "name": "Other",
        "fields": [{"name": name, "type": kind} for name, kind in fields.items()],
    }


def test_avro_of_other_shapes_is_read_as_ksqldb_does() -> None:
    inner = {"type": "record", "name": "Inner", "fields": [{"name": "low", "type": "int"}]}
    written = other_avro(
        a={"type": "array", "items": "int"},
        m={"type": "map", "values": "float"},
        kind={"type": "enum", "name": "Kind", "symbols": ["X", "Y"]},
        s=inner,
        again=["null", "Inner"],
        n="long",
        yes="boolean",
    )
    columns = [
        Column("A", ArrayType(element=STRING)),
        Column("M", MapType(key=STRING, value=DOUBLE)),
        Column("KIND", STRING),
        Column("S", StructType(fields=(("HIGH", STRING), ("LOW", BIGINT)))),
        Column("AGAIN", StructType(fields=(("LOW", INTEGER),))),
        Column("N", STRING),
        Column("YES", STRING),
    ]
    row = {"a": [1], "m": {"k": 0.5}, "kind": "Y", "s": {"low": 3}, "again": {"low": 4}, "n": 7, "yes": True}
    good = written_avro(row, written)
    read = serde(Format("AVRO"), columns, lambda schema_id: written).read(array(good, None, good + b"x"))
    expected = (["1"], [{"key": "k", "value": 0.5}], "Y", {"HIGH": None, "LOW": 3}, {"LOW": 4}, "7", "true")
    assert read.frame.rows() == [expected]
    assert (read.rows.tolist(), read.nulls.tolist(), [row for row, _ in read.rejects]) == ([0], [1], [2])


def test_avro_times_and_decimals_of_others_are_read() -> None:
    written = other_avro(
        d={"type": "bytes", "logicalType": "decimal", "precision": 4, "scale": 2},
        t={"type": "int", "logicalType": "time-millis"},
        b="bytes",
    )
    columns = [Column("D", DecimalType(precision=4, scale=2)), Column("T", TIME), Column("B", BYTES)]
    message = written_avro({"d": Decimal("1.50"), "t": time(1), "b": b"x"}, written)
    read = serde(Format("AVRO"), columns, lambda schema_id: written).read(array(message))
    assert read.frame.rows() == [(Decimal("1.50"), time(1), b"x")]


def test_avro_of_the_wrong_type_is_refused() -> None:
    written = other_avro(a={"type": "array", "items": "int"}, n="long")
    message = written_avro({"a": [1], "n": 5}, written)
    for column in (Column("A", STRING), Column("N", INTEGER), Column("N", BOOLEAN)):
        read = serde(Format("AVRO"), [column], lambda schema_id: written).read(array(message))
        assert f"Cannot deserialize type {'array' if column.name == 'A' else 'long'}" in read.rejects[0][1]


def test_avro_key_that_is_a_record_is_one_column() -> None:
    columns = [Column("K", StructType(fields=(("A", INTEGER),)))]
    schema = avro_of_schema(columns, wrap=False)
    it = serde(Format("AVRO"), columns, lambda schema_id: schema, (schema, 9), key=True)
    messages = it.write(frame(columns, ({"A": 4},)))
    assert it.read(array(*messages)).frame["K"].to_list() == [{"A": 4}]


def test_avro_key_of_a_plain_type_stands_by_itself() -> None:
    columns = [Column("K", STRING)]
    schema = avro_of_schema(columns, wrap=False)
    it = serde(Format("AVRO"), columns, lambda schema_id: schema, (schema, 9), key=True)
    (message,) = it.write(frame(columns, ("ab",)))
    assert message == b"\0\0\0\0\x09\x04ab"
    assert it.read(array(message)).frame["K"].to_list() == ["ab"]


def test_an_unknown_format_is_refused_by_name() -> None:
    with pytest.raises(FormatError, match="PROTOBUF"):
        serde(Format("PROTOBUF"), PLAIN, no_schemas)


def test_a_field_that_nobody_reads_must_be_right_too() -> None:
    writer = {"type": "record", "name": "r", "fields": [{"name": "T", "type": "string"}, {"name": "N", "type": "int"}]}
    it = serde(Format("AVRO"), [Column("N", INTEGER)], lambda _: writer)
    read = it.read(array(b"\0\0\0\0\1\4ok\6", b"\0\0\0\0\1\4\xff\xfe\6"))
    assert (read.frame.rows(), [index for index, _ in read.rejects]) == ([(3,)], [1])


@pytest.mark.parametrize("copies", [1, 100])
def test_json_is_read_as_far_as_its_first_value_and_a_null_is_bad(copies: int) -> None:
    columns = [Column("I", INTEGER), Column("D", DOUBLE)]
    texts = [b'{"i": 1} trailing', b"null", b'{"d": 1e400}', b'{"d": NaN}', b'{"I": 2}', b' {"i": 3}', b""]
    read = JsonSerde(columns, wrapped=True).read(pa.array(texts * copies, pa.large_binary()))
    assert read.frame.rows() == [(1, None), (None, math.inf), (2, None), (3, None)] * copies
    assert not len(read.nulls)
    assert sorted({position % len(texts) for position, _ in read.rejects}) == [1, 3, 6]
