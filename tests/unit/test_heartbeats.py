"""Heartbeats land on every partition, and are told from people's records by key and by header."""

from __future__ import annotations

import json

import numpy as np
import polars as pl
import pyarrow as pa
import pytest

from heartwatch.analytic import Analytic
from heartwatch.heartbeats import (
    HEADER,
    KEY_PREFIX,
    are_heartbeats,
    heartbeat_keys,
    without_heartbeats,
)
from heartwatch.settings import ROOT
from kafkakit.avro_codec import arrow_schema, parse
from kafkakit.partitioning import partitions_of
from kafkakit.topic_reader import Records


@pytest.mark.parametrize("partitions", [1, 2, 8, 30, 300])
def test_every_partition_has_a_reserved_user_of_its_own(partitions: int) -> None:
    keys = heartbeat_keys(partitions)
    assert partitions_of(pa.array(keys), partitions).tolist() == list(range(partitions))
    assert all(key.startswith(KEY_PREFIX) for key in keys)
    assert heartbeat_keys(partitions) == keys


def test_keys_tell_heartbeats_from_people_whatever_their_type() -> None:
    keys = ["7", "heartbeat-7", None, "heart"]
    expected = [False, True, False, False]
    binary = [key.encode() if key else None for key in keys]
    for array in (pa.array(keys), pa.chunked_array([keys]), pa.array(binary), pa.array(binary, pa.large_binary())):
        assert are_heartbeats(array).tolist() == expected
    assert are_heartbeats(pl.Series(keys).to_arrow()).tolist() == expected


def test_records_are_left_as_they_are_but_for_heartbeats() -> None:
    keys = pa.array([b"1", b"heartbeat-4", b"2"], pa.large_binary())
    values = pa.array([b"a", b"b", None], pa.large_binary())
    records = Records(np.array([0, 0, 1], np.int32), np.array([5, 6, 7]), np.array([50, 60, 70]), keys, values)
    found = without_heartbeats(records)
    assert (found.partition.tolist(), found.offset.tolist(), found.timestamp.tolist()) == ([0, 1], [5, 7], [50, 70])
    assert (found.key.to_pylist(), found.value.to_pylist()) == ([b"1", b"2"], [b"a", None])
    assert without_heartbeats(found) is found


@pytest.mark.parametrize("analytic", sorted(path.parent.name for path in (ROOT / "schemas").glob("*/analytic.toml")))
def test_an_analytics_heartbeats_fit_its_schemas_and_stay_out_of_its_sinks(analytic: str) -> None:
    found = Analytic.load(analytic, 1)
    assert found.heartbeat is not None
    for resource, fields in ((found.stream, found.heartbeat.stream), (found.table, found.heartbeat.table)):
        topic = found.topics[resource]
        schema = arrow_schema(parse(found.schema_text(resource)))
        row = {topic.key: "heartbeat-1", **({topic.event_time: 1} if topic.event_time else {}), **fields}
        assert set(row) == set(schema.names)
        pa.RecordBatch.from_pylist([row], schema=schema).validate(full=True)
    sink = json.loads((found.connectors_folder / f"{found.stream}_sink.json").read_text(encoding="utf-8"))
    filtering = [name for name in sink["transforms"].split(",") if sink[f"transforms.{name}.type"].endswith("Filter")]
    assert filtering
    predicate = sink[f"transforms.{filtering[0]}.predicate"]
    assert sink[f"predicates.{predicate}.type"].endswith("HasHeaderKey")
    assert sink[f"predicates.{predicate}.name"] == HEADER
