"""How the dispatcher looks after the producers' flow runs."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any
from uuid import UUID

from prefect.client.schemas.filters import FlowRunFilter

from tasks.produce import Dispatcher

_LIMIT = 200


class Client:
    """Gives flow runs, at most as many at a time as Prefect's server."""

    def read_flow_runs(self, flow_run_filter: FlowRunFilter) -> list[Any]:
        assert flow_run_filter.id is not None
        assert flow_run_filter.id.any_ is not None
        return [SimpleNamespace(id=run_id) for run_id in flow_run_filter.id.any_[:_LIMIT]]


def test_each_of_very_many_shards_is_looked_at() -> None:
    dispatcher: Any = object.__new__(Dispatcher)
    shown: Any = [SimpleNamespace(run_id=UUID(int=number)) for number in range(2 * _LIMIT + 50)]
    client: Any = Client()
    assert dispatcher._read_runs(client, shown).keys() == {one.run_id for one in shown}
