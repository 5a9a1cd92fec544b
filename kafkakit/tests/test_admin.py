"""Client configurations, and errors that survive a process boundary."""

import pickle

import pytest
from confluent_kafka import KafkaError, KafkaException, Producer

from kafkakit.admin import (
    KafkaAdmin,
    KafkaClientError,
    OffsetReader,
    UnknownTopicError,
    _translate,
    consumer_config,
    producer_config,
)
from kafkakit.settings import KafkaSettings

SETTINGS = KafkaSettings(bootstrap_servers="127.0.0.1:1")


def test_producers_lose_and_double_nothing_and_partition_as_java_does():
    config = producer_config(SETTINGS, transactional_id="t", batch_size=1_000)
    assert (config["acks"], config["enable.idempotence"], config["partitioner"]) == ("all", True, "murmur2_random")
    assert (config["transactional.id"], config["batch.size"]) == ("t", 1_000)
    Producer(config)  # librdkafka refuses settings that it doesn't know


def test_consumers_see_committed_records_only():
    config = consumer_config(SETTINGS, "g", "latest", fetch_min_bytes=1)
    assert (config["isolation.level"], config["enable.auto.commit"], config["fetch.min.bytes"]) == (
        "read_committed",
        False,
        1,
    )


def test_no_broker_is_one_clear_error_that_pickles():
    with pytest.raises(
        KafkaClientError, match=r"can't list the topics: .* see that the brokers 127.0.0.1:1 are up"
    ) as caught:
        KafkaAdmin(SETTINGS, timeout_seconds=0.2).topics()
    assert str(pickle.loads(pickle.dumps(caught.value))) == str(caught.value)  # noqa: S301


def test_kinds_of_errors():
    unknown = KafkaException(KafkaError(KafkaError.UNKNOWN_TOPIC_OR_PART))
    assert isinstance(_translate(unknown, "describe topic 't'", "b"), UnknownTopicError)


def answering(*answers: KafkaException | int):
    left = list(answers)

    def request() -> int:
        answer = left.pop(0) if len(left) > 1 else left[0]
        if isinstance(answer, KafkaException):
            raise answer
        return answer

    return request


def test_offsets_are_asked_for_again_while_a_partitions_leader_changes():
    moving = [KafkaException(KafkaError(KafkaError.NOT_LEADER_FOR_PARTITION)) for _ in range(2)]
    reader = OffsetReader(SETTINGS, timeout_seconds=5)
    assert reader._ask(answering(*moving, 7), "read the offsets of t/0") == 7


def test_a_leader_that_never_comes_is_an_error_at_the_timeout_and_other_errors_at_once():
    reader = OffsetReader(SETTINGS, timeout_seconds=0.2)
    with pytest.raises(KafkaClientError, match=r"can't read the offsets of t/0: .*NOT_LEADER_FOR_PARTITION"):
        reader._ask(
            answering(KafkaException(KafkaError(KafkaError.NOT_LEADER_FOR_PARTITION))), "read the offsets of t/0"
        )
    refused = KafkaException(KafkaError(KafkaError.TOPIC_AUTHORIZATION_FAILED))
    with pytest.raises(KafkaClientError, match="TOPIC_AUTHORIZATION_FAILED"):
        reader._ask(answering(refused, 7), "read the offsets of t/0")
