"""What the planning's tests share: a session that applies statements to a catalog."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from ksqlengine.language import ast
from ksqlengine.language.parser import parse_statements
from ksqlengine.plan.catalog import Catalog, Source
from ksqlengine.plan.steps import QueryPlan, SourceKind
from ksqlengine.planning.statements import Analyzer, SchemaRegistry
from ksqlengine.planning.transient_query import TransientPlan


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
