"""The flows as Prefect runs them: all stages or none, dry runs by default where something goes, and what people see."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from deploying import plan
from prefect.blocks.system import Secret
from prefect.client.orchestration import get_client
from prefect.client.schemas.filters import ArtifactFilter, ArtifactFilterKey
from prefect.testing.utilities import prefect_test_harness

from flows.deploy_pipeline import deploy_pipeline
from flows.generate_historical import generate_historical
from flows.load_historical import load_historical
from flows.teardown_pipeline import teardown_pipeline
from heartwatch.deploy.plan import DeployError
from heartwatch.deploy.target import Target
from heartwatch.settings import Settings, SettingsError, load_settings

pytestmark = pytest.mark.parts("kafka", "registry", "postgres", "connect", "s3", "engine")


@pytest.fixture(scope="module", autouse=True)
def _prefect() -> Iterator[None]:
    with prefect_test_harness(server_startup_timeout=180):
        yield


@pytest.fixture
def target(settings: Settings) -> Target:
    return Target(version=settings.pipeline.version)


def artifact(key: str) -> str:
    wanted = ArtifactFilter(key=ArtifactFilterKey(any_=[key]))
    with get_client(sync_client=True) as client:
        found = client.read_artifacts(artifact_filter=wanted)
    return str(max(found, key=lambda one: one.created).data)


def actions(target: Target) -> set[str]:
    return {change.action for change in plan(target.settings()).changes}


def test_settings_take_secrets_from_a_block_that_the_environment_names(monkeypatch: pytest.MonkeyPatch):
    Secret(value={"web": {"secret": "hidden-one"}, "kafka": {"sasl_password": "hidden-two"}}).save("ours", _sync=True)
    Secret(value="hidden-three").save("wrong", _sync=True)
    assert load_settings().kafka.sasl_password.get_secret_value() == ""
    monkeypatch.setenv("HEARTWATCH_SECRETS_BLOCK", "ours")
    settings = load_settings()
    assert settings.kafka.sasl_password.get_secret_value() == "hidden-two"
    assert settings.web.secret.get_secret_value() == "hidden-one"
    assert "hidden" not in repr(settings)
    monkeypatch.setenv("HEARTWATCH_KAFKA__SASL_PASSWORD", "nearer")
    assert load_settings().kafka.sasl_password.get_secret_value() == "nearer"
    for name, said in (("none", "there is no such block"), ("wrong", "holds str; it must be an object")):
        monkeypatch.setenv("HEARTWATCH_SECRETS_BLOCK", name)
        with pytest.raises(SettingsError, match=said) as caught:
            load_settings()
        assert "hidden" not in str(caught.value)


def test_a_stage_that_fails_takes_back_the_stages_before_it(target: Target):
    broken = target.model_copy(update={"variables": {"minimum_events": "two"}})
    with pytest.raises(
        DeployError, match=r"V000003__alerts.sql[\s\S]*connect: all 3 .*\nschemas: all 3 .*\ntopics: all 8 "
    ):
        deploy_pipeline(broken)
    assert actions(target) == {"create"}


def test_deploy_and_tear_down(target: Target):
    assert deploy_pipeline(target, dry_run=True).summary() == "17 create"
    assert actions(target) == {"create"}
    assert deploy_pipeline(target).summary() == "17 create"
    assert "V000003__alerts.sql" in artifact("deploy-ksql")
    assert deploy_pipeline(target).changes == ()
    assert teardown_pipeline(target).summary() == teardown_pipeline(target).summary()
    assert actions(target) == {"unchanged"}
    teardown_pipeline(target, dry_run=False)
    assert actions(target) == {"create"}
    assert teardown_pipeline(target).changes == ()


def test_ranges_are_generated_and_loaded(tmp_path: Path):
    generated = generate_historical(people=500)
    first = load_historical(delete_missing=True)
    assert (generated.rows, first.read, first.inserted + first.updated + first.unchanged) == (500, 500, 500)
    again = load_historical()
    assert (again.unchanged, again.inserted, again.updated) == (500, 0, 0)
    path = tmp_path / "ranges.csv"
    path.write_text("user_id,min_heart_rate,max_heart_rate\n1,51,107\n2,oops,108\n")
    report = load_historical("file", path)
    assert (report.read, report.rejected, report.reasons) == (1, 1, {"min_heart_rate not a whole number": 1})
    assert report.rejects == load_settings().home / "rejects" / "load-historical.jsonl"
    assert "rejected: min_heart_rate not a whole number" in artifact("load-historical")


def test_a_source_without_its_path_is_refused():
    with pytest.raises(ValueError, match="give a path with source='file'"):
        load_historical("file")
