"""The schema registry: Apicurio, through Confluent's API, its schemas in Postgres."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from heartwatch.platform.errors import PartError
from heartwatch.platform.ports import LOOPBACK
from heartwatch.platform.services import java
from heartwatch.platform.services.base import Context, HttpPart, client
from heartwatch.platform.services.postgres import USER

_API = "/apis/ccompat/v7"
_HEAP_MIB = 256


@dataclass
class RegistryPart(HttpPart):
    """The registry's server."""

    name: str = "registry"
    group: str = "registry"
    depends_on: tuple[str, ...] = ("postgres",)
    port_names: tuple[str, ...] = ("registry",)
    memory_mib: int = _HEAP_MIB + 150
    package_sets: tuple[str, ...] = ("registry",)
    health_path: str = f"{_API}/subjects"

    def command(self, context: Context) -> list[str]:
        """Return the command line."""
        jar = next(context.packages.path("registry").glob("apicurio-registry-app-*-runner.jar"))
        return [
            str(java.find_java()),
            *java.options(_HEAP_MIB),
            *java.archive_options("registry", context),
            "-jar",
            str(jar),
        ]

    def stop_limit(self, context: Context) -> float:
        """Allow for the class archive."""
        return self.stop_seconds + (java.ARCHIVE_SECONDS if java.writes_archive("registry", context) else 0)

    def stopped(self, context: Context) -> None:
        """Keep the class archive, if one was written."""
        java.keep_archive("registry", context)

    def environment(self, context: Context) -> dict[str, str]:
        """Return the configuration: variables, unlike the command line, are not shown to other users."""
        return {
            **super().environment(context),
            "QUARKUS_HTTP_HOST": LOOPBACK,
            "QUARKUS_HTTP_ACCESS_LOG_ENABLED": "false",
            "QUARKUS_HTTP_PORT": str(context.ports["registry"]),
            "APICURIO_STORAGE_SQL_KIND": "postgresql",
            "APICURIO_DATASOURCE_URL": f"jdbc:postgresql://{context.address('postgres')}/registry",
            "APICURIO_DATASOURCE_USERNAME": USER,
            "APICURIO_DATASOURCE_PASSWORD": context.secrets["postgres"]["password"],
            "APICURIO_DATASOURCE_JDBC_INITIAL_SIZE": "2",
            "APICURIO_DATASOURCE_JDBC_MIN_SIZE": "2",
            "APICURIO_DATASOURCE_JDBC_MAX_SIZE": "20",
            # Confluent's serializers look for a schema in their own spelling of it, without the file's white space.
            "APICURIO_CCOMPAT_USE_CANONICAL_HASH": "true",
            # Otherwise each connection fails one request after Postgres was restarted.
            "QUARKUS_DATASOURCE_POSTGRESQL_JDBC_VALIDATE_ON_BORROW": "true",
        }

    def configure(self, context: Context) -> None:
        """Demand backward compatibility, Confluent's default; this server's own is none."""
        response = client().put(f"{api(context)}/config", json={"compatibility": "BACKWARD"})
        if not response.is_success:
            raise PartError(
                f"the registry refused compatibility 'BACKWARD': HTTP {response.status_code} {response.text}"
            )

    def endpoints(self, context: Context) -> dict[str, dict[str, Any]]:
        """Return the address for clients, and the one for Connect's converter (Apicurio's own API)."""
        return {"registry": {"url": api(context), "converter_url": f"{self.address(context)}/apis/registry/v2"}}


def api(context: Context) -> str:
    """Return the address of Confluent's API."""
    return f"http://{context.address('registry')}{_API}"
