"""The engine's server process: ksqlDB's REST API over HTTP; ``ksqlengine server`` runs it."""

from __future__ import annotations

import asyncio
import logging
import os
import threading
import time
from collections.abc import Callable, Generator, Mapping
from contextlib import asynccontextmanager
from typing import Any

# One batch is too small to be worth several threads, and other processes want the cores. Polars reads this when it is loaded.
os.environ.setdefault("POLARS_MAX_THREADS", "1")

from anyio.to_thread import current_default_thread_limiter
from starlette.applications import Starlette
from starlette.concurrency import run_in_threadpool
from starlette.requests import Request
from starlette.responses import PlainTextResponse, Response
from starlette.routing import Route, WebSocketRoute
from starlette.websockets import WebSocket

from kafkakit.admin import KafkaClientError
from ksqlengine.language import ast
from ksqlengine.rest.access import ServerAccess
from ksqlengine.rest.answers import ANSWERS, DELIMITED, JSON, KSQL_JSON, RowsResponse, accepted
from ksqlengine.rest.bodies import error_response, json_object, json_response, texts
from ksqlengine.rest.http_server import run_http_server
from ksqlengine.rest.inserts import InsertsResponse
from ksqlengine.rest.websocket import answer_websocket
from ksqlengine.server.engine import Engine, EngineConfig
from ksqlengine.server.print_topic import print_topic
from ksqlengine.server.pull_push import RunningTransientQuery
from ksqlengine.server.session_properties import check_override
from ksqlengine.types.errors import BAD_REQUEST, HTTP2_ONLY, NOT_FOUND, SERVER_ERROR, SERVER_NOT_READY, KsqlError

logger = logging.getLogger(__name__)

# Each push query waits in a thread; with more of them than the default of 40 threads, every request would wait for them.
_MOST_THREADS = 400

# The release of ksqlDB whose answers the engine gives: clients choose by it what they may ask for.
VERSION = "8.2.0"


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
        self._printing: set[threading.Event] = set()

    def application(self) -> Starlette:
        """Return the ASGI application."""
        routes = [
            Route("/", self._root),
            Route("/info", self._info),
            Route("/v1/metadata", self._metadata),
            Route("/v1/metadata/id", self._metadata_id),
            Route("/chc/live", self._alive),
            Route("/chc/ready", self._alive),
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
            WebSocketRoute("/ws/query", self._websocket),
        ]
        # As ksqlDB, also where a path is asked for with another method.
        missing: Mapping[Any, Any] = {404: _not_found, 405: _not_found}
        return Starlette(routes=routes, lifespan=self._lifespan, exception_handlers=missing)

    def stop_queries(self) -> None:
        """End the queries of clients, which would never end by themselves."""
        for query in list(self._transient.values()):
            query.stop()
        for stop in list(self._printing):
            stop.set()

    @asynccontextmanager
    async def _lifespan(self, _: Starlette) -> Any:
        current_default_thread_limiter().total_tokens = _MOST_THREADS
        self._starting = asyncio.create_task(self._start())
        yield
        self.stop_queries()
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
        return json_response({"KsqlServerInfo": info})

    async def _metadata(self, _: Request) -> Response:
        return json_response({"version": VERSION, "clusterId": await self._cluster_id()})

    async def _metadata_id(self, _: Request) -> Response:
        return json_response(await self._cluster_id())

    async def _cluster_id(self) -> dict[str, Any]:
        kafka = await run_in_threadpool(self._engine.resources.kafka.cluster_id)
        clusters = {"kafka-cluster": kafka, "ksql-cluster": self._engine.config.service_id}
        return {"scope": {"path": [], "clusters": clusters}, "id": ""}

    async def _alive(self, _: Request) -> Response:
        return json_response({})

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
        return json_response({"isHealthy": healthy, "details": details, "serverState": state})

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
        return json_response({"clusterStatus": {self._address: status}})

    async def _statuses(self, _: Request) -> Response:
        found = {name: status["status"] for name, status in self._engine.statuses.items()}
        return json_response({"commandStatuses": found})

    async def _status(self, request: Request) -> Response:
        parts = request.path_params
        command_id = f"{parts['kind']}/{parts['name']}/{parts['action']}"
        if command_id not in self._engine.statuses:
            return error_response(KsqlError("Command not found", NOT_FOUND))
        return json_response(self._engine.statuses[command_id])

    async def _is_valid_property(self, request: Request) -> Response:
        try:
            check_override(request.path_params["name"])
        except KsqlError as error:
            return error_response(error)
        return json_response(True)

    # ------------------------------------------------------------------------------------------------ statements
    async def _ksql(self, request: Request) -> Response:
        return await self._answer(request, self._execute)

    def _execute(self, body: Mapping[str, Any]) -> Any:
        text = body.get("ksql")
        if text is not None and not isinstance(text, str):
            raise KsqlError(f"Field 'ksql' must be a text of statements, not {text!r}", BAD_REQUEST)
        after = body.get("commandSequenceNumber")
        if after is not None and type(after) is not int:
            raise KsqlError(f"Field 'commandSequenceNumber' must be a whole number, not {after!r}", BAD_REQUEST)
        return self._engine.execute(
            text or "", texts(body, "streamsProperties"), texts(body, "sessionVariables"), after
        )

    # ------------------------------------------------------------------------------------------------ queries
    async def _query_stream(self, request: Request) -> Response:
        """Answer a SELECT or PRINT in the media type that the client accepts: delimited where it takes any."""
        kind = accepted(request.headers.get("accept"), (DELIMITED, JSON, KSQL_JSON))
        return await self._stream(request, kind, "sql", "properties")

    async def _query(self, request: Request) -> Response:
        """Answer a SELECT or PRINT at ksqlDB's older endpoint, which has another default and takes JSON for its own JSON."""
        header = request.headers.get("accept")
        kind = KSQL_JSON if header is None else accepted(header, (DELIMITED, KSQL_JSON, JSON))
        return await self._stream(request, KSQL_JSON if kind == JSON else kind, "ksql", "streamsProperties")

    async def _stream(self, request: Request, kind: str | None, text_field: str, properties_field: str) -> Response:
        if kind is None:
            return _not_found()

        def prepare(body: Mapping[str, Any]) -> Response:
            text = _query_text(body, text_field)
            query = self._engine.transient(text, texts(body, properties_field), texts(body, "sessionVariables"))
            if isinstance(query, ast.PrintTopic):
                return self._printed(query, kind, is_old=text_field == "ksql", version=request.scope["http_version"])
            self._transient[query.query_id] = query
            return RowsResponse(ANSWERS[kind](query), lambda: self._forget(query), kind, goes_on=query.push)

        try:
            self._check_ready()
            return await run_in_threadpool(prepare, json_object(await request.body()))
        except KsqlError as error:
            return error_response(error)
        except Exception as error:
            logger.exception("a query failed")
            return error_response(KsqlError(str(error), SERVER_ERROR))

    def _printed(self, statement: ast.PrintTopic, kind: str, *, is_old: bool, version: str) -> Response:
        """Answer PRINT: lines of text; the formats' lines are only shown by the older endpoint, which HTTP/2 doesn't have."""
        if is_old and version == "2":
            return Response(status_code=405, media_type=JSON)
        if not is_old and kind != DELIMITED:
            return Response(status_code=406)
        lines, end = self._print_lines(statement, with_formats=is_old)
        return RowsResponse(lines, end, JSON if is_old else DELIMITED)

    def _print_lines(
        self, statement: ast.PrintTopic, *, with_formats: bool
    ) -> tuple[Generator[bytes], Callable[[], None]]:
        """Return the lines of a PRINT, and what ends it."""
        stop = threading.Event()
        lines = print_topic(
            statement, self._engine.config.kafka, self._engine.resources, stop, with_formats=with_formats
        )
        self._printing.add(stop)

        def end() -> None:
            stop.set()
            self._printing.discard(stop)

        return lines, end

    def _forget(self, query: RunningTransientQuery) -> None:
        query.stop()
        self._transient.pop(query.query_id, None)

    async def _websocket(self, socket: WebSocket) -> None:
        """Answer a SELECT or PRINT that stands in the address, as ksqlDB's older command lines ask."""

        def prepare(body: Mapping[str, Any]) -> tuple[RunningTransientQuery | Generator[bytes], Callable[[], None]]:
            self._check_ready()
            properties, variables = texts(body, "streamsProperties"), texts(body, "sessionVariables")
            query = self._engine.transient(_query_text(body, "ksql"), properties, variables)
            if isinstance(query, ast.PrintTopic):
                return self._print_lines(query, with_formats=False)
            self._transient[query.query_id] = query
            return query, lambda: self._forget(query)

        await answer_websocket(socket, prepare)

    async def _close_query(self, request: Request) -> Response:
        def close(body: Mapping[str, Any]) -> Any:
            # Taken out at once: the answer ends a moment later, and a query is closed once.
            query = self._transient.pop(str(body["queryId"]), None)
            if query is None:
                raise KsqlError(f"No query with id {body['queryId']}", BAD_REQUEST)
            query.stop()

        answer = await self._answer(request, close, required="queryId")
        return Response() if answer.status_code == 200 else answer

    async def _inserts_stream(self, request: Request) -> Response:
        """Write rows while they come, and acknowledge each."""
        kind = accepted(request.headers.get("accept"), (DELIMITED, JSON))
        if kind is None:
            return _not_found()
        try:
            self._check_ready()
            if request.scope["http_version"] != "2":
                raise KsqlError("This endpoint is only available when using HTTP2", HTTP2_ONLY)
        except KsqlError as error:
            return error_response(error)
        return InsertsResponse(self._engine, kind)

    def _check_ready(self) -> None:
        if not self._engine.ready:
            reason = f": {self._failure}" if self._failure else ""
            raise KsqlError(f"KSQL is not yet ready to serve requests{reason}", SERVER_NOT_READY)

    async def _answer(
        self, request: Request, work: Callable[[Mapping[str, Any]], Any], required: str | None = None
    ) -> Response:
        if accepted(request.headers.get("accept"), (KSQL_JSON, JSON)) is None:
            return _not_found()
        try:
            self._check_ready()
            body = json_object(await request.body(), required)
            return json_response(await run_in_threadpool(work, body))
        except KsqlError as error:
            return error_response(error)
        except Exception as error:
            # A client gets every failure in ksqlDB's shape; the log has the rest.
            logger.exception("a request failed")
            return error_response(KsqlError(str(error), SERVER_ERROR))


def _not_found(*_: Any) -> Response:
    return PlainTextResponse("Not Found", 404)


def _query_text(body: Mapping[str, Any], field: str) -> str:
    """Return a request's query.

    Raises:
        KsqlError: there is none.
    """
    if field == "sql" and field not in body:
        raise KsqlError("Invalid JSON in request: Missing required creator property 'sql' (index 0)", BAD_REQUEST)
    text = body.get(field)
    if field == "ksql" and not text:
        raise KsqlError('"ksql" field must be populated', BAD_REQUEST)
    if not isinstance(text, str):
        raise KsqlError(f"Invalid JSON in request: field {field!r} must be a text, not {text!r}", BAD_REQUEST)
    return text


def serve(config: EngineConfig, listen: str, access: ServerAccess | None = None) -> None:
    """Run an engine and its REST API until the process is asked to stop.

    Args:
        config: the engine's.
        listen: ``host:port``.
        access: who is let in, and the certificate; None: everybody, in clear text.

    Raises:
        EngineStartError: another process uses the data folder, or the address can't be listened on.
    """
    server = Server(Engine(config), listen)
    run_http_server(server.application(), listen, server.stop_queries, access or ServerAccess())
