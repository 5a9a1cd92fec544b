"""Emits custom events: what the automations in `deployments/automations/` act on."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from prefect.events import emit_event

from heartwatch.events import RECORDS_AT_RISK, Wrong


def announce(
    wrong: Wrong,
    resource: str,
    sentence: str,
    facts: Mapping[str, Any] | None = None,
    records_at_risk: bool = False,
) -> None:
    """Emit an event.

    Args:
        wrong: what is wrong.
        resource: what it concerns, such as a topic or connector.
        sentence: what a person has to know: what is wrong, and where.
        facts: figures for programs.
        records_at_risk: whether records are lost, or will be if producers go on; an automation stops them then.
    """
    emit_event(
        wrong.value,
        resource={
            "prefect.resource.id": wrong.resource_id(resource),
            "prefect.resource.name": resource,
            RECORDS_AT_RISK: "yes" if records_at_risk else "no",
        },
        payload={"sentence": sentence, **(facts or {})},
    )
