"""prefect.yaml against Prefect's own model of it, and against the flows that it names."""

from __future__ import annotations

import importlib
import re
from typing import Any
from zoneinfo import ZoneInfo

import pytest
import yaml
from prefect import Flow
from prefect.cli.deploy._models import ConcurrencyLimitSpec, DeploymentConfig, PrefectYamlModel, RawScheduleConfig
from prefect.client.schemas.objects import ConcurrencyLimitStrategy
from prefect.client.schemas.schedules import CronSchedule
from pydantic import BaseModel

from heartwatch.settings import ROOT, PrefectSettings

CONTENT: dict[str, Any] = yaml.safe_load((ROOT / "prefect.yaml").read_text(encoding="utf-8"))
DEPLOYMENTS: list[dict[str, Any]] = CONTENT["deployments"]
NO_DEPLOYMENT = {"__init__", "demo"}


def named(deployments: list[dict[str, Any]]) -> list[Any]:
    return [pytest.param(one, id=one["name"]) for one in deployments]


def unknown_keys(content: dict[str, Any], model: type[BaseModel]) -> set[str]:
    known = set(model.model_fields) | {field.alias for field in model.model_fields.values()}
    return set(content) - known - {"definitions"}


def test_prefects_model_takes_it_and_drops_no_key() -> None:
    PrefectYamlModel.model_validate(CONTENT)
    assert unknown_keys(CONTENT, PrefectYamlModel) == set()
    for deployment in DEPLOYMENTS:
        assert unknown_keys(deployment, DeploymentConfig) == set(), deployment["name"]
        assert unknown_keys(deployment.get("concurrency_limit") or {}, ConcurrencyLimitSpec) == set()
        for schedule in deployment.get("schedules", []):
            assert unknown_keys(schedule, RawScheduleConfig) == set()


def test_each_flow_has_one_deployment() -> None:
    flows = {path.stem for path in (ROOT / "flows").glob("*.py")} - NO_DEPLOYMENT
    names = [deployment["name"] for deployment in DEPLOYMENTS]
    assert sorted(names) == sorted(name.replace("_", "-") for name in flows)


@pytest.mark.parametrize("deployment", named(DEPLOYMENTS))
def test_file_flow_and_deployment_share_their_name(deployment: dict[str, Any]) -> None:
    module, function = deployment["entrypoint"].rsplit(".", 1)
    found = getattr(importlib.import_module(module), function)
    assert isinstance(found, Flow)
    assert found.name == deployment["name"]
    assert module == f"flows.{deployment['name'].replace('-', '_')}"
    assert deployment["description"].endswith(".")
    assert deployment["tags"]


@pytest.mark.parametrize("deployment", named(DEPLOYMENTS))
def test_parameters_fit_the_flow(deployment: dict[str, Any]) -> None:
    module, function = deployment["entrypoint"].rsplit(".", 1)
    flow: Flow[..., Any] = getattr(importlib.import_module(module), function)
    given = deployment.get("parameters", {})
    assert set(given) <= set(flow.parameters.properties)
    flow.validate_parameters(given | {name: example(flow, name) for name in set(flow.parameters.required) - set(given)})
    for schedule in deployment.get("schedules", []):
        assert set(schedule.get("parameters", {})) <= set(flow.parameters.properties)
        flow.validate_parameters(given | schedule.get("parameters", {}))


def example(flow: Flow[..., Any], name: str) -> Any:
    """Only a producer run's description has no default."""
    assert (flow.name, name) == ("produce-shard", "spec")
    return {"run_id": "r"}


@pytest.mark.parametrize("deployment", named(DEPLOYMENTS))
def test_it_runs_in_a_pool_that_the_platform_makes(deployment: dict[str, Any]) -> None:
    settings = PrefectSettings()
    expected = settings.producers_pool if deployment["name"] == "produce-shard" else settings.orchestration_pool
    assert deployment["work_pool"]["name"] == expected


@pytest.mark.parametrize("deployment", named([one for one in DEPLOYMENTS if "concurrency_limit" in one]))
def test_limits_say_what_happens_to_the_second_run(deployment: dict[str, Any]) -> None:
    limit = deployment["concurrency_limit"]
    assert limit["limit"] >= 1
    assert limit["collision_strategy"] in {strategy.value for strategy in ConcurrencyLimitStrategy}


def test_a_proof_on_demand_waits_for_another_and_a_scheduled_one_is_skipped() -> None:
    (proof,) = [one for one in DEPLOYMENTS if one["name"] == "verify-sink"]
    assert "concurrency_limit" not in proof, "it would cancel what somebody asked for"
    assert [schedule["parameters"] for schedule in proof["schedules"]] == [{"wait_seconds": 0}]


def test_schedules_have_slugs_zones_comments_and_different_minutes() -> None:
    text = (ROOT / "prefect.yaml").read_text(encoding="utf-8")
    schedules = [(one["name"], schedule) for one in DEPLOYMENTS for schedule in one.get("schedules", [])]
    assert {name for name, _ in schedules} >= {"verify-sink", "verify-throughput"}
    assert text.count("- cron:") == len(re.findall(r"#[^\n]+\n\s+- cron:", text)), "a comment over each"
    for _, schedule in schedules:
        assert schedule["slug"]
        assert ZoneInfo(schedule["timezone"])
        CronSchedule(cron=schedule["cron"], timezone=schedule["timezone"])
    assert len({schedule["cron"] for _, schedule in schedules}) == len(schedules)


def test_no_path_of_a_machine_is_baked_in() -> None:
    assert CONTENT["pull"] == []
    assert all("pull" not in deployment for deployment in DEPLOYMENTS)
    assert not re.search(
        r"(^|[\s\"'])/(home|root|work|tmp|Users|opt)/", (ROOT / "prefect.yaml").read_text(encoding="utf-8")
    )
