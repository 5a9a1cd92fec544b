"""``/inserts-stream``: rows that a client sends while it reads what became of those before.

The request's first line names the target, each further line is a row as a JSON object; the answer has an acknowledgement for each
row in order. The first row that can't be written ends the answer.
"""

from __future__ import annotations

import asyncio
import json
import logging
from collections.abc import AsyncIterator, Sequence
from decimal import Decimal
from typing import Any

import orjson
from starlette.concurrency import run_in_threadpool
from starlette.responses import Response
from starlette.types import Receive, Scope, Send

from ksqlengine.rest.answers import JSON
from ksqlengine.rest.bodies import error_response, json_object
from ksqlengine.rest.frames import line_by_line
from ksqlengine.server.engine import Engine
from ksqlengine.types.errors import BAD_REQUEST, SERVER_ERROR, KsqlError

logger = logging.getLogger(__name__)

_END: None = None


class InsertsResponse(Response):
    """Writes rows as they come, and acknowledges each."""

    def __init__(self, engine: Engine, media_type: str) -> None:
        """Answer for an engine.

        Args:
            engine: writes the rows.
            media_type: delimited, or one JSON array.
        """
        super().__init__(media_type=media_type)
        self._engine = engine
        self._as_array = media_type == JSON

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Read the request and answer it.

        The answers wait for a slow client in a list of their own: reading goes on, because on one HTTP/2 connection the client's
        word that it can take more is among its rows.
        """
        lines = _line_groups(receive)
        try:
            first = await anext(lines, [b""])
            target = str(json_object(first[0], required="target")["target"])
            source = await run_in_threadpool(self._engine.insertable, target)
        except KsqlError as error:
            await error_response(error)(scope, receive, send)
            return
        await send({"type": "http.response.start", "status": 200, "headers": self._headers_without_length()})
        answers: asyncio.Queue[list[dict[str, Any]] | None] = asyncio.Queue()
        sender = asyncio.create_task(self._send(answers, line_by_line(scope, send)))
        try:
            number = 0
            group = first[1:]
            while True:
                found = await run_in_threadpool(self._insert, source, number, group)
                number += len(group)
                answers.put_nowait(found)
                if any(answer["status"] == "error" for answer in found):
                    break
                following = await anext(lines, _END)
                if following is None:
                    break
                group = following
            answers.put_nowait(_END)
            await sender
        finally:
            sender.cancel()

    def _headers_without_length(self) -> list[tuple[bytes, bytes]]:
        """Return the answer's headers; its length isn't known."""
        return [(name, value) for name, value in self.raw_headers if name != b"content-length"]

    async def _send(self, answers: asyncio.Queue[list[dict[str, Any]] | None], send: Send) -> None:
        sent = 0
        # Also before the first row: the client waits for the answer's status.
        await send({"type": "http.response.body", "body": b"[" if self._as_array else b"", "more_body": True})
        while (found := await answers.get()) is not None:
            texts = [orjson.dumps(answer) for answer in found]
            if self._as_array:
                text = b"".join((b"," if sent + place else b"") + text for place, text in enumerate(texts))
            else:
                text = b"".join(text + b"\n" for text in texts)
            sent += len(found)
            await send({"type": "http.response.body", "body": text, "more_body": True})
        await send({"type": "http.response.body", "body": b"]" if self._as_array else b"", "more_body": False})

    def _insert(self, source: Any, number: int, rows: Sequence[bytes]) -> list[dict[str, Any]]:
        """Write rows; return the answer to each, up to the first that can't be written."""
        values, failure = [], None
        for row in rows:
            try:
                values.append(_row(row))
            except KsqlError as error:
                failure = error
                break
        try:
            written = self._engine.insert_objects(source, values)
            failure = written.error or failure
            count = written.count
        except Exception as error:
            # Those before it are written, and these may be: the client must hear of each.
            logger.exception("rows from %d on can't be inserted into %s", number, source.name)
            count, failure = 0, KsqlError(str(error), SERVER_ERROR)
        answers: list[dict[str, Any]] = [{"status": "ok", "seq": number + place} for place in range(count)]
        if failure is not None:
            refused = {"@type": "InsertError", "status": "error", "seq": number + count}
            answers.append({**refused, "message": failure.message, "error_code": failure.error_code})
        return answers


def _row(line: bytes) -> dict[str, Any]:
    """Return a row; the digits of its fractions are kept, as DECIMAL and text need them."""
    try:
        found = json.loads(line, parse_float=Decimal)
    except ValueError:
        found = None
    if not isinstance(found, dict):
        raise KsqlError("Invalid JSON in inserts stream", BAD_REQUEST)
    return found


async def _line_groups(receive: Receive) -> AsyncIterator[list[bytes]]:
    """Yield the lines of a request's body as they are complete, those that came together in one list."""
    left = b""
    while True:
        message = await receive()
        if message["type"] != "http.request":
            return
        more = message.get("more_body", False)
        *lines, left = (left + message.get("body", b"")).split(b"\n")
        if not more:
            lines.append(left)
        complete = [line for line in lines if line.strip()]
        if complete:
            yield complete
        if not more:
            return
