"""The S3 server: whether it answers."""

from __future__ import annotations

from typing import ClassVar

import httpx

from heartwatch.errors import HeartWatchError
from heartwatch.settings import Settings
from heartwatch.web.timeouts import REQUEST_SECONDS
from kafkakit.security import tls_verify


class StorageError(HeartWatchError):
    """The S3 server doesn't answer; the message names its address and the reason."""


class StorageReader:
    """Asks the S3 server for any answer; AWS itself is assumed to be available."""

    part: ClassVar[str] = "S3"
    interval_seconds: ClassVar[float] = 5.0

    def __init__(self, settings: Settings) -> None:
        """Take the settings; nothing is asked before `read`."""
        self._endpoint = settings.s3.endpoint
        self._http = httpx.Client(
            timeout=REQUEST_SECONDS, trust_env=False, verify=tls_verify(settings.s3.ca_file, "the S3 server")
        )

    def read(self) -> bool:
        """Ask the server; a refusal counts as an answer.

        Raises:
            StorageError: it doesn't answer.
        """
        try:
            if self._endpoint:
                self._http.head(self._endpoint)
        except httpx.HTTPError as error:
            raise StorageError(
                f"no answer from {self._endpoint}: {error}; check that the S3 server is running"
            ) from error
        return True
