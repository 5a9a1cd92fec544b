"""The producers' flow runs on Prefect's server, as the dispatcher needs them."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from typing import TypeVar
from uuid import UUID

import httpx
from prefect.client.orchestration import SyncPrefectClient
from prefect.client.schemas.filters import (
    FlowFilter,
    FlowFilterName,
    FlowRunFilter,
    FlowRunFilterId,
    FlowRunFilterName,
    FlowRunFilterState,
    FlowRunFilterStateType,
)
from prefect.client.schemas.objects import FlowRun, StateType
from prefect.deployments import run_deployment
from prefect.exceptions import PrefectHTTPStatusError
from prefect.states import Crashed, Running

from heartwatch.produce.dispatch import ShardRun
from heartwatch.produce.shards import Shard
from heartwatch.produce.spec import RunSpec

_DEPLOYMENT = "produce-shard/produce-shard"
_RUNS_ASKED = 200  # Prefect's server gives no more of them at a time
_PATIENCE_SECONDS = 300.0  # longer than a restart of Prefect's server, or of its database, takes
_PAUSE_SECONDS = 2.0
_SERVER_ERROR = 500

Answer = TypeVar("Answer")


def patiently(ask: Callable[[], Answer]) -> Answer:
    """Ask Prefect's server until it answers.

    Args:
        ask: asks it; safe to run again.

    Raises:
        httpx.TransportError: there was no answer for minutes.
        PrefectHTTPStatusError: it refuses the question, or could not work for minutes.
    """
    deadline = time.monotonic() + _PATIENCE_SECONDS
    while True:
        try:
            return ask()
        except (httpx.TransportError, PrefectHTTPStatusError) as error:
            refused = isinstance(error, PrefectHTTPStatusError) and error.response.status_code < _SERVER_ERROR
            if refused or time.monotonic() > deadline:
                raise
            time.sleep(_PAUSE_SECONDS)


def planned_spec(client: SyncPrefectClient, run_id: str) -> RunSpec | None:
    """Return the description of a run whose shards were sent out before; None where none was.

    Args:
        client: open client of Prefect's server.
        run_id: names the run.
    """
    first = FlowRunFilter(name=FlowRunFilterName(any_=[_name(run_id, 0, 1)]))
    found = patiently(lambda: client.read_flow_runs(flow_run_filter=first, limit=1))
    return RunSpec.model_validate(found[0].parameters["spec"]) if found else None


def running_specs(client: SyncPrefectClient) -> list[RunSpec]:
    """Return the descriptions of the runs whose shards are being sent, once for each of the shards.

    Args:
        client: open client of Prefect's server.

    Raises:
        httpx.HTTPError: Prefect's server can't be asked.
    """
    flow = FlowFilter(name=FlowFilterName(any_=[_DEPLOYMENT.partition("/")[0]]))
    running = FlowRunFilter(state=FlowRunFilterState(type=FlowRunFilterStateType(any_=[StateType.RUNNING])))
    runs = client.read_flow_runs(flow_filter=flow, flow_run_filter=running)
    return [RunSpec.model_validate(run.parameters["spec"]) for run in runs]


def _name(run_id: str, shard: int, attempt: int) -> str:
    return f"{run_id}-shard-{shard}" + (f"-attempt-{attempt}" if attempt > 1 else "")


class PrefectShardRuns:
    """Runs shards through the deployment `produce-shard` (see `heartwatch.produce.dispatch.ShardRuns`)."""

    def __init__(self, client: SyncPrefectClient, own: UUID | None = None) -> None:
        """Prepare.

        Args:
            client: open client of Prefect's server; whoever gives it closes it.
            own: the flow run that dispatches; None outside of one.
        """
        self._client, self._own = client, own

    def submit(self, spec: RunSpec, shard: Shard, attempt: int, queue: str | None) -> UUID:
        """Start a flow run of `produce-shard`, as a subflow of the flow run that calls.

        Args:
            spec: the run of which the shard is a part.
            shard: which part.
            attempt: how often the shard was sent out, this time included; the same attempt starts no second flow run.
            queue: work queue; None for the pool's default one.
        """
        run = patiently(
            lambda: run_deployment(
                _DEPLOYMENT,
                parameters={"spec": spec.model_dump(mode="json"), "shard": shard.index},
                flow_run_name=_name(spec.run_id, shard.index, attempt),
                timeout=0,
                work_queue_name=queue,
                idempotency_key=f"{spec.run_id}/{shard.index}/{attempt}",
                as_subflow=True,
            )
        )
        assert isinstance(run, FlowRun)  # noqa: S101 - called outside an event loop it is no coroutine
        return run.id

    def states(self, run_ids: Sequence[UUID]) -> Mapping[UUID, ShardRun]:
        """Return the flow runs that have a state, by id.

        Raises:
            httpx.HTTPError: Prefect's server can't be asked.
        """
        found: dict[UUID, ShardRun] = {}
        for begin in range(0, len(run_ids), _RUNS_ASKED):
            wanted = FlowRunFilter(id=FlowRunFilterId(any_=list(run_ids[begin : begin + _RUNS_ASKED])))
            for run in self._client.read_flow_runs(flow_run_filter=wanted):
                if run.state is not None:
                    found[run.id] = ShardRun(
                        name=run.name,
                        state=run.state.type.value,
                        entered_at=run.state.timestamp.timestamp(),
                        final=run.state.is_final(),
                        pid=run.infrastructure_pid,
                    )
        return found

    def cancel(self, run_id: UUID, reason: str) -> None:
        """Set a flow run's state to Crashed, whatever it is.

        Args:
            run_id: which.
            reason: why, for people.
        """
        patiently(lambda: self._client.set_flow_run_state(run_id, Crashed(message=reason), force=True))

    def reclaim(self) -> str:
        """Set this run's state to Running where it was marked as crashed.

        Returns:
            why it was; empty where it wasn't.

        Raises:
            httpx.HTTPError: Prefect's server can't be asked.
        """
        if self._own is None:
            return ""
        state = self._client.read_flow_run(self._own).state
        if state is None or not state.is_crashed():
            return ""
        self._client.set_flow_run_state(self._own, Running(message="its process was alive all the time"), force=True)
        return state.message or "no reason was given"
