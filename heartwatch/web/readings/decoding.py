"""Decodes the values of an analytic's topics with the schemas that the registry has."""

from __future__ import annotations

from heartwatch.analytic import Analytic
from heartwatch.settings import Settings
from heartwatch.web.timeouts import REQUEST_SECONDS
from kafkakit.avro_codec import Decoder, parse
from kafkakit.registry import Registry
from kafkakit.writer_schemas import WriterSchemas


def decoder(settings: Settings, analytic: Analytic, resource: str) -> Decoder:
    """Return a decoder of the values of an analytic's topic; it may be used by several threads."""
    schemas = WriterSchemas(Registry(settings.registry, REQUEST_SECONDS).avro_schema, wait_seconds=REQUEST_SECONDS)
    return Decoder(parse(analytic.schema_text(resource)), schemas)
