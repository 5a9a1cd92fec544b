"""Batches are due by rate, by event time, or at once; a stop ends the wait."""

import pytest

from heartwatch.produce.pacing import Pacer


class Clock:
    """Time that passes only when someone sleeps."""

    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        return self.now

    def sleep(self, seconds: float) -> None:
        self.now += seconds


def test_without_limits_nothing_waits() -> None:
    clock = Clock()
    pacer = Pacer(clock=clock, sleep=clock.sleep)
    for batch in range(5):
        assert pacer.wait(batch * 60_000, lambda: False)
        pacer.sent(1_000_000)
    assert clock.now == 0


def test_the_rate_is_held() -> None:
    clock = Clock()
    pacer = Pacer(events_per_second=500, clock=clock, sleep=clock.sleep)
    for _ in range(11):
        pacer.wait(0, lambda: False)
        pacer.sent(100)
    assert clock.now == pytest.approx(2.0)


def test_event_time_passes_at_the_given_speed() -> None:
    clock = Clock()
    pacer = Pacer(speed=2, clock=clock, sleep=clock.sleep)
    moments = []
    for first_ms in (5_000, 6_000, 6_500, 15_000):
        pacer.wait(first_ms, lambda: False)
        moments.append(clock.now)
    assert moments == pytest.approx([0, 0.5, 0.75, 5])


def test_a_stop_ends_the_wait_within_a_slice() -> None:
    clock = Clock()
    pacer = Pacer(speed=1, clock=clock, sleep=clock.sleep)
    pacer.wait(0, lambda: False)
    assert not pacer.wait(3_600_000, lambda: clock.now > 1)
    assert clock.now < 1.5


@pytest.mark.parametrize(("name", "value"), [("events_per_second", 0), ("speed", -1)])
def test_limits_must_be_positive(name: str, value: float) -> None:
    with pytest.raises(ValueError, match=f"{name}={value}"):
        Pacer(**{name: value})


def test_a_wait_may_be_cut_short_for_a_sign_of_life() -> None:
    clock = Clock()
    pacer = Pacer(speed=1, clock=clock, sleep=clock.sleep)
    pacer.wait(0, lambda: False)
    waits = 1
    while not pacer.wait(12_000, lambda: False, at_most=5):
        waits += 1
    assert waits == 3
    assert clock.now == pytest.approx(12)


def test_a_batch_waits_until_all_of_it_has_happened() -> None:
    clock = Clock()
    pacer = Pacer(clock=clock, sleep=clock.sleep, waits=True, wall_clock=lambda: 1_000 + clock.now)
    assert pacer.wait(990_000, lambda: False, happened_ms=1_000_000)
    assert clock.now == 0
    assert not pacer.wait(990_000, lambda: False, at_most=3, happened_ms=1_005_000)
    assert pacer.wait(990_000, lambda: False, happened_ms=1_005_000)
    assert clock.now == pytest.approx(5.0)


def test_only_who_asks_for_it_waits() -> None:
    clock = Clock()
    assert Pacer(clock=clock, sleep=clock.sleep, wall_clock=lambda: 0).wait(0, lambda: False, happened_ms=10**15)
    assert clock.now == 0
