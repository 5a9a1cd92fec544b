"""One embedded platform a test session; each test module says which parts of it it needs.

A module that needs real parts carries ``pytestmark = pytest.mark.parts("kafka", "registry")`` and uses the fixture `platform`.
"""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import pytest
from confluent_kafka.admin import AdminClient

from heartwatch.platform.elsewhere import REPLACED_GROUPS, Elsewhere
from heartwatch.platform.platform import Platform
from ksqlengine.client.rest_client import Ksqldb
from ksqlengine.client.settings import KsqldbSettings


def pytest_configure(config: pytest.Config) -> None:
    config.addinivalue_line("markers", "parts(*names): parts of the embedded platform that the module needs")
    config.addinivalue_line("markers", "chaos: kills parts under a whole run; by `make chaos`, not by `make test`")


def pytest_addoption(parser: pytest.Parser) -> None:
    group = parser.getgroup("rehearsal", "servers that are there already, used instead of the platform's own")
    group.addoption("--ksqldb", help="address of a KSQL server")
    group.addoption("--registry", help="address of its schema registry")
    group.addoption("--brokers", help="its brokers, where they have other names here than in its own settings")
    group.addoption("--converters", help="folder of Connect plugins that has Confluent's Avro converter")


@pytest.fixture(scope="session")
def elsewhere(pytestconfig: pytest.Config) -> Elsewhere | None:
    """The servers that the command line names; None without such."""
    url = pytestconfig.getoption("ksqldb")
    if url is None:
        return None
    with closing(Ksqldb(KsqldbSettings(urls=[url]))) as ksqldb:
        (listed,) = ksqldb.entities("SHOW PROPERTIES;")
    properties = {one["name"]: one["value"] for one in listed["properties"]}
    brokers = pytestconfig.getoption("brokers") or properties["ksql.streams.bootstrap.servers"]
    count = len(AdminClient({"bootstrap.servers": brokers}).list_topics(timeout=30).brokers)
    registry, converters = (pytestconfig.getoption(name) for name in ("registry", "converters"))
    assert registry, "name the servers' schema registry: --registry URL"
    assert converters, "name a folder with Confluent's Avro converter: --converters FOLDER"
    return Elsewhere(brokers, registry, [url], min(3, count), converters)


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
    elsewhere = request.getfixturevalue("elsewhere")
    names = [name for name in marker.args if elsewhere is None or name.split("-")[0] not in REPLACED_GROUPS]
    platform = Platform(platform_home, names, elsewhere=elsewhere)
    platform.up()
    return platform
