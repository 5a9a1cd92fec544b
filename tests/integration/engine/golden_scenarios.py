"""Scenarios with the answers of a real ksqlDB 8.2.0 server, sent to a server of ours: statements, records, answers.

A scenario is a file below ``golden/``: `topics` (partitions), `steps` (a statement, a request of any endpoint, or a wait, each
with the answer that ksqlDB gave), `inputs` (records; those with `after` go in behind that step), `outputs` (the records of the
topics written). What differs from run to run (times, sequence numbers, addresses) stands there as a placeholder.
"""

from __future__ import annotations

import io
import json
import math
import re
import struct
import threading
import time
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import fastavro
import httpx
import yaml
from confluent_kafka import Consumer, Message, Producer, TopicPartition
from confluent_kafka.admin import AdminClient, AlterConfigOpType, ConfigEntry, ConfigResource, ResourceType

from heartwatch.settings import Settings
from kafkakit.admin import KafkaAdmin, KafkaClientError, TopicState, producer_config
from kafkakit.registry import Registry

FOLDER = Path(__file__).with_name("golden")
_MADE = re.compile(
    r"CREATE\s+(?:OR\s+REPLACE\s+)?(?:SOURCE\s+)?(STREAM|TABLE)\s+(?:IF\s+NOT\s+EXISTS\s+)?(`[^`]+`|\w+)|INSERT\s+INTO\s+(`[^`]+`|\w+)",
    re.IGNORECASE,
)
_VOLATILE = {"commandSequenceNumber": "<n>", "kafkaClusterId": "<cluster>", "ksqlServiceId": "<service>", "stackTrace": [],
             "lastStatusUpdateMs": "<n>", "timestamp_ms": "<n>",
    # What a server has counted until it is asked depends on when that is.
    "statistics": "", "errorStats": "", "clusterStatistics": [], "clusterErrorStats": [],
}  # fmt: skip
_PLACEHOLDERS = [
    (r"\b((?:CSAS|CTAS|CST)_[A-Za-z0-9_]*?)_\d+\b", r"\1_<n>"),
    (r"\bINSERTQUERY_\d+\b", "INSERTQUERY_<n>"),
    (r"\btransient_([A-Za-z0-9_]+?)_\d{6,}\b", r"transient_\1_<n>"),
    (r"\b[0-9a-f]{8}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{12}\b", "<uuid>"),
    (r"(127\.0\.0\.1|localhost):\d{4,5}", "<host>"),
    (r"\b_confluent-ksql-[\w.-]*?query_", "_confluent-ksql-<service>query_"),
    (r"\bquery_\d{9,}\b", "query_<n>"),
]
_QUIET_SECONDS, _MOST_SECONDS = 0.7, 20.0
_READ_STEPS = ("/query-stream", "/query")


@dataclass
class Found:
    """What a server made of a scenario: the answers, by number of the step, and the records that were written."""

    answers: dict[int, tuple[int, Any]] = field(default_factory=dict)
    outputs: list[dict[str, Any]] = field(default_factory=list)


def scenarios() -> dict[str, dict[str, Any]]:
    """Return all scenarios by area and name."""
    return {
        f"{path.parent.name}/{path.stem}": yaml.load(path.read_text(encoding="utf-8"), yaml.CSafeLoader)
        for path in sorted(FOLDER.glob("*/*.yaml"))
    }


def settled(value: Any, key: str | None = None) -> Any:
    """Return an answer with placeholders for what differs from run to run."""
    if key in _VOLATILE and value is not None:
        return _VOLATILE[key]
    if isinstance(value, dict):
        return {name: settled(part, name) for name, part in value.items()}
    if isinstance(value, list):
        # How a push query's answer ended is the reader's doing.
        return [settled(part, key) for part in value if not (key == "lines" and re.fullmatch(r"<[\w ]+>", str(part)))]
    if not isinstance(value, str):
        return value
    for pattern, placeholder in _PLACEHOLDERS:
        value = re.sub(pattern, placeholder, value)
    return (
        "<id>" if key == "queryId" and re.fullmatch(r"query_<n>|transient_[0-9a-f]{32}|<uuid>|<id>", value) else value
    )


@contextmanager
def compacting_later(settings: Settings) -> Iterator[None]:
    """Keep the brokers' log cleaner away from what scenarios write until they have read each change of it.

    The records are of 2023, a transaction's marker is of today and so begins a new segment: the cleaner may merge the one before
    it at any time.
    """
    admin = AdminClient({"bootstrap.servers": settings.kafka.bootstrap_servers})

    def alter(value: str | None) -> None:
        operation = AlterConfigOpType.DELETE if value is None else AlterConfigOpType.SET
        entry = ConfigEntry("log.cleaner.min.compaction.lag.ms", value, incremental_operation=operation)
        brokers = [
            ConfigResource(ResourceType.BROKER, str(broker), incremental_configs=[entry])
            for broker in admin.list_topics(timeout=30).brokers
        ]
        for future in admin.incremental_alter_configs(brokers).values():
            future.result()

    alter(str(2**62))
    try:
        yield
    finally:
        alter(None)


class GoldenServer:
    """Runs scenarios on one engine; several at a time, since their topics have names of their own."""

    def __init__(self, settings: Settings, url: str) -> None:
        self._settings, self._url = settings, url
        self._admin = KafkaAdmin(settings.kafka)
        self._registry = Registry(settings.registry)
        self._http = httpx.Client(timeout=60, limits=httpx.Limits(max_connections=None))
        self._one_at_a_time = threading.Lock()
        self._schemas: dict[int, Any] = {}

    def run(self, scenario: Mapping[str, Any]) -> Found:
        """Run a scenario on what earlier ones left."""
        found, sinks = Found(), dict[str, dict[str, Any]]()
        if scenario.get("exclusive"):
            self._drop_everything()
        self._create(scenario["topics"])
        self._give(scenario, 0)
        is_settled = False
        for number, step in enumerate(scenario["steps"], 1):
            if not is_settled and (step.get("settle") or _reads_rows(step)):
                self._settle(scenario, sinks)
                is_settled = True
            if "wait" in step:
                self._settle(scenario, sinks, most=step["wait"])
            else:
                found.answers[number] = self._answer(scenario, step)
                self._note_sinks(step, found.answers[number], sinks)
            if any(record.get("after") == number for record in scenario["inputs"]):
                self._give(scenario, number)
                is_settled = False
        if sinks and not is_settled:
            self._settle(scenario, sinks)
        for topic, source in sorted(sinks.items()):
            found.outputs += [self._shown(message, source) for message in self._read(topic)]
        found.outputs.sort(
            key=lambda row: (row["topic"], row["partition"], json.dumps(row["key"]), row.get("windowStart", 0))
        )
        return found

    # ------------------------------------------------------------------------------------------------ Kafka
    def _create(self, topics: Mapping[str, int]) -> None:
        for name, partitions in topics.items():
            try:
                self._admin.create([TopicState(name, partitions, 1, {})])
            except KafkaClientError:
                continue  # another scenario's, which is over

    def _give(self, scenario: Mapping[str, Any], after: int) -> None:
        records = [record for record in scenario["inputs"] if record.get("after", 0) == after]
        producer = Producer(producer_config(self._settings.kafka, linger_ms=2))
        for record in records:
            headers = [(name, _bytes(value)) for name, value in record.get("headers", ())]
            producer.produce(
                record["topic"], _bytes(record["value"]), _bytes(record["key"]), partition=record.get("partition", 0),
                timestamp=record["timestamp"], headers=headers or None,
            )  # fmt: skip
        producer.flush(30)

    def _settle(self, scenario: Mapping[str, Any], sinks: Mapping[str, Any], most: float = _MOST_SECONDS) -> None:
        """Wait until the topics hold what they should and grow no more, or until the time is over."""
        wanted: dict[str, int] = {}
        for record in scenario["outputs"]:
            wanted[record["topic"]] = wanted.get(record["topic"], 0) + 1
        began = since = time.monotonic()
        before: dict[str, int] = {}
        while sinks and time.monotonic() - began < most:
            now = self._counts(sinks)
            since = time.monotonic() if now != before else since
            quiet, before = time.monotonic() - since, now
            reached = all(now.get(topic, 0) >= wanted.get(topic, 0) for topic in sinks)
            if reached and quiet > _QUIET_SECONDS and time.monotonic() - began > 1:
                return
            time.sleep(0.2)

    def _counts(self, topics: Iterable[str]) -> dict[str, int]:
        try:
            ends = self._admin.offsets(list(topics), "latest")
        except KafkaClientError:
            return {}
        found: dict[str, int] = {}
        for (topic, _), end in ends.items():
            found[topic] = found.get(topic, 0) + end
        return found

    def _read(self, topic: str) -> list[Message]:
        consumer = Consumer(
            {
                "bootstrap.servers": self._settings.kafka.bootstrap_servers,
                "group.id": "golden",
                "enable.partition.eof": True,
            }
        )
        try:
            left = set(consumer.list_topics(topic, 30).topics[topic].partitions)
            consumer.assign([TopicPartition(topic, partition, 0) for partition in left])
            found = []
            while left:
                message = consumer.poll(15)
                assert message is not None, f"topic {topic} can't be read"
                if message.error():
                    left.discard(message.partition())
                else:
                    found.append(message)
            return found
        finally:
            consumer.close()

    def _shown(self, message: Message, source: Mapping[str, Any]) -> dict[str, Any]:
        key, window = message.key(), dict[str, int]()
        if source["windowType"] is not None and key is not None:
            window["windowStart"] = struct.unpack(">q", key[-8:])[0]
            if source["windowType"] == "SESSION":
                window["windowEnd"] = struct.unpack(">q", key[-16:-8])[0]
            key = key[: -8 * len(window)]
        row: dict[str, Any] = {
            "topic": message.topic(), "partition": message.partition(), "key": self._text(key, source["keyFormat"]),
            "value": self._text(message.value(), source["valueFormat"]), "timestamp": message.timestamp()[1], **window,
        }  # fmt: skip
        if message.headers():
            row["headers"] = [[name, _printable(value)] for name, value in message.headers()]
        return row

    def _text(self, data: bytes | None, format_: str) -> Any:
        if format_ != "AVRO" or data is None or data[:1] != b"\0":
            return _printable(data)
        schema_id = struct.unpack(">I", data[1:5])[0]
        if schema_id not in self._schemas:
            self._schemas[schema_id] = fastavro.parse_schema(json.loads(self._registry.schema(schema_id)))
        return _plain(fastavro.schemaless_reader(io.BytesIO(data[5:]), self._schemas[schema_id]))

    # ------------------------------------------------------------------------------------------------ the server
    def _answer(self, scenario: Mapping[str, Any], step: Mapping[str, Any]) -> tuple[int, Any]:
        properties = {"auto.offset.reset": "earliest", **scenario.get("properties", {}), **step.get("properties", {})}
        method, path = step.get("endpoint", "POST /ksql").split(" ", 1)
        headers = step.get("headers", {})
        if "raw" in step:
            return _body(
                self._http.request(
                    method,
                    self._url + path,
                    content=step["raw"].encode(),
                    headers={"Content-Type": "application/json", **headers},
                )
            )
        if method == "GET":
            return _body(self._http.get(self._url + path, headers=headers))
        if path in _READ_STEPS:
            return self._rows(path, step, properties, headers)
        if "sql" in step:
            return self._statement(step["sql"], properties, step.get("variables"))
        return _body(self._http.request(method, self._url + path, json=step.get("body"), headers=headers))

    def _statement(
        self, sql: str, properties: Mapping[str, str], variables: Mapping[str, str] | None = None
    ) -> tuple[int, Any]:
        body: dict[str, Any] = {"ksql": sql, "streamsProperties": dict(properties)}
        if variables:
            body["sessionVariables"] = dict(variables)
        with self._one_at_a_time:
            status, answer = _body(self._http.post(f"{self._url}/ksql", json=body))
        for entity in answer if status == 200 and isinstance(answer, list) else ():
            if isinstance(entity, dict) and "commandStatus" in entity:
                kept = entity["commandStatus"]
                entity["commandStatus"] = {name: kept.get(name) for name in ("status", "message", "queryId")}
        return status, answer

    def _rows(
        self, path: str, step: Mapping[str, Any], properties: Mapping[str, str], headers: Mapping[str, str]
    ) -> tuple[int, Any]:
        body = step.get("body")
        if body is None and path == "/query-stream":
            body = {"sql": step["sql"], "properties": properties}
            body |= {"sessionVariables": step["variables"]} if step.get("variables") else {}
        elif body is None:
            body = {"ksql": step["sql"], "streamsProperties": properties}
        lines: list[str] = []
        limit, most = step.get("seconds", 8), step.get("lines", 10**9)
        with self._http.stream(
            "POST", self._url + path, json=body, headers=headers, timeout=httpx.Timeout(10, read=limit)
        ) as answer:
            kind = answer.headers.get("content-type", "").split(";")[0]
            if answer.status_code != 200:
                answer.read()
                return _body(answer)
            end = time.monotonic() + limit
            try:
                for line in answer.iter_lines():
                    lines += [line] if line.strip() else []
                    if time.monotonic() > end or len(lines) >= most:
                        break
            except httpx.ReadTimeout:
                lines.append("<time out>")
            except httpx.TransportError as error:
                lines.append(f"<{type(error).__name__}>")
        shown = [_parsed(line) for line in lines]
        if step.get("sort"):
            shown = shown[:1] + sorted(shown[1:], key=lambda line: json.dumps(line, sort_keys=True))
        return 200, {"content-type": kind, "lines": shown}

    def _note_sinks(self, step: Mapping[str, Any], answer: tuple[int, Any], sinks: dict[str, dict[str, Any]]) -> None:
        """Note the topics that a statement's queries, or its rows, go to."""
        text = step.get("sql", "")
        for _, name, target in _MADE.findall(text):
            if answer[0] != 200 and not target:
                continue
            status, described = self._statement(f"DESCRIBE {target or name};", {})
            source = described[0].get("sourceDescription") if status == 200 and described else None
            queried = re.search(r"\bAS\s+SELECT", text, re.IGNORECASE) or (source and source["writeQueries"])
            if source and (target or queried):
                sinks[source["topic"]] = source
                if source["windowType"] is not None:
                    # The inputs are of 2023: a windowed topic's own retention would delete the results.
                    self._admin.alter_config(source["topic"], {"retention.ms": "-1"})

    def _drop_everything(self) -> None:
        for query in self._statement("SHOW QUERIES;", {})[1][0]["queries"]:
            self._statement(f"TERMINATE {query['id']};", {})
        for _ in range(6):
            streams, tables = (
                self._statement(f"SHOW {kind}S;", {})[1][0][f"{kind.lower()}s"] for kind in ("STREAM", "TABLE")
            )
            for source in [*streams, *tables]:
                self._statement(f"DROP {source['type']} IF EXISTS `{source['name']}`;", {})
        for name in self._statement("SHOW TYPES;", {})[1][0].get("types", {}):
            self._statement(f"DROP TYPE IF EXISTS `{name}`;", {})


def _reads_rows(step: Mapping[str, Any]) -> bool:
    return step.get("endpoint", "").endswith(_READ_STEPS) and not step.get("push")


def _body(answer: httpx.Response) -> tuple[int, Any]:
    return answer.status_code, _parsed(answer.text)


def _parsed(text: str) -> Any:
    try:
        return json.loads(text)
    except ValueError:
        return text


def _bytes(value: Any) -> bytes | None:
    if value is None:
        return None
    if isinstance(value, dict) and set(value) == {"hex"}:
        return bytes.fromhex(value["hex"])
    return value.encode() if isinstance(value, str) else json.dumps(value, separators=(",", ":")).encode()


def _printable(data: bytes | None) -> Any:
    if data is None:
        return None
    try:
        text = data.decode()
    except UnicodeDecodeError:
        return {"hex": data.hex()}
    return text if all(char.isprintable() or char in "\t\n\r" for char in text) else {"hex": data.hex()}


def _plain(value: Any) -> Any:
    if isinstance(value, dict):
        return {name: _plain(part) for name, part in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(part) for part in value]
    if isinstance(value, float) and math.isnan(value):
        return "NaN"
    return value if value is None or isinstance(value, bool | int | float | str) else str(value)
