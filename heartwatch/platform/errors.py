"""What goes wrong on the embedded platform; every message says what failed and what to do, in one sentence."""

from __future__ import annotations

from heartwatch.errors import HeartWatchError


class PlatformError(HeartWatchError):
    """The platform can't do what was asked."""


class PackageError(PlatformError):
    """A pinned package can't be had, or isn't the one that was pinned."""


class PartError(PlatformError):
    """One part can't be started, stopped or found."""


class DamagedStateError(PlatformError):
    """The file that says what of the platform runs, and where, can't be read."""
