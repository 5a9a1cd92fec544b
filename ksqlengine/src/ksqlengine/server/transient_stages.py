"""A SELECT by itself as stages in memory: what pull and push queries read, and what of their results is shown."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

import polars as pl

from ksqlengine.execution.operators import DELETED, VALUELESS
from ksqlengine.execution.pipeline import MergePipeline
from ksqlengine.execution.readers import SchemaLookup
from ksqlengine.execution.stage_chain import StageChain
from ksqlengine.execution.stages import stages
from ksqlengine.execution.writers import WriteSchemas
from ksqlengine.plan.steps import (
    Format,
    QueryPlan,
    SourceKind,
    Step,
    ThroughTopicStep,
    rewrite,
)
from ksqlengine.planning.transient_query import TransientPlan
from ksqlengine.streams.join_merge import Merger
from ksqlengine.types.errors import NotSupportedError

_SERVICE_ID = "transient_"
_ALWAYS_ENDED = 2**62  # records between stages come in the order in which they are made


class TransientStages:
    """The stages of a pull or push query; both sides of a join are joined in order of event time."""

    def __init__(self, plan: TransientPlan, query_id: str, schemas: SchemaLookup) -> None:
        """Build the stages.

        Args:
            plan: the query.
            query_id: its id.
            schemas: gives the Avro schema of an id.

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
        )
        all_stages = stages(whole, _SERVICE_ID)
        if any(stage.tables for stage in all_stages[1:]):
            raise NotSupportedError("A push query that repartitions before a join with a table")
        self._plan = plan
        self._mergers: list[Merger] = []
        self.chain = StageChain(all_stages, schemas, lambda stage: WriteSchemas(), self._merger)
        self.kind = all_stages[0].source.kind
        self.topic = all_stages[0].source.topic
        self.with_headers = any(stage.with_headers for stage in all_stages)
        self.driving_topics: dict[str, SourceKind] = {
            source.topic: source.kind
            for stage in all_stages
            for source in [arm.source for arm in stage.arms] or [stage.source]
            if source.topic not in self.chain.internal_topics
        }

    def _merger(self, pipeline: MergePipeline) -> Merger:
        self._mergers.append(Merger(pipeline))
        return self._mergers[-1]

    def begin_sides(self, partitions: Mapping[str, int]) -> None:
        """Begin to hold the records of joins' sides.

        Args:
            partitions: number of partitions of each topic that drives the query.
        """
        for merger in self._mergers:
            for side, arm in enumerate(merger.pipeline.arms):
                for partition in range(partitions.get(arm.topic, 1)):
                    merger.begin((side, partition), 0)
                    if arm.topic in self.chain.internal_topics:
                        merger.held[side, partition].ended_at = _ALWAYS_ENDED

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
