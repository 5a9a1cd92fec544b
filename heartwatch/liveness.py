"""The sign of life of a process that has no address to ask: a file that it touches, in its folder of data."""

from __future__ import annotations

import time
from pathlib import Path

STALE_SECONDS = 60.0
"""Age of the last sign of life from which a process no longer counts as well."""


def alive_file(home: Path, process: str) -> Path:
    """Return the file whose time of change is a process's sign of life.

    Args:
        home: the settings' folder of data.
        process: name of the process, as its part of the platform.
    """
    return home / "data" / process / "alive"


def silence_seconds(home: Path, process: str) -> float | None:
    """Return how old a process's last sign of life is, s; None before its first."""
    try:
        return time.time() - alive_file(home, process).stat().st_mtime
    except FileNotFoundError:
        return None
