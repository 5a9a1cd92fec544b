"""Connectors that can't work: refused with the reason, and what was there is there again."""

from __future__ import annotations

import json

import pytest
from deploying import deploy

from heartwatch.analytic import Analytic
from heartwatch.connect import Connect, InvalidConnectorError
from heartwatch.deploy import pipeline
from heartwatch.deploy.connectors import Connectors, connector_configs
from heartwatch.deploy.plan import DeployError, apply
from heartwatch.settings import Settings

pytestmark = pytest.mark.parts("kafka", "registry", "postgres", "connect", "s3", "engine")


def change_file(files: Analytic, resource: str, **entries: str) -> None:
    path = files.connectors_folder / f"{resource}.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), **entries}))


def connectors(files: Analytic, settings: Settings) -> Connectors:
    return Connectors(Connect(settings.connect), connector_configs(files, settings))


@pytest.mark.parametrize(
    ("entries", "reason"),
    [
        ({"tasks.max": "none"}, "tasks.max='none': .*Not a number"),
        ({"connector.class": "org.apache.iceberg.connect.Nothing"}, "no class 'org.apache.iceberg.connect.Nothing'"),
        ({"value.converter": "com.example.Missing"}, "value.converter='com.example.Missing': .*could not be found"),
    ],
)
def test_a_wrong_field_is_named_before_anything_is_made(
    files: Analytic, settings: Settings, entries: dict[str, str], reason: str
):
    change_file(files, "alerts_sink", **entries)
    with pytest.raises(InvalidConnectorError, match=reason):
        connectors(files, settings).plan()
    assert not set(connector_configs(files, settings)) & set(Connect(settings.connect).connectors())


def test_a_connector_whose_task_fails_is_taken_back_with_those_before_it(files: Analytic, settings: Settings):
    for stage in ("topics", "schemas"):
        deployer = pipeline.deployer(stage, settings)
        apply(deployer.plan(), deployer)
    change_file(files, "realtime_sink", **{"iceberg.catalog.jdbc.password": "wrong"})
    wanted = pipeline.deployer("connect", settings)
    broken = Connectors(Connect(settings.connect), connector_configs(files, settings), wanted._prepare)  # type: ignore[attr-defined]
    with pytest.raises(
        DeployError, match=r"realtime_sink_v\d+' failed .*password authentication failed[\s\S]*all 3 .*taken back"
    ):
        apply(broken.plan(), broken)
    assert not set(connector_configs(files, settings)) & set(Connect(settings.connect).connectors())


def test_an_update_that_fails_leaves_the_running_connector(files: Analytic, settings: Settings):
    deploy(settings)
    name, client = files.name("alerts_sink"), Connect(settings.connect)
    before = client.config(name)
    change_file(files, "alerts_sink", **{"iceberg.catalog.jdbc.password": "wrong"})
    broken = connectors(files, settings)
    planned = broken.plan()
    assert [change.resource for change in planned.needed] == [name]
    with pytest.raises(DeployError, match=r"all 1 .*taken back"):
        apply(planned, broken)
    assert client.config(name) == before
    assert client.status(name).running


def test_a_stopped_connector_is_started_again(settings: Settings):
    deploy(settings)
    client, name = Connect(settings.connect), Analytic.of(settings.pipeline).name("historical_source")
    client.stop(name)
    deployer = pipeline.deployer("connect", settings)
    planned = deployer.plan()
    assert [(one.resource, one.reason) for one in planned.needed] == [(name, "doesn't run: STOPPED, tasks none")]
    apply(planned, deployer)
    assert client.status(name).running
