"""Kafka Connect, distributed, with Debezium, the Iceberg sink and the Avro converter."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from heartwatch.platform.ports import LOOPBACK
from heartwatch.platform.services import java
from heartwatch.platform.services.base import Context, HttpPart
from heartwatch.platform.services.kafka import SCRAM_LOGIN, java_command, java_stores, render, write_logging
from heartwatch.platform.state import write_atomically
from heartwatch.settings import ConnectSettings

USER = "heartwatch"
ACCOUNT = "connect"
"""Who Connect and its connectors are on the brokers and the registry of a secured platform."""
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
        if context.secured:
            secrets["registry.password"] = context.accounts["registry"][ACCOUNT]
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
        trust = java.trust_options(context) if context.secured else ()
        options = [*archive, *trust, f"-Djava.security.auth.login.config={folder / 'login.conf'}"]
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
        login = {"ca_file": str(context.certificate("ca")), **_converter(context)} if context.secured else {}
        return {"connect": {"url": self.address(context), "secrets_file": str(secrets_file(context)), **login}}


def _converter(context: Context) -> dict[str, dict[str, str]]:
    """Return the settings of the converter that logs in to a secured registry."""
    usual = ConnectSettings().avro_converter
    login = {
        "apicurio.auth.username": ACCOUNT,
        "apicurio.auth.password": f"${{secrets:{secrets_file(context)}:registry.password}}",
    }
    return {"avro_converter": usual | login}


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
        **(_secured(context) if context.secured else {"listeners": f"http://{context.address('connect')}"}),
        "rest.advertised.host.name": LOOPBACK,
        "rest.extension.classes": "org.apache.kafka.connect.rest.basic.auth.extension.BasicAuthSecurityRestExtension",
        "key.converter": "org.apache.kafka.connect.storage.StringConverter",
        "value.converter": "org.apache.kafka.connect.json.JsonConverter",
        "plugin.path": ",".join(
            [str(context.packages.path("plugins")), *([context.elsewhere.converters] if context.elsewhere else [])]
        ),
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


def _secured(context: Context) -> dict[str, str | int]:
    """Return HTTPS for the REST API, and how the worker and its connectors log in to the brokers.

    The Iceberg sink takes the worker's own entries for its control topic, other connectors those with a prefix.
    """
    login = f'{SCRAM_LOGIN} required username="{ACCOUNT}" password="{context.accounts["kafka"][ACCOUNT]}";'
    security: dict[str, str | int] = {
        "security.protocol": "SASL_SSL",
        "sasl.mechanism": "SCRAM-SHA-512",
        "sasl.jaas.config": login,
        **java_stores(context),
    }
    prefixes = ("", "producer.", "consumer.", "admin.")
    https = "listeners.https.ssl."
    return {
        "listeners": f"https://{context.address('connect')}",
        f"{https}keystore.type": "PKCS12",
        f"{https}keystore.location": str(context.certificate("connect", "p12")),
        f"{https}keystore.password": context.certificate("connect", "password").read_text(encoding="ascii"),
        **{f"{prefix}{name}": value for prefix in prefixes for name, value in security.items()},
    }
