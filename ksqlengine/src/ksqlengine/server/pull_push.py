"""SELECT by itself: queries that end with their request.

A push query follows topics from now on (or from their beginning); a pull query reads them to their ends: of a table it takes
each key's last record. Nothing is committed and no group is joined. Where a push query repartitions, records pass from stage to
stage in memory.
"""

from __future__ import annotations

import itertools
import secrets
import threading
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any, NamedTuple

import numpy as np
import polars as pl
import pyarrow as pa

from kafkakit.admin import consumer_config
from kafkakit.batch_consumer import BEGINNING, BatchConsumer, MessageBatch, open_batch_consumer
from kafkakit.settings import KafkaSettings
from ksqlengine.execution.operators import DELETED
from ksqlengine.execution.pipeline import MergePipeline, Pipeline
from ksqlengine.execution.stage_chain import StageResult
from ksqlengine.formats.values import to_answer
from ksqlengine.plan.steps import Column, SourceKind
from ksqlengine.planning.transient_query import TransientPlan
from ksqlengine.server.session_properties import query_options
from ksqlengine.server.topics_and_schemas import Resources
from ksqlengine.server.transient_stages import TransientStages, last_of_each_key, reads_nothing, still_stored
from ksqlengine.streams.batches import ordered, select
from ksqlengine.streams.join_merge import Merger
from ksqlengine.streams.progress import OwnedPartition, PartitionProgress
from ksqlengine.streams.tables import TableFollower
from ksqlengine.types.errors import NotSupportedError

_POLL_SECONDS = 0.2
_STALLED_SECONDS = 30.0
_ALWAYS_ENDED = 2**62  # records between stages come in the order in which they are made
_ROWS_BEFORE_TIDYING = 500_000
_MOST_CACHED_TABLES, _MOST_CACHED_BYTES = 16, 64_000_000
# Who reads on after longer may miss deletions: brokers keep tombstones for a day by default (delete.retention.ms).
_KEPT_SECONDS = 3_600


class Row(NamedTuple):
    """A row of an answer: its columns, ready for JSON; a `tombstone` has none but a table's key, whose row is gone."""

    columns: list[Any]
    tombstone: bool


class RunningTransientQuery:
    """A running SELECT."""

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
        self.query_id = _query_id(plan)
        self.columns: tuple[Column, ...] = plan.root.schema.columns
        self.keys = plan.keys
        self.push = plan.push
        self.final_message: str | None = None
        self._plan = plan
        self._kafka = kafka
        self._resources = resources
        self._from_beginning = query_options(properties).reset == "earliest" or not plan.push
        self._stop = threading.Event()
        self._mergers: list[Merger] = []
        self._stages = TransientStages(plan, self.query_id, resources.schema, self._merger)
        self._topic = self._stages.topic
        self._partitions = {topic: resources.partitions(topic) for topic in self._stages.driving_topics}
        # Asked for before the client hears of the query: what is written once it has, the query sees.
        self._begins = self._begin_offsets()

    def _merger(self, pipeline: MergePipeline) -> Merger:
        """Return what joins both sides in order of event time."""
        self._mergers.append(Merger(pipeline))
        return self._mergers[-1]

    def _begin_offsets(self) -> dict[tuple[str, int], int]:
        """Return where a push query begins to read each partition."""
        if not self.push:
            return {}
        driving = self._stages.driving_topics
        begins = {(topic, number): BEGINNING for topic in driving for number in range(self._partitions[topic])}
        newest = [place for place in begins if not self._from_beginning and driving[place[0]] is SourceKind.STREAM]
        return begins | (self._resources.ends(newest) if newest else {})

    @property
    def ends_with_message(self) -> bool:
        """Whether the answer says at its end why it ends: not that of a pull query on a table."""
        return self.push or self._stages.kind is SourceKind.STREAM

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
                self._finish("Limit Reached")
                return
        self._finish("Query Completed")

    def _finish(self, message: str) -> None:
        self.final_message = message if self.ends_with_message else None

    def _shown(self, frame: pl.DataFrame) -> list[Row]:
        if not len(frame):
            return []
        shown = self._stages.visible(frame)
        types = [column.type for column in self.columns]
        return [
            Row([to_answer(value, type_) for value, type_ in zip(row, types, strict=True)], tombstone)
            for row, tombstone in zip(shown.drop(DELETED).iter_rows(), shown[DELETED], strict=True)
        ]

    # ------------------------------------------------------------------------------------------------ push
    def _push(self) -> Iterator[pl.DataFrame]:
        config = self._config()
        first = self._stages.chain.pipelines[0]
        tables = TableFollower(first, config, self._resources.ends) if isinstance(first, Pipeline) else None
        owned = {
            partition: OwnedPartition(PartitionProgress(position=0), None, 0, 0)
            for partition in range(self._partitions[self._topic])
        }
        try:
            if tables is not None:
                tables.take_over(owned)
            with open_batch_consumer(config, with_headers=self._stages.with_headers) as consumer:
                self._begin(consumer)
                while not self._stop.is_set():
                    batch = consumer.poll(_POLL_SECONDS)
                    found = [result.rows for result in self._of_poll(batch, tables, owned)]
                    yield from found or [pl.DataFrame()]
        finally:
            if tables is not None:
                tables.close()

    def _begin(self, consumer: BatchConsumer) -> None:
        """Read each topic from where the query begins; sides of joins are held from there on."""
        internal = self._stages.chain.internal_topics
        for merger in self._mergers:
            for side, arm in enumerate(merger.pipeline.arms):
                for partition in range(self._partitions.get(arm.topic, 1)):
                    merger.begin((side, partition), 0)
                    if arm.topic in internal:
                        merger.held[side, partition].ended_at = _ALWAYS_ENDED
        consumer.assign([(topic, partition, offset) for (topic, partition), offset in self._begins.items()])

    def _of_poll(
        self, batch: MessageBatch, tables: TableFollower | None, owned: dict[int, OwnedPartition]
    ) -> Iterator[StageResult]:
        chain = self._stages.chain
        yield from chain.feed_sides(batch)
        for number, topic in enumerate(batch.topics if len(batch) else ()):
            part = batch if len(batch.topics) == 1 else select(batch, np.flatnonzero(batch.topic == number))
            part = ordered(part, range(self._partitions[topic]))
            for piece in tables.pieces(part, owned) if tables is not None and topic == self._topic else [part]:
                yield from chain.feed_pipelines(piece)

    # ------------------------------------------------------------------------------------------------ pull
    def _pull(self) -> Iterator[pl.DataFrame]:
        if self._stages.chain.side_orders:
            raise NotSupportedError("A pull query that joins")
        if reads_nothing(self._plan):
            return
        count, is_stream = self._partitions[self._topic], self._stages.kind is SourceKind.STREAM
        # Asked for before the ends: those of a topic that is made again meanwhile are never taken for the old one's.
        topic_id = "" if is_stream else self._resources.kafka.topic_id(self._topic)
        ends = self._resources.ends([(self._topic, partition) for partition in range(count)])
        wanted = {partition: end for (_, partition), end in ends.items()}
        if is_stream:
            for batch in self._to_the_end(dict.fromkeys(wanted, BEGINNING), wanted):
                yield from self._results(ordered(batch, range(count)))
            return
        rows = self._table_rows(topic_id, wanted)
        if rows is not None and not self._stop.is_set():
            yield from self._results(rows)

    def _results(self, batch: MessageBatch) -> list[pl.DataFrame]:
        return [result.rows for result in self._stages.chain.feed(batch)] or [pl.DataFrame()]

    def _table_rows(self, topic_id: str, ends: Mapping[int, int]) -> MessageBatch | None:
        """Return the last record of each of the table's keys, of which only what is new is read."""
        with _TABLES.of((self._kafka.bootstrap_servers, topic_id, self._stages.with_headers)) as table:
            table.begin(ends)
            for batch in self._to_the_end(table.positions, ends):
                table.add(ordered(batch, range(len(ends))))
            if self._stop.is_set():
                table.forget()
            rows = table.end(ends)
        window = self._plan.source.key_window
        is_result = self._plan.source.query_id is not None
        return rows if rows is None or window is None or not is_result else still_stored(rows, window)

    def _to_the_end(self, begin: Mapping[int, int], ends: Mapping[int, int]) -> Iterator[MessageBatch]:
        """Yield the topic's records from some offsets to others, given by partition."""
        left = {partition: end for partition, end in ends.items() if begin[partition] < end}
        deadline = time.monotonic() + _STALLED_SECONDS
        if not left:
            return
        with open_batch_consumer(self._config(), with_headers=self._stages.with_headers) as consumer:
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
        config = consumer_config(self._kafka, self._resources.reader_group(self.query_id), "earliest")
        return {**config, "enable.partition.eof": True, "fetch.wait.max.ms": 50, "queued.max.messages.kbytes": 16_384}


_PULL_NUMBERS = itertools.count(round(time.time() * 1000))


def _query_id(plan: TransientPlan) -> str:
    """Return an id as ksqlDB's; only a table's pull queries are numbered by time."""
    if not plan.push and plan.source.kind is SourceKind.TABLE:
        return f"query_{next(_PULL_NUMBERS)}"
    return f"transient_{plan.alias}_{secrets.randbelow(2**63 - 10**18) + 10**18}"


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
        """Prepare to read on; begin again where the topic has become another one, or was read too long ago."""
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
        self.rows = last_of_each_key(select(joined, np.argsort(joined.partition, kind="stable")))

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
        headers=tuple(headers for batch in batches for headers in batch.headers or ()) or None,
    )
