"""Load ranges into Postgres: bulk COPY, then what differs, all in one transaction.

A second load of the same ranges changes no row, so change data capture has nothing to send.
"""

from __future__ import annotations

import io
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import polars as pl
import psycopg2
from psycopg2 import errors, sql
from psycopg2.extensions import connection as Connection
from psycopg2.extensions import cursor as Cursor

from heartwatch.files.rejects import RejectFile
from heartwatch.ranges import HIGHEST_HEART_RATE, LOWEST_HEART_RATE, SCHEMA, HistoricalError

_CREATE = """
CREATE TABLE IF NOT EXISTS {table} (
  user_id integer PRIMARY KEY,
  min_heart_rate integer NOT NULL,
  max_heart_rate integer NOT NULL,
  CHECK (user_id >= 1),
  CHECK (min_heart_rate >= {lowest} AND min_heart_rate <= max_heart_rate AND max_heart_rate <= {highest})
)
"""
_TRUNCATE_FUNCTION = """
CREATE OR REPLACE FUNCTION {schema}.delete_before_truncate() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
  EXECUTE format('DELETE FROM %I.%I', TG_TABLE_SCHEMA, TG_TABLE_NAME);
  RETURN NULL;
END
$$
"""
_TRUNCATE_TRIGGER = """
CREATE TRIGGER delete_before_truncate BEFORE TRUNCATE ON {table}
FOR EACH STATEMENT EXECUTE FUNCTION {schema}.delete_before_truncate()
"""
_TRIGGER_ALWAYS = "ALTER TABLE {table} ENABLE ALWAYS TRIGGER delete_before_truncate"
_HAS_TRIGGER = "SELECT 1 FROM pg_trigger WHERE tgrelid = to_regclass(%s) AND tgname = 'delete_before_truncate'"
_OWNS = "SELECT pg_has_role(relowner, 'USAGE') FROM pg_class WHERE oid = to_regclass(%s)"
_STAGE = """
CREATE TEMPORARY TABLE staged_ranges (
  user_id integer NOT NULL, min_heart_rate integer NOT NULL, max_heart_rate integer NOT NULL
) ON COMMIT DROP
"""
_COPY = "COPY staged_ranges (user_id, min_heart_rate, max_heart_rate) FROM STDIN (FORMAT csv)"
_UPDATE = """
UPDATE {table} AS loaded SET min_heart_rate = staged.min_heart_rate, max_heart_rate = staged.max_heart_rate
FROM staged_ranges AS staged
WHERE loaded.user_id = staged.user_id
  AND (loaded.min_heart_rate, loaded.max_heart_rate) IS DISTINCT FROM (staged.min_heart_rate, staged.max_heart_rate)
"""
_INSERT = """
INSERT INTO {table} (user_id, min_heart_rate, max_heart_rate)
SELECT user_id, min_heart_rate, max_heart_rate FROM staged_ranges AS staged
WHERE NOT EXISTS (SELECT FROM {table} AS loaded WHERE loaded.user_id = staged.user_id)
"""
_DELETE = """
DELETE FROM {table} AS loaded
WHERE NOT EXISTS (SELECT FROM staged_ranges AS staged WHERE staged.user_id = loaded.user_id)
"""


@dataclass(frozen=True)
class LoadResult:
    """What a load did, in rows.

    Attributes:
        read: good rows of the source.
        inserted: users that are new.
        updated: users whose range changed.
        unchanged: users whose range was there already.
        deleted: users that the source no longer has.
        rejected: bad rows of the source.
        kept_for_rejects: users were to be deleted, but none was: one of the bad rows may be theirs.
    """

    read: int
    inserted: int
    updated: int
    unchanged: int
    deleted: int
    rejected: int
    kept_for_rejects: bool


def load_ranges(
    connection: Connection,
    frames: Iterable[pl.DataFrame],
    table: str,
    schema: str = "public",
    rejects: RejectFile | None = None,
    delete_missing: bool = False,
    progress: Callable[[int], None] = lambda rows: None,
) -> LoadResult:
    """Make a table hold the ranges given: all of them, or none when something fails.

    Args:
        connection: open connection, not inside a transaction; a load waits for another load of the same table.
        frames: ranges, a chunk at a time (`heartwatch.ranges.SCHEMA`).
        table: the table's name; it is made if it isn't there.
        schema: the Postgres schema that the table is in.
        rejects: where the source's bad rows went; with bad rows, nobody is deleted.
        delete_missing: delete the users whom the source doesn't have.
        progress: called with the rows copied so far, after each chunk.

    Raises:
        HistoricalError: the source has no good row, or a user twice; or the database refuses.
        Exception: whatever `frames` raises; the table is as it was.
    """
    named = sql.Identifier(schema, table)
    with _transaction(connection, f"{schema}.{table}") as cursor:
        _create(cursor, named)
        cursor.execute(_STAGE)
        read = _copy(cursor, frames, progress)
        if read == 0:
            where = f"; {rejects.count} bad rows are in {str(rejects.path)!r}" if rejects and rejects.count else ""
            raise HistoricalError(f"the source has no good row, table {table!r} stays as it is{where}")
        # Readers go on, writers wait: the counts are exact.
        cursor.execute(sql.SQL("LOCK TABLE {table} IN SHARE ROW EXCLUSIVE MODE").format(table=named))
        updated = _changed(cursor, _UPDATE, named)
        inserted = _changed(cursor, _INSERT, named)
        rejected = rejects.count if rejects else 0
        deleted = _changed(cursor, _DELETE, named) if delete_missing and not rejected else 0
    unchanged = read - inserted - updated
    return LoadResult(read, inserted, updated, unchanged, deleted, rejected, delete_missing and rejected > 0)


def create_table(connection: Connection, table: str, schema: str = "public") -> None:
    """Make the table of ranges if it isn't there: change data capture wants a table before there are rows.

    Raises:
        HistoricalError: the database refuses.
    """
    with _transaction(connection, f"{schema}.{table}") as cursor:
        _create(cursor, sql.Identifier(schema, table))


@contextmanager
def _transaction(connection: Connection, table: str) -> Iterator[Cursor]:
    """Commit what the block does, or roll it back; a failure of the database is named with the table."""
    try:
        with connection, connection.cursor() as cursor:
            yield cursor
    except psycopg2.Error as error:
        reason = error.diag.message_detail or str(error).strip().partition("\n")[0] or type(error).__name__
        raise HistoricalError(f"{table} can't be loaded: {reason}; it stays as it was") from error


def _create(cursor: Cursor, named: sql.Identifier) -> None:
    # Two CREATE TABLE IF NOT EXISTS at once can fail: loads of one table go one after the other.
    cursor.execute("SELECT pg_advisory_xact_lock(hashtext(%s))", (".".join(named.strings),))
    bounds = {"lowest": sql.Literal(LOWEST_HEART_RATE), "highest": sql.Literal(HIGHEST_HEART_RATE)}
    cursor.execute(sql.SQL(_CREATE).format(table=named, **bounds))
    _carry_truncate(cursor, named)


def _carry_truncate(cursor: Cursor, named: sql.Identifier) -> None:
    """Have a TRUNCATE delete the rows first: change data capture has tombstones for deletions, none for TRUNCATE.

    A table of another owner stays as it is; the check of the table finds what its TRUNCATE leaves over.
    """
    quoted = '"' + '"."'.join(part.replace('"', '""') for part in named.strings) + '"'
    cursor.execute(_HAS_TRIGGER, (quoted,))
    if cursor.fetchone():
        return
    cursor.execute(_OWNS, (quoted,))
    owned = cursor.fetchone()
    if not owned or not owned[0]:
        return
    schema = sql.Identifier(named.strings[0])
    for statement in (_TRUNCATE_FUNCTION, _TRUNCATE_TRIGGER, _TRIGGER_ALWAYS):
        cursor.execute(sql.SQL(statement).format(table=named, schema=schema))


def _copy(cursor: Cursor, frames: Iterable[pl.DataFrame], progress: Callable[[int], None]) -> int:
    rows = 0
    for frame in frames:
        text = io.BytesIO()
        frame.select(SCHEMA.names()).write_csv(text, include_header=False)
        text.seek(0)
        cursor.copy_expert(_COPY, text)
        rows += frame.height
        progress(rows)
    try:
        cursor.execute("ALTER TABLE staged_ranges ADD PRIMARY KEY (user_id)")
    except errors.UniqueViolation as error:
        raise HistoricalError(
            f"a user comes twice in the source ({error.diag.message_detail}); remove one of the two; nothing was loaded"
        ) from error
    cursor.execute("ANALYZE staged_ranges")
    return rows


def _changed(cursor: Cursor, statement: str, named: sql.Identifier) -> int:
    cursor.execute(sql.SQL(statement).format(table=named))
    return cursor.rowcount
