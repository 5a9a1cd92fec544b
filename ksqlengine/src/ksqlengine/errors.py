"""The root of this package's exceptions.

Those that ksqlDB has too, with its codes and messages, are in `ksqlengine.types.errors`.
"""

from __future__ import annotations


class KsqlEngineError(Exception):
    """Something that the engine or its client expects to go wrong did; the message says what."""
