"""The order in which streams and tables go, and that nothing of another version is among them."""

from heartwatch.deploy.teardown import Footprint, order_sources
from heartwatch.ksqldb import Source


def source(name: str, topic: str, kind: str = "STREAM") -> Source:
    return Source(name, kind, topic, "KAFKA", "AVRO", False)


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
