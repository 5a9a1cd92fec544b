"""Formats read and write many messages at once; whatever the messages are, the answer is that of one by one."""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence
from typing import Any

import orjson
import polars as pl
import pyarrow as pa
import pytest
from polars.testing import assert_frame_equal

from ksqlengine.formats.base import Read, RowSerde
from ksqlengine.formats.delimited import DelimitedSerde
from ksqlengine.formats.json import JsonSerde
from ksqlengine.formats.kafka import KafkaSerde
from ksqlengine.plan.steps import Column
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
    SqlType,
    StructType,
)

PLAIN = (BOOLEAN, INTEGER, BIGINT, DOUBLE, STRING, TIMESTAMP, DATE, TIME)
PLACE = StructType(fields=(("ZIP", INTEGER), ("city", STRING), ("AT", ArrayType(element=DOUBLE))))
NESTED = (
    ArrayType(element=INTEGER),
    PLACE,
    ArrayType(element=PLACE),
    ArrayType(element=ArrayType(element=STRING)),
    DecimalType(precision=9, scale=2, name="DECIMAL"),
)

JSON_VALUES: dict[str, tuple[list[Any], list[Any]]] = {
    "BOOLEAN": ([True, False], [1, "true"]),
    "INTEGER": ([0, -1, 2**31, -(2**31) - 1, 2**40], [2**63, "5", " 5", 5.5, [], {}]),
    "BIGINT": ([0, 2**63 - 1, -(2**63)], [2**63, True, "x"]),
    "DOUBLE": ([0.0, -0.0, 1e300, 5, 1e-320, 2**53 + 1], ["NaN", "1e2", [1.5]]),
    "STRING": (
        ["", "é😀", '\x00\n"\\', "2020-01-01", "NaN", "Info", "}{", "["],
        [5, 1.25, {"a": 1}, [1, None], "x: Inf"],
    ),
    "TIMESTAMP": ([0, -1, 253402300799999, -62135596800000], [253402300800000, "2020-01-01T00:00:00", "x"]),
    "DATE": ([0, -719162, 2932896], [2932897, 10**12]),
    "TIME": ([0, 86399999, 86400000, -1], [253402300800000]),
    "DECIMAL": ([1, "1.25"], [1.255]),
}
TEXTS: dict[str, tuple[list[str], list[str]]] = {
    "BOOLEAN": (["true", "TRUE", "false", "yes", ""], [" true"]),
    "INTEGER": (["0", "-1", "+7", str(2**31 - 1), ""], [str(2**31), "1.5", " 5", "5 ", "1_0", "٣", "+"]),
    "BIGINT": (["0", str(-(2**63)), ""], [str(2**63), "x"]),
    "DOUBLE": (
        ["0", "-0.0", "1e300", ".5", "5.", "+1.25E-3", ""],
        ["NaN", "-Infinity", "1d", " 2 ", "inf", "1e400", "x"],
    ),
    "STRING": (["", "é😀", "a b", "~x", "#x", "\x7f"], ['"a,b"', '"a""b"', 'a"b', '"', "a\nb", "\r"]),
    "TIMESTAMP": (["0", "-1", "1700000000123", ""], ["253402300800000", "2020-01-01T00:00:00", "--1", "+1"]),
    "DATE": (["0", "20000", ""], ["2932897", "2020-01-01", "x"]),
    "TIME": (["0", "86399999", "-1", ""], ["10:00:00", "253402300800000"]),
}
BAD_JSON = [
    *(b"", b"null", b"{}", b"[]", b"5", b"{", b"}", b"\xff", b'{"c0":"\xff"}', b'\xef\xbb\xbf{"c0":1}', b' {"c0":1} '),
    *(b'{"c0":1}{"c0":2}', b'{"c0":1}\n{"c0":2}', b'{"c0":1}\n', b'{\n"c0":1\n}', b'{"c0":"}', b'{"}', b'{"c0":1,}'),
    *(b'{"a":NaN}', b'{"a":[-Infinity]}', b'{"c0":01}', b'{"c0":+1}', b'{"c0":1,"c0":2}', b'{"c0":1,"C0":2}'),
    *(b'{"a":1,"a":2}', b'{"a":[1,"x",{}]}', b'{"c0":"\\ud800"}', b'{"c0":"a\x01b"}', b'{"c0":null}', b'{"c1":-0}'),
]


def json_value(rng: random.Random, type_: SqlType, unusual: float, mixed: bool) -> Any:
    if rng.random() < 0.1:
        return None
    if isinstance(type_, ArrayType):
        return [json_value(rng, type_.element, unusual, mixed) for _ in range(rng.randint(0, 3))]
    if isinstance(type_, StructType):
        return {name: json_value(rng, inner, unusual, mixed) for name, inner in named(rng, type_.fields, mixed)}
    usual, others = JSON_VALUES[type_.name]
    return rng.choice(others if rng.random() < unusual else usual)


def named(rng: random.Random, fields: Sequence[tuple[str, SqlType]], mixed: bool) -> list[tuple[str, SqlType]]:
    kept = [(name, type_) for name, type_ in fields if rng.random() < 0.95]
    return [(rng.choice([name, name.lower()]) if mixed else name.lower(), type_) for name, type_ in kept]


def columns_of(rng: random.Random, types: Sequence[SqlType]) -> list[Column]:
    return [Column(f"C{place}", rng.choice(types)) for place in range(rng.randint(1, 4))]


def same(read: Read, each: Read) -> None:
    assert read.rows.tolist() == each.rows.tolist()
    assert read.nulls.tolist() == each.nulls.tolist()
    assert read.rejects == each.rejects
    assert_frame_equal(read.frame, each.frame)


def messages(rng: random.Random, good: Callable[[], bytes], bad: Sequence[bytes]) -> pa.LargeBinaryArray:
    share = rng.choice([0, 0, 0.01, 0.3])
    rows = [rng.choice([*bad, None]) if rng.random() < share else good() for _ in range(rng.choice([1, 64, 300]))]
    return pa.array([b"ahead", *rows, b"behind"], pa.large_binary()).slice(1, len(rows))


@pytest.mark.parametrize("seed", range(60))
def test_json_is_read_and_written_as_one_by_one(seed: int) -> None:
    rng = random.Random(seed)
    columns, mixed, unusual = columns_of(rng, PLAIN + NESTED), seed % 4 == 0, rng.choice([0, 0, 0.002, 0.2])

    def good() -> bytes:
        fields = named(rng, [(column.name, column.type) for column in columns], mixed)
        body = {name: json_value(rng, type_, unusual, mixed) for name, type_ in fields}
        return orjson.dumps(body if rng.random() < 0.5 else {**body, "other": rng.choice(["x", None, 2.5])})

    serde, values = JsonSerde(columns, wrapped=True), messages(rng, good, BAD_JSON)
    each = serde.read_each(values)
    same(serde.read(values), each)
    assert serde.write(each.frame) == RowSerde.write(serde, each.frame)


@pytest.mark.parametrize("seed", range(60))
def test_separated_values_are_read_and_written_as_one_by_one(seed: int) -> None:
    rng = random.Random(seed)
    columns, delimiter, unusual = (
        columns_of(rng, PLAIN),
        rng.choice([",", "\t", " ", "|", "é"]),
        rng.choice([0, 0.02, 0.5]),
    )

    def good() -> bytes:
        pick = [TEXTS[column.type.name][rng.random() < unusual] for column in columns]
        return delimiter.join(rng.choice(texts) for texts in pick).encode()

    serde = DelimitedSerde(columns, delimiter)
    values = messages(rng, good, [b"", delimiter.encode() * 9, b"x" * 200_000] + ([b"\xff"] if seed % 5 == 0 else []))
    each = serde.read_each(values)
    same(serde.read(values), each)
    assert serde.write(each.frame) == RowSerde.write(serde, each.frame)


@pytest.mark.parametrize("type_", [STRING, BYTES, INTEGER, BIGINT, DOUBLE], ids=str)
@pytest.mark.parametrize("bad", [[], [None], [b"\xff"], [b""]], ids=["good", "null", "bad", "empty"])
def test_kafka_is_read_and_written_as_one_by_one(type_: SqlType, bad: list[bytes | None]) -> None:
    serde = KafkaSerde([Column("K", type_)])
    values: dict[str, list[Any]] = {"STRING": ["a", "é"], "BYTES": [b"\xff"], "DOUBLE": [-0.0, 1.5]}
    frame = pl.DataFrame({"K": pl.Series(values.get(type_.name, [-1, 2**31 - 1]), dtype=type_.polars)})
    written = serde.write(frame)
    assert written == RowSerde.write(serde, frame)
    array = pa.array([*written, *bad, *written], pa.large_binary())
    same(serde.read(array), serde.read_each(array))
    nulls = pl.DataFrame({"K": pl.Series([None], dtype=type_.polars)})
    assert serde.write(nulls) == [None]


def test_equal_messages_are_read_once(monkeypatch: pytest.MonkeyPatch) -> None:
    serde, seen = JsonSerde([Column("K", STRING)], wrapped=False), []
    read_one = serde.read_one
    monkeypatch.setattr(serde, "read_one", lambda value: seen.append(value) or read_one(value))
    read = serde.read(pa.array([b'"b"', None, b"{", b'"a"', b'"b"', b"{", b'"a"', b'"b"'], pa.large_binary()))
    assert seen == [b'"b"', b"{", b'"a"']
    assert read.frame["K"].to_list() == ["b", "a", "b", "a", "b"]
    assert read.rows.tolist() == [0, 3, 4, 6, 7]
    assert read.nulls.tolist() == [1]
    assert [position for position, _ in read.rejects] == [2, 5]


@pytest.mark.parametrize("serde", [JsonSerde, DelimitedSerde])
def test_one_bad_message_leaves_the_others_to_be_read_at_once(
    serde: type[JsonSerde] | type[DelimitedSerde], monkeypatch: pytest.MonkeyPatch
) -> None:
    columns = [Column("ID", INTEGER), Column("NAME", STRING), Column("AT", TIMESTAMP), Column("VALUE", DOUBLE)]
    format_: Any = serde(columns, True) if serde is JsonSerde else serde(columns, ",")
    places = list(range(10_000))
    texts = [f"n{place}" for place in places]
    values = dict(
        zip(("ID", "NAME", "AT", "VALUE"), (places, texts, places, [place / 7 for place in places]), strict=True)
    )
    frame = pl.DataFrame(values, schema={column.name: column.type.polars for column in columns})
    written = format_.write(frame)
    written[5_000] = b'{"ID":"x"'
    by_itself: list[bytes] = []
    read_one = format_.read_one
    monkeypatch.setattr(format_, "read_one", lambda value: by_itself.append(value) or read_one(value))
    read = format_.read(pa.array(written, pa.large_binary()))
    assert len(by_itself) < 100
    assert [position for position, _ in read.rejects] == [5_000]
    assert_frame_equal(read.frame, frame.filter(pl.col("ID") != 5_000))
