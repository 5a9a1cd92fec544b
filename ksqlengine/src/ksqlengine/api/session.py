"""The Python API: KSQL over given rows, in this process, without Kafka.

`InMemory` is a session: it runs statements, takes rows and gives frames. `run` is one call for statements, rows and a result.
Topics have one partition; everything else, from types and formats to windows, joins and errors, is as against Kafka.
"""

from __future__ import annotations

import json
import time
from collections.abc import Iterator, Mapping, Sequence
from itertools import groupby
from typing import Any

import polars as pl

from ksqlengine.api.rows import Rows, event_times, frame_of
from ksqlengine.execution.operators import DELETED
from ksqlengine.execution.stage_chain import arrival_order
from ksqlengine.language import ast
from ksqlengine.language.lexer import ParsedStatement, split_statements
from ksqlengine.language.parser import prepare
from ksqlengine.plan.catalog import Source
from ksqlengine.plan.steps import ROWTIME, SourceKind
from ksqlengine.planning.transient_query import TransientPlan
from ksqlengine.server.in_memory import InMemoryEngine, InMemoryQuery, StoredRecord, batch_of_records
from ksqlengine.server.session_properties import query_options, with_changes
from ksqlengine.server.transient_stages import TransientStages, last_of_each_key
from ksqlengine.types.errors import StatementError

BATCH_ROWS = 32_768
_FROM_THE_BEGINNING = {"auto.offset.reset": "earliest"}


class InMemory:
    """A KSQL session over rows in this process.

    A persistent query (CREATE … AS SELECT, INSERT INTO … SELECT) processes what was inserted before it was created and what is
    inserted later. Names of streams, tables and columns are taken without regard to case where they don't fit as they are.

    Example:
        >>> import ksqlengine
        >>> session = ksqlengine.InMemory()
        >>> session.execute(
        ...     "CREATE STREAM orders (customer STRING KEY, amount INT) WITH (KAFKA_TOPIC='orders', VALUE_FORMAT='JSON');"
        ...     "CREATE TABLE totals AS SELECT customer, SUM(amount) AS total FROM orders GROUP BY customer;"
        ... )
        >>> session.insert("orders", [{"customer": "ann", "amount": 3}, {"customer": "ann", "amount": 4}])
        >>> session.rows("totals").to_dicts()
        [{'CUSTOMER': 'ann', 'TOTAL': 7}]
    """

    def __init__(
        self,
        *,
        variables: Mapping[str, str] | None = None,
        properties: Mapping[str, str] | None = None,
        schemas: Mapping[str, str | Mapping[str, Any]] | None = None,
        batch_rows: int = BATCH_ROWS,
    ) -> None:
        """Begin without streams and tables.

        Args:
            variables: values of ``${name}`` in statements.
            properties: session properties, as SET sets them; ``auto.offset.reset`` is ``earliest`` by default.
            schemas: Avro schemas that the schema registry holds, by subject.
            batch_rows: how many rows of one `insert` are processed together, at most. Of several changes of a group in a
                batch only the last comes out, as with ksqlDB's cache; 1 gives every change, and takes some milliseconds per row.

        Raises:
            KsqlError: a property is unknown, or its value is wrong.
        """
        if batch_rows < 1:
            raise ValueError(f"batch_rows must be at least 1, not {batch_rows!r}")
        texts = {
            name: schema if isinstance(schema, str) else json.dumps(schema) for name, schema in (schemas or {}).items()
        }
        self._engine = InMemoryEngine(variables or {}, texts, batch_rows)
        self._engine.defaults = with_changes(_FROM_THE_BEGINNING, properties or {})
        self._engine.properties = dict(self._engine.defaults)
        self._paused_at: dict[str, int] = {}

    # ------------------------------------------------------------------------------------------------ statements
    def execute(self, sql: str) -> None:
        """Run statements one after another; the first that is refused ends it.

        Args:
            sql: any number of statements that change something: CREATE, INSERT, DROP, SET, DEFINE, ASSERT and so on.

        Raises:
            KsqlError: a statement is refused; those before it have been carried out.
        """
        for parsed in split_statements(sql):
            self._run(parsed)

    def _run(self, parsed: ParsedStatement) -> None:
        engine = self._engine
        before, sources = frozenset(engine.queries), engine.catalog.sources
        statement = engine.execute(parsed).statement
        if isinstance(statement, ast.DropSource) and statement.delete_topic and statement.name in sources:
            self._delete_topic(sources[statement.name].topic)
        for topic, record in engine.take_inserted():
            engine.feed(topic, [record])
        for query_id, query in list(engine.queries.items()):
            if query.paused:
                self._paused_at.setdefault(query_id, len(engine.arrivals))
            elif query_id in self._paused_at:
                self._catch_up(query, query.topics, self._paused_at.pop(query_id))
            elif query_id not in before:
                earliest = query_options(query.plan.properties).reset == "earliest"
                self._catch_up(query, query.topics if earliest else query.table_topics, 0)

    def _delete_topic(self, topic: str) -> None:
        self._engine.topics.pop(topic, None)
        # Places in the list stay as they are: those of paused queries are counted in it.
        self._engine.arrivals = [arrival if arrival[0] != topic else (topic, 0, 0) for arrival in self._engine.arrivals]

    def _catch_up(self, query: InMemoryQuery, topics: Sequence[str], since: int) -> None:
        """Give a query the records that arrived before it was created, or while it was paused, in their order."""
        for topic, first, end in self._engine.arrivals[since:]:
            if topic in topics and end > first:
                written = query.pipe(topic, self._engine.topics[topic][first:end], first)
                self._engine.feed(query.plan.topic, written, (topic,))

    # ------------------------------------------------------------------------------------------------ rows in
    def insert(self, name: str, rows: Rows) -> None:
        """Write rows into a stream or table, and let them go through all queries.

        Columns that aren't given are null. ROWTIME is the rows' time, in ms or as datetime; now where it isn't given. The rows of
        a windowed stream or table need WINDOWSTART (and WINDOWEND for SESSION windows) in ms.

        Args:
            name: the stream or table, or its topic.
            rows: the rows, in order.

        Raises:
            KsqlError: there is no such stream, table or topic.
            RowError: a row doesn't fit it.
        """
        source = self._source(name)
        self._engine.feed(source.topic, self._records(source, frame_of(source, rows)))

    def delete(self, name: str, keys: Rows) -> None:
        """Delete rows of a table by their keys (tombstones, in Kafka's words).

        Args:
            name: the table, or its topic.
            keys: rows with the table's key columns, and ROWTIME where it matters.

        Raises:
            KsqlError: there is no such table.
            RowError: a key doesn't fit it.
        """
        source = self._source(name)
        if source.kind is not SourceKind.TABLE:
            raise StatementError(f"{source.name} is a stream, whose rows can't be deleted; name a table")
        self._engine.feed(source.topic, self._records(source, frame_of(source, keys), deleted=True))

    def _source(self, name: str) -> Source:
        sources = self._engine.catalog.sources
        found = sources.get(name) or sources.get(name.upper())
        if found is None:
            found = next((source for source in sources.values() if source.topic == name), None)
        return found or self._engine.catalog.source(name)

    def _records(self, source: Source, frame: pl.DataFrame, *, deleted: bool = False) -> list[StoredRecord]:
        frame = frame.with_columns(pl.col(ROWTIME).fill_null(round(time.time() * 1000)))
        return self._engine.records_of(source, frame.with_columns(pl.lit(True).alias(DELETED)) if deleted else frame)

    # ------------------------------------------------------------------------------------------------ rows out
    def rows(self, name: str) -> pl.DataFrame:
        """Return the rows of a stream, or the current ones of a table: those of ``SELECT * FROM name``.

        Args:
            name: the stream or table, or its topic.

        Raises:
            KsqlError: there is no such stream, table or topic.
        """
        quoted = self._source(name).name.replace("`", "``")
        return self.query(f"SELECT * FROM `{quoted}`;")  # noqa: S608 - a quoted name

    def query(self, sql: str) -> pl.DataFrame:
        """Run one SELECT over what is there and return its rows.

        A pull query of a table gives its current rows. A push query (EMIT CHANGES or EMIT FINAL) gives the rows that it would
        have pushed if it had been there from the beginning; changes that only say that a table's row is gone are left out.

        Args:
            sql: the query.

        Returns:
            a frame with the select list's columns: INTEGER is Int32, BIGINT Int64, DOUBLE Float64, DECIMAL Decimal, STRING
            String, BYTES Binary, TIMESTAMP Datetime in ms (UTC), ARRAY List, STRUCT Struct, MAP a List of Structs key, value.

        Raises:
            KsqlError: it is not one SELECT, or it is refused.
        """
        parsed = split_statements(sql)
        statement = prepare(parsed[0], dict(self._engine.variables)) if len(parsed) == 1 else None
        if statement is None or not isinstance(statement.statement, ast.QueryStatement):
            raise StatementError("query() takes exactly one SELECT; run what changes something with execute()", sql)
        try:
            plan = self._engine.analyzer.transient(statement.statement.query, statement.text)
            order = arrival_order(lambda rejects: None)
            stages = TransientStages(plan, "transient", self._engine.registry.parsed, order)
            frames = [stages.visible(frame) for frame in self._results(plan, stages)]
        except StatementError as error:
            raise error.with_statement(statement.text) from error
        schema = {column.name: column.type.polars for column in plan.root.schema.columns}
        shown = [frame.filter(~pl.col(DELETED)).drop(DELETED) for frame in frames]
        result = pl.concat([pl.DataFrame(schema=schema), *shown])
        return result if plan.limit is None else result.head(plan.limit)

    def rejected(self) -> pl.DataFrame:
        """Return the rows that queries could not process: the processing log, as query, topic, offset and reason."""
        schema = {"query_id": pl.String, "topic": pl.String, "offset": pl.Int64, "reason": pl.String}
        found = [
            (query_id, reject.topic, reject.offset, reject.reason)
            for query_id, query in self._engine.queries.items()
            for reject in query.rejects
        ]
        return pl.DataFrame(found, schema=schema, orient="row")

    def _results(self, plan: TransientPlan, stages: TransientStages) -> Iterator[pl.DataFrame]:
        chain, topics = stages.chain, self._engine.topics
        if not plan.push and stages.kind is SourceKind.TABLE:
            rows = last_of_each_key(batch_of_records(stages.topic, topics.get(stages.topic, []), 0))
            yield from (result.rows for result in chain.feed(rows))
            return
        for topic, first, end in self._engine.arrivals:
            if end > first and topic in (*stages.table_topics, *stages.driving_topics):
                batch = batch_of_records(topic, topics[topic][first:end], first)
                chain.apply_to_tables(batch)
                yield from (result.rows for result in chain.feed(batch))

    def _feed_in_order(self, records: Mapping[str, Rows]) -> None:
        """Process rows of several streams and tables in order of their event time."""
        found: list[tuple[int, str, StoredRecord]] = []
        for name, rows in records.items():
            source = self._source(name)
            frame = frame_of(source, rows)
            pairs = zip(event_times(source, frame), self._records(source, frame), strict=True)
            found += [(moment, source.topic, record) for moment, record in pairs]
        found.sort(key=lambda entry: entry[0])
        for topic, group in groupby(found, key=lambda entry: entry[1]):
            self._engine.feed(topic, [record for _, _, record in group])

    def _is_select(self, parsed: ParsedStatement) -> bool:
        return isinstance(prepare(parsed, dict(self._engine.variables)).statement, ast.QueryStatement)


def run(
    statements: str,
    records: Mapping[str, Rows] | None = None,
    *,
    result: str | None = None,
    variables: Mapping[str, str] | None = None,
    properties: Mapping[str, str] | None = None,
    schemas: Mapping[str, str | Mapping[str, Any]] | None = None,
    batch_rows: int = BATCH_ROWS,
) -> pl.DataFrame:
    """Run statements over given rows in memory and return a frame.

    The rows of all streams and tables are processed in order of their event time (ROWTIME, or the column that WITH
    (TIMESTAMP=…) names); rows without one in the order given, a table's before everything else and a stream's behind it.

    Args:
        statements: statements. A SELECT at the end gives the result, otherwise the last query does (CREATE … AS SELECT or
            INSERT INTO … SELECT).
        records: rows of streams and tables, by their names or topics.
        result: stream or table whose rows are returned instead.
        variables: see `InMemory`.
        properties: see `InMemory`.
        schemas: see `InMemory`.
        batch_rows: see `InMemory`.

    Returns:
        the rows (see `InMemory.query`).

    Raises:
        KsqlError: a statement is refused, or nothing gives a result.
        RowError: a row doesn't fit its stream or table.

    Example:
        >>> import ksqlengine
        >>> ksqlengine.run(
        ...     "CREATE STREAM s (id INT KEY, v INT) WITH (KAFKA_TOPIC='s', VALUE_FORMAT='JSON');"
        ...     "SELECT id, v * 2 AS doubled FROM s WHERE v > 1 EMIT CHANGES;",
        ...     {"s": [{"id": 1, "v": 1}, {"id": 2, "v": 2}]},
        ... ).to_dicts()
        [{'ID': 2, 'DOUBLED': 4}]
    """
    session = InMemory(variables=variables, properties=properties, schemas=schemas, batch_rows=batch_rows)
    parsed = split_statements(statements)
    for statement in parsed[:-1]:
        session._run(statement)
    ends_with_select = bool(parsed) and session._is_select(parsed[-1])
    if parsed and not ends_with_select:
        session._run(parsed[-1])
    session._feed_in_order(records or {})
    if result is not None:
        return session.rows(result)
    if ends_with_select:
        return session.query(parsed[-1].text)
    queries = list(session._engine.queries.values())
    if not queries:
        raise StatementError(
            "No statement gives rows: end with a SELECT, make a query (CREATE … AS SELECT), or name a stream or table as result",
            statements,
        )
    return session.rows(queries[-1].plan.sink)
