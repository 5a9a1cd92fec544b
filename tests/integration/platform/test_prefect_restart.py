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
