"""Operating the pipeline: run, stop and KSQL for who is signed in, and a sign-in form for everybody else."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any

from fastapi import Request
from markupsafe import Markup
from nicegui import Client, ui

from heartwatch.web import views
from heartwatch.web.access import AccessError, Gate, Session, require
from heartwatch.web.operations import KsqlConsole, Operations, OrderError, order_of
from heartwatch.web.pages.components import CROSS_ICON, LOADING, action_button, card
from heartwatch.web.pages.context import PageContext
from heartwatch.web.pages.frame import frame
from heartwatch.web.prefect_api import PrefectError
from ksqlengine.client.rest_client import KsqldbError

_PROBLEMS = {
    "secret": "Wrong secret, or the form has expired. The secret is in secrets.toml under [web].",
    "tries": "Too many wrong secrets. Wait a minute and try again.",
    "form": "The form has expired. Try again.",
}


class OperatePage:
    """Lets viewers who are signed in run and stop the pipeline and send KSQL statements."""

    def __init__(self, context: PageContext, gate: Gate, operations: Operations, console: KsqlConsole) -> None:
        """Take what all pages share.

        Args:
            context: what all pages share.
            gate: keeps the sessions.
            operations: runs and stops.
            console: sends KSQL statements.
        """
        self._context, self._gate = context, gate
        self._operations, self._console = operations, console

    def show(self, request: Request, problem: str = "") -> None:
        """Lay out the page for a viewer.

        Args:
            request: its state holds the viewer's session.
            problem: why the last sign-in or sign-out failed, a key of `_PROBLEMS`.
        """
        session: Session = request.state.session
        with frame(self._context, "/operate", "Operate") as view:
            if not session.signed_in:
                with card("Sign in"):
                    ui.html(_sign_in(session, self._gate.is_open, _PROBLEMS.get(problem, "")), sanitize=False)
                return
            client = ui.context.client
            with ui.element("div").classes("grid halves"):
                with card("Run"):
                    self._run_form(client, session)
                with card("Stop"):
                    self._stop_form(client, session)
                with card("KSQL", "wide"):
                    self._ksql_form(client, session)
                with card("Latest flow runs"):
                    view.panel(self._context.shared["runs"])
                with card("Session"):
                    ui.html(_sign_out(session), sanitize=False)

    def _run_form(self, client: Client, session: Session) -> None:
        what = ui.radio(
            {True: "Whole pipeline: data, deployment, events, verification", False: "Producers only"}, value=True
        ).props('aria-label="What to run"')
        people = ui.number("People", value=20_000, min=1, max=2_147_483_647, precision=0).props("outlined dense")
        events = ui.number("Events", value=1_100_000, min=1, precision=0).props("outlined dense")
        rate = ui.number("Events per second (empty: no limit)", min=1, precision=0).props(
            f'outlined dense clearable clear-icon="{CROSS_ICON}"'
        )
        rate.bind_visibility_from(what, "value", lambda whole: not whole)
        status = _status()

        async def run() -> None:
            order = order_of(bool(what.value), people.value, events.value, rate.value)
            name, url = await asyncio.to_thread(self._operations.run, order)
            link = Markup('<p>Started: <a href="{}">{}</a></p>').format(url, name)
            status.set_content(str(link))

        action_button("Run", self._allowed(client, session, status, run))

    def _stop_form(self, client: Client, session: Session) -> None:
        text = (
            "Each producer sends its pending events and stops within five seconds. "
            "Nothing is lost; the pipeline keeps running."
        )
        ui.html(str(Markup("<p>{}</p>").format(text)), sanitize=False)
        status = _status()

        async def stop() -> None:
            await asyncio.to_thread(self._operations.stop_producers)
            status.set_content("<p>Stop requested.</p>")

        action_button("Stop producers", self._allowed(client, session, status, stop), "act stop")

    def _ksql_form(self, client: Client, session: Session) -> None:
        statement = ui.textarea("Statement", value="SHOW QUERIES;").props("outlined autogrow spellcheck=false")
        statement.classes("ksql")
        status = ui.html("", sanitize=False).classes("said")

        async def run() -> None:
            status.set_content(LOADING)
            status.set_content(views.answer(await asyncio.to_thread(self._console.run, str(statement.value or ""))))

        action_button("Run statement", self._allowed(client, session, status, run))

    def _allowed(self, client: Client, session: Session, status: ui.html, act: Callable[[], Any]) -> Callable[[], Any]:
        """Return an action for signed-in viewers only: checked at each click, by the cookie of the page's own web socket."""

        async def checked() -> None:
            try:
                require(self._gate, session, client.environ or {})
                await act()
            except (AccessError, OrderError, PrefectError, KsqldbError) as error:
                status.set_content(str(Markup('<p class="problem" role="alert">{}</p>').format(str(error))))

        return checked


def _status() -> ui.html:
    """Add an element for the outcome of an action, which screen readers announce."""
    return ui.html("", sanitize=False).props("role=status aria-live=polite").classes("said")


def _sign_in(session: Session, is_open: bool, problem: str) -> str:
    if not is_open:
        remedy = "Set HEARTWATCH_WEB__SECRET, or start the page with heartwatch up, which creates a secret."
        return views.empty("No secret is set", remedy)
    alert = Markup('<p class="problem" role="alert">{}</p>').format(problem) if problem else ""
    return str(
        Markup(
            "<p>The page is open to anyone. Running, stopping and KSQL require the secret.</p>{}"
            '<form method="post" action="/sign-in" class="sign-in"><input type="hidden" name="form_token" value="{}">'
            '<label for="secret">Secret</label>'
            '<input id="secret" name="secret" type="password" autocomplete="current-password" required>'
            '<button type="submit">Sign in</button></form>'
        ).format(alert, session.form_token)
    )


def _sign_out(session: Session) -> str:
    return str(
        Markup(
            '<p>You are signed in.</p><form method="post" action="/sign-out">'
            '<input type="hidden" name="form_token" value="{}"><button type="submit">Sign out</button></form>'
        ).format(session.form_token)
    )
