"""The engine's server process: ksqlDB's REST API over HTTP; ``ksqlengine server`` runs it."""

from __future__ import annotations

import asyncio
import json
import logging
import os
import threading
import time
from collections.abc import Callable, Generator, Mapping
from contextlib import asynccontextmanager
from decimal import Decimal
from typing import Any

# One batch is too small to be worth several threads, and other processes want the cores. Polars reads this when it is loaded.
os.environ.setdefault("POLARS_MAX_THREADS", "1")

import orjson
import uvicorn
from anyio import CancelScope
from anyio.to_thread import current_default_thread_limiter
from starlette.applications import Starlette
from starlette.concurrency import run_in_threadpool
from starlette.requests import Request
from starlette.responses import Response, StreamingResponse
from starlette.routing import Route
from starlette.types import Receive, Scope, Send

from kafkakit.admin import KafkaClientError
from ksqlengine.formats.values import json_bytes
from ksqlengine.language import ast
from ksqlengine.server.engine import Engine, EngineConfig
from ksqlengine.server.print_topic import print_topic
from ksqlengine.server.pull_push import RunningTransientQuery
from ksqlengine.server.session_properties import PROPERTIES, canonical
from ksqlengine.types.errors import BAD_REQUEST, NOT_FOUND, SERVER_ERROR, SERVER_NOT_READY, KsqlError, StatementError

logger = logging.getLogger(__name__)

# Each push query waits in a thread; with more of them than the default of 40 threads, every request would wait for them.
_MOST_THREADS = 400

MEDIA_TYPE = "application/vnd.ksql.v1+json"
ROWS_MEDIA_TYPE = "application/vnd.ksqlapi.delimited.v1"
# ksqlDB's clients compare the number with their own; the word says which engine it is.
VERSION = "7.9.0-heartwatch"
_GRACE_SECONDS = 10


class RowsResponse(StreamingResponse):
    """The rows of a query, whose clients are closed as soon as the answer ends: it may be long until their memory is freed."""

    def __init__(self, lines: Generator[bytes], end: Callable[[], None], media_type: str) -> None:
        """Answer with lines.

        Args:
            lines: the answer.
            end: called when there are no more lines, or when the client has gone away, also before the first one.
            media_type: what the lines are.
        """
        super().__init__(lines, media_type=media_type)
        self._lines, self._end = lines, end

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Send the lines."""
        try:
            await super().__call__(scope, receive, send)
        finally:
            with CancelScope(shield=True):
                await run_in_threadpool(self._close)

    def _close(self) -> None:
        self._end()
        self._lines.close()


class Server:
    """Answers HTTP requests for an engine."""

    def __init__(self, engine: Engine, address: str) -> None:
        """Answer for an engine.

        Args:
            engine: the engine; it is started and stopped with the application.
            address: ``host:port`` where the server listens.
        """
        self._engine = engine
        self._address = address
        self._starting: asyncio.Task[None] | None = None
        self._stopping = False
        self._failure: str | None = None
        self._transient: dict[str, RunningTransientQuery] = {}

    def application(self) -> Starlette:
        """Return the ASGI application."""
        routes = [
            Route("/", self._root),
            Route("/info", self._info),
            Route("/v1/metadata", self._info),
            Route("/healthcheck", self._health),
            Route("/clusterStatus", self._cluster),
            Route("/status", self._statuses),
            Route("/status/{kind}/{name}/{action}", self._status),
            Route("/is_valid_property/{name}", self._is_valid_property),
            Route("/ksql", self._ksql, methods=["POST"]),
            Route("/query", self._query, methods=["POST"]),
            Route("/query-stream", self._query_stream, methods=["POST"]),
            Route("/close-query", self._close_query, methods=["POST"]),
            Route("/inserts-stream", self._inserts_stream, methods=["POST"]),
        ]
        return Starlette(routes=routes, lifespan=self._lifespan)

    @asynccontextmanager
    async def _lifespan(self, _: Starlette) -> Any:
        current_default_thread_limiter().total_tokens = _MOST_THREADS
        self._starting = asyncio.create_task(self._start())
        yield
        for query in list(self._transient.values()):
            query.stop()
        self._stopping = True
        await self._starting
        await run_in_threadpool(self._engine.stop)

    async def _start(self) -> None:
        """Start the engine; while Kafka or the registry is away, try again until the server is stopped."""
        while not self._stopping:
            try:
                await run_in_threadpool(self._engine.start)
            except Exception as error:
                # Kafka or the registry may come later; the health report says what is missing meanwhile.
                self._failure = str(error)
                logger.warning("the engine can't start yet: %s", error)
                await asyncio.sleep(1)
            else:
                self._failure = None
                return

    # ------------------------------------------------------------------------------------------------ state
    async def _root(self, _: Request) -> Response:
        return Response(status_code=307, headers={"Location": "/info"})

    async def _info(self, _: Request) -> Response:
        info = {
            "version": VERSION,
            "kafkaClusterId": await run_in_threadpool(self._engine.resources.kafka.cluster_id),
            "ksqlServiceId": self._engine.config.service_id,
            "serverStatus": "RUNNING" if self._engine.ready else "INITIALIZING",
        }
        return _json({"KsqlServerInfo": info})

    async def _health(self, _: Request) -> Response:
        kafka = await run_in_threadpool(self._kafka_is_well)
        commands = self._engine.commands.failure is None and self._failure is None
        details = {
            "metastore": {"isHealthy": self._engine.ready},
            "kafka": {"isHealthy": kafka},
            "commandRunner": {"isHealthy": commands},
        }
        healthy = self._engine.ready and kafka and commands
        state = "READY" if self._engine.ready else "NOT_READY"
        return _json({"isHealthy": healthy, "details": details, "serverState": state})

    def _kafka_is_well(self) -> bool:
        try:
            return bool(self._engine.resources.kafka.brokers())
        except KafkaClientError:
            return False

    async def _cluster(self, _: Request) -> Response:
        now = round(time.time() * 1000)
        status = {
            "hostAlive": True,
            "lastStatusUpdateMs": now,
            "activeStandbyPerQuery": {},
            "hostStoreLags": {"stateStoreLags": {}, "updateTimeMs": now},
        }
        return _json({"clusterStatus": {self._address: status}})

    async def _statuses(self, _: Request) -> Response:
        found = {name: status["status"] for name, status in self._engine.statuses.items()}
        return _json({"commandStatuses": found})

    async def _status(self, request: Request) -> Response:
        parts = request.path_params
        command_id = f"{parts['kind']}/{parts['name']}/{parts['action']}"
        if command_id not in self._engine.statuses:
            return _error(KsqlError("Command not found", NOT_FOUND))
        return _json(self._engine.statuses[command_id])

    async def _is_valid_property(self, request: Request) -> Response:
        name = request.path_params["name"]
        try:
            check_name(name)
        except StatementError as error:
            return _error(KsqlError(error.message, BAD_REQUEST))
        return _json(True)

    # ------------------------------------------------------------------------------------------------ statements
    async def _ksql(self, request: Request) -> Response:
        return await self._answer(request, self._execute)

    def _execute(self, body: Mapping[str, Any]) -> Any:
        text = body.get("ksql")
        if not isinstance(text, str):
            raise KsqlError("Missing required field 'ksql': it holds the statements", BAD_REQUEST)
        after = body.get("commandSequenceNumber")
        if after is not None and type(after) is not int:
            raise KsqlError(f"Field 'commandSequenceNumber' must be a whole number, not {after!r}", BAD_REQUEST)
        return self._engine.execute(text, _texts(body, "streamsProperties"), _texts(body, "sessionVariables"), after)

    # ------------------------------------------------------------------------------------------------ queries
    async def _query_stream(self, request: Request) -> Response:
        """Answer a SELECT with a header and rows: one JSON value per line, or one JSON array where the client asks for JSON."""
        return await self._stream(request, "sql", "properties", lambda query: _delimited(query, _wants_json(request)))

    async def _query(self, request: Request) -> Response:
        """Answer a SELECT or PRINT in the shape of ksqlDB's older endpoint."""
        return await self._stream(request, "ksql", "streamsProperties", _rows_in_objects)

    async def _stream(
        self,
        request: Request,
        text_field: str,
        properties_field: str,
        shape: Callable[[RunningTransientQuery], Generator[bytes]],
    ) -> Response:
        def prepare(body: Mapping[str, Any]) -> tuple[Generator[bytes], Callable[[], None]]:
            text = body.get(text_field, body.get("ksql"))
            if not isinstance(text, str):
                raise KsqlError(f"Missing required field {text_field!r}: it holds the query", BAD_REQUEST)
            properties = _texts(body, properties_field) or _texts(body, "streamsProperties")
            query = self._engine.transient(text, properties, _texts(body, "sessionVariables"))
            if isinstance(query, ast.PrintTopic):
                stop = threading.Event()
                return print_topic(query, self._engine.config.kafka, self._engine.resources, stop), stop.set
            self._transient[query.query_id] = query
            return shape(query), lambda: self._forget(query)

        try:
            self._check_ready()
            lines, end = await run_in_threadpool(prepare, _body(await request.body()))
        except KsqlError as error:
            return _error(error)
        except Exception as error:
            logger.exception("a query failed")
            return _error(KsqlError(str(error), SERVER_ERROR))
        kind = MEDIA_TYPE if text_field == "ksql" else ROWS_MEDIA_TYPE
        return RowsResponse(lines, end, kind)

    def _forget(self, query: RunningTransientQuery) -> None:
        query.stop()
        self._transient.pop(query.query_id, None)

    async def _close_query(self, request: Request) -> Response:
        def close(body: Mapping[str, Any]) -> Any:
            query = self._transient.get(str(body.get("queryId")))
            if query is None:
                raise KsqlError(f"No query with id {body.get('queryId')}", BAD_REQUEST)
            query.stop()
            return {}

        return await self._answer(request, close)

    async def _inserts_stream(self, request: Request) -> Response:
        """Write rows, one JSON object per line after a first line with the target; answer each with a line."""
        try:
            self._check_ready()
            first, *rows = [line for line in (await request.body()).split(b"\n") if line.strip()]
            target = str(_body(first).get("target", ""))
            name = target[1:-1] if target[:1] == "`" else target.upper()
            answers = [await run_in_threadpool(self._insert, name, number, row) for number, row in enumerate(rows)]
        except ValueError:
            return _error(KsqlError("The first line must be a JSON object with the field 'target'", BAD_REQUEST))
        except KsqlError as error:
            return _error(error)
        return Response(b"".join(orjson.dumps(answer) + b"\n" for answer in answers), media_type=ROWS_MEDIA_TYPE)

    def _insert(self, target: str, number: int, row: bytes) -> dict[str, Any]:
        try:
            self._engine.insert_json(target, _body(row, exact=True))
        except KsqlError as error:
            return {"status": "error", "error_code": error.error_code, "message": error.message, "seq": number}
        except Exception as error:
            # The rows before it are written, and those behind it may be: the client must hear of each one.
            logger.exception("row %d of %s can't be inserted", number, target)
            return {"status": "error", "error_code": SERVER_ERROR, "message": str(error), "seq": number}
        return {"status": "ok", "seq": number}

    def _check_ready(self) -> None:
        if not self._engine.ready:
            reason = f": {self._failure}" if self._failure else ""
            raise KsqlError(f"KSQL is not yet ready to serve requests{reason}", SERVER_NOT_READY)

    async def _answer(self, request: Request, work: Callable[[Mapping[str, Any]], Any]) -> Response:
        try:
            self._check_ready()
            body = _body(await request.body())
            return _json(await run_in_threadpool(work, body))
        except KsqlError as error:
            return _error(error)
        except Exception as error:
            # A client gets every failure in ksqlDB's shape; the log has the rest.
            logger.exception("a request failed")
            return _error(KsqlError(str(error), SERVER_ERROR))


def _wants_json(request: Request) -> bool:
    return "application/json" in request.headers.get("accept", "")


def _delimited(query: RunningTransientQuery, as_array: bool) -> Generator[bytes]:
    """Yield a header and rows, each a JSON value with its line end; `as_array` makes one JSON array of them."""
    header = {
        "queryId": query.query_id,
        "columnNames": [column.name for column in query.columns],
        "columnTypes": [str(column.type) for column in query.columns],
    }
    begin, between, end = (b"[", b",\n", b"]\n") if as_array else (b"", b"\n", b"\n")
    yield begin + json_bytes(header)
    try:
        for rows in query.rows():
            yield b"".join(between + json_bytes(row.columns) for row in rows if not row.tombstone)
    except Exception as error:
        logger.exception("query %s ends", query.query_id)
        yield between + orjson.dumps(KsqlError(str(error), SERVER_ERROR).entity())
    yield end


def _rows_in_objects(query: RunningTransientQuery) -> Generator[bytes]:
    """Yield a JSON array of a header, rows and a final message, each an object of its own."""
    schema = ", ".join(
        f"`{column.name}` {column.type}{' KEY' if column.name in query.keys and not query.push else ''}"
        for column in query.columns
    )
    yield b"[" + orjson.dumps({"header": {"queryId": query.query_id, "schema": schema}})
    try:
        for rows in query.rows():
            yield b"".join(
                b",\n" + json_bytes({"row": {"columns": row.columns} | ({"tombstone": True} if row.tombstone else {})})
                for row in rows
            )
    except Exception as error:
        logger.exception("query %s ends", query.query_id)
        yield b",\n" + orjson.dumps({"errorMessage": KsqlError(str(error), SERVER_ERROR).entity()})
    if query.final_message is not None:
        yield b",\n" + orjson.dumps({"finalMessage": query.final_message})
    yield b"]\n"


def check_name(name: str) -> None:
    """Check that there is a property of this name.

    Raises:
        StatementError: there is none.
    """
    if canonical(name) not in PROPERTIES:
        raise StatementError(f"One or more properties overrides set locally are prohibited by the KSQL server: {name}")


def _body(content: bytes, *, exact: bool = False) -> Mapping[str, Any]:
    """Return a JSON object; `exact` keeps the digits of its fractions, as DECIMAL and text need them."""
    try:
        body = orjson.loads(content)
        if exact:
            body = json.loads(content, parse_float=Decimal)
    except ValueError as error:
        raise KsqlError(f"The request's body is not JSON: {error}", BAD_REQUEST) from error
    if not isinstance(body, dict):
        raise KsqlError("The request's body must be a JSON object", BAD_REQUEST)
    return body


def _texts(body: Mapping[str, Any], field: str) -> dict[str, str]:
    """Return an object of a request's body with its values as text; empty where it isn't given."""
    given = body.get(field)
    if given is None:
        return {}
    if not isinstance(given, dict) or not all(isinstance(value, str | int | float) for value in given.values()):
        raise KsqlError(
            f"Field {field!r} must be a JSON object of names and their values (text, numbers, true or false), not {given!r}",
            BAD_REQUEST,
        )
    return {name: str(value).lower() if isinstance(value, bool) else str(value) for name, value in given.items()}


def _json(value: Any, status: int = 200) -> Response:
    return Response(orjson.dumps(value), status, media_type=MEDIA_TYPE)


def _error(error: KsqlError) -> Response:
    return _json(error.entity(), error.status)


def serve(config: EngineConfig, listen: str) -> None:
    """Run an engine and its REST API until the process is asked to stop.

    Args:
        config: the engine's.
        listen: ``host:port``.

    Raises:
        EngineStartError: another process uses the data folder.
    """
    host, _, port = listen.rpartition(":")
    uvicorn.run(
        Server(Engine(config), listen).application(),
        host=host,
        port=int(port),
        log_level="warning",
        timeout_graceful_shutdown=_GRACE_SECONDS,
        lifespan="on",
    )
