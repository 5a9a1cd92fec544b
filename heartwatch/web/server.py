"""The live page's web server: security headers, sessions, sign-in, and the pages under one application."""

from __future__ import annotations

import asyncio
import gc
import gzip
import logging
import os
import re
import secrets
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from http.cookies import SimpleCookie
from importlib.metadata import version
from pathlib import Path
from typing import Annotated, Any

import uvicorn
from cachetools import LRUCache
from fastapi import FastAPI, Form, Request
from fastapi.responses import JSONResponse, RedirectResponse, Response
from starlette.datastructures import Headers, MutableHeaders
from starlette.middleware.trustedhost import TrustedHostMiddleware
from starlette.staticfiles import StaticFiles
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from heartwatch.settings import Settings
from heartwatch.web.access import COOKIE, AccessError, Gate, TooManyTriesError

OPERATE = "/operate"
STATIC = Path(__file__).parent / "static"
_OK = 200
_OWN = "/static/"
# The framework's files; their addresses hold its version.
_VERSIONED = f"/_nicegui/{version('nicegui')}/"
_MOST_FILES = 200
_GARBAGE_OBJECTS = 50_000
_CONDITIONS = {b"range", b"if-none-match", b"if-modified-since", b"if-range", b"accept-encoding"}
_YEAR_SECONDS = 31_536_000
_HEADERS = {
    "X-Content-Type-Options": "nosniff",
    "X-Frame-Options": "DENY",
    "Referrer-Policy": "no-referrer",
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Permissions-Policy": "camera=(), geolocation=(), microphone=()",
}
_SCRIPT = re.compile(rb"<script(?=[\s>])")


def policy(nonce: str) -> str:
    """Return the content security policy of a response: nothing from other sites, and inline scripts only with its nonce.

    Vue compiles the framework's templates in the browser (`unsafe-eval`), and elements have inline styles.
    """
    return "; ".join(
        [
            "default-src 'self'",
            f"script-src 'self' 'nonce-{nonce}' 'unsafe-eval'",
            "style-src 'self' 'unsafe-inline'",
            "img-src 'self' data: blob:",
            "font-src 'self' data:",
            "connect-src 'self'",
            "object-src 'none'",
            "base-uri 'none'",
            "form-action 'self'",
            "frame-ancestors 'none'",
        ]
    )


def with_nonce(page: bytes, nonce: str) -> bytes:
    """Return a page whose scripts carry a nonce: those of the framework's template, as it escapes ``<`` in elements' texts."""
    return _SCRIPT.sub(b'<script nonce="%s"' % nonce.encode(), page)


class SecurityMiddleware:
    """Adds security headers to every response, and a session to visitors of the page that needs one."""

    def __init__(self, app: ASGIApp, gate: Gate, seconds: int) -> None:
        """Wrap an application.

        Args:
            app: the application.
            gate: keeps the sessions.
            seconds: how long a session is valid, s.
        """
        self._app, self._gate, self._seconds = app, gate, seconds

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer a request (ASGI's interface)."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        cookie = None
        if scope["path"] == OPERATE:
            given = Request(scope).cookies.get(COOKIE)
            session = self._gate.visit(given)
            scope.setdefault("state", {})["session"] = session
            cookie = session.session_id if session.session_id != given else None
        nonce = secrets.token_urlsafe(16)
        begin: Message = {}
        page = bytearray()

        async def guarded(message: Message) -> None:
            """Pass a response on with its headers; a page once it is complete."""
            if message["type"] == "http.response.start":
                self._add_headers(message, scope["path"], nonce, cookie)
                if MutableHeaders(scope=message).get("content-type", "").startswith("text/html"):
                    begin.update(message)
                    return
            elif begin:
                page.extend(message.get("body", b""))
                if message.get("more_body"):
                    return
                whole = with_nonce(bytes(page), nonce)
                MutableHeaders(scope=begin)["Content-Length"] = str(len(whole))
                await send(begin)
                message = {"type": "http.response.body", "body": whole}
            await send(message)

        await self._app(scope, receive, guarded)

    def _add_headers(self, begin: Message, path: str, nonce: str, cookie: str | None) -> None:
        headers = MutableHeaders(scope=begin)
        for name, value in _HEADERS.items():
            headers[name] = value
        headers["Content-Security-Policy"] = policy(nonce)
        if path.startswith(_OWN):
            # Revalidated each time, sent only if they have changed.
            headers["Cache-Control"] = "no-cache"
        if cookie is not None:
            headers.append("Set-Cookie", cookie_text(cookie, self._seconds))


class FileCacheMiddleware:
    """Serves the framework's files from memory: read once, compressed once, for any number of browsers.

    Their addresses contain the framework's version, so they never change while this process runs.
    """

    def __init__(self, app: ASGIApp) -> None:
        """Wrap an application."""
        self._app = app
        self._kept: LRUCache[str, tuple[str, bytes]] = LRUCache(_MOST_FILES)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer a request (ASGI's interface)."""
        if scope["type"] != "http" or scope["method"] != "GET" or not scope["path"].startswith(_VERSIONED):
            await self._app(scope, receive, send)
            return
        found = self._kept.get(scope["path"])
        if found is None:
            found = await self._ask(scope, receive, send)
        if found is not None:
            await self._response(Headers(scope=scope), *found)(scope, receive, send)

    async def _ask(self, scope: Scope, receive: Receive, send: Send) -> tuple[str, bytes] | None:
        """Return a file's media type and contents, compressed; None if the response was not a file and was passed on."""
        begin: Message = {}
        body = bytearray()

        async def take(message: Message) -> None:
            if message["type"] == "http.response.start" and message["status"] == _OK:
                begin.update(message)
            elif begin:
                body.extend(message.get("body", b""))
            else:
                await send(message)

        # The whole file, whichever range or version of it was requested.
        plain = [(name, value) for name, value in scope["headers"] if name not in _CONDITIONS]
        await self._app({**scope, "headers": plain}, receive, take)
        if not begin:
            return None
        compressed = await asyncio.to_thread(gzip.compress, bytes(body))
        found = self._kept[scope["path"]] = (Headers(scope=begin)["content-type"], compressed)
        return found

    @staticmethod
    def _response(asked: Headers, media_type: str, compressed: bytes) -> Response:
        headers = {"Cache-Control": f"public, max-age={_YEAR_SECONDS}, immutable", "Vary": "Accept-Encoding"}
        if "gzip" in asked.get("accept-encoding", ""):
            return Response(compressed, headers={**headers, "Content-Encoding": "gzip"}, media_type=media_type)
        return Response(gzip.decompress(compressed), headers=headers, media_type=media_type)


def cookie_text(session_id: str, seconds: int) -> str:
    """Return the session's cookie: scripts cannot read it, requests from other sites don't carry it."""
    cookie: SimpleCookie = SimpleCookie({COOKIE: session_id})
    cookie[COOKIE].update({"path": "/", "httponly": "true", "samesite": "Strict", "max-age": str(seconds)})
    return cookie[COOKIE].OutputString()


def application(settings: Settings) -> FastAPI:
    """Return the application; at most one per process, as the framework keeps its pages globally."""
    os.environ.setdefault("NICEGUI_STORAGE_PATH", str(settings.home / "data" / "web"))
    from nicegui import app as framework  # noqa: PLC0415 - reads the variable when it is imported
    from nicegui import ui  # noqa: PLC0415

    from heartwatch.web.framework import prepare_sockets  # noqa: PLC0415
    from heartwatch.web.pages.site import Pages  # noqa: PLC0415

    seconds = round(settings.web.session_minutes * 60)
    gate = Gate(settings.web.secret.get_secret_value(), seconds)
    pages = Pages(settings, gate)

    @asynccontextmanager
    async def lifespan(_: FastAPI) -> AsyncIterator[None]:
        pages.start()
        yield
        pages.stop()

    app = FastAPI(docs_url=None, redoc_url=None, openapi_url=None, lifespan=lifespan)
    app.mount("/static", StaticFiles(directory=STATIC), name="page-static")
    _add_routes(app, gate, seconds, pages.state)
    pages.register()
    framework.on_startup(prepare_sockets)
    ui.run_with(
        app,
        title="HeartWatch",
        favicon=STATIC / "favicon.svg",
        dark=None,
        language="en-US",
        tailwind=False,
        binding_refresh_interval=None,
        reconnect_timeout=30,
        message_history_length=50,
        # Files are compressed once; the rest is small, and the pipeline needs the processor more than the network.
        gzip_middleware_factory=None,
        show_welcome_message=False,
    )
    app.add_middleware(FileCacheMiddleware)
    app.add_middleware(SecurityMiddleware, gate=gate, seconds=seconds)
    app.add_middleware(TrustedHostMiddleware, allowed_hosts=settings.web.allowed_hosts)
    return app


def _add_routes(app: FastAPI, gate: Gate, seconds: int, state: Any) -> None:
    # The gate is used in the event loop only: simultaneous attempts in threads would be counted too late, and its caches are
    # not thread-safe. Nothing here blocks.
    @app.get("/health")
    def health() -> JSONResponse:
        """Report that the page is up, and which parts answer; the latter doesn't affect the page's health."""
        return JSONResponse(state())

    @app.post("/sign-in")
    async def sign_in(
        request: Request, form_token: Annotated[str, Form()] = "", secret: Annotated[str, Form()] = ""
    ) -> Response:
        """Sign a browser in."""
        address = request.client.host if request.client else ""
        try:
            session = gate.sign_in(request.cookies.get(COOKIE), form_token, secret, address)
        except TooManyTriesError:
            return RedirectResponse(f"{OPERATE}?problem=tries", 303)
        except AccessError:
            return RedirectResponse(f"{OPERATE}?problem=secret", 303)
        response = RedirectResponse(OPERATE, 303)
        response.headers.append("Set-Cookie", cookie_text(session.session_id, seconds))
        return response

    @app.post("/sign-out")
    async def sign_out(request: Request, form_token: Annotated[str, Form()] = "") -> Response:
        """Sign a browser out."""
        try:
            gate.sign_out(request.cookies.get(COOKIE), form_token)
        except AccessError:
            return RedirectResponse(f"{OPERATE}?problem=form", 303)
        return RedirectResponse(OPERATE, 303)


def serve(settings: Settings, host: str, port: int) -> None:
    """Serve the page until the process is told to end.

    Args:
        settings: addresses of the parts.
        host: address to listen on.
        port: port to listen on.
    """
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(levelname)s %(name)s: %(message)s")
    for name in ("httpx", "httpcore", "stamina"):
        logging.getLogger(name).setLevel(logging.WARNING)
    # The pipeline has priority: beside a busy process on each core this process gets less than a tenth of a core (Linux gives
    # nice 10 a weight of 110 against 1024), however many viewers there are; on two cores less than 5 % of the machine.
    os.nice(10)
    # Each viewer's page consists of some thousand long-lived objects: collecting garbage as often as Python does by default
    # took a fifth of the time that 200 viewers cost.
    gc.set_threshold(_GARBAGE_OBJECTS, 50, 10)
    uvicorn.run(
        application(settings),
        host=host,
        port=port,
        # Addresses contain tokens that stand for people.
        access_log=False,
        log_level="warning",
        server_header=False,
        # A client must not choose its own address: wrong secrets are counted by address.
        proxy_headers=False,
        # Compression per viewer would cost more than it saves.
        ws="websockets-sansio",
        ws_per_message_deflate=False,
        timeout_graceful_shutdown=3,
        ssl_certfile=settings.web.certificate_file,
        ssl_keyfile=settings.web.key_file,
    )
