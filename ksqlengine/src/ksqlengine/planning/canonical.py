"""CREATE statements with everything filled in that they leave to the server, as ksqlDB keeps and shows them.

Source: ksqlDB's ``AstSanitizer`` (columns get their source, select items a name), ``DefaultFormatInjector``,
``DefaultSchemaInjector`` and ``TopicCreateInjector`` (formats, inferred columns, the topic's settings in the WITH clause).
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, replace

from ksqlengine.language import ast
from ksqlengine.language.formatting import statement_text
from ksqlengine.plan.catalog import Catalog, Source
from ksqlengine.plan.steps import SourceKind
from ksqlengine.planning.scope import AliasedSource, AliasGenerator, Scope


@dataclass(frozen=True)
class ResultTopic:
    """The topic of CREATE … AS SELECT.

    Attributes:
        name: the topic.
        partitions: how many it has.
        replicas: copies of each.
        retention_ms: how long it keeps records, ms; -1: indefinitely.
    """

    name: str
    partitions: int
    replicas: int
    retention_ms: int


def created_source_text(statement: ast.CreateSource, source: Source) -> str:
    """Return CREATE STREAM or TABLE with its formats, the columns that were inferred, and its topic's cleanup policy.

    Args:
        statement: the statement.
        source: what it creates.
    """
    given = {name.upper() for name, _ in statement.properties}
    added: dict[str, ast.SyntaxExpression] = {}
    if not ("FORMAT" in given or {"KEY_FORMAT", "VALUE_FORMAT"} <= given):
        added["KEY_FORMAT"] = ast.StringLiteral(source.key_format.name)
        added["VALUE_FORMAT"] = ast.StringLiteral(source.value_format.name)
    policy = "delete" if source.kind is SourceKind.STREAM else "compact"
    added["CLEANUP_POLICY"] = ast.StringLiteral(policy)
    columns = _with_inferred(statement, source)
    return statement_text(replace(statement, columns=columns, properties=_with(statement.properties, added)))


def _with_inferred(statement: ast.CreateSource, source: Source) -> tuple[ast.ColumnDefinition, ...]:
    """Return the columns that a statement defines, with resolved types, and those that the registry's schemas gave."""
    types = {column.name: column.type for column in source.schema.columns}
    defined = {column.name: replace(column, type=types[column.name]) for column in statement.columns}
    key = "KEY" if source.kind is SourceKind.STREAM else "PRIMARY KEY"
    inferred_keys = [
        ast.ColumnDefinition(column.name, column.type, key)
        for column in source.schema.key
        if column.name not in defined
    ]
    inferred = [
        ast.ColumnDefinition(column.name, column.type) for column in source.schema.value if column.name not in defined
    ]
    keys = [column for column in defined.values() if column.constraint in ("KEY", "PRIMARY KEY")]
    if not (inferred_keys or inferred):
        return tuple(defined.values())
    others = [column for column in defined.values() if column not in keys]
    return (*keys, *inferred_keys, *inferred, *others)


def source_with_topic_text(statement: ast.CreateSource, source: Source) -> str:
    """Return CREATE STREAM or TABLE as ksqlDB gives it for an example that makes its topic, with two partitions."""
    added: dict[str, ast.SyntaxExpression] = {"PARTITIONS": ast.IntegerLiteral(2)}
    if "FORMAT" not in {name.upper() for name, _ in statement.properties}:
        added["KEY_FORMAT"] = ast.StringLiteral(source.key_format.name)
        added["VALUE_FORMAT"] = ast.StringLiteral(source.value_format.name)
    columns = _with_inferred(statement, source)
    return statement_text(replace(statement, columns=columns, properties=_with(statement.properties, added)))


def refused_source_text(statement: ast.CreateSource, key_format: str, value_format: str | None) -> str:
    """Return CREATE STREAM or TABLE as ksqlDB's errors show it: with its formats and its topic's cleanup policy.

    Args:
        statement: the statement.
        key_format: format of keys where it names none.
        value_format: the same for values, None where the server has no default.
    """
    given = {name.upper() for name, _ in statement.properties}
    added: dict[str, ast.SyntaxExpression] = {}
    for name, format_ in (("KEY_FORMAT", key_format), ("VALUE_FORMAT", value_format)):
        if not given & {"FORMAT", name} and format_ is not None:
            added[name] = ast.StringLiteral(format_)
    added["CLEANUP_POLICY"] = ast.StringLiteral("delete" if statement.kind == "STREAM" else "compact")
    return statement_text(replace(statement, properties=_with(statement.properties, added)))


def created_as_text(statement: ast.CreateAsSelect, catalog: Catalog, topic: ResultTopic) -> str:
    """Return CREATE … AS SELECT with every column's source and name, and its topic's settings.

    Args:
        statement: the statement.
        catalog: the streams and tables that it reads.
        topic: the topic that it writes.
    """
    added: dict[str, ast.SyntaxExpression] = {
        "KAFKA_TOPIC": ast.StringLiteral(topic.name),
        "PARTITIONS": ast.IntegerLiteral(topic.partitions),
        "REPLICAS": ast.IntegerLiteral(topic.replicas),
        "RETENTION_MS": ast.IntegerLiteral(_retention_ms(statement, topic)),
        "CLEANUP_POLICY": ast.StringLiteral(_policy(statement)),
    }
    query = sanitized(statement.query, catalog)
    return statement_text(replace(statement, query=query, properties=_with(statement.properties, added)))


def sanitized(query: ast.Query, catalog: Catalog) -> ast.Query:
    """Return a persistent query whose columns name their source and whose select items have names."""
    relations = (query.source, *(join.relation for join in query.joins))
    scope = Scope(tuple(AliasedSource(relation.alias, catalog.source(relation.name)) for relation in relations))
    names = AliasGenerator(name for source in scope.sources for name in source.types())
    items = tuple(_named(item, scope, names) for item in query.select)
    # The select items are named already; the parts below them only lack their sources.
    rest = scope.qualified(replace(query, select=()))
    return replace(rest, select=items, emit=query.emit or "CHANGES")


def _named(
    item: ast.SelectColumn | ast.SelectAll | ast.SelectStructAll, scope: Scope, names: AliasGenerator
) -> ast.SelectColumn | ast.SelectAll | ast.SelectStructAll:
    if isinstance(item, ast.SelectAll):
        return item
    qualified = scope.qualified(item)
    if isinstance(qualified, ast.SelectStructAll) or qualified.alias is not None:
        return qualified
    expression = qualified.expression
    if not isinstance(expression, ast.ColumnReference):
        return replace(qualified, alias=names.name(expression))
    clashes = expression.qualifier is not None and scope.clashes(expression.name)
    return replace(qualified, alias=f"{expression.qualifier}_{expression.name}" if clashes else expression.name)


def _policy(statement: ast.CreateAsSelect) -> str:
    if statement.kind == "STREAM":
        return "delete"
    return "compact" if statement.query.window is None else "compact,delete"


def _retention_ms(statement: ast.CreateAsSelect, topic: ResultTopic) -> int:
    # Not the window's, though the topic gets it: ksqlDB takes it out of the settings before it writes the statement.
    given = next((value for name, value in statement.properties if name.upper() == "RETENTION_MS"), None)
    return given.value if isinstance(given, ast.IntegerLiteral) else topic.retention_ms


def _with(properties: ast.Properties, added: dict[str, ast.SyntaxExpression]) -> ast.Properties:
    """Return properties with further ones, for those that are there already in their place."""
    kept: Iterable[tuple[str, ast.SyntaxExpression]] = ((n, v) for n, v in properties if n.upper() not in added)
    return (*kept, *added.items())
