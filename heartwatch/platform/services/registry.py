"""The schema registry: Apicurio, through Confluent's API, its schemas in Postgres."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from heartwatch.platform.errors import PartError
from heartwatch.platform.ports import LOOPBACK
from heartwatch.platform.rights import OPERATOR
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
            **(_secured(context) if context.secured else {"QUARKUS_HTTP_PORT": str(context.ports["registry"])}),
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
        response = client(context).request(
            "PUT", f"{api(context)}/config", json={"compatibility": "BACKWARD"}, auth=self.credentials(context)
        )
        if not response.is_success:
            raise PartError(
                f"the registry refused compatibility 'BACKWARD': HTTP {response.status_code} {response.text}"
            )

    def endpoints(self, context: Context) -> dict[str, dict[str, Any]]:
        """Return the address for clients, and the one for Connect's converter (Apicurio's own API)."""
        login = {"user": OPERATOR, "ca_file": str(context.certificate("ca"))} if context.secured else {}
        addresses = {"url": api(context), "converter_url": f"{self.address(context)}/apis/registry/v2"}
        return {"registry": {**addresses, **login}}

    def credentials(self, context: Context) -> tuple[str, str] | None:
        """Return what a secured registry asks for."""
        return (OPERATOR, context.accounts["registry"][OPERATOR]) if context.secured else None


def _secured(context: Context) -> dict[str, str]:
    """Return what makes the registry speak HTTPS only and answer those only who log in."""
    users = {
        f"QUARKUS_SECURITY_USERS_EMBEDDED_{kind}_{account.upper()}": value
        for account, password in context.accounts["registry"].items()
        for kind, value in (("USERS", password), ("ROLES", "user"))
    }
    return {
        "QUARKUS_HTTP_INSECURE_REQUESTS": "disabled",
        "QUARKUS_HTTP_SSL_PORT": str(context.ports["registry"]),
        "QUARKUS_HTTP_SSL_CERTIFICATE_FILES": str(context.certificate("registry")),
        "QUARKUS_HTTP_SSL_CERTIFICATE_KEY_FILES": str(context.certificate("registry", "key")),
        "QUARKUS_HTTP_AUTH_BASIC": "true",
        "QUARKUS_SECURITY_USERS_EMBEDDED_PLAIN_TEXT": "true",
        **users,
        "QUARKUS_HTTP_AUTH_PERMISSION_ALL_PATHS": "/*",
        "QUARKUS_HTTP_AUTH_PERMISSION_ALL_POLICY": "authenticated",
    }


def api(context: Context) -> str:
    """Return the address of Confluent's API."""
    return f"{'https' if context.secured else 'http'}://{context.address('registry')}{_API}"
