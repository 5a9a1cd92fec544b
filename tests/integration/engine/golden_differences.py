"""How a server's answers differ from those of ksqlDB, by kind.

RECORDS and ROWS: other results. ACCEPTED, REFUSED: by one side only. ERRORCODE, WORDING: the same refusal, another code or text.
TEXT: a statement written otherwise. BODY: an answer with other fields. Not told are a record's number of changes (how many are
merged depends on time), and what the server's clock says.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping
from typing import Any

from golden_scenarios import Found, settled

_LISTS = {"streams", "tables", "topics", "queries", "sourceDescriptions", "queryDescriptions"}
_TEXTS = re.compile(r"\.(statementText|queryString|statement|sqlText)$")


def differences(scenario: Mapping[str, Any], found: Found) -> Iterator[tuple[str, str]]:
    """Give each difference: its kind, and where it is with both sides."""
    for number, step in enumerate(scenario["steps"], 1):
        if "answer" in step:
            wanted = step["answer"]["status"], settled(json.loads(step["answer"]["body"]))
            status, body = found.answers[number]
            given = status, _without_others(wanted[1], settled(body))
            yield from _of_answers(step.get("sql", step.get("endpoint", "")), wanted, given)
    topics = sorted({record["topic"] for record in (*scenario["outputs"], *found.outputs)})
    for topic in topics:
        yield from _of_records(topic, scenario["outputs"], found.outputs)


def _without_others(wanted: Any, given: Any) -> Any:
    """Leave out of a server's lists what only other scenarios have made."""
    if isinstance(wanted, list) and isinstance(given, list) and len(wanted) == len(given):
        return [_without_others(one, other) for one, other in zip(wanted, given, strict=True)]
    if not isinstance(wanted, dict) or not isinstance(given, dict):
        return given
    shown = dict(given)
    for name in _LISTS & wanted.keys() & given.keys():
        known = {_name(item) for item in wanted[name]}
        shown[name] = [item for item in given[name] if _name(item) in known]
    return shown


def _name(item: Any) -> Any:
    return item.get("name", item.get("id")) if isinstance(item, dict) else item


def _of_answers(what: str, wanted: tuple[int, Any], given: tuple[int, Any]) -> Iterator[tuple[str, str]]:
    accepted = [_is_accepted(status, body) for status, body in (wanted, given)]
    shown = " ".join(what.split())[:120]
    if accepted == [True, False]:
        yield "REFUSED", f"{shown}: {_message(given[1])}"
    elif accepted == [False, True]:
        yield "ACCEPTED", f"{shown}: {_message(wanted[1])}"
    elif accepted == [False, False]:
        refusals = [(status, _code(body), _message(body)) for status, body in (wanted, given)]
        if refusals[0] != refusals[1]:
            kind = "WORDING" if refusals[0][:2] == refusals[1][:2] else "ERRORCODE"
            yield kind, f"{shown}: {refusals[0]} / {refusals[1]}"
    else:
        unequal = list(_unequal(wanted[1], given[1], ""))
        rows = isinstance(wanted[1], dict) and "lines" in wanted[1]
        for path, one, other in unequal:
            kind = "TEXT" if _TEXTS.search(path) else "ROWS" if rows else "BODY"
            yield kind, f"{shown}: {path}: {one!r} / {other!r}"


def _is_accepted(status: int, body: Any) -> bool:
    entities = body if isinstance(body, list) else []
    return status == 200 and not any(
        isinstance(entity, dict) and (entity.get("commandStatus") or {}).get("status") == "ERROR" for entity in entities
    )


def _message(body: Any) -> str:
    if isinstance(body, dict):
        return str(body.get("message", body))
    if isinstance(body, list):
        return "; ".join(
            str((entity.get("commandStatus") or {}).get("message", entity))
            for entity in body
            if isinstance(entity, dict)
        )
    return str(body)


def _code(body: Any) -> Any:
    return body.get("error_code") if isinstance(body, dict) else None


def _unequal(one: Any, other: Any, path: str) -> Iterator[tuple[str, Any, Any]]:
    if isinstance(one, dict) and isinstance(other, dict):
        for name in [*one, *(name for name in other if name not in one)]:
            yield from _unequal(one.get(name, "<absent>"), other.get(name, "<absent>"), f"{path}.{name}")
    elif isinstance(one, list) and isinstance(other, list) and len(one) == len(other):
        for number, (left, right) in enumerate(zip(one, other, strict=True)):
            yield from _unequal(left, right, f"{path}[{number}]")
    elif one != other or isinstance(one, bool) != isinstance(other, bool):
        yield path, one, other


def _of_records(topic: str, wanted: list[dict[str, Any]], given: list[dict[str, Any]]) -> Iterator[tuple[str, str]]:
    last = [_last_by_key(topic, records) for records in (wanted, given)]
    if last[0] != last[1]:
        missing = {key: value for key, value in last[0].items() if last[1].get(key) != value}
        extra = {key: value for key, value in last[1].items() if last[0].get(key) != value}
        yield "RECORDS", f"{topic}: {missing} / {extra}"


def _last_by_key(topic: str, records: list[dict[str, Any]]) -> dict[Any, Any]:
    """Return what a reader has of each key in the end: of records without a key, each that there is."""
    found: dict[Any, Any] = {}
    for record in records:
        if record["topic"] != topic:
            continue
        value = json.dumps([_loose(record["value"]), record.get("headers")], sort_keys=True)
        window = record.get("windowStart"), record.get("windowEnd")
        found[json.dumps(record["key"]), *window, *([value] if record["key"] is None else [])] = value
    return found


def _loose(value: Any) -> Any:
    if isinstance(value, str):
        try:
            return json.loads(value)
        except ValueError:
            return value
    return value
