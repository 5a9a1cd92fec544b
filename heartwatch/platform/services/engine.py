"""The embedded KSQL engine."""

from __future__ import annotations

import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx

from heartwatch.platform.services.base import Context, HttpPart, NotHealthyError, client
from heartwatch.platform.services.registry import api
from heartwatch.settings import ROOT


@dataclass
class EnginePart(HttpPart):
    """The engine's server process."""

    name: str = "engine"
    group: str = "engine"
    depends_on: tuple[str, ...] = ("kafka", "registry")
    port_names: tuple[str, ...] = ("engine",)
    memory_mib: int = 600
    health_path: str = "/healthcheck"

    def command(self, context: Context) -> list[str]:
        """Return the command line."""
        return [
            *(sys.executable, "-m", "ksqlengine", "server"),
            *("--listen", context.address("engine")),
            *("--bootstrap-servers", context.bootstrap_servers),
            *("--registry-url", api(context)),
            *("--service-id", "heartwatch_"),
            *("--data-dir", str(context.data("engine"))),
        ]

    def prepare(self, context: Context) -> None:
        """Make the data folder."""
        context.data("engine").mkdir(parents=True, exist_ok=True)

    def folder(self, context: Context) -> Path:
        """Return the checkout."""
        return ROOT

    def check(self, context: Context) -> None:
        """Ask the engine, which answers 200 also while it is not healthy."""
        try:
            answer = client().get(f"{self.address(context)}{self.health_path}").raise_for_status().json()
        except (httpx.HTTPError, ValueError) as error:
            raise NotHealthyError(f"no health report ({type(error).__name__})") from error
        if not answer.get("isHealthy"):
            raise NotHealthyError(f"it reports {answer!r}")

    def endpoints(self, context: Context) -> dict[str, dict[str, Any]]:
        """Return the REST API's address."""
        return {"ksqldb": {"urls": [self.address(context)]}}
