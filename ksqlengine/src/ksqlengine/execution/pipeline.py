"""A stage that runs: records in, rows and records out; no Kafka."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Protocol

import numpy as np
import polars as pl

from kafkakit.batch_consumer import MessageBatch
from ksqlengine.execution.keys import Keys
from ksqlengine.execution.operators import DELETED, KEY, SIDE, Counters, Operator, StatefulOperator, run_chain
from ksqlengine.execution.readers import Rejected, SourceReader
from ksqlengine.execution.rows import Rows
from ksqlengine.execution.stages import JOIN_KEY, Stage
from ksqlengine.execution.table_operators import TableFilter
from ksqlengine.execution.writers import Outgoing, SinkWriter
from ksqlengine.plan.steps import ROWPARTITION, SourceKind
from ksqlengine.types.arrays import Ints

ORDER = "__ORDER"  # time by which a row's turn comes among both sides' rows of its partition, ms, Int64


class TableInput:
    """A joined table: its topic's changes, kept as rows."""

    def __init__(self, reader: SourceReader, chain: Sequence[Operator], rows: Rows, columns: Sequence[str]) -> None:
        self.reader = reader
        self.topic = reader.step.topic
        self.rows = rows
        self._chain = chain
        self._columns = list(columns)

    def apply(self, batch: MessageBatch, keys: Keys) -> list[Rejected]:
        """Apply changes of the table, ordered by partition; return the bad messages."""
        changes, rejects = self.reader.read_changes(batch, keys)
        changes = run_chain(self._chain, changes)
        if len(changes):
            self.rows.put(changes[KEY].to_numpy(), changes.select(self._columns), changes[DELETED].to_numpy())
        return rejects


class _KeyHolder(Protocol):
    """What keeps something by a key's code for as long as the key is in use."""

    def live_codes(self) -> Ints:
        """Return the codes in use."""
        ...

    def renumber(self, renumbered: Ints) -> None:
        """Follow `Keys.compact`."""
        ...


@dataclass
class Pipeline:
    """A running stage: frames in, records out; no Kafka.

    Attributes:
        stage: what runs.
        source: reads the stream.
        tables: joined tables.
        before: operators up to the aggregate (all of them where there is none).
        aggregate: what holds state: the aggregate or the join of two sides, if there is one.
        after: operators behind it.
        sink: writes the results.
        keys: codes of the keys.
        counters: losses.
        adds_keys: whether a key of the stream that isn't known yet gets a code.
        table_filters: those among `before` and `after`.
        gives_each_change: whether each row's change of a group is a result of its own: no cache stands before the store.
    """

    stage: Stage
    source: SourceReader
    tables: list[TableInput]
    before: list[Operator]
    aggregate: StatefulOperator | None
    after: list[Operator]
    sink: SinkWriter
    keys: Keys | None
    counters: Counters
    adds_keys: bool
    table_filters: list[TableFilter] = field(default_factory=list)
    gives_each_change: bool = False

    def push(self, batch: MessageBatch) -> tuple[pl.DataFrame, list[Rejected]]:
        """Process stream messages, ordered by partition; return result rows and bad messages."""
        frame, rejects = self._read(batch)
        frame = run_chain(self.before, frame)
        if self.aggregate is None:
            self._forget_unused_keys()
            return frame, [*rejects, *failed(self.counters, self.stage.source.topic)]
        results = self._aggregated(self.aggregate, frame)
        self._forget_unused_keys()
        return results, [*rejects, *failed(self.counters, self.stage.source.topic)]

    def _aggregated(self, aggregate: StatefulOperator, frame: pl.DataFrame) -> pl.DataFrame:
        if not len(frame):
            return aggregate.settle(run_chain(self.after, aggregate.emit()))
        parts = cut_at_repeated_keys(frame) if self.gives_each_change else [frame]
        results = [aggregate.settle(run_chain(self.after, aggregate.push(part))) for part in parts]
        given = [result for result in results if len(result)]
        return pl.concat(given) if len(given) > 1 else (given or results)[-1]

    def put_back(self, states: pl.DataFrame) -> None:
        """Restore states of the aggregate from the changelog; HAVING is evaluated again for them, as it may be another one."""
        if self.aggregate is not None and self.aggregate.changelog_state is not None:
            self.aggregate.settle(run_chain(self.after, self.aggregate.changelog_state.put_back(states)))
            self.counters.take_failures()

    def go_on(self, partition: int) -> None:
        """Take a partition whose results up to some offset were written before, and whose records before it aren't read again."""
        for table_filter in self.table_filters:
            table_filter.go_on(partition)

    def drop_partition(self, partition: int) -> None:
        """Forget a partition that another engine process has now."""
        if self.aggregate is not None:
            self.aggregate.drop_partition(partition)
        if self.keys is not None:
            codes = self.keys.codes_of(partition)
            for table_filter in self.table_filters:
                table_filter.forget(partition, codes)
            for table in self.tables:
                table.rows.drop(codes)
            if self.aggregate is not None:
                self.aggregate.drop_codes(codes)
            self.keys.drop_partition(partition)

    def _read(self, batch: MessageBatch) -> tuple[pl.DataFrame, list[Rejected]]:
        if self.stage.source.kind is SourceKind.TABLE:
            return self.source.read_changes(batch, self.keys)
        return self.source.read(batch, self.keys, self.adds_keys)

    def _forget_unused_keys(self) -> None:
        """Renumber the keys once most of them are in no table and no open window."""
        if self.keys is None or not self.keys.is_due_for_tidying():
            return
        holders: list[_KeyHolder] = [*(table.rows for table in self.tables), *self.table_filters]
        live = np.zeros(len(self.keys), dtype=bool)
        if self.aggregate is not None:
            live[self.aggregate.codes()] = True
        for holder in holders:
            live[holder.live_codes()] = True
        self.keys.note_live(int(np.count_nonzero(live)))
        if self.keys.is_due_for_tidying():
            renumbered = self.keys.compact(live)
            if self.aggregate is not None:
                self.aggregate.renumber(renumbered)
            for holder in holders:
                holder.renumber(renumbered)


def cut_at_repeated_keys(frame: pl.DataFrame) -> list[pl.DataFrame]:
    """Cut a frame into parts in which each key comes once: an aggregate gives only a group's last change of a frame."""
    begins, seen = [0], set[int]()
    for row, key in enumerate(frame[KEY].to_list()):
        if key is None:
            continue
        if key in seen:
            begins.append(row)
            seen = set()
        seen.add(key)
    return [frame[begin:end] for begin, end in zip(begins, [*begins[1:], len(frame)], strict=True)]


def failed(counters: Counters, topic: str) -> list[Rejected]:
    """Return what could not be computed since the last call, as messages of a topic."""
    return [
        Rejected(topic, failure.partition, failure.offset, f"{failure.message}: {failure.cause}", None, failure)
        for failure in counters.take_failures()
    ]


@dataclass
class RunningArm:
    """One side of a running join."""

    reader: SourceReader
    chain: list[Operator]
    kind: SourceKind

    @property
    def topic(self) -> str:
        """The topic that it reads."""
        return self.reader.step.topic


@dataclass
class MergePipeline:
    """A running stage that puts both sides of a join into the join's topic; it holds no state."""

    stage: Stage
    arms: list[RunningArm]
    sink: SinkWriter
    counters: Counters

    def push(self, side: int, batch: MessageBatch) -> tuple[pl.DataFrame, list[Rejected]]:
        """Process one side's messages, ordered by partition; return rows for the join's topic, and bad messages."""
        arm = self.arms[side]
        tables = arm.kind is SourceKind.TABLE
        frame, rejects = arm.reader.read_changes(batch, None) if tables else arm.reader.read(batch, None, False)
        frame = run_chain(arm.chain, frame)
        rejects = [*rejects, *failed(self.counters, arm.topic)]
        if not len(frame):
            return frame, rejects
        without_key = frame[JOIN_KEY].null_count()
        if without_key and not self.stage.arms[side].keeps_keyless:
            self.counters.without_key += without_key
            frame = frame.filter(pl.col(JOIN_KEY).is_not_null())
        return frame.with_columns(pl.lit(side, dtype=pl.Int32).alias(SIDE)), rejects

    def write(self, frames: Sequence[pl.DataFrame], partitions: int) -> Outgoing:
        """Return the records of both sides' rows, which are joined in the order of their times.

        Args:
            frames: rows of either side, with their place in that order in `ORDER`.
            partitions: partitions of the join's topic.
        """
        both = pl.concat(frames, how="diagonal")
        missing = [column for column in self.sink.spec.schema.value if column.name not in both.columns]
        both = both.with_columns(pl.lit(None, dtype=column.type.polars).alias(column.name) for column in missing)
        return self.sink.write(both.sort(ORDER, SIDE, ROWPARTITION, maintain_order=True), partitions)
