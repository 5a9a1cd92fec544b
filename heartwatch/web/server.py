"""The live page's web server: security headers, sessions, sign-in, and the pages under one application."""

from __future__ import annotations

import logging
import os
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from http.cookies import SimpleCookie
from pathlib import Path
from typing import Annotated, Any

import uvicorn
from fastapi import FastAPI, Form, Request
from fastapi.responses import JSONResponse, RedirectResponse, Response
from starlette.datastructures import MutableHeaders
from starlette.middleware.trustedhost import TrustedHostMiddleware
from starlette.staticfiles import StaticFiles
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from heartwatch.settings import Settings
from heartwatch.web.access import COOKIE, AccessError, Gate, TooManyTriesError

OPERATE = "/operate"
STATIC = Path(__file__).parent / "static"
_HEADERS = {
    # The framework's own pages have inline scripts and styles, and Vue compiles its templates in the browser.
    "Content-Security-Policy": "; ".join(
        [
            "default-src 'self'",
            "script-src 'self' 'unsafe-inline' 'unsafe-eval'",
            "style-src 'self' 'unsafe-inline'",
            "img-src 'self' data: blob:",
            "font-src 'self' data:",
            "connect-src 'self'",
            "object-src 'none'",
            "base-uri 'none'",
            "form-action 'self'",
            "frame-ancestors 'none'",
        ]
    ),
    "X-Content-Type-Options": "nosniff",
    "X-Frame-Options": "DENY",
    "Referrer-Policy": "no-referrer",
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Permissions-Policy": "camera=(), geolocation=(), microphone=()",
}


class Guard:
    """Adds security headers to every answer, and a session to who comes to the page that needs one."""

    def __init__(self, app: ASGIApp, gate: Gate, seconds: int) -> None:
        """Stand before an application.

        Args:
            app: the application.
            gate: keeps the sessions.
            seconds: how long a session holds.
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

        async def with_headers(message: Message) -> None:
            if message["type"] == "http.response.start":
                headers = MutableHeaders(scope=message)
                for name, value in _HEADERS.items():
                    headers[name] = value
                if cookie is not None:
                    headers.append("Set-Cookie", cookie_text(cookie, self._seconds))
            await send(message)

        await self._app(scope, receive, with_headers)


def cookie_text(session_id: str, seconds: int) -> str:
    """Return the session's cookie: no script reads it, no other site's request carries it."""
    cookie: SimpleCookie = SimpleCookie({COOKIE: session_id})
    cookie[COOKIE].update({"path": "/", "httponly": "true", "samesite": "Strict", "max-age": str(seconds)})
    return cookie[COOKIE].OutputString()


def application(settings: Settings) -> FastAPI:
    """Return the application; one a process, for the framework keeps its pages globally."""
    os.environ.setdefault("NICEGUI_STORAGE_PATH", str(settings.home / "data" / "web"))
    from nicegui import core, ui  # noqa: PLC0415 - reads the folder when it is imported

    from heartwatch.web.pages import Pages  # noqa: PLC0415

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
    # A web socket is opened from a page of this very server, or not at all.
    core.sio.eio.cors_allowed_origins = None
    ui.run_with(
        app,
        title="HeartWatch",
        favicon=STATIC / "favicon.svg",
        dark=None,
        language="en-US",
        tailwind=False,
        binding_refresh_interval=None,
        reconnect_timeout=10,
        message_history_length=50,
        # What is sent is small or kept by browsers, and the pipeline needs the processor more than the network.
        gzip_middleware_factory=None,
        show_welcome_message=False,
    )
    app.add_middleware(Guard, gate=gate, seconds=seconds)
    app.add_middleware(TrustedHostMiddleware, allowed_hosts=settings.web.allowed_hosts)
    return app


def _add_routes(app: FastAPI, gate: Gate, seconds: int, state: Any) -> None:
    @app.get("/health")
    def health() -> JSONResponse:
        """Say that the page is there, and which parts are; the latter is no matter of the page's health."""
        return JSONResponse(state())

    @app.post("/sign-in")
    def sign_in(
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
    def sign_out(request: Request, form_token: Annotated[str, Form()] = "") -> Response:
        """End a browser's session."""
        try:
            gate.sign_out(request.cookies.get(COOKIE), form_token)
        except AccessError:
            return RedirectResponse(f"{OPERATE}?problem=form", 303)
        return RedirectResponse(OPERATE, 303)


def serve(settings: Settings, host: str, port: int) -> None:
    """Serve the page until the process is told to end.

    Args:
        settings: where the parts are.
        host: address to listen on.
        port: port to listen on.
    """
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(levelname)s %(name)s: %(message)s")
    for name in ("httpx", "httpcore", "stamina"):
        logging.getLogger(name).setLevel(logging.WARNING)
    # The pipeline comes first: beside a busy process on each core this one gets less than a tenth of a core (Linux gives
    # nice 10 a weight of 110 against 1024), however many look; on two cores that is less than 5 % of the machine.
    os.nice(10)
    uvicorn.run(
        application(settings),
        host=host,
        port=port,
        # Addresses have tokens in them that stand for people.
        access_log=False,
        log_level="warning",
        server_header=False,
        # Compressing for every viewer would cost more than it saves.
        ws="websockets-sansio",
        ws_per_message_deflate=False,
        timeout_graceful_shutdown=3,
    )
