"""A pipeline version of its own for each test, on the real platform, torn down at the end."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from itertools import count
from pathlib import Path

import pytest
from deploying import Versions, remove

from heartwatch.analytic import Analytic
from heartwatch.platform.platform import Platform
from heartwatch.settings import ROOT, Settings, load_settings

_VERSIONS = count(1)


@pytest.fixture
def versions(platform: Platform) -> Iterator[Versions]:
    """Make settings of a pipeline version that no test has had, with a historical table of its own."""
    made: list[Settings] = []

    def make() -> Settings:
        version = next(_VERSIONS)
        settings = load_settings()
        settings = settings.model_copy(
            update={
                "pipeline": settings.pipeline.model_copy(update={"version": version}),
                "postgres": settings.postgres.model_copy(update={"historical_table": f"historical_{version}"}),
                "kafka": settings.kafka.model_copy(update={"partitions": 3}),
                "connect": settings.connect.model_copy(update={"restart_limit": 0}),
                "s3": settings.s3.model_copy(update={"commit_interval_ms": 1_000}),
            }
        )
        made.append(settings)
        return settings

    yield make
    for settings in made:
        remove(settings)


@pytest.fixture
def settings(versions: Versions) -> Settings:
    """Settings of one pipeline version that no other test has."""
    return versions()


@pytest.fixture
def files(tmp_path: Path, settings: Settings) -> Analytic:
    """A copy of the analytic's files that a test may change."""
    for folder in ("schemas", "ksql", "deployments/connect"):
        shutil.copytree(ROOT / folder, tmp_path / folder)
    return Analytic.of(settings.pipeline, tmp_path)
