"""The supervisor keeps track of a part's process whatever happens while it restarts it; the part sleeps."""

from __future__ import annotations

import sys
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from heartwatch.platform import processes
from heartwatch.platform.services import Context, Part
from heartwatch.platform.state import PartState
from heartwatch.platform.supervisor import Supervisor


class Sleeper(Part):
    """Does nothing, and is well at once."""

    def __init__(self) -> None:
        super().__init__("sleeper", "sleeper")
        self.before: Callable[[], None] = lambda: None

    def prepare(self, context: Context) -> None:
        self.before()

    def command(self, context: Context) -> list[str]:
        return [sys.executable, "-c", "import time; time.sleep(600)"]

    def check(self, context: Context) -> None:
        """It is always well."""


@pytest.fixture
def supervisor(tmp_path: Path) -> Iterator[Supervisor]:
    supervisor = Supervisor(tmp_path, brokers=1, producers=1)
    supervisor._parts = {"sleeper": Sleeper()}
    supervisor._do("start", ["sleeper"])
    yield supervisor
    supervisor._do("stop", ["sleeper"])
    assert not processes.marked(tmp_path)


def die(supervisor: Supervisor) -> threading.Event:
    """Kill the part and let the supervisor notice it."""
    supervisor._processes["sleeper"].kill()
    supervisor._processes["sleeper"].wait()
    return supervisor._died()["sleeper"]


def test_a_restart_that_fails_in_any_way_is_tried_again(supervisor: Supervisor) -> None:
    def fail() -> None:
        raise OSError("the disk is full")

    part = supervisor._parts["sleeper"]
    assert isinstance(part, Sleeper)
    part.before = fail
    supervisor._revive("sleeper", die(supervisor))
    record = supervisor._state.parts["sleeper"]
    assert "disk is full" in record.error
    part.before = lambda: None
    supervisor._revive("sleeper", supervisor._died()["sleeper"])
    assert (record.state, record.restarts) == (PartState.RUNNING, 2)


def test_a_part_that_is_restarted_by_hand_while_it_is_revived_has_one_process(supervisor: Supervisor) -> None:
    reached, goes_on = threading.Event(), threading.Event()

    def wait() -> None:
        reached.set()
        goes_on.wait(20)

    part = supervisor._parts["sleeper"]
    assert isinstance(part, Sleeper)
    part.before = wait
    reviving = threading.Thread(target=supervisor._revive, args=("sleeper", die(supervisor)))
    reviving.start()
    assert reached.wait(20)
    part.before = lambda: None
    supervisor._do("restart", ["sleeper"])
    goes_on.set()
    reviving.join(20)
    record = supervisor._state.parts["sleeper"]
    assert record.process is not None
    assert [one.pid for one in processes.marked(supervisor.home)] == [record.process.pid]
    assert record.state is PartState.RUNNING
