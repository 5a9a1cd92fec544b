"""Events as Prefect takes them."""

from __future__ import annotations

from typing import Any

import pytest

from heartwatch.events import Wrong
from tasks import events


@pytest.mark.parametrize(("at_risk", "label"), [(True, "yes"), (False, "no")])
def test_an_event_names_its_resource_and_says_whether_records_are_at_risk(
    monkeypatch: pytest.MonkeyPatch, at_risk: bool, label: str
) -> None:
    sent: dict[str, Any] = {}
    monkeypatch.setattr(events, "emit_event", lambda name, **fields: sent.update({"name": name, **fields}))
    events.announce(Wrong.SINK_INCOMPLETE, "alerts_v1", "3 are missing", {"missing": 3}, records_at_risk=at_risk)
    assert sent == {
        "name": "heartwatch.sink.incomplete",
        "resource": {
            "prefect.resource.id": "heartwatch.sink.alerts_v1",
            "prefect.resource.name": "alerts_v1",
            "heartwatch.records-at-risk": label,
        },
        "payload": {"sentence": "3 are missing", "missing": 3},
    }
