"""One embedded platform a test session; each test module says which parts of it it needs.

A module that needs real parts carries ``pytestmark = pytest.mark.parts("kafka", "registry")`` and uses the fixture `platform`.
"""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest

from heartwatch.platform.platform import Platform


def pytest_configure(config: pytest.Config) -> None:
    config.addinivalue_line("markers", "parts(*names): parts of the embedded platform that the module needs")
    config.addinivalue_line("markers", "chaos: kills parts under a whole run; by `make chaos`, not by `make test`")


@pytest.fixture(scope="session")
def platform_home(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """Home of the session's platform, which the settings point to; it is stopped and removed at the end."""
    home = tmp_path_factory.mktemp("platform") / "home"
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("HEARTWATCH_HOME", str(home))
        yield home
    if request.session.testsfailed and (home / "logs").exists():
        shutil.copytree(home / "logs", home.parent / "logs")
        print(f"the platform's logs are in {home.parent / 'logs'}")
    Platform(home).clean()


@pytest.fixture(scope="module")
def platform(request: pytest.FixtureRequest, platform_home: Path) -> Platform:
    """The session's platform, with the parts that the module's mark names running."""
    marker = request.node.get_closest_marker("parts")
    assert marker is not None, "mark the module with pytest.mark.parts(…)"
    platform = Platform(platform_home, marker.args)
    platform.up()
    return platform
