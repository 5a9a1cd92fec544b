"""Statements as ksqlDB writes them: upper case, one space, every bracket, a line per clause.

Source: ksqlDB's ``SqlFormatter`` and ``ExpressionFormatter``. A server shows CREATE statements in this form (``statementText``,
``queryString``), not as they were sent.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from decimal import Decimal
from functools import singledispatch

from ksqlengine.language import ast
from ksqlengine.language.lexer import RESERVED
from ksqlengine.types.sqltypes import ArrayType, DecimalType, MapType, SqlType, StructType

_PLAIN = re.compile(r"(?:[A-Z_][A-Z0-9_@]*|[0-9][A-Z0-9_@]*[A-Z_@][A-Z0-9_@]*)\Z")
_JOINS = {"INNER": "INNER", "LEFT": "LEFT OUTER", "RIGHT": "RIGHT OUTER", "OUTER": "FULL OUTER"}
_BASE_TYPES = ("BOOLEAN", "INTEGER", "BIGINT", "DOUBLE", "STRING", "BYTES", "TIME", "DATE", "TIMESTAMP")


def identifier(name: str) -> str:
    """Return a name as it is written, in back quotes where it would be read as another one, or as a reserved word."""
    plain = _PLAIN.match(name) is not None and name not in RESERVED
    return name if plain else f"`{name}`"


def type_text(type_: SqlType) -> str:
    """Return a type as a column's definition has it."""
    if isinstance(type_, ArrayType):
        return f"ARRAY<{type_text(type_.element)}>"
    if isinstance(type_, MapType):
        return f"MAP<{type_text(type_.key)}, {type_text(type_.value)}>"
    if isinstance(type_, StructType):
        fields = ", ".join(f"{identifier(name)} {type_text(field)}" for name, field in type_.fields)
        return f"STRUCT<{fields}>" if fields else "STRUCT< >"
    return str(type_) if isinstance(type_, DecimalType) or type_.name in _BASE_TYPES else identifier(type_.name)


def statement_text(statement: ast.CreateSource | ast.CreateAsSelect) -> str:
    """Return a CREATE statement as ksqlDB shows it, closed by a semicolon."""
    read_only = isinstance(statement, ast.CreateSource) and statement.read_only
    words = [
        "CREATE",
        *(["OR REPLACE"] if statement.or_replace else []),
        *(["SOURCE"] if read_only else []),
        statement.kind,
        *(["IF NOT EXISTS"] if statement.if_not_exists else []),
        identifier(statement.name),
    ]
    if isinstance(statement, ast.CreateSource):
        if statement.columns:
            words.append(f"({', '.join(map(_definition, statement.columns))})")
        return " ".join([*words, *_with(statement.properties)]) + ";"
    return " ".join([*words, *_with(statement.properties), "AS", query_text(statement.query)]) + ";"


def masked_insert(statement: ast.InsertValues) -> str:
    """Return INSERT VALUES as ksqlDB's errors and logs show it, without its values (source: its ``QueryMask``)."""
    columns = f" ({', '.join(f'`{name}`' for name in statement.columns)})" if statement.columns else ""
    values = ", ".join("'[value]'" for _ in statement.values)
    return "".join(("INSERT INTO `", statement.target, "`", columns, " VALUES (", values, ");"))


def query_text(query: ast.Query) -> str:
    """Return a query as ksqlDB shows it, a line per clause and per column."""
    lines = [_select(query.select), f"FROM {_relation(query.source)}"]
    lines += [
        f"{_JOINS[join.kind]} JOIN {_relation(join.relation)}{join.within} ON ({expression_text(join.criteria)})"
        for join in query.joins
    ]
    if query.window is not None:
        lines.append(f"WINDOW{query.window.text}")
    if query.where is not None:
        lines.append(f"WHERE {expression_text(query.where)}")
    for clause, expressions in (("GROUP BY", query.group_by), ("PARTITION BY", query.partition_by)):
        if expressions is not None:
            lines.append(f"{clause} {_listed(expressions)}")
    if query.having is not None:
        lines.append(f"HAVING {expression_text(query.having)}")
    if query.emit is not None:
        lines.append(f"EMIT {query.emit}")
    if query.limit is not None:
        lines.append(f"LIMIT {query.limit}")
    return "\n".join(lines)


def _definition(column: ast.ColumnDefinition) -> str:
    constraint = {None: "", "HEADER": f" HEADER('{column.header}')"}.get(column.constraint, f" {column.constraint}")
    return f"{identifier(column.name)} {type_text(column.type)}{constraint}"


def _with(properties: ast.Properties) -> list[str]:
    if not properties:
        return []
    given = sorted((name.upper(), value) for name, value in properties)
    return [f"WITH ({', '.join(f'{name}={expression_text(value)}' for name, value in given)})"]


def _relation(relation: ast.Relation) -> str:
    return f"{identifier(relation.name)} {identifier(relation.alias)}"


def _select(items: Iterable[ast.SelectColumn | ast.SelectAll | ast.SelectStructAll]) -> str:
    texts = [_select_item(item) for item in items]
    return f"SELECT {texts[0]}" if len(texts) == 1 else "SELECT" + ",".join(f"\n  {text}" for text in texts)


def _select_item(item: ast.SelectColumn | ast.SelectAll | ast.SelectStructAll) -> str:
    if isinstance(item, ast.SelectAll):
        return f"{identifier(item.qualifier)}.*" if item.qualifier is not None else "*"
    if isinstance(item, ast.SelectStructAll):
        return f"{expression_text(item.base)}->*"
    alias = f" {identifier(item.alias)}" if item.alias is not None else ""
    return expression_text(item.expression) + alias


def _listed(expressions: Iterable[ast.SyntaxExpression]) -> str:
    return ", ".join(map(expression_text, expressions))


@singledispatch
def expression_text(node: ast.Node) -> str:
    """Return an expression as ksqlDB shows it."""
    return str(node)


@expression_text.register
def _(node: ast.DoubleLiteral) -> str:
    number = Decimal(repr(node.value)).normalize()
    sign, digits, exponent = number.as_tuple()
    assert isinstance(exponent, int)  # noqa: S101 - a literal is finite
    mantissa = "".join(map(str, digits))
    fraction = f".{mantissa[1:]}" if len(mantissa) > 1 else ""
    return f"{'-' if sign else ''}{mantissa[0]}{fraction}E{exponent + len(digits) - 1 if number else 0}"


@expression_text.register
def _(node: ast.ColumnReference) -> str:
    name = identifier(node.name)
    return f"{identifier(node.qualifier)}.{name}" if node.qualifier is not None else name


@expression_text.register
def _(node: ast.Unary) -> str:
    operand = expression_text(node.operand)
    # Two of them would begin a comment.
    return f"{node.operator}{' ' if node.operator == '-' and operand.startswith('-') else ''}{operand}"


@expression_text.register
def _(node: ast.Arithmetic | ast.Comparison | ast.Logical) -> str:
    return f"({expression_text(node.left)} {node.operator} {expression_text(node.right)})"


@expression_text.register
def _(node: ast.Not) -> str:
    return f"(NOT {expression_text(node.operand)})"


@expression_text.register
def _(node: ast.Between) -> str:
    return f"({expression_text(node.value)} BETWEEN {expression_text(node.low)} AND {expression_text(node.high)})"


@expression_text.register
def _(node: ast.InList) -> str:
    return f"({expression_text(node.value)} IN ({_listed(node.items)}))"


@expression_text.register
def _(node: ast.Like) -> str:
    escape = f" ESCAPE '{node.escape}'" if node.escape is not None else ""
    return f"({expression_text(node.value)} LIKE {expression_text(node.pattern)}{escape})"


@expression_text.register
def _(node: ast.IsNull) -> str:
    return f"({expression_text(node.value)} IS {'NOT ' if node.negated else ''}NULL)"


@expression_text.register
def _(node: ast.Case) -> str:
    words = ["CASE", *([expression_text(node.operand)] if node.operand is not None else [])]
    words += [f"WHEN {expression_text(when.condition)} THEN {expression_text(when.result)}" for when in node.whens]
    words += [f"ELSE {expression_text(node.default)}"] if node.default is not None else []
    return f"({' '.join(words)} END)"


@expression_text.register
def _(node: ast.Cast) -> str:
    return f"CAST({expression_text(node.value)} AS {type_text(node.type)})"


@expression_text.register
def _(node: ast.Subscript) -> str:
    return f"{expression_text(node.base)}[{expression_text(node.index)}]"


@expression_text.register
def _(node: ast.Dereference) -> str:
    return f"{expression_text(node.base)}->{identifier(node.field_name)}"


@expression_text.register
def _(node: ast.ArrayConstructor) -> str:
    return f"ARRAY[{_listed(node.items)}]"


@expression_text.register
def _(node: ast.MapConstructor) -> str:
    entries = (f"{expression_text(key)}:={expression_text(value)}" for key, value in node.entries)
    return f"MAP({', '.join(entries)})"


@expression_text.register
def _(node: ast.StructConstructor) -> str:
    fields = (f"{identifier(name)}:={expression_text(value)}" for name, value in node.fields)
    return f"STRUCT({', '.join(fields)})"


@expression_text.register
def _(node: ast.FunctionCall) -> str:
    arguments = _listed(node.arguments) or ("*" if node.name == "COUNT" else "")
    return f"{identifier(node.name)}({arguments})"


@expression_text.register
def _(node: ast.Lambda) -> str:
    return f"({', '.join(node.parameters)}) => {expression_text(node.body)}"
