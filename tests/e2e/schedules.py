"""Schedules that start nothing while tests run, and waiting for what runs make happen."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from prefect.client.orchestration import get_client
from prefect.client.schemas.filters import FlowRunFilter, FlowRunFilterState, FlowRunFilterStateType, FlowRunFilterTags
from prefect.client.schemas.objects import StateType
from prefect.settings import PREFECT_API_AUTH_STRING, PREFECT_API_URL

from heartwatch.settings import load_settings
from kafkakit.waiting import wait_until

SECONDS = 90


def wait_for(condition: Callable[[], Any], what: str, seconds: float = SECONDS) -> Any:
    """Wait until a condition gives something, and return that."""
    return wait_until(condition, seconds, 0.2, lambda: AssertionError(f"{what} did not come in {seconds} s"))


def prefect_credentials() -> tuple[str, str]:
    """Return what Prefect's API asks for."""
    user, _, password = load_settings().prefect.auth_string.get_secret_value().partition(":")
    return user, password


def prefect_settings() -> dict[Any, Any]:
    """Return what makes this process talk to the platform's Prefect server."""
    prefect = load_settings().prefect
    return {PREFECT_API_URL: prefect.api_url, PREFECT_API_AUTH_STRING: prefect.auth_string.get_secret_value()}


def pause_schedules() -> None:
    """Have no schedule start a run, and wait for those under way: what a test makes happen, the test itself finds."""
    under_way = FlowRunFilter(
        state=FlowRunFilterState(type=FlowRunFilterStateType(any_=[StateType.PENDING, StateType.RUNNING])),
        tags=FlowRunFilterTags(all_=["auto-scheduled"]),
    )
    with get_client(sync_client=True) as client:
        for deployment in client.read_deployments():
            if deployment.schedules:
                client.pause_deployment(deployment.id)
        wait_for(lambda: not client.read_flow_runs(flow_run_filter=under_way), "the end of scheduled runs")
