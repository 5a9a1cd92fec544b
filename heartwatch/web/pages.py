"""The pages: what stands where, and what happens on a click."""

from __future__ import annotations

import asyncio
import logging
from base64 import b64decode
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import astuple
from functools import partial
from http.cookies import CookieError, SimpleCookie
from typing import Any
from urllib.parse import unquote

import orjson
from fastapi import Request
from fastapi.responses import JSONResponse, Response
from markupsafe import Markup
from nicegui import Client, ui
from nicegui import app as framework
from nicegui.page import page as page_of

from heartwatch.analytic import Analytic, AnalyticError, PageDefinition
from heartwatch.settings import Settings
from heartwatch.web import charts, tables, views
from heartwatch.web.access import COOKIE, AccessError, Gate, People, Session
from heartwatch.web.alerts import Episode, Wanted, by_area
from heartwatch.web.board import Board, Snapshot
from heartwatch.web.framework import preload_charts
from heartwatch.web.live import Live, View, options_once
from heartwatch.web.operations import KsqlConsole, Operations, OrderError, order_of
from heartwatch.web.parts import FlowRun, PrefectApi, PrefectError
from heartwatch.web.people import Trace, Traces
from heartwatch.web.views import Once
from ksqlengine.client.rest_client import KsqldbError

logger = logging.getLogger(__name__)

_SECTIONS = {"/": "Overview", "/alerts": "Alerts", "/places": "Places", "/operate": "Operate"}
_PROBLEMS = {
    "secret": "That is not the secret, or the form was too old. It is in secrets.toml under [web].",
    "tries": "Too many wrong secrets. Wait a minute and try again.",
    "form": "The form was too old. Try again.",
}
_PERSON_SECONDS = 5.0
_LINKS_SECONDS = 300.0
# Icons as paths, so that nobody loads a font of thousands for the sake of these.
_CONTRAST = "M12 2a10 10 0 1 0 0 20a10 10 0 0 0 0-20zm0 2v16a8 8 0 0 1 0-16z"
_PRINTER = "M7 3h10v4H7zM4 8h16a2 2 0 0 1 2 2v6h-4v-2H6v2H2v-6a2 2 0 0 1 2-2zM8 16h8v5H8z"
_IMAGE = "M3 4h18v16H3zM6 17h12l-4-7-3 5-2-3z"
_TABLE = "M3 4h18v16H3zM5 8v4h6v-4zM13 8v4h6v-4zM5 14v4h6v-4zM13 14v4h6v-4z"
_DOWN = "M7 10l5 5 5-5z"
_CROSS = "M6 4.6L12 10.6 18 4.6 19.4 6 13.4 12 19.4 18 18 19.4 12 13.4 6 19.4 4.6 18 10.6 12 4.6 6z"
_LOOK = "heartwatch_look"
_TURN = (
    "() => { Quasar.Dark.toggle(); const look = Quasar.Dark.isActive ? 'dark' : 'light'; "
    f"document.cookie = `{_LOOK}=${{look}}; path=/; max-age=31536000; samesite=strict`; }}"
)
_HEAD = (
    '<link rel="stylesheet" href="/static/page.css"><script defer src="/static/page.js"></script>'
    '<meta name="description" content="HeartWatch: people whose measurements leave their own range.">'
)


class Pages:
    """All pages of one process."""

    def __init__(self, settings: Settings, gate: Gate) -> None:
        """Prepare; nothing is read before `start`.

        Raises:
            AnalyticError: the analytic of the settings doesn't say what its page shows.
        """
        analytic = Analytic.of(settings.pipeline)
        if analytic.page is None:
            raise AnalyticError(
                f"analytic {analytic.analytic!r} has no [page] in its analytic.toml; say there what to show"
            )
        self._settings, self._gate, self._page = settings, gate, analytic.page
        self._prefect = PrefectApi(settings)
        self._board = Board(settings, analytic, analytic.page, self._prefect)
        self._traces = Traces(settings, analytic, analytic.page)
        # Of its own: while Kafka hangs, people who are looked at must not keep the threads that stop the producers.
        self._reading = ThreadPoolExecutor(1, thread_name_prefix="people")
        self._operations, self._console = Operations(self._prefect), KsqlConsole(settings)
        self._people = People()
        self._brokers: set[str] = set()
        self._live = Live(self._board)
        self._views = self._shared_views()

    def start(self) -> None:
        """Begin to read the parts; called in the event loop."""
        self._live.start()

    def stop(self) -> None:
        """Stop reading."""
        self._live.stop()
        self._reading.shutdown(wait=False, cancel_futures=True)

    def state(self) -> dict[str, Any]:
        """Return how many look, and which parts answer."""
        return {
            "viewers": self._live.viewers,
            "parts": {one.part: one.up for one in self._live.snapshot.health},
        }

    def register(self) -> None:
        """Tell the framework of the pages."""
        ui.add_head_html(_HEAD, shared=True)
        ui.page("/", title="Overview · HeartWatch")(self.overview)
        ui.page("/alerts", title="Alerts · HeartWatch")(self.alerts)
        ui.page("/places", title="Places · HeartWatch")(self.places)
        ui.page("/person/{token}", title="A person · HeartWatch")(self.person)
        ui.page("/operate", title="Operate · HeartWatch")(self.operate)
        framework.exception_handler(404)(self.unknown)
        framework.on_page_exception(self.broken)

    def _shared_views(self) -> dict[str, Callable[[Snapshot], Any]]:
        """Return what is made once for all viewers."""
        settings, url = self._settings, self._prefect.ui_url
        html: dict[str, Callable[[Snapshot], str]] = {
            "pill": views.pill,
            "banner": views.banner,
            "parts": views.parts,
            "stream": views.first_stream,
            "table": views.final_table,
            "objective": partial(views.objective, settings=settings),
            "proof": lambda snapshot: views.check(
                _last(snapshot, "verify-sink"),
                url,
                "proven",
                "not proven",
                "verify-sink runs every five minutes.",
                views.proven(snapshot),
            ),
            "measured": lambda snapshot: views.check(
                _last(snapshot, "verify-throughput"),
                url,
                "as it should be",
                "objective missed",
                "verify-throughput runs every minute.",
                views.measured(snapshot),
            ),
            "stages": views.last_known("Kafka", views.stages),
            "brokers": views.last_known("Kafka", self._seen_brokers),
            "connectors": views.last_known("Connect", views.connectors),
            "queries": views.last_known("KSQL", views.queries),
            "workers": views.last_known("Prefect", views.workers),
            "runs": views.last_known("Prefect", partial(views.runs, url=url)),
            "sizes": partial(views.sizes, settings=settings),
            "areas": lambda snapshot: views.areas(snapshot, _lately(snapshot), self._page.area_title),
            "episodes": lambda snapshot: self._episodes(snapshot, snapshot.alerts.episodes),
        }
        options: dict[str, Callable[[Snapshot], dict[str, Any]]] = {
            "throughput": lambda snapshot: charts.throughput(snapshot.series),
            "alerts_per_minute": lambda snapshot: charts.alerts_per_minute(snapshot.series),
            "density": lambda snapshot: charts.density(snapshot.areas.areas, _lately(snapshot), self._page.area_title),
        }
        return {name: Once(make) for name, make in html.items()} | {
            name: options_once(make) for name, make in options.items()
        }

    def _seen_brokers(self, snapshot: Snapshot) -> str:
        if snapshot.kafka is not None:
            self._brokers |= set(snapshot.kafka.brokers)
        return views.brokers(snapshot, self._brokers)

    # ------------------------------------------------------------------------------------------------------ frame
    @contextmanager
    def _frame(self, here: str, title: str) -> Iterator[View]:
        """Lay out what all pages have: header, navigation, what is down; the page's own content goes inside."""
        view = self._live.view()
        ui.dark_mode({"dark": True, "light": False}.get(ui.context.client.request.cookies.get(_LOOK, "")))
        with ui.element("div").classes("page"):
            with ui.element("header").classes("top"):
                ui.html(_brand(here), sanitize=False).classes("brand-and-nav")
                with ui.element("div").classes("tools"):
                    view.panel(self._views["pill"], "pill", live=True)
                    # In the browser itself: there is nothing to ask the server for.
                    _icon_button(_CONTRAST, "Change between light and dark", _TURN)
                    _icon_button(_PRINTER, "Save as PDF or print", "() => window.print()")
            with ui.element("div").classes("content") as content:
                ui.html(str(Markup("<h1>{}</h1>").format(title)), sanitize=False).classes("title")
                view.panel(self._views["banner"], live=True)
                yield view
            ui.html(_FOOT, sanitize=False, tag="footer").classes("foot")
        ui.skip_link("Skip to content", target=content)
        preload_charts()

    # --------------------------------------------------------------------------------------------------- overview
    def overview(self) -> None:
        """Show the pipeline."""
        with self._frame("/", "The pipeline") as view, ui.element("div").classes("overview"):
            with ui.element("div").classes("grid figures"):
                with _card("First stream", "tall"):
                    view.panel(self._views["stream"])
                    self._chart(view, "throughput", "First stream")
                with _card("Final table", "tall"):
                    view.panel(self._views["table"])
                    self._chart(view, "alerts_per_minute", "Final table")
            with ui.element("div").classes("grid thirds"):
                self._panel_card(view, "Throughput", "objective")
                self._panel_card(view, "Last measurement", "measured")
                self._panel_card(view, "Sink's last proof", "proof")
            # What changes comes first: a phone shows one column below the other, a wall more columns of the same order.
            with ui.element("div").classes("grid halves columns"):
                with ui.element("div").classes("stack"):
                    with _card("Stages"):
                        view.panel(self._views["stages"])
                        _csv("stages", lambda: tables.stages_csv(self._live.snapshot))
                    self._panel_card(view, "Parts", "parts")
                    with _card("Connectors and queries"):
                        view.panel(self._views["connectors"])
                        view.panel(self._views["queries"])
                    self._panel_card(view, "Brokers and partitions", "brokers")
                    self._panel_card(view, "Workers", "workers")
                with ui.element("div").classes("stack"):
                    self._panel_card(view, "Last flow runs", "runs")
                    self._panel_card(view, "Sizes", "sizes")
                    with _card("Clusters and their price"):
                        least = self._settings.objectives.min_events_per_second
                        ui.html(views.clusters(max(1.0, least)), sanitize=False)

    def _panel_card(self, view: View, title: str, name: str) -> None:
        with _card(title):
            view.panel(self._views[name])

    def _chart(self, view: View, name: str, title: str, classes: str = "chart") -> None:
        chart = view.chart(self._views[name], classes)
        with ui.element("div").classes("actions"):
            _picture(chart, title)
            if name in ("throughput", "alerts_per_minute"):
                _csv("events", lambda: tables.series_csv(self._live.snapshot))

    # ----------------------------------------------------------------------------------------------------- alerts
    def alerts(self) -> None:
        """Show the alerts, to filter and to search."""
        wanted = Wanted()
        some = SomeAlerts(wanted, self._episodes)

        def make(snapshot: Snapshot) -> str:
            return str(self._views["episodes"](snapshot)) if wanted.everything else some.html(snapshot)

        def content() -> bytes:
            snapshot = self._live.snapshot
            return tables.episodes_csv(wanted.matching(snapshot.alerts.episodes, snapshot.now_ms), self._page)

        with self._frame("/alerts", "Alerts") as view, _card("Who is in danger"):
            with ui.element("div").classes("filters").props("role=search aria-label=Alerts"):
                self._filters(view, wanted)
                _csv("alerts", content)
            view.panel(make)

    def _filters(self, view: View, wanted: Wanted) -> None:
        def change(name: str, value: Any) -> None:
            setattr(wanted, name, value or "")
            view.again()
            # Said when somebody searches, not with each alert that comes.
            snapshot = self._live.snapshot
            said.set_content(f"{len(wanted.matching(snapshot.alerts.episodes, snapshot.now_ms)):,} alerts found")

        area = self._page.area_title
        ui.input(f"Person or {area}", on_change=lambda event: change("text", event.value)).props(
            f'outlined dense clearable debounce=250 clear-icon="{_CROSS}"'
        ).classes("filter")
        areas = sorted({one.last.area for one in self._live.snapshot.alerts.episodes if one.last.area})
        options = {"": "any", **{name: name for name in areas}}
        ui.select(
            options, label=area.capitalize(), value="", on_change=lambda event: change("area", event.value)
        ).props(f'outlined dense options-dense dropdown-icon="{_DOWN}"').classes("filter narrow")
        ui.checkbox("Leave out what is over", on_change=lambda event: change("only_now", event.value))
        said = ui.html("", sanitize=False).props("role=status aria-live=polite").classes("hidden")

    def _episodes(self, snapshot: Snapshot, found: Sequence[Episode], every: int | None = None) -> str:
        total = len(snapshot.alerts.episodes) if every is None else every
        return views.episodes(found, total, snapshot, self._people, self._page)

    # ----------------------------------------------------------------------------------------------------- person
    async def person(self, token: str) -> None:
        """Show a person: the trace, the own range, the alerts, the places."""
        subject = self._people.subject(token)
        if subject is None:
            with self._frame("", "A person"), _card("This link is too old"):
                gone = "Links to people hold for half an hour. Open the person again from the alerts."
                ui.html(views.empty("Nobody is here", gone), sanitize=False)
            return
        with self._frame("", f"Person {subject}") as view:
            page = PersonPage(self._page, subject)
            with ui.element("div").classes("grid person"):
                with _card("Now"):
                    page.facts = ui.html(_LOADING, sanitize=False)
                with _card(f"{self._page.measure_title.capitalize()}, {self._page.unit}", "wide"):
                    page.trace = ui.echart({}, renderer="svg").classes("chart large")
                    with ui.element("div").classes("actions"):
                        _picture(page.trace, "Trace")
                with _card("Places"):
                    page.places = ui.echart({}, renderer="svg").classes("chart square")
                with _card("Alerts", "wide"):
                    view.panel(lambda snapshot: self._episodes(snapshot, page.mine(snapshot), len(page.mine(snapshot))))
        await ui.context.client.connected()
        await self._refresh(page)
        ui.timer(_PERSON_SECONDS, lambda: self._refresh(page), immediate=False)

    async def _refresh(self, page: PersonPage) -> None:
        """Read the person's latest samples and show them; the last ones stay when they can't be read."""
        snapshot = self._live.snapshot
        mine = page.mine(snapshot)
        around = mine[0].since_ms if mine else snapshot.now_ms
        try:
            reading = asyncio.get_running_loop().run_in_executor
            found = await reading(self._reading, self._traces.trace, page.subject, around)
        except Exception as error:
            # Which person it was is nobody's business.
            logger.warning("a person's samples can't be read: %s", type(error).__name__)
            page.say_unread()
            return
        page.show(found, mine, snapshot)

    # ----------------------------------------------------------------------------------------------------- errors
    async def unknown(self, request: Request, _: Exception) -> Response:
        """Answer who asks for something that isn't there."""
        if "text/html" not in request.headers.get("accept", ""):
            return JSONResponse({"detail": "not found"}, 404)
        with Client(page_of("", title="Not found · HeartWatch"), request=request) as client:
            self._say("Nothing is here", "The address is wrong, or what it led to is gone.")
        return client.build_response(request, 404)

    def broken(self, error: Exception) -> None:
        """Show that a page can't be made; the framework logs why."""
        self._say("This page can't be shown", f"{type(error).__name__}: the web server's log says more.")

    def _say(self, title: str, text: str) -> None:
        with self._frame("", title), _card("What now"):
            ui.html(views.empty(text, "Go on with one of the sections above."), sanitize=False)

    # ----------------------------------------------------------------------------------------------------- places
    def places(self) -> None:
        """Show how many people, and how many with an alert, are where."""
        title = f"People and alerts by {self._page.area_title}"
        with self._frame("/places", "Places") as view, ui.element("div").classes("grid places"):
            with _card(title, "wide"):
                note = "Where people's latest samples were taken, north above. Alerts of the last ten minutes."
                ui.html(str(Markup('<p class="note">{}</p>').format(note)), sanitize=False)
                self._chart(view, "density", title, "chart map")
            with _card("In numbers"):
                view.panel(self._views["areas"], "limited")
                _csv(
                    "places",
                    lambda: tables.areas_csv(self._live.snapshot, _lately(self._live.snapshot), self._page),
                )

    # ---------------------------------------------------------------------------------------------------- operate
    def operate(self, request: Request, problem: str = "") -> None:
        """Show what who is signed in may do; to anybody else how to sign in."""
        session: Session = request.state.session
        with self._frame("/operate", "Operate") as view:
            if not session.signed_in:
                with _card("Sign in"):
                    ui.html(_sign_in(session, self._gate.is_open, _PROBLEMS.get(problem, "")), sanitize=False)
                return
            client = ui.context.client
            with ui.element("div").classes("grid halves"):
                with _card("Run"):
                    self._run_form(client, session)
                with _card("Stop"):
                    self._stop_form(client, session)
                with _card("KSQL", "wide"):
                    self._ksql_form(client, session)
                self._panel_card(view, "Last flow runs", "runs")
                with _card("Session"):
                    ui.html(_sign_out(session), sanitize=False)

    def _run_form(self, client: Client, session: Session) -> None:
        what = ui.radio({True: "Everything: data, pipeline, events, proof", False: "Producers only"}, value=True).props(
            'aria-label="What to run"'
        )
        people = ui.number("People", value=20_000, min=1, max=2_147_483_647, precision=0).props("outlined dense")
        events = ui.number("Events", value=1_100_000, min=1, precision=0).props("outlined dense")
        rate = ui.number("Events a second, empty for no limit", min=1, precision=0).props(
            f'outlined dense clearable clear-icon="{_CROSS}"'
        )
        rate.bind_visibility_from(what, "value", lambda whole: not whole)
        said = ui.html("", sanitize=False).props("role=status aria-live=polite").classes("said")

        async def run() -> None:
            order = order_of(bool(what.value), people.value, events.value, rate.value)
            name, url = await asyncio.to_thread(self._operations.run, order)
            link = Markup('<p>Started: <a href="{}">{}</a></p>').format(url, name)
            said.set_content(str(link))

        _act("Run", self._allowed(client, session, said, run))

    def _stop_form(self, client: Client, session: Session) -> None:
        text = (
            "Every producer sends what it has begun and ends within five seconds. Nothing is lost; the pipeline stays."
        )
        ui.html(str(Markup("<p>{}</p>").format(text)), sanitize=False)
        said = ui.html("", sanitize=False).props("role=status aria-live=polite").classes("said")

        async def stop() -> None:
            await asyncio.to_thread(self._operations.stop_producers)
            said.set_content("<p>The producers were told to stop.</p>")

        _act("Stop the producers", self._allowed(client, session, said, stop), "act stop")

    def _ksql_form(self, client: Client, session: Session) -> None:
        statement = ui.textarea("Statement", value="SHOW QUERIES;").props("outlined autogrow spellcheck=false")
        statement.classes("ksql")
        said = ui.html("", sanitize=False).classes("said")

        async def run() -> None:
            said.set_content(_LOADING)
            said.set_content(views.answer(await asyncio.to_thread(self._console.run, str(statement.value or ""))))

        _act("Run statement", self._allowed(client, session, said, run))

    def _allowed(self, client: Client, session: Session, said: ui.html, act: Callable[[], Any]) -> Callable[[], Any]:
        """Return what does something only for who is signed in: asked at each click, of the cookie of this very socket."""

        async def checked() -> None:
            try:
                require(self._gate, session, client.environ or {})
                await act()
            except (AccessError, OrderError, PrefectError, KsqldbError) as error:
                said.set_content(str(Markup('<p class="problem" role="alert">{}</p>').format(str(error))))

        return checked


class SomeAlerts:
    """Those alerts that one viewer looks for."""

    def __init__(self, wanted: Wanted, make: Callable[[Snapshot, Sequence[Episode]], str]) -> None:
        """Begin without any.

        Args:
            wanted: what the viewer looks for; it may change.
            make: makes HTML of the alerts found.
        """
        self._wanted, self._make = wanted, make
        self._kept: tuple[Any, str] = (None, "")

    def html(self, snapshot: Snapshot) -> str:
        """Return the alerts, made anew when they or what is wanted of them change, and before their links get too old."""
        links = snapshot.at // _LINKS_SECONDS
        key = (snapshot.alerts.version, snapshot.now_ms, snapshot.is_live, links, *astuple(self._wanted))
        if self._kept[0] != key:
            found = self._wanted.matching(snapshot.alerts.episodes, snapshot.now_ms)
            self._kept = (key, self._make(snapshot, found))
        return self._kept[1]


class PersonPage:
    """One viewer's page of a person."""

    facts: ui.html
    trace: ui.echart
    places: ui.echart

    def __init__(self, page: PageDefinition, subject: str) -> None:
        """Begin without elements; the page sets them."""
        self.subject = subject
        self._page = page
        self._shown: Any = None
        self._mine: tuple[int, list[Episode]] = (-1, [])

    def mine(self, snapshot: Snapshot) -> list[Episode]:
        """Return the person's alerts, newest first."""
        if self._mine[0] != snapshot.alerts.version:
            found = [one for one in snapshot.alerts.episodes if one.subject == self.subject]
            self._mine = (snapshot.alerts.version, found)
        return self._mine[1]

    def show(self, found: Trace, mine: list[Episode], snapshot: Snapshot) -> None:
        """Show a person's samples, where there are new ones."""
        key = (found.next_offset, len(mine), mine[0].last if mine else None, snapshot.is_live)
        if key == self._shown:
            return
        self._shown = key
        self.facts.set_content(views.person(found, mine, self._page, snapshot))
        for chart, options in (
            (self.trace, charts.trace(found, mine, self._page.unit, self._page.measure_title)),
            (self.places, charts.places(found)),
        ):
            chart.props["options"] = orjson.Fragment(orjson.dumps(options, option=orjson.OPT_SERIALIZE_NUMPY))
            chart.update()

    def say_unread(self) -> None:
        """Say that the samples can't be read now."""
        if self._shown is None:
            self.facts.set_content(
                views.empty(
                    "The samples can't be read now", "Kafka, the registry or Postgres doesn't answer. Trying again."
                )
            )


def require(gate: Gate, session: Session, environ: dict[str, Any]) -> None:
    """Check that a page's web socket belongs to the browser session that the page was made for, and that it is signed in.

    Raises:
        AccessError: it doesn't, or isn't.
    """
    try:
        morsel = SimpleCookie(environ.get("HTTP_COOKIE", "")).get(COOKIE)
    except CookieError:
        morsel = None
    given = unquote(morsel.value) if morsel else ""
    gate.require(given if given == session.session_id else None)


def _last(snapshot: Snapshot, flow: str) -> FlowRun | None:
    return snapshot.prefect.checks.get(flow) if snapshot.prefect else None


def _lately(snapshot: Snapshot) -> dict[str, int]:
    """Return people with an alert by area, those of the last ten minutes of event time."""
    since = snapshot.now_ms - 600_000
    return dict(by_area(one for one in snapshot.alerts.episodes if one.last.end_ms >= since))


# ------------------------------------------------------------------------------------------------------------- pieces
_LOADING = '<div class="loading" role="status"><span class="hidden">Loading</span><div class="bone"></div></div>'
_FOOT = (
    "<p>Times are UTC. Totals count from KSQL's start. HeartWatch shows what its parts say; it is no medical device.</p>"
    "<p class='printed'></p>"
)


def _brand(here: str) -> str:
    links = Markup("").join(
        Markup('<a href="{}"{}>{}</a>').format(path, Markup(' aria-current="page"') if path == here else "", name)
        for path, name in _SECTIONS.items()
    )
    brand = Markup(
        '<a class="brand" href="/"><img src="/static/favicon.svg" alt="" width="28" height="28">HeartWatch</a>'
    )
    return str(brand + Markup('<nav aria-label="Sections">{}</nav>').format(links))


@contextmanager
def _card(title: str, classes: str = "") -> Iterator[None]:
    with ui.element("section").classes(f"card {classes}").props(f'aria-label="{title}"'):
        ui.html(str(Markup("<h2>{}</h2>").format(title)), sanitize=False)
        yield


def _act(label: str, on_click: Callable[[], Any], classes: str = "act") -> None:
    ui.button(label, on_click=on_click, color=None).props("unelevated no-caps").classes(classes)


def _icon_button(icon: str, label: str, script: str) -> None:
    button = ui.button(icon=icon, color=None).props(f'flat round dense aria-label="{label}"').classes("tool")
    with button.on("click", js_handler=script):
        ui.tooltip(label)


def _csv(name: str, content: Callable[[], bytes]) -> None:
    """Add a button that saves a table; what it holds goes through the page's socket, so that no address says it."""
    ui.button("CSV", icon=_TABLE, on_click=lambda: ui.download.content(content(), f"{name}.csv", "text/csv")).props(
        f'flat dense no-caps aria-label="Save {name} as CSV"'
    ).classes("small")


def _picture(chart: ui.echart, title: str) -> None:
    """Add a button that saves a chart as a picture."""

    async def save() -> None:
        url = await chart.run_chart_method("getDataURL", timeout=5)
        head, _, body = str(url).partition(",")
        content = b64decode(body) if head.endswith("base64") else unquote(body).encode()
        ui.download.content(content, f"{title.lower().replace(' ', '-')}.svg", "image/svg+xml")

    ui.button("Picture", icon=_IMAGE, on_click=save).props(
        f'flat dense no-caps aria-label="Save {title} as a picture"'
    ).classes("small")


def _sign_in(session: Session, is_open: bool, problem: str) -> str:
    if not is_open:
        return views.empty(
            "No secret is set", "Set HEARTWATCH_WEB__SECRET, or start the page with heartwatch up, which makes one."
        )
    said = Markup('<p class="problem" role="alert">{}</p>').format(problem) if problem else ""
    return str(
        Markup(
            "<p>Everybody may look. To run and stop, and for KSQL, the secret is needed.</p>{}"
            '<form method="post" action="/sign-in" class="sign-in"><input type="hidden" name="form_token" value="{}">'
            '<label for="secret">Secret</label>'
            '<input id="secret" name="secret" type="password" autocomplete="current-password" required>'
            '<button type="submit">Sign in</button></form>'
        ).format(said, session.form_token)
    )


def _sign_out(session: Session) -> str:
    return str(
        Markup(
            '<p>You are signed in.</p><form method="post" action="/sign-out">'
            '<input type="hidden" name="form_token" value="{}"><button type="submit">Sign out</button></form>'
        ).format(session.form_token)
    )
