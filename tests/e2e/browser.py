"""The machine's own Chromium, driven by Playwright (which would download one of its own)."""

from __future__ import annotations

import shutil

import pytest
from playwright.sync_api import Browser, Playwright

NAMES = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable")


def launch(playwright: Playwright) -> Browser:
    """Start a browser; skip the test on a machine without one."""
    path = next(filter(None, map(shutil.which, NAMES)), None)
    if path is None:
        pytest.skip("no Chromium on this machine; `make debian-packages` installs it")
    # A container's root has no user namespaces and little shared memory.
    return playwright.chromium.launch(executable_path=path, args=["--no-sandbox", "--disable-dev-shm-usage"])
