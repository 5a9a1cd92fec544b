"""The alerts are exactly those of an independent reference, whatever is killed on the way."""

from __future__ import annotations

import json
import random
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from typing import Any

import httpx
import pytest
from engine_events import GRACE_MS, START_MS, WINDOW_MS, Pipeline, malformed, migrations, read
from engine_process import EngineProcess, eventually

from heartwatch.platform.platform import Platform
from heartwatch.settings import Settings
from ksqlengine.internal_names import AHEAD

pytestmark = pytest.mark.parts("kafka", "registry")

Engines = Callable[[str], EngineProcess]
EARLIEST = {"auto.offset.reset": "earliest"}


@pytest.fixture
def pipeline(settings: Settings) -> Pipeline:
    return Pipeline(settings, f"t{time.time_ns()}")


def deploy(engine: EngineProcess, pipeline: Pipeline, properties: dict[str, str]) -> dict[str, Any]:
    """Run the migrations; returns what the engine says of the last statement."""
    for statements in migrations(pipeline.variables):
        answer = engine.run(statements, properties)
    return answer[-1]


def check_alerts(pipeline: Pipeline, seconds: float) -> dict[str, int]:
    pipeline.close()
    expected, counts = pipeline.reference()
    assert expected
    eventually(
        lambda: len(pipeline.alerts()) >= len(expected),
        seconds,
        lambda: f"{len(pipeline.alerts())} of {len(expected)} alerts",
    )
    time.sleep(3)  # anything that comes twice would come by now
    assert pipeline.alerts() == {key: [alert] for key, alert in expected.items()}
    return counts


def test_faulty_events_give_the_reference_answer_and_every_loss_is_counted(
    engines: Engines, pipeline: Pipeline
) -> None:
    engine = engines("one").start()
    pipeline.ranges({user: (52, 108) for user in range(1, 1_900)})
    pipeline.faulty_events(100_000, users=2_000, seed=1, per_second=2_000)
    deploy(engine, pipeline, EARLIEST)
    counts = check_alerts(pipeline, 180)
    assert min(counts.values()) > 50
    found = engine.statistics(pipeline.topic("realtime"))
    assert found["late-record-drop"] == counts["late"]
    assert found["failed-messages"] == counts["bad"]
    assert found["dropped-no-table-row"] == counts["without a row"]


@pytest.mark.parametrize(
    ("seed", "kills", "events"),
    [(1, 5, 300_000), pytest.param(2, 30, 1_500_000, marks=pytest.mark.chaos)],
    ids=["5_kills", "30_kills"],
)
def test_kill_9_under_load_loses_and_doubles_nothing(
    engines: Engines, pipeline: Pipeline, seed: int, kills: int, events: int
) -> None:
    engine = engines("one").start()
    pipeline.ranges({user: (52, 108) for user in range(1, 1_900)})
    deploy(engine, pipeline, EARLIEST)
    producing = threading.Thread(target=pipeline.faulty_events, args=(events, 2_000, seed, 8_000, 8_000))
    producing.start()
    chance = random.Random(seed)
    for _ in range(kills):
        time.sleep(chance.uniform(0.1, 6))
        engine.kill()
        engine.start()
    producing.join()
    check_alerts(pipeline, 300)


def test_a_killed_broker_loses_and_doubles_nothing(engines: Engines, pipeline: Pipeline, platform: Platform) -> None:
    engine = engines("one").start()
    pipeline.ranges({user: (52, 108) for user in range(1, 1_900)})
    deploy(engine, pipeline, EARLIEST)
    producing = threading.Thread(target=pipeline.faulty_events, args=(200_000, 2_000, 3, 8_000, 8_000))
    producing.start()
    for _ in range(2):
        time.sleep(5)
        platform.kill("kafka-1")
        platform.wait_for("kafka-1", lambda status: status.healthy)
    producing.join()
    check_alerts(pipeline, 240)


def test_engines_share_the_partitions_and_one_may_die(engines: Engines, pipeline: Pipeline) -> None:
    first, second = engines("one").start(), engines("two").start()
    pipeline.ranges({user: (52, 108) for user in range(1, 1_900)})
    deployed = deploy(first, pipeline, EARLIEST)
    second.run("SHOW QUERIES;", after=deployed["commandSequenceNumber"])
    producing = threading.Thread(target=pipeline.faulty_events, args=(250_000, 2_000, 4, 8_000, 8_000))
    producing.start()
    eventually(
        lambda: second.statistics(pipeline.topic("realtime")).get("consumer-total-messages", 0) > 1_000,
        60,
        lambda: f"the second one idles: {[one.statistics(pipeline.topic('realtime')) for one in (first, second)]}",
    )
    first.kill()
    producing.join()
    check_alerts(pipeline, 240)
    assert second.run("SHOW QUERIES;")[0]["queries"][0]["state"] == "RUNNING"


def test_the_last_windows_wait_for_later_events(engines: Engines, pipeline: Pipeline) -> None:
    engine = engines("one").start()
    pipeline.ranges({1: (52, 108)})
    for second in range(5):
        pipeline.send_event(1, START_MS + second * 1_000)
    pipeline.flush()
    deploy(engine, pipeline, EARLIEST)
    eventually(
        lambda: engine.statistics(pipeline.topic("realtime")).get("consumer-total-messages") == 5, 120, "no events"
    )
    time.sleep(4)
    assert pipeline.alerts() == {}
    check_alerts(pipeline, 180)


def test_a_window_that_was_closed_stays_closed_after_a_restart(engines: Engines, pipeline: Pipeline) -> None:
    engine = engines("one").start()
    pipeline.ranges({1: (52, 108)})
    deploy(engine, pipeline, EARLIEST)
    for second in range(5):
        pipeline.send_event(1, START_MS + second * 1_000)
    pipeline.close()
    eventually(lambda: len(pipeline.alerts()) == 1, 120, "the window didn't close")
    time.sleep(2)
    engine.kill()
    pipeline.send_event(1, START_MS + 6_000)
    pipeline.flush()
    engine.start()
    eventually(
        lambda: engine.statistics(pipeline.topic("realtime")).get("late-record-drop") == 1, 120, "the event isn't late"
    )
    assert [len(alerts) for alerts in pipeline.alerts().values()] == [1]


def test_a_restart_sees_the_table_as_it_was_for_events_read_again(engines: Engines, pipeline: Pipeline) -> None:
    engine = engines("one").start()
    pipeline.ranges({1: (52, 108)})
    deploy(engine, pipeline, EARLIEST)
    for second in range(5):
        pipeline.send_event(1, START_MS + second * 1_000)
    pipeline.flush()
    eventually(
        lambda: engine.statistics(pipeline.topic("realtime")).get("consumer-total-messages") == 5, 120, "no events"
    )
    time.sleep(2)
    engine.kill()
    pipeline.ranges({1: (10, 200)})
    pipeline.send("historical", "1", None)
    pipeline.ranges({2: (52, 108)})
    engine.start()
    # The user's row is gone: a new event of the user is dropped. The window's five events saw the first row.
    pipeline.send_event(1, START_MS + 6_000)
    for user in range(2, 40):
        pipeline.ranges({user: (52, 108)})
        pipeline.send_event(user, START_MS + WINDOW_MS + GRACE_MS)
    pipeline.flush()
    eventually(lambda: len(pipeline.alerts()) == 1, 120, lambda: f"{pipeline.alerts()}")
    ((alert,),) = pipeline.alerts().values()
    assert alert[0] == "1"
    assert alert[3] == 5
    assert alert[5:7] == (52, 108)


def test_table_changes_hold_for_later_events_and_tombstones_delete(engines: Engines, pipeline: Pipeline) -> None:
    engine = engines("one").start()
    deploy(engine, pipeline, EARLIEST)

    def say(user: int, start_ms: int) -> None:
        for second in range(3):
            pipeline.send_event(user, start_ms + second)
        pipeline.flush()

    window = 100 * WINDOW_MS
    say(1, START_MS)  # no row yet: dropped
    eventually(
        lambda: engine.statistics(pipeline.topic("realtime")).get("dropped-no-table-row") == 3, 120, "not dropped"
    )
    pipeline.ranges({1: (52, 108)})
    say(1, START_MS + window)  # right after the row: joined
    eventually(
        lambda: engine.statistics(pipeline.topic("realtime")).get("consumer-total-messages") == 6, 120, "not read"
    )
    pipeline.ranges({1: (10, 200)})
    say(1, START_MS + 2 * window)  # in range now: no alert
    eventually(
        lambda: engine.statistics(pipeline.topic("realtime")).get("consumer-total-messages") == 9, 120, "not read"
    )
    pipeline.send("historical", "1", None)
    pipeline.flush()
    say(1, START_MS + 3 * window)  # gone: dropped
    eventually(
        lambda: engine.statistics(pipeline.topic("realtime")).get("dropped-no-table-row") == 6, 120, "not dropped"
    )
    pipeline.close()
    eventually(lambda: len(pipeline.alerts()) >= 1, 120, "no alert")
    time.sleep(4)
    assert [key[1] for key in pipeline.alerts()] == [(START_MS + window) // WINDOW_MS * WINDOW_MS]


def test_each_poison_message_is_logged_and_its_neighbours_are_not_hurt(engines: Engines, pipeline: Pipeline) -> None:
    engine = engines("one").start()
    pipeline.ranges({1: (52, 108)})
    pipeline.send("historical", "1", b"\1poison")
    pipeline.flush()
    bad = malformed(pipeline.event(1, START_MS), pipeline.ids["realtime"])
    for number, value in enumerate(bad):
        pipeline.send_event(1, START_MS + number)
        pipeline.send("realtime", "1", value)
    pipeline.send("realtime", "1", pipeline.event(1, START_MS), START_MS)
    pipeline.flush()
    deploy(engine, pipeline, EARLIEST)
    check_alerts(pipeline, 180)
    ((alert,),) = pipeline.alerts().values()
    assert alert[3] == len(bad) + 1
    service = httpx.get(f"{engine.url}/info").json()["KsqlServerInfo"]["ksqlServiceId"]
    (entries,) = read(pipeline.settings, f"{service}ksql_processing_log").values()
    logged = [entry_of(message.value()) for message in entries]
    realtime = [one for one in logged if one["topic"] == pipeline.topic("realtime")]
    assert [one["offset"] for one in realtime] == [2 * number + 1 for number in range(len(bad))]
    assert all(one["errorMessage"] for one in realtime)
    assert [one["offset"] for one in logged if one["topic"] == pipeline.topic("historical")] == [1]
    engine.kill()
    engine.start()
    time.sleep(3)
    (again,) = read(pipeline.settings, f"{service}ksql_processing_log").values()
    assert len(again) == len(entries)


def entry_of(value: bytes) -> dict[str, object]:
    return json.loads(value)["message"]["deserializationError"]  # type: ignore[no-any-return]


def test_a_clock_that_is_ahead_is_rejected_and_makes_nobody_late(engines: Engines, pipeline: Pipeline) -> None:
    engine = engines("one").start()
    pipeline.ranges({1: (52, 108)})
    deploy(engine, pipeline, EARLIEST | {AHEAD: "5000"})
    # In 2080, by the same key, so that it is in the same partition.
    pipeline.send("realtime", "1", pipeline.event(1, 3_499_024_000_000), START_MS)
    for second in range(5):
        pipeline.send_event(1, START_MS + second * 1_000)
    pipeline.flush()
    check_alerts_are(pipeline, {("1", 5)})
    found = engine.statistics(pipeline.topic("realtime"))
    assert (found["failed-messages"], found.get("late-record-drop", 0)) == (1, 0)
    service = httpx.get(f"{engine.url}/info").json()["KsqlServerInfo"]["ksqlServiceId"]
    (entries,) = read(pipeline.settings, f"{service}ksql_processing_log").values()
    (entry,) = [entry_of(message.value()) for message in entries]
    assert "ahead of the record's own time" in str(entry["errorMessage"])
    # What is read again after a crash is judged as before.
    engine.kill()
    pipeline.send_event(1, START_MS + 100 * WINDOW_MS)
    pipeline.flush()
    engine.start()
    check_alerts_are(pipeline, {("1", 5)})


def check_alerts_are(pipeline: Pipeline, expected: set[tuple[str, int]]) -> None:
    """Close all windows, and wait until the alerts are these: user and number of events."""
    pipeline.close()

    def alerts() -> list[tuple[str, int]]:
        return [(alert[0], alert[3]) for found in pipeline.alerts().values() for alert in found]

    eventually(lambda: set(alerts()) == expected, 120, lambda: f"{alerts()}")
    time.sleep(3)
    assert sorted(alerts()) == sorted(expected)


def test_state_survives_a_restart_of_everything(engines: Engines, pipeline: Pipeline, platform: Platform) -> None:
    engine = engines("one").start()
    pipeline.ranges({1: (52, 108)})
    query = deploy(engine, pipeline, EARLIEST)["commandStatus"]["queryId"]
    engine.stop()
    platform.kill("kafka-1")
    with suppress(Exception):
        platform.wait_for("kafka-1", lambda status: status.healthy)
    for second in range(5):
        pipeline.send_event(1, START_MS + second * 1_000)
    pipeline.flush()
    engine.start()
    assert [item["id"] for item in engine.run("SHOW QUERIES;")[0]["queries"]] == [query]
    check_alerts(pipeline, 180)
