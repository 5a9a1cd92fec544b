"""Kafka Connect: the connectors and their tasks."""

from __future__ import annotations

from contextlib import suppress
from typing import ClassVar

from heartwatch.connect import Connect, ConnectorStatus, UnknownConnectorError
from heartwatch.settings import Settings
from heartwatch.web.timeouts import REQUEST_SECONDS


class ConnectReader:
    """Reads the connectors and their tasks."""

    part: ClassVar[str] = "Connect"
    interval_seconds: ClassVar[float] = 5.0

    def __init__(self, settings: Settings) -> None:
        """Take the settings; nothing is asked before `read`."""
        self._connect = Connect(settings.connect, REQUEST_SECONDS, retry_seconds=0.1)

    def read(self) -> tuple[ConnectorStatus, ...]:
        """Ask Connect.

        Raises:
            ConnectError: it doesn't answer.
        """
        found = []
        for name in self._connect.connectors():
            with suppress(UnknownConnectorError):
                found.append(self._connect.status(name))
        return tuple(found)
