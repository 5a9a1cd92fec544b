"""Deploys what prefect.yaml states to the platform of this process' environment, runs heart-watch once, and prints its result."""

from __future__ import annotations

import json
import sys

from prefect.client.orchestration import get_client
from prefect.client.schemas.objects import FlowRun
from prefect.deployments import run_deployment
from rich.console import Console

from flows.demo import deploy
from heartwatch.run_report import read_result
from heartwatch.settings import load_settings


def main() -> None:
    deploy(Console(quiet=True))
    # Scheduled checks would only take the run's time.
    with get_client(sync_client=True) as client:
        for deployment in client.read_deployments():
            for schedule in deployment.schedules:
                client.update_deployment_schedule(deployment.id, schedule.id, active=False)
    run = run_deployment(
        "heart-watch/heart-watch", parameters=json.loads(sys.argv[1]), timeout=300, poll_interval=1, as_subflow=False
    )
    assert isinstance(run, FlowRun)
    assert run.state is not None
    assert run.state.is_completed(), f"{run.name}: {run.state.type.value}: {run.state.message}"
    print(json.dumps(read_result(load_settings(), str(run.id), run.name), default=str))


if __name__ == "__main__":
    main()
