"""Sends heartbeats to quiet partitions of the stream (see `heartwatch.heartbeats`), for as long as the process lives.

It asks the brokers once a second where the partitions end, and reads records only where a partition has fallen silent. What to
send is decided by `heartwatch.produce.heartbeat_plan` from the topic and the clock alone, so several of these processes at a
time do no harm, and one that starts again goes on where the one before was.
"""

from __future__ import annotations

import logging
import math
import threading
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
from confluent_kafka import KafkaException, Producer

from heartwatch.analytic import Analytic, AnalyticError
from heartwatch.heartbeats import HEADER, are_heartbeats, heartbeat_keys
from heartwatch.liveness import STALE_SECONDS, alive_file, silence_seconds
from heartwatch.produce.heartbeat_plan import HeartbeatRules, PartitionTail, heartbeat_time
from heartwatch.produce.sources import windows_of
from heartwatch.settings import Settings
from kafkakit import avro_codec
from kafkakit.admin import KafkaAdmin, KafkaClientError, OffsetReader, UnknownTopicError, producer_config
from kafkakit.errors import KafkaKitError
from kafkakit.registry import Registry
from kafkakit.topic_reader import committed_ranges, read_ranges

logger = logging.getLogger(__name__)

PROCESS = "heartbeat"
"""Name of the process, under which its sign of life is kept."""

_STEP_SECONDS = 1.0
_TAIL_OFFSETS = 2_000  # what is read of a partition that has fallen silent
_FEW_OFFSETS = 100  # more of them in a second hold events
_ANSWER_SECONDS = 10.0
_ROW_TIME_MS = 1  # before any event: ksqlDB joins an event with the row of its time


def is_alive(home: Path) -> bool:
    """Return whether the process of a home has given a sign of life lately."""
    silence = silence_seconds(home, PROCESS)
    return silence is not None and silence < STALE_SECONDS


def send_heartbeats(settings: Settings, ended: threading.Event) -> None:
    """Send quiet partitions their heartbeats until told to end.

    Args:
        settings: where the brokers and the registry are, which analytic, and after which silence heartbeats come.
        ended: set to end.

    Raises:
        AnalyticError: the analytic has no records for its reserved users.
    """
    pulse, alive, reported = StreamPulse(settings), alive_file(settings.home, PROCESS), ""
    alive.parent.mkdir(parents=True, exist_ok=True)
    while not ended.wait(_STEP_SECONDS):
        try:
            pulse.step()
            alive.touch()
            reported = ""
        except (KafkaKitError, KafkaException) as error:
            # Brokers and registry come back; until then one line says that they are away.
            if str(error) != reported:
                logger.warning("no heartbeats for now: %s", error)
            reported = str(error)


@dataclass
class _Followed:
    """A partition of the stream, as it was last seen.

    Attributes:
        end: the offset after its last record.
        event_at: when its last event was seen to come, by `time.monotonic`.
        heartbeat_at: when its last heartbeat since then was seen to come; minus infinity where none was.
        tail: what its newest records say; None where they weren't read since its last event.
    """

    end: int
    event_at: float
    heartbeat_at: float = -math.inf
    tail: PartitionTail | None = None

    def note(self, end: int, times_ms: Sequence[int], heartbeats: Sequence[bool], now: float) -> None:
        """Take note of records that have come, or were read, up to a new end."""
        if end == self.end:
            self.tail = PartitionTail().after(times_ms, heartbeats)
        elif heartbeats and all(heartbeats):
            self.heartbeat_at = now
            self.tail = self.tail.after(times_ms, heartbeats) if self.tail is not None else None
        else:
            # Markers alone end a transaction: its producer is there, or was until now.
            self.event_at, self.heartbeat_at, self.tail = now, -math.inf, None
        self.end = end


class StreamPulse:
    """Follows an analytic's stream, and sends its quiet partitions what they need."""

    def __init__(self, settings: Settings) -> None:
        """Prepare; the brokers are asked in `step`.

        Args:
            settings: where the brokers and the registry are, which analytic, and after which silence heartbeats come.

        Raises:
            AnalyticError: the analytic has no records for its reserved users.
        """
        self._analytic = Analytic.of(settings.pipeline)
        if self._analytic.heartbeat is None:
            raise AnalyticError(
                f"analytic {self._analytic.analytic!r} has no [heartbeat] in its analytic.toml; add its reserved users' fields"
            )
        self._settings, self._fields = settings, self._analytic.heartbeat
        closing_ms = sum(windows_of(self._analytic.variables(settings.pipeline.variables)))
        rules = settings.heartbeat
        self._rules = HeartbeatRules(closing_ms, rules.look_after_seconds, rules.close_after_seconds)
        self._admin = KafkaAdmin(settings.kafka)
        self._producer: Producer | None = None
        self._offsets = OffsetReader(settings.kafka, _ANSWER_SECONDS)
        self._all_offsets = OffsetReader(settings.kafka, _ANSWER_SECONDS, committed=False)
        self._followed: dict[int, _Followed] = {}
        self._prepared = ""  # the id of the table's topic that has the reserved users' rows

    def step(self) -> int:
        """Look at the partitions' ends once, and send what is due; return how many heartbeats that were.

        Raises:
            KafkaKitError: the brokers or the registry can't be used now.
        """
        try:
            spans = {partition: span for (_, partition), span in self._offsets.spans([self._topic]).items()}
        except UnknownTopicError:
            if self._followed:
                self._forget()
            return 0
        if any(
            partition in self._followed and end < self._followed[partition].end for partition, (_, end) in spans.items()
        ):
            self._forget()
        now = time.monotonic()
        self._follow(spans, now)
        wanted = self._wanted(now, time.time_ns() // 1_000_000)
        if (self._prepared and not wanted) or not self._has_rows(len(spans)):
            return 0
        keys = heartbeat_keys(len(spans))
        for partition, time_ms in wanted.items():
            logger.info("partition %d: a heartbeat of event time %d", partition, time_ms)
        self._send(
            self._analytic.stream,
            [(keys[partition], partition, time_ms, self._fields.stream) for partition, time_ms in wanted.items()],
        )
        return len(wanted)

    @property
    def _topic(self) -> str:
        return self._analytic.stream_topic

    def _forget(self) -> None:
        """Begin again with a topic that is gone, or was made again."""
        self._followed, self._prepared = {}, ""
        self._offsets.close()
        self._all_offsets.close()

    def _follow(self, spans: Mapping[int, tuple[int, int]], now: float) -> None:
        """Take note of what has come to each partition since the step before."""
        ranges = {}
        for partition, (first, end) in spans.items():
            known = self._followed.setdefault(partition, _Followed(end, now))
            silent = now - known.event_at >= self._rules.look_after_seconds
            if end - known.end > _FEW_OFFSETS:
                known.note(end, [], [], now)
            elif end > known.end:
                ranges[partition] = (max(first, known.end), end)
            elif known.tail is None and silent:
                ranges[partition] = (max(first, end - _TAIL_OFFSETS), end)
        found = self._read(ranges)
        for partition, (_, end) in ranges.items():
            times_ms, heartbeats = found.get(partition, ([], []))
            self._followed[partition].note(end, times_ms, heartbeats, now)

    def _read(self, ranges: Mapping[int, tuple[int, int]]) -> dict[int, tuple[list[int], list[bool]]]:
        """Return by partition the event times of ranges' records, and which of them are heartbeats."""
        found: dict[int, tuple[list[int], list[bool]]] = {}
        for records in read_ranges(self._settings.kafka, self._topic, ranges, _ANSWER_SECONDS):
            heartbeats = are_heartbeats(records.key)
            for partition in np.unique(records.partition).tolist():
                chosen = records.partition == partition
                times_ms, which = found.setdefault(partition, ([], []))
                times_ms += records.timestamp[chosen].tolist()
                which += heartbeats[chosen].tolist()
        return found

    def _wanted(self, now: float, now_ms: int) -> dict[int, int]:
        """Return by partition the event times of the heartbeats that are due, ms since the epoch."""
        wanted: dict[int, int] = {}
        for partition, known in self._followed.items():
            if known.tail is not None:
                quiet, since = now - known.event_at, now - known.heartbeat_at
                time_ms = heartbeat_time(known.tail, quiet, since, self._rules, now_ms)
                wanted |= {partition: time_ms} if time_ms is not None else {}
        if wanted:
            # A partition with an open transaction isn't quiet: a producer that died in the middle goes on where it was.
            ends = self._all_offsets.ends([self._topic])
            wanted = {
                partition: time_ms
                for partition, time_ms in wanted.items()
                if ends[self._topic, partition] == self._followed[partition].end
            }
        return wanted

    def _has_rows(self, partitions: int) -> bool:
        """Give the reserved users their rows in the table where they have none; False while that can't be.

        A heartbeat without a row would be dropped by the join, and move no time.
        """
        table = self._analytic.table_topic
        found = self._admin.describe([table]).get(table)
        if found is None:
            return False
        topic_id = self._admin.topic_id(table)
        if topic_id == self._prepared:
            return True
        if found.partitions != partitions:
            raise KafkaClientError(
                f"topic {table!r} has {found.partitions} partitions and {self._topic!r} has {partitions}; a join needs as many"
            )
        keys = heartbeat_keys(partitions)
        missing = set(keys)
        for records in read_ranges(self._settings.kafka, table, committed_ranges(self._admin, table), _ANSWER_SECONDS):
            chosen = pa.array(np.flatnonzero(are_heartbeats(records.key)))
            rows = zip(records.key.take(chosen).to_pylist(), records.value.take(chosen).to_pylist(), strict=True)
            for key, value in rows:
                (missing.add if value is None else missing.discard)(key.decode())
        rows_sent = [(key, keys.index(key), _ROW_TIME_MS, self._fields.table) for key in sorted(missing)]
        self._send(self._analytic.table, rows_sent)
        self._prepared = topic_id
        return True

    def _send(self, resource: str, records: Sequence[tuple[str, int, int, Mapping[str, Any]]]) -> None:
        """Send records of reserved users and wait until the brokers have them.

        Args:
            resource: topic, as the analytic's file names it.
            records: key, partition, event time (ms since the epoch) and the value's other fields of each.

        Raises:
            KafkaClientError: the brokers didn't take one.
            RegistryError: the registry couldn't be asked.
        """
        if not records:
            return
        topic, definition, text = (
            self._analytic.topic(resource),
            self._analytic.topics[resource],
            self._analytic.schema_text(resource),
        )
        rows = [
            {definition.key: key, **({definition.event_time: time_ms} if definition.event_time else {}), **fields}
            for key, _, time_ms, fields in records
        ]
        schema = avro_codec.parse(text)
        registered = Registry(self._settings.registry).register(f"{topic}-value", text)
        batch = pa.RecordBatch.from_pylist(rows, schema=avro_codec.arrow_schema(schema))
        values = avro_codec.encode(batch, schema, registered.schema_id)
        failures: list[str] = []

        def delivered(error: Any, _: Any) -> None:
            if error is not None:
                failures.append(error.str())

        producer = self._producer or Producer(producer_config(self._settings.kafka, linger_ms=0))
        self._producer = None
        for (key, partition, time_ms, _), value in zip(records, values, strict=True):
            producer.produce(
                topic,
                value,
                key.encode(),
                partition,
                timestamp=time_ms,
                headers=[(HEADER, b"")],
                on_delivery=delivered,
            )
        left = producer.flush(_ANSWER_SECONDS)
        if failures or left:
            raise KafkaClientError(f"can't send heartbeats to {topic!r}: {(failures or ['no answer'])[0]}")
        self._producer = producer
