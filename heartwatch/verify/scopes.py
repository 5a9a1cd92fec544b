"""Which results a check looks at: those of a run, or those that have been settled since the check before.

Late or not is decided by the events before. So a check of what is new also reads some of the events before, and leaves out the
windows that those may have touched, as well as those that no event has closed yet: the next check looks at them.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import polars as pl

from heartwatch.verify.batch import OFFSET, PARTITION
from heartwatch.verify.topics import Offsets, PipelineTopics
from kafkakit.topic_reader import NewRecords


@dataclass(frozen=True)
class Scope:
    """Which results are looked at.

    Attributes:
        since: by topic and partition, the first offset.
        first_ms: by partition, the first window's start; a single value for all.
        last_ms: by partition, where windows stop that events have closed; None to wait for all.
    """

    since: Offsets
    first_ms: Mapping[int, int] | int
    last_ms: Mapping[int, int] | None = None

    def holds(self, time_field: str) -> pl.Expr:
        """Return which rows are in the scope; they have the columns partition and `time_field`."""
        start = pl.col(time_field).dt.epoch("ms")
        if isinstance(self.first_ms, int):
            inside = start >= self.first_ms
        else:
            inside = start >= pl.col(PARTITION).replace_strict(self.first_ms, default=None, return_dtype=pl.Int64)
        if self.last_ms is None:
            return inside
        return inside & (start <= pl.col(PARTITION).replace_strict(self.last_ms, default=None, return_dtype=pl.Int64))


def scope_of_new(topics: PipelineTopics, known: pl.DataFrame, new: NewRecords) -> Scope:
    """Return the scope of events of known keys: windows after those of the events before, up to those that events have closed.

    Args:
        topics: of which analytic.
        known: the events.
        new: what was read.
    """
    time_field = topics.analytic.topics[topics.analytic.stream].event_time or ""
    names = topics.analytic.variables(topics.settings.pipeline.variables)
    closing = int(names["window_ms"]) + int(names["grace_ms"])
    is_early = pl.col(OFFSET) < pl.col(PARTITION).replace_strict(new.judged_from, return_dtype=pl.Int64)
    time_ms = pl.col(time_field).dt.epoch("ms")
    bounds = known.group_by(PARTITION).agg(first=time_ms.filter(is_early).max(), last=time_ms.max() - closing)
    first = {partition: 0 for partition, offset in new.judged_from.items() if offset == 0}
    first |= {partition: time + 1 for partition, time in bounds.select(PARTITION, "first").drop_nulls().iter_rows()}
    last = dict(bounds.select(PARTITION, "last").iter_rows())
    begins = {partition: begin for partition, (begin, _) in new.ranges.items()}
    return Scope({topics.analytic.stream: begins, topics.analytic.results: {}}, first, last)


def next_judged_from(topics: PipelineTopics, known: pl.DataFrame, new: NewRecords, scope: Scope) -> dict[int, int]:
    """Return by partition from which event on the next check judges, so that its windows begin after those of this scope.

    Args:
        topics: of which analytic.
        known: the events.
        new: what was read.
        scope: whose windows are judged now.
    """
    time_ms = pl.col(topics.analytic.topics[topics.analytic.stream].event_time or "").dt.epoch("ms")
    last = pl.col(PARTITION).replace_strict(scope.last_ms or {}, default=None, return_dtype=pl.Int64)
    later = known.filter(time_ms > last).group_by(PARTITION).agg(pl.col(OFFSET).min())
    return {partition: end for partition, (_, end) in new.ranges.items()} | dict(later.iter_rows())
