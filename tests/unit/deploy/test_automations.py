"""The automations' files against Prefect's own model of them, and what is filled in."""

from __future__ import annotations

from datetime import timedelta
from pathlib import Path
from uuid import UUID, uuid4

import pytest
from prefect.events.actions import CallWebhook, ChangeFlowRunState, RunDeployment, SendNotification
from prefect.events.schemas.automations import AutomationCore, EventTrigger

from heartwatch.deploy.automations import AutomationError, read_automations
from heartwatch.events import Wrong
from heartwatch.verify.health import judge_disk

PAUSE = "deployment:pause-producers/pause-producers"
BLOCK = uuid4()
VALUES = {PAUSE: str(uuid4()), "zombie_seconds": 90.0}


def automations(**values: object) -> dict[str, AutomationCore]:
    found = read_automations({**VALUES, **values})
    return {name: AutomationCore.model_validate(content) for name, content in found.wanted.items()}


def test_prefect_takes_every_file() -> None:
    found = automations(notification_block=str(BLOCK), notification_type="send-notification")
    assert set(found) == {
        "heartwatch: notify",
        "heartwatch: notify of runs",
        "heartwatch: pause producers",
        "heartwatch: crash zombie runs",
    }
    (runs,) = found["heartwatch: notify of runs"].actions
    assert isinstance(runs, SendNotification)
    (notify,) = found["heartwatch: notify"].actions
    assert isinstance(notify, SendNotification)
    assert notify.block_document_id == BLOCK
    assert "event.payload.sentence" in notify.body
    (pause,) = found["heartwatch: pause producers"].actions
    assert isinstance(pause, RunDeployment)
    assert pause.deployment_id == UUID(VALUES[PAUSE])
    (crash,) = found["heartwatch: crash zombie runs"].actions
    assert isinstance(crash, ChangeFlowRunState)
    trigger = found["heartwatch: crash zombie runs"].trigger
    assert isinstance(trigger, EventTrigger)
    assert trigger.within == timedelta(seconds=90)


def test_a_webhook_gets_a_payload() -> None:
    found = automations(notification_block=str(BLOCK), notification_type="call-webhook")
    (notify,) = found["heartwatch: notify"].actions
    assert isinstance(notify, CallWebhook)
    assert "event.payload.sentence" in notify.payload


def test_what_is_not_there_leaves_an_automation_out_and_is_named() -> None:
    found = read_automations({"zombie_seconds": 90})
    assert set(found.wanted) == {"heartwatch: crash zombie runs"}
    assert found.left_out["heartwatch: pause producers"] == f"for want of {PAUSE}"
    assert "notification_block" in found.left_out["heartwatch: notify"]


@pytest.mark.parametrize("text", ["name: mine\n", "- a\n", "name: [", "description: none\n"])
def test_a_file_that_is_none_is_refused_by_name(tmp_path: Path, text: str) -> None:
    (tmp_path / "broken.yaml").write_text(text)
    with pytest.raises(AutomationError, match=r"broken\.yaml"):
        read_automations({}, tmp_path)


def test_triggers_expect_events_that_there_are() -> None:
    known = {wrong.value for wrong in Wrong}
    trigger = automations()["heartwatch: pause producers"].trigger
    assert isinstance(trigger, EventTrigger)
    assert trigger.expect <= known
    assert judge_disk("data", 0, 100, 0.1).event in known
