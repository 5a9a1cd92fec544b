"""The live page in a real browser, on the real platform: what it shows, who may act, and that everybody can use it.

Screenshots of every page at three sizes are left in the folder that HEARTWATCH_SCREENSHOTS names, where it is set.
"""

from __future__ import annotations

import contextlib
import os
import re
import signal
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import httpx
import pytest
from axe_playwright_python.sync_playwright import Axe
from playwright.sync_api import Browser, BrowserContext, Page, Request, expect, sync_playwright
from prefect.client.schemas.objects import FlowRun
from prefect.deployments import run_deployment
from schedules import prefect_credentials, wait_for

from heartwatch.analytic import Analytic
from heartwatch.platform.platform import Platform
from heartwatch.settings import load_settings
from kafkakit.admin import KafkaAdmin, KafkaClientError
from ksqlengine.client.rest_client import Ksqldb

pytestmark = pytest.mark.parts("kafka", "registry", "postgres", "connect", "s3", "engine", "prefect", "workers", "web")

CHROMIUM = "/usr/bin/chromium"
SIZES = {"phone": (390, 844), "desk": (1280, 800), "wall": (2560, 1440)}
PAGES = ("/", "/alerts", "/places", "/operate")
WAIT_MS = 60_000
RUN_SECONDS = 600


@pytest.fixture(scope="module")
def address(deployed: Platform) -> str:
    """Where the page is, with alerts to show: the whole pipeline has run, in an earlier module or now."""
    if not alerts_there():
        small = {"people": 2_000, "events": 80_000}
        found = run_deployment("heart-watch/heart-watch", parameters=small, timeout=RUN_SECONDS, poll_interval=1)
        assert isinstance(found, FlowRun)
        assert found.state is not None
        assert found.state.is_completed(), found.state.message
    return next(status.address for status in deployed.status() if status.name == "web")


def alerts_there() -> bool:
    """Tell whether the pipeline has found somebody."""
    settings = load_settings()
    with contextlib.suppress(KafkaClientError):
        return any(
            KafkaAdmin(settings.kafka).offsets([Analytic.of(settings.pipeline).topic("alerts")], "latest").values()
        )
    return False


@pytest.fixture(scope="module")
def browser(address: str) -> Iterator[Browser]:
    """A browser; Prefect's functions are coroutines while its event loop runs, so that it comes after all that needs them."""
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        yield browser
        browser.close()


class Visit:
    """A browser window that takes note of what must not happen: requests elsewhere, and errors."""

    def __init__(self, browser: Browser, address: str, size: str = "desk", dark: bool = False) -> None:
        width, height = SIZES[size]
        self.context: BrowserContext = browser.new_context(
            viewport={"width": width, "height": height}, color_scheme="dark" if dark else "light"
        )
        self.page: Page = self.context.new_page()
        self.page.set_default_timeout(WAIT_MS)
        self.strangers: list[str] = []
        self.errors: list[str] = []
        self._address, self._host = address, urlsplit(address).netloc
        self.page.on("request", self._look)
        self.page.on("websocket", lambda socket: self._look_at(socket.url))
        self.page.on("pageerror", lambda error: self.errors.append(str(error)))
        self.page.on("console", lambda message: self.errors.append(message.text) if message.type == "error" else None)

    def _look(self, request: Request) -> None:
        self._look_at(request.url)

    def _look_at(self, url: str) -> None:
        parts = urlsplit(url)
        if parts.scheme not in {"data", "blob"} and parts.netloc != self._host:
            self.strangers.append(url)

    def open(self, path: str) -> Page:
        """Go to a page and wait until it is live."""
        self.page.goto(f"{self._address}{path}")
        self.page.wait_for_selector("h1")
        self.page.wait_for_function("window.did_handshake === true")
        return self.page

    def close(self) -> None:
        """Close the window; nothing that must not happen has happened."""
        self.context.close()
        assert not self.strangers, "the page asks other hosts"
        assert not self.errors


@pytest.fixture
def visit(browser: Browser, address: str) -> Iterator[Visit]:
    visit = Visit(browser, address)
    yield visit
    visit.close()


def people(visit: Visit) -> Page:
    """Open the alerts and wait for the first person."""
    page = visit.open("/alerts")
    page.wait_for_selector("table.alerts tbody tr")
    return page


def test_the_overview_shows_what_the_parts_say(visit: Visit) -> None:
    page = visit.open("/")
    statistics = Ksqldb(load_settings().ksqldb).describe("HEART_RATE_REALTIME_V1").statistics
    expect(page.get_by_role("region", name="First stream")).to_contain_text(f"{statistics.consumed:,}", timeout=WAIT_MS)
    for region, text in {
        "Brokers and partitions": "heart_rate_realtime_v1",
        "Connectors and queries": "heart_rate_alerts_sink_v1",
        "Workers": "orchestration-1",
        "Clusters and cost": "r5a.large",
        "Sink verification": "verified",
        "Stages": "realtime sink",
    }.items():
        expect(page.get_by_role("region", name=region, exact=True)).to_contain_text(text, timeout=WAIT_MS)
    link = page.get_by_role("region", name="Latest flow runs", exact=True).get_by_role("link").first
    assert str(link.get_attribute("href")).startswith(str(load_settings().prefect.api_url).removesuffix("/api"))
    # Nobody sees a chart that isn't drawn.
    assert page.locator(".chart svg path").count() > 4
    # What a browser without any of it loads; how long that takes depends on the machine (benchmarks.web_load).
    loaded = page.evaluate("performance.getEntriesByType('resource').map(one => one.transferSize)")
    assert len(loaded) < 30
    assert 100_000 < sum(loaded) < 1_200_000


def test_alerts_are_found_and_lead_to_people_without_saying_who_in_the_address(visit: Visit) -> None:
    page = people(visit)
    first = page.locator("table.alerts tbody tr").first
    subject, area = first.locator("th").inner_text(), first.locator("td").nth(1).inner_text()
    page.get_by_label("Person or zip code").fill(area)
    # After a replayed workout all alerts may be of one area.
    areas = "[...document.querySelectorAll('table.alerts tbody tr td:nth-of-type(2)')]"
    page.wait_for_function(f"area => {areas}.length > 0 && {areas}.every(cell => cell.innerText === area)", arg=area)
    assert set(page.locator("table.alerts tbody tr td:nth-of-type(2)").all_inner_texts()) == {area}
    page.get_by_label("Person or zip code").fill("nobody at all")
    expect(page.get_by_text("No matches")).to_be_visible()
    page.get_by_label("Person or zip code").fill(subject)
    page.get_by_role("link", name=subject, exact=True).first.click()
    expect(page.get_by_role("heading", level=1)).to_have_text(f"Person {subject}")
    assert urlsplit(page.url).path.split("/")[1:-1] == ["person"]
    assert subject != urlsplit(page.url).path.split("/")[-1]
    assert len(urlsplit(page.url).path) > len("/person/") + 20, "a token, drawn at random"
    expect(page.get_by_role("region", name="Now")).to_contain_text("beats/min", timeout=WAIT_MS)
    expect(page.get_by_role("region", name="Now")).to_contain_text(re.compile(r"\d\d:\d\d:\d\d"))
    assert page.locator(".chart svg path").count() > 4
    visit.page.goto(page.url[:-4] + "xxxx")
    expect(page.get_by_text("This link is no longer valid")).to_be_visible()


def test_tables_and_charts_can_be_saved_and_the_page_printed(visit: Visit, tmp_path: Path) -> None:
    page = people(visit)
    with page.expect_download() as download:
        page.get_by_role("button", name="Save alerts as CSV").click()
    lines = Path(download.value.path()).read_text().splitlines()
    assert lines[0].startswith("who,zip code,since")
    assert len(lines) > 1
    visit.open("/")
    page.wait_for_selector(".chart svg text")
    with page.expect_download() as download:
        page.get_by_role("button", name="Save First stream as an image").click()
    assert "<svg" in Path(download.value.path()).read_text()
    paper = tmp_path / "page.pdf"
    page.pdf(path=paper)
    assert paper.read_bytes().startswith(b"%PDF")
    assert paper.stat().st_size > 20_000


def test_without_the_secret_everything_is_for_looking_only(visit: Visit, address: str) -> None:
    page = visit.open("/operate")
    for name in ("Run", "Stop producers", "Run statement"):
        expect(page.get_by_role("button", name=name, exact=True)).to_have_count(0)
    page.get_by_label("Secret").fill("a guess")
    page.get_by_role("button", name="Sign in").click()
    expect(page.get_by_role("alert")).to_contain_text("Wrong secret")
    with httpx.Client(base_url=address, trust_env=False) as client:
        # Not even with the secret from another site, whose requests carry no cookie and no form's token.
        secret = load_settings().web.secret.get_secret_value()
        answer = client.post("/sign-in", data={"secret": secret})
        assert answer.headers["location"].endswith("problem=secret")
        assert "set-cookie" not in answer.headers
        cookie = client.get("/operate").headers["set-cookie"]
        assert {"HttpOnly", "SameSite=Strict"} <= set(cookie.split("; "))
        assert client.get("/", headers={"Host": "evil.example"}).status_code == 400
        policy = client.get("/").headers["content-security-policy"]
        assert "default-src 'self'" in policy
        assert "http" not in policy


def test_who_has_the_secret_runs_stops_and_asks_ksql(visit: Visit) -> None:
    page = visit.open("/operate")
    page.get_by_label("Secret").fill(load_settings().web.secret.get_secret_value())
    page.get_by_role("button", name="Sign in").click()
    statement = page.get_by_label("Statement")
    page.wait_for_function("window.did_handshake === true")
    statement.fill("SHOW STREAMS;")
    page.get_by_role("button", name="Run statement").click()
    expect(page.get_by_role("region", name="KSQL", exact=True)).to_contain_text(
        "HEART_RATE_REALTIME_V1", timeout=WAIT_MS
    )
    statement.fill("SELECT nothing;")
    page.get_by_role("button", name="Run statement").click()
    expect(page.get_by_role("alert")).to_contain_text("KSQL refused the statement")
    page.get_by_label("Producers only").click()
    page.get_by_label("Events", exact=True).fill("100")
    page.get_by_label("Events per second (empty: no limit)").fill("2000")
    page.get_by_role("button", name="Run", exact=True).click()
    started = page.get_by_role("region", name="Run", exact=True).get_by_role("link")
    run_id = str(started.get_attribute("href", timeout=WAIT_MS)).rsplit("/", 1)[1]
    ordered = prefect(f"/flow_runs/{run_id}")
    assert (ordered["parameters"]["events"], ordered["parameters"]["events_per_second"]) == (100, 2_000)
    # The run itself lets producers send again when it begins: it has to be over.
    wait_for(lambda: prefect(f"/flow_runs/{run_id}")["state_type"] == "COMPLETED", "the run's end", RUN_SECONDS)
    page.get_by_role("button", name="Stop producers").click()
    expect(page.get_by_text("Stop requested.")).to_be_visible()
    assert str(prefect("/variables/name/producer_run")["value"]) == "0"
    # Whose session ends in another window can't do anything in this one.
    other = visit.context.new_page()
    other.goto(page.url)
    other.get_by_role("button", name="Sign out").click()
    other.wait_for_selector("#secret")
    page.get_by_role("button", name="Stop producers").click()
    expect(page.get_by_role("alert").filter(has_text="not signed in")).to_be_visible()


def prefect(path: str) -> dict[str, Any]:
    """Return something as Prefect has it."""
    answer = httpx.get(f"{load_settings().prefect.api_url}{path}", timeout=30, auth=prefect_credentials())
    found: dict[str, Any] = answer.raise_for_status().json()
    return found


def test_parts_that_are_down_are_named_and_the_page_goes_on_by_itself(visit: Visit, deployed: Platform) -> None:
    page = visit.open("/")
    expect(page.get_by_text("all parts up")).to_be_visible(timeout=WAIT_MS)
    for part in ("connect", "s3"):
        deployed.kill(part, signal.SIGSTOP)
    try:
        banner = page.locator(".banner")
        expect(banner).to_contain_text("2 parts of the platform are not responding", timeout=WAIT_MS)
        expect(banner).to_contain_text(re.compile(r"Connect since \d\d:\d\d:\d\d"))
        expect(banner).to_contain_text(re.compile(r"S3 since \d\d:\d\d:\d\d"))
        connectors = page.get_by_role("region", name="Connectors and queries")
        expect(connectors).to_contain_text("Last known state: Connect is not responding")
        assert connectors.inner_text().count("running")
    finally:
        for part in ("connect", "s3"):
            deployed.kill(part, signal.SIGCONT)
    expect(page.get_by_text("all parts up")).to_be_visible(timeout=WAIT_MS)
    expect(page.locator(".banner")).to_have_count(0)


@pytest.mark.parametrize("size", SIZES)
def test_everybody_can_use_it_on_every_screen(browser: Browser, address: str, size: str) -> None:
    """No serious finding of axe-core, light and dark; nothing wider than the screen; the keyboard gets everywhere."""
    visit = Visit(browser, address, size, dark=size == "wall")
    page = people(visit)
    person = page.locator("table.alerts a").first.get_attribute("href")
    for path in (*PAGES, str(person)):
        visit.open(path)
        page.wait_for_selector(".chart svg text" if path in {"/", "/places", person} else "h2")
        wide = page.evaluate("document.documentElement.scrollWidth - document.documentElement.clientWidth")
        assert wide <= 0, f"{path} is wider than the screen"
        if folder := os.environ.get("HEARTWATCH_SCREENSHOTS"):
            name = path.strip("/").split("/")[0] or "overview"
            page.screenshot(path=Path(folder) / f"{name}-{size}.png", full_page=True)
        for look in ("light", "dark") if size == "desk" else ("dark" if size == "wall" else "light",):
            page.emulate_media(color_scheme=look)
            found = Axe().run(page)
            serious = [one for one in found.response["violations"] if one["impact"] in {"serious", "critical"}]
            assert not serious, [
                (path, look, one["id"], [node["html"][:200] for node in one["nodes"]]) for one in serious
            ]
    page.keyboard.press("Tab")
    assert page.evaluate("document.activeElement.textContent") == "Skip to content"
    button = page.get_by_role("button", name="Switch between light and dark")
    while not button.evaluate("node => node === document.activeElement"):
        page.keyboard.press("Tab")
    assert button.evaluate("node => getComputedStyle(node).outlineStyle") == "solid", (
        "who uses keys sees where they are"
    )
    dark = "document.body.classList.contains('body--dark')"
    was_dark = page.evaluate(dark)
    page.keyboard.press("Enter")
    assert page.evaluate(dark) is not was_dark
    visit.open("/")
    assert page.evaluate(dark) is not was_dark, "what was chosen holds on the next page"
    visit.close()
