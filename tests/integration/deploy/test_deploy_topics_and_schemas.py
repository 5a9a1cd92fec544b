"""Topics and schemas on a real broker and registry."""

from __future__ import annotations

import json

import pytest

from heartwatch.analytic import Analytic
from heartwatch.deploy import pipeline
from heartwatch.deploy.plan import Change, DeployError, Plan, RefusedPlanError, apply
from heartwatch.deploy.schemas import Schemas
from heartwatch.deploy.topics import Topics, analytic_topics
from heartwatch.settings import Settings
from kafkakit.admin import KafkaAdmin
from kafkakit.registry import CompatibilityNotKeptError, IncompatibleSchemaError, Registry

pytestmark = pytest.mark.parts("kafka", "registry", "postgres", "connect", "s3", "engine")


def test_a_changed_retention_is_altered_and_taken_back(settings: Settings):
    deployer = pipeline.deployer("topics", settings)
    apply(deployer.plan(), deployer)
    analytic, admin = Analytic.of(settings.pipeline), KafkaAdmin(settings.kafka)
    shorter = settings.kafka.model_copy(update={"retention_ms": 60_000})
    topics = Topics(admin, analytic_topics(analytic, shorter, 5_000))
    planned = topics.plan()
    assert {change.reason for change in planned.needed} == {"differs in retention.ms"}

    def retention() -> str:
        return admin.describe([analytic.topic("realtime")])[analytic.topic("realtime")].config["retention.ms"]

    applied = apply(planned, topics)
    assert retention() == "60000"
    for change in applied.changes:
        topics.carry_out(change.inverse())
    assert retention() == str(settings.kafka.retention_ms)


def test_more_partitions_are_refused(settings: Settings):
    deployer = pipeline.deployer("topics", settings)
    apply(deployer.plan(), deployer)
    more = settings.model_copy(update={"kafka": settings.kafka.model_copy(update={"partitions": 4})})
    deployer = pipeline.deployer("topics", more)
    with pytest.raises(RefusedPlanError, match="it has 3 partitions, 4 are wanted: keys would move"):
        apply(deployer.plan(), deployer)


def test_a_failed_creation_leaves_no_topic(settings: Settings):
    admin = KafkaAdmin(settings.kafka)
    wanted = analytic_topics(Analytic.of(settings.pipeline), settings.kafka, settings.pipeline.max_ahead_ms)
    plan = Topics(admin, wanted).plan()
    bad = Change("topic", "not/allowed", "create", "is not there", None, {"partitions": 1, "replication.factor": 1})
    with pytest.raises(DeployError, match=r"'not/allowed' contains [\s\S]*all 4 change.* taken back"):
        apply(plan + Plan((bad,)), Topics(admin, wanted))
    assert admin.describe(topic.name for topic in wanted) == {}


def schema(files: Analytic) -> dict[str, object]:
    return json.loads(files.schema_text("realtime"))


def write(files: Analytic, content: dict[str, object]) -> None:
    (files.schemas_folder / "realtime.avsc").write_text(json.dumps(content))


def test_a_compatible_schema_becomes_a_version_and_is_taken_back(files: Analytic, settings: Settings):
    registry, subject = Registry(settings.registry), f"{files.topic('realtime')}-value"
    first = Schemas(registry, files, settings.registry)
    apply(first.plan(), first)
    assert registry.compatibility(subject) == "BACKWARD"
    content = schema(files)
    content["fields"] += [{"name": "battery", "type": ["null", "int"], "default": None}]  # type: ignore[operator]
    write(files, content)
    second = Schemas(registry, files, settings.registry)
    planned = second.plan()
    assert [(change.resource, change.reason) for change in planned.needed] == [(subject, "adds battery")]
    applied = apply(planned, second)
    assert registry.latest(subject).version == 2
    second.carry_out(applied.changes[0].inverse())
    assert registry.latest(subject).version == 1
    assert second.plan().needed[0].reason == "adds battery"


def test_an_incompatible_schema_is_refused_before_anything_is_registered(files: Analytic, settings: Settings):
    registry, subject = Registry(settings.registry), f"{files.topic('realtime')}-value"
    first = Schemas(registry, files, settings.registry)
    apply(first.plan(), first)
    content = schema(files)
    content["fields"] += [{"name": "battery", "type": "int"}]  # type: ignore[operator]
    write(files, content)
    changed = Schemas(registry, files, settings.registry)
    with pytest.raises(RefusedPlanError, match=r"not BACKWARD compatible .*adds battery.*give new fields a default"):
        apply(changed.plan(), changed)
    with pytest.raises(IncompatibleSchemaError, match="not BACKWARD to version 1"):
        registry.register(subject, json.dumps(content))
    assert registry.latest(subject).version == 1


def test_a_compatibility_that_the_registry_does_not_keep_is_told_with_the_way_out(files: Analytic, settings: Settings):
    registry, subject = Registry(settings.registry), f"{files.topic('realtime')}-value"
    first = Schemas(registry, files, settings.registry)
    apply(first.plan(), first)
    none = Schemas(registry, files, settings.registry.model_copy(update={"compatibility": "NONE"}))
    with pytest.raises(
        (CompatibilityNotKeptError, DeployError), match=r"'NONE' is set, but 'BACKWARD' counts.*new pipeline version"
    ):
        apply(none.plan(), none)
    assert registry.compatibility(subject) == "BACKWARD", "what was there is there again"
    for level in ("FULL", "BACKWARD_TRANSITIVE"):
        registry.set_compatibility(subject, level)
        assert registry.compatibility(subject) == level


def test_a_schema_is_found_in_the_spelling_of_confluent_s_serializers(settings: Settings):
    deployer = pipeline.deployer("schemas", settings)
    apply(deployer.plan(), deployer)
    analytic, registry = Analytic.of(settings.pipeline), Registry(settings.registry)
    for topic in analytic.topics:
        subject = f"{analytic.name(topic)}-value"
        without_white_space = json.dumps(json.loads(analytic.schema_text(topic)), separators=(",", ":"))
        found = registry.lookup(subject, without_white_space)
        assert found is not None
        assert found.schema_id == registry.latest(subject).schema_id
