"""The whole platform with Prefect's server and workers, every deployment applied, and this process talking to that server."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import pytest
from prefect.client.schemas.objects import FlowRun
from prefect.deployments import run_deployment
from prefect.settings import temporary_settings
from rich.console import Console
from schedules import pause_schedules, prefect_settings

from flows.demo import deploy
from heartwatch.platform.platform import Platform
from heartwatch.run_report import read_result
from heartwatch.settings import load_settings

RUN_SECONDS = 600

Watch = Callable[..., dict[str, Any]]


@pytest.fixture(scope="module")
def deployed(platform: Platform) -> Iterator[Platform]:
    """The platform, with what prefect.yaml states deployed to it, and its schedules paused."""
    with pytest.MonkeyPatch.context() as patch, temporary_settings(prefect_settings()):
        for name, value in platform.environment().items():
            patch.setenv(name, value)
        deploy(Console(quiet=True))
        pause_schedules()
        yield platform


@pytest.fixture
def watch(deployed: Platform) -> Watch:
    """Run the heart-watch deployment to its end and return what it found."""

    def run(**parameters: Any) -> dict[str, Any]:
        found = run_deployment("heart-watch/heart-watch", parameters=parameters, timeout=RUN_SECONDS, poll_interval=1)
        assert isinstance(found, FlowRun)
        assert found.state is not None
        assert found.state.is_completed(), f"{found.name}: {found.state.type.value}: {found.state.message}"
        return read_result(load_settings(), str(found.id), found.name)

    return run
