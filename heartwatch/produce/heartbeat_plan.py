"""When a quiet partition gets a heartbeat, and with which event time. Pure: what is seen of a partition in, an event time out.

There are two kinds. A look repeats the newest event time of the partition, which makes nothing late: ksqlDB looks for closed
windows at most once a second and only when a record arrives, so windows that closed in the last second before a partition fell
silent come with it. A closing heartbeat moves stream time on, so that the partition's last windows close; what comes after it
for those windows is late, so it waits until the devices and the producers have had the time that the settings give them.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

LOOKS = 8
"""Heartbeats with one event time; the pause before each is twice that before the one before, for a server that is behind."""

_FIRST_PAUSE_SECONDS = 2.0  # ksqlDB looks at most once a second
_MARGIN_MS = 1_000


@dataclass(frozen=True)
class PartitionTail:
    """What the newest records of a partition say.

    Attributes:
        newest_event_ms: largest event time among its events, heartbeats left out, ms since the epoch; None without events.
        newest_ms: largest event time among all its records, ms since the epoch; None without records.
        looks: heartbeats with the present stream time: those since the last event, or since the heartbeat that moved time last,
            which counts as the first.
    """

    newest_event_ms: int | None = None
    newest_ms: int | None = None
    looks: int = 0

    def after(self, times_ms: Sequence[int], heartbeats: Sequence[bool]) -> PartitionTail:
        """Return what it says after further records.

        Args:
            times_ms: event time of each, in order of offset, ms since the epoch.
            heartbeats: which of them are heartbeats.
        """
        event_ms, newest_ms, looks = self.newest_event_ms, self.newest_ms, self.looks
        for time_ms, heartbeat in zip(times_ms, heartbeats, strict=True):
            moves = newest_ms is None or time_ms > newest_ms
            newest_ms = time_ms if newest_ms is None else max(newest_ms, time_ms)
            if heartbeat:
                looks = 1 if moves else looks + 1
            else:
                event_ms, looks = time_ms if event_ms is None else max(event_ms, time_ms), 0
        return PartitionTail(event_ms, newest_ms, looks)


@dataclass(frozen=True)
class HeartbeatRules:
    """When heartbeats are sent.

    Attributes:
        closing_ms: length of the windows and their grace period together, ms.
        look_after_seconds: silence of a partition after which looks are sent.
        close_after_seconds: silence of a partition, and how far its windows must lie behind the wall clock, until they are
            closed.
    """

    closing_ms: int
    look_after_seconds: float
    close_after_seconds: float


def heartbeat_time(
    tail: PartitionTail, quiet_seconds: float, heartbeat_seconds: float, rules: HeartbeatRules, now_ms: int
) -> int | None:
    """Return the event time of the heartbeat that a partition gets now, ms since the epoch; None for no heartbeat.

    Args:
        tail: what its newest records say.
        quiet_seconds: time since its last event was seen to come, s.
        heartbeat_seconds: time since its last heartbeat was seen to come, s; infinite where none was.
        rules: when heartbeats are sent.
        now_ms: the wall clock, ms since the epoch.
    """
    event_ms, newest_ms = tail.newest_event_ms, tail.newest_ms
    if event_ms is None or newest_ms is None or quiet_seconds < rules.look_after_seconds:
        return None
    closes_ms = event_ms + rules.closing_ms + _MARGIN_MS
    if newest_ms < closes_ms and _may_close(quiet_seconds, closes_ms, rules, now_ms):
        return closes_ms
    if tail.looks >= LOOKS or (tail.looks and heartbeat_seconds < _FIRST_PAUSE_SECONDS * 2 ** (tail.looks - 1)):
        return None
    # The newest event's device may have a clock that is ahead, and be nobody's that the table knows: its time isn't the stream's.
    # Nor may a heartbeat be ahead itself, or it would be left out.
    return min(newest_ms, now_ms)


def _may_close(quiet_seconds: float, closes_ms: int, rules: HeartbeatRules, now_ms: int) -> bool:
    behind_ms = round(rules.close_after_seconds * 1000)
    return quiet_seconds >= rules.close_after_seconds and closes_ms <= now_ms - behind_ms
