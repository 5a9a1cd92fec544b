"""Tasks of the producers: send a shard, send shards out to workers and look after them, and count what was sent."""

from __future__ import annotations

import contextvars
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any
from uuid import UUID

import psutil
from prefect import get_run_logger, task
from prefect.artifacts import create_progress_artifact, update_progress_artifact
from prefect.cache_policies import NO_CACHE
from prefect.client.orchestration import SyncPrefectClient, get_client
from prefect.client.schemas.filters import FlowRunFilter, FlowRunFilterId
from prefect.client.schemas.objects import FlowRun, State, TaskRun
from prefect.deployments import run_deployment
from prefect.states import Crashed
from prefect.tasks import Task, exponential_backoff
from prefect.variables import Variable
from pydantic import BaseModel

from heartwatch.analytic import Analytic
from heartwatch.errors import HeartWatchError
from heartwatch.produce.messages import Encoder
from heartwatch.produce.pacing import Pacer
from heartwatch.produce.run import run_shard
from heartwatch.produce.sender import FencedError, Progress, ShardSender, forget_progress, read_progress
from heartwatch.produce.shards import Shard
from heartwatch.produce.sources import first_event_ms, open_source, shards_of, windows_of
from heartwatch.produce.spec import RunSpec
from heartwatch.produce.supervision import PRODUCER_RUN, Limits, Sighting, Verdict, judge, queue_of
from heartwatch.settings import Settings, load_settings
from kafkakit import avro_codec
from kafkakit.admin import KafkaAdmin, KafkaClientError, OffsetReader
from kafkakit.registry import Registry
from kafkakit.topic_reader import newest_event_ms, wait_until_committed
from tasks.artifacts import publish_table

_DEPLOYMENT = "produce-shard/produce-shard"
_RUNS_ASKED = 200  # Prefect's server gives no more of them at a time
_WATCH_SECONDS = 1.0
_VISIBLE_SECONDS = 90.0  # longer than the brokers let a dead producer's transaction stay open


class ProduceError(HeartWatchError):
    """A run could not send all it should have; what was committed stays."""


class ShardReport(BaseModel):
    """What was sent of a shard, over all processes that ran it."""

    shard: int
    delivered: int
    failed: int
    newest_ms: int
    finished: bool
    attempts: int = 1
    seconds: float = 0.0

    @property
    def events_per_second(self) -> float:
        """Mean rate, events/s."""
        return self.delivered / self.seconds if self.seconds > 0 else 0.0


def _worth_a_retry(_: Task[..., Any], __: TaskRun, state: State[Any]) -> bool:
    """A fenced process has a successor: repeating it would fence that one in turn."""
    try:
        state.result()
    except FencedError:
        return False
    except Exception:
        return True
    return False


@task(
    task_run_name="send-shard-{shard.index}",
    retries=3,
    retry_delay_seconds=exponential_backoff(backoff_factor=2),
    retry_jitter_factor=0.5,
    retry_condition_fn=_worth_a_retry,
    cache_policy=NO_CACHE,
)
def send_shard(spec: RunSpec, shard: Shard) -> ShardReport:
    """Send a shard's events until its source ends or the variable `producer_run` is 0.

    Args:
        spec: the run.
        shard: which part of it.

    Raises:
        DeliveryError: messages could not be delivered; a retry goes on after what was committed.
        SourceError: the source can't be opened.
    """
    settings = load_settings()
    analytic = Analytic.of(settings.pipeline)
    encoder = _encoder(settings, analytic, spec, shard)
    source = open_source(
        spec, shard, analytic, encoder.schema_id, settings.home / "rejects" / f"{spec.run_id}-{shard.index}.jsonl"
    )
    rate = spec.events_per_second / len(shards_of(spec)) if spec.events_per_second else None
    topic = analytic.topic("realtime")
    with ShardSender(settings.kafka, topic, spec.run_id, shard) as sender, _Companion(shard) as companion:
        outcome = run_shard(
            source,
            encoder,
            sender,
            Pacer(rate, spec.speed),
            companion.should_stop,
            companion.report,
            spec.transaction_interval_ms / 1000,
        )
    progress = outcome.progress
    get_run_logger().info(
        "shard %d: %d events delivered, %d sent again, %.0f events/s%s",
        shard.index,
        progress.delivered,
        progress.failed,
        outcome.events_per_second,
        ", stopped" if outcome.stopped else "",
    )
    return _report(shard, progress, seconds=outcome.seconds)


def _encoder(settings: Settings, analytic: Analytic, spec: RunSpec, shard: Shard) -> Encoder:
    topic = analytic.topics["realtime"]
    text = analytic.schema_text("realtime")
    registered = Registry(settings.registry).register(f"{analytic.topic('realtime')}-value", text)
    return Encoder(
        schema=avro_codec.parse(text),
        schema_id=registered.schema_id,
        key=topic.key,
        event_time=topic.event_time or "",
        partitions=spec.partitions,
        chosen=shard.partitions,
    )


def _report(shard: Shard, progress: Progress, seconds: float, attempts: int = 1) -> ShardReport:
    return ShardReport(
        shard=shard.index,
        delivered=progress.delivered,
        failed=progress.failed,
        newest_ms=progress.newest_ms,
        finished=progress.finished,
        attempts=attempts,
        seconds=seconds,
    )


class _Companion:
    """A thread beside the sending loop that talks to Prefect, so that a slow API never slows the producer down.

    Once a second it reads the stop variable and brings the progress artifact up to date. An API that is away changes nothing:
    the producer goes on, and the artifact follows later.
    """

    def __init__(self, shard: Shard) -> None:
        self._shard = shard
        self._stop, self._ended = threading.Event(), threading.Event()
        self._progress = Progress()
        self._began = time.monotonic()
        self._first_delivered: int | None = None
        self._artifact: UUID | None = None
        context = contextvars.copy_context()
        self._thread = threading.Thread(target=lambda: context.run(self._run), name="producer-companion", daemon=True)

    def __enter__(self) -> _Companion:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._ended.set()
        self._thread.join(timeout=10)

    def should_stop(self) -> bool:
        """Tell whether the run was stopped."""
        return self._stop.is_set()

    def report(self, progress: Progress) -> None:
        """Take note of a commit."""
        if self._first_delivered is None:
            self._first_delivered = progress.delivered
        self._progress = progress

    def _run(self) -> None:
        failing = False
        while True:
            last = self._ended.wait(_WATCH_SECONDS)
            try:
                if str(Variable.get(PRODUCER_RUN, default=1)) == "0":
                    self._stop.set()
                self._show(last)
                failing = False
            except Exception as error:
                if not failing:
                    get_run_logger().warning("Prefect's API can't be reached, the producer goes on: %s", error)
                failing = True
            if last:
                return

    def _show(self, last: bool) -> None:
        progress, seconds = self._progress, time.monotonic() - self._began
        rate = (progress.delivered - (self._first_delivered or 0)) / seconds if seconds else 0.0
        done = 100.0 if last and progress.finished else 0.0
        counts = f"{progress.delivered:,} delivered, {progress.failed:,} sent again"
        text = f"shard {self._shard.index}: {rate:,.0f} events/s, {counts}"
        if self._artifact is None:
            created = create_progress_artifact(progress=done, key=f"producer-{self._shard.index}", description=text)
            self._artifact = created if isinstance(created, UUID) else None
        elif self._artifact is not None:
            update_progress_artifact(self._artifact, progress=done, description=text)


@dataclass
class _Dispatched:
    """A shard that was sent out: its flow run now, and since when it is looked after."""

    shard: Shard
    run_id: UUID
    attempts: int = 1
    since: float = field(default_factory=time.time)
    beat: float = field(default_factory=time.time)
    progress: Progress = field(default_factory=Progress)
    gone_since: float | None = None
    done: bool = False


def _is_alive(pid: str | None) -> bool | None:
    """Tell whether a process of this machine is at work; None where no process is known."""
    if pid is None or not pid.isdigit():
        return None
    try:
        return bool(psutil.Process(int(pid)).status() != psutil.STATUS_ZOMBIE)
    except psutil.Error:
        return False


class Dispatcher:
    """Sends shards out to the workers of the producers' pool, and again when one of them dies."""

    def __init__(self, settings: Settings, spec: RunSpec, limits: Limits, on_progress: Callable[[int], None]) -> None:
        """Prepare a run.

        Args:
            settings: where the brokers are.
            spec: the run.
            limits: how long a shard may show nothing.
            on_progress: called with the events delivered so far, about once a second.
        """
        self._spec, self._limits, self._on_progress = spec, limits, on_progress
        self._machines = settings.producer.machines
        self._topic = Analytic.of(settings.pipeline).topic("realtime")
        self._admin = KafkaAdmin(settings.kafka, timeout_seconds=10)
        self._offsets = OffsetReader(settings.kafka)
        # The embedded platform's workers are on this machine: their processes can be looked at.
        self._sees_processes = settings.profile == "local"
        self._logger = get_run_logger()

    def run(self, shards: list[Shard]) -> list[ShardReport]:
        """Send the shards out and wait for all of them.

        Raises:
            ProduceError: a shard was cancelled, or its processes ended badly as often as the limits allow.
        """
        began = time.monotonic()
        open_shards = [_Dispatched(shard, self._dispatch(shard, 1)) for shard in shards]
        done: list[_Dispatched] = []
        with get_client(sync_client=True) as client:
            while open_shards:
                time.sleep(_WATCH_SECONDS)
                runs = self._read_runs(client, open_shards)
                for shown in open_shards:
                    self._look(client, shown, runs.get(shown.run_id))
                done += [shown for shown in open_shards if shown.done]
                open_shards = [shown for shown in open_shards if not shown.done]
                self._on_progress(sum(shown.progress.delivered for shown in [*done, *open_shards]))
        seconds = time.monotonic() - began
        reports = [self._final(shown, seconds) for shown in sorted(done, key=lambda shown: shown.shard.index)]
        self._await_visible()
        self._forget(shards)
        return reports

    def _dispatch(self, shard: Shard, attempt: int) -> UUID:
        queue = queue_of(shard.index, attempt, self._machines)
        run = run_deployment(
            _DEPLOYMENT,
            parameters={"spec": self._spec.model_dump(mode="json"), "shard": shard.index},
            flow_run_name=f"{self._spec.run_id}-shard-{shard.index}" + (f"-attempt-{attempt}" if attempt > 1 else ""),
            timeout=0,
            work_queue_name=queue,
            idempotency_key=f"{self._spec.run_id}/{shard.index}/{attempt}",
            as_subflow=True,
        )
        assert isinstance(run, FlowRun)  # noqa: S101 - called outside an event loop it is no coroutine
        return run.id

    def _read_runs(self, client: SyncPrefectClient, shown: list[_Dispatched]) -> dict[UUID, FlowRun]:
        """Read the runs' states; empty when the API doesn't answer, which says nothing of the producers."""
        ids = [one.run_id for one in shown]
        found: dict[UUID, FlowRun] = {}
        try:
            for begin in range(0, len(ids), _RUNS_ASKED):
                wanted = FlowRunFilter(id=FlowRunFilterId(any_=ids[begin : begin + _RUNS_ASKED]))
                found |= {run.id: run for run in client.read_flow_runs(flow_run_filter=wanted)}
            return found
        except Exception as error:
            self._logger.warning("Prefect's API can't be asked for the producers' states: %s", error)
            return {}

    def _look(self, client: SyncPrefectClient, shown: _Dispatched, run: FlowRun | None) -> None:
        reachable = self._read_progress(shown)
        if run is None or run.state is None:
            return
        if not reachable:
            shown.beat = time.time()
        verdict, reason = judge(self._sighting(shown, run, run.state, reachable), self._limits)
        shown.done = verdict is Verdict.DONE
        if verdict is Verdict.CANCEL:
            raise ProduceError(f"shard {shown.shard.index} of run {self._spec.run_id!r}: {reason}; start the run again")
        if verdict is Verdict.DISPATCH:
            self._dispatch_again(client, shown, run, reason)

    def _sighting(self, shown: _Dispatched, run: FlowRun, state: State[Any], reachable: bool) -> Sighting:
        now, entered = time.time(), state.timestamp.timestamp()
        alive = _is_alive(run.infrastructure_pid) if self._sees_processes else None
        shown.gone_since = None if alive is not False else shown.gone_since or now
        return Sighting(
            state=state.type.value,
            state_seconds=now - max(entered, shown.since),
            silent_seconds=now - max(shown.beat, entered) if reachable else None,
            finished=shown.progress.finished,
            alive=alive,
            gone_seconds=0.0 if shown.gone_since is None else now - shown.gone_since,
        )

    def _read_progress(self, shown: _Dispatched) -> bool:
        """Read a shard's committed progress; False when the brokers can't be asked."""
        try:
            found = read_progress(self._offsets, self._topic, self._spec.run_id, shown.shard)
        except KafkaClientError:
            return False
        if found is not None and found.at_ms != shown.progress.at_ms:
            shown.progress, shown.beat = found, time.time()
        return True

    def _dispatch_again(self, client: SyncPrefectClient, shown: _Dispatched, run: FlowRun, reason: str) -> None:
        if shown.attempts >= self._limits.attempts:
            raise ProduceError(
                f"shard {shown.shard.index} of run {self._spec.run_id!r} was sent out {shown.attempts} times, "
                f"the last time {reason}; look at flow run {run.name!r} and see that workers of the producers' pool are up"
            )
        if run.state is not None and not run.state.is_final():
            client.set_flow_run_state(run.id, Crashed(message=f"sent out again: {reason}"), force=True)
        shown.attempts += 1
        shown.run_id = self._dispatch(shown.shard, shown.attempts)
        shown.since = shown.beat = time.time()
        shown.gone_since = None
        self._logger.warning("shard %d is sent out again: %s", shown.shard.index, reason)

    def _final(self, shown: _Dispatched, seconds: float) -> ShardReport:
        """Return what a shard reached; its last commit may have come after the last look."""
        self._read_progress(shown)
        return _report(shown.shard, shown.progress, seconds, shown.attempts)

    def _await_visible(self) -> None:
        """Wait until readers see all that was sent: markers of transactions follow the commits."""
        try:
            seen = wait_until_committed(self._admin, self._topic, _VISIBLE_SECONDS)
        except KafkaClientError as error:
            self._logger.warning("the topic's end can't be asked for: %s", error)
            return
        if not seen:
            self._logger.warning("after %g s a transaction is still open on topic %r", _VISIBLE_SECONDS, self._topic)

    def _forget(self, shards: list[Shard]) -> None:
        try:
            forget_progress(self._admin, self._spec.run_id, shards)
        except KafkaClientError as error:
            # All was sent; groups that nobody uses are removed by the brokers after a week.
            self._logger.warning("the shards' progress could not be deleted: %s", error)


@task(task_run_name="dispatch-{spec.run_id}", cache_policy=NO_CACHE)
def dispatch_shards(spec: RunSpec) -> list[ShardReport]:
    """Run every shard of a run on the producers' workers and return what they sent.

    Raises:
        ProduceError: a shard could not be sent.
    """
    progress = create_progress_artifact(progress=0.0, key="produce", description=f"run {spec.run_id}: 0 events")
    artifact = progress if isinstance(progress, UUID) else None

    def show(delivered: int) -> None:
        if artifact is not None:
            total = max(1, spec.events * max(1, spec.repeat))
            update_progress_artifact(
                artifact,
                progress=min(99.0, 100.0 * delivered / total),
                description=f"run {spec.run_id}: {delivered:,} events delivered",
            )

    reports = Dispatcher(load_settings(), spec, Limits(), show).run(shards_of(spec))
    if artifact is not None:
        update_progress_artifact(artifact, progress=100.0)
    return reports


@task(cache_policy=NO_CACHE)
def allow_producers() -> None:
    """Set the variable `producer_run` to 1, so that an earlier stop doesn't end this run."""
    Variable.set(PRODUCER_RUN, 1, overwrite=True)


@task(cache_policy=NO_CACHE)
def stop_producers(reason: str) -> None:
    """Set the variable `producer_run` to 0: every producer flushes and ends within five seconds.

    Args:
        reason: why, for the log.
    """
    get_run_logger().warning("the producers are stopped: %s", reason)
    Variable.set(PRODUCER_RUN, 0, overwrite=True)


@task(cache_policy=NO_CACHE)
def plan_run(start: datetime | None, run_id: str, **choices: Any) -> RunSpec:
    """Complete a run's description with what has to be asked: the topic's partitions, and when its event time begins.

    Args:
        start: first event time; None for now.
        run_id: names the run.
        **choices: further fields of `RunSpec`.

    Raises:
        UnknownTopicError: the realtime topic isn't deployed.
        SourceError: the choices can't be used.
    """
    settings = load_settings()
    analytic = Analytic.of(settings.pipeline)
    topic = analytic.topic("realtime")
    admin = KafkaAdmin(settings.kafka)
    partitions = len(admin.offsets([topic], "earliest"))
    variables = analytic.variables(settings.pipeline.variables)
    spec = RunSpec(run_id=run_id, partitions=partitions, close_after_ms=sum(windows_of(variables)), **choices)
    if start is not None:
        return spec.model_copy(update={"start_ms": round(start.timestamp() * 1000)})
    newest_ms = newest_event_ms(settings.kafka, admin, topic)
    return spec.model_copy(update={"start_ms": first_event_ms(spec, newest_ms, time.time_ns() // 1_000_000, variables)})


def publish_producers(run_id: str, shards: Sequence[ShardReport]) -> None:
    """Show what each producer of a run sent."""
    rows = [
        {
            "shard": shard.shard,
            "delivered": shard.delivered,
            "sent again": shard.failed,
            "events/s": round(shard.events_per_second),
            "processes": shard.attempts,
            "finished": shard.finished,
        }
        for shard in shards
    ]
    delivered = sum(shard.delivered for shard in shards)
    publish_table("producers", rows, f"Run {run_id}: {delivered:,} events delivered by {len(shards)} shards.")
