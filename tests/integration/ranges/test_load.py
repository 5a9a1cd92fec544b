"""Loading ranges into a real Postgres: all or nothing, changed rows only, counted."""

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from itertools import count
from pathlib import Path

import polars as pl
import psycopg2
import pytest
from psycopg2 import sql
from psycopg2.extensions import connection as Connection

from heartwatch.files.rejects import RejectFile
from heartwatch.platform.platform import Platform
from heartwatch.ranges import SCHEMA, HistoricalError
from heartwatch.ranges.generate import generate_ranges
from heartwatch.ranges.load import LoadResult, create_table, load_ranges
from heartwatch.ranges.read import read_ranges
from heartwatch.settings import load_settings

pytestmark = pytest.mark.parts("postgres")

_NUMBERS = count(1)


def connect() -> Connection:
    server = load_settings().postgres
    return psycopg2.connect(
        host=server.host,
        port=server.port,
        dbname=server.database,
        user=server.user,
        password=server.password.get_secret_value(),
    )


@pytest.fixture
def connection(platform: Platform) -> Iterator[Connection]:
    with_database = connect()
    yield with_database
    with_database.close()


@pytest.fixture
def table() -> str:
    return f"heart_rate_historical_v{next(_NUMBERS)}"


def ranges(*rows: tuple[int, int, int]) -> list[pl.DataFrame]:
    return [pl.DataFrame(list(rows), schema=SCHEMA, orient="row")]


def rows_of(connection: Connection, table: str) -> list[tuple[int, int, int, str]]:
    """Return all rows with the transaction that wrote each."""
    with connection, connection.cursor() as cursor:
        cursor.execute(
            sql.SQL("SELECT user_id, min_heart_rate, max_heart_rate, xmin::text FROM {} ORDER BY user_id").format(
                sql.Identifier(table)
            )
        )
        return cursor.fetchall()


def test_a_first_load_makes_the_table_and_a_second_changes_nothing(connection: Connection, table: str):
    copied: list[int] = []
    result = load_ranges(connection, generate_ranges(1, 250_000), table, progress=copied.append)
    assert result == LoadResult(250_000, 250_000, 0, 0, 0, 0, False)
    assert copied == [100_000, 200_000, 250_000]
    before = rows_of(connection, table)
    assert [row[:3] for row in before] == pl.concat(generate_ranges(1, 250_000)).rows()
    assert load_ranges(connection, generate_ranges(1, 250_000), table) == LoadResult(
        250_000, 0, 0, 250_000, 0, 0, False
    )
    assert rows_of(connection, table) == before


def test_only_changed_rows_are_written(connection: Connection, table: str):
    load_ranges(connection, ranges((1, 51, 107), (2, 52, 108), (3, 53, 109)), table)
    before = rows_of(connection, table)
    result = load_ranges(connection, ranges((2, 52, 110), (3, 53, 109), (4, 50, 100)), table)
    assert result == LoadResult(3, inserted=1, updated=1, unchanged=1, deleted=0, rejected=0, kept_for_rejects=False)
    after = rows_of(connection, table)
    assert [row[:3] for row in after] == [(1, 51, 107), (2, 52, 110), (3, 53, 109), (4, 50, 100)]
    assert [after[0], after[2]] == [before[0], before[2]]
    assert after[1][3] == after[3][3] != before[1][3]


def test_removed_users_are_deleted_when_asked(connection: Connection, table: str):
    load_ranges(connection, ranges((1, 51, 107), (2, 52, 108)), table)
    result = load_ranges(connection, ranges((2, 52, 108)), table, delete_missing=True)
    assert result == LoadResult(1, 0, 0, 1, deleted=1, rejected=0, kept_for_rejects=False)
    assert [row[:3] for row in rows_of(connection, table)] == [(2, 52, 108)]


def test_nobody_is_deleted_for_a_bad_row(connection: Connection, table: str, tmp_path: Path):
    load_ranges(connection, ranges((1, 51, 107), (2, 52, 108)), table)
    file = tmp_path / "ranges.csv"
    file.write_text("user_id,min_heart_rate,max_heart_rate\n1,51,108\n2,oops,108\n")
    with RejectFile(tmp_path / "rejects.jsonl") as rejects:
        result = load_ranges(connection, read_ranges(file, rejects), table, rejects=rejects, delete_missing=True)
    assert result == LoadResult(1, 0, 1, 0, deleted=0, rejected=1, kept_for_rejects=True)
    assert [row[:3] for row in rows_of(connection, table)] == [(1, 51, 108), (2, 52, 108)]


def test_a_source_without_good_rows_deletes_nobody(connection: Connection, table: str, tmp_path: Path):
    load_ranges(connection, ranges((1, 51, 107)), table)
    with pytest.raises(HistoricalError, match="no good row"):
        load_ranges(connection, [], table, delete_missing=True)
    file = tmp_path / "ranges.jsonl"
    file.write_text("oops\n")
    with RejectFile(tmp_path / "rejects.jsonl") as rejects, pytest.raises(HistoricalError, match="1 bad rows are in"):
        load_ranges(connection, read_ranges(file, rejects), table, rejects=rejects)
    assert [row[:3] for row in rows_of(connection, table)] == [(1, 51, 107)]


def test_a_failing_load_leaves_the_table_as_it_was(connection: Connection, table: str):
    load_ranges(connection, ranges((1, 51, 107)), table)
    before = rows_of(connection, table)

    def breaks() -> Iterator[pl.DataFrame]:
        yield from ranges((1, 60, 100), (2, 51, 107))
        raise RuntimeError("the source broke")

    with pytest.raises(RuntimeError, match="the source broke"):
        load_ranges(connection, breaks(), table)
    with pytest.raises(HistoricalError, match=r"a user comes twice .*\(user_id\)=\(7\)"):
        load_ranges(connection, ranges((7, 51, 107), (7, 52, 107)), table)
    with pytest.raises(HistoricalError, match=f"{table} can't be loaded"):
        load_ranges(connection, ranges((8, 107, 51)), table)
    assert rows_of(connection, table) == before


def test_two_loads_at_once_of_a_table_that_is_not_there_both_end_well(platform: Platform, table: str):
    def load(_: int) -> LoadResult:
        with closing(connect()) as own:
            return load_ranges(own, generate_ranges(1, 20_000), table)

    with ThreadPoolExecutor(4) as pool:
        results = list(pool.map(load, range(4)))
    assert sorted(result.inserted for result in results) == [0, 0, 0, 20_000]
    assert sorted(result.unchanged for result in results) == [0, 20_000, 20_000, 20_000]


def test_a_table_in_a_schema_that_is_not_there_is_named(connection: Connection, table: str):
    with pytest.raises(HistoricalError, match=f"nowhere.{table} can't be loaded"):
        load_ranges(connection, ranges((1, 51, 107)), table, schema="nowhere")


def test_a_table_can_be_made_before_its_first_load(connection: Connection, table: str):
    for _ in range(2):
        create_table(connection, table)
    assert rows_of(connection, table) == []
    assert load_ranges(connection, ranges((1, 51, 107)), table).inserted == 1
