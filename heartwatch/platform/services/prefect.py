"""Prefect: the server, its records in Postgres, and the workers of the two work pools."""

from __future__ import annotations

import json
import os
import signal
import sys
from collections.abc import Set
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx

from heartwatch.platform.errors import PartError
from heartwatch.platform.ports import LOOPBACK
from heartwatch.platform.services.base import Context, HttpPart, NotHealthyError, client
from heartwatch.platform.services.postgres import USER
from heartwatch.settings import ROOT

POOLS = ("orchestration", "producers")

_CONFLICT = 409
_QUIET = {
    # No requests to the outside.
    "DO_NOT_TRACK": "1",
    "PREFECT_SERVER_ANALYTICS_ENABLED": "false",
    "PREFECT_SERVER_UI_SHOW_PROMOTIONAL_CONTENT": "false",
    "PREFECT_CLOUD_ENABLE_ORCHESTRATION_TELEMETRY": "false",
}


def api(context: Context) -> str:
    """Return the address of Prefect's API."""
    return f"{'https' if context.secured else 'http'}://{context.address('prefect')}/api"


def credentials(context: Context) -> tuple[str, str]:
    """Return the user and the password that Prefect's API asks for."""
    user, _, password = context.secrets["prefect"]["auth_string"].partition(":")
    return user, password


def work_pool(name: str) -> dict[str, Any]:
    """Return a work pool as the API takes it: runs in it can't bring a command, variables or a folder of their own.

    Whoever may only run a deployment would otherwise run any command, by the run's job variables, as the user of the worker.
    """
    template = (ROOT / "deployments" / "work_pool.json").read_text(encoding="utf-8")
    return {"name": name, "type": "process", "base_job_template": json.loads(template)}


def _environment(context: Context) -> dict[str, str]:
    """Return the environment of Prefect's processes: the caller's own Prefect settings don't reach them."""
    inherited = {name: value for name, value in os.environ.items() if not name.startswith("PREFECT_")}
    return {
        **inherited,
        **_QUIET,
        "PREFECT_HOME": str(context.data("prefect")),
        "PREFECT_API_AUTH_STRING": context.secrets["prefect"]["auth_string"],
        "HEARTWATCH_HOME": str(context.home),
        **_authority(context),
    }


def _authority(context: Context) -> dict[str, str]:
    """Return how Prefect's clients know the server of a secured platform."""
    return {"PREFECT_API_SSL_CERT_FILE": str(context.certificate("ca"))} if context.secured else {}


def _send(context: Context, method: str, path: str, body: dict[str, Any], what: str) -> httpx.Response:
    try:
        return client(context).request(method, f"{api(context)}{path}", json=body, auth=credentials(context))
    except httpx.HTTPError as error:
        raise PartError(f"Prefect gives no answer about the {what}: {error!r}; see that its server is up") from error


def _create(context: Context, path: str, body: dict[str, Any], what: str) -> bool:
    """Create something on the server; it is not an error that it is there already. Tell whether it was created."""
    response = _send(context, "POST", path, body, what)
    if not response.is_success and response.status_code != _CONFLICT:
        raise PartError(f"the {what} can't be created: HTTP {response.status_code} {response.text}")
    return response.is_success


def _create_pool(context: Context, name: str) -> None:
    """Create a work pool, or give one that is there the template that this version has."""
    body, what = work_pool(name), f"work pool {name!r}"
    if _create(context, "/work_pools/", body, what):
        return
    template = {"base_job_template": body["base_job_template"]}
    response = _send(context, "PATCH", f"/work_pools/{name}", template, what)
    if not response.is_success:
        raise PartError(f"the {what} can't be updated: HTTP {response.status_code} {response.text}")


def _end_abandoned_runs(context: Context) -> None:
    """Mark all runs that are under way as crashed."""
    under_way = {"state": {"type": {"any_": ["PENDING", "RUNNING", "CANCELLING"]}}}
    crashed = {"type": "CRASHED", "message": "the platform was stopped while the run was under way; run it again"}
    # The server gives 200 runs at a time; those that were ended are not among the next ones.
    while True:
        found = _send(context, "POST", "/flow_runs/filter", {"flow_runs": under_way}, "runs that were stopped")
        runs = [run["id"] for run in found.raise_for_status().json()]
        ended = [
            _send(context, "POST", f"/flow_runs/{run}/set_state", {"state": crashed}, "runs that were stopped")
            for run in runs
        ]
        if not any(answer.is_success and answer.json()["status"] == "ACCEPT" for answer in ended):
            return


@dataclass
class PrefectServerPart(HttpPart):
    """API, UI and background services in one process."""

    name: str = "prefect"
    group: str = "prefect"
    depends_on: tuple[str, ...] = ("postgres",)
    port_names: tuple[str, ...] = ("prefect",)
    memory_mib: int = 350
    health_path: str = "/api/ready"

    def command(self, context: Context) -> list[str]:
        """Return the command line."""
        place = ("--host", LOOPBACK, "--port", str(context.ports["prefect"]))
        if not context.secured:
            return [sys.executable, "-m", "prefect", "server", "start", *place]
        # What that command runs; it has no options for certificates.
        return [
            *(sys.executable, "-m", "uvicorn", "--factory", "prefect.server.api.server:create_app", *place),
            *("--timeout-keep-alive", "5", "--timeout-graceful-shutdown", "3", "--log-level", "warning"),
            *("--ssl-certfile", str(context.certificate("prefect"))),
            *("--ssl-keyfile", str(context.certificate("prefect", "key"))),
        ]

    def environment(self, context: Context) -> dict[str, str]:
        """Return the configuration."""
        password = context.secrets["postgres"]["password"]
        database = f"postgresql+asyncpg://{USER}:{password}@{context.address('postgres')}/prefect"
        return {
            **_environment(context),
            "PREFECT_SERVER_DATABASE_CONNECTION_URL": database,
            "PREFECT_SERVER_API_AUTH_STRING": context.secrets["prefect"]["auth_string"],
            # Pages of other sites get no answer that they could read; Prefect's own come from this address.
            "PREFECT_SERVER_CORS_ALLOWED_ORIGINS": api(context).removesuffix("/api"),
            # The pages in the browser ask this address, and else port 4200.
            "PREFECT_SERVER_UI_API_URL": api(context),
            "PREFECT_SERVER_UI_STATIC_DIRECTORY": str(context.data("prefect") / "ui"),
            "PREFECT_SERVER_LOGGING_LEVEL": "WARNING",
            # As `prefect server start` has it: the application is whole, and runs the services.
            **({"PREFECT__SERVER_FINAL": "1"} if context.secured else {}),
            # In memory, as the default has it, a restart forgets who holds a deployment's slots, and ends their runs.
            "PREFECT_SERVER_CONCURRENCY_LEASE_STORAGE": "prefect.server.concurrency.lease_storage.filesystem",
        }

    def prepare(self, context: Context) -> None:
        """Make Prefect's folder."""
        context.data("prefect").mkdir(parents=True, exist_ok=True)

    def folder(self, context: Context) -> Path:
        """Return its own folder: it must not read the checkout's files for commands."""
        return context.data("prefect")

    def configure(self, context: Context) -> None:
        """Create the work pools that are missing."""
        for pool in POOLS:
            _create_pool(context, pool)

    def settle(self, context: Context, running: Set[str]) -> None:
        """End the runs that ended with their workers: as they are, they would hold their deployment's slots for good.

        Every later run of a check would be cancelled, because one that doesn't run any more is still at work. Where a worker
        runs, its runs are its own.
        """
        if "workers" not in running:
            _end_abandoned_runs(context)

    def endpoints(self, context: Context) -> dict[str, dict[str, Any]]:
        """Return the API's address."""
        authority = {"ca_file": str(context.certificate("ca"))} if context.secured else {}
        return {"prefect": {"api_url": api(context), **authority}}

    def client_variables(self, context: Context) -> dict[str, str]:
        """Return what the `prefect` command needs."""
        return {
            "PREFECT_API_URL": api(context),
            "PREFECT_API_AUTH_STRING": context.secrets["prefect"]["auth_string"],
            **_authority(context),
            **_QUIET,
        }


class WorkerPart(HttpPart):
    """A worker that runs flows of one work pool as processes; a producers' worker stands for a producer machine.

    Besides the pool's default queue it serves a queue of its own name, so that a run can be sent to just this worker.
    """

    # Its port tells its health only.
    speaks_tls = False

    def __init__(self, pool: str, number: int, count: int = 1) -> None:
        """Describe a worker.

        Args:
            pool: its work pool.
            number: from 1 within the pool.
            count: workers of the pool.
        """
        name = f"{pool}-{number}"
        super().__init__(
            name=name,
            group="workers",
            depends_on=("prefect",),
            # Flow runs use all of them.
            follows=("postgres", "kafka", "registry", "s3", "connect", "engine"),
            port_names=(name,),
            memory_mib=250,
            health_path="/health",
            # As Ctrl-C: it stops taking runs, and the runs' processes end with it.
            stop_signal=signal.SIGINT,
            # A worker that is killed leaves its flow runs running; they end by themselves.
            keeps_children=True,
        )
        self.pool = pool
        self._count = count

    def command(self, context: Context) -> list[str]:
        """Return the command line."""
        queues = ["--work-queue", self.name, "--work-queue", "default"]
        options = ["--name", self.name, "--pool", self.pool, *queues, "--type", "process", "--with-healthcheck"]
        return [sys.executable, "-m", "prefect", "worker", "start", *options]

    def environment(self, context: Context) -> dict[str, str]:
        """Return the configuration: polling is short, for it asks a server on the same machine."""
        return {
            **_environment(context),
            "PREFECT_API_URL": api(context),
            # Flows of the other pool deploy and check, as people do.
            **(context.login("producer") if self.pool == "producers" else {}),
            # Flow runs are started as `python` (prefect.yaml), whatever shell has started this.
            "PATH": os.pathsep.join((str(Path(sys.executable).parent), os.environ.get("PATH", os.defpath))),
            # Runs say that they live, so that those that don't any more are found (deployments/automations/crash_zombies.yaml).
            "PREFECT_FLOWS_HEARTBEAT_FREQUENCY": "30",
            # A worker that is gone is missed after three of these.
            "PREFECT_WORKER_HEARTBEAT_SECONDS": "5",
            "PREFECT_WORKER_QUERY_SECONDS": "1",
            "PREFECT_WORKER_CANCELLATION_POLL_SECONDS": "5",
            "PREFECT_WORKER_WEBSERVER_HOST": LOOPBACK,
            "PREFECT_WORKER_WEBSERVER_PORT": str(context.ports[self.name]),
        }

    def configure(self, context: Context) -> None:
        """Create the worker's own queue: one that polls a queue that isn't there gets no runs at all, and doesn't say so."""
        _create(context, f"/work_pools/{self.pool}/queues", {"name": self.name}, f"work queue {self.name!r}")

    def folder(self, context: Context) -> Path:
        """Return the checkout, where the flows are."""
        return ROOT

    def check(self, context: Context) -> None:
        """Ask the worker, and the server whether it knows the worker: the former answers before it has begun to work."""
        super().check(context)
        url = f"{api(context)}/work_pools/{self.pool}/workers/filter"
        try:
            workers = client(context).post(url, json={}, auth=credentials(context)).raise_for_status().json()
        except httpx.HTTPError as error:
            raise NotHealthyError(f"Prefect doesn't tell its workers ({type(error).__name__})") from error
        if not any(worker["name"] == self.name and worker["status"] == "ONLINE" for worker in workers):
            raise NotHealthyError("it isn't online yet")

    def endpoints(self, context: Context) -> dict[str, dict[str, Any]]:
        """Return the producer machines, for which the producers' workers stand: one process each on a machine that they share."""
        if self.pool != "producers":
            return {}
        machines = [f"{self.pool}-{number}" for number in range(1, self._count + 1)]
        return {"producer": {"machines": machines, "processes_per_machine": 1}}
