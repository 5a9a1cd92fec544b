"""The stages of a SELECT in memory: in which order a join's two sides are joined is handed in."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import orjson
import pytest

from ksqlengine.execution.pipeline import MergePipeline
from ksqlengine.execution.stage_chain import ArrivalOrder, SideOrder
from ksqlengine.language import ast
from ksqlengine.language.lexer import split_statements
from ksqlengine.language.parser import parse_statements
from ksqlengine.server.in_memory import InMemoryEngine, StoredRecord, batch_of_records
from ksqlengine.server.transient_stages import TransientStages
from ksqlengine.streams.join_merge import Merger

SOURCES = "".join(
    f"CREATE STREAM {name} (k STRING KEY, v INT) WITH (KAFKA_TOPIC='{name}', VALUE_FORMAT='JSON');" for name in "lr"
)
JOIN = "SELECT l.k, l.v, r.v FROM l LEFT JOIN r WITHIN 1 SECOND GRACE PERIOD 0 SECONDS ON l.k = r.k EMIT CHANGES;"


def stages(side_order: Callable[[MergePipeline], SideOrder]) -> TransientStages:
    engine = InMemoryEngine({}, {})
    for parsed in split_statements(SOURCES):
        engine.execute(parsed)
    (statement,) = parse_statements(JOIN)
    assert isinstance(statement.statement, ast.QueryStatement)
    plan = engine.analyzer.transient(statement.statement.query, JOIN)
    return TransientStages(plan, "query", engine.registry.parsed, side_order)


def records(*rows: tuple[int, int]) -> list[StoredRecord]:
    return [StoredRecord(b"k", orjson.dumps({"V": value}), time) for time, value in rows]


LEFT, RIGHT = records((0, 1), (10_000, 2), (30_000, 3)), records((500, 10), (10_500, 20), (30_500, 30))


def test_sides_are_joined_as_they_arrive() -> None:
    made = stages(lambda pipeline: ArrivalOrder(pipeline, lambda rejects: None))
    found = [
        row
        for topic, sent in (("l", LEFT), ("r", RIGHT))
        for result in made.chain.feed(batch_of_records(topic, sent, 0))
        for row in made.visible(result.rows).rows()
    ]
    # The left side's time says that nothing comes for its first two records, before the right side's are seen.
    assert [row[:3] for row in found] == [("k", 1, None), ("k", 2, None), ("k", 1, 10), ("k", 2, 20), ("k", 3, 30)]


@pytest.mark.parametrize("ended", [False, True])
def test_sides_are_joined_by_time_as_far_as_both_are_read(ended: bool) -> None:
    mergers: list[Merger] = []

    def by_time(pipeline: MergePipeline) -> Merger:
        mergers.append(Merger(pipeline))
        return mergers[-1]

    made = stages(by_time)
    for side in (0, 1):
        mergers[0].begin((side, 0), 0)
    found = []
    for topic, sent in (("l", LEFT), ("r", RIGHT)):
        batch = batch_of_records(topic, sent, 0)
        batch = replace(batch, ends=((topic, 0, len(sent)),)) if ended else batch
        for result in made.chain.feed_sides(batch):
            found += [row[:3] for row in made.visible(result.rows).rows()]
    # Nothing is known of what follows the left side's last record until its topic's end is reached.
    assert found == [("k", 1, 10), ("k", 2, 20)] + ([("k", 3, 30)] if ended else [])


def test_a_push_query_shows_each_change_of_an_aggregate() -> None:
    counted = "SELECT k, COUNT(*) AS n, SUM(v) AS s FROM l GROUP BY k EMIT CHANGES;"
    engine = InMemoryEngine({}, {})
    for parsed in split_statements(SOURCES):
        engine.execute(parsed)
    (statement,) = parse_statements(counted)
    assert isinstance(statement.statement, ast.QueryStatement)
    plan = engine.analyzer.transient(statement.statement.query, counted)
    made = TransientStages(
        plan, "query", engine.registry.parsed, lambda pipeline: ArrivalOrder(pipeline, lambda rejects: None)
    )
    found = [
        row for result in made.chain.feed(batch_of_records("l", LEFT, 0)) for row in made.visible(result.rows).rows()
    ]
    assert [row[:3] for row in found] == [("k", 1, 1), ("k", 2, 3), ("k", 3, 6)]
