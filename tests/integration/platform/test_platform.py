"""A platform of its own: killed, restarted, stopped."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import time
import tomllib
from collections.abc import Callable, Iterator
from pathlib import Path

import boto3
import httpx
import psutil
import psycopg2
import pytest
from confluent_kafka import Consumer, Producer
from confluent_kafka.admin import AdminClient, NewTopic

from heartwatch.platform import processes
from heartwatch.platform.errors import PartError, PlatformError
from heartwatch.platform.platform import Platform
from heartwatch.platform.state import PartState, load_secrets, read_state
from heartwatch.verify.health import HealthFinding, judge_partitions
from kafkakit.admin import KafkaAdmin
from kafkakit.settings import KafkaSettings
from kafkakit.waiting import wait_until

PARTS = ("postgres", "kafka", "registry", "s3", "connect")


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("own") / "home"


@pytest.fixture(scope="module")
def own(home: Path) -> Iterator[Platform]:
    platform = Platform(home, PARTS)
    try:
        platform.up()
        yield platform
    finally:
        platform.clean()


def endpoints(home: Path) -> dict[str, dict[str, str]]:
    return tomllib.loads((home / "endpoints.toml").read_text(encoding="utf-8"))


def add_row(home: Path) -> None:
    with connection(home) as database, database.cursor() as cursor:
        cursor.execute("CREATE TABLE IF NOT EXISTS survivors (id int)")
        cursor.execute("INSERT INTO survivors VALUES (1)")


def rows(home: Path) -> int:
    with connection(home) as database, database.cursor() as cursor:
        cursor.execute("SELECT count(*) FROM survivors")
        return int(cursor.fetchone()[0])


def connection(home: Path) -> psycopg2.extensions.connection:
    known = endpoints(home)["postgres"]
    return psycopg2.connect(
        host=known["host"],
        port=known["port"],
        user=known["user"],
        dbname=known["database"],
        password=load_secrets(home)["postgres"]["password"],
    )


def add_record(home: Path) -> None:
    servers = endpoints(home)["kafka"]["bootstrap_servers"]
    admin = AdminClient({"bootstrap.servers": servers})
    if "survivors" not in admin.list_topics(timeout=10).topics:
        admin.create_topics([NewTopic("survivors", 1)])["survivors"].result(30)
    producer = Producer({"bootstrap.servers": servers, "acks": "all", "enable.idempotence": True})
    producer.produce("survivors", b"1")
    assert producer.flush(30) == 0


def records(home: Path) -> int:
    servers = endpoints(home)["kafka"]["bootstrap_servers"]
    consumer = Consumer(
        {"bootstrap.servers": servers, "group.id": f"count-{time.monotonic_ns()}", "auto.offset.reset": "earliest"}
    )
    consumer.subscribe(["survivors"])
    try:
        return len(consumer.consume(1, timeout=30)) + len(consumer.consume(100, timeout=1))
    finally:
        consumer.close()


def add_schema(home: Path) -> None:
    url = endpoints(home)["registry"]["url"]
    httpx.post(f"{url}/subjects/survivors-value/versions", json={"schema": '"string"'}, timeout=30).raise_for_status()


def schemas(home: Path) -> int:
    url = endpoints(home)["registry"]["url"]
    return len(httpx.get(f"{url}/subjects/survivors-value/versions", timeout=30).raise_for_status().json())


def s3_client(home: Path) -> boto3.client:
    secrets = load_secrets(home)["s3"]
    return boto3.client(
        "s3",
        endpoint_url=endpoints(home)["s3"]["endpoint"],
        region_name="us-east-1",
        aws_access_key_id=secrets["access_key_id"],
        aws_secret_access_key=secrets["secret_access_key"],
    )


def add_object(home: Path) -> None:
    s3_client(home).put_object(Bucket="heartwatch", Key="survivor", Body=b"1")


def objects(home: Path) -> int:
    return len(s3_client(home).get_object(Bucket="heartwatch", Key="survivor")["Body"].read())


def connect_login(home: Path) -> tuple[str, str]:
    return "heartwatch", load_secrets(home)["connect"]["password"]


def add_connector(home: Path) -> None:
    secrets = load_secrets(home)["postgres"]
    known = endpoints(home)
    config = {
        "connector.class": "io.debezium.connector.postgresql.PostgresConnector",
        "database.hostname": known["postgres"]["host"],
        "database.port": str(known["postgres"]["port"]),
        "database.dbname": known["postgres"]["database"],
        "database.user": known["postgres"]["user"],
        "database.password": "${secrets:" + known["connect"]["secrets_file"] + ":postgres.password}",
        "plugin.name": "pgoutput",
        "topic.prefix": "survivors",
        "table.include.list": "public.survivors",
        "exactly.once.support": "required",
        "transaction.boundary": "poll",
    }
    url = f"{known['connect']['url']}/connectors/survivors/config"
    httpx.put(url, json=config, timeout=60, auth=connect_login(home)).raise_for_status()
    assert secrets["password"] not in httpx.get(url, timeout=30, auth=connect_login(home)).text


def connectors(home: Path) -> int:
    url = f"{endpoints(home)['connect']['url']}/connectors/survivors/status"

    def running() -> int:
        answer = httpx.get(url, timeout=30, auth=connect_login(home))
        tasks = answer.json().get("tasks", []) if answer.is_success else []
        return len(tasks) if all(task["state"] == "RUNNING" for task in tasks) else 0

    return wait_until(running, 90, 0.2, lambda: AssertionError(f"the connector of {url} doesn't run"))


ADDERS = {"postgres": add_row, "kafka": add_record, "registry": add_schema, "s3": add_object, "connect": add_connector}
COUNTERS = {"postgres": rows, "kafka": records, "registry": schemas, "s3": objects, "connect": connectors}


def test_all_parts_come_up_healthy_and_listen_on_loopback_only(own: Platform) -> None:
    running = [status for status in own.status() if status.state is PartState.RUNNING]
    assert {status.name for status in running} == {"postgres", "kafka-1", "registry", "s3", "connect"}
    assert all(status.healthy for status in running)
    listening = {
        connection.laddr.ip
        for status in running
        for process in processes.tree(psutil.Process(status.pid))
        for connection in process.net_connections(kind="inet")
        if connection.status == psutil.CONN_LISTEN
    }
    assert listening <= {"127.0.0.1", "::ffff:127.0.0.1", "::1"}


def test_secrets_are_only_for_their_owner(own: Platform, home: Path) -> None:
    assert (home / "secrets.toml").stat().st_mode & 0o777 == 0o600
    assert (home / "data" / "connect" / "secrets.properties").stat().st_mode & 0o777 == 0o600
    password = load_secrets(home)["postgres"]["password"]
    command_lines = [" ".join(psutil.Process(status.pid).cmdline()) for status in own.status() if status.pid]
    assert command_lines
    assert not [line for line in command_lines if password in line]


def test_connect_has_all_plugins(own: Platform, home: Path) -> None:
    url = endpoints(home)["connect"]["url"]
    plugins = httpx.get(
        f"{url}/connector-plugins", params={"connectorsOnly": "false"}, timeout=30, auth=connect_login(home)
    ).json()
    assert {
        "io.debezium.connector.postgresql.PostgresConnector",
        "org.apache.iceberg.connect.IcebergSinkConnector",
        "io.apicurio.registry.utils.converter.AvroConverter",
        "io.debezium.transforms.ExtractNewRecordState",
        "org.apache.kafka.connect.transforms.InsertField$Value",
    } <= {plugin["class"] for plugin in plugins}


def test_the_registry_demands_backward_compatibility(own: Platform, home: Path) -> None:
    answer = httpx.get(f"{endpoints(home)['registry']['url']}/config", timeout=30).json()
    assert answer["compatibilityLevel"] == "BACKWARD"


def test_a_second_up_finds_everything_running(own: Platform, home: Path) -> None:
    before = {status.name: status.pid for status in own.status()}
    Platform(home, PARTS).up()
    assert {status.name: status.pid for status in own.status()} == before


# In the order of what they need of each other: the connector reads the table.
@pytest.mark.parametrize("part", PARTS)
def test_a_killed_part_is_restarted_with_its_data(own: Platform, home: Path, part: str) -> None:
    ADDERS[part](home)
    assert COUNTERS[part](home) > 0
    kept = COUNTERS[part](home)
    before = {status.name: status for status in own.status()}
    pids = own.kill(part)
    own.wait_for(
        part, lambda status: bool(status.healthy) and status.state is PartState.RUNNING and status.pid not in pids
    )
    after = {status.name: status for status in own.status()}
    assert [name for name in after if after[name].pid != before[name].pid] == [
        name for name in after if before[name].pid in pids
    ]
    assert COUNTERS[part](home) == kept


def test_restarting_a_part_keeps_its_address(own: Platform, home: Path) -> None:
    before = {status.name: status for status in own.status()}
    own.restart("registry")
    after = {status.name: status for status in own.status()}
    assert after["registry"].address == before["registry"].address
    assert after["registry"].pid != before["registry"].pid
    assert after["registry"].healthy


def test_unknown_parts_are_named(own: Platform, home: Path) -> None:
    with pytest.raises(PartError, match="'redis' is not a part of the platform; the parts are"):
        Platform(home, ["redis"])
    with pytest.raises(PartError, match="made with 1 broker"):
        Platform(home, brokers=3)


def test_data_survives_a_stop_and_nothing_is_left_running(own: Platform, home: Path) -> None:
    kept = {part: COUNTERS[part](home) for part in PARTS}
    members = [member for status in own.status() if status.pid for member in processes.tree(psutil.Process(status.pid))]
    ports = read_state(home).ports
    stopped = own.down()
    assert set(stopped) == {"postgres", "kafka-1", "registry", "s3", "connect"}
    assert not [member for member in members if member.is_running() and member.status() != psutil.STATUS_ZOMBIE]
    assert processes.marked(home) == []
    assert own.down() == []
    own.up()
    assert read_state(home).ports == ports
    assert {part: COUNTERS[part](home) for part in PARTS} == kept


def test_what_a_killed_supervisor_left_is_stopped_at_the_next_start(tmp_path: Path) -> None:
    home = tmp_path / "home"
    few = Platform(home, ["postgres", "s3"])

    def orphaned() -> dict[str, int]:
        """Kill the supervisor, and return what runs on without it."""
        orphans = {status.name: status.pid for status in few.status() if status.pid}
        supervisor = read_state(home).supervisor
        os.kill(supervisor.pid, signal.SIGKILL)
        assert processes.wait_until_gone(supervisor, 10)
        assert not few.running()
        assert set(orphans) == {"postgres", "s3"}
        assert all(psutil.pid_exists(pid) for pid in orphans.values())
        return orphans

    try:
        few.up()
        add_row(home)
        orphans = orphaned()
        few.up()
        assert all(status.healthy for status in few.status() if status.name in few.wanted)
        assert not [
            name for name, pid in orphans.items() if psutil.pid_exists(pid) and psutil.Process(pid).status() != "zombie"
        ]
        assert rows(home) == 1
        # And `down` alone stops them too.
        orphans = orphaned()
        assert set(few.down()) == set(orphans)
        assert processes.marked(home) == []
    finally:
        few.clean()


def test_a_taken_port_is_named_and_nothing_is_left_running(own: Platform, home: Path) -> None:
    own.down()
    port = read_state(home).ports["registry"]
    with socket.socket() as taken:
        taken.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        taken.bind(("127.0.0.1", port))
        taken.listen()
        with pytest.raises(PlatformError, match=f"port {port} of registry is taken by another program"):
            own.up()
    assert processes.marked(home) == []
    assert not own.running()


def test_an_interrupted_up_leaves_nothing_behind(tmp_path: Path) -> None:
    home = tmp_path / "home"
    environment = {**os.environ, "HEARTWATCH_HOME": str(home)}
    command = [sys.executable, "-m", "heartwatch.cli", "up", "--parts", "kafka,registry"]
    with subprocess.Popen(
        command, env=environment, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True
    ) as process:
        wait_until(lambda: processes.marked(home, "kafka-1"), 60, 0.05, AssertionError)
        process.send_signal(signal.SIGINT)
        _, errors = process.communicate(timeout=60)
    assert process.returncode == 130
    assert "Traceback" not in errors
    assert processes.marked(home) == []
    assert read_state(home).supervisor is None
    Platform(home).clean()
    assert not home.exists()


def wait_for_finding(look: Callable[[], list[HealthFinding]], resource: str) -> None:
    """Wait until what is found of the brokers is about one of them, or about all."""
    wait_until(lambda: [finding.resource for finding in look()] == [resource], 60, 0.05, lambda: AssertionError(look()))


def test_three_brokers_keep_three_copies_and_survive_the_loss_of_one(tmp_path: Path) -> None:
    platform = Platform(tmp_path / "home", ["kafka"], brokers=3)
    try:
        platform.up()
        servers = endpoints(platform.home)["kafka"]["bootstrap_servers"]
        admin = AdminClient({"bootstrap.servers": servers})
        admin.create_topics([NewTopic("copies", 3, 3)])["copies"].result(30)
        platform.kill("kafka-2")
        replicas = KafkaAdmin(KafkaSettings(bootstrap_servers=servers)).replicas
        wait_for_finding(lambda: judge_partitions(replicas(), 2), "2")
        producer = Producer(
            {"bootstrap.servers": servers, "acks": "all", "enable.idempotence": True, "transactional.id": "t"}
        )
        producer.init_transactions(60)
        producer.begin_transaction()
        for number in range(30):
            producer.produce("copies", str(number).encode(), partition=number % 3)
        producer.commit_transaction(60)
        platform.wait_for("kafka", lambda status: bool(status.healthy) and status.state is PartState.RUNNING)
        wait_for_finding(lambda: judge_partitions(replicas(), 2), "all")
        topic = admin.list_topics("copies", timeout=10).topics["copies"]
        assert [sorted(partition.replicas) for partition in topic.partitions.values()] == [[1, 2, 3]] * 3
        started = time.monotonic()
        platform.down()
        assert time.monotonic() - started < 30
        assert processes.marked(platform.home) == []
        platform.up()
        assert AdminClient({"bootstrap.servers": servers}).list_topics(timeout=10).topics["copies"].error is None
    finally:
        platform.clean()
