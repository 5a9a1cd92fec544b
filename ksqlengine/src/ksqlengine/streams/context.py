"""What a stage is run with: its surroundings, its query's options, and the errors that end one of its lives."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from enum import Enum

from kafkakit import avro_codec
from kafkakit.settings import KafkaSettings
from ksqlengine.errors import KsqlEngineError
from ksqlengine.execution.stages import Stage
from ksqlengine.execution.writers import WriteSchemas
from ksqlengine.internal_names import is_internal, query_group
from ksqlengine.plan.steps import SourceKind, SourceStep
from ksqlengine.streams.metrics import QueryMetrics

BATCH_ROWS = 32_768
POLL_SECONDS = 0.1
REQUEST_SECONDS = 30.0
TRANSACTION_TIMEOUT_MS = 20_000  # so long a process that is gone for good blocks the readers of its results
_INPUT_COMMIT_SECONDS = 1.0  # without results only a restart's re-reading depends on it


class Guarantee(Enum):
    """KSQL's ``processing.guarantee``."""

    EXACTLY_ONCE = "exactly_once_v2"
    AT_LEAST_ONCE = "at_least_once"


class Status(Enum):
    """State of a query, as SHOW QUERIES prints it."""

    RUNNING = "RUNNING"
    PAUSED = "PAUSED"
    ERROR = "ERROR"


@dataclass(frozen=True)
class QueryOptions:
    """What a query's properties come to.

    Attributes:
        guarantee: exactly once, or at least once.
        reset: where a partition without a committed offset begins.
        commit_seconds: longest time without a commit, s.
    """

    guarantee: Guarantee = Guarantee.EXACTLY_ONCE
    reset: str = "latest"
    commit_seconds: float = _INPUT_COMMIT_SECONDS

    def reads_from_beginning(self, source: SourceStep) -> bool:
        """Say whether a partition without a commit is read from its beginning: tables are, and topics of our own."""
        return self.reset == "earliest" or source.kind is SourceKind.TABLE or is_internal(source.topic)


@dataclass(frozen=True)
class StageContext:
    """What a stage needs of its surroundings.

    Attributes:
        kafka: brokers.
        service_id: prefix of groups and internal topics.
        instance: name of this engine process, the same after a restart: it fences what the dead process left open.
        query_id: the query.
        options: its options.
        prepare: makes the query's own topics where they aren't there.
        schemas: gives the Avro schema of an id.
        write_schemas: registers (or finds) what a stage writes with.
        metrics: the query's counts.
    """

    kafka: KafkaSettings
    service_id: str
    instance: str
    query_id: str
    options: QueryOptions
    prepare: Callable[[], None]
    schemas: Callable[[int], avro_codec.AvroSchema]
    write_schemas: Callable[[Stage], WriteSchemas]
    metrics: QueryMetrics

    def group(self, stage: Stage) -> str:
        """Return a stage's consumer group."""
        return query_group(self.service_id, self.query_id, stage.name)


class AssignmentLostError(KsqlEngineError):
    """The group gave this process's partitions away while it was cut off; what it did since can't be committed."""


class UndeliveredError(KsqlEngineError):
    """Results could not be written, so the positions may not be committed."""


class ForgottenRecordsError(KsqlEngineError):
    """Records that a query's state must be rebuilt from are gone."""
