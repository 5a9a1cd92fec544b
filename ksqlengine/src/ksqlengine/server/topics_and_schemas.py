"""Topics and schemas that statements need: checked before anything is changed, made before a query starts."""

from __future__ import annotations

import io
from collections.abc import Iterable, Mapping, Sequence
from contextlib import closing, suppress
from dataclasses import dataclass, replace
from typing import Any, cast

import fastavro
import orjson

from kafkakit import avro_codec
from kafkakit.admin import KafkaAdmin, OffsetReader, TopicExistsError, TopicState
from kafkakit.avro_bodies import body_reader
from kafkakit.registry import IncompatibleSchemaError, NotRegisteredError, Registry, RegistryError
from kafkakit.settings import KafkaSettings, RegistrySettings
from kafkakit.writer_schemas import WriterSchemas
from ksqlengine.execution.stages import SinkSpec, Stage, stages
from ksqlengine.execution.writers import WriteSchemas
from ksqlengine.formats.avro import avro_of_schema
from ksqlengine.internal_names import reader_group
from ksqlengine.plan.catalog import Source, source_steps
from ksqlengine.plan.steps import Column, Format, QueryPlan
from ksqlengine.planning.canonical import ResultTopic
from ksqlengine.planning.with_clause import Properties
from ksqlengine.streams.changelog import CHANGELOG_BYTES
from ksqlengine.types.errors import BAD_REQUEST, SERVER_ERROR, KsqlError, StatementError


class RecordedSchemas:
    """The registry as the analyzer sees it; keeps every answer, so a command can carry what it was checked against."""

    def __init__(self, registry: Registry, answers: Mapping[str, Any] | None = None) -> None:
        """Begin with answers of an earlier time, which are not asked for again."""
        self._registry = registry
        self.answers: dict[str, Any] = dict(answers or {})

    def latest(self, subject: str) -> tuple[int, str] | None:
        """Return (id, Avro schema) of a subject's latest version, None where there is none."""
        if subject not in self.answers:
            try:
                found = self._registry.latest(subject)
                self.answers[subject] = [found.schema_id, self._text(found.schema_id)]
            except NotRegisteredError:
                self.answers[subject] = None
        answer = self.answers[subject]
        return (answer[0], answer[1]) if answer is not None else None

    def schema(self, schema_id: int) -> str | None:
        """Return the Avro schema of an id, None where there is none."""
        name = f"id {schema_id}"
        if name not in self.answers:
            try:
                self.answers[name] = self._text(schema_id)
            except NotRegisteredError:
                self.answers[name] = None
        return cast(str | None, self.answers[name])

    def _text(self, schema_id: int) -> str:
        """Return an Avro schema with what it refers to in other subjects.

        Raises:
            StatementError: it is not an Avro schema.
        """
        try:
            return orjson.dumps(self._registry.avro_schema(schema_id)).decode()
        except avro_codec.SchemaError as error:
            raise StatementError(f"The schema can't be used with the format AVRO: {error}") from error


@dataclass(frozen=True)
class GroupPosition:
    """Where a group is in a partition: its committed offset (0 without one), and between which offsets that lies."""

    first: int
    end: int
    committed: int


class Resources:
    """A service's topics and schemas."""

    def __init__(self, kafka: KafkaSettings, registry: RegistrySettings, service_id: str) -> None:
        """Make the clients; nothing is asked yet."""
        self.kafka = KafkaAdmin(kafka)
        self._kafka_settings = kafka
        self.registry = Registry(registry)
        self._replication_factor = kafka.replication_factor
        self._service_id = service_id

        self._writer_schemas = WriterSchemas(self.registry.avro_schema)

    def reader_group(self, name: str) -> str:
        """Return the consumer group of a reader that joins none."""
        return reader_group(self._service_id, name)

    def partitions(self, topic: str) -> int:
        """Return a topic's number of partitions.

        Raises:
            StatementError: there is no such topic.
        """
        found = self.kafka.describe([topic])
        if topic not in found:
            raise StatementError(f"Kafka topic does not exist: {topic}")
        return found[topic].partitions

    def ends(self, partitions: Iterable[tuple[str, int]]) -> dict[tuple[str, int], int]:
        """Return the end of each partition as a read_committed reader sees it."""
        wanted = list(partitions)
        found = self.kafka.offsets({topic for topic, _ in wanted}, "latest", committed=True)
        return {partition: found[partition] for partition in wanted}

    def positions(self, topic: str, groups: Sequence[str]) -> dict[str, dict[int, GroupPosition]]:
        """Return where groups are in a topic, by group and partition.

        Raises:
            KafkaClientError: the brokers could not be asked.
        """
        with closing(OffsetReader(self._kafka_settings)) as offsets:
            spans = offsets.spans([topic]) if groups else {}
            committed = {group: offsets.committed(group, topic) for group in groups}
        return {
            group: {
                partition: GroupPosition(
                    first, end, reached[topic, partition].offset if (topic, partition) in reached else 0
                )
                for (_, partition), (first, end) in sorted(spans.items())
            }
            for group, reached in committed.items()
        }

    # ------------------------------------------------------------------------------------------------ checks
    def check(self, plan: QueryPlan) -> None:
        """Check that a query's topics are there and fit together, and that its schema may be registered.

        Raises:
            StatementError: they don't; nothing has been made.
        """
        all_stages = stages(plan, self._service_id)
        internal = {stage.sink.topic for stage in all_stages if stage.sink.internal}
        for stage in all_stages:
            self._check_copartitioning(stage, internal)
        wrap = plan.value_format.wrap_single is not False
        self._check_compatible(f"{plan.topic}-value", plan.root.schema.value, plan.value_format, wrap=wrap)

    def _check_copartitioning(self, stage: Stage, internal: set[str]) -> None:
        joined = stage.co_partitioned if stage.arms else (stage.source, *stage.tables)
        sources = [source for source in joined if source.topic not in internal]
        found = self.kafka.describe([source.topic for source in sources])
        missing = next((source.topic for source in sources if source.topic not in found), None)
        if missing is not None:
            raise StatementError(f"Kafka topic does not exist: {missing}")
        counts = {source.source: found[source.topic].partitions for source in sources}
        if len(set(counts.values())) > 1:
            (first, first_count), *_ = counts.items()
            other, count = next((name, count) for name, count in counts.items() if count != first_count)
            raise StatementError(
                f"Can't join `{first}` with `{other}` since the number of partitions don't match. `{first}` partitions = "
                f"{first_count}; `{other}` partitions = {count}. Please repartition either one so that the number of "
                "partitions match."
            )

    def _check_compatible(self, subject: str, columns: Sequence[Column], format_: Format, *, wrap: bool) -> None:
        if format_.name != "AVRO" or format_.schema_id is not None:
            return
        try:
            if self._registered(subject, columns, format_, wrap=wrap) is not None:
                return
            schema = orjson.dumps(avro_of_schema(columns, format_.schema_name, wrap=wrap)).decode()
            compatible = self.registry.compatible(subject, schema)
        except RegistryError as error:
            raise StatementError(f"Could not check the schema of subject {subject}: {error}") from error
        if not compatible:
            raise StatementError(
                f"Could not register schema for topic: it is incompatible with the latest version of subject {subject}. "
                f"Schema: {schema}"
            )

    # ------------------------------------------------------------------------------------------------ making
    def prepare_query(self, plan: QueryPlan) -> None:
        """Make the topic and schemas of a query's result; what is there stays.

        Raises:
            StatementError: the topic is there with other partitions, or a schema is refused.
        """
        self._prepare_stage(stages(plan, self._service_id)[-1], plan)

    def result_topic(self, plan: QueryPlan) -> ResultTopic:
        """Return the topic of a query's result, with how long its first source keeps records, as ksqlDB's statements state it."""
        topic = self.kafka.describe([plan.topic])[plan.topic]
        kept = self.kafka.topic_settings(source_steps(plan.root)[0].topic).get("retention.ms", "-1")
        return ResultTopic(topic.name, topic.partitions, topic.replication_factor, int(kept))

    def topic(self, name: str) -> TopicState | None:
        """Return a topic with all settings that apply to it, None where it isn't there."""
        found = self.kafka.describe([name]).get(name)
        return replace(found, config=self.kafka.topic_settings(name)) if found is not None else None

    def prepare_internal(self, plan: QueryPlan) -> None:
        """Make a query's repartition and changelog topics, whose names have the query's id; what is there stays."""
        all_stages = stages(plan, self._service_id)
        for stage in all_stages[:-1]:
            self._prepare_stage(stage, plan)
        for stage in all_stages:
            if stage.changelog is not None:
                like = self.kafka.describe([stage.source.topic])[stage.source.topic]
                self.create_topic(stage.changelog, like.partitions, like.replication_factor, _CHANGELOG_CONFIG)

    def _prepare_stage(self, stage: Stage, plan: QueryPlan) -> None:
        partitions, replicas = self._sink_size(stage, plan)
        self.create_topic(stage.sink.topic, partitions, replicas, _topic_config(stage, plan))
        self.write_schemas(stage.sink)

    def prepare_source(self, source: Source, properties: Properties) -> None:
        """Make the topic of CREATE STREAM or TABLE where PARTITIONS is given; otherwise it must be there.

        Raises:
            KsqlError: there is no topic, and no PARTITIONS to make it with, or it is there and is another one.
        """
        is_new, partitions = not self.kafka.describe([source.topic]), properties.get("PARTITIONS")
        if partitions is None:
            if is_new:
                raise missing_topic(source.topic)
            return
        config = properties.topic_config(source.kind, source.key_window)
        self.create_topic(source.topic, partitions, properties.get("REPLICAS"), config)
        if is_new:
            self.write_schemas(sink_of(source))

    def create_topic(self, name: str, partitions: int, replicas: int | None, config: Mapping[str, str]) -> None:
        """Create a topic unless it is there.

        Raises:
            StatementError: it is there with another number of partitions or replicas.
        """
        if not self.kafka.describe([name]):
            with suppress(TopicExistsError):
                state = TopicState(name, partitions, replicas or self._replication_factor, dict(config))
                self.kafka.create([state])
        there = self.kafka.describe([name])[name]
        wanted = partitions, replicas or there.replication_factor
        if wanted != (there.partitions, there.replication_factor):
            kept = self.kafka.topic_settings(name).get("retention.ms", "-1")
            raise StatementError(
                f"A Kafka topic with the name '{name}' already exists, with different partition/replica/retention configuration "
                f"than required. KSQL expects {wanted[0]} partitions (topic has {there.partitions}), {wanted[1]} replication "
                f"factor (topic has {there.replication_factor}), and {config.get('retention.ms', kept)} retention (topic has "
                f"{kept}).",
                error_code=SERVER_ERROR,
            )

    def delete_topic(self, source: Source) -> None:
        """Delete a source's topic, and its subjects where its formats have any; what isn't there is left out."""
        self.kafka.delete([source.topic])
        for side, format_ in (("key", source.key_format), ("value", source.value_format)):
            if format_.name == "AVRO":
                self.registry.delete(f"{source.topic}-{side}")

    def _sink_size(self, stage: Stage, plan: QueryPlan) -> tuple[int, int | None]:
        all_stages = stages(plan, self._service_id)
        if stage.sink.internal:
            # A repartition topic is read together with the tables that the next stage joins.
            reader = next(candidate for candidate in all_stages if candidate.source.topic == stage.sink.topic)
            topic = reader.tables[0].topic if reader.tables else all_stages[0].source.topic
            like = self.kafka.describe([topic])[topic]
            return like.partitions, like.replication_factor
        if plan.partitions is not None:
            return plan.partitions, plan.replicas
        there = self.kafka.describe([stage.sink.topic, all_stages[0].source.topic])
        found = there.get(stage.sink.topic) or there[all_stages[0].source.topic]
        return found.partitions, plan.replicas or found.replication_factor

    # ------------------------------------------------------------------------------------------------ schemas
    def schema(self, schema_id: int) -> Any:
        """Return the Avro schema of an id.

        Raises:
            avro_codec.SchemaError: there is none that can be used, or the registry gives no answer about it.
            RegistryError: the registry gives no answer, and no schema is known yet.
        """
        return self._writer_schemas(schema_id)

    def stage_schemas(self, stage: Stage) -> WriteSchemas:
        """Return what a stage writes with, and learn what its sources were written with so far.

        What is learned is known even when the registry is away later, so that a message is refused for that only where its
        schema is newer than the stage's start.

        Raises:
            StatementError: the registry refuses a schema of the sink.
            RegistryError: it could not be asked.
        """
        for source in (*(arm.source for arm in stage.arms), stage.source, *stage.tables):
            for side, format_ in (("key", source.key_format), ("value", source.value_format)):
                if format_.name == "AVRO":
                    self._learn(f"{source.topic}-{side}")
        return self.write_schemas(stage.sink)

    def _learn(self, subject: str) -> None:
        for schema_id in self.registry.ids(subject):
            with suppress(avro_codec.SchemaError, NotRegisteredError):
                self._writer_schemas.learn([(schema_id, self.registry.avro_schema(schema_id))])

    def decoded(self, value: bytes) -> Any:
        """Return what a message in the registry's wire format holds; None where it is none."""
        if len(value) < avro_codec.HEADER_BYTES or value[0] != 0:
            return None
        body = io.BytesIO(value[avro_codec.HEADER_BYTES :])
        try:
            schema = self.schema(int.from_bytes(value[1 : avro_codec.HEADER_BYTES], "big"))
            parsed = fastavro.parse_schema(schema)
            record = body_reader(parsed)(body, parsed, None)
        except (
            avro_codec.SchemaError,
            RegistryError,
            ValueError,
            LookupError,
            ArithmeticError,
            EOFError,
            TypeError,
            RecursionError,
        ):
            return None
        return None if body.read(1) else record

    def write_schemas(self, sink: SinkSpec) -> WriteSchemas:
        """Return the schemas that a sink is written with, registered where they aren't yet.

        Raises:
            StatementError: the registry refuses one.
        """
        wrap = sink.value_format.wrap_single is not False
        return WriteSchemas(
            self._write_schema(f"{sink.topic}-key", sink.schema.key, sink.key_format, wrap=len(sink.schema.key) != 1),
            self._write_schema(f"{sink.topic}-value", sink.schema.value, sink.value_format, wrap=wrap),
        )

    def _write_schema(
        self, subject: str, columns: Sequence[Column], format_: Format, *, wrap: bool
    ) -> tuple[Any, int] | None:
        if format_.name != "AVRO" or not columns:
            return None
        if format_.schema_id is not None:
            return self.schema(format_.schema_id), format_.schema_id
        found = self._registered(subject, columns, format_, wrap=wrap)
        if found is not None:
            return found
        schema = avro_of_schema(columns, format_.schema_name, wrap=wrap)
        try:
            return schema, self.registry.register(subject, orjson.dumps(schema).decode()).schema_id
        except IncompatibleSchemaError as error:
            raise StatementError(f"Could not register schema for topic: {error}") from error

    def _registered(
        self, subject: str, columns: Sequence[Column], format_: Format, *, wrap: bool
    ) -> tuple[Any, int] | None:
        """Return a subject's latest schema where it says the same of the columns, its documentation aside."""
        try:
            latest = self.registry.latest(subject)
        except NotRegisteredError:
            return None
        schema = orjson.loads(latest.text)
        wanted = avro_of_schema(columns, format_.schema_name, wrap=wrap)
        if format_.schema_name is None and isinstance(schema, dict) and schema.get("type") == "record":
            wanted = {**wanted, **{name: schema[name] for name in ("name", "namespace") if name in schema}}
        return (schema, latest.schema_id) if avro_codec.same_encoding(schema, wanted) else None


def missing_topic(topic: str, example: str = "") -> KsqlError:
    """Return ksqlDB's error for a stream or table over a topic that isn't there.

    Args:
        topic: the topic.
        example: a statement that would make it.
    """
    return KsqlError(
        f"Topic '{topic}' does not exist. If you want to create a new topic for the stream/table please re-run the statement "
        "providing the required 'PARTITIONS' configuration in the WITH clause (and optionally 'REPLICAS'). For example: "
        f"{example}",
        BAD_REQUEST,
    )


def sink_of(source: Source) -> SinkSpec:
    """Return how rows are written into a stream or table."""
    return SinkSpec(
        source.topic, source.record_schema, source.key_format, source.value_format, source.key_window, internal=False
    )


_COMPACTION_LAG_MS = 86_400_000
_CHANGELOG_CONFIG = {"cleanup.policy": "compact", "max.message.bytes": str(CHANGELOG_BYTES)}


def _topic_config(stage: Stage, plan: QueryPlan) -> dict[str, str]:
    if stage.sink.compacted:
        # A version of a row that was read before must still be there when a restart reads again.
        return {"cleanup.policy": "compact", "min.compaction.lag.ms": str(_COMPACTION_LAG_MS)}
    if stage.sink.internal:
        return {"cleanup.policy": "delete", "retention.ms": "-1"}
    return plan.topic_config
