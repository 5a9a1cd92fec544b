"""The embedded KSQL engine."""

from __future__ import annotations

import sys
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx

from heartwatch.platform.rights import OPERATOR, SERVICE
from heartwatch.platform.services.base import Context, HttpPart, NotHealthyError, client
from heartwatch.platform.services.registry import api
from heartwatch.platform.state import write_atomically
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
            *("--service-id", SERVICE),
            *("--data-dir", str(context.data("engine"))),
            *(_secured_options(context) if context.secured else ()),
        ]

    def prepare(self, context: Context) -> None:
        """Make the data folder; on a secured platform also the files that say how to log in, and who may."""
        folder = context.data("engine")
        folder.mkdir(parents=True, exist_ok=True)
        if not context.secured:
            return
        authority = {"ssl.ca.location": str(context.certificate("ca"))}
        kafka = {
            "security.protocol": "SASL_SSL",
            "sasl.mechanism": "SCRAM-SHA-512",
            "sasl.username": "engine",
            "sasl.password": context.accounts["kafka"]["engine"],
        }
        registry = {"basic.auth.user": "engine", "basic.auth.password": context.accounts["registry"]["engine"]}
        write_atomically(folder / "kafka.properties", _lines(kafka | authority))
        write_atomically(folder / "registry.properties", _lines(registry | authority))
        write_atomically(folder / "users.properties", _lines(context.accounts["ksqldb"]))

    def folder(self, context: Context) -> Path:
        """Return the checkout."""
        return ROOT

    def check(self, context: Context) -> None:
        """Ask the engine, which answers 200 also while it is not healthy."""
        try:
            answer = client(context).get(f"{self.address(context)}{self.health_path}").raise_for_status().json()
        except (httpx.HTTPError, ValueError) as error:
            raise NotHealthyError(f"no health report ({type(error).__name__})") from error
        if not answer.get("isHealthy"):
            raise NotHealthyError(f"it reports {answer!r}")

    def endpoints(self, context: Context) -> dict[str, dict[str, Any]]:
        """Return the REST API's address."""
        login = {"user": OPERATOR, "ca_file": str(context.certificate("ca"))} if context.secured else {}
        return {"ksqldb": {"urls": [self.address(context)], **login}}


def _secured_options(context: Context) -> Iterator[str]:
    folder = context.data("engine")
    yield from ("--kafka-config", str(folder / "kafka.properties"))
    yield from ("--registry-config", str(folder / "registry.properties"))
    yield from ("--tls-certificate", str(context.certificate("engine")))
    yield from ("--tls-key", str(context.certificate("engine", "key")))
    yield from ("--users-file", str(folder / "users.properties"))


def _lines(values: Mapping[str, str]) -> str:
    return "".join(f"{name}={value}\n" for name, value in values.items())
