"""The frame over which the tests evaluate expressions: ordinary values; NULLs; negative, zero or empty values."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import date, datetime, time
from decimal import Decimal
from typing import Any

import polars as pl

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
    SqlType,
    StructType,
)

MONEY = DecimalType(precision=4, scale=2)
TYPES: dict[str, SqlType] = {
    "I": INTEGER, "J": INTEGER, "L": BIGINT, "D": DOUBLE, "S": STRING, "B": BOOLEAN, "Y": BYTES, "M1": MONEY, "M2": MONEY,
    "A": ArrayType(element=INTEGER), "M": MapType(key=STRING, value=INTEGER),
    "ST": StructType(fields=(("X", INTEGER), ("Y", STRING))), "T": TIMESTAMP, "DT": DATE, "TM": TIME,
}  # fmt: skip
ROWS: list[dict[str, Any]] = [
    {
        "I": 7, "J": 2, "L": 10_000_000_000, "D": 1.5, "S": "abc", "B": True, "Y": b"\x01\x02", "M1": Decimal("10.10"),
        "M2": Decimal("2.00"), "A": [1, 2, 3], "M": [{"key": "a", "value": 1}], "ST": {"X": 1, "Y": "y"},
        "T": datetime(2020, 1, 2, 3, 4, 5, 678000), "DT": date(2020, 1, 2), "TM": time(1, 2, 3),
    },
    dict.fromkeys(TYPES) | {"J": 2},
    {
        "I": -7, "J": 0, "L": 2, "D": -2.5, "S": "12", "B": False, "Y": b"", "M1": Decimal("1.00"), "M2": Decimal("0.00"),
        "A": [], "M": [], "ST": {"X": None, "Y": None}, "T": datetime(1970, 1, 1), "DT": date(1970, 1, 1), "TM": time(0, 0),
    },
]  # fmt: skip
FRAME = pl.DataFrame(ROWS, schema={name: type_.polars for name, type_ in TYPES.items()})


@dataclass(frozen=True)
class Evaluated:
    """An expression's type, its value in each of the three rows, and the messages of each row's errors."""

    type: SqlType
    values: list[Any]
    errors: list[list[str]]
