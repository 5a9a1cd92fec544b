"""The KSQL servers: their health, the persistent queries, and how many messages went through them."""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass
from typing import ClassVar

from heartwatch.analytic import Analytic
from heartwatch.settings import Settings
from heartwatch.web.timeouts import REQUEST_SECONDS
from ksqlengine.client.rest_client import Ksqldb, QueryInfo, StatementRefusedError, Statistics
from ksqlengine.internal_names import query_group


@dataclass(frozen=True)
class KsqlReading:
    """What the KSQL servers report.

    Attributes:
        servers: whether each server reports that it is healthy, by address.
        version: version of the server in use.
        queries: persistent queries.
        stream: messages through the first stream; None if it doesn't exist.
        table: messages through the final table; None if it doesn't exist.
        groups: consumer groups of the queries.
    """

    servers: Mapping[str, bool]
    version: str
    queries: tuple[QueryInfo, ...]
    stream: Statistics | None
    table: Statistics | None
    groups: tuple[str, ...]


class KsqlReader:
    """Reads the persistent queries and the statistics of the first stream and the final table."""

    part: ClassVar[str] = "KSQL"
    interval_seconds: ClassVar[float] = 2.0

    def __init__(self, settings: Settings, analytic: Analytic) -> None:
        """Take the settings; nothing is asked before `read`."""
        quick = settings.ksqldb.model_copy(update={"request_timeout_seconds": REQUEST_SECONDS})
        self._ksqldb = Ksqldb(quick, retry_seconds=0.1)
        self._stream, self._table = analytic.stream_topic, analytic.results_topic

    def read(self) -> KsqlReading:
        """Ask the servers.

        Raises:
            KsqldbError: no server answers.
        """
        info, queries = self._ksqldb.info(), tuple(self._ksqldb.queries())
        return KsqlReading(
            servers=self._ksqldb.healthy(),
            version=info.version,
            queries=queries,
            stream=self._statistics(self._stream),
            table=self._statistics(self._table),
            groups=tuple(query_group(info.service_id, query.query_id) for query in queries),
        )

    def _statistics(self, name: str) -> Statistics | None:
        # KSQL keeps names as the migrations give them, unquoted: in capitals.
        with suppress(StatementRefusedError):
            return self._ksqldb.describe(name.upper()).statistics
        return None
