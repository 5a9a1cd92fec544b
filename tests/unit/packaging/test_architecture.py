"""What is written about the code names modules that are there: ARCHITECTURE.md all of them, the other pages no others."""

from __future__ import annotations

import re
import sys
from pathlib import Path

import pytest

from heartwatch.settings import ROOT

sys.path.insert(0, str(ROOT / "docs"))

import module_list

PAGES = [
    *sorted(ROOT.glob("*.md")),
    *sorted(path for path in ROOT.glob("docs/**/*.md") if "reference" not in path.parts),
    *(ROOT / package / "README.md" for package in ("kafkakit", "ksqlengine")),
]
PACKAGES = "|".join(module_list.SOURCES)


def named(section: str) -> set[str]:
    """Return the modules that a section names."""
    found = set()
    for room in re.split(r"^(?=\*\*`)", section, flags=re.MULTILINE)[1:]:
        package = room[3 : room.index("`", 3)]
        found |= {package, *(f"{package}.{name}" for name in re.findall(r"^- `(\w+)`:", room, re.MULTILINE))}
    return found


def test_architecture_names_every_module_and_none_that_is_gone() -> None:
    written = named(module_list.ARCHITECTURE.read_text(encoding="utf-8").partition(module_list.HEADING)[2])
    there = named(module_list.section())

    assert len(there) > 100
    assert (sorted(there - written), sorted(written - there)) == ([], []), "missing, gone: run `make modules`"


def test_every_module_says_what_it_is() -> None:
    assert not re.findall(r"^.*: $", module_list.section(), re.MULTILINE)


@pytest.mark.parametrize("page", PAGES, ids=lambda path: str(path.relative_to(ROOT)))
def test_pages_name_what_is_there(page: Path) -> None:
    text = page.read_text(encoding="utf-8")

    assert [name for name in re.findall(rf"`((?:{PACKAGES})(?:\.\w+)+)`", text) if not _is_there(name)] == []
    paths = re.findall(rf"`((?:{PACKAGES})/[\w./-]*)`", text)
    assert [path for path in paths if not (ROOT / path).exists() and not (ROOT / _source(path)).exists()] == []


def _source(path: str) -> str:
    """Return where a package's file is that a page names by its place in the package."""
    package = path.partition("/")[0]
    return f"{package}/src/{path}"


def _is_there(name: str) -> bool:
    """Return whether a dotted name is a module, the name of something in one, or an event's."""
    if f'"{name}"' in (ROOT / "heartwatch/events.py").read_text(encoding="utf-8"):
        return True
    package, *parts = name.split(".")
    place = module_list.SOURCES[package]
    while parts and (place / parts[0]).is_dir():
        place /= parts.pop(0)
    if parts and (place / f"{parts[0]}.py").exists():
        place /= f"{parts.pop(0)}.py"
    file = place if place.suffix else place / "__init__.py"
    return not parts or re.search(rf"\b{parts[0]}\b", file.read_text(encoding="utf-8")) is not None
