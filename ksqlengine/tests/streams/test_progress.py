"""Progress as commit metadata."""

from __future__ import annotations

import json

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from ksqlengine.streams.progress import PartitionProgress


def test_progress_comes_back_from_commit_metadata() -> None:
    progress = PartitionProgress(1_000, 77, [(900, (5, 6)), (950, (7, 6))], (2_000, 80))
    assert PartitionProgress.from_metadata(progress.to_metadata(), 900) == progress
    assert PartitionProgress.from_metadata("", 12) == PartitionProgress(position=12)
    assert PartitionProgress.from_metadata(None, 12) == PartitionProgress(position=12)


GARBAGE = [b"\xa2\xff", b"garbage", b'{"version":1}', b'"}', b" ", b"\xe2\x82", b"0"]


@pytest.mark.parametrize("garbage", GARBAGE)
def test_what_lies_behind_the_metadata_changes_nothing(garbage: bytes) -> None:
    progress = PartitionProgress(1_000, 77, [(900, (5, 6)), (950, (7, 6))])
    assert PartitionProgress.from_metadata(progress.to_metadata().encode() + garbage, 900) == progress


@pytest.mark.parametrize("garbage", [b"", *GARBAGE])
def test_progress_of_the_first_release_is_still_read(garbage: bytes) -> None:
    text = b'{"version":1,"position":1000,"stream_time":77,"tables":[[100,5,6],[50,7,6]]}'
    assert PartitionProgress.from_metadata(text + garbage, 900) == PartitionProgress(
        1_000, 77, [(900, (5, 6)), (950, (7, 6))]
    )


def test_metadata_of_another_program_is_not_progress() -> None:
    kafka_streams = b"AgAAAZx0" * 9
    for metadata in (kafka_streams, kafka_streams + b"\xa2"):
        assert PartitionProgress.from_metadata(metadata, 900) == PartitionProgress(position=900)


JSON = st.recursive(
    st.one_of(st.none(), st.booleans(), st.integers(-5, 1), st.floats(allow_nan=False), st.text(max_size=4)),
    lambda inner: st.one_of(
        st.lists(inner, max_size=3),
        st.dictionaries(
            st.sampled_from(["version", "position", "stream_time", "tables", "backlog", "other"]), inner, max_size=4
        ),
    ),
    max_leaves=6,
)


@given(JSON)
@example({"position": 7})
@example({"version": 1})
@example(5)
@example({"version": 1, "position": None, "stream_time": 1, "tables": [[]]})
def test_json_of_another_program_ends_no_query(metadata: object) -> None:
    found = PartitionProgress.from_metadata(json.dumps(metadata), 900)
    ours = isinstance(metadata, dict) and {"position", "stream_time", "tables"} <= metadata.keys()
    assert found == PartitionProgress(position=900) or ours


def test_metadata_stays_below_the_brokers_limit_and_keeps_the_first_mark() -> None:
    marks = [(10**12 + number, (10**12 + number, 10**12 + number)) for number in range(5_000)]
    text = PartitionProgress(10**12 + 6_000, 1, marks).to_metadata()
    assert len(text) < 4_096
    assert PartitionProgress.from_metadata(text, 0).tables[0] == marks[0]


def test_metadata_of_a_later_version_is_refused() -> None:
    with pytest.raises(ValueError, match="version 2"):
        PartitionProgress.from_metadata('{"version":2}', 0)
