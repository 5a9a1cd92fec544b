"""AVRO messages whose schemas others wrote: unions, references, and schemas of other kinds."""

from __future__ import annotations

import io
import json
import struct
from typing import Any

import fastavro
import pyarrow as pa
import pytest

from kafkakit import avro_codec
from kafkakit.registry import RegistryError
from ksqlengine.formats.avro import columns_of_avro
from ksqlengine.formats.avro_serde import AvroSerde
from ksqlengine.language.parser import parse_type
from ksqlengine.plan.steps import Column
from ksqlengine.types.sqltypes import INTEGER, STRING

RECORD = {"type": "record", "name": "T", "fields": [{"name": "A", "type": "int"}, {"name": "B", "type": "string"}]}
LOWER = {"type": "record", "name": "T", "fields": [{"name": "a", "type": "int"}, {"name": "b", "type": "string"}]}
COLUMNS = (Column("A", INTEGER), Column("B", STRING))


def message(schema: Any, record: Any, schema_id: int = 1) -> bytes:
    body = io.BytesIO()
    fastavro.schemaless_writer(body, fastavro.parse_schema(schema), record)
    return b"\0" + struct.pack(">I", schema_id) + body.getvalue()


def array(*values: bytes | None) -> pa.LargeBinaryArray:
    return pa.array(values, pa.large_binary())


@pytest.mark.parametrize(
    "union", [["null", RECORD], [RECORD, "null"], ["null", LOWER], ["null", {**RECORD, "fields": RECORD["fields"][:1]}]]
)
def test_a_record_in_a_union_with_null_is_read_as_the_record(union: Any) -> None:
    record = next(branch for branch in union if branch != "null")
    row = dict(zip((field["name"] for field in record["fields"]), (5, "hi"), strict=False))
    values = array(message(union, row), message(union, None), message(RECORD, {"A": 6, "B": "x"}, 2))
    read = AvroSerde(COLUMNS, {1: union, 2: RECORD}.__getitem__).read(values)
    assert read.rejects == []
    assert read.nulls.tolist() == [1]
    assert read.frame.rows() == [(5, "hi" if len(row) > 1 else None), (6, "x")]
    assert [column.name for column in columns_of_avro(json.dumps(union))] == [name.upper() for name in row]


@pytest.mark.parametrize(
    "schema",
    [
        {"type": "object", "properties": {"v": {"type": "integer"}}},
        {"type": "record", "name": "R", "fields": [{"name": "a", "type": "other.Address"}]},
        {"type": "record", "name": "R"},
        {"$schema": "http://json-schema.org/draft-07/schema#"},
        "unheard_of",
        [],
        7,
    ],
)
def test_a_schema_that_is_not_avro_costs_its_own_messages_alone(schema: Any) -> None:
    serde = AvroSerde(COLUMNS, {1: RECORD, 2: schema, 3: LOWER}.__getitem__)
    good = message(RECORD, {"A": 1, "B": "x"})
    for _ in range(2):
        read = serde.read(array(good, b'\0\0\0\0\2{"v":1}', message(LOWER, {"a": 2, "b": "y"}, 3), b"\0\0\0\0\2"))
        assert read.frame.rows() == [(1, "x"), (2, "y")]
        assert [position for position, _ in read.rejects] == [1, 3]
        assert read.rows.tolist() == [0, 2]


def test_an_unknown_id_among_messages_that_are_read_one_by_one() -> None:
    texts = {**RECORD, "fields": [{"name": "A", "type": "int"}, {"name": "B", "type": ["int", "string"]}]}

    def look_up(schema_id: int) -> Any:
        if schema_id == 3:
            raise RegistryError("away")
        if schema_id == 2:
            raise avro_codec.UnknownSchemaError("no id 2")
        return texts

    serde = AvroSerde((Column("A", INTEGER), Column("B", parse_type("STRUCT<INT INT, STRING STRING>"))), look_up)
    good = message(texts, {"A": 1, "B": "x"})
    read = serde.read(array(good, b"\0\0\0\0\2\2", good))
    assert (len(read.frame), read.rejects) == (2, [(1, "no id 2")])
    with pytest.raises(RegistryError):  # a registry that is away is no message's fault
        serde.read(array(good, b"\0\0\0\0\3\2"))


X = {"type": "record", "name": "X", "namespace": "n.s", "fields": [{"name": "x", "type": "int"}]}
Y = {"type": "record", "name": "Y", "fields": [{"name": "y", "type": ["null", "string"]}]}


@pytest.mark.parametrize(
    ("union", "sql", "values"),
    [
        (["int", "string"], "STRUCT<`INT` INTEGER, `STRING` STRING>", [(7, (7, None)), ("t", (None, "t"))]),
        (["null", "string", "double"], "STRUCT<`STRING` STRING, `DOUBLE` DOUBLE>", [(None, None), (1.5, (None, 1.5))]),
        (
            ["boolean", "long"],
            "STRUCT<`BOOLEAN` BOOLEAN, `LONG` BIGINT>",
            [(True, (True, None)), (2**40, (None, 2**40))],
        ),
        (
            ["null", X, Y],
            "STRUCT<`X` STRUCT<`X` INTEGER>, `Y` STRUCT<`Y` STRING>>",
            [(("n.s.X", {"x": 1}), ((1,), None)), (("Y", {"y": "q"}), (None, ("q",))), (None, None)],
        ),
        ([X, "string"], "STRUCT<`X` STRUCT<`X` INTEGER>, `STRING` STRING>", [({"x": 1}, ((1,), None))]),
        (
            [{"type": "array", "items": "int"}, {"type": "map", "values": "int"}],
            "STRUCT<`ARRAY` ARRAY<INTEGER>, `MAP` MAP<STRING, INTEGER>>",
            [([1, 2], ([1, 2], None)), ({"k": 1}, (None, [("k", 1)]))],
        ),
    ],
)
def test_a_union_of_several_types_is_a_struct(union: Any, sql: str, values: list[tuple[Any, Any]]) -> None:
    schema = {"type": "record", "name": "r", "fields": [{"name": "u", "type": union}]}
    (column,) = columns_of_avro(json.dumps(schema))
    assert str(column.type) == sql
    read = AvroSerde([column], lambda _: schema).read(array(*(message(schema, {"u": value}) for value, _ in values)))
    assert read.rejects == []
    assert [plain(row) for (row,) in read.frame.rows()] == [expected for _, expected in values]


def plain(value: Any) -> Any:
    """Return STRUCTs as tuples of their fields."""
    if isinstance(value, dict):
        return tuple(map(plain, value.values()))
    return [plain(item) for item in value] if isinstance(value, list) else value


def test_a_union_of_records_is_a_row_with_a_column_for_each() -> None:
    union = [X, Y]
    columns = columns_of_avro(json.dumps(union))
    assert [f"{column.name} {column.type}" for column in columns] == ["X STRUCT<`X` INTEGER>", "Y STRUCT<`Y` STRING>"]
    values = array(message(union, ("n.s.X", {"x": 1})), message(union, ("Y", {"y": None})))
    read = AvroSerde(columns, lambda _: union).read(values)
    assert [tuple(map(plain, row)) for row in read.frame.rows()] == [((1,), None), (None, (None,))]


def test_a_union_with_null_is_written_with_its_branch() -> None:
    union = ["null", RECORD]
    serde = AvroSerde(COLUMNS, lambda _: union, (union, 1))
    read = serde.read(array(message(RECORD, {"A": 1, "B": "x"})[:5] + b"\2" + message(RECORD, {"A": 1, "B": "x"})[5:]))
    assert serde.write(read.frame) == [message(union, {"A": 1, "B": "x"})]


def test_names_of_types_are_resolved_in_their_namespace() -> None:
    inner = {"type": "record", "name": "In", "fields": [{"name": "x", "type": "int"}]}
    fields = [{"name": "a", "type": inner}, {"name": "b", "type": "n.In"}, {"name": "c", "type": ["null", "R"]}]
    schema = {"type": "record", "name": "R", "namespace": "n", "fields": fields}
    columns = columns_of_avro(json.dumps(schema))
    assert [column.name for column in columns] == ["A", "B"]  # a type that contains itself has no SQL type
    value = {"a": {"x": 1}, "b": {"x": 2}, "c": None}
    read = AvroSerde(columns, lambda _: schema).read(array(message(schema, value)))
    assert [tuple(map(plain, row)) for row in read.frame.rows()] == [((1,), (2,))]


def test_a_type_without_a_counterpart_is_named_in_a_warning(caplog: pytest.LogCaptureFixture) -> None:
    schema = {"type": "record", "name": "r", "fields": [{"name": "n", "type": "null"}, {"name": "b", "type": "int"}]}
    assert [column.name for column in columns_of_avro(json.dumps(schema))] == ["B"]
    assert "'n'" in caplog.text


@pytest.mark.parametrize(
    ("schema", "body"),
    [
        ({**LOWER, "fields": [*LOWER["fields"], {"name": "next", "type": ["null", "T"]}]}, b"\x02\x02x\x02" * 300_000),
        (
            {**LOWER, "fields": [{"name": "n", "type": {"type": "array", "items": "null"}}]},
            b"\xfe" + b"\xff" * 8 + b"\x01\0",
        ),
    ],
)
def test_a_body_that_would_end_the_process_or_never_end_is_a_reject(schema: Any, body: bytes) -> None:
    values = array(message(RECORD, {"A": 1, "B": "x"}, 2), b"\0\0\0\0\1" + body, message(RECORD, {"A": 3, "B": "z"}, 2))
    read = AvroSerde(COLUMNS, {1: schema, 2: RECORD}.__getitem__).read(values)
    assert read.frame.rows() == [(1, "x"), (3, "z")]
    assert [place for place, _ in read.rejects] == [1]
