"""SELECT and PRINT by themselves: queries that end with their request.

A push query follows topics from now on (or from their beginning); a pull query reads them to their ends: of a table it takes
each key's last record. Nothing is committed and no group is joined. Where a push query repartitions, records pass from stage to
stage in memory.
"""

from __future__ import annotations

import threading
import time
import uuid
from collections.abc import Iterator
from dataclasses import replace
from datetime import UTC, datetime
from typing import Any

import numpy as np
import orjson
import polars as pl
import pyarrow as pa

from heartwatch.batch_consumer import BEGINNING, END, BatchConsumer, MessageBatch, open_batch_consumer
from heartwatch.engine import syntax as ast
from heartwatch.engine.analyzer import TransientPlan
from heartwatch.engine.catalog import children
from heartwatch.engine.errors import NotSupportedError, StatementError
from heartwatch.engine.formats import to_json
from heartwatch.engine.operators import DELETED
from heartwatch.engine.options import query_options
from heartwatch.engine.plan import (
    Column,
    Format,
    QueryPlan,
    RepartitionStep,
    SourceKind,
    Step,
    StreamTableJoinStep,
    TableGroupStep,
    TwoSidedJoinStep,
)
from heartwatch.engine.resources import Resources
from heartwatch.engine.runtime import Owned, TableFollower, ordered, select
from heartwatch.engine.state import Progress
from heartwatch.engine.topology import Outgoing, Pipeline, WriteSchemas, build, stages
from heartwatch.kafka import consumer_config
from heartwatch.settings import KafkaSettings

_POLL_SECONDS = 0.2
_STALLED_SECONDS = 30.0
_SERVICE = "transient_"

Row = list[Any]


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
            _in_json(plan.root),
        )
        all_stages = stages(whole, _SERVICE)
        if any(stage.arms for stage in all_stages):
            raise NotSupportedError("A push query that joins two streams or two tables is")
        if any(stage.tables for stage in all_stages[1:]):
            raise NotSupportedError("A push query that repartitions before a join is")
        self._pipelines = [build(stage, resources.schema, WriteSchemas()) for stage in all_stages]
        source = all_stages[0].source
        self._topic, self._kind, self._with_headers = source.topic, source.kind, all_stages[0].with_headers
        self._partitions = resources.partitions(source.topic)
        self._offsets = [0] * len(self._pipelines)

    def stop(self) -> None:
        """End the query."""
        self._stop.set()

    def rows(self) -> Iterator[list[Row]]:
        """Yield rows, ready for JSON, as they come; an empty list now and then while nothing comes."""
        left = self._plan.limit
        for frame in self._push() if self._plan.push else self._pull():
            rows = self._shown(frame)
            if left is not None:
                rows, left = rows[:left], left - len(rows)
            yield rows
            if left is not None and left <= 0:
                return

    def _shown(self, frame: pl.DataFrame) -> list[Row]:
        if not len(frame):
            return []
        if DELETED in frame.columns:
            frame = frame.filter(~pl.col(DELETED))
        types = [column.type for column in self.columns]
        names = [column.name for column in self.columns]
        return [
            [to_json(value, type_) for value, type_ in zip(row, types, strict=True)]
            for row in frame.select(names).iter_rows()
        ]

    # ------------------------------------------------------------------------------------------------ push
    def _push(self) -> Iterator[pl.DataFrame]:
        first = self._pipelines[0]
        begin = BEGINNING if self._from_beginning or self._kind is SourceKind.TABLE else END
        config = self._config()
        tables = TableFollower(first, config, self._resources.ends)
        owned = {
            partition: Owned(Progress(position=0), None, 0, 0, time.time()) for partition in range(self._partitions)
        }
        try:
            tables.take_over(owned)
            with open_batch_consumer(config, with_headers=self._with_headers) as consumer:
                consumer.assign([(self._topic, partition, begin) for partition in range(self._partitions)])
                while not self._stop.is_set():
                    batch = ordered(consumer.poll(_POLL_SECONDS), range(self._partitions))
                    if not len(batch):
                        yield pl.DataFrame()
                    for piece in tables.pieces(batch, owned) if len(batch) else ():
                        yield self._through(piece, 0)
        finally:
            tables.close()

    def _through(self, batch: MessageBatch, number: int) -> pl.DataFrame:
        """Push a batch through the stages from one on."""
        pipeline = self._pipelines[number]
        results, _ = pipeline.push(batch)
        if number == len(self._pipelines) - 1 or not len(results):
            return results if number == len(self._pipelines) - 1 else pl.DataFrame()
        return self._through(self._handed_on(pipeline, pipeline.sink.write(results, 1), number), number + 1)

    def _handed_on(self, pipeline: Pipeline, outgoing: Outgoing, number: int) -> MessageBatch:
        count, first = len(outgoing), self._offsets[number]
        self._offsets[number] += count
        return MessageBatch(
            topics=(pipeline.stage.sink.topic,),
            topic=np.zeros(count, dtype=np.int32),
            partition=np.zeros(count, dtype=np.int32),
            offset=np.arange(first, first + count),
            timestamp=np.array(outgoing.timestamps, dtype=np.int64),
            key=pa.array(outgoing.keys, pa.large_binary()),
            value=pa.array(outgoing.values, pa.large_binary()),
        )

    # ------------------------------------------------------------------------------------------------ pull
    def _pull(self) -> Iterator[pl.DataFrame]:
        pipeline = self._pipelines[0]
        batches: list[MessageBatch] = []
        for batch in self._to_the_end():
            if self._kind is SourceKind.STREAM:
                yield pipeline.push(ordered(batch, range(self._partitions)))[0]
            else:
                batches.append(batch)
        if batches:
            yield pipeline.push(_last_of_each_key(ordered(_joined(batches), range(self._partitions))))[0]

    def _to_the_end(self) -> Iterator[MessageBatch]:
        partitions = [(self._topic, partition) for partition in range(self._partitions)]
        left = {partition: end for (_, partition), end in self._resources.ends(partitions).items()}
        deadline = time.monotonic() + _STALLED_SECONDS
        with open_batch_consumer(self._config(), with_headers=self._with_headers) as consumer:
            consumer.assign([(topic, partition, BEGINNING) for topic, partition in partitions])
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


def _in_json(step: Step) -> Step:
    """Return a plan whose repartition steps hand records on in JSON, which needs no registry."""
    if isinstance(step, RepartitionStep | TableGroupStep):
        step = replace(step, key_format=Format("JSON"), value_format=Format("JSON"))
    below = children(step)
    if not below:
        return step
    if isinstance(step, StreamTableJoinStep | TwoSidedJoinStep):
        return replace(step, left=_in_json(step.left))
    return replace(step, source=_in_json(below[0]))  # type: ignore[call-arg]


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
    last = frame.group_by("partition", "key", maintain_order=True).agg(pl.col("row").last())["row"].sort()
    return select(batch, last.to_numpy().astype(np.int64))


# ---------------------------------------------------------------------------------------------------------- PRINT
def print_topic(
    statement: ast.PrintTopic, kafka: KafkaSettings, resources: Resources, stop: threading.Event
) -> Iterator[bytes]:
    """Yield a topic's records as lines of text; nothing now and then while none comes.

    Raises:
        StatementError: there is no such topic.
    """
    if not resources.kafka.describe([statement.topic]):
        raise StatementError(
            f"Could not find topic '{statement.topic}', or the KSQL user does not have permissions to list the topic."
        )
    partitions = resources.partitions(statement.topic)
    config = {**consumer_config(kafka, f"print_{uuid.uuid4().hex}", "earliest"), "fetch.wait.max.ms": 50}
    return _printed(statement, partitions, open_batch_consumer(config), resources, stop)


def _printed(
    statement: ast.PrintTopic, partitions: int, consumer: BatchConsumer, resources: Resources, stop: threading.Event
) -> Iterator[bytes]:
    begin = BEGINNING if statement.from_beginning else END
    shown = seen = 0
    with consumer:
        consumer.assign([(statement.topic, partition, begin) for partition in range(partitions)])
        while not stop.is_set():
            batch = consumer.poll(_POLL_SECONDS)
            if not len(batch):
                yield b""
            for row in range(len(batch)):
                seen += 1
                if statement.interval and (seen - 1) % statement.interval:
                    continue
                yield _line(batch, row, resources)
                shown += 1
                if statement.limit is not None and shown >= statement.limit:
                    return


def _line(batch: MessageBatch, row: int, resources: Resources) -> bytes:
    moment = datetime.fromtimestamp(int(batch.timestamp[row]) / 1000, UTC)
    when = f"{moment:%Y/%m/%d %H:%M:%S}.{moment.microsecond // 1000:03d} Z"
    key, value = (_readable(column[row].as_py(), resources) for column in (batch.key, batch.value))
    return f"rowtime: {when}, key: {key}, value: {value}, partition: {batch.partition[row]}\n".encode()


def _readable(value: bytes | None, resources: Resources) -> str:
    """Show bytes as what they most likely are: Avro of a known schema, JSON or text, else hexadecimal."""
    if value is None:
        return "<null>"
    decoded = resources.decoded(value)
    if decoded is not None:
        return orjson.dumps(decoded, default=str).decode()
    try:
        text = value.decode()
    except UnicodeDecodeError:
        return value.hex()
    return text if text.isprintable() else value.hex()
