"""Names of the custom events that checks and the page emit when something is wrong or right again, and of what they concern.

`tasks.events` emits them; the automations in `deployments/automations/` say what Prefect's server does then.
"""

from __future__ import annotations

from enum import StrEnum

RECORDS_AT_RISK = "heartwatch.records-at-risk"
"""Label of an event's resource: ``yes`` where records are lost, or will be if producers go on."""


class Wrong(StrEnum):
    """What can be wrong, or right again; one event each."""

    SINK_INCOMPLETE = "heartwatch.sink.incomplete"
    """A sink does not hold what its topic holds."""
    SLO_BREACHED = "heartwatch.slo.breached"
    """The pipeline is slower than its service level objectives allow."""
    DETECTIONS_WRONG = "heartwatch.detections.wrong"
    """The alerts are not those that a batch computation finds."""
    ALERTS_MISSED = "heartwatch.alerts.missed"
    """Events came after their windows had closed, and would have given alerts; the sentence names the people."""
    CONNECTOR_FAILED = "heartwatch.connector.failed"
    """A connector or a task of it failed."""
    QUERY_FAILED = "heartwatch.query.failed"
    """A persistent query neither runs nor is paused."""
    BROKER_OUT_OF_SYNC = "heartwatch.broker.out_of_sync"
    """A broker lacks records of partitions that it has, or partitions have no leader."""
    WORKER_GONE = "heartwatch.worker.gone"
    """A worker of a work pool is no longer heard of."""
    DISK_FILLING = "heartwatch.disk.filling"
    """Less of a disk is free than has to be."""
    KEYS_MISPLACED = "heartwatch.keys.misplaced"
    """Records lie in a partition where the join doesn't find their row."""
    TABLE_DIFFERS = "heartwatch.table.differs"
    """The table's topic doesn't hold what Postgres holds, or its replication slot is lost."""
    RECORDS_REJECTED = "heartwatch.records.rejected"
    """The processing log got records that a query could not process."""
    PART_UNREACHABLE = "heartwatch.part.unreachable"
    """A part of the pipeline could not be asked."""
    PART_BACK = "heartwatch.part.back"
    """A part that could not be asked answers again."""

    def resource_id(self, resource: str) -> str:
        """Return the id of what an event concerns, so that an automation can act once per resource.

        Args:
            resource: its name, such as a topic's or a connector's.
        """
        if self is Wrong.PART_BACK:
            # Not that of the outage itself: an automation that acts once a quarter of an hour would not hear of the end.
            return f"{self.value}.{resource}"
        return f"heartwatch.{self.value.split('.')[1]}.{resource}"
