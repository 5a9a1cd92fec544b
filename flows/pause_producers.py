"""Stop every producer within five seconds, as `prefect variable set producer_run 0` does. Started by an automation, or by hand.

Requires: Prefect's server. A new run of `produce` sends again.
"""

from __future__ import annotations

from prefect import flow

from tasks.produce import stop_producers


@flow(name="pause-producers")
def pause_producers(reason: str = "asked for by hand") -> None:
    """Stop the producers.

    Args:
        reason: Why they are stopped, for the log.
    """
    stop_producers(reason)
