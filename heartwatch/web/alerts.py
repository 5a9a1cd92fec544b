"""Alerts as people see them: consecutive windows of a person form one episode, the newest first.

Grain: one episode per person and unbroken sequence of windows.
"""

from __future__ import annotations

from collections import Counter, OrderedDict
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from datetime import datetime
from enum import StrEnum
from typing import Any

from heartwatch.analytic import PageDefinition


@dataclass(frozen=True)
class Alert:
    """One window of one person: times in ms since the epoch, and the average beside the personal range."""

    subject: str
    area: str
    north: float
    east: float
    begin_ms: int
    end_ms: int
    average: float
    low: float
    high: float


@dataclass(frozen=True)
class Episode:
    """Windows of one person without a gap between them.

    Attributes:
        last: the newest window.
        since_ms: begin of the first window, ms since the epoch.
        windows: number of windows.
        extreme: the average farthest outside the personal range.
    """

    last: Alert
    since_ms: int
    windows: int
    extreme: float

    @property
    def subject(self) -> str:
        """Whose episode it is."""
        return self.last.subject

    @property
    def seconds(self) -> float:
        """How long it has lasted so far, s."""
        return (self.last.end_ms - self.since_ms) / 1000


def outside(average: float, low: float, high: float) -> float:
    """Return by how much an average is outside a range; 0 inside."""
    return max(low - average, average - high, 0.0)


def alert_of(row: Mapping[str, Any], page: PageDefinition) -> Alert | None:
    """Return the alert that a record holds; None if the record lacks subject, window or average."""
    subject, begin, end, average = (row[name] for name in (page.subject, page.begin, page.end, page.average))
    if subject is None or begin is None or end is None or average is None:
        return None
    return Alert(
        subject=str(subject),
        area="" if row[page.area] is None else str(row[page.area]),
        north=float(row[page.north] or 0.0),
        east=float(row[page.east] or 0.0),
        begin_ms=_ms(begin),
        end_ms=_ms(end),
        average=float(average),
        low=float(row[page.low] or 0),
        high=float(row[page.high] or 0),
    )


def _ms(moment: datetime | int) -> int:
    return round(moment.timestamp() * 1000) if isinstance(moment, datetime) else int(moment)


class Episodes:
    """The newest episodes, a bounded number of them."""

    def __init__(self, most: int) -> None:
        """Begin without any.

        Args:
            most: how many are kept; those that ended longest ago are dropped first.
        """
        self._most = most
        self._number = 0
        self._kept: OrderedDict[int, Episode] = OrderedDict()
        self._latest: dict[str, int] = {}
        self.version = 0

    def add(self, alerts: Iterable[Alert]) -> None:
        """Add alerts, each person's in order of time."""
        for alert in alerts:
            self._add(alert)
            self.version += 1

    def _add(self, alert: Alert) -> None:
        number = self._latest.get(alert.subject)
        before = self._kept.get(number) if number is not None else None
        if number is None or before is None or not _follows(alert, before):
            self._number = number = self._number + 1
            self._latest[alert.subject] = number
            self._kept[number] = Episode(alert, alert.begin_ms, 1, alert.average)
        else:
            self._kept[number] = _longer(before, alert)
            self._kept.move_to_end(number)
        while len(self._kept) > self._most:
            _, gone = self._kept.popitem(last=False)
            self._forget(gone)

    def _forget(self, gone: Episode) -> None:
        if self._latest.get(gone.subject) not in self._kept:
            self._latest.pop(gone.subject, None)

    def newest_first(self) -> tuple[Episode, ...]:
        """Return all episodes, those with the latest window first."""
        return tuple(sorted(self._kept.values(), key=_newest_first))


def _newest_first(episode: Episode) -> tuple[int, int, str]:
    return -episode.last.end_ms, -episode.since_ms, episode.subject


def _follows(alert: Alert, before: Episode) -> bool:
    """Whether a window is the next window of an episode, or the window after a missing one."""
    gap = alert.begin_ms - before.last.end_ms
    return 0 <= gap <= alert.end_ms - alert.begin_ms


def _longer(before: Episode, alert: Alert) -> Episode:
    further = outside(alert.average, alert.low, alert.high) > outside(before.extreme, alert.low, alert.high)
    return replace(before, last=alert, windows=before.windows + 1, extreme=alert.average if further else before.extreme)


class EpisodeState(StrEnum):
    """Whether an episode is still active."""

    ACTIVE = "active"
    SILENT = "silent"
    ENDED = "ended"


def state_of(episode: Episode, now_ms: int, live: bool) -> EpisodeState:
    """Return whether an episode is still active: its last window is so recent that another may follow.

    The next window, a missing window and the grace period, assumed to be as long as a window, may lie in between.

    Args:
        episode: the episode.
        now_ms: latest event time, ms since the epoch.
        live: whether events are arriving; without events nobody knows how the episode continued.
    """
    if now_ms - episode.last.end_ms > 3 * (episode.last.end_ms - episode.last.begin_ms):
        return EpisodeState.ENDED
    return EpisodeState.ACTIVE if live else EpisodeState.SILENT


@dataclass
class AlertFilter:
    """What a viewer is looking for.

    Attributes:
        text: part of a person's id or of an area; empty: any.
        area: an area; empty: any.
        hide_ended: whether to leave out episodes that have ended.
    """

    text: str = ""
    area: str = ""
    hide_ended: bool = False

    @property
    def matches_all(self) -> bool:
        """Whether nothing is left out."""
        return not (self.text or self.area or self.hide_ended)

    def matching(self, episodes: Iterable[Episode], now_ms: int) -> list[Episode]:
        """Return the matching episodes (`now_ms`: latest event time, ms since the epoch)."""
        wanted = self.text.strip().casefold()
        return [
            episode
            for episode in episodes
            if (not wanted or wanted in episode.subject.casefold() or wanted in episode.last.area.casefold())
            and (not self.area or episode.last.area == self.area)
            and (not self.hide_ended or state_of(episode, now_ms, True) is not EpisodeState.ENDED)
        ]


def by_area(episodes: Iterable[Episode]) -> Counter[str]:
    """Return the number of people with an alert in each area."""
    return Counter(area for area, _ in {(episode.last.area, episode.subject) for episode in episodes})
