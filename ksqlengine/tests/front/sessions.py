"""What the front end's tests share: an evaluator of expressions over one small frame, and a session over a catalog."""

from __future__ import annotations

from dataclasses import dataclass, field
from datetime import date, datetime, time
from decimal import Decimal
from typing import Any

import polars as pl

from ksqlengine.language import ast
from ksqlengine.language.parser import parse_statements
from ksqlengine.plan.catalog import Catalog, Source
from ksqlengine.plan.steps import QueryPlan, SourceKind
from ksqlengine.planning.persistent_query import TransientPlan
from ksqlengine.planning.statements import Analyzer, SchemaRegistry
from ksqlengine.types.sqltypes import (
    BIGINT,
    BOOLEAN,
    BYTES,
    DATE,
    DOUBLE,
    INTEGER,
    STRING,
    TIME,
    TIMESTAMP,
    ArrayType,
    DecimalType,
    MapType,
    SqlType,
    StructType,
)

MONEY = DecimalType(precision=4, scale=2)
TYPES: dict[str, SqlType] = {
    "I": INTEGER, "J": INTEGER, "L": BIGINT, "D": DOUBLE, "S": STRING, "B": BOOLEAN, "Y": BYTES, "M1": MONEY, "M2": MONEY,
    "A": ArrayType(element=INTEGER), "M": MapType(key=STRING, value=INTEGER),
    "ST": StructType(fields=(("X", INTEGER), ("Y", STRING))), "T": TIMESTAMP, "DT": DATE, "TM": TIME,
}  # fmt: skip
ROWS: list[dict[str, Any]] = [
    {
        "I": 7, "J": 2, "L": 10_000_000_000, "D": 1.5, "S": "abc", "B": True, "Y": b"\x01\x02", "M1": Decimal("10.10"),
        "M2": Decimal("2.00"), "A": [1, 2, 3], "M": [{"key": "a", "value": 1}], "ST": {"X": 1, "Y": "y"},
        "T": datetime(2020, 1, 2, 3, 4, 5, 678000), "DT": date(2020, 1, 2), "TM": time(1, 2, 3),
    },
    dict.fromkeys(TYPES) | {"J": 2},
    {
        "I": -7, "J": 0, "L": 2, "D": -2.5, "S": "12", "B": False, "Y": b"", "M1": Decimal("1.00"), "M2": Decimal("0.00"),
        "A": [], "M": [], "ST": {"X": None, "Y": None}, "T": datetime(1970, 1, 1), "DT": date(1970, 1, 1), "TM": time(0, 0),
    },
]  # fmt: skip
FRAME = pl.DataFrame(ROWS, schema={name: type_.polars for name, type_ in TYPES.items()})


@dataclass(frozen=True)
class Evaluated:
    """An expression's type, its value in each of the three rows, and the messages of each row's errors."""

    type: SqlType
    values: list[Any]
    errors: list[list[str]]


@dataclass
class Session:
    """Statements one after the other against a catalog, as the engine's own session applies them."""

    registry: SchemaRegistry | None = None
    variables: dict[str, str] = field(default_factory=dict)
    catalog: Catalog = field(default_factory=Catalog)
    number: int = 0

    def run(self, sql: str) -> list[Any]:
        """Run statements; give what the analyzer makes of each."""
        return [self._run(one.statement, one.text) for one in parse_statements(sql, self.variables)]

    def plan(self, sql: str) -> QueryPlan:
        """Run one statement that starts a query."""
        (made,) = self.run(sql)
        assert isinstance(made, QueryPlan)
        return made

    def source(self, sql: str) -> Source:
        """Run one CREATE without a query."""
        (made,) = self.run(sql)
        assert isinstance(made, Source)
        return made

    def select(self, sql: str) -> TransientPlan:
        """Run one SELECT."""
        (made,) = self.run(sql)
        assert isinstance(made, TransientPlan)
        return made

    def _run(self, statement: ast.Node, text: str) -> Any:
        analyzer = Analyzer(self.catalog, self.registry)
        self.number += 1
        match statement:
            case ast.CreateSource():
                made: Any = analyzer.create_source(statement, text)
                self.catalog = self.catalog.with_source(made, or_replace=statement.or_replace)
            case ast.CreateAsSelect():
                source, made = analyzer.create_as_select(statement, text, self.number)
                self.catalog = self.catalog.with_source(source, or_replace=statement.or_replace).with_query(made)
            case ast.InsertInto():
                made = analyzer.insert_into(statement, text, self.number)
                self.catalog = self.catalog.with_query(made)
            case ast.QueryStatement():
                made = analyzer.transient(statement.query, text)
            case ast.InsertValues():
                made = analyzer.insert_values(statement)
            case ast.DropSource():
                made = None
                kind = SourceKind(statement.kind)
                self.catalog = self.catalog.without_source(statement.name, kind, if_exists=statement.if_exists)
            case ast.RegisterType():
                made = self.catalog.resolve_type(statement.type)
                self.catalog = self.catalog.with_type(statement.name, made)
            case _:
                raise AssertionError(f"the session knows no {statement!r}")
        return made


SOURCES = """
CREATE STREAM st (id INT KEY, name STRING, v INT, w DOUBLE, arr ARRAY<INT>, s STRUCT<x INT, y STRING>, ts BIGINT)
  WITH (KAFKA_TOPIC='t', VALUE_FORMAT='JSON');
CREATE STREAM nokey (name STRING, v INT) WITH (KAFKA_TOPIC='nk', VALUE_FORMAT='JSON');
CREATE TABLE tb (id INT PRIMARY KEY, label STRING) WITH (KAFKA_TOPIC='tb', VALUE_FORMAT='JSON');
CREATE TABLE names (k STRING PRIMARY KEY, val INT) WITH (KAFKA_TOPIC='names', VALUE_FORMAT='AVRO');
CREATE STREAM two (a INT KEY, b STRING KEY, c INT) WITH (KAFKA_TOPIC='two', FORMAT='JSON');
CREATE TABLE wt AS SELECT id, COUNT(*) c FROM st WINDOW HOPPING (SIZE 10 SECONDS, ADVANCE BY 5 SECONDS) GROUP BY id;
"""
