"""How the producers' flow runs are asked for."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any
from uuid import UUID

from prefect.client.schemas.filters import FlowRunFilter
from prefect.client.schemas.objects import State
from prefect.states import Completed, Pending

from tasks.shard_runs import PrefectShardRuns

_LIMIT = 200


class Client:
    """Gives flow runs, at most as many at a time as Prefect's server."""

    def __init__(self, state: State[Any] | None) -> None:
        self._state = state

    def read_flow_runs(self, flow_run_filter: FlowRunFilter) -> list[Any]:
        assert flow_run_filter.id is not None
        assert flow_run_filter.id.any_ is not None
        return [
            SimpleNamespace(id=run_id, name=f"run-{run_id}", state=self._state, infrastructure_pid="7")
            for run_id in flow_run_filter.id.any_[:_LIMIT]
        ]


def runs_of(state: State[Any] | None) -> PrefectShardRuns:
    client: Any = Client(state)
    return PrefectShardRuns(client)


def test_each_of_very_many_shards_is_looked_at() -> None:
    shown = [UUID(int=number) for number in range(2 * _LIMIT + 50)]
    assert runs_of(Pending()).states(shown).keys() == set(shown)


def test_a_run_is_seen_with_its_state_and_process() -> None:
    state = Completed()
    (run,) = runs_of(state).states([UUID(int=1)]).values()
    assert (run.name, run.state, run.final, run.pid) == (f"run-{UUID(int=1)}", "COMPLETED", True, "7")
    assert run.entered_at == state.timestamp.timestamp()
    assert not runs_of(Pending()).states([UUID(int=1)])[UUID(int=1)].final
    assert runs_of(None).states([UUID(int=1)]) == {}, "a run without a state says nothing"
