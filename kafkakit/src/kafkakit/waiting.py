"""Waiting for what others bring about: a topic that brokers create, a connector that starts, a process that ends."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import TypeVar, overload

Answer = TypeVar("Answer")


@overload
def wait_until(
    condition: Callable[[], Answer | None],
    deadline_seconds: float,
    poll_seconds: float,
    error: Callable[[], Exception],
    *,
    clock: Callable[[], float] = ...,
    pause: Callable[[float], object] = ...,
) -> Answer: ...


@overload
def wait_until(
    condition: Callable[[], Answer],
    deadline_seconds: float,
    poll_seconds: float,
    error: None = None,
    *,
    clock: Callable[[], float] = ...,
    pause: Callable[[float], object] = ...,
) -> Answer: ...


def wait_until(
    condition: Callable[[], Answer | None],
    deadline_seconds: float,
    poll_seconds: float,
    error: Callable[[], Exception] | None = None,
    *,
    clock: Callable[[], float] = time.monotonic,
    pause: Callable[[float], object] = time.sleep,
) -> Answer | None:
    """Ask for a condition again and again until it holds or the time is over; it is asked at least once.

    No library does this underneath. stamina, which sends failed requests again elsewhere in the project, repeats on exceptions
    only, with growing random pauses, and its switch for tests would cut deadlines short. tenacity can poll, but would be one more
    dependency of the lowest package and give an answer without a type, in place of a loop of five lines.

    Args:
        condition: what is waited for; anything that is true ends the wait. Its own exceptions come out.
        deadline_seconds: how long to go on asking; the answer that counts may have been asked for just before.
        poll_seconds: pause between two questions.
        error: makes what is raised when the time is over, so that its message can say what was found last; None to raise nothing.
        clock: seconds, monotonic.
        pause: waits for some seconds, or less where something else ends the wait.

    Returns:
        what the condition gave last: something true, or, without `error`, something false when the time was over.

    Raises:
        Exception: what `error` made.
    """
    deadline = clock() + deadline_seconds
    while not (answer := condition()):
        if clock() > deadline:
            if error is not None:
                raise error()
            break
        pause(poll_seconds)
    return answer


class Patience:
    """A deadline that begins anew at each sign of progress: what gets on slowly is waited for, what stands still is not."""

    def __init__(self, seconds: float, clock: Callable[[], float] = time.monotonic) -> None:
        """Begin to wait.

        Args:
            seconds: how long nothing may get better.
            clock: seconds, monotonic.
        """
        self._seconds, self._clock = seconds, clock
        self._deadline = clock() + seconds
        self._least: int | None = None

    def left(self, missing: int) -> float:
        """Return how many seconds are left; 0 or less when the time is over.

        Args:
            missing: how much isn't there yet. Less than ever before is progress; more and then less again is not, so that the
                wait ends.
        """
        now = self._clock()
        if self._least is None:
            self._least = missing
        elif missing < self._least:
            self._least, self._deadline = missing, now + self._seconds
        return self._deadline - now
