"""The sender of heartbeats."""

from __future__ import annotations

import sys
from dataclasses import dataclass
from pathlib import Path

from heartwatch.liveness import STALE_SECONDS, alive_file, silence_seconds
from heartwatch.platform.services.base import Context, NotHealthyError, Part
from heartwatch.settings import ROOT


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
        return {**super().environment(context), "HEARTWATCH_HOME": str(context.home), **context.login("heartbeat")}

    def prepare(self, context: Context) -> None:
        """Make the data folder, without the sign of life of an earlier process."""
        context.data(self.name).mkdir(parents=True, exist_ok=True)
        alive_file(context.home, self.name).unlink(missing_ok=True)

    def folder(self, context: Context) -> Path:
        """Return the checkout."""
        return ROOT

    def check(self, context: Context) -> None:
        """Look at its sign of life."""
        silence = silence_seconds(context.home, self.name)
        if silence is None:
            raise NotHealthyError("it gave no sign of life yet")
        if silence > STALE_SECONDS:
            raise NotHealthyError(f"its last sign of life is {silence:.0f} s old")
