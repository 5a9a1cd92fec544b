"""What is seen of a shard decides whether it is waited for, done or sent out again."""

import pytest

from heartwatch.produce.supervision import Limits, ParentWatch, Sighting, Verdict, judge, queue_of

LIMITS = Limits(scheduled=60, pending=45, silent=30, gone=5, patience=4, attempts=4)


@pytest.mark.parametrize(
    ("sighting", "verdict", "words"),
    [
        (Sighting("SCHEDULED", 59, 0), Verdict.WAIT, ""),
        (Sighting("SCHEDULED", 61, 0), Verdict.DISPATCH, "no worker took"),
        (Sighting("PENDING", 44, 44), Verdict.WAIT, ""),
        (Sighting("PENDING", 46, 46), Verdict.DISPATCH, "did not start"),
        (Sighting("RUNNING", 9_000, 29), Verdict.WAIT, ""),
        (Sighting("RUNNING", 9_000, 31), Verdict.DISPATCH, "committed nothing for 31 s"),
        (Sighting("RUNNING", 9_000, None), Verdict.WAIT, ""),
        (Sighting("RUNNING", 9_000, 31, alive=True), Verdict.WAIT, ""),
        (Sighting("RUNNING", 9_000, 121, alive=True), Verdict.DISPATCH, "committed nothing"),
        (Sighting("PENDING", 179, 0, alive=True), Verdict.WAIT, ""),
        (Sighting("RUNNING", 9, 1, alive=False, gone_seconds=4), Verdict.WAIT, ""),
        (Sighting("RUNNING", 9, 1, alive=False, gone_seconds=6), Verdict.DISPATCH, "process is gone"),
        (Sighting("COMPLETED", 9, 1, alive=False, gone_seconds=60), Verdict.DONE, ""),
        (Sighting("CRASHED", 1, 0, finished=True), Verdict.DONE, "committed"),
        (Sighting("CRASHED", 1, 0), Verdict.DISPATCH, "CRASHED"),
        (Sighting("FAILED", 1, 0), Verdict.DISPATCH, "FAILED"),
        (Sighting("COMPLETED", 1, 500), Verdict.DONE, "COMPLETED"),
        (Sighting("CANCELLED", 1, 0), Verdict.CANCEL, "CANCELLED"),
    ],
)
def test_verdicts(sighting: Sighting, verdict: Verdict, words: str) -> None:
    found, reason = judge(sighting, LIMITS)
    assert found is verdict
    assert words in reason


def test_shards_go_round_the_machines_and_to_the_next_one_when_sent_again() -> None:
    machines = ["producer-1", "producer-2", "producer-3"]
    assert [queue_of(index, 1, machines) for index in range(6)] == machines * 2
    assert [queue_of(1, attempt, machines) for attempt in (1, 2, 3)] == ["producer-2", "producer-3", "producer-1"]


def test_without_named_machines_any_worker_takes_a_shard() -> None:
    assert queue_of(0, 1, []) is None


def test_a_shard_whose_run_was_ended_stops_at_once() -> None:
    assert ParentWatch().reason("CRASHED", "RUNNING", 0.0) == "its run was marked CRASHED while it was sending"
    assert ParentWatch().reason("RUNNING", "RUNNING", 0.0) == ""


def test_a_shard_waits_for_its_parent_to_come_back_for_a_while() -> None:
    watch = ParentWatch(patience_seconds=60)
    assert watch.reason("RUNNING", "CRASHED", 100.0) == ""
    assert watch.reason("RUNNING", "RUNNING", 150.0) == "", "it came back"
    assert watch.reason("RUNNING", "CRASHED", 200.0) == ""
    assert watch.reason("RUNNING", "CRASHED", 259.0) == ""
    assert "the run that sent it out is CRASHED for 60 s" in watch.reason("RUNNING", "CRASHED", 260.0)


def test_a_shard_of_a_cancelled_or_deleted_run_ends_and_one_without_a_parent_goes_on() -> None:
    assert "is CANCELLED" in ParentWatch(60).reason("RUNNING", "CANCELLED", 0.0)
    alone = ParentWatch(60)
    assert [alone.reason("RUNNING", None, second) for second in (0.0, 100.0)] == ["", ""]
    deleted = ParentWatch(60)
    assert [deleted.reason("RUNNING", state, at) for state, at in (("RUNNING", 0.0), (None, 1.0))] == ["", ""]
    assert "is DELETED" in deleted.reason("RUNNING", None, 61.0)
