"""The processing log: records that a query could not process, as ksqlDB writes them.

Source: ksqlDB's processing log, types 0 (DESERIALIZATION_ERROR) and 1 (RECORD_PROCESSING_ERROR) of its
``ProcessingLogMessageSchema``. The topic gets one JSON object per record, written in the query's own transactions, so each bad
record is logged once.
"""

from __future__ import annotations

from base64 import b64encode
from collections.abc import Mapping

import orjson

from ksqlengine.execution.readers import Rejected

# A message may have a million bytes; in base64 a record is a third larger, and a reason may quote all of it.
_MOST_RECORD_BYTES, _MOST_REASON_CHARACTERS = 600_000, 10_000
_DESERIALIZATION_ERROR, _RECORD_PROCESSING_ERROR = 0, 1


def topic_name(service_id: str) -> str:
    """Return the name of a service's processing-log topic."""
    return f"{service_id}ksql_processing_log"


def entry(query_id: str, rejected: Rejected, time_ms: int) -> bytes:
    """Return the log message of a bad record.

    Args:
        query_id: the query that read it.
        rejected: which record, and why.
        time_ms: when it was found, ms since the epoch.
    """
    if rejected.failure is not None:
        # ksqlDB leaves the row out unless ksql.logging.processing.rows.include is set.
        error = {"errorMessage": rejected.failure.message, "record": None, "cause": [rejected.failure.cause]}
        return _message(
            f"processing.{query_id}.{rejected.failure.step}",
            time_ms,
            _RECORD_PROCESSING_ERROR,
            recordProcessingError=error,
        )
    record, reason = rejected.record, rejected.reason[:_MOST_REASON_CHARACTERS]
    if record is not None and len(record) > _MOST_RECORD_BYTES:
        reason = f"{reason} (the record is left out here: it has {len(record)} bytes)"
        record = None
    return _message(
        f"processing.{query_id}.{rejected.topic}.deserializer",
        time_ms,
        _DESERIALIZATION_ERROR,
        deserializationError={
            "target": "value",
            "errorMessage": reason,
            "recordB64": None if record is None else b64encode(record).decode(),
            "cause": [],
            "topic": rejected.topic,
            "partition": rejected.partition,
            "offset": rejected.offset,
        },
    )


def _message(logger: str, time_ms: int, kind: int, **error: Mapping[str, object]) -> bytes:
    parts = dict.fromkeys(
        (
            "deserializationError",
            "recordProcessingError",
            "productionError",
            "serializationError",
            "kafkaStreamsThreadError",
        )
    )
    return orjson.dumps(
        {"level": "ERROR", "logger": logger, "time": time_ms, "message": {"type": kind, **parts, **error}}
    )
