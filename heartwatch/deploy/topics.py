"""Topics: partitions, copies, retention and compaction.

More partitions would send a key's later records to another partition than its earlier ones: a join would miss its table row and
a compacted topic would keep two rows of a key. So the number of partitions of a keyed topic never changes; a new pipeline
version gets new topics.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from heartwatch.analytic import Analytic, TopicDefinition
from heartwatch.deploy.plan import Change, Plan, compare
from kafkakit.admin import KafkaAdmin, TopicExistsError, TopicState
from kafkakit.settings import KafkaSettings

_PARTITIONS, _COPIES = "partitions", "replication.factor"
_NO_LIMIT = str(2**63 - 1)
_ANY_TIME = 2**63 - 1


def analytic_topics(analytic: Analytic, settings: KafkaSettings, max_ahead_ms: int) -> list[TopicState]:
    """Return the topics of an analytic's records as they are wanted.

    Args:
        analytic: the analytic.
        settings: partitions and copies.
        max_ahead_ms: how far an event's time may lie ahead of the brokers' clock, ms.
    """
    return [
        TopicState(
            name=analytic.topic(resource),
            partitions=settings.partitions,
            replication_factor=settings.replication_factor,
            config=_config(definition, settings, max_ahead_ms if resource == analytic.stream else _ANY_TIME),
        )
        for resource, definition in analytic.topics.items()
    ]


def service_topics(connectors: Iterable[Mapping[str, str]], settings: KafkaSettings) -> list[TopicState]:
    """Return the topics that connectors need besides their records.

    These are dead letters, kept until somebody has looked at them; the Iceberg sink's control topic; and Debezium's
    heartbeats, of which only the last one counts.
    """
    shape = (1, settings.replication_factor)
    durable = {"min.insync.replicas": str(settings.min_insync_replicas), "cleanup.policy": "delete"}
    compacted = {**durable, "cleanup.policy": "compact"}
    topics = []
    for config in connectors:
        if control := config.get("iceberg.control.topic"):
            topics.append(TopicState(control, *shape, durable))
        if dead_letters := config.get("errors.deadletterqueue.topic.name"):
            # A dead letter keeps its record's timestamp, whatever that says.
            kept = {**durable, "retention.ms": "-1", "message.timestamp.after.max.ms": str(_ANY_TIME)}
            topics.append(TopicState(dead_letters, *shape, kept))
        if heartbeats := config.get("topic.heartbeat.prefix"):
            topics.append(TopicState(f"{heartbeats}.{config['topic.prefix']}", *shape, compacted))
    return topics


def _config(definition: TopicDefinition, settings: KafkaSettings, max_ahead_ms: int) -> dict[str, str]:
    config = {
        "cleanup.policy": definition.cleanup_policy,
        "min.insync.replicas": str(settings.min_insync_replicas),
    }
    if definition.cleanup_policy == "delete":
        config["retention.ms"] = str(settings.retention_ms)
        config["retention.bytes"] = str(settings.retention_bytes)
    if definition.event_time is not None:
        # Of events, the brokers refuse what a wrong clock says. They refuse its whole batch: our senders leave it out.
        config["message.timestamp.after.max.ms"] = str(max_ahead_ms)
    return config


class Topics:
    """Deploys topics."""

    def __init__(self, admin: KafkaAdmin, wanted: Iterable[TopicState]) -> None:
        self._admin = admin
        self._wanted = list(wanted)
        # Topics that somebody else made after the plan: taking a failed deploy back must leave them, and their records, there.
        self._others: set[str] = set()

    def plan(self) -> Plan:
        """Compare the wanted topics with those on the brokers.

        Raises:
            kafkakit.admin.KafkaClientError: the brokers could not be asked.
        """
        found = self._admin.describe(topic.name for topic in self._wanted)
        return Plan(tuple(plan_topic(found.get(topic.name), topic) for topic in self._wanted))

    def carry_out(self, change: Change) -> None:
        """Create, reconfigure or delete a topic.

        Raises:
            kafkakit.admin.KafkaClientError: the brokers refused.
        """
        if change.after is None:
            self._admin.delete({change.resource} - self._others)
        elif change.before is None:
            self._create(change.resource, change.after)
        else:
            self._admin.alter_config(
                change.resource, {difference.name: difference.after for difference in change.differences}
            )

    def _create(self, name: str, state: Mapping[str, Any]) -> None:
        config = {key: value for key, value in state.items() if key not in {_PARTITIONS, _COPIES}}
        topic = TopicState(name, state[_PARTITIONS], state[_COPIES], config)
        try:
            self._admin.create([topic])
        except TopicExistsError:
            self._others.add(name)
            # Made by someone else since the plan. What they made must be what was planned.
            if plan_topic(self._admin.describe([name]).get(name), topic).action != "unchanged":
                raise


def plan_topic(found: TopicState | None, wanted: TopicState) -> Change:
    """Return the change that a topic needs; only the settings that are wanted are compared."""
    after = _state(wanted, wanted.config)
    if found is None:
        return compare("topic", wanted.name, None, after)
    before = _state(found, {key: found.config.get(key) for key in wanted.config})
    if reason := _forbidden(found, wanted):
        return Change("topic", wanted.name, "refused", reason, before, after)
    return compare("topic", wanted.name, before, after)


def _forbidden(found: TopicState, wanted: TopicState) -> str | None:
    if found.partitions != wanted.partitions:
        return (
            f"it has {found.partitions} partitions, {wanted.partitions} are wanted: keys would move to other partitions; set "
            f"kafka.partitions to {found.partitions}, or deploy a new pipeline version"
        )
    if found.replication_factor != wanted.replication_factor:
        return (
            f"it has {found.replication_factor} copies, {wanted.replication_factor} are wanted: move its partitions with "
            f"kafka-reassign-partitions, or set kafka.replication_factor to {found.replication_factor}"
        )
    return None


def _state(topic: TopicState, config: Mapping[str, str | None]) -> dict[str, Any]:
    return {_PARTITIONS: topic.partitions, _COPIES: topic.replication_factor, **config}
