"""heart-watch on the real platform: right for every seed, with any part killed, and for people who really ran."""

from __future__ import annotations

import json
import signal
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import psutil
import pytest

from heartwatch.analytic import Analytic
from heartwatch.kafka import KafkaAdmin, KafkaClientError
from heartwatch.settings import ROOT, load_settings
from heartwatch.stack.platform import Platform

pytestmark = pytest.mark.parts("kafka", "registry", "postgres", "connect", "s3", "engine", "prefect", "workers")

Watch = Callable[..., dict[str, Any]]
RECORDING = ROOT / ".cache" / "recordings" / "sweat" / "examples" / "data" / "4801048867.fit"


def assert_right(found: dict[str, Any], alerts: int = 1) -> None:
    """The alerts are those of the batch computation, and every record is in the sink once."""
    assert found["alerts"]["exact"], found["alerts"]["sentence"]
    assert found["alerts"]["alerts"] >= alerts
    assert found["sent"]["delivered"] > 0
    for sink in found["sinks"]:
        assert sink["proven"], sink["sentence"]


@pytest.mark.parametrize("seed", [1, 2, 3])
def test_alerts_equal_the_batch_computation_and_the_truth(watch: Watch, seed: int) -> None:
    found = watch(people=3_000, events=160_000, seed=seed)
    assert_right(found)
    # So few people have some 35 windows that must alarm: one miss is 3 %. (Events that come too late are lost on purpose.)
    assert found["alerts"]["recall"] >= 0.9
    assert found["alerts"]["precision"] >= 0.9
    assert found["alerts"]["rejected"] > 0, "the simulator sends malformed records, somebody must have counted them"


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
        deadline = time.monotonic() + 240
        while time.monotonic() < deadline and events_sent() < before + 20_000:
            time.sleep(0.1)
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
    moving = watch(**workout)
    assert_right(moving, alerts=0)
    held = watch(**workout, hold_position=True)
    assert_right(held, alerts=10 * 15)
    assert moving["alerts"]["alerts"] < held["alerts"]["alerts"] / 20
