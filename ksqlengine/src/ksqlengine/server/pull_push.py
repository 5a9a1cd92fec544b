"""SELECT by itself: queries that end with their request.

A push query follows topics from now on (or from their beginning); a pull query reads them to their ends: of a table it takes
each key's last record. Nothing is committed and no group is joined. Where a push query repartitions, records pass from stage to
stage in memory.
"""

from __future__ import annotations

import threading
import time
import uuid
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from typing import Any, NamedTuple

import numpy as np
import polars as pl
import pyarrow as pa

from kafkakit.admin import consumer_config
from kafkakit.batch_consumer import BEGINNING, END, BatchConsumer, MessageBatch, open_batch_consumer
from kafkakit.settings import KafkaSettings
from ksqlengine.execution.builder import build, build_merge
from ksqlengine.execution.operators import DELETED, VALUELESS
from ksqlengine.execution.pipeline import Pipeline
from ksqlengine.execution.stages import Stage, stages
from ksqlengine.execution.writers import Outgoing, WriteSchemas
from ksqlengine.formats.factory import to_json
from ksqlengine.plan.steps import (
    Column,
    Format,
    QueryPlan,
    SourceKind,
    Step,
    ThroughTopicStep,
    rewrite,
)
from ksqlengine.planning.statements import TransientPlan
from ksqlengine.server.session_properties import query_options
from ksqlengine.server.topics_and_schemas import Resources
from ksqlengine.streams.join_merge import Merger
from ksqlengine.streams.progress import PartitionProgress
from ksqlengine.streams.stage_session import Owned, TableFollower, ordered, select
from ksqlengine.types.errors import NotSupportedError

_POLL_SECONDS = 0.2
_STALLED_SECONDS = 30.0
_SERVICE = "transient_"
_ALWAYS_ENDED = 2**62  # records between stages come in the order in which they are made
_ROWS_BEFORE_TIDYING = 500_000
_MOST_CACHED_TABLES, _MOST_CACHED_BYTES = 16, 64_000_000
# Who reads on after longer may miss deletions: brokers keep tombstones for a day by default (delete.retention.ms).
_KEPT_SECONDS = 3_600


class Row(NamedTuple):
    """A row of an answer: its columns, ready for JSON; a `tombstone` has none but a table's key, whose row is gone."""

    columns: list[Any]
    tombstone: bool


class TransientQuery:
    """A SELECT at work."""

    def __init__(
        self, plan: TransientPlan, kafka: KafkaSettings, resources: Resources, properties: dict[str, str]
    ) -> None:
        """Prepare; nothing is read before `rows`.

        Args:
            plan: the query.
            kafka: brokers.
            resources: topics and schemas.
            properties: the session's properties.

        Raises:
            StatementError: a topic isn't there, or the engine can't run such a query.
        """
        self.query_id = f"transient_{uuid.uuid4().hex}"
        self.columns: tuple[Column, ...] = plan.root.schema.columns
        self.keys = plan.keys
        self.push = plan.push
        self.final_message: str | None = None
        self._plan = plan
        self._kafka = kafka
        self._resources = resources
        self._from_beginning = query_options(properties).reset == "earliest" or not plan.push
        self._stop = threading.Event()
        whole = QueryPlan(
            self.query_id,
            "",
            SourceKind.STREAM,
            "",
            None,
            None,
            Format("NONE"),
            Format("JSON"),
            None,
            rewrite(plan.root, _in_json),
        )
        all_stages = stages(whole, _SERVICE)
        if any(stage.tables for stage in all_stages[1:]):
            raise NotSupportedError("A push query that repartitions before a join with a table is")
        self._internal = {stage.sink.topic for stage in all_stages[:-1]}
        self._pipelines = [self._built(stage) for stage in all_stages]
        self._kind = all_stages[0].source.kind
        self._topic = all_stages[0].source.topic
        self._with_headers = any(stage.with_headers for stage in all_stages)
        self._partitions = {topic: resources.partitions(topic) for topic in self._driving_topics(all_stages)}
        self._offsets: dict[str, int] = {}

    def _built(self, stage: Stage) -> Pipeline | Merger:
        if stage.arms:
            return Merger(build_merge(stage, self._resources.schema, WriteSchemas()))
        return build(stage, self._resources.schema, WriteSchemas())

    def _driving_topics(self, all_stages: Sequence[Stage]) -> dict[str, bool]:
        """Return the topics that drive the query, and whether one is read from its beginning."""
        topics: dict[str, bool] = {}
        for stage in all_stages:
            for source in [arm.source for arm in stage.arms] or [stage.source]:
                if source.topic not in self._internal:
                    topics[source.topic] = self._from_beginning or source.kind is SourceKind.TABLE
        return topics

    def stop(self) -> None:
        """End the query."""
        self._stop.set()

    def rows(self) -> Iterator[list[Row]]:
        """Yield rows as they come, of tables those that went too; an empty list now and then while nothing comes."""
        left = self._plan.limit
        for frame in self._push() if self._plan.push else self._pull():
            rows = self._shown(frame)
            if left is not None:
                rows, left = rows[:left], left - len(rows)
            yield rows
            if left is not None and left <= 0:
                self.final_message = "Limit Reached" if self._plan.push or self._kind is SourceKind.STREAM else None
                return
        self.final_message = "Query Completed" if self._plan.push or self._kind is SourceKind.STREAM else None

    def _shown(self, frame: pl.DataFrame) -> list[Row]:
        if not len(frame):
            return []
        if VALUELESS in frame.columns:
            frame = frame.filter(~pl.col(VALUELESS))
        if DELETED not in frame.columns:
            frame = frame.with_columns(pl.lit(False).alias(DELETED))
        elif not self._plan.push:
            frame = frame.filter(~pl.col(DELETED))
        shown = [
            pl.col(name) if name in self.keys else pl.when(~pl.col(DELETED)).then(pl.col(name)).alias(name)
            for name in (column.name for column in self.columns)
        ]
        types = [column.type for column in self.columns]
        return [
            Row([to_json(value, type_) for value, type_ in zip(row, types, strict=True)], tombstone)
            for row, tombstone in zip(frame.select(shown).iter_rows(), frame[DELETED], strict=True)
        ]

    # ------------------------------------------------------------------------------------------------ push
    def _push(self) -> Iterator[pl.DataFrame]:
        config = self._config()
        first = self._pipelines[0]
        tables = TableFollower(first, config, self._resources.ends) if isinstance(first, Pipeline) else None
        owned = {
            partition: Owned(PartitionProgress(position=0), None, 0, 0, time.time())
            for partition in range(self._partitions[self._topic])
        }
        try:
            if tables is not None:
                tables.take_over(owned)
            with open_batch_consumer(config, with_headers=self._with_headers) as consumer:
                self._begin(consumer)
                while not self._stop.is_set():
                    batch = consumer.poll(_POLL_SECONDS)
                    found = list(self._of_poll(batch, tables, owned))
                    yield from found or [pl.DataFrame()]
        finally:
            if tables is not None:
                tables.close()

    def _begin(self, consumer: BatchConsumer) -> None:
        """Read each topic from where the query begins; sides of joins are held from there on."""
        positions = []
        topics = self._driving_topics([pipeline_stage(one) for one in self._pipelines])
        for topic, from_beginning in topics.items():
            for partition in range(self._partitions[topic]):
                positions.append((topic, partition, BEGINNING if from_beginning else END))
        for merger in [pipeline for pipeline in self._pipelines if isinstance(pipeline, Merger)]:
            for side, arm in enumerate(merger.pipeline.arms):
                for partition in range(self._partitions.get(arm.topic, 1)):
                    merger.begin((side, partition), 0)
                    if arm.topic in self._internal:
                        merger.held[side, partition].ended_at = _ALWAYS_ENDED
        consumer.assign(positions)

    def _of_poll(
        self, batch: MessageBatch, tables: TableFollower | None, owned: dict[int, Owned]
    ) -> Iterator[pl.DataFrame]:
        for pipeline in self._pipelines:
            if isinstance(pipeline, Merger):
                pipeline.hold(batch)
                yield from self._merged(pipeline)
        for number, topic in enumerate(batch.topics if len(batch) else ()):
            part = batch if len(batch.topics) == 1 else select(batch, np.flatnonzero(batch.topic == number))
            part = ordered(part, range(self._partitions[topic]))
            for piece in tables.pieces(part, owned) if tables is not None and topic == self._topic else [part]:
                yield from self._fed(piece, topic)

    def _fed(self, batch: MessageBatch, topic: str) -> Iterator[pl.DataFrame]:
        """Push a topic's records through the stages that read it, and on through those behind."""
        for pipeline in self._pipelines:
            if isinstance(pipeline, Merger):
                if topic in self._internal and pipeline.hold(batch):
                    yield from self._merged(pipeline)
            elif pipeline.stage.source.topic == topic and len(batch):
                yield from self._passed_on(pipeline, pipeline.push(batch)[0])

    def _merged(self, merger: Merger) -> Iterator[pl.DataFrame]:
        rows = merger.due()
        if rows:
            topic = merger.pipeline.stage.sink.topic
            yield from self._fed(self._handed_on(topic, merger.pipeline.write(rows, 1)), topic)

    def _passed_on(self, pipeline: Pipeline, results: pl.DataFrame) -> Iterator[pl.DataFrame]:
        topic = pipeline.stage.sink.topic
        if pipeline is self._pipelines[-1]:
            yield results
        elif len(results):
            yield from self._fed(self._handed_on(topic, pipeline.sink.write(results, 1)), topic)

    def _handed_on(self, topic: str, outgoing: Outgoing) -> MessageBatch:
        count, first = len(outgoing), self._offsets.get(topic, 0)
        self._offsets[topic] = first + count
        return MessageBatch(
            topics=(topic,),
            topic=np.zeros(count, dtype=np.int32),
            partition=np.zeros(count, dtype=np.int32),
            offset=np.arange(first, first + count),
            timestamp=np.array(outgoing.timestamps, dtype=np.int64),
            key=pa.array(outgoing.keys, pa.large_binary()),
            value=pa.array(outgoing.values, pa.large_binary()),
        )

    # ------------------------------------------------------------------------------------------------ pull
    def _pull(self) -> Iterator[pl.DataFrame]:
        pipeline, count = self._pipelines[0], self._partitions[self._topic]
        if isinstance(pipeline, Merger):
            raise NotSupportedError("A pull query that joins is")
        # Asked for before the ends: those of a topic that is made anew meanwhile are never taken for the old one's.
        topic_id = self._resources.kafka.topic_id(self._topic) if self._kind is SourceKind.TABLE else ""
        ends = self._resources.ends([(self._topic, partition) for partition in range(count)])
        wanted = {partition: end for (_, partition), end in ends.items()}
        if self._kind is SourceKind.STREAM:
            for batch in self._to_the_end(dict.fromkeys(wanted, BEGINNING), wanted):
                yield pipeline.push(ordered(batch, range(count)))[0]
            return
        rows = self._table_rows(topic_id, wanted)
        if rows is not None and not self._stop.is_set():
            yield pipeline.push(rows)[0]

    def _table_rows(self, topic_id: str, ends: Mapping[int, int]) -> MessageBatch | None:
        """Return the last record of each of the table's keys, of which only what is new is read."""
        with _TABLES.of((self._kafka.bootstrap_servers, topic_id, self._with_headers)) as table:
            table.begin(ends)
            for batch in self._to_the_end(table.positions, ends):
                table.add(ordered(batch, range(len(ends))))
            if self._stop.is_set():
                table.forget()
            return table.end(ends)

    def _to_the_end(self, begin: Mapping[int, int], ends: Mapping[int, int]) -> Iterator[MessageBatch]:
        """Yield the topic's records from some offsets to others, given by partition."""
        left = {partition: end for partition, end in ends.items() if begin[partition] < end}
        deadline = time.monotonic() + _STALLED_SECONDS
        if not left:
            return
        with open_batch_consumer(self._config(), with_headers=self._with_headers) as consumer:
            consumer.assign([(self._topic, partition, begin[partition]) for partition in left])
            while left and not self._stop.is_set():
                batch = consumer.poll(_POLL_SECONDS)
                if len(batch) or batch.ends:
                    deadline = time.monotonic() + _STALLED_SECONDS
                elif time.monotonic() > deadline:
                    raise TimeoutError(
                        f"{self._topic!r} could not be read to its ends {left!r} in {_STALLED_SECONDS:g} s"
                    )
                if len(batch):
                    yield batch
                reached = {partition: offset for _, partition, offset in batch.ends}
                reached.update(dict(zip(batch.partition.tolist(), (batch.offset + 1).tolist(), strict=True)))
                left = {partition: end for partition, end in left.items() if reached.get(partition, 0) < end}

    def _config(self) -> dict[str, Any]:
        config = consumer_config(self._kafka, self.query_id, "earliest")
        return {**config, "enable.partition.eof": True, "fetch.wait.max.ms": 50, "queued.max.messages.kbytes": 16_384}


class TableRows:
    """A table as its topic's last records: what the next pull query needs to read only what is new."""

    def __init__(self) -> None:
        """Begin with nothing read."""
        self.lock = threading.Lock()
        self.positions: dict[int, int] = {}
        self.rows: MessageBatch | None = None
        self._new: list[MessageBatch] = []
        self._read_at = time.monotonic()

    def begin(self, ends: Mapping[int, int]) -> None:
        """Prepare to read on; begin anew where the topic has become another one, or was read too long ago."""
        self._new = []
        age = time.monotonic() - self._read_at
        other = set(self.positions) != set(ends) or any(ends[one] < at for one, at in self.positions.items())
        if other or age > _KEPT_SECONDS:
            self.positions, self.rows = dict.fromkeys(ends, BEGINNING), None

    def add(self, batch: MessageBatch) -> None:
        """Take records that came later."""
        self._new.append(batch)
        if sum(map(len, self._new)) > _ROWS_BEFORE_TIDYING:
            self._tidy()

    def _tidy(self) -> None:
        both = [*([self.rows] if self.rows is not None else []), *self._new]
        self._new = []
        joined = _joined(both)
        self.rows = _last_of_each_key(select(joined, np.argsort(joined.partition, kind="stable")))

    def end(self, ends: Mapping[int, int]) -> MessageBatch | None:
        """Return the last record of each key; keep them unless they are too many."""
        if self._new:
            self._tidy()
        rows, self.positions, self._read_at = self.rows, dict(ends), time.monotonic()
        if rows is not None and rows.key.nbytes + rows.value.nbytes > _MOST_CACHED_BYTES:
            self.forget()
        return rows

    def forget(self) -> None:
        """Keep nothing."""
        self.positions, self.rows, self._new = {}, None, []


class _Tables:
    """The tables that pull queries have read, the last few of them."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._tables: dict[tuple[str, str, bool], TableRows] = {}

    @contextmanager
    def of(self, which: tuple[str, str, bool]) -> Iterator[TableRows]:
        """Give a table's rows to one query at a time; it is known by brokers, its topic's id, and whether headers are read."""
        with self._lock:
            table = self._tables.pop(which, None) or TableRows()
            self._tables[which] = table
            while len(self._tables) > _MOST_CACHED_TABLES:
                self._tables.pop(next(iter(self._tables)))
        with table.lock:
            yield table


_TABLES = _Tables()


def pipeline_stage(pipeline: Pipeline | Merger) -> Stage:
    """Return what a pipeline runs."""
    return pipeline.pipeline.stage if isinstance(pipeline, Merger) else pipeline.stage


def _in_json(step: Step) -> Step:
    """Return a step whose rows go through a topic, if they do, in JSON, which needs no registry."""
    if isinstance(step, ThroughTopicStep):
        return replace(step, key_format=Format("JSON"), value_format=Format("JSON"))
    return step


def _joined(batches: list[MessageBatch]) -> MessageBatch:
    key, value = (pa.concat_arrays([getattr(batch, name) for batch in batches]) for name in ("key", "value"))
    return MessageBatch(
        topics=batches[-1].topics,
        topic=np.concatenate([batch.topic for batch in batches]),
        partition=np.concatenate([batch.partition for batch in batches]),
        offset=np.concatenate([batch.offset for batch in batches]),
        timestamp=np.concatenate([batch.timestamp for batch in batches]),
        key=key,
        value=value,
        headers=tuple(one for batch in batches for one in batch.headers or ()) or None,
    )


def _last_of_each_key(batch: MessageBatch) -> MessageBatch:
    frame = pl.DataFrame({"partition": batch.partition, "key": pl.from_arrow(batch.key)}).with_row_index("row")
    last = frame.group_by("partition", "key").agg(pl.col("row").last())
    # In order of the keys' bytes, as a state store of Kafka Streams holds them.
    return select(batch, last.sort("partition", "key")["row"].to_numpy().astype(np.int64))
