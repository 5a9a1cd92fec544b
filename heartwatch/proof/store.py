"""What checks of sinks remember, in Postgres: the schema `sink_proof`, made by `deployments/postgres/sink_proof/`.

One check of a topic is running at a time: a lock that goes with the connection keeps others out. All writes are upserts, so that
a check that was ended early is simply gone on with.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import closing, contextmanager
from datetime import datetime
from typing import Any

import polars as pl
import psycopg2
from psycopg2.extras import execute_values

from heartwatch.errors import HeartWatchError
from heartwatch.postgres import PostgresError, connect, execute, migrate, transaction
from heartwatch.proof.dead_letters import DeadLetter, DeadLetterSummary
from heartwatch.proof.segments import Proofs, Segment, SegmentState, Span
from heartwatch.settings import ROOT, PostgresSettings
from heartwatch.sink.reader import SinkObject

SCHEMA = "sink_proof"
_MIGRATIONS = ROOT / "deployments" / "postgres" / SCHEMA
_LOCK_TIMEOUT = "55P03"
_SEGMENT = 'partition, begin, "end", records, rows, digest, hashed_by, first, last, state'
_OBJECT = "path, identity, size, written_at, low_partition, high_partition, low_offset, end_offset, rows, counted"


class BusyError(HeartWatchError):
    """Another check of the topic is running; the message names the topic."""


class ProofMemory:
    """What is remembered of one topic."""

    def __init__(self, postgres: PostgresSettings, topic: str, topic_id: str) -> None:
        """Bring the schema up to date; nothing else is read or written yet.

        Args:
            postgres: where the database is.
            topic: Kafka topic.
            topic_id: what tells it from others of its name.

        Raises:
            heartwatch.postgres.PostgresError: the database can't be asked.
        """
        self._postgres, self._topic, self._topic_id = postgres, topic, topic_id
        migrate(postgres, SCHEMA, _MIGRATIONS)

    @contextmanager
    def lock(self, seconds: float) -> Iterator[None]:
        """Keep other checks of the topic out.

        Args:
            seconds: how long to wait for a check that is running.

        Raises:
            BusyError: it is still running then.
            heartwatch.postgres.PostgresError: the database can't be asked.
        """
        with closing(connect(self._postgres)) as connection:
            connection.autocommit = True
            with connection.cursor() as cursor:
                cursor.execute("SELECT set_config('lock_timeout', %s, false)", [f"{max(1, int(seconds * 1000))}ms"])
                try:
                    cursor.execute("SELECT pg_advisory_lock(hashtext(%s))", [f"{SCHEMA} {self._topic}"])
                except psycopg2.Error as error:
                    if error.pgcode != _LOCK_TIMEOUT:
                        raise PostgresError(f"can't lock the check of topic {self._topic!r}: {error}") from error
                    raise BusyError(
                        f"another check of the sink of topic {self._topic!r} is still running after {seconds:g} s; wait for it"
                    ) from error
            yield

    def load(self) -> Proofs:
        """Return what is remembered; nothing of a former topic of the same name.

        Raises:
            heartwatch.postgres.PostgresError: the database can't be asked.
        """
        arguments = [self._topic]
        with transaction(self._postgres, f"to read what is proven of topic {self._topic!r}") as cursor:
            cursor.execute(
                "DELETE FROM sink_proof.topics WHERE topic = %s AND topic_id <> %s", [self._topic, self._topic_id]
            )
            cursor.execute(
                "SELECT partition, base, waiting_offset, waiting_since FROM sink_proof.partitions WHERE topic = %s",
                arguments,
            )
            partitions = cursor.fetchall()
            cursor.execute(f"SELECT {_SEGMENT} FROM sink_proof.segments WHERE topic = %s", arguments)  # noqa: S608 - no input
            segments = [_segment(row) for row in cursor.fetchall()]
            cursor.execute(f"SELECT {_OBJECT} FROM sink_proof.objects WHERE topic = %s", arguments)  # noqa: S608 - no input
            objects = [_object(row) for row in cursor.fetchall()]
        return Proofs(
            base={partition: base for partition, base, _, _ in partitions},
            segments={(segment.partition, segment.begin): segment for segment in segments},
            objects={found.path: found for found in objects},
            waiting={partition: (offset, since) for partition, _, offset, since in partitions if offset is not None},
        )

    def forget(self) -> None:
        """Forget everything that is proven, so that it is proven again; dead letters stay known.

        Raises:
            heartwatch.postgres.PostgresError: the database can't be asked.
        """
        execute(self._postgres, "DELETE FROM sink_proof.topics WHERE topic = %s", [self._topic])

    def save(self, before: Proofs, after: Proofs, version: str) -> None:
        """Write what differs, in one transaction.

        Args:
            before: what is written already.
            after: what is to be remembered.
            version: the sink's state.

        Raises:
            heartwatch.postgres.PostgresError: the database can't be asked.
        """
        with transaction(self._postgres, f"to keep what is proven of topic {self._topic!r}") as cursor:
            cursor.execute(
                "INSERT INTO sink_proof.topics (topic, topic_id, version) VALUES (%s, %s, %s) ON CONFLICT (topic) DO UPDATE "
                "SET topic_id = excluded.topic_id, version = excluded.version, checked_at = now()",
                [self._topic, self._topic_id, version],
            )
            self._delete(cursor, "segments", ("partition", "begin"), before.segments.keys() - after.segments.keys())
            self._delete(
                cursor, "objects", ("path",), [(path,) for path in before.objects.keys() - after.objects.keys()]
            )
            self._upsert(
                cursor, "partitions", "partition, base, waiting_offset, waiting_since", 1, _partitions(before, after)
            )
            self._upsert(cursor, "segments", _SEGMENT, 2, _news(before.segments, after.segments, _segment_row))
            self._upsert(cursor, "objects", _OBJECT, 1, _news(before.objects, after.objects, _object_row))

    def _delete(self, cursor: Any, table: str, names: Sequence[str], keys: Iterable[Sequence[Any]]) -> None:
        rows = [(self._topic, *key) for key in keys]
        if rows:
            columns = ", ".join(["topic", *names])
            execute_values(
                cursor,
                f"DELETE FROM sink_proof.{table} WHERE ({columns}) IN (VALUES %s)",  # noqa: S608 - no input
                rows,
            )

    def _upsert(self, cursor: Any, table: str, columns: str, keys: int, rows: Sequence[Sequence[Any]]) -> None:
        names = columns.split(", ")
        changes = ", ".join(f"{name} = excluded.{name}" for name in names[keys:])
        statement = (
            f"INSERT INTO sink_proof.{table} (topic, {columns}) VALUES %s "  # noqa: S608 - no input
            f"ON CONFLICT (topic, {', '.join(names[:keys])}) DO UPDATE SET {changes}"
        )
        if rows:
            execute_values(cursor, statement, [(self._topic, *row) for row in rows], page_size=1_000)

    # Dead letters

    def dead_letter_positions(self, dead_letter_topic: str, topic_id: str) -> dict[int, int]:
        """Return by partition up to where a dead-letter topic has been read."""
        rows = execute(
            self._postgres,
            "SELECT partition, next FROM sink_proof.dead_letter_positions WHERE topic = %s AND topic_id = %s",
            [dead_letter_topic, topic_id],
        )
        return {partition: position for partition, position in rows}

    def add_dead_letters(
        self,
        dead_letter_topic: str,
        topic_id: str,
        found: Sequence[DeadLetter],
        positions: Mapping[int, int],
        strangers: Mapping[int, int],
    ) -> None:
        """Keep dead letters, and up to where they were read, in one transaction.

        Args:
            dead_letter_topic: where they were read.
            topic_id: its id.
            found: the topic's records.
            positions: by partition the first offset that hasn't been read.
            strangers: by partition how many of the records read don't say where they come from.
        """
        with transaction(self._postgres, f"to keep the dead letters of topic {self._topic!r}") as cursor:
            execute_values(
                cursor,
                'INSERT INTO sink_proof.dead_letters (topic, topic_id, partition, "offset", reason, at) VALUES %s '
                "ON CONFLICT DO NOTHING",
                [(self._topic, self._topic_id, dead.partition, dead.offset, dead.reason, dead.at) for dead in found],
            )
            execute_values(
                cursor,
                "INSERT INTO sink_proof.dead_letter_positions AS known (topic, topic_id, partition, next, strangers) VALUES %s "
                "ON CONFLICT (topic, topic_id, partition) DO UPDATE "
                # Whoever read the same records at the same time has counted them.
                "SET strangers = known.strangers + CASE WHEN excluded.next > known.next THEN excluded.strangers ELSE 0 END, "
                "next = greatest(known.next, excluded.next)",
                [(dead_letter_topic, topic_id, p, position, strangers.get(p, 0)) for p, position in positions.items()],
            )

    def dead_letters(self, spans: Sequence[Span]) -> pl.DataFrame:
        """Return partition and offset of the topic's dead letters in some spans."""
        rows: list[tuple[Any, ...]] = []
        if spans:
            with transaction(self._postgres, f"to read the dead letters of topic {self._topic!r}") as cursor:
                rows = execute_values(
                    cursor,
                    'SELECT DISTINCT partition, "offset" FROM sink_proof.dead_letters JOIN (VALUES %s) AS s (t, i, p, b, e) '
                    'ON topic = t AND topic_id = i AND partition = p AND "offset" >= b AND "offset" < e',
                    [(self._topic, self._topic_id, *span) for span in spans],
                    fetch=True,
                )
        return pl.DataFrame(rows, schema={"partition": pl.Int32, "offset": pl.Int64}, orient="row")

    def summary(self) -> DeadLetterSummary:
        """Return how many dead letters the topic has, why, and the first and the last."""
        where = "WHERE topic = %s AND topic_id = %s"
        arguments = [self._topic, self._topic_id]
        reasons = execute(
            self._postgres,
            f"SELECT reason, count(*) FROM sink_proof.dead_letters {where} GROUP BY reason ORDER BY 2 DESC, 1",  # noqa: S608
            arguments,
        )
        ends = [
            execute(
                self._postgres,
                f'SELECT partition, "offset", reason, at FROM sink_proof.dead_letters {where} '  # noqa: S608 - no input
                f'ORDER BY at {order}, partition {order}, "offset" {order} LIMIT 1',
                arguments,
            )
            for order in ("ASC", "DESC")
        ]
        first, last = (DeadLetter(*rows[0]) if rows else None for rows in ends)
        return DeadLetterSummary({reason: int(count) for reason, count in reasons}, first, last)


def _partitions(before: Proofs, after: Proofs) -> list[tuple[Any, ...]]:
    def row(proofs: Proofs, partition: int) -> tuple[Any, ...]:
        offset, since = proofs.waiting.get(partition, (None, None))
        return partition, proofs.base.get(partition), offset, since

    return [row(after, partition) for partition in after.base if row(after, partition) != row(before, partition)]


def _news(before: Mapping[Any, Any], after: Mapping[Any, Any], row: Any) -> list[tuple[Any, ...]]:
    return [row(value) for key, value in after.items() if before.get(key) != value]


def _segment_row(segment: Segment) -> tuple[Any, ...]:
    return (
        segment.partition,
        segment.begin,
        segment.end,
        segment.records,
        segment.rows,
        segment.digest,
        segment.hashed_by,
        segment.first,
        segment.last,
        segment.state.value,
    )


def _segment(row: Sequence[Any]) -> Segment:
    partition, begin, end, records, rows, digest, hashed_by, first, last, state = row
    return Segment(partition, begin, end, records, rows, int(digest), hashed_by, first, last, SegmentState(state))


def _object_row(found: SinkObject) -> tuple[Any, ...]:
    place = (*found.partitions, *found.offsets)
    return (found.path, found.identity, found.size, found.written_at, *place, found.rows, found.counted)


def _object(row: Sequence[Any]) -> SinkObject:
    path, identity, size, written_at, low, high, begin, end, rows, counted = row
    assert isinstance(written_at, datetime)  # noqa: S101 - the column's type
    return SinkObject(path, identity, size, written_at, (low, high), (begin, end), rows, counted)
