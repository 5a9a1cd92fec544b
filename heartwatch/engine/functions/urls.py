"""URL functions."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any
from urllib.parse import SplitResult, quote_plus, unquote, unquote_plus, urlsplit

from heartwatch.engine.functions.registry import row_by_row
from heartwatch.engine.types import INTEGER, STRING, SqlType

_CATEGORY = "URL"


def _part(read: Callable[[SplitResult], Any]) -> Callable[[str], Any]:
    def extract(url: str) -> Any:
        if any(character in url for character in ' "<>\\^`{|}'):  # java.net.URI refuses these
            return None
        return read(urlsplit(url))

    return extract


def _decoded(text: str) -> str | None:
    return unquote(text) if text else None


_PARTS: tuple[tuple[str, str, SqlType, Callable[[SplitResult], Any]], ...] = (
    ("FRAGMENT", "What follows #.", STRING, lambda url: _decoded(url.fragment)),
    ("HOST", "The host.", STRING, lambda url: url.hostname and url.netloc.rpartition("@")[2].partition(":")[0]),
    ("PATH", "The path.", STRING, lambda url: unquote(url.path) if url.scheme or url.path else None),
    ("PORT", "The port, NULL where none is given.", INTEGER, lambda url: url.port),
    ("PROTOCOL", "The scheme.", STRING, lambda url: url.scheme or None),
    ("QUERY", "What follows ?, decoded.", STRING, lambda url: _decoded(url.query)),
)

for _name, _description, _type, _read in _PARTS:
    row_by_row(f"URL_EXTRACT_{_name}", _CATEGORY, _description, (STRING,), _type, _part(_read))


def _parameter(url: str, name: str) -> str | None:
    query = _part(lambda parts: _decoded(parts.query))(url)
    for pair in (query or "").split("&"):
        key, _, value = pair.partition("=")
        if key == name and (query or ""):
            return value
    return None


row_by_row("URL_EXTRACT_PARAMETER", _CATEGORY, "A parameter of the query.", (STRING, STRING), STRING, _parameter)
row_by_row("URL_ENCODE_PARAM", _CATEGORY, "A text as application/x-www-form-urlencoded.", (STRING,), STRING,
           lambda text: quote_plus(text, safe="*").replace("~", "%7E"))  # fmt: skip
row_by_row("URL_DECODE_PARAM", _CATEGORY, "The text of an application/x-www-form-urlencoded one.", (STRING,), STRING,
           unquote_plus)  # fmt: skip
