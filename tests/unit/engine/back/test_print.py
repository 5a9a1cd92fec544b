"""PRINT shows bytes as what they most likely are."""

from __future__ import annotations

import struct

import pytest

from heartwatch.engine.transient import readable

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
