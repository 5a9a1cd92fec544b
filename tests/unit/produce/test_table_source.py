"""A table of events is sent in passes; a file's good rows are read, its bad ones named."""

from pathlib import Path

import pyarrow as pa
import pytest

from heartwatch.files.rejects import RejectFile
from heartwatch.produce.run import Source
from heartwatch.produce.table_source import ClosingSource, SourceError, StampedNow, TableSource, read_events
from kafkakit import avro_codec
from kafkakit.partitioning import partitions_of

SCHEMA = avro_codec.arrow_schema(
    avro_codec.parse(
        '{"type": "record", "name": "Sample", "fields": [{"name": "device", "type": "string"},'
        ' {"name": "at", "type": {"type": "long", "logicalType": "timestamp-millis"}}, {"name": "value", "type": "int"}]}'
    )
)


def table(*times: int) -> pa.RecordBatch:
    columns = [pa.array([f"d{time}" for time in times]), pa.array(times), pa.array(range(len(times)))]
    return pa.RecordBatch.from_arrays(
        [column.cast(field.type) for column, field in zip(columns, SCHEMA, strict=True)], schema=SCHEMA
    )


def times(source: Source, count: int) -> list[list[int]]:
    batches = [source.batch(index) for index in range(count)]
    return [batch.columns.column("at").cast(pa.int64()).to_pylist() for batch in batches if batch]


def test_passes_follow_on_each_other() -> None:
    source = TableSource(table(100, 200, 300), "at", batch_events=2, repeat=2)
    assert times(source, 9) == [[100, 200], [300], [400, 500], [600]]
    assert source.batch(4) is None


def test_a_start_moves_every_event() -> None:
    assert times(TableSource(table(100, 200), "at", 10, start_ms=5_000), 1) == [[5_000, 5_100]]


def test_until_stopped_it_never_ends() -> None:
    assert TableSource(table(1), "at", 10, repeat=0).batch(1_000_000) is not None


def test_events_may_be_stamped_when_they_are_sent() -> None:
    clock = iter([70, 77])
    source = StampedNow(TableSource(table(1, 2, 3), "at", 2), "at", lambda: next(clock))
    assert times(source, 3) == [[70, 70], [77]]


def test_a_shard_closes_the_windows_of_its_own_partitions_only() -> None:
    source = TableSource(table(*range(40), *[40] * 10), "at", 40)
    homes = partitions_of(pa.array(["d40"]), 4).tolist()
    others = [partition for partition in range(4) if partition not in homes]
    closed = ClosingSource(source, "device", "at", 4, others, later_ms=1_000)
    # The last batch goes to another shard: who closes was seen in the one before.
    (closing,) = times(closed, 4)[2:]
    assert closing
    assert max(closing) < 40 + 1_000
    lonely = ClosingSource(TableSource(table(*[40] * 10), "at", 40), "device", "at", 4, others, later_ms=1_000)
    assert times(lonely, 4) == [[40] * 10], "a shard that sends nothing has nothing to close"


def test_a_source_without_events_is_refused() -> None:
    with pytest.raises(SourceError, match="no event"):
        TableSource(table(), "at", 10)


GOOD = {"device": ["b", "a"], "at": [1_700_000_000_000, 1_700_000_000_500], "value": [2, 1]}


@pytest.mark.parametrize(
    ("name", "text"),
    [
        (
            "events.jsonl",
            '{"device": "a", "at": 1700000000500, "value": 1}\nnot json\n[1]\n{"device": "c", "at": 1, "value": 1.5}\n'
            '{"device": "d", "value": 1, "at": "soon"}\n{"device": "b", "at": 1700000000000, "value": 2}\n',
        ),
        (
            "events.csv",
            "device,at,value\na,2023-11-14T22:13:20.500Z,1\nx,never,3\ny,1700000000000,many\n,,\nz,1,\n"
            "b,1700000000000,2\n",
        ),
    ],
)
def test_good_rows_are_read_and_bad_ones_named(tmp_path: Path, name: str, text: str) -> None:
    path = tmp_path / name
    path.write_text(text)
    with RejectFile(tmp_path / "rejects.jsonl") as rejects:
        found = read_events(path, SCHEMA, "at", rejects)
    assert found.schema == SCHEMA
    assert (
        found.cast(pa.schema([("device", pa.string()), ("at", pa.int64()), ("value", pa.int32())])).to_pydict() == GOOD
    )
    assert rejects.count == 4
    lines = [line for line in rejects.path.read_text().splitlines() if line]
    assert '"line":2' in lines[0] or '"line":3' in lines[0]


@pytest.mark.parametrize(
    ("name", "text", "words"),
    [
        ("events.txt", "", "must end in"),
        ("events.csv", "device,at\na,1\n", "'value'"),
        ("none.csv", None, "can't be read"),
    ],
)
def test_a_file_that_is_no_use_is_refused_by_name(tmp_path: Path, name: str, text: str | None, words: str) -> None:
    path = tmp_path / name
    if text is not None:
        path.write_text(text)
    with RejectFile(tmp_path / "rejects.jsonl") as rejects, pytest.raises(SourceError, match=words) as error:
        read_events(path, SCHEMA, "at", rejects)
    assert name in str(error.value)
