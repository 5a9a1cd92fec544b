"""The syntax tree of KSQL: what a text says, before names and types are known.

Nodes are frozen and compare without their position, so that two writings of an expression are equal; ``str`` gives an
expression as ksqlDB's messages write it.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from decimal import Decimal

from ksqlengine.types.errors import Position
from ksqlengine.types.sqltypes import SqlType

NOWHERE = Position(1, 1)


@dataclass(frozen=True, kw_only=True)
class Node:
    """Anything that stands somewhere in the text."""

    position: Position = field(default=NOWHERE, compare=False, repr=False)


# ---------------------------------------------------------------------------------------------------- expressions
@dataclass(frozen=True)
class SyntaxExpression(Node):
    """An expression without types."""


@dataclass(frozen=True)
class NullLiteral(SyntaxExpression):
    """NULL."""

    def __str__(self) -> str:
        return "null"


@dataclass(frozen=True)
class BooleanLiteral(SyntaxExpression):
    """TRUE or FALSE."""

    value: bool

    def __str__(self) -> str:
        return str(self.value).lower()


@dataclass(frozen=True)
class IntegerLiteral(SyntaxExpression):
    """A whole number; INTEGER where it fits, else BIGINT."""

    value: int

    def __str__(self) -> str:
        return str(self.value)


@dataclass(frozen=True)
class DecimalLiteral(SyntaxExpression):
    """A number with a decimal point: DECIMAL."""

    value: Decimal

    def __str__(self) -> str:
        return f"{self.value:f}"


@dataclass(frozen=True)
class DoubleLiteral(SyntaxExpression):
    """A number with an exponent: DOUBLE."""

    value: float

    def __str__(self) -> str:
        return f"{self.value:E}"


@dataclass(frozen=True)
class StringLiteral(SyntaxExpression):
    """Text in single quotes."""

    value: str

    def __str__(self) -> str:
        return "'" + self.value.replace("'", "''") + "'"


@dataclass(frozen=True)
class ColumnReference(SyntaxExpression):
    """A column, with its source's name or alias where given; inside a lambda also its parameter."""

    name: str
    qualifier: str | None = None

    def __str__(self) -> str:
        return f"{self.qualifier}.{self.name}" if self.qualifier else self.name


@dataclass(frozen=True)
class Unary(SyntaxExpression):
    """+x or -x."""

    operator: str
    operand: SyntaxExpression

    def __str__(self) -> str:
        return f"{self.operator}{self.operand}"


@dataclass(frozen=True)
class Arithmetic(SyntaxExpression):
    """x + y, x - y, x * y, x / y, x % y."""

    operator: str
    left: SyntaxExpression
    right: SyntaxExpression

    def __str__(self) -> str:
        return f"({self.left} {self.operator} {self.right})"


@dataclass(frozen=True)
class Comparison(SyntaxExpression):
    """x = y and the other comparisons; the operator may be IS DISTINCT FROM."""

    operator: str
    left: SyntaxExpression
    right: SyntaxExpression

    def __str__(self) -> str:
        return f"({self.left} {self.operator} {self.right})"


@dataclass(frozen=True)
class Logical(SyntaxExpression):
    """x AND y, x OR y."""

    operator: str
    left: SyntaxExpression
    right: SyntaxExpression

    def __str__(self) -> str:
        return f"({self.left} {self.operator} {self.right})"


@dataclass(frozen=True)
class Not(SyntaxExpression):
    """NOT x."""

    operand: SyntaxExpression

    def __str__(self) -> str:
        return f"(NOT {self.operand})"


@dataclass(frozen=True)
class Between(SyntaxExpression):
    """x BETWEEN low AND high."""

    value: SyntaxExpression
    low: SyntaxExpression
    high: SyntaxExpression

    def __str__(self) -> str:
        return f"({self.value} BETWEEN {self.low} AND {self.high})"


@dataclass(frozen=True)
class InList(SyntaxExpression):
    """x IN (a, b)."""

    value: SyntaxExpression
    items: tuple[SyntaxExpression, ...]

    def __str__(self) -> str:
        return f"({self.value} IN ({', '.join(map(str, self.items))}))"


@dataclass(frozen=True)
class Like(SyntaxExpression):
    """x LIKE pattern ESCAPE character."""

    value: SyntaxExpression
    pattern: SyntaxExpression
    escape: str | None = None

    def __str__(self) -> str:
        escape = f" ESCAPE '{self.escape}'" if self.escape else ""
        return f"({self.value} LIKE {self.pattern}{escape})"


@dataclass(frozen=True)
class IsNull(SyntaxExpression):
    """x IS NULL, x IS NOT NULL."""

    value: SyntaxExpression
    negated: bool = False

    def __str__(self) -> str:
        return f"({self.value} IS {'NOT ' if self.negated else ''}NULL)"


@dataclass(frozen=True)
class WhenClause(Node):
    """WHEN condition THEN result."""

    condition: SyntaxExpression
    result: SyntaxExpression

    def __str__(self) -> str:
        return f"WHEN {self.condition} THEN {self.result}"


@dataclass(frozen=True)
class Case(SyntaxExpression):
    """CASE [operand] WHEN … END."""

    operand: SyntaxExpression | None
    whens: tuple[WhenClause, ...]
    default: SyntaxExpression | None

    def __str__(self) -> str:
        operand = f" {self.operand}" if self.operand else ""
        default = f" ELSE {self.default}" if self.default else ""
        return f"(CASE{operand} {' '.join(map(str, self.whens))}{default} END)"


@dataclass(frozen=True)
class Cast(SyntaxExpression):
    """CAST(x AS type)."""

    value: SyntaxExpression
    type: SqlType

    def __str__(self) -> str:
        return f"CAST({self.value} AS {self.type})"


@dataclass(frozen=True)
class Subscript(SyntaxExpression):
    """x[i]."""

    base: SyntaxExpression
    index: SyntaxExpression

    def __str__(self) -> str:
        return f"{self.base}[{self.index}]"


@dataclass(frozen=True)
class Dereference(SyntaxExpression):
    """x->field."""

    base: SyntaxExpression
    field_name: str

    def __str__(self) -> str:
        return f"{self.base}->{self.field_name}"


@dataclass(frozen=True)
class ArrayConstructor(SyntaxExpression):
    """ARRAY[a, b]."""

    items: tuple[SyntaxExpression, ...]

    def __str__(self) -> str:
        return f"ARRAY[{', '.join(map(str, self.items))}]"


@dataclass(frozen=True)
class MapConstructor(SyntaxExpression):
    """MAP(k := v)."""

    entries: tuple[tuple[SyntaxExpression, SyntaxExpression], ...]

    def __str__(self) -> str:
        return f"MAP({', '.join(f'{key}:={value}' for key, value in self.entries)})"


@dataclass(frozen=True)
class StructConstructor(SyntaxExpression):
    """STRUCT(a := x)."""

    fields: tuple[tuple[str, SyntaxExpression], ...]

    def __str__(self) -> str:
        return f"STRUCT({', '.join(f'{name}:={value}' for name, value in self.fields)})"


@dataclass(frozen=True)
class FunctionCall(SyntaxExpression):
    """name(arguments…); COUNT(*) has no arguments."""

    name: str
    arguments: tuple[SyntaxExpression, ...]

    def __str__(self) -> str:
        inside = ", ".join(map(str, self.arguments)) or ("*" if self.name == "COUNT" else "")
        return f"{self.name}({inside})"


@dataclass(frozen=True)
class Lambda(SyntaxExpression):
    """(x, y) => body."""

    parameters: tuple[str, ...]
    body: SyntaxExpression

    def __str__(self) -> str:
        inside = ", ".join(self.parameters)
        return f"{inside if len(self.parameters) == 1 else f'({inside})'} => {self.body}"


@dataclass(frozen=True)
class IntervalUnit(SyntaxExpression):
    """A unit of time as a function's argument: DAYS."""

    unit: str

    def __str__(self) -> str:
        return self.unit


# ---------------------------------------------------------------------------------------------------- queries
@dataclass(frozen=True)
class SelectColumn(Node):
    """An expression of the select list, with its alias where given."""

    expression: SyntaxExpression
    alias: str | None = None


@dataclass(frozen=True)
class SelectAll(Node):
    """* or source.*."""

    qualifier: str | None = None


@dataclass(frozen=True)
class SelectStructAll(Node):
    """x->*."""

    base: SyntaxExpression


@dataclass(frozen=True)
class Relation(Node):
    """A stream or table in FROM; the alias is its name where none is given."""

    name: str
    alias: str


@dataclass(frozen=True)
class JoinedRelation(Node):
    """A join of what stands to the left with one more source.

    Attributes:
        relation: the source.
        kind: INNER, LEFT, RIGHT or OUTER.
        criteria: the condition after ON.
        before_ms: how much earlier a row of the right may be, None without WITHIN.
        after_ms: how much later.
        grace_ms: GRACE PERIOD of the join.
        within: the WITHIN clause as ksqlDB shows it, empty without one.
    """

    relation: Relation
    kind: str
    criteria: SyntaxExpression
    before_ms: int | None = None
    after_ms: int | None = None
    grace_ms: int | None = None
    within: str = field(default="", compare=False)


@dataclass(frozen=True)
class WindowClause(Node):
    """WINDOW …; lengths in ms, None where not given; `text` is the clause as ksqlDB shows it."""

    kind: str
    size_ms: int
    advance_ms: int | None = None
    retention_ms: int | None = None
    grace_ms: int | None = None
    text: str = field(default="", compare=False)


@dataclass(frozen=True)
class Query(Node):
    """SELECT …; `emit` is CHANGES, FINAL or None (a pull query when it stands alone)."""

    select: tuple[SelectColumn | SelectAll | SelectStructAll, ...]
    source: Relation
    joins: tuple[JoinedRelation, ...] = ()
    window: WindowClause | None = None
    where: SyntaxExpression | None = None
    group_by: tuple[SyntaxExpression, ...] | None = None
    partition_by: tuple[SyntaxExpression, ...] | None = None
    having: SyntaxExpression | None = None
    emit: str | None = None
    limit: int | None = None


# ---------------------------------------------------------------------------------------------------- statements
@dataclass(frozen=True)
class Statement(Node):
    """One statement."""


@dataclass(frozen=True)
class QueryStatement(Statement):
    """A SELECT by itself: a pull query, or a push query when it has EMIT."""

    query: Query


@dataclass(frozen=True)
class ColumnDefinition(Node):
    """A column of CREATE; `constraint` is KEY, PRIMARY KEY, HEADERS, HEADER or None."""

    name: str
    type: SqlType
    constraint: str | None = None
    header: str | None = None


Properties = tuple[tuple[str, SyntaxExpression], ...]


@dataclass(frozen=True)
class CreateSource(Statement):
    """CREATE STREAM or CREATE TABLE over a topic."""

    kind: str
    name: str
    columns: tuple[ColumnDefinition, ...]
    properties: Properties
    or_replace: bool = False
    if_not_exists: bool = False
    read_only: bool = False


@dataclass(frozen=True)
class AlterSource(Statement):
    """ALTER STREAM or TABLE name ADD COLUMN …: names and types of the new columns."""

    kind: str
    name: str
    added: tuple[tuple[str, SqlType], ...]


@dataclass(frozen=True)
class CreateAsSelect(Statement):
    """CREATE STREAM or TABLE … AS SELECT."""

    kind: str
    name: str
    properties: Properties
    query: Query
    or_replace: bool = False
    if_not_exists: bool = False


@dataclass(frozen=True)
class InsertInto(Statement):
    """INSERT INTO … SELECT."""

    target: str
    query: Query
    properties: Properties = ()


@dataclass(frozen=True)
class InsertValues(Statement):
    """INSERT INTO … VALUES; no columns means all of them in order."""

    target: str
    columns: tuple[str, ...]
    values: tuple[SyntaxExpression, ...]


@dataclass(frozen=True)
class DropSource(Statement):
    """DROP STREAM or TABLE."""

    kind: str
    name: str
    if_exists: bool = False
    delete_topic: bool = False


@dataclass(frozen=True)
class TerminateQuery(Statement):
    """TERMINATE id, or all queries when `query_id` is None."""

    query_id: str | None


@dataclass(frozen=True)
class PauseQuery(Statement):
    """PAUSE id, or all queries."""

    query_id: str | None


@dataclass(frozen=True)
class ResumeQuery(Statement):
    """RESUME id, or all queries."""

    query_id: str | None


@dataclass(frozen=True)
class Show(Statement):
    """SHOW or LIST of STREAMS, TABLES, QUERIES, TOPICS, FUNCTIONS, PROPERTIES, VARIABLES or TYPES.

    `show_all` is SHOW ALL TOPICS, which lists internal topics too.
    """

    what: str
    extended: bool = False
    show_all: bool = False


@dataclass(frozen=True)
class DescribeSource(Statement):
    """DESCRIBE name."""

    name: str
    extended: bool = False


@dataclass(frozen=True)
class DescribeAll(Statement):
    """DESCRIBE STREAMS or DESCRIBE TABLES."""

    what: str
    extended: bool = False


@dataclass(frozen=True)
class DescribeFunction(Statement):
    """DESCRIBE FUNCTION name."""

    name: str


@dataclass(frozen=True)
class Explain(Statement):
    """EXPLAIN a query's id, or a statement."""

    query_id: str | None
    statement: Statement | None


@dataclass(frozen=True)
class SetProperty(Statement):
    """SET 'name' = 'value'."""

    name: str
    value: str


@dataclass(frozen=True)
class UnsetProperty(Statement):
    """UNSET 'name'."""

    name: str


@dataclass(frozen=True)
class DefineVariable(Statement):
    """DEFINE name = 'value'."""

    name: str
    value: str


@dataclass(frozen=True)
class UndefineVariable(Statement):
    """UNDEFINE name."""

    name: str


@dataclass(frozen=True)
class PrintTopic(Statement):
    """PRINT topic [FROM BEGINNING] [INTERVAL n] [LIMIT n]."""

    topic: str
    from_beginning: bool = False
    interval: int | None = None
    limit: int | None = None


@dataclass(frozen=True)
class AssertTopic(Statement):
    """ASSERT [NOT EXISTS] TOPIC."""

    topic: str
    properties: Properties = ()
    timeout_ms: int | None = None
    exists: bool = True


@dataclass(frozen=True)
class AssertSchema(Statement):
    """ASSERT [NOT EXISTS] SCHEMA."""

    subject: str | None
    schema_id: int | None
    timeout_ms: int | None = None
    exists: bool = True


@dataclass(frozen=True)
class AssertValues(Statement):
    """ASSERT VALUES, or ASSERT NULL VALUES when `tombstone`: a statement of SQL test files."""

    values: InsertValues
    tombstone: bool = False


@dataclass(frozen=True)
class AssertSource(Statement):
    """ASSERT STREAM or TABLE: a statement of SQL test files."""

    source: CreateSource


@dataclass(frozen=True)
class RunScript(Statement):
    """RUN SCRIPT file: a statement of SQL test files."""

    path: str


@dataclass(frozen=True)
class RegisterType(Statement):
    """CREATE TYPE name AS type."""

    name: str
    type: SqlType
    if_not_exists: bool = False


@dataclass(frozen=True)
class DropType(Statement):
    """DROP TYPE name."""

    name: str
    if_exists: bool = False


@dataclass(frozen=True)
class Unsupported(Statement):
    """A statement that ksqlDB has and this engine refuses by its name."""

    what: str
