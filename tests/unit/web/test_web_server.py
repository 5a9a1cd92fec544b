"""The page's own server, with no part of the platform up: it serves all the same, and only to its own pages.

Its web sockets rest on the framework's protocol, which is undocumented: an upgrade that changes it fails here.
"""

from __future__ import annotations

import ast
import asyncio
import html
import json
import re
import socket
import threading
from collections.abc import Iterator
from contextlib import asynccontextmanager
from typing import Any
from urllib.parse import urlencode

import httpx
import pytest
import uvicorn
import websockets

from heartwatch.settings import load_settings

SECRET = "only for these tests"


@pytest.fixture(scope="module")
def address(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """The server on a free port; every part is looked for where nothing listens."""
    with pytest.MonkeyPatch.context() as patch, socket.create_server(("127.0.0.1", 0)) as listening:
        nowhere = "http://127.0.0.1:1"
        for name, value in {
            "HEARTWATCH_HOME": str(tmp_path_factory.mktemp("home")),
            "HEARTWATCH_PROFILE": "local",
            "HEARTWATCH_WEB__SECRET": SECRET,
            "HEARTWATCH_KAFKA__BOOTSTRAP_SERVERS": "127.0.0.1:1",
            "HEARTWATCH_REGISTRY__URL": nowhere,
            "HEARTWATCH_CONNECT__URL": nowhere,
            "HEARTWATCH_KSQLDB__URLS": f'["{nowhere}"]',
            "HEARTWATCH_PREFECT__API_URL": f"{nowhere}/api",
            "HEARTWATCH_POSTGRES__PORT": "1",
        }.items():
            patch.setenv(name, value)
        from heartwatch.web.server import application  # noqa: PLC0415 - the framework keeps a folder of the settings' home

        server = uvicorn.Server(uvicorn.Config(application(load_settings()), log_level="error", ws="websockets-sansio"))
        thread = threading.Thread(target=server.run, args=([listening],))
        thread.start()
        yield f"http://127.0.0.1:{listening.getsockname()[1]}"
        server.should_exit = True
        thread.join(20)


@pytest.fixture
def client(address: str) -> Iterator[httpx.Client]:
    with httpx.Client(base_url=address, trust_env=False, headers={"Accept": "text/html"}) as client:
        yield client


def page_query(page: str) -> dict[str, Any]:
    """Return what a page's script gives when it opens its web socket."""
    found = re.search(r"query: (\{.*?\}),", page)
    assert found
    query: dict[str, Any] = ast.literal_eval(found[1])
    return query


@asynccontextmanager
async def opened(address: str, query: dict[str, Any], origin: str | None = None) -> Any:
    asked = query | {
        "implicit_handshake": "true",
        "document_id": "a",
        "tab_id": "b",
        "EIO": 4,
        "transport": "websocket",
    }
    url = f"{address.replace('http', 'ws')}/_nicegui_ws/socket.io/?{urlencode(asked)}"
    async with websockets.connect(url, origin=origin, proxy=None) as opened:
        await opened.recv()
        await opened.send("40")
        assert str(await opened.recv()).startswith("40"), "the page's handshake"
        yield opened


async def first(socket: Any, wanted: str, kind: str = "42") -> list[Any]:
    """Return the first event (or frame of another kind) that has something in it: its name and arguments."""
    async with asyncio.timeout(20):
        async for frame in socket:
            if str(frame).startswith(kind) and wanted in str(frame):
                return list(json.loads(str(frame)[len(kind) :]))
    raise AssertionError("the socket ended")


def test_the_page_depends_on_no_part_and_tells_viewers_which_are_away(client: httpx.Client, address: str) -> None:
    page = client.get("/")
    assert page.status_code == 200

    async def news() -> list[Any]:
        async with opened(address, page_query(page.text)) as socket:
            return await first(socket, "<b>Prefect</b> since")

    event, elements = asyncio.run(news())
    assert event == "update"
    assert any("of the platform" in one["props"].get("innerHTML", "") for one in elements.values())
    assert client.get("/health").json()["parts"]["Prefect"] is False


def test_a_socket_speaks_for_its_own_page_only(client: httpx.Client, address: str) -> None:
    """Who knows another page's id can't press its buttons."""
    mine, other = (client.get("/").text for _ in range(2))
    found = re.search(r"String\.raw`(.*?)`\)", other, re.DOTALL)
    assert found
    elements = json.loads(html.unescape(found[1]))

    def press(label: str) -> str:
        button = next(key for key, one in elements.items() if one.get("props", {}).get("aria-label") == label)
        listener = next(one["listener_id"] for one in elements[button]["events"] if one["type"] == "click")
        said = {"id": int(button), "client_id": page_query(other)["client_id"], "listener_id": listener, "args": []}
        return f"42{json.dumps(['event', said])}"

    async def saved() -> str:
        async with opened(address, page_query(mine)) as stranger, opened(address, page_query(other)) as own:
            await stranger.send(press("Save events as CSV"))
            # The answer to this comes after whatever came of that.
            await stranger.send('420["handshake", {"client_id": ""}]')
            await first(stranger, "", "430")
            await own.send(press("Save stages as CSV"))
            _, download = await first(own, '"download"', "451-")
            return str(download["filename"])

    assert asyncio.run(saved()) == "stages.csv"


def test_no_other_site_opens_a_socket(client: httpx.Client, address: str) -> None:
    query = page_query(client.get("/").text)

    async def open_from(origin: str) -> None:
        async with opened(address, query, origin):
            pass

    asyncio.run(open_from(address))
    for origin in ("http://evil.example", "null", "http://127.0.0.1:2"):
        with pytest.raises(websockets.InvalidStatus, match="403"):
            asyncio.run(open_from(origin))


def test_who_is_not_signed_in_gets_no_actions(client: httpx.Client) -> None:
    page = client.get("/operate").text
    for action in ("Run statement", "Stop producers", "SHOW QUERIES"):
        assert action not in page


def test_only_scripts_with_the_nonce_of_the_answer_run(client: httpx.Client) -> None:
    nonces = set()
    for path, status in {"/": 200, "/alerts": 200, "/operate": 200, "/person/nobody": 200, "/nothing": 404}.items():
        answer = client.get(path)
        assert answer.status_code == status
        found = re.search(
            r"script-src 'self' 'nonce-([^']+)' 'unsafe-eval';", answer.headers["content-security-policy"]
        )
        assert found
        scripts = re.findall(r"<script[^>]*>", answer.text)
        assert len(scripts) > 3
        assert all(f'nonce="{found[1]}"' in script for script in scripts)
        nonces.add(found[1])
    assert len(nonces) == 5


def test_files_are_the_framework_s_own_compressed_or_not_and_kept_by_browsers(client: httpx.Client) -> None:
    paths = set(re.findall(r'"(/_nicegui/[^"]+\.(?:js|css))"', client.get("/").text))
    assert len(paths) > 5
    for path in sorted(paths):
        part = client.get(path, headers={"Range": "bytes=0-3", "Accept-Encoding": "identity"})
        plain, short = client.get(path, headers={"Accept-Encoding": "identity"}), client.get(path)
        assert plain.content == part.content == short.content != b""
        assert (plain.headers.get("content-encoding"), short.headers["content-encoding"]) == (None, "gzip")
        assert "immutable" in short.headers["cache-control"]
        assert short.headers["x-content-type-options"] == "nosniff"
    assert client.get("/_nicegui/0/static/nicegui.js").status_code == 404
    assert "immutable" not in client.get("/").headers["cache-control"]


def test_what_charts_need_is_fetched_with_the_first_files_where_there_is_a_chart(client: httpx.Client) -> None:
    page = client.get("/").text
    module, chunk = [one for one in re.findall(r'rel="modulepreload" href="([^"]+)"', page) if "/esm/" in one]
    # Browsers of before 2025 ignore an import map that comes after a preload.
    assert page.index('type="importmap"') < page.index(module)
    assert f'from"./{chunk.rsplit("/", 1)[1]}"' in client.get(module).text
    assert len(client.get(chunk).content) > 500_000
    assert "/esm/" not in "".join(re.findall(r"<link [^>]*>", client.get("/alerts").text))


def test_a_session_that_was_planted_is_worth_nothing_and_guesses_are_counted(client: httpx.Client) -> None:
    client.cookies.set("heartwatch_session", "planted", domain="127.0.0.1")
    page = client.get("/operate")
    given = page.headers["set-cookie"]
    assert "planted" not in given
    assert {"HttpOnly", "SameSite=Strict"} <= set(given.split("; "))
    client.cookies.clear()
    client.cookies.set("heartwatch_session", given.split(";")[0].split("=")[1], domain="127.0.0.1")
    token = form_token(page.text)
    signed_in = client.post("/sign-in", data={"form_token": token, "secret": SECRET})
    assert signed_in.headers["location"] == "/operate"
    assert signed_in.headers["set-cookie"].split(";")[0] != given.split(";")[0]
    assert SECRET not in str(signed_in.headers)
    assert "Stop producers" not in client.get("/operate", headers={"Cookie": given.split(";")[0]}).text
    client.cookies.clear()
    page = client.get("/operate")
    token = form_token(page.text)
    answers = [client.post("/sign-in", data={"form_token": token, "secret": "a guess"}) for _ in range(6)]
    assert [answer.headers["location"].split("=")[1] for answer in answers] == [*["secret"] * 5, "tries"]


def form_token(page: str) -> str:
    found = re.search(r"name=\\*&?q?u?o?t?;?\"?form_token[^>]*?value=\\?\"?([\w-]+)", page)
    assert found, page[page.find("form_token") - 50 : page.find("form_token") + 120]
    return found[1]
