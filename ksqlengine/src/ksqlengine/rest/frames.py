"""Lines of an answer over HTTP/2, each in a frame of its own.

ksqlDB writes each row and each acknowledgement by itself, and clients rely on it: npm's ksqldb-client and ksqldb-js, and PyPI's
ksql-python-ng, parse each piece of an answer as one JSON value. Over HTTP/1.1 no client can, since pieces have no bounds there.
"""

from __future__ import annotations

import asyncio

from starlette.types import Message, Scope, Send

MOST_LINES = 1_000
"""Of a finished answer, messages of more lines are sent whole: a frame costs some 0.1 ms, a line in a large frame nothing."""


def line_by_line(scope: Scope, send: Send, most: int | None = None) -> Send:
    """Return what sends an answer's lines in frames of their own, where the connection has frames.

    Args:
        scope: the request's.
        send: sends a message.
        most: messages of more lines are sent as they are; None splits them too.
    """
    if scope.get("http_version") != "2":
        return send

    async def send_lines(message: Message) -> None:
        lines = message.get("body", b"").splitlines(keepends=True)
        if len(lines) < 2 or (most is not None and len(lines) > most):
            await send(message)
            return
        for line in lines[:-1]:
            await send({**message, "body": line, "more_body": True})
            # hypercorn (0.18) joins what is there when its sending task has its turn.
            await asyncio.sleep(0)
        await send({**message, "body": lines[-1]})

    return send_lines
