"""The typed plan of one persistent query: what the analyzer hands to the execution.

A plan is a tree of steps that ends in a sink. It holds no Kafka client, no Polars frame and no SQL text to parse again:
expressions are typed, columns are resolved, every default is filled in. The execution walks it once and builds its
operators; EXPLAIN prints it. The shapes follow ksqlDB's execution steps (StreamSource, StreamTableJoin, …), so a new kind of
query is a new step here, a case in the analyzer and an operator in the execution.

A step names the steps it reads (`Step.inputs`), can be built again over others (`Step.with_inputs`) and says what EXPLAIN
prints (`Step.label`, `Step.details`); whoever only walks a plan uses these, `walk`, `driving_path` and `rewrite`, and needs no
change for a new step.

Column names inside a plan are unique: below a join every column carries its source's alias (``R_user_id``), the way ksqlDB
names them. Each frame also has the pseudo columns of `PSEUDO_COLUMNS`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace
from enum import Enum
from typing import Any, ClassVar, Self

from ksqlengine.internal_names import AHEAD, CACHE
from ksqlengine.plan.expression import Expression
from ksqlengine.types.arrays import Ints
from ksqlengine.types.sqltypes import SqlType

ROWTIME = "ROWTIME"  # event time of the row, ms since the epoch, Int64
ROWPARTITION = "ROWPARTITION"  # partition of the source topic, Int32
ROWOFFSET = "ROWOFFSET"  # offset in the source topic, Int64
WINDOWSTART = "WINDOWSTART"  # first ms of the window, Int64; only in windowed data
WINDOWEND = "WINDOWEND"  # first ms after the window, Int64; only in windowed data
PSEUDO_COLUMNS = (ROWTIME, ROWPARTITION, ROWOFFSET)


def carried(pseudo: str) -> str:
    """Return the name of the value column that takes a pseudo column's value through a topic of the query's own."""
    return f"__{pseudo}"


@dataclass(frozen=True)
class Column:
    """A column's name (as stored: upper case unless it was quoted) and type."""

    name: str
    type: SqlType


@dataclass(frozen=True)
class Schema:
    """Key and value columns of a stream, a table or a step's output, in order."""

    key: tuple[Column, ...]
    value: tuple[Column, ...]

    @property
    def columns(self) -> tuple[Column, ...]:
        """Key columns, then value columns."""
        return self.key + self.value


class WindowKind(Enum):
    """KSQL's window types."""

    TUMBLING = "TUMBLING"
    HOPPING = "HOPPING"
    SESSION = "SESSION"


# Kafka Streams drops whole segments of a store, none shorter than this: rows live a bit longer than they must.
LEAST_SEGMENT_MS = 60_000


@dataclass(frozen=True)
class Window:
    """WINDOW clause; all lengths in ms. `advance_ms` equals `size_ms` for tumbling; `size_ms` is the gap for sessions."""

    kind: WindowKind
    size_ms: int
    advance_ms: int
    grace_ms: int
    retention_ms: int | None = None

    @property
    def kept_ms(self) -> int:
        """How far behind the newest a window may lie until its store lets it go: RETENTION, or size and grace, ms."""
        return self.retention_ms if self.retention_ms is not None else self.size_ms + self.grace_ms

    def oldest_kept(self, newest: Ints) -> Ints:
        """Return the oldest time that the store has segments of, at each newest time in it, ms.

        Source: Kafka Streams' ``AbstractSegments.cleanupExpiredSegments``: only whole segments are dropped.
        """
        segment = max(self.kept_ms // 2, LEAST_SEGMENT_MS)
        return (newest - self.kept_ms) // segment * segment

    @property
    def clause(self) -> str:
        """The window as EXPLAIN prints it."""
        advance = f", ADVANCE BY {self.advance_ms} MILLISECONDS" if self.advance_ms != self.size_ms else ""
        return (
            f"{self.kind.value} (SIZE {self.size_ms} MILLISECONDS{advance}, GRACE PERIOD {self.grace_ms} MILLISECONDS)"
        )


@dataclass(frozen=True)
class Format:
    """A KEY_FORMAT or VALUE_FORMAT (AVRO, JSON, DELIMITED, KAFKA, NONE) with its properties.

    Attributes:
        name: the format, upper case.
        schema_name: AVRO's record name (VALUE_SCHEMA_FULL_NAME); None takes ksqlDB's default.
        schema_id: KEY_SCHEMA_ID or VALUE_SCHEMA_ID when given.
        delimiter: DELIMITED's separator.
        wrap_single: WRAP_SINGLE_VALUE, None when not set.
    """

    name: str
    schema_name: str | None = None
    schema_id: int | None = None
    delimiter: str = ","
    wrap_single: bool | None = None

    def bare(self) -> Format:
        """Return the same format for a topic of a query's own: without a schema or a wrapping of the source's."""
        return Format(self.name, delimiter=self.delimiter)


class SourceKind(Enum):
    """What a name in FROM stands for."""

    STREAM = "STREAM"
    TABLE = "TABLE"


@dataclass(frozen=True)
class SelectItem:
    """An output column and the expression that gives it."""

    name: str
    expression: Expression

    def __str__(self) -> str:
        """Return the item as a SELECT writes it."""
        return f"{self.expression} AS {self.name}"


# ------------------------------------------------------------------------------------------------------ kinds of steps
@dataclass(frozen=True)
class Step:
    """A step of a plan.

    Attributes:
        schema: columns of the rows that it gives.
        label: what EXPLAIN calls it.
        input_fields: names of the attributes that hold the steps it reads; the first one drives it.
    """

    label: ClassVar[str] = ""
    input_fields: ClassVar[tuple[str, ...]] = ()

    schema: Schema

    @property
    def inputs(self) -> tuple[Step, ...]:
        """The steps directly below, the driving one first."""
        return tuple(getattr(self, name) for name in self.input_fields)

    def with_inputs(self, *steps: Step) -> Self:
        """Return the same step over other steps, given in the order of `inputs`.

        Raises:
            ValueError: the step reads more or fewer steps than are given.
        """
        inputs: dict[str, Any] = dict(zip(self.input_fields, steps, strict=True))
        return replace(self, **inputs)

    @property
    def details(self) -> str:
        """What EXPLAIN prints of the step besides its label and schema."""
        return ""


@dataclass(frozen=True)
class SingleInputStep(Step):
    """A step over one other step."""

    input_fields = ("source",)

    source: Step


class JoinKind(Enum):
    """Joins by which rows of the left side are kept."""

    INNER = "INNER"
    LEFT = "LEFT"
    RIGHT = "RIGHT"
    OUTER = "OUTER"

    @property
    def keeps_left(self) -> bool:
        """Whether rows of the left side come out that have no match."""
        return self in (JoinKind.LEFT, JoinKind.OUTER)

    @property
    def keeps_right(self) -> bool:
        """Whether rows of the right side come out that have no match."""
        return self in (JoinKind.RIGHT, JoinKind.OUTER)


@dataclass(frozen=True)
class JoinStep(Step):
    """A join of two steps.

    Attributes:
        left: one side; it drives the join.
        right: the other side.
        kind: which rows come out without a match.
    """

    label = "JOIN"
    input_fields = ("left", "right")

    left: Step
    right: Step
    kind: JoinKind


@dataclass(frozen=True)
class ThroughTopicStep(Step):
    """A step whose rows go through a topic of the query's own.

    Attributes:
        topic_suffix: end of the topic's name.
        key_format: how its keys are written.
        value_format: how its values are written.
    """

    topic_suffix: str
    key_format: Format
    value_format: Format


def walk(step: Step) -> Iterator[Step]:
    """Yield a step and everything below it, each step before its inputs, from left to right."""
    yield step
    for below in step.inputs:
        yield from walk(below)


def driving_path(step: Step) -> Iterator[Step]:
    """Yield a step and what is below it down to the source that drives it: of a join only the left side."""
    yield step
    while step.inputs:
        step = step.inputs[0]
        yield step


def rewrite(step: Step, change: Callable[[Step], Step]) -> Step:
    """Return a plan in which `change` was applied to each step, once its inputs were."""
    return change(step.with_inputs(*(rewrite(below, change) for below in step.inputs)))


# --------------------------------------------------------------------------------------------------------------- steps


@dataclass(frozen=True)
class SourceStep(Step):
    """Read a topic as a stream or as a table.

    Attributes:
        source: name of the stream or table.
        kind: stream or table.
        topic: Kafka topic.
        key_format: how keys are read.
        value_format: how values are read.
        timestamp_column: column that gives the event time, None for the record's timestamp.
        timestamp_format: pattern when that column is text.
        key_window: window of a windowed source's key, None for plain keys.
        alias: prefix of the columns below a join, None elsewhere.
        headers: columns that hold record headers: name, and the header's key (None for all of them).
        sided: keys end with a byte that says which side of a join the record is of (a join's own topic).
    """

    label = "SOURCE"

    source: str
    kind: SourceKind
    topic: str
    key_format: Format
    value_format: Format
    timestamp_column: str | None = None
    timestamp_format: str | None = None
    key_window: Window | None = None
    alias: str | None = None
    headers: tuple[tuple[str, str | None], ...] = ()
    sided: bool = False

    @property
    def details(self) -> str:
        """Where the rows come from."""
        formats = f"{self.key_format.name}, {self.value_format.name}"
        time = f", time {self.timestamp_column}" if self.timestamp_column else ""
        return f"{self.kind.value} {self.source} from topic {self.topic} ({formats}{time})"


@dataclass(frozen=True)
class FilterStep(SingleInputStep):
    """Keep rows whose predicate is TRUE (not NULL). Above a TableAggregate it is HAVING."""

    label = "FILTER"

    predicate: Expression

    @property
    def details(self) -> str:
        """The predicate."""
        return str(self.predicate)


@dataclass(frozen=True)
class ProjectStep(SingleInputStep):
    """Compute the output columns, key columns included (their items come first)."""

    label = "PROJECT"

    items: tuple[SelectItem, ...]

    @property
    def details(self) -> str:
        """The columns and what gives them."""
        return ", ".join(map(str, self.items))


@dataclass(frozen=True)
class FlatMapStep(SingleInputStep):
    """Give each row once for every element of the longest of some arrays; the shorter ones end in NULLs (table functions).

    Attributes:
        source: the rows.
        items: the added columns' names and the expressions that give their arrays.
    """

    label = "FLAT_MAP"

    items: tuple[SelectItem, ...]

    @property
    def details(self) -> str:
        """The added columns and what gives them."""
        return ", ".join(map(str, self.items))


@dataclass(frozen=True)
class RepartitionStep(ThroughTopicStep, SingleInputStep):
    """Give the rows a new key and route them by it through a repartition topic (Java client's murmur2).

    The analyzer leaves it out where the new key is the old one, as ksqlDB does.
    """

    label = "REKEY"

    keys: tuple[SelectItem, ...]

    @property
    def details(self) -> str:
        """The new key and the topic."""
        return _rekeyed(self.keys, self.topic_suffix)


@dataclass(frozen=True)
class StreamTableJoinStep(JoinStep):
    """Join each stream row with the table's current row of the same key."""

    left_key: str
    right_key: str

    @property
    def details(self) -> str:
        """The join's kind and criterion."""
        return f"{self.kind.value} on {self.left_key} = {self.right_key}"


@dataclass(frozen=True)
class TwoSidedJoinStep(ThroughTopicStep, JoinStep):
    """Join two streams, or two tables, by expressions over each: what both have in common.

    Both sides go into one topic, in the order in which they are joined. The result's key column is neither side's: it holds
    the common value, also where a side has no row.

    Attributes:
        left_key: the left side's join key.
        right_key: the right side's.
    """

    left_key: Expression
    right_key: Expression

    @property
    def details(self) -> str:
        """The join's kind and criterion."""
        return f"{self.kind.value} on {self.left_key} = {self.right_key}"


@dataclass(frozen=True)
class StreamStreamJoinStep(TwoSidedJoinStep):
    """Join two streams' rows of the same key whose times are near each other.

    Attributes:
        before_ms: how much earlier a row of the right may be.
        after_ms: how much later.
        grace_ms: how much later than that rows may come; None where the statement doesn't say, and then rows without a match
            come out at once, as ksqlDB does it.
    """

    before_ms: int = 0
    after_ms: int = 0
    grace_ms: int | None = None

    @property
    def details(self) -> str:
        """The join's kind, criterion and window."""
        grace = f" GRACE PERIOD {self.grace_ms} MILLISECONDS" if self.grace_ms is not None else ""
        within = f"WITHIN ({self.before_ms} MILLISECONDS, {self.after_ms} MILLISECONDS)"
        return f"{super().details} {within}{grace}"


@dataclass(frozen=True)
class TableTableJoinStep(TwoSidedJoinStep):
    """Join two tables' current rows of the same primary key."""


@dataclass(frozen=True)
class TableGroupStep(ThroughTopicStep, SingleInputStep):
    """Group a table by another key: each change takes the key's old row out of its group and puts the new one into its own.

    Attributes:
        source: the table.
        keys: the grouping.
        undo: Boolean column that marks the rows that are taken out.
    """

    label = "REKEY"

    keys: tuple[SelectItem, ...]
    undo: str

    @property
    def details(self) -> str:
        """The new key and the topic."""
        return _rekeyed(self.keys, self.topic_suffix)


def _rekeyed(keys: tuple[SelectItem, ...], topic_suffix: str) -> str:
    return f"by {', '.join(str(key.expression) for key in keys)} through {topic_suffix}"


@dataclass(frozen=True)
class AggregateCall:
    """One aggregate function call: `name(arguments…)` stored under `output`.

    Constant arguments (TOPK's k) are in `constants`; `limit` is the most values that a list or set may have, None for any.
    """

    output: str
    function: str
    arguments: tuple[Expression, ...]
    type: SqlType
    constants: tuple[object, ...] = ()
    limit: int | None = None

    def __str__(self) -> str:
        """Return the call as a SELECT writes it."""
        arguments = ", ".join(map(str, (*self.arguments, *self.constants))) or "*"
        return f"{self.function}({arguments}) AS {self.output}"


@dataclass(frozen=True)
class AggregateStep(SingleInputStep):
    """Group a stream by `keys` (already its partitioning) and aggregate, in windows or over all time.

    Attributes:
        keys: grouping columns, in order; they are columns of `source`.
        calls: the aggregates, each once however often SELECT and HAVING use it.
        window: None for an aggregate without windows.
        emit_final: one result a key and window, when it closes; otherwise each change.
        undo: column that marks rows to be taken out again (of a table's), None for streams.
    """

    label = "AGGREGATE"

    keys: tuple[str, ...]
    calls: tuple[AggregateCall, ...]
    window: Window | None
    emit_final: bool
    undo: str | None = None

    @property
    def details(self) -> str:
        """The grouping, the window and the calls."""
        window = f" in {self.window.clause}" if self.window else ""
        emit = f"EMIT {'FINAL' if self.emit_final else 'CHANGES'}"
        return f"by {', '.join(self.keys)}{window}, {emit}: {', '.join(map(str, self.calls))}"


@dataclass(frozen=True)
class QueryPlan:
    """A persistent query: steps, and the topic that gets the result.

    Attributes:
        query_id: as SHOW QUERIES prints it (``CTAS_ALERTS_5``).
        sink: name of the stream or table written.
        sink_kind: stream or table.
        topic: output topic.
        partitions: None takes the source's.
        replicas: None takes the source's.
        key_format: how keys are written.
        value_format: how values are written.
        key_window: window in the key of a windowed result.
        root: last step; its schema is the sink's.
        properties: the query's settings, as SET gave them.
        statement: the statement's text, variables replaced.
        timestamp_column: column of the result that gives the records' timestamp, None for the rows' own time.
        timestamp_format: its pattern where it is text.
        topic_config: settings of the output topic, for where the query makes it.
    """

    query_id: str
    sink: str
    sink_kind: SourceKind
    topic: str
    partitions: int | None
    replicas: int | None
    key_format: Format
    value_format: Format
    key_window: Window | None
    root: Step
    properties: dict[str, str] = field(default_factory=dict)
    statement: str = ""
    timestamp_column: str | None = None
    timestamp_format: str | None = None
    topic_config: dict[str, str] = field(default_factory=dict)

    @property
    def ahead_max_ms(self) -> int | None:
        """How far a record's TIMESTAMP column may lie ahead of its own time, ms; None without a bound."""
        value = int(self.properties.get(AHEAD, "-1"))
        return value if value >= 0 else None

    @property
    def is_cached(self) -> bool:
        """Whether a cache stands before the query's stores."""
        return int(self.properties.get(CACHE, "1")) > 0
