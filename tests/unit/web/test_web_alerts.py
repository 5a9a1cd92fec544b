"""Windows of alerts become episodes, a bounded number of them, newest first."""

from __future__ import annotations

import random

import pytest

from heartwatch.web.alerts import Alert, Episode, Episodes, State, Wanted, by_area, state_of

WINDOW = 10_000


def alert(subject: str, window: int, average: float = 150.0, area: str = "10001") -> Alert:
    return Alert(subject, area, 40.7, -74.0, window * WINDOW, (window + 1) * WINDOW, average, 50.0, 110.0)


def collected(alerts: list[Alert], most: int = 100) -> tuple[Episode, ...]:
    episodes = Episodes(most)
    episodes.add(alerts)
    return episodes.newest_first()


def test_windows_that_follow_on_each_other_are_one_episode() -> None:
    (one,) = collected([alert("a", 1, 120), alert("a", 2, 160), alert("a", 3, 130)])
    assert (one.since_ms, one.last.end_ms, one.windows, one.extreme, one.seconds) == (WINDOW, 4 * WINDOW, 3, 160, 30)


def test_one_missed_window_does_not_end_an_episode_and_two_do() -> None:
    assert [one.windows for one in collected([alert("a", 1), alert("a", 3)])] == [2]
    assert [one.windows for one in collected([alert("a", 1), alert("a", 4)])] == [1, 1]


def test_the_extreme_is_the_farthest_from_the_own_range_on_either_side() -> None:
    (one,) = collected([alert("a", 1, 49), alert("a", 2, 30), alert("a", 3, 112)])
    assert one.extreme == 30


def test_the_newest_come_first_and_no_more_than_the_limit_stay() -> None:
    alerts = [alert(str(number), number) for number in range(50)]
    random.Random(1).shuffle(alerts)
    found = collected(alerts, most=20)
    assert len(found) == 20
    assert [one.last.end_ms for one in found] == sorted((one.last.end_ms for one in found), reverse=True)


def test_an_episode_that_grows_outlives_newer_ones_that_do_not() -> None:
    episodes = Episodes(2)
    episodes.add([alert("a", 1), alert("b", 1), alert("a", 2), alert("c", 2)])
    assert {one.subject for one in episodes.newest_first()} == {"a", "c"}
    episodes.add([alert("b", 2)])
    assert {one.subject for one in episodes.newest_first()} == {"b", "c"}


@pytest.mark.parametrize(
    ("now", "live", "state"),
    [
        (2, True, State.NOW),
        (5, True, State.NOW),
        (6, True, State.OVER),
        (2, False, State.SILENT),
        (6, False, State.OVER),
    ],
)
def test_an_episode_goes_on_while_another_window_may_follow(now: int, live: bool, state: State) -> None:
def test_a_second_episode_does_not_make_the_first_one_outlive_newer_ones() -> None:
    found = collected([alert("a", 1), alert("b", 2), alert("a", 9)], most=2)
    assert [(one.subject, one.since_ms) for one in found] == [("a", 9 * WINDOW), ("b", 2 * WINDOW)]


    (one,) = collected([alert("a", 1)])
    assert state_of(one, now * WINDOW, live) is state


@pytest.mark.parametrize(
    ("wanted", "subjects"),
    [
        (Wanted(), {"17", "170", "8"}),
        (Wanted(text="17"), {"17", "170"}),
        (Wanted(text=" 10002 "), {"8"}),
        (Wanted(area="10002"), {"8"}),
        (Wanted(text="17", area="10002"), set()),
        (Wanted(only_now=True), {"8"}),
    ],
)
def test_viewers_find_what_they_look_for(wanted: Wanted, subjects: set[str]) -> None:
    found = collected([alert("17", 1), alert("170", 1), alert("8", 9, area="10002")])
    assert {one.subject for one in wanted.matching(found, 10 * WINDOW)} == subjects


def test_a_person_counts_once_in_an_area() -> None:
    found = collected([alert("a", 1), alert("a", 8), alert("b", 1), alert("c", 1, area="10002")])
    assert by_area(found) == {"10001": 2, "10002": 1}
