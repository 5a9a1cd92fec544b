"""Postgres: one way to connect and to run a statement, with errors that say what to do."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Sequence
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any

import psycopg2
from psycopg2 import sql
from psycopg2.extras import execute_values

from heartwatch.errors import HeartWatchError
from heartwatch.settings import PostgresSettings

_CONNECT_SECONDS = 10


class PostgresError(HeartWatchError):
    """Postgres refused or didn't answer; the message names the address, the statement and the reason."""


def connect(settings: PostgresSettings) -> Any:
    """Open a connection; whoever calls closes it.

    Returns:
        a psycopg2 connection.

    Raises:
        PostgresError: the server doesn't answer or refuses the role.
    """
    try:
        return psycopg2.connect(
            host=settings.host,
            port=settings.port,
            dbname=settings.database,
            user=settings.user,
            password=settings.password.get_secret_value(),
            connect_timeout=_CONNECT_SECONDS,
            **tls_options(settings),
        )
    except psycopg2.OperationalError as error:
        raise PostgresError(
            f"can't connect to database {settings.database!r} at {settings.host}:{settings.port} as {settings.user!r}: "
            f"{str(error).strip()}; see that Postgres is up and the password is right"
        ) from error


def tls_options(settings: PostgresSettings) -> dict[str, str]:
    """Return how the server is known, as libpq's clients take it."""
    authority = {"sslrootcert": str(settings.ca_file)} if settings.ca_file else {}
    return {"sslmode": settings.sslmode, **authority}


def execute(
    settings: PostgresSettings, statement: str | sql.Composed, arguments: Sequence[Any] = ()
) -> list[tuple[Any, ...]]:
    """Run one statement in a transaction of its own.

    Args:
        settings: where the database is.
        statement: SQL; ``%s`` stands for an argument.
        arguments: values of the ``%s``.

    Returns:
        the rows, none for a statement without.

    Raises:
        PostgresError: the server refused the statement or could not be asked.
    """
    with transaction(settings, repr(statement)) as cursor:
        cursor.execute(statement, arguments or None)
        return list(cursor.fetchall()) if cursor.description else []


def insert(settings: PostgresSettings, statement: str, rows: Sequence[Sequence[Any]]) -> None:
    """Insert rows in one transaction.

    Args:
        settings: where the database is.
        statement: SQL with ``VALUES %s``.
        rows: values of each row; none is not an error.

    Raises:
        PostgresError: the server refused the statement or could not be asked.
    """
    if rows:
        with transaction(settings, repr(statement)) as cursor:
            execute_values(cursor, statement, rows)


@contextmanager
def transaction(settings: PostgresSettings, what: str) -> Iterator[Any]:
    """Give a cursor in a transaction, which is committed at the end and rolled back after an error.

    Args:
        settings: where the database is.
        what: what is done, for error messages.

    Raises:
        PostgresError: the server refused a statement or could not be asked.
    """
    with closing(connect(settings)) as connection:
        try:
            with connection, connection.cursor() as cursor:
                yield cursor
        except psycopg2.Error as error:
            raise PostgresError(
                f"database {settings.database!r} at {settings.host}:{settings.port} refused {what}: {str(error).strip()}"
            ) from error


def migrate(settings: PostgresSettings, schema: str, folder: Path) -> list[str]:
    """Bring a schema to what a folder of migrations says; safe to run again and at the same time.

    Files are named ``V000001__name.sql`` and applied in this order, each once, together in one transaction. The table
    `migrations` of the schema holds which have been applied.

    Args:
        settings: where the database is.
        schema: made when it isn't there.
        folder: the migrations.

    Returns:
        the names of those that were applied now.

    Raises:
        PostgresError: a migration failed (nothing is changed then), or a file that has been applied was edited since.
    """
    table = sql.Identifier(schema, "migrations")
    applied = []
    with transaction(settings, f"the migrations of schema {schema!r}") as cursor:
        # One at a time: all that start together would else make the schema.
        cursor.execute("SELECT pg_advisory_xact_lock(hashtext(%s))", [f"migrations of {schema}"])
        cursor.execute(sql.SQL("CREATE SCHEMA IF NOT EXISTS {}").format(sql.Identifier(schema)))
        cursor.execute(
            sql.SQL(
                "CREATE TABLE IF NOT EXISTS {} (name text PRIMARY KEY, digest text NOT NULL, at timestamptz DEFAULT now())"
            ).format(table)
        )
        cursor.execute(sql.SQL("SELECT name, digest FROM {}").format(table))
        known = dict(cursor.fetchall())
        for path in sorted(folder.glob("V*__*.sql")):
            text = path.read_text(encoding="utf-8")
            digest = hashlib.sha256(text.encode()).hexdigest()
            if path.name not in known:
                cursor.execute(text)
                cursor.execute(
                    sql.SQL("INSERT INTO {} (name, digest) VALUES (%s, %s)").format(table), [path.name, digest]
                )
                applied.append(path.name)
            elif known[path.name] != digest:
                raise PostgresError(
                    f"migration {path.name!r} of schema {schema!r} was applied and has been edited since; put the file back "
                    "and add a new one"
                )
    return applied
