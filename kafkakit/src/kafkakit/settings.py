"""Settings of Kafka and the Schema Registry, as sections that an application's own settings hold.

How clients log in stands here too, to Kafka and to services over HTTP; `kafkakit.security` makes their configurations of it.
"""

from __future__ import annotations

import ipaddress
from collections.abc import Iterable
from pathlib import Path
from typing import Literal
from urllib.parse import urlsplit

from pydantic import BaseModel, ConfigDict, Field, SecretStr, field_validator, model_validator


class SettingsSection(BaseModel):
    """A group of settings; a name that it doesn't have is a mistake, not one to be passed over."""

    model_config = ConfigDict(extra="forbid", hide_input_in_errors=True)


class HttpAccess(SettingsSection):
    """How a service over HTTP is logged in to: basic auth or a bearer token, its authority, a client certificate."""

    user: str = Field("", description="user of basic auth; empty: none is sent")
    password: SecretStr = Field(SecretStr(""), description="password of that user")
    token: SecretStr = Field(SecretStr(""), description="bearer token, in place of user and password")
    ca_file: Path | None = Field(
        None, description="PEM file of the authority that signed the server; None: the system's"
    )
    certificate_file: Path | None = Field(None, description="PEM file of a client certificate, with its chain")
    key_file: Path | None = Field(None, description="PEM file of that certificate's key")
    key_password: SecretStr = Field(SecretStr(""), description="password of the key file, where it has one")

    @model_validator(mode="after")
    def _consistent(self) -> HttpAccess:
        if (self.certificate_file is None) != (self.key_file is None):
            raise ValueError("certificate_file and key_file belong together; set both or none")
        for name in ("url", "urls"):
            value = getattr(self, name, ())
            if holds_password([value] if isinstance(value, str) else value):
                raise ValueError(f"{name} has a password in it, which logs would show; set user and password instead")
        if self.token.get_secret_value() and self.password.get_secret_value():
            raise ValueError("a bearer token and a password exclude each other; set token or password, not both")
        return self


class KafkaSettings(SettingsSection):
    """Brokers, how they are logged in to, and the topics' sizes."""

    bootstrap_servers: str = Field("127.0.0.1:9092", description="host:port list of the brokers")
    security_protocol: Literal["PLAINTEXT", "SSL", "SASL_SSL", "SASL_PLAINTEXT"] = Field(
        "PLAINTEXT", description="how brokers are spoken to; SASL_PLAINTEXT is for the loopback interface only"
    )
    sasl_mechanism: Literal["SCRAM-SHA-512", "SCRAM-SHA-256", "PLAIN", "OAUTHBEARER"] = Field(
        "SCRAM-SHA-512", description="how a client logs in, for the protocols SASL_…"
    )
    sasl_username: str = Field("", description="user of SCRAM and PLAIN; an API key on Confluent Cloud")
    sasl_password: SecretStr = Field(
        SecretStr(""),
        description="HEARTWATCH_KAFKA__SASL_PASSWORD: password of SCRAM and PLAIN, or the API key's secret",
    )
    ssl_ca_file: Path | None = Field(
        None, description="PEM file of the authority that signed the brokers; None: the system's"
    )
    ssl_certificate_file: Path | None = Field(None, description="PEM file of a client certificate, with its chain")
    ssl_key_file: Path | None = Field(None, description="PEM file of that certificate's key")
    ssl_key_password: SecretStr = Field(SecretStr(""), description="password of the key file, where it has one")
    oauth_provider: Literal["oidc", "msk"] = Field(
        "oidc",
        description="who gives tokens for OAUTHBEARER: an OIDC server, or AWS by the signer of MSK (extra `msk`)",
    )
    oauth_token_url: str | None = Field(None, description="token endpoint of the OIDC server")
    oauth_client_id: str = Field("", description="client of the OIDC server (client credentials)")
    oauth_client_secret: SecretStr = Field(
        SecretStr(""), description="HEARTWATCH_KAFKA__OAUTH_CLIENT_SECRET: secret of that client"
    )
    oauth_scope: str = Field("", description="scope that is asked for; empty: none")
    oauth_extensions: str = Field(
        "", description="SASL extensions, name=value with commas between: logicalCluster=…,identityPoolId=…"
    )
    oauth_region: str = Field("us-east-1", description="AWS region of the MSK cluster")
    partitions: int = Field(8, ge=1, le=10_000, description="partitions of each input topic (the original's: 30)")
    replication_factor: int = Field(1, ge=1, le=9, description="copies of each partition")
    min_insync_replicas: int = Field(1, ge=1, le=9, description="copies that must acknowledge a write")
    retention_ms: int = Field(86_400_000, ge=-1, description="retention of the events, ms; -1: indefinitely")
    retention_bytes: int = Field(-1, ge=-1, description="how much of a partition stays, bytes; -1 without limit")

    @field_validator("oauth_token_url")
    @classmethod
    def _encrypted(cls, value: str | None) -> str | None:
        """Refuse an address to which the client's secret would travel in clear text."""
        if value is not None and is_clear_text(value):
            raise ValueError(f"{value!r} is not encrypted; give an https address")
        return value

    @model_validator(mode="after")
    def _consistent(self) -> KafkaSettings:
        if self.security_protocol == "SASL_PLAINTEXT" and not all(map(is_loopback, self.hosts)):
            raise ValueError(
                f"security_protocol='SASL_PLAINTEXT' would send passwords and events in clear text to "
                f"{self.bootstrap_servers!r}; use SASL_SSL"
            )
        if (self.ssl_certificate_file is None) != (self.ssl_key_file is None):
            raise ValueError("ssl_certificate_file and ssl_key_file belong together; set both or none")
        return self

    @property
    def hosts(self) -> list[str]:
        """The brokers' host names and addresses."""
        return [address.strip().rpartition(":")[0].strip("[]") for address in self.bootstrap_servers.split(",")]

    @property
    def logs_in(self) -> bool:
        """Whether a user, or a token, is told to the brokers."""
        return self.security_protocol.startswith("SASL_")


class RegistrySettings(HttpAccess):
    """Schema Registry (Confluent's API)."""

    url: str = Field("http://127.0.0.1:8081", description="base address of the Confluent-compatible API")
    converter_url: str | None = Field(None, description="address that Connect's Avro converter uses, where it differs")
    logical_cluster: str = Field("", description="Confluent Cloud's id of the registry (lsrc-…), for a bearer token")
    compatibility: Literal["BACKWARD", "BACKWARD_TRANSITIVE", "FORWARD", "FULL", "FULL_TRANSITIVE", "NONE"] = Field(
        "BACKWARD", description="compatibility that a new version must keep"
    )


def is_loopback(host: str) -> bool:
    """Tell whether what is sent to a host stays on this machine."""
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost" or host.endswith(".localhost")


def is_clear_text(url: str) -> bool:
    """Tell whether what is sent to an address can be read on the network."""
    parts = urlsplit(url)
    return parts.scheme != "https" and not is_loopback(parts.hostname or "")


def holds_password(urls: Iterable[str]) -> bool:
    """Tell whether one of the addresses has a password in it, which logs and error messages would show."""
    return any(urlsplit(url).password is not None for url in urls)
