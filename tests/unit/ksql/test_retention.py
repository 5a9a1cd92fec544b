"""The alerts query's RETENTION: without jumps of event time it changes no row; with them only it keeps the alerts."""

from __future__ import annotations

from dataclasses import replace
from random import Random

import pytest

from heartwatch.ksql.surroundings import surroundings_of
from heartwatch.settings import ROOT
from ksqlengine.internal_names import CACHE
from ksqlengine.language.lexer import split_statements
from ksqlengine.server.in_memory import InMemoryEngine
from ksqlengine.testing.cases import Case, Record, read_folder
from ksqlengine.testing.records import form_of
from ksqlengine.testing.runner import run_case

RETENTION = ", RETENTION 1 DAY"
CASES = {case.name: case for case in read_folder(ROOT / "ksql" / "heart_rate", surroundings_of)}
START_MS = 1_700_000_000_000


def without_retention(case: Case) -> Case:
    assert case.statements.count(RETENTION) == 1
    return replace(case, statements=case.statements.replace(RETENTION, ""))


@pytest.mark.parametrize("name", CASES)
def test_each_case_passes_with_it(name: str) -> None:
    assert run_case(CASES[name]).failure is None


@pytest.mark.parametrize(
    ("properties", "failing"),
    [({CACHE: "10000000"}, {"silent_for_hours"}), ({}, {"silent_for_hours", "changed_range", "removed_user"})],
    ids=["with a cache", "without a cache"],
)
def test_which_cases_fail_without_it(properties: dict[str, str], failing: set[str]) -> None:
    results = {name: run_case(without_retention(case), properties=properties) for name, case in CASES.items()}
    assert {name for name, result in results.items() if result.failure is not None} == failing


def records(case: Case, seed: int) -> list[Record]:
    """Ranges of a few users, then events that come up to 15 s late, so that some are within the grace period and some aren't."""
    random = Random(seed)
    stream, table = (
        next(one for one in case.inputs if column in one.value) for column in ("heart_rate", "min_heart_rate")
    )
    users = [str(number) for number in range(1, 6)]
    made = [replace_value(table, user, START_MS, min_heart_rate=60, max_heart_rate=90) for user in users]
    now = START_MS
    for _ in range(400):
        now += random.randrange(0, 3_000)
        time_ms, user = now - random.choice((0, 0, 0, 4_000, 15_000)), random.choice(users)
        values = {"user_id": user, "event_time": time_ms, "heart_rate": random.randrange(50, 130)}
        made.append(replace_value(stream, user, time_ms, **values))
    return made


def replace_value(record: Record, key: str, time_ms: int, **values: object) -> Record:
    known = {name: value for name, value in values.items() if name in record.value}
    return record.model_copy(update={"key": key, "timestamp": time_ms, "value": {**record.value, **known}})


def results(case: Case, inputs: list[Record]) -> list[object]:
    engine = InMemoryEngine({}, case.schemas)
    for parsed in split_statements(case.statements):
        engine.execute(parsed)
    (query,) = engine.queries.values()
    written: list[object] = []
    for record in inputs:
        stored = form_of(engine, record.topic).store(record)
        written += query.pipe(record.topic, [stored], engine.append(record.topic, stored))
    return written


@pytest.mark.parametrize("seed", range(3))
def test_random_events_give_the_same_rows_with_and_without_it(seed: int) -> None:
    case = CASES["still_and_high"]
    inputs = records(case, seed)
    with_it, without_it = results(case, inputs), results(without_retention(case), inputs)
    assert len(with_it) > 20
    assert with_it == without_it
