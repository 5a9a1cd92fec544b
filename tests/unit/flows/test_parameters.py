"""What Prefect's form says of the flows' parameters: it takes that from the docstring's Args, not from Field."""

from __future__ import annotations

import importlib
import inspect
from typing import Any

import pytest
import yaml
from prefect import Flow

from heartwatch.settings import ROOT

DEPLOYMENTS: list[dict[str, Any]] = yaml.safe_load((ROOT / "prefect.yaml").read_text(encoding="utf-8"))["deployments"]
UNITS = {"seconds": ", s", "ms": ", ms", "events_per_second": "events/s"}


def flow_of(deployment: dict[str, Any]) -> Flow[..., Any]:
    module, function = deployment["entrypoint"].rsplit(".", 1)
    flow: Flow[..., Any] = getattr(importlib.import_module(module), function)
    return flow


PARAMETERS = [
    pytest.param(flow_of(deployment), name, id=f"{deployment['name']}-{name}")
    for deployment in DEPLOYMENTS
    for name in inspect.signature(flow_of(deployment).fn).parameters
]


@pytest.mark.parametrize(("flow", "name"), PARAMETERS)
def test_every_parameter_is_described_in_sentences(flow: Flow[..., Any], name: str) -> None:
    described = flow.parameters.properties[name].get("description", "")
    assert described[:1].isupper() or described.startswith("`"), f"{flow.name}: {name}: {described!r}"
    assert described.endswith(".")


@pytest.mark.parametrize(("flow", "name"), PARAMETERS)
def test_a_parameter_with_a_unit_says_it(flow: Flow[..., Any], name: str) -> None:
    for suffix, unit in UNITS.items():
        if name == suffix or name.endswith(f"_{suffix}"):
            assert unit in flow.parameters.properties[name]["description"]
            break


@pytest.mark.parametrize("deployment", DEPLOYMENTS, ids=[deployment["name"] for deployment in DEPLOYMENTS])
def test_nothing_is_described_that_is_not_a_parameter(deployment: dict[str, Any]) -> None:
    flow = flow_of(deployment)
    arguments = (inspect.getdoc(flow.fn) or "").partition("Args:\n")[2].partition("\n\n")[0]
    names = [
        line.strip().partition(":")[0] for line in arguments.splitlines() if line.startswith("    ") and line[4] != " "
    ]
    assert names == list(inspect.signature(flow.fn).parameters)
