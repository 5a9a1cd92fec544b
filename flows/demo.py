"""Show what HeartWatch does: deploy what prefect.yaml states, run heart-watch on the running platform, print what was found.

``python -m flows.demo`` (``heartwatch demo`` starts the platform and runs it). Requires: the platform, up.
"""

from __future__ import annotations

import subprocess
import sys
import time
from uuid import UUID

from prefect.client.orchestration import SyncPrefectClient, get_client
from prefect.client.schemas.filters import FlowRunFilter, FlowRunFilterParentFlowRunId
from prefect.client.schemas.objects import FlowRun
from prefect.client.schemas.sorting import FlowRunSort
from prefect.deployments import run_deployment
from prefect.variables import Variable
from rich.console import Console, Group
from rich.live import Live
from rich.spinner import Spinner
from rich.table import Table

from heartwatch.demo import digest, found_tables
from heartwatch.errors import ROOT_ERRORS, HeartWatchError
from heartwatch.run_report import read_result
from heartwatch.settings import ROOT, load_settings
from tasks.automations import apply_automations

_DEPLOYED = "heartwatch_deployed"
_POLL_SECONDS = 1.0


class DemoError(HeartWatchError):
    """The demo can't go on; the message says why and what to do."""


def main() -> None:
    """Run the demo; errors that a person can fix are one sentence and exit code 1."""
    console = Console()
    try:
        settings = load_settings()
        deploy(console)
        began = time.monotonic()
        run = follow(console, start_run())
        result = read_result(settings, str(run.id), run.name)
        console.print(found_tables(settings, result, time.monotonic() - began))
    except KeyboardInterrupt:
        sys.exit(130)
    except ROOT_ERRORS as error:
        console.print(f"[bold red]demo:[/] {error}")
        sys.exit(1)


def deploy(console: Console) -> None:
    """Apply prefect.yaml and the automations unless the server has just this state of it already.

    Raises:
        DemoError: a deployment was refused.
    """
    state = digest()
    if Variable.get(_DEPLOYED) == state:
        console.print("deployments: unchanged")
        return
    with console.status("deploying what prefect.yaml states"):
        done = subprocess.run(
            [sys.executable, "-m", "prefect", "--no-prompt", "deploy", "--all"],
            cwd=ROOT,
            capture_output=True,
            text=True,
            check=False,
        )
    if done.returncode:
        raise DemoError(f"prefect deploy --all failed: {(done.stderr or done.stdout).strip()[-2_000:]}")
    automations = apply_automations.fn()
    Variable.set(_DEPLOYED, state, overwrite=True)
    console.print("deployments: applied")
    for name, what in automations.items():
        if what.startswith("left out"):
            console.print(f"automation {name!r} is {what}")


def start_run() -> FlowRun:
    """Start heart-watch with its defaults."""
    run = run_deployment("heart-watch/heart-watch", timeout=0)
    assert isinstance(run, FlowRun)  # noqa: S101 - called outside an event loop it is no coroutine
    return run


def follow(console: Console, run: FlowRun) -> FlowRun:
    """Show what a run does until it ends.

    Raises:
        DemoError: it didn't complete.
    """
    began = time.monotonic()
    with get_client(sync_client=True) as client, Live(console=console, refresh_per_second=4) as live:
        while run.state is None or not run.state.is_final():
            live.update(_progress(client, run, time.monotonic() - began))
            time.sleep(_POLL_SECONDS)
            run = client.read_flow_run(run.id)
        live.update(_progress(client, run, time.monotonic() - began))
    if not run.state.is_completed():
        raise DemoError(f"run {run.name!r} ended as {run.state.name}: {run.state.message}; see its log in Prefect's UI")
    return run


def _progress(client: SyncPrefectClient, run: FlowRun, seconds: float) -> Group:
    """Return the run's subflows with their states."""
    parent = FlowRunFilter(parent_flow_run_id=FlowRunFilterParentFlowRunId(any_=[run.id]))
    steps = client.read_flow_runs(flow_run_filter=parent, sort=FlowRunSort.EXPECTED_START_TIME_ASC)
    names = _flow_names(client, steps)
    table = Table(box=None, show_header=False)
    for step in steps:
        state = step.state.name if step.state is not None else ""
        table.add_row(names[step.flow_id], state, f"{step.estimated_run_time.total_seconds():.0f} s")
    state = run.state.name if run.state is not None else "Scheduled"
    return Group(Spinner("dots", f"heart-watch {run.name}: {state}, {seconds:.0f} s"), table)


_NAMES: dict[UUID, str] = {}


def _flow_names(client: SyncPrefectClient, steps: list[FlowRun]) -> dict[UUID, str]:
    for step in steps:
        if step.flow_id not in _NAMES:
            _NAMES[step.flow_id] = client.read_flow(step.flow_id).name
    return _NAMES


if __name__ == "__main__":
    main()
