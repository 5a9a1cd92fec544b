"""Which topics an analytic needs, and which changes of a topic are refused."""

from collections.abc import Iterable, Sequence
from dataclasses import replace
from typing import cast

import pytest

from heartwatch.analytic import Analytic
from heartwatch.deploy.plan import DeployError, apply
from heartwatch.deploy.topics import Topics, analytic_topics, plan_topic, service_topics
from kafkakit.admin import KafkaAdmin, TopicExistsError, TopicState
from kafkakit.settings import KafkaSettings

SETTINGS = KafkaSettings(partitions=6, replication_factor=3, min_insync_replicas=2, retention_ms=1_000)


def test_topics_follow_from_the_analytic_and_the_settings():
    topics = {topic.name: topic for topic in analytic_topics(Analytic.load("heart_rate", 7), SETTINGS, 4_000)}
    assert set(topics) == {"heart_rate_historical_v7", "heart_rate_realtime_v7", "heart_rate_alerts_v7"}
    assert {(topic.partitions, topic.replication_factor) for topic in topics.values()} == {(6, 3)}
    assert topics["heart_rate_historical_v7"].config == {"cleanup.policy": "compact", "min.insync.replicas": "2"}
    assert topics["heart_rate_realtime_v7"].config == {
        "cleanup.policy": "delete",
        "min.insync.replicas": "2",
        "retention.ms": "1000",
        "retention.bytes": "-1",
        "message.timestamp.after.max.ms": "4000",
    }
    assert topics["heart_rate_alerts_v7"].config["message.timestamp.after.max.ms"] == str(2**63 - 1)


def test_connectors_name_their_service_topics():
    sink = {"iceberg.control.topic": "control", "errors.deadletterqueue.topic.name": "dead"}
    source = {"topic.prefix": "source", "topic.heartbeat.prefix": "beat"}
    topics = {topic.name: topic for topic in service_topics([sink, source], SETTINGS)}
    assert set(topics) == {"control", "dead", "beat.source"}
    assert topics["dead"].config["retention.ms"] == "-1"
    assert topics["dead"].config["message.timestamp.after.max.ms"] == str(2**63 - 1), (
        "an event of tomorrow may be bad too"
    )
    assert {topic.replication_factor for topic in topics.values()} == {3}


WANTED = TopicState("t", 6, 3, {"cleanup.policy": "delete", "retention.ms": "1000"})


def test_settings_that_are_not_wanted_are_left_alone():
    found = replace(WANTED, config={**WANTED.config, "segment.ms": "5"})
    assert plan_topic(found, WANTED).action == "unchanged"


def test_a_changed_setting_is_an_update():
    found = replace(WANTED, config={"cleanup.policy": "delete"})
    change = plan_topic(found, WANTED)
    assert (change.action, change.reason) == ("update", "differs in retention.ms")


@pytest.mark.parametrize(
    ("found", "reason"),
    [
        (replace(WANTED, partitions=4), "keys would move to other partitions"),
        (replace(WANTED, partitions=8), "set kafka.partitions to 8"),
        (replace(WANTED, replication_factor=1), "kafka-reassign-partitions"),
    ],
)
def test_another_shape_is_refused_with_the_remedy(found: TopicState, reason: str):
    change = plan_topic(found, WANTED)
    assert change.action == "refused"
    assert reason in change.reason


class Brokers:
    """Brokers on which somebody else makes a topic between the plan and its execution."""

    def __init__(self) -> None:
        self.topics: dict[str, TopicState] = {}

    def describe(self, names: Iterable[str]) -> dict[str, TopicState]:
        return {name: self.topics[name] for name in names if name in self.topics}

    def create(self, topics: Sequence[TopicState]) -> None:
        for topic in topics:
            if topic.name in self.topics:
                raise TopicExistsError(topic.name)
            self.topics[topic.name] = topic

    def delete(self, names: Iterable[str]) -> None:
        for name in names:
            self.topics.pop(name, None)


@pytest.mark.parametrize("partitions", [1, 6])
def test_a_deploy_that_fails_leaves_topics_that_somebody_else_made(partitions: int) -> None:
    brokers = Brokers()
    wanted = [TopicState(name, 6, 1) for name in ("mine", "theirs", "late")]
    topics = Topics(cast("KafkaAdmin", brokers), wanted)
    plan = topics.plan()
    brokers.topics["theirs"] = TopicState("theirs", partitions, 1)
    brokers.topics["late"] = TopicState("late", 1, 1)
    with pytest.raises(DeployError):
        apply(plan, topics)
    assert set(brokers.topics) == {"theirs", "late"}
