"""A progress bar is made once and then brought up to date, also where the server was away at first."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any
from uuid import UUID

import httpx
import pytest

from tasks import artifacts
from tasks.artifacts import ProgressArtifact


@pytest.fixture
def calls(monkeypatch: pytest.MonkeyPatch) -> list[tuple[Any, ...]]:
    made: list[tuple[Any, ...]] = []

    def create(progress: float, key: str, description: str | None) -> UUID:
        made.append(("create", progress, key, description))
        if description == "away":
            raise OSError("no route")
        return UUID(int=7)

    def update(artifact: UUID, progress: float, description: str | None) -> None:
        made.append(("update", artifact.int, progress, description))

    monkeypatch.setattr(artifacts, "create_progress_artifact", create)
    monkeypatch.setattr(artifacts, "update_progress_artifact", update)
    return made


def test_it_is_made_when_it_is_first_shown(calls: list[tuple[Any, ...]]) -> None:
    progress = ProgressArtifact("produce")
    assert calls == []
    progress.show(0.0, "0 events")
    progress.show(50.0, "5 events")
    progress.show(100.0)
    assert calls == [
        ("create", 0.0, "produce", "0 events"),
        ("update", 7, 50.0, "5 events"),
        ("update", 7, 100.0, None),
    ]


def test_a_server_that_is_away_is_asked_again(calls: list[tuple[Any, ...]]) -> None:
    progress = ProgressArtifact("produce")
    progress.show(0.0, "away")
    progress.show(1.0, "here")
    progress.show(2.0, "here")
    assert [call[0] for call in calls] == ["create", "create", "update"]


@pytest.mark.parametrize(
    ("publish", "shown"),
    [
        (lambda: artifacts.publish_table.fn("rates", [{"stage": "a"}], "Rates."), "create_table_artifact"),
        (lambda: artifacts.publish_markdown.fn("text", "# It", "A text."), "create_markdown_artifact"),
    ],
    ids=["table", "markdown"],
)
def test_what_can_not_be_shown_fails_no_run(
    publish: Callable[[], None], shown: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[str] = []

    def refuse(**_: Any) -> None:
        asked.append(shown)
        raise httpx.ReadTimeout("the server hangs")

    monkeypatch.setattr(artifacts, shown, refuse)
    publish()
    assert asked == [shown]
