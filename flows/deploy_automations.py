"""Bring the automations on Prefect's server to what `deployments/automations/` says; safe to run again.

Requires: Prefect's server, with the deployments applied. ``python -m flows.deploy_automations`` needs no worker.
"""

from __future__ import annotations

from prefect import flow

from heartwatch.errors import one_sentence
from tasks.automations import apply_automations, publish_automations


@flow(name="deploy-automations")
def deploy_automations() -> dict[str, str]:
    """Deploy the automations.

    Returns:
        by automation what was done.

    Raises:
        AutomationError: a file can't be used, or the settings name a block that isn't there.
    """
    done = apply_automations()
    publish_automations(done)
    return done


if __name__ == "__main__":
    with one_sentence("deploy-automations"):
        deploy_automations()
