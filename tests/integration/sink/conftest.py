"""One topic with its real sink connector, and every means to harm it."""

from __future__ import annotations

import json
import subprocess
import sysconfig
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx
import pyarrow as pa
import pyarrow.compute as pc
import pytest
from confluent_kafka import Producer, TopicPartition
from confluent_kafka.admin import AdminClient
from pyiceberg.table import Table

from heartwatch.analytic import Analytic
from heartwatch.connect import Connect
from heartwatch.deploy.connectors import connector_configs
from heartwatch.deploy.topics import service_topics
from heartwatch.iceberg import open_catalog
from heartwatch.platform.platform import Platform
from heartwatch.proof.dead_letters import DeadLetterSummary
from heartwatch.proof.findings import Finding, Kind, SinkProof
from heartwatch.proof.topic import Request, prove
from heartwatch.settings import Settings, load_settings
from heartwatch.sink.reader import OFFSET, PARTITION
from kafkakit import avro_codec
from kafkakit.admin import KafkaAdmin, TopicState, producer_config
from kafkakit.registry import Registry
from kafkakit.waiting import wait_until

RESOURCE = "alerts"
VERSION = 71
WAIT_SECONDS = 60.0
POISON = b"\x00\x00\x00\x00\x00 no schema has this id"


@dataclass
class Pipe:
    """A topic, its connector and its table."""

    settings: Settings
    analytic: Analytic
    schema_id: int = 0
    times: Iterator[int] = field(default_factory=lambda: iter(range(int(time.time()) * 1000, 2**62)))

    def __post_init__(self) -> None:
        self.topic, self.connector = self.analytic.topic(RESOURCE), self.analytic.name(f"{RESOURCE}_sink")
        self.connect = Connect(self.settings.connect)
        self.admin = KafkaAdmin(self.settings.kafka)
        self.config = connector_configs(self.analytic, self.settings)[self.connector]
        self.schema = avro_codec.parse(self.analytic.schema_text(RESOURCE))

    def deploy(self) -> None:
        """Make topics, subject and connector."""
        self.admin.create([TopicState(self.topic, 3, 1), *service_topics([self.config], self.settings.kafka)])
        text = self.analytic.schema_text(RESOURCE)
        self.schema_id = Registry(self.settings.registry).register(f"{self.topic}-value", text).schema_id
        open_catalog(self.settings.postgres, self.settings.s3).create_namespace_if_not_exists(
            self.settings.s3.namespace
        )
        self.configure()

    def configure(self, *left_out: str, **entries: str) -> None:
        """Give the connector its configuration without some entries and with others, and wait until it runs."""
        config = {
            name: value for name, value in self.config.items() if not name.startswith(left_out or ("-",))
        } | entries
        if self.connector in self.connect.connectors():
            self.connect.stop(self.connector)
            self.connect.put(config)
            self.connect.resume(self.connector)
        else:
            self.connect.put(config)
        self.connect.wait_running(self.connector)

    # Kafka

    def row(self, user: int) -> dict[str, Any]:
        at = next(self.times)
        return {
            "user_id": str(user), "window_start": at, "window_end": at + 10_000, "event_count": 3, "avg_heart_rate": 140.5,
            "min_heart_rate": 52, "max_heart_rate": None, "zipcode": 10_001, "latitude": 40.7, "longitude": -73.9,
        }  # fmt: skip

    def value(self, user: int) -> bytes:
        batch = pa.RecordBatch.from_pylist([self.row(user)], schema=avro_codec.arrow_schema(self.schema))
        return avro_codec.encode(batch, self.schema, self.schema_id)[0]

    def send(self, partition: int, *values: bytes | int | None, abort: bool = False) -> tuple[int, int]:
        """Send values (a number makes a row) in one transaction; return the first and the last one's offset."""
        producer = Producer(producer_config(self.settings.kafka, f"faults-{partition}", linger_ms=0))
        producer.init_transactions(30)
        producer.begin_transaction()
        offsets: list[int] = []
        for value in values:
            content = self.value(value) if isinstance(value, int) else value
            producer.produce(
                self.topic,
                content,
                key=b"user",
                partition=partition,
                timestamp=next(self.times),
                on_delivery=lambda _, message: offsets.append(message.offset()),
            )
        producer.flush(30)
        producer.abort_transaction(30) if abort else producer.commit_transaction(30)
        return min(offsets), max(offsets)

    def ends(self) -> dict[int, int]:
        return {p: end for (_, p), end in self.admin.offsets([self.topic], "latest", committed=True).items()}

    def delete_records(self, partition: int, before: int) -> None:
        """What retention does, at once."""
        client = AdminClient({"bootstrap.servers": self.settings.kafka.bootstrap_servers})
        for future in client.delete_records([TopicPartition(self.topic, partition, before)]).values():
            future.result(30)

    # Connect

    @contextmanager
    def stopped(self) -> Iterator[None]:
        self.connect.stop(self.connector)
        yield
        self.connect.resume(self.connector)
        self.connect.wait_running(self.connector)

    def reset(self, partition: int, offset: int) -> None:
        """Set the position of the stopped connector."""
        place = {"kafka_topic": self.topic, "kafka_partition": partition}
        body = {"offsets": [{"partition": place, "offset": {"kafka_offset": offset}}]}
        url = f"{self.settings.connect.url}/connectors/{self.connector}/offsets"
        # The group may still have members for a moment.
        login = self.settings.connect.user, self.settings.connect.password.get_secret_value()
        self.until(
            lambda: httpx.patch(url, json=body, timeout=30, auth=login).is_success, f"the offsets {body} to be set"
        )

    # S3

    @contextmanager
    def read_only(self) -> Iterator[None]:
        """Have S3 refuse every write."""
        self._filer("-readOnly")
        try:
            yield
        finally:
            self._filer("-delete")

    def _filer(self, option: str) -> None:
        weed = Path(sysconfig.get_path("scripts")) / "weed"
        ports = json.loads((self.settings.home / "state.json").read_text())["ports"]
        servers = [f"-master=127.0.0.1:{ports['s3-master']}", f"-filer=127.0.0.1:{ports['s3-filer']}"]
        order = f"fs.configure -locationPrefix=/buckets/{self.settings.s3.bucket}/ {option} -apply"
        # In the server's own folder are the certificates without which it doesn't answer.
        subprocess.run(
            [weed, "shell", *servers], input=order, text=True, check=True, capture_output=True, timeout=60,
            cwd=self.settings.home / "data" / "s3",
        )  # fmt: skip

    def table(self) -> Table:
        return open_catalog(self.settings.postgres, self.settings.s3).load_table(
            (self.settings.s3.namespace, self.topic)
        )

    def lasts(self) -> tuple[int, ...]:
        """Last offset of partitions 0 and 1 that the table has; -1 for none."""
        rows = self.table().scan(selected_fields=(PARTITION, OFFSET)).to_arrow()
        return tuple(
            pc.max(rows.filter(pc.equal(rows[PARTITION], partition))[OFFSET]).as_py() or -1 for partition in (0, 1)
        )

    def content(self, path: str) -> bytes:
        with self.table().io.new_input(path).open() as file:
            return file.read()

    def put(self, path: str, content: bytes | None) -> None:
        """Write an object, or delete it."""
        if content is None:
            self.table().io.delete(path)
            return
        with self.table().io.new_output(path).create(overwrite=True) as file:
            file.write(content)

    # The proof

    def prove(
        self, since: dict[int, int] | None = None, seconds: float = 0, **options: Any
    ) -> tuple[SinkProof, DeadLetterSummary]:
        found = prove(self.settings, self.analytic, RESOURCE, Request(seconds, from_offsets=since, **options))
        assert found is not None
        return found

    def healthy(self, since: dict[int, int] | None = None) -> SinkProof:
        """Wait until the sink has everything; nothing may be wrong then."""
        proof, _ = self.prove(since, WAIT_SECONDS)
        assert proof.proven, proof.sentence()
        assert proof.findings == []
        return proof

    def until(self, condition: Callable[[], bool], what: str) -> None:
        wait_until(condition, WAIT_SECONDS, 0.1, lambda: AssertionError(what))


def places(proof: SinkProof, *kinds: Kind) -> list[tuple[Kind, int | None, int | None, int | None, int]]:
    """Return the findings of some kinds."""
    return [(one.kind, one.partition, one.first, one.last, one.count) for one in proof.findings if one.kind in kinds]


def only(proof: SinkProof, kind: Kind) -> Finding:
    (found,) = proof.of(kind)
    return found


@pytest.fixture(scope="module")
def pipe(platform: Platform) -> Iterator[Pipe]:
    """The topic, deployed; its connector is deleted at the end."""
    settings = load_settings()
    settings = settings.model_copy(
        update={
            "pipeline": settings.pipeline.model_copy(update={"version": VERSION}),
            "connect": settings.connect.model_copy(update={"restart_limit": 0}),
            "s3": settings.s3.model_copy(update={"commit_interval_ms": 1_000}),
        }
    )
    made = Pipe(settings, Analytic.of(settings.pipeline))
    made.deploy()
    yield made
    made.connect.delete(made.connector)
