"""What each engine will do with each statement of a file: the embedded one of the laptop, and ksqlDB on the clusters.

A pure look at the statements: nothing is sent anywhere. The page "Which engine runs my query?" says the same at length.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from textwrap import fill

from ksqlengine.language import ast
from ksqlengine.language.lexer import ParsedStatement, split_statements
from ksqlengine.language.parser import prepare
from ksqlengine.planning.scope import nodes
from ksqlengine.planning.transient_query import check_queryable
from ksqlengine.server.in_memory import InMemoryEngine
from ksqlengine.types.errors import KsqlError, NotSupportedError

_WIDTH = 120
_MERGING = (
    "Changes of a key that come close together are merged: the laptop merges those of a batch that it reads, ksqlDB those of "
    "its commit interval while its cache has room. The last change of a key is the same; how many come before it is not. "
    "cache.max.bytes.buffering=0 gives each change on both."
)
_FINAL = (
    "A window's result comes once, when an event of its partition is later than the window's end and grace period. Nothing "
    "closes the last window of a quiet partition but a later event or a heartbeat. ksqlDB looks for closed windows at most "
    "once a second and when a record comes; the laptop after each batch."
)
_NO_RETENTION = (
    "There is no RETENTION: a window is kept for its size and grace period only, and one that has left its store before it is "
    "looked for never comes, on both. Add RETENTION, longer than event time ever jumps."
)
_TABLE_JOIN = (
    "A row of the stream meets the table's row of its event time where both hold records already; what comes later meets what "
    "the table holds then, so a row of the table that comes late is missed. Both do the same."
)
_STREAM_JOIN = (
    "Rows are joined in order of event time. A LEFT, RIGHT or FULL join tells of a row without a partner when its time, its "
    "reach and the grace period have passed in its partition, so not before a later row comes, on both."
)
_APPROXIMATE = "COUNT_DISTINCT is exact on the laptop; ksqlDB estimates it."
_DELAY = (
    "The laptop writes results with each batch, in one transaction with its positions; on the clusters readers see them after "
    "the server's commit interval."
)
_LOOKED_UP = (
    "The laptop reads the topic to its end; ksqlDB looks into the store of the query that makes the table, which in its first "
    "seconds answers 503."
)
_EACH_CHANGE = "Each change is shown, none merged."
_KEPT = "Pull queries on it read its topic to the end on the laptop."


@dataclass(frozen=True)
class Explanation:
    """What becomes of one statement.

    Attributes:
        line: where it begins in the file.
        statement: its first line.
        what: what it is, on both engines.
        laptop: what the embedded engine does with it.
        ksqldb: what ksqlDB does with it.
        notes: what to know of the results, and where they differ.
    """

    line: int
    statement: str
    what: str
    laptop: str
    ksqldb: str
    notes: tuple[str, ...] = ()


def explanations(sql: str, engine: InMemoryEngine) -> Iterator[Explanation]:
    """Yield what becomes of each statement, in order.

    Args:
        sql: statements without placeholders.
        engine: holds what there is before them; the statements change it.

    Raises:
        ksqlengine.types.errors.KsqlError: the text is not KSQL.
    """
    for parsed in split_statements(sql):
        prepared = prepare(parsed, dict(engine.variables))
        what, ksqldb, notes = _plain(prepared.statement)
        laptop = "does it"
        try:
            _try(parsed, prepared.statement, engine)
        except NotSupportedError as error:
            laptop = f"refuses it: {error.message.splitlines()[0]}"
        except KsqlError as error:
            laptop, ksqldb, notes = f"refuses it: {error.message.splitlines()[0]}", "refuses it too", ()
        line = (parsed.tokens[0].line if parsed.tokens else None) or 1
        yield Explanation(line, parsed.text.splitlines()[0], what, laptop, ksqldb, notes)


def _try(parsed: ParsedStatement, node: ast.Statement, engine: InMemoryEngine) -> None:
    """Run a statement where it changes something, else plan it.

    Raises:
        KsqlError: it is refused.
    """
    if isinstance(node, ast.QueryStatement):
        plan = engine.analyzer.transient(node.query, parsed.text)
        if not plan.push:
            check_queryable(plan.source)
    elif not isinstance(node, _ASKS):
        engine.execute(parsed)


_ASKS = (
    ast.Show,
    ast.DescribeSource,
    ast.DescribeAll,
    ast.DescribeFunction,
    ast.Explain,
    ast.PrintTopic,
    ast.AssertTopic,
    ast.AssertSchema,
)


def _plain(node: ast.Statement) -> tuple[str, str, tuple[str, ...]]:
    """Return what a statement is, what ksqlDB does with it, and what to know of its results."""
    if isinstance(node, ast.CreateAsSelect | ast.InsertInto):
        target = node.name if isinstance(node, ast.CreateAsSelect) else node.target
        what = f"a persistent query: it runs from now on, restarts included, and writes {target}"
        return what, "does the same, in Kafka Streams on its servers", (*_of_query(node.query), _DELAY)
    if isinstance(node, ast.CreateSource) and node.read_only and node.kind == "TABLE":
        ksqldb = "does the same, and a query of its own (CST_…) keeps the rows for pull queries"
        return "a table over a topic: nothing runs", ksqldb, (_KEPT,)
    if isinstance(node, ast.QueryStatement) and node.query.emit is not None:
        notes = tuple(note for note in _of_query(node.query) if note is not _MERGING)
        return "a push query: it ends with its request", "does the same", (*notes, _EACH_CHANGE)
    if isinstance(node, ast.QueryStatement):
        return "a pull query: it gives what is there and ends", "does the same", (_LOOKED_UP,)
    return _simple(node), "does the same", ()


def _simple(node: ast.Statement) -> str:
    """Return what a statement is that neither runs a query nor differs."""
    if isinstance(node, ast.CreateSource):
        return f"a {node.kind.lower()} over a topic: nothing runs"
    if isinstance(node, ast.InsertValues):
        return f"a record written into {node.target}"
    return "a question, which changes nothing" if isinstance(node, _ASKS) else "a command"


def _of_query(query: ast.Query) -> tuple[str, ...]:
    """Return what to know of a query's results."""
    final = query.emit == "FINAL"
    joined = bool(query.joins)
    within = any(join.before_ms is not None for join in query.joins)
    called = {node.name for node in nodes(query) if isinstance(node, ast.FunctionCall)}
    window = query.window
    rules = (
        (final, _FINAL),
        (final and window is not None and window.retention_ms is None, _NO_RETENTION),
        (query.group_by is not None and not final, _MERGING),
        (within, _STREAM_JOIN),
        (joined and not within, _TABLE_JOIN),
        ("COUNT_DISTINCT" in called, _APPROXIMATE),
    )
    return tuple(text for holds, text in rules if holds)


def shown(found: Sequence[Explanation], file: str) -> str:
    """Return explanations as text for a terminal."""
    return "\n\n".join(
        "\n".join(
            (
                f"{file}:{one.line}: {one.statement}",
                f"  is      {one.what}",
                f"  laptop  {one.laptop}",
                f"  ksqlDB  {one.ksqldb}",
                *(fill(note, _WIDTH, initial_indent="  - ", subsequent_indent="    ") for note in one.notes),
            )
        )
        for one in found
    )
