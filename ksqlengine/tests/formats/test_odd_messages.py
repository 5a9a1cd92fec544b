"""Any bytes are a row, a null or a reject with its reason in each format; none of them ends a batch."""

from __future__ import annotations

import io
import json
from typing import Any

import fastavro
import pyarrow as pa
import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from kafkakit import avro_codec
from ksqlengine.formats.avro import avro_of_schema
from ksqlengine.formats.base import Serde
from ksqlengine.formats.factory import serde
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

ODD = settings(max_examples=150, derandomize=True, deadline=None, suppress_health_check=list(HealthCheck))
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
ALL = [*PLAIN, *NESTED]


def no_schema(schema_id: int) -> avro_codec.AvroSchema:
    raise avro_codec.SchemaError(f"there is no schema {schema_id}")


def checked(reader: Serde, messages: list[bytes | None]) -> None:
    """Read messages at once and one by one: each is accounted for, alike in both."""
    read = reader.read(pa.array(messages, pa.large_binary()))
    places = [*read.rows.tolist(), *read.nulls.tolist(), *(place for place, _ in read.rejects)]
    assert sorted(places) == list(range(len(messages)))
    assert all(reason.strip() for _, reason in read.rejects)
    assert read.frame.height == len(read.rows)
    for place, message in enumerate(messages):
        alone = reader.read(pa.array([message], pa.large_binary()))
        assert bool(alone.rejects) == (place in dict(read.rejects))


NUMBERS = st.one_of(st.integers(-(2**70), 2**70), st.floats())
VALUES: st.SearchStrategy[Any] = st.recursive(
    st.one_of(st.none(), st.booleans(), NUMBERS, st.text(max_size=6)),
    lambda inner: st.one_of(st.lists(inner, max_size=2), st.dictionaries(st.text(max_size=3), inner, max_size=2)),
    max_leaves=5,
)
JSON_ROWS = st.dictionaries(st.sampled_from([column.name for column in ALL] + ["i", "other"]), VALUES, max_size=4)
JSON_MESSAGES = st.one_of(
    st.none(), st.binary(max_size=12), VALUES.map(json.dumps).map(str.encode), JSON_ROWS.map(json.dumps).map(str.encode)
)


@ODD
@given(st.lists(JSON_MESSAGES, min_size=1, max_size=4))
@example([b"\xef\xbb\xbf{}"])
@example([b'{"I": 1e999}', b'{"DEC": 1e999999999}', b'{"T": 99999999999999999999}', b'{"DT": -99999999}'])
@example([b'{"S": "\\ud800"}', b'{"X": "="}', b'{"TM": 86400000}'])
def test_json(messages: list[bytes | None]) -> None:
    checked(serde(Format("JSON"), ALL, no_schema), messages)
    checked(serde(Format("JSON"), [Column("V", DecimalType(precision=4, scale=1))], no_schema, key=True), messages)


CELLS = st.one_of(
    st.text(max_size=6), NUMBERS.map(str), st.sampled_from(["", '"', '""', "1e999999999", "NaN", "\0", "true"])
)
LINES = st.one_of(
    st.none(),
    st.binary(max_size=12),
    st.lists(CELLS, min_size=8, max_size=11).map(lambda cells: ",".join(cells).encode("utf-8", "surrogatepass")),
)


@ODD
@given(st.lists(LINES, min_size=1, max_size=4))
@example([b"1,1,1.0,a,true,=,99999999999999999999,99999999,86400000,1e999999999"])
def test_delimited(messages: list[bytes | None]) -> None:
    checked(serde(Format("DELIMITED"), PLAIN, no_schema), messages)


@pytest.mark.parametrize("type_", [INTEGER, BIGINT, DOUBLE, STRING, BYTES])
@settings(ODD, max_examples=50)
@given(st.lists(st.one_of(st.none(), st.binary(max_size=9)), min_size=1, max_size=4))
def test_kafka(type_: Any, messages: list[bytes | None]) -> None:
    checked(serde(Format("KAFKA"), [Column("V", type_)], no_schema), messages)


AVRO_TYPES: st.SearchStrategy[Any] = st.recursive(
    st.sampled_from(
        ["null", "boolean", "int", "long", "float", "double", "bytes", "string",
         {"type": "long", "logicalType": "timestamp-millis"}, {"type": "int", "logicalType": "date"},
         {"type": "bytes", "logicalType": "decimal", "precision": 6, "scale": 2}]
    ),
    lambda inner: st.one_of(
        inner.map(lambda item: {"type": "array", "items": item}), inner.map(lambda item: {"type": "map", "values": item})
    ),
    max_leaves=3,
)  # fmt: skip


AVRO_MESSAGES = st.one_of(
    st.none(), st.binary(max_size=12), st.binary(max_size=20).map(lambda body: b"\0\0\0\0\x07" + body)
)


@st.composite
def foreign_schemas(draw: st.DrawFn) -> Any:
    """Return a schema of somebody else, with some of our columns' names."""
    names = draw(st.lists(st.sampled_from([column.name for column in ALL]), unique=True, max_size=4))
    record = {"type": "record", "name": "R", "fields": [{"name": name, "type": draw(AVRO_TYPES)} for name in names]}
    return draw(st.sampled_from([record, ["null", record], {"type": "array", "items": "int"}, "string"]))


@ODD
@given(foreign_schemas(), st.lists(AVRO_MESSAGES, min_size=1, max_size=4))
def test_avro_of_any_writer_and_any_bytes(schema: Any, messages: list[bytes | None]) -> None:
    parsed = fastavro.parse_schema(schema)

    def schemas(schema_id: int) -> avro_codec.AvroSchema:
        return parsed if schema_id == 7 else no_schema(schema_id)

    checked(serde(Format("AVRO"), ALL, schemas), messages)


@ODD
@given(st.binary(max_size=60))
def test_avro_with_our_own_schema_and_any_body(body: bytes) -> None:
    schema = avro_of_schema(ALL)
    good = io.BytesIO(b"\0\0\0\0\x07")
    good.seek(5)
    fastavro.schemaless_writer(good, fastavro.parse_schema(schema), {field["name"]: None for field in schema["fields"]})
    reader = serde(Format("AVRO"), ALL, lambda _: schema)
    checked(reader, [good.getvalue(), b"\0\0\0\0\x07" + body, good.getvalue()[:-1]])
