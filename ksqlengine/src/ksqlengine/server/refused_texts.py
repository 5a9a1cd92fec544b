"""The text of a statement in the error that refuses it: ksqlDB's own form where it had filled it in already."""

from __future__ import annotations

from collections.abc import Callable

from kafkakit.admin import TopicState
from ksqlengine.language import ast
from ksqlengine.language.formatting import masked_insert
from ksqlengine.language.parser import PreparedStatement
from ksqlengine.planning.canonical import ResultTopic, created_as_text, refused_source_text
from ksqlengine.planning.statements import Analyzer
from ksqlengine.planning.with_clause import create_as_properties
from ksqlengine.types.errors import Phase, StatementError


def refused_text(
    statement: PreparedStatement,
    error: StatementError,
    analyzer: Analyzer,
    topic: Callable[[str], TopicState | None],
) -> str:
    """Return a refused statement's text: CREATE as it is shown once it is carried out, INSERT without its values.

    Args:
        statement: the statement as it was sent.
        error: why it is refused; what is wrong in its words is shown as it was sent.
        analyzer: has the catalog and the server's defaults.
        topic: gives a topic with all settings that apply to it, None where it isn't there.
    """
    node = statement.statement
    if isinstance(node, ast.InsertValues):
        return masked_insert(node)
    if error.phase in (Phase.PARSED, Phase.NAMED):
        return statement.text
    if isinstance(node, ast.CreateSource):
        return refused_source_text(node, analyzer.defaults.key_format, analyzer.defaults.value_format)
    if isinstance(node, ast.CreateAsSelect):
        source = topic(analyzer.catalog.source(node.query.source.name).topic)
        return (
            statement.text
            if source is None
            else created_as_text(node, analyzer.catalog, _result(node, source, analyzer))
        )
    return statement.text


def _result(node: ast.CreateAsSelect, source: TopicState, analyzer: Analyzer) -> ResultTopic:
    """Return the topic that a query would have got: what the statement says, else as its first source's."""
    given = create_as_properties(node.properties)
    name = given.get("KAFKA_TOPIC") or f"{analyzer.defaults.topic_prefix}{node.name}"
    partitions, replicas = given.get("PARTITIONS"), given.get("REPLICAS")
    return ResultTopic(
        name,
        source.partitions if partitions is None else partitions,
        source.replication_factor if replicas is None else replicas,
        int(source.config.get("retention.ms", "-1")),
    )
