"""Tasks of the producers: plan a run, send its shards out to workers, send a shard, stop them all."""

from __future__ import annotations

import time
from collections.abc import Sequence
from datetime import datetime
from typing import Any
from uuid import UUID

from prefect import get_run_logger, task
from prefect.cache_policies import NO_CACHE
from prefect.client.orchestration import get_client
from prefect.client.schemas.filters import FlowRunFilter, FlowRunFilterId
from prefect.client.schemas.objects import State, TaskRun
from prefect.runtime import flow_run
from prefect.tasks import Task, exponential_backoff
from prefect.variables import Variable

from heartwatch.produce import planning, process
from heartwatch.produce.companion import Companion
from heartwatch.produce.dispatch import Dispatcher
from heartwatch.produce.reports import ShardReport, shard_rows
from heartwatch.produce.sender import FencedError
from heartwatch.produce.shards import Shard
from heartwatch.produce.sources import shards_of
from heartwatch.produce.spec import RunSpec
from heartwatch.produce.supervision import PRODUCER_RUN, Limits, ParentWatch
from heartwatch.settings import load_settings
from tasks.artifacts import ProgressArtifact, publish_table
from tasks.shard_runs import PrefectShardRuns, planned_spec

_LOOK_SECONDS = 5.0


def _worth_a_retry(_: Task[..., Any], __: TaskRun, state: State[Any]) -> bool:
    """A fenced process has a successor, which repeating it would fence in turn; what nobody wants isn't wanted again either."""
    try:
        state.result()
    except (FencedError, process.AbandonedError):
        return False
    except Exception:
        return True
    return False


class _PrefectControl:
    """Stops a producer by the variable `producer_run` or when nobody wants it, and shows its progress as an artifact."""

    def __init__(self, shard: int, own: UUID | None, parent: UUID | None) -> None:
        self._artifact = ProgressArtifact(f"producer-{shard}")
        self._own, self._parent = own, parent
        self._watch, self._looked_at = ParentWatch(), float("-inf")

    def stop_requested(self) -> bool:
        return str(Variable.get(PRODUCER_RUN, default=1)) == "0"

    def abandoned(self) -> str:
        if self._own is None or time.monotonic() - self._looked_at < _LOOK_SECONDS:
            return ""
        self._looked_at = time.monotonic()
        wanted = [run for run in (self._own, self._parent) if run is not None]
        with get_client(sync_client=True) as client:
            runs = client.read_flow_runs(flow_run_filter=FlowRunFilter(id=FlowRunFilterId(any_=wanted)))
        states = {run.id: run.state.type.value for run in runs if run.state is not None}
        parent = states.get(self._parent) if self._parent is not None else None
        return self._watch.reason(states.get(self._own), parent, time.monotonic())

    def show(self, percent: float, text: str) -> None:
        self._artifact.show(percent, text)


def _run_id(text: str | None) -> UUID | None:
    """Return the id of a flow run; None outside of one."""
    try:
        return UUID(text)
    except (TypeError, ValueError):
        return None


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

    Returns:
        what was sent of the shard, by this process and those before it.

    Raises:
        DeliveryError: messages could not be delivered; a retry goes on after what was committed.
        SourceError: the source can't be opened.
        AbandonedError: its run was ended from outside, or the run that sent it out is over.
    """
    logger = get_run_logger()
    # `produce` names a run by its own flow run.
    control = _PrefectControl(shard.index, _run_id(flow_run.id), _run_id(spec.run_id))
    companion = Companion(shard.index, control, logger.warning)
    outcome = process.send_shard(load_settings(), spec, shard, companion)
    logger.info(process.outcome_sentence(shard, outcome))
    return ShardReport.of(shard, outcome.progress, seconds=outcome.seconds)


@task(task_run_name="dispatch-{spec.run_id}", cache_policy=NO_CACHE)
def dispatch_shards(spec: RunSpec) -> list[ShardReport]:
    """Run every shard of a run on the producers' workers, with a progress artifact.

    Args:
        spec: the run.

    Returns:
        what each shard sent, in order of their numbers.

    Raises:
        ProduceError: a shard could not be sent.
    """
    progress = ProgressArtifact("produce")
    progress.show(0.0, f"run {spec.run_id}: 0 events")
    total = max(1, spec.events * max(1, spec.repeat))

    def show(delivered: int) -> None:
        progress.show(min(99.0, 100.0 * delivered / total), f"run {spec.run_id}: {delivered:,} events delivered")

    with get_client(sync_client=True) as client:
        runs = PrefectShardRuns(client, _run_id(flow_run.id))
        dispatcher = Dispatcher(load_settings(), spec, Limits(), runs, show, get_run_logger().warning)
        reports = dispatcher.run(shards_of(spec))
    progress.show(100.0)
    return reports


@task(cache_policy=NO_CACHE, retries=5, retry_delay_seconds=5)
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

    A run that comes back after its process died has its description already: its shards are taken up where they are.

    Args:
        start: first event time; None for now, after all that was sent before.
        run_id: names the run.
        **choices: further fields of `RunSpec`.

    Raises:
        UnknownTopicError: the stream's topic isn't deployed.
        SourceError: the choices can't be used.
    """
    if flow_run.run_count > 1:
        with get_client(sync_client=True) as client:
            before = planned_spec(client, run_id)
        if before is not None:
            get_run_logger().info("the run's shards were sent out before and are taken up again")
            return before
    spec = planning.plan_run(load_settings(), start, run_id, **choices)
    if wait := planning.wait_ahead(spec, time.time_ns() // 1_000_000):
        get_run_logger().warning("%s", wait)
    return spec


def publish_producers(run_id: str, shards: Sequence[ShardReport]) -> None:
    """Show what each producer of a run sent as a table.

    Args:
        run_id: names the run.
        shards: what each shard sent.
    """
    delivered = sum(shard.delivered for shard in shards)
    description = f"Run {run_id}: {delivered:,} events delivered by {len(shards)} shards."
    publish_table("producers", shard_rows(shards), description)
