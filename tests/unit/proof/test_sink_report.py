"""What was found of the sinks, as people read it and later checks remember it."""

from __future__ import annotations

from typing import Any

import pytest

from heartwatch.monitoring import SinkCheck
from heartwatch.proof.report import (
    SinkReport,
    check_of,
    dead_letter_rows,
    finding_rows,
    found_nothing_new,
    history_plot,
    partition_rows,
    sentences,
)

TOTALS = dict.fromkeys(
    ("missing", "lost", "duplicates", "unexpected", "changed", "behind", "dead_letters", "waiting_seconds"), 0.0
)


def report(topic: str, **values: Any) -> SinkReport:
    known: dict[str, Any] = {
        "proven": True,
        "sentence": f"{topic}: all 9 records are there",
        "records": 9,
        "rows": 9,
        "dead_letters": {},
        "seconds": 1.0,
        "partitions": [{"partition": 0, "in Kafka": 9}],
        "totals": TOTALS,
    }
    return SinkReport(topic=topic, **(known | values))


def test_sentences_are_one_text() -> None:
    assert sentences([report("a"), report("b")]) == "A: all 9 records are there. B: all 9 records are there"
    assert sentences([]) == "The pipeline isn't deployed: there is nothing to prove"


def test_rows_name_their_topic() -> None:
    reports = [
        report("a", findings=[{"what": "missing", "count": 2}]),
        report("b", dead_letters={"no Avro": 3}, first_dead_letter="0:1", last_dead_letter="0:7"),
    ]
    assert partition_rows(reports) == [{"topic": name, "partition": 0, "in Kafka": 9} for name in "ab"]
    assert finding_rows(reports) == [{"topic": "a", "what": "missing", "count": 2}]
    assert [list(row.values()) for row in dead_letter_rows(reports)] == [["b", "no Avro", 3, "0:1", "0:7"]]


def test_a_check_counts_what_is_wrong_but_not_what_is_only_behind() -> None:
    totals = TOTALS | {"missing": 5.0, "behind": 3.0, "lost": 1.0, "dead_letters": 4.0, "waiting_seconds": 2.5}
    assert check_of(report("a", totals=totals), 7.0) == SinkCheck("a", 7.0, 9, 3, 4, 2.5)


@pytest.mark.parametrize(
    ("now", "same"),
    [
        ([SinkCheck("a", 9, 5, 0, 0, 0.0), SinkCheck("b", 9, 7, 0, 0, 0.0)], True),
        ([SinkCheck("a", 9, 6, 0, 0, 0.0), SinkCheck("b", 9, 7, 0, 0, 0.0)], False),
        ([SinkCheck("c", 9, 5, 0, 0, 0.0)], False),
    ],
    ids=["the same", "a row more", "another topic"],
)
def test_nothing_new_is_what_the_last_check_of_each_topic_found(now: list[SinkCheck], same: bool) -> None:
    history = [SinkCheck("a", 1, 4, 0, 0, 0.0), SinkCheck("b", 1, 7, 0, 0, 0.0), SinkCheck("a", 2, 5, 0, 0, 0.0)]
    assert found_nothing_new(history, now) is same


def test_the_plot_is_in_the_text() -> None:
    plot = history_plot([SinkCheck("a", 1, 4, 0, 0, 0.0), SinkCheck("a", 2, 5, 1, 0, 3.0)])
    assert plot.startswith("![rows proven, what was wrong and what waited, over time](data:image/png;base64,")
