"""Prefect's UI, in a real browser: a person sees the deployments, the runs and what they found."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path
from urllib.parse import urlsplit

import pytest
from browser import launch
from playwright.sync_api import Page, expect, sync_playwright
from prefect.client.orchestration import get_client
from prefect.client.schemas.filters import (
    FlowRunFilter,
    FlowRunFilterDeploymentId,
    FlowRunFilterState,
    FlowRunFilterStateType,
    FlowRunFilterTags,
)
from prefect.client.schemas.objects import FlowRun, StateType
from prefect.deployments import run_deployment
from schedules import wait_for

from heartwatch.platform.platform import Platform
from heartwatch.settings import load_settings

pytestmark = pytest.mark.parts("kafka", "registry", "postgres", "connect", "s3", "engine", "prefect", "workers")

WAIT_MS = 30_000


def test_schedules_start_runs_by_themselves(deployed: Platform) -> None:
    scheduled = FlowRunFilter(
        deployment_id=FlowRunFilterDeploymentId(is_null_=False),
        state=FlowRunFilterState(type=FlowRunFilterStateType(any_=[StateType.COMPLETED])),
        tags=FlowRunFilterTags(all_=["auto-scheduled"]),
    )
    with get_client(sync_client=True) as client:
        before = {run.id for run in client.read_flow_runs(flow_run_filter=scheduled)}
        every_minute = client.read_deployment_by_name("verify-throughput/verify-throughput").id
        client.resume_deployment(every_minute)
        runs = wait_for(
            lambda: [run for run in client.read_flow_runs(flow_run_filter=scheduled) if run.id not in before],
            "a scheduled run's end",
            150,
        )
        client.pause_deployment(every_minute)
    assert runs[0].auto_scheduled


@pytest.fixture(scope="module")
def run(deployed: Platform) -> FlowRun:
    """A finished run of a deployment that leaves an artifact."""
    found = run_deployment("generate-historical/generate-historical", parameters={"people": 250}, timeout=120)
    assert isinstance(found, FlowRun)
    assert found.state is not None
    assert found.state.is_completed(), found.state.message
    return found


@pytest.fixture(scope="module")
def requested() -> list[str]:
    """The addresses that the browser asked."""
    return []


@pytest.fixture(scope="module")
def page(run: FlowRun, requested: list[str]) -> Iterator[Page]:
    """A browser's page, opened after the run: Prefect takes Playwright's event loop for its own."""
    with sync_playwright() as playwright, launch(playwright) as browser:
        page = browser.new_page(viewport={"width": 1400, "height": 1000})
        page.set_default_timeout(WAIT_MS)
        page.on("request", lambda request: requested.append(request.url))
        yield page


def ui(path: str) -> str:
    """Return the address of one of the UI's pages."""
    return load_settings().prefect.api_url.removesuffix("/api") + path


def test_a_run_can_not_bring_a_command_of_its_own(deployed: Platform, tmp_path: Path) -> None:
    # Before the browser, whose event loop Prefect would take for its own.
    left = tmp_path / "left"
    found = run_deployment(
        "generate-historical/generate-historical",
        parameters={"people": 10},
        job_variables={
            "command": f"touch {left}",
            "env": {"HEARTWATCH_HOME": str(tmp_path)},
            "working_dir": str(tmp_path),
        },
        timeout=120,
    )
    assert isinstance(found, FlowRun)
    assert found.state is not None
    assert found.state.is_completed(), found.state.message
    assert not left.exists()
    assert list(tmp_path.iterdir()) == []


def test_the_pages_ask_for_the_password(page: Page, run: FlowRun) -> None:
    page.goto(ui("/dashboard"))
    page.locator("input[type=password]").fill("heartwatch:guessed")
    page.get_by_role("button", name="Login").click()
    expect(page.get_by_text("Authentication failed").first).to_be_visible(timeout=WAIT_MS)
    page.locator("input[type=password]").fill(load_settings().prefect.auth_string.get_secret_value())
    page.get_by_role("button", name="Login").click()
    expect(page.get_by_text("Flow Runs").first).to_be_visible(timeout=WAIT_MS)


def test_every_deployment_is_listed(page: Page, run: FlowRun) -> None:
    page.goto(ui("/deployments"))
    expect(page.get_by_text("generate-historical").first).to_be_visible(timeout=WAIT_MS)
    expect(page.get_by_text(re.compile(r"^\d+ Deployments$")).first).to_be_visible(timeout=WAIT_MS)


def test_a_run_shows_its_artifact_and_its_log(page: Page, run: FlowRun) -> None:
    page.goto(ui(f"/runs/flow-run/{run.id}"))
    expect(page.get_by_text(run.name).first).to_be_visible(timeout=WAIT_MS)
    page.goto(ui("/artifacts/key/generate-historical"))
    expect(page.get_by_text("250").first).to_be_visible(timeout=WAIT_MS)


def test_the_page_asks_no_other_host(page: Page, run: FlowRun, requested: list[str]) -> None:
    page.goto(ui("/dashboard"))
    expect(page.get_by_text("Flow Runs").first).to_be_visible(timeout=WAIT_MS)
    hosts = {urlsplit(url).netloc for url in requested if not url.startswith(("data:", "blob:"))}
    assert hosts == {urlsplit(ui("/")).netloc}
