"""Basic auth: who is let in, and what is for everybody."""

from __future__ import annotations

import base64
from collections.abc import Iterator

import pytest
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import PlainTextResponse, Response
from starlette.routing import Route, WebSocketRoute
from starlette.testclient import TestClient
from starlette.websockets import WebSocket, WebSocketDisconnect

from ksqlengine.rest.access import OPEN_PATHS, BasicAuth


async def _answer(_: Request) -> Response:
    return PlainTextResponse("in")


async def _socket(socket: WebSocket) -> None:
    await socket.accept()
    await socket.send_text("in")
    await socket.close()


@pytest.fixture
def client() -> Iterator[TestClient]:
    routes = [Route("/ksql", _answer, methods=["POST"]), *(Route(path, _answer) for path in OPEN_PATHS)]
    application = Starlette(routes=[*routes, WebSocketRoute("/ws/query", _socket)])
    with TestClient(BasicAuth(application, {"ann": "secret", "bob": "other: ü"})) as client:
        yield client


def test_who_knows_a_password_is_let_in(client: TestClient) -> None:
    assert client.post("/ksql", auth=("ann", "secret")).text == "in"
    assert client.post("/ksql", headers={"Authorization": _header("bob", "other: ü", scheme="basic")}).text == "in"


def _header(user: str, password: str, scheme: str = "Basic") -> str:
    return f"{scheme} {base64.b64encode(f'{user}:{password}'.encode()).decode()}"


@pytest.mark.parametrize(
    "header",
    [
        None,
        "",
        "Basic",
        "Basic !",
        "Basic /w==",
        _header("ann", ""),
        _header("ann", "Secret"),
        _header("ann", "other: ü"),
        _header("eve", "secret"),
        _header("", ""),
        _header("ann", "secret", scheme="Bearer"),
    ],
)
def test_nobody_else_is_let_in(header: str | None, client: TestClient) -> None:
    headers = {} if header is None else {"Authorization": header}
    answer = client.post("/ksql", headers=headers)
    assert answer.status_code == 401
    assert answer.json() == {"@type": "generic_error", "error_code": 40100, "message": "Unauthorized"}
    assert answer.headers["www-authenticate"].startswith("Basic ")
    with pytest.raises(WebSocketDisconnect), client.websocket_connect("/ws/query", headers=headers):
        pass


def test_a_socket_is_opened_for_who_is_known(client: TestClient) -> None:
    headers = {"Authorization": _header("ann", "secret")}
    with client.websocket_connect("/ws/query", headers=headers) as socket:
        assert socket.receive_text() == "in"


@pytest.mark.parametrize("path", sorted(OPEN_PATHS))
def test_the_health_check_is_for_everybody(path: str, client: TestClient) -> None:
    assert client.get(path).text == "in"
    assert client.get(f"{path}/../../ksql").status_code in (401, 404, 405)
