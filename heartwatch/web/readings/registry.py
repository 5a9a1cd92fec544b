"""The schema registry: how many subjects it has."""

from __future__ import annotations

from typing import ClassVar

from heartwatch.settings import Settings
from heartwatch.web.timeouts import REQUEST_SECONDS
from kafkakit.registry import Registry


class RegistryReader:
    """Counts the subjects of the schema registry."""

    part: ClassVar[str] = "Schema registry"
    interval_seconds: ClassVar[float] = 5.0

    def __init__(self, settings: Settings) -> None:
        """Take the settings; the client asks four times, which together must not take longer than a request elsewhere."""
        self._registry = Registry(settings.registry, REQUEST_SECONDS / 4)

    def read(self) -> int:
        """Ask the registry.

        Raises:
            RegistryError: it doesn't answer.
        """
        return len(self._registry.subjects())
