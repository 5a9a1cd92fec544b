"""A SELECT by itself as stages in memory: what pull and push queries read, and what of their results is shown."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import numpy as np
import polars as pl

from kafkakit.batch_consumer import MessageBatch
from ksqlengine.execution.operators import DELETED, VALUELESS
from ksqlengine.execution.pipeline import MergePipeline
from ksqlengine.execution.readers import SchemaLookup
from ksqlengine.execution.stage_chain import SideOrder, StageChain
from ksqlengine.execution.stages import stages
from ksqlengine.execution.writers import WriteSchemas
from ksqlengine.internal_names import CACHE
from ksqlengine.plan.steps import (
    Format,
    QueryPlan,
    SourceKind,
    Step,
    ThroughTopicStep,
    Window,
    WindowKind,
    rewrite,
)
from ksqlengine.planning.transient_query import TransientPlan
from ksqlengine.streams.batches import select
from ksqlengine.types.errors import NotSupportedError

_SERVICE_ID = "transient_"


class TransientStages:
    """The stages of a pull or push query.

    Attributes:
        chain: runs them.
        topic: topic of the first stage's source.
        kind: whether that is a stream or a table.
        with_headers: whether columns hold records' headers.
        driving_topics: topics whose records give results, and whether a stream or a table is over them.
        table_topics: topics of tables that streams are joined with.
    """

    def __init__(
        self,
        plan: TransientPlan,
        query_id: str,
        schemas: SchemaLookup,
        side_order: Callable[[MergePipeline], SideOrder],
    ) -> None:
        """Build the stages.

        Args:
            plan: the query.
            query_id: its id.
            schemas: gives the Avro schema of an id.
            side_order: makes what orders a join's two sides.

        Raises:
            StatementError: the engine can't run such a query.
        """
        whole = QueryPlan(
            query_id,
            "",
            SourceKind.STREAM,
            "",
            None,
            None,
            Format("NONE"),
            Format("JSON"),
            None,
            rewrite(plan.root, _in_json),
            # As in ksqlDB, no cache merges the changes that a client is shown.
            {CACHE: "0"},
        )
        all_stages = stages(whole, _SERVICE_ID)
        if any(stage.tables for stage in all_stages[1:]):
            raise NotSupportedError("A push query that repartitions before a join with a table")
        self._plan = plan
        self.chain = StageChain(all_stages, schemas, lambda stage: WriteSchemas(), side_order)
        self.kind = all_stages[0].source.kind
        self.topic = all_stages[0].source.topic
        self.with_headers = any(stage.with_headers for stage in all_stages)
        self.driving_topics: dict[str, SourceKind] = {
            source.topic: source.kind
            for stage in all_stages
            for source in [arm.source for arm in stage.arms] or [stage.source]
            if source.topic not in self.chain.internal_topics
        }
        self.table_topics = [table.topic for stage in all_stages for table in stage.tables]

    def visible(self, frame: pl.DataFrame) -> pl.DataFrame:
        """Return the query's columns of result rows, and in `DELETED` which rows are gone: of those only the key is left.

        A pull query shows no rows that are gone, and none shows a stream's records without a value.
        """
        if VALUELESS in frame.columns:
            frame = frame.filter(~pl.col(VALUELESS))
        if DELETED not in frame.columns:
            frame = frame.with_columns(pl.lit(False).alias(DELETED))
        elif not self._plan.push:
            frame = frame.filter(~pl.col(DELETED))
        keys = self._plan.keys
        return frame.select(
            *(
                pl.col(name) if name in keys else pl.when(~pl.col(DELETED)).then(pl.col(name)).alias(name)
                for name in (column.name for column in self._plan.root.schema.columns)
            ),
            pl.col(DELETED),
        )


def _in_json(step: Step) -> Step:
    """Return a step whose rows go through a topic, if they do, in JSON, which needs no registry."""
    if isinstance(step, ThroughTopicStep):
        return replace(step, key_format=Format("JSON"), value_format=Format("JSON"))
    return step


def last_of_each_key(batch: MessageBatch) -> MessageBatch:
    """Return the last record of each key of a table's topic, the rows that a pull query reads."""
    frame = pl.DataFrame({"partition": batch.partition, "key": pl.from_arrow(batch.key)}).with_row_index("row")
    last = frame.group_by("partition", "key").agg(pl.col("row").last())
    # In order of the keys' bytes, as a state store of Kafka Streams holds them.
    return select(batch, last.sort("partition", "key")["row"].to_numpy().astype(np.int64))


def reads_nothing(plan: TransientPlan) -> bool:
    """Say whether a pull query would have to go through all sessions of a query's table: ksqlDB answers that without a row.

    Source: ksqlDB's ``KsMaterializedSessionTableIQv2``, which looks sessions up by their keys only.
    """
    window, is_result = plan.source.key_window, plan.source.query_id is not None
    return plan.scans and is_result and window is not None and window.kind is WindowKind.SESSION


def still_stored(rows: MessageBatch, window: Window) -> MessageBatch:
    """Return the rows of a windowed table whose windows the store has not let go.

    Source: Kafka Streams' ``AbstractRocksDBSegmentedBytesStore``: a window is found that starts (a session: that ends) less than
    the retention before the newest one of its partition.

    Args:
        rows: the last record of each key, ordered by partition.
        window: the windows, with the retention of the query that writes them.
    """
    if not len(rows):
        return rows
    keys = pl.Series(rows.key, dtype=pl.Binary)
    ends = keys.bin.tail(16).bin.head(8) if window.kind is WindowKind.SESSION else keys.bin.tail(8)
    frame = pl.DataFrame({"partition": rows.partition, "time": ends.bin.reinterpret(dtype=pl.Int64, endianness="big")})
    kept = frame.select(pl.col("time") > pl.col("time").max().over("partition") - window.kept_ms).to_series()
    return rows if kept.all() else select(rows, np.flatnonzero(kept.to_numpy()))
