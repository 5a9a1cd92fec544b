"""One day's report: computed by DuckDB over the sink's Iceberg tables, kept as one Parquet object.

The analytic's own statement `ksql/<analytic>/reports/daily.sql` says what is reported, one row per key and hour. It has the key
of the events, ``hour`` (UTC) and the columns of `FIGURES`; further columns only stand in the Parquet table.

The table is laid out as warehouses load it: ``reports/<pipeline>/daily/date=2026-11-24/report.parquet``. An object of S3 is
replaced whole or not at all, so that a report that is made again leaves no day twice and no day half.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import closing, contextmanager
from dataclasses import dataclass
from datetime import UTC, date, datetime, timedelta
from pathlib import Path
from typing import Any

import duckdb
import polars as pl
import pyarrow as pa
import pyarrow.parquet as pq
from psycopg2 import sql
from pyarrow import fs
from pyiceberg.exceptions import NoSuchTableError
from pyiceberg.types import TimestamptzType

from heartwatch.analytic import Analytic
from heartwatch.errors import HeartWatchError
from heartwatch.iceberg import open_catalog, open_files
from heartwatch.postgres import execute
from heartwatch.settings import PostgresSettings, S3Settings, Settings
from kafkakit.avro_codec import arrow_schema, parse

FIGURES = ("events", "alerts", "observed_seconds", "outside_seconds", "gaps", "gap_seconds")
_FILE = "report.parquet"
_MANIFOLD = 10
_MEMORY = "1GB"


class ReportError(HeartWatchError):
    """A report can't be made; the message names the statement or table, and the remedy."""


@dataclass(frozen=True)
class Totals:
    """A day's or a week's figures of the whole fleet; times in seconds."""

    users: int
    users_alerted: int
    events: int
    alerts: int
    observed_seconds: float
    outside_seconds: float
    gaps: int
    gap_seconds: float

    @property
    def outside_share(self) -> float:
        """Share of the time observed in which people were outside their personal range."""
        return self.outside_seconds / self.observed_seconds if self.observed_seconds > 0 else 0.0


@dataclass(frozen=True)
class Written:
    """A day's report: its object's address, rows and figures of the whole fleet."""

    day: date
    address: str
    rows: int
    fleet: Totals


def yesterday() -> date:
    """Return the last day that is over, UTC."""
    return datetime.now(UTC).date() - timedelta(days=1)


def write_day(settings: Settings, day: date, gap_seconds: float) -> Written:
    """Compute a day's report and write it to S3, in place of an earlier one.

    Args:
        settings: which analytic, and where its tables are.
        day: by the events' own time, UTC.
        gap_seconds: longest time that a sample stands for, s.

    Raises:
        ReportError: the sink has no tables, or the statement or the S3 server refused.
    """
    rows = compute_day(settings, day, gap_seconds)
    address = Reports(settings).write(day, rows)
    return Written(day, address, rows.height, totals(rows, key_of(Analytic.of(settings.pipeline))))


def compute_day(settings: Settings, day: date, gap_seconds: float) -> pl.DataFrame:
    """Return a day's rows, one per key and hour.

    The samples are read a part at a time; what DuckDB can't keep in memory goes to the disk.

    Args:
        settings: which analytic, and where its tables are.
        day: by the events' own time, UTC.
        gap_seconds: longest time that a sample stands for.

    Raises:
        ReportError: there is no statement, or DuckDB refuses it.
    """
    analytic = Analytic.of(settings.pipeline)
    path = analytic.migrations_folder / "reports" / "daily.sql"
    if not path.exists():
        raise ReportError(f"analytic {analytic.analytic!r} has no {_shown(path)!r}; write what a day's report says")
    with closing(open_catalog(settings.postgres, settings.s3)) as catalog, duckdb.connect(":memory:") as connection:
        connection.execute(f"SET memory_limit = '{_MEMORY}'")
        connection.execute("SET TimeZone = 'UTC'")
        connection.execute(f"SET temp_directory = '{settings.home / 'data' / 'reports'}'")
        for resource in (analytic.stream, analytic.results):
            _load(connection, catalog, settings.s3, analytic, resource, day)
        connection.register(analytic.table, _personal_ranges(settings.postgres, analytic))
        try:
            found = connection.sql(
                path.read_text(encoding="utf-8"), params={"gap_seconds": gap_seconds}
            ).to_arrow_table()
        except duckdb.Error as error:
            raise ReportError(f"{_shown(path)!r} failed in DuckDB: {error}") from error
    rows = pl.DataFrame(found)
    missing = sorted({"hour", *FIGURES} - set(rows.columns))
    if missing:
        raise ReportError(f"{_shown(path)!r} gives no columns {missing!r}; add them")
    return rows.sort(key_of(analytic), "hour")


def key_of(analytic: Analytic) -> str:
    """Return the field that says whose a row is."""
    return analytic.topics[analytic.stream].key


def _load(connection: Any, catalog: Any, s3: S3Settings, analytic: Analytic, resource: str, day: date) -> None:
    """Make DuckDB's table of a day's rows of one of the sink's tables; an empty one where nobody had an alert yet."""
    time_field = analytic.topics[resource].event_time or ""
    try:
        table = catalog.load_table((s3.namespace, analytic.topic(resource)))
    except NoSuchTableError as error:
        if resource == analytic.stream:
            raise ReportError(
                f"the sink has no table {analytic.topic(resource)!r} yet; deploy the pipeline and let events flow"
            ) from error
        empty = arrow_schema(parse(analytic.schema_text(resource))).empty_table()
        _create(connection, resource, time_field, tuple(empty.schema.names), empty)
        return
    # Timestamps without a zone mean UTC as well.
    zone = "+00:00" if isinstance(table.schema().find_type(time_field), TimestamptzType) else ""
    inside = f"{time_field} >= '{day}T00:00:00{zone}' and {time_field} < '{day + timedelta(days=1)}T00:00:00{zone}'"
    fields = tuple(field.name for field in table.schema().fields if not field.name.startswith("kafka_"))
    reader = table.scan(row_filter=inside, selected_fields=fields).to_arrow_batch_reader()
    _create(connection, resource, time_field, fields, reader)


def _create(connection: Any, resource: str, time_field: str, fields: tuple[str, ...], rows: Any) -> None:
    connection.register("part", rows)
    columns = [f"CAST({name} AS TIMESTAMP) AS {name}" if name == time_field else name for name in fields]
    connection.execute(f'CREATE TABLE "{resource}" AS SELECT {", ".join(columns)} FROM part')  # noqa: S608 - names of the schema
    connection.unregister("part")


def _personal_ranges(postgres: PostgresSettings, analytic: Analytic) -> pa.Table:
    """Return the personal ranges as they are in the database now, the key as text."""
    key = analytic.topics[analytic.table].key
    table = sql.Identifier("public", postgres.historical_table)
    names = execute(
        postgres,
        "SELECT column_name FROM information_schema.columns WHERE table_schema = 'public' AND table_name = %s "
        "ORDER BY ordinal_position",
        [postgres.historical_table],
    )
    columns = [name for (name,) in names]
    rows = execute(
        postgres, sql.SQL("SELECT {} FROM {}").format(sql.SQL(", ").join(map(sql.Identifier, columns)), table)
    )
    frame = pl.DataFrame(rows, schema=columns, orient="row", infer_schema_length=None)
    return frame.with_columns(pl.col(key).cast(pl.String)).to_arrow()


def by_key(rows: pl.DataFrame, key: str) -> pl.DataFrame:
    """Return the figures of each key, those with most alerts first."""
    return (
        rows.group_by(key)
        .agg(pl.col(FIGURES).sum())
        .sort(["alerts", "outside_seconds", key], descending=[True, True, False])
    )


def by_hour(rows: pl.DataFrame) -> pl.DataFrame:
    """Return the fleet's figures of each hour, in order of time."""
    return rows.group_by("hour").agg(pl.col(FIGURES).sum()).sort("hour")


def totals(rows: pl.DataFrame, key: str) -> Totals:
    """Return the fleet's figures over all rows."""
    sums = {name: rows[name].sum() for name in FIGURES}
    return Totals(
        users=rows[key].n_unique(),
        users_alerted=rows.filter(pl.col("alerts") > 0)[key].n_unique(),
        events=int(sums["events"]),
        alerts=int(sums["alerts"]),
        observed_seconds=float(sums["observed_seconds"]),
        outside_seconds=float(sums["outside_seconds"]),
        gaps=int(sums["gaps"]),
        gap_seconds=float(sums["gap_seconds"]),
    )


def change(now: float, before: float) -> str:
    """Return how a figure changed, as ``+12 %``, or ``x 25`` from tenfold on; a dash where there was nothing to compare with."""
    if not before:
        return "-"
    if now / before >= _MANIFOLD:
        return f"\N{MULTIPLICATION SIGN} {now / before:,.0f}"
    return f"{(now - before) / before:+.0%}".replace("%", " %")


class Reports:
    """The Parquet tables of the days' reports in S3, and of what the detections' check found to differ."""

    def __init__(self, settings: Settings) -> None:
        """Open the bucket.

        Args:
            settings: where it is, and whose reports.
        """
        s3, pipeline = settings.s3, settings.pipeline
        self._files = open_files(s3)
        self._folder = f"{s3.bucket}/reports/{pipeline.analytic}_v{pipeline.version}"

    def path(self, day: date) -> str:
        """Return a day's object, with its bucket."""
        return f"{self._folder}/daily/date={day.isoformat()}/{_FILE}"

    def write(self, day: date, rows: pl.DataFrame) -> str:
        """Write a day's report in place of an earlier one, and return the object's address.

        Raises:
            ReportError: the S3 server refused or is away.
        """
        return self._write(self.path(day), rows)

    def write_differences(self, run: str, rows: pl.DataFrame) -> str:
        """Write what a run of verify-detections found to differ, and return the object's address.

        Raises:
            ReportError: the S3 server refused or is away.
        """
        return self._write(f"{self._folder}/detections/{run}.parquet", rows)

    def _write(self, path: str, rows: pl.DataFrame) -> str:
        with _asking(f"write {path!r}"), self._files.open_output_stream(path) as stream:
            pq.write_table(rows.to_arrow(), stream, compression="zstd")
        return f"s3://{path}"

    def read(self, day: date) -> pl.DataFrame | None:
        """Return a day's report; None where there is none.

        Raises:
            ReportError: the S3 server refused or is away.
        """
        with _asking(f"read {self.path(day)!r}"):
            if self._files.get_file_info(self.path(day)).type == fs.FileType.NotFound:
                return None
            return pl.DataFrame(pq.read_table(self.path(day), filesystem=self._files, partitioning=None))

    def days(self, last: date, count: int) -> Mapping[date, pl.DataFrame]:
        """Return the reports of `count` days up to `last`, those that there are."""
        wanted: Sequence[date] = [last - timedelta(days=back) for back in reversed(range(count))]
        found = {day: self.read(day) for day in wanted}
        return {day: rows for day, rows in found.items() if rows is not None}

    def missing(self, last: date, count: int) -> list[date]:
        """Return those of `count` days up to `last` that have no report yet; the last one always."""
        there = self.days(last, count)
        days = [last - timedelta(days=back) for back in reversed(range(count))]
        return [day for day in days if day not in there or day == last]


@contextmanager
def _asking(what: str) -> Iterator[None]:
    try:
        yield
    except (OSError, pa.ArrowException) as error:
        raise ReportError(f"can't {what}: {error}; see that the S3 server is up") from error


def _shown(path: Path) -> str:
    return str(Path(*path.parts[-4:]))
