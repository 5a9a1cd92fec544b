from __future__ import annotations

from pathlib import Path

import pytest

from heartwatch.platform import services
from heartwatch.platform.errors import PartError
from heartwatch.platform.services import postgres
from heartwatch.platform.services.base import Context
from heartwatch.platform.services.connect import worker_properties
from heartwatch.platform.services.kafka import broker_properties, in_sync, kafka_uuid, render
from heartwatch.platform.supervisor import levels


class Places:
    """Stands for the package cache: only paths are asked of it."""

    def path(self, name: str) -> Path:
        return Path("/packages") / name


def context(brokers: int = 1) -> Context:
    names = ["connect", *(f"kafka-{n}{kind}" for n in range(1, brokers + 1) for kind in ("", "-controller"))]
    return Context(
        home=Path("/home/x"),
        brokers=brokers,
        identity="00112233445566778899aabbccddeeff",
        ports={name: 11_000 + index for index, name in enumerate(names)},
        secrets={"postgres": {"password": "hidden"}, "s3": {"access_key_id": "id", "secret_access_key": "hidden too"}},
        packages=Places(),  # type: ignore[arg-type]
    )


def test_a_closure_has_what_a_part_depends_on_in_the_order_of_a_start() -> None:
    everything = services.all_parts()
    assert services.closure(everything, ["registry"]) == ["postgres", "registry"]
    engine = services.closure(everything, ["engine"])
    assert set(engine) == {"postgres", "kafka-1", "registry", "engine"}
    assert engine[-1] == "engine"
    assert engine.index("postgres") < engine.index("registry")


def test_a_group_means_all_its_members() -> None:
    everything = services.all_parts(brokers=3, producers=2)
    assert services.members(everything, ["kafka"]) == ["kafka-1", "kafka-2", "kafka-3"]
    assert services.members(everything, ["workers"]) == ["orchestration-1", "producers-1", "producers-2"]
    assert services.members(everything, ["kafka-2", "kafka"]) == ["kafka-2", "kafka-1", "kafka-3"]


def test_an_unknown_part_is_named_with_those_there_are() -> None:
    with pytest.raises(
        PartError, match="'kafak' is not a part of the platform; the parts are postgres, kafka, registry"
    ):
        services.closure(services.all_parts(), ["kafak"])


def test_every_part_starts_after_all_that_it_depends_on_or_follows() -> None:
    everything = services.all_parts(3)
    order = services.order(everything)
    for name, earlier in services.dependencies(everything, everything).items():
        assert all(order.index(other) < order.index(name) for other in earlier)


def test_a_stop_begins_with_what_nothing_depends_on() -> None:
    everything = services.all_parts()
    found = levels(everything, ["postgres", "kafka-1", "registry", "s3", "connect", "engine"])
    place = {name: index for index, level in enumerate(found) for name in level}
    assert place["connect"] < place["s3"]
    assert place["engine"] < place["registry"] < place["postgres"]
    assert sorted(place) == ["connect", "engine", "kafka-1", "postgres", "registry", "s3"]


def test_names_and_ports_are_unique() -> None:
    everything = services.all_parts(3, 4)
    ports = [port for part in everything.values() for port in part.port_names]
    assert len(ports) == len(set(ports))
    assert len(everything) == 3 + 9 + 4


@pytest.mark.parametrize(("brokers", "copies", "in_sync_copies"), [(1, 1, 1), (3, 3, 2)])
def test_brokers_keep_as_many_copies_as_there_are_brokers(brokers: int, copies: int, in_sync_copies: int) -> None:
    properties = broker_properties(1, context(brokers))
    assert properties["transaction.state.log.replication.factor"] == copies
    assert properties["offsets.topic.replication.factor"] == copies
    assert properties["transaction.state.log.min.isr"] == in_sync_copies == in_sync(brokers)
    assert str(properties["controller.quorum.bootstrap.servers"]).count(",") == brokers - 1
    assert all(address.split("://")[1].startswith("127.0.0.1:") for address in str(properties["listeners"]).split(","))


def test_connect_keeps_its_topics_with_all_copies_and_reads_only_its_secrets() -> None:
    properties = worker_properties(context(3))
    assert properties["offset.storage.replication.factor"] == 3
    assert properties["config.providers.secrets.param.allowed.paths"] == "/home/x/data/connect/secrets.properties"
    assert properties["exactly.once.source.support"] == "enabled"
    assert "hidden" not in render(properties)


def test_properties_are_rendered_so_that_java_reads_the_same() -> None:
    assert render({"a": 1, "b": "x=y:z", "c": "back\\slash", "d": " lead", "e": "two\nlines"}) == (
        "a=1\nb=x=y:z\nc=back\\\\slash\nd=\\ lead\ne=two\\nlines\n"
    )


def test_kafka_ids_are_stable_different_and_never_look_like_an_option() -> None:
    found = [kafka_uuid("00112233445566778899aabbccddeeff", f"purpose {number}") for number in range(500)]
    assert len(set(found)) == 500
    assert all(len(text) == 22 and not text.startswith("-") for text in found)
    assert found[0] == kafka_uuid("00112233445566778899aabbccddeeff", "purpose 0")


def test_a_database_that_was_half_made_is_made_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    made = []

    def half(data: Path, _: Path, __: object) -> None:
        made.append(data)
        # initdb writes this first.
        (data / "PG_VERSION").write_text("18")
        if len(made) == 1:
            raise KeyboardInterrupt

    monkeypatch.setattr(postgres, "_initdb", half)
    monkeypatch.setattr(postgres, "data_folder", lambda _: tmp_path / "postgres")
    monkeypatch.setattr(postgres.PostgresPart, "account", lambda *_: None)
    part = postgres.PostgresPart()
    with pytest.raises(KeyboardInterrupt):
        part.prepare(context())
    for _ in range(2):
        part.prepare(context())
    assert len(made) == 2
    assert [path.name for path in tmp_path.iterdir()] == ["postgres"]
