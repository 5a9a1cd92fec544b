"""heart-watch on the real platform: right for every seed, with any part killed, and for people who really ran."""

from __future__ import annotations

import json
import re
import signal
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import closing
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import polars as pl
import psutil
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from confluent_kafka import Producer
from prefect.client.orchestration import get_client
from prefect.client.schemas.filters import ArtifactFilter, ArtifactFilterKey
from prefect.client.schemas.sorting import ArtifactSort
from psycopg2 import sql
from pyiceberg.io.pyarrow import PyArrowFileIO
from schedules import wait_for

from flows.teardown_pipeline import teardown_pipeline
from flows.verify_detections import DetectionError, verify_detections
from heartwatch.analytic import Analytic
from heartwatch.heartbeats import are_heartbeats
from heartwatch.iceberg import file_properties
from heartwatch.platform.platform import Platform
from heartwatch.postgres import execute
from heartwatch.proof.topic import Request, prove
from heartwatch.settings import ROOT, Settings, load_settings
from heartwatch.verify.detections import DetectionVerifier
from heartwatch.verify.topics import PipelineTopics
from kafkakit import avro_codec
from kafkakit.admin import KafkaAdmin, KafkaClientError, producer_config
from kafkakit.partitioning import partitions_of
from kafkakit.registry import Registry
from kafkakit.topic_reader import newest_event_ms
from kafkakit.waiting import wait_until
from ksqlengine.client.rest_client import Ksqldb

pytestmark = pytest.mark.parts(
    "kafka", "registry", "postgres", "connect", "s3", "engine", "prefect", "workers", "heartbeat"
)

Watch = Callable[..., dict[str, Any]]
RECORDING = ROOT / ".cache" / "recordings" / "sweat" / "examples" / "data" / "4801048867.fit"


def assert_right(found: dict[str, Any], alerts: int = 1) -> None:
    """The alerts are those of the batch computation, and every record is in the sink once."""
    assert found["alerts"]["exact"], found["alerts"]["sentence"]
    assert found["alerts"]["alerts"] >= alerts
    assert found["sent"]["delivered"] > 0
    for sink in found["sinks"]:
        assert sink["proven"], sink["sentence"]


@pytest.mark.parametrize("seed", [1, 2])
def test_alerts_equal_the_batch_computation_and_the_truth(watch: Watch, seed: int) -> None:
    found = watch(people=3_000, events=160_000, seed=seed)
    assert_right(found)
    # So few people have some 35 windows that must alarm: one miss is 3 %. (Events that come too late are lost on purpose.)
    assert found["alerts"]["recall"] >= 0.9
    assert found["alerts"]["precision"] >= 0.9
    assert found["alerts"]["rejected"] > 0, "the simulator sends malformed records, somebody must have counted them"


def test_heartbeats_come_and_nobody_counts_them(watch: Watch) -> None:
    found = watch(people=3_000, events=20_000, seed=5)
    assert_right(found, alerts=0)
    settings = load_settings()
    analytic = Analytic.of(settings.pipeline)
    wait_for(lambda: heartbeats_of(settings) > 0, "a heartbeat for a partition that fell silent")
    sinks = prove(settings, analytic, analytic.stream, Request(deadline_seconds=60))
    assert sinks is not None
    assert sinks[0].proven, sinks[0].findings


def heartbeats_of(settings: Settings) -> int:
    """Return how many records of the realtime topic are heartbeats."""
    keys = PipelineTopics.of(settings).read("realtime").table["event_key"]
    return int(are_heartbeats(keys).sum())


def person(settings: Settings) -> dict[str, Any]:
    """Return somebody's own range."""
    names = ("user_id", "min_heart_rate", "max_heart_rate")
    table = sql.Identifier("public", settings.postgres.historical_table)
    columns = sql.SQL(", ").join(map(sql.Identifier, names))
    (row,) = execute(settings.postgres, sql.SQL("SELECT {} FROM {} ORDER BY 1 DESC LIMIT 1").format(columns, table))
    return dict(zip(names, row, strict=True))


def shown(time_ms: int) -> str:
    return f"{datetime.fromtimestamp(time_ms / 1000, UTC):%Y-%m-%d %H:%M:%S}"


def send(settings: Settings, analytic: Analytic, resource: str, rows: Sequence[Mapping[str, Any]]) -> None:
    """Send rows by hand into the partition of the first one's key."""
    topic, definition = analytic.topic(resource), analytic.topics[resource]
    text = analytic.schema_text(resource)
    schema, registered = avro_codec.parse(text), Registry(settings.registry).register(f"{topic}-value", text)
    values = avro_codec.encode(
        pa.RecordBatch.from_pylist(rows, schema=avro_codec.arrow_schema(schema)), schema, registered.schema_id
    )
    partitions = KafkaAdmin(settings.kafka).describe([topic])[topic].partitions
    (partition,) = partitions_of(pa.array([str(rows[0]["user_id"])]), partitions).tolist()
    producer = Producer(producer_config(settings.kafka))
    for row, value in zip(rows, values, strict=True):
        key = str(row["user_id"]).encode()
        moment = row[definition.event_time] if definition.event_time else round(time.time() * 1000)
        key += moment.to_bytes(8, "big") if definition.windowed_key else b""
        producer.produce(topic, value, key, partition, timestamp=moment)
    assert producer.flush(30) == 0


def differing() -> tuple[str, set[tuple[str, str]], pl.DataFrame]:
    """Verify the newest detections, which must fail; return the sentence, what the artifact lists and what the object holds."""
    with pytest.raises(DetectionError) as raised:
        verify_detections(deadline_seconds=2)
    with get_client(sync_client=True) as client:
        shown = {
            key: client.read_artifacts(
                artifact_filter=ArtifactFilter(key=ArtifactFilterKey(any_=[key])),
                sort=ArtifactSort.CREATED_DESC,
                limit=1,
            )[0].data
            for key in ("detections", "detections-differences", "detections-over-time")
        }
    assert "data:image/png" in str(shown["detections-over-time"])
    listed = {(row["difference"], row["window_start"]) for row in json.loads(str(shown["detections-differences"]))}
    (path,) = re.findall(r"s3://(\S+\.parquet)", str(shown["detections"]))
    files = PyArrowFileIO(file_properties(load_settings().s3)).fs_by_scheme("s3", load_settings().s3.bucket)
    return str(raised.value), listed, pl.DataFrame(pq.read_table(path, filesystem=files))


def test_an_alert_too_many_and_one_that_does_not_come_are_found(watch: Watch, monkeypatch: pytest.MonkeyPatch) -> None:
    settings = load_settings()
    analytic, admin = Analytic.of(settings.pipeline), KafkaAdmin(settings.kafka)
    realtime, alerts = analytic.topic("realtime"), analytic.topic("alerts")
    if not admin.describe([alerts]):
        watch(people=3_000, events=20_000, seed=3)
    verify_detections()
    assert verify_detections() is None, "nothing is new"
    own_range = person(settings)
    user, most = str(own_range["user_id"]), int(own_range["max_heart_rate"])
    newest = newest_event_ms(settings.kafka, admin, realtime)
    assert newest is not None
    begin = newest - newest % 10_000 + 10_000
    last = begin + 31_000
    # The brokers refuse what has not happened yet.
    wait_for(lambda: time.time() * 1000 > last, "the events' time")
    place = {"zipcode": 10_001, "latitude": 40.7, "longitude": -73.9}
    events = [
        {"user_id": user, "event_time": begin + after, "heart_rate": rate, **place}
        for after, rate in ((0, most + 40), (2_000, most + 40), (4_000, most + 40), (last - begin, most))
    ]
    never = {"user_id": user, "window_start": begin + 10_000, "window_end": begin + 20_000, "event_count": 3, **place}
    missing, extra = ("missing", shown(begin)), ("extra", shown(begin + 10_000))
    with closing(Ksqldb(settings.ksqldb)) as ksqldb:
        (query,) = [one.query_id for one in ksqldb.queries() if alerts in one.sink_topics]
        ksqldb.execute(f"PAUSE {query};")
        wait_for(lambda: {one.query_id: one.state for one in ksqldb.queries()}[query] == "PAUSED", "the query's pause")
        send(settings, analytic, "realtime", events)
        send(settings, analytic, "alerts", [never])
        sentence, listed, kept = differing()
        assert "1 missing, 1 extra" in sentence
        assert user not in re.findall(r"\d+", sentence), "who it is doesn't leave in a sentence"
        assert listed == {missing, extra}
        assert kept["difference"].to_list() == ["missing", "extra"]
        assert kept["user_id"].to_list() == [user, user]
        before = sum(admin.offsets([alerts], "latest", committed=True).values())
        ksqldb.execute(f"RESUME {query};")
    wait_for(lambda: sum(admin.offsets([alerts], "latest", committed=True).values()) > before, "the missing alert")
    sentence, listed, _ = differing()
    assert "1 extra" in sentence
    assert listed == {extra}

    compare = DetectionVerifier._await_results

    def compare_while_a_range_comes(*arguments: Any) -> Any:
        send(settings, analytic, "historical", [own_range])
        return compare(*arguments)

    monkeypatch.setattr(DetectionVerifier, "_await_results", compare_while_a_range_comes)
    assert verify_detections(deadline_seconds=2) is None, "which events met which range can't be told"


def events_sent() -> int:
    """Return the end of the realtime topic, all partitions together."""
    settings = load_settings()
    topic = Analytic.of(settings.pipeline).topic("realtime")
    try:
        return sum(KafkaAdmin(settings.kafka).offsets([topic], "latest").values())
    except KafkaClientError:
        return 0  # not there yet, or its leader isn't


def kill_with_children(platform: Platform, part: str) -> None:
    """Kill a part as a power cut would: with all that it had started."""
    pid = next(status.pid for status in platform.status() if status.name == part)
    assert pid is not None
    children = psutil.Process(pid).children(recursive=True)
    platform.kill(part, signal.SIGKILL)
    for child in children:
        if child.is_running():
            child.kill()


@pytest.mark.chaos
@pytest.mark.parametrize("part", ["engine", "connect", "kafka-1", "producers-1"])
def test_a_killed_part_loses_nothing_and_the_run_ends_well(watch: Watch, deployed: Platform, part: str) -> None:
    before, killed = events_sent(), threading.Event()

    def kill_while_events_come() -> None:
        wait_until(lambda: events_sent() >= before + 20_000, 240, 0.1)
        kill_with_children(deployed, part)
        killed.set()

    killer = threading.Thread(target=kill_while_events_come, daemon=True)
    killer.start()
    found = watch(people=5_000, events=500_000, seed=4, deadline_seconds=300)
    assert killed.is_set()
    assert_right(found)
    deployed.wait_for(part, lambda status: bool(status.healthy))


@pytest.fixture(scope="module")
def ranges(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Own ranges of ten people that a hard workout leaves far behind."""
    file = tmp_path_factory.mktemp("ranges") / "ranges.jsonl"
    rows = [{"user_id": user, "min_heart_rate": 45, "max_heart_rate": 100} for user in range(1, 11)]
    file.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return file


def test_who_really_moves_does_not_alarm_and_who_stays_does(watch: Watch, ranges: Path) -> None:
    assert RECORDING.exists(), "the recordings are missing: run 'make .cache/recordings/.installed'"
    workout = {"source": "recordings", "path": str(RECORDING), "people": 10, "ranges": str(ranges)}
    # On topics that hold earlier events the workout would begin behind these and take as long as it took: nothing is sent ahead.
    teardown_pipeline(iceberg_tables=True, dry_run=False)
    moving = watch(**workout)
    assert_right(moving, alerts=0)
    teardown_pipeline(iceberg_tables=True, dry_run=False)
    held = watch(**workout, hold_position=True)
    assert_right(held, alerts=10 * 15)
    assert moving["alerts"]["alerts"] < held["alerts"]["alerts"] / 20
