"""Every case of the YAML files beside this one: the engine gives what ksqlDB gives.

A case has `sql`, `in` (records [topic, key, value, timestamp, window, headers]) and either `out` (the same) or `refused` (type,
message), and may have `schemas` that are registered before (by subject).
A window is [start, end] or [start, end, session]; headers are [name, base64] pairs.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import yaml

from ksqlengine.testing.cases import Case, Record, Refusal, parse_json
from ksqlengine.testing.runner import run_case

FOLDER = Path(__file__).parent


def records(rows: list[list[Any]] | None) -> tuple[Record, ...]:
    return tuple(record(*row) for row in rows or ())


def record(
    topic: str,
    key: Any,
    value: Any,
    timestamp: int | None = None,
    window: list[Any] | None = None,
    headers: list[list[str]] | None = None,
) -> Record:
    bounds = window and {"start": window[0], "end": window[1], "type": (window[2:] or ["time"])[0]}
    pairs = None if headers is None else [{"KEY": name, "VALUE": text} for name, text in headers]
    # Through JSON, as in a test's file, where fractions keep their digits.
    key, value = parse_json(json.dumps([key, value]))
    return Record.model_validate(
        {"topic": topic, "key": key, "value": value, "timestamp": timestamp, "window": bounds, "headers": pairs}
    )


def case_of(family: str, given: dict[str, Any]) -> Case:
    refused = given.get("refused")
    assert (refused is None) is ("out" in given), f"{given['name']}: give either 'out' or 'refused'"
    return Case(
        name=f"{family}: {given['name']}",
        statements=given["sql"],
        inputs=records(given.get("in")),
        outputs=records(given.get("out")),
        refusal=Refusal.model_validate(refused) if refused else None,
        schemas={subject: json.dumps(schema) for subject, schema in given.get("schemas", {}).items()},
    )


CASES = [
    case_of(path.stem, given) for path in sorted(FOLDER.glob("*.yaml")) for given in yaml.safe_load(path.read_text())
]


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
def test_case(case: Case) -> None:
    result = run_case(case)
    assert result.failure is None, "\n".join([str(result.failure), *result.details])


ACCEPTED = [case for case in CASES if case.refusal is None]


# Without a cache, as here, each change of a group is given; with one a batch gives only the last of them.
@pytest.mark.parametrize("case", ACCEPTED, ids=lambda case: case.name)
def test_results_do_not_depend_on_how_batches_were_cut(case: Case) -> None:
    result = run_case(case, together=True)
    assert result.failure is None, "\n".join([str(result.failure), *result.details])
