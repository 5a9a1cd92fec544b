"""Servers that are there already do the work of parts that then aren't the platform's, and everybody gets their addresses."""

from __future__ import annotations

from pathlib import Path

import pytest

from heartwatch.platform.elsewhere import REPLACED_GROUPS, Elsewhere
from heartwatch.platform.errors import PartError
from heartwatch.platform.platform import Platform
from heartwatch.platform.services import all_parts, dependencies
from heartwatch.platform.services.base import platform_context
from heartwatch.platform.services.connect import worker_properties
from heartwatch.platform.state import PlatformState, read_state, write_state

ELSEWHERE = Elsewhere("b1:9092,b2:9092", "http://registry:8081", ["http://ksql:8088"], 2, "/plugins")


def test_parts_that_are_elsewhere_are_nobodys_to_wait_for() -> None:
    parts = all_parts(elsewhere=True)
    assert {part.group for part in parts.values()}.isdisjoint(REPLACED_GROUPS)
    assert {part.group for part in all_parts().values()} >= REPLACED_GROUPS
    waits_for = {group for groups in dependencies(parts, parts).values() for group in groups}
    assert waits_for <= set(parts)


def test_they_are_remembered_and_used(tmp_path: Path) -> None:
    write_state(tmp_path, PlatformState(elsewhere=ELSEWHERE, ports={"connect": 8083}))
    state = read_state(tmp_path)
    assert state is not None
    assert state.elsewhere == ELSEWHERE
    context = platform_context(tmp_path, state)
    properties = worker_properties(context)
    assert properties["bootstrap.servers"] == "b1:9092,b2:9092"
    assert str(properties["plugin.path"]).endswith(",/plugins")
    with pytest.raises(PartError, match="'engine' is not a part"):
        Platform(tmp_path, ["engine"])


def test_topics_keep_as_many_copies_as_there_are_brokers() -> None:
    found = ELSEWHERE.endpoints()["kafka"]
    assert (found["replication_factor"], found["min_insync_replicas"]) == (2, 1)
