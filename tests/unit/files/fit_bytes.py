"""A small writer of FIT files for tests: definition and data messages, the header and both checksums."""

import struct
from collections.abc import Iterable, Sequence
from datetime import UTC, datetime

from fitdecode.utils import compute_crc

EPOCH = int(datetime(1989, 12, 31, tzinfo=UTC).timestamp())
START = int(datetime(2024, 5, 1, 10, tzinfo=UTC).timestamp()) - EPOCH
SEMICIRCLES = 2**31 / 180

UINT8, UINT32, SINT32, BYTE, UINT16 = 0x02, 0x86, 0x85, 0x0D, 0x84
Field = tuple[int, int, int]  # number, size in bytes, base type
RECORD: tuple[Field, ...] = ((253, 4, UINT32), (0, 4, SINT32), (1, 4, SINT32), (3, 1, UINT8))
HR: tuple[Field, ...] = ((253, 4, UINT32), (0, 2, UINT16), (9, 4, UINT32), (6, 1, UINT8))
RECORD_NUMBER, HR_NUMBER = 20, 132


def definition(local: int, message: int, fields: Sequence[Field]) -> bytes:
    head = struct.pack("<BBBHB", 0x40 | local, 0, 0, message, len(fields))
    return head + b"".join(bytes(field) for field in fields)


def record(second: float, rate: int | None, north: float | None = 40.0, east: float | None = -20.0) -> bytes:
    place = [0x7FFFFFFF if degrees is None else round(degrees * SEMICIRCLES) for degrees in (north, east)]
    return struct.pack("<BIiiB", 0, START + int(second), *place, 0xFF if rate is None else rate)


def fit(*messages: bytes, size: int | None = None) -> bytes:
    body = b"".join(messages)
    head = struct.pack("<BBHI4s", 14, 0x20, 2132, len(body) if size is None else size, b".FIT")
    whole = head + struct.pack("<H", compute_crc(head)) + body
    return whole + struct.pack("<H", compute_crc(whole))


def workout(rates: Iterable[int | None] = tuple(range(70, 130))) -> bytes:
    records = [record(second, rate) for second, rate in enumerate(rates)]
    return fit(definition(0, RECORD_NUMBER, RECORD), *records)
