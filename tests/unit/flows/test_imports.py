"""Flows that are scheduled every minute or two start quickly: they load nothing of the checks that read whole topics."""

from __future__ import annotations

import subprocess
import sys

import pytest

from heartwatch.settings import ROOT

SLOW = {"duckdb", "matplotlib", "polars", "pyiceberg"}


@pytest.mark.parametrize("module", ["flows.verify_throughput", "flows.watch_health"])
def test_a_check_of_every_minute_imports_nothing_slow(module: str) -> None:
    code = f"import sys, {module}; print(sorted({SLOW} & sys.modules.keys()))"
    found = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    assert found.stdout.strip() == "[]"
