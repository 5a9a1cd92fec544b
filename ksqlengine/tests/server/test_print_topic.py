"""PRINT shows bytes as what they most likely are."""

from __future__ import annotations

import struct
from datetime import UTC, datetime

import pytest

from kafkakit.settings import KafkaSettings, RegistrySettings
from ksqlengine.server.print_topic import readable, shown_time
from ksqlengine.server.topics_and_schemas import Resources

START, END = 1_700_000_000_000, 1_700_000_010_000


@pytest.mark.parametrize(
    ("value", "shown"),
    [
        (None, "<null>"),
        (b"", ""),
        (b"17", "17"),
        (b'{"A":1}', '{"A":1}'),
        ("é".encode(), "é"),
        (b"12345678", "12345678"),
        (struct.pack(">i", -5), "-5"),
        (struct.pack(">q", 2**40), str(2**40)),
        (b"17" + struct.pack(">q", START), f"[17@{START}/-]"),
        (struct.pack(">i", 7) + struct.pack(">q", START), f"[7@{START}/-]"),
        (b"17" + struct.pack(">qq", START, END), f"[17@{START}/{END}]"),
        (b"\xff" + struct.pack(">q", 5), "ff0000000000000005"),
        (b"\x00\x00\x00\x00\x09x", '{"a":1}'),
    ],
)
def test_bytes_are_shown_readably(value: bytes | None, shown: str) -> None:
    assert readable(value, lambda body: {"a": 1} if body.endswith(b"x") else None) == shown


def test_avro_whose_time_is_out_of_range_is_shown_as_bytes(monkeypatch: pytest.MonkeyPatch) -> None:
    resources = Resources(
        KafkaSettings(bootstrap_servers="127.0.0.1:1"), RegistrySettings(url="http://127.0.0.1:1"), "s_"
    )
    time = {"type": "long", "logicalType": "timestamp-millis"}
    schema = {"type": "record", "name": "R", "fields": [{"name": "t", "type": time}]}
    monkeypatch.setattr(resources, "schema", lambda schema_id: schema)
    value = b"\x00\x00\x00\x00\x01" + b"\xff" * 9 + b"\x01"
    assert resources.decoded(value[:5] + b"\x02") == {"t": datetime(1970, 1, 1, 0, 0, 0, 1_000, UTC)}
    assert readable(value, resources.decoded) == value.hex()


@pytest.mark.parametrize(
    ("milliseconds", "shown"),
    [
        (START, "2023/11/14 22:13:20.000 Z"),
        (-1, "1969/12/31 23:59:59.999 Z"),
        (START * 1_000_000, "1700000000000000000 ms"),
    ],
)
def test_times_are_shown_even_where_no_calendar_has_them(milliseconds: int, shown: str) -> None:
    assert shown_time(milliseconds) == shown
