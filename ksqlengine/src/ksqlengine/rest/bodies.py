"""Bodies of requests and answers: JSON objects, and errors in ksqlDB's shape."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import orjson
from starlette.responses import Response

from ksqlengine.rest.answers import JSON
from ksqlengine.types.errors import BAD_REQUEST, KsqlError


def json_object(content: bytes, required: str | None = None) -> Mapping[str, Any]:
    """Return a request's JSON object.

    Args:
        content: the request's body.
        required: a field that must be there.

    Raises:
        KsqlError: it is something else, or the field is missing.
    """
    try:
        body = orjson.loads(content)
    except ValueError as error:
        raise KsqlError(f"Invalid JSON in request: {error}", BAD_REQUEST) from error
    if not isinstance(body, dict):
        raise KsqlError("Invalid JSON in request: it must be an object", BAD_REQUEST)
    if required is not None and required not in body:
        raise KsqlError(
            f"Invalid JSON in request: Missing required creator property {required!r} (index 0)", BAD_REQUEST
        )
    return body


def texts(body: Mapping[str, Any], field: str) -> dict[str, str]:
    """Return an object of a request's body with its values as text; empty where it isn't given.

    Raises:
        KsqlError: it is something else.
    """
    given = body.get(field)
    if given is None:
        return {}
    if not isinstance(given, dict) or not all(isinstance(value, str | int | float) for value in given.values()):
        raise KsqlError(
            f"Field {field!r} must be a JSON object of names and their values (text, numbers, true or false), not {given!r}",
            BAD_REQUEST,
        )
    return {name: str(value).lower() if isinstance(value, bool) else str(value) for name, value in given.items()}


def json_response(value: Any, status: int = 200) -> Response:
    """Return an answer."""
    return Response(orjson.dumps(value), status, media_type=JSON)


def error_response(error: KsqlError) -> Response:
    """Return a refusal."""
    return json_response(error.entity(), error.status)
