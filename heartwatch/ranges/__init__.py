"""Each person's heart-rate range: generated, read from files, derived from recordings, loaded into Postgres.

Ranges travel as Polars frames with the columns of `SCHEMA`, a chunk at a time.
"""

from __future__ import annotations

import polars as pl

from heartwatch.errors import HeartWatchError

SCHEMA = pl.Schema({"user_id": pl.Int32, "min_heart_rate": pl.Int32, "max_heart_rate": pl.Int32})
"""Columns of a frame of ranges: the user, and the ends of the user's personal range in beats a minute."""

LOWEST_HEART_RATE, HIGHEST_HEART_RATE = 20, 250
"""Beats a minute outside these can't be a living person's: such a row is a mistake."""


class HistoricalError(HeartWatchError):
    """Ranges can't be made, read, derived or loaded; the message names the thing, the value and the remedy."""
