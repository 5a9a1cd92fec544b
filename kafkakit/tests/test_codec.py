"""The vectorised codec against fastavro, one message at a time, and against every kind of bad message."""

from __future__ import annotations

import io
import json
import struct
from pathlib import Path
from typing import Any

import fastavro
import numpy as np
import pyarrow as pa
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from kafkakit.avro_codec import CodecError, Decoder, UnknownSchemaError, arrow_schema, encode, parse

SCHEMAS = Path(__file__).resolve().parents[2] / "schemas/heart_rate"
REALTIME = parse((SCHEMAS / "realtime.avsc").read_text())
ALERT = parse((SCHEMAS / "alert.avsc").read_text())
EVENT = {
    "user_id": "123",
    "event_time": 1_700_000_000_123,
    "zipcode": 10001,
    "latitude": 40.5,
    "longitude": -73.5,
    "heart_rate": 80,
}


def frame(schema: dict[str, Any], record: dict[str, Any], schema_id: int = 7) -> bytes:
    """Encode one record the slow, trusted way."""
    stream = io.BytesIO()
    stream.write(b"\0" + struct.pack(">i", schema_id))
    fastavro.schemaless_writer(stream, fastavro.parse_schema(schema), record)
    return stream.getvalue()


def registry(**schemas: dict[str, Any]) -> Any:
    """Look schemas up by id, as `id_7=schema`."""
    known = {int(name.removeprefix("id_")): schema for name, schema in schemas.items()}

    def look_up(schema_id: int) -> dict[str, Any]:
        if schema_id not in known:
            raise UnknownSchemaError(f"the registry has no schema {schema_id}")
        return known[schema_id]

    return look_up


GOOD = frame(REALTIME, EVENT)
OTHER = frame(REALTIME, {**EVENT, "heart_rate": 61})


def test_encoding_equals_fastavro_byte_for_byte() -> None:
    records = [{**EVENT, "user_id": str(n), "heart_rate": n - 70, "event_time": 10**n} for n in range(13)]
    batch = pa.RecordBatch.from_pylist(
        [{**r, "event_time": np.datetime64(r["event_time"], "ms")} for r in records], schema=arrow_schema(REALTIME)
    )
    assert encode(batch, REALTIME, 7) == [frame(REALTIME, record) for record in records]


@settings(deadline=None, derandomize=True, suppress_health_check=[HealthCheck.too_slow])
@given(
    st.lists(
        st.fixed_dictionaries(
            {
                "user_id": st.none() | st.text(max_size=70),
                "event_count": st.none() | st.integers(-(2**63), 2**63 - 1),
                "avg_heart_rate": st.none() | st.floats(allow_nan=False),
                "zipcode": st.none() | st.integers(-(2**31), 2**31 - 1),
            }
        ),
        max_size=20,
    )
)
def test_any_records_come_back_as_they_went(records: list[dict[str, Any]]) -> None:
    decoded = Decoder(ALERT, registry(id_7=ALERT)).decode([frame(ALERT, record) for record in records])
    assert decoded.rejects == []
    assert decoded.batch.select(["user_id", "event_count", "avg_heart_rate", "zipcode"]).to_pylist() == records
    assert encode(decoded.batch, ALERT, 7) == [frame(ALERT, record) for record in records]


BAD = {
    "empty": b"",
    "magic byte": b"\1" + GOOD[1:],
    "magic byte 2": b"\2" + GOOD[1:],
    "header only in part": GOOD[:3],
    "unknown schema id": GOOD[:4] + b"\x09" + GOOD[5:],
    "truncated": GOOD[:-3],
    "nothing after the header": GOOD[:5],
    "trailing bytes": GOOD + b"xx",
    "trailing zero": GOOD + b"\0",
    "huge length": GOOD[:5] + b"\xfe\xff\xff\xff\xff\xff\xff\xff\xff\x01abc",
    "negative length": GOOD[:5] + b"\x01" + b"abc" * 20,
    "invalid UTF-8": GOOD[:6] + b"\xff\xfe\xfd" + GOOD[9:],
}


@pytest.mark.parametrize("position", [0, 1, 2])
@pytest.mark.parametrize("kind", BAD)
def test_a_bad_message_is_named_and_harms_no_other(kind: str, position: int) -> None:
    values: list[bytes | None] = [GOOD, OTHER]
    values.insert(position, BAD[kind])
    decoded = Decoder(REALTIME, registry(id_7=REALTIME)).decode(values)
    assert [reject.index for reject in decoded.rejects] == [position]
    assert decoded.rejects[0].reason
    assert decoded.indices.tolist() == [index for index in range(3) if index != position]
    assert decoded.batch.column("heart_rate").to_pylist() == [80, 61]


def test_many_bad_among_many_good_keep_their_places() -> None:
    values: list[bytes | None] = []
    for number in range(500):
        values.append(frame(REALTIME, {**EVENT, "heart_rate": number}))
    bad_kinds = list(BAD.values())
    for position in range(0, 500, 37):
        values[position] = bad_kinds[position % len(bad_kinds)]
    values[100] = None
    decoded = Decoder(REALTIME, registry(id_7=REALTIME)).decode(values)
    assert [reject.index for reject in decoded.rejects] == list(range(0, 500, 37))
    assert decoded.nulls.tolist() == [100]
    assert decoded.batch.column("heart_rate").to_pylist() == decoded.indices.tolist()
    assert len(decoded.indices) + len(decoded.rejects) + len(decoded.nulls) == 500


def test_an_evolved_writer_schema_is_read_by_the_readers() -> None:
    old = json.loads(json.dumps(REALTIME))
    old["fields"] = [field for field in old["fields"] if field["name"] != "zipcode"]
    old["fields"].append({"name": "battery", "type": "int"})
    new = json.loads(json.dumps(REALTIME))
    for field in new["fields"]:
        if field["name"] == "zipcode":
            field.update(type=["null", "int"], default=None)
        if field["name"] == "heart_rate":
            field.update(type="double")
    record = {**{name: value for name, value in EVENT.items() if name != "zipcode"}, "battery": 3}
    decoded = Decoder(new, registry(id_1=old, id_2=REALTIME)).decode([frame(old, record, 1), frame(REALTIME, EVENT, 2)])
    assert decoded.rejects == []
    assert decoded.batch.column("zipcode").to_pylist() == [None, 10001]
    assert decoded.batch.column("heart_rate").to_pylist() == [80.0, 80.0]


def test_a_renamed_field_is_resolved_through_its_alias() -> None:
    new = json.loads(json.dumps(REALTIME))
    for field in new["fields"]:
        if field["name"] == "heart_rate":
            field.update(name="pulse", aliases=["heart_rate"])
    decoded = Decoder(new, registry(id_7=REALTIME)).decode([GOOD, OTHER, GOOD + b"x"])
    assert decoded.batch.column("pulse").to_pylist() == [80, 61]
    assert decoded.batch.column("event_time").cast(pa.int64()).to_pylist() == [1_700_000_000_123] * 2
    assert [reject.index for reject in decoded.rejects] == [2]


def test_overlong_arrays_and_maps_are_no_trailing_bytes() -> None:
    schema = {
        "type": "record",
        "name": "Nested",
        "fields": [{"name": "numbers", "type": {"type": "array", "items": "int"}}, {"name": "text", "type": "string"}],
    }
    # A block may state its size in bytes: count -2, size 2, the items 1 and 2, the end of blocks; then the text "a".
    body_with_sized_block = b"\x03\x04" + b"\x02\x04" + b"\x00" + b"\x02a"
    decoded = Decoder(schema, registry(id_7=schema)).decode(
        [frame(schema, {"numbers": [1], "text": "b"}), GOOD[:5] + body_with_sized_block]
    )
    assert decoded.rejects == []
    assert decoded.batch.column("numbers").to_pylist() == [[1], [1, 2]]


def test_an_unreachable_registry_is_no_messages_fault() -> None:
    def unreachable(schema_id: int) -> dict[str, Any]:
        raise ConnectionError("registry")

    with pytest.raises(ConnectionError):
        Decoder(REALTIME, unreachable).decode([GOOD])


def test_no_messages_give_no_rows() -> None:
    decoded = Decoder(REALTIME, registry()).decode([])
    assert decoded.batch.num_rows == 0
    assert decoded.batch.schema.equals(arrow_schema(REALTIME))


def test_columns_that_do_not_fit_are_refused_by_name() -> None:
    batch = pa.RecordBatch.from_pydict({"user_id": ["1"]})
    with pytest.raises(CodecError, match="'event_time' is missing"):
        encode(batch, REALTIME, 7)
    full = pa.RecordBatch.from_pylist([{**EVENT, "heart_rate": None, "event_time": np.datetime64(0, "ms")}])
    with pytest.raises(CodecError, match="'heart_rate' has 1 nulls"):
        encode(full, REALTIME, 7)
    with pytest.raises(CodecError, match="not a valid Avro schema"):
        parse('{"type": "record"}')
    with pytest.raises(CodecError, match="not a record"):
        parse('{"type": "array", "items": "int"}')
