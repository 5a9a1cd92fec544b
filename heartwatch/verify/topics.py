"""The pipeline's topics, read and decoded; and what has to be there before a run begins."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import polars as pl
from psycopg2 import sql

from heartwatch.analytic import Analytic
from heartwatch.errors import HeartWatchError
from heartwatch.postgres import execute
from heartwatch.settings import Settings
from heartwatch.verify.batch import Topic, decode_topic, latest_rows
from kafkakit.admin import KafkaAdmin
from kafkakit.avro_codec import Decoder, parse
from kafkakit.registry import Registry
from kafkakit.topic_reader import committed_ranges, read_ranges
from kafkakit.waiting import Patience
from kafkakit.writer_schemas import schema_lookup

Offsets = dict[str, dict[int, int]]
"""By topic, as the analytic's file names it, and partition: the offset at which a run began."""

_POLL_SECONDS = 0.5


class NotReadyError(HeartWatchError):
    """Something did not become ready in time; the message says what, how far it came and where to look."""


@dataclass(frozen=True)
class PipelineTopics:
    """Reads the topics of a pipeline version.

    Attributes:
        settings: where the brokers and the registry are.
        analytic: whose topics.
        admin: client of the brokers.
    """

    settings: Settings
    analytic: Analytic
    admin: KafkaAdmin

    @classmethod
    def of(cls, settings: Settings) -> PipelineTopics:
        """Return the topics of the settings' pipeline version."""
        return cls(settings, Analytic.of(settings.pipeline), KafkaAdmin(settings.kafka))

    def read(self, resource: str, ranges: Mapping[int, tuple[int, int]] | None = None) -> Topic:
        """Read and decode a topic.

        Args:
            resource: topic, as the analytic's file names it.
            ranges: by partition, the first offset and the one after the last; None for all that is committed.

        Raises:
            TopicError: the topic can't be read.
        """
        name, definition = self.analytic.topic(resource), self.analytic.topics[resource]
        chosen = ranges if ranges is not None else committed_ranges(self.admin, name)
        decoder = Decoder(parse(self.analytic.schema_text(resource)), schema_lookup(Registry(self.settings.registry)))
        return decode_topic(read_ranges(self.settings.kafka, name, chosen), decoder, definition.windowed_key)

    def since(self, resource: str, offsets: Mapping[int, int]) -> dict[int, tuple[int, int]]:
        """Return the ranges from given offsets to a topic's end now.

        Args:
            resource: topic, as the analytic's file names it.
            offsets: by partition; a partition without one is read from its beginning.
        """
        ends = committed_ranges(self.admin, self.analytic.topic(resource))
        return {partition: (max(first, offsets.get(partition, 0)), end) for partition, (first, end) in ends.items()}


def note_offsets(settings: Settings, resources: Sequence[str]) -> Offsets:
    """Return where some topics end now: what comes later belongs to the run that begins.

    Args:
        settings: where the brokers are.
        resources: topics, as the analytic's file names them.

    Raises:
        UnknownTopicError: a topic isn't deployed.
    """
    analytic, admin = Analytic.of(settings.pipeline), KafkaAdmin(settings.kafka)
    found: Offsets = {}
    for resource in resources:
        ends = admin.offsets([analytic.topic(resource)], "latest")
        found[resource] = {partition: end for (_, partition), end in ends.items()}
    return found


def wait_for_table(settings: Settings, deadline_seconds: float) -> int:
    """Wait until the table's topic has each row of the database's table, and return how many there are.

    An INNER join drops an event whose row comes later: the events must not be sent before.

    Args:
        settings: where the brokers, the registry and the database are.
        deadline_seconds: how long the source connector may bring no further row, s.

    Raises:
        NotReadyError: rows are missing or different, and no further one has come before the deadline.
    """
    topics = PipelineTopics.of(settings)
    table = topics.analytic.table
    fields = [field["name"] for field in parse(topics.analytic.schema_text(table))["fields"]]
    wanted = _database_rows(settings, fields)
    patience = Patience(deadline_seconds)
    while True:
        found = pl.from_arrow(latest_rows(topics.read(table)).select(fields))
        assert isinstance(found, pl.DataFrame)  # noqa: S101 - a table never becomes a series
        missing = wanted.join(found.cast(wanted.schema), on=fields, how="anti").height
        if not missing:
            return wanted.height
        if patience.left(missing) < 0:
            raise NotReadyError(
                f"{missing} of {wanted.height} rows of table {settings.postgres.historical_table!r} are not in topic "
                f"{topics.analytic.table_topic!r}, and no further one has come for {deadline_seconds:g} s; "
                "see the source connector's log"
            )
        time.sleep(_POLL_SECONDS)


def _database_rows(settings: Settings, fields: Sequence[str]) -> pl.DataFrame:
    columns = sql.SQL(", ").join(map(sql.Identifier, fields))
    table = sql.Identifier("public", settings.postgres.historical_table)
    rows = execute(settings.postgres, sql.SQL("SELECT {} FROM {}").format(columns, table))
    return pl.DataFrame(rows, schema=list(fields), orient="row", infer_schema_length=None)
