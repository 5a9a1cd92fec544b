"""What all readers have in common."""

from __future__ import annotations

from typing import ClassVar, Protocol, TypeVar

Reading_co = TypeVar("Reading_co", covariant=True)


class PartReader(Protocol[Reading_co]):
    """Asks one part of the platform for what the page shows of it.

    Attributes:
        part: the part's name as the page shows it.
        interval_seconds: time between two readings while somebody views the page, s.
    """

    part: ClassVar[str]
    interval_seconds: ClassVar[float]

    def read(self) -> Reading_co:
        """Ask the part; any exception means that it doesn't answer, and its message says why."""
        ...
