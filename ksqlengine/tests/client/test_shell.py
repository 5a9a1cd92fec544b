"""The prompt's own parts: when a text is complete, what completes a word, how answers look."""

from __future__ import annotations

import io
from typing import Any

import pytest
from prompt_toolkit.completion import CompleteEvent
from prompt_toolkit.document import Document
from rich.console import Console

from ksqlengine.client.shell import KsqlCompleter, is_complete, show


@pytest.mark.parametrize(
    ("text", "complete"),
    [
        ("SHOW STREAMS;", True),
        ("SHOW STREAMS", False),
        ("SELECT ';", False),
        ("SELECT ';' FROM a;  ", True),
        ("SELECT 1; -- and so on", True),
        ("SELECT 1 -- no; \n", False),
        ("SELECT /* ; ", False),
        ("exit", True),
        ("", True),
    ],
)
def test_a_text_is_complete_with_its_last_semicolon(text: str, complete: bool) -> None:
    assert is_complete(text) is complete


def test_names_and_keywords_complete_a_word() -> None:
    completer = KsqlCompleter(lambda: ["heart_rate_alerts_v1", "SEEN"])

    def completed(text: str) -> list[str]:
        return [one.text for one in completer.get_completions(Document(text), CompleteEvent())]

    assert completed("SELECT * FROM hea") == ["`heart_rate_alerts_v1`", "HEADER", "HEADERS"]
    assert completed("se")[:2] == ["SEEN", "SECOND"]


def shown(entity: dict[str, Any]) -> str:
    console = Console(file=io.StringIO(), width=120)
    show(entity, console)
    return console.file.getvalue()  # type: ignore[attr-defined]


def test_lists_are_tables() -> None:
    streams = [{"name": "A", "topic": "[t]", "keyFormat": "KAFKA", "valueFormat": "AVRO", "isWindowed": False}]
    text = shown({"@type": "streams", "streams": streams})
    assert [name in text for name in ("Stream", "Topic", "A", "[t]", "AVRO", "False")] == [True] * 6


def test_messages_and_unknown_answers() -> None:
    assert shown({"@type": "currentStatus", "commandStatus": {"message": "Stream created"}}) == "Stream created\n"
    assert '"x": 1' in shown({"@type": "something", "x": 1})


def test_descriptions_of_functions_and_types_are_tables() -> None:
    calls = [
        {"arguments": [{"name": "", "type": "STRING", "isVariadic": True}], "returnType": "BYTES", "description": "d"}
    ]
    text = shown({"@type": "describe_function", "name": "CONCAT", "description": "Joins.", "functions": calls})
    assert [part in text for part in ("CONCAT Joins.", "STRING…", "BYTES")] == [True] * 3
    fields = [{"name": "ZIP", "schema": {"type": "INTEGER"}}]
    types = shown({"@type": "type_list", "types": {"PLACE": {"type": "STRUCT", "fields": fields}}})
    assert "PLACE" in types
    assert "STRUCT<ZIP INTEGER>" in types


def test_every_query_and_what_was_asserted_are_shown() -> None:
    queries = [
        {"id": name, "state": "RUNNING", "statementText": f"{name};", "fields": []} for name in ("CSAS_A", "CSAS_B")
    ]
    text = shown({"@type": "queryDescriptions", "queryDescriptions": queries})
    assert text.index("CSAS_A RUNNING") < text.index("CSAS_B RUNNING")
    assert shown({"@type": "assert_topic", "topicName": "t", "exists": False}) == "Topic t: does not exist\n"
