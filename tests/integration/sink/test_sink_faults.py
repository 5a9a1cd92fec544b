"""Faults of a real sink, each made to happen: what the proof says of it, and that nothing is wrong before and after.

The tests share a topic with a connector; each looks at what it sends itself, or lets the memory begin anew.
"""

from __future__ import annotations

import io
import time
from collections.abc import Iterator
from contextlib import contextmanager

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
import pytest
from conftest import POISON, Pipe, only, places

from heartwatch.monitoring import Monitoring
from heartwatch.proof.findings import Kind
from heartwatch.sink.reader import OFFSET, PARTITION
from heartwatch.verify.health import HealthFinding
from heartwatch.verify.health_checks import look_at_connectors

pytestmark = pytest.mark.parts("kafka", "registry", "postgres", "s3", "connect")


def test_a_healthy_sink_has_nothing_missing(pipe: Pipe) -> None:
    first, last = pipe.send(0, *range(10))
    pipe.send(0, *range(3), abort=True)
    # A window is retracted: its row comes again with other values, then a tombstone.
    pipe.send(1, 1, 1, None)
    pipe.send(1, 2)
    proof = pipe.healthy()
    zero, one, empty = proof.partitions
    assert (zero.first, zero.last, zero.in_kafka, zero.in_sink) == (first, last, 10, 10)
    assert zero.without_record == 5, "the aborted records and two markers"
    assert (one.in_kafka, one.in_sink, one.tombstones, one.without_record) == (4, 3, 1, 2)
    assert (empty.end, empty.in_kafka, empty.first) == (0, 0, None), "a partition without data is no fault"
    again = pipe.healthy()
    assert (again.read, again.total("in_kafka"), again.total("proven_before")) == (0, 0, 13)


def test_poison_is_a_dead_letter(pipe: Pipe) -> None:
    since = pipe.ends()
    place, _ = pipe.send(1, POISON, 5)
    proof = pipe.healthy(since)
    assert (proof.total("in_kafka"), proof.total("dead_letters"), proof.total("in_sink")) == (2, 1, 1)
    _, letters = pipe.prove(since)
    assert sum(letters.reasons.values()) == 1
    assert letters.first is not None
    assert (letters.first.partition, letters.first.offset) == (1, place)
    assert letters.last == letters.first


def test_poison_that_is_skipped_without_a_dead_letter_is_missing(pipe: Pipe) -> None:
    pipe.configure("errors.deadletterqueue")
    since = pipe.ends()
    place, _ = pipe.send(1, POISON, 5)
    pipe.until(lambda: pipe.lasts()[1] == place + 1, "the record after it is written")
    proof, _ = pipe.prove(since)
    assert places(proof, *Kind) == [(Kind.MISSING, 1, place, place, 1)]
    assert f"1 missing in partition 1, offset {place}" in proof.sentence()


def test_poison_without_tolerance_fails_the_task_which_is_restarted_so_often_and_no_more(pipe: Pipe) -> None:
    settings = pipe.settings.model_copy(
        update={"monitoring": pipe.settings.monitoring.model_copy(update={"connector_restarts": 2})}
    )
    memory = Monitoring(settings.postgres, settings.pipeline)
    pipe.configure("errors.", **{"errors.tolerance": "none"})
    since = pipe.ends()
    place, last = pipe.send(1, POISON, 5)

    def finding() -> HealthFinding:
        return next(one for one in look_at_connectors(settings) if one.resource == pipe.connector)

    pipe.until(lambda: pipe.connect.status(pipe.connector).failed, "its task failed")
    proof, _ = pipe.prove(since)
    assert places(proof, Kind.BEHIND, Kind.MISSING) == [(Kind.BEHIND, 1, place, last, 2)]
    assert "tasks 0 FAILED" in only(proof, Kind.CONNECTOR).detail
    assert "Tolerance exceeded in error handler" in only(proof, Kind.CONNECTOR).detail
    pipe.until(lambda: "was restarted 2 times already" in finding().sentence, "the task fails again after each restart")
    assert memory.connector_restarts()[pipe.connector].restarts == 2
    pipe.configure()
    assert pipe.healthy(since).total("dead_letters") == 1
    assert finding().event is None


def begin_anew(pipe: Pipe) -> None:
    """Forget what earlier tests have done: Kafka keeps nothing of it, and the memory neither."""
    for partition in pipe.ends():
        pipe.delete_records(partition, -1)
    proof, _ = pipe.prove(full=True)
    assert proof.proven, proof.sentence()


def test_a_stopped_sink_records_removed_before_it_and_a_position_set_forward(pipe: Pipe) -> None:
    begin_anew(pipe)
    with pipe.stopped():
        first, last = pipe.send(0, *range(8))
        ahead, end = pipe.send(1, *range(6))
        proof, _ = pipe.prove()
        assert places(proof, *Kind) == [
            (Kind.BEHIND, 0, first, last, 8),
            (Kind.BEHIND, 1, ahead, end, 6),
            (Kind.CONNECTOR, None, None, None, 1),
        ]
        assert "STOPPED" in only(proof, Kind.CONNECTOR).detail
        pipe.delete_records(0, first + 5)
        proof, _ = pipe.prove()
        assert places(proof, Kind.BEHIND, Kind.LOST) == [
            (Kind.LOST, 0, first, first + 4, 5),
            (Kind.BEHIND, 0, first + 5, last, 3),
            (Kind.BEHIND, 1, ahead, end, 6),
        ]
        assert proof.waiting_seconds is not None
        pipe.reset(1, ahead + 4)
    pipe.until(lambda: pipe.lasts() == (last, end), "the sink goes on with what is left")
    proof, _ = pipe.prove()
    assert places(proof, *Kind) == [(Kind.LOST, 0, first, first + 4, 5), (Kind.MISSING, 1, ahead, ahead + 3, 4)]
    pipe.prove(accept_losses=True)
    assert places(pipe.prove()[0], *Kind) == [(Kind.MISSING, 1, ahead, ahead + 3, 4)]


def test_a_position_set_back_writes_records_twice(pipe: Pipe) -> None:
    _, last = pipe.send(1, 7)
    pipe.until(lambda: pipe.lasts()[1] == last, "the sink has it")
    since = {1: last}
    with pipe.stopped():
        pipe.reset(1, last - 2)
    pipe.until(lambda: pipe.prove(since)[0].total("duplicates") > 0, "the sink goes back")
    assert places(pipe.prove(since)[0], *Kind) == [(Kind.DUPLICATE, 1, last, last, 1)]


def test_s3_refusing_writes_for_a_minute_loses_nothing_and_watch_health_starts_the_sink_again(pipe: Pipe) -> None:
    def failed() -> bool:
        return pipe.connect.status(pipe.connector).failed

    since, began = pipe.ends(), time.monotonic()
    with pipe.read_only():
        first, last = pipe.send(2, *range(4))
        pipe.until(failed, "the task gives up")
        proof, _ = pipe.prove(since)
        assert places(proof, Kind.BEHIND, Kind.MISSING) == [(Kind.BEHIND, 2, first, last, 4)]
        assert "tasks 0 FAILED" in only(proof, Kind.CONNECTOR).detail
        assert "FAILED" in proof.sentence()
        look_at_connectors(pipe.settings)
        pipe.until(lambda: not failed(), "it was restarted")
        # The refusal lasts: the restarted task fails as the first one did, with what comes meanwhile.
        _, last = pipe.send(2, 4)
        pipe.until(failed, "the restarted task gives up too")
        time.sleep(max(0.0, 60 - (time.monotonic() - began)))
        proof, _ = pipe.prove(since)
        assert places(proof, Kind.BEHIND, Kind.MISSING) == [(Kind.BEHIND, 2, first, last, 5)]
    look_at_connectors(pipe.settings)
    assert pipe.healthy(since).total("in_sink") == 5


@pytest.fixture(scope="module")
def proven(pipe: Pipe) -> tuple[str, int, int]:
    """An object that is proven, of partition 2 alone: its path, and its first and last offset."""
    begin_anew(pipe)
    first, last = pipe.send(2, *range(9))
    pipe.healthy()
    table = pipe.table()
    for task in table.scan(row_filter=f"{PARTITION} = 2 and {OFFSET} >= {first}").plan_files():
        return task.file.file_path, first, last
    raise AssertionError("no object has the rows")


@contextmanager
def replaced(pipe: Pipe, path: str, content: bytes | None) -> Iterator[None]:
    """Replace an object for a while, or delete it."""
    original = pipe.content(path)
    pipe.put(path, content)
    try:
        yield
    finally:
        pipe.put(path, original)


def rewritten(rows: pa.Table, column: str, values: pa.ChunkedArray) -> bytes:
    file = io.BytesIO()
    position = rows.schema.get_field_index(column)
    pq.write_table(rows.set_column(position, rows.schema.field(position), values), file)
    return file.getvalue()


def test_a_deleted_object_is_found_by_the_next_check(pipe: Pipe, proven: tuple[str, int, int]) -> None:
    path, first, last = proven
    with replaced(pipe, path, None):
        proof, _ = pipe.prove()
        assert (Kind.OBJECT_GONE, 2, first, last, 1) in places(proof, *Kind)
        assert path in only(proof, Kind.OBJECT_GONE).detail
        assert places(proof, Kind.BEHIND) == [(Kind.BEHIND, 2, first, last, 9)]
    assert pipe.healthy().total("in_kafka") > 0


def test_a_truncated_object_is_found_by_the_next_check(pipe: Pipe, proven: tuple[str, int, int]) -> None:
    path, first, last = proven
    pipe.healthy()
    with replaced(pipe, path, pipe.content(path)[:-100]):
        proof, _ = pipe.prove()
        assert set(places(proof, *Kind)) == {
            (Kind.OBJECT_RESIZED, 2, first, last, 1),
            (Kind.UNDECODABLE, 2, first, last, 1),
            (Kind.BEHIND, 2, first, last, 9),
        }
    pipe.healthy()


def test_a_changed_record_is_found_by_the_next_check(pipe: Pipe, proven: tuple[str, int, int]) -> None:
    path, first, _ = proven
    pipe.healthy()
    rows = pq.read_table(io.BytesIO(pipe.content(path)))
    other = pc.if_else(pc.equal(rows[OFFSET], first + 2), 0.0, rows["latitude"])
    with replaced(pipe, path, rewritten(rows, "latitude", other)):
        proof, _ = pipe.prove()
        assert places(proof, Kind.CHANGED) == [(Kind.CHANGED, 2, first + 2, first + 2, 1)]
        assert only(proof, Kind.CHANGED).detail == "latitude differ"
        assert only(proof, Kind.CHANGED).sample == f"offset {first + 2}: latitude: 40.7 in Kafka, 0.0 in the sink"
    pipe.healthy()


def test_clocks_an_hour_wrong_in_the_sink_are_changes(pipe: Pipe, proven: tuple[str, int, int]) -> None:
    path, first, last = proven
    pipe.healthy()
    rows = pq.read_table(io.BytesIO(pipe.content(path)))
    times = rows["kafka_timestamp"]
    later = pc.cast(pc.add(pc.cast(times, "int64"), 3_600_000_000), times.type)
    with replaced(pipe, path, rewritten(rows, "kafka_timestamp", later)):
        proof, _ = pipe.prove()
        assert places(proof, Kind.CHANGED) == [(Kind.CHANGED, 2, first, last, 9)]
        assert only(proof, Kind.CHANGED).detail == "kafka_timestamp differ"
    pipe.healthy()


def test_an_object_written_again_under_another_name_is_found(pipe: Pipe, proven: tuple[str, int, int]) -> None:
    path, first, last = proven
    pipe.healthy()
    copy = path.replace(".parquet", "-copy.parquet")
    pipe.put(copy, pipe.content(path))
    proof, _ = pipe.prove(orphan_seconds=-60)
    assert [one.detail.startswith(copy.removeprefix("s3://")) for one in proof.of(Kind.ORPHAN)] == [True]
    assert proof.proven, "an object that no manifest names holds no rows of the table"
    table = pipe.table()
    (data,) = [task.file for task in table.scan().plan_files() if task.file.file_path == path]
    data[1] = copy
    with table.transaction() as transaction, transaction.update_snapshot().fast_append() as snapshot:
        snapshot.append_data_file(data)
    assert copy in {task.file.file_path for task in pipe.table().scan().plan_files()}
    for _ in range(2):
        assert places(pipe.prove()[0], *Kind) == [(Kind.DUPLICATE, 2, first, last, 9)]
