"""A query may end at any moment of its beginning."""

from __future__ import annotations

import subprocess
import sys
import time
from pathlib import Path

import pytest

from heartwatch.settings import Settings

pytestmark = pytest.mark.parts("kafka", "registry")


def test_a_query_ends_while_its_group_assigns_the_partitions(settings: Settings, tmp_path: Path) -> None:
    """A client that was closed just then froze the whole process, the server's answers too (librdkafka issue 4884)."""
    script = Path(__file__).with_name("ending_queries.py")
    command = [sys.executable, str(script), f"ending_{time.time_ns()}_", str(tmp_path / "engine")]
    subprocess.run(command, check=True, timeout=180)
