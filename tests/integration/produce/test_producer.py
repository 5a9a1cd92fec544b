"""Producers against a real broker: killed, fenced, stopped, and with the broker killed under them; each event arrives once."""

from __future__ import annotations

import itertools
import os
import random
import signal
import subprocess
import sys
import threading
import time
from collections import Counter
from datetime import datetime, timedelta
from pathlib import Path

import pyarrow as pa
import pytest
import shard_process
from shard_process import BATCH_EVENTS, PARTITIONS, SCHEMA, Numbers

from heartwatch.files.rejects import RejectFile
from heartwatch.platform.platform import Platform
from heartwatch.produce.messages import Encoder, Events
from heartwatch.produce.pacing import Pacer
from heartwatch.produce.refusals import Refusals
from heartwatch.produce.run import ShardOutcome, run_shard
from heartwatch.produce.sender import FencedError, ShardProgress, ShardSender, forget_progress, read_progress
from heartwatch.produce.shards import Shard
from heartwatch.settings import load_settings
from heartwatch.verify.batch import decode_topic
from kafkakit.admin import KafkaAdmin, OffsetReader, TopicState
from kafkakit.avro_codec import Decoder
from kafkakit.settings import KafkaSettings
from kafkakit.topic_reader import committed_ranges, newest_event_ms, read_ranges, wait_until_committed

pytestmark = pytest.mark.parts("kafka")

SHARD = Shard(0, 1, tuple(range(PARTITIONS)))
ENCODER = Encoder(SCHEMA, 1, "device", "at", PARTITIONS, SHARD.partitions)
NUMBERS = itertools.count()


@pytest.fixture
def kafka(platform: Platform) -> KafkaSettings:
    return load_settings().kafka


@pytest.fixture
def topic(kafka: KafkaSettings) -> str:
    name = f"numbers-{next(NUMBERS)}"
    # The events are years old: a broker with the usual retention would delete them.
    KafkaAdmin(kafka).create([TopicState(name, PARTITIONS, 1, {"retention.ms": "-1"})])
    return name


def arrived(kafka: KafkaSettings, topic: str) -> Counter[int]:
    assert wait_until_committed(KafkaAdmin(kafka), topic, 30)
    parts = read_ranges(kafka, topic, committed_ranges(KafkaAdmin(kafka), topic))
    decoded = decode_topic(parts, Decoder(SCHEMA, lambda _: SCHEMA))
    assert not decoded.rejects
    return Counter(decoded.table.column("number").to_pylist())


def each_once(batches: int) -> Counter[int]:
    return Counter(range(batches * BATCH_EVENTS))


def send(
    sender: ShardSender, batches: int, pacer: Pacer | None = None, stop: threading.Event | None = None
) -> ShardOutcome:
    should_stop = stop.is_set if stop is not None else lambda: False
    return run_shard(Numbers(batches), ENCODER, sender, pacer or Pacer(), should_stop, lambda _: None)


def start_process(kafka: KafkaSettings, topic: str, batches: int, rate: float) -> subprocess.Popen[str]:
    arguments = [kafka.bootstrap_servers, topic, "killed", str(batches), str(rate)]
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONDONTWRITEBYTECODE"}
    return subprocess.Popen(
        [sys.executable, shard_process.__file__, *arguments],
        stdout=subprocess.PIPE,
        text=True,
        env=environment,
        cwd=Path(__file__).parent,
    )


def test_everything_arrives_once_in_order_of_event_time(kafka: KafkaSettings, topic: str) -> None:
    with ShardSender(kafka, topic, "plain", SHARD) as sender:
        outcome = send(sender, 20)
    assert outcome.progress.delivered == 20 * BATCH_EVENTS
    assert (outcome.progress.failed, outcome.progress.finished, outcome.stopped) == (0, True, False)
    assert arrived(kafka, topic) == each_once(20)
    for records in read_ranges(kafka, topic, committed_ranges(KafkaAdmin(kafka), topic)):
        for partition in range(PARTITIONS):
            times = records.timestamp[records.partition == partition]
            assert (times[1:] >= times[:-1]).all()
    assert newest_event_ms(kafka, KafkaAdmin(kafka), topic) == shard_process.START + 20 * BATCH_EVENTS - 1


class WithBadRows:
    """Numbered events, some of them larger than the topic takes, and some too far ahead for its brokers."""

    def batch(self, index: int) -> Events | None:
        events = Numbers(3).batch(index)
        if events is None:
            return None
        frame = events.columns.to_pydict()
        for place in (7, 8, 300):
            frame["device"][place] = "x" * 3_000
        for place in (20, 400):
            frame["at"][place] = datetime.now() + timedelta(days=9)
        return Events(pa.record_batch(frame, schema=events.columns.schema))


def test_a_row_that_can_not_be_sent_is_rejected_and_all_others_arrive_once(
    kafka: KafkaSettings, tmp_path: Path
) -> None:
    topic = f"numbers-{next(NUMBERS)}"
    settings = {"retention.ms": "-1", "max.message.bytes": "2000", "message.timestamp.after.max.ms": "3600000"}
    KafkaAdmin(kafka).create([TopicState(topic, PARTITIONS, 1, settings)])
    with (
        RejectFile(tmp_path / "unsent.jsonl", keep=True) as rejects,
        ShardSender(kafka, topic, "bad-rows", SHARD, rejects=rejects) as sender,
    ):
        outcome = run_shard(WithBadRows(), ENCODER, sender, Pacer(), lambda: False, lambda _: None)
    bad = {batch * BATCH_EVENTS + place for batch in range(3) for place in (7, 8, 20, 300, 400)}
    assert arrived(kafka, topic) == Counter(set(range(3 * BATCH_EVENTS)) - bad)
    assert (outcome.progress.delivered, outcome.progress.rejected) == (3 * BATCH_EVENTS - 15, 15)
    assert outcome.progress.finished
    assert rejects.reasons["larger than the topic takes"] == 9
    assert rejects.count == 15
    with ShardSender(kafka, topic, "bad-rows", SHARD) as sender:
        assert sender.progress == outcome.progress


def test_what_brokers_refuse_by_surprise_is_found_in_batches_of_one_row(
    kafka: KafkaSettings, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    topic = f"numbers-{next(NUMBERS)}"
    settings = {"retention.ms": "-1", "message.timestamp.after.max.ms": "3600000"}
    KafkaAdmin(kafka).create([TopicState(topic, PARTITIONS, 1, settings)])
    # As if the brokers' clock were behind ours.
    monkeypatch.setattr(Refusals, "fitting", lambda self, messages, now_ms: messages)
    with (
        RejectFile(tmp_path / "unsent.jsonl", keep=True) as rejects,
        ShardSender(kafka, topic, "surprise", SHARD, rejects=rejects) as sender,
    ):
        outcome = run_shard(WithBadRows(), ENCODER, sender, Pacer(), lambda: False, lambda _: None)
    bad = {batch * BATCH_EVENTS + place for batch in range(3) for place in (20, 400)}
    assert arrived(kafka, topic) == Counter(set(range(3 * BATCH_EVENTS)) - bad)
    assert (outcome.progress.rejected, outcome.progress.finished) == (6, True)
    assert rejects.reasons == {"refused by the brokers: INVALID_TIMESTAMP": 6}


def test_progress_is_read_and_forgotten(kafka: KafkaSettings, topic: str) -> None:
    admin, offsets = KafkaAdmin(kafka), OffsetReader(kafka)
    assert read_progress(offsets, topic, "looked-at", SHARD) is None
    with ShardSender(kafka, topic, "looked-at", SHARD) as sender:
        reached = send(sender, 3).progress
    assert read_progress(offsets, topic, "looked-at", SHARD) == reached
    forget_progress(admin, "looked-at", [SHARD])
    assert read_progress(offsets, topic, "looked-at", SHARD) is None


def test_a_finished_shard_sends_nothing_more(kafka: KafkaSettings, topic: str) -> None:
    for _ in range(2):
        with ShardSender(kafka, topic, "again", SHARD) as sender:
            assert send(sender, 4).progress.delivered == 4 * BATCH_EVENTS
    assert arrived(kafka, topic) == each_once(4)


def test_a_killed_process_is_gone_on_with(kafka: KafkaSettings, topic: str) -> None:
    """kill -9 at random moments, until the shard is through."""
    moments = random.Random(7)
    batches, kills = 120, 0
    while True:
        process = start_process(kafka, topic, batches, 15_000)
        assert process.stdout is not None
        assert process.stdout.readline() == "started\n"
        if kills < 4:
            for _ in range(moments.randrange(1, 6)):
                process.stdout.readline()
            time.sleep(moments.uniform(0, 0.05))
            process.send_signal(signal.SIGKILL)
            process.communicate()
            kills += 1
        else:
            process.communicate(timeout=60)
            break
    assert process.returncode == 0
    assert arrived(kafka, topic) == each_once(batches)


def test_a_newer_process_fences_the_older(kafka: KafkaSettings, topic: str) -> None:
    with ShardSender(kafka, topic, "fenced", SHARD) as old:
        messages = [ENCODER.encode(events) for index in range(3) if (events := Numbers(3).batch(index))]
        old.send(messages[0])
        old.commit(1)
        old.send(messages[1])
        with ShardSender(kafka, topic, "fenced", SHARD) as new:
            assert new.progress.next_batch == 1
            with pytest.raises(FencedError, match="newer process"):
                old.commit(2)
            assert send(new, 3).progress.delivered == 3 * BATCH_EVENTS
    assert arrived(kafka, topic) == each_once(3)


def test_a_stop_commits_what_was_sent_within_five_seconds(kafka: KafkaSettings, topic: str) -> None:
    stop = threading.Event()
    with ShardSender(kafka, topic, "stopped", SHARD) as sender:
        threading.Timer(1.0, stop.set).start()
        began = time.monotonic()
        outcome = send(sender, 10_000, Pacer(events_per_second=2_000), stop)
        assert time.monotonic() - began < 6
    assert outcome.stopped
    assert not outcome.progress.finished
    assert arrived(kafka, topic) == each_once(outcome.progress.next_batch)
    with ShardSender(kafka, topic, "stopped", SHARD) as sender:
        assert send(sender, outcome.progress.next_batch + 2).delivered == 2 * BATCH_EVENTS


def test_a_slow_shard_gives_signs_of_life(kafka: KafkaSettings, topic: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("heartwatch.produce.run.BEAT_SECONDS", 0.3)
    seen: list[ShardProgress] = []
    with ShardSender(kafka, topic, "slow", SHARD) as sender:
        pacer = Pacer(events_per_second=BATCH_EVENTS / 1.5)
        run_shard(Numbers(2), ENCODER, sender, pacer, lambda: False, seen.append)
    between = [progress for progress in seen if progress.next_batch == 1]
    assert len({progress.at_ms for progress in between}) >= 3
    assert arrived(kafka, topic) == each_once(2)


def test_a_broker_killed_under_way_costs_nothing(platform: Platform, kafka: KafkaSettings, topic: str) -> None:
    with ShardSender(kafka, topic, "broker", SHARD) as sender:
        threading.Timer(1.0, lambda: platform.kill("kafka-1")).start()
        outcome = send(sender, 60, Pacer(events_per_second=8_000))
    assert outcome.progress.delivered == 60 * BATCH_EVENTS
    assert arrived(kafka, topic) == each_once(60)
