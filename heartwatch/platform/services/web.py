"""The live page."""

from __future__ import annotations

import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from heartwatch.platform.ports import LOOPBACK
from heartwatch.platform.services.base import Context, HttpPart
from heartwatch.settings import ROOT


@dataclass
class WebPart(HttpPart):
    """The page's server; it needs no other part to be there, and shows which ones are."""

    name: str = "web"
    group: str = "web"
    follows: tuple[str, ...] = ("postgres", "kafka", "registry", "s3", "connect", "engine", "prefect")
    port_names: tuple[str, ...] = ("web",)
    memory_mib: int = 300
    health_path: str = "/health"

    def command(self, context: Context) -> list[str]:
        """Return the command line."""
        port = str(context.ports["web"])
        return [sys.executable, "-m", "heartwatch.cli", "web", "--host", LOOPBACK, "--port", port]

    def environment(self, context: Context) -> dict[str, str]:
        """Return the configuration: addresses and the secret are in the home's files."""
        return {**super().environment(context), "HEARTWATCH_HOME": str(context.home), **context.login("page")}

    def prepare(self, context: Context) -> None:
        """Make the data folder."""
        context.data("web").mkdir(parents=True, exist_ok=True)

    def folder(self, context: Context) -> Path:
        """Return the checkout."""
        return ROOT

    def endpoints(self, context: Context) -> dict[str, dict[str, Any]]:
        """Return where the page is, and with which certificate."""
        files = {"certificate_file": "pem", "key_file": "key"} if context.secured else {}
        tls = {name: str(context.certificate("web", kind)) for name, kind in files.items()}
        return {"web": {"host": LOOPBACK, "port": context.ports["web"], **tls}}
