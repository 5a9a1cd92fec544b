"""Each automation acts when its cause happens: a connector fails, a query too, a worker is gone, a disk fills, a run is killed.

The waits overlap: the zombie is made first and looked at last.
"""

from __future__ import annotations

import functools
import json
import secrets
import signal
import socket
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import closing, contextmanager, suppress
from email import message_from_bytes
from email.message import EmailMessage
from email.policy import default
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from queue import Queue
from typing import Any
from uuid import UUID

import httpx
import pytest
from aiosmtpd.controller import Controller
from aiosmtpd.smtp import AuthResult
from confluent_kafka import Producer
from prefect.blocks.webhook import Webhook
from prefect.client.orchestration import get_client
from prefect.variables import Variable
from schedules import prefect_credentials, wait_for

from flows.deploy_automations import deploy_automations
from flows.watch_health import UnhealthyError, watch_health
from heartwatch.connect import Connect, UnknownConnectorError
from heartwatch.monitoring import Monitoring
from heartwatch.platform.platform import Platform
from heartwatch.produce.supervision import PRODUCER_RUN
from heartwatch.settings import ROOT, load_settings
from kafkakit.admin import KafkaAdmin, TopicState, producer_config
from ksqlengine.client.rest_client import Ksqldb
from tasks.mail import Mail

pytestmark = pytest.mark.parts("kafka", "registry", "postgres", "connect", "s3", "engine", "prefect", "workers")
SILENCE = 35  # seconds without a heartbeat; heartbeats come every 30 s
CONNECTOR = "fails-at-once"
PASSWORD = secrets.token_hex(8)
ZOMBIE = """
import time
from prefect import flow

@flow(name="zombie", persist_result=False)
def zombie():
    print(__import__("prefect").runtime.flow_run.id, flush=True)
    time.sleep(600)

zombie()
"""


@contextmanager
def receiver() -> Iterator[tuple[str, list[dict[str, str]]]]:
    """Give the address of an HTTP server, and what is posted to it."""
    posted: list[dict[str, str]] = []

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            posted.append(json.loads(self.rfile.read(int(self.headers["Content-Length"]))))
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


@contextmanager
def failing_query() -> Iterator[str]:
    """Run a persistent query whose output topic refuses its records; give its id."""
    settings = load_settings()
    admin = KafkaAdmin(settings.kafka)
    admin.create([TopicState("refused_in", 1, 1), TopicState("refused", 1, 1, {"max.message.bytes": "100"})])
    with closing(Ksqldb(settings.ksqldb)) as ksqldb:
        ksqldb.execute("CREATE STREAM refused_in (text VARCHAR) WITH (kafka_topic='refused_in', value_format='JSON');")
        ksqldb.execute(
            "CREATE STREAM refused WITH (kafka_topic='refused', value_format='JSON') AS SELECT * FROM refused_in EMIT CHANGES;",
            {"auto.offset.reset": "earliest"},
        )
        (query,) = [one.query_id for one in ksqldb.queries() if "REFUSED" in one.query_id]
        producer = Producer(producer_config(settings.kafka))
        producer.produce("refused_in", json.dumps({"text": secrets.token_hex(200)}))
        assert producer.flush(30) == 0
        wait_for(lambda: any(one.state == "ERROR" for one in ksqldb.queries()), "the query's failure")
        yield query
        ksqldb.execute(f"TERMINATE {query};")
        for name in ("refused", "refused_in"):
            ksqldb.execute(f"DROP STREAM {name} DELETE TOPIC;")


@contextmanager
def killed_worker(platform: Platform) -> Iterator[str]:
    """Start a worker, kill it as a power cut would, and give its name."""
    name = "doomed"
    command = [sys.executable, "-m", "prefect", "worker", "start", "--pool", "producers", "--name", name]
    environment = platform.environment() | {"PREFECT_WORKER_HEARTBEAT_SECONDS": "1"}
    process = subprocess.Popen(command, env=environment, cwd=ROOT, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    with get_client(sync_client=True) as client:

        def status() -> str | None:
            workers = client.read_workers_for_work_pool("producers")
            return next((one.status.value for one in workers if one.name == name), None)

        wait_for(lambda: status() == "ONLINE", "the worker")
        process.kill()
        process.wait()
        wait_for(lambda: status() == "OFFLINE", "the end of the server's patience with the worker")
    yield name
    url = f"{load_settings().prefect.api_url}/work_pools/producers/workers/{name}"
    httpx.delete(url, auth=prefect_credentials()).raise_for_status()


@contextmanager
def mailbox() -> Iterator[tuple[str, Queue[EmailMessage]]]:
    """Give the address of an SMTP server that wants a password, as Apprise writes it, and the mails that come there."""
    mails: Queue[EmailMessage] = Queue()

    class Handler:
        async def handle_DATA(self, _server: Any, _session: Any, envelope: Any) -> str:
            mails.put(message_from_bytes(envelope.content, policy=default))
            return "250 OK"

    def authenticate(_server: Any, _session: Any, _envelope: Any, _mechanism: str, data: Any) -> AuthResult:
        return AuthResult(success=(data.login, data.password) == (b"watch", PASSWORD.encode()))

    with socket.create_server(("127.0.0.1", 0)) as found:
        port = found.getsockname()[1]
    server = Controller(
        Handler(), "127.0.0.1", port, authenticator=authenticate, auth_required=True, auth_require_tls=False
    )
    server.start()
    try:
        sender = "from=HeartWatch<watch@example.com>&to=ops@example.com"
        yield f"mailto://watch:{PASSWORD}@127.0.0.1:{server.port}?smtp=127.0.0.1&{sender}", mails
    finally:
        server.stop()


def has_failed() -> bool:
    with closing(Connect(load_settings().connect)) as connect, suppress(UnknownConnectorError):
        return connect.status(CONNECTOR).failed
    return False  # Connect has no status of a connector that it has just been given


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
    wait_for(
        lambda: httpx.post(events, json={"filter": wanted}, auth=prefect_credentials()).json()["events"],
        "the zombie's first heartbeat",
    )
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

        with failing_query() as query, killed_worker(deployed) as worker:
            sentence = wait_for(lambda: health_with(query, worker), "the query's and the worker's sentences")
            assert f"query {query!r} is in state ERROR: its results stop" in sentence
            assert f"worker {worker!r} of work pool 'producers' is gone" in sentence
            for resource, event in ((query, "heartwatch.query.failed"), (worker, "heartwatch.worker.gone")):
                assert wait_for(functools.partial(notice, posted, resource), "the notification")["event"] == event

        with mailbox() as (address, mails):
            Mail(url=address).save("ops", overwrite=True)
            monkeypatch.setenv("HEARTWATCH_MONITORING__NOTIFICATION_BLOCK", "mail/ops")
            assert deploy_automations()["heartwatch: notify"] == "updated"
            Variable.set(PRODUCER_RUN, 1, overwrite=True)
            monkeypatch.setenv("HEARTWATCH_MONITORING__LEAST_FREE_DISK", "1")
            with pytest.raises(UnhealthyError, match="is filling"):
                watch_health()
            wait_for(lambda: Variable.get(PRODUCER_RUN) == 0, "the end of the producers")
            mail = wait_for(
                lambda: next((one for one in taken(mails) if "disk.filling" in one["subject"]), None), "the mail"
            )
            assert (mail["from"], mail["to"]) == ("HeartWatch <watch@example.com>", "ops@example.com")
            assert "make room before brokers stop" in str(mail.get_body(("plain", "html")))
        with get_client(sync_client=True) as client:
            kept = client.read_block_document_by_name("ops", "mail", include_secrets=False)
        assert PASSWORD not in str(kept)
        wait_for(lambda: run_state(zombie) == "Crashed", "the zombie's end")

    monkeypatch.delenv("HEARTWATCH_MONITORING__NOTIFICATION_BLOCK")
    monkeypatch.delenv("HEARTWATCH_MONITORING__ZOMBIE_SECONDS")
    after = deploy_automations()
    assert after["heartwatch: crash zombie runs"] == "updated"
    assert after["heartwatch: notify"].startswith("left out")


def health_with(*resources: str) -> str | None:
    """Return what watch-health fails with once that names some resources."""
    try:
        watch_health()
    except UnhealthyError as error:
        return str(error) if all(repr(resource) in str(error) for resource in resources) else None
    return None


def taken(mails: Queue[EmailMessage]) -> Iterator[EmailMessage]:
    while not mails.empty():
        yield mails.get()


def notice(posted: list[dict[str, str]], resource: str) -> dict[str, str] | None:
    """Return the first notification that concerns a resource; they come in any order, and others are about what else goes on."""
    return next((one for one in posted if one["resource"] == resource), None)
