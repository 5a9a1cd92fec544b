"""The sender of heartbeats."""

from __future__ import annotations

import sys
import time
from dataclasses import dataclass
from pathlib import Path

from heartwatch.platform.services.base import Context, NotHealthyError, Part
from heartwatch.settings import ROOT

_STALE_SECONDS = 60.0


@dataclass
class HeartbeatPart(Part):
    """The process that keeps the windows of quiet partitions from waiting (`heartwatch heartbeat`)."""

    name: str = "heartbeat"
    group: str = "heartbeat"
    depends_on: tuple[str, ...] = ("kafka", "registry")
    memory_mib: int = 150

    def command(self, context: Context) -> list[str]:
        """Return the command line."""
        return [sys.executable, "-m", "heartwatch.cli", "heartbeat"]

    def environment(self, context: Context) -> dict[str, str]:
        """Return the configuration: addresses are in the home's files."""
        return {**super().environment(context), "HEARTWATCH_HOME": str(context.home)}

    def prepare(self, context: Context) -> None:
        """Make the data folder, without the sign of life of an earlier process."""
        context.data("heartbeat").mkdir(parents=True, exist_ok=True)
        (context.data("heartbeat") / "alive").unlink(missing_ok=True)

    def folder(self, context: Context) -> Path:
        """Return the checkout."""
        return ROOT

    def check(self, context: Context) -> None:
        """Look at its sign of life."""
        try:
            age = time.time() - (context.data("heartbeat") / "alive").stat().st_mtime
        except FileNotFoundError as error:
            raise NotHealthyError("it gave no sign of life yet") from error
        if age > _STALE_SECONDS:
            raise NotHealthyError(f"its last sign of life is {age:.0f} s old")
