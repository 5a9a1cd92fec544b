"""A plan's stages.

A plan is cut where it repartitions: each stage reads one stream topic (and the tables it joins) and writes one topic.
Partitions of a stage's topics with the same number belong together; a stage's state is kept by partition.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace

from ksqlengine.expressions.base import ColumnExpression
from ksqlengine.plan.catalog import source_steps
from ksqlengine.plan.steps import (
    AggregateStep,
    Column,
    FilterStep,
    FlatMapStep,
    Format,
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
)
from ksqlengine.types.errors import NotSupportedError

JOIN_KEY = "__JOIN_KEY"
KEYLESS = 2  # added to the side of a join's row that has no key


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
    # PARTITION BY the same columns in another order makes keys anew.
    return [places.get(column.name) for column in root.schema.key] == [*range(count)]


def _with_changelog(stage: Stage, plan: QueryPlan, service_id: str) -> Stage:
    """Name the topic of a stage's state, where it may need records for longer than their topic has them.

    The windows of EMIT FINAL and of sessions are read again: their rows would fill a topic as large as the source.
    """
    for step in path_to(stage.root):
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
    key = Column(JOIN_KEY, step.schema.key[0].type)
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
        items = (SelectItem(JOIN_KEY, expression), *(SelectItem(one.name, _column(one)) for one in own))
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


def _simple(step: Step, plan: QueryPlan, service_id: str, found: list[Stage], *, joins: bool = False) -> Step:
    """Return a step that holds no state, nor joined tables where `joins` is set: what does goes through a topic of its own."""
    stateful = JoinedSidesStep | AggregateStep | StreamTableJoinStep if joins else JoinedSidesStep | AggregateStep
    if not any(isinstance(one, stateful) for one in path_to(step)):
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


def path_to(step: Step) -> list[Step]:
    """Return the steps from the driving source up to `step`."""
    path = [step]
    while not isinstance(path[-1], SourceStep):
        path.append(_below(path[-1]))
    return path[::-1]
