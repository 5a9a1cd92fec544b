"""Custom events: what the automations in `deployments/automations/` act on."""

from __future__ import annotations

from collections.abc import Mapping
from enum import StrEnum
from typing import Any

from prefect.events import emit_event


class Wrong(StrEnum):
    """What can be wrong; one event each."""

    SINK_INCOMPLETE = "heartwatch.sink.incomplete"
    SLO_BREACHED = "heartwatch.slo.breached"
    DETECTIONS_WRONG = "heartwatch.detections.wrong"
    CONNECTOR_FAILED = "heartwatch.connector.failed"
    QUERY_FAILED = "heartwatch.query.failed"
    BROKER_OUT_OF_SYNC = "heartwatch.broker.out_of_sync"
    WORKER_GONE = "heartwatch.worker.gone"
    DISK_FILLING = "heartwatch.disk.filling"
    PART_UNREACHABLE = "heartwatch.part.unreachable"


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
        resource: what it concerns, such as a topic or connector; the event's resource is ``heartwatch.<kind>.<resource>``, so
            that an automation can act once a resource.
        sentence: what a person has to know: what is wrong, and where.
        facts: figures for programs.
        records_at_risk: whether records are lost, or will be if producers go on; an automation stops them then.
    """
    kind = wrong.value.split(".")[1]
    emit_event(
        wrong.value,
        resource={
            "prefect.resource.id": f"heartwatch.{kind}.{resource}",
            "prefect.resource.name": resource,
            "heartwatch.records-at-risk": "yes" if records_at_risk else "no",
        },
        payload={"sentence": sentence, **(facts or {})},
    )
