"""Rooms stay small enough to be read: bounds on files, and on the number of modules in a room of the engine."""

from __future__ import annotations

from pathlib import Path

from heartwatch.settings import ROOT

PACKAGES = {
    "kafkakit": ROOT / "kafkakit/src/kafkakit",
    "ksqlengine": ROOT / "ksqlengine/src/ksqlengine",
    "heartwatch": ROOT / "heartwatch",
    "tasks": ROOT / "tasks",
    "flows": ROOT / "flows",
    "benchmarks": ROOT / "benchmarks",
}


def test_no_source_file_is_longer_than_800_lines() -> None:
    long = {
        str(path.relative_to(ROOT)): lines
        for folder in PACKAGES.values()
        for path in folder.rglob("*.py")
        if (lines := len(path.read_text(encoding="utf-8").splitlines())) > 800
    }
    assert long == {}


def test_no_room_of_the_engine_has_more_than_13_modules() -> None:
    rooms = [path.parent for path in PACKAGES["ksqlengine"].glob("*/__init__.py")]
    sizes = {room.name: len([path for path in Path(room).glob("*.py") if path.name != "__init__.py"]) for room in rooms}
    assert sizes
    assert {name: size for name, size in sizes.items() if size > 13} == {}
