"""Prefect: the workers, the latest flow runs, and the latest run of each scheduled check."""

from __future__ import annotations

import math
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any, ClassVar

from heartwatch.web.prefect_api import PrefectApi

_RUNS_SHOWN = 12
_SCHEDULES_SECONDS = 60.0
_SHARD_FLOW = "produce-shard"
_FAILED = {"FAILED", "CRASHED"}
CHECKS = ("verify-sink", "verify-throughput")
"""Flows of the scheduled checks whose latest run the page shows."""
INTERVALS = {"verify-sink": 300.0, "verify-throughput": 60.0, "watch-health": 120.0, "verify-detections": 1_800.0}
"""How often each scheduled check runs (prefect.yaml), s."""
_MISSED = 3  # intervals without a completed run after which a check is overdue


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
        flow: name of its flow.
        state: type of its state (COMPLETED, FAILED, …).
        message: message of its state.
        began: when it began; None before.
        seconds: how long it took, or has taken so far, s.
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

    @property
    def ended(self) -> float | None:
        """When it ended, seconds since the epoch; None where it hasn't begun."""
        return None if self.began is None else self.began.timestamp() + self.seconds


@dataclass(frozen=True)
class OverdueCheck:
    """A scheduled check that doesn't complete any more.

    Attributes:
        flow: its flow.
        since: seconds since the epoch: when its last run ended, or when it was first waited for.
        interval_seconds: how often it should, s.
    """

    flow: str
    since: float
    interval_seconds: float


@dataclass(frozen=True)
class PrefectReading:
    """What Prefect reports.

    Attributes:
        workers: workers of all pools.
        runs: the latest flow runs, newest first, without subflows; scheduled runs only if they failed.
        checks: the latest run that has ended of each scheduled check.
        producers: running producer processes.
        deployments: number of deployments.
        overdue: scheduled checks that have not ended for three of their intervals.
    """

    workers: tuple[WorkerState, ...] = ()
    runs: tuple[FlowRun, ...] = ()
    checks: Mapping[str, FlowRun] = field(default_factory=dict)
    producers: int = 0
    deployments: int = 0
    overdue: tuple[OverdueCheck, ...] = ()


class PrefectReader:
    """Reads the workers and the flow runs."""

    part: ClassVar[str] = "Prefect"
    interval_seconds: ClassVar[float] = 5.0

    def __init__(self, api: PrefectApi) -> None:
        """Take the API; nothing is asked before `read`."""
        self._api = api
        self._flows: dict[str, str] = {}
        self._by_hand: list[str] = []
        self._by_hand_at = -math.inf
        # Flows with an active schedule, and since when they are waited for.
        self._scheduled: dict[str, float] = {}

    def read(self) -> PrefectReading:
        """Ask Prefect.

        Raises:
            PrefectError: it doesn't answer.
        """
        workers = [
            _worker(worker, pool["name"])
            for pool in self._api.ask("POST", "/work_pools/filter", {})
            for worker in self._api.ask("POST", f"/work_pools/{pool['name']}/workers/filter", {})
        ]
        running = {"flows": _flow_filter([_SHARD_FLOW]), "flow_runs": {"state": {"type": {"any_": ["RUNNING"]}}}}
        runs = tuple(self._runs())
        return PrefectReading(
            workers=tuple(sorted(workers, key=lambda worker: (worker.pool, not worker.online, worker.name))),
            runs=runs,
            checks={name: run for name in CHECKS for run in self._last_check(name)},
            producers=int(self._api.ask("POST", "/flow_runs/count", running)),
            deployments=int(self._api.ask("POST", "/deployments/count", {})),
            overdue=tuple(self._overdue(time.time())),
        )

    def _overdue(self, now: float) -> Iterator[OverdueCheck]:
        """Give the checks that don't end any more, by what Prefect says of their runs, not by what they say themselves."""
        for flow, interval in INTERVALS.items():
            if flow not in self._scheduled:
                continue
            ended = max((run.ended for run in self._last_check(flow) if run.ended is not None), default=0.0)
            since = max(ended, self._scheduled[flow])
            if now - since > _MISSED * interval:
                yield OverdueCheck(flow, since, interval)

    def _runs(self) -> list[FlowRun]:
        query = {
            "sort": "EXPECTED_START_TIME_DESC",
            "flow_runs": {"state": {"type": {"not_any_": ["SCHEDULED"]}}, "parent_task_run_id": {"is_null_": True}},
        }
        recent = [
            run for run in self._asked({**query, "limit": 5 * _RUNS_SHOWN}) if not run.scheduled or run.state in _FAILED
        ]
        # Scheduled runs are so many that a run that somebody started an hour ago isn't among the recent ones.
        by_hand = self._flows_without_schedule()
        others = self._asked({**query, "limit": _RUNS_SHOWN, "flows": {"id": {"any_": by_hand}}}) if by_hand else []
        found = {run.run_id: run for run in (*recent, *others)}
        newest = sorted(found.values(), key=lambda run: run.began or datetime.now(UTC), reverse=True)
        return newest[:_RUNS_SHOWN]

    def _flows_without_schedule(self) -> list[str]:
        if time.monotonic() - self._by_hand_at > _SCHEDULES_SECONDS:
            deployments = self._api.ask("POST", "/deployments/filter", {})
            scheduled = {
                deployment["flow_id"]
                for deployment in deployments
                if any(schedule["active"] for schedule in deployment["schedules"])
            }
            flows = {flow["id"]: flow["name"] for flow in self._api.ask("POST", "/flows/filter", {})}
            self._by_hand, self._by_hand_at = sorted(flows.keys() - scheduled), time.monotonic()
            # Nobody waits for the runs of a deployment that was paused: its schedules stay active.
            paused = {deployment["flow_id"] for deployment in deployments if deployment.get("paused")}
            names = {flows[flow] for flow in scheduled - paused if flow in flows}
            self._scheduled = {name: self._scheduled.get(name, time.time()) for name in names}
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


def _worker(worker: Mapping[str, Any], pool: str) -> WorkerState:
    return WorkerState(worker["name"], pool, worker["status"] == "ONLINE", _moment(worker.get("last_heartbeat_time")))


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
