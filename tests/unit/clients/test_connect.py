"""Connect's REST API: what Connect answers, and what becomes of it."""

import json
import pickle
from collections.abc import Callable
from typing import Any

import httpx
import pytest

from heartwatch.connect import (
    Connect,
    ConnectError,
    ConnectorFailedError,
    InvalidConnectorError,
    UnknownConnectorError,
    shorten_trace,
)
from heartwatch.settings import ConnectSettings

Handler = Callable[[httpx.Request], httpx.Response]
TRACE = "org.X: no\n\tat a.b\nCaused by: java.Y: because\n\tat c.d\nCaused by: java.Z: password missing\n\tat e"


def connect(handler: Handler, **settings: Any) -> Connect:
    return Connect(
        ConnectSettings(url="http://connect", **settings), retry_seconds=3, transport=httpx.MockTransport(handler)
    )


def answer(request: httpx.Request, body: dict[str, Any], configured: int | None = None) -> httpx.Response:
    """Answer a request for a connector's status or for the connector itself."""
    if request.url.path.endswith("/status"):
        return httpx.Response(200, json=body)
    count = len(body["tasks"]) if configured is None else configured
    return httpx.Response(200, json={"name": "c", "tasks": [{"connector": "c", "task": i} for i in range(count)]})


def status_body(connector: str, *tasks: str, trace: str | None = None) -> dict[str, Any]:
    return {
        "name": "c",
        "connector": {"state": connector, "worker_id": "w"},
        "tasks": [{"id": i, "state": state, "worker_id": "w", "trace": trace} for i, state in enumerate(tasks)],
    }


@pytest.mark.parametrize(
    ("connector", "tasks", "running"),
    [
        ("RUNNING", ["RUNNING", "RUNNING"], True),
        ("RUNNING", ["RUNNING", "FAILED"], False),
        ("RUNNING", ["RUNNING", "UNASSIGNED"], False),
        ("RUNNING", [], False),
        ("PAUSED", ["RUNNING"], False),
    ],
)
def test_running_means_every_task(connector: str, tasks: list[str], running: bool):
    client = connect(lambda request: answer(request, status_body(connector, *tasks)))
    assert client.status("c").running is running


def test_a_task_that_no_worker_reports_on_does_not_run():
    client = connect(lambda request: answer(request, status_body("RUNNING", "RUNNING"), configured=2))
    status = client.status("c")
    assert status.summary == "RUNNING, tasks 0 RUNNING, 1 UNASSIGNED"
    assert not status.running


def test_a_rebalance_is_waited_out():
    answers = [
        httpx.Response(409, json={"error_code": 409, "message": "rebalancing"}),
        httpx.Response(200, json=["b", "a"]),
    ]
    assert connect(lambda request: answers.pop(0)).connectors() == ["a", "b"]


def test_no_connection_says_what_to_do():
    def refuse(request: httpx.Request) -> httpx.Response:
        raise httpx.ConnectError("refused")

    client = Connect(ConnectSettings(url="http://connect"), retry_seconds=0.01, transport=httpx.MockTransport(refuse))
    with pytest.raises(ConnectError, match=r"no answer from http://connect .*see that Connect is up"):
        client.plugins()


def test_unknown_connector():
    client = connect(lambda request: httpx.Response(404, json={"error_code": 404, "message": "Connector x not found"}))
    with pytest.raises(UnknownConnectorError, match="Connector x not found"):
        client.config("x")


def test_validation_names_each_field_and_hides_secrets():
    def handler(request: httpx.Request) -> httpx.Response:
        if request.method == "GET":
            return httpx.Response(200, json=[{"class": "a.Sink", "type": "sink", "version": "1"}])
        assert request.url.path == "/connector-plugins/Sink/config/validate"
        assert json.loads(request.content)["name"] == "c"
        fields = [
            {"value": {"name": "tasks.max", "value": None, "errors": ["must be at least 1"]}},
            {"value": {"name": "database.password", "value": "hunter2", "errors": ["wrong"]}},
            {"value": {"name": "topics", "value": "t", "errors": []}},
        ]
        return httpx.Response(200, json={"name": "Sink", "error_count": 2, "configs": fields})

    with pytest.raises(InvalidConnectorError) as caught:
        connect(handler).validate(
            {"name": "c", "connector.class": "a.Sink", "tasks.max": "-1", "database.password": "hunter2"}
        )
    text = str(caught.value)
    assert "tasks.max='-1': must be at least 1" in text
    assert "database.password=(hidden): wrong" in text
    assert "hunter2" not in text
    assert "topics" not in text


def test_validation_names_a_class_that_is_not_installed():
    client = connect(lambda request: httpx.Response(200, json=[{"class": "a.Sink", "type": "sink"}]))
    with pytest.raises(InvalidConnectorError, match=r"no class 'b.Sink'; it has \['a.Sink'\]"):
        client.validate({"name": "c", "connector.class": "b.Sink"})


def test_failed_tasks_are_restarted_a_bounded_number_of_times():
    restarts = []

    def handler(request: httpx.Request) -> httpx.Response:
        if request.method == "POST":
            assert request.url.query == b"includeTasks=true&onlyFailed=true"
            restarts.append(request.url.path)
            return httpx.Response(202, json={})
        return answer(request, status_body("RUNNING", "RUNNING", "FAILED", trace=TRACE))

    with pytest.raises(
        ConnectorFailedError, match=r"after 2 restarts: org.X: no … Caused by: java.Z: password missing"
    ):
        connect(handler, restart_limit=2).wait_running("c")
    assert restarts == ["/connectors/c/restart"] * 2


def test_a_restarted_task_that_runs_ends_the_wait():
    states = ["FAILED", "RUNNING"]

    def handler(request: httpx.Request) -> httpx.Response:
        if request.method == "POST":
            return httpx.Response(204)
        return answer(request, status_body("RUNNING", states.pop(0) if "status" in request.url.path else "RUNNING"))

    assert connect(handler).wait_running("c").running


def test_stop_waits_until_the_tasks_are_gone():
    bodies = [status_body("STOPPED", "RUNNING"), status_body("STOPPED")]

    def handler(request: httpx.Request) -> httpx.Response:
        if request.method == "PUT":
            return httpx.Response(204)
        body = bodies.pop(0) if "status" in request.url.path else status_body("STOPPED")
        return answer(request, body)

    connect(handler).stop("c")
    assert bodies == []


def test_delete_of_a_missing_connector_is_no_error():
    client = connect(lambda request: httpx.Response(404, json={"error_code": 404, "message": "not found"}))
    assert client.delete("c") is False


def test_errors_can_be_pickled():
    error = pickle.loads(pickle.dumps(ConnectorFailedError("connector 'c' failed")))  # noqa: S301
    assert str(error) == "connector 'c' failed"


def test_shorten_trace():
    assert shorten_trace("one line") == "one line"
    assert shorten_trace(TRACE) == "org.X: no … Caused by: java.Z: password missing"
