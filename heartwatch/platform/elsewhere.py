"""Servers that are there already: brokers, a schema registry and KSQL servers that are used instead of parts of the platform."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

REPLACED_GROUPS = frozenset({"kafka", "registry", "engine"})
"""The groups of parts whose work such servers do."""

_CONVERTER = "io.confluent.connect.avro.AvroConverter"


@dataclass(frozen=True)
class Elsewhere:
    """Where those servers are.

    Attributes:
        bootstrap_servers: the brokers, ``host:port`` with commas between.
        registry_url: the schema registry's address: Confluent's API.
        ksqldb_urls: the KSQL servers' addresses.
        replication_factor: copies that the brokers keep of a topic.
        converters: folder of plugins for Connect that has Confluent's Avro converter; the platform's own one asks Apicurio's
            registry by an API that Confluent's doesn't have.
    """

    bootstrap_servers: str
    registry_url: str
    ksqldb_urls: Sequence[str]
    replication_factor: int
    converters: str

    def endpoints(self) -> dict[str, dict[str, Any]]:
        """Return their addresses, shaped as the settings."""
        return {
            "kafka": {
                "bootstrap_servers": self.bootstrap_servers,
                "replication_factor": self.replication_factor,
                "min_insync_replicas": max(1, self.replication_factor - 1),
            },
            "registry": {"url": self.registry_url},
            "ksqldb": {"urls": list(self.ksqldb_urls)},
            "connect": {"avro_converter": {"class": _CONVERTER, "schema.registry.url": "${registry.converter_url}"}},
        }
