"""Drain rate and CPU of the heart-rate query in the embedded engine, against bare consume loops over the same topic.

Run against a platform that is up (`heartwatch up --parts kafka,registry`):

    python -m benchmarks.engine_throughput --events 3000000 --users 20000

Several numbers of events or users give a table of how rate, CPU and memory grow, one line for each pair:

    python -m benchmarks.engine_throughput --events 300000 3000000 30000000 --users 2000 2000000

What it costs that the query puts the stream into partitions by key itself (`repartition = true`), in turns over one topic:

    python -m benchmarks.engine_throughput --events 3000000 --users 20000 --repartition

All ratios are of one run. CPU is the engine process's own (psutil), from the moment when the query is created until the last
event is processed, so it includes reading the table and the first batches' compilation. The broker's CPU is not counted.
Memory is the process's resident memory when a quarter, half and all of the events were processed: it follows the people and
the open windows, not the events.
"""

from __future__ import annotations

import argparse
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from typing import Any

import httpx
import numpy as np
import psutil
import pyarrow as pa
from confluent_kafka import Consumer, Producer, TopicPartition

from heartwatch.deploy.migrations import migration_files
from heartwatch.settings import ROOT, Settings, load_settings
from kafkakit import avro_codec
from kafkakit.admin import KafkaAdmin, TopicState, consumer_config, producer_config
from kafkakit.batch_consumer import open_batch_consumer
from kafkakit.registry import Registry
from ksqlengine.language.rendering import render

_START_MS = 1_700_000_000_000
PARTITIONS = 8
_BATCH = 50_000
WINDOW_MS, GRACE_MS, AHEAD_MS = 10_000, 2_000, 10_000
_RESOURCES = ("historical", "realtime", "alerts")
_QUEUES = {
    "queued.min.messages": 200_000,
    "queued.max.messages.kbytes": 65_536,
    "fetch.message.max.bytes": 4_194_304,
    "enable.partition.eof": True,
}


@dataclass(frozen=True)
class Measured:
    """What a drain took: events/s of wall clock, CPU seconds per million events."""

    name: str
    rate: float
    cpu: float

    def __str__(self) -> str:
        """Return one line of the report."""
        return f"{self.name:<28} {self.rate:>12,.0f} events/s {self.cpu:>8.2f} CPU s per M events"


class Topics:
    """The topics of a run, filled with events."""

    def __init__(self, settings: Settings, users: int, configs: dict[str, str] | None = None) -> None:
        self.settings, self.users = settings, users
        self.events = 0
        self.name = f"bench{time.time_ns()}"
        self._rng = np.random.default_rng(1)
        self._keys = [str(user).encode() for user in range(1, users + 1)]
        self._places = self._rng.uniform(39, 41, users), self._rng.uniform(-75, -73, users)
        chosen = {"retention.ms": "-1", **(configs or {})}
        KafkaAdmin(settings.kafka).create([TopicState(self.topic(name), PARTITIONS, 1, chosen) for name in _RESOURCES])
        registry = Registry(settings.registry)
        self._schemas: dict[str, tuple[avro_codec.AvroSchema, int]] = {}
        for name, topic in (("historical", "historical"), ("realtime", "realtime"), ("alert", "alerts")):
            text = (ROOT / "schemas" / "heart_rate" / f"{name}.avsc").read_text(encoding="utf-8")
            self._schemas[name] = (
                avro_codec.parse(text),
                registry.register(f"{self.topic(topic)}-value", text).schema_id,
            )
        self._producer = Producer(
            producer_config(settings.kafka, linger_ms=5) | {"queue.buffering.max.messages": 1_000_000}
        )
        self._fill_ranges()

    def topic(self, resource: str) -> str:
        """Return a topic's name."""
        return f"{self.name}_{resource}"

    def _fill_ranges(self) -> None:
        ranges = {
            "user_id": np.arange(1, self.users + 1),
            "min_heart_rate": self._rng.integers(51, 54, self.users),
            "max_heart_rate": self._rng.integers(107, 110, self.users),
        }
        rows = pa.RecordBatch.from_pydict({name: pa.array(column, pa.int32()) for name, column in ranges.items()})
        values = avro_codec.encode(rows, *self._schemas["historical"])
        self._send("historical", self._keys, values, [_START_MS] * self.users)
        self.flush()

    def fill(self, events: int, per_second: int) -> None:
        """Send events as fast as they can be made, with so many a second of event time."""
        for first in range(0, events, _BATCH):
            size = min(_BATCH, events - first)
            self.send(_START_MS + (first + np.arange(size)) * 1000 // per_second - self._rng.integers(0, 2000, size))
        self.flush()

    def send(self, times: np.ndarray[Any, np.dtype[np.int64]]) -> None:
        """Send one event of anybody for each event time (ms since the epoch)."""
        size = len(times)
        who = self._rng.integers(0, self.users, size)
        users = [self._keys[user] for user in who.tolist()]
        batch = pa.RecordBatch.from_pydict(
            {
                "user_id": [user.decode() for user in users],
                "event_time": pa.array(times, pa.timestamp("ms")),
                "zipcode": pa.array(self._rng.integers(10_001, 10_040, size), pa.int32()),
                "latitude": self._places[0][who],
                "longitude": self._places[1][who],
                "heart_rate": pa.array(np.where(who % 50 == 0, 130, self._rng.integers(50, 111, size)), pa.int32()),
            }
        )
        self._send("realtime", users, avro_codec.encode(batch, *self._schemas["realtime"]), times.tolist())
        self.events += size

    def flush(self) -> None:
        """Wait until all that was sent is acknowledged."""
        assert self._producer.flush(120) == 0

    def _send(self, resource: str, keys: list[bytes], values: list[bytes], times: list[int]) -> None:
        topic = self.topic(resource)
        for key, value, moment in zip(keys, values, times, strict=True):
            while True:
                try:
                    self._producer.produce(topic, value, key, timestamp=moment)
                    break
                except BufferError:
                    self._producer.poll(0.1)
        self._producer.poll(0)

    def delete(self) -> None:
        """Delete the topics."""
        KafkaAdmin(self.settings.kafka).delete([self.topic(name) for name in _RESOURCES])


def bare_consume(topics: Topics) -> Measured:
    """Consume with confluent-kafka's `consume` and look at nothing."""
    consumer = Consumer(consumer_config(topics.settings.kafka, f"{topics.name}-bare") | _QUEUES)
    consumer.assign([TopicPartition(topics.topic("realtime"), partition, 0) for partition in range(PARTITIONS)])

    def take() -> int:
        return sum(1 for message in consumer.consume(10_000, 0.2) if message.error() is None)

    measured = _drained("bare consume", topics.events, take)
    consumer.close()
    return measured


def bare_batches(topics: Topics) -> Measured:
    """Read the topic as columns, as the engine does, and look at nothing."""
    with open_batch_consumer(consumer_config(topics.settings.kafka, f"{topics.name}-batches") | _QUEUES) as consumer:
        consumer.assign([(topics.topic("realtime"), partition, 0) for partition in range(PARTITIONS)])
        return _drained("bare batch consumer", topics.events, lambda: len(consumer.poll(0.2, 32_768)))


def _drained(name: str, events: int, take: Callable[[], int]) -> Measured:
    seen = 0
    while not seen:
        seen = take()
    counted, wall, cpu = seen, time.perf_counter(), time.process_time()
    while seen < events:
        seen += take()
    rest = events - counted
    return Measured(name, rest / (time.perf_counter() - wall), (time.process_time() - cpu) / rest * 1e6)


class EngineProcess:
    """The engine's server, as users run it."""

    def __init__(self, settings: Settings, folder: Path) -> None:
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            port = probe.getsockname()[1]
        self.url = f"http://127.0.0.1:{port}"
        command = [
            *(sys.executable, "-m", "ksqlengine", "server", "--listen", f"127.0.0.1:{port}"),
            *("--bootstrap-servers", settings.kafka.bootstrap_servers, "--registry-url", settings.registry.url),
            *("--service-id", f"bench{time.time_ns()}_", "--data-dir", str(folder), "--log-level", "WARNING"),
        ]
        self._process = subprocess.Popen(command)
        self.usage = psutil.Process(self._process.pid)
        while not self._healthy():
            time.sleep(0.2)

    def _healthy(self) -> bool:
        try:
            return bool(httpx.get(f"{self.url}/healthcheck", timeout=5).json()["isHealthy"])
        except httpx.TransportError:
            return False

    def run(self, sql: str, properties: dict[str, str]) -> list[dict[str, Any]]:
        """Run statements and return the answers."""
        body = {"ksql": sql, "streamsProperties": properties}
        answer = httpx.post(f"{self.url}/ksql", json=body, timeout=120)
        assert answer.is_success, answer.text
        return list(answer.json())

    def create_query(self, topics: Topics, properties: dict[str, str], *, repartition: bool = False) -> None:
        """Create the heart-rate query over the topics of a run; `repartition` as in ``analytic.toml``."""
        variables = {
            **{f"{name}_topic": topics.topic(name) for name in _RESOURCES},
            **{"historical_table": topics.topic("historical"), "realtime_stream": topics.topic("realtime")},
            **{"alerts_table": topics.topic("alerts"), "window_ms": str(WINDOW_MS), "grace_ms": str(GRACE_MS)},
            **{"still_degrees": "0.001", "minimum_events": "3", "ahead_ms": str(AHEAD_MS)},
        }
        for path in migration_files(ROOT / "ksql" / "heart_rate", repartition):
            self.run(render(path.read_text(encoding="utf-8"), variables), properties)

    def cpu_seconds(self) -> float:
        """Return the CPU time that the process has used."""
        times = self.usage.cpu_times()
        return float(times.user + times.system)

    def stop(self) -> None:
        """Stop the process."""
        self._process.send_signal(signal.SIGTERM)
        self._process.wait(60)


@dataclass(frozen=True)
class Drained:
    """A drain through the query: from its creation on, its steady part, and memory (bytes) at a quarter, half and the end."""

    whole: Measured
    steady: Measured
    memory: tuple[int, int, int]


@dataclass(frozen=True)
class Mark:
    """How far the engine was: wall clock and CPU seconds, events processed, resident memory (bytes)."""

    wall: float
    cpu: float
    seen: int
    memory: int


def _marks(process: EngineProcess, topics: Topics, stages: int) -> Iterator[Mark]:
    """Yield marks until each stage of the query has processed each event."""
    seen = 0
    while seen < topics.events:
        time.sleep(0.1)
        description = process.run(f"DESCRIBE {topics.topic('realtime')} EXTENDED;", {})[0]["sourceDescription"]
        counted = {one["name"]: one["value"] for one in description["clusterStatistics"]}
        seen = int(counted.get("consumer-total-messages", 0)) // stages
        if seen:
            yield Mark(time.perf_counter(), process.cpu_seconds(), seen, process.usage.memory_info().rss)


def engine(topics: Topics, guarantee: str, *, repartition: bool = False) -> Drained:
    """Drain the topic through the query; where it repartitions, until both of its stages have processed each event."""
    properties = {"auto.offset.reset": "earliest", "processing.guarantee": guarantee}
    with tempfile.TemporaryDirectory() as folder:
        process = EngineProcess(topics.settings, Path(folder))
        try:
            begun, cpu = time.perf_counter(), process.cpu_seconds()
            process.create_query(topics, properties, repartition=repartition)
            marks = list(_marks(process, topics, 2 if repartition else 1))
        finally:
            process.stop()
    first, last = marks[0], marks[-1]
    rest = topics.events - first.seen
    name = f"engine, {'repartitioned' if repartition else guarantee}"
    quarter, half = (next(mark for mark in marks if mark.seen >= topics.events * part) for part in (0.25, 0.5))
    return Drained(
        Measured(name, topics.events / (last.wall - begun), (last.cpu - cpu) / topics.events * 1e6),
        Measured(f"{name}, steady", rest / (last.wall - first.wall), (last.cpu - first.cpu) / rest * 1e6),
        (quarter.memory, half.memory, last.memory),
    )


@dataclass(frozen=True)
class Compared:
    """The engine and two bare consumers on one topic."""

    users: int
    events: int
    bare: Measured
    batches: Measured
    drained: Drained

    def lines(self) -> list[str]:
        """Return the report of one run."""
        steady = self.drained.steady
        return [
            *map(str, (self.bare, self.batches, self.drained.whole, steady)),
            f"steady rate / bare consume: {steady.rate / self.bare.rate:.2f};"
            f" / bare batch consumer: {steady.rate / self.batches.rate:.2f}",
            f"steady CPU / bare consume: {steady.cpu / self.bare.cpu:.2f}; memory {self._memory()} MiB",
        ]

    def row(self) -> str:
        """Return one line of the table of growth."""
        whole, steady = self.drained.whole, self.drained.steady
        ratio = steady.rate / self.bare.rate
        return (
            f"{self.events:>11,} {self.users:>10,} {whole.rate:>12,.0f} {ratio:>13.2f} {whole.cpu:>10.2f} {steady.cpu:>10.2f}"
            f"   {self._memory()}"
        )

    def _memory(self) -> str:
        return " / ".join(f"{memory / 2**20:,.0f}" for memory in self.drained.memory)


_HEADING = (
    f"{'events':>11} {'users':>10} {'events/s':>12} {'steady/bare':>13} {'CPU s/M':>10} {'steady':>10}"
    "   MiB at a quarter / half / all of the events"
)


def compare(settings: Settings, events: int, users: int, per_second: int, guarantee: str) -> Compared:
    """Fill topics, drain them in the three ways, and delete them."""
    topics = Topics(settings, users)
    try:
        topics.fill(events, per_second)
        return Compared(users, events, bare_consume(topics), bare_batches(topics), engine(topics, guarantee))
    finally:
        topics.delete()


def compare_repartition(
    settings: Settings, events: int, users: int, per_second: int, guarantee: str, turns: int
) -> Iterator[str]:
    """Drain one topic as it is and repartitioned, in turns; yield each line, and the ratios of the medians."""
    topics = Topics(settings, users)
    found: dict[bool, list[Drained]] = {False: [], True: []}
    try:
        topics.fill(events, per_second)
        for repartition in [False, True] * turns:
            drained = engine(topics, guarantee, repartition=repartition)
            found[repartition].append(drained)
            yield f"{drained.whole}   {drained.memory[-1] / 2**20:,.0f} MiB"
    finally:
        topics.delete()
    plain, moved = (
        [median(value(drained) for drained in found[repartition]) for value in _COMPARED]
        for repartition in (False, True)
    )
    rate, cpu, memory = (after / before for before, after in zip(plain, moved, strict=True))
    yield f"repartitioned / as it is: rate {rate:.2f}, CPU {cpu:.2f}, memory {memory:.2f} (medians of {turns})"


_COMPARED: tuple[Callable[[Drained], float], ...] = (
    lambda drained: drained.whole.rate,
    lambda drained: drained.whole.cpu,
    lambda drained: drained.memory[-1],
)


def main() -> None:
    """Run and print the report."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--events", type=int, nargs="+", default=[3_000_000])
    parser.add_argument("--users", type=int, nargs="+", default=[20_000])
    parser.add_argument("--per-second", type=int, default=100_000, help="events a second of event time")
    parser.add_argument("--guarantee", default="exactly_once_v2", choices=["exactly_once_v2", "at_least_once"])
    parser.add_argument("--repartition", action="store_true", help="compare the query with one that repartitions")
    parser.add_argument("--turns", type=int, default=3, help="how often each of both is measured with --repartition")
    options = parser.parse_args()
    pairs, settings = [(events, users) for users in options.users for events in options.events], load_settings()
    if options.repartition:
        for events, users in pairs:
            given = (settings, events, users, options.per_second, options.guarantee, options.turns)
            for line in compare_repartition(*given):
                print(line, flush=True)
        return
    if len(pairs) > 1:
        print(_HEADING)
    for events, users in pairs:
        compared = compare(settings, events, users, options.per_second, options.guarantee)
        print("\n".join(compared.lines() if len(pairs) == 1 else [compared.row()]), flush=True)


if __name__ == "__main__":
    main()
