"""Commands, session properties, and the order in which records are worked off."""

from __future__ import annotations

import numpy as np
import pyarrow as pa
import pytest

from kafkakit.batch_consumer import MessageBatch
from ksqlengine.internal_names import AHEAD
from ksqlengine.server.command_topic import Command
from ksqlengine.server.session_properties import query_options, with_changes
from ksqlengine.streams.batches import ordered
from ksqlengine.streams.context import Guarantee
from ksqlengine.types.errors import StatementError


def test_a_command_comes_back_from_its_topic() -> None:
    command = Command("CREATE STREAM …;", {"auto.offset.reset": "earliest"}, {"t-value": [3, "{}"], "u-value": None})
    assert Command.from_bytes(command.to_bytes()) == command
    with pytest.raises(ValueError, match="version 9"):
        Command.from_bytes(b'{"version":9}')


def test_properties_are_checked_and_lose_the_prefix_for_kafka_streams() -> None:
    changed = with_changes({}, {"ksql.streams.auto.offset.reset": "earliest", AHEAD: "2000"})
    options = query_options(changed)
    assert (options.reset, options.guarantee) == ("earliest", Guarantee.EXACTLY_ONCE)
    assert changed[AHEAD] == "2000"
    assert query_options({"processing.guarantee": "at_least_once"}).guarantee is Guarantee.AT_LEAST_ONCE
    for name, value in (
        ("nope", "1"),
        ("auto.offset.reset", "middle"),
        (AHEAD, "-2"),
        ("commit.interval.ms", "x"),
        ("commit.interval.ms", "--5"),
        ("commit.interval.ms", "5" * 5000),
    ):
        with pytest.raises(StatementError, match=name):
            with_changes({}, {name: value})


def test_records_are_ordered_by_partition_and_those_of_others_left_out() -> None:
    batch = MessageBatch(
        topics=("t",),
        topic=np.zeros(5, dtype=np.int32),
        partition=np.array([2, 0, 2, 1, 0], dtype=np.int32),
        offset=np.array([5, 1, 6, 9, 2]),
        timestamp=np.arange(5),
        key=pa.array([b"a", None, b"c", b"d", b"e"], pa.large_binary()),
        value=pa.array([b"1", b"2", None, b"4", b"5"], pa.large_binary()),
    )
    found = ordered(batch, [0, 2])
    assert list(zip(found.partition.tolist(), found.offset.tolist(), strict=True)) == [(0, 1), (0, 2), (2, 5), (2, 6)]
    assert found.key.to_pylist() == [None, b"e", b"a", b"c"]
    assert found.value.to_pylist() == [b"2", b"5", b"1", None]
    assert len(ordered(batch, [7])) == 0
