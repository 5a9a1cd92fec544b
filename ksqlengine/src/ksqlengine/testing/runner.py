"""Runs tests and says what came of them.

Source of the order in which records go through queries: ksqlDB's ``TestExecutor`` (query after query, each with all its input)
for JSON tests, its ``TestDriverPipeline`` (record after record through all queries) for SQL tests.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from itertools import groupby
from typing import Any

import polars as pl
import pyarrow as pa

from ksqlengine.formats.base import FormatError, Serde
from ksqlengine.formats.factory import serde
from ksqlengine.internal_names import AHEAD, CACHE
from ksqlengine.language import ast
from ksqlengine.language.lexer import ParsedStatement, split_statements
from ksqlengine.language.parser import prepare
from ksqlengine.plan.catalog import Source, schema_text
from ksqlengine.plan.steps import ROWTIME, WINDOWEND, WINDOWSTART, Column
from ksqlengine.planning.statements import Analyzer
from ksqlengine.server.in_memory import InMemoryEngine, InMemoryQuery, StoredRecord, row_of
from ksqlengine.testing.cases import Case, Record, Refusal
from ksqlengine.testing.differences import TopicDifference, compare
from ksqlengine.testing.records import RecordError, form_of, split_key
from ksqlengine.testing.refusals import AssertionMismatch, mismatch
from ksqlengine.testing.sql_tests import SqlTest
from ksqlengine.types.errors import KsqlError, StatementError

# ksqlDB's own tests run without a cache.
_OF_TESTS: Mapping[str, str] = {CACHE: "0"}


@dataclass(frozen=True)
class Result:
    """What came of a test.

    Attributes:
        name: the test.
        failure: why it failed in one line, None when it passed.
        details: more lines about it.
    """

    name: str
    failure: str | None = None
    details: tuple[str, ...] = ()


def run_case(case: Case, *, together: bool = False, properties: Mapping[str, str] | None = None) -> Result:
    """Run a test of statements, input records and output records; never raises, so one test can't end the others.

    Args:
        case: the test.
        together: records that follow one another in one topic go through as one batch, as they do against Kafka. Results are the
            same; with a cache, of several changes of a group in a batch only the last one comes out.
        properties: session properties that are set before the first statement.
    """
    engine = InMemoryEngine({}, case.schemas, properties=_properties_of(case, properties or {}))
    try:
        for parsed in split_statements(case.statements):
            engine.execute(parsed)
    except (KsqlError, FormatError) as error:
        return _refused(case.name, case.refusal, error)
    except Exception as error:
        return _broken(case.name, error)
    if case.refusal is not None:
        return Result(case.name, f"the statements were accepted; expected {_shown(case.refusal)}")
    try:
        return _run_records(case, engine, together)
    except RecordError as error:
        return Result(case.name, str(error))
    except Exception as error:
        return _broken(case.name, error)


def _refused(name: str, expected: Refusal | None, error: Exception) -> Result:
    if expected is not None:
        return Result(name, _one_line(mismatch(expected, error)))
    statement = getattr(error, "statement", "")
    return Result(name, _one_line(f"a statement was refused: {error}"), (str(error), statement))


def _broken(name: str, error: Exception) -> Result:
    return Result(name, _one_line(f"{type(error).__name__}: {error}"), (repr(error),))


def _one_line(text: str | None) -> str | None:
    return None if text is None else " ".join(text.split())


def _shown(refusal: Refusal) -> str:
    return " ".join(part for part in (refusal.type, f"{refusal.message!r}" if refusal.message else None) if part)


# ------------------------------------------------------------------------------------------------- JSON tests
def _run_records(case: Case, engine: InMemoryEngine, together: bool) -> Result:
    for topic, record in engine.take_inserted():
        engine.append(topic, record)
    inputs = [_stored(engine, record, number) for number, record in enumerate(case.inputs)]
    for query in engine.queries.values():
        _run_query(engine, query, inputs, together)
    differences = [difference for difference in _differences(case, engine) if difference is not None]
    if not differences:
        return Result(case.name)
    rejects = [
        f"not read: {reject.topic}/{reject.partition}/{reject.offset}: {reject.reason}"
        for query in engine.queries.values()
        for reject in query.rejects
    ]
    details = [line for difference in differences for line in (f"topic {difference.topic!r}", *difference.lines)]
    return Result(
        case.name, _one_line("; ".join(difference.summary for difference in differences)), (*details, *rejects)
    )


def _stored(engine: InMemoryEngine, record: Record, number: int) -> tuple[str, StoredRecord, int]:
    try:
        stored = form_of(engine, record.topic).store(record)
    except RecordError as error:
        raise RecordError(f"input {number} (topic {record.topic!r}): {error}") from error
    return record.topic, stored, engine.append(record.topic, stored)


def _run_query(
    engine: InMemoryEngine, query: InMemoryQuery, inputs: list[tuple[str, StoredRecord, int]], together: bool
) -> None:
    """Pipe the given records of the query's topics in their order, then what other queries wrote into its other topics."""
    given = {topic for topic, _, _ in inputs}
    derived = [
        (topic, record, offset)
        for topic in query.topics
        if topic not in given
        for offset, record in enumerate(engine.topics.get(topic, ()))
    ]
    ordered = [*(given_record for given_record in inputs if given_record[0] in query.topics), *derived]
    for _, records in groupby(enumerate(ordered), lambda numbered: numbered[1][0] if together else numbered[0]):
        batch = [record for _, record in records]
        topic, _, offset = batch[0]
        for written in [] if query.paused else query.pipe(topic, [record for _, record, _ in batch], offset):
            engine.append(query.plan.topic, written)


def _differences(case: Case, engine: InMemoryEngine) -> list[TopicDifference | None]:
    expected: dict[str, list[Record]] = {}
    for record in case.outputs:
        expected.setdefault(record.topic, []).append(record)
    if not expected:
        read = {topic for query in engine.queries.values() for topic in query.topics}
        expected = {query.plan.topic: [] for query in engine.queries.values() if query.plan.topic not in read}
    found = []
    for topic, records in expected.items():
        form = form_of(engine, topic)
        produced = [form.show(record, engine.registry.parsed) for record in engine.topics.get(topic, ())]
        found.append(compare(topic, records, produced, form.types, with_timestamps=bool(case.inputs)))
    return found


def _properties_of(case: Case, given: Mapping[str, str]) -> dict[str, str]:
    """Return a case's properties: where all records are of time 0, as without timestamps, none can be ahead of its arrival."""
    properties = {**_OF_TESTS, **given}
    if not any(record.timestamp for record in case.inputs):
        properties.pop(AHEAD, None)
    return properties


# -------------------------------------------------------------------------------------------------- SQL tests
def run_sql_test(test: SqlTest, properties: Mapping[str, str] | None = None) -> Result:
    """Run a test that inserts its own records and asserts what comes out; never raises.

    Args:
        test: the test.
        properties: session properties that are set before the first statement.
    """
    run = _SqlRun(properties)
    try:
        statements = split_statements(test.sql)
    except StatementError as error:
        return _refused(test.name, test.refusal, error)
    for parsed in statements:
        line = parsed.tokens[0].line if parsed.tokens else 1
        try:
            run.execute(parsed)
        except (KsqlError, FormatError, AssertionMismatch) as error:
            if test.refusal is not None:
                return Result(test.name, _one_line(mismatch(test.refusal, error)))
            return Result(test.name, _one_line(f"line {line}: {error}"), (parsed.text, str(error)))
        except Exception as error:
            return _broken(test.name, error)
    if test.refusal is not None:
        return Result(test.name, f"no statement failed; expected {_shown(test.refusal)}")
    return Result(test.name)


class _SqlRun:
    """One SQL test: an engine, and how many records of each topic were asserted."""

    def __init__(self, properties: Mapping[str, str] | None) -> None:
        self._engine = InMemoryEngine({}, {}, properties={**_OF_TESTS, **(properties or {})})
        self._asserted: Counter[str] = Counter()

    def execute(self, parsed: ParsedStatement) -> None:
        """Run a statement or check an assertion.

        Raises:
            KsqlError: the statement is refused.
            AssertionMismatch: what is asserted isn't so.
        """
        match prepare(parsed, dict(self._engine.variables)).statement:
            case ast.AssertValues() as statement:
                self._assert_values(statement)
            case ast.AssertSource(source):
                self._assert_source(source, parsed.text)
            case _:
                self._engine.execute(parsed)
        for topic, record in self._engine.take_inserted():
            self._engine.feed(topic, [record])

    def _assert_values(self, statement: ast.AssertValues) -> None:
        source, values = self._engine.analyzer.assert_values(statement)
        records = self._engine.topics.get(source.topic, [])
        expected = row_of(source, {name: value for name, value in values.items() if name not in _BOUNDS}).row(
            0, named=True
        )
        expected |= {name: pl.select(values[name].to_polars()).item() for name in _BOUNDS if name in values}
        if ROWTIME not in values:
            del expected[ROWTIME]
        if self._asserted[source.topic] == len(records):
            raise AssertionMismatch(
                f"Expected another record, but all {len(records)} records of {source.name} were read.\nExpected: {expected}"
            )
        record = records[self._asserted[source.topic]]
        self._asserted[source.topic] += 1
        actual = self._read(source, record)
        same = all(actual[name] == value for name, value in expected.items())
        if not same or statement.tombstone is not (record.value is None):
            raise AssertionMismatch(f"Expected record does not match actual.\nExpected: {expected}\nActual:   {actual}")

    def _read(self, source: Source, record: StoredRecord) -> dict[str, Any]:
        key, window = split_key(record.key, source.key_window)
        schemas = self._engine.registry.parsed
        row = _columns(source.schema.key, key, serde(source.key_format, source.schema.key, schemas, key=True))
        row |= _columns(source.schema.value, record.value, serde(source.value_format, source.schema.value, schemas))
        bounds = {} if window is None else {WINDOWSTART: window.start, WINDOWEND: window.end}
        return {**row, **bounds, ROWTIME: record.timestamp}

    def _assert_source(self, statement: ast.CreateSource, text: str) -> None:
        actual = self._engine.catalog.source(statement.name)
        apart = replace(self._engine.catalog, sources={})
        expected = Analyzer(apart, self._engine.registry).create_source(_with_formats(statement, actual), text)
        for what, of_source in _ASSERTED.items():
            if of_source(expected) != of_source(actual):
                raise AssertionMismatch(
                    f"Expected {what} does not match actual for source {actual.name}.\n"
                    f"\tExpected: {of_source(expected)}\n\tActual: {of_source(actual)}"
                )


def _with_formats(statement: ast.CreateSource, actual: Source) -> ast.CreateSource:
    """Return what is asserted with the formats that it leaves open, which may then be any."""
    given = {name.upper() for name, _ in statement.properties}
    formats = {"KEY_FORMAT": actual.key_format.name, "VALUE_FORMAT": actual.value_format.name}
    added = [(name, ast.StringLiteral(value)) for name, value in formats.items() if not given & {name, "FORMAT"}]
    return replace(statement, properties=(*statement.properties, *added))


_BOUNDS = (WINDOWSTART, WINDOWEND)
# What ASSERT STREAM and ASSERT TABLE compare, in ksqlDB's order and words.
_ASSERTED: Mapping[str, Callable[[Source], object]] = {
    "schema": lambda source: schema_text(source.schema, source.kind),
    "type": lambda source: source.kind.value,
    "kafka topic": lambda source: source.topic,
    "key format": lambda source: source.key_format.name,
    "value format": lambda source: source.value_format.name,
    "delimiter": lambda source: source.value_format.delimiter,
    "serde options": lambda source: source.value_format.wrap_single,
    "timestamp column": lambda source: source.timestamp_column,
    "timestamp format": lambda source: source.timestamp_format,
}


def _columns(columns: tuple[Column, ...], data: bytes | None, reader: Serde) -> dict[str, Any]:
    if data is None or not columns:
        return dict.fromkeys(column.name for column in columns)
    read = reader.read(pa.array([data], pa.large_binary()))
    if read.rejects:
        raise AssertionMismatch(f"{data!r} can't be read: {read.rejects[0][1]}")
    return read.frame.row(0, named=True)
