"""Connector files: placeholders, secrets, and the repository's own files."""

import json
from pathlib import Path

import pytest

from heartwatch.analytic import Analytic
from heartwatch.deploy.connectors import ConnectorFileError, connector_configs, is_sink, read_file, render
from heartwatch.settings import load_settings

ANALYTIC = Analytic.load("heart_rate", 3)
FILES = sorted(ANALYTIC.connectors_folder.glob("*.json"))


def test_placeholders_and_provider_references():
    variables = {"connect.secrets_file": "/run/s", "postgres.port": 5433, "s3.path_style": True}
    entries = {
        "slot": "${name.source}",
        "port": "${postgres.port}",
        "style": "${s3.path_style}",
        "password": "${secrets:${connect.secrets_file}:postgres.password}",
        "replacement": "$1",
    }
    assert render(entries, ANALYTIC, variables, "f") == {
        "slot": "heart_rate_source_v3",
        "port": "5433",
        "style": "true",
        "password": "${secrets:/run/s:postgres.password}",
        "replacement": "$1",
    }


def test_a_map_becomes_one_entry_a_key_and_nothing_is_left_out():
    variables = {"avro": {"class": "a.B", "url": "${registry}"}, "registry": "http://r", "endpoint": None}
    entries = {"value.converter": "${avro}", "s3.endpoint": "${endpoint}"}
    assert render(entries, ANALYTIC, variables, "f") == {"value.converter": "a.B", "value.converter.url": "http://r"}


def test_an_unknown_placeholder_is_named():
    with pytest.raises(
        ConnectorFileError, match=r"'f', entry 'a': unknown placeholder 'b'; use name.<resource> or one of \['c'\]"
    ):
        render({"a": "${b}"}, ANALYTIC, {"c": 1}, "f")


def test_a_secret_setting_is_refused(tmp_path: Path):
    analytic = ANALYTIC.model_copy(update={"root": tmp_path})
    analytic.connectors_folder.mkdir(parents=True)
    (analytic.connectors_folder / "bad.json").write_text('{"password": "${postgres.password}"}')
    with pytest.raises(
        ConnectorFileError, match=r"'postgres.password' is a secret .* \$\{secrets:\$\{connect.secrets_file\}:postgres"
    ):
        connector_configs(analytic, load_settings())


@pytest.mark.parametrize(
    ("content", "reason"),
    [("{", "can't be read"), ("[]", "write a map"), ('{"a": 1}', "quote them"), ('{"name": "x"}', "remove 'name'")],
)
def test_a_wrong_file_is_named(tmp_path: Path, content: str, reason: str):
    path = tmp_path / "bad.json"
    path.write_text(content)
    with pytest.raises(ConnectorFileError, match=f"'bad.json'.*{reason}"):
        read_file(path)


def test_the_sources_come_before_the_sinks():
    configs = connector_configs(ANALYTIC, load_settings())
    assert list(configs) == [
        "heart_rate_historical_source_v3",
        "heart_rate_alerts_sink_v3",
        "heart_rate_realtime_sink_v3",
    ]
    assert [is_sink(config) for config in configs.values()] == [False, True, True]


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.stem)
def test_the_files_hold_no_secret_and_lose_no_record(path: Path):
    text = path.read_text()
    config = connector_configs(ANALYTIC, load_settings())[ANALYTIC.name(path.stem)]
    for key, value in json.loads(text).items():
        if any(word in key for word in ("password", "secret", "access-key-id")):
            assert value.startswith("${secrets:"), key
    if is_sink(config):
        assert config["consumer.override.isolation.level"] == "read_committed"
        assert config["errors.deadletterqueue.topic.name"].endswith("_dead_letters_v3")
    else:
        assert config["exactly.once.support"] == "required"


def test_every_name_in_the_files_carries_the_version():
    def names(version: int) -> set[str]:
        configs = connector_configs(Analytic.load("heart_rate", version), load_settings())
        wanted = ("name", "slot.name", "publication.name", "topic.prefix", "iceberg.tables", "iceberg.control.topic")
        return {config[key] for config in configs.values() for key in wanted if key in config}

    assert not names(1) & names(2)
