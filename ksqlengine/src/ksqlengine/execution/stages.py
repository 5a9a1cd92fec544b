"""A plan's stages.

A plan is cut where it repartitions: each stage reads one stream topic (and the tables it joins) and writes one topic.
Partitions of a stage's topics with the same number belong together; a stage's state is kept by partition.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

from ksqlengine.expressions.base import ColumnExpression
from ksqlengine.internal_names import query_topic
from ksqlengine.plan.catalog import source_steps
from ksqlengine.plan.steps import (
    AggregateStep,
    Column,
    Expression,
    FilterStep,
    FlatMapStep,
    Format,
    ProjectStep,
    QueryPlan,
    Schema,
    SelectItem,
    SourceKind,
    SourceStep,
    Step,
    StreamStreamJoinStep,
    StreamTableJoinStep,
    TableGroupStep,
    ThroughTopicStep,
    TwoSidedJoinStep,
    Window,
    WindowKind,
    driving_path,
)
from ksqlengine.types.errors import NotSupportedError

JOIN_KEY = "__JOIN_KEY"
KEYLESS = 2  # added to the side of a join's row that has no key


@dataclass(frozen=True)
class SinkSpec:
    """What a stage writes: topic, columns, formats, and the column that gives the records' timestamps where there is one.

    `hands_on_keys` says that keys are the source's own: a key whose columns are all null is not a key.
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
        ahead_max_ms: how far a record's TIMESTAMP column may lie ahead of its own time, ms; None without a bound.
        is_cached: whether a cache stands before the stage's store.
    """

    name: str
    root: Step
    source: SourceStep
    tables: tuple[SourceStep, ...]
    sink: SinkSpec
    arms: tuple[Arm, ...] = ()
    changelog: str | None = None
    ahead_max_ms: int | None = None
    is_cached: bool = True

    @property
    def with_headers(self) -> bool:
        """Whether what drives the stage has columns that hold headers."""
        return any(source.headers for source in (self.source, *(arm.source for arm in self.arms)))

    @property
    def driving_topics(self) -> tuple[str, ...]:
        """Topics that the stage's group reads."""
        return tuple(dict.fromkeys(arm.source.topic for arm in self.arms)) or (self.source.topic,)

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


def stages(plan: QueryPlan, service_id: str) -> list[Stage]:
    """Cut a plan into its stages, upstream ones first."""
    return _Cutting(plan, service_id).stages()


def path_to(step: Step) -> list[Step]:
    """Return the steps from the driving source up to `step`."""
    return [*driving_path(step)][::-1]


class _Cutting:
    """Cuts a plan into stages."""

    def __init__(self, plan: QueryPlan, service_id: str) -> None:
        self._plan = plan
        self._service_id = service_id
        self._found: list[Stage] = []

    def stages(self) -> list[Stage]:
        """Return the stages, upstream ones first."""
        plan = self._plan
        sink = SinkSpec(
            plan.topic, plan.root.schema, plan.key_format, plan.value_format, plan.key_window, False,
            plan.timestamp_column, plan.timestamp_format,
        )  # fmt: skip
        root = self._cut(plan.root)
        last = _stage("", root, replace(sink, hands_on_keys=not self._found and _hands_on_keys(root)))
        found = [self._with_changelog(stage) for stage in (*self._found, last)]
        return [replace(stage, ahead_max_ms=plan.ahead_max_ms, is_cached=plan.is_cached) for stage in found]

    def _topic(self, suffix: str) -> str:
        return query_topic(self._service_id, self._plan.query_id, suffix)

    def _cut(self, step: Step) -> Step:
        """Replace what lies below each repartitioning by a source on its topic, and note the upstream stages."""
        if isinstance(step, TwoSidedJoinStep):
            return self._cut_join(step)
        if not step.inputs:
            return step
        driving, *joined = step.inputs
        below = self._cut(driving)
        if isinstance(step, AggregateStep | StreamTableJoinStep | TableGroupStep):
            below = self._simple(below)
        step = step.with_inputs(below, *joined)
        return self._through_topic(step) if isinstance(step, ThroughTopicStep) else step

    def _through_topic(self, step: ThroughTopicStep) -> SourceStep:
        """Let a step end a stage; return the source on the topic that it writes."""
        topic, suffix = self._topic(step.topic_suffix), step.topic_suffix
        # A null value would not be a row; JSON tells the two apart where there are no value columns.
        value_format = step.value_format if step.schema.value else Format("JSON")
        sink = SinkSpec(topic, step.schema, step.key_format, value_format, None, internal=True)
        self._found.append(_stage(suffix, step, sink))
        return SourceStep(step.schema, suffix, SourceKind.STREAM, topic, step.key_format, value_format)

    def _cut_join(self, step: TwoSidedJoinStep) -> Step:
        """Let both sides of a join go into one topic, which fixes the order in which they are joined."""
        tables = not isinstance(step, StreamStreamJoinStep)
        topic, suffix = self._topic(step.topic_suffix), step.topic_suffix
        schema = Schema((Column(JOIN_KEY, step.schema.key[0].type),), step.schema.value)
        window = source_steps(step.left)[0].key_window
        keyless = not tables and window is None
        arms = (
            self._arm(step.left, step.left_key, schema, keyless and step.kind.keeps_left),
            self._arm(step.right, step.right_key, schema, keyless and step.kind.keeps_right),
        )
        sink = SinkSpec(
            topic, schema, step.key_format, step.value_format, window, internal=True, sided=True, compacted=tables
        )
        self._found.append(Stage(suffix, arms[0].root, arms[0].source, (), sink, arms))
        kind = SourceKind.TABLE if tables else SourceKind.STREAM
        source = SourceStep(
            schema, suffix, kind, topic, step.key_format, step.value_format, key_window=window, sided=True
        )
        return JoinedSidesStep(step.schema, source, step)

    def _arm(self, side: Step, key: Expression, joined: Schema, keeps_keyless: bool) -> Arm:
        """Return a side of a join on its way into the join's topic, whose columns are `joined`."""
        below = self._simple(self._cut(side), joins=True)
        own = tuple(column for column in side.schema.columns if column in joined.value)
        items = (SelectItem(JOIN_KEY, key), *(SelectItem(column.name, _column(column)) for column in own))
        return Arm(ProjectStep(Schema(joined.key, own), below, items), source_steps(below)[0], keeps_keyless)

    def _simple(self, step: Step, *, joins: bool = False) -> Step:
        """Return a step without state, nor joined tables where `joins` is set: what has any ends a stage of its own."""
        stateful = JoinedSidesStep | AggregateStep | StreamTableJoinStep if joins else JoinedSidesStep | AggregateStep
        if not any(isinstance(below, stateful) for below in driving_path(step)):
            return step
        suffix = f"Intermediate-{len(self._found)}"
        topic = self._topic(suffix)
        first = source_steps(step)[0]
        kind = SourceKind.TABLE if first.kind is SourceKind.TABLE else SourceKind.STREAM
        value_format = Format(first.value_format.name if first.value_format.name == "AVRO" else "JSON")
        sink = SinkSpec(topic, step.schema, first.key_format, value_format, None, internal=True)
        self._found.append(_stage(suffix, step, replace(sink, compacted=kind is SourceKind.TABLE)))
        return SourceStep(step.schema, suffix, kind, topic, first.key_format, value_format)

    def _with_changelog(self, stage: Stage) -> Stage:
        """Name the topic of a stage's state, where it may need records for longer than their topic has them.

        The windows of EMIT FINAL and of sessions are read again: their rows would fill a topic as large as the source.
        """
        for step in path_to(stage.root):
            if isinstance(step, TableGroupStep):
                return replace(stage, changelog=self._topic("KsqlTopic-Reduce-changelog"))
            if isinstance(step, AggregateStep) and not _is_read_again(step):
                return replace(stage, changelog=self._topic("Aggregate-Aggregate-Materialize-changelog"))
        return stage


def _stage(name: str, root: Step, sink: SinkSpec) -> Stage:
    driving, *tables = source_steps(root)
    if any(table.kind is not SourceKind.TABLE for table in tables):
        raise NotSupportedError("A join with a second stream")
    return Stage(name, root, driving, tuple(tables), sink)


def _hands_on_keys(root: Step) -> bool:
    """Say whether rows keep the keys that they have in the source."""
    path = path_to(root)
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
    # PARTITION BY the same columns in another order makes new keys.
    return [places.get(column.name) for column in root.schema.key] == [*range(count)]


def _is_read_again(step: AggregateStep) -> bool:
    return step.window is not None and (step.emit_final or step.window.kind is WindowKind.SESSION)


def _column(column: Column) -> ColumnExpression:
    return ColumnExpression(column.type, column.name, text=column.name)
