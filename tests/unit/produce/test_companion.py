"""What a producer asks of whoever started it while it sends."""

from __future__ import annotations

import time

import pytest

from heartwatch.produce import companion
from heartwatch.produce.companion import Companion
from heartwatch.produce.sender import ShardProgress


class Control:
    """Keeps what is shown; can be away, and say stop."""

    def __init__(self) -> None:
        self.stop = self.away = False
        self.asked = 0
        self.nobody = ""
        self.shown: list[tuple[float, str]] = []

    def stop_requested(self) -> bool:
        self.asked += 1
        if self.away:
            raise OSError("no route")
        return self.stop

    def abandoned(self) -> str:
        return self.nobody

    def show(self, percent: float, text: str) -> None:
        self.shown.append((percent, text))

    def wait_for_more(self) -> None:
        before, deadline = self.asked, time.monotonic() + 10
        while self.asked < before + 2:
            assert time.monotonic() < deadline
            time.sleep(0.005)


@pytest.fixture
def control(monkeypatch: pytest.MonkeyPatch) -> Control:
    monkeypatch.setattr(companion, "_WATCH_SECONDS", 0.01)
    return Control()


def test_a_stop_reaches_the_sending_loop(control: Control) -> None:
    with Companion(3, control, pytest.fail) as beside:
        control.wait_for_more()
        assert not beside.should_stop()
        control.stop = True
        control.wait_for_more()
        assert beside.should_stop()


def test_the_last_thing_shown_is_the_end(control: Control) -> None:
    with Companion(3, control, pytest.fail) as beside:
        beside.report(ShardProgress(delivered=1_000))
        beside.report(ShardProgress(delivered=2_000, failed=5, finished=True))
    percent, text = control.shown[-1]
    assert percent == 100
    assert text.startswith("shard 3: ")
    assert text.endswith("2,000 delivered, 5 sent again")


def test_an_api_that_is_away_is_told_once_and_stops_nothing(control: Control) -> None:
    warnings: list[str] = []
    control.away = True
    with Companion(3, control, warnings.append) as beside:
        control.wait_for_more()
        control.wait_for_more()
        assert not beside.should_stop()
        control.away = False
        control.wait_for_more()
    assert warnings == ["Prefect's API can't be reached, the producer goes on: no route"]
    assert control.shown


def test_a_shard_that_nobody_wants_stops_and_knows_why(control: Control) -> None:
    with Companion(3, control, pytest.fail) as beside:
        control.wait_for_more()
        assert (beside.should_stop(), beside.abandoned) == (False, "")
        control.nobody = "the run that sent it out is CRASHED"
        control.wait_for_more()
        control.nobody = ""
        control.wait_for_more()
        assert (beside.should_stop(), beside.abandoned) == (True, "the run that sent it out is CRASHED")
