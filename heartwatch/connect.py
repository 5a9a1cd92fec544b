"""Kafka Connect's REST API.

A connector can say RUNNING while one of its tasks is FAILED, so every state here is the connector's and all of its tasks'.
Requests that Connect refuses for a while (409 during a rebalance, 5xx, no connection) are repeated with growing waits.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, TypeVar
from urllib.parse import quote

import httpx
import stamina

from heartwatch.errors import HeartWatchError
from heartwatch.settings import ConnectSettings
from kafkakit.security import http_options
from kafkakit.waiting import wait_until

Answer = TypeVar("Answer")

_NOT_FOUND = 404
_REBALANCING = 409
_SERVER_ERROR = 500
_POLL_SECONDS = 0.2


class ConnectError(HeartWatchError):
    """Connect refused or didn't answer; the message names the operation, the connector and Connect's reason."""


class UnknownConnectorError(ConnectError):
    """There is no such connector."""


class InvalidConnectorError(ConnectError):
    """A connector's configuration is wrong; the message has a line for each field."""


class ConnectorFailedError(ConnectError):
    """A connector or one of its tasks failed or didn't start in time; the message has the cause."""


class _RefusedForNowError(ConnectError):
    """Connect could not serve the request now; it may later."""


@dataclass(frozen=True)
class TaskStatus:
    """One task: its id, state (RUNNING, PAUSED, FAILED, UNASSIGNED, RESTARTING), worker and, when failed, its stack trace."""

    task_id: int
    state: str
    worker: str
    trace: str | None = None


@dataclass(frozen=True)
class ConnectorStatus:
    """A connector and all of its tasks."""

    name: str
    state: str
    worker: str
    tasks: tuple[TaskStatus, ...]
    trace: str | None = None

    @property
    def running(self) -> bool:
        """Whether the connector and every task run, of which there is at least one."""
        return self.state == "RUNNING" and bool(self.tasks) and all(task.state == "RUNNING" for task in self.tasks)

    @property
    def failed(self) -> bool:
        """Whether the connector or any task has failed."""
        return self.state == "FAILED" or any(task.state == "FAILED" for task in self.tasks)

    @property
    def summary(self) -> str:
        """States in one line: ``RUNNING, tasks 0 RUNNING, 1 FAILED``."""
        tasks = ", ".join(f"{task.task_id} {task.state}" for task in self.tasks) or "none"
        return f"{self.state}, tasks {tasks}"

    @property
    def cause(self) -> str:
        """First and last cause of the failure, without the stack frames; empty when nothing failed."""
        traces = [self.trace, *(task.trace for task in self.tasks)]
        return next((shorten_trace(trace) for trace in traces if trace), "")


class Connect:
    """What deploys and checks need of a Connect cluster."""

    def __init__(
        self,
        settings: ConnectSettings,
        request_timeout_seconds: float = 30,
        retry_seconds: float = 30,
        transport: httpx.BaseTransport | None = None,
    ) -> None:
        """Make a client; nothing is asked of Connect yet.

        Args:
            settings: where Connect is and how patient to be.
            request_timeout_seconds: limit of one request.
            retry_seconds: how long a request that Connect can't serve now is repeated.
            transport: what carries the requests, None for the network.
        """
        self._settings = settings
        self._retry_seconds = retry_seconds
        # Connect validates a configuration by opening its database or bucket: that may take long.
        self._http = httpx.Client(
            base_url=settings.url,
            timeout=request_timeout_seconds,
            transport=transport,
            **http_options(settings, "Connect"),
        )

    def close(self) -> None:
        """Close the connections."""
        self._http.close()

    def plugins(self) -> dict[str, str]:
        """Return the connector classes that Connect has, with their kind (source or sink).

        Raises:
            ConnectError: Connect could not be asked.
        """
        answer = self._ask("GET", "/connector-plugins", "list the connector plugins")
        return {plugin["class"]: plugin["type"] for plugin in answer}

    def connectors(self) -> list[str]:
        """Return the names of all connectors, sorted.

        Raises:
            ConnectError: Connect could not be asked.
        """
        return sorted(self._ask("GET", "/connectors", "list the connectors"))

    def validate(self, config: Mapping[str, str]) -> None:
        """Have Connect check a configuration without creating anything.

        Args:
            config: bare configuration map with ``name`` and ``connector.class``.

        Raises:
            InvalidConnectorError: the class isn't installed, or fields are wrong; each is named with its value.
            ConnectError: Connect could not be asked.
        """
        name, plugin = config.get("name", ""), config.get("connector.class", "")
        installed = self.plugins()
        if plugin not in installed:
            raise InvalidConnectorError(
                f"connector {name!r}: Connect has no class {plugin!r}; it has {sorted(installed)!r}: install the plugin or "
                "fix 'connector.class'"
            )
        path = f"/connector-plugins/{quote(plugin.rpartition('.')[2])}/config/validate"
        answer = self._ask("PUT", path, f"validate connector {name!r}", dict(config))
        errors = [
            f"{field['value']['name']}={_shown(field['value']['name'], config)}: {message}"
            for field in answer["configs"]
            for message in field["value"].get("errors", [])
        ]
        if errors:
            raise InvalidConnectorError(f"connector {name!r} can't be deployed, fix these fields: " + "; ".join(errors))

    def config(self, name: str) -> dict[str, str]:
        """Return a connector's configuration as Connect keeps it, config-provider references unresolved.

        Raises:
            UnknownConnectorError: there is no such connector.
            ConnectError: Connect could not be asked.
        """
        return dict(self._ask("GET", _path(name, "config"), f"read the configuration of connector {name!r}"))

    def put(self, config: Mapping[str, str]) -> None:
        """Create a connector, or give it another configuration.

        Raises:
            ConnectError: Connect refused the configuration or could not be asked.
        """
        name = config["name"]
        self._ask("PUT", _path(name, "config"), f"configure connector {name!r}", dict(config))

    def status(self, name: str) -> ConnectorStatus:
        """Return the state of a connector and of every task; a task that no worker reports on is UNASSIGNED.

        Raises:
            UnknownConnectorError: there is no such connector.
            ConnectError: Connect could not be asked.
        """
        operation = f"read the status of connector {name!r}"
        answer = self._ask("GET", _path(name, "status"), operation)
        reported = {task["id"]: task for task in answer["tasks"]}
        configured = [task["task"] for task in self._ask("GET", _path(name), operation)["tasks"]]
        tasks = tuple(_task(task_id, reported.get(task_id, {})) for task_id in sorted({*configured, *reported}))
        connector = answer["connector"]
        return ConnectorStatus(name, connector["state"], connector["worker_id"], tasks, connector.get("trace"))

    def wait_running(self, name: str) -> ConnectorStatus:
        """Wait until a connector and every task run; failed ones are restarted a bounded number of times.

        Raises:
            ConnectorFailedError: they still fail after the restarts, or don't all run in time.
            ConnectError: Connect could not be asked.
        """
        restarts, shown = 0, ""

        def running() -> ConnectorStatus | None:
            nonlocal restarts, shown
            status = self._status_or_none(name)
            shown = status.summary if status is not None else "unknown to Connect"
            if status is not None and status.failed and not status.running:
                if restarts == self._settings.restart_limit:
                    raise ConnectorFailedError(
                        f"connector {name!r} failed ({shown}) after {restarts} restarts: {status.cause}"
                    )
                restarts += 1
                self.restart_failed(name)
            return status if status is not None and status.running else None

        return self._wait(
            running,
            lambda seconds: ConnectorFailedError(
                f"connector {name!r} doesn't run after {seconds:g} s ({shown}); look at Connect's log"
            ),
        )

    def restart_failed(self, name: str) -> None:
        """Restart what has failed of a connector: itself, tasks, or both.

        Raises:
            UnknownConnectorError: there is no such connector.
            ConnectError: Connect refused or could not be asked.
        """
        path = _path(name, "restart") + "?includeTasks=true&onlyFailed=true"
        self._ask("POST", path, f"restart the failed tasks of connector {name!r}")

    def stop(self, name: str) -> None:
        """Stop a connector and wait until its tasks are gone; its configuration and offsets stay.

        Raises:
            UnknownConnectorError: there is no such connector.
            ConnectorFailedError: its tasks didn't end in time.
            ConnectError: Connect could not be asked.
        """
        self._ask("PUT", _path(name, "stop"), f"stop connector {name!r}")
        shown = ""

        def stopped() -> bool:
            nonlocal shown
            status = self.status(name)
            shown = status.summary
            return status.state == "STOPPED" and not status.tasks

        self._wait(
            stopped,
            lambda seconds: ConnectorFailedError(f"connector {name!r} doesn't stop in {seconds:g} s ({shown})"),
        )

    def resume(self, name: str) -> None:
        """Let a stopped or paused connector run again.

        Raises:
            UnknownConnectorError: there is no such connector.
            ConnectError: Connect could not be asked.
        """
        self._ask("PUT", _path(name, "resume"), f"resume connector {name!r}")

    def offsets(self, name: str) -> list[dict[str, Any]]:
        """Return a connector's committed positions, each ``{"partition": …, "offset": …}``.

        Raises:
            UnknownConnectorError: there is no such connector.
            ConnectError: Connect could not be asked.
        """
        return list(self._ask("GET", _path(name, "offsets"), f"read the offsets of connector {name!r}")["offsets"])

    def delete_offsets(self, name: str) -> None:
        """Forget the positions of a stopped connector; a sink's consumer group goes with them.

        Raises:
            UnknownConnectorError: there is no such connector.
            ConnectError: the connector isn't stopped, or Connect could not be asked.
        """
        self._ask("DELETE", _path(name, "offsets"), f"delete the offsets of connector {name!r}")

    def delete(self, name: str) -> bool:
        """Delete a connector and wait until Connect has forgotten it; False when it wasn't there.

        Raises:
            ConnectError: Connect refused, could not be asked, or still knows it after the time limit.
        """
        try:
            self._ask("DELETE", _path(name), f"delete connector {name!r}")
        except UnknownConnectorError:
            return False
        return self._wait(
            lambda: name not in self.connectors() and self._status_or_none(name) is None,
            lambda _: ConnectError(f"connector {name!r} is deleted, but Connect still knows it; look at Connect's log"),
        )

    def _wait(self, condition: Callable[[], Answer | None], error: Callable[[float], Exception]) -> Answer:
        """Wait until a condition holds; the error is made of the seconds that it was waited for."""
        seconds = self._settings.ready_timeout_seconds
        return wait_until(condition, seconds, _POLL_SECONDS, lambda: error(seconds))

    def _status_or_none(self, name: str) -> ConnectorStatus | None:
        """Return a connector's status, None while no worker has published one."""
        try:
            return self.status(name)
        except UnknownConnectorError:
            return None

    def _ask(self, method: str, path: str, operation: str, body: Any = None) -> Any:
        for attempt in stamina.retry_context(on=_RefusedForNowError, attempts=None, timeout=self._retry_seconds):
            with attempt:
                return self._request(method, path, operation, body)
        raise AssertionError("stamina gives at least one attempt")

    def _request(self, method: str, path: str, operation: str, body: Any) -> Any:
        try:
            response = self._http.request(method, path, json=body)
        except httpx.TransportError as error:
            raise _RefusedForNowError(
                f"can't {operation}: no answer from {self._settings.url} ({type(error).__name__}: {error}); "
                "see that Connect is up"
            ) from error
        if response.is_success:
            return response.json() if response.content else None
        text = f"can't {operation}: {_message(response)} (HTTP {response.status_code})"
        if response.status_code == _NOT_FOUND:
            raise UnknownConnectorError(text)
        if response.status_code == _REBALANCING or response.status_code >= _SERVER_ERROR:
            raise _RefusedForNowError(text)
        raise ConnectError(text)


def shorten_trace(trace: str) -> str:
    """Return the first line and the last "Caused by" of a Java stack trace."""
    lines = [line.strip() for line in trace.strip().splitlines()]
    causes = [line for line in lines if line.startswith("Caused by: ")]
    return " … ".join([lines[0], *causes[-1:]])


def _task(task_id: int, report: Mapping[str, Any]) -> TaskStatus:
    return TaskStatus(task_id, report.get("state", "UNASSIGNED"), report.get("worker_id", ""), report.get("trace"))


def _path(name: str, *rest: str) -> str:
    return "/".join(["/connectors", quote(name, safe=""), *rest])


def _shown(field: str, config: Mapping[str, str]) -> str:
    """Return a field's value for an error message; never one that may be secret."""
    hidden = re.search(r"password|secret|token|credential|key\.id", field, re.IGNORECASE)
    return "(hidden)" if hidden else repr(config.get(field))


def _message(response: httpx.Response) -> str:
    try:
        return str(response.json()["message"])
    except (ValueError, KeyError, TypeError):
        return response.text[:500] or response.reason_phrase
