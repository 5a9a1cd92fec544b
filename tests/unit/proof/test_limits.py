"""Which offsets a check of some times looks at."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from datetime import UTC, datetime, timedelta
from typing import Any

import numpy as np
import pyarrow as pa
import pytest

from heartwatch.proof.topic import Request, _limits
from heartwatch.settings import load_settings
from kafkakit import topic_reader
from kafkakit.topic_reader import Records

NOON = datetime(2026, 11, 24, 12, tzinfo=UTC)
# Minutes after noon; None for a marker of a transaction, whose time is the broker's: today's, long after.
LOG: dict[int, list[int | None]] = {0: [0, 1, 90, 2, None, 3, 4, None, 5, 1, None], 1: [None, 7, 8], 2: []}


def milliseconds(minute: int | None) -> int:
    return int((NOON + timedelta(minutes=minute if minute is not None else 5_000)).timestamp() * 1000)


class Admin:
    """Answers as the brokers do for the log."""

    def offsets(self, names: list[str], which: str, committed: bool = False) -> dict[tuple[str, int], int]:
        return {(names[0], partition): len(log) if which == "latest" else 0 for partition, log in LOG.items()}

    def offsets_at(self, _: str, timestamp_ms: int) -> dict[int, int]:
        return {
            partition: next((at for at, one in enumerate(log) if milliseconds(one) >= timestamp_ms), len(log))
            for partition, log in LOG.items()
        }


@pytest.fixture
def admin(monkeypatch: pytest.MonkeyPatch) -> Any:
    def read(_: object, __: str, ranges: Mapping[int, tuple[int, int]]) -> Iterator[Records]:
        for partition, (begin, end) in ranges.items():
            there = [at for at in range(begin, end) if LOG[partition][at] is not None]
            times = np.array([milliseconds(LOG[partition][at]) for at in there], dtype=np.int64)
            nothing = pa.nulls(len(there), pa.large_binary())
            yield Records(
                np.full(len(there), partition, dtype=np.int32), np.array(there, dtype=np.int64), times, nothing, nothing
            )

    monkeypatch.setattr(topic_reader, "read_ranges", read)
    return Admin()


@pytest.mark.parametrize("zone", [UTC, None], ids=["UTC", "none said"])
def test_no_record_of_the_time_is_left_out_however_its_neighbours_clocks_go(admin: Any, zone: Any) -> None:
    def limits(since: int | None, until: int | None) -> dict[int, tuple[int, int]]:
        moments = [
            (NOON + timedelta(minutes=one)).replace(tzinfo=zone) if one is not None else None for one in (since, until)
        ]
        return _limits(load_settings(), admin, "samples", Request(since=moments[0], until=moments[1]))

    assert limits(None, 4) == {0: (0, 10), 1: (0, 0), 2: (0, 0)}, "the record at offset 9 is of the first minute"
    assert limits(3, 5) == {0: (2, 10), 1: (0, 0), 2: (0, 0)}
    assert limits(8, None) == {0: (2, 11), 1: (0, 3), 2: (0, 0)}
    assert limits(100, 200) == {0: (4, 10), 1: (0, 3), 2: (0, 0)}


def test_a_time_that_is_over_before_it_begins_is_refused() -> None:
    with pytest.raises(ValueError, match="isn't after since '2026-11-24T12:00:00"):
        Request(since=NOON, until=NOON.replace(tzinfo=None))
