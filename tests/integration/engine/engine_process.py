"""An engine's server process that tests start, kill and stop."""

from __future__ import annotations

import signal
import socket
import subprocess
import sys
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

import httpx

from heartwatch.settings import Settings
from kafkakit.waiting import wait_until


class EngineProcess:
    """A server process that tests start, kill and stop."""

    def __init__(self, settings: Settings, folder: Path, service_id: str) -> None:
        self.settings = settings
        self._folder = folder
        self._service_id = service_id
        self._process: subprocess.Popen[bytes] | None = None
        self.url = ""

    def start(self, wait: bool = True) -> EngineProcess:
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            port = probe.getsockname()[1]
        self.url = f"http://127.0.0.1:{port}"
        command = [
            *(sys.executable, "-X", "faulthandler", "-m", "ksqlengine", "server", "--listen", f"127.0.0.1:{port}"),
            *(
                "--bootstrap-servers",
                self.settings.kafka.bootstrap_servers,
                "--registry-url",
                self.settings.registry.url,
            ),
            *("--service-id", self._service_id, "--data-dir", str(self._folder), "--log-level", "WARNING"),
        ]
        log = self._folder.with_suffix(".log").open("ab")
        self._process = subprocess.Popen(command, stdout=log, stderr=log)
        if wait:
            eventually(self.healthy, 240, lambda: f"the engine isn't healthy: {self.log()[-2000:]}")
        return self

    def healthy(self) -> bool:
        assert self._process is not None
        assert self._process.poll() is None, self.log()[-2000:]
        with suppress(httpx.TransportError):
            return bool(httpx.get(f"{self.url}/healthcheck", timeout=5).json()["isHealthy"])
        return False

    def kill(self) -> None:
        if self._process is not None:
            self._process.kill()
            self._process.wait()

    def stop(self) -> None:
        if self._process is not None and self._process.poll() is None:
            self._process.send_signal(signal.SIGTERM)
            self._process.wait(30)

    def stacks(self) -> str:
        """Say what each of its threads is at, and end it: Python writes that when it is aborted."""
        assert self._process is not None
        self._process.send_signal(signal.SIGABRT)
        self._process.wait(30)
        return self.log()[-20_000:]

    def log(self) -> str:
        return self._folder.with_suffix(".log").read_text(encoding="utf-8")

    # ------------------------------------------------------------------------------------------------ requests
    def post(
        self,
        sql: str,
        properties: dict[str, str] | None = None,
        variables: dict[str, str] | None = None,
        *,
        after: int = -1,
    ) -> httpx.Response:
        """Send statements, once the engine has carried out the command of that sequence number."""
        body = {
            "ksql": sql,
            "streamsProperties": properties or {},
            "sessionVariables": variables or {},
            "commandSequenceNumber": after,
        }
        try:
            return httpx.post(f"{self.url}/ksql", json=body, timeout=180)
        except httpx.ReadTimeout:
            raise AssertionError(f"no answer to {sql!r}; where the engine is: {self.stacks()}") from None

    def run(
        self,
        sql: str,
        properties: dict[str, str] | None = None,
        variables: dict[str, str] | None = None,
        *,
        after: int = -1,
    ) -> list[dict[str, Any]]:
        answer = self.post(sql, properties, variables, after=after)
        assert answer.status_code == 200, answer.text
        return answer.json()  # type: ignore[no-any-return]

    def statistics(self, name: str) -> dict[str, float]:
        description = self.run(f"DESCRIBE {name} EXTENDED;")[0]["sourceDescription"]
        both = description["clusterStatistics"] + description["clusterErrorStats"]
        return {one["name"]: one["value"] for one in both}


def eventually(reached: Callable[[], Any], seconds: float, otherwise: Callable[[], str] | str) -> None:
    """Wait until something is true."""
    wait_until(reached, seconds, 0.2, lambda: AssertionError(otherwise() if callable(otherwise) else otherwise))
