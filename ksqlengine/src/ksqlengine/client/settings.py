"""Which KSQL servers a client talks to, and how it logs in."""

from __future__ import annotations

from pydantic import Field

from kafkakit.settings import HttpAccess


class KsqldbSettings(HttpAccess):
    """KSQL servers: real ksqlDB or the embedded engine."""

    urls: list[str] = Field(
        ["http://127.0.0.1:8088"], min_length=1, description="servers; the first healthy one is used"
    )
    request_timeout_seconds: float = Field(30, gt=0, description="limit of one request")
