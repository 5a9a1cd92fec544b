"""Kafka brokers in KRaft mode: each is broker and controller."""

from __future__ import annotations

import base64
import subprocess
import uuid
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from heartwatch.platform.errors import PartError
from heartwatch.platform.rights import OPERATOR, grant
from heartwatch.platform.services import java
from heartwatch.platform.services.base import Context, NotHealthyError, Part
from heartwatch.platform.state import AUTHORITY, write_atomically
from kafkakit.security import kafka_config
from kafkakit.settings import KafkaSettings

if TYPE_CHECKING:
    from confluent_kafka.admin import AdminClient

BROKER_COUNTS = (1, 3)
CERTIFICATE = "kafka"
SCRAM_LOGIN = "org.apache.kafka.common.security.scram.ScramLoginModule"

_HEAP_MIB = 384
_LOGGING = """\
status = error
appender.console.type = Console
appender.console.name = console
appender.console.layout.type = PatternLayout
appender.console.layout.pattern = %d %-5p %c{1} %m%n
rootLogger.level = WARN
rootLogger.appenderRef.console.ref = console
logger.started.name = org.apache.kafka.common.utils.AppInfoParser
logger.started.level = INFO
logger.denied.name = kafka.authorizer.logger
logger.denied.level = INFO
"""


class KafkaPart(Part):
    """One of the brokers."""

    def __init__(self, number: int, secured: bool = False) -> None:
        name = f"kafka-{number}"
        own = (f"{name}-brokers",) if secured else ()
        super().__init__(
            name=name,
            group="kafka",
            port_names=(name, f"{name}-controller", *own),
            memory_mib=_HEAP_MIB + 150,
            package_sets=("kafka",),
            # With three brokers stopped together the last one waits in vain for a quorum.
            stop_seconds=10.0,
        )
        self.number = number

    def prepare(self, context: Context) -> None:
        """Write the configuration, and format the log folder the first time."""
        folder = context.data(self.name)
        write_atomically(folder / "server.properties", render(broker_properties(self.number, context)))
        write_logging(folder)
        if not (folder / "log" / "meta.properties").exists():
            self._format(context, folder)

    def _format(self, context: Context, folder: Path) -> None:
        controllers = ",".join(
            f"{number}@{context.address(f'kafka-{number}-controller')}:{kafka_uuid(context.identity, f'kafka-{number}')}"
            for number in range(1, context.brokers + 1)
        )
        command = [
            *java_command(context, folder, heap_mib=128),
            "kafka.tools.StorageTool",
            "format",
            *("--cluster-id", kafka_uuid(context.identity, "cluster")),
            *("--config", str(folder / "server.properties")),
            *("--initial-controllers", controllers),
        ]
        result = subprocess.run(command, capture_output=True, text=True, check=False)
        if result.returncode:
            reason = (result.stderr.strip() or result.stdout.strip()).splitlines()[-1:]
            raise PartError(f"the log folder of {self.name} can't be formatted: {' '.join(reason)}")

    def command(self, context: Context) -> list[str]:
        """Return the command line."""
        folder = context.data(self.name)
        archive = java.archive_options("kafka", context)
        return [*java_command(context, folder, _HEAP_MIB, archive), "kafka.Kafka", str(folder / "server.properties")]

    def stop_limit(self, context: Context) -> float:
        """Allow for the class archive."""
        return self.stop_seconds + (java.ARCHIVE_SECONDS if java.writes_archive("kafka", context) else 0)

    def stopped(self, context: Context) -> None:
        """Keep the class archive, if one was written."""
        java.keep_archive("kafka", context)

    def check(self, context: Context) -> None:
        """Ask this broker which brokers it sees."""
        from confluent_kafka import KafkaException  # noqa: PLC0415  the command line must start quickly

        client = self._admin(context)
        try:
            brokers = client.list_topics(timeout=3).brokers
        except KafkaException as error:
            raise NotHealthyError(error.args[0].str()) from error
        if self.number not in brokers:
            raise NotHealthyError(f"brokers {sorted(brokers)} are registered, {self.number} is not yet")

    def _admin(self, context: Context) -> AdminClient:
        """Return a client of this broker that may do everything: on a secured platform by the brokers' own certificate."""
        from confluent_kafka.admin import AdminClient  # noqa: PLC0415  the command line must start quickly

        settings = KafkaSettings(bootstrap_servers=context.address(self.name))
        if context.secured:
            settings = KafkaSettings(
                bootstrap_servers=context.address(f"{self.name}-brokers"),
                security_protocol="SSL",
                ssl_ca_file=context.certificate("ca"),
                ssl_certificate_file=context.certificate(CERTIFICATE),
                ssl_key_file=context.certificate(CERTIFICATE, "key"),
            )
        return AdminClient({**kafka_config(settings), "log_level": 0})

    def configure(self, context: Context) -> None:
        """Give the components of a secured platform their accounts and rights."""
        if context.secured:
            grant(self._admin(context), dict(context.accounts["kafka"]))

    def endpoints(self, context: Context) -> dict[str, dict[str, Any]]:
        """Return all brokers' addresses, how many copies they can keep, and how they are logged in to."""
        return {
            "kafka": {
                "bootstrap_servers": context.bootstrap_servers,
                "replication_factor": context.brokers,
                "min_insync_replicas": in_sync(context.brokers),
                **(client_security(context) if context.secured else {}),
            }
        }


def client_security(context: Context, account: str = OPERATOR) -> dict[str, str]:
    """Return how an account logs in to the brokers of a secured platform, shaped as the settings, without its password."""
    return {
        "security_protocol": "SASL_SSL",
        "sasl_mechanism": "SCRAM-SHA-512",
        "sasl_username": account,
        "ssl_ca_file": str(context.certificate("ca")),
    }


def in_sync(brokers: int) -> int:
    """Return how many copies must acknowledge a write: a majority, so that one broker may be down."""
    return brokers // 2 + 1


def broker_properties(number: int, context: Context) -> dict[str, str | int]:
    """Return the configuration of a broker."""
    quorum = ",".join(context.address(f"kafka-{other}-controller") for other in range(1, context.brokers + 1))
    copies = {
        f"{topic}.replication.factor": context.brokers
        for topic in ("default", "offsets.topic", "transaction.state.log", "share.coordinator.state.topic")
    }
    return {
        "process.roles": "broker,controller",
        "node.id": number,
        **(_secured_listeners(number, context) if context.secured else _open_listeners(number, context)),
        "controller.listener.names": "CONTROLLER",
        "controller.quorum.bootstrap.servers": quorum,
        "log.dirs": str(context.data(f"kafka-{number}") / "log"),
        **copies,
        "min.insync.replicas": in_sync(context.brokers),
        "transaction.state.log.min.isr": in_sync(context.brokers),
        "share.coordinator.state.topic.min.isr": in_sync(context.brokers),
        "offsets.topic.num.partitions": 8,
        "transaction.state.log.num.partitions": 8,
        "auto.create.topics.enable": "false",
        # What is tried on a laptop is often old: the default, a week, would delete recordings of last year within minutes.
        "log.retention.ms": -1,
        "group.initial.rebalance.delay.ms": 0,
        # The default, 128 MiB, is a third of the heap.
        "log.cleaner.dedupe.buffer.size": 16 << 20,
    }


def _open_listeners(number: int, context: Context) -> dict[str, str | int]:
    own, controller = context.address(f"kafka-{number}"), context.address(f"kafka-{number}-controller")
    listeners = f"PLAINTEXT://{own},CONTROLLER://{controller}"
    return {"listeners": listeners, "advertised.listeners": listeners}


def _secured_listeners(number: int, context: Context) -> dict[str, str | int]:
    """Return listeners with TLS: SCRAM for clients, the brokers' own certificate among brokers and controllers.

    So the first account can be made without a password on a command line, and no account lets anybody pass for a broker.
    """
    addresses = {"SASL_SSL": "", "BROKERS": "-brokers", "CONTROLLER": "-controller"}
    listeners = ",".join(f"{name}://{context.address(f'kafka-{number}{suffix}')}" for name, suffix in addresses.items())
    known = {
        f"listener.name.{name}.ssl.client.auth": kind
        for name, kind in (("sasl_ssl", "none"), ("brokers", "required"), ("controller", "required"))
    }
    return {
        "listeners": listeners,
        "advertised.listeners": listeners,
        "listener.security.protocol.map": "SASL_SSL:SASL_SSL,BROKERS:SSL,CONTROLLER:SSL",
        "inter.broker.listener.name": "BROKERS",
        "sasl.enabled.mechanisms": "SCRAM-SHA-512",
        "listener.name.sasl_ssl.scram-sha-512.sasl.jaas.config": f"{SCRAM_LOGIN} required;",
        **java_stores(context, CERTIFICATE),
        **known,
        "authorizer.class.name": "org.apache.kafka.metadata.authorizer.StandardAuthorizer",
        "super.users": f"User:CN={AUTHORITY}-{CERTIFICATE}",
        "allow.everyone.if.no.acl.found": "false",
    }


def java_stores(context: Context, name: str | None = None, prefix: str = "") -> dict[str, str | int]:
    """Return whom a Java program trusts on a secured platform, and what it shows of itself.

    Args:
        context: the platform.
        name: its certificate; None for clients without one.
        prefix: of the properties' names.
    """
    stores = {"truststore": context.certificate("ca")}
    if name is not None:
        stores["keystore"] = context.certificate(name, "both.pem")
    properties: dict[str, str | int] = {}
    for store, path in stores.items():
        properties |= {f"{prefix}ssl.{store}.type": "PEM", f"{prefix}ssl.{store}.location": str(path)}
    return properties


def kafka_uuid(identity: str, purpose: str) -> str:
    """Return an id as Kafka writes them (base64 of 16 bytes), always the same for a platform and purpose."""
    salt = 0
    while True:
        value = uuid.uuid5(uuid.UUID(identity), f"{purpose}-{salt}")
        text = base64.urlsafe_b64encode(value.bytes).rstrip(b"=").decode("ascii")
        # A leading dash would look like an option.
        if not text.startswith("-"):
            return text
        salt += 1


def render(properties: Mapping[str, str | int]) -> str:
    """Return a Java properties file."""
    return "".join(f"{name}={_escape(str(value))}\n" for name, value in properties.items())


def _escape(value: str) -> str:
    escaped = value.replace("\\", "\\\\").replace("\n", "\\n")
    # Leading spaces would be cut off.
    return f"\\{escaped}" if escaped.startswith(" ") else escaped


def write_logging(folder: Path) -> None:
    """Write the logging configuration; without one nothing is logged."""
    write_atomically(folder / "log4j2.properties", _LOGGING)


def java_command(context: Context, folder: Path, heap_mib: int, options: Iterable[str] = ()) -> list[str]:
    """Return the start of a command line that runs a class of Kafka's packages."""
    return [
        str(java.find_java()),
        *java.options(heap_mib),
        *options,
        f"-Dlog4j2.configurationFile={folder / 'log4j2.properties'}",
        "-cp",
        ":".join(str(jar) for jar in context.packages.jars("kafka")),
    ]
