"""Iceberg tables, one a topic, read through the catalog that the connector writes to.

Manifests say which objects belong to a table, how large they are, and between which partitions and offsets their rows lie; the
listing of the table's folder says which are really there. Contents are read only where a question needs them.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from hashlib import sha256
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
from pyiceberg.catalog.sql import SqlCatalog
from pyiceberg.exceptions import NoSuchTableError
from pyiceberg.expressions import AlwaysTrue
from pyiceberg.io.pyarrow import ArrowScan, PyArrowFileIO
from pyiceberg.manifest import DataFile, FileFormat
from pyiceberg.table import FileScanTask, Table
from sqlalchemy.exc import SQLAlchemyError

from heartwatch.iceberg import S3FileIO, open_catalog
from heartwatch.postgres import PostgresError
from heartwatch.settings import PostgresSettings, S3Settings
from heartwatch.sink.reader import (
    NO_END,
    OFFSET,
    PARTITION,
    FaultyObject,
    Listing,
    ObjectFault,
    SinkError,
    SinkObject,
)
from heartwatch.sink.store import READ_ERRORS, Store, Stored, open_clock

_MOST_PARTITIONS = 2**31 - 1
_FIELD_ID = b"PARQUET:field_id"
_ROWS = 100_000


@dataclass(frozen=True)
class _State:
    """A table at one snapshot, what has to be read of it, by path, and its columns' ids."""

    table: Table
    store: Store
    tasks: dict[str, FileScanTask]
    fields: dict[str, int]


class IcebergSink:
    """The sink's Iceberg tables: table = topic, in the namespace of the settings."""

    def __init__(
        self, catalog: SqlCatalog, namespace: str, clock: Callable[[Any], Callable[[], datetime]] | None = None
    ) -> None:
        """Read a catalog's tables.

        Args:
            catalog: where the tables are registered.
            namespace: their namespace.
            clock: gives, for a file system, what tells the time by the store's clock; None: this machine's clock.
        """
        self._catalog, self._namespace = catalog, namespace
        self._clock = clock or (lambda _: lambda: datetime.now(UTC))
        self._states: dict[str, _State] = {}
        self._stores: dict[tuple[str, str], Store] = {}

    @classmethod
    def of(cls, postgres: PostgresSettings, s3: S3Settings) -> IcebergSink:
        """Open the catalog that the settings name.

        Raises:
            SinkError: the catalog's database can't be reached.
        """
        try:
            return cls(open_catalog(postgres, s3), s3.namespace, lambda files: open_clock(files, s3))
        except (SQLAlchemyError, PostgresError) as error:
            raise SinkError(f"the Iceberg catalog can't be opened: {_short(error)}; see that Postgres is up") from error

    def close(self) -> None:
        """Close the connections to the catalog."""
        self._catalog.close()

    def now(self) -> datetime:
        """Return the time by the store's clock (see `SinkReader.now`)."""
        warehouse = str(self._catalog.properties["warehouse"])
        return self._store(S3FileIO(self._catalog.properties), warehouse).clock()

    def version(self, topic: str) -> str:
        """Return the present snapshot's id (see `SinkReader.version`)."""
        table = self._table(topic)
        return str(table.metadata.current_snapshot_id or "") if table is not None else ""

    def listing(self, topic: str, orphan_seconds: float) -> Listing:
        """Return the objects of the present snapshot (see `SinkReader.listing`)."""
        table = self._table(topic)
        if table is None:
            return Listing("")
        store = self._store(table.io, table.location())
        stored = store.list_folder(_path(table.properties.get("write.data.path", f"{table.location()}/data")))
        try:
            tasks = {task.file.file_path: task for task in table.scan().plan_files()}
        except (OSError, ValueError) as error:
            raise SinkError(
                f"manifests of table {topic!r} can't be read: {error}; one of them is gone or damaged, or the S3 server is away"
            ) from error
        self._states[topic] = _State(
            table, store, tasks, {column.name: column.field_id for column in table.schema().fields}
        )
        listing = Listing(str(table.metadata.current_snapshot_id or ""))
        ids = {name: table.schema().find_field(name).field_id for name in _positions(table)}
        for path, task in tasks.items():
            _add(listing, path, task, stored.get(_path(path)), ids)
        known = {_path(path) for path in tasks} | {
            _path(deletes.file_path) for task in tasks.values() for deletes in task.delete_files
        }
        listing.faulty.extend(_orphans(table, stored, known, store.clock() - timedelta(seconds=orphan_seconds)))
        return listing

    def read(self, topic: str, found: SinkObject, schema: pa.Schema) -> Iterator[pa.RecordBatch]:
        """Return an object's rows (see `SinkReader.read`)."""
        state = self._states[topic]
        try:
            task, wanted = state.tasks[found.path], [name for name in schema.names if name in state.fields]
            with state.store.open(_path(found.path)) as file:
                parquet = _plain_parquet(file, task)
                own = _own_names(parquet, [state.fields[name] for name in wanted]) if parquet is not None else None
                if parquet is not None and own is not None:
                    yield from _batches(parquet, own, wanted)
                    return
            scan = ArrowScan(state.table.metadata, state.table.io, state.table.schema().select(*wanted), AlwaysTrue())
            yield from scan.to_record_batches([task])
        except READ_ERRORS as error:
            raise state.store.failure(_path(found.path), error) from error

    def _table(self, topic: str) -> Table | None:
        try:
            with suppress(NoSuchTableError):
                return self._catalog.load_table((self._namespace, topic))
        except (OSError, SQLAlchemyError) as error:
            raise SinkError(
                f"table {topic!r} can't be opened: {_short(error)}; see that Postgres and the S3 server are up"
            ) from error
        return None

    def _store(self, files: Any, location: str) -> Store:
        scheme, bucket, _ = PyArrowFileIO.parse_location(location)
        if (scheme, bucket) not in self._stores:
            system = files.fs_by_scheme(scheme, bucket)
            self._stores[scheme, bucket] = Store(system, self._clock(system))
        return self._stores[scheme, bucket]


def _plain_parquet(file: pa.NativeFile, task: FileScanTask) -> pq.ParquetFile | None:
    """Return the object as Parquet; None where its rows aren't all of the table's."""
    if task.delete_files or task.file.file_format != FileFormat.PARQUET:
        return None
    return pq.ParquetFile(file, pre_buffer=True)


def _own_names(parquet: pq.ParquetFile, wanted: Sequence[int]) -> list[str] | None:
    """Return what an object calls the columns with some field ids; None where only pyiceberg knows.

    Objects without ids go by the table's name mapping, and a column that an object doesn't have may have a default.
    """
    own = {
        int((field.metadata or {}).get(_FIELD_ID, -1)): field.name
        for field in parquet.schema_arrow
        if not pa.types.is_nested(field.type)
    }
    return [own[name] for name in wanted] if own.keys() >= set(wanted) else None


def _batches(parquet: pq.ParquetFile, own: Sequence[str], names: Sequence[str]) -> Iterator[pa.RecordBatch]:
    for batch in parquet.iter_batches(_ROWS, columns=list(own), use_threads=False):
        yield pa.RecordBatch.from_arrays([batch.column(name) for name in own], names=list(names))


def _positions(table: Table) -> list[str]:
    return [name for name in (PARTITION, OFFSET) if name in table.schema().column_names]


def _path(location: str) -> str:
    """Return a location as file systems know it: without scheme."""
    return PyArrowFileIO.parse_location(location)[2]


def _add(listing: Listing, path: str, task: FileScanTask, stored: Stored | None, ids: dict[str, int]) -> None:
    found, data = _object(path, task, stored, ids), task.file
    if stored is None:
        text = f"in the table's manifests with {data.record_count} rows, but not in the store"
        listing.faulty.append(FaultyObject(path, ObjectFault.ABSENT, text, found))
        return
    if stored.size != data.file_size_in_bytes:
        text = f"{stored.size} bytes, the manifest says {data.file_size_in_bytes}"
        listing.faulty.append(FaultyObject(path, ObjectFault.RESIZED, text, found))
    listing.objects[path] = found


def _object(path: str, task: FileScanTask, stored: Stored | None, ids: dict[str, int]) -> SinkObject:
    data = task.file
    lowest, highest = _bounds(data, ids.get(PARTITION)), _bounds(data, ids.get(OFFSET))
    return SinkObject(
        path=path,
        identity=_identity(stored, task) if stored else "",
        size=stored.size if stored else data.file_size_in_bytes,
        written_at=stored.written_at if stored else datetime.fromtimestamp(0, UTC),
        partitions=lowest or (0, _MOST_PARTITIONS),
        offsets=(highest[0], highest[1] + 1) if highest else (0, NO_END),
        rows=data.record_count,
    )


def _identity(stored: Stored, task: FileScanTask) -> str:
    """Return what changes when the object is written again, and when other deletes take rows out of it as it is."""
    if not task.delete_files:
        return stored.identity
    deletes = "\n".join(sorted(file.file_path for file in task.delete_files))
    return f"{stored.identity}-{sha256(deletes.encode()).hexdigest()[:16]}"


def _bounds(data: DataFile, field_id: int | None) -> tuple[int, int] | None:
    """Return a column's smallest and largest value by the manifest, None where it doesn't say."""
    low, high = (data.lower_bounds or {}).get(field_id), (data.upper_bounds or {}).get(field_id)  # type: ignore[arg-type]
    if low is None or high is None:
        return None
    return int.from_bytes(low, "little", signed=True), int.from_bytes(high, "little", signed=True)


def _orphans(table: Table, stored: dict[str, Stored], known: set[str], before: datetime) -> Iterator[FaultyObject]:
    """Return the objects in the table's folder that no snapshot knows; older snapshots are asked only when there are any."""
    left = {path: orphan for path, orphan in stored.items() if path not in known and orphan.written_at < before}
    if not left:
        return
    seen: set[str] = set()
    for snapshot in table.snapshots():
        for manifest in snapshot.manifests(table.io):
            if manifest.manifest_path not in seen:
                seen.add(manifest.manifest_path)
                for entry in manifest.fetch_manifest_entry(table.io, discard_deleted=False):
                    left.pop(_path(entry.data_file.file_path), None)
    for path, orphan in sorted(left.items()):
        text = f"{orphan.size} bytes, written at {orphan.written_at:%Y-%m-%d %H:%M:%S} UTC, in no manifest"
        yield FaultyObject(path, ObjectFault.ORPHAN, text)


def _short(error: Exception) -> str:
    """Return an error's first line: SQLAlchemy's goes on with statements and links."""
    return str(error).splitlines()[0] if str(error) else type(error).__name__
