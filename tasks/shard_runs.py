"""The producers' flow runs on Prefect's server, as the dispatcher needs them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from uuid import UUID

from prefect.client.orchestration import SyncPrefectClient
from prefect.client.schemas.filters import FlowRunFilter, FlowRunFilterId
from prefect.client.schemas.objects import FlowRun
from prefect.deployments import run_deployment
from prefect.states import Crashed

from heartwatch.produce.dispatch import ShardRun
from heartwatch.produce.shards import Shard
from heartwatch.produce.spec import RunSpec

_DEPLOYMENT = "produce-shard/produce-shard"
_RUNS_ASKED = 200  # Prefect's server gives no more of them at a time


class PrefectShardRuns:
    """Runs shards through the deployment `produce-shard` (see `heartwatch.produce.dispatch.ShardRuns`)."""

    def __init__(self, client: SyncPrefectClient) -> None:
        """Prepare.

        Args:
            client: open client of Prefect's server; whoever gives it closes it.
        """
        self._client = client

    def submit(self, spec: RunSpec, shard: Shard, attempt: int, queue: str | None) -> UUID:
        """Start a flow run of `produce-shard`, as a subflow of the flow run that calls.

        Args:
            spec: the run of which the shard is a part.
            shard: which part.
            attempt: how often the shard was sent out, this time included; the same attempt starts no second flow run.
            queue: work queue; None for the pool's default one.
        """
        run = run_deployment(
            _DEPLOYMENT,
            parameters={"spec": spec.model_dump(mode="json"), "shard": shard.index},
            flow_run_name=f"{spec.run_id}-shard-{shard.index}" + (f"-attempt-{attempt}" if attempt > 1 else ""),
            timeout=0,
            work_queue_name=queue,
            idempotency_key=f"{spec.run_id}/{shard.index}/{attempt}",
            as_subflow=True,
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
        self._client.set_flow_run_state(run_id, Crashed(message=reason), force=True)
