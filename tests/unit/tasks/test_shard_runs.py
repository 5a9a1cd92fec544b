"""How the producers' flow runs are asked for."""

from __future__ import annotations

from collections.abc import Callable
from types import SimpleNamespace
from typing import Any
from uuid import UUID

import httpx
import pytest
from prefect.client.schemas.filters import FlowRunFilter
from prefect.client.schemas.objects import State
from prefect.exceptions import PrefectHTTPStatusError
from prefect.states import Completed, Crashed, Pending, Running

from heartwatch.produce.spec import RunSpec
from tasks import shard_runs
from tasks.shard_runs import PrefectShardRuns, patiently, planned_spec

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


class OwnRun:
    """Keeps the state of the run that dispatches."""

    def __init__(self, state: State[Any]) -> None:
        self.state = state

    def read_flow_run(self, _: UUID) -> Any:
        return SimpleNamespace(state=self.state)

    def set_flow_run_state(self, _: UUID, state: State[Any], force: bool) -> None:
        assert force
        self.state = state


def test_a_run_that_was_marked_as_crashed_is_running_again_and_no_other_state_is_touched() -> None:
    client: Any = OwnRun(Crashed(message="no heartbeat"))
    runs = PrefectShardRuns(client, UUID(int=1))
    assert runs.reclaim() == "no heartbeat"
    assert client.state.is_running()
    assert runs.reclaim() == ""
    for state in (Running(), Completed()):
        client.state = state
        assert (runs.reclaim(), client.state) == ("", state)
    assert PrefectShardRuns(client).reclaim() == "", "outside of a flow run there is nothing to say"


def test_a_run_that_comes_back_finds_the_description_that_its_shards_have() -> None:
    spec = RunSpec(run_id="r", partitions=4, processes=2, seed=7)

    def read(flow_run_filter: FlowRunFilter, limit: int) -> list[Any]:
        assert flow_run_filter.name is not None
        known = flow_run_filter.name.any_ == ["r-shard-0"]
        return [SimpleNamespace(parameters={"spec": spec.model_dump(mode="json"), "shard": 0})][: limit * known]

    client: Any = SimpleNamespace(read_flow_runs=read)
    assert planned_spec(client, "r") == spec
    assert planned_spec(client, "other") is None


def status_error(code: int) -> PrefectHTTPStatusError:
    request = httpx.Request("POST", "http://127.0.0.1")
    return PrefectHTTPStatusError(str(code), request=request, response=httpx.Response(code, request=request))


def failing(*errors: Exception) -> Callable[[], str]:
    left = list(errors)

    def ask() -> str:
        if left:
            raise left.pop(0)
        return "answer"

    return ask


def test_a_server_that_is_away_is_asked_again_and_a_refusal_is_final(monkeypatch: pytest.MonkeyPatch) -> None:
    pauses: list[float] = []
    monkeypatch.setattr(shard_runs.time, "sleep", pauses.append)
    assert patiently(failing(httpx.ConnectError("away"), status_error(503))) == "answer"
    assert len(pauses) == 2
    with pytest.raises(PrefectHTTPStatusError, match="404"):
        patiently(failing(status_error(404)))
    monkeypatch.setattr(shard_runs, "_PATIENCE_SECONDS", -1)
    with pytest.raises(httpx.ConnectError):
        patiently(failing(httpx.ConnectError("away")))
