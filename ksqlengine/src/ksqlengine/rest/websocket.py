"""``/ws/query``: a query in the address, its rows as text messages.

The first message is the schema, each further one a row; of PRINT each message is a line. The last one is ``{"error": …}`` with
the reason of the close: "done" where the query has ended.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Generator, Mapping
from typing import Any

import orjson
from starlette.concurrency import iterate_in_threadpool, run_in_threadpool
from starlette.websockets import WebSocket, WebSocketDisconnect

from ksqlengine.rest.answers import RunningQuery, websocket_texts
from ksqlengine.rest.bodies import json_object
from ksqlengine.server.responses import fields_of
from ksqlengine.types.errors import KsqlError

logger = logging.getLogger(__name__)

_NORMAL, _INVALID, _FAILED = 1000, 1003, 1011
_MOST_REASON_BYTES = 123  # RFC 6455, section 5.5: a control frame holds 125 bytes, two of which are the code

Prepare = Callable[[Mapping[str, Any]], tuple[RunningQuery | Generator[bytes], Callable[[], None]]]


async def answer_websocket(socket: WebSocket, prepare: Prepare) -> None:
    """Answer one connection.

    Args:
        socket: the connection.
        prepare: returns the query, or PRINT's lines, and what is called at the end.
    """
    await socket.accept()
    try:
        body = _request(socket)
        query, end = await run_in_threadpool(prepare, body)
    except KsqlError as error:
        await _close(socket, _INVALID, error.message)
        return
    sending = asyncio.ensure_future(_send(socket, _lines(query)))
    leaving = asyncio.ensure_future(_left(socket))
    try:
        await asyncio.wait({sending, leaving}, return_when=asyncio.FIRST_COMPLETED)
        await run_in_threadpool(end)
        if sending.done():
            failure = sending.exception()
            if failure is not None:
                logger.error("a query over a websocket ends", exc_info=failure)
            await _close(socket, _FAILED if failure else _NORMAL, str(failure) if failure else "done")
        else:
            # The query notices that it is stopped within a poll.
            await asyncio.wait({sending})
            sending.exception()
    finally:
        leaving.cancel()


def _request(socket: WebSocket) -> Mapping[str, Any]:
    text = socket.query_params.get("request")
    if not text:
        raise KsqlError("Error parsing request: missing request parameter")
    body = json_object(text.encode())
    if not body.get("ksql"):
        raise KsqlError('Error parsing request: "ksql" field of "request" must be populated')
    return body


def _lines(query: RunningQuery | Generator[bytes]) -> Generator[str]:
    if isinstance(query, Generator):
        for line in query:
            yield from (orjson.dumps(text).decode() for text in line.decode().splitlines()) if line else ("",)
    else:
        yield from websocket_texts(query, fields_of(query.columns))


async def _send(socket: WebSocket, lines: Generator[str]) -> None:
    async for line in iterate_in_threadpool(lines):
        if line:
            await socket.send_text(line)


async def _left(socket: WebSocket) -> None:
    """Return when the client has gone."""
    try:
        while True:
            await socket.receive_text()
    except WebSocketDisconnect:
        return


async def _close(socket: WebSocket, code: int, reason: str) -> None:
    await socket.send_text(orjson.dumps({"error": reason}).decode())
    encoded = reason.encode()
    if len(encoded) > _MOST_REASON_BYTES:
        reason = encoded[: _MOST_REASON_BYTES - 3].decode(errors="ignore") + "..."
    await socket.close(code, reason)
