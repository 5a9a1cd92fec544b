"""How long a browser takes to load the live page: the first time, and again with what it has kept.

Run against a platform that is up (`heartwatch up`), on a quiet machine:

    python -m benchmarks.web_load

The figures are the browser's own (Navigation Timing): the end of its load event, and when the page's first content and its first
chart were in the document, all in ms from the start of the navigation.
"""

from __future__ import annotations

import argparse
import statistics
from typing import Any

from playwright.sync_api import Browser, sync_playwright

from heartwatch.platform.platform import Platform
from heartwatch.settings import load_settings

CHROMIUM = "/usr/bin/chromium"
_NOTE = """
const seen = window.seen = {};
new MutationObserver(() => {
  for (const [name, selector] of [["content", "h1"], ["chart", ".chart svg path"]]) {
    if (!(name in seen) && document.querySelector(selector)) seen[name] = performance.now();
  }
}).observe(document, {childList: true, subtree: true});
"""
_FIGURES = "({...window.seen, load: performance.getEntriesByType('navigation')[0].loadEventEnd})"


def loads(browser: Browser, address: str) -> tuple[dict[str, Any], dict[str, Any]]:
    """Return the figures of a first visit and of a second one."""
    context = browser.new_context(viewport={"width": 1440, "height": 900})
    context.add_init_script(_NOTE)
    page = context.new_page()
    found = []
    for _ in range(2):
        page.goto(address)
        page.wait_for_selector(".chart svg path", state="attached")
        page.wait_for_function("performance.getEntriesByType('navigation')[0].loadEventEnd > 0")
        found.append(page.evaluate(_FIGURES))
    context.close()
    return found[0], found[1]


def main() -> None:
    """Run and print the report."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--times", type=int, default=5)
    options = parser.parse_args()
    address = next(one.address for one in Platform(load_settings().home).status() if one.name == "web")
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        pairs = [loads(browser, address) for _ in range(options.times)]
        browser.close()
    for name, visits in zip(("first visit", "second visit"), zip(*pairs, strict=True), strict=True):
        figures = {key: statistics.median(visit[key] for visit in visits) for key in ("content", "chart", "load")}
        print(f"{name:<13} " + ", ".join(f"{key} {value:,.0f} ms" for key, value in figures.items()))


if __name__ == "__main__":
    main()
