"""Iceberg tables, one a topic, read through the catalog that the connector writes to.

Only columns and data files that a question needs are read: the files' own statistics of partition and offset rule out the rest.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import suppress
from datetime import UTC, datetime

import pyarrow as pa
from pyiceberg.catalog.sql import SqlCatalog
from pyiceberg.exceptions import NoSuchTableError
from pyiceberg.table import Table
from sqlalchemy.exc import SQLAlchemyError

from heartwatch.iceberg import open_catalog
from heartwatch.postgres import PostgresError
from heartwatch.settings import PostgresSettings, S3Settings
from heartwatch.sink.reader import OFFSET, PARTITION, Ranges, SinkError, SinkVersion


class IcebergSink:
    """The sink's Iceberg tables: table = topic, in the namespace of the settings."""

    def __init__(self, catalog: SqlCatalog, namespace: str) -> None:
        """Read a catalog's tables.

        Args:
            catalog: where the tables are registered.
            namespace: their namespace.
        """
        self._catalog, self._namespace = catalog, namespace

    @classmethod
    def of(cls, postgres: PostgresSettings, s3: S3Settings) -> IcebergSink:
        """Open the catalog that the settings name.

        Raises:
            SinkError: the catalog's database can't be reached.
        """
        try:
            return cls(open_catalog(postgres, s3), s3.namespace)
        except (SQLAlchemyError, PostgresError) as error:
            raise SinkError(f"the Iceberg catalog can't be opened: {_short(error)}; see that Postgres is up") from error

    def close(self) -> None:
        """Close the connections to the catalog."""
        self._catalog.close()

    def version(self, topic: str) -> SinkVersion | None:
        """Return the present snapshot of a topic's table (see `SinkReader.version`)."""
        table = self._table(topic)
        snapshot = table.current_snapshot() if table is not None else None
        if snapshot is None:
            return None
        summary: dict[str, str] = dict(snapshot.summary.additional_properties) if snapshot.summary else {}
        return SinkVersion(
            identity=str(snapshot.snapshot_id),
            written_at=datetime.fromtimestamp(snapshot.timestamp_ms / 1000, UTC),
            records=_number(summary.get("total-records")),
            objects=_number(summary.get("total-data-files")),
        )

    def rows(self, topic: str, ranges: Ranges, columns: Sequence[str]) -> Iterator[pa.RecordBatch]:
        """Return rows of a topic's table (see `SinkReader.rows`)."""
        table = self._table(topic)
        wanted = {partition: span for partition, span in ranges.items() if span[1] > span[0]}
        if table is None or not wanted or table.current_snapshot() is None:
            return
        known = [name for name in columns if name in table.schema().column_names]
        try:
            yield from table.scan(row_filter=_filter(wanted), selected_fields=tuple(known)).to_arrow_batch_reader()
        except (OSError, ValueError, pa.ArrowException) as error:
            raise SinkError(
                f"table {topic!r} can't be read: {error}; an object of it is gone or damaged, or the S3 server is away"
            ) from error

    def _table(self, topic: str) -> Table | None:
        try:
            with suppress(NoSuchTableError):
                return self._catalog.load_table((self._namespace, topic))
        except (OSError, SQLAlchemyError) as error:
            raise SinkError(
                f"table {topic!r} can't be opened: {_short(error)}; see that Postgres and the S3 server are up"
            ) from error
        return None


def _filter(ranges: Ranges) -> str:
    """Return which rows, partitions of the same offsets together: each row is tried against each term."""
    spans: dict[tuple[int, int], list[int]] = {}
    for partition, span in ranges.items():
        spans.setdefault(span, []).append(partition)
    terms = [
        f"({PARTITION} in ({', '.join(map(str, partitions))}) and {OFFSET} >= {begin} and {OFFSET} < {end})"
        for (begin, end), partitions in spans.items()
    ]
    return " or ".join(terms)


def _number(text: str | None) -> int | None:
    return None if text is None else int(text)


def _short(error: Exception) -> str:
    """Return an error's first line: SQLAlchemy's goes on with statements and links."""
    return str(error).splitlines()[0] if str(error) else type(error).__name__
