"""Lark's parse tree to the syntax tree of `ksqlengine.language.ast`: a method a rule of ``grammar.lark``."""

# ruff: noqa: D102 - the methods are named after the grammar's rules, which say what each is

from __future__ import annotations

import re
from dataclasses import replace
from decimal import Decimal, InvalidOperation
from typing import Any, Self

from lark import Token, Transformer, Tree, v_args
from lark.tree import Meta

from ksqlengine.language import ast
from ksqlengine.language.lexer import SYMBOLS
from ksqlengine.types.errors import NotSupportedError, ParseError, Position, StatementError
from ksqlengine.types.sqltypes import (
    BIGINT,
    BIGINT_MAX,
    BOOLEAN,
    BYTES,
    DATE,
    DOUBLE,
    INTEGER,
    MOST_DIGITS,
    STRING,
    TIME,
    TIMESTAMP,
    ArrayType,
    DecimalType,
    MapType,
    NamedType,
    SqlType,
    StructType,
)

BASE_TYPES = {
    "BOOLEAN": BOOLEAN, "INT": INTEGER, "INTEGER": INTEGER, "BIGINT": BIGINT, "DOUBLE": DOUBLE, "STRING": STRING,
    "VARCHAR": STRING, "BYTES": BYTES, "DATE": DATE, "TIME": TIME, "TIMESTAMP": TIMESTAMP,
}  # fmt: skip
UNIT_MS = {
    "DAY": 86_400_000, "HOUR": 3_600_000, "MINUTE": 60_000, "SECOND": 1_000, "MILLISECOND": 1,
}  # fmt: skip


class _Duration(int):
    """A length in ms that knows how it is written: number and unit."""

    text: str

    def __new__(cls, milliseconds: int, text: str) -> Self:
        """Make it of its length and its text."""
        made = super().__new__(cls, milliseconds)
        made.text = text
        return made


def _window_text(kind: str, length: str, retention: _Duration | None, grace: _Duration | None) -> str:
    """Return what ksqlDB's window expressions write of themselves, the spaces too."""
    kept = f" , RETENTION {retention.text}" if retention is not None else ""
    late = f" , GRACE PERIOD {grace.text}" if grace is not None else ""
    return f" {kind} ( {length}{kept}{late} ) "


def _within_text(before: _Duration | None, after: _Duration | None, grace: _Duration | None) -> str:
    """Return what ksqlDB's ``WithinExpression`` writes of itself; it compares numbers, whatever their units."""
    if before is None or after is None:
        return ""
    same = before.text.split()[0] == after.text.split()[0]
    late = f" GRACE PERIOD {grace.text}" if grace is not None else ""
    return f" WITHIN {before.text if same else f'({before.text}, {after.text})'}{late}"


class _Identifier(str):
    """A name as stored; `raw` is it as written, for the few places where ksqlDB keeps the case."""

    raw: str


def _identifier(token: Token) -> _Identifier:
    quote = {"QUOTED_IDENTIFIER": '"', "BACKQUOTED_IDENTIFIER": "`"}.get(token.type)
    raw = token[1:-1].replace(quote * 2, quote) if quote else str(token)
    name = _Identifier(raw if quote else raw.upper())
    name.raw = raw
    return name


@v_args(meta=True)
class TreeBuilder(Transformer[Token, Any]):
    """Builds the tree bottom-up: one method a rule; keyword tokens are dropped before the method sees the children."""

    # Rules that read their tokens.
    _WITH_TOKENS = frozenset(
        re.findall(
            r"\w+",
            """
            identifier alias_identifier source_kind show_what string integer fraction integer_literal decimal_literal
            double_literal type_parameter unit interval_unit comparison_operator arithmetic unary emit
            """,
        )
    )

    # Rules that want names as written; all others get plain text, for serializers refuse subclasses of it.
    _WITH_RAW_NAMES = frozenset({"resource_name", "variable_name"})

    def _call_userfunc(self, tree: Tree[Token], new_children: list[Any] | None = None) -> Any:
        children = tree.children if new_children is None else new_children
        if tree.data not in self._WITH_TOKENS:
            children = [child for child in children if not isinstance(child, Token)]
        if tree.data not in self._WITH_RAW_NAMES:
            children = [str(child) if isinstance(child, _Identifier) else child for child in children]
        return super()._call_userfunc(tree, children)

    def __default__(self, data: str, children: list[Any], meta: Meta) -> Any:
        if data.endswith("_flag"):
            return True
        raise AssertionError(f"grammar rule {data!r} has no method in the tree builder")

    # ------------------------------------------------------------------ names and literals
    def single_statement(self, meta: Meta, children: list[Any]) -> Any:
        return children[0]

    single_expression = single_statement

    def identifier(self, meta: Meta, children: list[Token]) -> str:
        return _identifier(children[0])

    alias_identifier = identifier

    def source_name(self, meta: Meta, children: list[str]) -> str:
        if not all(character.isascii() and (character.isalnum() or character in "_-") for character in children[0]):
            raise StatementError(
                f"Illegal argument at {_position(meta).located}. Source names may only contain alphanumeric values, "
                f"'_' or '-'. Got: '{children[0]}'",
                str(children[0]),
            )
        return children[0]

    def relation_alias(self, meta: Meta, children: list[str]) -> str:
        return children[0]

    alias = relation_alias

    def string(self, meta: Meta, children: list[Token]) -> str:
        return children[0][1:-1].replace("''", "'")

    def integer(self, meta: Meta, children: list[Token]) -> int:
        return _whole_number("".join(children), meta)

    def fraction(self, meta: Meta, children: list[Token]) -> str:
        return "".join(children)

    def resource_name(self, meta: Meta, children: list[str]) -> str:
        name = children[0]
        return name.raw if isinstance(name, _Identifier) else name

    variable_name = resource_name

    def null(self, meta: Meta, children: list[Any]) -> ast.NullLiteral:
        return ast.NullLiteral(position=_position(meta))

    def true(self, meta: Meta, children: list[Any]) -> ast.BooleanLiteral:
        return ast.BooleanLiteral(True, position=_position(meta))

    def false(self, meta: Meta, children: list[Any]) -> ast.BooleanLiteral:
        return ast.BooleanLiteral(False, position=_position(meta))

    def string_literal(self, meta: Meta, children: list[str]) -> ast.StringLiteral:
        return ast.StringLiteral(children[0], position=_position(meta))

    def integer_literal(self, meta: Meta, children: list[Token]) -> ast.IntegerLiteral:
        value = _whole_number(children[0], meta, BIGINT_MAX + 1)  # one more is allowed: a minus sign may follow
        return ast.IntegerLiteral(value, position=_position(meta))

    def decimal_literal(self, meta: Meta, children: list[Token]) -> ast.DecimalLiteral:
        return ast.DecimalLiteral(Decimal(str(children[0])), position=_position(meta))

    def double_literal(self, meta: Meta, children: list[Token]) -> ast.DoubleLiteral:
        value = float(children[0])
        if value in (float("inf"), float("-inf")):
            raise ParseError(f"Number overflows DOUBLE: {children[0]}", _position(meta))
        return ast.DoubleLiteral(value, position=_position(meta))

    def typed_literal(self, meta: Meta, children: list[str]) -> ast.SyntaxExpression:
        raise StatementError(f"Unknown type: {children[0]}, location:{_position(meta)}")

    def decimal_text(self, meta: Meta, children: list[str]) -> ast.DecimalLiteral:
        try:
            value = Decimal(children[0])
        except InvalidOperation as error:
            raise ParseError(f"Invalid numeric literal: {children[0]}", _position(meta)) from error
        if not value.is_finite():
            raise ParseError(f"Invalid numeric literal: {children[0]}", _position(meta))
        return ast.DecimalLiteral(value, position=_position(meta))

    # ------------------------------------------------------------------ types
    def array_type(self, meta: Meta, children: list[SqlType]) -> SqlType:
        return ArrayType(element=children[0])

    def map_type(self, meta: Meta, children: list[SqlType]) -> SqlType:
        return MapType(key=children[0], value=children[1])

    def struct_type(self, meta: Meta, children: list[tuple[str, SqlType]]) -> SqlType:
        return StructType(fields=tuple(children))

    def type_field(self, meta: Meta, children: list[Any]) -> tuple[str, SqlType]:
        return children[0], children[1]

    def decimal_type(self, meta: Meta, children: list[int]) -> SqlType:
        precision, scale = children
        check_decimal(precision, scale)
        return DecimalType(precision=precision, scale=scale)

    def type_parameter(self, meta: Meta, children: list[Any]) -> None:
        return None

    def plain_type(self, meta: Meta, children: list[str]) -> SqlType:
        name = children[0]
        return BASE_TYPES.get(name) or NamedType(name)

    # ------------------------------------------------------------------ expressions
    def logical_or(self, meta: Meta, children: list[Any]) -> ast.Logical:
        return ast.Logical("OR", *children, position=_position(meta))

    def logical_and(self, meta: Meta, children: list[Any]) -> ast.Logical:
        return ast.Logical("AND", *children, position=_position(meta))

    def logical_not(self, meta: Meta, children: list[Any]) -> ast.Not:
        return ast.Not(children[0], position=_position(meta))

    def comparison_operator(self, meta: Meta, children: list[Token]) -> str:
        return SYMBOLS[children[0].type]

    def comparison(self, meta: Meta, children: list[Any]) -> ast.Comparison:
        left, operator, right = children
        return ast.Comparison(operator, left, right, position=_position(meta))

    def between(self, meta: Meta, children: list[Any]) -> ast.Between:
        return ast.Between(*children, position=_position(meta))

    def in_list(self, meta: Meta, children: list[Any]) -> ast.InList:
        return ast.InList(children[0], tuple(children[1:]), position=_position(meta))

    def escape(self, meta: Meta, children: list[str]) -> str:
        if len(children[0]) != 1:
            raise StatementError(f"{_position(meta)}: Expected single character escape but got: {children[0]}")
        return children[0]

    def like(self, meta: Meta, children: list[Any]) -> ast.Like:
        return ast.Like(*children, position=_position(meta))

    def is_null(self, meta: Meta, children: list[Any]) -> ast.IsNull:
        return ast.IsNull(children[0], position=_position(meta))

    def is_not_null(self, meta: Meta, children: list[Any]) -> ast.IsNull:
        return ast.IsNull(children[0], True, position=_position(meta))

    def is_distinct(self, meta: Meta, children: list[Any]) -> ast.Comparison:
        return ast.Comparison("IS DISTINCT FROM", *children, position=_position(meta))

    def not_between(self, meta: Meta, children: list[Any]) -> ast.Not:
        return ast.Not(self.between(meta, children), position=_position(meta))

    def not_in_list(self, meta: Meta, children: list[Any]) -> ast.Not:
        return ast.Not(self.in_list(meta, children), position=_position(meta))

    def not_like(self, meta: Meta, children: list[Any]) -> ast.Not:
        return ast.Not(self.like(meta, children), position=_position(meta))

    def is_not_distinct(self, meta: Meta, children: list[Any]) -> ast.Not:
        return ast.Not(self.is_distinct(meta, children), position=_position(meta))

    def concatenation(self, meta: Meta, children: list[Any]) -> ast.FunctionCall:
        return ast.FunctionCall("CONCAT", tuple(children), position=_position(meta))

    def arithmetic(self, meta: Meta, children: list[Any]) -> ast.Arithmetic:
        left, operator, right = children
        return ast.Arithmetic(str(operator), left, right, position=_position(meta))

    def unary(self, meta: Meta, children: list[Any]) -> ast.SyntaxExpression:
        operator, operand = children
        if operator == "-" and isinstance(operand, ast.IntegerLiteral | ast.DecimalLiteral | ast.DoubleLiteral):
            return type(operand)(-operand.value, position=_position(meta))  # type: ignore[arg-type]
        return ast.Unary(str(operator), operand, position=_position(meta))

    def when(self, meta: Meta, children: list[Any]) -> ast.WhenClause:
        return ast.WhenClause(*children, position=_position(meta))

    def simple_case(self, meta: Meta, children: list[Any]) -> ast.Case:
        return ast.Case(children[0], tuple(children[1:-1]), children[-1], position=_position(meta))

    def searched_case(self, meta: Meta, children: list[Any]) -> ast.Case:
        return ast.Case(None, tuple(children[:-1]), children[-1], position=_position(meta))

    def cast(self, meta: Meta, children: list[Any]) -> ast.Cast:
        return ast.Cast(*children, position=_position(meta))

    def array_constructor(self, meta: Meta, children: list[Any]) -> ast.ArrayConstructor:
        return ast.ArrayConstructor(tuple(children), position=_position(meta))

    def map_entry(self, meta: Meta, children: list[Any]) -> tuple[Any, Any]:
        return children[0], children[1]

    struct_field = map_entry

    def map_constructor(self, meta: Meta, children: list[Any]) -> ast.MapConstructor:
        return ast.MapConstructor(tuple(children), position=_position(meta))

    def struct_constructor(self, meta: Meta, children: list[Any]) -> ast.StructConstructor:
        return ast.StructConstructor(tuple(children), position=_position(meta))

    def function_call(self, meta: Meta, children: list[Any]) -> ast.FunctionCall:
        return ast.FunctionCall(children[0].upper(), tuple(children[1:]), position=_position(meta))

    def subscript(self, meta: Meta, children: list[Any]) -> ast.Subscript:
        return ast.Subscript(*children, position=_position(meta))

    def column_reference(self, meta: Meta, children: list[str]) -> ast.ColumnReference:
        return ast.ColumnReference(children[0], position=_position(meta))

    def qualified_reference(self, meta: Meta, children: list[str]) -> ast.ColumnReference:
        return ast.ColumnReference(children[1], children[0], position=_position(meta))

    def dereference(self, meta: Meta, children: list[Any]) -> ast.Dereference:
        return ast.Dereference(*children, position=_position(meta))

    def parenthesized(self, meta: Meta, children: list[Any]) -> Any:
        return children[0]

    def lambda_single(self, meta: Meta, children: list[Any]) -> ast.Lambda:
        return _lambda(meta, children)

    lambda_many = lambda_single

    def interval_unit(self, meta: Meta, children: list[Token]) -> ast.IntervalUnit:
        return ast.IntervalUnit(children[0].upper(), position=_position(meta))

    def query_id(self, meta: Meta, children: list[str]) -> str:
        return children[0]

    def all_queries(self, meta: Meta, children: list[Any]) -> None:
        return None

    # ------------------------------------------------------------------ queries
    def select_item(self, meta: Meta, children: list[Any]) -> ast.SelectColumn:
        return ast.SelectColumn(*children, position=_position(meta))

    def select_struct_all(self, meta: Meta, children: list[Any]) -> ast.SelectStructAll:
        return ast.SelectStructAll(children[0], position=_position(meta))

    def select_qualified_all(self, meta: Meta, children: list[str]) -> ast.SelectAll:
        return ast.SelectAll(children[0], position=_position(meta))

    def select_all(self, meta: Meta, children: list[Any]) -> ast.SelectAll:
        return ast.SelectAll(position=_position(meta))

    def select_list(self, meta: Meta, children: list[Any]) -> tuple[Any, ...]:
        return tuple(children)

    joins = select_list
    columns = select_list
    with_properties = select_list
    names = select_list
    values = select_list
    grouping = select_list
    else_clause = single_statement

    def relation(self, meta: Meta, children: list[Any]) -> ast.Relation:
        name, alias = children
        return ast.Relation(name, alias or name, position=_position(meta))

    def inner_join(self, meta: Meta, children: list[Any]) -> str:
        return "INNER"

    def left_join(self, meta: Meta, children: list[Any]) -> str:
        return "LEFT"

    def right_join(self, meta: Meta, children: list[Any]) -> str:
        return "RIGHT"

    def full_join(self, meta: Meta, children: list[Any]) -> str:
        return "OUTER"

    def within_same(self, meta: Meta, children: list[Any]) -> tuple[_Duration, _Duration, _Duration | None]:
        return children[0], children[0], children[1]

    def within_both(self, meta: Meta, children: list[Any]) -> tuple[_Duration, _Duration, _Duration | None]:
        return children[0], children[1], children[2]

    def join(self, meta: Meta, children: list[Any]) -> ast.JoinedRelation:
        kind, relation, within, criteria = children
        before, after, grace = within or (None, None, None)
        return ast.JoinedRelation(
            relation, kind, criteria, before, after, grace, _within_text(before, after, grace), position=_position(meta)
        )

    def unit(self, meta: Meta, children: list[Token]) -> str:
        return f"{children[0].upper().removesuffix('S')}S"

    def duration(self, meta: Meta, children: list[Any]) -> _Duration:
        number, unit = children
        if isinstance(number, str):
            raise StatementError(f'For input string: "{number}"')
        return _Duration(_whole_number(str(number * UNIT_MS[unit.removesuffix("S")]), meta), f"{number} {unit}")

    def grace(self, meta: Meta, children: list[Any]) -> Any:
        return children[0]

    retention = grace
    window_grace = grace
    timeout = grace

    def limit(self, meta: Meta, children: list[Any]) -> int:
        return _whole(children[0], "LIMIT")

    def interval(self, meta: Meta, children: list[Any]) -> int:
        return _whole(children[0], "INTERVAL")

    where = single_statement
    having = single_statement
    window = single_statement
    group_by = single_statement
    partition_by = single_statement

    def tumbling(self, meta: Meta, children: list[Any]) -> ast.WindowClause:
        size, retention, grace = children
        text = _window_text("TUMBLING", f"SIZE {size.text}", retention, grace)
        return ast.WindowClause("TUMBLING", size, size, retention, grace, text, position=_position(meta))

    def hopping(self, meta: Meta, children: list[Any]) -> ast.WindowClause:
        size, advance, retention, grace = children
        text = _window_text("HOPPING", f"SIZE {size.text} , ADVANCE BY {advance.text}", retention, grace)
        return ast.WindowClause("HOPPING", size, advance, retention, grace, text, position=_position(meta))

    def session(self, meta: Meta, children: list[Any]) -> ast.WindowClause:
        size, retention, grace = children
        text = _window_text("SESSION", size.text, retention, grace)
        return ast.WindowClause("SESSION", size, None, retention, grace, text, position=_position(meta))

    def emit(self, meta: Meta, children: list[Token]) -> str:
        return children[1].upper()

    def query(self, meta: Meta, children: list[Any]) -> ast.Query:
        return ast.Query(*children, position=_position(meta))

    # ------------------------------------------------------------------ statements
    def query_statement(self, meta: Meta, children: list[Any]) -> ast.QueryStatement:
        return ast.QueryStatement(children[0], position=_position(meta))

    def source_kind(self, meta: Meta, children: list[Token]) -> str:
        return children[0].upper()

    show_what = source_kind

    def primary_key(self, meta: Meta, children: list[Any]) -> tuple[str, str | None]:
        return "PRIMARY KEY", None

    def key(self, meta: Meta, children: list[Any]) -> tuple[str, str | None]:
        return "KEY", None

    def headers(self, meta: Meta, children: list[Any]) -> tuple[str, str | None]:
        return "HEADERS", None

    def header(self, meta: Meta, children: list[str]) -> tuple[str, str | None]:
        return "HEADER", children[0]

    def column(self, meta: Meta, children: list[Any]) -> ast.ColumnDefinition:
        name, type_, constraint = children
        return ast.ColumnDefinition(name, type_, *(constraint or (None, None)), position=_position(meta))

    def property(self, meta: Meta, children: list[Any]) -> tuple[str, ast.SyntaxExpression]:
        return children[0], children[1]

    def negative(self, meta: Meta, children: list[Any]) -> ast.SyntaxExpression:
        literal = children[-1]
        return replace(literal, value=-literal.value, position=_position(meta))

    def create_source(self, meta: Meta, children: list[Any]) -> ast.CreateSource:
        replace, read_only, kind, exists, name, columns, properties = children
        return ast.CreateSource(
            kind,
            name,
            columns or (),
            properties or (),
            bool(replace),
            bool(exists),
            bool(read_only),
            position=_position(meta),
        )

    def create_as_select(self, meta: Meta, children: list[Any]) -> ast.CreateAsSelect:
        replace, kind, exists, name, properties, query = children
        if query.limit is not None:
            raise StatementError(f"CREATE {kind} AS SELECT statements don't support LIMIT clause.")
        return ast.CreateAsSelect(
            kind, name, properties or (), query, bool(replace), bool(exists), position=_position(meta)
        )

    def insert_into(self, meta: Meta, children: list[Any]) -> ast.InsertInto:
        name, properties, query = children
        return ast.InsertInto(name, query, properties or (), position=_position(meta))

    def insert_values(self, meta: Meta, children: list[Any]) -> ast.InsertValues:
        name, columns, values = children
        if columns and len(columns) != len(values):
            raise StatementError(f"Expected number columns and values to match: {len(columns)}, {len(values)}")
        return ast.InsertValues(name, columns or (), values, position=_position(meta))

    def drop_source(self, meta: Meta, children: list[Any]) -> ast.DropSource:
        kind, exists, name, delete = children
        return ast.DropSource(kind, name, bool(exists), bool(delete), position=_position(meta))

    def create_type(self, meta: Meta, children: list[Any]) -> ast.RegisterType:
        exists, name, type_ = children
        return ast.RegisterType(name, type_, bool(exists), position=_position(meta))

    def alter_source(self, meta: Meta, children: list[Any]) -> ast.AlterSource:
        kind, name, *added = children
        return ast.AlterSource(kind, name, tuple(added), position=_position(meta))

    def added_column(self, meta: Meta, children: list[Any]) -> tuple[str, SqlType]:
        return children[-2], children[-1]

    def drop_type(self, meta: Meta, children: list[Any]) -> ast.DropType:
        exists, name = children
        return ast.DropType(name, bool(exists), position=_position(meta))

    def terminate(self, meta: Meta, children: list[Any]) -> ast.TerminateQuery:
        return ast.TerminateQuery(children[0], position=_position(meta))

    def pause(self, meta: Meta, children: list[Any]) -> ast.PauseQuery:
        return ast.PauseQuery(children[0], position=_position(meta))

    def resume(self, meta: Meta, children: list[Any]) -> ast.ResumeQuery:
        return ast.ResumeQuery(children[0], position=_position(meta))

    def show(self, meta: Meta, children: list[Any]) -> ast.Show:
        show_all, what, extended = children
        return ast.Show(what, bool(extended), bool(show_all), position=_position(meta))

    def describe_source(self, meta: Meta, children: list[Any]) -> ast.Statement:
        name, extended = children
        if name == "TABLES":
            return ast.DescribeAll("TABLES", bool(extended), position=_position(meta))
        return ast.DescribeSource(name, bool(extended), position=_position(meta))

    def describe_all(self, meta: Meta, children: list[Any]) -> ast.DescribeAll:
        return ast.DescribeAll("STREAMS", bool(children[0]), position=_position(meta))

    def describe_function(self, meta: Meta, children: list[str]) -> ast.DescribeFunction:
        return ast.DescribeFunction(children[0], position=_position(meta))

    def explain(self, meta: Meta, children: list[Any]) -> ast.Explain:
        inner = children[0]
        if isinstance(inner, str):
            return ast.Explain(inner, None, position=_position(meta))
        return ast.Explain(None, inner, position=_position(meta))

    def set_property(self, meta: Meta, children: list[str]) -> ast.SetProperty:
        return ast.SetProperty(*children, position=_position(meta))

    def unset_property(self, meta: Meta, children: list[str]) -> ast.UnsetProperty:
        return ast.UnsetProperty(*children, position=_position(meta))

    def define(self, meta: Meta, children: list[str]) -> ast.DefineVariable:
        return ast.DefineVariable(*children, position=_position(meta))

    def undefine(self, meta: Meta, children: list[str]) -> ast.UndefineVariable:
        return ast.UndefineVariable(*children, position=_position(meta))

    def print_topic(self, meta: Meta, children: list[Any]) -> ast.PrintTopic:
        topic, beginning, interval, limit = children
        return ast.PrintTopic(topic, bool(beginning), interval, limit, position=_position(meta))

    def subject(self, meta: Meta, children: list[Any]) -> Any:
        return children[0]

    schema_id = subject

    def assert_topic(self, meta: Meta, children: list[Any]) -> ast.AssertTopic:
        absent, topic, properties, timeout = children
        return ast.AssertTopic(topic, properties or (), timeout, not absent, position=_position(meta))

    def assert_schema(self, meta: Meta, children: list[Any]) -> ast.AssertSchema:
        absent, subject, schema_id, timeout = children
        return ast.AssertSchema(subject, schema_id, timeout, not absent, position=_position(meta))

    def assert_values(self, meta: Meta, children: list[Any]) -> ast.AssertValues:
        return ast.AssertValues(self.insert_values(meta, children), position=_position(meta))

    def assert_null_values(self, meta: Meta, children: list[Any]) -> ast.AssertValues:
        return ast.AssertValues(self.insert_values(meta, children), True, position=_position(meta))

    def assert_source(self, meta: Meta, children: list[Any]) -> ast.AssertSource:
        kind, name, columns, properties = children
        source = ast.CreateSource(kind, name, columns or (), properties or (), position=_position(meta))
        return ast.AssertSource(source, position=_position(meta))

    def run_script(self, meta: Meta, children: list[str]) -> ast.RunScript:
        return ast.RunScript(children[0], position=_position(meta))

    def create_connector(self, meta: Meta, children: list[Any]) -> ast.Unsupported:
        return ast.Unsupported("CREATE CONNECTOR", position=_position(meta))

    def drop_connector(self, meta: Meta, children: list[Any]) -> ast.Unsupported:
        return ast.Unsupported("DROP CONNECTOR", position=_position(meta))

    def describe_connector(self, meta: Meta, children: list[Any]) -> ast.Unsupported:
        return ast.Unsupported("DESCRIBE CONNECTOR", position=_position(meta))

    def show_connectors(self, meta: Meta, children: list[Any]) -> ast.Unsupported:
        return ast.Unsupported("SHOW CONNECTORS", position=_position(meta))

    def alter_system(self, meta: Meta, children: list[Any]) -> ast.Unsupported:
        return ast.Unsupported("ALTER SYSTEM", position=_position(meta))


def _position(meta: Meta) -> Position:
    return ast.NOWHERE if meta.empty else Position(meta.line, meta.column)


def _whole_number(text: str, meta: Meta, most: int = BIGINT_MAX) -> int:
    # Python doesn't read thousands of digits.
    if len(text.lstrip("-0")) > len(str(most)) or not -most - 1 <= int(text) <= most:
        raise ParseError(f"Invalid numeric literal: {text}", _position(meta))
    return int(text)


def _whole(number: int | str, clause: str) -> int:
    """Return a clause's number, which is a text where it has a fraction."""
    if isinstance(number, str):
        raise StatementError(f"Value must be integer for command: {clause}")
    return number


def _lambda(meta: Meta, children: list[Any]) -> ast.Lambda:
    *parameters, body = children
    names = []
    for parameter in parameters:
        if not isinstance(parameter, ast.ColumnReference) or parameter.qualifier:
            raise ParseError(f"mismatched input '{parameter}' expecting a lambda's parameter", _position(meta))
        names.append(parameter.name)
    return ast.Lambda(tuple(names), body, position=_position(meta))


def check_decimal(precision: int, scale: int) -> None:
    """Refuse a DECIMAL that can't be.

    Raises:
        StatementError: precision or scale is out of bounds.
    """
    described = f"DECIMAL({precision},{scale})"
    if precision < 1:
        raise StatementError(f"DECIMAL precision must be >= 1: {described}")
    if scale < 0:
        raise StatementError(f"DECIMAL scale must be >= 0: {described}")
    if precision < scale:
        raise StatementError(f"DECIMAL precision must be >= scale: {described}")
    if precision > MOST_DIGITS:
        raise NotSupportedError(f"{described}: a DECIMAL of more than {MOST_DIGITS} digits")
