"""How the dispatcher looks after the producers' runs, with an orchestrator and brokers in memory."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from types import SimpleNamespace
from typing import Any
from uuid import UUID

import psutil
import pytest

from heartwatch.produce import dispatch
from heartwatch.produce.dispatch import Dispatcher, ProduceError, ShardRun, is_alive
from heartwatch.produce.reports import ProduceReport, ShardReport, shard_rows
from heartwatch.produce.sender import ShardProgress
from heartwatch.produce.shards import Shard, plan_shards
from heartwatch.produce.spec import RunSpec
from heartwatch.produce.supervision import Limits
from heartwatch.settings import Settings, load_settings
from kafkakit.admin import KafkaClientError

SPEC = RunSpec(run_id="run", partitions=4, processes=2)
LIMITS = Limits(scheduled=10, pending=10, silent=10, attempts=2)


class World:
    """An orchestrator, brokers and a clock; `script` says what happens in each second.

    Attributes:
        submitted: shard, attempt and queue of each run, in order; a run's id is its place, from 1.
        cancelled: by place, why.
        runs: what the orchestrator shows, by place.
        progress: what is committed, by shard.
        away: whether the brokers don't answer.
        mute: whether the orchestrator doesn't.
        visible: whether readers see all that was sent, or what the brokers say instead.
    """

    def __init__(self, script: Callable[[World, int], None]) -> None:
        self._script, self.second = script, 0
        self.submitted: list[tuple[int, int, str | None]] = []
        self.cancelled: dict[int, str] = {}
        self.runs: dict[int, ShardRun] = {}
        self.progress: dict[int, ShardProgress] = {}
        self.away = self.mute = False
        self.visible: bool | KafkaClientError = True
        self.forgotten: list[int] = []
        self.shown: list[int] = []
        self.warnings: list[str] = []
        self.taken_for_dead: set[int] = set()

    # The orchestrator
    def submit(self, spec: RunSpec, shard: Shard, attempt: int, queue: str | None) -> UUID:
        assert spec == SPEC
        self.submitted.append((shard.index, attempt, queue))
        place = len(self.submitted)
        self.runs[place] = ShardRun(f"run-{place}", "SCHEDULED", self.time(), final=False)
        return UUID(int=place)

    def states(self, run_ids: Sequence[UUID]) -> Mapping[UUID, ShardRun]:
        if self.mute:
            raise OSError("no route")
        return {run_id: self.runs[run_id.int] for run_id in run_ids if run_id.int in self.runs}

    def reclaim(self) -> str:
        return "no heartbeat came" if self.second in self.taken_for_dead else ""

    def cancel(self, run_id: UUID, reason: str) -> None:
        self.cancelled[run_id.int] = reason

    # The brokers
    def read_progress(self, _: Any, topic: str, run_id: str, shard: Shard) -> ShardProgress | None:
        if self.away:
            raise KafkaClientError("the brokers don't answer")
        assert (topic, run_id) == ("heart_rate_realtime_v1", "run")
        return self.progress.get(shard.index)

    def wait_until_committed(self, *_: Any) -> bool:
        if isinstance(self.visible, KafkaClientError):
            raise self.visible
        return self.visible

    def forget_progress(self, _: Any, run_id: str, shards: list[Shard]) -> None:
        self.forgotten = [shard.index for shard in shards]

    # The clock
    def time(self) -> float:
        return 1_000.0 + self.second

    monotonic = time

    def sleep(self, seconds: float) -> None:
        assert seconds == 1
        self.second += 1
        assert self.second < 1_000, "it never ends"
        self._script(self, self.second)

    def becomes(self, place: int, state: str, pid: str | None = None) -> None:
        final = state in ("COMPLETED", "FAILED", "CRASHED", "CANCELLED")
        self.runs[place] = replace(self.runs[place], state=state, entered_at=self.time(), final=final, pid=pid)

    def commits(self, shard: int, delivered: int, finished: bool = False) -> None:
        at_ms = int(self.time() * 1_000)
        self.progress[shard] = ShardProgress(1, delivered, failed=3, newest_ms=7, finished=finished, at_ms=at_ms)


@pytest.fixture
def run(monkeypatch: pytest.MonkeyPatch) -> Callable[..., list[ShardReport]]:
    """Return what runs the two shards of a run in a world."""

    def run(world: World, **settings: Any) -> list[ShardReport]:
        monkeypatch.setattr(dispatch, "time", world)
        monkeypatch.setattr(dispatch, "KafkaAdmin", lambda *_, **__: None)
        monkeypatch.setattr(dispatch, "OffsetReader", lambda _: None)
        monkeypatch.setattr(dispatch, "read_progress", world.read_progress)
        monkeypatch.setattr(dispatch, "forget_progress", world.forget_progress)
        monkeypatch.setattr(dispatch, "wait_until_committed", world.wait_until_committed)
        chosen: Settings = load_settings().model_copy(update={"profile": "docker", **settings})
        dispatcher = Dispatcher(chosen, SPEC, LIMITS, world, world.shown.append, world.warnings.append)
        return dispatcher.run(plan_shards(SPEC.partitions, SPEC.processes))

    return run


def ends_well(world: World, second: int) -> None:
    """Both shards run from the first second on, commit each second and are done in the fifth."""
    if second == 1:
        world.becomes(1, "RUNNING")
        world.becomes(2, "RUNNING")
    world.commits(0, 10 * second, finished=second == 5)
    world.commits(1, 20 * second, finished=second == 5)


def test_shards_that_end_well_are_sent_out_once(run: Any) -> None:
    world = World(ends_well)
    reports = run(world)
    assert world.submitted == [(0, 1, None), (1, 1, None)]
    assert [(report.shard, report.delivered, report.attempts) for report in reports] == [(0, 50, 1), (1, 100, 1)]
    assert {report.seconds for report in reports} == {5}
    assert world.shown == [30, 60, 90, 120, 150]
    assert (world.cancelled, world.warnings, world.forgotten) == ({}, [], [0, 1])


def test_a_run_that_was_taken_for_dead_says_that_it_lives_and_goes_on(run: Any) -> None:
    world = World(ends_well)
    world.taken_for_dead = {3}
    assert [report.delivered for report in run(world)] == [50, 100]
    assert len(world.submitted) == 2
    assert world.warnings == [
        "this run was marked as crashed while it was at work (no heartbeat came); it goes on, and takes its shards up again"
    ]


def test_a_shard_that_falls_silent_goes_to_the_next_machine(run: Any) -> None:
    def script(world: World, second: int) -> None:
        if second == 1:
            world.becomes(1, "RUNNING")
            world.becomes(2, "RUNNING")
        if second == 20:
            world.becomes(3, "RUNNING")
        world.commits(0, second, finished=second >= 15)
        if second <= 5 or second > 20:
            world.commits(1, second, finished=second == 22)

    world = World(script)
    producer = load_settings().producer.model_copy(update={"machines": ["one", "two"]})
    reports = run(world, producer=producer)
    assert world.submitted == [(0, 1, "one"), (1, 1, "two"), (1, 2, "one")]
    assert world.cancelled == {
        2: "sent out again: it has committed nothing for 11 s: its process is gone or hangs",
    }
    assert reports[1].attempts == 2
    assert [warning.partition(":")[0] for warning in world.warnings] == ["shard 1 is sent out again"]


def test_a_failed_run_is_not_ended_again(run: Any) -> None:
    def script(world: World, second: int) -> None:
        world.commits(0, second, finished=second >= 3)
        world.commits(1, second, finished=second >= 3)
        if second == 1:
            world.becomes(1, "FAILED")

    world = World(script)
    run(world)
    assert world.submitted[2:] == [(0, 2, None)]
    assert world.cancelled == {}


def test_a_shard_that_nobody_takes_fails_the_run_after_its_attempts(run: Any) -> None:
    world = World(lambda *_: None)
    with pytest.raises(
        ProduceError, match=r"shard 0 of run 'run' was sent out 2 times.*no worker took its run for 11 s"
    ):
        run(world)
    assert world.forgotten == [], "what was committed stays"


def test_a_cancelled_run_ends_everything(run: Any) -> None:
    world = World(lambda world, _: world.becomes(1, "CANCELLED"))
    with pytest.raises(ProduceError, match="its run is CANCELLED; start the run again"):
        run(world)


def test_an_orchestrator_or_brokers_that_are_away_say_nothing_of_the_producers(run: Any) -> None:
    def script(world: World, second: int) -> None:
        world.mute, world.away = 2 <= second < 30, 30 <= second < 60
        if second == 1:
            world.becomes(1, "RUNNING")
            world.becomes(2, "RUNNING")
        if second in (1, 60, 61):
            world.commits(0, second, finished=second == 61)
            world.commits(1, second, finished=second == 61)

    world = World(script)
    run(world)
    assert len(world.submitted) == 2
    assert {warning.partition(":")[0] for warning in world.warnings} <= {
        "Prefect's API can't be asked for the producers' states"
    }


def test_processes_are_looked_at_on_this_machine_only(run: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    def script(world: World, second: int) -> None:
        if second == 1:
            world.becomes(1, "RUNNING", pid="17")
            world.becomes(2, "RUNNING", pid="18")
        world.commits(0, second, finished=second >= 8)
        world.commits(1, second, finished=second >= 8)

    monkeypatch.setattr(dispatch, "is_alive", {"17": False, "18": True}.get)
    elsewhere, here = World(script), World(script)
    run(elsewhere)
    assert len(elsewhere.submitted) == 2
    run(here, profile="local")
    assert here.cancelled == {1: "sent out again: its process is gone while its run is RUNNING"}


@pytest.mark.parametrize(
    ("visible", "warning"),
    [
        (False, "after 90 s a transaction is still open on topic 'heart_rate_realtime_v1'"),
        (KafkaClientError("no answer"), "the topic's end can't be asked for: no answer"),
    ],
    ids=["open", "away"],
)
def test_what_readers_may_not_see_yet_is_reported(run: Any, visible: bool | KafkaClientError, warning: str) -> None:
    world = World(ends_well)
    world.visible = visible
    assert len(run(world)) == 2
    assert world.warnings == [warning]


def test_whether_a_process_is_alive_is_known_where_it_is_known(monkeypatch: pytest.MonkeyPatch) -> None:
    assert is_alive(None) is None
    assert is_alive("machine-7") is None
    assert is_alive(str(psutil.Process().pid)) is True
    monkeypatch.setattr(psutil, "Process", lambda _: SimpleNamespace(status=lambda: psutil.STATUS_ZOMBIE))
    assert is_alive("7") is False


def test_a_runs_report_adds_up_its_shards() -> None:
    progress = ShardProgress(4, delivered=100, failed=5, newest_ms=9, finished=True)
    shards = [
        ShardReport.of(Shard(0, 2, (0, 2)), progress, seconds=4),
        ShardReport.of(Shard(1, 2, (1, 3)), replace(progress, delivered=60), seconds=8, attempts=2),
    ]
    report = ProduceReport.of(SPEC, shards)
    assert (report.delivered, report.failed, report.seconds) == (160, 10, 8)
    assert [list(row.values()) for row in shard_rows(shards)] == [[0, 100, 5, 25, 1, True], [1, 60, 5, 8, 2, True]]
    shards[1] = shards[1].model_copy(update={"rejected": 3})
    assert ProduceReport.of(SPEC, shards).rejected == 3
    assert [row["rejected"] for row in shard_rows(shards)] == [0, 3]
