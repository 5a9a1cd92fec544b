"""Kafka Connect, distributed, with Debezium, the Iceberg sink and the Avro converter."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from heartwatch.platform.ports import LOOPBACK
from heartwatch.platform.services import java
from heartwatch.platform.services.base import Context, HttpPart
from heartwatch.platform.services.kafka import java_command, render, write_logging
from heartwatch.platform.state import write_atomically

USER = "heartwatch"
_HEAP_MIB = 512
_FOR_CONNECTORS = {
    "postgres": ("password",),
    "s3": ("access_key_id", "secret_access_key"),
}
"""The secrets that connectors may refer to, by table: whoever may create a connector can send them anywhere."""


@dataclass
class ConnectPart(HttpPart):
    """The only worker of a Connect cluster."""

    name: str = "connect"
    group: str = "connect"
    depends_on: tuple[str, ...] = ("kafka",)
    # Its connectors use them.
    follows: tuple[str, ...] = ("postgres", "registry", "s3")
    port_names: tuple[str, ...] = ("connect",)
    memory_mib: int = _HEAP_MIB + 200
    package_sets: tuple[str, ...] = ("kafka", "plugins", "plugins/iceberg", "plugins/converter")
    health_path: str = "/health"

    def prepare(self, context: Context) -> None:
        """Write the configuration, and the secrets that connectors refer to."""
        folder = context.data("connect")
        secrets = {
            f"{table}.{name}": context.secrets[table][name]
            for table, names in _FOR_CONNECTORS.items()
            for name in names
        }
        write_atomically(secrets_file(context), render(secrets))
        write_atomically(folder / "users.properties", render({USER: context.secrets["connect"]["password"]}))
        write_atomically(folder / "login.conf", _LOGIN.format(users=folder / "users.properties"))
        write_atomically(folder / "worker.properties", render(worker_properties(context)))
        write_logging(folder)

    def command(self, context: Context) -> list[str]:
        """Return the command line."""
        folder = context.data("connect")
        main = "org.apache.kafka.connect.cli.ConnectDistributed"
        archive = java.archive_options("connect", context)
        options = [*archive, f"-Djava.security.auth.login.config={folder / 'login.conf'}"]
        return [*java_command(context, folder, _HEAP_MIB, options), main, str(folder / "worker.properties")]

    def credentials(self, context: Context) -> tuple[str, str]:
        """Return what the REST API asks for."""
        return USER, context.secrets["connect"]["password"]

    def stop_limit(self, context: Context) -> float:
        """Allow for the class archive."""
        return self.stop_seconds + (java.ARCHIVE_SECONDS if java.writes_archive("connect", context) else 0)

    def stopped(self, context: Context) -> None:
        """Keep the class archive, if one was written."""
        java.keep_archive("connect", context)

    def endpoints(self, context: Context) -> dict[str, dict[str, Any]]:
        """Return the REST API's address, and the file that connectors' secrets come from."""
        return {"connect": {"url": self.address(context), "secrets_file": str(secrets_file(context))}}


_LOGIN = """\
KafkaConnect {{
    org.apache.kafka.connect.rest.basic.auth.extension.PropertyFileLoginModule required
    file="{users}";
}};
"""


def secrets_file(context: Context) -> Path:
    """Return the file that the config provider `secrets` reads."""
    return context.data("connect") / "secrets.properties"


def worker_properties(context: Context) -> dict[str, str | int]:
    """Return the worker's configuration."""
    topics = {f"{kind}.storage.topic": f"connect-{kind}" for kind in ("config", "offset", "status")}
    copies = {f"{kind}.storage.replication.factor": context.brokers for kind in ("config", "offset", "status")}
    return {
        "bootstrap.servers": context.bootstrap_servers,
        "group.id": "connect",
        **topics,
        **copies,
        "offset.storage.partitions": 5,
        "status.storage.partitions": 2,
        "listeners": f"http://{context.address('connect')}",
        "rest.advertised.host.name": LOOPBACK,
        "rest.extension.classes": "org.apache.kafka.connect.rest.basic.auth.extension.BasicAuthSecurityRestExtension",
        "key.converter": "org.apache.kafka.connect.storage.StringConverter",
        "value.converter": "org.apache.kafka.connect.json.JsonConverter",
        "plugin.path": str(context.packages.path("plugins")),
        # Scanning the classes instead takes four times as long and three times the memory.
        "plugin.discovery": "service_load",
        "exactly.once.source.support": "enabled",
        "connector.client.config.override.policy": "All",
        # There is no other worker to wait for.
        "scheduled.rebalance.max.delay.ms": 0,
        # A sink's task hears of a commit only between two polls, and on a quiet topic a poll lasts this long: with the default
        # of a minute the last records of a run would reach the tables a minute late.
        "offset.flush.interval.ms": 1_000,
        "config.providers": "secrets",
        "config.providers.secrets.class": "org.apache.kafka.common.config.provider.FileConfigProvider",
        "config.providers.secrets.param.allowed.paths": str(secrets_file(context)),
    }
