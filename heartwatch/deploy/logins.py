"""Looks, without asking anybody, at how the settings log in: what would fail, or tell a secret to others."""

from __future__ import annotations

import ssl
import time
from collections.abc import Iterator
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from urllib.parse import urlsplit

from heartwatch.settings import SECRETS_FOLDER, Settings
from kafkakit.settings import HttpAccess, KafkaSettings, is_clear_text, is_loopback

MANAGED = ("msk", "confluent-cloud", "secured")
"""Profiles of clusters that ask for a login: their files can't know the addresses, nor may they have secrets."""

_WARN_SECONDS = 7 * 86_400.0
_OPEN = 0o077


@dataclass(frozen=True)
class Weakness:
    """One thing that is wrong with how the settings log in.

    Attributes:
        setting: the variable that has it.
        what: what is wrong; never a secret.
        remedy: what to do.
    """

    setting: str
    what: str
    remedy: str


def weaknesses(settings: Settings, secrets_folder: Path | None = None) -> list[Weakness]:
    """Return what is wrong; nothing is sent.

    Args:
        settings: of this process.
        secrets_folder: folder of secrets, a file each; None: none is used.
    """
    services = {"registry": settings.registry, "connect": settings.connect, "ksqldb": settings.ksqldb}
    found = [*_kafka(settings), *_postgres(settings), *_s3(settings), *_secret_files(settings, secrets_folder)]
    for name, access in services.items():
        found += _http(name, access, settings)
    return found


def _kafka(settings: Settings) -> Iterator[Weakness]:
    kafka, prefix = settings.kafka, "HEARTWATCH_KAFKA__"
    if settings.profile in MANAGED:
        if all(map(is_loopback, kafka.hosts)):
            yield Weakness(
                f"{prefix}BOOTSTRAP_SERVERS",
                f"profile {settings.profile!r} has no brokers: {kafka.bootstrap_servers!r} is this machine",
                "name the cluster's brokers",
            )
        if not kafka.security_protocol.endswith("SSL"):
            yield Weakness(
                f"{prefix}SECURITY_PROTOCOL",
                f"{kafka.security_protocol!r} sends events and passwords in clear text",
                "use SASL_SSL, or SSL with a client certificate",
            )
    if kafka.security_protocol == "PLAINTEXT":
        if kafka.sasl_username or kafka.sasl_password.get_secret_value():
            yield Weakness(
                f"{prefix}SECURITY_PROTOCOL",
                "there is a user, but 'PLAINTEXT' logs nobody in",
                "use SASL_SSL, or unset SASL_USERNAME and SASL_PASSWORD",
            )
        return
    if kafka.logs_in:
        yield from _sasl(kafka, prefix)
    elif kafka.ssl_certificate_file is None:
        yield Weakness(
            f"{prefix}SSL_CERTIFICATE_FILE",
            "'SSL' without a client certificate: the brokers don't know who this is",
            "set SSL_CERTIFICATE_FILE and SSL_KEY_FILE, or use SASL_SSL",
        )
    yield from _files(prefix + "SSL_", kafka.ssl_ca_file, kafka.ssl_certificate_file, kafka.ssl_key_file)


def _sasl(kafka: KafkaSettings, prefix: str) -> Iterator[Weakness]:
    if kafka.sasl_mechanism != "OAUTHBEARER":
        needed = {"SASL_USERNAME": kafka.sasl_username, "SASL_PASSWORD": kafka.sasl_password.get_secret_value()}
    elif kafka.oauth_provider == "msk":
        needed = {}
        if find_spec("aws_msk_iam_sasl_signer") is None:
            yield Weakness(
                f"{prefix}OAUTH_PROVIDER",
                "the signer of MSK isn't installed (aws_msk_iam_sasl_signer)",
                "run: pip install 'heartwatch[msk]'",
            )
    else:
        needed = {
            "OAUTH_TOKEN_URL": kafka.oauth_token_url or "",
            "OAUTH_CLIENT_ID": kafka.oauth_client_id,
            "OAUTH_CLIENT_SECRET": kafka.oauth_client_secret.get_secret_value(),
        }
    for name, value in needed.items():
        if not value:
            yield Weakness(prefix + name, f"{kafka.sasl_mechanism} can't log in without it", f"set {prefix}{name}")


def _http(name: str, access: HttpAccess, settings: Settings) -> Iterator[Weakness]:
    prefix = f"HEARTWATCH_{name.upper()}__"
    plural = isinstance(urls := getattr(access, "urls", None), list)
    addresses = urls if plural and urls else [getattr(access, "url", "")]
    setting = prefix + ("URLS" if plural else "URL")
    secret = access.password.get_secret_value() or access.token.get_secret_value()
    for url in addresses:
        if is_clear_text(url) and (secret or settings.profile in MANAGED):
            sent = "the password" if secret else "what is asked and answered"
            yield Weakness(setting, f"{url!r} sends {sent} in clear text", "give an https address")
        elif settings.profile in MANAGED and is_loopback(urlsplit(url).hostname or ""):
            yield Weakness(setting, f"profile {settings.profile!r} has none: {url!r} is this machine", f"set {setting}")
    if access.password.get_secret_value() and not access.user:
        yield Weakness(f"{prefix}USER", f"there is a password for {name} and no user", f"set {prefix}USER")
    if settings.profile in MANAGED and not secret and access.certificate_file is None:
        yield Weakness(
            f"{prefix}PASSWORD",
            f"there is no password, token or client certificate for {name}: it asks nobody, or lets nobody in",
            f"set {prefix}USER and {prefix}PASSWORD, or {prefix}TOKEN",
        )
    yield from _files(prefix, access.ca_file, access.certificate_file, access.key_file)


def _postgres(settings: Settings) -> Iterator[Weakness]:
    postgres, prefix = settings.postgres, "HEARTWATCH_POSTGRES__"
    away = not is_loopback(postgres.host)
    if settings.profile in MANAGED and away and not postgres.sslmode.startswith("verify-"):
        yield Weakness(
            f"{prefix}SSLMODE",
            f"{postgres.sslmode!r} doesn't know {postgres.host!r} from somebody else",
            "use verify-full, and CA_FILE",
        )
    if postgres.sslmode.startswith("verify-") and postgres.ca_file is None:
        yield Weakness(f"{prefix}CA_FILE", f"{postgres.sslmode!r} knows no authority", "set CA_FILE")
    yield from _files(prefix, postgres.ca_file, None, None)


def _s3(settings: Settings) -> Iterator[Weakness]:
    if settings.profile in MANAGED and is_clear_text(settings.s3.endpoint or "https://"):
        yield Weakness(
            "HEARTWATCH_S3__ENDPOINT", f"{settings.s3.endpoint!r} sends objects in clear text", "give an https address"
        )
    yield from _files("HEARTWATCH_S3__", settings.s3.ca_file, None, None)


def _files(prefix: str, authority: Path | None, certificate: Path | None, key: Path | None) -> Iterator[Weakness]:
    for name, path in (("CA_FILE", authority), ("CERTIFICATE_FILE", certificate), ("KEY_FILE", key)):
        if path is not None and (problem := _unreadable(path)):
            yield Weakness(prefix + name, f"{str(path)!r} can't be read: {problem}", "check the path and its owner")
    if key is not None and not _unreadable(key) and key.expanduser().stat().st_mode & _OPEN:
        yield Weakness(f"{prefix}KEY_FILE", f"{str(key)!r} may be read by others", f"run: chmod 600 {key}")
    if authority is not None and not _unreadable(authority):
        yield from _authority(f"{prefix}CA_FILE", authority)


def _authority(setting: str, path: Path) -> Iterator[Weakness]:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    try:
        context.load_verify_locations(path.expanduser())
        ends = [ssl.cert_time_to_seconds(str(one["notAfter"])) for one in context.get_ca_certs()]
    except (ssl.SSLError, ValueError) as error:
        yield Weakness(setting, f"{str(path)!r} holds no certificates: {error}", "give a PEM file of the authority")
        return
    if not ends:
        yield Weakness(setting, f"{str(path)!r} is no authority's certificate", "give that of who signed the server's")
    elif max(ends) < time.time() + _WARN_SECONDS:
        day = time.strftime("%Y-%m-%d", time.gmtime(max(ends)))
        yield Weakness(setting, f"{str(path)!r} holds until {day} only", "get the authority's new certificate")


def _secret_files(settings: Settings, folder: Path | None) -> Iterator[Weakness]:
    files = [settings.home / name for name in ("secrets.toml", "settings.toml", "accounts.toml")]
    for path in files:
        if path.exists() and path.stat().st_mode & _OPEN and _may_be_secret(path):
            yield Weakness(
                "HEARTWATCH_HOME", f"{str(path)!r} has secrets and may be read by others", f"run: chmod 600 {path}"
            )
    if folder is None:
        return
    for path in sorted(folder.iterdir()):
        # The owner of a mounted secret is often another one, and its group lets the process in.
        if path.is_file() and path.stat().st_mode & 0o007:
            yield Weakness(SECRETS_FOLDER, f"{str(path)!r} may be read by others", f"run: chmod o= {path}")


def _may_be_secret(path: Path) -> bool:
    if path.name != "settings.toml":
        return True
    text = path.read_text(encoding="utf-8", errors="replace").lower()
    return any(word in text for word in ("password", "secret", "token", "access_key", "auth_string"))


def _unreadable(path: Path) -> str | None:
    try:
        with path.expanduser().open("rb"):
            return None
    except OSError as error:
        return error.strerror or type(error).__name__
