"""Date and time functions."""

from __future__ import annotations

import polars as pl

from heartwatch.engine.functions.registry import register
from heartwatch.engine.types import BIGINT, TIMESTAMP

_DATE_TIME = "DATE / TIME"

register("UNIX_TIMESTAMP", _DATE_TIME, "Milliseconds since the epoch of a timestamp.", (TIMESTAMP,), BIGINT,
         lambda value: value.dt.epoch("ms"))  # fmt: skip
register("FROM_UNIXTIME", _DATE_TIME, "Timestamp of milliseconds since the epoch.", (BIGINT,), TIMESTAMP,
         lambda value: value.cast(pl.Datetime("ms")))  # fmt: skip
