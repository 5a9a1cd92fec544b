"""Every client logs in to brokers that speak TLS and ask for SCRAM; who has no account, or not the right, gets nothing."""

from __future__ import annotations

import json
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest
from confluent_kafka import Consumer, KafkaError, KafkaException, Producer, TopicPartition
from secured_accounts import Accounts

from heartwatch.platform.platform import Platform
from heartwatch.platform.ports import LOOPBACK
from kafkakit.admin import KafkaAdmin, KafkaClientError, TopicState, consumer_config, producer_config
from kafkakit.batch_consumer import NativeBatchConsumer, PlainBatchConsumer, native_is_available
from kafkakit.security import http_options, kafka_config
from kafkakit.settings import HttpAccess, KafkaSettings

pytestmark = pytest.mark.parts("kafka")

STREAM, RESULTS = "heart_rate_realtime_v9", "heart_rate_alerts_v9"


def written(
    settings: KafkaSettings,
    topic: str,
    value: bytes = b"{}",
    transactional: str | None = None,
    timeout_ms: int = 10_000,
) -> str | None:
    """Write a record; return the error's name, or None."""
    found: list[KafkaError | None] = []
    config = producer_config(settings, transactional, linger_ms=0) | {"message.timeout.ms": timeout_ms, "log_level": 0}
    # Not idempotent: one that may write nothing at all is refused before its first record, as a whole.
    producer = Producer(config | ({} if transactional else {"enable.idempotence": False}))
    try:
        if transactional:
            producer.init_transactions(10)
            producer.begin_transaction()
        producer.produce(topic, value, key=b"1", on_delivery=lambda error, _: found.append(error))
        producer.flush(10)
        if transactional:
            producer.commit_transaction(10)
    except KafkaException as error:
        return str(error.args[0].name())
    return str(found[0].name()) if found[0] is not None else None


def read_error(settings: KafkaSettings, topic: str) -> str | None:
    """Read a topic; return the error's name, or None where a record came."""
    config = consumer_config(settings, "heartwatch-produce-test") | {"log_level": 0}
    consumer = Consumer(config)
    known = consumer.list_topics(topic, timeout=10).topics[topic].error
    if known is not None:
        consumer.close()
        return known.name()
    consumer.assign([TopicPartition(topic, 0, 0)])
    end = time.monotonic() + 8
    try:
        while time.monotonic() < end:
            message = consumer.poll(0.2)
            if message is not None:
                error = message.error()
                return error.name() if error is not None else None
    finally:
        consumer.close()
    return "nothing came"


@pytest.fixture(scope="module")
def stream(accounts: Accounts) -> str:
    """The topic of the events, and that of the results, with a record each."""
    operator = accounts.settings("operator").kafka
    KafkaAdmin(operator).create([TopicState(STREAM, 1, 1), TopicState(RESULTS, 1, 1)])
    assert written(accounts.settings("producer").kafka, STREAM, transactional="heartwatch-produce-x-0") is None
    assert written(operator, RESULTS) is None
    return STREAM


@pytest.mark.parametrize("kind", [PlainBatchConsumer, NativeBatchConsumer])
def test_both_readers_log_in(
    kind: type[PlainBatchConsumer | NativeBatchConsumer], stream: str, accounts: Accounts
) -> None:
    assert native_is_available()
    with kind(consumer_config(accounts.settings("page").kafka, "heartwatch-web")) as reader:
        reader.assign([(stream, 0, 0)])
        assert reader.poll(20).value.to_pylist() == [b"{}"]


def test_a_component_has_no_other_components_rights(stream: str, accounts: Accounts) -> None:
    producer, page, connect = (accounts.settings(name).kafka for name in ("producer", "page", "connect"))
    assert written(producer, RESULTS) == "TOPIC_AUTHORIZATION_FAILED"
    assert written(producer, stream, transactional="connect-cluster-x") == "TRANSACTIONAL_ID_AUTHORIZATION_FAILED"
    assert read_error(producer, RESULTS) == "TOPIC_AUTHORIZATION_FAILED"
    assert read_error(connect, STREAM) == "GROUP_AUTHORIZATION_FAILED"
    assert written(page, stream) == "TOPIC_AUTHORIZATION_FAILED"
    assert written(connect, stream) == "TOPIC_AUTHORIZATION_FAILED"
    assert read_error(page, stream) is None
    with pytest.raises(KafkaClientError, match="AUTHORIZATION_FAILED"):
        KafkaAdmin(producer).create([TopicState("heart_rate_mine_v9", 1, 1)])
    with pytest.raises(KafkaClientError, match="AUTHORIZATION_FAILED"):
        KafkaAdmin(page).delete([stream])


@pytest.mark.parametrize(
    ("account", "changes"),
    [
        ("nobody", {}),
        ("producer", {"sasl_password": "guessed"}),
        ("producer", {"security_protocol": "PLAINTEXT"}),
        ("producer", {"security_protocol": "SASL_PLAINTEXT"}),
        ("producer", {"security_protocol": "SSL"}),
        # Somebody else's authority, such as the system's: passwords go to nobody whom the platform's own hasn't signed.
        ("producer", {"ssl_ca_file": None}),
    ],
)
def test_who_does_not_log_in_writes_nothing(
    account: str, changes: dict[str, str | None], stream: str, accounts: Accounts
) -> None:
    before = KafkaAdmin(accounts.settings("operator").kafka).offsets([stream], "latest")
    assert written(accounts.settings(account, **changes).kafka, stream, timeout_ms=1_500) == "_MSG_TIMED_OUT"
    assert KafkaAdmin(accounts.settings("operator").kafka).offsets([stream], "latest") == before


def test_the_brokers_own_listeners_ask_for_their_certificate(secured: Platform, accounts: Accounts) -> None:
    """Without it nobody is a broker, or a controller."""
    state = json.loads((secured.home / "state.json").read_text())
    for port in ("kafka-1-brokers", "kafka-1-controller"):
        place = {"bootstrap_servers": f"{LOOPBACK}:{state['ports'][port]}"}
        for protocol in ("SSL", "PLAINTEXT", "SASL_SSL"):
            settings = accounts.settings("operator", security_protocol=protocol, **place).kafka
            with pytest.raises(KafkaClientError, match=r"_TRANSPORT|_TIMED_OUT"):
                KafkaAdmin(settings, timeout_seconds=1).topics()


# ---------------------------------------------------------------------------------------------------- the engine, alone
@pytest.fixture(scope="module")
def engine(
    secured: Platform, stream: str, accounts: Accounts, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[str]:
    """A KSQL server that logs in to the brokers, speaks HTTPS and asks for a login."""
    folder, tls = tmp_path_factory.mktemp("engine"), secured.home / "tls"
    settings = accounts.settings("engine")
    options = {name: value for name, value in kafka_config(settings.kafka).items() if name != "bootstrap.servers"}
    _private(folder / "kafka.properties", "".join(f"{name}={value}\n" for name, value in options.items()))
    _private(folder / "users", "ann=secret-of-ann\n")
    with socket.socket() as probe:
        probe.bind((LOOPBACK, 0))
        address = f"{LOOPBACK}:{probe.getsockname()[1]}"
    command = [
        *(sys.executable, "-m", "ksqlengine", "server", "--listen", address, "--service-id", "heartwatch_"),
        *("--bootstrap-servers", settings.kafka.bootstrap_servers, "--kafka-config", str(folder / "kafka.properties")),
        *("--registry-url", "http://127.0.0.1:1", "--data-dir", str(folder / "data")),
        *("--tls-certificate", str(tls / "engine.pem"), "--tls-key", str(tls / "engine.key")),
        *("--users-file", str(folder / "users"), "--log-level", "WARNING"),
    ]
    assert "secret-of-ann" not in " ".join(command)
    with (folder / "log").open("wb") as log:
        process = subprocess.Popen(command, stdout=log, stderr=log)
    try:
        _until_healthy(f"https://{address}", tls / "ca.pem", process, folder / "log")
        yield f"https://{address}"
    finally:
        process.terminate()
        process.wait(60)
    said = (folder / "log").read_text()
    assert "secret-of-ann" not in said
    assert settings.kafka.sasl_password.get_secret_value() not in said


def _private(path: Path, text: str) -> None:
    path.touch(mode=0o600)
    path.write_text(text, encoding="utf-8")


def _until_healthy(url: str, authority: Path, process: subprocess.Popen[bytes], log: Path) -> None:
    from kafkakit.waiting import wait_until  # noqa: PLC0415

    with httpx.Client(**http_options(HttpAccess(ca_file=authority), "the engine"), trust_env=False) as client:

        def healthy() -> bool:
            assert process.poll() is None, log.read_text()
            try:
                return bool(client.get(f"{url}/healthcheck").json()["isHealthy"])
            except httpx.TransportError:
                return False

        wait_until(healthy, 60, 0.2, lambda: AssertionError(f"the engine isn't healthy: {log.read_text()[-3000:]}"))


def _run(tmp_path: Path, engine: str, secured: Platform, login: str, sql: str) -> subprocess.CompletedProcess[str]:
    (tmp_path / "statements.sql").write_text(sql)
    config = tmp_path / "client.properties"
    _private(config, f"ssl.ca.location={secured.home / 'tls' / 'ca.pem'}\n{login}")
    command = ["-m", "ksqlengine", "run", str(tmp_path / "statements.sql"), "--server", engine]
    return subprocess.run(
        [sys.executable, *command, "--client-config", str(config)], capture_output=True, text=True, check=False
    )


def test_the_engine_reads_with_its_own_rights_for_whoever_logs_in(
    engine: str, secured: Platform, tmp_path: Path
) -> None:
    sql = (
        f"CREATE STREAM events (id STRING KEY, v INT) WITH (kafka_topic='{STREAM}', value_format='JSON');"
        f"CREATE STREAM found WITH (kafka_topic='{RESULTS}') AS SELECT * FROM events;"
        "SHOW QUERIES;"
    )
    login = "basic.auth.user=ann\nbasic.auth.password=secret-of-ann\n"
    ran = _run(tmp_path, engine, secured, login, sql)
    assert ran.returncode == 0, ran.stdout + ran.stderr
    assert "RUNNING" in ran.stdout
    ran = _run(tmp_path, engine, secured, login, "INSERT INTO events (id, v) VALUES ('1', 1);")
    assert "uthoriz" in ran.stdout + ran.stderr


@pytest.mark.parametrize("login", ["", "basic.auth.user=ann\nbasic.auth.password=guessed\n", "bearer.auth.token=ann\n"])
def test_a_statement_without_a_login_is_refused(login: str, engine: str, secured: Platform, tmp_path: Path) -> None:
    ran = _run(tmp_path, engine, secured, login, "SHOW STREAMS;")
    assert ran.returncode == 1
    assert "Unauthorized" in ran.stdout + ran.stderr


def test_the_engine_speaks_no_clear_text(engine: str) -> None:
    with pytest.raises(httpx.TransportError):
        httpx.post(engine.replace("https", "http") + "/ksql", json={"ksql": "SHOW STREAMS;"}, trust_env=False)
