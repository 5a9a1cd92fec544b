"""PRINT shows bytes as what they most likely are."""

from __future__ import annotations

import struct
from datetime import UTC, datetime

import pytest

from kafkakit.settings import KafkaSettings, RegistrySettings
from ksqlengine.server.print_topic import PossibleFormats, shown_time
from ksqlengine.server.topics_and_schemas import Resources

START, END = 1_700_000_000_000, 1_700_000_010_000


@pytest.mark.parametrize(
    ("key", "shown", "formats"),
    [
        (None, "<null>", "¯\\_(ツ)_/¯ - no data processed"),
        (b"a", "a", "KAFKA_STRING"),
        (b"17", "17", "JSON or KAFKA_STRING"),
        (b'{"A":1}', '{"A":1}', "JSON or KAFKA_STRING"),
        ("é".encode(), "é", "KAFKA_STRING"),
        (b"12345678", "12345678", "JSON or KAFKA_BIGINT or KAFKA_DOUBLE or KAFKA_STRING"),
        (b"long-name-of-a-user", "long-name-of-a-user", "KAFKA_STRING"),
        (b"\xff\xff\xff\xfb", "-5", "KAFKA_INT"),
        (struct.pack(">q", 2**40), str(2**40), "KAFKA_BIGINT or KAFKA_DOUBLE or KAFKA_STRING"),
        (b"x7" + struct.pack(">q", START), f"[x7@{START}/-]", "HOPPING(KAFKA_STRING) or TUMBLING(KAFKA_STRING)"),
        (
            struct.pack(">i", -7) + struct.pack(">q", START),
            f"[-7@{START}/-]",
            "HOPPING(KAFKA_INT) or TUMBLING(KAFKA_INT)",
        ),
        (b"x7" + struct.pack(">qq", END, START), f"[x7@{START}/{END}]", "SESSION(KAFKA_STRING)"),
        (
            b"\xff" + struct.pack(">q", 5),
            "\\xFF\\x00\\x00\\x00\\x00\\x00\\x00\\x00\\x05",
            " does not match any supported format. It may be a STRING with encoding other than UTF8, or some other format.",
        ),
        (b"\x00\x00\x00\x00\x09x", '{"a": 1}', "AVRO or KAFKA_STRING"),
    ],
    ids=repr,
)
def test_keys_are_shown_readably(key: bytes | None, shown: str, formats: str) -> None:
    found = PossibleFormats(lambda body: {"a": 1} if body.endswith(b"x") and len(body) == 6 else None, windowed=True)
    found.narrow([key])
    assert found.shown(key) == shown
    assert found.named() == formats


def test_a_format_that_does_not_fit_one_value_is_out_for_all() -> None:
    found = PossibleFormats(lambda body: None, windowed=False)
    found.narrow([b"1234", None])
    assert found.named() == "JSON or KAFKA_INT or KAFKA_STRING"
    found.narrow([b"x"])
    assert (found.named(), found.shown(b"1234")) == ("KAFKA_STRING", "1234")


def test_avro_whose_time_is_out_of_range_is_shown_as_bytes(monkeypatch: pytest.MonkeyPatch) -> None:
    resources = Resources(
        KafkaSettings(bootstrap_servers="127.0.0.1:1"), RegistrySettings(url="http://127.0.0.1:1"), "s_"
    )
    time = {"type": "long", "logicalType": "timestamp-millis"}
    schema = {"type": "record", "name": "R", "fields": [{"name": "t", "type": time}]}
    monkeypatch.setattr(resources, "schema", lambda schema_id: schema)
    value = b"\x00\x00\x00\x00\x01" + b"\xff" * 9 + b"\x01"
    assert resources.decoded(value[:5] + b"\x02") == {"t": datetime(1970, 1, 1, 0, 0, 0, 1_000, UTC)}
    found = PossibleFormats(resources.decoded, windowed=False)
    found.narrow([value])
    assert found.shown(value) == "\\x00\\x00\\x00\\x00\\x01" + "\\xFF" * 9 + "\\x01"


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
