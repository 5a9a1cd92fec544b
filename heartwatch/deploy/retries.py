"""Which failures of a deploy are worth a repetition."""

from __future__ import annotations

from heartwatch.connect import ConnectError, InvalidConnectorError
from heartwatch.postgres import PostgresError
from kafkakit.admin import KafkaClientError
from kafkakit.registry import CompatibilityNotKeptError, IncompatibleSchemaError, RegistryError
from ksqlengine.client.rest_client import KsqldbUnavailableError

_PASSING = (KafkaClientError, RegistryError, ConnectError, KsqldbUnavailableError, PostgresError)
_LASTING = (InvalidConnectorError, IncompatibleSchemaError, CompatibilityNotKeptError)


def may_pass(error: Exception) -> bool:
    """Return whether something failed because a system could not be asked; a wrong file or a refused change stays wrong.

    Args:
        error: what a deploy raised; its cause counts where it has one.
    """
    cause = error.__cause__ or error
    return isinstance(cause, _PASSING) and not isinstance(cause, _LASTING)
