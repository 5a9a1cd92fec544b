"""Markdown of what a run found: tables, and pictures that need no file or server."""

from __future__ import annotations

import base64
import re
from collections.abc import Mapping, Sequence
from typing import Any

from heartwatch.extras import MODULES, MissingExtraError

_FIGURE = re.compile("[-+\N{MULTIPLICATION SIGN}]? ?[0-9,.]*( %)?")


def picture(png: bytes | None, title: str) -> str:
    """Return Markdown that shows a PNG by itself: the picture is in the text, no file or server is needed.

    Args:
        png: None where charts can't be drawn: the text says what to install.
        title: what the picture shows.
    """
    if png is None:
        return f"*No chart of {title}: {MissingExtraError('plots', MODULES['plots'])}*"
    return f"![{title}](data:image/png;base64,{base64.b64encode(png).decode()})"


def table(rows: Sequence[Mapping[str, Any]]) -> str:
    """Return rows, all with the same columns, as a Markdown table, numbers to the right; an empty text for none."""
    if not rows:
        return ""
    head = list(rows[0])
    cells = [[_cell(row[name]) for name in head] for row in rows]
    sides = [
        "---:" if all(_FIGURE.fullmatch(cell) for cell in column) else "---" for column in zip(*cells, strict=True)
    ]
    lines = [head, ["---", *sides[1:]], *cells]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def _cell(value: Any) -> str:
    if value is None:
        return ""
    if isinstance(value, int | float) and not isinstance(value, bool):
        return f"{value:,}"
    # A stroke ends a cell, and a line a row, whatever they are part of.
    return " ".join(str(value).replace("|", "\\|").splitlines())
