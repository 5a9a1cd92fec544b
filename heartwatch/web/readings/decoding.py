"""Decodes the values of an analytic's topics with the schemas that the registry has."""

from __future__ import annotations

import threading
from contextlib import suppress

from heartwatch.analytic import Analytic
from heartwatch.settings import Settings
from heartwatch.web.timeouts import REQUEST_SECONDS
from kafkakit.avro_codec import AvroSchema, Decoder, UnknownSchemaError, parse
from kafkakit.registry import NotRegisteredError, Registry


def decoder(settings: Settings, analytic: Analytic, resource: str) -> Decoder:
    """Return a decoder of the values of an analytic's topic; it may be used by several threads."""
    registry, lock = Registry(settings.registry, REQUEST_SECONDS), threading.Lock()
    known: dict[int, AvroSchema] = {}

    def look_up(schema_id: int) -> AvroSchema:
        with lock:
            if schema_id not in known:
                with suppress(NotRegisteredError):
                    known[schema_id] = parse(registry.schema(schema_id))
            if schema_id not in known:
                raise UnknownSchemaError(f"schema id {schema_id!r} is not registered")
            return known[schema_id]

    return Decoder(parse(analytic.schema_text(resource)), look_up)
