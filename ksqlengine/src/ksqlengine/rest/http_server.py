"""HTTP/1.1 and HTTP/2 on one port, with TLS or without, as ksqlDB's clients speak them.

ksqlDB's Java client, its migrations tool and others speak HTTP/2 from the first byte ("prior knowledge", RFC 9113, section 3.3);
curl, browsers and simpler clients speak HTTP/1.1. hypercorn tells them apart by that first byte, and with TLS by what
the client asks for (ALPN).
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import signal
import socket
from collections.abc import Callable

from hypercorn.asyncio import serve
from hypercorn.config import Config
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from ksqlengine.rest.access import BasicAuth, ServerAccess
from ksqlengine.server.engine import EngineStartError

_GRACE_SECONDS, _STOP_SECONDS = 10, 600
# Connections without a request: ksqlDB's clients keep them in a pool.
_IDLE_SECONDS = 60
# hypercorn ends a connection after so many requests; push queries of the same connection would end with it.
_UNLIMITED = 2**62
# A statement may be in an address: /ws/query?request=…
_MOST_HEADER_BYTES = 1_048_576
# How long a client that got its answer early may stay silent before the rest of its request is no longer waited for.
_REST_OF_REQUEST_SECONDS = 1.0

logger = logging.getLogger(__name__)


class WholeRequests:
    """Ends an answer only when its request has been read.

    A client may be answered before it has sent its whole request: that there is no such path, that a row is wrong. hypercorn
    (0.18) forgets a stream that was answered, and drops the whole HTTP/2 connection when more of its body comes.
    """

    def __init__(self, application: ASGIApp) -> None:
        """Wrap an application."""
        self._application = application

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass a request on, and read what the application left of it before the answer's end is sent."""
        if scope["type"] != "http":
            await self._application(scope, receive, send)
            return
        is_read = False

        async def noting_receive() -> Message:
            nonlocal is_read
            message = await receive()
            is_read = is_read or message["type"] != "http.request" or not message.get("more_body", False)
            return message

        async def delayed_send(message: Message) -> None:
            if message["type"] == "http.response.body" and not message.get("more_body", False) and not is_read:
                await send({**message, "more_body": True})
                with contextlib.suppress(TimeoutError):
                    while not is_read:
                        await asyncio.wait_for(noting_receive(), _REST_OF_REQUEST_SECONDS)
                await send({"type": "http.response.body", "body": b"", "more_body": False})
            else:
                await send(message)

        await self._application(scope, noting_receive, delayed_send)


def run_http_server(application: ASGIApp, listen: str, on_stop: Callable[[], None], access: ServerAccess) -> None:
    """Serve an application until the process is asked to stop by SIGINT or SIGTERM.

    Args:
        application: an ASGI application with a lifespan.
        listen: ``host:port``; an IPv6 address stands in brackets.
        on_stop: called when the process is asked to stop, before open connections are waited for.
        access: who is let in, and the certificate.

    Raises:
        EngineStartError: the address can't be listened on, or the certificate or the users are of no use.
    """
    access.check(listen)
    # hypercorn closes the descriptor with its server.
    descriptor = _listening(listen).detach()
    config = Config()
    config.bind = [f"fd://{descriptor}"]
    config.errorlog = logging.getLogger("hypercorn")
    config.errorlog.setLevel(logging.WARNING)
    config.graceful_timeout, config.shutdown_timeout = _GRACE_SECONDS, _STOP_SECONDS
    config.keep_alive_timeout, config.keep_alive_max_requests = _IDLE_SECONDS, _UNLIMITED
    config.h11_max_incomplete_size = _MOST_HEADER_BYTES
    config.h2_max_header_list_size = _MOST_HEADER_BYTES
    config.include_server_header = False
    if access.certificate_file:
        config.certfile, config.keyfile = str(access.certificate_file), str(access.key_file)
    asyncio.run(_serve(BasicAuth(application, access.users) if access.users else application, config, on_stop))


async def _serve(application: ASGIApp, config: Config, on_stop: Callable[[], None]) -> None:
    asked = asyncio.Event()
    for number in (signal.SIGINT, signal.SIGTERM):
        asyncio.get_running_loop().add_signal_handler(number, asked.set)

    async def asked_to_stop() -> None:
        await asked.wait()
        on_stop()

    await serve(WholeRequests(application), config, shutdown_trigger=asked_to_stop, mode="asgi")  # type: ignore[arg-type]


def _listening(listen: str) -> socket.socket:
    host, _, port = listen.rpartition(":")
    try:
        address = (host.strip("[]"), int(port))
        family = socket.AF_INET6 if ":" in address[0] else socket.AF_INET
        return socket.create_server(address, family=family, backlog=100)
    except (OSError, ValueError, OverflowError) as error:
        raise EngineStartError(
            f"can't listen on {listen!r}: {error}; give a free host:port of this machine with --listen"
        ) from error
