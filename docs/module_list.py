"""Writes ARCHITECTURE.md's list of all modules, each with its docstring's first sentence (``make modules``)."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
ARCHITECTURE = ROOT / "ARCHITECTURE.md"
HEADING = "## Every module\n"
INTRODUCTION = "Written by `make modules` from the docstrings; the top of each module says more.\n"
SOURCES = {
    "kafkakit": ROOT / "kafkakit/src/kafkakit",
    "ksqlengine": ROOT / "ksqlengine/src/ksqlengine",
    "heartwatch": ROOT / "heartwatch",
    "tasks": ROOT / "tasks",
    "flows": ROOT / "flows",
}


def with_modules(text: str) -> str:
    """Return ARCHITECTURE.md's text with its last section, the list, as the code is now."""
    return f"{text.partition(HEADING)[0].rstrip()}\n\n{section()}"


def section() -> str:
    """Return the section."""
    lines = [HEADING, INTRODUCTION]
    for package, folder in SOURCES.items():
        for room in sorted(path.parent for path in folder.rglob("__init__.py")):
            lines.extend(_room(".".join((package, *room.relative_to(folder).parts)), room))
    return "\n".join(lines)


def _room(name: str, folder: Path) -> Iterator[str]:
    yield f"**`{name}`**: {_sentence(folder / '__init__.py')}\n"
    modules = sorted(path for path in folder.glob("*.py") if path.stem not in {"__init__", "__main__"})
    for module in modules:
        yield f"- `{module.stem}`: {_sentence(module)}"
    if modules:
        yield ""


def _sentence(path: Path) -> str:
    """Return the first sentence of a module's docstring."""
    text = ast.get_docstring(ast.parse(path.read_text(encoding="utf-8"))) or ""
    paragraph = " ".join(text.partition("\n\n")[0].split()).replace("``", "`")
    # A stop inside quotes or parentheses, or after an abbreviation, is followed by a small letter or nothing.
    return re.split(r"(?<=\.) (?=[A-Z`])", paragraph)[0]


if __name__ == "__main__":
    ARCHITECTURE.write_text(with_modules(ARCHITECTURE.read_text(encoding="utf-8")), encoding="utf-8")
