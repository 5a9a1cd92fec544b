"""The compose files, as Docker's own Compose reads them. No engine runs them here."""

import inspect
import json
import re
import shlex
import subprocess
import sys
import tomllib
from collections.abc import Iterator
from importlib import import_module
from itertools import pairwise
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import pytest
import yaml

from heartwatch.analytic import Analytic
from heartwatch.clusters.environment import write_new_secrets
from heartwatch.clusters.spec import SERVICES
from heartwatch.deploy.connectors import connector_configs
from heartwatch.platform.services.base import Context
from heartwatch.platform.services.connect import ConnectPart
from heartwatch.platform.services.engine import EnginePart
from heartwatch.platform.services.kafka import KafkaPart
from heartwatch.platform.services.postgres import PostgresPart
from heartwatch.platform.services.prefect import PrefectServerPart
from heartwatch.platform.services.registry import RegistryPart
from heartwatch.platform.services.s3 import S3Part
from heartwatch.settings import ROOT, Settings, load_settings
from ksqlengine.streams import processing_log

DOCKER = ROOT / "docker"
BIN = Path(sys.executable).parent
ONE_SHOT = {"deployments", "storage-bucket", "control-center-config"}
BROKERS = ("broker-1", "broker-2", "broker-3")
# order.yaml only adds to the others.
FILES = sorted(path.name for path in DOCKER.glob("*.yaml") if path.name != "order.yaml")


@pytest.fixture(scope="module")
def secrets(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("docker") / ".env"
    write_new_secrets(path)
    return path


def compose(file: str, secrets: Path, *more: str) -> dict[str, Any]:
    command = [BIN / "docker-compose", "--env-file", secrets, "--profile", "*", "--file", DOCKER / file, "config"]
    result = subprocess.run([*command, "--format", "json", *more], capture_output=True, text=True, check=False)
    assert result.returncode == 0, result.stderr
    assert "level=warning" not in result.stderr, result.stderr
    return json.loads(result.stdout)


@pytest.fixture(scope="module")
def system(secrets: Path) -> dict[str, Any]:
    """The whole system, defaults filled in."""
    return compose("compose.yaml", secrets)


def services(system: dict[str, Any]) -> Iterator[tuple[str, dict[str, Any]]]:
    yield from system["services"].items()


@pytest.mark.parametrize("file", FILES)
def test_compose_accepts_the_file(file: str, secrets: Path):
    assert compose(file, secrets)["services"]


@pytest.mark.parametrize("file", sorted({name for names in SERVICES.values() for name in names} - {"ksql.yaml"}))
def test_without_secrets_the_file_is_refused_with_the_remedy(file: str):
    command = [BIN / "docker-compose", "--env-file", "/dev/null", "--file", DOCKER / file, "config", "--quiet"]
    result = subprocess.run(command, capture_output=True, text=True, check=False)

    assert result.returncode != 0
    assert "run `make docker-env`" in result.stderr


def test_no_password_is_in_the_files():
    for path in DOCKER.glob("*.yaml"):
        for name, value in re.findall(
            r"^ +(\w*(?:PASSWORD|SECRET_ACCESS_KEY)): *(\S+)", path.read_text(encoding="utf-8"), re.MULTILINE
        ):
            assert value.startswith("${"), f"{path.name}: {name}"


def test_images_have_exact_tags_and_confluents_one_version(system: dict[str, Any]):
    images = {service["image"] for _, service in services(system)}

    assert all(re.search(r":v?\d+\.\d+(\.\d+)?$", image) for image in images), images
    platform = {
        image.split(":")[1]
        for image in images
        if re.match(r"confluentinc/cp-(kafka|schema|ksqldb)|heartwatch/connect", image)
    }
    base = re.findall(r"FROM confluentinc/cp-kafka-connect:(\S+)", (DOCKER / "Dockerfile").read_text(encoding="utf-8"))
    assert platform == set(base)


def test_services_have_limits_restarts_and_health_checks(system: dict[str, Any]):
    for name, service in services(system):
        assert int(service["mem_limit"]) >= 128 << 20, name
        assert "restart" in service, name
        assert service["logging"] == {"driver": "local"}, name
        # Prometheus' and Alertmanager's images have nothing to ask them with.
        assert "healthcheck" in service or name in ONE_SHOT | {"prometheus", "alertmanager"}, name


def test_heaps_fit_into_the_limits(system: dict[str, Any]):
    for name, service in services(system):
        for value in service.get("environment", {}).values():
            for size, unit in re.findall(r"-Xmx(\d+)([mg])", value or ""):
                heap = int(size) << (20 if unit == "m" else 30)
                assert heap <= 0.7 * int(service["mem_limit"]), name


def test_everything_listens_on_loopback(system: dict[str, Any]):
    ports = [port for _, service in services(system) for port in service.get("ports", [])]

    assert {port["host_ip"] for port in ports} == {"127.0.0.1"}
    published = [port["published"] for port in ports]
    assert len(published) == len(set(published))


def test_kafka_is_a_quorum_of_three_that_may_lose_one(system: dict[str, Any]):
    brokers = [system["services"][name]["environment"] for name in BROKERS]

    assert [one["KAFKA_NODE_ID"] for one in brokers] == ["1", "2", "3"]
    assert {one["KAFKA_PROCESS_ROLES"] for one in brokers} == {"broker,controller"}
    assert len({one["CLUSTER_ID"] for one in brokers}) == 1
    for number, one in enumerate(brokers, start=1):
        assert one["KAFKA_ADVERTISED_LISTENERS"] == f"PLAINTEXT://broker-{number}.heartwatch.internal:9092"
        assert f"{number}@broker-{number}.heartwatch.internal:9093" in one["KAFKA_CONTROLLER_QUORUM_VOTERS"]
        assert one["KAFKA_MIN_INSYNC_REPLICAS"] == one["KAFKA_TRANSACTION_STATE_LOG_MIN_ISR"] == "2"
        assert {value for key, value in one.items() if key.endswith("REPLICATION_FACTOR")} == {"3"}
    volumes = [system["services"][name]["volumes"][0]["source"] for name in BROKERS]
    assert len(set(volumes)) == 3


def test_ksqldb_is_exactly_once_and_shares_its_queries(system: dict[str, Any]):
    servers = [system["services"][f"ksql-{number}"]["environment"] for number in (1, 2, 3)]

    assert {one["KSQL_KSQL_STREAMS_PROCESSING_GUARANTEE"] for one in servers} == {"exactly_once_v2"}
    assert len({one["KSQL_KSQL_SERVICE_ID"] for one in servers}) == 1
    assert len({one["KSQL_KSQL_ADVERTISED_LISTENER"] for one in servers}) == 3


def test_ksqldbs_own_topics_survive_the_loss_of_a_broker(system: dict[str, Any]):
    for name in ("ksql-1", "ksql-2", "ksql-3"):
        environment = system["services"][name]["environment"]
        of_topics = {
            key: value for key, value in environment.items() if key.endswith(("REPLICATION_FACTOR", "REPLICAS"))
        }
        assert of_topics == {
            "KSQL_KSQL_INTERNAL_TOPIC_REPLICAS": "3",
            "KSQL_KSQL_INTERNAL_TOPIC_MIN_INSYNC_REPLICAS": "2",
            "KSQL_KSQL_STREAMS_REPLICATION_FACTOR": "3",
            "KSQL_KSQL_STREAMS_TOPIC_MIN_INSYNC_REPLICAS": "2",
            "KSQL_KSQL_STREAMS_NUM_STANDBY_REPLICAS": "1",
            "KSQL_KSQL_LOGGING_PROCESSING_TOPIC_REPLICATION_FACTOR": "3",
        }, name


def test_ksqldb_writes_its_processing_log_where_the_engine_does(system: dict[str, Any]):
    """Making the topic is one setting, and writing into it is the logger's: without its brokers the topic stays empty."""
    for name in ("ksql-1", "ksql-2", "ksql-3"):
        environment = system["services"][name]["environment"]
        topic = processing_log.topic_name(environment["KSQL_KSQL_SERVICE_ID"])
        assert environment["KSQL_KSQL_LOGGING_PROCESSING_TOPIC_NAME"] == topic
        assert environment["KSQL_LOG4J_PROCESSING_LOG_TOPIC"] == topic
        assert environment["KSQL_LOG4J_PROCESSING_LOG_BROKERLIST"] == environment["KSQL_BOOTSTRAP_SERVERS"]


def rehearsal() -> list[list[str]]:
    """The commands that `make docker-rehearsal` runs, after those that set up."""
    lines = subprocess.run(
        ["make", "-n", "docker-rehearsal"], cwd=ROOT, capture_output=True, text=True, check=True
    ).stdout
    return [shlex.split(line) for line in lines.splitlines() if line.startswith("docker compose")]


def test_the_rehearsal_leaves_the_systems_own_volumes_alone(system: dict[str, Any]):
    projects = {command[command.index("--project-name") + 1] for command in rehearsal()}

    assert len(projects) == 1
    assert projects != {system["name"]}
    assert rehearsal()[-1][-2:] == ["down", "--volumes"]


def test_the_rehearsal_runs_deployments_that_there_are_with_parameters_that_they_take(system: dict[str, Any]):
    deployments = yaml.safe_load((ROOT / "prefect.yaml").read_text(encoding="utf-8"))["deployments"]
    entrypoints = {one["name"]: one["entrypoint"] for one in deployments}
    runs = [command for command in rehearsal() if "run" in command]

    names = [command[command.index("--watch") + 1].split("/")[0] for command in runs]
    assert names == ["heart-watch", "watch-health", "teardown-pipeline"]
    for name, command in zip(names, runs, strict=True):
        assert command[command.index("-T") + 1] in system["services"]
        module, function = entrypoints[name].rsplit(".", 1)
        taken = inspect.signature(getattr(import_module(module), function).fn).parameters
        given = [value.split("=")[0] for option, value in pairwise(command) if option == "--param"]
        assert set(given) <= set(taken), name


def test_docs_name_the_licence_of_every_image(system: dict[str, Any]):
    text = (ROOT / "docs/reference/docker-images.md").read_text(encoding="utf-8")

    for name, service in services(system):
        image = service["image"].rsplit(":", 1)[0]
        assert f"`{image}`" in text, f"{name}: {image}"


def test_postgres_replicates_logically(system: dict[str, Any]):
    assert "wal_level=logical" in system["services"]["database"]["command"]


@pytest.mark.parametrize("profile", ["docker", "ec2"])
def test_addresses_of_the_profile_are_those_of_the_services(profile: str, system: dict[str, Any]):
    """Each host is an alias in the network, and each port one that its service listens on."""
    aliases = {
        alias: name
        for name, service in services(system)
        for network in (service.get("networks") or {}).values()
        for alias in (network or {}).get("aliases", [])
    }
    listening = {"broker": {9092, 9093}, "ksql": {8088}, "storage": {8333}}
    settings = load_settings(profile=profile)
    addresses = [urlsplit(f"//{one}") for one in settings.kafka.bootstrap_servers.split(",")]
    addresses += [urlsplit(one) for one in [settings.registry.url, settings.connect.url, *settings.ksqldb.urls]]
    addresses += [
        urlsplit(f"//{settings.postgres.host}:{settings.postgres.port}"),
        urlsplit(settings.prefect.api_url or ""),
    ]
    addresses += [urlsplit(settings.s3.endpoint)] if settings.s3.endpoint else []
    for address in addresses:
        service = aliases[str(address.hostname)]
        ports = {port["target"] for port in system["services"][service].get("ports", [])}
        assert address.port in ports | listening.get(service.split("-")[0], set()), address.geturl()


def _embedded(tmp_path: Path) -> dict[str, Any]:
    """What the embedded platform writes for the flows: its addresses, and its secrets."""
    names = ["kafka-1", "kafka-2", "kafka-3", "registry", "connect", "engine", "postgres", "prefect", "s3"]
    context = Context(tmp_path, 3, "0" * 32, dict.fromkeys(names, 1), {}, None)  # type: ignore[arg-type]
    values: dict[str, Any] = {"postgres": {"password": ""}, "s3": {"access_key_id": "", "secret_access_key": ""}}
    for part in (
        KafkaPart(1),
        RegistryPart(),
        ConnectPart(),
        EnginePart(),
        PostgresPart(),
        PrefectServerPart(),
        S3Part(),
    ):
        for table, entries in part.endpoints(context).items():
            values.setdefault(table, {}).update(entries)
    return values


def _names(values: dict[str, Any], prefix: str = "") -> set[str]:
    return {
        name
        for key, value in values.items()
        for name in (_names(value, f"{prefix}{key}.") if isinstance(value, dict) else {f"{prefix}{key}"})
    }


def test_both_platforms_give_the_flows_the_same_settings(tmp_path: Path, system: dict[str, Any]):
    """What the embedded platform writes, the docker profile and the containers' environment say too, or the default holds."""
    profile = _names(tomllib.loads((ROOT / "deployments/profiles/docker.toml").read_text(encoding="utf-8")))
    environment = system["services"]["worker"]["environment"]
    given = {key.removeprefix("HEARTWATCH_").lower().replace("__", ".") for key in environment if "__" in key}
    embedded = _names(_embedded(tmp_path))
    # Where Connect sees the same as the flows do, and where the default is right.
    by_default = {
        "registry.converter_url",
        "connect.secrets_file",
        "postgres.port",
        "postgres.database",
        "postgres.user",
    }
    by_default |= {"s3.path_style", "postgres.connect_host"}

    assert embedded - by_default <= profile | given
    assert given <= _all_settings(), "no container gets a setting that doesn't exist"


def _all_settings() -> set[str]:
    return {
        f"{table}.{name}"
        for table, field in Settings.model_fields.items()
        for name in getattr(field.annotation, "model_fields", {})
    }


def test_connectors_are_the_same_on_both_but_for_addresses_and_converter():
    settings = {profile: load_settings(profile=profile) for profile in ("local", "docker", "ec2")}
    analytic = Analytic.load("heart_rate", 1)
    rendered = {profile: connector_configs(analytic, one) for profile, one in settings.items()}

    assert set(rendered["local"]) == set(rendered["docker"]) == set(rendered["ec2"])
    for name, config in rendered["docker"].items():
        others = {
            key for key in config if not key.startswith("value.converter") and key != "iceberg.catalog.s3.endpoint"
        }
        assert others <= set(rendered["local"][name])
        assert others <= set(rendered["ec2"][name])
        assert config["value.converter.schema.registry.url"] == settings["docker"].registry.url


def test_datagen_makes_the_events_of_the_dev_mode_on_clusters_only(monkeypatch: pytest.MonkeyPatch):
    analytic, name = Analytic.load("heart_rate", 1), "heart_rate_realtime_datagen_v1"
    assert name not in connector_configs(analytic, load_settings(profile="docker"))
    monkeypatch.setenv("HEARTWATCH_PIPELINE__MODE", "dev")
    assert name not in connector_configs(analytic, load_settings(profile="local"))
    config = connector_configs(analytic, load_settings(profile="docker"))[name]

    assert config["kafka.topic"] == analytic.topic("realtime")
    assert (config["iterations"], config["max.interval"]) == ("1000000", "100")
    copied = re.findall(r"^COPY schemas (\S+)$", (DOCKER / "Dockerfile").read_text(encoding="utf-8"), re.MULTILINE)
    inside = Path(config["schema.filename"]).relative_to(copied[0])
    fields = {one["name"] for one in json.loads((ROOT / "schemas" / inside).read_text(encoding="utf-8"))["fields"]}
    assert {config["schema.keyfield"], config["transforms.now.fields"]} <= fields


def test_secrets_that_connectors_ask_for_are_in_connects_file(system: dict[str, Any]):
    offered = set(re.findall(r"^([\w.]+)=", system["configs"]["connect-secrets"]["content"], re.MULTILINE))
    target = system["services"]["connect"]["configs"][0]["target"]
    asked: set[str] = set()
    for config in connector_configs(Analytic.load("heart_rate", 1), load_settings(profile="docker")).values():
        for value in config.values():
            for provider, path, key in re.findall(r"\$\{(\w+):([^:}]+):([^}]+)\}", value):
                assert (provider, path) == (
                    system["services"]["connect"]["environment"]["CONNECT_CONFIG_PROVIDERS"],
                    target,
                )
                asked.add(key)

    assert asked
    assert asked <= offered


def test_the_dockerfile_linter_finds_nothing():
    result = subprocess.run([BIN / "hadolint", DOCKER / "Dockerfile"], capture_output=True, text=True, check=False)

    assert result.stdout == ""
    assert result.returncode == 0


def test_each_image_of_ours_installs_the_lock_file_of_its_role(system: dict[str, Any]):
    built = {
        service["image"].split(":")[0]: service["build"]["args"]["ROLE"]
        for _, service in services(system)
        if service.get("build", {}).get("target") == "heartwatch"
    }

    assert built == {f"heartwatch/{role}": role for role in ("producer", "website", "worker")}
    assert all((ROOT / f"requirements/{role}.lock").exists() for role in built.values())
