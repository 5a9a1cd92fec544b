"""Events that came too late for their windows, and the results that these would have given with them.

A late event changes nothing that the query wrote: its window has been closed by events that came before it. Whoever would have
had an alert with it was missed, and is named. Pure: events and results in, counts and rows out.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import polars as pl

from heartwatch.verify.batch import KEY, OFFSET, PARTITION, TIMESTAMP

WINDOW_MS = "window_ms"
_NAMED = 20
_FOREVER_MS = 10**14


@dataclass(frozen=True)
class LateRules:
    """When an event is late.

    Attributes:
        time_field: the event's field with its time.
        window_ms: length of a window, ms.
        grace_ms: how long after a window's end its events may come, in stream time, ms.
        max_ahead_ms: an event that lies further ahead of its record's own time moves no time, ms.
    """

    time_field: str
    window_ms: int
    grace_ms: int
    max_ahead_ms: int


def without_lateness(variables: Mapping[str, str]) -> dict[str, str]:
    """Return the variables of a batch computation for which no event is late."""
    return {**variables, "grace_ms": str(_FOREVER_MS)}


def late_events(events: pl.DataFrame, rules: LateRules, judged_from: Mapping[int, int]) -> pl.DataFrame:
    """Return the events whose windows had closed when they came.

    Args:
        events: events of keys that the table knows, with key, partition, offset and timestamp.
        rules: when an event is late.
        judged_from: by partition, the first offset that is of interest; those before only say how far time had come.

    Returns:
        key, partition and `WINDOW_MS` (start of its window, ms since the epoch) of each.
    """
    time_ms = pl.col(rules.time_field).dt.epoch("ms")
    start = time_ms - time_ms % rules.window_ms
    timed = (
        events.sort(PARTITION, OFFSET)
        .filter(time_ms <= pl.col(TIMESTAMP) + rules.max_ahead_ms)
        .with_columns(start.alias(WINDOW_MS), time_ms.cum_max().over(PARTITION).alias("stream_ms"))
    )
    first = pl.col(PARTITION).replace_strict(dict(judged_from), default=0, return_dtype=pl.Int64)
    is_late = pl.col(WINDOW_MS) + rules.window_ms + rules.grace_ms <= pl.col("stream_ms")
    return timed.filter(is_late & (pl.col(OFFSET) >= first)).select(KEY, PARTITION, WINDOW_MS)


def by_window(late: pl.DataFrame) -> list[dict[str, Any]]:
    """Return how many events came too late for each window, and of how many people, oldest first."""
    counts = late.group_by(WINDOW_MS).agg(pl.len().alias("late events"), pl.col(KEY).n_unique().alias("people"))
    shown = counts.sort(WINDOW_MS).select(_moment(WINDOW_MS).alias("window"), "late events", "people")
    return shown.to_dicts()


def missed_results(
    late: pl.DataFrame, computed: pl.DataFrame, found: pl.DataFrame, key: str, time_field: str
) -> pl.DataFrame:
    """Return key and window of the results that late events would have given, and that the query didn't write.

    Args:
        late: the late events.
        computed: results of the batch computation without lateness.
        found: the query's results.
        key: field of the results with their key.
        time_field: field of the results with their window's start.
    """
    windows = late.select(pl.col(KEY).alias(key), WINDOW_MS).unique()
    wanted = computed.select(pl.col(key).cast(pl.String), pl.col(time_field).dt.epoch("ms").alias(WINDOW_MS))
    written = found.select(pl.col(key).cast(pl.String), pl.col(time_field).dt.epoch("ms").alias(WINDOW_MS))
    on = [key, WINDOW_MS]
    return wanted.join(windows, on=on, how="semi").join(written, on=on, how="anti").sort(WINDOW_MS, key)


def missed_rows(missed: pl.DataFrame, key: str) -> list[dict[str, str]]:
    """Return the missed results as rows for people."""
    return missed.select(pl.col(key).alias("person"), _moment(WINDOW_MS).alias("window")).to_dicts()


def missed_sentence(rows: list[dict[str, str]]) -> str:
    """Return whose results were missed, in one sentence; the first of many."""
    named = ", ".join(f"{row['person']} (window of {row['window']} UTC)" for row in rows[:_NAMED])
    more = f" and {len(rows) - _NAMED:,} more" if len(rows) > _NAMED else ""
    count = "1 alert was" if len(rows) == 1 else f"{len(rows):,} alerts were"
    return f"{count} missed because events came after their window had closed: {named}{more}"


def _moment(name: str) -> pl.Expr:
    return pl.from_epoch(pl.col(name), "ms").dt.strftime("%Y-%m-%d %H:%M:%S")
