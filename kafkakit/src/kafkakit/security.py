"""How clients log in: of settings, what librdkafka, confluent-kafka's registry client and httpx take.

The only place that does it: every producer, consumer, admin client and HTTP client starts from here.
"""

from __future__ import annotations

import ssl
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from kafkakit.errors import KafkaKitError
from kafkakit.settings import HttpAccess, KafkaSettings, RegistrySettings

Token = tuple[str, float]
"""A bearer token, and until when it holds, s since 1970."""


class SecurityError(KafkaKitError):
    """A client can't log in with what the settings say; the message names the setting and the remedy."""


def kafka_config(settings: KafkaSettings) -> dict[str, Any]:
    """Return where brokers are and how they are logged in to, as librdkafka's clients take it.

    Raises:
        SecurityError: a file is missing, or the signer of MSK isn't installed.
    """
    config: dict[str, Any] = {"bootstrap.servers": settings.bootstrap_servers}
    if settings.security_protocol == "PLAINTEXT":
        return config
    config["security.protocol"] = settings.security_protocol
    if settings.security_protocol.endswith("SSL"):
        config |= _tls(settings)
    if settings.logs_in:
        config |= _sasl(settings)
    return config


def _tls(settings: KafkaSettings) -> dict[str, Any]:
    files = {
        "ssl.ca.location": settings.ssl_ca_file,
        "ssl.certificate.location": settings.ssl_certificate_file,
        "ssl.key.location": settings.ssl_key_file,
    }
    config: dict[str, Any] = {name: _readable(path, f"Kafka's {name}") for name, path in files.items() if path}
    if password := settings.ssl_key_password.get_secret_value():
        config["ssl.key.password"] = password
    return config


def _sasl(settings: KafkaSettings) -> dict[str, Any]:
    config: dict[str, Any] = {"sasl.mechanism": settings.sasl_mechanism}
    if settings.sasl_mechanism != "OAUTHBEARER":
        password = settings.sasl_password.get_secret_value()
        if not settings.sasl_username or not password:
            raise SecurityError(
                f"Kafka asks for {settings.sasl_mechanism} and there is no user or no password; "
                "set sasl_username and sasl_password"
            )
        return {**config, "sasl.username": settings.sasl_username, "sasl.password": password}
    if settings.oauth_provider == "msk":
        return {**config, "oauth_cb": msk_tokens(settings.oauth_region)}
    if not settings.oauth_token_url:
        raise SecurityError("Kafka asks for OAUTHBEARER and there is no OIDC server; set oauth_token_url")
    # librdkafka fetches and renews these tokens by itself.
    config |= {
        "sasl.oauthbearer.method": "oidc",
        "sasl.oauthbearer.token.endpoint.url": settings.oauth_token_url,
        "sasl.oauthbearer.client.id": settings.oauth_client_id,
        "sasl.oauthbearer.client.secret": settings.oauth_client_secret.get_secret_value(),
    }
    if settings.ssl_ca_file:
        config["https.ca.location"] = str(settings.ssl_ca_file)
    optional = {"scope": settings.oauth_scope, "extensions": settings.oauth_extensions}
    return config | {f"sasl.oauthbearer.{name}": value for name, value in optional.items() if value}


def msk_tokens(region: str) -> Callable[[str], Token]:
    """Return what gives a client tokens of AWS: the credentials are those of AWS's own chain (role, environment, profile).

    Raises:
        SecurityError: the signer isn't installed.
    """
    try:
        from aws_msk_iam_sasl_signer import MSKAuthTokenProvider  # noqa: PLC0415 - an extra
    except ModuleNotFoundError as error:
        raise SecurityError(
            "aws_msk_iam_sasl_signer is not installed, which signs in to MSK; run: pip install 'kafkakit[msk]'"
        ) from error

    def token(_: str) -> Token:
        text, expires_ms = MSKAuthTokenProvider.generate_auth_token(region)
        return text, expires_ms / 1000

    return token


def registry_config(settings: RegistrySettings) -> dict[str, Any]:
    """Return where the registry is and how it is logged in to, as confluent-kafka's client takes it.

    Raises:
        SecurityError: a file is missing.
    """
    config: dict[str, Any] = {"url": settings.url}
    if token := settings.token.get_secret_value():
        # Confluent's client asks for the cluster too; a registry of one's own has no use for it.
        config |= {
            "bearer.auth.credentials.source": "STATIC_TOKEN",
            "bearer.auth.token": token,
            "bearer.auth.logical.cluster": settings.logical_cluster or "none",
        }
    elif settings.user:
        config["basic.auth.user.info"] = f"{settings.user}:{settings.password.get_secret_value()}"
    files = {
        "ssl.ca.location": settings.ca_file,
        "ssl.certificate.location": settings.certificate_file,
        "ssl.key.location": settings.key_file,
    }
    config |= {name: _readable(path, f"the registry's {name}") for name, path in files.items() if path}
    if settings.certificate_file and (password := settings.key_password.get_secret_value()):
        config["ssl.key.password"] = password
    return config


def http_options(access: HttpAccess, service: str) -> dict[str, Any]:
    """Return how a service is logged in to, as keyword arguments of an httpx client: auth, headers, verify.

    Args:
        access: what the settings say.
        service: its name, for errors.

    Raises:
        SecurityError: a file is missing or of no use.
    """
    options: dict[str, Any] = {"headers": {}}
    if token := access.token.get_secret_value():
        options["headers"] = {"Authorization": f"Bearer {token}"}
    elif access.user and (password := access.password.get_secret_value()):
        options["auth"] = (access.user, password)
    if access.ca_file or access.certificate_file:
        options["verify"] = _context(access, service)
    return options


def tls_verify(ca_file: Path | None, service: str) -> ssl.SSLContext | bool:
    """Return what an httpx client of a service takes as `verify`: its own authority, or (True) those of the system.

    Raises:
        SecurityError: the file is missing or of no use.
    """
    return _context(HttpAccess(ca_file=ca_file), service) if ca_file else True


def _context(access: HttpAccess, service: str) -> ssl.SSLContext:
    """Return with which certificates a service is trusted, and which one is shown to it.

    Raises:
        SecurityError: a file is missing or of no use.
    """
    authority = _readable(access.ca_file, f"{service}'s ca_file") if access.ca_file else None
    certificate = _readable(access.certificate_file, f"{service}'s certificate_file") if access.certificate_file else ""
    key = _readable(access.key_file, f"{service}'s key_file") if access.key_file else None
    try:
        context = ssl.create_default_context(cafile=authority)
        if certificate:
            context.load_cert_chain(certificate, key, access.key_password.get_secret_value() or None)
    except (ssl.SSLError, OSError) as error:
        raise SecurityError(
            f"{service}'s certificates {authority!r}, {certificate!r}, {key!r} can't be used: {error}; "
            "they must be PEM files that belong together"
        ) from error
    return context


def _readable(path: Path, what: str) -> str:
    """Return a file's path; librdkafka's own errors don't name the file."""
    try:
        with path.expanduser().open("rb"):
            return str(path.expanduser())
    except OSError as error:
        raise SecurityError(
            f"{what} {str(path)!r} can't be read: {error.strerror}; check the path and its owner"
        ) from error


# ---------------------------------------------------------------------------------------------------- properties files
_KAFKA_NAMES = {
    "security.protocol": "security_protocol",
    "sasl.mechanism": "sasl_mechanism",
    "sasl.mechanisms": "sasl_mechanism",
    "sasl.username": "sasl_username",
    "sasl.password": "sasl_password",
    "ssl.ca.location": "ssl_ca_file",
    "ssl.certificate.location": "ssl_certificate_file",
    "ssl.key.location": "ssl_key_file",
    "ssl.key.password": "ssl_key_password",
    "sasl.oauthbearer.token.endpoint.url": "oauth_token_url",
    "sasl.oauthbearer.client.id": "oauth_client_id",
    "sasl.oauthbearer.client.secret": "oauth_client_secret",
    "sasl.oauthbearer.scope": "oauth_scope",
    "sasl.oauthbearer.extensions": "oauth_extensions",
    "oauth.provider": "oauth_provider",
    "oauth.region": "oauth_region",
}
_HTTP_NAMES = {
    "basic.auth.user": "user",
    "basic.auth.password": "password",
    "bearer.auth.token": "token",
    "ssl.ca.location": "ca_file",
    "ssl.certificate.location": "certificate_file",
    "ssl.key.location": "key_file",
    "ssl.key.password": "key_password",
}


def read_kafka_config(path: Path) -> dict[str, str]:
    """Return the `KafkaSettings` of a properties file with librdkafka's names (``sasl.username=…``), as kcat reads one.

    Raises:
        SecurityError: the file can't be read, or has another name in it.
    """
    return _named(path, _KAFKA_NAMES)


def read_http_config(path: Path) -> dict[str, str]:
    """Return the `HttpAccess` of a properties file: ``basic.auth.user``, ``basic.auth.password``, ``ssl.ca.location``, ….

    Raises:
        SecurityError: the file can't be read, or has another name in it.
    """
    return _named(path, _HTTP_NAMES)


def _named(path: Path, names: Mapping[str, str]) -> dict[str, str]:
    values = read_properties(path)
    unknown = sorted(values.keys() - names.keys())
    if unknown:
        raise SecurityError(f"{str(path)!r} has names that mean nothing here: {unknown!r}; use {sorted(names)!r}")
    return {names[name]: value for name, value in values.items()}


def read_properties(path: Path) -> dict[str, str]:
    """Return a properties file's values: lines ``name=value``; a line that begins with ``#`` says nothing.

    Raises:
        SecurityError: it can't be read, others than its owner can read it, or a line is neither.
    """
    try:
        text = path.expanduser().read_text(encoding="utf-8")
        mode = path.expanduser().stat().st_mode
    except (OSError, UnicodeDecodeError) as error:
        raise SecurityError(f"{str(path)!r} can't be read: {error}; check its path, owner and contents") from error
    if mode & 0o077:
        raise SecurityError(f"{str(path)!r} may be read by others (mode {mode & 0o777:o}); run: chmod 600 {path}")
    lines = {number: line.strip() for number, line in enumerate(text.splitlines(), 1)}
    entries = {number: line for number, line in lines.items() if line and not line.startswith("#")}
    wrong = [number for number, line in entries.items() if "=" not in line]
    if wrong:
        # The line itself may be a secret.
        raise SecurityError(f"{str(path)!r}, line {wrong[0]}: no '='; write name=value")
    pairs = (line.partition("=") for line in entries.values())
    return {name.strip(): value.strip() for name, _, value in pairs}
