"""From a plan to operators: what a query reads, computes and writes, still without Kafka.

A plan is cut into stages where it repartitions: each stage reads one stream topic (and the tables it joins) and writes one
topic. Partitions of a stage's topics with the same number belong together; a stage's state is kept by partition.

Only what a plan uses is read: columns are pruned from the sink down to the sources, and a key that only joins and groups
stays a code until it is written.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import numpy.typing as npt
import polars as pl
import pyarrow as pa
import pyarrow.compute as pc

from kafkakit import avro_codec
from kafkakit.batch_consumer import MessageBatch
from kafkakit.partitioning import partitions_of
from ksqlengine.execution.joins import JoinWindow, Regrouping, StreamJoin, TableAggregate, TablesJoin
from ksqlengine.execution.keys import BAD, Keys
from ksqlengine.execution.operators import (
    DELETED,
    HEADERS,
    HEADERS_TYPE,
    KEY,
    SIDE,
    TIME,
    VALUELESS,
    Aggregates,
    Changes,
    Check,
    Checks,
    Counters,
    EvaluationFailure,
    Filter,
    FinalWindows,
    FlatMap,
    KeyColumns,
    Operator,
    Project,
    TableFilter,
    TableJoin,
    columns_read,
    run_chain,
)
from ksqlengine.execution.rows import Rows
from ksqlengine.execution.session_windows import Sessions
from ksqlengine.expressions import aggregates
from ksqlengine.expressions.functions.datetime import timestamps_of
from ksqlengine.expressions.nodes import Column as ColumnExpression
from ksqlengine.formats.factory import JsonSerde, KafkaSerde, Read, Serde, serde
from ksqlengine.plan.catalog import source_steps
from ksqlengine.plan.steps import (
    PSEUDO_COLUMNS,
    ROWPARTITION,
    ROWTIME,
    WINDOWEND,
    WINDOWSTART,
    AggregateStep,
    Column,
    Expression,
    FilterStep,
    FlatMapStep,
    Format,
    JoinKind,
    ProjectStep,
    QueryPlan,
    RepartitionStep,
    Schema,
    SelectItem,
    SourceKind,
    SourceStep,
    Step,
    StreamStreamJoinStep,
    StreamTableJoinStep,
    TableGroupStep,
    TwoSidedJoinStep,
    Window,
    WindowKind,
    carried,
)
from ksqlengine.types.arrays import Ints
from ksqlengine.types.errors import NotSupportedError

SchemaLookup = Callable[[int], avro_codec.AvroSchema]
Stateful = Sessions | FinalWindows | Changes | StreamJoin | TablesJoin | Regrouping
_KEY = "__JOIN_KEY"
ORDER = "__ORDER"  # time by which a row's turn comes among both sides' rows of its partition, ms, Int64


@dataclass(frozen=True)
class SinkSpec:
    """What a stage writes: topic, columns, formats, and the column that gives the records' timestamps where there is one.

    `hands_on_keys` says that keys are the source's own: one whose columns are all null is no key.
    """

    topic: str
    schema: Schema
    key_format: Format
    value_format: Format
    key_window: Window | None
    internal: bool
    timestamp_column: str | None = None
    timestamp_format: str | None = None
    sided: bool = False
    compacted: bool = False
    hands_on_keys: bool = False


@dataclass(frozen=True)
class JoinedSidesStep(Step):
    """A join whose two sides come from its own topic, in the order in which they are joined."""

    input_fields = ("source",)

    source: SourceStep
    join: TwoSidedJoinStep


@dataclass(frozen=True)
class Arm:
    """One side of a join on its way into the join's topic.

    Attributes:
        root: its last step.
        source: what it reads.
        keeps_keyless: rows without a key go into the topic too, for they come out of the join without a match.
    """

    root: Step
    source: SourceStep
    keeps_keyless: bool = False


@dataclass(frozen=True)
class Stage:
    """A part of a plan between topics.

    Attributes:
        name: empty for a query's last stage, otherwise the repartition topic's suffix.
        root: its last step.
        source: the stream (or table) that drives it.
        tables: tables that are joined, in order of the joins.
        sink: what it writes.
        arms: both sides of a join, where the stage only puts them into the join's topic in order of time; `root` and `source`
            are the left one's then.
        changelog: topic that has the stage's state, None where that is read again out of `source` (or there is none).
    """

    name: str
    root: Step
    source: SourceStep
    tables: tuple[SourceStep, ...]
    sink: SinkSpec
    arms: tuple[Arm, ...] = ()
    changelog: str | None = None

    @property
    def with_headers(self) -> bool:
        """Whether what drives the stage has columns that hold headers."""
        return any(one.headers for one in (self.source, *(arm.source for arm in self.arms)))

    @property
    def reads(self) -> frozenset[str]:
        """Names of the streams or tables that drive the stage."""
        return frozenset(arm.source.source for arm in self.arms) or frozenset((self.source.source,))

    @property
    def co_partitioned(self) -> tuple[SourceStep, ...]:
        """Sources of the arms, which must have as many partitions where both are joined by their keys, as in ksqlDB."""
        sources = tuple(arm.source for arm in self.arms)
        by_key = all(
            isinstance(arm.root, ProjectStep) and str(arm.root.items[0].expression) in _key_names(arm.source)
            for arm in self.arms
        )
        return sources if by_key else ()


def _key_names(source: SourceStep) -> set[str]:
    return {column.name for column in source.schema.key}


@dataclass(frozen=True)
class Rejected:
    """A message that a query could not read, or for which it could not compute an expression (`failure`)."""

    topic: str
    partition: int
    offset: int
    reason: str
    record: bytes | None
    failure: EvaluationFailure | None = None


@dataclass(frozen=True)
class Outgoing:
    """Records to be produced, as columns.

    Attributes:
        keys: keys.
        values: values.
        timestamps: ms since the epoch.
        partitions: None where the producer's partitioner decides by the key.
        headers: headers of the records from which they were made; None where those were not read, or are held in a state.
    """

    keys: list[bytes | None]
    values: list[bytes | None]
    timestamps: list[int]
    partitions: list[int] | None
    headers: list[list[tuple[str, bytes | None]]] | None = None

    def __len__(self) -> int:
        """Return the number of records."""
        return len(self.values)


# ---------------------------------------------------------------------------------------------------------- stages
def internal_topic(service_id: str, query_id: str, suffix: str) -> str:
    """Return the name of a query's own topic, as ksqlDB names it."""
    return f"_confluent-ksql-{service_id}query_{query_id}-{suffix}"


def stages(plan: QueryPlan, service_id: str) -> list[Stage]:
    """Cut a plan into its stages, upstream ones first."""
    found: list[Stage] = []
    sink = SinkSpec(
        plan.topic, plan.root.schema, plan.key_format, plan.value_format, plan.key_window, False,
        plan.timestamp_column, plan.timestamp_format,
    )  # fmt: skip
    root = _cut(plan.root, plan, service_id, found)
    last = _stage("", root, replace(sink, hands_on_keys=not found and _hands_on_keys(root)))
    return [_with_changelog(stage, plan, service_id) for stage in (*found, last)]


def _hands_on_keys(root: Step) -> bool:
    """Say whether rows keep the keys that they have in the source."""
    path = _path(root)
    places = {column.name: place for place, column in enumerate(path[0].schema.key)}
    count = len(places)
    for step in path[1:]:
        if isinstance(step, ProjectStep):
            places = {
                item.name: places[item.expression.name]
                for item in step.items
                if isinstance(item.expression, ColumnExpression) and item.expression.name in places
            }
        elif not isinstance(step, FilterStep | FlatMapStep):
            return False
    # PARTITION BY the same columns in another order makes keys anew.
    return [places.get(column.name) for column in root.schema.key] == [*range(count)]


def _with_changelog(stage: Stage, plan: QueryPlan, service_id: str) -> Stage:
    """Name the topic of a stage's state, where it may need records for longer than their topic has them.

    The windows of EMIT FINAL and of sessions are read again: their rows would fill a topic as large as the source.
    """
    for step in _path(stage.root):
        if isinstance(step, TableGroupStep):
            return replace(stage, changelog=internal_topic(service_id, plan.query_id, "KsqlTopic-Reduce-changelog"))
        if isinstance(step, AggregateStep) and not _is_read_again(step):
            suffix = "Aggregate-Aggregate-Materialize-changelog"
            return replace(stage, changelog=internal_topic(service_id, plan.query_id, suffix))
    return stage


def _is_read_again(step: AggregateStep) -> bool:
    return step.window is not None and (step.emit_final or step.window.kind is WindowKind.SESSION)


def _cut(step: Step, plan: QueryPlan, service_id: str, found: list[Stage]) -> Step:
    """Replace what lies below each repartitioning by a source on its topic; add the upstream stages to `found`."""
    if isinstance(step, RepartitionStep):
        topic = internal_topic(service_id, plan.query_id, step.topic_suffix)
        # A null value would be no row; JSON tells the two apart where there are no value columns.
        value_format = step.value_format if step.schema.value else Format("JSON")
        sink = SinkSpec(topic, step.schema, step.key_format, value_format, None, internal=True)
        upstream = replace(step, source=_cut(step.source, plan, service_id, found))
        found.append(_stage(step.topic_suffix, upstream, sink))
        return SourceStep(step.schema, step.topic_suffix, SourceKind.STREAM, topic, step.key_format, value_format)
    if isinstance(step, TwoSidedJoinStep):
        return _cut_join(step, plan, service_id, found)
    if isinstance(step, TableGroupStep):
        topic = internal_topic(service_id, plan.query_id, step.topic_suffix)
        sink = SinkSpec(topic, step.schema, step.key_format, step.value_format, None, internal=True)
        grouped = replace(step, source=_simple(_cut(step.source, plan, service_id, found), plan, service_id, found))
        found.append(_stage(step.topic_suffix, grouped, sink))
        return SourceStep(step.schema, step.topic_suffix, SourceKind.STREAM, topic, step.key_format, step.value_format)
    if isinstance(step, StreamTableJoinStep):
        return replace(step, left=_simple(_cut(step.left, plan, service_id, found), plan, service_id, found))
    if isinstance(step, FilterStep | ProjectStep | FlatMapStep | AggregateStep):
        below = _cut(step.source, plan, service_id, found)
        grouping = isinstance(step, AggregateStep)
        return replace(step, source=_simple(below, plan, service_id, found) if grouping else below)
    return step


def _cut_join(step: TwoSidedJoinStep, plan: QueryPlan, service_id: str, found: list[Stage]) -> Step:
    """Let both sides of a join go into one topic, which fixes the order in which they are joined."""
    tables = not isinstance(step, StreamStreamJoinStep)
    topic = internal_topic(service_id, plan.query_id, step.topic_suffix)
    key = Column(_KEY, step.schema.key[0].type)
    columns = step.schema.value
    schema = Schema((key,), columns)
    window = source_steps(step.left)[0].key_window
    sink = SinkSpec(
        topic, schema, step.key_format, step.value_format, window, internal=True, sided=True, compacted=tables
    )
    arms = []
    for side, expression, keeps in (
        (step.left, step.left_key, step.kind.keeps_left),
        (step.right, step.right_key, step.kind.keeps_right),
    ):
        below = _simple(_cut(side, plan, service_id, found), plan, service_id, found, joins=True)
        own = tuple(one for one in side.schema.columns if one in columns)
        items = (SelectItem(_KEY, expression), *(SelectItem(one.name, _column(one)) for one in own))
        keyless = keeps and not tables and window is None
        arms.append(Arm(ProjectStep(Schema((key,), own), below, items), next(_sources(below)), keyless))
    stage = Stage(step.topic_suffix, arms[0].root, arms[0].source, (), sink, tuple(arms))
    found.append(stage)
    kind = SourceKind.TABLE if tables else SourceKind.STREAM
    source = SourceStep(
        schema, step.topic_suffix, kind, topic, step.key_format, step.value_format, key_window=window, sided=True
    )
    return JoinedSidesStep(step.schema, source, step)


def _column(column: Column) -> ColumnExpression:
    return ColumnExpression(column.type, column.name, text=column.name)


def _handed_on(column: Column) -> pl.Expr:
    """Return what a value column of a repartition topic takes: a column, or where the row came from."""
    return pl.col(_CARRIED.get(column.name, column.name))


_CARRIED = {carried(name): name for name in (*PSEUDO_COLUMNS, WINDOWSTART, WINDOWEND)}


def _simple(step: Step, plan: QueryPlan, service_id: str, found: list[Stage], *, joins: bool = False) -> Step:
    """Return a step that holds no state, nor joined tables where `joins` is set: what does goes through a topic of its own."""
    stateful = JoinedSidesStep | AggregateStep | StreamTableJoinStep if joins else JoinedSidesStep | AggregateStep
    if not any(isinstance(one, stateful) for one in _path(step)):
        return step
    suffix = f"Intermediate-{len(found)}"
    topic = internal_topic(service_id, plan.query_id, suffix)
    first = next(_sources(step))
    kind = SourceKind.TABLE if first.kind is SourceKind.TABLE else SourceKind.STREAM
    value_format = Format(first.value_format.name if first.value_format.name == "AVRO" else "JSON")
    sink = SinkSpec(topic, step.schema, first.key_format, value_format, None, internal=True)
    found.append(_stage(suffix, step, replace(sink, compacted=kind is SourceKind.TABLE)))
    return SourceStep(step.schema, suffix, kind, topic, first.key_format, value_format)


def _stage(name: str, root: Step, sink: SinkSpec) -> Stage:
    driving, *tables = list(_sources(root))
    for table in tables:
        if table.kind is not SourceKind.TABLE:
            raise NotSupportedError("A join with a second stream is")
    return Stage(name, root, driving, tuple(tables), sink)


def _sources(step: Step) -> Iterator[SourceStep]:
    if isinstance(step, SourceStep):
        yield step
    elif isinstance(step, StreamTableJoinStep):
        yield from _sources(step.left)
        yield from _sources(step.right)
    else:
        yield from _sources(_below(step))


def _below(step: Step) -> Step:
    if isinstance(
        step,
        FilterStep | ProjectStep | FlatMapStep | AggregateStep | RepartitionStep | TableGroupStep | JoinedSidesStep,
    ):
        return step.source
    if isinstance(step, StreamTableJoinStep):
        return step.left
    raise NotSupportedError(f"{type(step).__name__.removesuffix('Step')} is")


def _path(step: Step) -> list[Step]:
    """Return the steps from the driving source up to `step`."""
    path = [step]
    while not isinstance(path[-1], SourceStep):
        path.append(_below(path[-1]))
    return path[::-1]


def _polars(expression: Expression) -> pl.Expr:
    return expression.to_polars()  # type: ignore[attr-defined]


# --------------------------------------------------------------------------------------------------------- reading
class KeyReader:
    """Reads record keys: as bytes that are equal where the keys are, and as columns."""

    def __init__(self, step: SourceStep, schemas: SchemaLookup) -> None:
        columns = [Column(_field(step, column.name), column.type) for column in step.schema.key]
        self._serde = serde(step.key_format, columns, schemas, key=True)
        self._plain = isinstance(self._serde, KafkaSerde)
        # Keys are the same where their values are, whatever their columns are called.
        places = [Column(f"K{place}", column.type) for place, column in enumerate(columns)]
        self._canonical: Serde = self._serde if self._plain else JsonSerde(places, wrapped=True)
        self._window = step.key_window
        self._window_bytes = _window_bytes(step.key_window)
        self.names = [column.name for column in step.schema.key]

    def valid(self, key: bytes) -> bool:
        """Say whether bytes (as `canonical` gives them) are a key."""
        if self._window_bytes:
            key = key[: -self._window_bytes]
        elif not self._plain:
            return True
        return self._serde.is_valid(key) if self._plain else not self._serde.read(pa.array([key])).rejects

    def canonical(self, keys: pa.LargeBinaryArray) -> list[bytes | None]:
        """Return keys whose bytes are equal where the keys are; a bad one of a format without such bytes is empty."""
        if self._window_bytes or self._plain:
            return keys.to_pylist()
        read = self._serde.read(keys)
        result: list[bytes | None] = [None] * len(keys)
        places = read.frame.rename({name: f"K{place}" for place, name in enumerate(read.frame.columns)})
        for row, key in zip(read.rows.tolist(), self._canonical.write(places), strict=True):
            result[row] = key
        for row, _ in read.rejects:
            result[row] = b""
        return result

    def columns(self, keys: list[bytes]) -> pl.DataFrame:
        """Return the key columns of canonical keys that are known as good, and the windows of windowed ones."""
        found = pa.array(keys, pa.large_binary())
        if not self._window_bytes:
            return self._named(self._canonical.read(found).frame)
        base = pc.binary_slice(found, 0, -self._window_bytes)
        return self._named(self._serde.read(base).frame).with_columns(self.bounds(found))

    def bounds(self, keys: pa.LargeBinaryArray) -> tuple[pl.Series, pl.Series]:
        """Return start and end of the windows of windowed keys; 0 for null keys."""
        starts = self.window_starts(keys)
        size = None if self._window is None or self._window.kind is WindowKind.SESSION else self._window.size_ms
        ends = self.session_ends(keys) if size is None else starts + size
        return pl.Series(WINDOWSTART, starts), pl.Series(WINDOWEND, ends)

    def read(self, keys: pa.LargeBinaryArray) -> tuple[pl.DataFrame, dict[int, str]]:
        """Return the key columns of messages' keys, nulls where a key is null or bad, and the bad ones' reasons."""
        base = keys
        if self._window_bytes:
            base = pc.binary_slice(keys, 0, -self._window_bytes)
        read = self._serde.read(base)
        frame = self._named(read.frame)
        if len(read.rows) < len(keys):
            rows = np.full(len(keys), -1)
            rows[read.rows] = np.arange(len(read.rows))
            frame = frame.select(pl.all().gather(pl.Series(rows).replace(-1, None)))
        return frame, dict(read.rejects)

    def _named(self, frame: pl.DataFrame) -> pl.DataFrame:
        return frame.rename(dict(zip(frame.columns, self.names, strict=True)))

    def window_starts(self, keys: pa.LargeBinaryArray) -> Ints:
        """Return the window starts that windowed keys end with, ms; 0 for null keys."""
        return np.array([int.from_bytes(key[-8:], "big") if key else 0 for key in keys.to_pylist()], dtype=np.int64)

    def session_ends(self, keys: pa.LargeBinaryArray) -> Ints:
        """Return the ends of sessions, which stand before their starts, ms; 0 for null keys."""
        return np.array([int.from_bytes(key[-16:-8], "big") if key else 0 for key in keys.to_pylist()], dtype=np.int64)


_KEYLESS = 2  # added to the side of a join's row that has no key


def _sides(keys: pa.LargeBinaryArray) -> tuple[npt.NDArray[np.int32], pa.LargeBinaryArray]:
    """Return which side of a join each record of the join's topic is of, with which its key ends, and the keys without it."""
    ends = np.array([key[-1] if key else 0 for key in keys.to_pylist()], dtype=np.int32)
    bare = pc.binary_slice(keys, 0, -1)
    if (ends >= _KEYLESS).any():
        bare = pc.if_else(pa.array(ends < _KEYLESS), bare, None)
    return ends % _KEYLESS, bare


def _window_bytes(window: Window | None) -> int:
    if window is None:
        return 0
    return 16 if window.kind is WindowKind.SESSION else 8


def _field(step: SourceStep, column: str) -> str:
    """Return a column's name in the topic: below a join the plan puts the source's alias before it."""
    prefix = f"{step.alias}_"
    return column.removeprefix(prefix) if step.alias else column


_OF_A_ROW = (*PSEUDO_COLUMNS, WINDOWSTART, WINDOWEND)


class SourceReader:
    """Turns a topic's messages into a frame of the columns that the plan uses."""

    def __init__(
        self, step: SourceStep, needed: set[str], schemas: SchemaLookup, *, keeps_valueless: bool = False
    ) -> None:
        """Prepare.

        Args:
            step: what to read.
            needed: columns that are used.
            schemas: gives the Avro schema of an id.
            keeps_valueless: a stream's records with null values come out too; joins and aggregates don't see them.
        """
        self.step = step
        self._keeps_valueless = keeps_valueless
        self.key = KeyReader(step, schemas)
        self._time = self._time_column()
        own = {f"{step.alias}_{name}": name for name in _OF_A_ROW} if step.alias else {}
        self._own_pseudo = {alias: name for alias, name in own.items() if alias in needed}
        headers = dict(step.headers)
        self._headers = {name: key for name, key in headers.items() if name in needed}
        values = [column for column in step.schema.value if column.name not in own and column.name not in headers]
        # A DELIMITED column is known by its place alone, so that all of them are read.
        whole = step.value_format.name == "DELIMITED"
        wanted = [column for column in values if whole or column.name in needed or column.name == self._time]
        wanted = wanted or values[:1]  # a message must be read to be known as good
        self._value = serde(step.value_format, [Column(_field(step, one.name), one.type) for one in wanted], schemas)
        self._names = [column.name for column in wanted]
        self._key_columns = any(column.name in needed or column.name == self._time for column in step.schema.key)
        if step.key_window is not None:  # the bounds of a windowed key are read with its columns
            self._key_columns |= not {WINDOWSTART, WINDOWEND}.isdisjoint({*needed, *self._own_pseudo.values()})

    def _time_column(self) -> str | None:
        wanted = self.step.timestamp_column
        if wanted is None:
            return None
        names = [column.name for column in self.step.schema.columns]
        return wanted if wanted in names else f"{self.step.alias}_{wanted}"

    def read(self, batch: MessageBatch, keys: Keys | None, add: bool) -> tuple[pl.DataFrame, list[Rejected]]:
        """Read a stream's messages.

        Args:
            batch: messages of this topic, ordered by partition.
            keys: gives the codes; None where nothing needs them.
            add: whether new keys get a code.

        Returns:
            good messages' rows, and the bad messages.
        """
        read = self._value.read(batch.value)
        rejects = dict(read.rejects)
        rows, frame = read.rows, read.frame
        if len(read.nulls) and self._keeps_valueless:
            rows, frame = self._with_nulls(read, len(batch))
        else:
            rejects.update(dict.fromkeys(read.nulls.tolist(), "the value is null"))
        frame = self._with_keys(self._pseudo(frame, batch, rows), batch, rows, keys, add, rejects)
        if len(rows) > len(read.rows):
            frame = frame.with_columns(pl.Series(VALUELESS, np.isin(rows, read.nulls)))
        return self._timed(frame, batch, rows, rejects)

    def _timed(
        self, frame: pl.DataFrame, batch: MessageBatch, rows: Ints, rejects: dict[int, str]
    ) -> tuple[pl.DataFrame, list[Rejected]]:
        if self._time is not None:
            frame = self._with_time(frame, self._time)
        if self._own_pseudo:
            frame = frame.with_columns(pl.col(name).alias(alias) for alias, name in self._own_pseudo.items())
        self._check_times(frame, rows, rejects)
        return self._without_rejected(frame, batch, rows, rejects)

    @staticmethod
    def _with_nulls(read: Read, count: int) -> tuple[Ints, pl.DataFrame]:
        """Return rows and frame with rows of nulls for the null values of `count` messages."""
        source_rows = np.full(count, -1)
        source_rows[read.rows] = np.arange(len(read.rows))
        rows = np.sort(np.concatenate([read.rows, read.nulls]))
        return rows, read.frame.select(pl.all().gather(pl.Series(source_rows[rows]).replace(-1, None)))

    def read_changes(self, batch: MessageBatch, keys: Keys | None) -> tuple[pl.DataFrame, list[Rejected]]:
        """Read a table's messages as changes: `DELETED` marks the tombstones, whose values are null."""
        read = self._value.read(batch.value)
        rejects = dict(read.rejects)
        rejects.update(dict.fromkeys(np.flatnonzero(batch.key.is_null()).tolist(), "the key of a table's row is null"))
        rows, frame = self._with_nulls(read, len(batch)) if len(read.nulls) else (read.rows, read.frame)
        frame = self._with_keys(self._pseudo(frame, batch, rows), batch, rows, keys, True, rejects)
        frame = frame.with_columns(pl.Series(DELETED, np.isin(rows, read.nulls)))
        return self._timed(frame, batch, rows, rejects)

    def _pseudo(self, frame: pl.DataFrame, batch: MessageBatch, rows: Ints) -> pl.DataFrame:
        frame = frame.rename(dict(zip(frame.columns, self._names, strict=True)))
        whole = len(rows) == len(batch)
        arrays: tuple[npt.NDArray[Any], ...] = (batch.timestamp, batch.partition, batch.offset)
        frame = frame.with_columns(
            pl.Series(name, array if whole else array[rows]) for name, array in zip(PSEUDO_COLUMNS, arrays, strict=True)
        )
        return self._with_headers(frame, batch, rows) if self.step.headers else frame

    def _with_headers(self, frame: pl.DataFrame, batch: MessageBatch, rows: Ints) -> pl.DataFrame:
        """Add the records' headers, and the columns that hold them or the last one of a name."""
        given = batch.headers or ((),) * len(batch)
        items = [[{"KEY": key, "VALUE": value} for key, value in given[row]] for row in rows.tolist()]
        frame = frame.with_columns(pl.Series(HEADERS, items, HEADERS_TYPE))
        element = pl.element().struct
        return frame.with_columns(
            pl.col(HEADERS).alias(name)
            if key is None
            else pl.col(HEADERS)
            .list.eval(element.field("VALUE").filter(element.field("KEY") == key))
            .list.last()
            .alias(name)
            for name, key in self._headers.items()
        )

    def _with_keys(
        self,
        frame: pl.DataFrame,
        batch: MessageBatch,
        rows: Ints,
        keys: Keys | None,
        add: bool,
        rejects: dict[int, str],
    ) -> pl.DataFrame:
        whole = len(rows) == len(batch)
        if self.step.sided:
            sides, bare = _sides(batch.key)
            frame = frame.with_columns(pl.Series(SIDE, sides[rows]))
            batch = replace(batch, key=bare)
        if keys is not None:
            codes = keys.codes(self.key.canonical(batch.key), batch.partition, add)
            bad = np.flatnonzero(codes == BAD)
            rejects.update(dict.fromkeys(bad.tolist(), f"the key is not in the {self.step.key_format.name} format"))
            frame = frame.with_columns(pl.Series(KEY, codes if whole else codes[rows]))
        if not self._key_columns:
            return frame
        columns, bad_keys = self.key.read(batch.key)
        rejects.update({row: f"the key can't be read: {reason}" for row, reason in bad_keys.items()})
        frame = frame.hstack(columns if whole else columns[rows])
        if self.step.key_window is None:
            return frame
        return frame.with_columns(one.gather(rows) for one in self.key.bounds(batch.key))

    def _with_time(self, frame: pl.DataFrame, column: str) -> pl.DataFrame:
        time = pl.col(column)
        if frame.schema[column] == pl.String:
            time = timestamps_of(time, self.step.timestamp_format or "")
        time = time.cast(pl.Int64)
        for name in (DELETED, VALUELESS):
            if name in frame.columns:
                time = pl.when(name).then(ROWTIME).otherwise(time)
        return frame.with_columns(time.alias(ROWTIME))

    def _check_times(self, frame: pl.DataFrame, rows: Ints, rejects: dict[int, str]) -> None:
        times = frame[ROWTIME]
        if len(times) and (times.null_count() or times.min() < 0):  # type: ignore[operator]
            untimed = ~(times >= 0).fill_null(False).to_numpy()
            reason = f"the event time (column {self._time or ROWTIME}) is null or negative"
            rejects.update(dict.fromkeys(rows[untimed].tolist(), reason))

    def _without_rejected(
        self, frame: pl.DataFrame, batch: MessageBatch, rows: Ints, rejects: dict[int, str]
    ) -> tuple[pl.DataFrame, list[Rejected]]:
        if not rejects:
            return frame, []
        good = np.ones(len(batch), dtype=bool)
        good[list(rejects)] = False
        return frame.filter(pl.Series(good[rows])), [
            Rejected(
                self.step.topic,
                int(batch.partition[row]),
                int(batch.offset[row]),
                rejects[row],
                batch.value[row].as_py(),
            )
            for row in sorted(rejects)
        ]


# --------------------------------------------------------------------------------------------------------- running
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


class SinkWriter:
    """Turns result rows into records."""

    def __init__(self, spec: SinkSpec, schemas: SchemaLookup, write: WriteSchemas) -> None:
        self.spec = spec
        self._key = serde(spec.key_format, spec.schema.key, schemas, write.key, key=True)
        self._value = serde(spec.value_format, spec.schema.value, schemas, write.value)

    def write(self, frame: pl.DataFrame, partitions: int) -> Outgoing:
        """Return the records of rows.

        Args:
            frame: rows with the sink's columns and the pseudo columns.
            partitions: partitions of the sink's topic.
        """
        if self.spec.timestamp_column is not None:
            frame = self._with_own_time(frame, self.spec.timestamp_column)
        keys = self._keys(frame)
        values = self._value.write(frame)
        for name in (DELETED, VALUELESS):
            if name in frame.columns:
                values = [None if gone else value for value, gone in zip(values, frame[name], strict=True)]
        timestamps = frame[TIME if TIME in frame.columns else ROWTIME].to_list()
        headers = _headers_of(frame)
        if self.spec.sided:
            return self._sided(frame, partitions, Outgoing(keys, values, timestamps, None, headers))
        if self.spec.key_window is None:
            return Outgoing(keys, values, timestamps, None, headers)
        # Windows of a key stay in the key's partition: Kafka Streams partitions by the key without its window.
        base = pa.array(keys, pa.large_binary())
        targets = partitions_of(base, partitions).tolist()
        return Outgoing(_windowed_keys(keys, frame, self.spec.key_window), values, timestamps, targets, headers)

    def _sided(self, frame: pl.DataFrame, partitions: int, records: Outgoing) -> Outgoing:
        """Return a join's records with the side in their keys."""
        keyed, keys = frame[_KEY].is_not_null(), records.keys
        # Both sides' records of a key go into one partition: that of the key without its side. Rows without a key stay.
        bare = pa.array(keys if keyed.all() else [key or b"" for key in keys], pa.large_binary())
        targets = np.where(
            keyed.to_numpy(), partitions_of(bare, partitions), frame[ROWPARTITION].to_numpy() % partitions
        )
        if self.spec.key_window is not None:
            keys = _windowed_keys(keys, frame, self.spec.key_window)
        ends = (frame[SIDE] + (~keyed).cast(pl.Int32) * _KEYLESS).to_list()
        keys = [((key or b"") if end < _KEYLESS else b"") + bytes((end,)) for key, end in zip(keys, ends, strict=True)]
        return replace(records, keys=keys, partitions=targets.tolist())

    def _keys(self, frame: pl.DataFrame) -> list[bytes | None]:
        names = [column.name for column in self.spec.schema.key]
        if not names:
            return [None] * len(frame)
        keys = self._key.write(frame)
        if not self.spec.hands_on_keys or not all(frame[name].has_nulls() for name in names):
            return keys
        missing = frame.select(pl.all_horizontal(pl.col(names).is_null())).to_series()
        return [None if gone else key for key, gone in zip(keys, missing, strict=True)]

    def _with_own_time(self, frame: pl.DataFrame, column: str) -> pl.DataFrame:
        """Take the records' timestamps from a column; rows where it gives none are left out, as in ksqlDB."""
        time = pl.col(column)
        if frame.schema[column] == pl.String:
            time = timestamps_of(time, self.spec.timestamp_format or "")
        time = time.cast(pl.Int64)
        for name in (DELETED, VALUELESS):
            if name in frame.columns:
                time = pl.when(name).then(ROWTIME).otherwise(time)
        return frame.with_columns(time.alias(ROWTIME)).filter(pl.col(ROWTIME) >= 0)


def _headers_of(frame: pl.DataFrame) -> list[list[tuple[str, bytes | None]]] | None:
    if HEADERS not in frame.columns:
        return None
    return [[(one["KEY"], one["VALUE"]) for one in row or ()] for row in frame[HEADERS].to_list()]


def _windowed_keys(keys: list[bytes | None], frame: pl.DataFrame, window: Window) -> list[bytes | None]:
    # Source: Kafka Streams' SessionKeySchema and WindowKeySchema.
    names = (WINDOWEND, WINDOWSTART) if window.kind is WindowKind.SESSION else (WINDOWSTART,)
    bounds = np.stack([frame[name].to_numpy() for name in names], axis=1).astype(">i8")
    return [(key or b"") + bound.tobytes() for key, bound in zip(keys, bounds, strict=True)]


@dataclass
class Pipeline:
    """A stage at work: frames in, records out; no Kafka.

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
    """

    stage: Stage
    source: SourceReader
    tables: list[TableInput]
    before: list[Operator]
    aggregate: Stateful | None
    after: list[Operator]
    sink: SinkWriter
    keys: Keys | None
    counters: Counters
    adds_keys: bool

    def push(self, batch: MessageBatch) -> tuple[pl.DataFrame, list[Rejected]]:
        """Process stream messages, ordered by partition; return result rows and bad messages."""
        frame, rejects = self._read(batch)
        frame = run_chain(self.before, frame)
        if self.aggregate is None:
            self._forget_unused_keys()
            return frame, [*rejects, *failed(self.counters, self.stage.source.topic)]
        results = self.aggregate.push(frame) if len(frame) else self.aggregate.emit()
        results = self.aggregate.settle(run_chain(self.after, results))
        self._forget_unused_keys()
        return results, [*rejects, *failed(self.counters, self.stage.source.topic)]

    def emit(self) -> pl.DataFrame:
        """Return what has become final since, without new messages."""
        if self.aggregate is None:
            return pl.DataFrame()
        return self.aggregate.settle(run_chain(self.after, self.aggregate.emit()))

    def put_back(self, states: pl.DataFrame) -> None:
        """Take up states of the aggregate out of the changelog; what HAVING says of them is worked out anew, as it may be new."""
        if isinstance(self.aggregate, Changes | Regrouping):
            self.aggregate.settle(run_chain(self.after, self.aggregate.put_back(states)))
            self.counters.take_failures()

    def go_on(self, partition: int) -> None:
        """Take a partition whose results up to some offset were written before, and whose records before it aren't read again."""
        for one in self._table_filters():
            one.go_on(partition)

    def _table_filters(self) -> list[TableFilter]:
        return [one for one in (*self.before, *self.after) if isinstance(one, TableFilter)]

    def drop_partition(self, partition: int) -> None:
        """Forget a partition that another engine process has now."""
        if self.aggregate is not None:
            self.aggregate.drop_partition(partition)
        if self.keys is not None:
            codes = self.keys.codes_of(partition)
            for one in self._table_filters():
                one.forget(partition, codes)
            for table in self.tables:
                table.rows.drop(codes)
            if isinstance(self.aggregate, TablesJoin | Regrouping):
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
        holders: list[Rows | TableFilter] = [*(table.rows for table in self.tables), *self._table_filters()]
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


def failed(counters: Counters, topic: str) -> list[Rejected]:
    """Return what could not be computed since the last call, as messages of a topic."""
    return [
        Rejected(topic, failure.partition, failure.offset, f"{failure.message}: {failure.cause}", None, failure)
        for failure in counters.take_failures()
    ]


@dataclass
class RunningArm:
    """One side of a join at work."""

    reader: SourceReader
    chain: list[Operator]
    kind: SourceKind

    @property
    def topic(self) -> str:
        """The topic that it reads."""
        return self.reader.step.topic


@dataclass
class MergePipeline:
    """A stage at work that puts both sides of a join into the join's topic; it holds no state."""

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
        without_key = frame[_KEY].null_count()
        if without_key and not self.stage.arms[side].keeps_keyless:
            self.counters.without_key += without_key
            frame = frame.filter(pl.col(_KEY).is_not_null())
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


# -------------------------------------------------------------------------------------------------------- building
@dataclass(frozen=True)
class WriteSchemas:
    """Avro schemas (with their ids) that a stage writes its keys and values with, where the format is AVRO."""

    key: tuple[avro_codec.AvroSchema, int] | None = None
    value: tuple[avro_codec.AvroSchema, int] | None = None


def build(stage: Stage, schemas: SchemaLookup, write: WriteSchemas) -> Pipeline:
    """Build a stage's operators.

    Args:
        stage: what to run.
        schemas: gives the Avro schema of an id.
        write: what results are written with.
    """
    return _Builder(stage, schemas).build(write)


def build_merge(stage: Stage, schemas: SchemaLookup, write: WriteSchemas) -> MergePipeline:
    """Build the operators of a stage with `Stage.arms` (see `build`)."""
    counters = Counters()
    arms = [_Builder(replace(stage, root=arm.root, source=arm.source), schemas, counters).arm() for arm in stage.arms]
    return MergePipeline(stage, arms, SinkWriter(stage.sink, schemas, write), counters)


class _Builder:
    """Walks a stage's steps: down to see which columns are used, up to make the operators."""

    def __init__(self, stage: Stage, schemas: SchemaLookup, counters: Counters | None = None) -> None:
        self._stage = stage
        self._schemas = schemas
        self._path = _path(stage.root)
        self._counters = counters or Counters()
        self._tables: list[TableInput] = []
        self._needed = self._needed_below()
        self._aggregates = [
            step for step in self._path if isinstance(step, AggregateStep | JoinedSidesStep | TableGroupStep)
        ]
        grouped = any(isinstance(step, AggregateStep | TableGroupStep) for step in self._path)
        self._filters_table = stage.source.kind is SourceKind.TABLE and not grouped
        filtered = self._filters_table and any(isinstance(step, FilterStep) for step in self._path)
        coded = bool(self._aggregates or stage.tables or filtered)
        self._source = SourceReader(stage.source, self._needed[0], schemas, keeps_valueless=not coded)
        self._keys = Keys(self._source.key.valid) if coded else None

    def build(self, write: WriteSchemas) -> Pipeline:
        if len(self._aggregates) > 1:
            raise NotSupportedError("An aggregate over an aggregate is")
        before: list[Operator] = []
        after: list[Operator] = []
        aggregate: Stateful | None = None
        operators = before
        for step, needed in zip(self._path[1:], self._needed[1:], strict=True):
            if isinstance(step, AggregateStep):
                if len(step.keys) > 1:
                    # A row is grouped only where no grouping column is NULL; with one, that is a null key.
                    before.append(Filter(pl.all_horizontal(pl.col(step.keys).is_not_null())))
                aggregate = self._aggregate(step)
                operators = after
            elif isinstance(step, JoinedSidesStep):
                aggregate = self._two_sided_join(step, needed)
                operators = after
            elif isinstance(step, TableGroupStep):
                keys = {item.name: _polars(item.expression) for item in step.keys}
                before.append(
                    Project(keys | {one.name: _handed_on(one) for one in step.schema.value if one.name != step.undo})
                )
                aggregate = self._regrouping(step)
                operators = after
            elif isinstance(step, FilterStep) and self._filters_table:
                operators += [*self._checks(step, needed), TableFilter(_polars(step.predicate))]
            else:
                operators += [*self._checks(step, needed), self._operator(step, needed)]
        for stateful in self._aggregates:
            if not isinstance(stateful, TableGroupStep):
                after = self._with_key_columns(after, stateful)
        inner = any(isinstance(step, StreamTableJoinStep) and step.kind is JoinKind.INNER for step in self._path)
        sink = SinkWriter(self._stage.sink, self._schemas, write)
        return Pipeline(
            self._stage,
            self._source,
            self._tables,
            before,
            aggregate,
            after,
            sink,
            self._keys,
            self._counters,
            adds_keys=bool(self._aggregates) and not inner,
        )

    def arm(self) -> RunningArm:
        """Return the operators of one side of a join."""
        chain: list[Operator] = []
        for step, needed in zip(self._path[1:], self._needed[1:], strict=True):
            chain += [*self._checks(step, needed), self._operator(step, needed)]
        reader = SourceReader(self._stage.source, self._needed[0], self._schemas)
        return RunningArm(reader, chain, self._stage.source.kind)

    def _needed_below(self) -> list[set[str]]:
        """Return, for each step of the path, which columns of its output are used."""
        needed = {column.name for column in self._stage.root.schema.columns}
        result = [needed]
        for step in reversed(self._path[1:]):
            if isinstance(step, ProjectStep):
                needed = set(columns_read([_polars(item.expression) for item in step.items if item.name in needed]))
            elif isinstance(step, RepartitionStep):
                keys = {item.name for item in step.keys}
                needed = {_CARRIED.get(name, name) for name in needed - keys}
                needed |= set(columns_read([_polars(item.expression) for item in step.keys]))
            elif isinstance(step, FilterStep):
                needed = needed | set(columns_read([_polars(step.predicate)]))
            elif isinstance(step, FlatMapStep):
                arrays = columns_read([_polars(item.expression) for item in step.items])
                needed = (needed - {item.name for item in step.items}) | set(arrays)
            elif isinstance(step, TableGroupStep):
                keys = set(columns_read([_polars(item.expression) for item in step.keys]))
                needed = {column.name for column in step.schema.value if column.name != step.undo} | keys
            elif isinstance(step, AggregateStep):
                needed = set(aggregates_of(step).inputs) | (set(step.keys) if len(step.keys) > 1 else set())
                needed |= {step.undo} if step.undo else set()
            result.append(needed)
        return result[::-1]

    def _checks(self, step: Step, needed: set[str]) -> list[Operator]:
        """Return what notes the rows for which a step's expressions fail; nothing where none can."""
        found: list[Check] = []
        if isinstance(step, FilterStep):
            having = any(isinstance(one, AggregateStep) for one in _path(step))
            found += _ways_to_fail(
                step.predicate,
                "HavingFilter" if having else "WhereFilter",
                f"Error evaluating predicate {step.predicate}",
            )
        elif isinstance(step, ProjectStep):
            for index, item in enumerate(step.items):
                what = f"Error computing expression {item.expression} for column {item.name} with index {index}"
                found += _ways_to_fail(item.expression, "Project", what) if item.name in needed else []
        elif isinstance(step, RepartitionStep):
            for item in step.keys:
                found += _ways_to_fail(item.expression, "PartitionBy", f"Error calculating key {item.expression}")
        return [Checks(found, self._counters)] if found else []

    def _operator(self, step: Step, needed: set[str]) -> Operator:
        if isinstance(step, FilterStep):
            return Filter(_polars(step.predicate))
        if isinstance(step, ProjectStep):
            items = {item.name: _polars(item.expression) for item in step.items if item.name in needed}
            return Project(items, self._keys_of_values(step))
        if isinstance(step, FlatMapStep):
            return FlatMap({item.name: _polars(item.expression) for item in step.items})
        if isinstance(step, RepartitionStep):
            keys = {item.name: _polars(item.expression) for item in step.keys}
            return Project(keys | {column.name: _handed_on(column) for column in step.schema.value})
        if isinstance(step, StreamTableJoinStep):
            return self._join(step, needed)
        raise NotSupportedError(f"{type(step).__name__.removesuffix('Step')} is")

    @staticmethod
    def _keys_of_values(step: ProjectStep) -> frozenset[str]:
        """Return the key columns that are made of the value's columns."""
        keys = {column.name for column in step.schema.key}
        kept = {column.name for column in step.source.schema.key}
        return frozenset(
            item.name
            for item in step.items
            if item.name in keys and set(columns_read([_polars(item.expression)])) - kept
        )

    def _join(self, step: StreamTableJoinStep, needed: set[str]) -> TableJoin:
        right = _path(step.right)
        wanted = [column for column in step.right.schema.columns if column.name in needed]
        below = {column.name for column in wanted}
        chain: list[Operator] = []
        for table_step in reversed(right[1:]):
            chain.insert(0, self._operator(table_step, below))
            if isinstance(table_step, FilterStep):
                below = below | set(columns_read([_polars(table_step.predicate)]))
            elif isinstance(table_step, ProjectStep):
                items = [item for item in table_step.items if item.name in below]
                below = set(columns_read([_polars(item.expression) for item in items]))
        source = right[0]
        if not isinstance(source, SourceStep):
            raise NotSupportedError("A join with anything but a table's topic is")
        reader = SourceReader(source, below, self._schemas)
        rows = Rows({column.name: column.type.polars for column in wanted})
        self._tables.append(TableInput(reader, chain, rows, [column.name for column in wanted]))
        return TableJoin(rows, step.kind, self._counters)

    def _two_sided_join(self, step: JoinedSidesStep, needed: set[str]) -> StreamJoin | TablesJoin:
        join = step.join
        columns = tuple(
            {
                one.name: one.type.polars
                for one in side.schema.columns
                if one.name in needed and one in step.schema.value
            }
            for side in (join.left, join.right)
        )
        left, right = columns
        if not isinstance(join, StreamStreamJoinStep):
            return TablesJoin(join.kind, (left, right), self._counters)
        window = JoinWindow(join.before_ms, join.after_ms, join.grace_ms)
        return StreamJoin(window, join.kind, (left, right), self._known_keys())

    @staticmethod
    def _regrouping(step: TableGroupStep) -> Regrouping:
        columns = {one.name: one.type.polars for one in step.schema.columns if one.name != step.undo}
        return Regrouping(columns, [item.name for item in step.keys], step.undo)

    def _known_keys(self) -> Keys:
        if self._keys is None:
            raise NotSupportedError("an aggregate over a source without keys is")
        return self._keys

    def _aggregate(self, step: AggregateStep) -> Sessions | FinalWindows | Changes:
        functions = aggregates_of(step)
        if step.undo is not None:
            return TableAggregate(functions, state_types(step), step.undo, self._counters)
        if step.window is not None and step.window.kind is WindowKind.SESSION:
            return Sessions(step.window, functions, state_types(step), self._counters, step.emit_final)
        if step.emit_final:
            if step.window is None:
                raise NotSupportedError("EMIT FINAL without a window is")
            return FinalWindows(step.window, functions, self._counters)
        return Changes(step.window, functions, state_types(step), self._counters)

    def _with_key_columns(self, after: list[Operator], step: AggregateStep | JoinedSidesStep) -> list[Operator]:
        """Put the key columns back as late as possible: filters that don't read them go first."""
        reader = self._source.key
        names = step.keys if isinstance(step, AggregateStep) else tuple(column.name for column in step.schema.key)
        back = KeyColumns(
            self._known_keys(),
            lambda found: reader.columns(found).rename(dict(zip(reader.names, names, strict=True))),
            ordered=isinstance(step, AggregateStep) and step.emit_final,
        )
        steps = self._path[self._path.index(step) + 1 :]
        first = 0
        for one in steps:
            if not isinstance(one, FilterStep) or set(names) & set(columns_read([_polars(one.predicate)])):
                break
            first += 1
        return [*after[:first], back, *after[first:]]


def _ways_to_fail(expression: Expression, step: str, message: str) -> list[Check]:
    errors = expression.errors()  # type: ignore[attr-defined]
    return [Check(error.condition, step, message, error.message) for error in errors]


def aggregates_of(step: AggregateStep) -> Aggregates:
    """Return a step's aggregate functions as expressions."""
    bound = [aggregates.bind(call, over_table=step.undo is not None) for call in step.calls]
    return Aggregates(
        inputs=tuple(sorted({name for one in bound for name in one.inputs})),
        partial=tuple(expression for one in bound for expression in one.partial),
        merge=tuple(expression for one in bound for expression in one.merge),
        result=tuple(one.result for one in bound),
        undo=tuple(expression for one in bound for expression in one.undo or ()),
    )


def state_types(step: AggregateStep) -> dict[str, pl.DataType]:
    """Return names and types of a step's state columns."""
    return {
        name: type_
        for call in step.calls
        for name, type_ in aggregates.bind(call, over_table=step.undo is not None).states.items()
    }
