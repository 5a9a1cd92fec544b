"""What the page asks of each part, and the shape of the answers."""

from __future__ import annotations

import math
import os
import time
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any

import httpx
from confluent_kafka import Consumer, KafkaException

from heartwatch import postgres
from heartwatch.analytic import Analytic
from heartwatch.connect import Connect, ConnectorStatus, UnknownConnectorError
from heartwatch.errors import HeartWatchError
from heartwatch.monitoring import Monitoring, Sample
from heartwatch.settings import Settings
from heartwatch.verify.stages import ALERTS, MOST_MARKERS, QUERY, REALTIME, query_group, sink_readers
from heartwatch.verify.throughput import behind
from kafkakit.admin import QUIET, KafkaClientError, OffsetReader, consumer_config
from kafkakit.registry import Registry
from kafkakit.topic_reader import read_ranges
from ksqlengine.client.rest_client import Ksqldb, Query, StatementError, Statistics

REQUEST_SECONDS = 5.0
_SHAPE_SECONDS = 5.0
_SETTLED_SECONDS = 3.0
_RUNS_SHOWN = 12
_SCHEDULES_SECONDS = 60.0
_REMEMBERED_SECONDS = 3_600
_SHARD_FLOW = "produce-shard"
_FAILED = {"FAILED", "CRASHED"}
CHECKS = ("verify-sink", "verify-throughput")


# ------------------------------------------------------------------------------------------------------------- Kafka
@dataclass(frozen=True)
class TopicShape:
    """A topic: its partitions, and how many of them have no leader or too few copies in sync."""

    name: str
    partitions: int
    leaderless: int
    under_replicated: int


@dataclass(frozen=True)
class KafkaReading:
    """What the brokers say.

    Attributes:
        sample: where every stage was at one moment; None while the topics aren't deployed.
        brokers: ``host:port`` of the brokers that are up.
        topics: the analytic's topics that exist.
    """

    sample: Sample | None
    brokers: tuple[str, ...]
    topics: tuple[TopicShape, ...]


class KafkaPart:
    """Reads brokers, topics and positions, through consumers that join no group (see `kafkakit.admin.OffsetReader`)."""

    def __init__(self, settings: Settings, analytic: Analytic) -> None:
        """Prepare; `query_groups` is set by whoever knows the queries."""
        self.query_groups: tuple[str, ...] = ()
        self._kafka, self._analytic = settings.kafka, analytic
        self._offsets = OffsetReader(settings.kafka, REQUEST_SECONDS)
        self._client: Consumer | None = None
        self._shape: tuple[tuple[str, ...], tuple[TopicShape, ...]] = ((), ())
        self._shape_at = 0.0
        self._settled: dict[str, tuple[dict[int, tuple[int, int]], bool]] = {}
        self._ends: dict[str, tuple[float, dict[int, int]]] = {}

    def read(self) -> KafkaReading:
        """Ask the brokers.

        Raises:
            KafkaClientError: they don't answer.
        """
        if time.monotonic() - self._shape_at > _SHAPE_SECONDS:
            self._shape, self._shape_at = self._read_shape(), time.monotonic()
        brokers, topics = self._shape
        wanted = {self._analytic.topic("realtime"), self._analytic.topic("alerts")}
        there = wanted <= {topic.name for topic in topics}
        if not there:
            # They may come back with other partitions.
            self._offsets, self._ends, self._settled = OffsetReader(self._kafka, REQUEST_SECONDS), {}, {}
        return KafkaReading(self._sample() if there else None, brokers, topics)

    def _read_shape(self) -> tuple[tuple[str, ...], tuple[TopicShape, ...]]:
        if self._client is None:
            self._client = Consumer(consumer_config(self._kafka, "heartwatch-web") | QUIET)
        try:
            found = self._client.list_topics(timeout=REQUEST_SECONDS)
        except KafkaException as error:
            servers = self._kafka.bootstrap_servers
            raise KafkaClientError(f"{error.args[0].str()}; see that the brokers {servers} are up") from None
        brokers = tuple(sorted(f"{broker.host}:{broker.port}" for broker in found.brokers.values()))
        names = [self._analytic.topic(resource) for resource in self._analytic.topics]
        return brokers, tuple(_shape(found.topics[name]) for name in names if name in found.topics)

    def _sample(self) -> Sample:
        realtime, alerts = self._analytic.topic("realtime"), self._analytic.topic("alerts")
        spans = self._offsets.spans([realtime, alerts])
        there = {
            topic: {partition: span for (name, partition), span in spans.items() if name == topic}
            for topic in (realtime, alerts)
        }
        heads = {topic: {partition: end for partition, (_, end) in ranges.items()} for topic, ranges in there.items()}
        positions = {REALTIME: sum(heads[realtime].values())}
        behind_heads: dict[str, int] = {}
        for stage, topic, groups in self._readers():
            found = self._positions(groups, topic)
            positions[stage], behind_heads[stage] = behind(found, heads[topic])
            if self._only_markers_left(stage, topic, found, there[topic]):
                behind_heads[stage] = positions[stage]
        positions[ALERTS] = sum(heads[alerts].values())
        return Sample(time.time(), positions, behind_heads)

    def _readers(self) -> list[tuple[str, str, tuple[str, ...]]]:
        """Return the stages that read a topic: name, topic, consumer groups."""
        sinks = [(reader.stage, reader.topic, (reader.group,)) for reader in sink_readers(self._analytic)]
        query = [(QUERY, self._analytic.topic("realtime"), self.query_groups)] if self.query_groups else []
        return [*query, *sinks]

    def _positions(self, groups: Sequence[str], topic: str) -> dict[int, int]:
        """Return the furthest of the groups' positions in each partition."""
        positions: dict[int, int] = {}
        for group in groups:
            for (_, partition), committed in self._offsets.committed(group, topic).items():
                positions[partition] = max(positions.get(partition, 0), committed.position)
        return positions

    def _only_markers_left(
        self, stage: str, topic: str, found: dict[int, int], there: Mapping[int, tuple[int, int]]
    ) -> bool:
        """Whether a stage has read all of a topic but markers of transactions, which nobody commits.

        Looked at once for each end of a topic that has been still for a while. What retention removed can't be looked at.
        """
        ends = {partition: end for partition, (_, end) in there.items()}
        since, known = self._ends.get(topic, (time.monotonic(), ends))
        self._ends[topic] = since, _ = (since if known == ends else time.monotonic(), ends)
        if time.monotonic() - since < _SETTLED_SECONDS:
            return False
        left = {partition: (max(first, found.get(partition, 0)), end) for partition, (first, end) in there.items()}
        if self._settled.get(stage, ({}, False))[0] != left:
            self._settled[stage] = (left, self._has_no_record(topic, left))
        return self._settled[stage][1]

    def _has_no_record(self, topic: str, spans: Mapping[int, tuple[int, int]]) -> bool:
        if any(end - begin > MOST_MARKERS for begin, end in spans.values()):
            return False
        return not any(map(len, read_ranges(self._kafka, topic, spans, silence_seconds=REQUEST_SECONDS)))


def _shape(topic: Any) -> TopicShape:
    partitions = list(topic.partitions.values())
    return TopicShape(
        topic.topic,
        len(partitions),
        sum(one.leader < 0 for one in partitions),
        sum(len(one.isrs) < len(one.replicas) for one in partitions),
    )


# -------------------------------------------------------------------------------------------------------------- KSQL
@dataclass(frozen=True)
class KsqlReading:
    """What the KSQL servers say.

    Attributes:
        servers: whether each server says that it is healthy, by address.
        version: of the server in use.
        queries: persistent queries.
        stream: messages through the first stream; None where it isn't there.
        table: messages through the final table; None where it isn't there.
        groups: consumer groups of the queries.
    """

    servers: Mapping[str, bool]
    version: str
    queries: tuple[Query, ...]
    stream: Statistics | None
    table: Statistics | None
    groups: tuple[str, ...]


class KsqlPart:
    """Reads queries and statistics."""

    def __init__(self, settings: Settings, analytic: Analytic) -> None:
        """Prepare."""
        quick = settings.ksqldb.model_copy(update={"request_timeout_seconds": REQUEST_SECONDS})
        self._ksqldb = Ksqldb(quick, retry_seconds=0.1)
        self._stream, self._table = analytic.name("realtime"), analytic.name("alerts")

    def read(self) -> KsqlReading:
        """Ask the servers.

        Raises:
            KsqldbError: none answers.
        """
        info, queries = self._ksqldb.info(), tuple(self._ksqldb.queries())
        return KsqlReading(
            servers=self._ksqldb.healthy(),
            version=info.version,
            queries=queries,
            stream=self._statistics(self._stream),
            table=self._statistics(self._table),
            groups=tuple(query_group(info.service_id, query.query_id) for query in queries),
        )

    def _statistics(self, name: str) -> Statistics | None:
        # KSQL keeps names as the migrations give them, unquoted: in capitals.
        with suppress(StatementError):
            return self._ksqldb.describe(name.upper()).statistics
        return None


# ----------------------------------------------------------------------------------------------------------- Connect
class ConnectPart:
    """Reads connectors and their tasks."""

    def __init__(self, settings: Settings) -> None:
        """Prepare."""
        self._connect = Connect(settings.connect, REQUEST_SECONDS, retry_seconds=0.1)

    def read(self) -> tuple[ConnectorStatus, ...]:
        """Ask Connect.

        Raises:
            ConnectError: it doesn't answer.
        """
        found = []
        for name in self._connect.connectors():
            with suppress(UnknownConnectorError):
                found.append(self._connect.status(name))
        return tuple(found)


# ----------------------------------------------------------------------------------------------------------- Prefect
@dataclass(frozen=True)
class WorkerState:
    """A worker: its name, its work pool, whether it is ONLINE, and its last heartbeat."""

    name: str
    pool: str
    online: bool
    heartbeat: datetime | None


@dataclass(frozen=True)
class FlowRun:
    """A flow run.

    Attributes:
        run_id: its id.
        name: its name.
        flow: its flow's name.
        state: type of its state (COMPLETED, FAILED, …).
        message: the state's message.
        began: when it began; None before.
        seconds: how long it took, or takes so far.
        scheduled: whether a schedule started it.
    """

    run_id: str
    name: str
    flow: str
    state: str
    message: str
    began: datetime | None
    seconds: float
    scheduled: bool = False


@dataclass(frozen=True)
class PrefectReading:
    """What Prefect says.

    Attributes:
        workers: workers of all pools.
        runs: the last flow runs, newest first, without those that others started; scheduled ones only where they failed.
        checks: the last run that ended of each scheduled check.
        producers: producer processes at work.
        deployments: how many deployments there are.
    """

    workers: tuple[WorkerState, ...] = ()
    runs: tuple[FlowRun, ...] = ()
    checks: Mapping[str, FlowRun] = field(default_factory=dict)
    producers: int = 0
    deployments: int = 0


class PrefectError(HeartWatchError):
    """Prefect refused or didn't answer; the message names what was asked and the reason."""


class PrefectApi:
    """What the page needs of Prefect's REST API."""

    def __init__(self, settings: Settings) -> None:
        """Prepare; like Prefect's own clients it takes its address and credentials from the environment too."""
        url = settings.prefect.api_url or os.environ.get("PREFECT_API_URL") or "http://127.0.0.1:4200/api"
        credentials = os.environ.get("PREFECT_API_AUTH_STRING", "").split(":", 1)
        auth = (credentials[0], credentials[1]) if len(credentials) == 2 else None
        self.ui_url = (settings.web.prefect_ui_url or url.removesuffix("/").removesuffix("/api")).rstrip("/")
        self._http = httpx.Client(base_url=url.rstrip("/"), timeout=REQUEST_SECONDS, auth=auth, trust_env=False)

    def ask(self, method: str, path: str, body: Any = None, allowed: Sequence[int] = ()) -> Any:
        """Send a request and return the answer; None for one of the `allowed` error codes.

        Raises:
            PrefectError: Prefect refused it or doesn't answer.
        """
        try:
            response = self._http.request(method, path, json=body)
        except httpx.HTTPError as error:
            raise PrefectError(
                f"no answer from {self._http.base_url}: {error}; see that Prefect's server is up"
            ) from error
        if response.status_code in allowed:
            return None
        if not response.is_success:
            raise PrefectError(f"{method} {path}: HTTP {response.status_code}: {response.text[:_REASON_BYTES]}")
        return response.json() if response.content else None


_REASON_BYTES = 300


class PrefectPart:
    """Reads workers and flow runs."""

    def __init__(self, api: PrefectApi) -> None:
        """Prepare."""
        self._api = api
        self._flows: dict[str, str] = {}
        self._by_hand: list[str] = []
        self._by_hand_at = -math.inf

    def read(self) -> PrefectReading:
        """Ask Prefect.

        Raises:
            PrefectError: it doesn't answer.
        """
        workers = [
            WorkerState(one["name"], pool["name"], one["status"] == "ONLINE", _moment(one.get("last_heartbeat_time")))
            for pool in self._api.ask("POST", "/work_pools/filter", {})
            for one in self._api.ask("POST", f"/work_pools/{pool['name']}/workers/filter", {})
        ]
        running = {"flows": _flow_filter([_SHARD_FLOW]), "flow_runs": {"state": {"type": {"any_": ["RUNNING"]}}}}
        return PrefectReading(
            workers=tuple(sorted(workers, key=lambda one: (one.pool, not one.online, one.name))),
            runs=tuple(self._runs()),
            checks={name: run for name in CHECKS for run in self._last_check(name)},
            producers=int(self._api.ask("POST", "/flow_runs/count", running)),
            deployments=int(self._api.ask("POST", "/deployments/count", {})),
        )

    def _runs(self) -> list[FlowRun]:
        query = {
            "sort": "EXPECTED_START_TIME_DESC",
            "flow_runs": {"state": {"type": {"not_any_": ["SCHEDULED"]}}, "parent_task_run_id": {"is_null_": True}},
        }
        recent = [
            run for run in self._asked({**query, "limit": 5 * _RUNS_SHOWN}) if not run.scheduled or run.state in _FAILED
        ]
        # Those of schedules are so many that what people started an hour ago isn't among the recent ones.
        by_hand = self._flows_without_schedule()
        others = self._asked({**query, "limit": _RUNS_SHOWN, "flows": {"id": {"any_": by_hand}}}) if by_hand else []
        found = {run.run_id: run for run in (*recent, *others)}
        newest = sorted(found.values(), key=lambda run: run.began or datetime.now(UTC), reverse=True)
        return newest[:_RUNS_SHOWN]

    def _flows_without_schedule(self) -> list[str]:
        if time.monotonic() - self._by_hand_at > _SCHEDULES_SECONDS:
            deployments = self._api.ask("POST", "/deployments/filter", {})
            scheduled = {one["flow_id"] for one in deployments if any(each["active"] for each in one["schedules"])}
            flows = {one["id"] for one in self._api.ask("POST", "/flows/filter", {})}
            self._by_hand, self._by_hand_at = sorted(flows - scheduled), time.monotonic()
        return self._by_hand

    def _last_check(self, flow: str) -> list[FlowRun]:
        ended = {"state": {"type": {"any_": ["COMPLETED", "FAILED", "CRASHED"]}}}
        return self._asked({"sort": "END_TIME_DESC", "limit": 1, "flows": _flow_filter([flow]), "flow_runs": ended})

    def _asked(self, query: Mapping[str, Any]) -> list[FlowRun]:
        found = self._api.ask("POST", "/flow_runs/filter", query)
        missing = sorted({run["flow_id"] for run in found} - self._flows.keys())
        if missing:
            flows = self._api.ask("POST", "/flows/filter", {"flows": {"id": {"any_": missing}}})
            self._flows |= {flow["id"]: flow["name"] for flow in flows}
        return [_flow_run(run, self._flows.get(run["flow_id"], "")) for run in found]


def _flow_filter(names: Sequence[str]) -> dict[str, Any]:
    return {"name": {"any_": list(names)}}


def _flow_run(run: Mapping[str, Any], flow: str) -> FlowRun:
    state = run.get("state") or {}
    return FlowRun(
        run_id=run["id"],
        name=run["name"],
        flow=flow,
        state=state.get("type") or "PENDING",
        message=state.get("message") or "",
        began=_moment(run.get("start_time")),
        seconds=float(run.get("total_run_time") or run.get("estimated_run_time") or 0.0),
        scheduled=bool(run.get("auto_scheduled")),
    )


def _moment(text: str | None) -> datetime | None:
    return datetime.fromisoformat(text).astimezone(UTC) if text else None


# ------------------------------------------------------------------------------------------------------------ others
@dataclass(frozen=True)
class Proof:
    """What is proven of a topic's sink: rows, offsets that are broken, since when records wait, and when it was checked last."""

    topic: str
    rows: int
    broken: int
    waiting_since: datetime | None
    checked_at: datetime


@dataclass(frozen=True)
class PostgresReading:
    """What Postgres keeps.

    Attributes:
        people: people with a range of their own.
        proofs: what is proven of the sinks.
        measured_at: when the stages were measured last, seconds since the epoch; None before the first time.
        measured: events/s of the first topic then.
        latency_ms: 50th, 95th and 99th percentile of the results' latency in the newest minute that has any.
    """

    people: int = 0
    proofs: tuple[Proof, ...] = ()
    measured_at: float | None = None
    measured: float | None = None
    latency_ms: tuple[float, float, float] | None = None


class PostgresPart:
    """Reads how many people have a range, and what the scheduled checks remember."""

    def __init__(self, settings: Settings, analytic: Analytic) -> None:
        """Prepare."""
        self._settings, self._analytic = settings, analytic
        self._memory: Monitoring | None = None

    def read(self) -> PostgresReading:
        """Ask Postgres.

        Raises:
            PostgresError: it doesn't answer.
        """
        since = time.time() - _REMEMBERED_SECONDS
        self._memory = self._memory or Monitoring(self._settings.postgres, self._settings.pipeline)
        rates = [(at, rate) for at, rate in self._memory.rates(since) if rate.stage == REALTIME]
        latencies = self._memory.latency_percentiles(since)
        newest = [latencies[percent][-1][1] for percent in (50, 95, 99) if latencies[percent]]
        return PostgresReading(
            people=self._people(),
            proofs=self._proofs(),
            measured_at=rates[-1][0] if rates else None,
            measured=rates[-1][1].events_per_second if rates else None,
            latency_ms=(newest[0], newest[1], newest[2]) if newest else None,
        )

    def _people(self) -> int:
        table = self._settings.postgres.historical_table
        # The table's name is checked by the settings.
        return int(self._ask(f"SELECT count(*) FROM {table}")[0][0]) if self._has(f"public.{table}") else 0  # noqa: S608

    def _proofs(self) -> tuple[Proof, ...]:
        if not self._has("sink_proof.topics"):
            return ()
        names = [self._analytic.topic(resource) for resource in self._analytic.sink_topics()]
        rows = self._ask(_PROOFS, (names,))
        return tuple(Proof(topic, int(proven), int(broken), waiting, at) for topic, proven, broken, waiting, at in rows)

    def _has(self, table: str) -> bool:
        return bool(self._ask("SELECT to_regclass(%s) IS NOT NULL", (table,))[0][0])

    def _ask(self, statement: str, arguments: Sequence[Any] = ()) -> list[tuple[Any, ...]]:
        return postgres.execute(self._settings.postgres, statement, arguments)


_PROOFS = """
SELECT topic, coalesce(sum(rows) FILTER (WHERE state = 'proven'), 0), count(*) FILTER (WHERE state = 'broken'),
  (SELECT min(waiting_since) FROM sink_proof.partitions WHERE partitions.topic = topics.topic), max(checked_at)
FROM sink_proof.topics LEFT JOIN sink_proof.segments USING (topic)
WHERE topic = ANY(%s) GROUP BY topic ORDER BY topic
"""


class RegistryPart:
    """Counts the subjects of the schema registry."""

    def __init__(self, settings: Settings) -> None:
        """Prepare; the client asks four times, which together must not take longer than others' requests."""
        self._registry = Registry(settings.registry, REQUEST_SECONDS / 4)

    def read(self) -> int:
        """Ask the registry.

        Raises:
            RegistryError: it doesn't answer.
        """
        return len(self._registry.subjects())


class StorageError(HeartWatchError):
    """The S3 server doesn't answer; the message names it and the reason."""


class StoragePart:
    """Asks the S3 server for a sign of life; AWS itself is taken to be there."""

    def __init__(self, settings: Settings) -> None:
        """Prepare."""
        self._endpoint = settings.s3.endpoint
        self._http = httpx.Client(timeout=REQUEST_SECONDS, trust_env=False)

    def read(self) -> bool:
        """Ask the server: any answer, a refusal too, is one.

        Raises:
            StorageError: it doesn't answer.
        """
        try:
            if self._endpoint:
                self._http.head(self._endpoint)
        except httpx.HTTPError as error:
            raise StorageError(f"no answer from {self._endpoint}: {error}; see that the S3 server is up") from error
        return True
