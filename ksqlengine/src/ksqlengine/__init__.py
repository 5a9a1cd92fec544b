"""The embedded KSQL engine: ksqlDB's SQL, semantics and REST API over Polars frames and Kafka.

`InMemory` and `run` are the Python API: statements over given rows in this process, without Kafka.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from ksqlengine.api.rows import RowError
    from ksqlengine.api.session import InMemory, run
    from ksqlengine.types.errors import KsqlError

__all__ = ["InMemory", "KsqlError", "RowError", "run"]

_MODULES = {"InMemory": "api.session", "RowError": "api.rows", "run": "api.session", "KsqlError": "types.errors"}


def __getattr__(name: str) -> Any:
    """Import the Python API when it is first used: the client, the server and the command line need none of it."""
    if name not in _MODULES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from importlib import import_module  # noqa: PLC0415

    return getattr(import_module(f"{__name__}.{_MODULES[name]}"), name)
