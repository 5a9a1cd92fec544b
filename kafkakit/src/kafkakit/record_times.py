"""Timestamps of records as librdkafka can write them.

librdkafka takes the timestamp 0 as "now" (``rd_kafka_msg_new0``), and brokers take -1 as "none". A record of 1970 written with
the wall clock would move stream time to now, and everything behind it would be late.
"""

from __future__ import annotations

LEAST_MS = 1
"""The earliest timestamp that can be written, ms since the epoch."""


def written_ms(event_ms: int) -> int:
    """Return the timestamp to write a record with: its event time, and the earliest possible one in place of earlier ones."""
    return max(event_ms, LEAST_MS)
