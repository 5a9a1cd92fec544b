"""A KSQL server's core: runs statements against the catalog, Kafka and the schema registry, and keeps the queries running.

A statement that changes something is checked, its topics and schemas are made, and it is written to the command topic; every
engine process of the service, this one included, carries it out when it reads it there. A statement that fails changes nothing.
"""

from __future__ import annotations

import contextlib
import fcntl
import logging
import re
import threading
import uuid
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import polars as pl

from kafkakit.admin import KafkaClientError
from kafkakit.settings import KafkaSettings, RegistrySettings
from kafkakit.waiting import wait_until
from ksqlengine.errors import KsqlEngineError
from ksqlengine.execution.stages import stages
from ksqlengine.language import ast
from ksqlengine.language.lexer import split_statements
from ksqlengine.language.parser import PreparedStatement, check_request, parse_statements, prepare
from ksqlengine.plan.catalog import Catalog, PersistentQuery, Source
from ksqlengine.planning.canonical import created_as_text, created_source_text, source_with_topic_text
from ksqlengine.planning.ddl import CatalogChange, CatalogChanger, is_change
from ksqlengine.planning.statements import Analyzer
from ksqlengine.planning.transient_query import check_queryable
from ksqlengine.planning.with_clause import create_properties
from ksqlengine.server.command_topic import Command, CommandConflictError, CommandTopic
from ksqlengine.server.inserts import Inserter, Written, row_of
from ksqlengine.server.pull_push import RunningTransientQuery
from ksqlengine.server.refused_texts import refused_text
from ksqlengine.server.responses import Responses, current_status, deprecations, warning
from ksqlengine.server.running_query import RunningQuery
from ksqlengine.server.session_properties import (
    RequestSession,
    canonical,
    check_name,
    engine_defaults,
    of_request,
    query_options,
    with_changes,
)
from ksqlengine.server.topics_and_schemas import RecordedSchemas, Resources, missing_topic
from ksqlengine.streams import processing_log
from ksqlengine.streams.context import StageContext
from ksqlengine.streams.metrics import QueryMetrics
from ksqlengine.streams.stage_thread import StageThread
from ksqlengine.types.errors import (
    BAD_STATEMENT,
    COMMAND_QUEUE_CATCHUP_TIMEOUT,
    SERVER_ERROR,
    ExpressionError,
    KsqlError,
    ParseError,
    StatementError,
    query_endpoint_error,
)

logger = logging.getLogger(__name__)

_CATCH_UP_SECONDS = 5.0
_KEPT_RESULTS = 100
_OBEY_SECONDS, _OBEY_POLL_SECONDS = 2.0, 0.02
_CLEAN_UP_SECONDS, _CLEAN_UP_POLL_SECONDS = 30.0, 1.0


class EngineStartError(KsqlEngineError):
    """The engine can't be started; the message says why and what to do."""


@dataclass(frozen=True)
class EngineConfig:
    """What an engine process is started with.

    Attributes:
        kafka: brokers.
        registry: schema registry.
        service_id: prefix of the service's topics and groups; processes with the same one share the work.
        data_dir: folder of this process; it keeps the process's name, and nothing else.
        properties: the server's defaults of the session properties.
        address: ``host:port`` of this process, which names it in answers.

    Raises:
        EngineStartError: the service id can't be part of a topic's name.
    """

    kafka: KafkaSettings
    registry: RegistrySettings
    service_id: str
    data_dir: Path
    properties: Mapping[str, str] = field(default_factory=dict)
    address: str = "localhost:8088"

    def __post_init__(self) -> None:
        # Topics of the engine's own are named after the service: Kafka's rule for names.
        if not re.fullmatch(r"[A-Za-z0-9._-]{1,200}", self.service_id):
            raise EngineStartError(
                f"{self.service_id!r} can't be part of a topic's name; use letters, digits, '.', '_' and '-', at most 200"
            )


class RequestError(StatementError):
    """A statement that failed after others of its request were carried out."""

    def __init__(self, error: StatementError, entities: list[dict[str, Any]]) -> None:
        super().__init__(error.message, error.statement, error.error_code)
        self.entities = entities

    def entity(self, entities: list[dict[str, Any]] | None = None) -> dict[str, Any]:
        """Return the body of the answer, with the answers of the statements that were carried out."""
        return super().entity(self.entities)


class Engine:
    """One engine process."""

    def __init__(self, config: EngineConfig) -> None:
        """Prepare; `start` runs it.

        Raises:
            EngineStartError: another process uses the data folder.
        """
        self.config = config
        self.catalog = Catalog()
        self.queries: dict[str, RunningQuery] = {}
        self.ready = False
        self.resources = Resources(config.kafka, config.registry, config.service_id)
        self.statuses: dict[str, dict[str, Any]] = {}
        self._instance, self._instance_lock = _instance_name(config.data_dir)
        self._lock = threading.RLock()
        self._writing = threading.Lock()
        self._results: dict[int, tuple[str, str | None] | KsqlError] = {}
        self._inserter = Inserter(config.kafka, self.resources)
        self._responses = Responses(self)
        self.commands = CommandTopic(config.kafka, config.service_id, self._carry_out)

    # ------------------------------------------------------------------------------------------------ life
    def start(self) -> None:
        """Carry out all commands written so far, then start the queries that are left."""
        self.commands.create()
        self.resources.create_topic(processing_log.topic_name(self.config.service_id), 1, None, {})
        self.commands.start()
        with self._lock:
            self.ready = True
            for query in self.catalog.queries.values():
                self._start_query(query)

    def stop(self) -> None:
        """Commit what the queries have done, and stop."""
        self.commands.stop()
        with self._lock:
            running = list(self.queries.values())
            self.queries.clear()
        for query in running:
            query.stop()
        for query in running:
            query.join()
        self._inserter.close()
        self._instance_lock.close()

    # ------------------------------------------------------------------------------------------------ requests
    def execute(
        self,
        text: str,
        properties: Mapping[str, Any] | None = None,
        variables: Mapping[str, str] | None = None,
        after: int | None = None,
    ) -> list[dict[str, Any]]:
        """Run a request's statements in order and return ksqlDB's entities; all are checked before the first one runs.

        Args:
            text: one or more statements.
            properties: session properties.
            variables: values of ``${name}``.
            after: number of the command that must have been carried out before.

        Raises:
            KsqlError: a statement is wrong.
        """
        if after is not None and after >= 0:
            self._wait_for(after)
        given = {name: str(value) for name, value in (properties or {}).items()}
        check_request(text)
        changed = self._properties(given, text)
        self._validate(text, RequestSession(dict(changed), dict(variables or {})))
        session = RequestSession(changed, dict(variables or {}))
        answers: list[dict[str, Any]] = []
        for parsed in split_statements(text):
            statement = prepare(parsed, session.variables)
            try:
                answer = self._run(statement, session)
            except StatementError as error:
                self._name(error, statement, self.catalog, session)
                raise RequestError(error, answers) from error
            if answer is not None:
                answers.append(answer)
        return answers

    def _wait_for(self, sequence_number: int) -> None:
        try:
            self.commands.wait_for(sequence_number, _CATCH_UP_SECONDS)
        except TimeoutError as error:
            raise KsqlError(
                "Timed out while waiting for a previous command to execute. command sequence number: "
                f"{sequence_number}, timeout: {_CATCH_UP_SECONDS * 1000:.0f} ms",
                COMMAND_QUEUE_CATCHUP_TIMEOUT,
            ) from error

    def _validate(self, text: str, session: RequestSession) -> None:
        """Try all statements against a copy of the catalog."""
        catalog = self.catalog
        for number, parsed in enumerate(split_statements(text)):
            statement = prepare(parsed, session.variables)
            try:
                if is_change(statement.statement):
                    change = self._change(
                        catalog, statement, number, session.properties, RecordedSchemas(self.resources.registry)
                    )
                    self._check(change, statement.statement, catalog)
                    catalog = change.catalog
                else:
                    self._check_other(statement, catalog, session)
            except StatementError as error:
                self._name(error, statement, catalog, session)
                raise

    def _name(
        self, error: StatementError, statement: PreparedStatement, catalog: Catalog, session: RequestSession
    ) -> None:
        """Say in an error which statement it refuses."""
        if not error.statement:
            analyzer = Analyzer(catalog, defaults=engine_defaults(session.properties))
            error.with_statement(refused_text(statement, error, analyzer, self.resources.topic))

    def _check(self, change: CatalogChange, node: ast.Statement, before: Catalog) -> None:
        self._check_deletion(change)
        if change.plan is not None:
            if all(source in self.catalog.sources for source in self._reads(change)):
                self.resources.check(change.plan)
        elif isinstance(node, ast.CreateSource) and change.source is not None and change.nothing is None:
            # An earlier statement of the request makes its topic only when it is carried out.
            made = any(source.topic == change.source.topic for source in before.sources.values())
            there = made or self.resources.kafka.describe([change.source.topic])
            if not there and create_properties(node.properties).get("PARTITIONS") is None:
                raise missing_topic(change.source.topic, source_with_topic_text(node, change.source))

    @staticmethod
    def _check_deletion(change: CatalogChange) -> None:
        if change.deleted is None:
            return
        topic = change.deleted.topic
        using = sorted(source.name for source in change.catalog.sources.values() if source.topic == topic)
        if using:
            raise StatementError(
                f"Refusing to delete topic. Found other data sources ({', '.join(using)}) using topic {topic}"
            )

    def _reads(self, change: CatalogChange) -> frozenset[str]:
        return change.catalog.queries[change.plan.query_id].reads if change.plan is not None else frozenset()

    def _check_other(self, statement: PreparedStatement, catalog: Catalog, session: RequestSession) -> None:
        node = statement.statement
        if isinstance(node, ast.QueryStatement | ast.PrintTopic):
            raise query_endpoint_error(statement.text)
        if isinstance(node, ast.InsertValues):
            Analyzer(catalog, RecordedSchemas(self.resources.registry)).insert_values(node)
        elif isinstance(node, ast.DescribeSource):
            catalog.described(node.name)
        else:
            self._change_session(node, session)

    def _run(self, statement: PreparedStatement, session: RequestSession) -> dict[str, Any] | None:
        node = statement.statement
        if is_change(node):
            return self._submit(statement, session)
        if isinstance(node, ast.InsertValues):
            self._inserter.insert(*self.analyzer(session.properties).insert_values(node))
            return None
        if self._change_session(node, session):
            return None if statement.warning is None else warning(statement)
        return self._responses.answer(statement, session)

    def _change_session(self, node: ast.Statement, session: RequestSession) -> bool:
        """Carry out SET, UNSET, DEFINE and UNDEFINE; False for any other statement.

        Raises:
            StatementError: there is no property of this name, or its value is wrong.
        """
        if isinstance(node, ast.SetProperty):
            session.properties = with_changes(session.properties, {node.name: node.value})
        elif isinstance(node, ast.UnsetProperty):
            check_name(node.name)
            name, defaults = canonical(node.name), self.config.properties
            kept = {kept_name: value for kept_name, value in session.properties.items() if kept_name != name}
            session.properties = kept | ({name: defaults[name]} if name in defaults else {})
        return isinstance(node, ast.SetProperty | ast.UnsetProperty | ast.DefineVariable | ast.UndefineVariable)

    def transient(
        self, text: str, properties: Mapping[str, Any] | None = None, variables: Mapping[str, str] | None = None
    ) -> RunningTransientQuery | ast.PrintTopic:
        """Return a request's one SELECT, ready to run, or its PRINT.

        Raises:
            KsqlError: it is something else, or it is wrong.
        """
        given = {name: str(value) for name, value in (properties or {}).items()}
        session = RequestSession(self._properties(given, text), dict(variables or {}))
        try:
            check_request(text)
        except ParseError as error:
            raise _with_query(error, error.statement) from None
        parsed_all = split_statements(text)
        if len(parsed_all) != 1:
            raise StatementError(
                f"Expected exactly one KSQL statement; found {len(parsed_all)} instead\nStatement: {text}", text
            )
        statement = prepare(parsed_all[0], session.variables)
        node = statement.statement
        if isinstance(node, ast.PrintTopic):
            return node
        if not isinstance(node, ast.QueryStatement):
            raise StatementError(f"Neither a query nor a print statement\nStatement: {statement.text}", statement.text)
        try:
            plan = self.analyzer(session.properties).transient(node.query, statement.text)
            if not plan.push:
                check_queryable(plan.source)
            return RunningTransientQuery(plan, self.config.kafka, self.resources, session.properties)
        except ExpressionError as error:
            raise _with_query(error, statement.text) from None
        except StatementError as error:
            raise error.with_statement(statement.text) from None

    def _properties(self, given: Mapping[str, str], text: str) -> dict[str, str]:
        """Return the server's properties with those of a request.

        Raises:
            KsqlError: one of them is unknown, or its value is wrong.
        """
        try:
            return of_request(self.config.properties, given)
        except StatementError as error:
            first = next(iter(split_statements(text)), None)
            raise error.with_statement(text if first is None else first.text) from None

    def insertable(self, target: str) -> Source:
        """Return the stream or table that rows may be written into.

        Args:
            target: its name, in back quotes where it is case-sensitive.

        Raises:
            KsqlError: there is none, or only queries write it.
        """
        name = target[1:-1] if len(target) > 2 and target[0] == target[-1] and target[0] in '`"' else target.upper()
        source = self.catalog.sources.get(name)
        if source is None:
            raise KsqlError(f"Cannot insert values into an unknown stream/table: `{name}`", BAD_STATEMENT)
        if source.read_only:
            raise KsqlError(f"Cannot insert values into read-only topic: {source.topic}", BAD_STATEMENT)
        if source.key_window is not None:
            raise KsqlError("Cannot insert values into windowed stream/table", BAD_STATEMENT)
        return source

    def insert_objects(self, source: Source, rows: Sequence[Mapping[str, Any]]) -> Written:
        """Write rows, given as JSON objects, into a stream or table, up to the first that doesn't fit it.

        Raises:
            KsqlError: they can't be written.
        """
        frames: list[pl.DataFrame] = []
        failure: KsqlError | None = None
        for row in rows:
            try:
                frames.append(row_of(source, row))
            except KsqlError as error:
                failure = error
                break
        if frames:
            self._inserter.insert_rows(source, pl.concat(frames))
        return Written(len(frames), failure)

    # ------------------------------------------------------------------------------------------------ changes
    def analyzer(self, properties: Mapping[str, str]) -> Analyzer:
        """Return an analyzer over the catalog as it is."""
        return Analyzer(self.catalog, RecordedSchemas(self.resources.registry), engine_defaults(properties))

    def _submit(self, statement: PreparedStatement, session: RequestSession) -> dict[str, Any]:
        """Check a change, make its topics and schemas, and write it to the command topic."""
        try:
            with self._writing, self.commands.writing() as write:
                schemas = RecordedSchemas(self.resources.registry)
                change = self._change(self.catalog, statement, 0, session.properties, schemas)
                if change.nothing is not None:
                    if isinstance(statement.statement, ast.CreateSource | ast.CreateAsSelect):
                        return warning(replace(statement, warning=change.nothing))
                    return current_status(statement.text, change.command_id, change.nothing, None, -1)
                self._prepare(change, statement.statement)
                shown = self._shown(change, statement)
                offset = write(Command(statement.text, session.properties, schemas.answers, shown))
                result = self._results.pop(offset)
        except CommandConflictError as error:
            raise StatementError(str(error), error_code=SERVER_ERROR) from error
        if isinstance(result, KsqlError):
            raise result
        if change.deleted is not None:
            self.resources.delete_topic(change.deleted)
        affected = [self.queries[name] for name in change.paused if name in self.queries]
        wait_until(lambda: all(query.obeys for query in affected), _OBEY_SECONDS, _OBEY_POLL_SECONDS)
        message, query_id = result
        answer = current_status(shown, change.command_id, message, query_id, offset)
        answer["warnings"] = deprecations(statement.statement, change.plan)
        self.statuses[change.command_id] = answer["commandStatus"]
        return answer

    def _prepare(self, change: CatalogChange, node: ast.Statement) -> None:
        self._check_deletion(change)
        if change.plan is not None:
            self.resources.check(change.plan)
            self.resources.prepare_query(change.plan)
        elif change.source is not None and isinstance(node, ast.CreateSource):
            self.resources.prepare_source(change.source, create_properties(node.properties))

    def _shown(self, change: CatalogChange, statement: PreparedStatement) -> str:
        """Return a statement's text as ksqlDB shows it: CREATE statements with all that they leave to the server."""
        node = statement.statement
        if isinstance(node, ast.CreateSource) and change.source is not None:
            return created_source_text(node, change.source)
        if isinstance(node, ast.CreateAsSelect) and change.plan is not None:
            return created_as_text(node, self.catalog, self.resources.result_topic(change.plan))
        return statement.text

    def _carry_out(self, offset: int, command: Command) -> None:
        """Carry out a command (in the thread that follows the command topic)."""
        statement = parse_statements(command.statement)[0]
        statement = replace(statement, text=command.shown or statement.text)
        schemas = RecordedSchemas(self.resources.registry, command.schemas)
        try:
            with self._lock:
                change = self._change(self.catalog, statement, offset, command.properties, schemas)
                self.catalog = change.catalog
                if self.ready:
                    self._apply(change)
            self._results[offset] = (change.message, change.plan.query_id if change.plan is not None else None)
        except KsqlError as error:
            logger.error("command %d can't be carried out: %s; statement: %s", offset, error.message, command.statement)
            self._results[offset] = error
        for old in [number for number in self._results if number < offset - _KEPT_RESULTS]:
            del self._results[old]

    def _apply(self, change: CatalogChange) -> None:
        for query_id in change.stopped:
            self._stop_query(query_id)
        for query_id, paused in change.paused.items():
            running = self.queries[query_id]
            running.query = self.catalog.queries[query_id]
            running.set_paused(paused)
        if change.plan is not None:
            self._start_query(self.catalog.queries[change.plan.query_id])

    def _change(
        self,
        catalog: Catalog,
        statement: PreparedStatement,
        number: int,
        properties: Mapping[str, str],
        schemas: RecordedSchemas,
    ) -> CatalogChange:
        return CatalogChanger(Analyzer(catalog, schemas, engine_defaults(properties)), number, properties).change(
            statement
        )

    # ------------------------------------------------------------------------------------------------ queries
    def _start_query(self, query: PersistentQuery) -> None:
        plan = query.plan
        metrics = QueryMetrics()
        context = StageContext(
            kafka=self.config.kafka,
            service_id=self.config.service_id,
            instance=self._instance,
            query_id=plan.query_id,
            options=query_options(plan.properties),
            prepare=lambda: self.resources.prepare_internal(plan),
            schemas=self.resources.schema,
            write_schemas=self.resources.stage_schemas,
            metrics=metrics,
        )
        threads = [StageThread(stage, context) for stage in stages(plan, self.config.service_id)]
        self.queries[plan.query_id] = running = RunningQuery(query, threads, metrics)
        running.set_paused(query.paused)
        running.start()

    def _stop_query(self, query_id: str) -> None:
        running = self.queries.pop(query_id, None)
        if running is None:
            return
        running.stop()
        running.join()
        if query_id not in self.catalog.queries:
            threading.Thread(target=self._clean_up, args=(running,), name=f"clean-up {query_id}", daemon=True).start()

    def _clean_up(self, ended: RunningQuery) -> None:
        """Delete what an ended query had for itself; a group can only go once its last member is forgotten."""
        with contextlib.suppress(KafkaClientError):
            self.resources.kafka.delete(ended.own_topics)

        def deleted() -> bool:
            try:
                self.resources.kafka.delete_groups(ended.groups)
            except KafkaClientError:
                return False
            return True

        if ended.groups:
            wait_until(deleted, _CLEAN_UP_SECONDS, _CLEAN_UP_POLL_SECONDS)


def _with_query(error: StatementError, query: str) -> StatementError:
    """Return what the endpoints of queries say of a mistake in a text or an expression: they name the query too."""
    error.message = f"{error.message}\nStatement: {query}"
    error.statement = query
    return error


def _instance_name(folder: Path) -> tuple[str, Any]:
    """Return this process's name, the same as before in this folder, and the lock that keeps others out."""
    folder.mkdir(parents=True, exist_ok=True)
    lock = (folder / "lock").open("a")
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as error:
        lock.close()
        raise EngineStartError(
            f"the data folder {str(folder)!r} is used by another engine process; stop it, or give this one --data-dir"
        ) from error
    path = folder / "instance"
    if not path.exists():
        path.write_text(uuid.uuid4().hex, encoding="ascii")
    return path.read_text(encoding="ascii").strip(), lock
