"""ksqlDB's REST API, as real ksqlDB servers and the embedded engine speak it.

Of several servers the first healthy one is used, the next one when it goes. Any server takes any statement: they share the
command topic. A statement that changes something is sent to another server only when the first one surely didn't take it.

A ksqlDB server writes commands with one transactional producer: of two statements that it is given at the same time one is
answered "There is a newer producer with the same transactionalId …" and not carried out. So a client sends one at a time, and
repeats what another client's statement has ended.
"""

from __future__ import annotations

import json
import threading
from collections.abc import Iterable, Iterator, Mapping
from contextlib import AbstractContextManager, ExitStack, contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

import httpx
import stamina

from kafkakit.security import http_options
from kafkakit.waiting import wait_until
from ksqlengine.client.settings import KsqldbSettings
from ksqlengine.errors import KsqlEngineError

MEDIA_TYPE = "application/vnd.ksql.v1+json"
ROWS_MEDIA_TYPE = "application/vnd.ksqlapi.delimited.v1"

_NOT_READY = 503
_NOT_LET_IN = (401, 403)
_NOT_YET = "is not available yet. Please try again later."  # 400 to a pull query whose table has only just been made
_FENCED = "newer producer with the same transactionalId"
_STATEMENT_SECONDS = (
    120.0  # ksqlDB checks a query's whole plan before it answers: on a busy machine that takes half a minute
)
_FENCED_SECONDS = 30.0  # at most so long another client's statements keep this one's from being taken
_POLL_SECONDS = 0.1
_UNFINISHED = {"QUEUED", "PARSING", "EXECUTING"}


class KsqldbError(KsqlEngineError):
    """A KSQL server refused or didn't answer; the message names the operation and the reason."""


class KsqldbUnavailableError(KsqldbError):
    """No KSQL server could be reached."""


class StatementRefusedError(KsqldbError):
    """A server refused a statement.

    Attributes:
        error_code: ksqlDB's code, 40001 for a bad statement.
        reason: the server's message, with line and column where it knows them.
        statement: the statement's text as the server read it.
    """

    def __init__(self, error_code: int, reason: str, statement: str) -> None:
        super().__init__(error_code, reason, statement)
        self.error_code = error_code
        self.reason = reason
        self.statement = statement

    def __str__(self) -> str:
        return f"KSQL refused the statement ({self.error_code}): {self.reason}\nstatement: {self.statement}"


@dataclass(frozen=True)
class ServerInfo:
    """What a server says of itself."""

    url: str
    version: str
    service_id: str
    status: str


@dataclass(frozen=True)
class SourceInfo:
    """A stream or table: name, kind (STREAM, TABLE), topic, formats, and whether its key is windowed."""

    name: str
    kind: str
    topic: str
    key_format: str
    value_format: str
    windowed: bool


@dataclass(frozen=True)
class QueryInfo:
    """A persistent query: id, state (RUNNING, PAUSED, ERROR), the streams or tables and topics it writes, and its SQL."""

    query_id: str
    state: str
    sinks: tuple[str, ...]
    sink_topics: tuple[str, ...]
    sql: str


@dataclass(frozen=True)
class Statistics:
    """Messages through a stream or table, of all servers together.

    Attributes:
        consumed: messages that queries read from its topic.
        consumed_per_second: rate of that.
        produced: messages that queries wrote to its topic.
        produced_per_second: rate of that.
        failed: messages that could not be read.
        last_message: when the last one passed, None before the first.
        late: messages that came after their window had closed; None where the server doesn't count them, as ksqlDB.
        let_go: results of windows that left their store before they closed; None where the server doesn't count them.
    """

    consumed: int = 0
    consumed_per_second: float = 0.0
    produced: int = 0
    produced_per_second: float = 0.0
    failed: int = 0
    last_message: datetime | None = None
    late: int | None = None
    let_go: int | None = None


@dataclass(frozen=True)
class SourceDescription:
    """What DESCRIBE … EXTENDED says of a stream or table."""

    source: SourceInfo
    partitions: int
    replication: int
    statement: str
    read_queries: tuple[str, ...]
    write_queries: tuple[str, ...]
    statistics: Statistics


@dataclass(frozen=True)
class CommandResult:
    """What became of a statement: its text, the server's message, the query it started, its place in the command topic."""

    statement: str
    message: str
    query_id: str | None
    sequence_number: int


@dataclass(frozen=True)
class ResultRows:
    """Rows of a query: column names, their types, and the rows as they come."""

    names: tuple[str, ...]
    types: tuple[str, ...]
    rows: Iterator[list[Any]]


class Ksqldb:
    """What deploys, checks and the KSQL prompt need of KSQL servers."""

    def __init__(
        self, settings: KsqldbSettings, retry_seconds: float = 30, transport: httpx.BaseTransport | None = None
    ) -> None:
        """Make a client; nothing is asked of the servers yet.

        Args:
            settings: where the servers are.
            retry_seconds: how long a request is repeated while no server is ready.
            transport: what carries the requests, None for the network.
        """
        self._settings = settings
        self._retry_seconds = retry_seconds
        options = http_options(settings, "the KSQL server")
        options["headers"] |= {"Accept": MEDIA_TYPE, "Content-Type": MEDIA_TYPE}
        self._http = httpx.Client(timeout=settings.request_timeout_seconds, transport=transport, **options)
        self._preferred = 0
        self._statements = threading.Lock()

    def close(self) -> None:
        """Close the connections."""
        self._http.close()

    def info(self) -> ServerInfo:
        """Return what the server in use says of itself.

        Raises:
            KsqldbUnavailableError: no server is ready.
        """
        answer = self._ask("GET", "/info", "read the server's version", repeatable=True)["KsqlServerInfo"]
        return ServerInfo(
            url=self._settings.urls[self._preferred],
            version=str(answer["version"]),
            service_id=str(answer.get("ksqlServiceId", "")),
            status=str(answer.get("serverStatus", "")),
        )

    def healthy(self) -> dict[str, bool]:
        """Return for each server whether it says that it is healthy."""
        found = {}
        for url in self._settings.urls:
            try:
                answer = self._http.get(f"{url.rstrip('/')}/healthcheck")
                found[url] = answer.is_success and bool(answer.json().get("isHealthy"))
            except (httpx.TransportError, ValueError):
                found[url] = False
        return found

    def execute(
        self,
        sql: str,
        properties: Mapping[str, Any] | None = None,
        variables: Mapping[str, str] | None = None,
        after: int | None = None,
    ) -> list[CommandResult]:
        """Run statements that change something and wait until each has been carried out.

        A server checks all statements of a request before it carries out the first, so a mistake in one of them
        changes nothing.

        Args:
            sql: one or more statements.
            properties: streams properties of the statements (``auto.offset.reset``, …).
            variables: values for ``${name}`` in the statements.
            after: sequence number of the command that must have been carried out before.

        Raises:
            StatementRefusedError: a statement is wrong.
            KsqldbUnavailableError: no server is ready, or it went away while it had the statements.
            KsqldbError: a statement wasn't carried out in time.
        """
        body: dict[str, Any] = {
            "ksql": sql,
            "streamsProperties": dict(properties or {}),
            "sessionVariables": dict(variables or {}),
        }
        if after is not None:
            body["commandSequenceNumber"] = after
        entities = self._change(body)
        return [self._finished(entity) for entity in entities if "commandId" in entity]

    def entities(
        self, sql: str, properties: Mapping[str, Any] | None = None, variables: Mapping[str, str] | None = None
    ) -> list[dict[str, Any]]:
        """Run any statements but SELECT and PRINT and return the server's answers, one per statement.

        Args:
            sql: one or more statements.
            properties: streams properties of the statements.
            variables: values for ``${name}`` in the statements.

        Raises:
            StatementRefusedError: a statement is wrong.
            KsqldbUnavailableError: no server is ready, or it went away while it had the statements.
        """
        body = {"ksql": sql, "streamsProperties": dict(properties or {}), "sessionVariables": dict(variables or {})}
        return self._change(body)

    @contextmanager
    def select(
        self, sql: str, properties: Mapping[str, Any] | None = None, variables: Mapping[str, str] | None = None
    ) -> Iterator[ResultRows]:
        """Run a SELECT; leaving the context ends a push query.

        Args:
            sql: one pull or push query.
            properties: streams properties of the query.
            variables: values for ``${name}`` in it.

        Raises:
            StatementRefusedError: the query is wrong.
            KsqldbError: the server ended it with an error, or none is ready.
        """
        body = {"sql": sql, "properties": dict(properties or {}), "sessionVariables": dict(variables or {})}
        with self._lines("/query-stream", body, {"Accept": ROWS_MEDIA_TYPE}, "run the query") as lines:
            header = json.loads(next(lines, "{}"))
            yield ResultRows(tuple(header.get("columnNames", ())), tuple(header.get("columnTypes", ())), _rows(lines))

    @contextmanager
    def print_topic(self, sql: str, properties: Mapping[str, Any] | None = None) -> Iterator[Iterator[str]]:
        """Run PRINT; the lines come as the topic's records do, until the context is left.

        Args:
            sql: one PRINT.
            properties: streams properties of the statement.

        Raises:
            StatementRefusedError: the statement is wrong.
            KsqldbError: no server is ready.
        """
        body = {"ksql": sql, "streamsProperties": dict(properties or {})}
        with self._lines("/query", body, {}, "print the topic") as lines:
            yield lines

    def has_property(self, name: str) -> bool:
        """Return whether the server has a session property: this package's engine has some that ksqlDB refuses.

        Args:
            name: the property.

        Raises:
            KsqldbUnavailableError: no server is ready.
        """
        return any(item["name"] == name for item in self._show("SHOW PROPERTIES;", "properties"))

    def streams(self) -> list[SourceInfo]:
        """Return all streams.

        Raises:
            KsqldbUnavailableError: no server is ready.
        """
        return [_source(item, "STREAM") for item in self._show("SHOW STREAMS;", "streams")]

    def tables(self) -> list[SourceInfo]:
        """Return all tables.

        Raises:
            KsqldbUnavailableError: no server is ready.
        """
        return [_source(item, "TABLE") for item in self._show("SHOW TABLES;", "tables")]

    def queries(self) -> list[QueryInfo]:
        """Return all persistent queries.

        Raises:
            KsqldbUnavailableError: no server is ready.
        """
        return [
            QueryInfo(
                query_id=item["id"],
                state=_state(item),
                sinks=tuple(item.get("sinks", ())),
                sink_topics=tuple(item.get("sinkKafkaTopics", ())),
                sql=item["queryString"],
            )
            for item in self._show("SHOW QUERIES;", "queries")
            if item.get("queryType", "PERSISTENT") == "PERSISTENT"
        ]

    def describe(self, name: str) -> SourceDescription:
        """Return what a stream or table is and how many messages went through it.

        Args:
            name: as SHOW STREAMS and SHOW TABLES give it.

        Raises:
            StatementRefusedError: there is none of this name.
            KsqldbUnavailableError: no server is ready.
        """
        found = self._show(f"DESCRIBE {quoted(name)} EXTENDED;", "sourceDescription")
        return _description(found)

    def wait_query(self, query_id: str, timeout_seconds: float = 60) -> QueryInfo:
        """Wait until a persistent query runs.

        Raises:
            KsqldbError: it is in ERROR, it is not there, or it doesn't run in time.
        """
        state = ""

        def running() -> QueryInfo | None:
            nonlocal state
            found = next((query for query in self.queries() if query.query_id == query_id), None)
            state = found.state if found is not None else "not there"
            if state == "ERROR":
                raise KsqldbError(
                    f"query {query_id!r} is in ERROR; look at the KSQL server's log, fix the cause and restart it"
                )
            return found if state == "RUNNING" else None

        return wait_until(
            running,
            timeout_seconds,
            _POLL_SECONDS,
            lambda: KsqldbError(f"query {query_id!r} doesn't run after {timeout_seconds:g} s: it is {state}"),
        )

    def _finished(self, entity: Mapping[str, Any]) -> CommandResult:
        """Wait until a command is SUCCESS; ksqlDB answers QUEUED or EXECUTING when it takes long."""
        statement, seconds = str(entity["statementText"]), self._settings.request_timeout_seconds
        statuses, last = self._statuses(entity), ""

        def finished() -> Mapping[str, Any] | None:
            nonlocal last
            status = next(statuses)
            last = status["status"]
            return status if last not in _UNFINISHED else None

        status = wait_until(
            finished,
            seconds,
            _POLL_SECONDS,
            lambda: KsqldbError(
                f"statement {statement!r} is still {last} after {seconds:g} s; look at the KSQL server's log"
            ),
        )
        if status["status"] == "ERROR":
            raise StatementRefusedError(0, str(status["message"]), statement)
        return CommandResult(
            statement=statement,
            message=str(status["message"]),
            query_id=status.get("queryId") or entity["commandStatus"].get("queryId"),
            sequence_number=int(entity.get("commandSequenceNumber", -1)),
        )

    def _statuses(self, entity: Mapping[str, Any]) -> Iterator[Mapping[str, Any]]:
        """Return a command's status as it was answered with, then as it is whenever it is asked for."""
        yield entity["commandStatus"]
        command_id = str(entity["commandId"])
        while True:
            yield self._ask("GET", f"/status/{command_id}", f"read the status of {command_id!r}", repeatable=True)

    @contextmanager
    def _lines(self, path: str, body: Any, headers: Mapping[str, str], operation: str) -> Iterator[Iterator[str]]:
        """Send a request whose answer comes line by line without end.

        A server that has only just made a table answers 503 or "not available yet" to a pull query on it, until it knows how far
        its state is.
        """
        self.info()  # finds a server that is ready
        url = self._settings.urls[self._preferred].rstrip("/")
        timeout = httpx.Timeout(self._settings.request_timeout_seconds, read=None)
        try:
            with ExitStack() as stack:
                for attempt in stamina.retry_context(on=_NoServerError, attempts=None, timeout=self._retry_seconds):
                    with attempt:
                        stream = self._http.stream(
                            "POST", url + path, json=body, headers=dict(headers), timeout=timeout
                        )
                        response = _entered(stack, stream, operation)
                yield (line for line in response.iter_lines() if line.strip())
        except httpx.TransportError as error:
            raise KsqldbUnavailableError(f"can't {operation}: {url}: {error}; see that the server is up") from error

    def _change(self, body: Mapping[str, Any]) -> list[dict[str, Any]]:
        """Send statements that may change something, none of this client's others at the same time."""
        with self._statements:
            for attempt in stamina.retry_context(on=_FencedError, attempts=None, timeout=_FENCED_SECONDS):
                with attempt:
                    answer: list[dict[str, Any]] = self._ask("POST", "/ksql", "run statements", body, repeatable=False)
                    return answer
        raise AssertionError("stamina gives at least one attempt")

    def _show(self, sql: str, field: str) -> Any:
        entities = self._ask("POST", "/ksql", sql, {"ksql": sql, "streamsProperties": {}}, repeatable=True)
        return entities[0][field]

    def _ask(self, method: str, path: str, operation: str, body: Any = None, *, repeatable: bool) -> Any:
        attempts = None if self._retry_seconds else 1
        for attempt in stamina.retry_context(on=_NoServerError, attempts=attempts, timeout=self._retry_seconds or None):
            with attempt:
                return self._ask_any(method, path, operation, body, repeatable=repeatable)
        raise AssertionError("stamina gives at least one attempt")

    def _timeout(self, repeatable: bool) -> httpx.Timeout:
        """Return how long an answer is waited for: longer where nobody could say whether the server did what it was asked."""
        seconds = self._settings.request_timeout_seconds
        return httpx.Timeout(seconds, read=seconds if repeatable else max(seconds, _STATEMENT_SECONDS))

    def _ask_any(self, method: str, path: str, operation: str, body: Any, *, repeatable: bool) -> Any:
        """Ask the server in use, and the others in turn while they are not ready."""
        reasons = []
        for step in range(len(self._settings.urls)):
            index = (self._preferred + step) % len(self._settings.urls)
            url = self._settings.urls[index].rstrip("/")
            try:
                response = self._http.request(method, url + path, json=body, timeout=self._timeout(repeatable))
            except httpx.TransportError as error:
                reason = f"{url}: {type(error).__name__}: {error}"
                if not repeatable and not isinstance(error, httpx.ConnectError | httpx.ConnectTimeout):
                    raise KsqldbUnavailableError(
                        f"can't tell whether the server did {operation!r} ({reason}); see SHOW QUERIES, then run it again"
                    ) from error
                reasons.append(reason)
                continue
            if response.status_code == _NOT_READY:
                reasons.append(f"{url}: {response.text[:200]}")
                continue
            self._preferred = index
            return _answer(response, operation)
        raise _NoServerError(f"can't {operation}: no KSQL server is ready ({'; '.join(reasons)}); see that they are up")


class _NoServerError(KsqldbUnavailableError):
    """No server took the request: it may be repeated."""


class _FencedError(StatementRefusedError):
    """The server took another client's statement instead of this one: it may be repeated."""


def _entered(stack: ExitStack, stream: AbstractContextManager[httpx.Response], operation: str) -> httpx.Response:
    """Open an answer that comes line by line and leave it to the stack; an error is read and closed."""
    with ExitStack() as opened:
        response = opened.enter_context(stream)
        if response.is_success:
            stack.push(opened.pop_all())
            return response
        response.read()
    if response.status_code == _NOT_READY or _NOT_YET in response.text:
        raise _NoServerError(f"can't {operation}: the server is not ready: {response.text[:500]}; try it again later")
    _answer(response, operation)
    raise AssertionError("an answer that isn't a success is raised")


def _rows(lines: Iterator[str]) -> Iterator[list[Any]]:
    for line in lines:
        row = json.loads(line)
        if isinstance(row, dict):
            if "message" in row and row.get("error_code", row.get("errorCode")):
                raise KsqldbError(f"the server ended the query: {row['message']}")
            continue
        yield row


def quoted(name: str) -> str:
    """Return an identifier in back quotes, so KSQL keeps its case."""
    return f"`{name.replace('`', '``')}`"


def _answer(response: httpx.Response, operation: str) -> Any:
    try:
        body = response.json()
    except ValueError as error:
        raise KsqldbError(
            f"can't {operation}: HTTP {response.status_code}, no JSON: {response.text[:200]!r}"
        ) from error
    if response.is_success:
        return body
    if isinstance(body, dict) and "statementText" in body:
        # What was answered for the request's earlier statements was carried out: only a request without is repeated.
        fenced = _FENCED in str(body["message"]) and not body.get("entities")
        raise (_FencedError if fenced else StatementRefusedError)(
            int(body.get("error_code", 0)), str(body["message"]), str(body["statementText"])
        )
    message = body.get("message", body) if isinstance(body, dict) else body
    if response.status_code in _NOT_LET_IN:
        message = f"{message}; see the user and the password, or the token, that the settings have for the KSQL servers"
    code = body.get("error_code", response.status_code) if isinstance(body, dict) else response.status_code
    raise KsqldbError(f"can't {operation}: {message} ({code})")


def _source(item: Mapping[str, Any], kind: str) -> SourceInfo:
    return SourceInfo(
        name=item["name"],
        kind=kind,
        topic=item["topic"],
        key_format=item.get("keyFormat", "KAFKA"),
        value_format=item.get("valueFormat") or item.get("format", ""),
        windowed=bool(item.get("isWindowed")),
    )


def _state(item: Mapping[str, Any]) -> str:
    counts = item.get("statusCount") or {item.get("state", "UNKNOWN"): 1}
    return next(
        (state for state in ("ERROR", "UNRESPONSIVE", "PAUSED") if counts.get(state)), next(iter(counts), "UNKNOWN")
    )


def _description(found: Mapping[str, Any]) -> SourceDescription:
    source = SourceInfo(
        name=found["name"],
        kind=found["type"],
        topic=found["topic"],
        key_format=found["keyFormat"],
        value_format=found["valueFormat"],
        windowed=bool(found.get("windowType")),
    )
    return SourceDescription(
        source=source,
        partitions=int(found.get("partitions", 0)),
        replication=int(found.get("replication", 0)),
        statement=str(found.get("statement", "")),
        read_queries=tuple(query["id"] for query in found.get("readQueries", ())),
        write_queries=tuple(query["id"] for query in found.get("writeQueries", ())),
        statistics=_statistics(found),
    )


def _statistics(found: Mapping[str, Any]) -> Statistics:
    good = _stats(found.get("statisticsMap"), found.get("clusterStatistics"))
    bad = _stats(found.get("errorStatsMap"), found.get("clusterErrorStats"))
    last = max((int(stat["timestamp"]) for stat in good), default=0)
    return Statistics(
        consumed=int(_total(good, "consumer-total-messages")),
        consumed_per_second=_total(good, "consumer-messages-per-sec"),
        produced=int(_total(good, "total-messages")),
        produced_per_second=_total(good, "messages-per-sec"),
        failed=int(sum(stat["value"] for stat in bad if not str(stat["name"]).endswith("per-sec"))),
        last_message=datetime.fromtimestamp(last / 1000, UTC) if last else None,
        late=_count(good, "late-record-drop"),
        let_go=_count(good, "windows-let-go"),
    )


def _stats(own: Mapping[str, Any] | None, cluster: Any) -> list[Mapping[str, Any]]:
    """Return the statistics of all servers: a list or, in later releases, a map by host, with or without the own ones."""
    if isinstance(cluster, Mapping):
        cluster = [stat for host in cluster.values() for stat in host.values()]
    everywhere: list[Mapping[str, Any]] = list(cluster or [])
    known = {(stat["name"], stat["value"], stat["timestamp"]) for stat in everywhere}
    mine = (own or {}).values()
    return everywhere + [stat for stat in mine if (stat["name"], stat["value"], stat["timestamp"]) not in known]


def _count(stats: Iterable[Mapping[str, Any]], name: str) -> int | None:
    found = [stat["value"] for stat in stats if stat["name"] == name]
    return int(sum(found)) if found else None


def _total(stats: Iterable[Mapping[str, Any]], name: str) -> float:
    return float(sum(stat["value"] for stat in stats if stat["name"] == name))
