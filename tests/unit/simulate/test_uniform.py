"""Any annotated Avro schema gives columns of values that fit it."""

import json
from typing import Any

import fastavro
import polars as pl
import pyarrow as pa
import pytest

from heartwatch.settings import ROOT
from heartwatch.simulate.events import SCHEMA
from heartwatch.simulate.uniform import UniformError, UniformGenerator
from kafkakit import avro_codec

NOW = 1_772_700_000_123


def record(kind: Any, **more: Any) -> dict[str, Any]:
    return {"type": "record", "name": "Thing", "fields": [{"name": "value", "type": kind, **more}]}


def annotated(kind: str, **properties: Any) -> dict[str, Any]:
    return record({"type": kind, "arg.properties": properties})


def values(schema: dict[str, Any], count: int = 2_000, seed: int = 1) -> list[Any]:
    return UniformGenerator(schema, seed).batch(0, count, NOW).column("value").to_pylist()


def schema_of(name: str) -> dict[str, Any]:
    return json.loads((ROOT / "schemas" / "heart_rate" / name).read_text())


def test_realtime_events_are_the_originals():
    schema = schema_of("realtime.avsc")
    batch = UniformGenerator(schema, 1).batch(0, 100_000, NOW)
    assert batch.schema == SCHEMA
    frame = pl.DataFrame(pl.from_arrow(batch))
    assert frame["user_id"].n_unique() > 19_500
    assert frame["user_id"].cast(pl.Int64).min() == 1
    assert frame["user_id"].cast(pl.Int64).max() == 20_000
    assert frame["event_time"].dt.epoch("ms").unique().to_list() == [NOW]
    assert frame["heart_rate"].unique().sort().to_list() == list(range(50, 111))
    assert frame["zipcode"].n_unique() == 38
    assert frame["latitude"].is_between(39, 41, closed="left").all()
    assert frame["longitude"].is_between(-75, -73, closed="left").all()
    assert frame["latitude"].mean() == pytest.approx(40, abs=0.01)
    assert avro_codec.Decoder(schema, lambda _: schema).decode(avro_codec.encode(batch, schema, 4)).rejects == []


def test_historical_rows_are_the_originals():
    frame = pl.DataFrame(pl.from_arrow(UniformGenerator(schema_of("historical.avsc"), 1).batch(0, 10_000, NOW)))
    assert frame["min_heart_rate"].unique().sort().to_list() == [51, 52, 53]
    assert frame["max_heart_rate"].unique().sort().to_list() == [107, 108, 109]


def test_rows_are_the_same_however_they_are_cut_and_differ_by_seed():
    generator = UniformGenerator(schema_of("realtime.avsc"), 1)
    whole = generator.batch(0, 1_000, NOW)
    parts = [generator.batch(first, min(300, 1_000 - first), NOW) for first in range(0, 1_000, 300)]
    assert pa.Table.from_batches(parts).combine_chunks() == pa.Table.from_batches([whole])
    assert UniformGenerator(schema_of("realtime.avsc"), 2).batch(0, 1_000, NOW) != whole


def test_every_type_gives_values_that_fit_the_schema():
    inner = {"type": "record", "name": "Inner", "fields": [{"name": "deep", "type": ["null", "long"]}]}
    kinds: dict[str, Any] = {
        "boolean": "boolean",
        "int": "int",
        "long": "long",
        "float": "float",
        "double": "double",
        "string": "string",
        "bytes": "bytes",
        "null": "null",
        "fixed": {"type": "fixed", "name": "Four", "size": 4},
        "enum": {"type": "enum", "name": "Colour", "symbols": ["RED", "GREEN"]},
        "record": inner,
        "named": ["null", "Inner"],
        "again": "Colour",
        "array": {"type": "array", "items": "Inner", "arg.properties": {"length": {"min": 0, "max": 4}}},
        "map": {"type": "map", "values": "double", "arg.properties": {"length": 2}},
        "optional": ["string", "null"],
        "union": ["null", "int", "string", "Inner"],
        "single": ["int"],
        "date": {"type": "int", "logicalType": "date"},
        "time_millis": {"type": "int", "logicalType": "time-millis"},
        "time_micros": {"type": "long", "logicalType": "time-micros"},
        "millis": {"type": "long", "logicalType": "timestamp-millis"},
        "micros": {"type": "long", "logicalType": "timestamp-micros"},
    }
    schema = {"type": "record", "name": "All", "fields": [{"name": name, "type": kind} for name, kind in kinds.items()]}
    batch = UniformGenerator(schema, 1).batch(0, 200, NOW)
    batch.validate(full=True)
    parsed = fastavro.parse_schema(schema)
    rows = [{**row, "map": dict(row["map"])} for row in batch.to_pylist()]
    assert all(fastavro.validate(row, parsed) for row in rows)
    assert {type(row["union"]) for row in rows} == {type(None), int, str, dict}
    assert {row["optional"] is None for row in rows} == {True, False}
    assert {len(row["array"]) for row in rows} == {0, 1, 2, 3}
    assert {len(row["map"]) for row in rows} == {2}
    assert {row["again"] for row in rows} == {"RED", "GREEN"}
    assert {row["millis"].timestamp() for row in rows} == {NOW / 1000}
    assert {row["micros"].timestamp() for row in rows} == {NOW / 1000}
    assert {len(row["string"]) for row in rows} == set(range(8, 16))


@pytest.mark.parametrize(
    ("schema", "expected"),
    [
        (annotated("int", range={"min": 3, "max": 6}), {3, 4, 5}),
        (annotated("long", range={"min": -(2**62), "max": -(2**62) + 2}), {-(2**62), -(2**62) + 1}),
        (annotated("int", options=[7, 9]), {7, 9}),
        (annotated("string", options=["a", "b"]), {"a", "b"}),
        (annotated("string", range={"min": 1, "max": 3}), {"1", "2"}),
        (annotated("boolean", odds=1.0), {True}),
        (annotated("boolean", options=[False]), {False}),
        (annotated("double", options=[0.5, 2]), {0.5, 2.0}),
    ],
)
def test_annotations_give_exactly_their_values(schema: dict[str, Any], expected: set[Any]):
    assert set(values(schema)) == expected


@pytest.mark.parametrize(
    ("schema", "first"),
    [
        (annotated("int", iteration={"start": 5}), [5, 6, 7, 8]),
        (annotated("int", iteration={"start": 0, "restart": 3}), [0, 1, 2, 0]),
        (annotated("int", iteration={"start": 3, "restart": 10, "step": 4}), [3, 7, 4, 8]),
        (annotated("long", iteration={"start": 3, "restart": 0}), [3, 2, 1, 3]),
        (annotated("double", iteration={"start": 0.5, "step": 0.25}), [0.5, 0.75, 1.0, 1.25]),
        (annotated("int", iteration={"start": 0, "restart": 5, "initial": 3}), [3, 4, 0, 1]),
        (annotated("boolean", iteration={"start": False}), [False, True, False, True]),
    ],
)
def test_iterations_count_rows(schema: dict[str, Any], first: list[Any]):
    assert values(schema, 4) == first
    assert UniformGenerator(schema, 1).batch(2, 2, NOW).column("value").to_pylist() == first[2:]


def test_ranges_with_one_end():
    assert min(values(annotated("int", range={"min": 2**31 - 3}))) == 2**31 - 3
    assert max(values(annotated("int", range={"max": 1 - 2**31}))) == -(2**31)


@pytest.mark.parametrize(
    ("schema", "message"),
    [
        ({"type": "record", "name": "x", "fields": [{"name": "a", "type": "unknown"}]}, "not a valid Avro schema"),
        ({"type": "enum", "name": "x", "symbols": ["A"]}, "give a record"),
        (annotated("string", regex="[a-z]+"), r"Thing\.value: arg\.properties 'regex' isn't supported"),
        (annotated("int", range={"min": 5, "max": 5}), "min must be below max"),
        (annotated("int", options=[]), "at least one value"),
        (annotated("int", options=["a"]), "don't fit type 'int'"),
        (annotated("int", range={"min": 0, "max": 2**40}), "don't fit type 'int'"),
        (annotated("int", iteration={"start": 0, "restart": 5, "step": -1}), "never gets from start to restart"),
        (annotated("int", iteration={"start": 0, "step": 0}), "never gets from start to restart"),
        (annotated("int", iteration={"step": 1}), "don't fit type 'int'"),
        (record({"type": "int", "arg.properties": 5}), "is not a JSON object"),
        (record({"type": "bytes", "logicalType": "decimal", "precision": 4}), "logicalType 'decimal' isn't supported"),
        (
            record({"type": "array", "items": {"type": "int", "arg.properties": {"iteration": {"start": 0}}}}),
            r"Thing\.value\[\]: iteration inside arrays",
        ),
        (record(["null", "Thing"]), "record 'Thing' contains itself"),
        (
            record({"type": "array", "items": "int", "arg.properties": {"options": [[1]]}}),
            "on a array aren't supported",
        ),
    ],
)
def test_what_can_not_be_generated_is_refused_by_name(schema: dict[str, Any], message: str):
    with pytest.raises(UniformError, match=message):
        UniformGenerator(schema, 1)
