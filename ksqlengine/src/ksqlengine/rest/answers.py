"""Rows of a query as ksqlDB's media types write them.

Each row is written with its own line end as soon as it is there: who reads line by line has it at once.

Source: ksqlDB's response writers of ``/query-stream`` and ``/query``.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Generator, Iterable, Sequence
from typing import Protocol

import orjson
from anyio import CancelScope
from starlette.concurrency import run_in_threadpool
from starlette.responses import StreamingResponse
from starlette.types import Receive, Scope, Send

from ksqlengine.formats.values import json_bytes
from ksqlengine.plan.steps import Column
from ksqlengine.rest.frames import MOST_LINES, line_by_line
from ksqlengine.server.pull_push import Row
from ksqlengine.types.errors import SERVER_ERROR, KsqlError

logger = logging.getLogger(__name__)

KSQL_JSON = "application/vnd.ksql.v1+json"
DELIMITED = "application/vnd.ksqlapi.delimited.v1"
JSON = "application/json"


class RunningQuery(Protocol):
    """What an answer shows of a query."""

    query_id: str
    columns: tuple[Column, ...]
    keys: frozenset[str]
    push: bool
    final_message: str | None

    @property
    def ends_with_message(self) -> bool:
        """Whether the answer says at its end why it ends, as that of a push query does."""

    def rows(self) -> Iterable[Sequence[Row]]:
        """Yield rows as they come; an empty list now and then while nothing comes."""

    def stop(self) -> None:
        """End the query."""


def accepted(accept: str | None, offered: Sequence[str]) -> str | None:
    """Return the media type that a client likes best.

    Args:
        accept: the request's header ``Accept``; none accepts everything.
        offered: what the server can write, its favourite first.

    Returns:
        One of the offered types; None where the client takes none of them.
    """
    if accept is None:
        return offered[0]
    wanted: list[tuple[float, str]] = []
    for part in accept.split(","):
        kind, *parameters = (piece.strip().lower() for piece in part.split(";"))
        quality = next((piece[2:] for piece in parameters if piece.startswith("q=")), "1")
        try:
            wanted.append((float(quality), kind))
        except ValueError:
            continue
    for weight, kind in sorted(wanted, key=lambda pair: -pair[0]):
        found = next((offer for offer in offered if _fits(offer, kind)), None)
        if found is not None and weight > 0:
            return found
    return None


def _fits(offer: str, kind: str) -> bool:
    return kind in ("*/*", offer) or (kind.endswith("/*") and offer.startswith(kind[:-1]))


def delimited(query: RunningQuery) -> Generator[bytes]:
    """Yield a header and rows, each a JSON value on a line of its own."""
    yield json_bytes(_header(query)) + b"\n"
    try:
        for rows in query.rows():
            yield b"".join(json_bytes(row.columns) + b"\n" for row in rows if not row.tombstone)
    except Exception as error:
        yield orjson.dumps(_failure(query, error)) + b"\n"


def json_array(query: RunningQuery) -> Generator[bytes]:
    """Yield one JSON array of a header and rows."""
    yield b"[" + json_bytes(_header(query))
    try:
        for rows in query.rows():
            yield b"".join(b"," + json_bytes(row.columns) for row in rows if not row.tombstone)
    except Exception as error:
        yield b"," + orjson.dumps(_failure(query, error))
    yield b"]"


def rows_in_objects(query: RunningQuery) -> Generator[bytes]:
    """Yield a JSON array of a header, rows and, of a push query, a final message, each an object of its own.

    A push query's lines end with a comma, also before the next row is known; a final message closes the array.
    """
    header = orjson.dumps({"header": {"queryId": query.query_id, "schema": _schema(query)}})
    comes_after, comes_before = (b",\n", b"") if query.ends_with_message else (b"", b",\n")
    yield b"[" + header + comes_after
    failed = False
    try:
        for rows in query.rows():
            yield b"".join(comes_before + json_bytes(_row_object(row)) + comes_after for row in rows)
    except Exception as error:
        failed = True
        yield comes_before + orjson.dumps({"errorMessage": _failure(query, error)})
    if query.ends_with_message and not failed:
        yield orjson.dumps({"finalMessage": query.final_message or "Query Completed"})
    yield b"]"


def websocket_texts(query: RunningQuery, schema: object) -> Generator[str]:
    """Yield the messages of ``/ws/query``: the schema, then each row as an object.

    Args:
        query: the query.
        schema: its columns as field entities.
    """
    yield orjson.dumps(schema).decode()
    for rows in query.rows():
        for row in rows:
            yield json_bytes(_row_object(row)).decode()
        if not rows:
            yield ""
    if query.ends_with_message:
        yield orjson.dumps({"finalMessage": query.final_message or "Query Completed"}).decode()


ANSWERS: dict[str, Callable[[RunningQuery], Generator[bytes]]] = {
    DELIMITED: delimited,
    JSON: json_array,
    KSQL_JSON: rows_in_objects,
}
"""Writer of each media type of queries."""


def _header(query: RunningQuery) -> dict[str, object]:
    return {
        "queryId": query.query_id,
        "columnNames": [column.name for column in query.columns],
        "columnTypes": [str(column.type) for column in query.columns],
    }


def _schema(query: RunningQuery) -> str:
    return ", ".join(
        f"`{column.name}` {column.type}{' KEY' if column.name in query.keys and not query.push else ''}"
        for column in query.columns
    )


def _row_object(row: Row) -> dict[str, object]:
    return {"row": {"columns": row.columns} | ({"tombstone": True} if row.tombstone else {})}


def _failure(query: RunningQuery, error: Exception) -> dict[str, object]:
    logger.error("query %s ends", query.query_id, exc_info=error)
    return KsqlError(str(error), SERVER_ERROR).entity()


class RowsResponse(StreamingResponse):
    """The rows of a query, whose clients are closed as soon as the answer ends: it may be long until their memory is freed."""

    def __init__(
        self, lines: Generator[bytes], end: Callable[[], None], media_type: str, *, goes_on: bool = False
    ) -> None:
        """Answer with lines.

        Args:
            lines: the answer.
            end: called when there are no more lines, or when the client has gone away, also before the first one.
            media_type: what the lines are.
            goes_on: it is a push query's: each line has a frame of its own, however many come at once.
        """
        super().__init__(lines, media_type=media_type)
        self._lines, self._end = lines, end
        self._most_lines = None if goes_on else MOST_LINES

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Send the lines."""
        try:
            await super().__call__(scope, receive, line_by_line(scope, send, self._most_lines))
        finally:
            with CancelScope(shield=True):
                await run_in_threadpool(self._close)

    def _close(self) -> None:
        self._end()
        self._lines.close()
