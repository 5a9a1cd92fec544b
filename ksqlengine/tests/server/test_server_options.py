"""What the server's command line takes and refuses."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest

from ksqlengine.cli import app
from ksqlengine.rest import api as rest
from ksqlengine.rest.access import ServerAccess
from ksqlengine.server.engine import EngineConfig, EngineStartError

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
    monkeypatch.setattr(rest, "serve", lambda config, listen, _: found.append((config, listen)))
    return found


@pytest.fixture
def access(monkeypatch: pytest.MonkeyPatch) -> list[tuple[EngineConfig, ServerAccess]]:
    """Return whom servers that were started let in, none of which runs."""
    found: list[Any] = []
    monkeypatch.setattr(rest, "serve", lambda config, _, access: found.append((config, access)))
    return found


def private(path: Path, text: str) -> str:
    path.touch(mode=0o600)
    path.write_text(text)
    return str(path)


def test_files_say_how_brokers_and_the_registry_are_logged_in_to_and_who_is_let_in(
    access: list[tuple[EngineConfig, ServerAccess]], tmp_path: Path
) -> None:
    kafka = private(
        tmp_path / "kafka",
        "# ours\nsecurity.protocol=SASL_SSL\nsasl.mechanism = PLAIN\nsasl.username=ann\nsasl.password=a=b #c\n",
    )
    registry = private(tmp_path / "registry", "basic.auth.user=bob\nbasic.auth.password=hidden\n")
    users = private(tmp_path / "users", "eve=hidden too\n")
    options = ["--kafka-config", kafka, "--registry-config", registry, "--users-file", users]
    with pytest.raises(SystemExit):
        app(["server", *PLACES, *options])
    ((config, found),) = access
    assert (config.kafka.security_protocol, config.kafka.sasl_mechanism) == ("SASL_SSL", "PLAIN")
    assert (config.kafka.sasl_username, config.kafka.sasl_password.get_secret_value()) == ("ann", "a=b #c")
    assert (config.registry.user, config.registry.password.get_secret_value()) == ("bob", "hidden")
    assert dict(found.users) == {"eve": "hidden too"}
    assert not any(secret in repr((config, found)) for secret in ("a=b", "hidden"))


@pytest.mark.parametrize(
    ("file", "text", "mode", "said"),
    [
        ("--kafka-config", "sasl.password=hidden\n", 0o640, r"may be read by others \(mode 640\); run: chmod 600"),
        ("--kafka-config", "sasl.pasword=hidden\n", 0o600, r"names that mean nothing here: \['sasl.pasword'\]"),
        ("--kafka-config", "hidden\n", 0o600, "line 1: no '='"),
        ("--kafka-config", "security.protocol=TLS\n", 0o600, "security_protocol: Input should be"),
        (
            "--kafka-config",
            "security.protocol=SASL_SSL\nsasl.username=hidden\n",
            0o600,
            "set sasl_username and sasl_pass",
        ),
        (
            "--kafka-config",
            "security.protocol=SSL\nssl.ca.location=/no/such.pem\n",
            0o600,
            "'/no/such.pem' can't be read",
        ),
        ("--registry-config", "bearer.auth.token=hidden\nbasic.auth.password=hidden\n", 0o600, "exclude each other"),
        ("--users-file", "hidden=\n", 0o600, "one without a password"),
        ("--users-file", "", 0o600, "has no users"),
    ],
)
def test_a_file_that_is_wrong_or_open_to_others_is_refused_and_not_shown(
    file: str, text: str, mode: int, said: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "file"
    private(path, text)
    path.chmod(mode)
    with pytest.raises(SystemExit) as left:
        app(["server", *PLACES, file, str(path)])
    error = capsys.readouterr().err
    assert re.search(said, error), error
    assert "hidden" not in error
    assert left.value.code == 2


def test_a_certificate_without_its_key_is_refused(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        app(["server", *PLACES, "--tls-certificate", "own.pem"])
    assert "--tls-certificate and --tls-key belong together" in capsys.readouterr().err


def test_passwords_are_not_asked_for_in_clear_text_by_other_machines() -> None:
    with pytest.raises(EngineStartError, match=r"in clear text to '0.0.0.0:1'; give --tls-certificate"):
        ServerAccess(users={"ann": "hidden"}).check("0.0.0.0:1")
    ServerAccess(users={"ann": "hidden"}).check("127.0.0.1:1")
    ServerAccess().check("0.0.0.0:1")


def test_a_certificate_that_is_none_is_refused(tmp_path: Path) -> None:
    (tmp_path / "own.pem").write_text("none")
    with pytest.raises(
        EngineStartError, match=r"own\.pem' with key .* can't be used: .*PEM files that belong together"
    ):
        ServerAccess(tmp_path / "own.pem", tmp_path / "own.key").check("127.0.0.1:1")


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
