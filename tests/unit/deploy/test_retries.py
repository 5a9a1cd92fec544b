"""Which failures of a deploy are repeated."""

from __future__ import annotations

import pytest

from heartwatch.connect import ConnectError, InvalidConnectorError
from heartwatch.deploy.plan import DeployError, RefusedPlanError
from heartwatch.deploy.retries import may_pass
from heartwatch.postgres import PostgresError
from kafkakit.admin import KafkaClientError
from kafkakit.registry import CompatibilityNotKeptError, IncompatibleSchemaError, RegistryError
from ksqlengine.client.rest_client import KsqldbUnavailableError, StatementRefusedError


@pytest.mark.parametrize("kind", [KafkaClientError, RegistryError, ConnectError, KsqldbUnavailableError, PostgresError])
def test_a_system_that_could_not_be_asked_may_answer_later(kind: type[Exception]) -> None:
    error = DeployError("the topics could not be made")
    error.__cause__ = kind.__new__(kind)
    assert may_pass(error)
    assert may_pass(kind.__new__(kind))


@pytest.mark.parametrize(
    "kind",
    [
        InvalidConnectorError,
        IncompatibleSchemaError,
        CompatibilityNotKeptError,
        StatementRefusedError,
        RefusedPlanError,
        ValueError,
    ],
)
def test_what_is_wrong_stays_wrong(kind: type[Exception]) -> None:
    error = DeployError("the plan is refused")
    error.__cause__ = kind.__new__(kind)
    assert not may_pass(error)
    assert not may_pass(kind.__new__(kind))
