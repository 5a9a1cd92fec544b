"""Looks at what is in the topics: keys in their partition, the table against Postgres, what queries rejected.

`verify.keys` and `verify.table_check` judge what is read here.
"""

from __future__ import annotations

import json
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import polars as pl

from heartwatch.analytic import Analytic
from heartwatch.deploy.teardown import drop_slot
from heartwatch.events import Wrong
from heartwatch.heartbeats import without_heartbeats
from heartwatch.monitoring import Monitoring
from heartwatch.postgres import PostgresError, execute
from heartwatch.settings import Settings
from heartwatch.verify import table_check
from heartwatch.verify.batch import Topic, decode_topic, latest_rows
from heartwatch.verify.health import HealthFinding
from heartwatch.verify.keys import judge_keys, sample_keys
from heartwatch.verify.table_check import TableDifference, TableNames
from kafkakit.admin import KafkaAdmin
from kafkakit.avro_codec import Decoder, parse
from kafkakit.registry import Registry
from kafkakit.topic_reader import Records, committed_ranges, last_ranges, read_ranges
from kafkakit.writer_schemas import schema_lookup

_ANSWER_SECONDS = 10.0
_SAMPLE_RECORDS = 2_000
_ON_THE_WAY_SECONDS = 15.0
"""How long a change may take from Postgres to the topic before a row that differs counts as lost."""
_TABLE_MARK, _REPAIR_MARK, _LOG_MARK = "table-compared", "table-repaired", "processing-log"
_LOG_TOPIC = "ksql_processing_log"
_SHOWN = 3


def look_at_keys(settings: Settings) -> list[HealthFinding]:
    """Compare where the newest records of the stream and the table lie with where the join looks for them.

    Raises:
        KafkaClientError: the brokers don't answer.
        TopicError: a topic can't be read.
    """
    analytic, admin = Analytic.of(settings.pipeline), KafkaAdmin(settings.kafka, _ANSWER_SECONDS)
    roles = [resource for resource in (analytic.roles.stream, analytic.roles.table) if resource is not None]
    found = admin.describe([analytic.topic(resource) for resource in roles])
    findings = []
    for resource in roles:
        topic = analytic.topic(resource)
        if topic in found:
            parts = read_ranges(settings.kafka, topic, last_ranges(admin, topic, _SAMPLE_RECORDS))
            repartitioned = analytic.repartition and resource == analytic.roles.stream
            findings.append(judge_keys(topic, sample_keys(parts, found[topic].partitions), repartitioned))
    return findings


def table_names(analytic: Analytic, settings: Settings) -> TableNames:
    """Return the table of an analytic in Postgres, and what is captured of it."""
    fields = tuple(field["name"] for field in parse(analytic.schema_text(analytic.table))["fields"])
    return TableNames(settings.postgres.historical_table, analytic.topics[analytic.table].key, fields)


def look_at_table(settings: Settings) -> list[HealthFinding]:
    """Compare the table's topic with Postgres; what differs for longer than a change takes is sent again, once.

    A replication slot that the server has given up is dropped, so that the connector makes it anew when it is restarted.
    Nothing is read where neither side has changed since both were equal.

    Raises:
        KafkaClientError: the brokers don't answer.
        heartwatch.postgres.PostgresError: Postgres doesn't answer.
    """
    analytic, admin = Analytic.of(settings.pipeline), KafkaAdmin(settings.kafka, _ANSWER_SECONDS)
    if analytic.roles.table is None or analytic.table_topic not in admin.describe([analytic.table_topic]):
        return []
    names, memory = table_names(analytic, settings), Monitoring(settings.postgres, settings.pipeline)
    changes = _changes(settings, names)
    if changes is None:
        return []
    findings = _lost_slots(settings, analytic)
    ends = sorted(committed_ranges(admin, analytic.table_topic).items())
    state = json.dumps([ends, changes])
    if memory.mark(_TABLE_MARK) == state:
        return [*findings, HealthFinding("table", analytic.table_topic, "as in Postgres, unchanged since")]
    difference = _lasting_difference(settings, analytic, admin, names)
    if difference.equal:
        memory.set_mark(_TABLE_MARK, state)
        memory.set_mark(_REPAIR_MARK, "")
    return [*findings, _repaired(settings, memory, names, analytic.table_topic, difference)]


def _changes(settings: Settings, names: TableNames) -> list[Any] | None:
    """Return numbers that move whenever the table is written; None where it isn't there."""
    statement = (
        "SELECT relfilenode::text, n_tup_ins, n_tup_upd, n_tup_del FROM pg_stat_user_tables s JOIN pg_class c ON c.oid = s.relid "
        "WHERE s.schemaname = 'public' AND s.relname = %s"
    )
    rows = execute(settings.postgres, statement, [names.table])
    return list(rows[0]) if rows else None


def _lost_slots(settings: Settings, analytic: Analytic) -> list[HealthFinding]:
    """Drop the slots that hold nothing any more, since the server removed the log that they needed."""
    name = analytic.name(f"{analytic.table}_source")
    statement = "SELECT slot_name FROM pg_replication_slots WHERE slot_name = %s AND wal_status = 'lost' AND NOT active"
    findings = []
    for (slot,) in execute(settings.postgres, statement, [name]):
        drop_slot(settings.postgres, slot)
        sentence = (
            f"replication slot {slot!r} was lost: the server removed the log that it needed (max_slot_wal_keep_size); it is "
            "dropped, the connector makes it anew when it is restarted, and comparing the table finds the changes of the meantime"
        )
        findings.append(HealthFinding("slot", slot, "lost", Wrong.TABLE_DIFFERS, sentence, mended=True))
    return findings


def _lasting_difference(
    settings: Settings, analytic: Analytic, admin: KafkaAdmin, names: TableNames
) -> TableDifference:
    look = _look(settings, analytic, admin, names)
    until = time.monotonic() + _ON_THE_WAY_SECONDS
    while not look.equal and time.monotonic() < until:
        time.sleep(min(5.0, _ON_THE_WAY_SECONDS / 3))
        look = table_check.lasting(look, _look(settings, analytic, admin, names))
    return look


def _look(settings: Settings, analytic: Analytic, admin: KafkaAdmin, names: TableNames) -> TableDifference:
    topic = _people_of(settings, analytic, admin)
    rows = pl.from_arrow(latest_rows(topic).select(list(names.fields)))
    assert isinstance(rows, pl.DataFrame)  # noqa: S101 - a table never becomes a series
    unreadable = (len(topic.rejects), topic.rejects[0][2] if topic.rejects else "")
    return table_check.compare_table(settings.postgres, names, rows, unreadable)


def _people_of(settings: Settings, analytic: Analytic, admin: KafkaAdmin) -> Topic:
    decoder = Decoder(parse(analytic.schema_text(analytic.table)), schema_lookup(Registry(settings.registry)))
    ranges = committed_ranges(admin, analytic.table_topic)

    def people() -> Iterator[Records]:
        for records in read_ranges(settings.kafka, analytic.table_topic, ranges):
            yield without_heartbeats(records)

    return decode_topic(people(), decoder)


def _repaired(
    settings: Settings, memory: Monitoring, names: TableNames, topic: str, difference: TableDifference
) -> HealthFinding:
    """Send again what differs, unless the very same was sent again before without an effect."""
    if difference.equal:
        return table_check.judge_table(names, topic, difference, repaired=False)
    wrong = json.dumps([difference.lacking, [row[names.key] for row in difference.left_over]])
    if memory.mark(_REPAIR_MARK) == wrong:
        return table_check.judge_table(names, topic, difference, repaired=False)
    try:
        table_check.repair(settings.postgres, names, difference)
    except PostgresError as error:
        return table_check.judge_table(names, topic, difference, repaired=False, failure=str(error))
    memory.set_mark(_REPAIR_MARK, wrong)
    return table_check.judge_table(names, topic, difference, repaired=True)


@dataclass(frozen=True)
class RejectedRecord:
    """An entry of the processing log: which query, and why."""

    query: str
    reason: str


def look_at_rejects(settings: Settings) -> list[HealthFinding]:
    """Say what came into the processing log since the look before; the first look only notes where it ends.

    Raises:
        KafkaClientError: the brokers don't answer.
        heartwatch.postgres.PostgresError: where the look before ended isn't known.
    """
    admin, memory = KafkaAdmin(settings.kafka, _ANSWER_SECONDS), Monitoring(settings.postgres, settings.pipeline)
    findings = []
    for topic in [name for name in admin.topics() if name.endswith(_LOG_TOPIC)]:
        ranges, mark = committed_ranges(admin, topic), f"{_LOG_MARK}-{topic}"
        noted = memory.mark(mark)
        memory.set_mark(mark, json.dumps({partition: end for partition, (_, end) in ranges.items()}))
        if noted is None:
            findings.append(HealthFinding("processing log", topic, "watched from now on"))
            continue
        before = json.loads(noted)
        new = {
            partition: (max(first, before.get(str(partition), 0), end - _SAMPLE_RECORDS), end)
            for partition, (first, end) in ranges.items()
        }
        entries = [
            log_entry(value)
            for records in read_ranges(settings.kafka, topic, new)
            for value in records.value.to_pylist()
            if value is not None
        ]
        findings.append(judge_rejects(topic, entries))
    return findings


def log_entry(value: bytes) -> RejectedRecord:
    """Return what an entry of the processing log says; an entry of an unknown shape is told as it is."""
    try:
        entry = json.loads(value)
        message = entry["message"]
        reasons = [part.get("errorMessage") for part in message.values() if isinstance(part, dict)]
        reason = next((str(found) for found in reasons if found), "no reason is given")
        return RejectedRecord(str(entry["logger"]).removeprefix("processing."), reason)
    except (ValueError, KeyError, TypeError, AttributeError):
        return RejectedRecord("unknown", value[:200].decode("utf-8", "backslashreplace"))


def judge_rejects(topic: str, entries: Sequence[RejectedRecord]) -> HealthFinding:
    """Say what queries rejected since the look before.

    Args:
        topic: the processing log.
        entries: what is new in it.
    """
    if not entries:
        return HealthFinding("processing log", topic, "nothing new")
    counts = Counter(entry.query for entry in entries)
    shown = "; ".join(
        f"{query}: {count:,}, such as {next(entry.reason for entry in entries if entry.query == query)}"
        for query, count in counts.most_common(_SHOWN)
    )
    state = f"{len(entries):,} new"
    sentence = (
        f"queries left out {len(entries):,} records since the look before ({shown}); see topic {topic!r} and the producer of "
        "these records"
    )
    return HealthFinding("processing log", topic, state, Wrong.RECORDS_REJECTED, sentence, mended=True)
