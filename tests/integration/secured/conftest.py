"""A secured platform of the session, beside the plain one; each module says which parts of it it needs."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest
from secured_accounts import Accounts

from heartwatch.platform.platform import Platform


@pytest.fixture(scope="session")
def secured_home(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    home = tmp_path_factory.mktemp("secured") / "home"
    home.mkdir()
    # Sooner than on a platform of its own.
    (home / "settings.toml").write_text("[s3]\ncommit_interval_ms = 2000\n", encoding="utf-8")
    yield home
    if request.session.testsfailed and (home / "logs").exists():
        shutil.copytree(home / "logs", home.parent / "logs")
        print(f"the secured platform's logs are in {home.parent / 'logs'}")
    Platform(home).clean()


@pytest.fixture(scope="module")
def secured(request: pytest.FixtureRequest, secured_home: Path) -> Platform:
    """The session's secured platform, with the parts that the module's mark names running."""
    marker = request.node.get_closest_marker("parts")
    assert marker is not None, "mark the module with pytest.mark.parts(…)"
    platform = Platform(secured_home, marker.args, secured=True)
    platform.up()
    return platform


@pytest.fixture(scope="module")
def accounts(secured: Platform) -> Accounts:
    return Accounts(secured.home)
