"""URL functions."""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Any
from urllib.parse import SplitResult, quote_plus, unquote, unquote_plus, urlsplit

from ksqlengine.expressions.overloads import row_by_row
from ksqlengine.types.sqltypes import INTEGER, STRING, SqlType

_CATEGORY = "URL"


_INVALID = re.compile(r"[ \"<>\\^`{|}\x00-\x1f\x7f]|%(?![0-9A-Fa-f]{2})")  # java.net.URI refuses these
# What java.net.URI takes for a server; an authority of another form has neither host nor port.
_LABEL = r"[A-Za-z0-9](?:[A-Za-z0-9-]*[A-Za-z0-9])?"
_SERVER = re.compile(
    rf"(?:[^@]*@)?(?P<host>\[[0-9A-Fa-f:.]+\]|\d+(?:\.\d+){{3}}|(?:{_LABEL}\.)*[A-Za-z](?:[A-Za-z0-9-]*[A-Za-z0-9])?\.?)"
    r"(?::(?P<port>\d*))?"
)


def _part(read: Callable[[SplitResult], Any]) -> Callable[[str], Any]:
    def extract(url: str) -> Any:
        if _INVALID.search(url):
            raise ValueError(f"URL input has invalid syntax: {url}")
        parts = urlsplit(url)
        is_opaque = parts.scheme and not url[len(parts.scheme) + 1 :].startswith("/")  # as mailto:
        return read(parts._replace(path="", query="") if is_opaque else parts)

    return extract


def _decoded(text: str) -> str | None:
    return unquote(text) if text else None


def _server(url: SplitResult, what: str) -> str | None:
    match = _SERVER.fullmatch(url.netloc)
    return match[what] or None if match else None


def _path(url: SplitResult) -> str | None:
    return unquote(url.path) if url.netloc or url.path or not url.scheme else None


_PARTS: tuple[tuple[str, str, SqlType, Callable[[SplitResult], Any]], ...] = (
    ("FRAGMENT", "What follows #.", STRING, lambda url: _decoded(url.fragment)),
    ("HOST", "The host.", STRING, lambda url: _server(url, "host")),
    ("PATH", "The path.", STRING, _path),
    ("PORT", "The port, NULL where none is given.", INTEGER, lambda url: int(_server(url, "port") or 0) or None),
    ("PROTOCOL", "The scheme.", STRING, lambda url: url.scheme or None),
    ("QUERY", "What follows ?, decoded.", STRING, lambda url: _decoded(url.query)),
)

for _name, _description, _type, _read in _PARTS:
    row_by_row(f"URL_EXTRACT_{_name}", _CATEGORY, _description, (STRING,), _type, _part(_read), may_fail=True)


def _parameter(url: str, name: str) -> str | None:
    query = _part(lambda parts: _decoded(parts.query))(url)
    for pair in (query or "").split("&"):
        key, _, value = pair.partition("=")
        if key == name and (query or ""):
            return value
    return None


row_by_row("URL_EXTRACT_PARAMETER", _CATEGORY, "A parameter of the query.", (STRING, STRING), STRING, _parameter,
           may_fail=True)  # fmt: skip
row_by_row("URL_ENCODE_PARAM", _CATEGORY, "A text as application/x-www-form-urlencoded.", (STRING,), STRING,
           lambda text: quote_plus(text, safe="*").replace("~", "%7E"))  # fmt: skip


def _decode_param(text: str) -> str:
    if re.search(r"%(?![0-9A-Fa-f]{2})", text):
        raise ValueError("Illegal hex characters in escape (%) pattern")
    return unquote_plus(text)


row_by_row("URL_DECODE_PARAM", _CATEGORY, "The text of an application/x-www-form-urlencoded one.", (STRING,), STRING,
           _decode_param, may_fail=True)  # fmt: skip
