"""Values that are not valid events: what a reader of the topic must survive."""

from __future__ import annotations

import struct
from collections.abc import Callable

import numpy as np

from heartwatch.simulate import draws

_UNKNOWN_SCHEMA = 2_147_483_000
_USER, _TIME = b"\x02\x37", b"\xfe\xff\xff\xff\x0f"  # "7" as a one-character string, and a timestamp


def _body(tail: bytes) -> Callable[[int], bytes]:
    return lambda schema_id: struct.pack(">bI", 0, schema_id) + tail


_WITHOUT_SCHEMA: dict[str, Callable[[int], bytes]] = {
    "empty": lambda _: b"",
    "wrong magic byte": lambda number: b"\x01" + _noise(number),
    "half a header": lambda _: b"\x00\x00\x00",
    "text": lambda number: b'{"user_id": "%d"}' % number,
    "unknown schema": lambda number: struct.pack(">bI", 0, _UNKNOWN_SCHEMA) + _noise(number),
}
_WITH_SCHEMA: dict[str, Callable[[int], bytes]] = {
    "truncated": _body(_USER + _TIME),
    "negative length": _body(b"\x01"),
    "huge length": _body(b"\xfe\xff\xff\xff\xff\xff\xff\xff\xff\x01"),
    "invalid UTF-8": _body(b"\x02\xff" + _TIME + b"\x02" + bytes(16) + b"\x02"),
    "trailing bytes": _body(_USER + _TIME + b"\x02" + bytes(16) + b"\x02" + b"more"),
}
KINDS = (*_WITHOUT_SCHEMA, *_WITH_SCHEMA)
"""Kinds of malformed values; the second half needs the event schema's id."""


def malformed_value(kind: int, number: int, schema_id: int | None) -> bytes:
    """Return bytes that are not a valid event.

    Args:
        kind: index into `KINDS`.
        number: makes one value differ from another.
        schema_id: the registry's id of the event schema; without it, a kind that needs none is taken.
    """
    if schema_id is None or kind < len(_WITHOUT_SCHEMA):
        return list(_WITHOUT_SCHEMA.values())[kind % len(_WITHOUT_SCHEMA)](number)
    return list(_WITH_SCHEMA.values())[kind - len(_WITHOUT_SCHEMA)](schema_id)


def _noise(number: int) -> bytes:
    return draws.bits(draws.key(0, "malformed"), np.arange(number, number + 4)).tobytes()
