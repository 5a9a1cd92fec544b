"""Engine processes against a real broker and a real registry."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from engine_process import EngineProcess

from heartwatch.platform.platform import Platform
from heartwatch.settings import Settings, load_settings


@pytest.fixture(scope="module")
def settings(platform: Platform) -> Settings:
    return load_settings()


@pytest.fixture
def engines(
    settings: Settings, tmp_path: Path, request: pytest.FixtureRequest
) -> Iterator[Callable[[str], EngineProcess]]:
    """Make engine processes of one service; they are stopped at the end."""
    made: list[EngineProcess] = []
    service = f"{request.node.name.replace('[', '_').replace(']', '')}_{time.time_ns()}_"

    def make(name: str) -> EngineProcess:
        engine = EngineProcess(settings, tmp_path / name, service)
        made.append(engine)
        return engine

    yield make
    for engine in made:
        engine.kill()
