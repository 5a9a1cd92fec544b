"""The order in which streams and tables go, and that nothing of another version is among them."""

from types import SimpleNamespace
from typing import Any, cast

from heartwatch.deploy.plan import deletions
from heartwatch.deploy.teardown import Clients, Footprint, Teardown, groups_of, order_sources, tear_down
from ksqlengine.client.rest_client import QueryInfo, SourceInfo, StatementRefusedError


def source(name: str, topic: str, kind: str = "STREAM") -> SourceInfo:
    return SourceInfo(name, kind, topic, "KAFKA", "AVRO", False)


def test_readers_go_before_what_they_read():
    footprint = Footprint(("a_v1", "b_v1"), {}, ("A_V1", "B_V1"))
    there = [
        source("A_V1", "a_v1"),
        source("A_V2", "a_v2"),
        source("B_V1", "b_v1"),
        source("BY_HAND", "a_v1"),
        source("X", "x"),
    ]
    assert [one.name for one in order_sources(there, footprint)] == ["BY_HAND", "B_V1", "A_V1"]


def test_groups_of_a_version_whose_number_begins_alike_stay() -> None:
    mine = ["connect-a_sink_v1", "connect-a_sink_v1-coord", "cg-control-a_sink_v1", "cg-control-connect-a_sink_v1-1"]
    others = [
        "connect-a_sink_v12",
        "connect-a_sink_v12-coord",
        "cg-control-a_sink_v10",
        "connect-b_sink_v1",
        "a_sink_v1",
    ]
    assert groups_of(["a_sink_v1"], [*others, *mine]) == mine


class Ksqldb:
    """A server that refuses to end a query that it doesn't have, as ksqlDB does."""

    def __init__(self) -> None:
        self.running = ["CTAS_1"]

    def queries(self) -> list[QueryInfo]:
        return [QueryInfo(one, "RUNNING", (), (), "") for one in self.running]

    def execute(self, sql: str) -> list[Any]:
        query = sql.removeprefix("TERMINATE ").rstrip(";")
        if query not in self.running:
            raise StatementRefusedError(40001, f"Unknown queryId: {query}", sql)
        self.running.remove(query)
        return []


def test_a_tear_down_is_repeated_from_its_beginning() -> None:
    ksqldb = Ksqldb()
    clients = SimpleNamespace(
        kafka=None, registry=SimpleNamespace(delete=None), connect=None, ksqldb=ksqldb, postgres=None
    )
    teardown = Teardown(cast("Clients", clients), Footprint((), {}, ()), iceberg_tables=False)
    plan = deletions("query", ["CTAS_1"], "works on the version's streams and tables")
    for _ in range(2):
        tear_down(plan, teardown)
    assert not ksqldb.running
