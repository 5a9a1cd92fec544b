"""What the server's command line takes and refuses."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from ksqlengine.cli import app
from ksqlengine.rest import api as rest
from ksqlengine.server.engine import EngineConfig

PLACES = ["--bootstrap-servers", "127.0.0.1:1", "--registry-url", "http://127.0.0.1:1", "--data-dir", "unused"]


def test_a_service_id_that_can_name_no_topic_is_refused_at_the_start(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as left:
        app(["server", *PLACES, "--service-id", "my service;"])
    assert "'my service;' can't be part of a topic's name" in capsys.readouterr().err
    assert left.value.code == 2


def test_a_property_that_is_unknown_is_refused_at_the_start(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as left:
        app(["server", *PLACES, "--property", "ksql.no.such=1"])
    assert capsys.readouterr().err == "ksqlengine: Unknown property: ksql.no.such\n"
    assert left.value.code == 2


@pytest.fixture
def served(monkeypatch: pytest.MonkeyPatch) -> list[tuple[EngineConfig, str]]:
    """Return what servers were started with, none of which runs."""
    found: list[Any] = []
    monkeypatch.setattr(rest, "serve", lambda config, listen: found.append((config, listen)))
    return found


def test_all_options(served: list[tuple[EngineConfig, str]]) -> None:
    properties = ["--property", "auto.offset.reset=earliest", "--property", "ksql.streams.commit.interval.ms=500"]
    with pytest.raises(SystemExit):
        app(["server", *PLACES, "--listen", "0.0.0.0:1", "--service-id", "a_", *properties, "--log-level", "warning"])
    ((config, listen),) = served
    assert (config.kafka.bootstrap_servers, config.registry.url) == ("127.0.0.1:1", "http://127.0.0.1:1")
    assert (config.service_id, config.data_dir, listen) == ("a_", Path("unused"), "0.0.0.0:1")
    assert config.properties == {"auto.offset.reset": "earliest", "commit.interval.ms": "500"}


def test_brokers_are_enough(served: list[tuple[EngineConfig, str]]) -> None:
    with pytest.raises(SystemExit):
        app(["server", "--bootstrap-servers", "one:9092,two:9092", "--schema-registry-url", "http://registry:8081"])
    ((config, listen),) = served
    assert (config.kafka.bootstrap_servers, config.registry.url) == ("one:9092,two:9092", "http://registry:8081")
    assert (config.service_id, dict(config.properties), listen) == ("default_", {}, "127.0.0.1:8088")
