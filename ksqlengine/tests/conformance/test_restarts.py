"""Cases with aggregates give the same results where the query starts again from its changelog after every record."""

from __future__ import annotations

from dataclasses import replace
from typing import Any, cast

import orjson
import pytest
from test_conformance import CASES

from ksqlengine.execution import stage_chain
from ksqlengine.execution.builder import build
from ksqlengine.execution.pipeline import Pipeline
from ksqlengine.expressions.aggregates import AGGREGATES, AggregateFunction
from ksqlengine.language.lexer import split_statements
from ksqlengine.server.in_memory import InMemoryEngine, StoredRecord
from ksqlengine.streams.changelog import Changelog
from ksqlengine.testing.cases import Case
from ksqlengine.testing.runner import run_case

GROUPED = [
    case
    for case in CASES
    if case.refusal is None and "GROUP BY" in case.statements and "EMIT FINAL" not in case.statements
]


class Restarting:
    """Pipelines that are built anew after every batch, with nothing but what their changelogs have."""

    def __init__(self) -> None:
        self._arguments: dict[str, tuple[Any, ...]] = {}
        self._topics: dict[str, dict[bytes, bytes]] = {}
        self.restarts = 0
        self.active = True

    def build(self, *arguments: Any) -> Pipeline:
        pipeline = self._with_changelog(build(*arguments))
        topic = pipeline.stage.changelog
        if topic is not None:
            self._arguments[topic] = arguments
        return pipeline

    def _with_changelog(self, pipeline: Pipeline) -> Pipeline:
        if pipeline.stage.changelog is not None:
            cast(Any, pipeline).changelog = Changelog(pipeline.stage.changelog, pipeline)
        return pipeline

    def restart(self, pipeline: Pipeline) -> Pipeline:
        changelog = cast(Changelog, cast(Any, pipeline).changelog)
        topic = self._topics.setdefault(changelog.topic, {})
        changes = changelog.changes([0])
        for key, value in zip(changes.keys, changes.values, strict=True):
            if value is None:
                topic.pop(cast(bytes, key), None)
            else:
                topic[cast(bytes, key)] = value
        # Built as it was, but for what it writes with, which is the same.
        fresh = self._with_changelog(replace(build(*self._arguments[changelog.topic]), sink=pipeline.sink))
        if topic:
            cast(Changelog, cast(Any, fresh).changelog).put_back(0, topic)
        windowing, fresh_windowing = (cast(Any, one.aggregate).windowing for one in (pipeline, fresh))
        if windowing is not None:
            fresh_windowing.times.advance(0, windowing.times[0])
        self.restarts += 1
        return fresh


@pytest.fixture
def restarting(monkeypatch: pytest.MonkeyPatch) -> Restarting:
    restarting = Restarting()
    results_of = stage_chain.StageChain._results

    def results(self: Any, pipeline: Any, batch: Any) -> Any:
        results = results_of(self, pipeline, batch)
        if restarting.active and pipeline.stage.changelog is not None and not pipeline.tables:
            self.pipelines[self.pipelines.index(pipeline)] = restarting.restart(pipeline)
        return results

    monkeypatch.setattr(stage_chain, "build", restarting.build)
    monkeypatch.setattr(stage_chain.StageChain, "_results", results)
    return restarting


@pytest.mark.parametrize("case", GROUPED, ids=lambda case: case.name)
def test_results_are_the_same_with_a_restart_after_every_record(case: Case, restarting: Restarting) -> None:
    result = run_case(case)
    assert result.failure is None, "\n".join([str(result.failure), *result.details])
    stateful = "SESSION" not in case.statements and " JOIN " not in case.statements
    assert restarting.restarts > 0 or not stateful or not case.inputs


COLUMNS = {
    "B": "BOOLEAN", "I": "INTEGER", "L": "BIGINT", "D": "DOUBLE", "E": "DECIMAL(30, 4)", "S": "STRING", "Y": "BYTES",
    "DA": "DATE", "TI": "TIME", "TS": "TIMESTAMP", "A": "ARRAY<DECIMAL(5, 2)>", "AL": "ARRAY<BIGINT>",
    "M": "MAP<STRING, ARRAY<TIME>>", "R": "STRUCT<`a b` INT, C MAP<STRING, DOUBLE>>",
}  # fmt: skip
ROWS: tuple[dict[str, Any], ...] = (
    {
        "B": True, "I": -(2**31), "L": 2**62, "D": 0.1, "E": 12345678901234567890123456.7891, "S": "ä", "Y": "AP8=", "DA": 1,
        "TI": 86_399_999, "TS": -1, "A": [1.25, None], "M": {"k": [1, None], "n": None},
        "R": {"a b": 1, "C": {"x": 0.5}}, "AL": [1, None, 2],
    },
    {"S": "ä"},
    {"B": False, "I": 7, "L": -5, "D": -2.5e300, "E": -0.0001, "S": "", "Y": "", "DA": -700_000, "TI": 0, "TS": 10**12,
     "A": [], "M": {}, "R": {"a b": None, "C": {}}, "AL": []},
    {"B": True, "I": 7, "L": 3, "D": 4.0, "E": 1, "S": "ä", "Y": "AP8=", "DA": 1, "TI": 5, "TS": 4, "A": None, "M": {"k": [2]},
     "R": {"a b": 2, "C": None}, "AL": [9]},
)  # fmt: skip


def calls(function: AggregateFunction) -> list[str]:
    """Return a call of a function over a column of each type that it takes."""
    accepted = function.accepts[0]
    fitting = [
        name for name, type_ in COLUMNS.items() if accepted is None or type_.split("(")[0].split("<")[0] in accepted
    ]
    constant = ", 2" if function.constants else ""
    # Further columns are of the same type: an aggregate converts nothing.
    return [f"{function.name}({', '.join([name] * len(function.accepts))}{constant})" for name in fitting]


@pytest.mark.parametrize(
    ("function", "over"),
    [
        pytest.param(function, over, id=f"{function.name} over a {over}")
        for function in AGGREGATES.values()
        for over in (("STREAM", "TABLE") if function.undoes else ("STREAM",))
    ],
)
def test_each_aggregate_goes_on_from_its_changelog(
    function: AggregateFunction, over: str, restarting: Restarting
) -> None:
    key = "K STRING KEY" if over == "STREAM" else "K STRING PRIMARY KEY"
    columns = ", ".join(f"{name} {type_}" for name, type_ in COLUMNS.items())
    selected = ", ".join(f"{call} AS C{number}" for number, call in enumerate(calls(function)))
    statements = (
        f"CREATE {over} T ({key}, {columns}) WITH (KAFKA_TOPIC='t', VALUE_FORMAT='JSON');"
        f"CREATE TABLE G AS SELECT S, {selected} FROM T GROUP BY S;"
    )
    rows = [*ROWS, *ROWS[::-1], *ROWS[2:]]
    records = [StoredRecord(f"k{place % 3}".encode(), orjson.dumps(row), place) for place, row in enumerate(rows)]
    outputs = []
    for restarts in (False, True):
        restarting.active = restarts
        running = InMemoryEngine({}, {})
        for statement in split_statements(statements):
            running.execute(statement)
        (query,) = running.queries.values()
        outputs.append([query.pipe("t", [record], place) for place, record in enumerate(records)])
        assert not query.rejects
    assert restarting.restarts > 0
    assert outputs[0] == outputs[1]
