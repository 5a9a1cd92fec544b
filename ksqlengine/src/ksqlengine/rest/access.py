"""Who may use the REST API, and how its connections are encrypted: basic auth and TLS, as ksqlDB's clients speak them.

As ksqlDB does it, the health check and the cluster's ids are for everybody: load balancers have no password.
"""

from __future__ import annotations

import base64
import binascii
import hashlib
import hmac
import json
import secrets
import ssl
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from starlette.types import ASGIApp, Receive, Scope, Send

from kafkakit.security import SecurityError, read_properties
from kafkakit.settings import is_loopback
from ksqlengine.server.engine import EngineStartError

OPEN_PATHS = frozenset({"/healthcheck", "/v1/metadata", "/v1/metadata/id", "/chc/live", "/chc/ready"})

_REFUSAL = json.dumps({"@type": "generic_error", "error_code": 40100, "message": "Unauthorized"}).encode()
_HEADERS = [(b"content-type", b"application/json"), (b"www-authenticate", b'Basic realm="KSQL", charset="UTF-8"')]


@dataclass(frozen=True)
class ServerAccess:
    """How a server lets clients in.

    Attributes:
        certificate_file: PEM file of its certificate, with its chain; None for connections in clear text.
        key_file: PEM file of the certificate's key.
        users: passwords by user; none: everybody may do everything.
    """

    certificate_file: Path | None = None
    key_file: Path | None = None
    users: Mapping[str, str] = field(default_factory=dict, repr=False)

    @classmethod
    def of(cls, certificate_file: Path | None, key_file: Path | None, users_file: Path | None) -> ServerAccess:
        """Read what a server is started with.

        Args:
            certificate_file: PEM file of its certificate.
            key_file: PEM file of the certificate's key.
            users_file: lines ``user=password``, readable by its owner only.

        Raises:
            EngineStartError: a file can't be used, or one of certificate and key is missing.
        """
        if (certificate_file is None) != (key_file is None):
            raise EngineStartError("--tls-certificate and --tls-key belong together; give both or none")
        try:
            users = read_properties(users_file) if users_file else {}
        except SecurityError as error:
            raise EngineStartError(str(error)) from error
        if users_file and not all((users, *users.values())):
            raise EngineStartError(f"{str(users_file)!r} has no users, or one without a password; write user=password")
        return cls(certificate_file, key_file, users)

    def check(self, listen: str) -> None:
        """Refuse what can't be used, before anything is served.

        Raises:
            EngineStartError: the certificate can't be used, or passwords would be sent in clear text.
        """
        if self.certificate_file is None:
            if self.users and not is_loopback(listen.rpartition(":")[0].strip("[]")):
                raise EngineStartError(
                    f"users would send their passwords in clear text to {listen!r}; give --tls-certificate and --tls-key"
                )
            return
        try:
            ssl.create_default_context(ssl.Purpose.CLIENT_AUTH).load_cert_chain(self.certificate_file, self.key_file)
        except (OSError, ssl.SSLError) as error:
            raise EngineStartError(
                f"certificate {str(self.certificate_file)!r} with key {str(self.key_file)!r} can't be used: {error}; "
                "they must be PEM files that belong together"
            ) from error


class BasicAuth:
    """Lets in who knows a user's password."""

    def __init__(self, application: ASGIApp, users: Mapping[str, str]) -> None:
        """Wrap an application.

        Args:
            application: what those who are let in may use.
            users: passwords by user.
        """
        self._application = application
        self._users = {name: _digest(password) for name, password in users.items()}
        self._nobody = secrets.token_bytes(32)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass a request on, or refuse it as ksqlDB does."""
        asks = scope["type"] in ("http", "websocket") and scope["path"] not in OPEN_PATHS
        if not asks or self._knows(scope):
            await self._application(scope, receive, send)
        elif scope["type"] == "websocket":
            await send({"type": "websocket.close", "code": 1008, "reason": "Unauthorized"})
        else:
            await send({"type": "http.response.start", "status": 401, "headers": _HEADERS})
            await send({"type": "http.response.body", "body": _REFUSAL})

    def _knows(self, scope: Scope) -> bool:
        given = next((value for name, value in scope["headers"] if name.lower() == b"authorization"), b"")
        scheme, _, encoded = given.partition(b" ")
        try:
            user, _, password = base64.b64decode(encoded, validate=True).decode("utf-8").partition(":")
        except (binascii.Error, UnicodeDecodeError):
            return False
        # As much work for a user who isn't there: the time tells nothing.
        known = hmac.compare_digest(_digest(password), self._users.get(user, self._nobody))
        return known and scheme.lower() == b"basic"


def _digest(password: str) -> bytes:
    return hashlib.sha256(password.encode()).digest()
