"""Each automation acts when its cause happens: a connector fails, a disk fills, a run's process is killed.

The waits overlap: the zombie is made first and looked at last.
"""

from __future__ import annotations

import json
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from queue import Queue
from typing import Any
from uuid import UUID

import httpx
import pytest
from prefect.blocks.webhook import Webhook
from prefect.client.orchestration import get_client
from prefect.variables import Variable

from flows.deploy_automations import deploy_automations
from flows.watch_health import UnhealthyError, watch_health
from heartwatch.connect import Connect
from heartwatch.monitoring import Monitoring
from heartwatch.settings import ROOT, load_settings
from heartwatch.stack.platform import Platform
from tasks.produce import PRODUCER_RUN

pytestmark = pytest.mark.parts("kafka", "registry", "postgres", "connect", "s3", "engine", "prefect", "workers")
SECONDS = 90
SILENCE = 35  # seconds without a heartbeat; heartbeats come every 30 s
CONNECTOR = "fails-at-once"
ZOMBIE = """
import time
from prefect import flow

@flow(name="zombie", persist_result=False)
def zombie():
    print(__import__("prefect").runtime.flow_run.id, flush=True)
    time.sleep(600)

zombie()
"""


def wait_for(condition: Callable[[], Any], what: str) -> Any:
    deadline = time.monotonic() + SECONDS
    while not (found := condition()):
        assert time.monotonic() < deadline, f"{what} did not come in {SECONDS} s"
        time.sleep(0.2)
    return found


@contextmanager
def receiver() -> Iterator[tuple[str, Queue[dict[str, str]]]]:
    """Give the address of an HTTP server, and what is posted to it."""
    posted: Queue[dict[str, str]] = Queue()

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            posted.put(json.loads(self.rfile.read(int(self.headers["Content-Length"]))))
            self.send_response(204)
            self.end_headers()

        def log_message(self, *_: Any) -> None:
            """Say nothing."""

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield f"http://127.0.0.1:{server.server_port}/", posted
    server.shutdown()
    server.server_close()


@contextmanager
def failing_connector() -> Iterator[None]:
    """Run a sink whose task fails at once: its catalog's database refuses the role."""
    settings = load_settings()
    connect = Connect(settings.connect)
    database = f"{settings.postgres.host}:{settings.postgres.port}/{settings.postgres.database}"
    connect.put(
        {
            "name": CONNECTOR,
            "connector.class": "org.apache.iceberg.connect.IcebergSinkConnector",
            "tasks.max": "1",
            "topics": "no-events",
            "iceberg.tables": "heartwatch.none",
            "iceberg.control.topic": "no-control",
            "iceberg.catalog": "iceberg",
            "iceberg.catalog.type": "jdbc",
            "iceberg.catalog.uri": f"jdbc:postgresql://{database}",
            "iceberg.catalog.jdbc.user": "nobody",
            "iceberg.catalog.jdbc.password": "wrong",
            "iceberg.catalog.warehouse": "s3://none/none",
        }
    )
    try:
        yield
    finally:
        connect.delete(CONNECTOR)
        connect.close()


def has_failed() -> bool:
    with_status = Connect(load_settings().connect)
    try:
        return with_status.status(CONNECTOR).failed
    finally:
        with_status.close()


def run_state(run_id: UUID) -> str:
    with get_client(sync_client=True) as client:
        state = client.read_flow_run(run_id).state
    return state.name if state is not None else ""


def start_zombie(platform: Platform) -> UUID:
    """Start a flow in a process of its own and kill that, as a power cut would."""
    environment = platform.environment() | {"PREFECT_FLOWS_HEARTBEAT_FREQUENCY": "30"}
    process = subprocess.Popen(
        [sys.executable, "-c", ZOMBIE], stdout=subprocess.PIPE, text=True, cwd=ROOT, env=environment
    )
    assert process.stdout is not None
    run_id = UUID(process.stdout.readline().strip())
    wanted = {"event": {"name": ["prefect.flow-run.heartbeat"]}, "resource": {"id": [f"prefect.flow-run.{run_id}"]}}
    events = f"{load_settings().prefect.api_url}/events/filter"
    wait_for(lambda: httpx.post(events, json={"filter": wanted}).json()["events"], "the zombie's first heartbeat")
    process.send_signal(signal.SIGKILL)
    process.wait()
    return run_id


def test_each_automation_acts_on_its_cause(deployed: Platform, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HEARTWATCH_MONITORING__ZOMBIE_SECONDS", str(SILENCE))
    monkeypatch.setenv("HEARTWATCH_MONITORING__CONNECTOR_RESTARTS", "1")
    with receiver() as (url, posted):
        Webhook(url=url, method="POST", allow_private_urls=True).save("ops", overwrite=True)
        before = deploy_automations()
        assert before["heartwatch: notify"] == "left out, for want of notification_block, notification_type"
        monkeypatch.setenv("HEARTWATCH_MONITORING__NOTIFICATION_BLOCK", "webhook/ops")
        done = deploy_automations()
        assert done["heartwatch: notify"] == "created"
        assert set(deploy_automations().values()) == {"unchanged"}, "safe to run again"
        zombie = start_zombie(deployed)
        assert run_state(zombie) == "Running"

        with failing_connector():
            wait_for(has_failed, "the connector's failure")
            watch_health()
            told = wait_for(lambda: notice(posted, CONNECTOR), "the notification")
            assert told["event"] == "heartwatch.connector.failed"
            assert "password authentication failed" in told["sentence"]
            assert "the 1st time of at most 1" in told["sentence"]
            wait_for(has_failed, "the connector's second failure")
            with pytest.raises(UnhealthyError, match="restarted 1 times already"):
                watch_health()
        settings = load_settings()
        assert Monitoring(settings.postgres, settings.pipeline).connector_restarts()[CONNECTOR].restarts == 1

        Variable.set(PRODUCER_RUN, 1, overwrite=True)
        monkeypatch.setenv("HEARTWATCH_MONITORING__LEAST_FREE_DISK", "1")
        with pytest.raises(UnhealthyError, match="is filling"):
            watch_health()
        wait_for(lambda: Variable.get(PRODUCER_RUN) == 0, "the end of the producers")
        wait_for(lambda: run_state(zombie) == "Crashed", "the zombie's end")

    monkeypatch.delenv("HEARTWATCH_MONITORING__NOTIFICATION_BLOCK")
    monkeypatch.delenv("HEARTWATCH_MONITORING__ZOMBIE_SECONDS")
    after = deploy_automations()
    assert after["heartwatch: crash zombie runs"] == "updated"
    assert after["heartwatch: notify"].startswith("left out")


def notice(posted: Queue[dict[str, str]], resource: str) -> dict[str, str] | None:
    """Return the next notification that concerns a resource; others are about what else goes on."""
    while not posted.empty():
        found = posted.get()
        if found["resource"] == resource:
            return found
    return None
