"""Names of a service's own topics and consumer groups, as ksqlDB gives them, and of the properties that only this engine has."""

from __future__ import annotations

INTERNAL_PREFIX = "_confluent-ksql-"
"""Beginning of all these names; nobody else's topics may begin so."""

AHEAD = "ksqlengine.timestamp.ahead.max.ms"
"""Property of a query: how far the TIMESTAMP column of a stream's record may lie ahead of the record's own time, ms; -1: any."""

CACHE = "cache.max.bytes.buffering"
"""Property of a query: size of the cache before its stores, bytes; 0: none."""


def is_internal(topic: str) -> bool:
    """Say whether a topic is a service's own, which nobody else reads or writes."""
    return topic.startswith(INTERNAL_PREFIX)


def command_topic(service_id: str) -> str:
    """Return the name of the topic that a service's statements are written to."""
    return f"{INTERNAL_PREFIX}{service_id}command_topic"


def reader_group(service_id: str, name: str) -> str:
    """Return the consumer group of a reader that joins none: brokers ask whether it may, so it is named as the service's are."""
    return f"{INTERNAL_PREFIX}{service_id}{name}"


def query_topic(service_id: str, query_id: str, suffix: str) -> str:
    """Return the name of a query's own topic."""
    return f"{query_group(service_id, query_id)}-{suffix}"


def query_group(service_id: str, query_id: str, stage: str = "") -> str:
    """Return the consumer group of a query's stage; `stage` is empty for the last one, as `Stage.name` is."""
    return f"{INTERNAL_PREFIX}{service_id}query_{query_id}{f'-{stage}' if stage else ''}"
