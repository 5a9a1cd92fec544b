"""How long the heart-rate query takes from the event that closes a window to the alert, at a steady rate.

Run against a platform that is up (`heartwatch up --parts kafka,registry`):

    python -m benchmarks.engine_latency --rate 20000 --seconds 60

The topics of this benchmark are stamped by the broker (`message.timestamp.type=LogAppendTime`), the query takes its time from the
event. So the *append* latency, from the append of the first event in the partition that closes the window to the append of the
alert, is the difference of two times of one clock. What a read_committed reader waits for, the transaction's end included, is
measured at that reader: *visible*.
"""

from __future__ import annotations

import argparse
import tempfile
import threading
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from confluent_kafka import Consumer, Message, TopicPartition

from benchmarks.engine_throughput import GRACE_MS, PARTITIONS, WINDOW_MS, EngineProcess, Topics
from heartwatch.settings import ROOT, load_settings
from kafkakit import avro_codec
from kafkakit.admin import consumer_config

_WARM_UP_SECONDS = 15
_STEP_SECONDS = 0.01
_APPENDED = {"message.timestamp.type": "LogAppendTime"}
_PERCENTILES = (50, 90, 99, 100)


@dataclass(frozen=True)
class Record:
    """A record: when the broker appended it and when the reader had it, ms since the epoch."""

    partition: int
    key: bytes
    value: bytes | None
    appended_ms: int
    seen_ms: float


class Reader:
    """Reads a topic from its beginning and notes when each record came."""

    def __init__(self, topics: Topics, resource: str) -> None:
        config = consumer_config(topics.settings.kafka, f"{topics.name}-{resource}") | {"fetch.wait.max.ms": 10}
        self._consumer = Consumer(config | {"enable.partition.eof": True})
        name = topics.topic(resource)
        self._consumer.assign([TopicPartition(name, partition, 0) for partition in range(PARTITIONS)])
        self.messages: list[tuple[Message, float]] = []
        self._ended: set[int] = set()

    def take(self) -> None:
        """Read what is there."""
        for message in self._consumer.consume(5_000, 0.02):
            if message.error() is None:
                self.messages.append((message, time.time() * 1000))
            elif (partition := message.partition()) is not None:
                self._ended.add(partition)

    def take_all(self) -> None:
        """Read to the end of every partition."""
        while len(self._ended) < PARTITIONS:
            self.take()

    def records(self) -> list[Record]:
        """Return what was read."""
        return [
            Record(message.partition() or 0, message.key() or b"", message.value(), message.timestamp()[1], seen)
            for message, seen in self.messages
        ]


def closing_appends(reader: Reader) -> dict[int, tuple[npt.NDArray[Any], npt.NDArray[Any]]]:
    """Return by partition the highest event time so far and the append time of each event, both in ms."""
    schema = avro_codec.parse((ROOT / "schemas" / "heart_rate" / "realtime.avsc").read_text(encoding="utf-8"))
    decoder = avro_codec.Decoder(schema, lambda _: schema)
    records, found = reader.records(), {}
    for partition in range(PARTITIONS):
        of_partition = [record for record in records if record.partition == partition]
        decoded = decoder.decode([record.value for record in of_partition])
        assert not decoded.rejects
        times = decoded.batch.column("event_time").cast("int64").to_numpy()
        found[partition] = np.maximum.accumulate(times), np.array([record.appended_ms for record in of_partition])
    return found


def latencies(events: Reader, alerts: Reader, since_ms: float) -> tuple[list[float], list[float]]:
    """Return append and visible latencies (ms) of the alerts whose window began after the warm-up."""
    closed = closing_appends(events)
    appended, visible = [], []
    for record in alerts.records():
        window_start = int.from_bytes(record.key[-8:], "big")
        times, moments = closed[record.partition]
        position = int(np.searchsorted(times, window_start + WINDOW_MS + GRACE_MS))
        if window_start < since_ms or position == len(times):
            continue
        appended.append(record.appended_ms - moments[position])
        visible.append(record.seen_ms - moments[position])
    return appended, visible


def run(topics: Topics, rate: int, seconds: float) -> tuple[list[float], list[float]]:
    """Send events at a steady rate through the query and return its latencies."""
    alerts, ended = Reader(topics, "alerts"), threading.Event()

    def watch() -> None:
        while not ended.is_set():
            alerts.take()

    watching = threading.Thread(target=watch)
    with tempfile.TemporaryDirectory() as folder:
        process = EngineProcess(topics.settings, Path(folder))
        process.create_query(topics, {"auto.offset.reset": "earliest"})
        watching.start()
        began = time.time()
        step = round(rate * _STEP_SECONDS)
        while time.time() - began < seconds:
            topics.send(np.full(step, int(time.time() * 1000)))
            time.sleep(max(0.0, began + topics.events / rate - time.time()))
        topics.flush()
        time.sleep(2)
        ended.set()
        watching.join()
        process.stop()
    events = Reader(topics, "realtime")
    events.take_all()
    return latencies(events, alerts, (began + _WARM_UP_SECONDS) * 1000)


def main() -> None:
    """Run and print the report."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rate", type=int, default=20_000, help="events/s")
    parser.add_argument("--seconds", type=float, default=60)
    parser.add_argument("--users", type=int, default=20_000)
    options = parser.parse_args()
    topics = Topics(load_settings(), options.users, _APPENDED)
    appended, visible = run(topics, options.rate, options.seconds)
    print(f"{topics.events / options.seconds:,.0f} events/s sent, {len(appended):,} alerts timed")
    for name, values in (
        ("closing event's append to alert's append", appended),
        ("… to a read_committed reader", visible),
    ):
        figures = ", ".join(f"p{share} {np.percentile(values, share):,.0f}" for share in _PERCENTILES)
        print(f"{name:<42} {figures} ms")
    topics.delete()


if __name__ == "__main__":
    main()
