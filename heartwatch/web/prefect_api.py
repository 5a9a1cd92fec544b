"""Prefect's REST API, as much of it as the page needs."""

from __future__ import annotations

import os
from collections.abc import Sequence
from typing import Any

import httpx

from heartwatch.errors import HeartWatchError
from heartwatch.settings import Settings
from heartwatch.web.timeouts import REQUEST_SECONDS
from kafkakit.security import tls_verify

_REASON_LENGTH = 300


class PrefectError(HeartWatchError):
    """Prefect refused a request or didn't answer; the message names the request and the reason."""


class PrefectApi:
    """What the page needs of Prefect's REST API."""

    def __init__(self, settings: Settings) -> None:
        """Take the settings; as Prefect's own clients do, it takes address and credentials from the environment too."""
        url = settings.prefect.api_url or os.environ.get("PREFECT_API_URL") or "http://127.0.0.1:4200/api"
        stated = settings.prefect.auth_string.get_secret_value() or os.environ.get("PREFECT_API_AUTH_STRING", "")
        user, colon, password = stated.partition(":")
        auth = (user, password) if colon else None
        self.ui_url = (settings.web.prefect_ui_url or url.removesuffix("/").removesuffix("/api")).rstrip("/")
        verify = tls_verify(settings.prefect.ca_file, "Prefect's server")
        self._http = httpx.Client(
            base_url=url.rstrip("/"), timeout=REQUEST_SECONDS, auth=auth, trust_env=False, verify=verify
        )

    def ask(self, method: str, path: str, body: Any = None, allowed: Sequence[int] = ()) -> Any:
        """Send a request and return the answer; None for one of the `allowed` error codes.

        Raises:
            PrefectError: Prefect refused it or doesn't answer.
        """
        try:
            response = self._http.request(method, path, json=body)
        except httpx.HTTPError as error:
            raise PrefectError(
                f"no answer from {self._http.base_url}: {error}; check that Prefect's server is running"
            ) from error
        if response.status_code in allowed:
            return None
        if not response.is_success:
            raise PrefectError(f"{method} {path}: HTTP {response.status_code}: {response.text[:_REASON_LENGTH]}")
        return response.json() if response.content else None
