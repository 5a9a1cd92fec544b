"""Postgres: one way to connect and to run a statement, with errors that say what to do."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import closing
from typing import Any

import psycopg2
from psycopg2 import sql

from heartwatch.settings import PostgresSettings

_CONNECT_SECONDS = 10


class PostgresError(Exception):
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
        )
    except psycopg2.OperationalError as error:
        raise PostgresError(
            f"can't connect to database {settings.database!r} at {settings.host}:{settings.port} as {settings.user!r}: "
            f"{str(error).strip()}; see that Postgres is up and the password is right"
        ) from error


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
    with closing(connect(settings)) as connection:
        try:
            with connection, connection.cursor() as cursor:
                cursor.execute(statement, arguments or None)
                return list(cursor.fetchall()) if cursor.description else []
        except psycopg2.Error as error:
            raise PostgresError(
                f"database {settings.database!r} at {settings.host}:{settings.port} refused {statement!r}: {str(error).strip()}"
            ) from error
