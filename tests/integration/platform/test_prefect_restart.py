"""What a restart of Prefect's server must not forget: who holds the slots of a concurrency limit."""

from __future__ import annotations

from typing import Any

import httpx
import pytest

from heartwatch.platform.platform import Platform
from heartwatch.settings import load_settings

pytestmark = pytest.mark.parts("postgres", "prefect")


def ask(path: str, body: dict[str, Any]) -> httpx.Response:
    prefect = load_settings().prefect
    user, _, password = prefect.auth_string.get_secret_value().partition(":")
    return httpx.post(f"{prefect.api_url}{path}", json=body, auth=(user, password), timeout=30)


def test_a_slot_is_still_held_after_a_restart_of_the_server(platform: Platform) -> None:
    ask("/v2/concurrency_limits/", {"name": "one-slot", "limit": 1}).raise_for_status()
    taken = ask(
        "/v2/concurrency_limits/increment-with-lease", {"names": ["one-slot"], "slots": 1, "mode": "concurrency"}
    )
    lease = taken.raise_for_status().json()["lease_id"]

    platform.restart("prefect")

    assert ask(f"/v2/concurrency_limits/leases/{lease}/renew", {"lease_duration": 60}).status_code == 204


def test_runs_that_ended_with_their_workers_give_their_slots_back(platform: Platform) -> None:
    flow = ask("/flows/", {"name": "stopped"}).raise_for_status().json()["id"]
    body = {
        "name": "stopped",
        "flow_id": flow,
        "concurrency_limit": 1,
        "concurrency_options": {"collision_strategy": "CANCEL_NEW"},
    }
    deployment = ask("/deployments/", body).raise_for_status().json()["id"]

    def begin() -> str:
        run = ask(f"/deployments/{deployment}/create_flow_run", {}).raise_for_status().json()["id"]
        ask(f"/flow_runs/{run}/set_state", {"state": {"type": "PENDING"}}).raise_for_status()
        return str(run)

    def state(run: str) -> dict[str, Any]:
        found: dict[str, Any] = ask("/flow_runs/filter", {"flow_runs": {"id": {"any_": [run]}}}).json()[0]["state"]
        return found

    first, second = begin(), begin()
    assert (state(first)["type"], state(second)["type"]) == ("PENDING", "CANCELLED"), "the limit holds"

    platform.restart("prefect")

    assert state(first)["type"] == "CRASHED"
    assert "the platform was stopped" in state(first)["message"]
    assert state(begin())["type"] == "PENDING", "the slot is free"
