"""The engine against what a real ksqlDB 8.2.0 answered: each scenario equals it, or differs just as `golden/known.yaml` says.

A scenario that gets better fails too, so that the list stays true. HEARTWATCH_GOLDEN=write writes the list anew; look at what
changed before it is committed. The reasons are on the docs page "differences to ksqlDB".
"""

from __future__ import annotations

import os
import time
from collections.abc import Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest
import yaml
from engine_process import EngineProcess
from golden_differences import differences
from golden_scenarios import FOLDER, GoldenServer, compacting_later, scenarios

from heartwatch.settings import Settings

pytestmark = pytest.mark.parts("kafka", "registry")

SCENARIOS = scenarios()
KNOWN: dict[str, list[str]] = yaml.safe_load((FOLDER / "known.yaml").read_text(encoding="utf-8"))
_TOGETHER = 16


@pytest.fixture(scope="module")
def found(settings: Settings, tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, list[tuple[str, str]]]]:
    """Run all scenarios on one engine: those that drop everything one after the other, then the others side by side."""
    engine = EngineProcess(settings, tmp_path_factory.mktemp("golden") / "engine", f"golden_{time.time_ns()}_").start()
    server = GoldenServer(settings, engine.url)

    def run(item: tuple[str, dict[str, Any]]) -> tuple[str, list[tuple[str, str]]]:
        name, scenario = item
        return name, list(differences(scenario, server.run(scenario)))

    alone = [item for item in SCENARIOS.items() if item[1].get("exclusive")]
    others = [item for item in SCENARIOS.items() if not item[1].get("exclusive")]
    try:
        with compacting_later(settings), ThreadPoolExecutor(_TOGETHER) as executor:
            done = dict([*map(run, alone), *executor.map(run, others)])
        if os.environ.get("HEARTWATCH_GOLDEN") == "write":
            _write(done)
        yield done
    finally:
        engine.kill()


def _kinds(found: list[tuple[str, str]]) -> list[str]:
    return sorted({kind for kind, _ in found})


def _write(done: Mapping[str, list[tuple[str, str]]]) -> None:
    lines = [f"{name}: [{', '.join(_kinds(found))}]\n" for name, found in sorted(done.items()) if found]
    (FOLDER / "known.yaml").write_text("".join(lines), encoding="utf-8")


@pytest.mark.parametrize("name", SCENARIOS)
def test_the_engine_answers_as_ksqldb(found: dict[str, list[tuple[str, str]]], name: str) -> None:
    assert _kinds(found[name]) == KNOWN.get(name, []), (
        "\n".join(f"{kind}: {what}" for kind, what in found[name]) or "it is equal now"
    )


def test_what_is_known_to_differ_is_there() -> None:
    assert KNOWN.keys() <= SCENARIOS.keys()
