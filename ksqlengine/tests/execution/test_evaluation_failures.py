"""Rows for which an expression can't be computed: NULL there, and told with ksqlDB's words."""

from __future__ import annotations

import json

from ksqlengine.language.lexer import split_statements
from ksqlengine.server.in_memory import InMemoryEngine, StoredRecord
from ksqlengine.streams import processing_log

SQL = """
    CREATE STREAM s (k STRING KEY, a INT, b STRING) WITH (KAFKA_TOPIC='s', VALUE_FORMAT='JSON');
    CREATE STREAM t AS SELECT k, 10 / a AS q, CAST(b AS INT) AS n FROM s WHERE 10 / a <> 7 OR a = 0;
    CREATE TABLE u AS SELECT CAST(b AS INT) AS g, COUNT(*) AS c FROM s GROUP BY CAST(b AS INT);
"""
ROWS = [b'{"A": 5, "B": "1"}', b'{"A": 0, "B": "2"}', b'{"A": null, "B": "x"}', b'{"A": 2, "B": null}', b"null"]


def test_failures_are_noted_with_their_step_and_leave_null() -> None:
    driver = InMemoryEngine({}, {})
    for statement in split_statements(SQL):
        driver.execute(statement)
    stream, table = driver.queries.values()
    records = [StoredRecord(b"k", row, 0) for row in ROWS[:4]]
    written = stream.pipe("s", records, 0)
    assert [json.loads(one.value or b"null") for one in written] == [{"Q": 2, "N": 1}, {"Q": 5, "N": None}]
    found = [(one.offset, one.failure.step, one.reason) for one in stream.rejects if one.failure is not None]
    assert found == [(1, "WhereFilter", "Error evaluating predicate (((10 / A) <> 7) OR (A = 0)): / by zero")]
    table.pipe("s", records, 0)
    (failure,) = [one for one in table.rejects if one.failure is not None]
    assert (failure.offset, failure.failure and failure.failure.step) == (2, "PartitionBy")


def test_the_log_has_ksqldbs_shape() -> None:
    driver = InMemoryEngine({}, {})
    for statement in split_statements(SQL):
        driver.execute(statement)
    (stream, *_) = driver.queries.values()
    stream.pipe("s", [StoredRecord(b"k", b'{"A": 1, "B": "x"}', 0)], 7)
    (failed,) = stream.rejects
    entry = json.loads(processing_log.entry("CSAS_T_1", failed, 99))
    assert (entry["level"], entry["logger"], entry["time"]) == ("ERROR", "processing.CSAS_T_1.Project", 99)
    assert entry["message"] == {
        "type": 1,
        "deserializationError": None,
        "recordProcessingError": {
            "errorMessage": "Error computing expression CAST(B AS INTEGER) for column N with index 2",
            "record": None,
            "cause": ["Cast of STRING to INTEGER failed"],
        },
        "productionError": None,
        "serializationError": None,
        "kafkaStreamsThreadError": None,
    }
