"""Whether the table's topic holds what Postgres holds: counts and hashes by range of keys, then the rows that differ.

Change data capture says RUNNING when its replication slot was lost and made anew, though the changes of the meantime are in no
log any more. What differs is repaired through Postgres, so that the connector stays the topic's only writer and every repair has
its place among other changes: a row that the topic lacks is written again as it is, and a row that is only in the topic is
inserted and deleted in one transaction.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import polars as pl
from psycopg2 import sql

from heartwatch.events import Wrong
from heartwatch.postgres import execute, transaction
from heartwatch.settings import PostgresSettings
from heartwatch.verify.health import HealthFinding

RANGE_KEYS = 4_096
"""Keys of a range that is counted and hashed together."""

_SHOWN = 5
_RANGE, _ROWS, _HASH = "range", "rows", "hash"


@dataclass(frozen=True)
class TableNames:
    """The table and what is captured of it.

    Attributes:
        table: in the schema public.
        key: its key column, an integer.
        fields: captured columns, the key among them, all integers.
    """

    table: str
    key: str
    fields: tuple[str, ...]

    @property
    def identifier(self) -> sql.Identifier:
        """The table in SQL."""
        return sql.Identifier("public", self.table)


@dataclass(frozen=True)
class TableDifference:
    """What the topic and Postgres don't have in common.

    Attributes:
        rows: of Postgres.
        lacking: keys of rows that the topic lacks or has otherwise.
        left_over: rows of the topic that Postgres doesn't have.
        unreadable: records of the topic that can't be read with the table's schema, with the first reason.
    """

    rows: int
    lacking: tuple[int, ...]
    left_over: tuple[Mapping[str, Any], ...]
    unreadable: tuple[int, str] = (0, "")

    @property
    def equal(self) -> bool:
        """Whether nothing differs."""
        return not self.lacking and not self.left_over


def ranges_of(rows: pl.DataFrame, names: TableNames) -> pl.DataFrame:
    """Return number and hash of the rows of each range of keys; the same numbers as `database_ranges`.

    Args:
        rows: columns `names.fields`.
        names: the table's.
    """
    hashed = rows.select(
        (pl.col(names.key).cast(pl.Int64) // RANGE_KEYS).alias(_RANGE), _row_hash(names.fields).alias(_HASH)
    )
    return hashed.group_by(_RANGE).agg(pl.len().cast(pl.Int64).alias(_ROWS), pl.col(_HASH).sum()).sort(_RANGE)


_PRIME, _MODULUS = 31_607, 2_147_483_647


def _row_hash(fields: Sequence[str]) -> pl.Expr:
    """A polynomial in the prime field of 2^31 - 1, which both sides compute alike in 64 bits; a range's sum doesn't overflow."""
    value: pl.Expr = pl.lit(7, pl.Int64)
    for field in fields:
        term = pl.col(field).cast(pl.Int64).fill_null(-1) % _MODULUS
        value = (value * _PRIME + term + _MODULUS) % _MODULUS
    return value * value % _MODULUS


def _row_hash_sql(fields: Sequence[str]) -> sql.Composable:
    value: sql.Composable = sql.SQL("7::bigint")
    for field in fields:
        # SQL's remainder has the sign of the number, Polars' that of the divisor.
        term = sql.SQL("mod(mod(coalesce({}::bigint, -1), {m}) + {m}, {m})").format(
            sql.Identifier(field), m=sql.Literal(_MODULUS)
        )
        value = sql.SQL("mod({} * {} + {} + {m}, {m})").format(
            value, sql.Literal(_PRIME), term, m=sql.Literal(_MODULUS)
        )
    return sql.SQL("mod(({value}) * ({value}), {m})").format(value=value, m=sql.Literal(_MODULUS))


def database_ranges(postgres: PostgresSettings, names: TableNames) -> pl.DataFrame:
    """Return number and hash of the rows of each range of keys, computed by Postgres.

    Raises:
        heartwatch.postgres.PostgresError: Postgres could not be asked.
    """
    statement = sql.SQL(
        "SELECT floor({key}::numeric / {size})::bigint, count(*), sum({hash})::bigint FROM {table} GROUP BY 1 ORDER BY 1"
    ).format(
        key=sql.Identifier(names.key),
        size=sql.Literal(RANGE_KEYS),
        hash=_row_hash_sql(names.fields),
        table=names.identifier,
    )
    schema = {_RANGE: pl.Int64, _ROWS: pl.Int64, _HASH: pl.Int64}
    return pl.DataFrame(execute(postgres, statement), schema=schema, orient="row")


def compare_table(
    postgres: PostgresSettings, names: TableNames, topic_rows: pl.DataFrame, unreadable: tuple[int, str] = (0, "")
) -> TableDifference:
    """Compare the newest row of each key in the topic with Postgres; only rows of ranges that differ are read from there.

    Args:
        postgres: where the table is.
        names: the table's.
        topic_rows: the newest row of each key, columns `names.fields`, rows of no person left out.
        unreadable: records of the topic that can't be read, with the first reason.

    Raises:
        heartwatch.postgres.PostgresError: Postgres could not be asked.
    """
    ours, theirs = ranges_of(topic_rows, names), database_ranges(postgres, names)
    total = int(theirs[_ROWS].sum())
    every = pl.concat([ours, theirs])
    odd = every.filter(every.is_unique())[_RANGE].unique().sort().to_list()
    if not odd:
        return TableDifference(total, (), (), unreadable)
    found = _rows_of(postgres, names, odd)
    wanted = topic_rows.select(pl.col(names.fields).cast(pl.Int64)).filter((pl.col(names.key) // RANGE_KEYS).is_in(odd))
    lacking = found.join(wanted, on=names.fields, how="anti", nulls_equal=True)[names.key].sort().to_list()
    left_over = wanted.join(found, on=names.key, how="anti").sort(names.key).to_dicts()
    return TableDifference(total, tuple(lacking), tuple(left_over), unreadable)


def _rows_of(postgres: PostgresSettings, names: TableNames, ranges: Sequence[int]) -> pl.DataFrame:
    columns = sql.SQL(", ").join(map(sql.Identifier, names.fields))
    statement = sql.SQL("SELECT {} FROM {} WHERE floor({}::numeric / {}) = ANY(%s)").format(
        columns, names.identifier, sql.Identifier(names.key), sql.Literal(RANGE_KEYS)
    )
    rows = execute(postgres, statement, [list(ranges)])
    return pl.DataFrame(rows, schema=dict.fromkeys(names.fields, pl.Int64), orient="row")


def lasting(first: TableDifference, second: TableDifference) -> TableDifference:
    """Return what two looks found alike: what one look alone found is a change on its way."""
    lacking = set(first.lacking)
    left_over = [row for row in second.left_over if row in first.left_over]
    return TableDifference(
        second.rows, tuple(key for key in second.lacking if key in lacking), tuple(left_over), second.unreadable
    )


def repair(postgres: PostgresSettings, names: TableNames, difference: TableDifference) -> None:
    """Have change data capture carry what differs: touch what the topic lacks, insert and delete what is left over there.

    Raises:
        heartwatch.postgres.PostgresError: Postgres refused; nothing is changed.
    """
    key = sql.Identifier(names.key)
    touch = sql.SQL("UPDATE {table} SET {key} = {key} WHERE {key} = ANY(%s)").format(table=names.identifier, key=key)
    insert = sql.SQL("INSERT INTO {} ({}) VALUES ({}) ON CONFLICT DO NOTHING RETURNING {}").format(
        names.identifier,
        sql.SQL(", ").join(map(sql.Identifier, names.fields)),
        sql.SQL(", ").join([sql.Placeholder()] * len(names.fields)),
        key,
    )
    delete = sql.SQL("DELETE FROM {} WHERE {} = ANY(%s)").format(names.identifier, key)
    with transaction(postgres, f"the repair of table {names.table!r}") as cursor:
        if difference.lacking:
            cursor.execute(touch, [list(difference.lacking)])
        inserted = []
        for row in difference.left_over:
            cursor.execute(insert, [row[field] for field in names.fields])
            inserted += [found[0] for found in cursor.fetchall()]
        if inserted:
            cursor.execute(delete, [inserted])


def judge_table(
    names: TableNames, topic: str, difference: TableDifference, repaired: bool, failure: str = ""
) -> HealthFinding:
    """Say whether the topic holds what Postgres holds.

    Args:
        names: the table's.
        topic: its topic's name.
        difference: what was found.
        repaired: it was repaired now, so that it may be well at the next look.
        failure: why it could not be repaired.
    """
    if difference.equal:
        return HealthFinding("table", topic, f"{difference.rows:,} rows as in Postgres")
    state = f"{len(difference.lacking):,} rows lacking, {len(difference.left_over):,} left over, of {difference.rows:,}"
    keys = [*difference.lacking[:_SHOWN], *(row[names.key] for row in difference.left_over[:_SHOWN])]
    sentence = f"topic {topic!r} doesn't hold what table {names.table!r} holds: {state}, such as {names.key} {keys!r}"
    count, reason = difference.unreadable
    if count:
        sentence += (
            f"; {count:,} records of the topic can't be read with the table's schema ({reason}): take the column's type back, or "
            "deploy a new pipeline version whose schema has it"
        )
    if repaired:
        sentence += "; changes were lost on the way, such as with a replication slot: the rows are sent again now"
    elif failure:
        sentence += f"; the rows can't be sent again: {failure}"
    else:
        sentence += (
            "; they were sent again and still differ: see the source connector's log and the processing log, then remove the "
            "connector and deploy it again, which takes a new snapshot"
        )
    return HealthFinding("table", topic, state, Wrong.TABLE_DIFFERS, sentence, mended=repaired)
