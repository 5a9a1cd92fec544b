"""What `heartwatch check` says of the settings' logins, and that a complete profile has nothing to say."""

from __future__ import annotations

import datetime
import os
from pathlib import Path
from typing import Any

import pytest

from heartwatch.analytic import Analytic
from heartwatch.cli import app
from heartwatch.deploy.connectors import connector_configs
from heartwatch.deploy.logins import MANAGED, weaknesses
from heartwatch.platform.certificates import write_certificates
from heartwatch.settings import load_settings

SECRET = "hidden-one"


@pytest.fixture
def files(tmp_path: Path) -> Path:
    """A folder with an authority and a certificate."""
    write_certificates(tmp_path, "test")
    return tmp_path


@pytest.fixture
def complete(files: Path, monkeypatch: pytest.MonkeyPatch) -> dict[str, str]:
    """The environment of a cluster that asks for a login, as the how-to describes it."""
    authority = str(files / "ca.pem")
    values = {
        "HOME": str(files / "home"),
        "KAFKA__BOOTSTRAP_SERVERS": "a.example:9096",
        "KAFKA__SASL_USERNAME": "heartwatch",
        "KAFKA__SASL_PASSWORD": SECRET,
        "KAFKA__SSL_CA_FILE": authority,
        "REGISTRY__URL": "https://registry.example",
        "REGISTRY__USER": "heartwatch",
        "REGISTRY__PASSWORD": SECRET,
        "CONNECT__URL": "https://connect.example",
        "CONNECT__PASSWORD": SECRET,
        "KSQLDB__URLS": '["https://ksql.example"]',
        "KSQLDB__TOKEN": SECRET,
        "POSTGRES__HOST": "postgres.example",
        "POSTGRES__CA_FILE": authority,
        "S3__ENDPOINT": "https://s3.example",
        "S3__CA_FILE": authority,
    }
    for name, value in values.items():
        monkeypatch.setenv(f"HEARTWATCH_{name}", value)
    return values


def found(profile: str, folder: Path | None = None) -> list[tuple[str, str]]:
    return [
        (one.setting.removeprefix("HEARTWATCH_"), one.what)
        for one in weaknesses(load_settings(profile=profile), folder)
    ]


@pytest.mark.parametrize("profile", MANAGED)
def test_a_complete_profile_has_nothing_to_say(profile: str, complete: dict[str, str]) -> None:
    assert found(profile) == []


@pytest.mark.parametrize("profile", MANAGED)
def test_a_profile_alone_names_each_address_and_login_that_is_missing(profile: str, tmp_path: Path) -> None:
    settings = load_settings(profile=profile, home=tmp_path)
    said = {one.setting for one in weaknesses(settings)}
    for name in ("KAFKA__BOOTSTRAP_SERVERS", "REGISTRY__URL", "CONNECT__URL", "KSQLDB__URLS", "CONNECT__PASSWORD"):
        assert f"HEARTWATCH_{name}" in said
    assert ("HEARTWATCH_KAFKA__SASL_PASSWORD" in said) == (profile != "msk")


@pytest.mark.parametrize("profile", ["local", "docker", "ec2"])
def test_platforms_of_ours_have_nothing_to_say(profile: str, tmp_path: Path) -> None:
    assert weaknesses(load_settings(profile=profile, home=tmp_path)) == []


@pytest.mark.parametrize(
    ("changes", "setting", "said"),
    [
        ({"KAFKA__SECURITY_PROTOCOL": "PLAINTEXT"}, "KAFKA__SECURITY_PROTOCOL", "in clear text"),
        ({"KAFKA__SECURITY_PROTOCOL": "SSL"}, "KAFKA__SSL_CERTIFICATE_FILE", "without a client certificate"),
        ({"KAFKA__SASL_PASSWORD": ""}, "KAFKA__SASL_PASSWORD", "SCRAM-SHA-512 can't log in without it"),
        ({"KAFKA__SASL_MECHANISM": "OAUTHBEARER"}, "KAFKA__OAUTH_CLIENT_SECRET", "OAUTHBEARER can't log in"),
        ({"KAFKA__SSL_CA_FILE": "/no/ca.pem"}, "KAFKA__SSL_CA_FILE", "'/no/ca.pem' can't be read: No such file"),
        ({"KAFKA__SSL_CA_FILE": "{}/own.key"}, "KAFKA__SSL_CA_FILE", "holds no certificates"),
        ({"KAFKA__SSL_CA_FILE": "{}/own.pem"}, "KAFKA__SSL_CA_FILE", "is no authority's certificate"),
        ({"REGISTRY__URL": "http://registry.example"}, "REGISTRY__URL", "sends the password in clear text"),
        ({"KSQLDB__URLS": '["https://a.example","http://b.example"]'}, "KSQLDB__URLS", "'http://b.example' sends"),
        ({"KSQLDB__TOKEN": ""}, "KSQLDB__PASSWORD", "no password, token or client certificate for ksqldb"),
        ({"REGISTRY__USER": ""}, "REGISTRY__USER", "a password for registry and no user"),
        ({"POSTGRES__SSLMODE": "prefer"}, "POSTGRES__SSLMODE", "doesn't know 'postgres.example'"),
        ({"S3__ENDPOINT": "http://s3.example"}, "S3__ENDPOINT", "in clear text"),
    ],
)
def test_each_weakness_is_named_without_a_secret(
    changes: dict[str, str],
    setting: str,
    said: str,
    complete: dict[str, str],
    files: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    for name, value in changes.items():
        monkeypatch.setenv(f"HEARTWATCH_{name}", value.replace("{}", str(files)))
    assert any(one == setting and said in what for one, what in found("secured")), found("secured")
    monkeypatch.setenv("HEARTWATCH_PROFILE", "secured")
    with pytest.raises(SystemExit) as left:
        app(["check", "heart_rate"])
    shown = capsys.readouterr().out
    assert left.value.code == 1
    assert f"profile secured, HEARTWATCH_{setting}: " in shown
    assert SECRET not in shown


def test_a_key_that_others_can_read_is_named(
    complete: dict[str, str], files: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HEARTWATCH_KAFKA__SSL_CERTIFICATE_FILE", str(files / "own.pem"))
    monkeypatch.setenv("HEARTWATCH_KAFKA__SSL_KEY_FILE", str(files / "own.key"))
    assert found("secured") == []
    (files / "own.key").chmod(0o644)
    assert [one for one, _ in found("secured")] == ["KAFKA__SSL_KEY_FILE"]


def test_an_authority_that_ends_soon_is_named(complete: dict[str, str], files: Path) -> None:
    write_certificates(files, "test", valid=datetime.timedelta(days=3))
    assert {what.partition(" holds until ")[2][-5:] for _, what in found("secured")} == {" only"}


def test_secrets_in_files_that_others_can_read_are_named(
    complete: dict[str, str], files: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder, home = files / "secrets", files / "home"
    for path, text in ((folder / "kafka__sasl_password", "x"), (home / "settings.toml", '[web]\nsecret = "x"\n')):
        path.parent.mkdir()
        path.write_text(text)
        path.chmod(0o640)
    assert [one for one, _ in found("secured", folder)] == ["HOME"]
    (folder / "kafka__sasl_password").chmod(0o644)
    (home / "settings.toml").chmod(0o600)
    assert [one for one, _ in found("secured", folder)] == ["SECRETS_FOLDER"]


@pytest.mark.parametrize("profile", MANAGED)
def test_connectors_refer_to_the_registrys_password_and_do_not_have_it(profile: str, complete: dict[str, str]) -> None:
    configs: dict[str, Any] = connector_configs(Analytic.load("heart_rate", 1), load_settings(profile=profile))
    for config in configs.values():
        assert config["value.converter.basic.auth.user.info"] == (
            "heartwatch:${secrets:/etc/heartwatch/connect.properties:registry.password}"
        )
    assert SECRET not in str(configs)


def test_the_how_to_names_each_profile_and_no_setting_that_is_none() -> None:
    from heartwatch.settings import ROOT, Settings  # noqa: PLC0415

    text = (ROOT / "docs" / "how-to" / "secured-clusters.md").read_text(encoding="utf-8")
    assert all(f"`{profile}`" in text for profile in MANAGED)
    known = {
        f"HEARTWATCH_{section}__{name}".upper()
        for section, field in Settings.model_fields.items()
        for name in getattr(field.annotation, "model_fields", {})
    }
    import re  # noqa: PLC0415

    assert set(re.findall(r"HEARTWATCH_[A-Z0-9]+__[A-Z0-9_]+", text)) <= known
    for section in ("kafka", "registry", "connect", "ksqldb"):
        for name in Settings.model_fields[section].annotation.model_fields:  # type: ignore[union-attr]
            if any(
                word in name
                for word in ("sasl", "ssl", "oauth", "password", "token", "ca_file", "key_file", "certificate")
            ):
                assert f"`{name}`" in text or f"HEARTWATCH_{section.upper()}__{name.upper()}" in text, name


def test_a_folder_of_secrets_is_read_below_the_environment(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "kafka__sasl_password").write_text(f"{SECRET}\n")
    monkeypatch.setenv("HEARTWATCH_SECRETS_FOLDER", str(tmp_path))
    assert load_settings().kafka.sasl_password.get_secret_value() == SECRET
    monkeypatch.setenv("HEARTWATCH_KAFKA__SASL_PASSWORD", "nearer")
    assert load_settings().kafka.sasl_password.get_secret_value() == "nearer"
    monkeypatch.setenv("HEARTWATCH_SECRETS_FOLDER", os.fspath(tmp_path / "none"))
    with pytest.raises(Exception, match=r"none' is not a folder"):
        load_settings()
