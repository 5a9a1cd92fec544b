"""A record of the time 0 isn't written with the wall clock: what comes behind it would be late."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from ksqlengine.execution.writers import Outgoing
from ksqlengine.streams.clients import StageOutput


@dataclass
class Produced:
    """A producer that keeps the timestamps."""

    timestamps: list[int] = field(default_factory=list)

    def produce(self, *_: Any, timestamp: int, **__: Any) -> None:
        self.timestamps.append(timestamp)

    def begin_transaction(self) -> None:
        """Nothing."""


def test_the_time_0_is_the_earliest_that_can_be_written() -> None:
    output = StageOutput.__new__(StageOutput)
    produced = Produced()
    output.__dict__.update(_producer=produced, _exact=True, _in_transaction=False, _first_output=None)
    output.write_to("topic", Outgoing([b"k"] * 3, [b"v"] * 3, [0, 1, 1_700_000_000_000], None))
    assert produced.timestamps == [1, 1, 1_700_000_000_000]
