"""Waiting until a condition holds, by a clock of the test's own."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import pytest

from kafkakit.waiting import Patience, wait_until


class Clock:
    """Time that passes only while somebody waits."""

    def __init__(self) -> None:
        self.now = 100.0

    def __call__(self) -> float:
        return self.now

    def pause(self, seconds: float) -> None:
        self.now += seconds


@pytest.fixture
def clock() -> Clock:
    return Clock()


def answers(*given: object) -> Callable[[], object]:
    left: Iterator[object] = iter(given)
    return lambda: next(left)


def test_what_the_condition_gives_is_returned(clock: Clock) -> None:
    found = wait_until(answers(None, 0, "", "there"), 10, 0.5, RuntimeError, clock=clock, pause=clock.pause)
    assert found == "there"
    assert clock.now == pytest.approx(101.5)


def test_a_condition_that_holds_is_not_waited_for(clock: Clock) -> None:
    assert wait_until(lambda: True, 0, 0.5, RuntimeError, clock=clock, pause=clock.pause)
    assert clock.now == 100


def test_the_error_is_made_when_the_time_is_over(clock: Clock) -> None:
    asked = []

    def never() -> bool:
        asked.append(clock.now)
        return False

    with pytest.raises(RuntimeError, match=r"not there after 9 questions"):
        wait_until(
            never,
            2,
            0.25,
            lambda: RuntimeError(f"not there after {len(asked) - 1} questions"),
            clock=clock,
            pause=clock.pause,
        )
    # The last question comes after the deadline: an answer in time is never missed because of a long pause.
    assert asked[0] == 100
    assert asked[-1] == pytest.approx(102.25)


def test_without_an_error_the_last_answer_is_returned(clock: Clock) -> None:
    assert wait_until(lambda: 0, 1, 0.5, clock=clock, pause=clock.pause) == 0
    assert clock.now > 101


def test_what_the_condition_raises_comes_out(clock: Clock) -> None:
    def broken() -> bool:
        raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        wait_until(broken, 10, 0.5, RuntimeError, clock=clock, pause=clock.pause)
    assert clock.now == 100


def test_a_deadline_begins_anew_only_where_less_is_missing_than_ever(clock: Clock) -> None:
    patience, left = Patience(10, clock), []
    for missing in (7, 7, 5, 8, 5, 4, 4, 4):
        left.append(patience.left(missing))
        clock.pause(4)
    assert left == [10, 6, 10, 6, 2, 10, 6, 2]
    assert patience.left(4) < 0
