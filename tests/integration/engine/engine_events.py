"""Heart-rate events with faults, written to a topic: late, out of order, twice, malformed; and the answer they must give.

The reference reads the topics back and works event by event in plain Python over fastavro: it shares no code with the engine.
"""

from __future__ import annotations

import io
import struct
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

import fastavro
import numpy as np
import pyarrow as pa
from confluent_kafka import Consumer, Producer, TopicPartition

from heartwatch.settings import ROOT, Settings
from kafkakit import avro_codec
from kafkakit.admin import KafkaAdmin, TopicState, producer_config
from kafkakit.partitioning import partitions_of
from kafkakit.registry import Registry
from ksqlengine.language.rendering import render

WINDOW_MS, GRACE_MS, STILL, MINIMUM = 10_000, 2_000, 0.001, 3
START_MS = 1_700_000_000_000
SCHEMAS = ROOT / "schemas" / "heart_rate"


def read(settings: Settings, topic: str, isolation: str = "read_committed") -> dict[int, list[Any]]:
    """Return a topic's messages by partition, in order."""
    consumer = Consumer(
        {
            "bootstrap.servers": settings.kafka.bootstrap_servers,
            "group.id": f"reader-{time.time()}",
            "isolation.level": isolation,
            "enable.partition.eof": True,
            "enable.auto.commit": False,
        }
    )
    partitions = list(consumer.list_topics(topic).topics[topic].partitions)
    consumer.assign([TopicPartition(topic, partition, 0) for partition in partitions])
    found: dict[int, list[Any]] = {partition: [] for partition in partitions}
    ended: set[int] = set()
    while len(ended) < len(partitions):
        for message in consumer.consume(5_000, 1):
            if message.error():
                ended.add(message.partition())
            else:
                found[message.partition()].append(message)
    consumer.close()
    return found


@dataclass
class Pipeline:
    """Topics and schemas of one test, and the KSQL variables that go with them."""

    settings: Settings
    name: str
    partitions: int = 4
    ids: dict[str, int] = field(default_factory=dict)

    def __post_init__(self) -> None:
        config = {"retention.ms": "-1"}
        topics = [
            TopicState(self.topic(name), self.partitions, 1, config) for name in ("historical", "realtime", "alerts")
        ]
        KafkaAdmin(self.settings.kafka).create(topics)
        registry = Registry(self.settings.registry)
        for name, resource in (("historical", "historical"), ("realtime", "realtime"), ("alert", "alerts")):
            text = (SCHEMAS / f"{name}.avsc").read_text(encoding="utf-8")
            self.ids[name] = registry.register(f"{self.topic(resource)}-value", text).schema_id
        self.schemas = {
            name: avro_codec.parse((SCHEMAS / f"{name}.avsc").read_text(encoding="utf-8")) for name in self.ids
        }
        self.producer = Producer(producer_config(self.settings.kafka, linger_ms=5))
        self.newest_ms = 0

    def topic(self, resource: str) -> str:
        return f"{self.name}_{resource}"

    @property
    def variables(self) -> dict[str, str]:
        return {
            "historical_topic": self.topic("historical"), "historical_table": self.topic("historical"),
            "realtime_topic": self.topic("realtime"), "realtime_stream": self.topic("realtime"),
            "alerts_topic": self.topic("alerts"), "alerts_table": self.topic("alerts"),
            "window_ms": str(WINDOW_MS), "grace_ms": str(GRACE_MS), "still_degrees": str(STILL), "minimum_events": str(MINIMUM),
            "ahead_ms": "10000",
        }  # fmt: skip

    # ------------------------------------------------------------------------------------------------ writing
    def send(self, resource: str, key: str | None, value: bytes | None, time_ms: int = START_MS) -> None:
        self.newest_ms = max(self.newest_ms, time_ms)
        while True:
            try:
                self.producer.produce(self.topic(resource), value, key, timestamp=time_ms)
                break
            except BufferError:
                self.producer.poll(0.1)

    def close(self) -> None:
        """Close all windows as heartbeats do: by an event in each partition, of somebody whose rate is inside the range."""
        closers: dict[int, int] = {}
        for user in range(900_000, 900_100):
            closers.setdefault(int(partitions_of(pa.array([str(user)]), self.partitions)[0]), user)
        assert len(closers) == self.partitions
        self.ranges(dict.fromkeys(closers.values(), (0, 500)))
        end_ms = self.newest_ms + WINDOW_MS + GRACE_MS
        for user in closers.values():
            self.send_event(user, end_ms)
        self.flush()

    def flush(self) -> None:
        assert self.producer.flush(30) == 0

    def ranges(self, users: dict[int, tuple[int, int]]) -> None:
        """Write rows of the historical table."""
        columns = {
            "user_id": list(users),
            "min_heart_rate": [low for low, _ in users.values()],
            "max_heart_rate": [high for _, high in users.values()],
        }
        batch = pa.RecordBatch.from_pydict({name: pa.array(column, pa.int32()) for name, column in columns.items()})
        for user, value in zip(
            users, avro_codec.encode(batch, self.schemas["historical"], self.ids["historical"]), strict=True
        ):
            # Before all events, late ones too: a query over what is there already joins in order of time.
            self.send("historical", str(user), value, START_MS - 60_000)
        self.flush()

    def event(
        self, user: int, time_ms: int, heart_rate: int = 130, latitude: float = 40.0, longitude: float = -74.0
    ) -> bytes:
        """Return one event's message."""
        return self._encode([user], [time_ms], [heart_rate], [latitude], [longitude])[0]

    def send_event(self, user: int, time_ms: int, heart_rate: int = 130) -> None:
        self.send("realtime", str(user), self.event(user, time_ms, heart_rate), time_ms)

    def _encode(self, users: Any, times: Any, rates: Any, latitudes: Any, longitudes: Any) -> list[bytes]:
        batch = pa.RecordBatch.from_pydict(
            {
                "user_id": [str(user) for user in users],
                "event_time": pa.array(times, pa.timestamp("ms")),
                "zipcode": pa.array([10_001] * len(users), pa.int32()),
                "latitude": pa.array(latitudes, pa.float64()),
                "longitude": pa.array(longitudes, pa.float64()),
                "heart_rate": pa.array(rates, pa.int32()),
            }
        )
        return avro_codec.encode(batch, self.schemas["realtime"], self.ids["realtime"])

    def faulty_events(self, count: int, users: int, seed: int, per_second: int, speed: int | None = None) -> None:
        """Write events: 2 % late, all somewhat out of order, 1 % twice, 0.2 % malformed; every 50th user is ill.

        Args:
            count: how many.
            users: how many people.
            seed: makes them the same again.
            per_second: events a second of event time.
            speed: events a second of wall clock, None for as fast as it goes.
        """
        rng = np.random.default_rng(seed)
        latitudes, longitudes = rng.uniform(39, 41, users), rng.uniform(-75, -73, users)
        bad = malformed(self.event(1, START_MS), self.ids["realtime"])
        begun, done = time.monotonic(), 0
        while done < count:
            size = min(1_000, count - done)
            who = rng.integers(0, users, size)
            times = START_MS + (done + np.arange(size)) * 1_000 // per_second - rng.integers(0, 500, size)
            times = np.where(rng.random(size) < 0.02, times - rng.integers(0, 30_000, size), times)
            rates = np.where(who % 50 == 0, 130, rng.integers(50, 111, size))
            values: list[bytes | None] = list(self._encode(who + 1, times, rates, latitudes[who], longitudes[who]))
            twice, spoilt = rng.random(size) < 0.01, rng.random(size) < 0.002
            for row, value in enumerate(values):
                message = bad[int(rng.integers(0, len(bad)))] if spoilt[row] else value
                for _ in range(2 if twice[row] else 1):
                    self.send("realtime", str(who[row] + 1), message, int(times[row]))
            done += size
            self.producer.poll(0)
            if speed is not None:
                time.sleep(max(0.0, done / speed - (time.monotonic() - begun)))
        self.flush()

    # ------------------------------------------------------------------------------------------------ reading
    def _decode(self, message: Any, name: str) -> dict[str, Any] | None:
        value = message.value()
        if (
            value is None
            or value[:1] != b"\0"
            or len(value) < 5
            or struct.unpack(">i", value[1:5])[0] != self.ids[name]
        ):
            return None
        body = io.BytesIO(value[5:])
        try:
            record = fastavro.schemaless_reader(body, fastavro.parse_schema(self.schemas[name]))
        except (EOFError, ValueError, IndexError, UnicodeDecodeError):
            return None
        return None if body.read(1) else record  # type: ignore[return-value]

    def reference(self) -> tuple[dict[tuple[bytes, int], tuple[Any, ...]], dict[str, int]]:
        """Return the alerts (by key and window start) that the topics' content must give, and counts of what is lost."""
        ranges = self._ranges()
        alerts: dict[tuple[bytes, int], tuple[Any, ...]] = {}
        counts = {"late": 0, "bad": 0, "without a row": 0}
        for partition, messages in read(self.settings, self.topic("realtime")).items():
            windows: dict[tuple[bytes, int], list[tuple[dict[str, Any], tuple[int, int]]]] = {}
            stream_time = -1
            for message in messages:
                event = self._decode(message, "realtime")
                if event is None:
                    counts["bad"] += 1
                    continue
                if (partition, message.key()) not in ranges:
                    counts["without a row"] += 1
                    continue
                at = round(event["event_time"].timestamp() * 1000)
                stream_time = max(stream_time, at)
                start = at // WINDOW_MS * WINDOW_MS
                if start + WINDOW_MS <= stream_time - GRACE_MS:
                    counts["late"] += 1
                    continue
                windows.setdefault((message.key(), start), []).append((event, ranges[partition, message.key()]))
            for (key, start), events in windows.items():
                if start + WINDOW_MS + GRACE_MS <= stream_time:
                    alerts.update(_alert(key, start, events))
        return alerts, counts

    def _ranges(self) -> dict[tuple[int, bytes], tuple[int, int]]:
        """Return the table's rows by partition and key."""
        ranges: dict[tuple[int, bytes], tuple[int, int]] = {}
        for partition, messages in read(self.settings, self.topic("historical")).items():
            for message in messages:
                row = self._decode(message, "historical")
                if message.value() is None:
                    ranges.pop((partition, message.key()), None)
                elif row is not None:
                    ranges[partition, message.key()] = (row["min_heart_rate"], row["max_heart_rate"])
        return ranges

    def alerts(self) -> dict[tuple[bytes, int], list[tuple[Any, ...]]]:
        """Return the alerts that a read_committed reader sees."""
        found: dict[tuple[bytes, int], list[tuple[Any, ...]]] = {}
        for messages in read(self.settings, self.topic("alerts")).values():
            for message in messages:
                row = self._decode(message, "alert")
                assert row is not None
                start = struct.unpack(">q", message.key()[-8:])[0]
                moments = [round(row[name].timestamp() * 1000) for name in ("window_start", "window_end")]
                plain = [
                    row[name]
                    for name in (
                        "event_count",
                        "avg_heart_rate",
                        "min_heart_rate",
                        "max_heart_rate",
                        "zipcode",
                        "latitude",
                        "longitude",
                    )
                ]
                found.setdefault((message.key()[:-8], start), []).append(
                    (row["user_id"], *moments, *plain, message.timestamp()[1])
                )
        return found


def _alert(key: bytes, start: int, events: list[tuple[dict[str, Any], tuple[int, int]]]) -> Iterator[tuple[Any, Any]]:
    rates = [event["heart_rate"] for event, _ in events]
    low, high = min(range_[0] for _, range_ in events), max(range_[1] for _, range_ in events)
    latitudes, longitudes = ([event[name] for event, _ in events] for name in ("latitude", "longitude"))
    mean = sum(rates) / len(rates)
    still = max(latitudes) - min(latitudes) <= STILL and max(longitudes) - min(longitudes) <= STILL
    if len(events) >= MINIMUM and still and (mean < low or mean > high):
        last = max(round(event["event_time"].timestamp() * 1000) for event, _ in events)
        middle = [(min(values) + max(values)) / 2 for values in (latitudes, longitudes)]
        zipcode = max(event["zipcode"] for event, _ in events)
        yield (
            (key, start),
            (key.decode(), start, start + WINDOW_MS, len(events), mean, low, high, zipcode, *middle, last),
        )


def malformed(good: bytes, schema_id: int) -> list[bytes | None]:
    """Return messages that are no events, one of each kind."""
    header = b"\0" + struct.pack(">i", schema_id)
    return [
        None,
        b"",
        b"\1" + good[1:],
        b"\0" + struct.pack(">i", 1_000_000) + good[5:],
        header,
        header[:3],
        good[:-3],
        good + b"zz",
        header + b"\xfe\xff\xff\xff\x0f" + good[5:],  # a text of 2 GB
        header + b"\x01" + good[5:],  # a text of -1 bytes
        header + b"\x04\xff\xfe" + good[7:],  # not UTF-8
    ]


def migrations(variables: dict[str, str]) -> Iterator[str]:
    """Yield the analytic's statements in order, with the variables replaced."""
    for path in sorted((ROOT / "ksql" / "heart_rate").glob("V*.sql")):
        yield render(path.read_text(encoding="utf-8"), variables)
