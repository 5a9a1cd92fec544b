"""The engine's server process: ksqlDB's REST API over HTTP.

Run as ``python -m heartwatch.engine.server --listen 127.0.0.1:8088 --bootstrap-servers … --registry-url … --service-id … --data-dir …``.
"""

from __future__ import annotations

import argparse
import asyncio
import logging
import os
import time
from collections.abc import Callable, Mapping
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

# One batch is too small to be worth several threads, and other processes want the cores. Polars reads this when it is loaded.
os.environ.setdefault("POLARS_MAX_THREADS", "1")

import orjson
import uvicorn
from starlette.applications import Starlette
from starlette.concurrency import run_in_threadpool
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from heartwatch.engine.errors import BAD_REQUEST, NOT_FOUND, SERVER_ERROR, SERVER_NOT_READY, KsqlError, StatementError
from heartwatch.engine.options import PROPERTIES, canonical, with_changes
from heartwatch.engine.session import Engine, EngineConfig
from heartwatch.kafka import KafkaClientError
from heartwatch.registry import RegistryError
from heartwatch.settings import KafkaSettings, RegistrySettings

logger = logging.getLogger(__name__)

MEDIA_TYPE = "application/vnd.ksql.v1+json"
# ksqlDB's clients compare the number with their own; the word tells which engine it is.
VERSION = "7.9.0-heartwatch"
_GRACE_SECONDS = 10


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
        self._failure: str | None = None

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
        ]
        return Starlette(routes=routes, lifespan=self._lifespan)

    @asynccontextmanager
    async def _lifespan(self, _: Starlette) -> Any:
        self._starting = asyncio.create_task(self._start())
        yield
        await self._starting
        await run_in_threadpool(self._engine.stop)

    async def _start(self) -> None:
        """Start the engine; while Kafka or the registry is away, try again."""
        while True:
            try:
                await run_in_threadpool(self._engine.start)
            except (KafkaClientError, RegistryError, TimeoutError) as error:
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
        return self._engine.execute(
            text, body.get("streamsProperties"), body.get("sessionVariables"), body.get("commandSequenceNumber")
        )

    async def _answer(self, request: Request, work: Callable[[Mapping[str, Any]], Any]) -> Response:
        try:
            if not self._engine.ready:
                reason = f": {self._failure}" if self._failure else ""
                raise KsqlError(f"KSQL is not yet ready to serve requests{reason}", SERVER_NOT_READY)
            body = _body(await request.body())
            return _json(await run_in_threadpool(work, body))
        except KsqlError as error:
            return _error(error)
        except Exception as error:
            # A client gets every failure in ksqlDB's shape; the log has the rest.
            logger.exception("a request failed")
            return _error(KsqlError(str(error), SERVER_ERROR))


def check_name(name: str) -> None:
    """Check that there is a property of this name.

    Raises:
        StatementError: there is none.
    """
    if canonical(name) not in PROPERTIES:
        raise StatementError(f"One or more properties overrides set locally are prohibited by the KSQL server: {name}")


def _body(content: bytes) -> Mapping[str, Any]:
    try:
        body = orjson.loads(content)
    except orjson.JSONDecodeError as error:
        raise KsqlError(f"The request's body is not JSON: {error}", BAD_REQUEST) from error
    if not isinstance(body, dict):
        raise KsqlError("The request's body must be a JSON object", BAD_REQUEST)
    return body


def _json(value: Any, status: int = 200) -> Response:
    return Response(orjson.dumps(value), status, media_type=MEDIA_TYPE)


def _error(error: KsqlError) -> Response:
    return _json(error.entity(), error.status)


def main(arguments: list[str] | None = None) -> None:
    """Run the server until it is told to stop."""
    parser = argparse.ArgumentParser(prog="heartwatch.engine.server", description="The embedded KSQL engine.")
    parser.add_argument("--listen", default="127.0.0.1:8088", help="host:port")
    parser.add_argument("--bootstrap-servers", required=True, help="Kafka brokers, host:port with commas between")
    parser.add_argument("--registry-url", required=True, help="schema registry (Confluent's API)")
    parser.add_argument("--service-id", default="default_", help="processes with the same one share the work")
    parser.add_argument("--data-dir", type=Path, required=True, help="folder of this process")
    parser.add_argument(
        "--property", action="append", default=[], metavar="NAME=VALUE", help="default of a session property"
    )
    parser.add_argument("--log-level", default="INFO", help="DEBUG, INFO, WARNING or ERROR")
    options = parser.parse_args(arguments)
    logging.getLogger("httpx").setLevel(logging.WARNING)
    logging.basicConfig(level=options.log_level.upper(), format="%(asctime)s %(levelname)s %(name)s: %(message)s")
    given = dict(one.partition("=")[::2] for one in options.property)
    config = EngineConfig(
        kafka=KafkaSettings(bootstrap_servers=options.bootstrap_servers),
        registry=RegistrySettings(url=options.registry_url),
        service_id=options.service_id,
        data_dir=options.data_dir,
        properties=with_changes({}, given),
    )
    host, _, port = options.listen.rpartition(":")
    application = Server(Engine(config), options.listen).application()
    uvicorn.run(
        application,
        host=host,
        port=int(port),
        log_level="warning",
        timeout_graceful_shutdown=_GRACE_SECONDS,
        lifespan="on",
    )


if __name__ == "__main__":
    main()
