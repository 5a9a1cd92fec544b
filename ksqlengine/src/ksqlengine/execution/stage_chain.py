"""A query's stages in memory: what a stage writes into a topic of the query's own goes straight on to the stages that read it.

Pull queries, push queries, the test runner and the Python API run queries this way. They differ in where records come from and
in the order in which the two sides of a join are joined (`SideOrder`).
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from itertools import repeat
from typing import Protocol

import numpy as np
import polars as pl
import pyarrow as pa

from kafkakit.batch_consumer import Headers, MessageBatch
from ksqlengine.execution.builder import build, build_merge
from ksqlengine.execution.pipeline import ORDER, MergePipeline, Pipeline
from ksqlengine.execution.readers import Rejected, SchemaLookup
from ksqlengine.execution.stages import Stage
from ksqlengine.execution.writers import Outgoing, WriteSchemas
from ksqlengine.plan.steps import ROWOFFSET

Report = Callable[[Sequence[Rejected]], None]


class SideOrder(Protocol):
    """Decides in which order the records of a join's two sides are joined."""

    pipeline: MergePipeline

    def hold(self, batch: MessageBatch) -> int:
        """Read a batch's records of both sides; return how many there were."""

    def due(self) -> list[pl.DataFrame]:
        """Return, and hold no longer, the rows whose turn has come (see `MergePipeline.write`)."""


class ArrivalOrder:
    """Joins records in the order in which they are fed, as ksqlDB's test driver does."""

    def __init__(self, pipeline: MergePipeline, report: Report) -> None:
        """Begin with nothing held; `report` gets the records that can't be read."""
        self.pipeline = pipeline
        self._report = report
        self._due: list[pl.DataFrame] = []

    def hold(self, batch: MessageBatch) -> int:
        """Read a batch of one topic for each side that reads it."""
        sides = [side for side, arm in enumerate(self.pipeline.arms) if arm.topic in batch.topics]
        for side in sides:
            rows, rejects = self.pipeline.push(side, batch)
            self._report(rejects)
            if len(rows):
                self._due.append(rows.with_columns(pl.col(ROWOFFSET).alias(ORDER)))
        return len(sides) * len(batch)

    def due(self) -> list[pl.DataFrame]:
        """Return the rows read since the last call."""
        rows, self._due = self._due, []
        return rows


@dataclass(frozen=True)
class StageResult:
    """Rows that a query's last stage gives, and the headers of the last record that they were made of."""

    rows: pl.DataFrame
    headers: Headers


def arrival_order(report: Report) -> Callable[[MergePipeline], SideOrder]:
    """Return what orders joins by arrival; `report` gets the records that can't be read."""
    return lambda pipeline: ArrivalOrder(pipeline, report)


class StageChain:
    """The stages of one query, chained in memory."""

    def __init__(
        self,
        stages: Sequence[Stage],
        schemas: SchemaLookup,
        write_schemas: Callable[[Stage], WriteSchemas],
        side_order: Callable[[MergePipeline], SideOrder],
        report: Report = lambda rejects: None,
    ) -> None:
        """Build the stages' operators.

        Args:
            stages: the query's stages, upstream ones first.
            schemas: gives the Avro schema of an id.
            write_schemas: gives what a stage's results are written with.
            side_order: makes what orders a join's two sides.
            report: gets the records that can't be read or computed; what `side_order` makes reports its own.
        """
        self.internal_topics = frozenset(stage.sink.topic for stage in stages if stage.sink.internal)
        self.internal_ends: dict[str, int] = {}
        self._report = report
        self.pipelines: list[Pipeline | SideOrder] = [
            side_order(build_merge(stage, schemas, write_schemas(stage)))
            if stage.arms
            else build(stage, schemas, write_schemas(stage))
            for stage in stages
        ]

    @property
    def side_orders(self) -> list[SideOrder]:
        """What orders the sides of the query's joins."""
        return [pipeline for pipeline in self.pipelines if not isinstance(pipeline, Pipeline)]

    @property
    def last(self) -> Pipeline:
        """The stage that gives the query's results.

        Raises:
            TypeError: the query's last stage only puts the sides of a join in order, which no plan has.
        """
        last = self.pipelines[-1]
        if not isinstance(last, Pipeline):
            raise TypeError(f"the last stage of a query gives its results, not {type(last).__name__}")
        return last

    def apply_to_tables(self, batch: MessageBatch) -> None:
        """Apply changes of a topic, ordered by partition, to the joined tables that are over it."""
        for pipeline in self.pipelines:
            if not isinstance(pipeline, Pipeline) or pipeline.keys is None:
                continue
            for table in pipeline.tables:
                if table.topic in batch.topics:
                    self._report(table.apply(batch, pipeline.keys))

    def feed(self, batch: MessageBatch) -> Iterator[StageResult]:
        """Process messages of one topic, ordered by partition, and all that follows from them inside the query."""
        for pipeline in self.pipelines if len(batch) else ():
            yield from self._pushed(pipeline, batch)

    def feed_sides(self, batch: MessageBatch) -> Iterator[StageResult]:
        """Let the joins' sides read messages of any topics, and go on with the rows whose turn comes, if only with time."""
        for order in self.side_orders:
            order.hold(batch)
            yield from self._due(order, ())

    def feed_pipelines(self, batch: MessageBatch) -> Iterator[StageResult]:
        """Process messages of one topic as `feed` does, but for the sides of joins, which `feed_sides` has given them to."""
        for pipeline in self.pipelines if len(batch) else ():
            if isinstance(pipeline, Pipeline):
                yield from self._pushed(pipeline, batch)

    def _pushed(self, pipeline: Pipeline | SideOrder, batch: MessageBatch) -> Iterator[StageResult]:
        # Kafka Streams gives a result the headers of the record that is being processed, even one that comes from a state.
        headers = batch.headers[-1] if batch.headers else ()
        if not isinstance(pipeline, Pipeline):
            if pipeline.hold(batch):
                yield from self._due(pipeline, headers)
        elif pipeline.stage.source.topic in batch.topics:
            rows = self._results(pipeline, batch)
            if not len(rows):
                return
            if pipeline.sink.spec.internal:
                yield from self.feed(self._handed_on(pipeline.sink.spec.topic, pipeline.sink.write(rows, 1), headers))
            else:
                yield StageResult(rows, headers)

    def _results(self, pipeline: Pipeline, batch: MessageBatch) -> pl.DataFrame:
        rows, rejects = pipeline.push(batch)
        self._report(rejects)
        return rows

    def _due(self, order: SideOrder, headers: Headers) -> Iterator[StageResult]:
        rows = order.due()
        if rows:
            records = order.pipeline.write(rows, 1)
            yield from self.feed(self._handed_on(order.pipeline.sink.spec.topic, records, headers))

    def _handed_on(self, topic: str, records: Outgoing, headers: Headers) -> MessageBatch:
        """Return records for one of the query's own topics, which has one partition here, as their reader gets them."""
        first = self.internal_ends.get(topic, 0)
        self.internal_ends[topic] = first + len(records)
        return batch_of(topic, records, first, headers)


def batch_of(topic: str, records: Outgoing, first: int, headers: Headers = ()) -> MessageBatch:
    """Return records as messages of a topic of one partition.

    Args:
        topic: the topic.
        records: in order.
        first: offset of the first one.
        headers: headers of the records that have none of their own.
    """
    count = len(records)
    return MessageBatch(
        topics=(topic,),
        topic=np.zeros(count, np.int32),
        partition=np.zeros(count, np.int32),
        offset=np.arange(first, first + count),
        timestamp=np.array(records.timestamps, np.int64),
        key=pa.array(records.keys, pa.large_binary()),
        value=pa.array(records.values, pa.large_binary()),
        headers=tuple(map(tuple, records.headers or repeat(headers, count))),
    )
