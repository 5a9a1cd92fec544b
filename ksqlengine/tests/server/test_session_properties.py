"""Properties of sessions and of requests: which there are, and what is said of wrong ones."""

from __future__ import annotations

import pytest

from ksqlengine.server.session_properties import is_known, of_request, with_changes
from ksqlengine.types.errors import KsqlError, StatementError


@pytest.mark.parametrize(
    "name",
    [
        "auto.offset.reset", "ksql.streams.auto.offset.reset", "ksql.streams.consumer.max.poll.records", "ksql.service.id",
        "ksql.functions.substring.legacy.args", "cache.max.bytes.buffering", "ksql.query.pull.max.qps", "producer.linger.ms",
    ],
)  # fmt: skip
def test_known(name: str) -> None:
    assert is_known(name)


@pytest.mark.parametrize("name", ["nope", "ksql.nope", "ksql.streams.nope", "Auto.Offset.Reset", ""])
def test_unknown(name: str) -> None:
    assert not is_known(name)
    with pytest.raises(StatementError, match=f"^Unknown property: {name}$"):
        with_changes({}, {name: "1"})
    with pytest.raises(StatementError, match="Not recognizable as ksql, streams, consumer, or producer") as caught:
        of_request({}, {name: "1"})
    assert caught.value.error_code == 50000


@pytest.mark.parametrize(
    ("name", "value", "problem"),
    [
        ("processing.guarantee", "x", "processing.guarantee: String must be one of: at_least_once, exactly_once_v2"),
        ("processing.guarantee", "exactly_once", "processing.guarantee: String must be one of"),
        ("ksql.streams.num.stream.threads", "x", "num.stream.threads: Not a number of type INT"),
        ("commit.interval.ms", "0", "commit.interval.ms: Value must be at least 1"),
        ("ksql.suppress.enabled", "ja", "ksql.suppress.enabled: Expected value to be either true or false"),
        ("auto.offset.reset", "bogus", "auto.offset.reset: Invalid value `bogus` for configuration auto.offset"),
    ],
)  # fmt: skip
def test_wrong_values(name: str, value: str, problem: str) -> None:
    with pytest.raises(StatementError) as caught:
        with_changes({}, {name: value})
    assert caught.value.message.startswith(f"Invalid value {value} for configuration {problem}")
    with pytest.raises(KsqlError) as refused:
        of_request({}, {name: value})
    assert not isinstance(refused.value, StatementError)
    first, cause = refused.value.message.split("\n", 1)
    assert first == f"Failed to coerce type of value '{value}' for key '{name}'"
    assert all(len(line) <= 80 for line in cause.split("\n\t"))
    assert cause.replace("\n\t", " ").startswith(f"Caused by: Invalid value {value} for configuration {problem}")


def test_changes_are_kept_under_one_name() -> None:
    changed = with_changes({"auto.offset.reset": "latest"}, {"ksql.streams.auto.offset.reset": "earliest"})
    assert changed == of_request({}, {"consumer.auto.offset.reset": "earliest"}) == {"auto.offset.reset": "earliest"}
