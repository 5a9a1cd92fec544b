"""Look at connectors, queries, brokers, workers and the disk; restart failed connector tasks; report what is wrong.

Requires: Prefect's server, and Postgres to count restarts. Whatever else doesn't answer is a finding. Scheduled every other
minute.
"""

from __future__ import annotations

from typing import Any

from prefect import flow
from prefect.states import Completed, State

from heartwatch.errors import HeartWatchError
from tasks.health import look_at_parts, publish_health


class UnhealthyError(HeartWatchError):
    """A part is not as it should be, and a person is needed; the message says which and what to do."""


@flow(name="watch-health")
def watch_health() -> State[Any]:
    """Watch the parts' health.

    Raises:
        UnhealthyError: something is wrong that the check could do nothing about.
    """
    findings = look_at_parts()
    publish_health(findings)
    wrong = [finding for finding in findings if finding.event is not None]
    helpless = [finding.sentence for finding in wrong if not finding.mended]
    if helpless:
        raise UnhealthyError("; ".join(helpless))
    return Completed(message="; ".join(finding.sentence for finding in wrong) or f"all {len(findings)} are well")
